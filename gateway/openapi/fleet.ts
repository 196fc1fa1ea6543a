// /v1/devices and /v1/discovery, described.

import { json, jsonBody, nullable, type OperationDocs, ref, refusals } from './parts.ts'

const figure = (description: string, minimum = 0) => nullable('number', { minimum, description })
const patterns = (description: string) => nullable('array', { description, maxItems: 200, items: { type: 'string' } })

const limits = {
  type: 'object',
  description: 'Set by hand, and stronger than the configuration; null takes one away.',
  additionalProperties: false,
  properties: {
    max_concurrency: nullable('integer', { minimum: 1, maximum: 64, description: 'Answers at the same time.' }),
    ram_gb: figure('Its main memory.'),
    vram_gb: figure('Memory of its GPUs; 0 = it has none.'),
    max_params_b: figure('Billions of parameters that a model may have.'),
    max_size_gb: figure('How large the weights of a model may be.'),
    max_context_k: figure('Context that a model is loaded with at most, in 1,024 tokens.', 1),
    watts: figure('Drawn while it answers.'),
    allow_models: patterns('Only these models are used; * stands for any characters.'),
    deny_models: patterns('These models are not used.')
  }
}

const time = nullable('string', { format: 'date-time' })

const profile = {
  type: 'object',
  description: 'How fast it is, learned from benchmarks and from every answer; null where nothing is known yet.',
  properties: {
    tokens_per_s: figure('Of an answer, for one caller who is alone.'),
    tokens_per_s_at_two: figure('For each of two callers at once.'),
    tokens_per_s_at_four: figure('For each of four callers at once.'),
    prompt_tokens_per_s: figure('Of a prompt that is read.'),
    load_ms: figure('Until the model is in memory.'),
    ttft_ms: figure('Until the first token, as clients saw it, without loading.'),
    variation: figure('How far answers usually are from what was expected: 0.1 = 10 %.'),
    samples: {
      type: 'object',
      description: 'What was counted.',
      properties: Object.fromEntries(['answers', 'prompts', 'loads', 'failures'].map(name => [name, { type: 'integer' }]))
    },
    learned_at: { type: 'string', format: 'date-time' }
  }
}

const bytes = (description: string) => nullable('integer', { minimum: 0, description })
const metrics = {
  type: 'object',
  description: 'Read last, once a minute, of a machine that a gateway runs on; null where nothing is known.',
  required: ['at'],
  properties: {
    at: { type: 'string', format: 'date-time' },
    cpu_percent: figure('Of all its cores together.'),
    memory_used_bytes: bytes('Without what only caches hold.'),
    memory_total_bytes: bytes('Its main memory.'),
    gpu_name: nullable('string', { description: 'Of the GPU with the most memory.' }),
    vram_used_bytes: bytes('Of that GPU.'),
    vram_total_bytes: bytes('Of that GPU.')
  }
}

export const fleetSchemas = {
  DevicePatch: {
    type: 'object',
    additionalProperties: false,
    properties: {
      state: { enum: ['proposed', 'approved', 'blocked'], description: 'Only approved machines are sent prompts.' },
      limits
    }
  },
  Device: {
    type: 'object',
    required: ['id', 'object', 'url', 'type', 'origin', 'state', 'health', 'max_concurrency', 'in_use', 'models'],
    properties: {
      id: { type: 'string' },
      object: { const: 'device' },
      url: { type: 'string' },
      type: { type: 'string', description: 'How it is spoken to: ollama, openai.' },
      origin: { enum: ['config', 'ollama_host', 'tailscale', 'neighbour'] },
      state: { enum: ['proposed', 'approved', 'blocked'] },
      health: { enum: ['unknown', 'up', 'down'] },
      health_note: nullable('string'),
      health_at: time,
      only_from: nullable('string', { description: 'The only host that can reach it; null = any.' }),
      os: nullable('string'),
      tags: { type: 'array', items: { type: 'string' } },
      version: nullable('string', { description: 'Of its server.' }),
      marks: { type: 'array', items: { type: 'string' }, description: 'What a person should know, such as old_ollama or hostile.' },
      max_concurrency: { type: 'integer' },
      in_use: { type: 'integer', description: 'Places that are taken now.' },
      watts: nullable('number'),
      vram_gb: nullable('number'),
      ram_gb: nullable('number'),
      error: nullable('string', { description: 'Why its list of models could not be read.' }),
      models: {
        type: 'array',
        items: {
          type: 'object',
          properties: {
            id: { type: 'string' },
            loaded: nullable('boolean'),
            context_length: nullable('integer'),
            profile: { oneOf: [profile, { type: 'null' }] }
          }
        }
      },
      models_found: nullable('integer'),
      limits: { oneOf: [limits, { type: 'null' }] },
      metrics: { oneOf: [metrics, { type: 'null' }] },
      created_at: { type: 'string', format: 'date-time' },
      found_at: time,
      gone_at: nullable('string', {
        format: 'date-time',
        description: 'Since when it is not found any more or, of a machine of the configuration, is in none.'
      }),
      seen_at: time
    }
  },
  DiscoveryRun: {
    type: 'object',
    required: ['id', 'object', 'started_at', 'finished_at', 'error'],
    properties: {
      id: { type: 'string', format: 'uuid' },
      object: { const: 'discovery_run' },
      started_at: { type: 'string', format: 'date-time' },
      finished_at: time,
      error: nullable('string'),
      tailscale: {
        type: 'object',
        properties: { state: { type: 'string' }, message: { type: 'string', description: 'One sentence for people.' } }
      },
      found: { type: 'array', items: { type: 'object' } },
      added: { type: 'array', items: { type: 'string' } },
      changed: { type: 'array', items: { type: 'object' } },
      gone: { type: 'array', items: { type: 'string' } },
      unreachable: {
        type: 'array',
        items: { type: 'object' },
        description: 'Machines that did not answer, each with a reason; the first 200 of them.'
      },
      unreachable_count: { type: 'integer', description: 'All that did not answer.' },
      not_asked: { type: 'integer', description: 'Of them, those for which there was no time: nothing is said of them.' },
      took_ms: { type: 'integer' }
    }
  }
}

