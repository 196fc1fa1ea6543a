// Requests that found every machine full, while their clients hold the line: each waits as a job of ours, and runs here when its turn comes.

import { GatewayError, toGatewayError } from '../routing/errors.ts'
import { deadlineExceeded } from '../routing/patience.ts'
import type { CallRecord, Reply, RunSummary } from '../routing/ports.ts'
import type { Overflow, Run } from '../routing/run-ports.ts'
import type { ModelRequest } from '../routing/types.ts'
import type { JobRow } from '../store/jobs/submit.ts'
import { isConnectionError } from '../store/pool.ts'
import type { Backlog } from './backlog.ts'
import type { JobReplyEnd } from './job-reply.ts'
import type { Held } from './runs.ts'
import { rowOf } from './submit.ts'
import type { JobOutlook, JobStatus } from './types.ts'

export interface OverflowPorts {
  readonly processId: string
  readonly backlog: Backlog
  readonly submit: (row: JobRow) => Promise<boolean>
  /** Ends a queued or running job of ours: with this error, or as cancelled. */
  readonly cancel: (jobId: string, error: GatewayError | null) => Promise<void>
  /** Where these jobs stand, and what they are; one that is not in it is gone. */
  readonly look: (ids: readonly string[]) => Promise<ReadonlyMap<string, { readonly status: JobStatus; readonly outlook: JobOutlook }>>
  /** What the client was told when it began to wait: when its answer is likely, if that is known. */
  readonly expected: (jobId: string, etaMs: JobOutlook['etaMs']) => void
  /** How long an answer takes where this request could run, ms; for Retry-After before anything is known of its place. */
  readonly usualMs: (request: ModelRequest) => number
  /** A job was stored: whoever gives jobs to machines may look. */
  readonly onStored: (lane: string) => void
  readonly onOutcome: (outcome: 'queued' | 'full' | 'timeout') => void
  readonly newId: () => string
  readonly log: (message: string, error: unknown) => void
}

export interface Waiters {
  readonly overflow: Overflow
  /** The request of a job that waits or runs here. */
  held(jobId: string): Held | null
  /** A job of ours was ended by somebody else, or can never run; null = it was cancelled. */
  stopped(jobId: string, error: GatewayError | null): void
  readonly size: number
  close(): void
}

// A stream shows its client that something goes on; a held answer would run into the time-outs of what lies between (300 s).
const streamWaitsMs = 600_000
const answerWaitsMs = 280_000
// The database ends what this process forgot.
const graceMs = 10_000
const lookEveryMs = 1_000
// Once more where a machine died under it; a provider that fails twice is no matter of waiting.
const attemptsAtMost = 2

interface Waiter extends Held {
  readonly jobId: string
  readonly reply: Reply
  isCancelled: boolean
  isStored: boolean
  isOver: boolean
  endedBy: GatewayError | null
  client: Reply | null
  run: Run | null
  /** By performance.now(): how long it waits for a machine. */
  readonly untilMs: number
  timer: NodeJS.Timeout | null
  readonly calls: CallRecord[]
}

