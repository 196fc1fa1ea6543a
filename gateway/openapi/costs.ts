// GET /v1/costs/summary, described.

import { json, nullable, type OperationDocs, ref, refusals } from './parts.ts'

const count = { type: 'integer', minimum: 0 }
const usd = { type: 'number', minimum: 0 }
const figures = { cost_usd: usd, requests: count, prompt_tokens: count, completion_tokens: count, unknown_price_attempts: count }

export const costsSchemas = {
  CostSummary: {
    type: 'object',
    required: ['object', 'period', 'source', 'total_cost_usd', 'total_requests', 'unknown_price_attempts', 'by_provider', 'by_source'],
    properties: {
      object: { const: 'costs.summary' },
      period: { enum: ['day', 'week', 'month'] },
      source: nullable('string', { description: 'Null: of all, for keys of kind admin.' }),
      total_cost_usd: usd,
      total_requests: count,
      unknown_price_attempts: { ...count, description: 'Calls whose price nobody knows; not in the total.' },
      by_provider: {
        type: 'array',
        items: { type: 'object', properties: { provider: { type: 'string' }, attempts: count, estimated_attempts: count, ...figures } }
      },
      by_source: {
        type: 'array',
        description: 'The dearest first, at most 1,000.',
        items: { type: 'object', properties: { source: { type: 'string' }, sub_source: nullable('string'), ...figures } }
      }
    }
  }
}

export const costsDocs: OperationDocs = {
  operationId: 'summariseCosts',
  tags: ['Costs'],
  summary: 'What was spent',
  description: 'A source sees its own costs, an admin everybody’s.',
  parameters: [
    {
      name: 'period',
      in: 'query',
      description: 'Since the start of this day, week (Monday) or month, UTC.',
      schema: { enum: ['day', 'week', 'month'], default: 'day' }
    }
  ],
  responses: {
    200: json(
      ref('schemas', 'CostSummary'),
      {
        object: 'costs.summary',
        period: 'day',
        source: null,
        total_cost_usd: 0.0042,
        total_requests: 3,
        unknown_price_attempts: 0,
        by_provider: [
          {
            provider: 'openai',
            cost_usd: 0.0042,
            requests: 3,
            attempts: 3,
            unknown_price_attempts: 0,
            estimated_attempts: 0,
            prompt_tokens: 1_200,
            completion_tokens: 300
          }
        ],
        by_source: [
          {
            source: 'alice',
            sub_source: null,
            cost_usd: 0.0042,
            requests: 3,
            prompt_tokens: 1_200,
            completion_tokens: 300,
            unknown_price_attempts: 0
          }
        ]
      },
      'Dollars, electricity of own machines included.'
    ),
    ...refusals(400)
  }
}
