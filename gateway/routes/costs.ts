// GET /v1/costs/summary

import type { FastifyInstance } from 'fastify'
import { formatUsd } from '../../routing/cost.ts'
import type { Caller } from '../../routing/types.ts'
import type { Period, ProviderCosts } from '../../store/costs.ts'
import { choiceOf } from '../query.ts'

export interface CostsPorts {
  /** Of one source, or of all when it is null. */
  readonly summary: (
    period: Period,
    source: string | null
  ) => Promise<{ readonly requests: number; readonly providers: readonly ProviderCosts[] }>
}

export function registerCosts(app: FastifyInstance, ports: CostsPorts): void {
  app.get('/v1/costs/summary', { config: { requires: ['source', 'admin'] } }, async request => {
    const caller = request.context.caller as Caller
    const period = choiceOf<Period>(request.query, 'period', ['day', 'week', 'month'])
    // A source sees its own costs, an admin everybody's.
    const source = caller.kind === 'admin' ? null : caller.source
    const { requests, providers } = await ports.summary(period, source)
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
      }))
    }
  })
}

function usd(nanoUsd: number): number {
  return Number(formatUsd(nanoUsd))
}
