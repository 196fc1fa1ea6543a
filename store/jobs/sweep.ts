// What time does to jobs: attempts whose process is gone, owners that are gone, waits and deadlines that are over, and how far classes are.

import { type ErrorCode, GatewayError } from '../../routing/errors.ts'
import { inTransaction, type Pool } from '../pool.ts'
import { endJobs, type JobEnd, type Tickets, type Transaction } from './end.ts'
import type { JobError } from './record.ts'
import { lostAtMost } from './retry.ts'

export interface SweepPorts {
  readonly pool: Pool
  readonly tickets: Tickets
  /** Asked in each transaction, when it has begun: an answer that took long came from a server that was frozen. */
  readonly mayAct: (databaseMs: number) => boolean
}

/** What a step did, for those who are to hear of it after the commit. */
export interface Swept {
  /** Lanes that got a ready job. */
  readonly lanes: readonly string[]
  /** Jobs that ended, or went back into the queue. */
  readonly changed: readonly string[]
  /** Attempts that were taken from a process. */
  readonly taken: readonly { readonly processId: string; readonly jobId: string }[]
  /** There may be more. */
  readonly isFull: boolean
}

export interface Sight {
  /** By the database's clock, epoch, ms. */
  readonly databaseMs: number
  /** Whether the asking process itself is alive in the eyes of the others. */
  readonly isAlive: boolean
  /** How many processes are, at least 1. */
  readonly living: number
  /** What there is to do, as far as one look can tell. */
  readonly work: { readonly [Name in keyof typeof steps]: boolean }
}

const stepLimit = 500

const nothing: Swept = { lanes: [], changed: [], taken: [], isFull: false }

// A sweeper that is frozen within a step must not keep the others out: the server undoes the step. 1819109485 = 'llm-'.
const beginSql = `
select set_config('idle_in_transaction_session_timeout', '2000', true),
       set_config('statement_timeout', '2000', true),
       extract(epoch from clock_timestamp()) * 1000 as database_ms,
       pg_try_advisory_xact_lock(1819109485, 2) as is_mine`

type Step = (ports: SweepPorts) => Promise<Swept>

/** One step in a transaction of its own, unless another process is at one. */
function step(act: (tx: Transaction, tickets: Tickets) => Promise<Swept>): Step {
  return ({ pool, tickets, mayAct }) =>
    inTransaction(pool, async tx => {
      const { rows } = await tx.query({ name: 'sweep.begin', text: beginSql })
      return mayAct(Number(rows[0].database_ms)) && rows[0].is_mine === true ? act(tx, tickets) : nothing
    })
}

// Silence is measured up to the beginning of this transaction (now()), not to the moment of the comparison as process_is_alive
// does: a server that is frozen in between would find everybody silent when it goes on.
const lostWhere = `
 where status = 'running'
   and not exists (
     select 1
       from processes
      where processes.id = jobs.process_id
        and greatest(seen_at, pg_postmaster_start_time()) > now() - make_interval(secs => case when jobs.paid then 10 else 3 end)
   )`

const lostSql = `
select jobs.id, jobs.lane, jobs.attempt_no, jobs.process_id, jobs.lost_attempts + 1 as lost_attempts,
       coalesce(owner_process = process_id, false) as is_owned,
       outlives_owner and payload is not null as can_outlive
  from jobs${lostWhere}
 order by jobs.id
 limit $1
   for update of jobs skip locked`

const countLostSql = `
with lost as (
  update job_attempts
     set outcome = 'lost', ended_at = now()
    from unnest($1::uuid[], $2::integer[]) as given (id, attempt_no)
   where job_id = given.id
     and attempt = given.attempt_no
     and outcome is null
)
update jobs
   set attempts = greatest(0, attempts - 1), lost_attempts = lost_attempts + 1
 where id = any ($1::uuid[])`

