// Tests of Ollama's answer: its lines become OpenAI's chunks or one whole answer, with usage and reasons.

import type { RequestListener } from 'node:http'
import OpenAI from 'openai'
import t from 'tap'
import { createAdapter } from '../../adapters/ollama.ts'
import type { ExchangeObserver, Outbound } from '../../outbound/client.ts'
import {
  answer,
  ask,
  attemptFor,
  choiceOf,
  chunksOf,
  createPorts,
  deltasOf,
  done,
  type Heard,
  type Json,
  line,
  listen,
  type ReasoningField,
  recorded,
  recordedBytes,
  serve,
  startNdjson,
  turns,
  until
} from './ollama-support.ts'

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
    busyMs: (1_631_208 + 313_560_000 + 1_577_990_000) / 1e6,
    timings: { loadMs: 1.631208, promptMs: 313.56, answerMs: 1_577.99 }
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
    [
      'only one part',
      { ...without, total_duration: 5e6, eval_duration: 3e6 },
      { ...zero, busyMs: 3, timings: { loadMs: null, promptMs: null, answerMs: 3 } }
    ],
    [
      'nonsense',
      { load_duration: -1, prompt_eval_duration: 'x', eval_duration: 2e6, prompt_eval_count: -5, eval_count: 1.5 },
      { ...zero, busyMs: 2, timings: { loadMs: null, promptMs: null, answerMs: 2 } }
    ],
    [
      'too large',
      { load_duration: 0, prompt_eval_duration: 0, eval_duration: 0, prompt_eval_count: 1e300, eval_count: null },
      { ...zero, busyMs: 0, timings: { loadMs: 0, promptMs: 0, answerMs: 0 } }
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
