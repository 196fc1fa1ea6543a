// What the gateway may do with jobs: submit, look, cancel, once more. The front of this room.

import { GatewayError, toGatewayError } from '../routing/errors.ts'
import { endJobs, ticketQueue, within } from '../store/jobs/end.ts'
import { findJob, findJobFacts, findJobs, listJobs, positions } from '../store/jobs/read.ts'
import { reviveJob } from '../store/jobs/retry.ts'
import { findByIdempotencyKeys } from '../store/jobs/submit.ts'
import { inTransaction, isConnectionError, type Pool } from '../store/pool.ts'
import type { Asking, Backlog } from './backlog.ts'
import type { Boss } from './boss.ts'
import type { Watches } from './events.ts'
import type { Forecast, Forecasts } from './forecasts.ts'
import type { Notices } from './notices.ts'
import type { Results } from './results.ts'
import { rowOf, type Submitter } from './submit.ts'
import type { JobOutlook, JobRecord, JobScope, Jobs } from './types.ts'
import type { Webhooks } from './webhooks.ts'

export interface JobsPorts {
  readonly pool: Pool
  readonly boss: Boss
  readonly submitter: Submitter
  readonly backlog: Backlog
  readonly notices: Notices
  readonly watches: Watches
  readonly results: Results
  readonly webhooks: Pick<Webhooks, 'redeliver'> | null
  readonly outlook: (jobs: readonly JobRecord[]) => Promise<Map<string, JobOutlook>>
  /** Something of this lane may run now. */
  readonly onReady: (lane: string) => void
  /** A running job was ended: here, or in the process that is named. */
  readonly stop: (jobId: string, processId: string) => void
}

const nowhere: JobOutlook = { position: null, etaMs: null }
// For a queue that is full: jobs are minutes, not seconds.
const fullRetryMs = 30_000

export function createJobs(ports: JobsPorts): Jobs {
  const { pool, boss } = ports

  async function withOutlook(job: JobRecord): Promise<{ job: JobRecord; outlook: JobOutlook }> {
    const outlooks = job.status === 'queued' ? await ports.outlook([job]) : null
    return { job, outlook: outlooks?.get(job.id) ?? nowhere }
  }

  async function found(id: string, scope: JobScope): Promise<JobRecord | null> {
    return findJob(pool, id, scope?.source ?? null)
  }

  /** For those who need to know what it is, and not its result. */
  async function facts(id: string, scope: JobScope): Promise<JobRecord | null> {
    return findJobFacts(pool, id, scope?.source ?? null)
  }

  async function earlier(source: string, key: string, hash: Buffer): Promise<JobRecord | null> {
    const [known] = await findByIdempotencyKeys(pool, [{ source, key }])
    if (known === undefined) return null
    if (!known.hash.equals(hash)) {
      throw new GatewayError(
        'idempotency_key_reused',
        'This Idempotency-Key came with another body before. Send the same body, or use a new key.'
      )
    }
    return findJob(pool, known.id, source)
  }

  /** Its lane. Throws GatewayError when it cannot be queued again. */
  async function revive(id: string): Promise<string> {
    const lane = await inTransaction(pool, async client => {
      const revived = await reviveJob(client, id)
      if (revived === null) return null
      // Its ticket is over as well; a new one with the same id counts from the beginning.
      await boss.deleteJob(ticketQueue, id, within(client))
      const again = { id, data: {}, retryLimit: revived.maxAttempts - 1, retryDelay: 1, retryBackoff: true, retryDelayMax: 60 }
      await boss.insert(ticketQueue, [again], within(client))
      return revived.lane
    })
    if (lane !== null) return lane
    // Two may have asked at once.
    if ((await facts(id, null))?.finishedAt === null) throw notFinished()
    const message = 'This job cannot run again: its request was kept only as long as its client waited.'
    throw new GatewayError('invalid_request', message, { status: 409, publicCode: 'request_not_kept' })
  }

  return {
    earlier: (source, { key, hash }) =>
      told(async () => {
        const job = await earlier(source, key, hash)
        return job === null ? null : { ...(await withOutlook(job)), replayed: true }
      }),

    submit: job =>
      told(async () => {
        const { caller, idempotency } = job
        if (idempotency !== null) {
          const replayed = await earlier(caller.source, idempotency.key, idempotency.hash)
          if (replayed !== null) return { ...(await withOutlook(replayed)), replayed: true }
        }
        const row = rowOf(job)
        const isNew = await ports.backlog.admit(asking(caller.source, job.class), () => ports.submitter.submit(row))
        if (isNew) ports.onReady(row.lane)
        // Two came at once: the other one won.
        const stored =
          isNew || idempotency === null ? await found(job.id, null) : await earlier(caller.source, idempotency.key, idempotency.hash)
        if (stored === null) throw new GatewayError('internal_error', 'The job was stored and cannot be found.')
        return { ...(await withOutlook(stored)), replayed: !isNew }
      }),

    find: (id, scope) =>
      told(async () => {
        const job = await found(id, scope)
        return job === null ? null : withOutlook(job)
      }),

    result: (job, signal) => told(() => ports.results.read(job, signal)),

    list: ({ filter, scope, after, limit }) => told(() => listJobs(pool, { filter, source: scope?.source ?? null, after, limit })),

    cancel: (id, scope) =>
      told(async () => {
        const job = await facts(id, scope)
        if (job === null) return null
        if (job.finishedAt === null) await cancelJob(ports, job.id, null)
        return found(id, scope)
      }),

    retry: (id, scope) =>
      told(async () => {
        const job = await facts(id, scope)
        if (job === null) return null
        if (job.finishedAt === null) throw notFinished()
        const lane = await ports.backlog.admit(asking(job.source, job.class), () => revive(id))
        ports.onReady(lane)
        ports.notices.changed(id)
        return found(id, scope)
      }),

    redeliver: (id, scope) =>
      told(async () => {
        const job = await facts(id, scope)
        if (job === null) return null
        if (job.webhook === null || ports.webhooks === null) throw new GatewayError('not_found', 'This job has no webhook.')
        if (job.finishedAt === null) throw new GatewayError('job_not_finished', 'Its webhook is sent when the job is over.')
        await ports.webhooks.redeliver(job)
        return found(id, scope)
      }),

    watch: (id, scope, after) =>
      told(async () => {
        const job = await facts(id, scope)
        return job === null ? null : ports.watches.watch(job, after)
      })
  }
}

