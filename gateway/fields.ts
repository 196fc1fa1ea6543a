// How the fields of an inbound body are checked, and what the answer says when one is wrong.

import { GatewayError } from '../routing/errors.ts'

/** The top-level values of a body, by name. */
export type Facts = Readonly<Record<string, unknown>>

/** Null when the field is absent or null; throws `invalid_request` for anything but an integer above 0. */
export function positiveInteger(facts: Facts, name: string): number | null {
  const value = facts[name]
  if (value === undefined || value === null) return null
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 1) throw wrong(name, 'an integer above 0', value)
  return value
}

/** Null when the field is absent or null; throws `invalid_request` for anything but a boolean. */
export function optionalBoolean(facts: Facts, name: string): boolean | null {
  const value = facts[name]
  if (value === undefined || value === null) return null
  if (typeof value !== 'boolean') throw wrong(name, 'a boolean', value)
  return value
}

/** Null when the field is absent or null; throws `invalid_request` for anything but an object. */
export function optionalRecord(facts: Facts, name: string): Record<string, unknown> | null {
  const value = facts[name]
  if (value === undefined || value === null) return null
  if (!isRecord(value)) throw wrong(name, 'an object', value)
  return value
}

/** Given at all? In OpenAI's bodies null means the same as leaving a field out. */
export function isGiven(value: unknown): boolean {
  return value !== undefined && value !== null
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** `invalid_request` for a field that is needed and not there. */
export function missing(param: string, expected: string): GatewayError {
  return new GatewayError('invalid_request', `Missing required parameter: "${param}", ${expected}.`, {
    param,
    publicCode: 'missing_required_parameter'
  })
}

/** `invalid_request` for a field of the wrong kind. It names the kind that came, never the text of it. */
export function wrong(param: string, expected: string, got: unknown): GatewayError {
  return invalid(param, `${expected}, got ${kindOf(got)}`)
}

// A field's name may be the client's own invention, of any length.
const paramLengthAtMost = 256

/** `invalid_request` for a value that is none of what is expected, where what came is better not described. */
export function invalid(param: string, expected: string): GatewayError {
  const named = param.slice(0, paramLengthAtMost)
  return new GatewayError('invalid_request', `Invalid value for "${named}": expected ${expected}.`, {
    param: named,
    publicCode: 'invalid_value'
  })
}

/** An empty list is no surprise as "a list" where a list was asked for, so emptiness is said. */
function kindOf(value: unknown): string {
  if (value === null) return 'null'
  if (value === undefined) return 'nothing'
  if (Array.isArray(value)) return value.length === 0 ? 'an empty list' : 'a list'
  if (typeof value === 'object') return 'an object'
  if (typeof value === 'string') return value === '' ? 'an empty string' : 'a string'
  return String(value)
}
