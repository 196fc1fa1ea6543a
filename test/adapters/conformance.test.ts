// What every adapter promises, whatever it speaks to. A new file in adapters/ needs an entry in `fakes` and nothing else.

import { createServer, type ServerResponse } from 'node:http'
import { type AddressInfo, createServer as createTcpServer } from 'node:net'
import t, { type Test } from 'tap'
import { adapterNames, loadAdapters } from '../../adapters/shared/scan.ts'
import { readChatRequest } from '../../gateway/dialects/openai-chat.ts'
import { readCompletionRequest } from '../../gateway/dialects/openai-completions.ts'
import { readEmbeddingRequest } from '../../gateway/dialects/openai-embeddings.ts'
import { createOutbound } from '../../outbound/client.ts'
import type {
  Adapter,
  AttemptEnd,
  AttemptHandle,
  AttemptObserver,
  ModelRequest,
  Operation,
  Target,
  Timeouts,
  Usage
} from '../../routing/types.ts'
import { completion, nativeLines, usage, wholeStream } from '../support/upstream.ts'
import { until } from '../support/wait.ts'

/** How a provider answers, in its own words. */
interface Fake {
  /** Behind the origin. */
  readonly basePath: string
  readonly streamType: string
  /** An answer of these words, in the pieces it is sent in; the first piece that holds a word is `firstWord`. */
  readonly pieces: (words: readonly string[]) => readonly string[]
  readonly firstWord: number
  /** The same in one body; null for a provider that is always streamed from. */
  readonly whole: ((words: readonly string[]) => string) | null
  /** Its error body. */
  readonly refusal: string
}

const ollama = {
  basePath: '',
  streamType: 'application/x-ndjson',
  firstWord: 0,
  whole: null,
  refusal: '{"error":"it does not go"}'
}
const openai = {
  basePath: '/v1',
  streamType: 'text/event-stream; charset=utf-8',
  refusal: '{"error":{"message":"it does not go","type":"server_error","param":null,"code":null}}'
}
const openrouter = {
  basePath: '/api/v1',
  streamType: 'text/event-stream',
  refusal: '{"error":{"message":"it does not go","code":500,"metadata":{"provider_name":"x"}}}'
}

/** OpenAI's text chunks; the finish comes with a piece of its own. */
function textStream(words: readonly string[]): string[] {
  const base = { id: 'cmpl-up', object: 'text_completion', created: 1, model: 'm' }
  const event = (more: object) => `data: ${JSON.stringify({ ...base, ...more })}\n\n`
  const piece = (text: string, finish: string | null) => event({ choices: [{ text, index: 0, logprobs: null, finish_reason: finish }] })
  return [...words.map(word => piece(word, null)), piece('', 'stop'), event({ choices: [], usage }), 'data: [DONE]\n\n']
}

function textCompletion(words: readonly string[]): string {
  const choice = { text: words.join(''), index: 0, logprobs: null, finish_reason: 'stop' }
  return JSON.stringify({ id: 'cmpl-up', object: 'text_completion', created: 1, model: 'm', choices: [choice], usage })
}

/** Ollama's chat lines as those of /api/generate. */
function generatedLines(words: readonly string[]): string[] {
  return nativeLines('m', ...words).map(line => {
    const { message, ...rest } = JSON.parse(line) as { message: { content: string } }
    return `${JSON.stringify({ ...rest, response: message.content })}\n`
  })
}

type Streamed = 'chat' | 'complete'

/** `null`: it speaks to nobody, so nobody can fail it. */
const fakes: Readonly<Record<string, Readonly<Record<Streamed, Fake>> | null>> = {
  echo: null,
  ollama: {
    chat: { ...ollama, pieces: words => nativeLines('m', ...words) },
    complete: { ...ollama, pieces: generatedLines }
  },
  openai: {
    chat: { ...openai, pieces: words => wholeStream(...words), firstWord: 1, whole: words => JSON.stringify(completion(words.join(''))) },
    complete: { ...openai, pieces: textStream, firstWord: 0, whole: textCompletion }
  },
  openrouter: {
    chat: {
      ...openrouter,
      pieces: words => [': OPENROUTER PROCESSING\n\n', ...wholeStream(...words)],
      firstWord: 2,
      whole: words => `\n\n${JSON.stringify(completion(words.join('')))}`
    },
    complete: {
      ...openrouter,
      pieces: words => [': OPENROUTER PROCESSING\n\n', ...textStream(words)],
      firstWord: 1,
      whole: words => `\n\n${textCompletion(words)}`
    }
  }
}

