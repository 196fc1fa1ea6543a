// One look at the whole, for people: everything in it is bounded, whatever the size of the tables.

import type { Pool } from './pool.ts'

export interface RunningJob {
  readonly id: string
  readonly kind: string
  readonly model: string | null
  readonly source: string
  readonly device: string | null
  readonly provider: string | null
  readonly attempts: number
  readonly startedAt: Date
}

export interface Snapshot {
  /** Counted to 10,000 each; `done`, `error` and `cancelled` of the last 24 hours. */
  readonly jobs: Readonly<Record<'queued' | 'running' | 'done' | 'error' | 'cancelled', number>>
  /** Those that run the longest, at most 100. */
  readonly running: readonly RunningJob[]
  /** The one that waits the longest and could begin; null = none. */
  readonly oldestWaitingAt: Date | null
  readonly processes: readonly {
    readonly id: string
    readonly host: string
    readonly role: string
    readonly version: string
    readonly startedAt: Date
  }[]
  /** Nano-dollars, since the start of the UTC day, week (Monday) and month; with the calls whose price nobody knows. */
  readonly costs: Readonly<Record<'today' | 'week' | 'month', { readonly nanoUsd: number; readonly unknown: number }>>
  /** What was to be done once for all processes and failed when it was done last. */
  readonly failedChores: readonly { readonly name: string; readonly note: string | null; readonly finishedAt: Date }[]
}

const countedAtMost = 10_000
const runningAtMost = 100

const jobsSql = `
select (select count(*) from (select from jobs where status = 'queued' limit $1) as counted)::integer as queued,
       (select count(*) from (select from jobs where status = 'running' limit $1) as counted)::integer as running,
       count(*) filter (where status = 'done')::integer as done,
       count(*) filter (where status = 'error')::integer as error,
       count(*) filter (where status = 'cancelled')::integer as cancelled
  from (
    select status
      from jobs
     where finished_at > now() - interval '1 day'
     order by finished_at desc
     limit $1
  ) as ended`

const runningSql = `
select id, kind, model, source, device_id as device, provider, attempts, started_at as "startedAt"
  from jobs
 where status = 'running'
 order by started_at
 limit $1`

// Ids are ordered by time.
const oldestSql = `
select min(created_at) as oldest
  from (
    select created_at
      from jobs
     where status = 'queued'
       and ready
     order by id
     limit 1
  ) as first`

const costsSql = `
select coalesce(sum(cost_nano_usd) filter (where finished_at >= date_trunc('day', now(), 'UTC')), 0) as today,
       count(*) filter (where cost_nano_usd is null and finished_at >= date_trunc('day', now(), 'UTC')) as today_unknown,
       coalesce(sum(cost_nano_usd) filter (where finished_at >= date_trunc('week', now(), 'UTC')), 0) as week,
       count(*) filter (where cost_nano_usd is null and finished_at >= date_trunc('week', now(), 'UTC')) as week_unknown,
       coalesce(sum(cost_nano_usd) filter (where finished_at >= date_trunc('month', now(), 'UTC')), 0) as month,
       count(*) filter (where cost_nano_usd is null and finished_at >= date_trunc('month', now(), 'UTC')) as month_unknown
  from llm_costs
 where finished_at >= least(date_trunc('week', now(), 'UTC'), date_trunc('month', now(), 'UTC'))`

/** Everything but the machines. */
export async function readSnapshot(pool: Pool): Promise<Snapshot> {
  const jobs = await pool.query({ name: 'dashboard.jobs', text: jobsSql, values: [countedAtMost] })
  const running = await pool.query({ name: 'dashboard.running', text: runningSql, values: [runningAtMost] })
  const oldest = await pool.query({ name: 'dashboard.oldest', text: oldestSql })
  const processes = await pool.query({
    name: 'dashboard.processes',
    text: `
select id, host, role, version, started_at as "startedAt"
  from processes
 where seen_at > now() - interval '3 seconds'
 order by started_at
 limit 100`
  })
  const costs = await pool.query({ name: 'dashboard.costs', text: costsSql })
  const chores = await pool.query({
    name: 'dashboard.chores',
    text: `select name, note, finished_at as "finishedAt" from chores where succeeded = false order by name limit 100`
  })
  const sum = costs.rows[0]
  const costOf = (name: string) => ({ nanoUsd: Number(sum[name]), unknown: Number(sum[`${name}_unknown`]) })
  return {
    jobs: jobs.rows[0],
    running: running.rows,
    oldestWaitingAt: oldest.rows[0].oldest,
    processes: processes.rows,
    costs: { today: costOf('today'), week: costOf('week'), month: costOf('month') },
    failedChores: chores.rows
  }
}
