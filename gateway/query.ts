// Reading query strings and path ids without trusting them.

import { GatewayError } from '../routing/errors.ts'
import { invalid } from './fields.ts'

const uuidForm = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i

/** The id if it has the form of one; otherwise it names nothing we have. Throws GatewayError `not_found`. */
export function uuidOf(id: string, what: string): string {
  if (!uuidForm.test(id)) throw new GatewayError('not_found', `There is no ${what} with this id.`)
  return id
}

/** `after` and `limit` (1 to 100, 20 when absent) of a list. Throws GatewayError `invalid_request`. */
export function pageOf(query: unknown): { after: string | null; limit: number } {
  const { after, limit } = query as Readonly<Record<string, unknown>>
  if (after !== undefined && (typeof after !== 'string' || !uuidForm.test(after))) throw invalid('after', 'an id of the list')
  // Number() would take "1e2" and " 5" as well.
  const isSize = limit === undefined || (typeof limit === 'string' && /^([1-9]\d?|100)$/.test(limit))
  if (!isSize) throw invalid('limit', 'an integer from 1 to 100')
  return { after: after ?? null, limit: limit === undefined ? 20 : Number(limit) }
}

/** One of `choices`; the first when absent. Throws GatewayError `invalid_request`. */
export function choiceOf<T extends string>(query: unknown, name: string, choices: readonly [T, ...T[]]): T {
  const value = (query as Readonly<Record<string, unknown>>)[name]
  if (value === undefined) return choices[0]
  const choice = choices.find(candidate => candidate === value)
  if (choice === undefined) throw invalid(name, `one of ${choices.join(', ')}`)
  return choice
}
