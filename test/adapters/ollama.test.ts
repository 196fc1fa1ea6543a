import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import OpenAI from 'openai'
import t, { type Test } from 'tap'
import { toNativeChat } from '../../adapters/ollama/request.ts'
import { createAdapter } from '../../adapters/ollama.ts'
import { createWatchdog, type Phase } from '../../adapters/shared/watchdog.ts'
import { createOutbound, type ExchangeObserver, type Outbound } from '../../outbound/client.ts'
import { GatewayError } from '../../routing/errors.ts'
import type { Attempt, AttemptEnd, AttemptObserver, Device, Target, Upstream, Usage } from '../../routing/types.ts'

type Json = Record<string, unknown>
type ReasoningField = 'reasoning' | 'reasoning_content' | 'both'

// ---- what the tests are made of

const device: Device = { id: 'home', maxConcurrency: 1, watts: 100, vramGb: 24, ramGb: null, keepAlive: null, numCtx: null }

const upstream: Upstream = {
  id: 'home',
  adapter: 'ollama',
  own: true,
  baseUrl: 'http://127.0.0.1:9',
  apiKey: null,
  headers: {},
  device,
  timeouts: { connectMs: 1000, firstTokenMs: 5000, idleMs: 5000, totalMs: 20_000 },
  models: null,
  auto: [],
  streamUsage: true,
  registryId: null
}

const target: Target = {
  id: 'home/qwen3:8b',
  upstream,
  model: 'qwen3:8b',
  contextTokens: 4096,
  maxOutputTokens: null,
  features: null,
  operations: ['chat', 'complete'],
  loaded: true,
  price: { source: 'electricity', tokens: null },
  createdAt: 0
}

const hello = { model: 'x', messages: [{ role: 'user', content: 'hello' }] }

interface AttemptChanges {
  readonly body?: Json
  readonly stream?: boolean
  readonly includeUsage?: boolean
  readonly target?: Partial<Target>
  readonly upstream?: Partial<Upstream>
}

function attemptFor(changes: AttemptChanges): Attempt {
  const body = changes.body ?? hello
  return {
    id: 'attempt-1',
    target: { ...target, ...changes.target, upstream: { ...upstream, ...changes.upstream } },
    request: {
      id: 'request-1',
      operation: 'chat',
      model: 'x',
      stream: changes.stream ?? true,
      includeUsage: changes.includeUsage ?? false,
      streamOptions: null,
      body: { bytes: Buffer.alloc(0), json: () => body, with: () => Buffer.alloc(0) },
      maxOutputTokens: null,
      needs: [],
      choices: 1,
      prompt: { low: 1, expected: 1 },
      longest: { low: 1, expected: 1 },
      input: null,
      embedding: null,
      localOnly: false
    }
  }
}

interface Heard {
  readonly calls: string[]
  frames: Buffer
  tokens: number[]
  body: Buffer | null
  usage: Usage | null
  usageEvent: Buffer | null
  room: boolean
  readonly ended: Promise<AttemptEnd>
  readonly observer: AttemptObserver
}

function listen(): Heard {
  let tell: (end: AttemptEnd) => void
  const heard: Heard = {
    calls: [],
    frames: Buffer.alloc(0),
    tokens: [],
    body: null,
    usage: null,
    usageEvent: null,
    room: true,
    ended: new Promise(resolve => {
      tell = resolve
    }),
    observer: {
      frames(events, tokens) {
        heard.calls.push('frames')
        heard.frames = Buffer.concat([heard.frames, events])
        heard.tokens.push(tokens)
        return heard.room
      },
      body(json) {
        heard.calls.push('body')
        heard.body = json
      },
      usage(usage, event) {
        heard.calls.push('usage')
        heard.usage = usage
        heard.usageEvent = event
      },
      end(end) {
        heard.calls.push('end')
        tell(end)
      }
    }
  }
  return heard
}

/** The parsed chunks of an SSE text; fails on anything that is not `data: <json>` and a blank line. */
function chunksOf(sse: Buffer): Json[] {
  const text = sse.toString()
  if (text !== '' && !text.endsWith('\n\n')) throw new Error('not whole events')
  return text
    .split('\n\n')
    .slice(0, -1)
    .map(event => {
      if (!event.startsWith('data: ') || event.includes('\n')) throw new Error(`not one data line: ${event}`)
      return JSON.parse(event.slice(6))
    })
}

interface Choice {
  readonly delta: Json
  readonly finish_reason: unknown
  readonly logprobs: unknown
}
const choiceOf = (chunk: Json): Choice => (chunk.choices as [Choice])[0]
const deltasOf = (sse: Buffer): Json[] => chunksOf(sse).map(chunk => choiceOf(chunk).delta)

async function serve(t: Test, handler: RequestListener): Promise<string> {
  const server = createServer(handler)
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    return new Promise(resolve => server.close(resolve))
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

function createPorts(t: Test, reasoningField: ReasoningField = 'reasoning') {
  const outbound = createOutbound()
  t.teardown(() => outbound.close())
  let id = 0
  return { outbound, reasoningField, now: () => 1_790_000_000_999, randomId: () => `r${id++}` }
}

/** One attempt against a fake Ollama, to its end. */
async function ask(
  t: Test,
  handler: RequestListener,
  changes: AttemptChanges = {},
  reasoningField?: ReasoningField
): Promise<{ heard: Heard; end: AttemptEnd }> {
  const baseUrl = await serve(t, handler)
  const heard = listen()
  createAdapter(createPorts(t, reasoningField)).chat(attemptFor({ ...changes, upstream: { baseUrl, ...changes.upstream } }), heard.observer)
  const end = await heard.ended
  return { heard, end }
}

async function bodyOf(request: IncomingMessage): Promise<Json> {
  let text = ''
  for await (const chunk of request) text += chunk
  return JSON.parse(text)
}

function startNdjson(response: ServerResponse): ServerResponse {
  return response.writeHead(200, { 'content-type': 'application/x-ndjson' })
}

const answer =
  (lines: readonly unknown[]): RequestListener =>
  (_request, response) => {
    startNdjson(response).end(lines.map(line => `${typeof line === 'string' ? line : JSON.stringify(line)}\n`).join(''))
  }

/** Waits for a condition, with an end. */
async function until(condition: () => boolean, what: string): Promise<void> {
  const endMs = performance.now() + 10_000
  while (!condition()) {
    if (performance.now() > endMs) throw new Error(`waited in vain until ${what}`)
    await new Promise(resolve => setImmediate(resolve))
  }
}

/** Time for something to happen that must not. */
async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise(resolve => setImmediate(resolve))
}

const createdAt = '2026-09-01T10:00:00.123456789Z'
const line = (message: Json, rest: Json = {}): Json => ({
  model: 'qwen3:8b',
  created_at: createdAt,
  message: { role: 'assistant', content: '', ...message },
  done: false,
  ...rest
})
const counters = {
  total_duration: 1_897_385_625,
  load_duration: 1_631_208,
  prompt_eval_count: 17,
  prompt_eval_duration: 313_560_000,
  eval_count: 50,
  eval_duration: 1_577_990_000
}
const done = (rest: Json = {}): Json => line({}, { done: true, done_reason: 'stop', ...counters, ...rest })

// In the shape of recorded traffic: thoughts, text in many scripts, two calls with index 0, the counters.
const recorded = [
  line({ thinking: 'Nün' }),
  line({ thinking: ' denk\n"nach"' }),
  line({ content: 'Grüße' }),
  line({ content: ' 日本語 👩‍👩‍👧 \u2028 \\ "' }),
  line({ content: '\n\n' }),
  line({ tool_calls: [{ id: 'call_a', function: { index: 0, name: 'get_weather', arguments: { city: 'Tromsø', days: [1, 2] } } }] }),
  line({ tool_calls: [{ function: { index: 0, name: 'get_time', arguments: {} } }] }),
  done()
]
const recordedBytes = Buffer.from(recorded.map(entry => `${JSON.stringify(entry)}\n`).join(''))

// ---- the request

