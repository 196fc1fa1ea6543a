// Writes the events of all attempts of this process: one batch each 50 ms, kept until it is safe, nothing lost and nothing out of order.

import { eachEvent, sseData } from '../../outbound/sse.ts'
import { type EventRow, insertEventsSoon } from '../../store/job-events.ts'
import { type Client, isDataError, type Pool } from '../../store/pool.ts'
import type { Notices } from '../notices.ts'
import type { JobStatus } from '../types.ts'
import { createRing, type Ring } from './ring.ts'
import type { EventLog, EventWriter, WrittenHere } from './types.ts'

export interface EventWriterPorts {
  /** One connection of it is held while attempts are written. */
  readonly pool: Pick<Pool, 'connect'>
  readonly notices: Pick<Notices, 'changed' | 'wrote'>
  /** Epoch, ms. */
  readonly now: () => number
  readonly log: (message: string, error: unknown) => void
}

// One batch each 50 ms of 100 streams costs the server 2 % of a core, a row a stream each 100 ms four times that.
const flushEveryMs = 50
// The first chunk after a pause waits for those that come with it.
const gatherMs = 10
const retryMs = 250
// A server that is killed forgets what it wrote without waiting for the disk: by its own word up to three times wal_writer_delay (200 ms).
const safeAfterMs = 2_000
const rowCharacters = 32 * 1024
const batchCharacters = 4 * 1024 * 1024
const fullCharacters = { log: 8 * 1024 * 1024, all: 64 * 1024 * 1024 }
// Those that were told to wait go on when half of it is gone.
const roomCharacters = { log: fullCharacters.log / 2, all: fullCharacters.all / 2 }

interface Log {
  readonly jobId: string
  readonly attempt: number
  readonly at: Date
  readonly ring: Ring
  readonly onRoom: () => void
  /** Settled: its rows are in the hands of whoever ends the job. */
  phase: 'open' | 'settled' | 'leaving'
  /** Chunks up to this one are in rows. */
  rowed: number
  /** Made, and not written. */
  rows: EventRow[]
  /** Being written. */
  flying: readonly EventRow[]
  /** Written on the present connection, and not safe yet. */
  doubtful: { readonly row: EventRow; readonly atMs: number }[]
  /** Of what is not written. */
  characters: number
  isFull: boolean
}

