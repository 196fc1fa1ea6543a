// What attempts cost. Written in batches, each row once, whoever writes it.

import type { Pool } from './pool.ts'

export interface CostRow {
  readonly attemptId: string
  readonly requestId: string
  /** Of a request that waited, or was a job from the beginning. */
  readonly jobId?: string | null
  readonly source: string
  /** A person behind a key that many share. */
  readonly subSource: string | null
  readonly keyId: string | null
  readonly provider: string
  readonly model: string
  readonly deviceId: string | null
  readonly outcome: 'ok' | 'failed' | 'aborted' | 'lost'
  readonly errorCode: string | null
  readonly promptTokens: number
  readonly completionTokens: number
  readonly cachedTokens: number
  readonly reasoningTokens: number
  readonly costNanoUsd: number | null
  readonly priceSource: string
  readonly estimated: boolean
  readonly ttftMs: number | null
  readonly durationMs: number
  /** Epoch, ms. */
  readonly startedAt: number
  readonly finishedAt: number
}

const insertSql = `
insert into llm_costs (
       attempt_id, request_id, job_id, source, sub_source, key_id, provider, model, device_id, outcome, error_code,
       prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost_nano_usd, price_source, estimated,
       ttft_ms, duration_ms, started_at, finished_at)
select "attemptId", "requestId", "jobId", source, "subSource", "keyId", provider, model, "deviceId", outcome, "errorCode",
       "promptTokens", "completionTokens", "cachedTokens", "reasoningTokens", "costNanoUsd", "priceSource", estimated,
       "ttftMs", "durationMs", to_timestamp("startedAt" / 1000.0), to_timestamp("finishedAt" / 1000.0)
  from jsonb_to_recordset($1::jsonb) as row (
       "attemptId" uuid, "requestId" uuid, "jobId" uuid, source text, "subSource" text, "keyId" uuid, provider text, model text, "deviceId" text, outcome text, "errorCode" text,
       "promptTokens" bigint, "completionTokens" bigint, "cachedTokens" bigint, "reasoningTokens" bigint, "costNanoUsd" bigint, "priceSource" text, estimated boolean,
       "ttftMs" integer, "durationMs" integer, "startedAt" double precision, "finishedAt" double precision)
    on conflict (attempt_id) do update
   set outcome = excluded.outcome,
       error_code = excluded.error_code,
       prompt_tokens = excluded.prompt_tokens,
       completion_tokens = excluded.completion_tokens,
       cached_tokens = excluded.cached_tokens,
       reasoning_tokens = excluded.reasoning_tokens,
       cost_nano_usd = excluded.cost_nano_usd,
       price_source = excluded.price_source,
       estimated = excluded.estimated,
       ttft_ms = excluded.ttft_ms,
       duration_ms = excluded.duration_ms,
       finished_at = excluded.finished_at
 where llm_costs.outcome = 'lost'
   and excluded.outcome <> 'lost'`

/**
 * Rows that are there already stay as they are, so a batch may be written again after a doubtful end. Only the estimate
 * for an attempt that was given up as lost gives way to what really came of it.
 */
export async function insertCosts(pool: Pick<Pool, 'query'>, rows: readonly CostRow[]): Promise<void> {
  await pool.query({ name: 'costs.insert', text: insertSql, values: [JSON.stringify(rows)] })
}

export type Period = 'day' | 'week' | 'month'

export interface ProviderCosts {
  readonly provider: string
  readonly attempts: number
  readonly requests: number
  readonly costNanoUsd: number
  /** Attempts whose price nobody knows; not in the sum. */
  readonly unknown: number
  readonly estimated: number
  readonly promptTokens: number
  readonly completionTokens: number
}

const summarySql = `
select provider,
       count(*) as attempts,
       count(distinct request_id) as requests,
       coalesce(sum(cost_nano_usd), 0) as cost,
       count(*) filter (where cost_nano_usd is null) as unknown,
       count(*) filter (where estimated) as estimated,
       sum(prompt_tokens) as prompt_tokens,
       sum(completion_tokens) as completion_tokens
  from llm_costs
 where finished_at >= date_trunc($1, now(), 'UTC')
   and ($2::text is null or source = $2)
 group by provider
 order by cost desc, provider`

/** Since the start of this UTC day, week (Monday) or month; of one source, or of all when it is null. */
export async function summariseCosts(pool: Pool, period: Period, source: string | null): Promise<ProviderCosts[]> {
  const { rows } = await pool.query({ name: 'costs.summary', text: summarySql, values: [period, source] })
  return rows.map(row => ({
    provider: row.provider,
    attempts: Number(row.attempts),
    requests: Number(row.requests),
    costNanoUsd: Number(row.cost),
    unknown: Number(row.unknown),
    estimated: Number(row.estimated),
    promptTokens: Number(row.prompt_tokens),
    completionTokens: Number(row.completion_tokens)
  }))
}

/** Requests, not attempts: one that moved to another target is one. Same scope as `summariseCosts`. */
export async function countRequests(pool: Pool, period: Period, source: string | null): Promise<number> {
  const { rows } = await pool.query({
    name: 'costs.requests',
    text: `
select count(distinct request_id) as requests
  from llm_costs
 where finished_at >= date_trunc($1, now(), 'UTC')
   and ($2::text is null or source = $2)`,
    values: [period, source]
  })
  return Number(rows[0].requests)
}

export interface SourceCosts {
  readonly source: string
  /** A person behind a key that many share; null = the source itself. */
  readonly subSource: string | null
  readonly requests: number
  readonly costNanoUsd: number
  readonly unknown: number
  readonly promptTokens: number
  readonly completionTokens: number
}

// People come and go without end; who is not among the dearest thousand is in the totals only.
const sourcesAtMost = 1_000

const sourcesSql = `
select source,
       sub_source,
       count(distinct request_id) as requests,
       coalesce(sum(cost_nano_usd), 0) as cost,
       count(*) filter (where cost_nano_usd is null) as unknown,
       sum(prompt_tokens) as prompt_tokens,
       sum(completion_tokens) as completion_tokens
  from llm_costs
 where finished_at >= date_trunc($1, now(), 'UTC')
   and ($2::text is null or source = $2)
 group by source, sub_source
 order by cost desc, source, sub_source nulls first
 limit $3`

/** By person, the dearest first, at most 1,000. Same scope as `summariseCosts`. */
export async function summariseSources(pool: Pool, period: Period, source: string | null): Promise<SourceCosts[]> {
  const { rows } = await pool.query({ name: 'costs.sources', text: sourcesSql, values: [period, source, sourcesAtMost] })
  return rows.map(row => ({
    source: row.source,
    subSource: row.sub_source,
    requests: Number(row.requests),
    costNanoUsd: Number(row.cost),
    unknown: Number(row.unknown),
    promptTokens: Number(row.prompt_tokens),
    completionTokens: Number(row.completion_tokens)
  }))
}

export interface CostSummary {
  readonly requests: number
  readonly providers: readonly ProviderCosts[]
  readonly sources: readonly SourceCosts[]
}

/** All of the above, for one report. */
export async function readCosts(pool: Pool, period: Period, source: string | null): Promise<CostSummary> {
  return {
    requests: await countRequests(pool, period, source),
    providers: await summariseCosts(pool, period, source),
    sources: await summariseSources(pool, period, source)
  }
}