t.test('a request is mapped to Ollama field by field', t => {
  const image = 'data:image/png;base64,aGk='
  const messages = hello.messages
  const call = { id: 'call_1', type: 'function', function: { name: 'f', arguments: '{"a":{"b":1}}' } }
  const tool = { type: 'function', function: { name: 'f', parameters: { type: 'object', 'x-own': 1 } } }
  const of = (message: Json): Json => ({ messages: [message] })
  const table: readonly (readonly [string, Json, Json])[] = [
    ['content as a string', of({ role: 'user', content: 'a' }), of({ role: 'user', content: 'a' })],
    ['content null', of({ role: 'assistant', content: null }), of({ role: 'assistant', content: '' })],
    ['no content', of({ role: 'assistant' }), of({ role: 'assistant', content: '' })],
    [
      'text parts',
      of({
        role: 'user',
        content: [
          { type: 'text', text: 'a' },
          { type: 'text', text: 'b' }
        ]
      }),
      of({ role: 'user', content: 'a\nb' })
    ],
    ['no parts', of({ role: 'user', content: [] }), of({ role: 'user', content: '' })],
    [
      'text and images stay one message',
      of({
        role: 'user',
        content: [
          { type: 'text', text: 'a' },
          { type: 'image_url', image_url: { url: image, detail: 'low' } },
          { type: 'text', text: 'b' },
          { type: 'image_url', image_url: { url: 'data:;base64,aG8=' } }
        ]
      }),
      of({ role: 'user', content: 'a\nb', images: ['aGk=', 'aG8='] })
    ],
    [
      'an image as a bare string',
      of({ role: 'user', content: [{ type: 'image_url', image_url: image }] }),
      of({ role: 'user', content: '', images: ['aGk='] })
    ],
    ...['jpeg', 'jpg', 'png', 'webp', 'gif', 'PNG'].map((type): [string, Json, Json] => [
      type,
      of({ role: 'user', content: [{ type: 'image_url', image_url: { url: `data:image/${type};base64,aGk=` } }] }),
      of({ role: 'user', content: '', images: ['aGk='] })
    ]),
    ['developer', of({ role: 'developer', content: 'a' }), of({ role: 'system', content: 'a' })],
    ['function', of({ role: 'function', name: 'f', content: 'a' }), of({ role: 'tool', content: 'a', tool_name: 'f' })],
    [
      'a tool loop',
      {
        messages: [
          { role: 'assistant', content: null, tool_calls: [call] },
          { role: 'tool', tool_call_id: 'call_1', content: '7', name: 'other' }
        ]
      },
      {
        messages: [
          { role: 'assistant', content: '', tool_calls: [{ id: 'call_1', function: { name: 'f', arguments: { a: { b: 1 } } } }] },
          { role: 'tool', content: '7', tool_call_id: 'call_1', tool_name: 'f' }
        ]
      }
    ],
    [
      'a tool answer to a call not seen',
      of({ role: 'tool', tool_call_id: 'call_9', name: 'g', content: '7' }),
      of({ role: 'tool', content: '7', tool_call_id: 'call_9', tool_name: 'g' })
    ],
    [
      'empty arguments',
      of({ role: 'assistant', tool_calls: [{ function: { name: 'f', arguments: '' } }] }),
      of({ role: 'assistant', content: '', tool_calls: [{ function: { name: 'f', arguments: {} } }] })
    ],
    [
      'the old function_call',
      of({ role: 'assistant', function_call: { name: 'f', arguments: '{}' } }),
      of({ role: 'assistant', content: '', tool_calls: [{ function: { name: 'f', arguments: {} } }] })
    ],
    ['reasoning', of({ role: 'assistant', content: 'a', reasoning: 'b' }), of({ role: 'assistant', content: 'a', thinking: 'b' })],
    [
      'reasoning_content',
      of({ role: 'assistant', content: 'a', reasoning_content: 'b', reasoning: null }),
      of({ role: 'assistant', content: 'a', thinking: 'b' })
    ],
    [
      'our own answer sent back',
      of({ role: 'assistant', content: 'a', refusal: null, tool_calls: null }),
      of({ role: 'assistant', content: 'a' })
    ],
    ['max_completion_tokens before max_tokens', { max_completion_tokens: 5, max_tokens: 7 }, { options: { num_predict: 5 } }],
    ['max_tokens', { max_tokens: 7, max_completion_tokens: null }, { options: { num_predict: 7 } }],
    ['more than fits', { max_tokens: 1_000_000 }, { options: { num_predict: 4096 } }],
    ["Ollama's own bound", { options: { num_predict: 9 } }, { options: { num_predict: 9 } }],
    ['Ollama\'s own "no bound"', { options: { num_predict: -1 } }, {}],
    [
      "OpenAI's sampling",
      { temperature: 0, top_p: 0.5, seed: 7, presence_penalty: -1, frequency_penalty: 1.5 },
      { options: { temperature: 0, top_p: 0.5, seed: 7, presence_penalty: -1, frequency_penalty: 1.5 } }
    ],
    [
      "Ollama's sampling on top",
      { top_k: 40, min_p: 0.1, typical_p: 1, repeat_penalty: 1.1, repeat_last_n: -1 },
      { options: { top_k: 40, min_p: 0.1, typical_p: 1, repeat_penalty: 1.1, repeat_last_n: -1 } }
    ],
    [
      "Ollama's sampling in options",
      { options: { top_k: 40, temperature: 0.3, stop: ['a'] } },
      { options: { top_k: 40, temperature: 0.3, stop: ['a'] } }
    ],
    [
      'the top wins over options',
      { top_k: 1, temperature: null, options: { top_k: 2, temperature: 0.5 } },
      { options: { top_k: 1, temperature: 0.5 } }
    ],
    ["OpenRouter's repetition_penalty", { repetition_penalty: 1.2 }, { options: { repeat_penalty: 1.2 } }],
    [
      'options that reload the model stay behind',
      { num_ctx: 1, options: { num_ctx: 99, num_batch: 1, num_gpu: 1, main_gpu: 1, use_mmap: true, num_thread: 1, draft_num_predict: 1 } },
      {}
    ],
    ["the client's keep_alive, truncate and shift stay behind", { keep_alive: -1, truncate: true, shift: true, stream: false }, {}],
    ['stop as a string', { stop: 'x' }, { options: { stop: ['x'] } }],
    ['stop as a list', { stop: ['x', '', 'y'] }, { options: { stop: ['x', 'y'] } }],
    ['empty stops', { stop: '' }, {}],
    [
      'null everywhere',
      {
        temperature: null,
        stop: null,
        tools: null,
        tool_choice: null,
        response_format: null,
        reasoning_effort: null,
        reasoning: null,
        n: null,
        logprobs: null,
        options: null
      },
      {}
    ],
    ['text', { response_format: { type: 'text' } }, {}],
    ['json_object', { response_format: { type: 'json_object' } }, { format: 'json' }],
    [
      'json_schema',
      { response_format: { type: 'json_schema', json_schema: { name: 'a', strict: true, schema: { type: 'object' } } } },
      { format: { type: 'object' } }
    ],
    ['json_schema without a schema', { response_format: { type: 'json_schema', json_schema: { name: 'a' } } }, { format: 'json' }],
    ['tools', { tools: [tool], tool_choice: 'auto', parallel_tool_calls: false }, { tools: [tool] }],
    ['no tools', { tools: [] }, {}],
    ['tool_choice none', { tools: [tool], tool_choice: 'none' }, {}],
    ['logprobs', { logprobs: true, top_logprobs: 20 }, { logprobs: true, top_logprobs: 20 }],
    ['logprobs off', { logprobs: false, top_logprobs: 0 }, { logprobs: false, top_logprobs: 0 }],
    ...(
      [
        ['none', false],
        ['minimal', 'low'],
        ['low', 'low'],
        ['medium', 'medium'],
        ['high', 'high'],
        ['max', 'max'],
        ['xhigh', 'max'],
        ['ultra', 'max']
      ] as const
    ).flatMap(([effort, think]): [string, Json, Json][] => [
      [`reasoning_effort ${effort}`, { reasoning_effort: effort }, { think }],
      [`reasoning.effort ${effort}`, { reasoning: { effort } }, { think }]
    ]),
    ['reasoning off', { reasoning: { enabled: false }, reasoning_effort: 'high' }, { think: false }],
    ['reasoning on is what Ollama does anyway', { reasoning: { enabled: true } }, {}],
    ['think true', { think: true }, { think: true }],
    ['think false', { think: false }, { think: false }],
    ['think as a level', { think: 'high' }, { think: 'high' }],
    [
      'hints that Ollama has no place for',
      { user: 'u', metadata: {}, store: true, logit_bias: {}, service_tier: 'auto', modalities: ['text'], n: 1, functions: [] },
      {}
    ]
  ]
  for (const [name, given, expected] of table) {
    t.strictSame(
      toNativeChat({ model: 'x', messages, ...given }, target),
      {
        model: 'qwen3:8b',
        messages,
        stream: true,
        truncate: false,
        shift: false,
        ...expected,
        options: { num_predict: 4096, num_ctx: 4096, ...(expected.options as Json) }
      },
      name
    )
  }
  t.end()
})

t.test('what the target knows decides context, keep_alive and thinking', t => {
  const on = (changes: Partial<Target>, body: Json = {}) => toNativeChat({ ...hello, ...body }, { ...target, ...changes })
  t.same(on({ contextTokens: null }).options, { num_predict: 8192 }, 'an unknown context still bounds the answer, and is not set')
  t.same(on({ contextTokens: null }, { max_tokens: 9000 }).options, { num_predict: 8192 })
  t.same(on({ contextTokens: 32_768 }, { max_tokens: 9000 }).options, { num_predict: 9000, num_ctx: 32_768 })
  for (const keepAlive of ['24h', -1, 0]) {
    t.equal(on({ upstream: { ...upstream, device: { ...device, keepAlive } } }).keep_alive, keepAlive)
  }
  t.notOk('keep_alive' in on({}))
  t.notOk('keep_alive' in on({ upstream: { ...upstream, device: null } }))
  t.equal(on({ features: new Set(['reasoning'] as const) }, { reasoning_effort: 'low' }).think, 'low')
  t.notOk('think' in on({ features: new Set(['tools'] as const) }, { reasoning_effort: 'low' }), 'an effort is only a hint')
  t.throws(() => on({ features: new Set(['tools'] as const) }, { reasoning_effort: 'much' }), { code: 'invalid_request' })
  t.end()
})

