// What the bodies of all model requests have in common.

import type { Route } from '../../routing/brain/types.ts'
import type { ReadBody } from '../body.ts'
import { missing, wrong } from '../fields.ts'

/** What a request says outside of its body. */
export interface Knobs {
  readonly requestId: string
  readonly localOnly: boolean
  /** Absent = the body or the model's name may say. */
  readonly route?: Route
  /** Dollars. */
  readonly maxUsd?: number
  readonly isDeadlineHard?: true
}

/** The `model` of a body. Throws GatewayError `invalid_request` when there is none, or it is no name. */
export function readModel(body: ReadBody): string {
  const value = body.facts.model
  if (value === undefined || value === null) throw missing('model', 'the name of a model; GET /v1/models lists them')
  return checkedModel(value, 'model', () => body.json().model)
}

/** The name of a model as it was meant; `exact` is its value in UTF-8. Throws GatewayError `invalid_request` when it is no name. */
export function checkedModel(value: unknown, param: string, exact: () => unknown): string {
  if (typeof value !== 'string' || value === '' || value.length > 256) throw wrong(param, 'a string of 1 to 256 characters', value)
  // The latin1 view has other letters for everything but ASCII.
  const model = /^[\x00-\x7f]*$/.test(value) ? value : String(exact())
  // No model has such a name, and the database could not keep it: one cost row like that would hold up all others.
  if (/[\x00-\x1f\x7f]/.test(model) || !model.isWellFormed()) throw wrong(param, 'a name without control characters', value)
  return model
}

/** `n`: how many choices are asked for, 1 to 128. */
export function readCopies(facts: Readonly<Record<string, unknown>>): number {
  const count = facts.n
  if (count === undefined || count === null) return 1
  if (typeof count !== 'number' || !Number.isInteger(count) || count < 1 || count > 128) throw wrong('n', 'an integer from 1 to 128', count)
  return count
}
