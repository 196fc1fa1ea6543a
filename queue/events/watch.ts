// Reads the events of jobs for all who follow one in this process: from memory where it runs here, otherwise from the table, in one query for all.

import { GatewayError } from '../../routing/errors.ts'
import { changedChannel, fromProcess } from '../../store/channels.ts'
import { type ReadEvents, readEvents, readFollowed } from '../../store/job-events.ts'
import type { Listener } from '../../store/listen.ts'
import type { Pool } from '../../store/pool.ts'
import type { EventId, JobEvent, JobOutlook, JobRecord, JobStatus, JobWatch } from '../types.ts'
import { asked, isFinished, lastEvents, learn, type Place, startPlace, takeChunks, takeRows } from './place.ts'
import type { EventWriter, Watches } from './types.ts'

export interface WatchPorts {
  readonly pool: Pick<Pool, 'query'>
  /** Its `onNotify` must come to `notified`. */
  readonly listener: Pick<Listener, 'add' | 'remove'>
  readonly writer: Pick<EventWriter, 'written' | 'onNews'>
  /** With its result, unless that is large; null when it is gone. */
  readonly find: (jobId: string) => Promise<JobRecord | null>
  readonly outlook: (jobIds: readonly string[]) => Promise<ReadonlyMap<string, JobOutlook>>
  /** This process, whose jobs are read from `writer`. */
  readonly processId: string
  /** Counts up, ms. */
  readonly now: () => number
  readonly log: (message: string, error: unknown) => void
}

// What is fetched at once for one reader, and for all together.
const bytesAtOnce = { one: 256 * 1024, all: 16 * 1024 * 1024 }
// Notifications can be lost; everybody looks for himself once a second.
const lookEveryMs = 1_000
// A little less: by a timer of a second it would often be two.
const statusEveryMs = 950
const retryMs = 250
const patienceMs = 60_000
const noOutlook: JobOutlook = { position: null, etaMs: null }

interface Reader {
  readonly place: Place
  /** Something may be new of the job, of its events. */
  mayHaveState: boolean
  mayHaveRows: boolean
  /** The job is over, and all its rows were read. */
  isDry: boolean
  /** A query for its rows or its end is on its way: its place stays as it is. */
  isBusy: boolean
  isOver: boolean
  told: { readonly status: JobStatus; readonly outlook: string; readonly atMs: number } | null
  /** The process whose notifications tell of new rows. */
  channel: string | null
  failingSince: number | null
  waiter: PromiseWithResolvers<readonly JobEvent[] | null> | null
}