t.test('what is wrong in a request is named', t => {
  const user = (...content: unknown[]): Json => ({
    messages: [
      { role: 'user', content: 'a' },
      { role: 'user', content }
    ]
  })
  const assistant = (message: Json): Json => ({ messages: [{ role: 'assistant', ...message }] })
  const calling = (call: unknown): Json => assistant({ tool_calls: [call] })
  const image = (url: unknown): Json => user({ type: 'text', text: 'a' }, { type: 'image_url', image_url: { url } })
  const invalid: readonly (readonly [string, Json])[] = [
    ['messages', { messages: [] }],
    ['messages', { messages: 'hello' }],
    ['messages[0]', { messages: ['hello'] }],
    ['messages[0].role', { messages: [{ role: 'robot', content: 'a' }] }],
    ['messages[0].role', { messages: [{ content: 'a' }] }],
    ['messages[0].content', { messages: [{ role: 'user', content: 7 }] }],
    ['messages[1].content[0]', user('a')],
    ['messages[1].content[0].text', user({ type: 'text', text: 7 })],
    ['messages[1].content[0].type', user({ type: 'refusal', refusal: 'no' })],
    ['messages[1].content[0].type', user({})],
    ['messages[1].content[1].image_url', image('https://example.com/a.png')],
    ['messages[1].content[1].image_url', image('data:image/svg+xml;base64,aGk=')],
    ['messages[1].content[1].image_url', image('data:image/png,aGk=')],
    ['messages[1].content[1].image_url', image('data:image/png;base64,')],
    ['messages[1].content[1].image_url', image(7)],
    ['messages[0].tool_calls', assistant({ tool_calls: {} })],
    ['messages[0].tool_calls[0]', calling('f')],
    ['messages[0].tool_calls[0].id', calling({ id: 7, function: { name: 'f', arguments: '{}' } })],
    ['messages[0].tool_calls[0].function', calling({ id: 'a' })],
    ['messages[0].tool_calls[0].function.name', calling({ function: { arguments: '{}' } })],
    ['messages[0].tool_calls[0].function.arguments', calling({ function: { name: 'f', arguments: '{"a":' } })],
    ['messages[0].tool_calls[0].function.arguments', calling({ function: { name: 'f', arguments: '[1]' } })],
    ['messages[0].tool_calls[0].function.arguments', calling({ function: { name: 'f', arguments: 7 } })],
    ['messages[0].reasoning', assistant({ reasoning: {} })],
    ['messages[0].reasoning_content', assistant({ reasoning_content: 7 })],
    ['messages[0].tool_call_id', { messages: [{ role: 'tool', tool_call_id: 7 }] }],
    ['messages[0].name', { messages: [{ role: 'tool', name: {} }] }],
    ...['max_tokens', 'max_completion_tokens', 'n'].flatMap(name =>
      ['7', 0, -1, 1.5].map((value): [string, Json] => [name, { [name]: value }])
    ),
    ...[
      'temperature',
      'top_p',
      'seed',
      'presence_penalty',
      'frequency_penalty',
      'top_k',
      'min_p',
      'typical_p',
      'repeat_penalty',
      'repetition_penalty',
      'repeat_last_n'
    ].flatMap((name): [string, Json][] => [
      [name, { [name]: '1' }],
      [`options.${name}`, { options: { [name]: true } }]
    ]),
    ['seed', { seed: 1.5 }],
    ['top_k', { top_k: 1.5 }],
    ['stop', { stop: 7 }],
    ['stop', { stop: ['a', 7] }],
    ['options', { options: [] }],
    ['options.num_predict', { options: { num_predict: 'many' } }],
    ['response_format', { response_format: 'json' }],
    ['response_format.type', { response_format: { type: 'xml' } }],
    ['response_format.json_schema', { response_format: { type: 'json_schema' } }],
    ['response_format.json_schema.schema', { response_format: { type: 'json_schema', json_schema: { schema: 'x' } } }],
    ['tools', { tools: {} }],
    ['tools[0]', { tools: ['f'] }],
    ['tools[0].function', { tools: [{ type: 'function' }] }],
    ['tools[0].function.name', { tools: [{ type: 'function', function: {} }] }],
    ['tool_choice', { tool_choice: 'sometimes' }],
    ['reasoning', { reasoning: 'high' }],
    ['reasoning.enabled', { reasoning: { enabled: 'no' } }],
    ['reasoning.effort', { reasoning: { effort: 'much' } }],
    ['reasoning_effort', { reasoning_effort: 'much' }],
    ['reasoning_effort', { reasoning_effort: 7 }],
    ['think', { think: 'much' }],
    ['logprobs', { logprobs: 'yes' }],
    ['top_logprobs', { top_logprobs: 21 }],
    ['functions', { functions: {} }],
    ['modalities', { modalities: 'text' }]
  ]
  const unsupported: readonly (readonly [string, Json])[] = [
    ['messages[1].content[0].input_audio', user({ type: 'input_audio', input_audio: { data: 'aGk=', format: 'wav' } })],
    ['messages[1].content[0].file', user({ type: 'file', file: { file_id: 'file-1' } })],
    ['messages[0].tool_calls[0].type', calling({ type: 'custom', custom: { name: 'f', input: 'x' } })],
    ['tools[0].type', { tools: [{ type: 'custom', custom: { name: 'f' } }] }],
    ['tool_choice', { tool_choice: 'required' }],
    ['tool_choice', { tool_choice: { type: 'function', function: { name: 'f' } } }],
    ['n', { n: 2 }],
    ['functions', { functions: [{ name: 'f' }] }],
    ['modalities', { modalities: ['text', 'audio'] }]
  ]
  const check = (code: string, table: readonly (readonly [string, Json])[]): void => {
    for (const [param, body] of table)
      t.throws(() => toNativeChat({ ...hello, ...body }, target), { code, status: 400, param }, `${param} ${JSON.stringify(body)}`)
  }
  check('invalid_request', invalid)
  check('unsupported_parameter', unsupported)
  t.throws(() => toNativeChat({ ...hello, ...image('https://example.com/secret.png') }, target), { message: /^(?!.*secret).*data: URI/ })
  t.throws(() => toNativeChat({ ...hello, ...calling({ function: { name: 'f', arguments: '{"secret' } }) }, target), {
    message: /^(?!.*secret)/
  })
  t.end()
})

t.test('a wrong request is told after chat has returned, and nothing is sent', async t => {
  let requests = 0
  const baseUrl = await serve(t, () => {
    requests++
  })
  for (const [code, body] of [
    ['invalid_request', { messages: [] }],
    ['invalid_request', { messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'http://a' } }] }] }],
    ['unsupported_parameter', { ...hello, n: 2 }]
  ] as const) {
    const heard = listen()
    const handle = createAdapter(createPorts(t)).chat(attemptFor({ body, upstream: { baseUrl } }), heard.observer)
    t.same(heard.calls, [])
    t.match(await heard.ended, { ok: false, sent: false, error: { code } })
    handle.resume()
    handle.abort()
    t.same(heard.calls, ['end'])
  }
  t.equal(requests, 0)
})

t.test("a request too large or too deep to be written is the client's fault", async t => {
  // As Node 22 does at some thousand levels; Node 26 has no such limit.
  const parameters = {
    toJSON() {
      throw new RangeError('Maximum call stack size exceeded')
    }
  }
  const heard = listen()
  createAdapter(createPorts(t)).chat(
    attemptFor({ body: { ...hello, tools: [{ type: 'function', function: { name: 'f', parameters } }] } }),
    heard.observer
  )
  t.match(await heard.ended, { ok: false, sent: false, error: { code: 'invalid_request' } })
})

t.test('what goes over the wire: path, method, headers, key, body', async t => {
  const seen: { url: string | undefined; method: string | undefined; headers: IncomingMessage['headers']; body: Json }[] = []
  const handler: RequestListener = async (request, response) => {
    seen.push({ url: request.url, method: request.method, headers: request.headers, body: await bodyOf(request) })
    answer([done()])(request, response)
  }
  const baseUrl = await serve(t, handler)
  const adapter = createAdapter(createPorts(t))
  for (const changes of [
    { baseUrl },
    {
      baseUrl: `${baseUrl}/behind/a/proxy/`,
      apiKey: 'sk-1',
      headers: { 'X-Own': '1', Authorization: 'Basic x', 'Content-Type': 'text/plain' }
    }
  ]) {
    const heard = listen()
    adapter.chat(attemptFor({ upstream: changes, stream: false }), heard.observer)
    t.same(await heard.ended, { ok: true })
  }
  t.match(seen, [
    {
      url: '/api/chat',
      method: 'POST',
      headers: { 'content-type': 'application/json', 'x-client-request-id': 'attempt-1', authorization: undefined },
      body: { stream: true, model: 'qwen3:8b', truncate: false, shift: false }
    },
    { url: '/behind/a/proxy/api/chat', headers: { 'content-type': 'application/json', 'x-own': '1', authorization: 'Bearer sk-1' } }
  ])
})

t.test('a base URL or header that cannot be used is an error of the machine, told once', async t => {
  for (const changes of [{ baseUrl: 'home' }, { headers: { 'x-own': 'a\nb' } }]) {
    const heard = listen()
    createAdapter(createPorts(t)).chat(attemptFor({ upstream: changes }), heard.observer)
    t.same(heard.calls, [])
    t.match(await heard.ended, { ok: false, sent: false, error: { code: 'upstream_unavailable' } })
    t.same(heard.calls, ['end'])
  }
})

// ---- the answer

t.test("a stream becomes OpenAI's chunks", async t => {
  const { heard, end } = await ask(t, answer(recorded), { includeUsage: true })
  t.same(end, { ok: true })
  const chunks = chunksOf(heard.frames)
  const id = chunks[0]?.id
  t.match(id, /^chatcmpl-r\d+$/)
  for (const chunk of chunks) {
    t.match(chunk, {
      id,
      object: 'chat.completion.chunk',
      created: 1_788_256_800,
      model: 'qwen3:8b',
      system_fingerprint: 'fp_ollama',
      usage: null
    })
    t.match(choiceOf(chunk), { index: 0, logprobs: null })
  }
  const call = (index: number, id: unknown, name: string, args: string): Json => ({
    tool_calls: [{ index, id, type: 'function', function: { name, arguments: args } }]
  })
  t.match(deltasOf(heard.frames), [
    { role: 'assistant', content: '', refusal: null },
    { reasoning: 'Nün' },
    { reasoning: ' denk\n"nach"' },
    { content: 'Grüße' },
    { content: ' 日本語 👩‍👩‍👧 \u2028 \\ "' },
    { content: '\n\n' },
    call(0, 'call_a', 'get_weather', '{"city":"Tromsø","days":[1,2]}'),
    call(1, /^call_r\d+$/, 'get_time', '{}'),
    {}
  ])
  t.same(
    chunks.map(chunk => choiceOf(chunk).finish_reason),
    [...Array(8).fill(null), 'tool_calls']
  )
  t.same(deltasOf(heard.frames).at(-1), {}, 'the finish chunk is empty')
  t.equal(
    heard.tokens.reduce((sum, tokens) => sum + tokens, 0),
    7
  )
  t.same(heard.calls.slice(-3), ['frames', 'usage', 'end'])
  t.same(heard.usage, {
    promptTokens: 17,
    completionTokens: 50,
    cachedTokens: 0,
    reasoningTokens: 0,
    providerNanoUsd: null,
    busyMs: (1_631_208 + 313_560_000 + 1_577_990_000) / 1e6
  })
  const [usageChunk] = chunksOf(heard.usageEvent as Buffer)
  t.strictSame(usageChunk, {
    id,
    object: 'chat.completion.chunk',
    created: 1_788_256_800,
    model: 'qwen3:8b',
    system_fingerprint: 'fp_ollama',
    choices: [],
    usage: { prompt_tokens: 17, completion_tokens: 50, total_tokens: 67 }
  })
})

