// Looking into JSON that others wrote, and saying what is wrong with it.

import { GatewayError } from '../../routing/errors.ts'

export type Json = Readonly<Record<string, unknown>>

export function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Null counts as absent everywhere. */
export function isGiven(value: unknown): boolean {
  return value !== undefined && value !== null
}

/** A whole number that is not negative, else null. */
export function count(value: unknown): number | null {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 ? value : null
}

export function wrong(param: string, expected: string): GatewayError {
  return new GatewayError('invalid_request', `'${param}' must be ${expected}.`, { param })
}

export function unsupported(param: string, message: string): GatewayError {
  return new GatewayError('unsupported_parameter', message, { param })
}

export function flag(value: unknown, param: string): boolean | undefined {
  if (!isGiven(value)) return undefined
  if (typeof value !== 'boolean') throw wrong(param, 'true or false')
  return value
}

export function positiveWhole(value: unknown, param: string): number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 1) throw wrong(param, 'a whole number of at least 1')
  return value
}