/** What the gateway hands out, by operation. */
const forms = {
  chat: {
    object: 'chat.completion',
    chunkObject: 'chat.completion.chunk',
    said: (choice: Json | undefined) => ((choice?.delta ?? choice?.message) as { content?: string | null } | undefined)?.content ?? ''
  },
  complete: {
    object: 'text_completion',
    chunkObject: 'text_completion',
    said: (choice: Json | undefined) => String(choice?.text ?? '')
  }
}

const knobs = { requestId: 'r', localOnly: false }
const asBytes = (body: object) => Buffer.from(JSON.stringify(body))
const streamed = { stream: true, stream_options: { include_usage: true } }
const chatBody = { model: 'm', messages: [{ role: 'user', content: 'hi' }] }
const completionBody = { model: 'm', prompt: 'hi', max_tokens: 50 }

/** The requests of these tests, by operation. */
const requests: Readonly<Record<Streamed, { readonly stream: ModelRequest; readonly whole: ModelRequest }>> = {
  chat: {
    stream: readChatRequest(asBytes({ ...chatBody, ...streamed }), knobs).request,
    whole: readChatRequest(asBytes(chatBody), knobs).request
  },
  complete: {
    stream: await readCompletionRequest(asBytes({ ...completionBody, ...streamed }), knobs),
    whole: await readCompletionRequest(asBytes(completionBody), knobs)
  }
}

const words = ['Hello', ' größe', ' 中文', ' 😀']
const long: Timeouts = { connectMs: 2_000, firstTokenMs: 30_000, idleMs: 30_000, totalMs: 30_000 }

type Behaviour = 'answer' | 'silent' | 'endless' | 'cut before a word' | 'cut after a word' | 'nonsense' | number

/** A provider that behaves like this. */
async function serve(t: Test, fake: Fake, behaviour: Behaviour): Promise<{ baseUrl: string; open: () => number; calls: () => number }> {
  let open = 0
  let calls = 0
  const server = createServer((request, response) => {
    calls++
    open++
    response.on('close', () => open--)
    let text = ''
    request.on('data', chunk => {
      text += chunk
    })
    request.on('end', () => {
      if (typeof behaviour === 'number') return void response.writeHead(behaviour, { 'content-type': 'application/json' }).end(fake.refusal)
      if (behaviour === 'silent') return
      if (behaviour === 'nonsense') return void response.writeHead(200, { 'content-type': 'text/html' }).end('<html>It works!</html>')
      const isStream = fake.whole === null || JSON.parse(text).stream === true
      const pieces = fake.pieces(words)
      if (behaviour === 'answer' && !isStream) {
        return void response.writeHead(200, { 'content-type': 'application/json' }).end(fake.whole?.(words))
      }
      response.writeHead(200, { 'content-type': isStream ? fake.streamType : 'application/json' })
      if (behaviour === 'answer') {
        for (const piece of pieces) response.write(piece)
        return void response.end()
      }
      const sent = pieces.slice(0, behaviour === 'cut before a word' ? fake.firstWord : fake.firstWord + 1)
      if (!isStream) response.write('{"choices":')
      else for (const piece of sent) response.write(piece)
      if (behaviour === 'endless' && isStream) {
        const again = setInterval(() => response.write(pieces[fake.firstWord]), 1)
        response.on('close', () => clearInterval(again))
      } else if (behaviour !== 'endless') setTimeout(() => response.destroy(), 20)
    })
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    return new Promise(resolve => server.close(resolve))
  })
  const baseUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}${fake.basePath}`
  return { baseUrl, open: () => open, calls: () => calls }
}

async function nobody(fake: { readonly basePath: string }): Promise<string> {
  const server = createTcpServer()
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise(resolve => server.close(resolve))
  return `http://127.0.0.1:${port}${fake.basePath}`
}