export function createWatches({ pool, listener, writer, find, outlook, processId, now, log }: WatchPorts): Watches {
  const readers = new Set<Reader>()
  const byJob = new Map<string, Set<Reader>>()
  let isLooking = false
  let lookAgain = false
  let isClosed = false
  let hasFailed = false
  let retry: NodeJS.Timeout | null = null

  const backstop = setInterval(() => {
    for (const reader of readers) {
      reader.mayHaveState ||= !isFinished(reader.place.status)
      reader.mayHaveRows ||= reader.channel !== null
    }
    look()
  }, lookEveryMs)
  backstop.unref()
  writer.onNews(news)

  function watch(job: JobRecord, after: EventId | null): JobWatch {
    const reader: Reader = {
      place: startPlace(job, after),
      // The job may have changed between its reading and our listening.
      mayHaveState: true,
      mayHaveRows: job.stream,
      isDry: !job.stream,
      isBusy: false,
      isOver: isClosed,
      told: null,
      channel: null,
      failingSince: null,
      waiter: null
    }
    if (!isClosed) begin(reader)
    return {
      next() {
        if (reader.isOver) return Promise.resolve(null)
        if (reader.waiter !== null) return Promise.reject(new Error('next() was called while it waits'))
        const here = reader.isBusy ? [] : fromMemory(reader)
        if (here.length > 0) return Promise.resolve(here)
        reader.waiter = Promise.withResolvers()
        const { promise } = reader.waiter
        look()
        return promise
      },
      close: () => end(reader)
    }
  }

  function begin(reader: Reader): void {
    const { jobId } = reader.place
    readers.add(reader)
    byJob.set(jobId, (byJob.get(jobId) ?? new Set()).add(reader))
    listener.add(changedChannel)
    listenTo(reader)
  }

  function end(reader: Reader): void {
    reader.isOver = true
    reader.waiter?.resolve(null)
    reader.waiter = null
    if (!readers.delete(reader)) return
    const { jobId } = reader.place
    const others = byJob.get(jobId)
    others?.delete(reader)
    if (others?.size === 0) byJob.delete(jobId)
    listener.remove(changedChannel)
    if (reader.channel !== null) listener.remove(reader.channel)
    reader.channel = null
  }

  /** Hears of new rows from the process that runs the job, unless that is this one. */
  function listenTo(reader: Reader): void {
    const { hasStream, status, processId: runner } = reader.place
    const isElsewhere = hasStream && status === 'running' && runner !== null && runner !== processId
    const channel = isElsewhere ? fromProcess(runner) : null
    if (channel === reader.channel) return
    if (channel !== null) listener.add(channel)
    if (reader.channel !== null) listener.remove(reader.channel)
    reader.channel = channel
  }

  function give(reader: Reader, events: readonly JobEvent[]): void {
    reader.failingSince = null
    reader.waiter?.resolve(events)
    reader.waiter = null
  }

  function fail(reader: Reader, error: unknown): void {
    reader.mayHaveState = true
    reader.mayHaveRows = reader.place.hasStream
    reader.failingSince ??= now()
    if (now() - reader.failingSince < patienceMs) return
    const { waiter } = reader
    reader.waiter = null
    end(reader)
    waiter?.reject(
      new GatewayError('database_unavailable', 'The events of the job cannot be read: the database is away.', { cause: error })
    )
  }

  /** The writer of this process has something new of a job. */
  function news(jobId: string): void {
    for (const reader of byJob.get(jobId) ?? []) {
      if (writer.written(jobId)?.attempt !== reader.place.attempt) {
        reader.mayHaveState = true
        reader.mayHaveRows = reader.place.hasStream
      }
      if (reader.waiter === null || reader.isBusy) continue
      const events = fromMemory(reader)
      if (events.length > 0) give(reader, events)
      else if (reader.mayHaveState || reader.mayHaveRows) look()
    }
  }

  /** What is here of the job's newest attempt. Asks for the table where memory does not reach. */
  function fromMemory(reader: Reader): JobEvent[] {
    const { place } = reader
    const here = place.hasStream ? writer.written(place.jobId) : null
    // Of a job that is over the table has everything; and an attempt behind the newest is that of somebody taken for lost.
    if (here === null || here.attempt < place.attemptNo) return []
    if (here.attempt === place.attemptNo && isFinished(place.status)) return []
    const events: JobEvent[] = []
    if (here.attempt > place.attemptNo) {
      learn(place, { status: 'running', attemptNo: here.attempt, processId })
      reader.isDry = false
      listenTo(reader)
    }
    if (place.status === 'running') events.push(...statusEvents(reader, noOutlook))
    const chunks = here.after(Math.max(place.seq, 0), bytesAtOnce.one)
    reader.mayHaveRows = chunks === null
    events.push(...takeChunks(place, here.at, chunks ?? []))
    return events
  }

  /** At most one; none when the reader knows. */
  function statusEvents(reader: Reader, outlook: JobOutlook): JobEvent[] {
    const { status } = reader.place
    const text = JSON.stringify(outlook)
    const isKnown = reader.told?.status === status && reader.told.outlook === text
    reader.told = { status, outlook: text, atMs: now() }
    return isKnown ? [] : [{ type: 'status', status, outlook }]
  }

  function look(): void {
    lookAgain = true
    if (isLooking || isClosed) return
    isLooking = true
    void (async () => {
      // Whoever else has news in this turn of the loop comes along.
      await new Promise(resolve => setImmediate(resolve))
      while (lookAgain && !isClosed) {
        lookAgain = false
        await round()
      }
      isLooking = false
    })()
  }

  function waiting(which: (reader: Reader) => boolean): Reader[] {
    return [...readers].filter(reader => reader.waiter !== null && !reader.isBusy && which(reader))
  }

  /** One look for all who wait: 1. what became of their jobs, 2. their places in line, 3. new rows, 4. ends. */
  async function round(): Promise<void> {
    try {
      // 1.
      await readStates(waiting(reader => reader.mayHaveState))
      // 2.
      await readOutlooks(
        waiting(({ place, told }) => place.status === 'queued' && (told?.status !== 'queued' || told.atMs + statusEveryMs <= now()))
      )
      // 3.
      await readRows(waiting(reader => reader.mayHaveRows && reader.place.hasStream))
    } catch (error) {
      return later(error)
    }
    hasFailed = false
    // 4.
    for (const reader of waiting(({ place, isDry, mayHaveState }) => isFinished(place.status) && isDry && !mayHaveState))
      void finish(reader)
  }

  async function attempted<T>(of: readonly Reader[], query: () => Promise<T>): Promise<T> {
    try {
      return await query()
    } catch (error) {
      for (const reader of of) fail(reader, error)
      throw error
    }
  }

  async function readStates(of: readonly Reader[]): Promise<void> {
    if (of.length === 0) return
    for (const reader of of) reader.mayHaveState = false
    const states = await attempted(of, () => readFollowed(pool, [...new Set(of.map(({ place }) => place.jobId))]))
    for (const reader of of) {
      reader.failingSince = null
      const state = states.get(reader.place.jobId)
      if (state === undefined) {
        end(reader)
        continue
      }
      if (reader.isOver) continue
      learned(reader, learn(reader.place, state))
    }
  }

  function learned(reader: Reader, isNew: boolean): void {
    const { place } = reader
    if (isNew) {
      reader.mayHaveRows = place.hasStream
      reader.isDry = !place.hasStream
    }
    listenTo(reader)
    if (place.status !== 'running') return
    const events = statusEvents(reader, noOutlook)
    if (events.length > 0) give(reader, events)
  }

  async function readOutlooks(of: readonly Reader[]): Promise<void> {
    if (of.length === 0) return
    const outlooks = await attempted(of, () => outlook([...new Set(of.map(({ place }) => place.jobId))]))
    for (const reader of of) {
      if (reader.waiter === null || reader.place.status !== 'queued') continue
      const events = statusEvents(reader, outlooks.get(reader.place.jobId) ?? noOutlook)
      if (events.length > 0) give(reader, events)
    }
  }

  async function readRows(of: readonly Reader[]): Promise<void> {
    const remote: Reader[] = []
    for (const reader of of) {
      const events = fromMemory(reader)
      if (events.length > 0) give(reader, events)
      else if (reader.mayHaveRows) remote.push(reader)
    }
    if (remote.length === 0) return
    const wasOver = new Map(remote.map(reader => [reader, isFinished(reader.place.status)]))
    for (const reader of remote) {
      reader.mayHaveRows = false
      reader.isBusy = true
    }
    const bytes = Math.min(bytesAtOnce.one, Math.ceil(bytesAtOnce.all / remote.length))
    const places = remote.map(({ place }) => asked(place))
    let found: ReadEvents[]
    try {
      found = await attempted(remote, () => readEvents(pool, places, bytes))
    } finally {
      for (const reader of remote) reader.isBusy = false
    }
    remote.forEach((reader, index) => {
      reader.failingSince = null
      const { rows, isAll } = found[index] ?? { rows: [], isAll: true }
      const isLast = wasOver.get(reader) === true
      const events = takeRows(reader.place, rows, isLast)
      if (isLast && isAll) reader.isDry = true
      else if (isLast || !isAll) reader.mayHaveRows = true
      // The attempt may have come to this process, or caught up with its memory.
      if (events.length === 0) events.push(...fromMemory(reader))
      if (events.length > 0) give(reader, events)
    })
  }

  async function finish(reader: Reader): Promise<void> {
    const { place } = reader
    reader.isBusy = true
    try {
      const job = await attempted([reader], () => find(place.jobId))
      reader.isBusy = false
      reader.failingSince = null
      if (reader.isOver) return
      if (job === null) return end(reader)
      // Somebody may have queued it again.
      if (learn(place, job)) {
        learned(reader, true)
        return look()
      }
      const events = lastEvents(place, job)
      if (events.length > 0) give(reader, events)
      end(reader)
    } catch (error) {
      reader.isBusy = false
      later(error)
    }
  }

  function later(error: unknown): void {
    if (!hasFailed) log('jobs cannot be followed', error)
    hasFailed = true
    retry ??= setTimeout(() => {
      retry = null
      look()
    }, retryMs)
  }

  return {
    watch,
    notified(channel, payload) {
      if (channel === changedChannel) {
        const jobIds = payload === '' ? [...byJob.keys()] : payload.split(',')
        for (const jobId of jobIds) for (const reader of byJob.get(jobId) ?? []) reader.mayHaveState = true
        if (jobIds.some(jobId => byJob.has(jobId))) look()
        return
      }
      let isFollowed = false
      for (const reader of readers) {
        if (reader.channel !== channel) continue
        reader.mayHaveRows = true
        isFollowed = true
      }
      if (isFollowed) look()
    },
    close() {
      isClosed = true
      clearInterval(backstop)
      if (retry !== null) clearTimeout(retry)
      for (const reader of [...readers]) end(reader)
    }
  }
}
