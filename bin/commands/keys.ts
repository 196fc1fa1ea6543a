// llm-mcp keys create | list | revoke: on the same database as the gateway, which may be running.

import { createKey, readNewKey } from '../../gateway/new-key.ts'
import { uuidOf } from '../../gateway/query.ts'
import { keyObject } from '../../gateway/routes/keys.ts'
import { uuidv7 } from '../../routing/ids.ts'
import { type KeyRecord, listKeys, revokeKey } from '../../store/keys.ts'
import type { Pool } from '../../store/pool.ts'
import { loadSettings } from '../config.ts'
import { openDatabase } from '../database.ts'

interface Output {
  readonly json?: boolean
}

interface CreateOptions extends Output {
  readonly kind: string
  readonly source?: string
  readonly name?: string
  readonly expiresAt?: string
  readonly requestsPerMinute?: string
  readonly tokensPerMinute?: string
  readonly concurrentRequests?: string
  readonly model?: readonly string[]
  readonly provider?: readonly string[]
  readonly weight?: string
  readonly trustUserHeader?: boolean
}

export async function createKeyCommand(options: CreateOptions): Promise<void> {
  const request = readNewKey(bodyOf(options))
  await withPool(async pool => {
    const made = await createKey(pool, uuidv7(Date.now()), request)
    if (made === null) throw new Error('The key could not be stored.')
    if (options.json === true) return print({ ...keyObject(made.record), key: made.key })
    console.log(
      `${made.key}\n\nA key of kind ${made.record.kind} for ${made.record.source}. It is shown this once; revoke it with: npm run llm-mcp -- keys revoke ${made.record.id}`
    )
  })
}

/** The body that would be sent to POST /v1/keys for these options: what is wrong with them is said there. */
function bodyOf(options: CreateOptions): Record<string, unknown> {
  const limits = given({
    requests_per_minute: numberOf(options.requestsPerMinute),
    tokens_per_minute: numberOf(options.tokensPerMinute),
    concurrent_requests: numberOf(options.concurrentRequests)
  })
  return given({
    kind: options.kind,
    source: options.source,
    name: options.name,
    expires_at: options.expiresAt,
    limits: Object.keys(limits).length === 0 ? undefined : limits,
    models: options.model,
    providers: options.provider,
    weight: numberOf(options.weight),
    trust_user_header: options.trustUserHeader
  })
}

/** Number('') would be 0. */
function numberOf(text: string | undefined): number | undefined {
  return text === undefined ? undefined : text.trim() === '' ? Number.NaN : Number(text)
}

function given(entries: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(entries).filter(([, value]) => value !== undefined))
}

export async function listKeysCommand({ json }: Output): Promise<void> {
  await withPool(async pool => {
    const records: KeyRecord[] = []
    for (;;) {
      const page = await listKeys(pool, { after: records.at(-1)?.id ?? null, limit: 100 })
      records.push(...page)
      if (page.length < 100) break
    }
    if (json === true) return print({ object: 'list', data: records.map(keyObject) })
    for (const record of records) {
      const state =
        record.revokedAt !== null ? 'revoked' : record.expiresAt !== null && record.expiresAt.getTime() <= Date.now() ? 'expired' : 'active'
      console.log(
        `${record.id}  ${record.kind.padEnd(7)}  ${state.padEnd(7)}  ${record.prefix}…  ${record.source}${record.name === '' ? '' : `  (${record.name})`}`
      )
    }
  })
}

export async function revokeKeyCommand(id: string, { json }: Output): Promise<void> {
  await withPool(async pool => {
    const record = await revokeKey(pool, uuidOf(id, 'key'))
    if (record === null) throw new Error('There is no key with this id.')
    if (json === true) return print(keyObject(record))
    console.log(`Revoked: ${record.prefix}… of ${record.source}.`)
  })
}

async function withPool(work: (pool: Pool) => Promise<void>): Promise<void> {
  const database = await openDatabase({ settings: await loadSettings(), poolSize: 2, log: message => console.error(message) })
  try {
    await work(database.pool)
  } finally {
    await database.close()
  }
}

function print(value: unknown): void {
  console.log(JSON.stringify(value))
}