interface Heard {
  readonly calls: string[]
  readonly frames: Buffer[]
  tokens: number
  body: Buffer | null
  usage: Usage | null
  usageEvent: Buffer | null
  end: AttemptEnd | null
  readonly ended: Promise<void>
  readonly handle: AttemptHandle
}

interface Call {
  readonly operation: Operation
  readonly request: ModelRequest
  readonly baseUrl: string
  readonly timeouts?: Partial<Timeouts>
  /** Told before each callback is over; what `frames` returns. */
  readonly told?: (heard: Heard, what: keyof AttemptObserver) => boolean
}

function start(adapter: Adapter, { operation, request, baseUrl, timeouts = {}, told = () => true }: Call): Heard {
  const target: Target = {
    id: 'up/m',
    upstream: {
      id: 'up',
      adapter: adapter.name,
      own: false,
      baseUrl,
      apiKey: 'k',
      headers: {},
      device: null,
      timeouts: { ...long, ...timeouts },
      models: null,
      auto: [],
      streamUsage: true,
      registryId: null
    },
    model: 'm',
    contextTokens: 8_192,
    maxOutputTokens: null,
    features: null,
    operations: ['chat', 'complete', 'embed'],
    loaded: true,
    price: { source: 'unknown', tokens: null },
    createdAt: 0
  }
  const { promise, resolve } = Promise.withResolvers<void>()
  const heard: Omit<Heard, 'handle'> & { handle: AttemptHandle | null } = {
    calls: [],
    frames: [],
    tokens: 0,
    body: null,
    usage: null,
    usageEvent: null,
    end: null,
    ended: promise,
    handle: null
  }
  const tell = (what: keyof AttemptObserver): boolean => {
    heard.calls.push(what)
    return told(heard as Heard, what)
  }
  const perform = adapter[operation]
  if (perform === undefined) throw new Error(`${adapter.name} cannot ${operation}`)
  heard.handle = perform.call(
    adapter,
    { id: '01990000-0000-7000-8000-000000000001', target, request },
    {
      frames(events, tokens) {
        heard.frames.push(events)
        heard.tokens += tokens
        return tell('frames')
      },
      body(json) {
        heard.body = json
        tell('body')
      },
      usage(usage, event) {
        heard.usage = usage
        heard.usageEvent = event
        tell('usage')
      },
      end(end) {
        heard.end = end
        tell('end')
        resolve()
      }
    }
  )
  return heard as Heard
}

type Json = Record<string, unknown>

/** The chunks of whole events; comments are events too. Throws on anything else. */
function chunksOf(frames: readonly Buffer[]): Json[] {
  return frames.flatMap(block => {
    const text = block.toString('utf8')
    if (text.includes('\ufffd')) throw new Error(`half a character: ${text}`)
    if (!/(\n\n|\r\n\r\n)$/.test(text)) throw new Error(`not whole events: ${JSON.stringify(text)}`)
    return text
      .split(/\r?\n\r?\n/)
      .filter(event => event !== '' && !event.startsWith(':'))
      .map(event => {
        if (!event.startsWith('data:') || event.includes('\n')) throw new Error(`no data: ${event}`)
        return JSON.parse(event.slice(5)) as Json
      })
  })
}

const textOf = (operation: Streamed, chunks: readonly Json[]) =>
  chunks.map(({ choices }) => forms[operation].said((choices as Json[])[0])).join('')

