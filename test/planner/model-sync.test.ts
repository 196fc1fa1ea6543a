// The list of rented models against a pretended OpenRouter on a real socket: what is offered, what goes, and what it cost since when.

import { existsSync, readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { createAdapter } from '../../adapters/openrouter.ts'
import { createOutbound } from '../../outbound/client.ts'
import { type ModelSyncPorts, syncModels, syncNote } from '../../planner/model-sync.ts'
import type { Alias } from '../../routing/catalog.ts'
import type { Upstream } from '../../routing/types.ts'
import { offeredModels, priceHistory } from '../../store/models.ts'
import { createDatabase } from '../support/cluster.ts'

const realList = new URL('../../../shared/data/openrouter-models.json', import.meta.url)
const withoutRealList = existsSync(realList) ? false : 'the list of ../shared/data/openrouter-models.json is not here'
const signal = new AbortController().signal

function entry(id: string, changes: Record<string, unknown> = {}): Record<string, unknown> {
  return {
    id,
    created: 1_700_000_000,
    context_length: 128_000,
    architecture: { input_modalities: ['text'], output_modalities: ['text'] },
    pricing: { prompt: '0.000001', completion: '0.000002' },
    top_provider: { context_length: 128_000, max_completion_tokens: 4_096 },
    supported_parameters: ['tools'],
    ...changes
  }
}

/** An OpenRouter whose lists the test sets; null = it is broken, undefined = there is none. */
async function openRouter(t: Test) {
  const state: { list: readonly unknown[] | null; embedding?: readonly unknown[] | null; asked: number } = { list: [], asked: 0 }
  const server = createServer(({ url }, response) => {
    const isEmbedding = url?.endsWith('/embeddings/models') === true
    if (!isEmbedding) state.asked++
    const list = isEmbedding ? state.embedding : state.list
    if (list === undefined) return void response.writeHead(404).end('{}')
    if (list === null) return void response.writeHead(500, { 'content-type': 'application/json' }).end('{"error":"down"}')
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ data: list }))
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const outbound = createOutbound()
  t.teardown(async () => {
    await outbound.close()
    server.close()
  })
  const { pool } = await createDatabase(t)
  const told: string[] = []
  const ports = (changes: Partial<ModelSyncPorts> = {}): ModelSyncPorts => ({
    pool,
    upstreams: [upstreamAt(`http://127.0.0.1:${(server.address() as AddressInfo).port}/api/v1`)],
    adapters: new Map([['openrouter', createAdapter({ outbound })]]),
    aliases: new Map<string, Alias>(),
    prices: { configured: new Map(), registered: () => null },
    policy: { top: 100, maxUsdPer1m: 10 },
    onSynced: async provider => void told.push(provider),
    ...changes
  })
  const names = async () => (await offeredModels(pool, 'openrouter'))?.map(({ model }) => model)
  return { state, pool, ports, told, names }
}

function upstreamAt(baseUrl: string): Upstream {
  return {
    id: 'openrouter',
    adapter: 'openrouter',
    own: false,
    baseUrl,
    apiKey: 'sk-or-k',
    headers: {},
    device: null,
    timeouts: { connectMs: 1_000, firstTokenMs: 60_000, idleMs: 60_000, totalMs: 60_000 },
    models: null,
    auto: [],
    streamUsage: true,
    registryId: null
  }
}

t.test('what comes, goes and changes its price is told; what went is kept, and no longer offered', async t => {
  const { state, pool, ports, told, names } = await openRouter(t)
  t.equal(await offeredModels(pool, 'openrouter'), null, 'nobody has asked yet')
  state.list = [entry('a/one'), entry('b/two'), entry('c/three', { pricing: { prompt: '-1', completion: '-1' } })]
  t.match(await syncModels(ports(), signal), [
    { provider: 'openrouter', listed: 3, offered: 2, added: ['a/one', 'b/two', 'c/three'], gone: [], repriced: [], error: null }
  ])
  t.same(await names(), ['a/one', 'b/two'])

  state.list = [entry('b/two', { pricing: { prompt: '0.000003', completion: '0.000002' } }), entry('d/four')]
  const second = await syncModels(ports(), signal)
  t.match(second, [{ listed: 2, offered: 2, added: ['d/four'], gone: ['a/one', 'c/three'], repriced: ['b/two'] }])
  t.equal(syncNote(second), 'openrouter: 2 of 2 models offered, 1 new, 2 gone, 1 with a new price')
  t.same(await names(), ['b/two', 'd/four'])
  const { rows } = await pool.query(`select model, gone_at is not null as gone from models order by model`)
  t.same(
    rows.map(({ model, gone }) => [model, gone]),
    [
      ['a/one', true],
      ['b/two', false],
      ['c/three', true],
      ['d/four', false]
    ]
  )
  t.match(await priceHistory(pool, 'openrouter', 'b/two'), [
    { price: { inputUsdPer1m: 3, outputUsdPer1m: 2 } },
    { price: { inputUsdPer1m: 1, outputUsdPer1m: 2 } }
  ])
  t.match(await priceHistory(pool, 'openrouter', 'c/three'), [{ price: null }], 'unknown is not 0')

  state.list = [entry('a/one'), ...state.list]
  t.match(await syncModels(ports(), signal), [{ added: ['a/one'], gone: [], repriced: [] }], 'one that comes back')
  t.same(await names(), ['a/one', 'b/two', 'd/four'])
  t.equal((await priceHistory(pool, 'openrouter', 'b/two')).length, 2, 'the same price again is no change')
  t.same(told, ['openrouter', 'openrouter', 'openrouter'])
})

