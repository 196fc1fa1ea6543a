// Reading jobs: one, some, a page of them, and how far they are from the head of their lane.

import type { Pool } from '../pool.ts'
import { type JobFilter, type JobRecord, jobClasses } from './record.ts'

// A result above this is read by itself (queue/results.ts): what every look at a job brings along has a bound.
const smallResultBytes = 256 * 1024

// Everything that a record holds, but for its cost and its result.
const columns = `
       jobs.id, jobs.kind, jobs.class, jobs.model, jobs.source, jobs.sub_source, jobs.status, jobs.lane, jobs.tag, jobs.stream,
       jobs.attempts, jobs.max_attempts, jobs.attempt_no, jobs.process_id, jobs.device_id, jobs.provider, jobs.created_at, jobs.started_at,
       jobs.first_token_at, jobs.finished_at, jobs.deadline_at, jobs.max_cost_usd, jobs.metadata, jobs.usage, jobs.error,
       jobs.webhook_url, jobs.webhook_status, jobs.webhook_error,
       octet_length(jobs.result) as result_bytes`

/** The columns of `columns`, with `cost_nano_usd` and `result`, as the database gives them. */
// biome-ignore lint/suspicious/noExplicitAny: rows of a database have no types; this is the one border for jobs.
export function recordOf(row: Record<string, any>): JobRecord {
  return {
    id: row['id'],
    kind: row['kind'],
    class: jobClasses[row['class']] ?? 'normal',
    model: row['model'],
    source: row['source'],
    subSource: row['sub_source'],
    status: row['status'],
    lane: row['lane'],
    tag: row['tag'],
    stream: row['stream'],
    attempts: row['attempts'],
    maxAttempts: row['max_attempts'],
    attemptNo: row['attempt_no'],
    processId: row['process_id'],
    deviceId: row['device_id'],
    provider: row['provider'],
    createdAt: row['created_at'],
    startedAt: row['started_at'],
    firstTokenAt: row['first_token_at'],
    finishedAt: row['finished_at'],
    deadlineAt: row['deadline_at'],
    maxCostUsd: row['max_cost_usd'],
    metadata: row['metadata'],
    usage: row['usage'],
    costNanoUsd: row['cost_nano_usd'] === null ? null : Number(row['cost_nano_usd']),
    error: row['error'],
    result: row['result'],
    resultBytes: row['result_bytes'],
    webhook:
      row['webhook_url'] === null
        ? null
        : { url: row['webhook_url'], status: row['webhook_status'] ?? 'waiting', error: row['webhook_error'] }
  }
}

const findSql = `
select ${columns}, case when octet_length(jobs.result) <= $3 then jobs.result end as result, calculate_job_cost(jobs.id) as cost_nano_usd
  from jobs
 where id = any ($1::uuid[])
   and ($2::text is null or source = $2)`

/** Null when there is none, or none of this source (null = of any). With its result, unless that is large. */
export async function findJob(pool: Pick<Pool, 'query'>, id: string, source: string | null): Promise<JobRecord | null> {
  const { rows } = await pool.query({ name: 'jobs.find', text: findSql, values: [[id], source, smallResultBytes] })
  return rows[0] === undefined ? null : recordOf(rows[0])
}

/** As `findJob`, without a result of any length. */
export async function findJobFacts(pool: Pick<Pool, 'query'>, id: string, source: string | null): Promise<JobRecord | null> {
  const { rows } = await pool.query({ name: 'jobs.find', text: findSql, values: [[id], source, 0] })
  return rows[0] === undefined ? null : recordOf(rows[0])
}

/** Those that there are, in no order. Without their results. */
export async function findJobs(pool: Pick<Pool, 'query'>, ids: readonly string[]): Promise<JobRecord[]> {
  if (ids.length === 0) return []
  const { rows } = await pool.query({ name: 'jobs.find', text: findSql, values: [ids, null, 0] })
  return rows.map(recordOf)
}

/** The result of a job as long as this is its last attempt; null otherwise. It may have megabytes. */
export async function readResult(pool: Pick<Pool, 'query'>, id: string, attemptNo: number): Promise<Buffer | null> {
  const text = 'select result from jobs where id = $1 and attempt_no = $2'
  const { rows } = await pool.query({ name: 'jobs.result', text, values: [id, attemptNo] })
  return rows[0]?.result ?? null
}