t.test('without a wish for usage no chunk mentions it, and the event is there all the same', async t => {
  const { heard } = await ask(t, answer(recorded))
  t.ok(chunksOf(heard.frames).every(chunk => !('usage' in chunk)))
  t.match(chunksOf(heard.usageEvent as Buffer), [{ choices: [], usage: { total_tokens: 67 } }])
})

t.test('all lines of one network chunk are one call', async t => {
  const outbound = fakeOutbound([recordedBytes.subarray(0, 300), recordedBytes.subarray(300)])
  const heard = listen()
  createAdapter({ ...createPorts(t), outbound }).chat(attemptFor({}), heard.observer)
  t.same(await heard.ended, { ok: true })
  t.same(heard.calls, ['frames', 'frames', 'usage', 'end'])
  t.same(heard.tokens, [2, 5])
})

t.test('the answer is the same wherever the network cuts it', async t => {
  const replay = async (chunks: readonly Buffer[]): Promise<Heard> => {
    const heard = listen()
    createAdapter({ ...createPorts(t), outbound: fakeOutbound(chunks) }).chat(attemptFor({ includeUsage: true }), heard.observer)
    t.same(await heard.ended, { ok: true })
    return heard
  }
  const whole = (await replay([recordedBytes])).frames.toString()
  let different = 0
  for (let cut = 1; cut < recordedBytes.length; cut++) {
    const heard = await replay([recordedBytes.subarray(0, cut), recordedBytes.subarray(cut)])
    if (heard.frames.toString() !== whole) different++
    if (heard.tokens.reduce((sum, tokens) => sum + tokens, 0) !== 7) different++
  }
  t.equal(different, 0)
  t.equal((await replay(Array.from(recordedBytes, byte => Buffer.from([byte])))).frames.toString(), whole, 'byte by byte')
  t.equal(
    (await replay([Buffer.from(recordedBytes.toString().replaceAll('\n', '\r\n').trimEnd())])).frames.toString(),
    whole,
    'CRLF, and no end of the last line'
  )
})

/** An outbound that answers 200 with these chunks. */
function fakeOutbound(chunks: readonly Buffer[]): Outbound {
  return {
    send(_request, observer: ExchangeObserver) {
      queueMicrotask(() => {
        observer.head(200, { 'content-type': 'application/x-ndjson' })
        for (const chunk of chunks) observer.data(chunk)
        observer.end()
      })
      return { sent: true, resume() {}, abort() {} }
    },
    fetchText: () => Promise.reject(new Error('not here')),
    close: async () => {}
  }
}

t.test('the strictest client there is understands the stream and the whole answer', async t => {
  const complete = async (handler: RequestListener) => {
    const { heard } = await ask(t, handler, { includeUsage: true })
    const bytes = Buffer.concat([heard.frames, heard.usageEvent as Buffer, Buffer.from('data: [DONE]\n\n')])
    const client = new OpenAI({
      apiKey: 'none',
      maxRetries: 0,
      fetch: async () => new Response(bytes, { headers: { 'content-type': 'text/event-stream' } })
    })
    return client.chat.completions.stream({ model: 'x', messages: [], stream_options: { include_usage: true } }).finalChatCompletion()
  }
  t.match(await complete(answer(recorded)), {
    usage: { total_tokens: 67 },
    choices: [
      {
        finish_reason: 'tool_calls',
        message: {
          role: 'assistant',
          content: 'Grüße 日本語 👩‍👩‍👧 \u2028 \\ "\n\n',
          tool_calls: [
            { id: 'call_a', type: 'function', function: { name: 'get_weather', arguments: '{"city":"Tromsø","days":[1,2]}' } },
            { type: 'function', function: { name: 'get_time', arguments: '{}' } }
          ]
        }
      }
    ]
  })
  t.match(await complete(answer([line({ tool_calls: [{ function: { name: 'f', arguments: {} } }] }), done()])), {
    choices: [{ finish_reason: 'tool_calls', message: { content: null } }]
  })
  t.match(await complete(answer([done()])), { choices: [{ finish_reason: 'stop', message: { content: '' } }] }, 'an empty answer too')

  const { heard } = await ask(t, answer(recorded), { stream: false })
  const client = new OpenAI({
    apiKey: 'none',
    maxRetries: 0,
    fetch: async () => new Response(heard.body, { headers: { 'content-type': 'application/json' } })
  })
  t.match(await client.chat.completions.create({ model: 'x', messages: [] }), {
    choices: [{ finish_reason: 'tool_calls' }],
    usage: { total_tokens: 67 }
  })
})

t.test('an answer that is not streamed is assembled, its figures first', async t => {
  const { heard, end } = await ask(t, answer(recorded), { stream: false, includeUsage: true })
  t.same(end, { ok: true })
  t.same(heard.calls, ['usage', 'body', 'end'])
  t.equal(heard.usageEvent, null)
  t.match(heard.usage, { promptTokens: 17, completionTokens: 50 })
  const body = JSON.parse(String(heard.body))
  t.match(body, { id: /^chatcmpl-r\d+$/, choices: [{ message: { tool_calls: [{}, { id: /^call_r\d+$/ }] } }] })
  t.strictSame(body, {
    id: body.id,
    object: 'chat.completion',
    created: 1_788_256_800,
    model: 'qwen3:8b',
    system_fingerprint: 'fp_ollama',
    choices: [
      {
        index: 0,
        message: {
          role: 'assistant',
          content: 'Grüße 日本語 👩‍👩‍👧 \u2028 \\ "\n\n',
          reasoning: 'Nün denk\n"nach"',
          tool_calls: [
            { id: 'call_a', type: 'function', function: { name: 'get_weather', arguments: '{"city":"Tromsø","days":[1,2]}' } },
            { id: body.choices[0].message.tool_calls[1].id, type: 'function', function: { name: 'get_time', arguments: '{}' } }
          ],
          refusal: null
        },
        logprobs: null,
        finish_reason: 'tool_calls'
      }
    ],
    usage: { prompt_tokens: 17, completion_tokens: 50, total_tokens: 67 }
  })
})

t.test('an assembled message holds only what there was', async t => {
  const message = async (lines: readonly Json[]) =>
    JSON.parse(String((await ask(t, answer(lines), { stream: false })).heard.body)).choices[0].message
  t.strictSame(await message([line({ content: 'Hi' }), done()]), { role: 'assistant', content: 'Hi', refusal: null })
  t.strictSame(await message([done()]), { role: 'assistant', content: '', refusal: null })
  t.match(await message([line({ tool_calls: [{ id: 'a', function: { name: 'f', arguments: {} } }] }), done()]), {
    content: null,
    tool_calls: [{ id: 'a' }]
  })
  t.strictSame(await message([{ ...done(), message: { role: 'assistant', content: 'all at once' } }]), {
    role: 'assistant',
    content: 'all at once',
    refusal: null
  })
})

t.test('one JSON body without a newline is an answer too', async t => {
  const handler: RequestListener = (_request, response) => {
    response
      .writeHead(200, { 'content-type': 'Application/JSON; charset=utf-8' })
      .end(JSON.stringify({ ...done(), message: { role: 'assistant', content: 'Hi' } }))
  }
  const { heard, end } = await ask(t, handler)
  t.same(end, { ok: true })
  t.strictSame(deltasOf(heard.frames), [{ role: 'assistant', content: '', refusal: null }, { content: 'Hi' }, {}])
})

t.test('thoughts go where the configuration wants them', async t => {
  const table: readonly (readonly [ReasoningField, Json])[] = [
    ['reasoning', { reasoning: 'hm' }],
    ['reasoning_content', { reasoning_content: 'hm' }],
    ['both', { reasoning: 'hm', reasoning_content: 'hm' }]
  ]
  for (const [field, expected] of table) {
    const lines = [line({ thinking: 'hm' }), line({ content: 'a' }), done()]
    const streamed = await ask(t, answer(lines), {}, field)
    t.strictSame(deltasOf(streamed.heard.frames)[1], expected)
    const whole = await ask(t, answer(lines), { stream: false }, field)
    t.strictSame(JSON.parse(String(whole.heard.body)).choices[0].message, { role: 'assistant', content: 'a', ...expected, refusal: null })
  }
  const { heard } = await ask(t, answer([line({ thinking: 'hm', content: 'a' }), done()]))
  t.strictSame(deltasOf(heard.frames).slice(1, -1), [{ reasoning: 'hm' }, { content: 'a' }], 'both in one line')
})

t.test('parallel calls get their own index and id, whatever Ollama gives them', async t => {
  const call = (id: string | undefined, name: string, args: unknown): Json => ({ id, function: { index: 0, name, arguments: args } })
  const lines = [
    line({ tool_calls: [call('same', 'a', { x: 1 }), call('same', 'b', {}), call('', 'c', undefined)] }),
    line({ tool_calls: [call(undefined, 'd', '{"given":"as text"}')] }),
    done()
  ]
  const { heard } = await ask(t, answer(lines))
  const calls = deltasOf(heard.frames).flatMap(delta => (delta.tool_calls ?? []) as { index: number; id: string; function: Json }[])
  t.same(
    calls.map(call => call.index),
    [0, 1, 2, 3]
  )
  t.equal(calls[0]?.id, 'same')
  t.equal(new Set(calls.map(call => call.id)).size, 4)
  t.same(
    calls.map(call => call.function.arguments),
    ['{"x":1}', '{}', '{}', '{"given":"as text"}']
  )
  t.equal(deltasOf(heard.frames)[0]?.content, null, 'no text is announced')
})

t.test("the end of an answer has one of OpenAI's reasons", async t => {
  const text = line({ content: 'a' })
  const calls = line({ tool_calls: [{ function: { name: 'f', arguments: {} } }] })
  const table: readonly (readonly [unknown, Json, string])[] = [
    ['stop', text, 'stop'],
    ['length', text, 'length'],
    ['load', text, 'stop'],
    ['unload', text, 'stop'],
    ['', text, 'stop'],
    [undefined, text, 'stop'],
    [7, text, 'stop'],
    ['stop', calls, 'tool_calls'],
    [undefined, calls, 'tool_calls'],
    ['length', calls, 'length']
  ]
  for (const [reason, first, expected] of table) {
    const { heard } = await ask(t, answer([first, done({ done_reason: reason })]))
    const reasons = chunksOf(heard.frames).map(chunk => choiceOf(chunk).finish_reason)
    t.same(reasons, [...Array(reasons.length - 1).fill(null), expected], `${reason}`)
    const whole = await ask(t, answer([first, done({ done_reason: reason })]), { stream: false })
    t.equal(JSON.parse(String(whole.heard.body)).choices[0].finish_reason, expected)
  }
})