/** What holds of every attempt that is over. */
function faultsOf({ calls, end, usage }: Heard, stream: boolean): string[] {
  const faults: string[] = []
  const count = (what: string) => calls.filter(call => call === what).length
  if (count('end') !== 1) faults.push(`ended ${count('end')} times`)
  if (calls.at(-1) !== 'end') faults.push(`called after its end: ${calls}`)
  if (count('usage') > 1) faults.push('usage twice')
  if (count('body') > 1) faults.push('two bodies')
  if (count(stream ? 'body' : 'frames') > 0) faults.push(`a ${stream ? 'body for a stream' : 'stream for a body'}`)
  if (end?.ok === true && !stream && count('body') !== 1) faults.push('no body')
  if (end !== null && !end.ok && end.error.name !== 'GatewayError') faults.push(`ended with ${end.error}`)
  if (usage !== null && !Object.values(usage).every(figure => figure === null || (Number.isInteger(figure) && figure >= 0))) {
    faults.push(`senseless figures: ${JSON.stringify(usage)}`)
  }
  return faults
}

async function adapterFor(t: Test, name: string): Promise<Adapter> {
  const outbound = createOutbound()
  t.teardown(() => outbound.close())
  let id = 0
  const adapters = await loadAdapters({ outbound, reasoningField: 'reasoning', now: Date.now, randomId: () => `id${id++}` })
  const adapter = adapters.get(name)
  if (adapter === undefined) throw new Error(`no adapter is called ${name}`)
  return adapter
}

t.test('every adapter has a fake here, and every fake an adapter', async t => {
  t.same(adapterNames(), Object.keys(fakes).sort())
})

