// What all processes together have been given of the limits of a source: minutes of requests and tokens, and running requests.

import type { Pool } from './pool.ts'

export type LimitMetric = 'requests' | 'tokens'

/** What a limit is kept for. Two keys of one source with different limits have a window each. */
export interface WindowName {
  readonly source: string
  readonly metric: LimitMetric
  readonly limit: number
}

export interface Grant {
  /** As much of what was wanted as the window had left. */
  readonly granted: number
  /** What it has left now. */
  readonly left: number
  /** Until it ends. */
  readonly resetMs: number
  /** Names the window: when it began, by the database's clock, in microseconds. */
  readonly window: number
}

// The row proposed for the insert carries the one reading of the clock that all branches share. It is read before the row
// is locked, so it may lie a little before the start of a window; a whole minute before means a clock that was set back.
const takeSql = `
insert into limit_windows as current (source, metric, limit_points, started_at, granted, taken)
values ($1, $2, $3, clock_timestamp(), least($4::bigint, $3::bigint), least($4::bigint, $3::bigint))
    on conflict (source, metric, limit_points) do update
   set (started_at, granted, taken) = (
     select case when over then excluded.started_at else current.started_at end,
            case when over then excluded.granted else least(current.granted + $4::bigint, $3::bigint) end,
            case when over then excluded.taken else least($4::bigint, $3::bigint - current.granted) end
       from (select excluded.started_at not between current.started_at - interval '1 minute'
                                                and current.started_at + interval '59.999999 seconds' as over) as state
   )
returning taken,
          limit_points - granted as remaining,
          (extract(epoch from started_at) * 1000000)::bigint as window_us,
          greatest(0, least(60000, extract(epoch from started_at + interval '1 minute' - clock_timestamp()) * 1000)) as reset_ms`

/**
 * Takes up to `want` points of the cluster's minute, which begins with the first one taken. All grants of one window
 * together are never more than its limit: one statement under the row's lock, by the database's clock.
 */
export async function takeFromWindow(pool: Pool, request: WindowName & { readonly want: number }): Promise<Grant> {
  const { source, metric, limit, want } = request
  const { rows } = await pool.query({ name: 'limits.take', text: takeSql, values: [source, metric, limit, want] })
  const [row] = rows
  return { granted: Number(row.taken), left: Number(row.remaining), resetMs: Number(row.reset_ms), window: Number(row.window_us) }
}

const giveBackSql = `
update limit_windows
   set granted = greatest(0, granted - $5)
 where source = $1
   and metric = $2
   and limit_points = $3
   and (extract(epoch from started_at) * 1000000)::bigint = $4`

/** Gives back points that were not used. Once their window is over, nothing happens. */
export async function giveBackToWindow(
  pool: Pool,
  request: WindowName & { readonly window: number; readonly points: number }
): Promise<void> {
  const { source, metric, limit, window, points } = request
  await pool.query({ name: 'limits.give_back', text: giveBackSql, values: [source, metric, limit, window, points] })
}

export interface PermitRequest {
  readonly source: string
  readonly limit: number
  /** What the process has, whatever the table says: a lost answer is mended by the next call. */
  readonly held: number
  /** How many more; 0 = only to say what is held, which is how permits are given back. */
  readonly want: number
}

/** How many more requests of the source this process may have running. Over all living processes never more than the limit. */
export async function holdPermits(pool: Pool, processId: string, request: PermitRequest): Promise<number> {
  const { source, limit, held, want } = request
  const { rows } = await pool.query({
    name: 'limits.hold_permits',
    text: 'select hold_limit_permits($1, $2, $3, $4, $5) as granted',
    values: [source, limit, processId, held, want]
  })
  return rows[0].granted
}

/** How many gateways are alive, at least 1. */
export async function livingProcesses(pool: Pool): Promise<number> {
  const { rows } = await pool.query({
    name: 'limits.living_processes',
    text: `select count(*)::integer as living from processes where seen_at > now() - interval '3 seconds'`
  })
  return Math.max(1, rows[0].living)
}

const sweepSql = `
with windows as (
  delete from limit_windows where started_at < now() - interval '10 minutes'
)
delete from limit_permits
 where changed_at < now() - interval '10 minutes'
   and (permits = 0 or not exists (select 1 from processes where processes.id = process_id))`

/** Forgets windows that are long over, and permits that nobody holds: there may be one for each person. */
export async function sweepLimits(pool: Pool): Promise<void> {
  await pool.query({ name: 'limits.sweep', text: sweepSql })
}
