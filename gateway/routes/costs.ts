// GET /v1/costs/summary

import type { FastifyInstance } from 'fastify'
import { formatUsd } from '../../routing/cost.ts'
import type { Caller } from '../../routing/types.ts'
import type { CostSummary, Period } from '../../store/costs.ts'
import { choiceOf } from '../query.ts'

export interface CostsPorts {
  /** Of one source, or of all when it is null. */
  readonly summary: (period: Period, source: string | null) => Promise<CostSummary>
}

export const periods = ['day', 'week', 'month'] as const satisfies readonly Period[]

export function registerCosts(app: FastifyInstance, ports: CostsPorts): void {
  app.get('/v1/costs/summary', { config: { requires: ['source', 'admin'] } }, async request => {
    const caller = request.context.caller as Caller
    const period = choiceOf<Period>(request.query, 'period', periods)
    // A source sees its own costs, an admin everybody's.
    const source = caller.kind === 'admin' ? null : caller.source
    return summaryObject(period, source, await ports.summary(period, source))
  })
}

export interface SummaryObject {
  readonly object: 'costs.summary'
  readonly period: Period
  /** Null = of all. */
  readonly source: string | null
  readonly total_cost_usd: number
  readonly total_requests: number
  /** Not in the total: nobody knows their price. */
  readonly unknown_price_attempts: number
  readonly by_provider: readonly {
    readonly provider: string
    readonly cost_usd: number
    readonly requests: number
    readonly attempts: number
    readonly unknown_price_attempts: number
    readonly estimated_attempts: number
    readonly prompt_tokens: number
    readonly completion_tokens: number
  }[]
  /** The dearest first, at most 1,000. */
  readonly by_source: readonly {
    readonly source: string
    readonly sub_source: string | null
    readonly cost_usd: number
    readonly requests: number
    readonly prompt_tokens: number
    readonly completion_tokens: number
    readonly unknown_price_attempts: number
  }[]
}

/** The summary as it is shown, over HTTP and on the command line. */
export function summaryObject(period: Period, source: string | null, { requests, providers, sources }: CostSummary): SummaryObject {
  return {
    object: 'costs.summary',
    period,
    source,
    total_cost_usd: usd(providers.reduce((sum, { costNanoUsd }) => sum + costNanoUsd, 0)),
    total_requests: requests,
    unknown_price_attempts: providers.reduce((sum, { unknown }) => sum + unknown, 0),
    by_provider: providers.map(row => ({
      provider: row.provider,
      cost_usd: usd(row.costNanoUsd),
      requests: row.requests,
      attempts: row.attempts,
      unknown_price_attempts: row.unknown,
      estimated_attempts: row.estimated,
      prompt_tokens: row.promptTokens,
      completion_tokens: row.completionTokens
    })),
    by_source: sources.map(row => ({
      source: row.source,
      sub_source: row.subSource,
      cost_usd: usd(row.costNanoUsd),
      requests: row.requests,
      prompt_tokens: row.promptTokens,
      completion_tokens: row.completionTokens,
      unknown_price_attempts: row.unknown
    }))
  }
}

function usd(nanoUsd: number): number {
  return Number(formatUsd(nanoUsd))
}