function asking(source: string, jobClass: JobRecord['class']): Asking {
  return { source, interactive: jobClass === 'urgent' || jobClass === 'interactive', retryAfterMs: fullRetryMs }
}

function notFinished(): GatewayError {
  return new GatewayError('job_not_finished', 'Only a job that is over can be tried again.')
}

/** Ends a job that is queued or running, and whatever runs for it: with this error, or as cancelled. */
export async function cancelJob(
  { pool, boss, notices, stop }: Pick<JobsPorts, 'pool' | 'boss' | 'notices' | 'stop'>,
  id: string,
  error: GatewayError | null
): Promise<void> {
  // An attempt may begin between reading its number and ending it; then it is read again.
  for (let tries = 0; tries < 5; tries++) {
    const [job] = await findJobs(pool, [id])
    if (job === undefined || job.finishedAt !== null) return
    const { message, type, code } = (error ?? new GatewayError('client_gone', 'The job was cancelled.')).body().error
    const [ended] = await inTransaction(pool, client =>
      endJobs(client, boss, [
        {
          id,
          attemptNo: job.attemptNo,
          status: error === null ? 'cancelled' : 'error',
          error: { message, type, code: error === null ? 'job_cancelled' : code },
          result: null,
          usage: null,
          spent: 0,
          runner: null,
          ttftMs: null
        }
      ])
    )
    if (ended === undefined) continue
    if (ended.processId !== null) stop(id, ended.processId)
    notices.changed(id)
    return
  }
}

/**
 * Where jobs stand in the queue. `answerMs`: how long an answer takes where a lane is served, and how many are served at once; null =
 * it is served nowhere now. `forecast`: what was planned for a job, which says more.
 */
export function createOutlook(
  pool: Pool,
  answerMs: (lane: string) => { readonly each: number; readonly atOnce: number } | null,
  forecast: Forecasts['of'] = () => null
): JobsPorts['outlook'] {
  return async jobs => {
    const waiting = jobs.filter(({ status }) => status === 'queued')
    if (waiting.length === 0) return new Map()
    const places = await positions(
      pool,
      waiting.map(({ id }) => id)
    )
    return new Map(
      waiting.map(({ id, lane }) => {
        const position = places.get(id) ?? null
        const pace = answerMs(lane)
        // The rest of what runs now, those before it, and its own answer.
        const p50 = position === null || pace === null ? null : Math.round(pace.each * (0.5 + (position - 1) / pace.atOnce + 1))
        return [id, { position, etaMs: together(p50 === null ? null : { p50, p90: p50 * 2 }, { position, forecast: forecast(id) }) }]
      })
    )
  }
}

function together(
  usual: JobOutlook['etaMs'],
  { position, forecast }: { readonly position: number | null; readonly forecast: Forecast | null }
): JobOutlook['etaMs'] {
  if (forecast === null) return usual
  const { etaMs, isAlone } = forecast
  if (etaMs === null || usual === null || !isAlone || position === null || position <= 1) return etaMs
  // Those before it are not in the one, and its own length is not in the other.
  return { p50: Math.max(usual.p50, etaMs.p50), p90: Math.max(usual.p90, etaMs.p90) }
}

/** A database that is away is said so, whatever was being done. */
async function told<T>(act: () => Promise<T>): Promise<T> {
  try {
    return await act()
  } catch (thrown) {
    if (!isConnectionError(thrown)) throw toGatewayError(thrown)
    throw new GatewayError('database_unavailable', 'The database is away, so jobs can neither be stored nor read.', {
      cause: thrown,
      retryAfterMs: 1_000
    })
  }
}
