// POST /v1/chat/completions and the legacy /v1/completions, described.

import {
  answerHeaders,
  jsonBody,
  knobs,
  localOnly,
  modelRefusals,
  nullable,
  type OperationDocs,
  type Part,
  patience,
  ref,
  respondAsync
} from './parts.ts'

const untouched = 'Fields that are not listed travel on untouched.'

/** Who shall answer, in OpenRouter's words. */
const choice = {
  models: nullable('array', { description: 'Models that answer when `model` cannot, in this order.', items: { type: 'string' } }),
  provider: nullable('object', {
    description:
      'As OpenRouter’s: `order`, `only`, `ignore`, `allow_fallbacks`, `sort`, `max_price`, `data_collection`, `zdr`, `require_parameters`. Names of this gateway’s providers and machines mean those, others mean OpenRouter’s own.'
  })
}

const sampling = {
  ...choice,
  temperature: nullable('number', { minimum: 0, maximum: 2 }),
  top_p: nullable('number', { minimum: 0, maximum: 1 }),
  n: nullable('integer', { minimum: 1, maximum: 128, description: 'Done as so many calls where a target cannot.' }),
  stop: { description: 'A text, or up to four.', type: ['string', 'array', 'null'], items: { type: 'string' } },
  presence_penalty: nullable('number', { minimum: -2, maximum: 2 }),
  frequency_penalty: nullable('number', { minimum: -2, maximum: 2 }),
  seed: nullable('integer'),
  user: nullable('string', { description: 'The person behind a shared key, for keys with `trust_user_header`.' }),
  stream: nullable('boolean', { description: 'Answer with server-sent events.' }),
  stream_options: nullable('object', {
    properties: { include_usage: { type: 'boolean', description: 'End with a chunk that has usage, and `x_llm_mcp`.' } }
  })
}

const chatRequest = {
  type: 'object',
  description: `As OpenAI's. ${untouched}`,
  required: ['model', 'messages'],
  properties: {
    model: { type: 'string', description: 'A model of GET /v1/models, an alias, `auto`, `auto:cost`, `auto:fast`, `local` or `cloud`.' },
    messages: {
      type: 'array',
      minItems: 1,
      items: {
        type: 'object',
        required: ['role'],
        properties: {
          role: { enum: ['developer', 'system', 'user', 'assistant', 'tool', 'function'] },
          content: { description: 'A text, or parts: text, image_url, input_audio, file.', type: ['string', 'array', 'null'] },
          tool_calls: { type: 'array', items: { type: 'object' } },
          tool_call_id: { type: 'string' }
        }
      }
    },
    max_completion_tokens: nullable('integer', { minimum: 1 }),
    max_tokens: nullable('integer', { minimum: 1, description: 'The older name of max_completion_tokens.' }),
    tools: nullable('array', { items: { type: 'object' } }),
    tool_choice: { type: ['string', 'object', 'null'] },
    parallel_tool_calls: nullable('boolean'),
    response_format: nullable('object', { description: '`text`, `json_object` or `json_schema`.' }),
    reasoning_effort: nullable('string'),
    logprobs: nullable('boolean'),
    top_logprobs: nullable('integer', { minimum: 0, maximum: 20 }),
    ...sampling
  }
}

const completionRequest = {
  type: 'object',
  description: `As OpenAI's. ${untouched}`,
  required: ['model', 'prompt'],
  properties: {
    model: { type: 'string' },
    prompt: { description: 'A text, a list of texts, or cl100k_base tokens.', type: ['string', 'array'] },
    suffix: nullable('string'),
    max_tokens: nullable('integer', { minimum: 1, default: 16 }),
    best_of: nullable('integer', { minimum: 1 }),
    echo: nullable('boolean'),
    logprobs: nullable('integer', { minimum: 0, maximum: 5 }),
    ...sampling
  }
}

const usage = {
  type: 'object',
  required: ['prompt_tokens', 'completion_tokens', 'total_tokens'],
  properties: { prompt_tokens: { type: 'integer' }, completion_tokens: { type: 'integer' }, total_tokens: { type: 'integer' } }
}

/** What both kinds of answers have, whole or in pieces. */
function answerSchema(choice: Part, object: string): Part {
  return {
    type: 'object',
    required: ['id', 'object', 'created', 'model', 'choices'],
    properties: {
      id: { type: 'string' },
      object: { const: object },
      created: { type: 'integer', description: 'Seconds since the epoch.' },
      model: { type: 'string' },
      choices: { type: 'array', items: choice },
      usage: { oneOf: [ref('schemas', 'Usage'), { type: 'null' }] },
      x_llm_mcp: ref('schemas', 'Facts')
    }
  }
}