t.test("log probabilities take OpenAI's form", async t => {
  const logprobs = [
    { token: 'a', logprob: -0.5, bytes: [97], top_logprobs: [{ token: 'b', logprob: -1 }, { token: 7 }] },
    { token: 'no number' }
  ]
  const expected = {
    content: [{ token: 'a', logprob: -0.5, bytes: [97], top_logprobs: [{ token: 'b', logprob: -1, bytes: null }] }],
    refusal: null
  }
  const lines = [
    line({ thinking: 'h' }, { logprobs }),
    line({ content: 'a' }, { logprobs }),
    line({}, { logprobs }),
    line({ content: 'b' }),
    done()
  ]
  const { heard } = await ask(t, answer(lines))
  t.strictSame(
    chunksOf(heard.frames).map(chunk => choiceOf(chunk).logprobs),
    [null, expected, expected, expected, null, null]
  )
  const whole = await ask(t, answer(lines), { stream: false })
  t.strictSame(JSON.parse(String(whole.heard.body)).choices[0].logprobs, { content: Array(3).fill(expected.content[0]), refusal: null })
})

t.test('counters that are absent or nonsense count as nothing', async t => {
  const zero = { promptTokens: 0, completionTokens: 0, cachedTokens: 0, reasoningTokens: 0, providerNanoUsd: null }
  const without = {
    total_duration: undefined,
    load_duration: undefined,
    prompt_eval_count: undefined,
    prompt_eval_duration: undefined,
    eval_count: undefined,
    eval_duration: undefined
  }
  const table: readonly (readonly [string, Json, Json])[] = [
    ['none at all', without, { ...zero, busyMs: null }],
    ['only the whole time', { ...without, total_duration: 5e6 }, { ...zero, busyMs: 5 }],
    ['only one part', { ...without, total_duration: 5e6, eval_duration: 3e6 }, { ...zero, busyMs: 3 }],
    [
      'nonsense',
      { load_duration: -1, prompt_eval_duration: 'x', eval_duration: 2e6, prompt_eval_count: -5, eval_count: 1.5 },
      { ...zero, busyMs: 2 }
    ],
    [
      'too large',
      { load_duration: 0, prompt_eval_duration: 0, eval_duration: 0, prompt_eval_count: 1e300, eval_count: null },
      { ...zero, busyMs: 0 }
    ]
  ]
  for (const [name, rest, expected] of table)
    t.strictSame((await ask(t, answer([line({ content: 'a' }), done(rest)]))).heard.usage, expected, name)
})

t.test('the time on the chunks is that of the first line, or ours', async t => {
  const created = async (at: unknown) =>
    chunksOf((await ask(t, answer([{ ...line({ content: 'a' }), created_at: at }, done()]))).heard.frames).map(chunk => chunk.created)
  t.same(new Set(await created('2024-05-24T20:26:46.294874+02:00')), new Set([1_716_575_206]))
  for (const at of [undefined, 'yesterday', 7, '0001-01-01T00:00:00Z', `2024${' '.repeat(100)}`])
    t.same(new Set(await created(at)), new Set([1_790_000_000]), String(at).slice(0, 20))
})

t.test('what comes after the last line is not read', async t => {
  const { heard, end } = await ask(t, answer([line({ content: 'a' }), done(), line({ content: 'b' }), { error: 'late' }, 'not json']))
  t.same(end, { ok: true })
  t.strictSame(deltasOf(heard.frames).slice(1), [{ content: 'a' }, {}])
  t.equal(heard.calls.filter(call => call === 'usage' || call === 'end').length, 2)
})

t.test('an answer is over at its last line, and a connection left open behind it is closed', async t => {
  let isClosed = false
  const { end } = await ask(t, (_request, response) => {
    response.on('close', () => {
      isClosed = true
    })
    startNdjson(response).write(recordedBytes)
  })
  t.same(end, { ok: true })
  await until(() => isClosed, 'the upstream was closed')
})

t.test('connections are used again', async t => {
  const ports = new Set<number | undefined>()
  const baseUrl = await serve(t, (request, response) => {
    ports.add(request.socket.remotePort)
    answer(recorded)(request, response)
  })
  const adapter = createAdapter(createPorts(t))
  for (let index = 0; index < 5; index++) {
    const heard = listen()
    adapter.chat(attemptFor({ upstream: { baseUrl } }), heard.observer)
    await heard.ended
    // The next request must not overtake the end of the body.
    await turns(5)
  }
  t.equal(ports.size, 1)
})

// ---- failures

const status =
  (code: number, body: unknown, headers: Record<string, string> = {}): RequestListener =>
  (_request, response) => {
    response.writeHead(code, headers).end(typeof body === 'string' ? body : JSON.stringify(body))
  }

t.test('a status and its text say what went wrong', async t => {
  const html = '<html><head><title>502 Bad Gateway</title></head><body><h1>nginx</h1></body></html>'
  const table: readonly (readonly [string, RequestListener, Json])[] = [
    [
      '404',
      status(404, { error: 'model "x" not found, try pulling it first' }),
      { code: 'upstream_lacks_model', message: /home\/qwen3:8b.*404.*not found/ }
    ],
    [
      'too long',
      status(400, { error: 'the prompt is longer than the context length of the model' }),
      { code: 'context_length_exceeded', param: 'messages' }
    ],
    [
      'too long, other words',
      status(400, { error: 'the input length exceeds the context length' }),
      { code: 'context_length_exceeded', param: 'messages' }
    ],
    ['too long, few words', status(400, { error: 'too long' }), { code: 'context_length_exceeded' }],
    ['too long as 500', status(500, { error: 'input length exceeds maximum context length' }), { code: 'context_length_exceeded' }],
    [
      'no tools',
      status(400, { error: 'registry.ollama.ai/library/x does not support tools' }),
      { code: 'unsupported_parameter', param: 'tools' }
    ],
    ['no thinking', status(400, { error: '"x" does not support thinking' }), { code: 'unsupported_parameter', param: 'reasoning_effort' }],
    ['no chat', status(400, { error: '"x" does not support chat' }), { code: 'unsupported_parameter', param: null }],
    [
      'another 400',
      status(400, { error: 'invalid character in request' }),
      { code: 'upstream_refused', status: 400, message: /invalid character/ }
    ],
    ['another 4xx', status(422, { error: 'hm' }), { code: 'upstream_refused', status: 422 }],
    ['401', status(401, { error: 'unauthorized', signin_url: 'https://example.com' }), { code: 'upstream_denied' }],
    ['403', status(403, { error: 'cloud is disabled' }), { code: 'upstream_denied', message: /cloud is disabled/ }],
    ['403 without a body', status(403, ''), { code: 'upstream_denied', message: /Host.*IP address/ }],
    ['429', status(429, { error: 'slow down' }, { 'retry-after': '7' }), { code: 'upstream_rate_limited', retryAfterMs: 7000 }],
    ['429 without a time', status(429, ''), { code: 'upstream_rate_limited', retryAfterMs: null }],
    ['499', status(499, { error: 'request canceled' }), { code: 'upstream_rate_limited', retryAfterMs: 1000 }],
    [
      '503',
      status(503, { error: 'server busy, please try again.  maximum pending requests exceeded' }),
      { code: 'upstream_rate_limited', retryAfterMs: 1000, breaker: 'cool_down' }
    ],
    [
      '500',
      status(500, { error: 'model requires more system memory (20 GiB) than is available (8 GiB)' }),
      { code: 'upstream_unavailable', status: 502, message: /more system memory/ }
    ],
    ['500, a deadline', status(500, { error: 'context deadline exceeded' }), { code: 'upstream_unavailable' }],
    ['500, not text', status(500, { error: { code: 7, message: 'an object' } }), { code: 'upstream_unavailable', message: /an object/ }],
    ['502 with HTML', status(502, html), { code: 'upstream_unavailable', message: /^(?!.*<).*502 Bad Gateway nginx/ }],
    ['504 without a body', status(504, ''), { code: 'upstream_unavailable', status: 504 }],
    ['a redirect is not followed', status(302, '', { location: 'http://127.0.0.1:9/' }), { code: 'upstream_unavailable', status: 502 }],
    ['a long text is cut', status(500, { error: 'x'.repeat(5000) }), { code: 'upstream_unavailable', message: /^.{0,50}x{500}$/ }],
    ['an endless body is not read', endless(500), { code: 'upstream_unavailable' }],
    ['a body that breaks off', breakOff(500, '{"error":"half'), { code: 'upstream_unavailable', status: 502 }],
    ['200, but HTML', status(200, html, { 'content-type': 'text/html' }), { code: 'upstream_unavailable', message: /text\/html/ }],
    ['200 without a type', status(200, ''), { code: 'upstream_unavailable' }]
  ]
  for (const [name, handler, expected] of table) {
    // No time runs out here: an endless body has to be seen as one.
    const timeouts = { connectMs: 1000, firstTokenMs: 60_000, idleMs: 60_000, totalMs: 60_000 }
    const { heard, end } = await ask(t, handler, { upstream: { timeouts } })
    t.match(end, { ok: false, sent: true, error: expected }, name)
    t.ok(!end.ok && end.error instanceof GatewayError)
    t.same(heard.calls, ['end'], name)
  }
})

function endless(code: number): RequestListener {
  return (_request, response) => {
    response.writeHead(code, { 'content-type': 'text/html' })
    const more = (): void => {
      while (!response.destroyed && response.write('<'.repeat(16 * 1024)));
    }
    response.on('drain', more)
    more()
  }
}

function breakOff(code: number, text: string): RequestListener {
  return (_request, response) => {
    response.writeHead(code, { 'content-type': 'application/x-ndjson', 'content-length': '100000' })
    response.write(text, () => response.destroy())
  }
}

