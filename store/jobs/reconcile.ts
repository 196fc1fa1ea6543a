// Compares jobs with their tickets, which say the same thing twice, and makes the tickets say what the jobs say.

import { inTransaction, type Pool } from '../pool.ts'
import { type Tickets, type Transaction, ticketQueue, within } from './end.ts'

export interface Page {
  /** Jobs whose ticket is missing, or says something else. */
  readonly jobs: readonly string[]
  /** Tickets that somebody may still wait for, without a job that does. */
  readonly tickets: readonly string[]
  /** Where the next page begins; null after the last one. */
  readonly next: string | null
}

/** Before all ids. */
export const firstId = '00000000-0000-0000-0000-000000000000'

// Both sides are read up to the id at which the shorter page ends, so that nothing is missed and nothing is joined as a whole.
const pageSql = `
with queued as (
  select id, status
    from jobs
   where status = 'queued'
     and id > $1
   order by id
   limit $2
),
running as (
  select id, status
    from jobs
   where status = 'running'
     and id > $1
   order by id
   limit $2
),
found_jobs as materialized (
  select * from queued union all select * from running order by id limit $2
),
found_tickets as materialized (
  select id, state::text
    from pgboss.job
   where name = 'jobs'
     and id > $1
   order by id
   limit $2
),
bound as materialized (
  select least(
    (select id from found_jobs order by id offset $2 - 1 limit 1),
    (select id from found_tickets order by id offset $2 - 1 limit 1)
  ) as last_id
),
compared as (
  select id, status, state
    from found_jobs
    full join found_tickets using (id)
)
select (select last_id from bound) as last_id,
       coalesce(array_agg(id) filter (where status is not null), '{}') as jobs,
       coalesce(array_agg(id) filter (where status is null), '{}') as tickets
  from compared
 where ((select last_id from bound) is null or id <= (select last_id from bound))
   and case status
         when 'queued' then state is null or state not in ('created', 'retry')
         when 'running' then (state = 'active') is not true
         else state in ('created', 'retry', 'active')
       end`

// A process that is frozen here must not keep the others out. 1819109485 = 'llm-'.
const beginSql = `
select set_config('idle_in_transaction_session_timeout', '5000', true),
       set_config('statement_timeout', '5000', true),
       pg_try_advisory_xact_lock(1819109485, 3) as is_mine`

/** What disagrees among the next `atMost` jobs and tickets after this id. Null while another process is at it. Changes nothing. */
export async function comparePage(pool: Pool, after: string, atMost: number): Promise<Page | null> {
  return inTransaction(pool, async tx => {
    const begun = await tx.query({ name: 'reconcile.begin', text: beginSql })
    if (begun.rows[0].is_mine !== true) return null
    const { rows } = await tx.query({ name: 'reconcile.page', text: pageSql, values: [after, atMost] })
    return { jobs: rows[0].jobs, tickets: rows[0].tickets, next: rows[0].last_id }
  })
}

// The job is locked first, as a claim does it; one that somebody is at is left for the next round.
const lockJobsSql = `
select id, lane, status, ready, greatest(0, max_attempts - attempts - 1) as more_tries
  from jobs
 where id = any ($1::uuid[])
   and status in ('queued', 'running')
 order by id
   for update skip locked`

const lockTicketsSql = `
select id, state::text
  from pgboss.job
 where name = 'jobs'
   and id = any ($1::uuid[])
 order by id
   for update`

export interface Mended {
  readonly jobs: readonly string[]
  /** Where some of them may be claimed now. */
  readonly lanes: readonly string[]
}

/**
 * Gives these jobs, as far as they are not over, the tickets they need: a missing or ended one is made anew, one left active by a job
 * that is queued is put back, that of a running job is made active. Returns the jobs it did that for. Safe at any time, and from
 * several processes at once.
 */
