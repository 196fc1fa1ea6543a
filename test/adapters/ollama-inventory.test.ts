// Tests of the inventory: the models of an Ollama machine, what they can do and need.

import type { RequestListener, ServerResponse } from 'node:http'
import t, { type Test } from 'tap'
import { createAdapter } from '../../adapters/ollama.ts'
import { GatewayError } from '../../routing/errors.ts'
import { bodyOf, createPorts, type Json, serve, status, turns, until, upstream } from './ollama-support.ts'

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
        tag('llama3.1:8b', {
          details: { family: 'llama', families: ['llama'], parameter_size: '8.03B', quantization_level: 'Q4_K_M' }
        }),
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
      digest: 'digest-of-llama3.1:8b',
      build: { family: 'llama', paramsB: 8.03, quantization: 'Q4_K_M' }
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
      digest: 'digest-of-qwen3:8b',
      build: { family: 'llama', paramsB: null, quantization: null }
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
      digest: 'digest-of-nomic-embed-text:latest',
      build: { family: 'llama', paramsB: null, quantization: null }
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
      digest: 'digest-of-old:latest',
      build: { family: 'llama', paramsB: null, quantization: null }
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
      digest: 'digest-of-old-bert:latest',
      build: { family: 'nomic-bert', paramsB: null, quantization: null }
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
    ['too many', status(200, { models: [], padding: Array(250_000).fill({}) }), { code: 'upstream_unavailable', message: /elements/ }],
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

t.test('a machine that quotes the key it refuses tells nobody', async t => {
  const baseUrl = await serve(t, (request, response) => {
    response.writeHead(401).end(JSON.stringify({ error: `wrong key: ${request.headers.authorization}` }))
  })
  const asking = createAdapter(createPorts(t)).listModels(
    { ...upstream, baseUrl, apiKey: 'TOKENabcdef0123456789' },
    new AbortController().signal
  )
  const error = await asking.then(
    () => null,
    (thrown: unknown) => thrown as GatewayError
  )
  t.match(error?.message, /wrong key: .*\[hidden\]/)
  t.notMatch(error?.message, /TOKEN/)
})
