// For the tests of messages to people: the Bot API and telegram-mcp on real sockets, rows to tell of, and clocks that are moved back.

import { randomUUID } from 'node:crypto'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Test } from 'tap'
import { createOutbound } from '../../outbound/client.ts'
import { type Channel, createDirect, createThroughMcp } from '../../planner/alerts/telegram.ts'
import { createAlerts } from '../../planner/alerts/watch.ts'
import type { Pool } from '../../store/pool.ts'
import { idAt } from '../queue/rows.ts'

export const token = '123456789:AAF-abcdefghijklmnopqrstuvwxyz_01234'

export interface Call {
  /** `sendMessage`, `editMessageText`; of telegram-mcp `send`, `7/edit`. */
  readonly what: string
  readonly path: string
  readonly body: Record<string, unknown>
}

export type Behaviour = (call: Call, response: ServerResponse, request: IncomingMessage) => void

export interface Fake {
  readonly url: string
  readonly calls: Call[]
  /** Texts of the messages that were sent, not of those that were changed. */
  sent(): string[]
  /** From now on; null = as it should. */
  behave(next: Behaviour | null): void
}

export const json =
  (status: number, body: unknown, headers: Record<string, string> = {}): Behaviour =>
  (_, response) =>
    void response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body))

export const hang: Behaviour = () => {}
export const reset: Behaviour = (_, response) => void response.socket?.resetAndDestroy()

/** As the Bot API refuses. */
export const refuses = (code: number, description: string, parameters?: object): Behaviour =>
  json(code, { ok: false, error_code: code, description, ...(parameters === undefined ? {} : { parameters }) })

export const startBotApi = (t: Test): Promise<Fake> =>
  start(t, (call, id) => ({ ok: true, result: { message_id: call.what === 'sendMessage' ? id : call.body['message_id'] } }))

export const startTelegramMcp = (t: Test): Promise<Fake> =>
  start(t, (_, id) => ({ message: { id, status: 'sent', telegram_message_id: 1_000 + id }, result: { message_id: 1_000 + id } }))

async function start(t: Test, answer: (call: Call, id: number) => unknown): Promise<Fake> {
  const calls: Call[] = []
  let behaviour: Behaviour | null = null
  const server = createServer((request, response) => {
    let text = ''
    request.on('data', chunk => {
      text += chunk
    })
    request.on('end', () => {
      const path = request.url ?? ''
      const call = { what: path.replace(/^\/bot[^/]*\//, '').replace(/^\/v1\/messages\//, ''), path, body: JSON.parse(text) }
      calls.push(call)
      if (behaviour === null) json(200, answer(call, calls.length))(call, response, request)
      else behaviour(call, response, request)
    })
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.close()
    server.closeAllConnections()
  })
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    calls,
    sent: () => calls.filter(({ what }) => what === 'send' || what === 'sendMessage').map(({ body }) => String(body['text'])),
    behave(next) {
      behaviour = next
    }
  }
}

/** One process that tells people; `look` and `summary` once. */
export function createTeller(
  t: Test,
  pool: Pool,
  given: { readonly bot?: Fake | string; readonly mcp?: Fake | string; readonly timeoutMs?: number; readonly failThreshold?: number }
) {
  const outbound = createOutbound()
  t.teardown(() => outbound.close())
  const logged: string[] = []
  const timeoutMs = given.timeoutMs ?? 5_000
  const urlOf = (fake: Fake | string): string => (typeof fake === 'string' ? fake : fake.url)
  const channels: Channel[] = [
    ...(given.mcp === undefined ? [] : [createThroughMcp(outbound, { baseUrl: urlOf(given.mcp), chatId: '-100777', botId: 7, timeoutMs })]),
    ...(given.bot === undefined ? [] : [createDirect(outbound, { token, chatId: '-100777', apiRoot: urlOf(given.bot), timeoutMs })])
  ]
  const alerts = createAlerts({
    pool,
    channels,
    failThreshold: given.failThreshold ?? 3,
    newId: randomUUID,
    // As the log has it: all that an error holds.
    log: (message, error) => void logged.push(`${message} ${(error as Error).stack} ${JSON.stringify(error)}`)
  })
  const never = new AbortController().signal
  return { logged, look: () => alerts.look(never), summary: () => alerts.summary(never), alerts }
}

export interface Rows {
  machine(id: string, health: 'up' | 'down' | 'unknown', more?: Readonly<Record<string, unknown>>): Promise<void>
  job(row: Readonly<Record<string, unknown>>): Promise<string>
  /** Ended jobs of one source and model, the last one last. */
  jobs(source: string, model: string, statuses: readonly ('done' | 'error' | 'cancelled')[], code?: string): Promise<void>
  chore(name: string, succeeded: boolean | null, note: string | null): Promise<void>
  /** As if the last messages had been sent 10 minutes earlier. */
  later(): Promise<void>
}

export function createRows(pool: Pool): Rows {
  let made = 0
  async function job(row: Readonly<Record<string, unknown>>): Promise<string> {
    made += 1
    const values = {
      id: idAt(Date.now(), made),
      kind: 'chat',
      class: 2,
      lane: '2/chat/any/m',
      tag: made,
      charge: 1_000,
      weight: 1,
      model: 'm',
      source: 'me',
      request: {},
      caller: {},
      max_attempts: 3,
      status: 'queued',
      ready: true,
      run_at: new Date(),
      outlives_owner: true,
      stream: false,
      attempts: 0,
      lost_attempts: 0,
      attempt_no: 0,
      paid: false,
      created_at: new Date(),
      ...row
    }
    await pool.query('insert into jobs select * from jsonb_populate_record(null::jobs, $1)', [JSON.stringify(values)])
    return values.id
  }
  return {
    job,
    async machine(id, health, more = {}) {
      const values = {
        id,
        url: 'http://127.0.0.1:9',
        adapter: 'ollama',
        max_concurrency: 1,
        created_at: new Date(),
        origin: 'config',
        state: 'approved',
        tags: [],
        marks: [],
        health,
        health_note: health === 'down' ? 'it refuses connections' : 'it answers again',
        health_at: new Date(),
        ...more
      }
      await pool.query(
        `
insert into devices select * from jsonb_populate_record(null::devices, $1)
    on conflict (id) do update
   set health = excluded.health, health_note = excluded.health_note, health_at = excluded.health_at, state = excluded.state`,
        [JSON.stringify(values)]
      )
    },
    async jobs(source, model, statuses, code = 'upstream_unavailable') {
      for (const status of statuses) {
        // Their ends differ by a ms.
        const finishedAt = new Date(Date.now() - 60_000 + made)
        await job({ source, model, status, finished_at: finishedAt, error: status === 'error' ? { code, message: 'no' } : null })
      }
    },
    async chore(name, succeeded, note) {
      await pool.query(
        `insert into chores (name, due_at, finished_at, succeeded, note) values ($1, 'infinity', now(), $2, $3)
         on conflict (name) do update set finished_at = now(), succeeded = excluded.succeeded, note = excluded.note`,
        [name, succeeded, note]
      )
    },
    async later() {
      await pool.query(`update alerts set said_at = said_at - interval '10 minutes'`)
    }
  }
}
