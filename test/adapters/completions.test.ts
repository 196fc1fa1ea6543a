import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import OpenAI from 'openai'
import t, { type Test } from 'tap'
import { readCompletionRequest } from '../../gateway/dialects/openai-completions.ts'
import type { ModelRequest } from '../../routing/types.ts'
import { type Answer, asBytes, type Changes, chunksOf, type Json, knobs, perform, sayJson } from './attempts.ts'

const ask = (body: Json = {}): Promise<ModelRequest> => readCompletionRequest(asBytes({ model: 'm', prompt: 'Once', ...body }), knobs)
const streamed = { stream: true, stream_options: { include_usage: true } }

// ---- compatible servers

const usage = { prompt_tokens: 9, completion_tokens: 2, total_tokens: 11 }
const envelope = { id: 'cmpl-1', object: 'text_completion', created: 1, model: 'theirs' }
const chunk = (text: string, finish: string | null = null, more: object = {}, index = 0) =>
  `data: ${JSON.stringify({ ...envelope, choices: [{ text, index, logprobs: null, finish_reason: finish }], ...more })}\n\n`
const usageChunk = `data: ${JSON.stringify({ ...envelope, choices: [], usage })}\n\n`
const done = 'data: [DONE]\n\n'

const stream =
  (...events: readonly string[]): Answer =>
  response => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    for (const event of events) response.write(event)
    response.end()
  }

t.test('a streamed text goes on to the byte, and only its text counts', async t => {
  const events = [chunk('', null, { usage: null }), chunk(' upon', null, { usage: null }), chunk(' a', 'length', { usage: null })]
  const { frames, tokens, end, usageEvent, received } = await perform(t, 'openai', await ask(streamed), stream(...events, usageChunk, done))
  t.equal(frames, events.join(''))
  t.equal(
    tokens.reduce((sum, count) => sum + count),
    2
  )
  t.equal(usageEvent, usageChunk)
  t.match(end, { ok: true, done: Buffer.from(done) })
  t.equal(received[0]?.path, '/completions')
})

t.test('usage is taken out of a stream however it is spaced', async t => {
  for (const spaced of ['"usage" : {', '"usage":\t{', '"usage"  :{']) {
    const event = usageChunk.replace('"usage":{', spaced)
    const {
      frames,
      usageEvent,
      usage: told
    } = await perform(t, 'openai', await ask(streamed), stream(chunk('x'), chunk('', 'stop'), event, done))
    t.equal(frames, chunk('x') + chunk('', 'stop'), spaced)
    t.equal(usageEvent, event)
    t.match(told, { promptTokens: 9, completionTokens: 2 })
  }
})

t.test('a stream is whole when every choice of every prompt has finished', async t => {
  const request = await ask({ ...streamed, prompt: ['a', 'b'], n: 2 })
  const finishes = [0, 1, 2, 3].map(index => chunk('x', 'stop', {}, index))
  t.match((await perform(t, 'openai', request, stream(...finishes))).end, { ok: true })
  t.match((await perform(t, 'openai', request, stream(...finishes.slice(1)))).end, { ok: false, error: { code: 'upstream_broke' } })
})

t.test('a whole text goes on to the byte; JSON without choices is none', async t => {
  const text = ` ${JSON.stringify({ ...envelope, choices: [{ text: 'x', index: 0, logprobs: null, finish_reason: 'stop' }], usage })}`
  t.equal(String((await perform(t, 'openai', await ask(), sayJson(text))).body), text)
  const { end } = await perform(t, 'openai', await ask(), sayJson({ ...envelope, choices: [] }))
  t.match(end, { ok: false, error: { code: 'upstream_unavailable', message: /no completion/ } })
})

