// GET /v1/models: what a key may use, in which order, and what is said of each model.

import Fastify from 'fastify'
import t, { type Test } from 'tap'
import { decimal, listedModels, type ModelObject, modelObject } from '../../gateway/model-list.ts'
import { registerErrors } from '../../gateway/plugins/errors.ts'
import { type ModelsPorts, registerModels } from '../../gateway/routes/models.ts'
import { type Alias, type Catalog, createCatalog } from '../../routing/catalog.ts'
import { type PriceBook, unlistedTarget } from '../../routing/targets.ts'
import type { Caller, Feature, Target, TokenPrice, Upstream } from '../../routing/types.ts'
import { fc } from '../support/properties.ts'

const prices: PriceBook = { configured: new Map(), registered: () => null }

function upstream(id: string, changes: Partial<Upstream> = {}): Upstream {
  return {
    id,
    adapter: 'openai',
    own: false,
    baseUrl: 'http://127.0.0.1:9',
    apiKey: 'canary-upstream-key',
    headers: { 'x-secret': 'canary-header' },
    device: null,
    timeouts: { connectMs: 1, firstTokenMs: 1, idleMs: 1, totalMs: 1 },
    models: null,
    auto: [],
    streamUsage: true,
    registryId: null,
    ...changes
  }
}

const on = (where: Upstream, model: string, changes: Partial<Target> = {}): Target => ({
  ...unlistedTarget(prices, where, model),
  operations: ['chat', 'complete'],
  ...changes
})

const rtx = upstream('rtx', { adapter: 'ollama', own: true })
const studio = upstream('studio', { own: true })
const openrouter = upstream('openrouter', { adapter: 'openrouter' })
const openai = upstream('openai')
const demo = on(upstream('echo', { adapter: 'echo', own: true }), 'echo', { price: { source: 'free', tokens: null } })

const electricity = { source: 'electricity', tokens: null } as const
const priced = (tokens: TokenPrice) => ({ source: 'provider', tokens }) as const

interface House {
  readonly upstreams?: readonly Upstream[]
  readonly targets?: readonly Target[]
  readonly aliases?: Readonly<Record<string, Alias>>
}

function catalogOf({ upstreams = [rtx, studio, openrouter, openai], targets = [], aliases = {} }: House): Catalog {
  return createCatalog({
    upstreams,
    targets,
    listed: new Set(upstreams.map(({ id }) => id)),
    aliases: new Map(Object.entries(aliases)),
    auto: [],
    prices,
    vectorSpaces: new Map(),
    demo
  })
}

type Rights = Partial<Pick<Caller, 'models' | 'providers'>>

async function serving(t: Test, ports: Partial<ModelsPorts> & Pick<ModelsPorts, 'catalog'>) {
  const app = Fastify()
  app.addHook('onRequest', (request, _reply, done) => {
    const rights: Rights = JSON.parse(String(request.headers['x-rights'] ?? '{}'))
    request.context = { caller: { kind: 'source', models: null, providers: null, ...rights }, headers: {} } as never
    done()
  })
  registerErrors(app, () => {})
  registerModels(app, { prefixes: ['/v1', ''], ...ports })
  t.teardown(() => app.close())
  const get = async (url: string, rights: Rights = {}) => {
    const answer = await app.inject({ url, headers: { 'x-rights': JSON.stringify(rights) } })
    return { status: answer.statusCode, headers: answer.headers, text: answer.body, json: answer.json() }
  }
  const list = async (rights: Rights = {}, url = '/v1/models'): Promise<ModelObject[]> => (await get(url, rights)).json.data
  return { get, list, ids: async (rights: Rights = {}) => (await list(rights)).map(({ id }) => id) }
}

