// Opens the database a command works on: the one of DATABASE_URL, or the embedded one; brought up to date.

import { migrate } from '../store/migrate.ts'
import { type Connection, createPool, type Pool } from '../store/pool.ts'
import type { Settings } from './config.ts'
import type { EmbeddedPostgres } from './postgres.ts'

export interface Database {
  readonly connection: Connection
  readonly pool: Pool
  /** For people: "embedded 18.4 in .data/postgres", or the host of DATABASE_URL. */
  readonly label: string
  /** Closes the pool, and the embedded server if nobody else uses it. */
  close(): Promise<void>
}

export interface DatabaseOptions {
  readonly settings: Pick<Settings, 'databaseUrl' | 'dataDir'>
  readonly poolSize: number
  readonly log: (message: string, error?: unknown) => void
}

/** Throws an Error whose message is one line for the operator. */
export async function openDatabase({ settings, poolSize, log }: DatabaseOptions): Promise<Database> {
  const embedded = settings.databaseUrl === null ? await startEmbedded(settings.dataDir, log) : null
  const connection = embedded?.connection ?? { connectionString: settings.databaseUrl as string }
  const label = embedded === null ? `at ${hostOf(settings.databaseUrl as string)}` : `embedded ${embedded.version} in ${embedded.dataDir}`
  const pool = createPool(connection, { max: poolSize, name: 'gateway', onError: error => log('a database connection was lost', error) })
  try {
    await pool.query('select 1')
    await migrate(pool)
  } catch (error) {
    await pool.end().catch(() => {})
    await embedded?.release()
    throw new Error(
      embedded === null
        ? `The database ${label} could not be used: ${reason(error)}. Check DATABASE_URL, or unset it to use the embedded one.`
        : `The embedded database in ${embedded.dataDir} could not be used: ${reason(error)}.`,
      { cause: error }
    )
  }
  return {
    connection,
    pool,
    label,
    async close() {
      await pool.end().catch(() => {})
      await embedded?.release()
    }
  }
}

async function startEmbedded(dataDir: string, log: (message: string) => void): Promise<EmbeddedPostgres> {
  const { startEmbeddedPostgres } = await import('./postgres.ts')
  return startEmbeddedPostgres({ dataDir, log })
}

/** Host, port and database of a URL; never its user or password. */
function hostOf(url: string): string {
  try {
    const { host, pathname } = new URL(url)
    return `${host}${pathname}`
  } catch {
    return 'DATABASE_URL'
  }
}

function reason(error: unknown): string {
  const { message, code, errors } = error as { message?: string; code?: string; errors?: unknown[] }
  // Node tries every address of a name, and tells each failure apart.
  const first = Array.isArray(errors) && errors.length > 0 ? reason(errors[0]) : ''
  return (message || first || code || String(error)).split('\n')[0] as string
}