t.test('a list that fails, or is empty, takes nothing away', async t => {
  const { state, ports, told, names } = await openRouter(t)
  state.list = [entry('a/one')]
  await syncModels(ports(), signal)
  for (const list of [null, []]) {
    state.list = list
    const [result] = await syncModels(ports(), signal)
    t.match(result?.error, list === null ? /500|down/ : /lists no model at all/)
  }
  t.same(await names(), ['a/one'])
  t.equal(told.length, 1)
})

const unread = { pricing: { prompt: 'NaN', completion: 'NaN' } }
const many = (count: number) => Array.from({ length: count }, (_, index) => entry(`a/m${index}`))

t.test('a list whose prices cannot be read is not believed, and offers nothing dear', async t => {
  const { state, ports, names } = await openRouter(t)
  state.list = [entry('a/one', unread), entry('openrouter/auto', { pricing: { prompt: '-1', completion: '-1' } })]
  const refused = [{ listed: 0, error: 'openrouter lists no price that can be read: nothing was changed' }]
  t.match(await syncModels(ports(), signal), refused)
  t.equal(await names(), undefined)
  state.list = [entry('a/one')]
  await syncModels(ports(), signal)
  state.list = [entry('a/one', unread), entry('b/two', { pricing: undefined })]
  t.match(await syncModels(ports({ believesAll: true }), signal), refused)
  t.same(await names(), ['a/one'])
})

t.test('one of two lists that is empty or broken takes nothing away', async t => {
  const { state, ports, names } = await openRouter(t)
  const vectors = { architecture: { output_modalities: ['embeddings'] } }
  state.list = [entry('a/one'), entry('b/both')]
  state.embedding = [entry('c/vectors', vectors), entry('b/both')]
  t.match(await syncModels(ports(), signal), [{ error: null }])
  t.same(await names(), ['a/one', 'b/both', 'c/vectors'])

  state.list = []
  t.match(await syncModels(ports(), signal), [{ error: /lists no model that chats, as it did before .*--force.*: nothing was changed/ }])
  t.same(await names(), ['a/one', 'b/both', 'c/vectors'])

  state.list = [entry('b/both'), entry('d/new')]
  state.embedding = null
  t.match(await syncModels(ports(), signal), [
    { added: ['d/new'], gone: ['a/one'], error: /^its embedding models could not be read, those known are kept: .*500/ }
  ])
  t.same(await names(), ['b/both', 'd/new', 'c/vectors'])
  const [both] = (await offeredModels(ports().pool, 'openrouter')) ?? []
  t.same(both?.operations, ['chat', 'complete', 'embed'])

  delete state.embedding
  t.match(await syncModels(ports(), signal), [{ gone: [], error: null }], 'a server without such a list')
  state.embedding = [entry('c/vectors', vectors)]
  t.match(await syncModels(ports(), signal), [{ gone: [], error: null }])
  t.same((await offeredModels(ports().pool, 'openrouter'))?.[0]?.operations, ['chat', 'complete'])
})

t.test('a list that is suddenly a fifth of what it was is believed only by somebody’s word', async t => {
  const { state, ports, names } = await openRouter(t)
  state.list = many(20)
  await syncModels(ports(), signal)
  state.list = many(4)
  t.match(await syncModels(ports(), signal), [{ error: null }], 'a fifth is still a list')
  state.list = many(20)
  await syncModels(ports(), signal)
  state.list = many(3)
  for (let time = 0; time < 2; time++) {
    t.match(await syncModels(ports(), signal), [
      { error: 'openrouter lists 3 models for chat, and listed 20 before ("llm-mcp models sync --force" believes it): nothing was changed' }
    ])
  }
  t.equal((await names())?.length, 20)
  const forced = await syncModels(ports({ believesAll: true }), signal)
  t.match(forced, [{ error: null }])
  t.equal((await names())?.length, 3)
})

