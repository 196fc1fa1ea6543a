// The one LISTEN connection of a process.

import pg from 'pg'
import type { Connection } from './pool.ts'

export interface Listener {
  /** False while notifications may be lost: whoever relies on them must look for himself. */
  isHealthy(): boolean
  close(): Promise<void>
}

const pingMs = 500

/**
 * Listens on `channels` for as long as the process lives, over lost connections and frozen servers.
 * `onNotify` is also called, with every channel, each time the connection is new: something may have been missed.
 */
export function listen(connection: Connection, channels: readonly string[], onNotify: (channel: string) => void): Listener {
  let client: pg.Client | null = null
  let healthy = false
  let closed = false
  let timer: NodeJS.Timeout | null = null

  void connect()

  async function connect(): Promise<void> {
    const fresh = new pg.Client({
      ...connection,
      application_name: 'llm-mcp listen',
      connectionTimeoutMillis: 1_000,
      query_timeout: 1_000,
      keepAlive: true
    })
    fresh.on('error', () => lost(fresh))
    fresh.on('end', () => lost(fresh))
    fresh.on('notification', message => onNotify(message.channel))
    client = fresh
    try {
      await fresh.connect()
      for (const channel of channels) await fresh.query(`listen ${pg.escapeIdentifier(channel)}`)
      if (client !== fresh) return
      healthy = true
      for (const channel of channels) onNotify(channel)
      schedule(ping)
    } catch {
      lost(fresh)
    }
  }

  async function ping(): Promise<void> {
    const current = client
    if (current === null) return
    try {
      await current.query('select 1')
      schedule(ping)
    } catch {
      lost(current)
    }
  }

  function lost(which: pg.Client): void {
    if (client !== which) return
    client = null
    healthy = false
    which.end().catch(() => {})
    if (!closed) schedule(connect)
  }

  function schedule(step: () => Promise<void>): void {
    if (closed) return
    timer = setTimeout(() => void step(), pingMs)
    timer.unref()
  }

  return {
    isHealthy: () => healthy,
    async close() {
      closed = true
      if (timer !== null) clearTimeout(timer)
      const last = client
      client = null
      healthy = false
      await last?.end().catch(() => {})
    }
  }
}
