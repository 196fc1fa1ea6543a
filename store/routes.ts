// Why requests went where they went. Written in batches; a request that comes again replaces what was there.

import type { Pool } from './pool.ts'

export interface RouteRow {
  readonly id: string
  readonly jobId: string | null
  readonly source: string
  readonly model: string
  readonly target: string | null
  /** As it is shown. */
  readonly record: unknown
}

const insertSql = `
insert into routes (id, job_id, source, model, target, record)
select id, "jobId", source, model, target, record
  from jsonb_to_recordset($1::jsonb) as row (id uuid, "jobId" uuid, source text, model text, target text, record jsonb)
    on conflict (id) do update
   set job_id = coalesce(excluded.job_id, routes.job_id),
       at = excluded.at,
       target = excluded.target,
       record = excluded.record
 where excluded.record ->> 'actual' is not null
    or routes.record ->> 'actual' is null`

/** No two of the rows have the same id. May be done twice. One that is over is not replaced by what was known before. */
export async function insertRoutes(pool: Pick<Pool, 'query'>, rows: readonly RouteRow[]): Promise<void> {
  await pool.query({ name: 'routes.insert', text: insertSql, values: [JSON.stringify(rows)] })
}

const findSql = `
select record
  from routes
 where (id = $1 or job_id = $1)
   and ($2::text is null or source = $2)
 order by id = $1 desc
 limit 1`

/** By its own id or by that of the job it waited as; of one source, or of any when it is null. Null = there is none. */
export async function findRoute(pool: Pick<Pool, 'query'>, id: string, source: string | null): Promise<unknown> {
  const { rows } = await pool.query({ name: 'routes.find', text: findSql, values: [id, source] })
  return rows[0]?.record ?? null
}

const forgetSql = `
with old as (
  select id
    from routes
   where at < now() - make_interval(days => $1)
   order by at
   limit $2
     for update skip locked
)
delete from routes
 using old
 where routes.id = old.id`

/** Deletes up to `atMost` of those that are older than `days` days, and says how many. */
export async function forgetRoutes(pool: Pick<Pool, 'query'>, days: number, atMost: number): Promise<number> {
  const { rowCount } = await pool.query({ name: 'routes.forget', text: forgetSql, values: [days, atMost] })
  return rowCount ?? 0
}