for (const [name, operation] of Object.keys(fakes).flatMap(name => [[name, 'chat'] as const, [name, 'complete'] as const])) {
  const fake = fakes[name]?.[operation] ?? null
  const form = forms[operation]
  t.test(`${name}: ${operation}`, async t => {
    const adapter = await adapterFor(t, name)
    const begin = (adapter: Adapter, { stream, ...call }: { readonly stream: boolean } & Omit<Call, 'operation' | 'request'>) =>
      start(adapter, { ...call, operation, request: requests[operation][stream ? 'stream' : 'whole'] })
    /** A provider that behaves like this, or none where there is none. */
    const up = async (t: Test, behaviour: Behaviour) =>
      fake === null ? { baseUrl: '', open: () => 0, calls: () => 0 } : await serve(t, fake, behaviour)

    t.test('is called what its file is', async t => {
      t.equal(adapter.name, name)
    })

    t.test('says the same streamed and whole, in whole events that parse', async t => {
      const { baseUrl } = await up(t, 'answer')
      const stream = begin(adapter, { baseUrl, stream: true })
      await stream.ended
      const whole = begin(adapter, { baseUrl, stream: false })
      await whole.ended
      t.same([...faultsOf(stream, true), ...faultsOf(whole, false)], [])
      t.match([stream.end, whole.end], [{ ok: true }, { ok: true }])
      const chunks = chunksOf(stream.frames)
      const answer = JSON.parse(String(whole.body)) as {
        choices: Json[]
        usage: Json
      }
      const said = form.said(answer.choices[0])
      t.match(answer, { object: form.object, choices: [{ index: 0, finish_reason: 'stop' }] })
      if (operation === 'chat') t.match(answer.choices, [{ message: { role: 'assistant' } }])
      t.ok(said.length > 10)
      if (fake !== null) t.equal(said, words.join(''))
      t.equal(textOf(operation, chunks), said)
      for (const chunk of chunks) t.match(chunk, { object: form.chunkObject, choices: [{ index: 0 }] })
      for (const chunk of chunks) t.hasProp((chunk.choices as [object])[0], operation === 'chat' ? 'delta' : 'text')
      t.match(chunks.at(-1), { choices: [{ finish_reason: 'stop' }] })
      t.ok(stream.tokens >= (fake === null ? 2 : words.length), `${stream.tokens} tokens`)
      t.notMatch(Buffer.concat(stream.frames).toString(), /\[DONE\]/)
    })

    t.test('gives its figures once, before its end, and for a stream as an event in OpenAI’s form', async t => {
      const { baseUrl } = await up(t, 'answer')
      const stream = begin(adapter, { baseUrl, stream: true })
      const whole = begin(adapter, { baseUrl, stream: false })
      await Promise.all([stream.ended, whole.ended])
      t.same(stream.calls.slice(-2), ['usage', 'end'])
      t.equal(whole.usageEvent, null)
      const [event, ...more] = chunksOf(stream.usageEvent === null ? [] : [stream.usageEvent])
      t.equal(more.length, 0)
      t.match(event, { object: form.chunkObject, choices: [], usage: { prompt_tokens: stream.usage?.promptTokens } })
      t.strictSame(event?.choices, [])
      t.ok((stream.usage?.promptTokens ?? 0) > 0)
      t.equal(stream.usage?.promptTokens, whole.usage?.promptTokens)
    })

    t.test('never ends before its call has returned', async t => {
      for (const stream of [true, false]) {
        const heard = begin(adapter, { baseUrl: 'http://127.0.0.1:9', stream })
        t.same(
          heard.calls.filter(call => call !== 'end'),
          [],
          'nothing is told within the call'
        )
        heard.handle.abort()
        await heard.ended
        t.same(faultsOf(heard, stream), [])
      }
    })

    t.test('an abort ends it at once and once, closes the upstream, and is safe twice', async t => {
      for (const stream of [true, false]) {
        const { baseUrl, open, calls } = await up(t, stream ? 'endless' : 'silent')
        const early = begin(adapter, { baseUrl, stream })
        early.handle.abort()
        early.handle.abort()
        await early.ended
        // The demo would be through before anybody could leave.
        const running = begin(adapter, { baseUrl, stream, told: ({ tokens }) => fake !== null || tokens === 0 })
        if (fake !== null) await until('the call to arrive', () => calls() > 0)
        if (stream) await until('the first words', () => running.tokens > 0)
        running.handle.abort()
        const told = running.calls.length
        running.handle.abort()
        running.handle.resume()
        await running.ended
        await until('the upstream to be closed', () => open() === 0)
        await new Promise(resolve => setImmediate(resolve))
        t.equal(running.calls.length, told)
        for (const heard of [early, running]) {
          t.same(faultsOf(heard, stream), [])
          t.match(heard.end, { ok: false, error: { code: 'client_gone' } })
        }
        if (fake !== null) t.equal(running.end?.ok === false && running.end.sent, true)
      }
    })

    t.test('an abort from within what it tells is heard at once', async t => {
      const { baseUrl, open } = await up(t, fake === null ? 'answer' : 'endless')
      const heard = begin(adapter, {
        baseUrl,
        stream: true,
        told(heard, what) {
          if (what === 'frames' && heard.tokens > 0) heard.handle.abort()
          return true
        }
      })
      await heard.ended
      await until('the upstream to be closed', () => open() === 0)
      t.same(faultsOf(heard, true), [])
      t.match(heard.end, { ok: false, error: { code: 'client_gone' } })
    })

    t.test('an abort after its end changes nothing', async t => {
      const { baseUrl } = await up(t, 'answer')
      for (const stream of [true, false]) {
        const heard = begin(adapter, { baseUrl, stream })
        await heard.ended
        heard.handle.abort()
        heard.handle.resume()
        await new Promise(resolve => setImmediate(resolve))
        t.same(faultsOf(heard, stream), [])
        t.match(heard.end, { ok: true })
      }
    })

    t.test('a reader that is full is waited for, and then hears the rest', async t => {
      const { baseUrl } = await up(t, 'answer')
      const heard = begin(adapter, { baseUrl, stream: true, told: () => false })
      await until('the answer to be whole', () => {
        heard.handle.resume()
        return heard.end
      })
      const free = begin(adapter, { baseUrl, stream: true })
      await free.ended
      t.same(faultsOf(heard, true), [])
      t.equal(textOf(operation, chunksOf(heard.frames)), textOf(operation, chunksOf(free.frames)))
    })

    if (fake === null) return

    t.test('where nobody listens nothing was sent', async t => {
      for (const stream of [true, false]) {
        const heard = begin(adapter, { baseUrl: await nobody(fake), stream })
        await heard.ended
        t.same(faultsOf(heard, stream), [])
        t.match(heard.end, { ok: false, sent: false, error: { code: 'upstream_unavailable', cause: { code: 'ECONNREFUSED' } } })
      }
    })

    t.test('a status becomes an error of ours, and something was sent', async t => {
      const cases: readonly [status: number, code: string][] = [
        [400, 'upstream_refused'],
        [401, 'upstream_denied'],
        [403, 'upstream_denied'],
        [404, 'upstream_lacks_model'],
        [429, 'upstream_rate_limited'],
        [500, 'upstream_unavailable']
      ]
      for (const [status, code] of cases) {
        for (const stream of [true, false]) {
          const { baseUrl } = await up(t, status)
          const heard = begin(adapter, { baseUrl, stream })
          await heard.ended
          t.same(faultsOf(heard, stream), [], String(status))
          t.match(heard.end, { ok: false, sent: true, error: { code } }, String(status))
        }
      }
    })

    t.test('what is no answer, though its status says so, is a failure', async t => {
      for (const stream of [true, false]) {
        const { baseUrl } = await up(t, 'nonsense')
        const heard = begin(adapter, { baseUrl, stream })
        await heard.ended
        t.same(faultsOf(heard, stream), [])
        t.match(heard.end, { ok: false, sent: true, error: { code: 'upstream_unavailable' } })
      }
    })

    t.test('an answer that breaks off is another target’s before its first word, and broken after it', async t => {
      const cases: readonly [behaviour: Behaviour, stream: boolean, code: string][] = [
        ['cut before a word', true, 'upstream_unavailable'],
        ['cut after a word', true, 'upstream_broke'],
        ['cut before a word', false, 'upstream_unavailable'],
        ['cut after a word', false, 'upstream_unavailable']
      ]
      for (const [behaviour, stream, code] of cases) {
        const { baseUrl } = await up(t, behaviour)
        const heard = begin(adapter, { baseUrl, stream })
        await heard.ended
        t.same(faultsOf(heard, stream), [], String(behaviour))
        t.match(heard.end, { ok: false, sent: true, error: { code } }, `${behaviour}, ${stream ? 'streamed' : 'whole'}`)
        if (behaviour === 'cut after a word' && stream) t.equal(textOf(operation, chunksOf(heard.frames)), words[0])
      }
    })

    t.test('silence has an end, and so has an answer without one', async t => {
      for (const stream of [true, false]) {
        const silent = await up(t, 'silent')
        const heard = begin(adapter, { baseUrl: silent.baseUrl, stream, timeouts: { firstTokenMs: 50 } })
        await heard.ended
        t.same(faultsOf(heard, stream), [])
        t.match(heard.end, { ok: false, sent: true, error: { code: 'upstream_unavailable', status: 504 } })
        await until('the upstream to be closed', () => silent.open() === 0)
      }
      const endless = await up(t, 'endless')
      const heard = begin(adapter, { baseUrl: endless.baseUrl, stream: true, timeouts: { totalMs: 200 } })
      await heard.ended
      t.same(faultsOf(heard, true), [])
      t.match(heard.end, { ok: false, error: { code: 'upstream_broke' } })
      await until('the upstream to be closed', () => endless.open() === 0)
    })
  })
}