t.test('the client’s own bytes are sent, but tokens as text where they mean nothing', async t => {
  const text = '{ "prompt" : "gr\\u00f6\\u00dfe", "temperature": 1.0, "model":"mine" }'
  const { received } = await perform(t, 'openai', await readCompletionRequest(Buffer.from(text), knobs), stream())
  t.equal(received[0]?.text, text.replace('"mine"', '"m"'))
  const cases: readonly (readonly [name: string, changes: Changes, prompt: unknown, sent: unknown])[] = [
    ['openai', { upstream: { registryId: 'openai' } }, [15339, 1917], [15339, 1917]],
    ['openrouter', { target: { model: 'openai/m' } }, [15339, 1917], [15339, 1917]],
    ['openai', {}, [15339, 1917], 'hello world'],
    ['openai', {}, [[15339, 1917], [6151]], ['hello world', 'hi']],
    ['openrouter', {}, [[15339, 1917]], 'hello world'],
    ['openai', {}, ['a', 'b'], ['a', 'b']]
  ]
  for (const [name, changes, prompt, sent] of cases) {
    const { received } = await perform(t, name, await ask({ prompt }), stream(), changes)
    t.same(received[0]?.json.prompt, sent, `${name} ${JSON.stringify(prompt)}`)
  }
})

t.test('a prompt that is too long is said of the prompt; a chat model is not a missing one', async t => {
  const refuse =
    (status: number, message: string): Answer =>
    response =>
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify({ error: { message, code: null } }))
  const tooLong = await perform(t, 'openai', await ask(), refuse(400, "This model's maximum context length is 4097 tokens"))
  t.match(tooLong.end, { ok: false, error: { code: 'context_length_exceeded', param: 'prompt' } })
  const failed = `data: ${JSON.stringify({ error: { message: 'too long', code: 'context_length_exceeded' } })}\n\n`
  t.match((await perform(t, 'openai', await ask(streamed), stream(failed))).end, { ok: false, error: { param: 'prompt' } })
  const chatModel = 'This is a chat model and not supported in the v1/completions endpoint. Did you mean to use v1/chat/completions?'
  const { end } = await perform(t, 'openai', await ask(), refuse(404, chatModel))
  t.match(end, { ok: false, error: { code: 'upstream_refused', status: 400, param: 'model', breaker: 'none' } })
})

// ---- Ollama

const line = (more: object) => `${JSON.stringify({ model: 'm', created_at: '2026-09-01T10:00:00.1Z', done: false, ...more })}\n`
const last = (more: object = {}) =>
  line({
    response: '',
    done: true,
    done_reason: 'stop',
    context: [1, 2, 3],
    total_duration: 9e9,
    load_duration: 1e6,
    prompt_eval_count: 9,
    prompt_eval_duration: 3e6,
    eval_count: 2,
    eval_duration: 2e6,
    ...more
  })
const lines =
  (...all: readonly string[]): Answer =>
  response =>
    response.writeHead(200, { 'content-type': 'application/x-ndjson' }).end(all.join(''))
const said = lines(line({ response: ' upon' }), line({ response: ' größe 😀' }), last())

const sentTo = async (t: Test, body: Json, changes: Changes = {}): Promise<Json> =>
  (await perform(t, 'ollama', await ask(body), said, changes)).received[0]?.json ?? {}

t.test('Ollama is asked by /api/generate, always streamed, for 16 tokens unless others are asked for', async t => {
  const { received } = await perform(t, 'ollama', await ask({ user: 'u', logit_bias: {} }), said)
  t.equal(received[0]?.path, '/api/generate')
  t.same(received[0]?.json, {
    model: 'm',
    prompt: 'Once',
    stream: true,
    truncate: false,
    shift: false,
    options: { num_predict: 16 },
    // It may be a model that thinks by itself.
    think: false
  })
  const device = { id: 'd', maxConcurrency: 1, watts: 1, vramGb: null, ramGb: null, keepAlive: -1, numCtx: null }
  const full = await sentTo(
    t,
    {
      max_tokens: 5000,
      suffix: 'end',
      temperature: 0,
      stop: 'x',
      seed: 7,
      top_p: 0.5,
      logprobs: 3,
      presence_penalty: 1,
      n: 1,
      echo: false
    },
    { upstream: { device }, target: { contextTokens: 4096, features: new Set(['suffix', 'logprobs']) } }
  )
  t.same(full, {
    model: 'm',
    prompt: 'Once',
    suffix: 'end',
    stream: true,
    truncate: false,
    shift: false,
    options: { num_predict: 4096, num_ctx: 4096, temperature: 0, top_p: 0.5, seed: 7, stop: ['x'], presence_penalty: 1 },
    keep_alive: -1,
    logprobs: true,
    top_logprobs: 3
  })
  t.match(await sentTo(t, { prompt: [15339, 1917], think: 'low', logprobs: 0 }), {
    prompt: 'hello world',
    think: 'low',
    logprobs: true,
    top_logprobs: 0
  })
  t.notHas(await sentTo(t, { suffix: '' }), { suffix: '' })
})

