// The query of GET /v1/jobs. What it does not know it refuses: a filter that is not kept must not look kept.

import { type JobFilter, type JobKind, type JobStatus, jobKinds, jobStatuses } from '../../queue/types.ts'
import { invalid } from '../fields.ts'
import { pageOf } from '../query.ts'
import { timeOf } from './times.ts'

export interface JobQuery {
  readonly filter: JobFilter
  readonly after: string | null
  readonly limit: number
}

type Query = Readonly<Record<string, unknown>>

const filters = ['status', 'kind', 'model', 'device', 'source', 'created_after', 'created_before']
const known = [...filters, 'after', 'limit']

/** Throws GatewayError `invalid_request` naming the parameter. */
export function readJobQuery(query: unknown): JobQuery {
  const given = query as Query
  const unknown = Object.keys(given).find(name => !known.includes(name))
  if (unknown !== undefined) throw invalid(unknown.slice(0, 60), `nothing: jobs are filtered by ${filters.join(', ')}`)
  return {
    ...pageOf(given),
    filter: {
      status: choice<JobStatus>(given, 'status', jobStatuses),
      kind: choice<JobKind>(given, 'kind', jobKinds),
      model: name(given, 'model', 256),
      device: name(given, 'device', 128),
      source: name(given, 'source', 128),
      createdAfter: time(given, 'created_after'),
      createdBefore: time(given, 'created_before')
    }
  }
}

function choice<T extends string>(query: Query, field: string, choices: readonly T[]): T | null {
  const value = query[field]
  if (value === undefined) return null
  const found = choices.find(candidate => candidate === value)
  if (found === undefined) throw invalid(field, `one of ${choices.join(', ')}`)
  return found
}

function name(query: Query, field: string, charactersAtMost: number): string | null {
  const value = query[field]
  if (value === undefined) return null
  const isName = typeof value === 'string' && value !== '' && value.length <= charactersAtMost
  // PostgreSQL has no text with a NUL in it, and no name here has any of the others.
  if (!isName || /[\x00-\x1f\x7f]/.test(value) || !value.isWellFormed()) {
    throw invalid(field, `one name of 1 to ${charactersAtMost} characters`)
  }
  return value
}

function time(query: Query, field: string): number | null {
  const value = query[field]
  if (value === undefined) return null
  const at = timeOf(value)
  if (at === null) throw invalid(field, 'a time such as 2027-01-31T00:00:00Z')
  return at
}
