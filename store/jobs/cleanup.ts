// Forgets what is old: finished jobs, days of events, and sources that have not come for long.

import { type Client, inTransaction, type Pool } from '../pool.ts'

// A process that is frozen here must not keep the others out. 1819109485 = 'llm-'.
const beginSql = `
select set_config('idle_in_transaction_session_timeout', '5000', true),
       set_config('statement_timeout', '5000', true),
       pg_try_advisory_xact_lock(1819109485, 4) as is_mine`

/** Null while another process is at it. */
async function alone<T>(pool: Pool, act: (tx: Client) => Promise<T>): Promise<T | null> {
  return inTransaction(pool, async tx => {
    const { rows } = await tx.query({ name: 'cleanup.begin', text: beginSql })
    return rows[0].is_mine === true ? act(tx) : null
  })
}

const jobsSql = `
with old as (
  select id
    from jobs
   where finished_at < now() - make_interval(days => $1)
   order by finished_at
   limit $2
     for update skip locked
)
delete from jobs
 using old
 where jobs.id = old.id`

/** Deletes up to `atMost` jobs that ended more than `days` days ago, with their attempts, and says how many. What they cost stays. */
export async function deleteOldJobs(pool: Pool, days: number, atMost: number): Promise<number | null> {
  return alone(pool, async tx => {
    const { rowCount } = await tx.query({ name: 'cleanup.jobs', text: jobsSql, values: [days, atMost] })
    return rowCount ?? 0
  })
}

/** Makes the days of events that come, and drops those that are older than `days` days. */
export async function keepEventDays(pool: Pool, days: number): Promise<void> {
  await pool.query({ name: 'cleanup.events', text: 'select keep_job_event_days($1)', values: [days] })
}

const sourcesSql = `
delete from source_vtime
 where changed_at < now() - make_interval(days => $1)
   and not exists (
     select 1
       from jobs
      where jobs.class = source_vtime.class
        and jobs.source = source_vtime.source
        and jobs.status = 'queued'
   )`

/** Forgets where sources stand in the order that sent nothing for `days` days and wait for nothing: they begin where their class is. */
export async function forgetSources(pool: Pool, days: number): Promise<number | null> {
  return alone(pool, async tx => {
    const { rowCount } = await tx.query({ name: 'cleanup.sources', text: sourcesSql, values: [days] })
    return rowCount ?? 0
  })
}