t.test('a stream that fails before its first token may run elsewhere; after it, it is broken', async t => {
  const start = line({})
  const token = line({ content: 'a' })
  const raw = (...parts: unknown[]): string => parts.map(part => `${typeof part === 'string' ? part : JSON.stringify(part)}\n`).join('')
  const cut = (lines: string): RequestListener => breakOff(200, lines)
  const ended =
    (lines: string): RequestListener =>
    (_request, response) => {
      startNdjson(response).end(lines)
    }
  const table: readonly (readonly [string, (lines: string) => RequestListener, string])[] = [
    ['the end before done', ended, ''],
    ['half a line, and the end', ended, '{"model":"x","mess'],
    ['a broken connection', cut, ''],
    ['not JSON', ended, raw('what?', done())],
    ['not an object', ended, raw('7', done())],
    ['a list', ended, raw([], done())],
    ['a message that is none', ended, raw({ message: 'a' }, done())],
    ['content that is none', ended, raw(line({ content: 7 }), done())],
    ['calls that are none', ended, raw(line({ tool_calls: {} }), done())],
    ['a call without a name', ended, raw(line({ tool_calls: [{ function: { arguments: {} } }] }), done())],
    ['arguments that are none', ended, raw(line({ tool_calls: [{ function: { name: 'f', arguments: 7 } }] }), done())],
    ['a line without end', ended, raw('x'.repeat(1024 * 1024 + 1), done())]
  ]
  for (const [name, how, lines] of table) {
    for (const stream of [true, false]) {
      const before = await ask(t, how(raw(start) + lines), { stream })
      t.match(
        before.end,
        { ok: false, sent: true, error: { code: 'upstream_unavailable', status: 502, nextTarget: true } },
        `${name}, before`
      )
      t.same(before.heard.calls, ['end'])
      const after = await ask(t, how(raw(start, token) + lines), { stream })
      // Of an answer that is not streamed the client has seen nothing: another target may still give it.
      const code = stream ? 'upstream_broke' : 'upstream_unavailable'
      t.match(after.end, { ok: false, sent: true, error: { code, status: 502, nextTarget: !stream } }, `${name}, after`)
      t.same([...new Set(after.heard.calls)], stream ? ['frames', 'end'] : ['end'], 'no clean finish, no usage')
      if (stream) t.strictSame(deltasOf(after.heard.frames).slice(1), [{ content: 'a' }])
    }
  }
})

t.test('an error line is mapped by its text before the first token, and ends the answer after it', async t => {
  const table: readonly (readonly [unknown, Json])[] = [
    ['model "x" not found, try pulling it first', { code: 'upstream_lacks_model' }],
    ['the prompt is longer than the context length', { code: 'context_length_exceeded', param: 'messages' }],
    ['"x" does not support tools', { code: 'unsupported_parameter', param: 'tools' }],
    ['server busy, please try again.  maximum pending requests exceeded', { code: 'upstream_rate_limited', retryAfterMs: 1000 }],
    ['unauthorized', { code: 'upstream_denied' }],
    ['an error was encountered while running the model: CUDA error', { code: 'upstream_unavailable', message: /CUDA error/ }],
    [{ message: 'an object' }, { code: 'upstream_unavailable', message: /an object/ }],
    [7, { code: 'upstream_unavailable' }]
  ]
  for (const [error, expected] of table) {
    const before = await ask(t, answer([{ error }]))
    t.match(before.end, { ok: false, sent: true, error: expected }, `${error}`)
    const after = await ask(t, answer([line({ content: 'a' }), { error }]))
    t.match(after.end, {
      ok: false,
      sent: true,
      error: { code: 'upstream_broke', message: typeof error === 'string' ? error.slice(0, 10) : /error/ }
    })
    t.same([...new Set(after.heard.calls)], ['frames', 'end'])
  }
})

t.test('a machine that is not there was not sent anything', async t => {
  const server = createServer()
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise(resolve => server.close(resolve))
  const heard = listen()
  createAdapter(createPorts(t)).chat(attemptFor({ upstream: { baseUrl: `http://127.0.0.1:${port}` } }), heard.observer)
  t.match(await heard.ended, { ok: false, sent: false, error: { code: 'upstream_unavailable', status: 502, message: /ECONNREFUSED/ } })
})

t.test('a machine that hangs up without an answer may have been sent everything', async t => {
  const { end } = await ask(t, request => {
    request.socket.destroy()
  })
  t.match(end, { ok: false, sent: true, error: { code: 'upstream_unavailable', status: 502 } })
})

t.test('an assembled answer has a bound', async t => {
  const token = `${JSON.stringify(line({ content: 'x'.repeat(900 * 1024) }))}\n`
  const { heard, end } = await ask(
    t,
    (_request, response) => {
      startNdjson(response)
      let left = 40
      const more = (): void => {
        while (left-- > 0) if (!response.write(token)) return
        response.end(`${JSON.stringify(done())}\n`)
      }
      response.on('drain', more)
      more()
    },
    { stream: false }
  )
  t.match(end, { ok: false, error: { code: 'upstream_unavailable', message: /larger than 33554432 bytes/ } })
  t.same(heard.calls, ['end'])
})

// ---- back-pressure, abort, time

t.test('a reader that is full stops the upstream, and gets the rest when it has room', async t => {
  const token = `${JSON.stringify(line({ content: 'x'.repeat(1000) }))}\n`
  const count = 20_000
  let response: ServerResponse | undefined
  const baseUrl = await serve(t, (_request, started) => {
    response = startNdjson(started)
    for (let index = 0; index < count; index++) response.write(token)
    response.end(`${JSON.stringify(done())}\n`)
  })
  const heard = listen()
  heard.room = false
  let received = 0
  const observer = {
    ...heard.observer,
    frames: (events: Buffer, tokens: number) => {
      received += tokens
      return heard.observer.frames(events.subarray(0, 0), tokens)
    }
  }
  const handle = createAdapter(createPorts(t)).chat(attemptFor({ upstream: { baseUrl } }), observer)
  await until(() => heard.calls.length > 0, 'the first tokens came')
  await turns(500)
  t.same(heard.calls, ['frames'], 'not a byte was read after the first false')
  t.ok(received < 200, `${received} tokens`)
  t.ok(Number(response?.writableLength) > 5_000_000, `${response?.writableLength} bytes wait in the machine`)
  handle.resume()
  await until(() => heard.calls.length === 2, 'one more batch came')
  t.notOk(response?.writableFinished)
  heard.room = true
  handle.resume()
  t.same(await heard.ended, { ok: true })
  t.equal(received, count)
})

t.test('a reader that has room again while it is being told does not wait forever', async t => {
  const baseUrl = await serve(t, answer([...Array(2000).fill(line({ content: 'x'.repeat(500) })), done()]))
  const heard = listen()
  const handle = createAdapter(createPorts(t)).chat(attemptFor({ upstream: { baseUrl } }), {
    ...heard.observer,
    frames(events, tokens) {
      heard.observer.frames(events.subarray(0, 0), tokens)
      handle.resume()
      return false
    }
  })
  t.same(await heard.ended, { ok: true })
  t.equal(
    heard.tokens.reduce((sum, tokens) => sum + tokens, 0),
    2000
  )
})

t.test('an abort closes the upstream and ends the attempt once, whenever it comes', async t => {
  const table: readonly (readonly [string, boolean, RequestListener, (heard: Heard, isAsked: () => boolean) => boolean])[] = [
    ['before an answer', true, () => {}, (_heard, isAsked) => isAsked()],
    ['before an answer, not streamed', false, () => {}, (_heard, isAsked) => isAsked()],
    [
      'in a stream',
      true,
      (_request, response) => {
        startNdjson(response).write(`${JSON.stringify(line({ content: 'a' }))}\n`)
      },
      heard => heard.calls.length > 0
    ]
  ]
  for (const [name, stream, handler, isReady] of table) {
    let isAsked = false
    let isClosed = false
    const baseUrl = await serve(t, (request, response) => {
      isAsked = true
      request.on('close', () => {})
      response.on('close', () => {
        isClosed = true
      })
      handler(request, response)
    })
    const heard = listen()
    const handle = createAdapter(createPorts(t)).chat(attemptFor({ stream, upstream: { baseUrl } }), heard.observer)
    await until(() => isReady(heard, () => isAsked), 'the attempt is under way')
    handle.abort()
    t.match(await heard.ended, { ok: false, sent: true, error: { code: 'client_gone' } }, name)
    handle.abort()
    handle.resume()
    await until(() => isClosed, 'the upstream was closed')
    t.equal(heard.calls.filter(call => call === 'end').length, 1)
  }
})

t.test('an abort from within a callback is the last word', async t => {
  const baseUrl = await serve(t, answer(recorded))
  const heard = listen()
  const handle = createAdapter(createPorts(t)).chat(attemptFor({ upstream: { baseUrl } }), {
    ...heard.observer,
    frames(events, tokens) {
      heard.observer.frames(events, tokens)
      handle.abort()
      return true
    }
  })
  t.match(await heard.ended, { ok: false, error: { code: 'client_gone' } })
  t.same(heard.calls, ['frames', 'end'])
})

t.test('an abort after the end says nothing', async t => {
  const baseUrl = await serve(t, answer(recorded))
  const heard = listen()
  const handle = createAdapter(createPorts(t)).chat(attemptFor({ upstream: { baseUrl } }), heard.observer)
  t.same(await heard.ended, { ok: true })
  handle.abort()
  t.same(heard.calls.filter(call => call === 'end').length, 1)
})