const requeueSql = `
update jobs
   set status = 'queued',
       ready = true,
       run_at = now(),
       process_id = null,
       owner_process = case when owner_process = process_id then null else owner_process end,
       device_id = null,
       provider = null,
       paid = false,
       first_token_at = null
 where id = any ($1::uuid[])`

// The place may have moved on to a later call of the same attempt, so it is found by the process. One that pays for its calls
// may be silent for longer, but a silent process holds no place.
const freePlacesSql = `
update device_slots
   set process_id = null, attempt_id = null, claimed_at = null
 where process_id = any ($1::uuid[])`

/**
 * Attempts whose process is silent for 3 s (10 s where they cost money) are over and do not count: the job is queued again where it
 * was, unless its client went with the process, or it was lost five times.
 */
export const sweepLost = step(async (tx, tickets) => {
  const { rows } = await tx.query({ name: 'sweep.lost', text: lostSql, values: [stepLimit] })
  if (rows.length === 0) return nothing
  const ids = rows.map(row => row.id)
  await tx.query({ name: 'sweep.count_lost', text: countLostSql, values: [ids, rows.map(row => row.attempt_no)] })
  const ends = rows.flatMap(row => {
    if (row.is_owned && !row.can_outlive) return [clientGone(row)]
    return row.lost_attempts >= lostAtMost
      ? [endOf(row, 'error', errorOf('process_lost', 'Every process that ran this job ended in the middle of it.'))]
      : []
  })
  const ending = new Set(ends.map(({ id }) => id))
  const queued = rows.filter(row => !ending.has(row.id))
  const queuedIds = queued.map(row => row.id)
  await tx.query({ name: 'sweep.requeue', text: requeueSql, values: [queuedIds] })
  await tx.query({ name: 'sweep.free_places', text: freePlacesSql, values: [[...new Set(rows.map(row => row.process_id))]] })
  await tx.query({ name: 'sweep.put_back', text: 'select put_back_tickets($1)', values: [queuedIds] })
  await endJobs(tx, tickets, ends)
  return {
    lanes: lanesOf(queued),
    changed: ids,
    taken: rows.map(row => ({ processId: row.process_id, jobId: row.id })),
    isFull: rows.length === stepLimit
  }
})

const ownerlessWhere = `
 where status = 'queued'
   and owner_process is not null
   and not exists (
     select 1
       from processes
      where processes.id = jobs.owner_process
        and greatest(seen_at, pg_postmaster_start_time()) > now() - interval '3 seconds'
   )`

const ownerlessSql = `
select jobs.id, jobs.lane, jobs.attempt_no, jobs.ready, outlives_owner and payload is not null as can_outlive
  from jobs${ownerlessWhere}
 order by jobs.id
 limit $1
   for update of jobs skip locked`

/** Queued jobs whose client went with its process: set free where somebody else has all that it takes, cancelled where not. */
const sweepOwnerless = step(async (tx, tickets) => {
  const { rows } = await tx.query({ name: 'sweep.ownerless', text: ownerlessSql, values: [stepLimit] })
  if (rows.length === 0) return nothing
  const freed = rows.filter(row => row.can_outlive)
  await tx.query({
    name: 'sweep.set_free',
    text: 'update jobs set owner_process = null where id = any ($1::uuid[])',
    values: [freed.map(row => row.id)]
  })
  const ended = await endJobs(tx, tickets, rows.filter(row => !row.can_outlive).map(clientGone))
  return {
    lanes: lanesOf(freed.filter(row => row.ready)),
    changed: ended.map(({ id }) => id),
    taken: [],
    isFull: rows.length === stepLimit
  }
})

const dueSql = `
with due as (
  select id
    from jobs
   where status = 'queued'
     and not ready
     and run_at <= now()
   order by run_at
   limit $1
     for update skip locked
)
update jobs
   set ready = true
  from due
 where jobs.id = due.id
returning jobs.lane`

/** Jobs that have waited for their next try, or were set aside, are looked at again. */
const sweepDue = step(async tx => {
  const { rows } = await tx.query({ name: 'sweep.due', text: dueSql, values: [stepLimit] })
  return { ...nothing, lanes: lanesOf(rows), isFull: rows.length === stepLimit }
})

