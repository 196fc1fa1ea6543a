// POST /v1/route and GET /v1/routes/{id}, described.

import {
  json,
  jsonBody,
  knobs,
  localOnly,
  modelRefusals,
  nullable,
  type OperationDocs,
  type Part,
  patience,
  ref,
  refusals
} from './parts.ts'

const figure = (description?: string): Part => nullable('number', description === undefined ? {} : { description })

const properties = {
  object: { const: 'route' },
  id: nullable('string', { format: 'uuid', description: 'The request’s own; of a job, the job’s. Null of a request that was not made.' }),
  at: { type: 'string', format: 'date-time' },
  model: { type: 'string' },
  source: { type: 'string' },
  action: { enum: ['run', 'wait', 'refuse'] },
  reason: nullable('string', { description: 'As in `x-llm-mcp-reason`.' }),
  why: { type: 'string', description: 'In a sentence.' },
  policy: { enum: ['cost', 'balanced', 'fast'] },
  knob: {
    type: 'object',
    properties: {
      second_usd: { type: 'number', description: 'What a second is worth.' },
      miss_usd: { type: 'number', description: 'What a missed deadline is worth.' },
      max_cost_usd: figure(),
      deadline_s: figure(),
      deadline: { enum: ['soft', 'hard'] },
      local_only: { type: 'boolean' }
    }
  },
  chosen: nullable('object', {
    description: 'Where it was sent first, or what it waits for. Afterwards `actual.target` answered.',
    properties: {
      target: { type: 'string' },
      provider: { type: 'string' },
      model: { type: 'string' },
      device: nullable('string'),
      mode: { enum: ['start', 'load', 'wait'] },
      eta_p50_s: figure('To the end of the answer, likely.'),
      eta_p90_s: figure('In nine of ten cases at most.'),
      usd: figure(),
      p_miss: figure('The share of answers that would be late.'),
      score: figure('Dollars, with time and the delay of others; the least is best.')
    }
  }),
  parts: nullable('object', {
    properties: {
      wait_s: figure(),
      load_s: figure(),
      prefill_s: figure(),
      decode_s: figure(),
      concurrency: { type: 'integer' },
      out_tokens_p50: figure(),
      out_tokens_mean: figure(),
      cached_tokens: { type: 'integer' },
      congestion_usd: figure('Delay of others.')
    }
  }),
  ranked: {
    type: 'array',
    description: 'The others that could answer in its stead, best first.',
    items: {
      type: 'object',
      properties: { target: { type: 'string' }, score: figure(), eta_s: figure(), usd: figure(), why: { type: 'string' } }
    }
  },
  more_ranked: { type: 'integer', description: 'So many more that are not named.' },
  rejected: {
    type: 'array',
    description: 'Those that may not, or cannot now; also those that had no room when it came to it.',
    items: {
      type: 'object',
      required: ['target', 'filtered'],
      properties: { target: { type: 'string' }, filtered: { type: 'string' }, eta_s: figure(), usd: figure('With a long answer.') }
    }
  },
  more_rejected: { type: 'integer' },
  error: nullable('object', {
    description: 'What a refused request is told.',
    properties: { status: { type: 'integer' }, code: { type: 'string' }, param: nullable('string'), message: { type: 'string' } }
  }),
  confidence: figure('0: guessed from sizes and prices; towards 1: known from many answers.'),
  decided_in_us: nullable('integer'),
  actual: nullable('object', {
    description: 'What came of it; null while it is not over.',
    properties: {
      outcome: { enum: ['ok', 'failed', 'aborted'] },
      target: nullable('string'),
      attempts: { type: 'integer' },
      latency_s: { type: 'number' },
      ttft_s: figure(),
      usd: figure(),
      out_tokens: nullable('integer'),
      eta_error_pct: figure('Null also where another target answered than the one that was expected to, or after a failure.'),
      within_p90: nullable('boolean'),
      error: nullable('string'),
      failed: {
        type: 'array',
        description: 'Calls that came to nothing, the first ones first; some of them, where there were many.',
        items: { type: 'object', required: ['target', 'error'], properties: { target: { type: 'string' }, error: { type: 'string' } } }
      }
    }
  })
}

