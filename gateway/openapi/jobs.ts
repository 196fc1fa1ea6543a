// /v1/jobs and what belongs to it, described.

import { jobClasses, jobKinds, jobStatuses } from '../../queue/types.ts'
import { deadlines, json, jsonBody, knobs, localOnly, nullable, type OperationDocs, type Part, ref, refusals } from './parts.ts'

const time = { type: 'string', format: 'date-time' }
const orTime = nullable('string', { format: 'date-time' })
const metadata = nullable('object', {
  description: 'At most 16 keys of at most 64 characters, each a text of at most 512.',
  additionalProperties: { type: 'string', maxLength: 512 }
})

const jobProperties = {
  id: { type: 'string', format: 'uuid' },
  job_id: { type: 'string', format: 'uuid', description: 'The same.' },
  object: { const: 'job' },
  kind: { enum: jobKinds },
  model: nullable('string'),
  status: { enum: jobStatuses },
  priority: { enum: jobClasses },
  source: { type: 'string' },
  position: nullable('integer', { minimum: 1, description: '1 = next; null when it does not wait. Not in lists.' }),
  eta_ms: nullable('object', {
    description:
      'Until its result, likely and nine times of ten; null when it does not wait, or nothing that could run it is there. Not in lists.',
    properties: { p50: { type: 'number' }, p90: { type: 'number' } }
  }),
  attempts: { type: 'integer', minimum: 0 },
  max_attempts: { type: 'integer', minimum: 1 },
  device: nullable('string'),
  provider: nullable('string'),
  created_at: time,
  started_at: orTime,
  first_token_at: orTime,
  finished_at: orTime,
  deadline_at: orTime,
  max_cost_usd: nullable('number'),
  cost_usd: nullable('number', { description: 'Null: nothing is booked yet, or nobody knows the price.' }),
  usage: nullable('object'),
  error: nullable('object', {
    required: ['message', 'type', 'code'],
    properties: { message: { type: 'string' }, type: { type: 'string' }, code: { type: 'string' } }
  }),
  metadata,
  stream: { type: 'boolean' },
  webhook: nullable('object', {
    required: ['url', 'status', 'error'],
    properties: {
      url: { type: 'string' },
      status: { enum: ['waiting', 'delivered', 'failed'] },
      error: nullable('string', { description: 'Of the last try.' }),
      secret: {
        type: 'string',
        description: 'What deliveries to your source are signed with (Standard Webhooks); in the answer to the submission only.'
      }
    }
  }),
  result: {
    description:
      "The answer in the form of the kind's own provider; null in lists, and until it is done. Those of ollama.* hold themselves once more under `data`.",
    type: ['object', 'array', 'string', 'number', 'boolean', 'null']
  }
}

export const jobsSchemas = {
  NewJob: {
    type: 'object',
    required: ['payload'],
    properties: {
      kind: {
        enum: jobKinds,
        description: '`chat` and `embed` go wherever is best; the others to the provider they name. `echo` gives its payload back.'
      },
      type: { enum: jobKinds, description: 'Another name for kind.' },
      model: nullable('string', { description: 'Here or in the payload.' }),
      payload: { type: 'object', description: "The request body of the kind's own provider: `messages`, `prompt`, `input`, …" },
      priority: {
        description: '`urgent` needs a key of kind admin. An integer: 10 and more is interactive, 0 to 9 normal, less is batch.',
        oneOf: [{ enum: ['urgent', 'interactive', 'normal', 'batch', null] }, { type: 'integer' }],
        default: 'normal'
      },
      deadline_at: orTime,
      deadline_ms: nullable('number', { description: 'From now on; instead of deadline_at. The header may say it, too.' }),
      deadline: nullable('string', {
        enum: ['soft', 'hard', null],
        description: '`hard`: what would probably be late is refused. The header may say it, too.'
      }),
      max_cost_usd: nullable('number', { description: 'Dollars; nobody is asked who might cost more. The header may say it, too.' }),
      route: nullable('string', { enum: ['cost', 'balanced', 'fast', null], description: 'What counts more. The header may say it, too.' }),
      max_attempts: nullable('integer', { minimum: 1, maximum: 20, default: 3 }),
      stream: nullable('boolean', { description: 'Of chats: the tokens are kept, to be read while they come.' }),
      webhook: nullable('object', { required: ['url'], properties: { url: { type: 'string', maxLength: 2_048 } } }),
      metadata,
      source: nullable('string', { description: 'For keys of kind admin: whose job it is.' })
    }
  },
  Job: { type: 'object', required: Object.keys(jobProperties), properties: jobProperties }
}