const overdueSql = `
select id, attempt_no
  from jobs
 where status = 'queued'
   and deadline_at <= now()
 order by deadline_at
 limit $1
   for update skip locked`

/** Jobs that did not get their turn before their deadline. Running ones are their worker's. */
const sweepOverdue = step(async (tx, tickets) => {
  const { rows } = await tx.query({ name: 'sweep.overdue', text: overdueSql, values: [stepLimit] })
  const error = errorOf('deadline_exceeded', 'The deadline of this job passed while it was waiting.')
  const ended = await endJobs(
    tx,
    tickets,
    rows.map(row => endOf(row, 'error', error))
  )
  return { ...nothing, changed: ended.map(({ id }) => id), isFull: rows.length === stepLimit }
})

// Jobs that begin and end between two sweeps are among those that ended in the last seconds.
const classesSql = `
with begun as (
  select class, tag, started_at
    from jobs
   where status = 'running'
   union all
  select class, tag, started_at
    from jobs
   where finished_at > now() - interval '2 seconds'
     and started_at is not null
),
furthest as (
  select class, max(tag) as v, max(started_at) as served_at
    from begun
   group by class
)
update class_vtime
   set v = greatest(class_vtime.v, furthest.v),
       served_at = greatest(class_vtime.served_at, furthest.served_at)
  from furthest
 where class_vtime.class = furthest.class
   and (furthest.v > class_vtime.v or furthest.served_at > class_vtime.served_at)`

/** How far each class was served, and when: kept here so that a claim touches no row that all others touch. Never goes back. */
const sweepClasses = step(async tx => {
  await tx.query({ name: 'sweep.classes', text: classesSql })
  return nothing
})

/** What there is to be done, in this order; the first two are decided by heartbeats. */
export const steps = { lost: sweepLost, ownerless: sweepOwnerless, due: sweepDue, overdue: sweepOverdue, classes: sweepClasses }

// Whether a step would find anything, each from an index: almost always none of them would.
const lookSql = `
select extract(epoch from clock_timestamp()) * 1000 as database_ms,
       process_is_alive($1, 3) as is_alive,
       (select greatest(1, count(*)) from processes where seen_at > now() - interval '3 seconds') as living,
       exists (select from jobs${lostWhere}) as lost,
       exists (select from jobs${ownerlessWhere}) as ownerless,
       exists (select from jobs where status = 'queued' and not ready and run_at <= now()) as due,
       exists (select from jobs where status = 'queued' and deadline_at <= now()) as overdue,
       exists (select from jobs where status = 'running')
       or exists (select from jobs where finished_at > now() - interval '2 seconds') as classes`

/** Where things stand; changes nothing. */
export async function look(pool: Pick<Pool, 'query'>, processId: string): Promise<Sight> {
  const { rows } = await pool.query({ name: 'sweep.look', text: lookSql, values: [processId] })
  const { database_ms: databaseMs, is_alive: isAlive, living, ...work } = rows[0]
  return { databaseMs: Number(databaseMs), isAlive, living: Number(living), work }
}

type Row = { readonly id: string; readonly attempt_no: number }

function clientGone(row: Row): JobEnd {
  return endOf(row, 'cancelled', errorOf('client_gone', 'The client is gone: the process that held its connection ended.'))
}

function endOf({ id, attempt_no: attemptNo }: Row, status: JobEnd['status'], error: JobError): JobEnd {
  return { id, attemptNo, status, error, result: null, usage: null, spent: 0, runner: null, ttftMs: null }
}

function errorOf(code: ErrorCode, message: string): JobError {
  const { type, publicCode } = new GatewayError(code, message)
  return { message, type, code: publicCode }
}

function lanesOf(rows: readonly { readonly lane: string }[]): string[] {
  return [...new Set(rows.map(({ lane }) => lane))]
}