/** What may narrow a list, with the clause for it; `?` is the number of its value. */
const clauses = {
  source: 'source = ?',
  status: 'status = ?',
  kind: 'kind = ?',
  model: 'model = ?',
  device: 'device_id = ?',
  from: 'id >= ?::uuid',
  before: 'id < ?::uuid'
} as const
type Narrowing = keyof typeof clauses

// The page is cut first, and what it cost is looked up for its rows only.
function listSql(names: readonly Narrowing[]): string {
  const where = names.map((name, index) => clauses[name].replace('?', `$${index + 2}`))
  return `
with page as materialized (
  select *
    from jobs
   where ${where.length === 0 ? 'true' : where.join('\n     and ')}
   order by id desc
   limit $1
)
select ${columns}, null as result, costs.cost_nano_usd
  from page as jobs
  left join lateral (
    select case when count(*) = count(cost_nano_usd) then sum(cost_nano_usd)::bigint end as cost_nano_usd
      from llm_costs
     where job_id = jobs.id
  ) as costs on true
 order by jobs.id desc`
}

/**
 * Newest first, without results, at most `limit`: those made before the job `after`. `source` is the reader's own; null = he sees all.
 * Times are those in the ids, which the process that took the job made; both bounds are left out themselves.
 */
export async function listJobs(
  pool: Pick<Pool, 'query'>,
  query: { readonly filter: JobFilter; readonly source: string | null; readonly after: string | null; readonly limit: number }
): Promise<JobRecord[]> {
  const { filter, source, after, limit } = query
  if (source !== null && filter.source !== null && source !== filter.source) return []
  const values: Readonly<Record<Narrowing, string | null>> = {
    source: source ?? filter.source,
    status: filter.status,
    kind: filter.kind,
    model: filter.model,
    device: filter.device,
    from: filter.createdAfter === null ? null : firstIdOf(filter.createdAfter + 1),
    before: earlier(after?.toLowerCase() ?? null, filter.createdBefore === null ? null : firstIdOf(filter.createdBefore))
  }
  const names = (Object.keys(clauses) as Narrowing[]).filter(name => values[name] !== null)
  // Without a name, so that it is planned for its values (under 1 ms): a plan for any values walks from the newest job on, and the one
  // that is running, or of a model nobody asks for, may be the millionth (test: "a page of two hundred thousand jobs").
  const { rows } = await pool.query({ text: listSql(names), values: [limit, ...names.map(name => values[name])] })
  return rows.map(recordOf)
}

/** No UUIDv7 of this ms, or of a later one, is smaller. */
function firstIdOf(ms: number): string {
  const hex = Math.min(Math.max(Math.floor(ms), 0), 2 ** 48 - 1)
    .toString(16)
    .padStart(12, '0')
  return `${hex.slice(0, 8)}-${hex.slice(8)}-0000-0000-000000000000`
}

function earlier(a: string | null, b: string | null): string | null {
  if (a === null || b === null) return a ?? b
  return a < b ? a : b
}

// Whoever has a thousand before him need not know how many more; and nobody counts a million rows.
const positionsSql = `
select asked.id,
       1 + (
         select count(*)
           from (
             select
               from jobs as earlier
              where earlier.status = 'queued'
                and earlier.ready
                and earlier.lane = asked.lane
                and (earlier.tag, earlier.id) < (asked.tag, asked.id)
              order by earlier.tag, earlier.id
              limit 999
           ) as counted
       ) as position
  from jobs as asked
 where asked.id = any ($1::uuid[])
   and asked.status = 'queued'
   and asked.ready`

/** Its place in its lane, 1 = next, 1,000 = that or further back. A job that does not wait for a machine is not in the map. */
export async function positions(pool: Pick<Pool, 'query'>, ids: readonly string[]): Promise<Map<string, number>> {
  if (ids.length === 0) return new Map()
  const { rows } = await pool.query({ name: 'jobs.positions', text: positionsSql, values: [ids] })
  return new Map(rows.map(row => [row.id, Number(row.position)]))
}