export function createEventWriter({ pool, notices, now, log }: EventWriterPorts): EventWriter {
  const logs = new Set<Log>()
  const newest = new Map<string, Log>()
  const listeners: ((jobId: string) => void)[] = []
  let client: Client | null = null
  let characters = 0
  let timer: NodeJS.Timeout | null = null
  let idleTimer: NodeJS.Timeout | undefined
  let flushing: Promise<void> | null = null
  let flushedAt = Number.NEGATIVE_INFINITY
  let hasFailed = false
  let isClosed = false

  function open(jobId: string, attempt: number, onRoom: () => void = () => {}): EventLog {
    const at = new Date(now())
    const marker: EventRow = { jobId, attempt, seq: 0, kind: 'attempt', count: 1, data: '', at }
    const mine: Log = {
      jobId,
      attempt,
      at,
      ring: createRing(),
      onRoom,
      phase: 'open',
      rowed: 0,
      rows: [marker],
      flying: [],
      doubtful: [],
      characters: 0,
      isFull: false
    }
    logs.add(mine)
    newest.set(jobId, mine)
    notices.changed(jobId)
    tell(jobId)
    later()
    return {
      jobId,
      attempt,
      frames: events => frames(mine, events),
      settle: status => settle(mine, status),
      ended() {
        forget(mine)
        notices.changed(jobId)
      },
      retrying() {
        mine.phase = 'leaving'
        notices.changed(jobId)
        later()
      },
      dropped() {
        forget(mine)
      }
    }
  }

  function frames(mine: Log, events: Buffer): boolean {
    if (mine.phase !== 'open') return true
    const before = mine.ring.next
    eachEvent(events, (start, end) => {
      const data = sseData(events.subarray(start, end))
      if (data === null || data === '' || data === '[DONE]') return
      // A line break between the tokens of JSON is a blank; the server's texts hold no NUL, and JSON has none.
      const json = /[\n\r\0]/.test(data) ? data.replace(/[\n\r\0]/g, ' ') : data
      mine.ring.push(json)
      weigh(mine, json.length)
    })
    if (mine.ring.next > before) {
      tell(mine.jobId)
      later()
    }
    mine.isFull ||= mine.characters > fullCharacters.log || characters > fullCharacters.all
    return !mine.isFull
  }

  function weigh(mine: Log, change: number): void {
    mine.characters += change
    characters += change
  }

  /** After something waits: writes it when it is time. */
  function later(): void {
    if (timer !== null || flushing !== null || isClosed) return
    clearTimeout(idleTimer)
    timer = setTimeout(flush, hasFailed ? retryMs : Math.max(gatherMs, flushedAt + flushEveryMs - performance.now()))
  }

  function flush(): void {
    timer = null
    flushedAt = performance.now()
    flushing = write(taken()).finally(() => {
      flushing = null
      tidy()
    })
  }

  /** The oldest rows of each log, in all no more than one batch. */
  function taken(): Log[] {
    const taking: Log[] = []
    let left = batchCharacters
    for (const mine of logs) {
      if (left <= 0) break
      if (mine.phase === 'settled') continue
      const room = left
      left -= makeRows(mine, room)
      if (mine.rows.length === 0) continue
      mine.flying = mine.rows.splice(0, rowsWithin(mine.rows, room))
      taking.push(mine)
      // Whoever was taken stands behind the others next time.
      logs.delete(mine)
      logs.add(mine)
    }
    return taking
  }

  /** Puts chunks into rows; gives back how long all its rows are. */
  function makeRows(mine: Log, atMost: number): number {
    let made = mine.rows.reduce((sum, { data }) => sum + data.length, 0)
    while (made < atMost) {
      const data = mine.ring.after(mine.rowed, rowCharacters) ?? []
      if (data.length === 0) break
      const row = {
        jobId: mine.jobId,
        attempt: mine.attempt,
        seq: mine.rowed + 1,
        kind: 'chunks',
        count: data.length,
        data: data.join('\n'),
        at: new Date(now())
      } as const
      mine.rows.push(row)
      mine.rowed += row.count
      made += row.data.length
    }
    return made
  }

  async function write(batch: readonly Log[]): Promise<void> {
    const startedAt = performance.now()
    const rows = batch.flatMap(mine => mine.flying)
    if (rows.length === 0 && client === null) return
    try {
      client ??= await connect()
      // Without rows it is a question whether the connection still stands: what was written on it before is safe then.
      if (rows.length === 0) await client.query('select 1')
      else await insert(client, rows)
      hasFailed = false
      for (const mine of batch) if (logs.has(mine)) landed(mine)
      for (const mine of logs) mine.doubtful = mine.doubtful.filter(({ atMs }) => atMs + safeAfterMs > startedAt)
      if (rows.length > 0) notices.wrote()
    } catch (error) {
      if (!hasFailed) log('events of jobs could not be written', error)
      hasFailed = true
      for (const mine of batch) {
        back(mine, mine.flying)
        mine.flying = []
      }
      if (client !== null) lost()
    }
  }

  async function connect(): Promise<Client> {
    const fresh = await pool.connect()
    // Kept at hand, it hears at once of the end of its connection, and with that of the server's.
    fresh.on('error', onLost)
    fresh.on('end', onLost)
    return fresh
  }

  function onLost(): void {
    if (client !== null) lost()
  }

  /** What was written on this connection may be gone with its server. */
  function lost(): void {
    letGo(true)
    for (const mine of logs) {
      for (const { row } of mine.doubtful) weigh(mine, weightOf(row))
      back(
        mine,
        mine.doubtful.map(({ row }) => row)
      )
      mine.doubtful = []
    }
    later()
  }

  /** They are to be written (again), in their order. */
  function back(mine: Log, rows: readonly EventRow[]): void {
    mine.rows = [...rows, ...mine.rows].sort((one, other) => one.seq - other.seq)
  }

  async function insert(client: Client, rows: readonly EventRow[]): Promise<void> {
    try {
      await insertEventsSoon(client, rows)
    } catch (error) {
      if (!isDataError(error)) throw error
      // One that the server will never take must not hold up all others.
      for (const row of rows) {
        await insertEventsSoon(client, [row]).catch((error: unknown) => {
          if (!isDataError(error)) throw error
          log(`an event of job ${row.jobId} was refused`, error)
        })
      }
    }
  }

  function landed(mine: Log): void {
    const atMs = performance.now()
    for (const row of mine.flying) {
      weigh(mine, -weightOf(row))
      mine.doubtful.push({ row, atMs })
    }
    mine.flying = []
    // The ring is read where the rows are not: it must hold what a killed server may have forgotten.
    mine.ring.written(mine.doubtful.find(({ row }) => row.kind === 'chunks')?.row.seq ?? mine.rowed + 1)
  }

  /** After a flush: lets those go on that were told to wait, those go that are done, and says when to write next. */
  function tidy(): void {
    let hasDoubtful = false
    let waits = false
    for (const mine of logs) {
      if (mine.isFull && mine.characters <= roomCharacters.log && characters <= roomCharacters.all) {
        mine.isFull = false
        mine.onRoom()
      }
      const isWritten = mine.rows.length === 0 && mine.flying.length === 0 && mine.rowed + 1 === mine.ring.next
      if (mine.phase === 'leaving' && isWritten && mine.doubtful.length === 0) forget(mine)
      hasDoubtful ||= mine.doubtful.length > 0
      waits ||= mine.phase !== 'settled' && !isWritten
    }
    if (waits) return later()
    if (isClosed || timer !== null) return
    if (hasDoubtful) idleTimer = setTimeout(flush, safeAfterMs)
    else if (logs.size === 0) letGo(false)
  }

  function letGo(isBroken: boolean): void {
    const last = client
    client = null
    last?.off('error', onLost).off('end', onLost)
    last?.release(isBroken)
  }

  async function settle(mine: Log, status: JobStatus): Promise<readonly EventRow[]> {
    mine.phase = 'settled'
    while (flushing !== null && mine.flying.length > 0) await flushing
    makeRows(mine, Number.POSITIVE_INFINITY)
    const { jobId, attempt, ring } = mine
    const at = new Date(now())
    return [
      ...mine.doubtful.map(({ row }) => row),
      ...mine.rows,
      { jobId, attempt, seq: ring.next, kind: 'result', count: 1, data: '', at },
      { jobId, attempt, seq: ring.next + 1, kind: 'end', count: 1, data: status, at }
    ]
  }

  function forget(mine: Log): void {
    if (!logs.delete(mine)) return
    weigh(mine, -mine.characters)
    if (newest.get(mine.jobId) === mine) newest.delete(mine.jobId)
    tell(mine.jobId)
    // Others may wait for the room it took, and the connection may be no longer needed.
    later()
  }

  function tell(jobId: string): void {
    for (const listener of listeners) listener(jobId)
  }

  return {
    open,
    async close(timeoutMs = 5_000) {
      const end = performance.now() + timeoutMs
      const waits = (): boolean =>
        [...logs].some(mine => mine.phase !== 'settled' && (mine.rows.length + mine.flying.length > 0 || mine.rowed + 1 < mine.ring.next))
      while ((flushing !== null || waits()) && performance.now() < end)
        await (flushing ?? new Promise(resolve => setTimeout(resolve, gatherMs)))
      isClosed = true
      if (timer !== null) clearTimeout(timer)
      timer = null
      clearTimeout(idleTimer)
      await flushing
      letGo(false)
      logs.clear()
      newest.clear()
    },
    written(jobId) {
      const mine = newest.get(jobId)
      return mine === undefined ? null : writtenHere(mine)
    },
    onNews(listener) {
      listeners.push(listener)
    }
  }
}

/** How many of them make up about so many characters; one at least. */
function rowsWithin(rows: readonly EventRow[], characters: number): number {
  let count = 0
  for (let sum = 0; count < rows.length && sum < characters; count++) sum += (rows[count] as EventRow).data.length
  return count
}

/** The length of its chunks, without the line breaks between them. */
function weightOf({ kind, data, count }: EventRow): number {
  return kind === 'chunks' ? data.length - count + 1 : 0
}

function writtenHere({ attempt, at, ring }: Log): WrittenHere {
  return { attempt, at, after: ring.after }
}
