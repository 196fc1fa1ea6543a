// /v1/benchmarks, described.

import { json, jsonBody, nullable, type OperationDocs, ref, refusals } from './parts.ts'

const figure = (description: string) => nullable('number', { minimum: 0, description })
const time = nullable('string', { format: 'date-time' })

const measure = {
  type: 'object',
  required: ['skipped', 'requests', 'failures'],
  properties: {
    skipped: nullable('string', { description: 'Why it was left out.' }),
    requests: { type: 'integer' },
    failures: { type: 'integer' },
    load_ms: figure('Until the model was in memory.'),
    prompt_tokens_per_s: figure('Of a prompt that is read.'),
    tokens_per_s: figure('Of each caller.'),
    variation: figure('Standard deviation of the speeds, as a share of their mean.'),
    ttft_ms: figure('Until the first token, the median.'),
    concurrency: figure('How many really ran at once, on average.'),
    error: nullable('string', { description: 'Of the last failure.' })
  }
}

export const benchmarksSchemas = {
  NewBenchmark: {
    type: 'object',
    required: ['model'],
    properties: {
      device_id: nullable('string', { maxLength: 256, description: 'The machine.' }),
      provider: nullable('string', { maxLength: 256, description: 'Such as openrouter, for rented models.' }),
      model: { type: 'string', maxLength: 256, description: 'A name, or <machine or provider>/<name>.' },
      task_type: nullable('string', { enum: ['chat', 'generate', 'ollama.generate', null] }),
      prompt: nullable('string', { maxLength: 20_000, description: 'Instead of ours.' }),
      runs: nullable('integer', { minimum: 1, maximum: 20, description: 'Answers that are measured alone; 3 if not given.' }),
      pay: nullable('boolean', { description: 'Also above BENCHMARK_MAX_PRICE_PER_1M. It is written down who wanted it.' })
    }
  },
  Benchmark: {
    type: 'object',
    required: ['id', 'object', 'state', 'device_id', 'provider', 'model', 'progress', 'phases', 'result', 'error', 'created_at'],
    properties: {
      id: { type: 'string', format: 'uuid' },
      object: { const: 'benchmark' },
      state: { enum: ['queued', 'running', 'done', 'error', 'cancelled'] },
      device_id: nullable('string', { description: 'Null for a rented model.' }),
      provider: { type: 'string' },
      model: { type: 'string' },
      task: { const: 'chat' },
      runs: { type: 'integer' },
      requested_by: { type: 'string', description: 'The source of the key.' },
      pays_anyway: { type: 'boolean' },
      progress: {
        type: 'object',
        required: ['phase', 'done', 'of'],
        properties: {
          phase: nullable('string', { enum: ['load', 'prompt', 'alone', 'two', 'four', null] }),
          done: { type: 'integer', description: 'Requests that are over.' },
          of: { type: 'integer' }
        }
      },
      phases: {
        type: 'object',
        description: 'What was measured in each phase that is over.',
        properties: Object.fromEntries(['load', 'prompt', 'alone', 'two', 'four'].map(name => [name, measure]))
      },
      result: {
        oneOf: [
          {
            type: 'object',
            properties: {
              load_ms: figure('Until the model was in memory.'),
              prompt_tokens_per_s: figure('Of a prompt that is read.'),
              tokens_per_s: figure('Alone.'),
              tokens_per_s_at_two: figure('For each of two at once.'),
              tokens_per_s_at_four: figure('For each of four at once.'),
              ttft_ms: figure('Alone, the median.'),
              variation: figure('Of the speed alone.'),
              requests: { type: 'integer' },
              failures: { type: 'integer' }
            }
          },
          { type: 'null' }
        ]
      },
      error: nullable('string'),
      created_at: { type: 'string', format: 'date-time' },
      started_at: time,
      finished_at: time
    }
  }
}

