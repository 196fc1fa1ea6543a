// Processes that write and follow jobs on one real database, all within one test process.

import { randomUUID } from 'node:crypto'
import type { Test } from 'tap'
import { createEventWriter, createWatches, type EventLog, insertEvents } from '../../queue/events.ts'
import { createNotices } from '../../queue/notices.ts'
import type { EventId, JobEvent, JobOutlook, JobRecord, JobStatus, JobWatch } from '../../queue/types.ts'
import { notify } from '../../store/channels.ts'
import { findJob } from '../../store/jobs/read.ts'
import { listen } from '../../store/listen.ts'
import { type Connection, createPool, type Pool } from '../../store/pool.ts'

export interface Side {
  readonly id: string
  readonly pool: Pool
  readonly writer: ReturnType<typeof createEventWriter>
  /** Told here instead of asking the database, where a test wants a place in line. */
  readonly outlooks: Map<string, JobOutlook>
  /** How often they were asked for. */
  looks(): number
  follow(jobId: string, after?: EventId | null): Promise<JobWatch>
  close(): Promise<void>
}

/** What a process has to do with events. `now`: the clock of its readers. */
export function startSide(t: Test, connection: Connection, now: () => number = () => performance.now()): Side {
  const id = randomUUID()
  const pool = createPool(connection, { max: 5, name: 'test', onError: () => {} })
  const notices = createNotices({ processId: id, send: all => notify(pool, all), log: () => {} })
  const writer = createEventWriter({ pool, notices, now: Date.now, log: () => {} })
  const listener = listen(connection, [], (channel, payload) => watches.notified(channel, payload))
  const outlooks = new Map<string, JobOutlook>()
  let looks = 0
  const watches = createWatches({
    pool,
    listener,
    writer,
    find: jobId => findJob(pool, jobId, null),
    outlook: async () => {
      looks += 1
      return outlooks
    },
    processId: id,
    now,
    log: () => {}
  })
  let closing: Promise<void> | null = null
  const close = (): Promise<void> =>
    (closing ??= (async () => {
      watches.close()
      await writer.close(100)
      await notices.close()
      await listener.close()
      await pool.end()
    })())
  t.teardown(close)
  return {
    id,
    pool,
    writer,
    outlooks,
    looks: () => looks,
    async follow(jobId, after = null) {
      return watches.watch((await findJob(pool, jobId, null)) as JobRecord, after)
    },
    close
  }
}

export async function addJob(pool: Pool, stream = true): Promise<string> {
  const id = randomUUID()
  await pool.query(
    `insert into jobs (id, kind, class, lane, tag, charge, weight, source, request, caller, stream, max_attempts)
     values ($1, 'chat', 2, '2/chat/m', 0, 0, 1, 'house', '{}', '{}', $2, 3)`,
    [id, stream]
  )
  return id
}

/** As a claim does; gives back the number of the attempt. */
export async function claim(pool: Pool, jobId: string, processId: string): Promise<number> {
  const { rows } = await pool.query(
    `update jobs
        set status = 'running', attempt_no = attempt_no + 1, process_id = $2, started_at = now()
      where id = $1
  returning attempt_no`,
    [jobId, processId]
  )
  return rows[0].attempt_no
}

export async function claimed(side: Side, jobId: string, onRoom?: () => void): Promise<EventLog> {
  return side.writer.open(jobId, await claim(side.pool, jobId, side.id), onRoom)
}

/** The transaction that ends a job, tried until it is through. */
export async function end(side: Side, log: EventLog, status: JobStatus = 'done'): Promise<void> {
  const rows = await log.settle(status)
  for (;;) {
    try {
      const client = await side.pool.connect()
      try {
        await client.query('begin')
        await insertEvents(client, rows)
        await endRow(client, log.jobId, status)
        await client.query('commit')
        client.release()
        break
      } catch (error) {
        client.release(true)
        throw error
      }
    } catch {
      await new Promise(resolve => setTimeout(resolve, 50))
    }
  }
  log.ended(status)
}

export async function endRow(pool: Pick<Pool, 'query'>, jobId: string, status: JobStatus): Promise<void> {
  await pool.query(`update jobs set status = $2, process_id = null, finished_at = now(), result = '{"ok":true}' where id = $1`, [
    jobId,
    status
  ])
}

export async function requeue(side: Side, log: EventLog): Promise<void> {
  await side.pool.query(`update jobs set status = 'queued', process_id = null where id = $1`, [log.jobId])
  log.retrying()
}

/** As an adapter gives them. */
export function frame(...texts: readonly string[]): Buffer {
  return Buffer.from(texts.map(text => `data: ${chunk(text)}\n\n`).join(''))
}

export function chunk(text: string): string {
  return JSON.stringify({ object: 'chat.completion.chunk', choices: [{ index: 0, delta: { content: text } }] })
}

export async function readAll(watch: JobWatch, each: (event: JobEvent) => void = () => {}): Promise<JobEvent[]> {
  const all: JobEvent[] = []
  for (let events = await watch.next(); events !== null; events = await watch.next()) {
    for (const event of events) {
      each(event)
      all.push(event)
    }
  }
  return all
}

/** An event in short: `status queued`, `1-0 attempt`, `1-2 "text"`, `1-3 result done`, `1-4 end done`. */
export function short(event: JobEvent): string {
  if (event.type === 'status') return `status ${event.status}`
  const id = `${event.id.attempt}-${event.id.seq}`
  if (event.type === 'chunk') return `${id} ${JSON.stringify(JSON.parse(event.json).choices[0].delta.content)}`
  if (event.type === 'attempt') return `${id} attempt`
  return `${id} ${event.type} ${event.type === 'result' ? event.job.status : event.status}`
}

/** Without `status`, which depends on when one looks. */
export function numbered(events: readonly JobEvent[]): string[] {
  return events.filter(({ type }) => type !== 'status').map(short)
}
