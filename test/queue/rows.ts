// Rows for the tests of what runs by itself: jobs with real tickets, in any state, and processes that live or are gone.

import { randomUUID } from 'node:crypto'
import type { Test } from 'tap'
import { type Boss, startBoss, ticketQueue } from '../../queue/boss.ts'
import type { Connection, Pool } from '../../store/pool.ts'
import { createDatabase } from '../support/cluster.ts'

export interface Rows {
  readonly pool: Pool
  readonly connection: Connection
  readonly boss: Boss
  /** Inserts a job, queued if not said otherwise, with the ticket that belongs to it; a running one has an attempt. Returns its id. */
  job(row?: Readonly<Record<string, unknown>>, ticket?: 'none' | 'waiting'): Promise<string>
  /** A process that will be alive for an hour. */
  process(): Promise<string>
  read(id: string): Promise<Record<string, unknown>>
  attempt(id: string, attempt: number): Promise<Record<string, unknown>>
  ticketState(id: string): Promise<string | null>
  claim(id: string, processId: string, more?: { device?: string; paid?: boolean }): Promise<{ outcome: string; attempt: number }>
}

/** A database of its own with pg-boss in it; both end with `t`. */
export async function createRows(t: Test): Promise<Rows> {
  const { pool, connection } = await createDatabase(t)
  const boss = await startBoss({ connection, supervise: false, log: () => {} })
  t.teardown(() => boss.stop({ graceful: false }))
  let made = 0

  async function one(text: string, values: readonly unknown[]): Promise<Record<string, unknown>> {
    const { rows } = await pool.query(text, [...values])
    return rows[0] ?? {}
  }

  return {
    pool,
    connection,
    boss,
    async job(row = {}, ticket = 'waiting') {
      made += 1
      const { status = 'queued', process_id: processId, finished_at: finishedAt, payload = null, ...more } = row
      const isOver = status !== 'queued' && status !== 'running'
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
        status,
        ready: true,
        run_at: new Date(),
        outlives_owner: true,
        stream: false,
        attempts: 0,
        lost_attempts: 0,
        attempt_no: 0,
        paid: false,
        created_at: new Date(),
        process_id: processId ?? null,
        finished_at: isOver ? (finishedAt ?? new Date()) : null,
        ...more
      }
      await pool.query('insert into jobs select * from jsonb_populate_record(null::jobs, $1)', [JSON.stringify(values)])
      await pool.query('update jobs set payload = $2 where id = $1', [values.id, payload])
      if (ticket === 'waiting') await boss.insert(ticketQueue, [{ id: values.id, data: {}, retryLimit: values.max_attempts - 1 }])
      return values.id
    },
    async process() {
      const id = randomUUID()
      await pool.query(`insert into processes (id, host, pid, version, seen_at) values ($1, 'h', 1, 'v', now() + interval '1 hour')`, [id])
      return id
    },
    read: id => one('select * from jobs where id = $1', [id]),
    attempt: (id, attempt) => one('select * from job_attempts where job_id = $1 and attempt = $2', [id, attempt]),
    async ticketState(id) {
      return ((await one('select state::text from pgboss.job where name = $1 and id = $2', [ticketQueue, id]))['state'] as string) ?? null
    },
    async claim(id, processId, { device, paid = false } = {}) {
      const row = await one('select outcome, attempt from claim_job($1, $2, $3, $4, $5, null, $6)', [
        [id],
        device ?? null,
        'ollama',
        processId,
        randomUUID(),
        paid
      ])
      return row as { outcome: string; attempt: number }
    }
  }
}

/** A UUIDv7 of that ms; `number` orders those of one ms. */
export function idAt(ms: number, number: number): string {
  const hex = Math.floor(ms).toString(16).padStart(12, '0')
  return `${hex.slice(0, 8)}-${hex.slice(8)}-7000-8000-${number.toString(16).padStart(12, '0')}`
}