const sonnet = on(openrouter, 'anthropic/claude-sonnet', {
  contextTokens: 200_000,
  maxOutputTokens: 64_000,
  createdAt: 1_700_000_000,
  features: new Set<Feature>(['tools', 'forced_tool_choice', 'json_object', 'json_schema', 'reasoning', 'vision', 'file']),
  price: priced({ inputUsdPer1m: 2.5, outputUsdPer1m: 15, cachedInputUsdPer1m: 0.25, requestUsd: 0.005 })
})
const qwenAtHome = on(rtx, 'qwen3:32b', {
  contextTokens: 16_384,
  loaded: true,
  features: new Set<Feature>(['tools']),
  price: electricity,
  createdAt: 1_600_000_000.7
})
const qwenInTheCloud = on(openrouter, 'qwen3:32b', {
  contextTokens: 131_072,
  features: new Set<Feature>(['logprobs']),
  price: priced({ inputUsdPer1m: 0.1, outputUsdPer1m: 0.3 })
})
const embedder = on(rtx, 'nomic-embed-text', { operations: ['embed'], features: new Set<Feature>(), price: electricity })
const whisper = on(openai, 'whisper-1', { operations: [] })
const house = {
  targets: [sonnet, qwenInTheCloud, whisper, qwenAtHome, embedder],
  aliases: { smart: { kind: 'ordered', models: ['qwen3:32b', 'anthropic/claude-sonnet'] } as Alias }
}

t.test('own machines come first, then what has a name of ours, then what is rented', async t => {
  const { ids } = await serving(t, { catalog: () => catalogOf(house) })
  t.same(await ids(), ['qwen3:32b', 'nomic-embed-text', 'auto', 'smart', 'anthropic/claude-sonnet', 'whisper-1'])
})

t.test('a rented model says what it can do and costs, in the names of OpenAI and OpenRouter', async t => {
  const { get, list } = await serving(t, { catalog: () => catalogOf(house) })
  const expected = {
    id: 'anthropic/claude-sonnet',
    object: 'model',
    created: 1_700_000_000,
    owned_by: 'openrouter',
    context_length: 200_000,
    architecture: { modality: 'text+image+file->text', input_modalities: ['text', 'image', 'file'], output_modalities: ['text'] },
    supported_parameters: [
      'max_tokens',
      'max_completion_tokens',
      'temperature',
      'top_p',
      'stop',
      'seed',
      'frequency_penalty',
      'presence_penalty',
      'n',
      'tools',
      'tool_choice',
      'response_format',
      'structured_outputs',
      'reasoning',
      'reasoning_effort'
    ],
    pricing: { prompt: '0.0000025', completion: '0.000015', input_cache_read: '0.00000025', request: '0.005' },
    top_provider: { context_length: 200_000, max_completion_tokens: 64_000 },
    operations: ['chat', 'complete'],
    targets: [
      {
        provider: 'openrouter',
        model: 'anthropic/claude-sonnet',
        own: false,
        context_length: 200_000,
        max_completion_tokens: 64_000,
        operations: ['chat', 'complete'],
        loaded: false,
        available: true,
        price_source: 'provider',
        pricing: { prompt: '0.0000025', completion: '0.000015', input_cache_read: '0.00000025', request: '0.005' }
      }
    ]
  }
  t.strictSame(
    (await list()).find(({ id }) => id === 'anthropic/claude-sonnet'),
    expected
  )
  for (const path of ['/v1/models/anthropic/claude-sonnet', '/v1/models/anthropic%2Fclaude-sonnet', '/models/anthropic/claude-sonnet']) {
    t.strictSame((await get(path)).json, expected, path)
  }
  t.match((await get('/v1/models')).headers['content-type'], /^application\/json/)
  t.notMatch((await get('/v1/models')).text, /canary/, 'nothing of the upstream but its name')
  t.strictSame(await list({}, '/models'), await list())
})

