// Puts a running job back into the queue: because its attempt failed and may succeed later, or because its process ends in order.

import { type Transaction, ticketQueue, within } from './end.ts'
import type { JobError } from './record.ts'

/** What pg-boss has to do with it. */
export interface RetryTickets {
  fail(
    queue: string,
    attempt: { id: string; retryCount: number },
    data: object | null,
    options: ReturnType<typeof within>
  ): Promise<unknown>
}

export interface Retry {
  readonly id: string
  readonly attemptNo: number
  readonly runner: string
  readonly ticketRetry: number
  readonly error: JobError
  /** Not before then, whatever pg-boss's own backoff says. */
  readonly afterMs: number
}

/**
 * Ends the attempt as failed and lets pg-boss say when the next may begin (exponential backoff with jitter). False when the attempt
 * is not the job's any more; nothing is changed then. Also false when pg-boss has no tries left or no ticket: the caller ends the job.
 * The transaction is the caller's, and he undoes it on false.
 */
export async function retryJob(tx: Transaction, tickets: RetryTickets, retry: Retry): Promise<boolean> {
  const { id, attemptNo, runner, ticketRetry, error, afterMs } = retry
  // First the job, then its ticket, as everybody does: in the other order this and a cancel would wait for each other.
  await tx.query({ name: 'jobs.lock', text: 'select from jobs where id = $1 for update', values: [id] })
  // A ticket that is at another try stays as it is, and the condition below says so.
  await tickets.fail(ticketQueue, { id, retryCount: ticketRetry }, null, within(tx))
  const { rowCount } = await tx.query({
    name: 'jobs.retry',
    text: `
update jobs
   set status = 'queued',
       ready = false,
       run_at = greatest(ticket.start_after, now() + make_interval(secs => $4 / 1000.0)),
       process_id = null,
       error = $5
  from pgboss.job as ticket
 where jobs.id = $1
   and attempt_no = $2
   and process_id = $3
   and status = 'running'
   and ticket.name = 'jobs'
   and ticket.id = jobs.id
   and ticket.state = 'retry'`,
    values: [id, attemptNo, runner, afterMs, JSON.stringify(error)]
  })
  if (rowCount !== 1) return false
  await endAttempt(tx, { id, attemptNo, outcome: 'retry', error })
  return true
}

/** Puts jobs back that this process was running and has stopped in order. They lose no try, and wait for nothing. Returns their lanes. */
export async function putBackJobs(
  tx: Transaction,
  jobs: readonly { readonly id: string; readonly attemptNo: number }[],
  runner: string
): Promise<string[]> {
  const { rows } = await tx.query({
    name: 'jobs.put_back',
    text: `
update jobs
   set status = 'queued',
       ready = true,
       process_id = null,
       attempts = attempts - 1
  from unnest($1::uuid[], $2::integer[]) as given (id, attempt_no)
 where jobs.id = given.id
   and jobs.attempt_no = given.attempt_no
   and process_id = $3
   and status = 'running'
returning jobs.id, jobs.attempt_no, lane`,
    values: [jobs.map(({ id }) => id), jobs.map(({ attemptNo }) => attemptNo), runner]
  })
  await tx.query({ name: 'jobs.put_back_tickets', text: 'select put_back_tickets($1)', values: [rows.map(({ id }) => id)] })
  for (const row of rows) await endAttempt(tx, { id: row.id, attemptNo: row.attempt_no, outcome: 'lost', error: null })
  return rows.map(({ lane }) => lane)
}

/** How often a job's attempts may be lost with the process or the machine they ran on: then it is taken for the reason. */
export const lostAtMost = 5

/**
 * Queues a job at once whose machine went away under it; it loses no try. Null when the attempt is not the job's any more, or was lost
 * too often: nothing is changed then.
 */
export async function loseJob(
  tx: Transaction,
  lost: { readonly id: string; readonly attemptNo: number; readonly runner: string; readonly error: JobError }
): Promise<string | null> {
  const { rows } = await tx.query({
    name: 'jobs.lose',
    text: `
update jobs
   set status = 'queued',
       ready = true,
       run_at = now(),
       process_id = null,
       attempts = attempts - 1,
       lost_attempts = lost_attempts + 1,
       error = $5
 where id = $1
   and attempt_no = $2
   and process_id = $3
   and status = 'running'
   and lost_attempts + 1 < $4
returning lane`,
    values: [lost.id, lost.attemptNo, lost.runner, lostAtMost, JSON.stringify(lost.error)]
  })
  if (rows[0] === undefined) return null
  await tx.query({ name: 'jobs.put_back_tickets', text: 'select put_back_tickets($1)', values: [[lost.id]] })
  await endAttempt(tx, { id: lost.id, attemptNo: lost.attemptNo, outcome: 'lost', error: lost.error })
  return rows[0].lane
}