export async function mendTickets(pool: Pool, tickets: Tickets, ids: readonly string[]): Promise<Mended> {
  return inTransaction(pool, async tx => {
    const jobs = await tx.query({ name: 'reconcile.lock_jobs', text: lockJobsSql, values: [ids] })
    const locked = jobs.rows.map(row => row.id)
    const found = await tx.query({ name: 'reconcile.lock_tickets', text: lockTicketsSql, values: [locked] })
    const states = new Map<string, string>(found.rows.map(row => [row.id, row.state]))
    const isWaiting = (id: string) => ['created', 'retry'].includes(states.get(id) ?? '')
    const isActive = (id: string) => states.get(id) === 'active'

    const dead = jobs.rows.filter(row => !isWaiting(row.id) && !isActive(row.id))
    await replace(tx, tickets, dead, states)
    const left = jobs.rows.filter(row => row.status === 'queued' && isActive(row.id))
    if (left.length > 0)
      await tx.query({ name: 'reconcile.put_back', text: 'select put_back_tickets($1)', values: [left.map(row => row.id)] })
    const unheld = jobs.rows.filter(row => row.status === 'running' && !isActive(row.id))
    if (unheld.length > 0) await tx.query({ name: 'reconcile.hold', text: 'select hold_tickets($1)', values: [unheld.map(row => row.id)] })
    const mended = [...new Set([...dead, ...left, ...unheld])]
    const claimable = mended.filter(row => row.status === 'queued' && row.ready)
    return { jobs: mended.map(row => row.id), lanes: [...new Set(claimable.map(row => row.lane))] }
  })
}

/** An ended ticket cannot begin again, and its id is taken as long as it is there. */
async function replace(
  tx: Transaction,
  tickets: Tickets,
  jobs: readonly { readonly id: string; readonly more_tries: number }[],
  states: ReadonlyMap<string, string>
): Promise<void> {
  const ended = jobs.filter(({ id }) => states.has(id)).map(({ id }) => id)
  if (ended.length > 0) await tickets.deleteJob(ticketQueue, ended, within(tx))
  const fresh = jobs.map(({ id, more_tries: retryLimit }) => ({ id, data: {}, retryLimit }))
  if (fresh.length > 0) await tickets.insert(ticketQueue, fresh, within(tx))
}

// Locked, so that a job that is queued again right now keeps its ticket.
const lockOverSql = `
select id
  from jobs
 where id = any ($1::uuid[])
 order by id
   for update skip locked`

const liveSql = `
select id
  from jobs
 where id = any ($1::uuid[])
   and (status in ('queued', 'running') or not id = any ($2::uuid[]))`

/** Cancels these tickets, as far as their jobs are over or never were. Returns their ids. */
export async function cancelOrphans(pool: Pool, tickets: Tickets, ids: readonly string[]): Promise<string[]> {
  return inTransaction(pool, async tx => {
    const locked = await tx.query({ name: 'reconcile.lock_over', text: lockOverSql, values: [ids] })
    const live = await tx.query({ name: 'reconcile.live', text: liveSql, values: [ids, locked.rows.map(row => row.id)] })
    const kept = new Set(live.rows.map(row => row.id))
    const orphans = ids.filter(id => !kept.has(id))
    if (orphans.length > 0) await tickets.cancel(ticketQueue, orphans, within(tx))
    return orphans
  })
}

const firstSql = `
select coalesce((
  select id
    from processes
   where role in ('all', 'planner')
     and greatest(seen_at, pg_postmaster_start_time()) > clock_timestamp() - interval '3 seconds'
   order by id
   limit 1
) = $1, false) as is_first`

/** Whether this process is the first planner of those that are alive: the one that does what need not be done by all. */
export async function isFirstProcess(pool: Pick<Pool, 'query'>, processId: string): Promise<boolean> {
  const { rows } = await pool.query({ name: 'reconcile.first', text: firstSql, values: [processId] })
  return rows[0].is_first
}