t.test('several targets: own first, the largest context, what any of them can do, and no price while an own one is preferred', async t => {
  const { get } = await serving(t, { catalog: () => catalogOf({ targets: [qwenInTheCloud, qwenAtHome] }) })
  const { json } = await get('/v1/models/qwen3:32b')
  t.match(json, { created: 1_600_000_000, owned_by: 'local', context_length: 131_072, pricing: null })
  t.ok(json.supported_parameters.includes('tools'))
  t.ok(json.supported_parameters.includes('top_logprobs'))
  t.notOk(json.supported_parameters.includes('structured_outputs'))
  t.match(json.targets, [
    { provider: 'rtx', own: true, loaded: true, price_source: 'electricity', pricing: null },
    { provider: 'openrouter', own: false, price_source: 'provider', pricing: { prompt: '0.0000001', completion: '0.0000003' } }
  ])
})

t.test('what makes vectors, and what is neither', async t => {
  const { get } = await serving(t, { catalog: () => catalogOf(house), canCarry: () => true })
  t.match((await get('/v1/models/nomic-embed-text')).json, {
    operations: ['embed'],
    architecture: { modality: 'text->embeddings', input_modalities: ['text'], output_modalities: ['embeddings'] },
    supported_parameters: ['encoding_format']
  })
  t.match((await get('/v1/models/whisper-1')).json, {
    operations: [],
    architecture: { modality: null, input_modalities: [], output_modalities: [] },
    supported_parameters: [],
    pricing: null,
    targets: [{ price_source: 'unknown' }]
  })
})

t.test('a server that is silent about its models: parameters as its adapter carries them, no modality beyond text', async t => {
  const catalog = () => catalogOf({ targets: [on(openai, 'gpt-4o')] })
  const asked = await serving(t, { catalog, canCarry: (_target, feature) => feature === 'tools' || feature === 'vision' })
  const { json } = await asked.get('/v1/models/gpt-4o')
  t.ok(json.supported_parameters.includes('tools'))
  t.notOk(json.supported_parameters.includes('logprobs'))
  t.same(json.architecture.input_modalities, ['text'])
  const unasked = await serving(t, { catalog })
  t.notOk((await unasked.get('/v1/models/gpt-4o')).json.supported_parameters.includes('tools'))
})

t.test('an upstream that is away is said to be', async t => {
  let away = new Set<string>()
  const catalog = catalogOf(house)
  const { get } = await serving(t, { catalog: () => catalog, unavailable: () => away })
  const available = async () =>
    (await get('/v1/models')).json.data
      .find(({ id }: ModelObject) => id === 'qwen3:32b')
      .targets.map((target: { available: boolean }) => target.available)
  t.same(await available(), [true, true])
  away = new Set(['rtx'])
  t.same(await available(), [false, true])
  t.match((await get('/v1/models/nomic-embed-text')).json, { targets: [{ available: false }] })
  away = new Set()
  t.same(await available(), [true, true])
})

t.test('a key sees what it may use, and of that only the targets it may use', async t => {
  const snapshot = catalogOf(house)
  const { get, ids } = await serving(t, { catalog: () => snapshot })
  t.same(await ids({ providers: ['openrouter'] }), ['qwen3:32b', 'auto', 'smart', 'anthropic/claude-sonnet'])
  t.same(await ids({ models: ['anthropic/*'] }), ['auto', 'smart', 'anthropic/claude-sonnet'])
  t.same(await ids({ models: ['smart'] }), ['smart'])
  t.same(await ids({ models: ['nothing'] }), [])
  const rented = (await get('/v1/models/qwen3:32b', { providers: ['openrouter'] })).json
  t.match(rented, { owned_by: 'openrouter', pricing: { prompt: '0.0000001' }, context_length: 131_072 })
  t.equal(rented.targets.length, 1)
  const listed = (await get('/v1/models', { providers: ['openrouter'] })).json.data[0]
  t.strictSame(listed, rented, 'the list says the same')
  t.equal((await get('/v1/models/smart', { models: ['smart'] })).json.targets.length, 3, 'a name that is allowed allows all it stands for')
})