export function createWaiters(ports: OverflowPorts): Waiters {
  const waiters = new Map<string, Waiter>()
  const clock = setInterval(() => void look(), lookEveryMs)
  clock.unref()

  function overflow({ request, caller, reply, etaMs = null }: Parameters<Overflow>[0]): Run {
    const jobId = ports.newId()
    ports.expected(jobId, etaMs)
    const patience = request.patience
    const waitsMs = patience?.deadlineMs ?? (request.stream ? streamWaitsMs : answerWaitsMs)
    const waiter: Waiter = {
      jobId,
      request: { ...request, jobId },
      caller,
      reply,
      client: reply,
      keep: patience?.onDisconnect === 'finish',
      isCancelled: false,
      isStored: false,
      isOver: false,
      endedBy: null,
      run: null,
      untilMs: performance.now() + waitsMs,
      timer: setTimeout(() => tooLate(waiter), waitsMs),
      calls: [],
      began(run) {
        if (waiter.timer !== null) clearTimeout(waiter.timer)
        waiter.timer = null
        waiter.run = run
      },
      over: (end, willRetry) => attemptOver(waiter, end, willRetry)
    }
    waiters.set(jobId, waiter)
    void store(waiter, waitsMs)
    return { resume: () => waiter.run?.resume(), cancel: error => cancel(waiter, error) }
  }

  async function store(waiter: Waiter, waitsMs: number): Promise<void> {
    const { request, caller, keep, jobId } = waiter
    const row: JobRow = {
      ...rowOf({
        id: jobId,
        kind: request.operation === 'embed' ? 'embed' : 'chat',
        class: 'interactive',
        model: request.model,
        request,
        echo: null,
        caller,
        weight: caller.weight ?? 1,
        maxAttempts: attemptsAtMost,
        // Whoever wants it done without him has set no end to it, unless he has.
        deadlineAt: keep && request.patience?.deadlineMs === null ? null : Date.now() + waitsMs + graceMs,
        maxCostUsd: null,
        stream: false,
        idempotency: null,
        metadata: null,
        webhookUrl: null
      }),
      ownerProcess: ports.processId,
      outlivesOwner: keep,
      // Without a client there is nobody to answer, so the prompt is kept only where it shall go on.
      payload: keep ? request.body.bytes : null
    }
    let isSent = false
    try {
      const asking = { source: caller.source, interactive: true, retryAfterMs: ports.usualMs(request) }
      await ports.backlog.admit(asking, () => {
        isSent = true
        return ports.submit(row)
      })
    } catch (thrown) {
      const error = isConnectionError(thrown) ? databaseAway(thrown) : toGatewayError(thrown)
      if (error.code === 'queue_full') ports.onOutcome('full')
      // Its client may have left meanwhile.
      if (!waiter.isOver) end(waiter, error, 'failed')
      // The answer may have been lost after it was stored.
      if (isSent) remove(waiter, error)
      return
    }
    waiter.isStored = true
    ports.onOutcome('queued')
    // It was called off while it was on its way.
    if (waiter.isOver) return remove(waiter, waiter.endedBy)
    ports.onStored(row.lane)
    void look([waiter])
  }

  /** Tells clients where they stand, and finds out what was ended elsewhere. */
  async function look(which: readonly Waiter[] = [...waiters.values()]): Promise<void> {
    const waiting = which.filter(({ isStored, isOver, run }) => isStored && !isOver && run === null)
    if (waiting.length === 0) return
    let states: Awaited<ReturnType<OverflowPorts['look']>>
    try {
      states = await ports.look(waiting.map(({ jobId }) => jobId))
    } catch {
      // The database is away; the next look is in a second.
      return
    }
    for (const waiter of waiting) {
      const state = states.get(waiter.jobId)
      if (waiter.isOver || waiter.run !== null) continue
      // Its wait is over by the database's clock, which ends what this process forgot.
      if (state?.status === 'error') stopped(waiter.jobId, waitedTooLong(waiter))
      else if (state === undefined || (state.status !== 'queued' && state.status !== 'running')) stopped(waiter.jobId, null)
      else if (state.status === 'queued') waiter.client?.waiting?.({ jobId: waiter.jobId, ...state.outlook })
    }
  }

  function attemptOver(waiter: Waiter, { told, summary }: JobReplyEnd, willRetry: boolean): void {
    // An attempt that ends at once has not begun.
    if (waiter.timer !== null) clearTimeout(waiter.timer)
    waiter.timer = null
    waiter.run = null
    waiter.calls.push(...summary.calls)
    if (willRetry && !waiter.isOver) {
      if (waiter.client !== null) waiter.timer = setTimeout(() => tooLate(waiter), Math.max(0, waiter.untilMs - performance.now()))
      return
    }
    waiters.delete(waiter.jobId)
    if (waiter.isOver) return
    waiter.isOver = true
    if (told !== null) waiter.client?.fail(told)
    waiter.reply.over(merged(summary, waiter.calls))
  }

  function cancel(waiter: Waiter, error: GatewayError | null): void {
    if (waiter.isOver) return
    // Whoever wants it done is gone already: the queue sees to it, also when this process ends, but not beyond its deadline.
    if (waiter.keep && waiter.client === null && error?.jobRetry !== false) return
    if (error === null && waiter.keep) {
      // The client has left and wants it done: from here on it is a job like any other.
      waiter.client = null
      if (waiter.timer !== null) clearTimeout(waiter.timer)
      return
    }
    waiter.isCancelled = true
    if (waiter.run !== null) return waiter.run.cancel(error)
    end(waiter, error, 'aborted')
    if (waiter.isStored) remove(waiter, error)
  }

  function tooLate(waiter: Waiter): void {
    if (waiter.isOver || waiter.run !== null) return
    ports.onOutcome('timeout')
    const error = waitedTooLong(waiter)
    end(waiter, error, 'failed')
    if (waiter.isStored) remove(waiter, error)
  }

  function waitedTooLong({ request }: Waiter): GatewayError {
    if (request.patience?.deadlineMs != null) return deadlineExceeded(request.patience, request.stream)
    return new GatewayError('no_capacity', `Every machine for "${request.model}" was busy for too long.`, {
      retryAfterMs: Math.min(60_000, Math.max(1_000, ports.usualMs(request)))
    })
  }

  function stopped(jobId: string, reason: GatewayError | null): void {
    const waiter = waiters.get(jobId)
    if (waiter === undefined || waiter.isOver) return
    const error = reason ?? new GatewayError('client_gone', 'The request was cancelled while it waited.', { publicCode: 'job_cancelled' })
    waiter.isCancelled = true
    if (waiter.run !== null) return waiter.run.cancel(error)
    end(waiter, error, reason === null ? 'aborted' : 'failed')
  }

  /** It ends without having run, or without running again. */
  function end(waiter: Waiter, error: GatewayError | null, outcome: 'failed' | 'aborted'): void {
    waiter.isOver = true
    waiter.isCancelled = true
    waiter.endedBy = error
    if (waiter.timer !== null) clearTimeout(waiter.timer)
    // A claim may be on its way to us: it finds that nobody wants it.
    setTimeout(() => waiters.delete(waiter.jobId), graceMs).unref()
    if (error !== null) waiter.client?.fail(error)
    waiter.reply.over(
      merged({ ...nothingRan, outcome, error: error ?? new GatewayError('client_gone', 'The client went away.') }, waiter.calls)
    )
  }

  /** What its client was told is what the job says. */
  function remove(waiter: Waiter, error: GatewayError | null): void {
    ports.cancel(waiter.jobId, error).catch((error: unknown) => ports.log('a request that left could not be taken out of the queue', error))
  }

  return {
    overflow,
    held: jobId => waiters.get(jobId) ?? null,
    stopped,
    get size() {
      return waiters.size
    },
    close() {
      clearInterval(clock)
      for (const { timer } of waiters.values()) if (timer !== null) clearTimeout(timer)
    }
  }
}

export const nothingRan: RunSummary = {
  outcome: 'failed',
  error: null,
  target: null,
  attempts: 0,
  rejected: [],
  usage: null,
  nanoUsd: null,
  ttftMs: null,
  calls: []
}

function databaseAway(cause: unknown): GatewayError {
  return new GatewayError('database_unavailable', 'The database is away, so this request cannot wait for a machine.', {
    cause,
    retryAfterMs: 1_000
  })
}

/** All attempts as one. */
function merged(last: RunSummary, calls: readonly CallRecord[]): RunSummary {
  if (calls.length === last.calls.length) return last
  const nanoUsd = calls.reduce<number | null>(
    (sum, { settled }) => (sum === null || settled.nanoUsd === null ? null : sum + settled.nanoUsd),
    0
  )
  return { ...last, target: calls.at(-1)?.target ?? null, attempts: calls.length, nanoUsd, calls }
}
