// Benchmarks: what is to be measured, how far that is, and what came of it.

import { inTransaction, type Pool } from './pool.ts'

export const benchmarkPhases = ['load', 'prompt', 'alone', 'two', 'four'] as const
export type BenchmarkPhase = (typeof benchmarkPhases)[number]

/** What was seen in one phase. */
export interface Measure {
  /** Why it was left out; null = it was not. */
  readonly skipped: string | null
  readonly requests: number
  readonly failures: number
  /** Of a loading model; null = it is not about that, or not known. */
  readonly loadMs: number | null
  readonly promptTokensPerSecond: number | null
  /** Of each caller. */
  readonly tokensPerSecond: number | null
  /** Of the speeds: 0.1 = their standard deviation is a tenth of their mean. */
  readonly variation: number | null
  readonly ttftMs: number | null
  /** How many really ran at once, on average. */
  readonly concurrency: number | null
  /** Of the last failure. */
  readonly error: string | null
}

export interface BenchmarkProgress {
  /** Null = none has begun, or all are over. */
  readonly phase: BenchmarkPhase | null
  /** Requests that are over, of how many. */
  readonly done: number
  readonly of: number
  readonly measures: Readonly<Partial<Record<BenchmarkPhase, Measure>>>
}

export interface NewBenchmark {
  readonly id: string
  /** Null = a rented model. */
  readonly deviceId: string | null
  readonly provider: string
  readonly target: string
  readonly model: string
  readonly task: 'chat'
  readonly runs: number
  readonly prompt: string | null
  readonly requestedBy: string
  readonly paysAnyway: boolean
}

export interface BenchmarkRecord extends NewBenchmark {
  readonly state: 'queued' | 'running' | 'done' | 'error' | 'cancelled'
  readonly progress: BenchmarkProgress
  readonly result: Readonly<Record<string, unknown>> | null
  readonly error: string | null
  readonly createdAt: Date
  readonly startedAt: Date | null
  readonly finishedAt: Date | null
}

const columns = `
id, device_id as "deviceId", provider, target, model, task, state, runs, prompt, requested_by as "requestedBy", pays_anyway as "paysAnyway",
progress, result, error, created_at as "createdAt", started_at as "startedAt", finished_at as "finishedAt"`

/** The one that asks for the same and is not over, whoever wanted it; otherwise this one. Two that come at once are one. */
export async function insertBenchmark(pool: Pool, benchmark: NewBenchmark): Promise<BenchmarkRecord> {
  const { id, deviceId, provider, target, model, task, runs, prompt, requestedBy, paysAnyway } = benchmark
  const none: BenchmarkProgress = { phase: null, done: 0, of: 0, measures: {} }
  return inTransaction(pool, async tx => {
    await tx.query({
      name: 'benchmarks.lock',
      text: 'select pg_advisory_xact_lock(hashtextextended($1, 0))',
      values: [`benchmarks ${target}`]
    })
    const { rows: same } = await tx.query({
      name: 'benchmarks.same',
      text: `
select ${columns}
  from benchmarks
 where finished_at is null
   and device_id is not distinct from $1
   and target = $2
   and task = $3
   and runs = $4
   and prompt is not distinct from $5
   and pays_anyway = $6
 order by id
 limit 1`,
      values: [deviceId, target, task, runs, prompt, paysAnyway]
    })
    if (same.length > 0) return same[0]
    const { rows } = await tx.query({
      name: 'benchmarks.insert',
      text: `
   insert into benchmarks (id, device_id, provider, target, model, task, runs, prompt, requested_by, pays_anyway, progress)
   values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
returning ${columns}`,
      values: [id, deviceId, provider, target, model, task, runs, prompt, requestedBy, paysAnyway, JSON.stringify(none)]
    })
    return rows[0]
  })
}

export async function findBenchmark(pool: Pool, id: string): Promise<BenchmarkRecord | null> {
  const { rows } = await pool.query({
    name: 'benchmarks.find',
    text: `select ${columns} from benchmarks where id = $1`,
    values: [id]
  })
  return rows[0] ?? null
}

/** Newest first; `after`: those older than this one. Null = any. */
export async function listBenchmarks(
  pool: Pool,
  {
    device,
    model,
    after,
    limit
  }: { readonly device: string | null; readonly model: string | null; readonly after: string | null; readonly limit: number }
): Promise<BenchmarkRecord[]> {
  const { rows } = await pool.query({
    name: 'benchmarks.list',
    text: `
select ${columns}
  from benchmarks
 where ($1::text is null or device_id = $1)
   and ($2::text is null or model = $2 or target = $2)
   and ($3::uuid is null or id < $3)
 order by id desc
 limit $4`,
    values: [device, model, after, limit]
  })
  return rows
}

/** Those that are not over, the oldest first, at most 100. */
export async function openBenchmarks(pool: Pool): Promise<BenchmarkRecord[]> {
  const { rows } = await pool.query({
    name: 'benchmarks.open',
    text: `select ${columns} from benchmarks where finished_at is null order by id limit 100`
  })
  return rows
}

/** Of these, the ones that are over. */
export async function finishedBenchmarks(pool: Pool, ids: readonly string[]): Promise<string[]> {
  const { rows } = await pool.query({
    name: 'benchmarks.finished',
    text: 'select id from benchmarks where id = any ($1::uuid[]) and finished_at is not null',
    values: [ids]
  })
  return rows.map(({ id }) => id)
}

/** Forgets those that were over more than `days` days ago. */
export async function forgetBenchmarks(pool: Pool, days: number): Promise<number> {
  const { rowCount } = await pool.query({
    name: 'benchmarks.forget',
    text: 'delete from benchmarks where finished_at < now() - make_interval(days => $1)',
    values: [days]
  })
  return rowCount ?? 0
}

/** It runs, and is so far. False of one that is over: nothing changes. */
export async function saveBenchmark(pool: Pool, id: string, progress: BenchmarkProgress): Promise<boolean> {
  const { rowCount } = await pool.query({
    name: 'benchmarks.save',
    text: `
update benchmarks
   set state = 'running', started_at = coalesce(started_at, now()), progress = $2
 where id = $1
   and finished_at is null`,
    values: [id, JSON.stringify(progress)]
  })
  return rowCount === 1
}

/** As it is then: one that is over stays as it was. Null when there is none. */
export async function endAsCancelled(pool: Pool, id: string): Promise<BenchmarkRecord | null> {
  await pool.query({
    name: 'benchmarks.cancel',
    text: `
update benchmarks
   set state = 'cancelled', finished_at = now(), error = 'It was cancelled.'
 where id = $1
   and finished_at is null`,
    values: [id]
  })
  return findBenchmark(pool, id)
}

export async function finishBenchmark(
  pool: Pool,
  id: string,
  end: { readonly progress: BenchmarkProgress; readonly result: Readonly<Record<string, unknown>> | null; readonly error: string | null }
): Promise<void> {
  await pool.query({
    name: 'benchmarks.finish',
    text: `
update benchmarks
   set state = case when $4::text is null then 'done' else 'error' end,
       started_at = coalesce(started_at, now()),
       finished_at = now(),
       progress = $2,
       result = $3,
       error = left($4, 2000)
 where id = $1
   and finished_at is null`,
    values: [id, JSON.stringify(end.progress), end.result === null ? null : JSON.stringify(end.result), end.error]
  })
}
