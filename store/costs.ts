// What attempts cost. Written in batches, each row once, whoever writes it.

import type { Pool } from './pool.ts'

export interface CostRow {
  readonly attemptId: string
  readonly requestId: string
  readonly source: string
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
       attempt_id, request_id, source, key_id, provider, model, device_id, outcome, error_code,
       prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost_nano_usd, price_source, estimated,
       ttft_ms, duration_ms, started_at, finished_at)
select "attemptId", "requestId", source, "keyId", provider, model, "deviceId", outcome, "errorCode",
       "promptTokens", "completionTokens", "cachedTokens", "reasoningTokens", "costNanoUsd", "priceSource", estimated,
       "ttftMs", "durationMs", to_timestamp("startedAt" / 1000.0), to_timestamp("finishedAt" / 1000.0)
  from jsonb_to_recordset($1::jsonb) as row (
       "attemptId" uuid, "requestId" uuid, source text, "keyId" uuid, provider text, model text, "deviceId" text, outcome text, "errorCode" text,
       "promptTokens" bigint, "completionTokens" bigint, "cachedTokens" bigint, "reasoningTokens" bigint, "costNanoUsd" bigint, "priceSource" text, estimated boolean,
       "ttftMs" integer, "durationMs" integer, "startedAt" double precision, "finishedAt" double precision)
    on conflict (attempt_id) do nothing`

/** Rows that are there already stay as they are, so a batch may be written again after a doubtful end. */
export async function insertCosts(pool: Pool, rows: readonly CostRow[]): Promise<void> {
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
