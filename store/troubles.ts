// What people may have to be told: machines that are away, a queue that stands still, jobs that fail again and again, a day's figures.

import type { Pool } from './pool.ts'

export interface MachineState {
  readonly id: string
  readonly health: 'up' | 'down'
  /** What was found when its health changed last. */
  readonly note: string | null
  readonly since: Date | null
  /** A load of it did not end, and nothing is loaded there for now. Absent or null = loading works. */
  readonly stuckModel?: string | null
}

// As many as there are of anything here: more than anybody reads.
const rowsAtMost = 1_000

/** The approved machines whose health is known, without those that are in no configuration any more. */
export async function machineStates(pool: Pool): Promise<MachineState[]> {
  const { rows } = await pool.query({
    name: 'troubles.machines',
    text: `
select id, health, health_note as note, health_at as since, case when stuck_until > now() then stuck_model end as "stuckModel"
  from devices
 where state = 'approved'
   and health <> 'unknown'
   and not (origin = 'config' and gone_at is not null)
 order by id
 limit ${rowsAtMost}`
  })
  return rows
}

export interface StuckQueue {
  /** Of the oldest 1,000. */
  readonly waiting: number
  readonly oldestAt: Date
}

// A job that waits on purpose, for longer than the queue's own pauses, is not stuck.
const stuckSql = `
with oldest as materialized (
  select id, created_at, started_at, run_at
    from jobs
   where status = 'queued'
   order by id
   limit ${rowsAtMost}
), waiting as (
  select id, created_at
    from oldest
   where coalesce(started_at, created_at) <= now() - make_interval(mins => $1)
     and run_at <= now() + interval '2 minutes'
     and not exists (
           select
             from job_attempts
            where job_id = oldest.id
              and ended_at > now() - make_interval(mins => $1)
         )
)
select count(*)::integer as waiting, min(created_at) as "oldestAt"
  from waiting
 where not exists (select from jobs where status = 'running')
   and not exists (select from jobs where finished_at > now() - make_interval(mins => $1) and status = 'done')
   and not exists (select from device_slots where process_id = any (array(select living_processes(3))))`

/** Jobs that have waited for longer than `minutes` while nothing ran and none got done; null when there are none. */
export async function stuckQueue(pool: Pool, minutes: number): Promise<StuckQueue | null> {
  const { rows } = await pool.query({ name: 'troubles.stuck', text: stuckSql, values: [minutes] })
  return rows[0].waiting === 0 ? null : rows[0]
}

export interface JobStreak {
  readonly source: string
  /** Or the kind, where a job has no model. */
  readonly model: string
  /** In a row, up to now; 0 = the last one was done. */
  readonly failures: number
  /** Of the last failure. */
  readonly code: string | null
}

// What is longer is cut, here and in what is kept of it.
const nameAtMost = 200

const streaksSql = `
with latest as materialized (
  select source, left(coalesce(model, kind), ${nameAtMost}) as model, status, error ->> 'code' as code, finished_at
    from jobs
   where finished_at > now() - interval '1 hour'
     and status in ('done', 'error')
   order by finished_at desc
   limit 5000
), placed as (
  select *, row_number() over (partition by source, model order by finished_at desc) as place
    from latest
), streaks as (
  select source,
         model,
         coalesce(min(place) filter (where status = 'done') - 1, count(*))::integer as failures,
         (array_agg(code order by place))[1] as code
    from placed
   group by source, model
)
select *
  from streaks
 where failures >= $1
    or (source, model) in (select * from unnest($2::text[], $3::text[]))
 order by failures desc, source, model
 limit ${rowsAtMost}`

/** Of the last 5,000 jobs that ended within an hour: who failed `threshold` times in a row with what, and how those of `known` do now. */
export async function jobStreaks(
  pool: Pool,
  threshold: number,
  known: readonly { readonly source: string; readonly model: string }[]
): Promise<JobStreak[]> {
  const { rows } = await pool.query({
    name: 'troubles.streaks',
    text: streaksSql,
    values: [threshold, known.map(({ source }) => source), known.map(({ model }) => model)]
  })
  return rows
}

/** Counted to 1,000. */
export async function waitingJobs(pool: Pool): Promise<number> {
  const { rows } = await pool.query({
    name: 'troubles.waiting',
    text: `select count(*)::integer as waiting from (select from jobs where status = 'queued' limit ${rowsAtMost}) as queued`
  })
  return rows[0].waiting
}

/** The UTC day whose `hour` o'clock was the last one, as `YYYY-MM-DD`. */
export async function lastDay(pool: Pool, hour: number): Promise<string> {
  const { rows } = await pool.query({
    name: 'troubles.day',
    text: `select to_char((now() at time zone 'UTC') - make_interval(hours => $1), 'YYYY-MM-DD') as day`,
    values: [hour]
  })
  return rows[0].day
}

export interface DayFigures {
  readonly requests: number
  readonly calls: number
  readonly failedCalls: number
  readonly tokens: number
  readonly nanoUsd: number
  /** Calls whose price nobody knows; not in the sum. */
  readonly unpriced: number
  readonly providers: readonly { readonly provider: string; readonly calls: number; readonly nanoUsd: number }[]
  readonly jobsDone: number
  readonly jobsFailed: number
  readonly jobsCancelled: number
}

const costsSql = `
select provider,
       count(*) as calls,
       count(*) filter (where outcome <> 'ok') as failed,
       coalesce(sum(prompt_tokens + completion_tokens), 0) as tokens,
       coalesce(sum(cost_nano_usd), 0) as cost,
       count(*) filter (where cost_nano_usd is null) as unpriced
  from llm_costs
 where finished_at >= ($1::date + make_interval(hours => $2)) at time zone 'UTC' - interval '1 day'
   and finished_at < ($1::date + make_interval(hours => $2)) at time zone 'UTC'
 group by provider
 order by cost desc, calls desc, provider`

const restSql = `
select (select count(distinct request_id)
          from llm_costs
         where finished_at >= until - interval '1 day'
           and finished_at < until) as requests,
       count(*) filter (where status = 'done') as done,
       count(*) filter (where status = 'error') as failed,
       count(*) filter (where status = 'cancelled') as cancelled
  from (select ($1::date + make_interval(hours => $2)) at time zone 'UTC' as until) as day
  left join jobs on jobs.finished_at >= until - interval '1 day' and jobs.finished_at < until
 group by until`

/** Of the 24 hours that ended on this UTC day at `hour` o'clock. */
export async function dayFigures(pool: Pool, day: string, hour: number): Promise<DayFigures> {
  const costs = await pool.query({ name: 'troubles.day_costs', text: costsSql, values: [day, hour] })
  const rest = await pool.query({ name: 'troubles.day_rest', text: restSql, values: [day, hour] })
  const sum = (column: string): number => costs.rows.reduce((total, row) => total + Number(row[column]), 0)
  return {
    requests: Number(rest.rows[0].requests),
    calls: sum('calls'),
    failedCalls: sum('failed'),
    tokens: sum('tokens'),
    nanoUsd: sum('cost'),
    unpriced: sum('unpriced'),
    providers: costs.rows.map(({ provider, calls, cost }) => ({ provider, calls: Number(calls), nanoUsd: Number(cost) })),
    jobsDone: Number(rest.rows[0].done),
    jobsFailed: Number(rest.rows[0].failed),
    jobsCancelled: Number(rest.rows[0].cancelled)
  }
}