const id = '019a2b3c-4d5e-7f60-8a9b-0c1d2e3f4a5b'
const queued = {
  id,
  job_id: id,
  object: 'job',
  kind: 'chat',
  model: 'qwen3:32b',
  status: 'queued',
  priority: 'normal',
  source: 'alice',
  position: 3,
  eta_ms: { p50: 1_200, p90: 2_400 },
  attempts: 0,
  max_attempts: 3,
  device: null,
  provider: null,
  created_at: '2026-11-20T09:30:00.000Z',
  started_at: null,
  first_token_at: null,
  finished_at: null,
  deadline_at: null,
  max_cost_usd: null,
  cost_usd: null,
  usage: null,
  error: null,
  metadata: { folder: 'reports' },
  stream: false,
  webhook: null,
  result: null
}
const usage = { prompt_tokens: 9, completion_tokens: 2, total_tokens: 11 }
const done = {
  ...queued,
  status: 'done',
  position: null,
  eta_ms: null,
  attempts: 1,
  device: 'rtx',
  provider: 'ollama',
  started_at: '2026-11-20T09:30:01.250Z',
  finished_at: '2026-11-20T09:30:03.500Z',
  cost_usd: 0.000017,
  usage,
  result: {
    id: 'chatcmpl-9fT',
    object: 'chat.completion',
    created: 1_790_000_000,
    model: 'qwen3:32b',
    choices: [{ index: 0, message: { role: 'assistant', content: 'Hello!', refusal: null }, finish_reason: 'stop' }],
    usage
  }
}
const cancelled = { ...queued, status: 'cancelled', position: null, eta_ms: null, finished_at: '2026-11-20T09:30:03.500Z' }

const idParameter = { name: 'id', in: 'path', required: true, schema: { type: 'string', format: 'uuid' } }
const unread: Part = {
  required: false,
  description: 'Nothing of it is read.',
  content: { 'application/json': { schema: { type: 'object' } } }
}
const job = ref('schemas', 'Job')
const own = 'A source sees its own jobs, an admin everybody’s.'

export const submitJobDocs: OperationDocs = {
  operationId: 'submitJob',
  tags: ['Jobs'],
  summary: 'Have something done, and come back for it',
  description: 'When it is answered, the job is stored, and survives whatever happens here.',
  parameters: [
    ...knobs,
    localOnly,
    ...deadlines,
    {
      name: 'Idempotency-Key',
      in: 'header',
      description: 'Sending the same body again under the same key finds the same job; another body is refused.',
      schema: { type: 'string', maxLength: 255 }
    }
  ],
  requestBody: jsonBody(ref('schemas', 'NewJob'), {
    simple: { kind: 'chat', model: 'qwen3:32b', payload: { messages: [{ role: 'user', content: 'Say hello' }] } },
    batch: {
      kind: 'ollama.generate',
      payload: { model: 'qwen3:32b', prompt: 'Say hello', options: { temperature: 0 } },
      priority: 'batch',
      deadline_ms: 3_600_000,
      metadata: { folder: 'reports' }
    },
    vectors: { kind: 'embed', payload: { model: 'nomic-embed-text', input: ['first text', 'second text'] }, priority: -1 }
  }),
  responses: {
    202: json(job, queued, 'It is queued, or was already: `idempotent-replayed: true` then says so.'),
    200: json(job, done, 'An earlier job with the same idempotency key is over.'),
    ...refusals(400, 404, 413, 415, 422, 429, 503)
  }
}

export const listJobsDocs: OperationDocs = {
  operationId: 'listJobs',
  tags: ['Jobs'],
  summary: 'Jobs, the newest first',
  description: `Without their results. ${own}`,
  parameters: [
    { name: 'status', in: 'query', schema: { enum: jobStatuses } },
    { name: 'kind', in: 'query', schema: { enum: jobKinds } },
    { name: 'model', in: 'query', schema: { type: 'string' } },
    { name: 'device', in: 'query', schema: { type: 'string' } },
    { name: 'source', in: 'query', schema: { type: 'string' } },
    { name: 'created_after', in: 'query', schema: time },
    { name: 'created_before', in: 'query', schema: time },
    { name: 'after', in: 'query', description: 'The id of the last job of the page before.', schema: { type: 'string', format: 'uuid' } },
    { name: 'limit', in: 'query', schema: { type: 'integer', minimum: 1, maximum: 100, default: 20 } }
  ],
  responses: {
    200: json(
      {
        type: 'object',
        required: ['object', 'data', 'first_id', 'last_id', 'has_more'],
        properties: {
          object: { const: 'list' },
          data: { type: 'array', items: job },
          first_id: nullable('string'),
          last_id: nullable('string'),
          has_more: { type: 'boolean' }
        }
      },
      {
        object: 'list',
        data: [{ ...done, position: null, eta_ms: null, result: null }],
        first_id: id,
        last_id: id,
        has_more: false
      },
      'A page of jobs.'
    ),
    ...refusals(400, 503)
  }
}

