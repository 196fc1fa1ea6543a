// The one way a job ends, with all that belongs to it: its attempt, its ticket, its last events, its place in the order, its webhook.

import type { Pool } from '../pool.ts'
import type { JobError, JobStatus } from './record.ts'

/** A connection within a transaction. */
export type Transaction = Pick<Pool, 'query'>

/** What pg-boss has to do with it. `db` makes its statements part of our transaction. */
export interface Tickets {
  complete(queue: string, ids: string[], data: null, options: TicketOptions): Promise<unknown>
  cancel(queue: string, ids: string[], options: TicketOptions): Promise<unknown>
  deleteJob(queue: string, ids: string[], options: TicketOptions): Promise<unknown>
  insert(
    queue: string,
    jobs: { id?: string; data?: object; retryLimit?: number; group?: { id: string } }[],
    options: TicketOptions
  ): Promise<unknown>
}

export interface TicketOptions {
  // biome-ignore lint/suspicious/noExplicitAny: as pg-boss declares it.
  readonly db: { executeSql(text: string, values?: unknown[]): Promise<{ rows: any[] }> }
}

/** Tickets: one a job, with the same id. */
export const ticketQueue = 'jobs'
export const webhookQueue = 'webhooks'

// Its statements are long and few: each is read and planned once for a connection, as ours are, and not for every ticket.
const prepared = new Map<string, string>()
const preparedAtMost = 50

/** Lets pg-boss write within our transaction. */
export function within(tx: Transaction): TicketOptions {
  return {
    db: {
      executeSql(text, values) {
        let name = prepared.get(text)
        if (name === undefined && prepared.size < preparedAtMost) prepared.set(text, (name = `boss.${prepared.size + 1}`))
        return tx.query(name === undefined ? { text, ...(values && { values }) } : { name, text, ...(values && { values }) })
      }
    }
  }
}

export interface JobEnd {
  readonly id: string
  /** The fence: the number of its last attempt, 0 = none. */
  readonly attemptNo: number
  readonly status: Extract<JobStatus, 'done' | 'error' | 'cancelled'>
  readonly error: JobError | null
  readonly result: Buffer | null
  readonly usage: Readonly<Record<string, unknown>> | null
  /** What it took, in the unit of its charge (microseconds of a reference machine); the rest is given back to its source. 0 = nothing. */
  readonly spent: number
  /** Whoever ran the attempt says so: if it was taken from him, he ends nothing. Null = whoever it belongs to. */
  readonly runner: string | null
  /** From its start to its first token, or to its answer. */
  readonly ttftMs: number | null
}

export interface EndedJob {
  readonly id: string
  readonly lane: string
  readonly status: JobEnd['status']
  readonly stream: boolean
  readonly attemptNo: number
  /** Where it was running. */
  readonly processId: string | null
  readonly hasWebhook: boolean
}

// Locked in the order of their ids, so that two enders never wait for each other.
const endSql = `
with ends as (
  select *
    from unnest($1::uuid[], $2::integer[], $3::text[], $4::json[], $5::bytea[], $6::json[], $7::double precision[], $8::uuid[],
                $9::double precision[])
      as row (id, attempt_no, status, error, result, usage, spent, runner, ttft_ms)
),
found as (
  select jobs.id, jobs.process_id
    from jobs
    join ends on ends.id = jobs.id
             and ends.attempt_no = jobs.attempt_no
   where jobs.status in ('queued', 'running')
     and (ends.runner is null or jobs.process_id = ends.runner)
   order by jobs.id
     for update of jobs
)
update jobs
   set status = ends.status,
       error = ends.error,
       result = ends.result,
       usage = ends.usage,
       process_id = null,
       first_token_at = coalesce(jobs.started_at + make_interval(secs => ends.ttft_ms / 1000), jobs.first_token_at),
       finished_at = now(),
       webhook_status = case when jobs.webhook_url is not null then 'waiting' end,
       webhook_error = null
  from found
  join ends on ends.id = found.id
 where jobs.id = found.id
returning jobs.id, jobs.lane, jobs.status, jobs.stream, jobs.attempt_no, found.process_id, jobs.webhook_url is not null as has_webhook,
          jobs.source, jobs.class, (ends.spent - jobs.charge) / jobs.weight as owed`

