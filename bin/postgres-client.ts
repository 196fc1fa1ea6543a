// Talking to the embedded server: does it answer, is anyone else connected. Bounded in time, whatever state it is in.

import { Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import { hasCode } from './postgres-tools.ts'

/** The database account, and the database: there is one of each. */
export const user = 'postgres'

export interface Connection {
  readonly host: string
  readonly port: number
  readonly user: string
  readonly database: string
  readonly password?: string
}

/** Asks again for 300 ms: the backends of a pool that was just closed take a moment to end. When it cannot tell, it says yes. */
export function othersConnected(connection: Connection): Promise<boolean> {
  return withClient(connection, async client => {
    const begunMs = performance.now()
    for (;;) {
      const { rows } = await client.query(
        "select 1 from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid() limit 1"
      )
      if (rows.length === 0) return false
      if (performance.now() - begunMs > 300) return true
      await delay(20)
    }
  }).catch(() => true)
}

/** A server without a free connection answers too. */
export function answers(connection: Connection): Promise<boolean> {
  return withClient(connection, async () => true).catch(error => hasCode(error, '53300'))
}

/** A connection for one purpose. Bounded in time even when the server is frozen and does not answer to a farewell either. */
export async function withClient<T>(connection: Connection, purpose: (client: pg.Client) => Promise<T>): Promise<T> {
  const socket = new Socket()
  const client = new pg.Client({ ...connection, stream: () => socket, connectionTimeoutMillis: 1000, query_timeout: 1000 })
  client.on('error', () => {})
  try {
    await client.connect()
    return await purpose(client)
  } finally {
    await Promise.race([client.end().catch(() => {}), delay(500, undefined, { ref: false })])
    socket.destroy()
  }
}
