// API keys at rest: only hashes.

import type { KeyKind } from '../routing/types.ts'
import type { Pool } from './pool.ts'

/** What a source may use; null = no such limit. */
export interface KeyLimits {
  readonly requestsPerMinute: number | null
  readonly tokensPerMinute: number | null
  readonly concurrentRequests: number | null
}

/** What a key allows beyond being one. Only keys of kind `source` have other rules than `noRules`. */
export interface KeyRules {
  readonly limits: KeyLimits
  /** Names or patterns with `*`; null = all. */
  readonly models: readonly string[] | null
  readonly providers: readonly string[] | null
  /** Its share among sources that wait, 0.01 to 100. */
  readonly weight: number
  /** One key that is many people: the name of each comes with the request. */
  readonly trustUserHeader: boolean
}

export const noRules: KeyRules = {
  limits: { requestsPerMinute: null, tokensPerMinute: null, concurrentRequests: null },
  models: null,
  providers: null,
  weight: 1,
  trustUserHeader: false
}

export interface KeyRecord extends KeyRules {
  readonly id: string
  readonly kind: KeyKind
  readonly source: string
  readonly name: string
  readonly prefix: string
  readonly createdAt: Date
  readonly expiresAt: Date | null
  readonly revokedAt: Date | null
}

/** Rules that are not given are `noRules`. */
export interface NewKey extends Partial<KeyRules> {
  readonly id: string
  readonly kind: KeyKind
  readonly source: string
  readonly name: string
  readonly prefix: string
  readonly hash: Buffer
  readonly expiresAt: Date | null
}

/** The channel on which a process tells the others that keys have changed. */
export const keysChannel = 'llm_mcp_keys'

const columns = `id, kind, source, name, prefix, created_at, expires_at, revoked_at,
          requests_per_minute, tokens_per_minute, concurrent_requests, models, providers, weight, trust_user_header`

const insertSql = `
   insert into api_keys (
          id, kind, source, name, prefix, hash, expires_at,
          requests_per_minute, tokens_per_minute, concurrent_requests, models, providers, weight, trust_user_header)
   values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
       on conflict (hash) do nothing
returning ${columns}`

/** Stores a key; null when the same key is there already. Every process is told. */
export async function insertKey(pool: Pool, key: NewKey): Promise<KeyRecord | null> {
  // The source's row must be visible to the reference check, so it goes first.
  await pool.query({ name: 'keys.source', text: 'insert into sources (name) values ($1) on conflict do nothing', values: [key.source] })
  const { limits, models, providers, weight, trustUserHeader } = { ...noRules, ...key }
  const { rows } = await pool.query({
    name: 'keys.insert',
    text: insertSql,
    values: [
      ...[key.id, key.kind, key.source, key.name, key.prefix, key.hash, key.expiresAt],
      ...[limits.requestsPerMinute, limits.tokensPerMinute, limits.concurrentRequests, models, providers, weight, trustUserHeader]
    ]
  })
  await announceKeys(pool)
  return rows[0] === undefined ? null : keyOf(rows[0])
}

const findSql = `
select ${columns}
  from api_keys
 where hash = $1
   and revoked_at is null
   and (expires_at is null or expires_at > now())`

/** The living key with this hash. */
export async function findKey(pool: Pool, hash: Buffer): Promise<KeyRecord | null> {
  const { rows } = await pool.query({ name: 'keys.find', text: findSql, values: [hash] })
  return rows[0] === undefined ? null : keyOf(rows[0])
}

const listSql = `
select ${columns}
  from api_keys
 where $1::uuid is null
    or (created_at, id) < (select created_at, id from api_keys where id = $1)
 order by created_at desc, id desc
 limit $2`

/** Newest first, revoked ones too; the page after the key `after`. */
export async function listKeys(pool: Pool, page: { readonly after: string | null; readonly limit: number }): Promise<KeyRecord[]> {
  const { rows } = await pool.query({ name: 'keys.list', text: listSql, values: [page.after, page.limit] })
  return rows.map(keyOf)
}

/** The share of a source, by the largest of its living keys; 1 where it has none of its own, null when there is no such source. */
export async function sourceWeight(pool: Pool, source: string): Promise<number | null> {
  const { rows } = await pool.query({
    name: 'keys.weight',
    text: `
select coalesce(max(weight) filter (where revoked_at is null and (expires_at is null or expires_at > now())), 1) as weight
  from sources
  left join api_keys on api_keys.source = sources.name
 where sources.name = $1
 group by sources.name`,
    values: [source]
  })
  return rows[0]?.weight ?? null
}

const revokeSql = `
   update api_keys
      set revoked_at = coalesce(revoked_at, now())
    where id = $1
returning ${columns}`

/** Ends a key everywhere; calling it twice changes nothing. Null when there is no such key. */
export async function revokeKey(pool: Pool, id: string): Promise<KeyRecord | null> {
  const { rows } = await pool.query({ name: 'keys.revoke', text: revokeSql, values: [id] })
  await announceKeys(pool)
  return rows[0] === undefined ? null : keyOf(rows[0])
}

/** True when at least one admin key lives. */
export async function hasAdminKey(pool: Pool): Promise<boolean> {
  const { rows } = await pool.query({
    name: 'keys.has_admin',
    text: `select exists (select 1 from api_keys where kind = 'admin' and revoked_at is null and (expires_at is null or expires_at > now())) as found`
  })
  return rows[0].found
}

async function announceKeys(pool: Pool): Promise<void> {
  await pool.query({ name: 'keys.announce', text: 'select pg_notify($1, $2)', values: [keysChannel, ''] })
}

function keyOf(row: {
  id: string
  kind: KeyKind
  source: string
  name: string
  prefix: string
  created_at: Date
  expires_at: Date | null
  revoked_at: Date | null
  requests_per_minute: number | null
  /** A bigint, which arrives as text. */
  tokens_per_minute: string | null
  concurrent_requests: number | null
  models: string[] | null
  providers: string[] | null
  weight: number
  trust_user_header: boolean
}): KeyRecord {
  return {
    id: row.id,
    kind: row.kind,
    source: row.source,
    name: row.name,
    prefix: row.prefix,
    createdAt: row.created_at,
    expiresAt: row.expires_at,
    revokedAt: row.revoked_at,
    limits: {
      requestsPerMinute: row.requests_per_minute,
      tokensPerMinute: row.tokens_per_minute === null ? null : Number(row.tokens_per_minute),
      concurrentRequests: row.concurrent_requests
    },
    models: row.models,
    providers: row.providers,
    weight: row.weight,
    trustUserHeader: row.trust_user_header
  }
}