export const jobDocs: OperationDocs = {
  operationId: 'retrieveJob',
  tags: ['Jobs'],
  summary: 'A job, with its result',
  description: own,
  parameters: [idParameter],
  responses: { 200: json(job, done, 'The job.'), ...refusals(404, 503) }
}

export const cancelJobDocs: OperationDocs = {
  operationId: 'cancelJob',
  tags: ['Jobs'],
  summary: 'Stop a job',
  description: 'Where it waits or runs. One that is over stays as it is.',
  parameters: [idParameter],
  requestBody: unread,
  responses: { 200: json(job, cancelled, 'The job as it is now.'), ...refusals(404, 503) }
}

export const retryJobDocs: OperationDocs = {
  operationId: 'retryJob',
  tags: ['Jobs'],
  summary: 'Do a job again',
  description: 'One that is over is queued anew; its attempts are counted from the start.',
  parameters: [idParameter],
  requestBody: unread,
  responses: { 202: json(job, { ...queued, position: null, eta_ms: null }, 'It is queued.'), ...refusals(404, 409, 429, 503) }
}

export const redeliverJobDocs: OperationDocs = {
  operationId: 'redeliverJobWebhook',
  tags: ['Jobs'],
  summary: 'Announce a job again',
  description: 'Its webhook is called once more, for a job that is over and has one.',
  parameters: [idParameter],
  requestBody: unread,
  responses: {
    202: json(job, { ...done, webhook: { url: 'https://hooks.example/jobs', status: 'waiting', error: null } }, 'It is on its way.'),
    ...refusals(400, 404, 409, 503)
  }
}

const ts = '2026-11-20T09:30:01.250Z'
const chunk = {
  id: 'chatcmpl-9fT',
  object: 'chat.completion.chunk',
  created: 1_790_000_000,
  model: 'qwen3:32b',
  choices: [{ index: 0, delta: { role: 'assistant', content: 'Hello!' }, finish_reason: null }]
}
const streamExample = [
  `event: status\ndata: ${JSON.stringify({ type: 'status', status: 'queued', position: 3, eta_ms: queued.eta_ms, ts })}`,
  `event: attempt\nid: 1-0\ndata: ${JSON.stringify({ type: 'attempt', attempt: 1, ts })}`,
  `id: 1-1\ndata: ${JSON.stringify(chunk)}`,
  `event: result\nid: 1-2\ndata: ${JSON.stringify({ ...done, stream: true })}`,
  `event: end\nid: 1-3\ndata: ${JSON.stringify({ type: 'end', status: 'done', ts })}`
]

export const streamJobDocs: OperationDocs = {
  operationId: 'streamJob',
  tags: ['Jobs'],
  summary: 'Follow a job to its end',
  description:
    'Events: `status` while it waits, `attempt` when a try begins, the chunks of a chat submitted with `stream: true`, `result` with the job, `end`. ' +
    'A failure of the stream itself is an event `error`; whoever comes back with the last id misses nothing.',
  parameters: [
    idParameter,
    { name: 'Last-Event-ID', in: 'header', description: 'Go on after this event.', schema: { type: 'string', pattern: '^\\d+-\\d+$' } },
    { name: 'last_event_id', in: 'query', description: 'The same, for clients that cannot set headers.', schema: { type: 'string' } }
  ],
  responses: {
    200: {
      description: 'The events, each with the id `<attempt>-<number>`; `status` has none.',
      content: { 'text/event-stream': { schema: { type: 'string' }, example: `${streamExample.join('\n\n')}\n\n` } }
    },
    204: { description: 'Last-Event-ID is the end of the job: there is nothing more, and an EventSource stops.' },
    ...refusals(400, 404, 503)
  }
}