/** Its last call went elsewhere than it was claimed for. */
export async function moveAttempt(
  tx: Transaction,
  moved: { readonly id: string; readonly attemptNo: number; readonly deviceId: string | null; readonly provider: string }
): Promise<void> {
  const { id, attemptNo, deviceId, provider } = moved
  await tx.query({
    name: 'jobs.move',
    text: 'update jobs set device_id = $2, provider = $3 where id = $1',
    values: [id, deviceId, provider]
  })
  await tx.query({
    name: 'jobs.move_attempt',
    text: 'update job_attempts set device_id = $3, provider = $4 where job_id = $1 and attempt = $2',
    values: [id, attemptNo, deviceId, provider]
  })
}

async function endAttempt(
  tx: Transaction,
  end: { readonly id: string; readonly attemptNo: number; readonly outcome: 'retry' | 'lost'; readonly error: JobError | null }
): Promise<void> {
  await tx.query({
    name: 'jobs.end_attempt',
    text: 'update job_attempts set ended_at = now(), outcome = $3, error = $4 where job_id = $1 and attempt = $2',
    values: [end.id, end.attemptNo, end.outcome, end.error === null ? null : JSON.stringify(end.error)]
  })
}

// What it was charged before was settled when it ended: it comes anew, behind what its source has waiting.
const chargeSql = `
   insert into source_vtime as known (source, class, vfinish)
   select jobs.source, jobs.class, v + ceil(charge / weight)::bigint
     from jobs
     join class_vtime on class_vtime.class = jobs.class
    where id = $1
       on conflict (source, class) do update
      set vfinish = greatest(known.vfinish, (select v from class_vtime where class_vtime.class = known.class))
                    + excluded.vfinish - (select v from class_vtime where class_vtime.class = known.class),
          changed_at = now()
returning vfinish`

/**
 * Queues a job again that is over, with all its tries, at the end of its source's line; its ticket is the caller's. It takes an
 * attempt's number: whatever ends it before an attempt begins has events and a webhook id of its own (test: "two ends of one job").
 * Returns its lane, or null when it is not over, or its request was not kept.
 */
export async function reviveJob(tx: Transaction, id: string): Promise<{ readonly lane: string; readonly maxAttempts: number } | null> {
  const { rows } = await tx.query({
    name: 'jobs.revive',
    text: `
update jobs
   set status = 'queued',
       ready = true,
       run_at = now(),
       attempts = 0,
       attempt_no = attempt_no + 1,
       lost_attempts = 0,
       owner_process = null,
       device_id = null,
       provider = null,
       result = null,
       error = null,
       usage = null,
       finished_at = null,
       first_token_at = null,
       started_at = null,
       deadline_at = null,
       webhook_status = case when webhook_url is not null then 'waiting' end,
       webhook_error = null
 where id = $1
   and status in ('done', 'error', 'cancelled')
   and (payload is not null or kind = 'echo')
returning lane, max_attempts, request`,
    values: [id]
  })
  if (rows[0] === undefined) return null
  await forgetDeadline(tx, id, rows[0].request)
  // The row that all jobs of a source share is locked last.
  const charged = await tx.query({ name: 'jobs.charge_again', text: chargeSql, values: [id] })
  await tx.query({
    name: 'jobs.tag_again',
    text: 'update jobs set tag = $2::bigint - ceil(charge / weight)::bigint where id = $1',
    values: [id, charged.rows[0].vfinish]
  })
  return { lane: rows[0].lane, maxAttempts: rows[0].max_attempts }
}

/** Its request knows of the deadline, too: whoever plans it would find it too late for ever. */
async function forgetDeadline(tx: Transaction, id: string, request: Readonly<Record<string, unknown>> | null): Promise<void> {
  if (request === null || (request.patience === undefined && request.isDeadlineHard === undefined)) return
  const { patience: _patience, isDeadlineHard: _isDeadlineHard, ...rest } = request
  await tx.query({
    name: 'jobs.forget_deadline',
    text: 'update jobs set request = $2 where id = $1',
    values: [id, JSON.stringify(rest)]
  })
}
