// Reading fields of a Responses body: null is absent, and what is wrong is named as the client wrote it.

import { GatewayError } from '../../../routing/errors.ts'
import { isGiven, isRecord, missing, wrong } from '../../fields.ts'

export { isGiven, isRecord, missing, wrong } from '../../fields.ts'

export type Json = Record<string, unknown>

/** The entries that are given, in their order. */
export function givenOf(fields: Readonly<Json>): Json {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => isGiven(value)))
}

export function optionalBoolean(value: unknown, param: string): boolean | null {
  if (!isGiven(value)) return null
  if (typeof value !== 'boolean') throw wrong(param, 'a boolean', value)
  return value
}

export function optionalString(value: unknown, param: string): string | null {
  if (!isGiven(value)) return null
  if (typeof value !== 'string') throw wrong(param, 'a string', value)
  return value
}

export function optionalRecord(value: unknown, param: string): Json | null {
  if (!isGiven(value)) return null
  if (!isRecord(value)) throw wrong(param, 'an object', value)
  return value
}

/** Throws as well when the list has more than `most` entries. */
export function optionalList(value: unknown, param: string, most: number): readonly unknown[] | null {
  if (!isGiven(value)) return null
  if (!Array.isArray(value)) throw wrong(param, 'a list', value)
  if (value.length > most) throw wrong(param, `at most ${most} entries`, value.length)
  return value
}

export function optionalInteger(value: unknown, param: string, [least, most]: readonly [number, number]): number | null {
  if (!isGiven(value)) return null
  if (typeof value !== 'number' || !Number.isInteger(value) || value < least || value > most)
    throw wrong(param, most === Number.MAX_SAFE_INTEGER ? `an integer of at least ${least}` : `an integer from ${least} to ${most}`, value)
  return value
}

export function requiredString(value: unknown, param: string): string {
  if (!isGiven(value)) throw missing(param, 'a string')
  if (typeof value !== 'string') throw wrong(param, 'a string', value)
  return value
}

export function requiredName(value: unknown, param: string): string {
  const name = requiredString(value, param)
  if (name === '') throw wrong(param, 'a string that is not empty', name)
  return name
}

export function requiredRecord(value: unknown, param: string): Json {
  if (!isRecord(value)) throw wrong(param, 'an object', value)
  return value
}

/** For what OpenAI can do and we cannot, yet or ever; `instead` says why, or what to do. */
export function unsupported(param: string, instead: string): GatewayError {
  return new GatewayError('unsupported_parameter', `"${param}" is not supported by this gateway: ${instead}.`, { param })
}
