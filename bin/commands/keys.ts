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

export async function createKeyCommand(
  options: Output & { kind: string; source?: string; name?: string; expiresAt?: string }
): Promise<void> {
  const request = readNewKey({
    kind: options.kind,
    ...(options.source === undefined ? {} : { source: options.source }),
    ...(options.name === undefined ? {} : { name: options.name }),
    ...(options.expiresAt === undefined ? {} : { expires_at: options.expiresAt })
  })
  await withPool(async pool => {
    const made = await createKey(pool, uuidv7(Date.now()), request)
    if (made === null) throw new Error('The key could not be stored.')
    if (options.json === true) return print({ ...keyObject(made.record), key: made.key })
    console.log(
      `${made.key}\n\nA key of kind ${made.record.kind} for ${made.record.source}. It is shown this once; revoke it with: npm run llm-mcp -- keys revoke ${made.record.id}`
    )
  })
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
