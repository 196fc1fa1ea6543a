// What may be asked of a new key, and how it is made: the same for the API and the command line.

import { GatewayError } from '../routing/errors.ts'
import type { KeyKind } from '../routing/types.ts'
import { insertKey, type KeyRecord } from '../store/keys.ts'
import type { Pool } from '../store/pool.ts'
import { hashKey, newKey, prefixOf } from './keys.ts'

export interface NewKeyRequest {
  readonly kind: KeyKind
  readonly source: string
  readonly name: string
  readonly expiresAt: Date | null
}

const kinds: readonly KeyKind[] = ['admin', 'source', 'worker', 'metrics']
const known = ['kind', 'source', 'name', 'expires_at']

/** Throws GatewayError `invalid_request` naming the field. Fields we do not know are refused: a limit that is not kept must not look kept. */
export function readNewKey(body: Readonly<Record<string, unknown>>): NewKeyRequest {
  const unknown = Object.keys(body).find(field => !known.includes(field))
  if (unknown !== undefined) throw wrong(unknown, `nothing: a key has ${known.join(', ')}`)
  const kind = (body.kind ?? 'source') as KeyKind
  if (!kinds.includes(kind)) throw wrong('kind', `one of ${kinds.join(', ')}`)
  const source = body.source ?? (kind === 'source' ? undefined : kind)
  if (typeof source !== 'string' || !/^[\w.@:+-]{1,128}$/.test(source))
    throw wrong('source', 'a name of 1 to 128 letters, digits or . _ - @ : +')
  const name = body.name ?? ''
  if (typeof name !== 'string' || name.length > 200) throw wrong('name', 'a text of at most 200 characters')
  return { kind, source, name, expiresAt: readExpiry(body.expires_at) }
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

function readExpiry(value: unknown): Date | null {
  if (value === undefined || value === null) return null
  const at = typeof value === 'string' ? new Date(value) : null
  if (at === null || Number.isNaN(at.getTime())) throw wrong('expires_at', 'a time such as 2027-01-31T00:00:00Z')
  if (at.getTime() <= Date.now()) throw wrong('expires_at', 'a time to come')
  return at
}

function wrong(param: string, expected: string): GatewayError {
  return new GatewayError('invalid_request', `Invalid value for "${param.slice(0, 60)}": expected ${expected}.`, {
    param: param.slice(0, 60),
    publicCode: 'invalid_value'
  })
}