t.test('time runs out before the first token, between two, and over all', async t => {
  const long = { connectMs: 1000, firstTokenMs: 60_000, idleMs: 60_000, totalMs: 60_000 }
  const start = (response: ServerResponse): void => {
    startNdjson(response).write(`${JSON.stringify(line({}))}\n`)
  }
  const token = (response: ServerResponse): void => {
    response.write(`${JSON.stringify(line({ content: 'a' }))}\n`)
  }
  const table: readonly (readonly [string, Partial<typeof long>, (response: ServerResponse) => void, Json])[] = [
    ['no answer', { firstTokenMs: 50 }, () => {}, { code: 'upstream_unavailable', status: 504, message: /token within 50 ms/ }],
    ['headers, but no token', { firstTokenMs: 50 }, start, { code: 'upstream_unavailable', status: 504 }],
    [
      'silence after a token',
      { idleMs: 50 },
      response => {
        start(response)
        token(response)
      },
      { code: 'upstream_broke', message: /silent for 50 ms/ }
    ],
    ['too long in all, before a token', { totalMs: 50 }, start, { code: 'upstream_unavailable', status: 504, message: /within 50 ms/ }],
    [
      'too long in all, talking',
      { totalMs: 500 },
      response => {
        start(response)
        const timer = setInterval(() => token(response), 10)
        response.on('close', () => clearInterval(timer))
      },
      { code: 'upstream_broke', message: /within 500 ms/ }
    ],
    [
      'half an error',
      { firstTokenMs: 50 },
      response => {
        response.writeHead(500).write('{"error":"ha')
      },
      { code: 'upstream_unavailable', status: 502, message: /500/ }
    ]
  ]
  for (const [name, timeouts, handler, expected] of table) {
    let isClosed = false
    const { heard, end } = await ask(
      t,
      (_request, response) => {
        response.on('close', () => {
          isClosed = true
        })
        handler(response)
      },
      { upstream: { timeouts: { ...long, ...timeouts } } }
    )
    t.match(end, { ok: false, sent: true, error: expected }, name)
    t.equal(heard.calls.at(-1), 'end')
    await until(() => isClosed, `the upstream was closed: ${name}`)
  }
})

t.test('a talking machine is not silent', async t => {
  let tokens = 0
  const { heard, end } = await ask(
    t,
    (_request, response) => {
      startNdjson(response)
      const timer = setInterval(() => {
        response.write(`${JSON.stringify(line({ content: 'a' }))}\n`)
        if (++tokens < 50) return
        clearInterval(timer)
        response.end(`${JSON.stringify(done())}\n`)
      }, 20)
    },
    { upstream: { timeouts: { connectMs: 1000, firstTokenMs: 900, idleMs: 800, totalMs: 60_000 } } }
  )
  t.same(end, { ok: true })
  t.equal(
    heard.tokens.reduce((sum, count) => sum + count, 0),
    50
  )
})

t.test('a full reader is no silence of the machine', async t => {
  const baseUrl = await serve(t, answer([...Array(3000).fill(line({ content: 'x'.repeat(500) })), done()]))
  const heard = listen()
  heard.room = false
  const timeouts = { connectMs: 1000, firstTokenMs: 5000, idleMs: 200, totalMs: 60_000 }
  const handle = createAdapter(createPorts(t)).chat(attemptFor({ upstream: { baseUrl, timeouts } }), heard.observer)
  await until(() => heard.calls.length > 0, 'the first tokens came')
  const pausedMs = performance.now()
  await until(() => performance.now() - pausedMs > 500, 'the pause was longer than the idle time')
  t.same(heard.calls, ['frames'])
  heard.room = true
  handle.resume()
  t.same(await heard.ended, { ok: true })
})

t.test('the watchdog keeps one timer and tells once', async t => {
  const watch = (timeouts: Json, act: (watchdog: ReturnType<typeof createWatchdog>) => void = () => {}): Promise<Phase> =>
    new Promise(resolve => {
      act(createWatchdog({ firstTokenMs: 60_000, idleMs: 60_000, totalMs: 60_000, ...timeouts }, resolve))
    })
  t.equal(await watch({ firstTokenMs: 10 }), 'first_token')
  t.equal(await watch({ idleMs: 10 }, watchdog => watchdog.token()), 'idle', 'the first token brings the deadline nearer')
  t.equal(await watch({ totalMs: 10 }), 'total')
  t.equal(await watch({ firstTokenMs: 10, totalMs: 60 }, watchdog => watchdog.pause()), 'total', 'a pause stops all but the whole')
  t.equal(
    await watch({ firstTokenMs: 10 }, watchdog => {
      watchdog.pause()
      watchdog.resume()
    }),
    'first_token'
  )
  t.equal(
    await watch({ idleMs: 10 }, watchdog => {
      watchdog.token()
      watchdog.pause()
      watchdog.activity()
      watchdog.resume()
    }),
    'idle'
  )
  t.equal(await watch({ firstTokenMs: 0 }), 'first_token', 'no time at all')
  t.equal(
    await watch({ firstTokenMs: 10, idleMs: Number.MAX_SAFE_INTEGER, totalMs: Number.POSITIVE_INFINITY }),
    'first_token',
    'times longer than a timer can be'
  )

  let isHeard = false
  const stalled = await watch({ idleMs: 20 }, watchdog => {
    watchdog.token()
    setImmediate(() => {
      setImmediate(() => {
        isHeard = true
        watchdog.activity()
      })
      const startMs = performance.now()
      while (performance.now() - startMs < 60);
    })
  })
  t.equal(stalled, 'idle')
  t.ok(isHeard, "a stall of this process is not the machine's")

  const timers = (): number => process.getActiveResourcesInfo().filter(name => name === 'Timeout').length
  const before = timers()
  let isTold = false
  const watchdog = createWatchdog({ firstTokenMs: 5, idleMs: 5, totalMs: 5 }, () => {
    isTold = true
  })
  watchdog.token()
  t.equal(timers(), before + 1)
  for (let index = 0; index < 1000; index++) watchdog.activity()
  watchdog.pause()
  watchdog.resume()
  t.equal(timers(), before + 1)
  watchdog.stop()
  watchdog.token()
  watchdog.pause()
  watchdog.resume()
  watchdog.stop()
  t.equal(timers(), before, 'nothing is left')
  await watch({ firstTokenMs: 20 })
  t.notOk(isTold)
})

// ---- the inventory

const modelInfo = {
  'general.architecture': 'llama',
  'llama.context_length': 131_072,
  'llama.block_count': 32,
  'llama.embedding_length': 4096,
  'llama.attention.head_count': 32,
  'llama.attention.head_count_kv': 8
}

interface Machine {
  readonly tags?: unknown
  readonly ps?: unknown
  readonly shows?: Record<string, unknown>
}

/** A machine with these answers; a string is sent as it is, a number is a status. */
async function machine(t: Test, answers: Machine): Promise<{ baseUrl: string; asked: string[] }> {
  const asked: string[] = []
  const send = (response: ServerResponse, body: unknown): void => {
    if (typeof body === 'number') response.writeHead(body).end('{"error":"no"}')
    else response.end(typeof body === 'string' ? body : JSON.stringify(body))
  }
  const baseUrl = await serve(t, async (request, response) => {
    if (request.url === '/api/tags') return send(response, answers.tags)
    if (request.url === '/api/ps') return send(response, answers.ps ?? { models: [] })
    const { model } = await bodyOf(request)
    asked.push(String(model))
    send(response, answers.shows?.[String(model)] ?? 404)
  })
  return { baseUrl, asked }
}

const tag = (name: string, rest: Json = {}): Json => ({
  name,
  model: name,
  modified_at: '2026-08-01T12:00:00.5+02:00',
  size: 5_000_000_000,
  digest: `digest-of-${name}`,
  details: { family: 'llama', families: ['llama'] },
  ...rest
})
const listing = (t: Test, baseUrl: string, signal = new AbortController().signal) =>
  createAdapter(createPorts(t)).listModels({ ...upstream, baseUrl, apiKey: 'sk-1' }, signal)

t.test("a machine's models are listed with what they can do and need", async t => {
  const { baseUrl } = await machine(t, {
    tags: {
      models: [
        tag('llama3.1:8b'),
        tag('qwen3:8b'),
        tag('nomic-embed-text:latest'),
        tag('old:latest'),
        tag('old-bert:latest', { details: { family: 'nomic-bert' } })
      ]
    },
    ps: { models: [{ name: 'qwen3:8b', model: 'qwen3:8b', size: 7_000_000_000, size_vram: 6_000_000_000, context_length: 8192 }] },
    shows: {
      'llama3.1:8b': { capabilities: ['completion', 'tools'], model_info: modelInfo, details: {} },
      'qwen3:8b': {
        capabilities: ['completion', 'tools', 'thinking', 'vision', 'insert', 'something new'],
        model_info: {
          'general.architecture': 'qwen3',
          'qwen3.context_length': 40_960,
          'qwen3.block_count': 36,
          'qwen3.attention.key_length': 128,
          'qwen3.attention.head_count_kv': 8
        }
      },
      'nomic-embed-text:latest': {
        capabilities: ['embedding'],
        model_info: { 'general.architecture': 'nomic-bert', 'nomic-bert.context_length': 2048 }
      },
      'old:latest': { model_info: modelInfo },
      'old-bert:latest': { model_info: {} }
    }
  })
  t.strictSame(await listing(t, baseUrl), [
    {
      model: 'llama3.1:8b',
      createdAt: 1_785_578_400,
      maxContextTokens: 131_072,
      maxOutputTokens: null,
      features: ['json_object', 'json_schema', 'logprobs', 'tools'],
      operations: ['chat', 'complete'],
      loaded: false,
      price: null,
      memory: {
        weightBytes: 5_000_000_000,
        kvBytesPerToken: 2 * 32 * 8 * 128 * 2,
        loadedContextTokens: null,
        loadedBytes: null,
        loadedVramBytes: null
      },
      digest: 'digest-of-llama3.1:8b'
    },
    {
      model: 'qwen3:8b',
      createdAt: 1_785_578_400,
      maxContextTokens: 40_960,
      maxOutputTokens: null,
      features: ['json_object', 'json_schema', 'logprobs', 'suffix', 'tools', 'vision', 'reasoning'],
      operations: ['chat', 'complete'],
      loaded: true,
      price: null,
      memory: {
        weightBytes: 5_000_000_000,
        kvBytesPerToken: 2 * 36 * 8 * 128 * 2,
        loadedContextTokens: 8192,
        loadedBytes: 7_000_000_000,
        loadedVramBytes: 6_000_000_000
      },
      digest: 'digest-of-qwen3:8b'
    },
    {
      model: 'nomic-embed-text:latest',
      createdAt: 1_785_578_400,
      maxContextTokens: 2048,
      maxOutputTokens: null,
      features: [],
      operations: ['embed'],
      loaded: false,
      price: null,
      memory: { weightBytes: 5_000_000_000, kvBytesPerToken: null, loadedContextTokens: null, loadedBytes: null, loadedVramBytes: null },
      digest: 'digest-of-nomic-embed-text:latest'
    },
    {
      model: 'old:latest',
      createdAt: 1_785_578_400,
      maxContextTokens: 131_072,
      maxOutputTokens: null,
      features: null,
      operations: ['chat', 'complete', 'embed'],
      loaded: false,
      price: null,
      memory: { weightBytes: 5_000_000_000, kvBytesPerToken: 131_072, loadedContextTokens: null, loadedBytes: null, loadedVramBytes: null },
      digest: 'digest-of-old:latest'
    },
    {
      model: 'old-bert:latest',
      createdAt: 1_785_578_400,
      maxContextTokens: null,
      maxOutputTokens: null,
      features: null,
      operations: ['embed'],
      loaded: false,
      price: null,
      memory: { weightBytes: 5_000_000_000, kvBytesPerToken: null, loadedContextTokens: null, loadedBytes: null, loadedVramBytes: null },
      digest: 'digest-of-old-bert:latest'
    }
  ])
})

