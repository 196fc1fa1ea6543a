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
export type Client = pg.PoolClient

/** Without both limits a frozen server hangs every caller for ever. */
export function createPool(
  connection: Connection,
  options: {
    readonly max: number
    readonly name: string
    readonly onError: (error: Error) => void
    /** How long a statement may take; 5 s if not given. */
    readonly queryMs?: number
  }
): Pool {
  const pool = new pg.Pool({
    ...connection,
    max: options.max,
    application_name: `llm-mcp ${options.name}`,
    connectionTimeoutMillis: 2_000,
    query_timeout: options.queryMs ?? 5_000,
    idleTimeoutMillis: 30_000,
    // A process that is frozen half-way holds nobody up for longer.
    idle_in_transaction_session_timeout: 10_000,
    keepAlive: true
  })
  pool.on('error', options.onError)
  // A client that dies while somebody holds it tells only its own listeners.
  pool.on('connect', client => {
    client.on('error', options.onError)
  })
  return pool
}

// Two that wait for each other: one of them is undone by the server after a second, and may begin anew.
const undoneAtMost = 3

/**
 * Runs `act` in one transaction: what it returns is committed, what it throws undoes all of it. Where the server undid it for the sake of
 * another, `act` runs once more.
 */
export async function inTransaction<T>(pool: Pool, act: (client: Client) => Promise<T>): Promise<T> {
  for (let undone = 0; ; undone++) {
    try {
      return await onceInTransaction(pool, act)
    } catch (error) {
      if (!isUndone(error) || undone === undoneAtMost) throw error
    }
  }
}

async function onceInTransaction<T>(pool: Pool, act: (client: Client) => Promise<T>): Promise<T> {
  const client = await pool.connect()
  let broken: Error | undefined
  try {
    await client.query('begin')
    const result = await act(client)
    await client.query('commit')
    return result
  } catch (error) {
    // A connection that cannot even undo is of no use to the next one.
    await client.query('rollback').catch((failure: Error) => {
      broken = failure
    })
    throw error
  } finally {
    client.release(broken)
  }
}

/** A deadlock or a conflict of order (SQLSTATE 40P01, 40001): nothing of it happened. */
function isUndone(error: unknown): boolean {
  const code = (error as { code?: unknown } | null)?.code
  return code === '40P01' || code === '40001'
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
