// The end of an attempt: done, over, or once more. Fence, ticket, result, cost and last events are one transaction.

import { setTimeout as sleep } from 'node:timers/promises'
import type { GatewayError } from '../routing/errors.ts'
import { type CostRow, insertCosts } from '../store/costs.ts'
import { type EventRow, insertEvents } from '../store/job-events.ts'
import type { ClaimedJob } from '../store/jobs/claim.ts'
import { endJobs } from '../store/jobs/end.ts'
import { loseJob, moveAttempt, retryJob } from '../store/jobs/retry.ts'
import { inTransaction, isConnectionError, type Pool } from '../store/pool.ts'
import type { Boss } from './boss.ts'
import type { EventLog } from './events.ts'
import type { Notices } from './notices.ts'
import type { JobError } from './types.ts'

export interface FinishPorts {
  readonly pool: Pool
  readonly boss: Boss
  readonly notices: Notices
  readonly processId: string
  /** Rows of these calls that are not stored yet. */
  readonly unstored: (attemptIds: readonly string[]) => CostRow[]
  /** A job of this lane may be claimed. */
  readonly onReady: (lane: string) => void
  readonly log: (message: string, error: unknown) => void
}

/** What came of an attempt. */
export type AttemptResult =
  | { readonly status: 'done'; readonly result: Buffer | null; readonly usage: Readonly<Record<string, unknown>> | null }
  | { readonly status: 'error' | 'cancelled'; readonly error: GatewayError }
  | { readonly status: 'retry'; readonly error: GatewayError }
  /** Its machine went away under it: once more, at once, and not counted as a try. */
  | { readonly status: 'lost'; readonly error: GatewayError }

export interface Finished {
  readonly job: ClaimedJob
  readonly outcome: AttemptResult
  readonly events: EventLog | null
  /** Of its calls. */
  readonly attemptIds: readonly string[]
  /** Microseconds of the reference machine. */
  readonly spent: number
  readonly ttftMs: number | null
  /** Where its last call went, when that is not where it was claimed for. */
  readonly movedTo: { readonly deviceId: string | null; readonly provider: string } | null
}

// A database that restarts is back within seconds; what is waited for is an answer that was paid for.
const pausesMs = [50, 100, 250, 500, 1_000]

/**
 * Writes the end of an attempt, and tries again for as long as the database is away. Resolves to what the job is now;
 * null when the attempt was not the job's any more: then nothing was changed.
 */
export async function finishAttempt(ports: FinishPorts, finished: Finished): Promise<'done' | 'error' | 'cancelled' | 'retry' | null> {
  for (let tries = 0; ; tries++) {
    try {
      return await write(ports, finished)
    } catch (error) {
      if (!isConnectionError(error) && tries >= pausesMs.length) throw error
      if (tries === 0) ports.log('the end of a job could not be stored; it is tried again', error)
      await sleep(pausesMs[Math.min(tries, pausesMs.length - 1)] as number)
    }
  }
}

async function write(ports: FinishPorts, finished: Finished): Promise<'done' | 'error' | 'cancelled' | 'retry' | null> {
  const { outcome, job, events } = finished
  if (outcome.status === 'retry' || outcome.status === 'lost') {
    if (await (outcome.status === 'lost' ? anew : again)(ports, finished, outcome.error)) {
      events?.retrying()
      ports.notices.changed(job.id)
      return 'retry'
    }
    // Not ours any more, or no tries left: only the end can tell.
    return write(ports, { ...finished, outcome: { status: 'error', error: outcome.error } })
  }
  const { status } = outcome
  const rows = events === null ? [] : await events.settle(status)
  try {
    await inTransaction(ports.pool, client => end(ports, finished, { client, rows, status, outcome }))
  } catch (thrown) {
    if (!(thrown instanceof Stale)) throw thrown
    // Also where only the answer to the commit was lost: whoever reads finds the end in the table.
    events?.dropped()
    return null
  }
  events?.ended(status)
  ports.notices.changed(job.id)
  return status
}

async function end(
  ports: FinishPorts,
  { job, attemptIds, spent, ttftMs, movedTo }: Finished,
  {
    client,
    rows,
    status,
    outcome
  }: {
    client: Parameters<typeof insertEvents>[0]
    rows: readonly EventRow[]
    status: 'done' | 'error' | 'cancelled'
    outcome: Exclude<AttemptResult, { status: 'retry' | 'lost' }>
  }
): Promise<void> {
  // Before the job is over for all: a reader that sees its end finds all its events.
  await insertEvents(client, rows)
  const [ended] = await endJobs(client, ports.boss, [
    {
      id: job.id,
      attemptNo: job.attempt,
      status,
      error: outcome.status === 'done' ? null : errorOf(outcome.error, job),
      result: outcome.status === 'done' ? outcome.result : null,
      usage: outcome.status === 'done' ? outcome.usage : null,
      spent,
      runner: ports.processId,
      ttftMs
    }
  ])
  // Events of an attempt that was given to somebody else are nobody's.
  if (ended === undefined) throw new Stale()
  if (movedTo !== null) await moveAttempt(client, { id: job.id, attemptNo: job.attempt, ...movedTo })
  const costs = ports.unstored(attemptIds)
  if (costs.length > 0) await insertCosts(client, costs)
}

/** Undoes a transaction that came too late. */
class Stale extends Error {}

async function again(ports: FinishPorts, { job, attemptIds }: Finished, error: GatewayError): Promise<boolean> {
  try {
    await inTransaction(ports.pool, async client => {
      const isAgain = await retryJob(client, ports.boss, {
        id: job.id,
        attemptNo: job.attempt,
        runner: ports.processId,
        ticketRetry: job.ticketRetry,
        error: errorOf(error, job),
        afterMs: error.retryAfterMs ?? 0
      })
      if (!isAgain) throw new Stale()
      const costs = ports.unstored(attemptIds)
      if (costs.length > 0) await insertCosts(client, costs)
    })
    return true
  } catch (thrown) {
    if (thrown instanceof Stale) return false
    throw thrown
  }
}

async function anew(ports: FinishPorts, { job, attemptIds }: Finished, error: GatewayError): Promise<boolean> {
  const lane = await inTransaction(ports.pool, async client => {
    const found = await loseJob(client, { id: job.id, attemptNo: job.attempt, runner: ports.processId, error: errorOf(error, job) })
    const costs = found === null ? [] : ports.unstored(attemptIds)
    if (costs.length > 0) await insertCosts(client, costs)
    return found
  })
  if (lane !== null) ports.onReady(lane)
  return lane !== null
}

/**
 * As a client is told. Of a request that waits here the words of an upstream, which may repeat its prompt, go to its client and into no
 * table: who submitted a job reads its error there.
 */
export function errorOf(error: GatewayError, { ownerProcess }: Pick<ClaimedJob, 'ownerProcess'>): JobError {
  const { message, type, code } = error.body().error
  return { message: ownerProcess === null ? message : error.logMessage, type, code }
}