t.test('of more than 5,000 models the rest is not read, which is said, and what was known stays', async t => {
  const { state, ports, pool } = await openRouter(t)
  state.list = [entry('z/known')]
  await syncModels(ports(), signal)
  state.list = [...many(5_000), entry('z/known')].map(({ id, pricing }) => ({ id, pricing }))
  const results = await syncModels(ports(), signal)
  t.match(results, [{ gone: [], error: null, note: 'of its 5001 models, only the first 5000 are read' }])
  t.match(syncNote(results), /only the first 5000 are read/)
  const { rows } = await pool.query(`select from models where model = 'z/known' and gone_at is null`)
  t.equal(rows.length, 1)
})

t.test('one provider that fails does not keep the others from being asked', async t => {
  const { state, ports } = await openRouter(t)
  state.list = [entry('a/one')]
  const [good] = ports().upstreams as [Upstream]
  const bad = { ...good, id: 'broken', baseUrl: 'http://127.0.0.1:1/api/v1' }
  const owns = { ...good, id: 'box', own: true }
  const named = { ...good, id: 'named', models: ['x'] }
  t.match(await syncModels(ports({ upstreams: [bad, owns, named, good] }), signal), [
    { provider: 'broken', error: /could not be asked/ },
    { provider: 'openrouter', error: null }
  ])
})

t.test('models that the configuration names are offered at any price', async t => {
  const { state, ports, names } = await openRouter(t)
  const dear = { pricing: { prompt: '0.00009', completion: '0.00009' } }
  state.list = [
    entry('a/one', dear),
    entry('b/two', dear),
    entry('c/three', dear),
    entry('openrouter/auto', { pricing: { prompt: '-1', completion: '-1' } })
  ]
  const aliases = new Map<string, Alias>([
    ['best', { kind: 'ordered', models: ['openrouter/a/one'] }],
    ['some', { kind: 'weighted', models: [{ model: 'b/two', weight: 1 }] }]
  ])
  const [upstream] = ports().upstreams as [Upstream]
  await syncModels(ports({ aliases, upstreams: [{ ...upstream, auto: ['openrouter/auto'] }] }), signal)
  t.same(await names(), ['a/one', 'b/two', 'openrouter/auto'])
})

t.test('a sync that is called off writes nothing', async t => {
  const { state, ports, names } = await openRouter(t)
  state.list = [entry('a/one')]
  await t.rejects(syncModels(ports(), AbortSignal.abort(new Error('the process leaves'))), /leaves/)
  t.equal(await names(), undefined)
  t.equal(state.asked, 0)
})

t.test('the real list of 356 models: its traps, and within a second', { skip: withoutRealList }, async t => {
  const { state, pool, ports, names } = await openRouter(t)
  const json = JSON.parse(readFileSync(realList, 'utf8'))
  const list: Record<string, unknown>[] = json.data ?? json
  state.list = list
  const beganAt = performance.now()
  const [result] = await syncModels(ports(), signal)
  const tookMs = performance.now() - beganAt
  t.comment(`${result?.offered} of ${result?.listed} models offered, in ${tookMs.toFixed(0)} ms`)
  t.match(result, { listed: 356, error: null })
  t.ok(tookMs < 1_000, `${tookMs} ms`)
  const offered = (await names()) as string[]
  t.ok(offered.length > 100 && offered.length <= 120, '100 that cost something, and a fifth as many that do not')
  t.equal(new Set(offered).size, offered.length)
  const { rows } = await pool.query(`select model, score, left_out, listing from models where provider = 'openrouter'`)
  const byModel = new Map(rows.map(row => [row.model, row]))
  for (const router of ['openrouter/auto', 'openrouter/bodybuilder', 'openrouter/pareto-code'])
    t.equal(byModel.get(router)?.left_out, 'price_unknown', router)
  for (const row of rows) {
    t.ok(row.score === null || (row.score >= 0 && row.score <= 104_858), row.model)
    const { context_length: own, top_provider: top } = list.find(({ id }) => id === row.model) as {
      context_length: number
      top_provider: { context_length: number | null }
    }
    t.equal(row.listing.maxContextTokens, Math.min(own, top.context_length ?? own), `${row.model} has the smaller context`)
  }
  const scout = byModel.get('meta-llama/llama-4-scout')
  t.ok(scout.score < 10_000, 'ten million tokens of context count as one million')
  t.match(await syncModels(ports(), signal), [{ added: [], gone: [], repriced: [] }], 'again, and nothing changed')
})