const finishReason = nullable('string', { description: '`stop`, `length`, `tool_calls`, `content_filter`.' })
const message = {
  type: 'object',
  properties: {
    role: { type: 'string' },
    content: nullable('string'),
    refusal: nullable('string'),
    tool_calls: { type: 'array', items: { type: 'object' } }
  }
}

export const chatSchemas = {
  Usage: usage,
  Facts: {
    type: 'object',
    description: 'In the usage chunk of a stream, where headers can no longer say it.',
    properties: {
      provider: { type: 'string' },
      model: { type: 'string' },
      device: nullable('string'),
      reason: { type: 'string' },
      attempts: { type: 'integer' },
      cost_usd: nullable('number', { description: 'Null: nobody knows the price.' }),
      route_id: { type: 'string', format: 'uuid' }
    }
  },
  ChatRequest: chatRequest,
  ChatCompletion: answerSchema(
    {
      type: 'object',
      required: ['index', 'message', 'finish_reason'],
      properties: { index: { type: 'integer' }, message, finish_reason: finishReason }
    },
    'chat.completion'
  ),
  ChatChunk: answerSchema(
    {
      type: 'object',
      required: ['index', 'delta'],
      properties: { index: { type: 'integer' }, delta: message, finish_reason: finishReason }
    },
    'chat.completion.chunk'
  ),
  CompletionRequest: completionRequest,
  Completion: answerSchema(
    {
      type: 'object',
      required: ['index', 'text'],
      properties: { index: { type: 'integer' }, text: { type: 'string' }, finish_reason: finishReason }
    },
    'text_completion'
  )
}

const figures = { prompt_tokens: 9, completion_tokens: 2, total_tokens: 11 }
const facts = {
  provider: 'ollama',
  model: 'qwen3:32b',
  device: 'rtx',
  reason: 'only_target',
  attempts: 1,
  cost_usd: 0.000017,
  route_id: '019a2b3c-4d5e-7f60-8a9b-0c1d2e3f4a5b'
}

/** As it is on the wire: data-only events, and `[DONE]`. */
function events(schema: string, chunks: readonly object[]): Part {
  const text = `${chunks.map(chunk => `data: ${JSON.stringify(chunk)}\n\n`).join('')}data: [DONE]\n\n`
  return { 'text/event-stream': { schema: { type: 'string', description: `Each event is a ${schema}.` }, example: text } }
}

function answered(schema: string, chunkSchema: string, example: Readonly<Record<string, unknown>>, chunks: readonly object[]): Part {
  return {
    description:
      'The answer; with `stream: true` as events, of which the last is `data: [DONE]`. After an error in a stream there is none.',
    headers: answerHeaders,
    content: { 'application/json': { schema: ref('schemas', schema), example }, ...events(chunkSchema, chunks) }
  }
}

const head = { id: 'chatcmpl-9fT', created: 1_790_000_000, model: 'qwen3:32b' }
const chunk = { ...head, object: 'chat.completion.chunk' }

export const chatDocs: OperationDocs = {
  operationId: 'createChatCompletion',
  tags: ['Models'],
  summary: 'Answer a conversation',
  parameters: [...knobs, localOnly, ...patience, respondAsync],
  requestBody: jsonBody(ref('schemas', 'ChatRequest'), {
    simple: { model: 'auto', messages: [{ role: 'user', content: 'Say hello' }] },
    streamed: { model: 'auto', stream: true, stream_options: { include_usage: true }, messages: [{ role: 'user', content: 'Say hello' }] }
  }),
  responses: {
    200: answered(
      'ChatCompletion',
      'ChatChunk',
      {
        ...head,
        object: 'chat.completion',
        choices: [{ index: 0, message: { role: 'assistant', content: 'Hello!', refusal: null }, finish_reason: 'stop' }],
        usage: figures
      },
      [
        { ...chunk, choices: [{ index: 0, delta: { role: 'assistant', content: 'Hello!' }, finish_reason: null }] },
        { ...chunk, choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] },
        { ...chunk, choices: [], usage: figures, x_llm_mcp: facts }
      ]
    ),
    ...modelRefusals
  }
}

const text = { id: 'cmpl-9fT', created: 1_790_000_000, model: 'qwen3:32b', object: 'text_completion' }

export const completionsDocs: OperationDocs = {
  operationId: 'createCompletion',
  tags: ['Models'],
  summary: 'Continue a text (legacy)',
  parameters: [...knobs, localOnly, ...patience],
  requestBody: jsonBody(ref('schemas', 'CompletionRequest'), { simple: { model: 'qwen3:32b', prompt: 'Once upon a', max_tokens: 4 } }),
  responses: {
    200: answered(
      'Completion',
      'Completion',
      { ...text, choices: [{ index: 0, text: ' time there was', finish_reason: 'length' }], usage: figures },
      [{ ...text, choices: [{ index: 0, text: ' time there was', finish_reason: 'length' }] }]
    ),
    ...modelRefusals
  }
}