export const routesSchemas = {
  Route: { type: 'object', required: Object.keys(properties), properties },
  Preview: {
    allOf: [ref('schemas', 'Route')],
    type: 'object',
    required: ['chances'],
    properties: {
      chances: nullable('array', {
        description: 'Of a weighted alias: how often each of its models is the first. What stands here is of the one that is named first.',
        items: { type: 'object', properties: { model: { type: 'string' }, share: { type: 'number' } } }
      })
    }
  }
}

const expected = {
  object: 'route',
  id: '019a2b3c-4d5e-7f60-8a9b-0c1d2e3f4a5b',
  at: '2026-11-21T12:00:00.000Z',
  model: 'qwen3:32b',
  source: 'alice',
  action: 'run',
  reason: 'cheapest_and_fastest',
  why: 'In memory on rtx, 0 of 2 places used; next best groq/qwen3-32b is $0.0000666 dearer, 2.1 s slower.',
  policy: 'balanced',
  knob: { second_usd: 0.00002, miss_usd: 0.002, max_cost_usd: null, deadline_s: 20, deadline: 'soft', local_only: false },
  chosen: {
    target: 'rtx/qwen3:32b',
    provider: 'ollama',
    model: 'qwen3:32b',
    device: 'rtx',
    mode: 'start',
    eta_p50_s: 1.9,
    eta_p90_s: 4.6,
    usd: 0.000054,
    p_miss: 0.001,
    score: 0.000098
  },
  parts: {
    wait_s: 0,
    load_s: 0,
    prefill_s: 0.25,
    decode_s: 1.6,
    concurrency: 1,
    out_tokens_p50: 129,
    out_tokens_mean: 211,
    cached_tokens: 0,
    congestion_usd: 0.000009
  },
  ranked: [{ target: 'groq/qwen3-32b', score: 0.00021, eta_s: 4, usd: 0.00012, why: '$0.0000666 dearer, 2.1 s slower' }],
  more_ranked: 0,
  rejected: [{ target: 'studio/qwen3:32b', filtered: 'down' }],
  more_rejected: 0,
  error: null,
  confidence: 0.93,
  decided_in_us: 41,
  actual: null
}

export const previewDocs: OperationDocs = {
  operationId: 'previewRoute',
  tags: ['Models'],
  summary: 'What would be done with a request',
  description:
    'Body and headers as of a chat request. Nobody is asked, nothing is taken of the key’s limits, and nothing is kept. A request that would be refused is answered with 200, `action: refuse` and its error, an unknown model included; one that cannot be read, with 400.',
  parameters: [...knobs, localOnly, ...patience],
  requestBody: jsonBody(ref('schemas', 'ChatRequest'), {
    simple: { model: 'qwen3:32b', messages: [{ role: 'user', content: 'Say hello' }] }
  }),
  responses: { 200: json(ref('schemas', 'Preview'), { ...expected, id: null, chances: null }, 'What would be done now.'), ...modelRefusals }
}

export const routeDocs: OperationDocs = {
  operationId: 'getRoute',
  tags: ['Models'],
  summary: 'Why a request went where it went, and what came of it',
  description:
    'By `x-llm-mcp-route-id` of its answer, or by the id of its job. A source sees its own, an admin all. Kept for `ROUTE_RETENTION_DAYS`; of more than 100 a second in one process, only the last ones, in its memory. `actual` is null of one that is not over, or never ran.',
  parameters: [{ name: 'id', in: 'path', required: true, schema: { type: 'string', format: 'uuid' } }],
  responses: {
    200: json(
      ref('schemas', 'Route'),
      {
        ...expected,
        actual: {
          outcome: 'ok',
          target: 'rtx/qwen3:32b',
          attempts: 1,
          latency_s: 2.2,
          ttft_s: 0.3,
          usd: 0.000061,
          out_tokens: 140,
          eta_error_pct: 16,
          within_p90: true,
          error: null,
          failed: []
        }
      },
      'The decision, and afterwards what really happened.'
    ),
    ...refusals(404)
  }
}