t.test('what a key may not use is not there for it, and is not hinted at', async t => {
  const { get } = await serving(t, { catalog: () => catalogOf(house) })
  const refused = await get('/v1/models/whisper-1', { models: ['qwen*'] })
  t.equal(refused.status, 404)
  t.match(refused.json, { error: { code: 'model_not_found', param: 'model', message: 'The model "whisper-1" does not exist here.' } })
  t.notMatch((await get('/v1/models/whisper-2', { models: ['qwen*'] })).text, /whisper-1/)
  t.match((await get('/v1/models/whisper-2')).json.error.message, /Did you mean "whisper-1"\?/)
})

t.test('an alias whose machines are off is still a model, for keys without rules', async t => {
  const off = { upstreams: [rtx], aliases: { smart: { kind: 'ordered', models: ['gone'] } as Alias } }
  const { get, ids } = await serving(t, { catalog: () => catalogOf(off) })
  t.same(await ids(), ['auto', 'smart'])
  t.match((await get('/v1/models/smart')).json, { id: 'smart', owned_by: 'llm-mcp', targets: [], context_length: null })
  t.same(await ids({ models: ['smart'] }), [])
})

t.test('with nothing connected there is the demo', async t => {
  const { ids, get } = await serving(t, { catalog: () => catalogOf({ upstreams: [] }) })
  t.same(await ids(), ['echo', 'auto'])
  t.match((await get('/v1/models/auto')).json, { pricing: { prompt: '0', completion: '0' }, targets: [{ price_source: 'free' }] })
})

t.test("a server's model by a name of ours neither takes its place nor stands twice", t => {
  const hostile = catalogOf({
    upstreams: [rtx, openrouter],
    targets: [
      on(rtx, 'auto'),
      on(rtx, 'local:latest'),
      on(rtx, 'smart'),
      on(rtx, 'echo'),
      on(rtx, 'qwen3'),
      on(openrouter, 'cloud'),
      on(openrouter, 'qwen3'),
      on(openrouter, 'rtx/qwen3')
    ],
    aliases: { smart: { kind: 'ordered', models: ['openrouter/qwen3'] } }
  })
  const listed = new Map(listedModels(hostile).map(({ id, targets }) => [id, targets.map(target => target.id)]))
  t.same(
    [...listed.keys()],
    [
      'rtx/auto',
      'rtx/local:latest',
      'rtx/smart',
      'echo',
      'rtx/echo',
      'qwen3',
      'auto',
      'smart',
      'openrouter/cloud',
      'rtx/qwen3',
      'openrouter/rtx/qwen3'
    ]
  )
  t.same(listed.get('smart'), ['openrouter/qwen3'], 'the alias means what the configuration says')
  t.same(listed.get('echo'), ['echo/echo'], 'the demo is the demo')
  t.same(listed.get('rtx/qwen3'), ['rtx/qwen3'])
  t.same(listed.get('openrouter/rtx/qwen3'), ['openrouter/rtx/qwen3'])
  t.ok((listed.get('auto')?.length ?? 0) > 1)
  t.end()
})

t.test('an alias that stands for models of its own name lists them once', t => {
  const aliases = { 'qwen3:32b': { kind: 'ordered', models: ['qwen3:32b', 'anthropic/claude-sonnet'] } as Alias }
  const listed = listedModels(catalogOf({ targets: [qwenAtHome, sonnet], aliases }))
  t.same(
    listed.map(({ id, targets }) => [id, targets.map(target => target.id)]),
    [
      ['auto', ['rtx/qwen3:32b', 'openrouter/anthropic/claude-sonnet']],
      ['qwen3:32b', ['rtx/qwen3:32b', 'openrouter/anthropic/claude-sonnet']],
      ['anthropic/claude-sonnet', ['openrouter/anthropic/claude-sonnet']]
    ]
  )
  t.end()
})

