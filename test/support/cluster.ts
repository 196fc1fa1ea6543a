// The one PostgreSQL that all tests share: started before the first file, stopped after the last, one database per file.

import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'
import { startEmbeddedPostgres } from '../../bin/postgres.ts'
import { migrate } from '../../store/migrate.ts'
import { type Connection, createPool, type Pool } from '../../store/pool.ts'

// One server for each run of tap, which is the parent of `before.ts`, of every test file and of `after.ts`.
export const clusterDir = join(tmpdir(), `llm-mcp-test-${process.ppid}`)
const template = 'llm_mcp_template'

/** Starts or adopts the server. */
export function cluster() {
  return startEmbeddedPostgres({ dataDir: clusterDir, log: () => {} })
}

/** Makes the migrated database that all others are copied from. */
export async function prepareTemplate(connection: Connection): Promise<void> {
  const admin = createPool(connection, { max: 1, name: 'test', onError: () => {} })
  await admin.query(`drop database if exists ${template}`)
  await admin.query(`create database ${template}`)
  await admin.end()
  const pool = createPool({ ...connection, database: template }, { max: 1, name: 'test', onError: () => {} })
  await migrate(pool)
  await pool.end()
}

export interface TestDatabase {
  readonly pool: Pool
  readonly connection: Connection
  /** For DATABASE_URL. */
  readonly url: string
}

/** A fresh, migrated database of this test file; dropped when `t` ends. */
export async function createDatabase(t: Test): Promise<TestDatabase> {
  const server = await cluster()
  const name = `test_${process.pid}_${Math.random().toString(36).slice(2, 8)}`
  const admin = createPool(server.connection, { max: 1, name: 'test', onError: () => {} })
  await admin.query(`create database ${name} template ${template}`)
  const connection = { ...server.connection, database: name }
  const pool = createPool(connection, { max: 10, name: 'test', onError: () => {} })
  t.teardown(async () => {
    await pool.end()
    await admin.query(`drop database if exists ${name} with (force)`)
    await admin.end()
  })
  const { host, port, user } = server.connection
  return { pool, connection, url: `postgresql://${user}@localhost:${port}/${name}?host=${encodeURIComponent(host)}` }
}