const attemptsSql = `
update job_attempts
   set ended_at = now(), outcome = ended.status, error = jobs.error
  from unnest($1::uuid[], $2::integer[], $3::text[]) as ended (id, attempt_no, status)
  join jobs on jobs.id = ended.id
 where job_attempts.job_id = ended.id
   and job_attempts.attempt = ended.attempt_no
   and job_attempts.outcome is null`

// The reader shows the job itself; whoever ran the attempt may have written its last events already.
const eventsSql = `
insert into job_events (job_id, attempt, seq, kind, count, data, at)
select ended.id, ended.attempt_no, written.next_seq + last.more, last.kind, 1, case last.kind when 'end' then ended.status else '' end, now()
  from unnest($1::uuid[], $2::integer[], $3::text[]) as ended (id, attempt_no, status)
 cross join lateral (
   select coalesce(max(seq + count), 1) as next_seq, coalesce(bool_or(kind = 'end'), false) as has_end
     from job_events
    where job_id = ended.id
      and attempt = ended.attempt_no
 ) as written
 cross join (values ('result', 0), ('end', 1)) as last (kind, more)
 where not written.has_end`

// What a job was charged for when it came, and did not use. Never behind what its class has been served: nobody saves up for later.
// One row is shared by all jobs of a source: it is locked last, and in order.
const orderSql = `
with owed as (
  select source, class, sum(owed) as owed
    from unnest($1::text[], $2::smallint[], $3::double precision[]) as ended (source, class, owed)
   group by source, class
),
found as (
  select source_vtime.source, source_vtime.class
    from source_vtime
    join owed using (source, class)
   order by source_vtime.source, source_vtime.class
     for update of source_vtime
)
update source_vtime
   set vfinish = greatest(class_vtime.v, source_vtime.vfinish + round(owed.owed)::bigint),
       changed_at = now()
  from found
  join owed using (source, class)
  join class_vtime using (class)
 where source_vtime.source = found.source
   and source_vtime.class = found.class`

/**
 * Ends these jobs, queued or running, and returns those that it ended: one that is over already, or is at another attempt, is left out
 * and stays as it is. Places on machines are the caller's to free, and so is telling others after the commit.
 * Safe from several processes at once. Throws what the database throws; the transaction is the caller's.
 */
export async function endJobs(tx: Transaction, tickets: Tickets, ends: readonly JobEnd[]): Promise<EndedJob[]> {
  if (ends.length === 0) return []
  const { rows } = await tx.query({
    name: 'jobs.end',
    text: endSql,
    values: [
      ends.map(({ id }) => id),
      ends.map(({ attemptNo }) => attemptNo),
      ends.map(({ status }) => status),
      ends.map(({ error }) => json(error)),
      ends.map(({ result }) => result),
      ends.map(({ usage }) => json(usage)),
      ends.map(({ spent }) => spent),
      ends.map(({ runner }) => runner),
      ends.map(({ ttftMs }) => ttftMs)
    ]
  })
  if (rows.length === 0) return []
  const named = (of: typeof rows) => [of.map(row => row.id), of.map(row => row.attempt_no), of.map(row => row.status)]

  const begun = rows.filter(row => row.attempt_no > 0)
  if (begun.length > 0) await tx.query({ name: 'jobs.end_attempts', text: attemptsSql, values: named(begun) })

  const isDone = (row: { status: string }) => row.status === 'done'
  const done = rows.filter(isDone).map(row => row.id)
  const given = rows.filter(row => !isDone(row)).map(row => row.id)
  if (done.length > 0) await tickets.complete(ticketQueue, done, null, within(tx))
  if (given.length > 0) await tickets.cancel(ticketQueue, given, within(tx))

  const streams = rows.filter(row => row.stream)
  if (streams.length > 0) await tx.query({ name: 'jobs.end_events', text: eventsSql, values: named(streams) })

  const webhooks = rows.filter(row => row.has_webhook).map(row => ({ data: { jobId: row.id }, group: { id: row.source } }))
  if (webhooks.length > 0) await tickets.insert(webhookQueue, webhooks, within(tx))

  await tx.query({
    name: 'jobs.end_order',
    text: orderSql,
    values: [rows.map(row => row.source), rows.map(row => row.class), rows.map(row => row.owed)]
  })
  return rows.map(row => ({
    id: row.id,
    lane: row.lane,
    status: row.status,
    stream: row.stream,
    attemptNo: row.attempt_no,
    processId: row.process_id,
    hasWebhook: row.has_webhook
  }))
}

function json(value: unknown): string | null {
  return value === null ? null : JSON.stringify(value)
}
