// What the database server says of itself: version, clock, how far its schema is.

import type { Pool } from './pool.ts'

export interface ServerFacts {
  /** "18.4" */
  readonly version: string
  /** 180004 */
  readonly versionNumber: number
  /** Its clock, epoch, ms. */
  readonly nowMs: number
  readonly migrations: number
}

const factsSql = `
select current_setting('server_version') as version,
       current_setting('server_version_num')::integer as version_number,
       extract(epoch from clock_timestamp()) * 1000 as now_ms,
       (select count(*) from schema_migrations) as migrations`

export async function readServer(pool: Pool): Promise<ServerFacts> {
  const { rows } = await pool.query({ name: 'server.facts', text: factsSql })
  const [row] = rows
  return {
    version: String(row.version).split(' ')[0] as string,
    versionNumber: row.version_number,
    nowMs: Number(row.now_ms),
    migrations: Number(row.migrations)
  }
}