// ---- embeddings

/** How a provider gives vectors. */
interface VectorFake {
  readonly basePath: string
  readonly refusal: string
  readonly answer: (vectors: readonly (readonly number[])[]) => object
}

/** `null`: it has none to give. */
const vectorFakes: Readonly<Record<string, VectorFake | null>> = {
  echo: null,
  ollama: {
    basePath: '',
    refusal: ollama.refusal,
    answer: embeddings => ({ model: 'm', embeddings, total_duration: 5e6, load_duration: 1e6, prompt_eval_count: 4 })
  },
  openai: { basePath: '/v1', refusal: openai.refusal, answer: embeddingList },
  openrouter: { basePath: '/api/v1', refusal: openrouter.refusal, answer: embeddingList }
}

function embeddingList(vectors: readonly (readonly number[])[]): object {
  const data = vectors.map((embedding, index) => ({ object: 'embedding', index, embedding }))
  return { object: 'list', data, model: 'm', usage: { prompt_tokens: 4, total_tokens: 4 } }
}

type Answer = (response: ServerResponse) => void

const sayJson =
  (body: object | string, status = 200): Answer =>
  response =>
    response.writeHead(status, { 'content-type': 'application/json' }).end(typeof body === 'string' ? body : JSON.stringify(body))

async function serveVectors(t: Test, answer: Answer): Promise<{ origin: string; open: () => number; calls: () => number }> {
  let open = 0
  let calls = 0
  const server = createServer((request, response) => {
    calls++
    open++
    response.on('close', () => open--)
    request.resume().on('end', () => answer(response))
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    return new Promise(resolve => server.close(resolve))
  })
  return { origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, open: () => open, calls: () => calls }
}

