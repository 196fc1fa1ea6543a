import { existsSync, readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import OpenAI from 'openai'
import t, { type Test } from 'tap'
import { readEmbeddingRequest } from '../../gateway/dialects/openai-embeddings.ts'
import type { AttemptEnd, AttemptObserver, ModelRequest } from '../../routing/types.ts'
import { type Answer, asBytes, type Changes, type Json, knobs, loadAdapter, perform, sayJson, targetOf } from './attempts.ts'

const base64Of = (values: readonly number[]) => Buffer.from(new Float32Array(values).buffer).toString('base64')
const ask = (body: Json): Promise<ModelRequest> => readEmbeddingRequest(asBytes({ model: 'm', input: ['a', 'b'], ...body }), knobs)

const usage = { prompt_tokens: 4, total_tokens: 4 }
const listOf = (embeddings: readonly unknown[], more: object = {}) => ({
  object: 'list',
  data: embeddings.map((embedding, index) => ({ object: 'embedding', index, embedding })),
  model: 'their-name',
  usage,
  ...more
})
const nativeOf = (embeddings: readonly unknown[], more: object = {}) => ({
  model: 'm',
  embeddings,
  total_duration: 7_500_000,
  load_duration: 1_000_000,
  prompt_eval_count: 4,
  ...more
})
const embeddingsIn = (json: Json) => (json.data as { embedding: unknown }[]).map(({ embedding }) => embedding)

// No 32-bit floats: rounded, they would be seen.
const vectors = [
  [0.1, -0.2],
  [0.3, 1e-7]
]

t.test('an answer in the form asked for goes on to the byte', async t => {
  for (const [encoding, embeddings] of [
    ['float', vectors],
    ['base64', vectors.map(base64Of)]
  ] as const) {
    const text = `\n${JSON.stringify(listOf(embeddings, { extra: { x: 1 } }), null, 1)}`
    const { body, end } = await perform(t, 'openai', await ask({ encoding_format: encoding }), sayJson(text))
    t.equal(String(body), text)
    t.same(end, { ok: true, dimensions: 2 })
  }
})

t.test('an answer in the other encoding is written again, and nothing else of it is lost', async t => {
  const more = { provider: 'x', usage: { ...usage, cost: 0.5 } }
  const asBase64 = await perform(t, 'openai', await ask({ encoding_format: 'base64' }), sayJson(listOf(vectors, more)))
  t.same(asBase64.json, listOf(vectors.map(base64Of), more))
  const asFloats = await perform(t, 'openai', await ask({}), sayJson(listOf(vectors.map(base64Of), more)))
  t.same(
    asFloats.json,
    listOf(
      vectors.map(vector => [...new Float32Array(vector)]),
      more
    )
  )
})

t.test('vectors are put in the order of their texts, and missing parts of the form are filled in', async t => {
  const request = await ask({})
  const data = [
    { index: 1, embedding: [2] },
    { index: 0, embedding: [1] }
  ]
  const { json } = await perform(t, 'openai', request, sayJson({ data }))
  const estimated = { prompt_tokens: request.prompt.expected, total_tokens: request.prompt.expected }
  t.same(json, { ...listOf([[1], [2]]), model: 'm', usage: estimated })
  const bare = await perform(t, 'openai', request, sayJson({ data: [{ embedding: [1] }, { embedding: [2] }], usage: { prompt_tokens: 3 } }))
  t.same(bare.json, { ...listOf([[1], [2]]), model: 'm', usage: { prompt_tokens: 3, total_tokens: 3 } })
})

t.test('the client’s own bytes are sent, with the target’s name of the model, and never streamed', async t => {
  const body = Buffer.from('{ "input" : ["\\u0061", "größe"], "x": 1.0, "model":"mine" }')
  const { received } = await perform(t, 'openai', await readEmbeddingRequest(body, knobs), sayJson(listOf(vectors)))
  t.equal(received[0]?.text, body.toString().replace('"mine"', '"m"'))
  t.equal(received[0]?.path, '/embeddings')
  const streamed = await perform(t, 'openai', await ask({ stream: true, stream_options: {}, user: 'u' }), sayJson(listOf(vectors)))
  t.same(streamed.received[0]?.json, { model: 'm', input: ['a', 'b'], user: 'u' })
  t.match(streamed.end, { ok: true })
})

t.test('tokens go to OpenAI’s own models as they are, and to all others as text', async t => {
  const native: readonly (readonly [name: string, changes: Changes])[] = [
    ['openai', { upstream: { registryId: 'openai' } }],
    ['openrouter', { target: { model: 'openai/text-embedding-3-small' } }]
  ]
  const foreign: readonly (readonly [name: string, changes: Changes])[] = [
    ['openai', {}],
    ['openai', { upstream: { registryId: 'groq' }, target: { model: 'openai/m' } }],
    ['openrouter', { target: { model: 'vendor/openai/m' } }]
  ]
  // "hello world" and "hi" in cl100k_base.
  const input = [[15339, 1917], [6151]]
  for (const [name, changes] of native) {
    const { received } = await perform(t, name, await ask({ input }), sayJson(listOf(vectors)), changes)
    t.same(received[0]?.json.input, input, name)
  }
  for (const [name, changes] of foreign) {
    const { received, end } = await perform(t, name, await ask({ input }), sayJson(listOf(vectors)), changes)
    t.same(received[0]?.json.input, ['hello world', 'hi'], name)
    t.match(end, { ok: true })
  }
  const ollama = await perform(t, 'ollama', await ask({ input: [15339, 1917] }), sayJson(nativeOf([[1]])))
  t.same(ollama.received[0]?.json.input, ['hello world'])
})

t.test('Ollama is asked by /api/embed, with what it needs and nothing else', async t => {
  const bare = await perform(t, 'ollama', await ask({ user: 'u', encoding_format: 'base64' }), sayJson(nativeOf(vectors)))
  t.equal(bare.received[0]?.path, '/api/embed')
  t.same(bare.received[0]?.json, { model: 'm', input: ['a', 'b'], truncate: false })
  const device = { id: 'd', maxConcurrency: 1, watts: 1, vramGb: null, ramGb: null, keepAlive: '10m', numCtx: null }
  const full = await perform(t, 'ollama', await ask({ dimensions: 2 }), sayJson(nativeOf(vectors)), {
    upstream: { device },
    target: { contextTokens: 2048 }
  })
  t.same(full.received[0]?.json, {
    model: 'm',
    input: ['a', 'b'],
    truncate: false,
    dimensions: 2,
    keep_alive: '10m',
    options: { num_ctx: 2048 }
  })
})

t.test('Ollama’s vectors come in OpenAI’s form, in the encoding asked for, with its time', async t => {
  const floats = await perform(t, 'ollama', await ask({}), sayJson(nativeOf(vectors)))
  t.same(floats.json, { ...listOf(vectors), model: 'm' })
  t.match(floats.usage, { promptTokens: 4, completionTokens: 0, busyMs: 7.5 })
  t.same(floats.end, { ok: true, dimensions: 2 })
  const base64 = await perform(t, 'ollama', await ask({ encoding_format: 'base64' }), sayJson(nativeOf(vectors)))
  t.same(embeddingsIn(base64.json), vectors.map(base64Of))
  const request = await ask({})
  const uncounted = await perform(t, 'ollama', request, sayJson(nativeOf(vectors, { prompt_eval_count: undefined })))
  t.same(uncounted.json.usage, { prompt_tokens: request.prompt.expected, total_tokens: request.prompt.expected })
  const silent = await perform(t, 'ollama', request, sayJson({ embeddings: vectors }))
  t.equal(silent.usage, null)
})

t.test('what is wrong with the input is said of the input', async t => {
  const refuse =
    (status: number, body: object): Answer =>
    response =>
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
  const tooLong: readonly (readonly [name: string, answer: Answer])[] = [
    ['ollama', refuse(400, { error: 'the input length exceeds the context length' })],
    ['ollama', sayJson({ error: 'the input length exceeds the context length' })],
    ['openai', refuse(400, { error: { message: "This model's maximum context length is 8192 tokens", code: null } })],
    ['openai', refuse(400, { error: { message: "Invalid 'input[0]': maximum input length is 8192 tokens.", code: null } })],
    ['openai', sayJson({ error: { message: 'too long', code: 'context_length_exceeded' } })]
  ]
  for (const [name, answer] of tooLong) {
    const { end } = await perform(t, name, await ask({}), answer)
    t.match(end, { ok: false, error: { code: 'context_length_exceeded', param: 'input' } })
  }
  for (const status of [400, 500]) {
    const { end } = await perform(t, 'ollama', await ask({}), refuse(status, { error: 'this model does not support embeddings' }))
    t.match(end, { ok: false, error: { code: 'unsupported_parameter', param: 'model' } }, String(status))
  }
})

t.test('a failure in a 200 keeps what it cost, and tells no secrets', async t => {
  const failed = { error: { message: 'the key secret-key is odd', code: 503 }, usage: { ...usage, cost: 0.000_001 } }
  const { end, usage: told, body } = await perform(t, 'openrouter', await ask({}), sayJson(failed))
  t.match(end, { ok: false, sent: true, error: { code: 'upstream_unavailable', status: 503, message: /the key \[hidden\] is odd/ } })
  t.match(told, { promptTokens: 4, providerNanoUsd: 1000 })
  t.equal(body, null)
  const ragged = await perform(t, 'openrouter', await ask({}), sayJson(listOf([[1], [1, 2]], { usage: failed.usage })))
  t.match(ragged.usage, { providerNanoUsd: 1000 })
  t.match(ragged.end, { ok: false, error: { message: 'up gave vectors of different lengths (1 and 2).' } })
})

t.test('an address that is none fails after the call, not within it', async t => {
  const request = await ask({})
  for (const name of ['openai', 'ollama']) {
    const adapter = await loadAdapter(t, name)
    const ends: AttemptEnd[] = []
    const { promise, resolve } = Promise.withResolvers<void>()
    const observer: AttemptObserver = {
      frames: () => true,
      body() {},
      usage() {},
      end(end) {
        ends.push(end)
        resolve()
      }
    }
    adapter.embed?.({ id: 'a', request, target: targetOf(name, 'nowhere') }, observer)
    t.equal(ends.length, 0, name)
    await promise
    t.match(ends, [{ ok: false, sent: false }])
  }
})

// ---- OpenAI's own client

async function clientOf(t: Test, text: string): Promise<OpenAI> {
  const server = createServer((request, response) => {
    request.resume().on('end', () => response.writeHead(200, { 'content-type': 'application/json' }).end(text))
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    return new Promise(resolve => server.close(resolve))
  })
  return new OpenAI({ apiKey: 'k', baseURL: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, maxRetries: 0 })
}

t.test('OpenAI’s client reads the vectors, however they came and whatever it asked for', async t => {
  const exact = vectors.map(vector => [...new Float32Array(vector)])
  const cases: readonly (readonly [name: string, answer: object])[] = [
    ['openai', listOf(vectors)],
    ['openai', listOf(vectors.map(base64Of))],
    ['ollama', nativeOf(vectors)]
  ]
  for (const [name, answer] of cases) {
    for (const encoding of ['base64', 'float'] as const) {
      const { body } = await perform(t, name, await ask({ encoding_format: encoding }), sayJson(answer))
      const client = await clientOf(t, String(body))
      // Without a wish of its caller it asks for base64, and decodes it.
      const read = await client.embeddings.create({
        model: 'm',
        input: 'x',
        ...(encoding === 'float' ? { encoding_format: encoding } : {})
      })
      t.same(
        read.data.map(({ embedding }) => [...new Float32Array(embedding)]),
        exact,
        `${name}, ${encoding}`
      )
      t.same(read.usage, usage)
    }
  }
})

// ---- recordings: not part of this repository, and skipped by name without them

const folder = new URL('../../../shared/data/recordings/', import.meta.url)
const skip = existsSync(folder) ? false : 'the recordings of ../shared/data/recordings are not here'

interface Recording {
  readonly interactions: readonly {
    readonly request: { readonly body: Json }
    readonly response: { readonly status: number; readonly body: Json }
  }[]
}
const recorded = (name: string) => {
  const recording: Recording = JSON.parse(readFileSync(new URL(`${name}.json`, folder), 'utf8'))
  return recording.interactions
}

t.test('recorded vectors come through as they are, and in the other encoding as the same floats', { skip }, async t => {
  for (const name of ['openai-embeddings-base64', 'openai-embeddings-dimensions']) {
    for (const { request, response } of recorded(name)) {
      const text = JSON.stringify(response.body)
      const asIs = await perform(t, 'openai', await readEmbeddingRequest(asBytes(request.body), knobs), sayJson(text))
      t.equal(String(asIs.body), text, name)
      t.match(asIs.end, { ok: true, dimensions: request.body.dimensions ?? 1536 })
      const isBase64 = request.body.encoding_format === 'base64'
      const turned = { ...request.body, encoding_format: isBase64 ? 'float' : 'base64' }
      const other = await perform(t, 'openai', await readEmbeddingRequest(asBytes(turned), knobs), sayJson(text))
      const [before, after] = [embeddingsIn(response.body), embeddingsIn(other.json)]
      if (isBase64) t.same((after as number[][]).map(base64Of), before)
      else t.same(after, (before as number[][]).map(base64Of))
      t.same(other.usage, asIs.usage)
      t.ok((other.usage?.promptTokens ?? 0) > 0)
    }
  }
})

t.test('a recorded refusal is a model that is not there', { skip }, async t => {
  for (const { request, response } of recorded('openai-embeddings-error')) {
    const { end } = await perform(t, 'openai', await readEmbeddingRequest(asBytes(request.body), knobs), answer =>
      answer.writeHead(response.status, { 'content-type': 'application/json' }).end(JSON.stringify(response.body))
    )
    t.match(end, { ok: false, sent: true, error: { code: 'upstream_lacks_model' } })
  }
})