const none = {
  load_ms: null,
  prompt_tokens_per_s: null,
  tokens_per_s: null,
  variation: null,
  ttft_ms: null,
  concurrency: null,
  error: null
}
const done = {
  id: '019a2b3c-4d5e-7f60-8a9b-0c1d2e3f4a5b',
  object: 'benchmark',
  state: 'done',
  device_id: 'rtx',
  provider: 'ollama',
  model: 'qwen3:32b',
  task: 'chat',
  runs: 3,
  requested_by: 'admin',
  pays_anyway: false,
  progress: { phase: null, done: 11, of: 11 },
  phases: {
    load: { ...none, skipped: null, requests: 1, failures: 0, load_ms: 9200 },
    prompt: { ...none, skipped: null, requests: 3, failures: 0, prompt_tokens_per_s: 1400, variation: 0.01, ttft_ms: 760 },
    alone: { ...none, skipped: null, requests: 3, failures: 0, tokens_per_s: 36.2, variation: 0.01, ttft_ms: 120, concurrency: 1 },
    two: { ...none, skipped: null, requests: 4, failures: 0, tokens_per_s: 25.1, variation: 0.02, ttft_ms: 150, concurrency: 2 },
    four: { ...none, skipped: 'The machine gives 2 at once.', requests: 0, failures: 0 }
  },
  result: {
    load_ms: 9200,
    prompt_tokens_per_s: 1400,
    tokens_per_s: 36.2,
    tokens_per_s_at_two: 25.1,
    tokens_per_s_at_four: null,
    ttft_ms: 120,
    variation: 0.01,
    requests: 11,
    failures: 0
  },
  error: null,
  created_at: '2026-11-20T09:30:00.000Z',
  started_at: '2026-11-20T09:30:01.000Z',
  finished_at: '2026-11-20T09:31:10.000Z'
}
const queued = {
  ...done,
  state: 'queued',
  progress: { phase: null, done: 0, of: 0 },
  phases: {},
  result: null,
  started_at: null,
  finished_at: null
}

const tags = ['Machines'] as const
const admin = 'Needs a key of kind admin.'

const submitDocs = {
  tags,
  description: `${admin} Its requests are jobs of class benchmark, served after everybody else's. A rented model whose price is unknown or above BENCHMARK_MAX_PRICE_PER_1M is refused without "pay". When the same is asked for again before it is over, the answer is the one that is on its way.`,
  requestBody: jsonBody(ref('schemas', 'NewBenchmark'), {
    machine: { device_id: 'rtx', model: 'qwen3:32b' },
    rented: { provider: 'openrouter', model: 'qwen/qwen3-32b', runs: 2, pay: true }
  }),
  responses: { 202: json(ref('schemas', 'Benchmark'), queued, 'It is written down.'), ...refusals(400, 404, 413, 415) }
}

export const submitBenchmarkDocs: OperationDocs = { operationId: 'createBenchmark', summary: 'Measure a model', ...submitDocs }
export const runBenchmarkDocs: OperationDocs = {
  operationId: 'runBenchmark',
  summary: 'Measure a model, as llm-mcp v2 called it',
  ...submitDocs
}

export const listBenchmarksDocs: OperationDocs = {
  operationId: 'listBenchmarks',
  tags,
  summary: 'Benchmarks',
  description: `${admin} The newest first.`,
  parameters: [
    { name: 'limit', in: 'query', schema: { type: 'integer', minimum: 1, maximum: 100, default: 20 } },
    { name: 'after', in: 'query', schema: { type: 'string', format: 'uuid' }, description: 'Those older than this one.' },
    { name: 'device', in: 'query', schema: { type: 'string' } },
    { name: 'model', in: 'query', schema: { type: 'string' } }
  ],
  responses: {
    200: json(
      {
        type: 'object',
        required: ['object', 'data', 'first_id', 'last_id', 'has_more'],
        properties: {
          object: { const: 'list' },
          data: { type: 'array', items: ref('schemas', 'Benchmark') },
          first_id: nullable('string'),
          last_id: nullable('string'),
          has_more: { type: 'boolean' }
        }
      },
      { object: 'list', data: [done], first_id: done.id, last_id: done.id, has_more: false },
      'A page of them.'
    ),
    ...refusals(400)
  }
}

export const benchmarkDocs: OperationDocs = {
  operationId: 'getBenchmark',
  tags,
  summary: 'A benchmark',
  description: admin,
  parameters: [{ name: 'id', in: 'path', required: true, schema: { type: 'string', format: 'uuid' } }],
  responses: { 200: json(ref('schemas', 'Benchmark'), done, 'How far it is, and what came of it.'), ...refusals(404) }
}

export const cancelBenchmarkDocs: OperationDocs = {
  operationId: 'cancelBenchmark',
  tags,
  summary: 'Cancel a benchmark',
  description: `${admin} Its requests end at once, and nothing of it is learned. One that is over stays as it is. To cancel one of its jobs is the same.`,
  parameters: [{ name: 'id', in: 'path', required: true, schema: { type: 'string', format: 'uuid' } }],
  responses: {
    200: json(ref('schemas', 'Benchmark'), { ...done, state: 'cancelled', result: null, error: 'It was cancelled.' }, 'As it is now.'),
    ...refusals(404)
  }
}