const two = await readEmbeddingRequest(asBytes({ model: 'm', input: ['a', 'b'] }), knobs)

for (const [name, fake] of Object.entries(vectorFakes)) {
  t.test(`${name}: embed`, async t => {
    const adapter = await adapterFor(t, name)
    if (fake === null) {
      t.equal(adapter.embed, undefined, 'a made-up vector is worse than an error')
      return
    }
    const begin = (origin: string, timeouts: Partial<Timeouts> = {}) =>
      start(adapter, { operation: 'embed', request: two, baseUrl: `${origin}${fake.basePath}`, timeouts })
    const good = fake.answer([
      [0.5, -0.25],
      [1, 0]
    ])

    t.test('gives a vector for each text, its figures, and how long the vectors are', async t => {
      const { origin } = await serveVectors(t, sayJson(good))
      const heard = begin(origin)
      await heard.ended
      t.same(faultsOf(heard, false), [])
      t.same(heard.calls, ['usage', 'body', 'end'])
      t.same(heard.end, { ok: true, dimensions: 2 })
      t.match(heard.usage, { promptTokens: 4, completionTokens: 0 })
      t.same(JSON.parse(String(heard.body)), {
        object: 'list',
        data: [
          { object: 'embedding', index: 0, embedding: [0.5, -0.25] },
          { object: 'embedding', index: 1, embedding: [1, 0] }
        ],
        model: 'm',
        usage: { prompt_tokens: 4, total_tokens: 4 }
      })
    })

    t.test('what is not a vector of one length for each text is no answer', async t => {
      const answers: Readonly<Record<string, object | string>> = {
        'one for two': fake.answer([[1, 2]]),
        'three for two': fake.answer([[1], [2], [3]]),
        none: fake.answer([]),
        ragged: fake.answer([[1, 2], [1]]),
        empty: fake.answer([[], []]),
        'NaN, which is no JSON': JSON.stringify(good).replace('0.5', 'NaN'),
        null: JSON.stringify(good).replace('0.5', 'null'),
        'a text': JSON.stringify(good).replace('0.5', '"0.5"'),
        'larger than a 32-bit float': JSON.stringify(good).replace('0.5', '1e300'),
        'cut off': JSON.stringify(good).slice(0, -20),
        'no object': '[]',
        'no vectors': '{}',
        'something else': '{"object":"list","data":{},"embeddings":"x"}',
        'base64 of 7 bytes': JSON.stringify(fake.answer([[1], [1]])).replaceAll('[1]', '"AAAAAAAAAA=="'),
        'no base64': JSON.stringify(fake.answer([[1], [1]])).replaceAll('[1]', '"AAAA*AAA"'),
        'base64 of a NaN': JSON.stringify(fake.answer([[1], [1]])).replaceAll('[1]', '"AADAfw=="'),
        'nested too deeply': `{"x":${'['.repeat(100_000)}`
      }
      for (const [what, answer] of Object.entries(answers)) {
        const { origin } = await serveVectors(t, sayJson(answer))
        const heard = begin(origin)
        await heard.ended
        t.same(faultsOf(heard, false), [], what)
        t.match(heard.end, { ok: false, sent: true, error: { code: 'upstream_unavailable', status: 502 } }, what)
        t.equal(heard.body, null, what)
      }
    })

    t.test('a broken, silent, endless, foreign or absent upstream fails in time', async t => {
      const zoo: Readonly<Record<string, readonly [answer: Answer, status: number]>> = {
        html: [response => response.writeHead(200, { 'content-type': 'text/html' }).end('<html>'), 502],
        compressed: [response => response.writeHead(200, { 'content-type': 'application/json', 'content-encoding': 'gzip' }).end('x'), 502],
        'cut off': [
          response => {
            response.writeHead(200, { 'content-type': 'application/json' }).write('{"data":')
            setTimeout(() => response.destroy(), 20)
          },
          502
        ],
        'an error in a 200': [sayJson({ error: { message: 'no', code: 500 } }), 502],
        silent: [() => {}, 504],
        hanging: [response => response.writeHead(200, { 'content-type': 'application/json' }).write('{'), 504]
      }
      for (const [what, [answer, status]] of Object.entries(zoo)) {
        const { origin, open } = await serveVectors(t, answer)
        const heard = begin(origin, { firstTokenMs: 200, idleMs: 200 })
        await heard.ended
        t.same(faultsOf(heard, false), [], what)
        t.match(heard.end, { ok: false, sent: true, error: { code: 'upstream_unavailable', status } }, what)
        if (what === 'compressed') t.match(heard.end, { error: { message: /compressed answer \(gzip\)/ } })
        await until('the upstream to be closed', () => open() === 0)
      }
      const absent = start(adapter, { operation: 'embed', request: two, baseUrl: await nobody(fake) })
      await absent.ended
      t.same(faultsOf(absent, false), [])
      t.match(absent.end, { ok: false, sent: false, error: { code: 'upstream_unavailable', cause: { code: 'ECONNREFUSED' } } })
    })

    t.test('an answer without an end is cut off', async t => {
      const piece = Buffer.alloc(1024 * 1024, '1,')
      const { origin, open } = await serveVectors(t, response => {
        response.writeHead(200, { 'content-type': 'application/json' })
        const more = () => {
          while (!response.destroyed && response.write(piece));
        }
        response.on('drain', more)
        more()
      })
      const heard = begin(origin)
      await heard.ended
      t.same(faultsOf(heard, false), [])
      t.match(heard.end, { ok: false, error: { code: 'upstream_unavailable', message: /more than 67108864 bytes/ } })
      await until('the upstream to be closed', () => open() === 0)
    })

    t.test('a status becomes an error of ours', async t => {
      const cases: readonly [status: number, code: string][] = [
        [400, 'upstream_refused'],
        [401, 'upstream_denied'],
        [404, 'upstream_lacks_model'],
        [429, 'upstream_rate_limited'],
        [500, 'upstream_unavailable']
      ]
      for (const [status, code] of cases) {
        const { origin } = await serveVectors(t, sayJson(fake.refusal, status))
        const heard = begin(origin)
        await heard.ended
        t.same(faultsOf(heard, false), [], String(status))
        t.match(heard.end, { ok: false, sent: true, error: { code } }, String(status))
      }
    })

    t.test('an abort ends it at once and once, and closes the upstream', async t => {
      const { origin, open, calls } = await serveVectors(t, () => {})
      const early = begin(origin)
      t.same(early.calls, [], 'nothing is told within the call')
      early.handle.abort()
      const heard = begin(origin)
      await until('the call to arrive', () => calls() > 0)
      heard.handle.abort()
      heard.handle.abort()
      heard.handle.resume()
      await Promise.all([early.ended, heard.ended])
      await until('the upstream to be closed', () => open() === 0)
      t.same([...faultsOf(early, false), ...faultsOf(heard, false)], [])
      t.match(heard.end, { ok: false, sent: true, error: { code: 'client_gone' } })
    })
  })
}
