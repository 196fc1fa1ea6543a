// Forgets what is old: finished jobs, days of events, and sources that have not come for long. Whoever comes second finds less to do.

import type { Pool } from '../pool.ts'

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
export async function deleteOldJobs(pool: Pool, days: number, atMost: number): Promise<number> {
  const { rowCount } = await pool.query({ name: 'cleanup.jobs', text: jobsSql, values: [days, atMost] })
  return rowCount ?? 0
}

/** Whether anything waits for a machine. */
export async function isBusy(pool: Pool): Promise<boolean> {
  const { rows } = await pool.query({
    name: 'cleanup.is_busy',
    text: `select exists (select from jobs where status = 'queued' and ready) as busy`
  })
  return rows[0].busy
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
export async function forgetSources(pool: Pool, days: number): Promise<number> {
  const { rowCount } = await pool.query({ name: 'cleanup.sources', text: sourcesSql, values: [days] })
  return rowCount ?? 0
}