t.test('what Ollama has no place for is refused before anything is sent', async t => {
  const text = await ask()
  const cases: readonly (readonly [body: Json, code: string, param: string])[] = [
    [{ prompt: ['a', 'b'] }, 'unsupported_parameter', 'prompt'],
    [{ n: 2 }, 'unsupported_parameter', 'n'],
    [{ best_of: 2 }, 'unsupported_parameter', 'best_of'],
    [{ echo: true }, 'unsupported_parameter', 'echo'],
    [{ temperature: 'hot' }, 'invalid_request', 'temperature'],
    [{ logprobs: 21 }, 'invalid_request', 'logprobs']
  ]
  for (const [body, code, param] of cases) {
    const { end, received } = await perform(t, 'ollama', await ask(body), said)
    t.match(end, { ok: false, sent: false, error: { code, param } }, JSON.stringify(body))
    t.equal(received.length, 0)
  }
  const noInput = await perform(t, 'ollama', { ...text, input: null }, said)
  t.match(noInput.end, { ok: false, sent: false, error: { param: 'prompt' } })
})

const identity = { id: 'cmpl-r0', object: 'text_completion', created: 1_788_256_800, model: 'm', system_fingerprint: 'fp_ollama' }
const wire = { prompt_tokens: 9, completion_tokens: 2, total_tokens: 11 }

t.test('its lines become chunks of text, with one finish, and figures that can be asked for', async t => {
  const { frames, tokens, usageEvent, usage, end } = await perform(t, 'ollama', await ask(streamed), said)
  const choice = (text: string, finish: string | null) => ({ text, index: 0, logprobs: null, finish_reason: finish })
  t.same(chunksOf(frames), [
    { ...identity, choices: [choice(' upon', null)], usage: null },
    { ...identity, choices: [choice(' größe 😀', null)], usage: null },
    { ...identity, choices: [choice('', 'stop')], usage: null }
  ])
  t.equal(
    tokens.reduce((sum, count) => sum + count),
    2
  )
  t.same(chunksOf(usageEvent ?? ''), [{ ...identity, choices: [], usage: wire }])
  t.match(usage, { promptTokens: 9, completionTokens: 2, busyMs: 6 })
  t.same(end, { ok: true })
  const whole = await perform(t, 'ollama', await ask(), lines(line({ response: ' upon' }), last({ done_reason: 'length' })))
  t.same(whole.json, { ...identity, id: 'cmpl-r1', choices: [choice(' upon', 'length')], usage: wire })
})

t.test('thoughts are no part of the text, nor are their tokens', async t => {
  const thought = line({ response: '', thinking: 'hm', logprobs: [{ token: 'hm', logprob: -1 }] })
  const answer = lines(thought, line({ response: 'x', logprobs: [{ token: 'x', logprob: -2 }] }), last())
  const { frames, tokens } = await perform(t, 'ollama', await ask({ stream: true }), answer)
  t.notMatch(frames, /hm/)
  t.equal(
    tokens.reduce((sum, count) => sum + count),
    1
  )
  const { json } = await perform(t, 'ollama', await ask(), answer)
  t.match(json, { choices: [{ text: 'x', logprobs: { tokens: ['x'] } }] })
  // Nobody has seen anything yet, so another target may answer.
  const cut = await perform(t, 'ollama', await ask({ stream: true }), lines(thought))
  t.match(cut.end, { ok: false, error: { code: 'upstream_unavailable' } })
})

