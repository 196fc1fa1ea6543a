// POST, GET and DELETE /v1/keys: for admins.

import type { FastifyInstance } from 'fastify'
import { GatewayError } from '../../routing/errors.ts'
import type { KeyKind } from '../../routing/types.ts'
import type { KeyRecord } from '../../store/keys.ts'
import { readBody } from '../body.ts'
import { type NewKeyRequest, readNewKey } from '../new-key.ts'
import { pageOf, uuidOf } from '../query.ts'

export interface KeysPorts {
  /** Stores a new key and returns it with the key itself, which is shown this once. */
  readonly create: (request: NewKeyRequest) => Promise<{ readonly key: string; readonly record: KeyRecord }>
  readonly list: (page: { readonly after: string | null; readonly limit: number }) => Promise<KeyRecord[]>
  readonly revoke: (id: string) => Promise<KeyRecord | null>
}

export function registerKeys(app: FastifyInstance, ports: KeysPorts): void {
  const config = { requires: ['admin'] as const }

  app.post('/v1/keys', { config }, async (request, reply) => {
    const body = request.body instanceof Buffer ? readBody(request.body).json() : {}
    const { key, record } = await ports.create(readNewKey(body))
    reply.code(201)
    return { ...keyObject(record), key }
  })

  app.get('/v1/keys', { config }, async request => {
    const { after, limit } = pageOf(request.query)
    const records = await ports.list({ after, limit: limit + 1 })
    const data = records.slice(0, limit).map(keyObject)
    return { object: 'list', data, first_id: data[0]?.id ?? null, last_id: data.at(-1)?.id ?? null, has_more: records.length > limit }
  })

  app.delete<{ Params: { id: string } }>('/v1/keys/:id', { config }, async request => {
    const record = await ports.revoke(uuidOf(request.params.id, 'key'))
    if (record === null) throw new GatewayError('not_found', 'There is no key with this id.')
    return { id: record.id, object: 'key', deleted: true }
  })
}

export interface KeyObject {
  readonly id: string
  readonly object: 'key'
  readonly kind: KeyKind
  readonly source: string
  readonly name: string
  readonly prefix: string
  /** Only those that are set. */
  readonly limits: Readonly<Record<string, number>> | null
  readonly models: readonly string[] | null
  readonly providers: readonly string[] | null
  readonly weight: number
  readonly trust_user_header: boolean
  readonly created_at: string
  readonly expires_at: string | null
  readonly revoked_at: string | null
}

/** A key as it is shown: never the key, never its hash. */
export function keyObject(record: KeyRecord): KeyObject {
  return {
    id: record.id,
    object: 'key',
    kind: record.kind,
    source: record.source,
    name: record.name,
    prefix: record.prefix,
    limits: limitsObject(record),
    models: record.models,
    providers: record.providers,
    weight: record.weight,
    trust_user_header: record.trustUserHeader,
    created_at: record.createdAt.toISOString(),
    expires_at: record.expiresAt?.toISOString() ?? null,
    revoked_at: record.revokedAt?.toISOString() ?? null
  }
}

function limitsObject({ limits }: KeyRecord): Record<string, number> | null {
  const all = {
    requests_per_minute: limits.requestsPerMinute,
    tokens_per_minute: limits.tokensPerMinute,
    concurrent_requests: limits.concurrentRequests
  }
  const set = Object.entries(all).filter((entry): entry is [string, number] => entry[1] !== null)
  return set.length === 0 ? null : Object.fromEntries(set)
}
