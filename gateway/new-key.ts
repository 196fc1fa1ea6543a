// What may be asked of a new key, and how it is made: the same for the API and the command line.

import type { KeyKind } from '../routing/types.ts'
import { insertKey, type KeyLimits, type KeyRecord, type KeyRules, noRules } from '../store/keys.ts'
import type { Pool } from '../store/pool.ts'
import { invalid } from './fields.ts'
import { hashKey, newKey, prefixOf } from './keys.ts'

/** Rules that are not given are those of a key that may use everything. */
export interface NewKeyRequest extends Partial<KeyRules> {
  readonly kind: KeyKind
  readonly source: string
  readonly name: string
  readonly expiresAt: Date | null
}

const kinds: readonly KeyKind[] = ['admin', 'source', 'worker', 'metrics']
const rules = ['limits', 'models', 'providers', 'weight', 'trust_user_header'] as const
const known = ['kind', 'source', 'name', ...rules, 'expires_at']
const limitNames = ['requests_per_minute', 'tokens_per_minute', 'concurrent_requests']
const patternsAtMost = 200
const modelCharactersAtMost = 256
const providerCharactersAtMost = 128

/** Throws GatewayError `invalid_request` naming the field. Fields we do not know are refused: a limit that is not kept must not look kept. */
export function readNewKey(body: Readonly<Record<string, unknown>>): NewKeyRequest & KeyRules {
  const unknown = Object.keys(body).find(field => !known.includes(field))
  if (unknown !== undefined) throw invalid(unknown.slice(0, 60), `nothing: a key has ${known.join(', ')}`)
  const kind = (body.kind ?? 'source') as KeyKind
  if (!kinds.includes(kind)) throw invalid('kind', `one of ${kinds.join(', ')}`)
  const source = body.source ?? (kind === 'source' ? undefined : kind)
  if (typeof source !== 'string' || !/^[\w.@:+-]{1,128}$/.test(source))
    throw invalid('source', 'a name of 1 to 128 letters, digits or . _ - @ : +')
  const name = body.name ?? ''
  // PostgreSQL keeps no NUL, and nobody could read the others.
  if (typeof name !== 'string' || name.length > 200 || /[\x00-\x1f\x7f]/.test(name) || !name.isWellFormed())
    throw invalid('name', 'a text of at most 200 characters, without control characters')
  return { kind, source, name, ...readRules(body, kind), expiresAt: readExpiry(body.expires_at) }
}

/** Makes a key, stores its hash, and returns it: the only time it is ever seen. `given`: a key chosen by the operator. */
export async function createKey(
  pool: Pool,
  id: string,
  request: NewKeyRequest,
  given?: string
): Promise<{ key: string; record: KeyRecord } | null> {
  const key = given ?? newKey()
  const record = await insertKey(pool, { ...request, id, prefix: prefixOf(key), hash: hashKey(key) })
  return record === null ? null : { key, record }
}

function readRules(body: Readonly<Record<string, unknown>>, kind: KeyKind): KeyRules {
  if (kind !== 'source') {
    // Nothing would keep them there.
    const given = rules.find(rule => body[rule] !== undefined && body[rule] !== null)
    if (given !== undefined) throw invalid(given, `nothing: it is for keys of kind source, and this one is of kind ${kind}`)
    return noRules
  }
  const trustUserHeader = body.trust_user_header ?? noRules.trustUserHeader
  if (typeof trustUserHeader !== 'boolean') throw invalid('trust_user_header', 'true or false')
  const weight = body.weight ?? noRules.weight
  if (typeof weight !== 'number' || !(weight >= 0.01 && weight <= 100)) throw invalid('weight', 'a number from 0.01 to 100')
  return {
    limits: readLimits(body.limits),
    models: readPatterns('models', body.models, modelCharactersAtMost),
    providers: readPatterns('providers', body.providers, providerCharactersAtMost),
    weight,
    trustUserHeader
  }
}

function readLimits(value: unknown): KeyLimits {
  if (value === undefined || value === null) return noRules.limits
  if (typeof value !== 'object' || Array.isArray(value)) throw invalid('limits', `an object with any of ${limitNames.join(', ')}`)
  const limits = value as Readonly<Record<string, unknown>>
  const unknown = Object.keys(limits).find(name => !limitNames.includes(name))
  if (unknown !== undefined) throw invalid(`limits.${unknown}`.slice(0, 60), `nothing: limits are ${limitNames.join(', ')}`)
  return {
    requestsPerMinute: readLimit(limits, 'requests_per_minute', 1_000_000_000),
    tokensPerMinute: readLimit(limits, 'tokens_per_minute', 1_000_000_000_000),
    concurrentRequests: readLimit(limits, 'concurrent_requests', 1_000_000)
  }
}

function readLimit(limits: Readonly<Record<string, unknown>>, name: string, atMost: number): number | null {
  const value = limits[name] ?? null
  if (value === null) return null
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 1 || value > atMost)
    throw invalid(`limits.${name}`, `a whole number from 1 to ${atMost}`)
  return value
}

function readPatterns(field: string, value: unknown, charactersAtMost: number): readonly string[] | null {
  if (value === undefined || value === null) return null
  const isPattern = (pattern: unknown): boolean =>
    typeof pattern === 'string' && pattern.length <= charactersAtMost && /^[^\s\p{C}]+$/u.test(pattern)
  // An empty list would be a key that may use nothing, more likely meant as one that may use all.
  if (!Array.isArray(value) || value.length === 0 || value.length > patternsAtMost || !value.every(isPattern))
    throw invalid(field, `1 to ${patternsAtMost} names of at most ${charactersAtMost} characters, in which * stands for any characters`)
  return [...new Set(value as string[])]
}

function readExpiry(value: unknown): Date | null {
  if (value === undefined || value === null) return null
  const at = typeof value === 'string' ? new Date(value) : null
  if (at === null || Number.isNaN(at.getTime())) throw invalid('expires_at', 'a time such as 2027-01-31T00:00:00Z')
  if (at.getTime() <= Date.now()) throw invalid('expires_at', 'a time to come')
  return at
}
