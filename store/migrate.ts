// Brings the schema up to date. Safe to run from several processes at once: they wait for each other.

import { fileURLToPath } from 'node:url'
import type { Pool } from './pool.ts'

/** Returns the names of the migrations that were applied now. Throws when one fails; nothing of it is kept then. */
export async function migrate(pool: Pool): Promise<string[]> {
  const { runner } = await import('node-pg-migrate')
  const client = await pool.connect()
  try {
    const applied = await runner({
      dbClient: client,
      dir: fileURLToPath(new URL('../migrations', import.meta.url)),
      direction: 'up',
      migrationsTable: 'schema_migrations',
      advisoryLockMode: 'wait',
      checkOrder: true,
      log: () => {}
    })
    return applied.map(migration => migration.name)
  } finally {
    client.release()
  }
}