t.test('logprobs come in the form of this endpoint, streamed and whole', async t => {
  const top = [
    { token: 'é', logprob: -0.5 },
    { token: '__proto__', logprob: -2 }
  ]
  const answer = lines(
    line({ response: '😀', logprobs: [{ token: '😀', logprob: -0.25, top_logprobs: top }] }),
    line({ response: 'é', logprobs: [{ token: 'é', logprob: -0.5, top_logprobs: top }] }),
    last()
  )
  const asObject = JSON.parse('{"é":-0.5,"__proto__":-2}')
  const { json } = await perform(t, 'ollama', await ask({ logprobs: 2 }), answer)
  t.same(
    JSON.stringify((json.choices as [{ logprobs: object }])[0].logprobs),
    JSON.stringify({
      tokens: ['😀', 'é'],
      token_logprobs: [-0.25, -0.5],
      top_logprobs: [asObject, asObject],
      text_offset: [0, 1]
    })
  )
  const { frames } = await perform(t, 'ollama', await ask({ logprobs: 2, stream: true }), answer)
  t.match(chunksOf(frames), [
    { choices: [{ logprobs: { text_offset: [0] } }] },
    { choices: [{ logprobs: { tokens: ['é'], text_offset: [1] } }] },
    { choices: [{ logprobs: null }] }
  ])
  const none = await perform(
    t,
    'ollama',
    await ask({ logprobs: 0 }),
    lines(line({ response: 'x', logprobs: [{ token: 'x', logprob: -1 }] }), last())
  )
  t.match(none.json, { choices: [{ logprobs: { tokens: ['x'], top_logprobs: null } }] })
})

t.test('its errors are said of the prompt', async t => {
  const refuse =
    (status: number, error: string): Answer =>
    response =>
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify({ error }))
  const cases: readonly (readonly [answer: Answer, code: string, param: string | null])[] = [
    [refuse(400, 'the prompt is longer than the context length'), 'context_length_exceeded', 'prompt'],
    [lines(line({ error: 'the prompt is longer than the context length' })), 'context_length_exceeded', 'prompt'],
    [refuse(400, '"m" does not support insert'), 'unsupported_parameter', 'suffix'],
    [refuse(404, "model 'm' not found"), 'upstream_lacks_model', null],
    [lines(line({ response: { x: 1 } })), 'upstream_unavailable', null],
    [lines(line({ response: 'x' })), 'upstream_unavailable', null]
  ]
  for (const [answer, code, param] of cases)
    t.match((await perform(t, 'ollama', await ask(), answer)).end, { ok: false, error: { code, param } })
  const broken = await perform(t, 'ollama', await ask({ stream: true }), lines(line({ response: 'x' }), line({ error: 'out of memory' })))
  t.match(broken.end, { ok: false, error: { code: 'upstream_broke' } })
})

// ---- the demo

t.test('the demo repeats the prompt in the form of this endpoint', async t => {
  const { json } = await perform(t, 'echo', await ask({ prompt: [15339, 1917] }), said)
  t.match(json, { id: /^cmpl-/, object: 'text_completion', choices: [{ text: /You said: hello world$/, index: 0, finish_reason: 'stop' }] })
  const { frames, usageEvent } = await perform(t, 'echo', await ask(streamed), said)
  t.match(chunksOf(frames)[0], { object: 'text_completion', choices: [{ text: 'This ', finish_reason: null }] })
  t.notMatch(frames, /delta|role/)
  t.match(chunksOf(usageEvent ?? ''), [{ object: 'text_completion', choices: [] }])
})

// ---- OpenAI's own client

t.test('OpenAI’s client reads the text, streamed and whole', async t => {
  const server = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', chunk => chunks.push(chunk))
    request.on('end', async () => {
      const asked = await readCompletionRequest(Buffer.concat(chunks), knobs)
      const { frames, usageEvent, body } = await perform(t, 'ollama', asked, said)
      if (asked.stream) response.writeHead(200, { 'content-type': 'text/event-stream' }).end(`${frames}${usageEvent}${done}`)
      else response.writeHead(200, { 'content-type': 'application/json' }).end(body)
    })
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    return new Promise(resolve => server.close(resolve))
  })
  const client = new OpenAI({ apiKey: 'k', baseURL: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, maxRetries: 0 })
  const asked = { model: 'm', prompt: 'Once' }
  const whole = await client.completions.create(asked)
  t.match(whole, { choices: [{ text: ' upon größe 😀', finish_reason: 'stop' }], usage: wire })
  let text = ''
  let told: unknown = null
  for await (const piece of await client.completions.create({ ...asked, ...streamed, stream: true })) {
    text += piece.choices[0]?.text ?? ''
    told = piece.usage ?? told
  }
  t.equal(text, ' upon größe 😀')
  t.same(told, wire)
})