t.test('the size of the key/value cache comes from the heads, or is unknown', async t => {
  const table: readonly (readonly [string, Json, number | null])[] = [
    ['grouped heads', {}, 131_072],
    ['a head size of its own', { 'llama.attention.key_length': 64 }, 65_536],
    ['a list of heads, one a layer', { 'llama.attention.head_count_kv': [8, 0, 4] }, 2 * 12 * 128 * 2],
    ['no count: all heads', { 'llama.attention.head_count_kv': undefined }, 2 * 32 * 32 * 128 * 2],
    ['a list too long to be sent', { 'llama.attention.head_count_kv': null }, null],
    ['a list with nonsense', { 'llama.attention.head_count_kv': [8, 'x'] }, null],
    ['no layers', { 'llama.block_count': undefined }, null],
    ['no width', { 'llama.embedding_length': undefined }, null],
    ['no heads to divide by', { 'llama.attention.head_count': 0 }, null],
    ['another architecture', { 'general.architecture': 'x' }, null],
    ['nonsense', { 'llama.block_count': -1 }, null],
    ['beyond numbers', { 'llama.block_count': Number.MAX_SAFE_INTEGER }, null]
  ]
  const shows = Object.fromEntries(
    table.map(([, changes], index) => [`m${index}`, { capabilities: ['completion'], model_info: { ...modelInfo, ...changes } }])
  )
  const { baseUrl } = await machine(t, { tags: { models: table.map((_row, index) => tag(`m${index}`)) }, shows })
  const listings = await listing(t, baseUrl)
  for (const [index, [name, , expected]] of table.entries()) t.equal(listings[index]?.memory?.kvBytesPerToken, expected, name)
})

t.test("models that ollama.com computes are not this machine's", async t => {
  const { baseUrl } = await machine(t, {
    tags: {
      models: [
        tag('gpt-oss:120b-cloud'),
        tag('glm:cloud'),
        tag('stub:latest', { remote_model: 'x' }),
        tag('stub2:latest', { remote_host: 'https://ollama.com' }),
        tag('told-later:latest'),
        tag('my-cloud:latest'),
        tag('cloudy:8b', { remote_model: '', remote_host: null })
      ]
    },
    shows: { 'told-later:latest': { capabilities: ['completion'], remote_model: 'x' } }
  })
  t.same(
    (await listing(t, baseUrl)).map(model => model.model),
    ['my-cloud:latest', 'cloudy:8b']
  )
})

t.test('hostile entries are passed over or emptied, and nothing is believed', async t => {
  const { baseUrl, asked } = await machine(t, {
    tags: {
      models: [
        null,
        7,
        'x',
        [],
        {},
        { name: 7 },
        { name: '' },
        { name: 'with space' },
        { name: 'new\nline' },
        { name: 'x'.repeat(257) },
        { name: 'ümlaut' },
        { name: 'bare' },
        tag('odd', { size: -1, digest: { a: 1 }, modified_at: 7, details: 'x' }),
        tag('odder', { size: '5', digest: 'a b', modified_at: 'never', details: { family: 7, families: 'x', context_length: -1 } }),
        tag('twice'),
        tag('twice', { size: 1 }),
        tag('__proto__')
      ]
    },
    ps: { models: [null, { name: 'odd', size: 'x', size_vram: -1, context_length: 0 }, { name: {} }] },
    shows: {
      bare: 'not json',
      odd: { capabilities: 'completion', model_info: [] },
      odder: { capabilities: [7, null, 'completion'], model_info: { 'general.architecture': {}, 'undefined.context_length': 7 } },
      twice: [],
      __proto__: 500
    }
  })
  const listings = await listing(t, baseUrl)
  t.same(
    listings.map(model => model.model),
    ['bare', 'odd', 'odder', 'twice', '__proto__']
  )
  t.match(listings.slice(0, 3), [
    { createdAt: null, memory: null, digest: null, features: null, operations: ['chat', 'complete'], maxContextTokens: null },
    { createdAt: null, memory: null, digest: null, features: null, operations: ['chat', 'complete'], loaded: true },
    { createdAt: null, memory: null, digest: null, features: ['json_object', 'json_schema', 'logprobs'], maxContextTokens: null }
  ])
  t.equal(asked.filter(name => name === 'twice').length, 1)
})

t.test('a model that cannot be shown is listed with what is known', async t => {
  const { baseUrl } = await machine(t, {
    tags: { models: [tag('a:1', { details: { context_length: 4096 } }), tag('b:1')] },
    ps: 404,
    shows: { 'a:1': 500, 'b:1': { capabilities: ['completion'], padding: 'x'.repeat(2 * 1024 * 1024) } }
  })
  t.match(await listing(t, baseUrl), [
    { model: 'a:1', features: null, operations: ['chat', 'complete'], maxContextTokens: 4096, loaded: false },
    { model: 'b:1', features: null }
  ])
})

t.test('what a model can do is asked once per digest and machine', async t => {
  const shows = {
    a: { capabilities: ['completion'] },
    b: { capabilities: ['completion', 'tools'] },
    old: { model_info: {} },
    none: { capabilities: ['completion'] }
  }
  const tags = { models: [tag('a'), tag('b'), tag('old'), tag('none', { digest: undefined })] }
  const first = await machine(t, { tags, shows })
  const second = await machine(t, { tags, shows })
  const adapter = createAdapter(createPorts(t))
  const list = (id: string, baseUrl: string) => adapter.listModels({ ...upstream, id, baseUrl }, new AbortController().signal)
  const before = await list('first', first.baseUrl)
  t.same(await list('first', first.baseUrl), before)
  t.same(first.asked.sort(), ['a', 'b', 'none', 'none', 'old', 'old'], 'except where the version is old, or there is no digest')
  await list('second', second.baseUrl)
  t.equal(second.asked.length, 4, 'one machine does not speak for another')
  tags.models[0] = tag('a', { digest: 'new' })
  await list('first', first.baseUrl)
  t.equal(first.asked.filter(name => name === 'a').length, 2, 'a new digest is another model')
})

t.test('at most eight models are asked for at once, and five hundred in all', async t => {
  const names = Array.from({ length: 600 }, (_none, index) => `m${index}`)
  const waiting: ServerResponse[] = []
  let asked = 0
  let most = 0
  const baseUrl = await serve(t, (request, response) => {
    if (request.url !== '/api/show')
      return response.end(JSON.stringify({ models: request.url === '/api/tags' ? names.map(name => tag(name)) : [] }))
    most = Math.max(most, waiting.push(response))
    asked++
    if (waiting.length !== 8 && asked !== 500) return
    // Time for a ninth to come, if there were one.
    void turns(50).then(() => {
      for (const one of waiting.splice(0)) one.end('{"capabilities":["completion"]}')
    })
  })
  const listings = await listing(t, baseUrl)
  t.same(
    listings.map(model => model.model),
    names.slice(0, 500),
    "in the machine's order"
  )
  t.equal(most, 8)
})

t.test('a machine that cannot be asked is an error with a reason', async t => {
  const table: readonly (readonly [string, RequestListener, Json])[] = [
    ['denied', status(403, ''), { code: 'upstream_denied', message: /Host.*IP address/ }],
    ['busy', status(503, { error: 'busy' }), { code: 'upstream_rate_limited' }],
    ['broken', status(500, { error: 'broken' }), { code: 'upstream_unavailable', message: /broken/ }],
    ['another server', status(404, 'not found'), { code: 'upstream_unavailable' }],
    ['not JSON', status(200, '<html>'), { code: 'upstream_unavailable' }],
    ['not an object', status(200, []), { code: 'upstream_unavailable' }],
    ['no list', status(200, { models: {} }), { code: 'upstream_unavailable' }],
    ['too much', status(200, { models: [], padding: 'x'.repeat(5 * 1024 * 1024) }), { code: 'upstream_unavailable' }],
    [
      'hung up',
      request => {
        request.socket.destroy()
      },
      { code: 'upstream_unavailable' }
    ]
  ]
  for (const [name, handler, expected] of table) {
    const baseUrl = await serve(t, handler)
    const error = await listing(t, baseUrl).then(
      () => null,
      (error: unknown) => error
    )
    t.ok(error instanceof GatewayError, name)
    t.match(error, expected, name)
  }
  await t.rejects(listing(t, 'http://127.0.0.1:9'), { code: 'upstream_unavailable', message: /ECONNREFUSED/ })
  await t.rejects(listing(t, 'home'), { code: 'upstream_unavailable' })
  const empty = await serve(t, status(200, { models: null }))
  t.same(await listing(t, empty), [])
})

t.test('a listing that is called off ends at once', async t => {
  let isAsked = false
  const baseUrl = await serve(t, () => {
    isAsked = true
  })
  const controller = new AbortController()
  const listed = listing(t, baseUrl, controller.signal)
  await until(() => isAsked, 'the machine was asked')
  const startMs = performance.now()
  controller.abort()
  await t.rejects(listed, { code: 'upstream_unavailable', message: /called off/ })
  t.ok(performance.now() - startMs < 1000)
  await t.rejects(listing(t, baseUrl, controller.signal), { code: 'upstream_unavailable' })
})
