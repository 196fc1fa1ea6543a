// The connection pool. Everything here ends in bounded time, and no lost connection can end the process.

import pg from 'pg'

export interface Connection {
  readonly connectionString?: string
  readonly host?: string
  readonly port?: number
  readonly user?: string
  readonly password?: string
  readonly database?: string
}

export type Pool = pg.Pool

/** Without both limits a frozen server hangs every caller for ever. */
export function createPool(
  connection: Connection,
  options: { readonly max: number; readonly name: string; readonly onError: (error: Error) => void }
): Pool {
  const pool = new pg.Pool({
    ...connection,
    max: options.max,
    application_name: `llm-mcp ${options.name}`,
    connectionTimeoutMillis: 2_000,
    query_timeout: 5_000,
    idleTimeoutMillis: 30_000,
    keepAlive: true
  })
  pool.on('error', options.onError)
  // A client that dies while somebody holds it tells only its own listeners.
  pool.on('connect', client => {
    client.on('error', options.onError)
  })
  return pool
}

/** True for failures of the way to the server, as opposed to a statement it refused. */
export function isConnectionError(error: unknown): boolean {
  const code = (error as { code?: unknown } | null)?.code
  if (typeof code === 'string' && /^(08|57P0|53300)/.test(code)) return true
  if (typeof code === 'string' && /^(E[A-Z]+)$/.test(code)) return true
  return /timeout|terminated|not queryable|Connection|ended/i.test(error instanceof Error ? error.message : '')
}

/** True when the values themselves are refused (SQLSTATE classes 22 and 23): the same again would fail again. */
export function isDataError(error: unknown): boolean {
  const code = (error as { code?: unknown } | null)?.code
  return typeof code === 'string' && /^2[23]/.test(code)
}