const device = {
  id: 'rtx',
  object: 'device',
  url: 'http://100.101.1.20:11434',
  type: 'ollama',
  origin: 'tailscale',
  state: 'approved',
  health: 'up',
  health_note: 'it answers again',
  health_at: '2026-11-20T09:30:00.000Z',
  only_from: null,
  os: 'linux',
  tags: ['tag:gpu'],
  version: '0.32.7',
  marks: [],
  max_concurrency: 2,
  in_use: 1,
  watts: 300,
  vram_gb: 24,
  ram_gb: null,
  error: null,
  models: [
    {
      id: 'qwen3:32b',
      loaded: true,
      context_length: 32_768,
      profile: {
        tokens_per_s: 36.2,
        tokens_per_s_at_two: 25.1,
        tokens_per_s_at_four: 15.4,
        prompt_tokens_per_s: 1400,
        load_ms: 9200,
        ttft_ms: 410,
        variation: 0.04,
        samples: { answers: 212, prompts: 190, loads: 3, failures: 0 },
        learned_at: '2026-11-20T09:30:00.000Z'
      }
    }
  ],
  models_found: 1,
  limits: { max_concurrency: 2 },
  metrics: null,
  created_at: '2026-11-20T09:30:00.000Z',
  found_at: '2026-11-20T09:30:00.000Z',
  gone_at: null,
  seen_at: '2026-11-20T09:30:00.000Z'
}
const run = {
  id: '019a2b3c-4d5e-7f60-8a9b-0c1d2e3f4a5b',
  object: 'discovery_run',
  started_at: '2026-11-20T09:30:00.000Z',
  finished_at: '2026-11-20T09:30:02.100Z',
  error: null,
  tailscale: { state: 'running', message: 'Tailscale knows 3 machines.' },
  found: [{ id: 'rtx', url: 'http://100.101.1.20:11434', models: 4, version: '0.32.7' }],
  added: ['rtx'],
  changed: [],
  gone: [],
  unreachable: [],
  unreachable_count: 0,
  not_asked: 0,
  took_ms: 2100
}
const tags = ['Machines'] as const
const admin = 'Needs a key of kind admin.'
const id = [{ name: 'id', in: 'path', required: true, schema: { type: 'string' } }]

export const listDevicesDocs: OperationDocs = {
  operationId: 'listDevices',
  tags,
  summary: 'Machines',
  description: `${admin} Those of the configuration, and those that were found.`,
  responses: {
    200: json(
      {
        type: 'object',
        required: ['object', 'data'],
        properties: { object: { const: 'list' }, data: { type: 'array', items: ref('schemas', 'Device') } }
      },
      { object: 'list', data: [device] },
      'All of them, at most 1,000.'
    )
  }
}

export const deviceDocs: OperationDocs = {
  operationId: 'getDevice',
  tags,
  summary: 'A machine',
  description: admin,
  parameters: id,
  responses: { 200: json(ref('schemas', 'Device'), device, 'The machine.'), ...refusals(404) }
}

export const patchDeviceDocs: OperationDocs = {
  operationId: 'changeDevice',
  tags,
  summary: 'Approve a machine, block it, or set its limits',
  description: `${admin} All gateways hear of it within a second.`,
  parameters: id,
  requestBody: jsonBody(ref('schemas', 'DevicePatch'), {
    approve: { state: 'approved' },
    limit: { limits: { max_concurrency: 2, vram_gb: 24, deny_models: ['*:70b'] } }
  }),
  responses: { 200: json(ref('schemas', 'Device'), device, 'As it is now.'), ...refusals(400, 404, 413, 415) }
}

export const offlineDeviceDocs: OperationDocs = {
  operationId: 'reportDeviceOffline',
  tags,
  summary: 'Say that a machine is away',
  description: `${admin} It is asked at once; only what it does itself takes it out.`,
  requestBody: jsonBody(
    {
      type: 'object',
      required: ['device_id'],
      properties: { device_id: { type: 'string' }, reason: { type: 'string', description: 'For the log.' } }
    },
    { simple: { device_id: 'rtx', reason: 'its fan stopped' } }
  ),
  responses: { 200: json(ref('schemas', 'Device'), device, 'As it was found.'), ...refusals(400, 404, 413, 415) }
}

export const runDiscoveryDocs: OperationDocs = {
  operationId: 'runDiscovery',
  tags,
  summary: 'Look for machines',
  description: `${admin} Or joins the look that is on its way. What is found is proposed, and gets no prompt until it is approved.`,
  responses: { 200: json(ref('schemas', 'DiscoveryRun'), run, 'What was found.'), ...refusals(503) }
}

export const lastDiscoveryDocs: OperationDocs = {
  operationId: 'lastDiscovery',
  tags,
  summary: 'The last look for machines',
  description: admin,
  responses: { 200: json(ref('schemas', 'DiscoveryRun'), run, 'What was found.'), ...refusals(404) }
}
