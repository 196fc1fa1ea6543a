// Tests of the request to Ollama: mapped field by field, refused by name, and what goes over the wire.

import type { IncomingMessage, RequestListener } from 'node:http'
import t from 'tap'
import { toNativeChat } from '../../adapters/ollama/request.ts'
import { createAdapter } from '../../adapters/ollama.ts'
import type { Target } from '../../routing/types.ts'
import {
  answer,
  attemptFor,
  bodyOf,
  createPorts,
  device,
  done,
  hello,
  type Json,
  listen,
  serve,
  target,
  upstream
} from './ollama-support.ts'

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