t.test('whatever servers call their models: every id once, and each reaches what is listed under it', t => {
  const name = fc.constantFrom('auto', 'local', 'cloud', 'echo', 'smart', 'a', 'a:latest', 'rtx/a', 'openrouter/a', 'rtx/auto', 'x/y')
  const server = fc.constantFrom(rtx, studio, openrouter, openai)
  fc.assert(
    fc.property(fc.array(fc.tuple(server, name), { maxLength: 12 }), pairs => {
      const seen = new Set<string>()
      const targets = pairs.map(([where, model]) => on(where, model)).filter(({ id }) => !seen.has(id) && seen.add(id))
      const catalog = catalogOf({ targets, aliases: { smart: { kind: 'ordered', models: ['a', 'x/y'] } } })
      const listed = listedModels(catalog)
      if (new Set(listed.map(({ id }) => id)).size !== listed.length) return false
      return listed.every(({ id, targets }) => {
        const resolution = catalog.resolve(id, 0)
        const reached = resolution.found ? resolution.targets : []
        return targets.every(target => reached.includes(target)) && (targets.length === reached.length || id === 'auto')
      })
    }),
    { numRuns: 500 }
  )
  t.end()
})

t.test('a snapshot is described once, however often it is asked for', async t => {
  const catalog = catalogOf(house)
  let resolved = 0
  const counting: Catalog['resolve'] = (name, random) => {
    resolved++
    return catalog.resolve(name, random)
  }
  const counted: Catalog = { ...catalog, resolve: counting }
  const { list } = await serving(t, { catalog: () => counted })
  await list()
  const first = resolved
  t.ok(first > 0)
  const one = await list({ models: ['qwen*'] })
  t.strictSame(await list({ models: ['qwen*'] }), one)
  await list()
  t.equal(resolved, first)
})

t.test('more kinds of rights than are remembered still each see their own', async t => {
  const snapshot = catalogOf(house)
  const { ids } = await serving(t, { catalog: () => snapshot })
  for (let round = 0; round < 2; round++) {
    for (let number = 0; number < 40; number++) t.same(await ids({ models: [`none-${number}`, 'whisper-1'] }), ['whisper-1'])
  }
})

t.test('prices are plain decimals, exact to twelve digits', t => {
  const cases: [number, number, string][] = [
    [2.5, -6, '0.0000025'],
    [0.1 + 0.2, -6, '0.0000003'],
    [0.4, -6, '0.0000004'],
    [15, -6, '0.000015'],
    [0.00005, -6, '0.00000000005'],
    [1e-9, -6, '0.000000000000001'],
    [0, -6, '0'],
    [1_000_000, -6, '1'],
    [12_500_000, -6, '12.5'],
    [0.005, 0, '0.005'],
    [3, 0, '3'],
    [1e21, 0, '1000000000000000000000'],
    [123.456, 0, '123.456']
  ]
  for (const [value, shift, text] of cases) t.equal(decimal(value, shift), text)
  fc.assert(
    fc.property(fc.double({ min: 0, max: 1e6, noNaN: true }), value => {
      const text = decimal(value, -6)
      if (!/^(0|[1-9]\d*)(\.\d*[1-9])?$/.test(text)) return false
      return Math.abs(Number(text) - value / 1e6) <= (value / 1e6) * 1e-11
    })
  )
  t.end()
})

t.test('a hundred machines with the same model are one model', t => {
  const machines = Array.from({ length: 100 }, (_, index) => upstream(`m${index}`, { own: true }))
  const catalog = catalogOf({ upstreams: machines, targets: machines.map(machine => on(machine, 'a')) })
  const [first] = listedModels(catalog)
  const view = { canCarry: () => false, isAvailable: () => true, spaceOf: catalog.spaceOf }
  t.equal(first === undefined ? 0 : modelObject(first, view).targets.length, 100)
  t.end()
})
