// Why a request goes where it goes: knobs that change it, what is told of it beforehand, and whether that is what then happens.

import t, { type Test } from 'tap'
import { createDatabase } from '../support/cluster.ts'
import { type RunningGateway, startGateway } from '../support/gateway.ts'
import { echo, speakNatively } from '../support/mind.ts'
import { chunk, completion, type FakeUpstream, startCompatible, startOllama } from '../support/upstream.ts'
import { embed } from '../support/vectors.ts'
import { until } from '../support/wait.ts'
import { keyFor } from './queue-support.ts'

type Json = Record<string, unknown>
interface Route extends Json {
  readonly id: string | null
  readonly action: string
  readonly chosen: Json | null
  readonly ranked: readonly Json[]
  readonly rejected: readonly Json[]
  readonly error: Json | null
  readonly actual: Json | null
}

const words = Array.from({ length: 12 }, (_, at) => `word${at} `)
const figures = { prompt_tokens: 9, completion_tokens: 12, total_tokens: 21 }

/** Answers after so long, with a dozen tokens. */
function after(ms: number): FakeUpstream['behaviour'] {
  return async ({ body }, response) => {
    await new Promise(resolve => setTimeout(resolve, ms))
    if (body.stream !== true) {
      response.writeHead(200, { 'content-type': 'application/json' })
      return void response.end(JSON.stringify(completion(words.join(''), { usage: figures })))
    }
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    for (const content of words) response.write(chunk({ content }))
    response.write(chunk({}, {}, 'stop'))
    response.write(
      `data: ${JSON.stringify({ id: 'x', object: 'chat.completion.chunk', created: 1, model: 'm', choices: [], usage: figures })}\n\n`
    )
    response.end('data: [DONE]\n\n')
  }
}

const slowMs = 700
const listed = (...ids: string[]) => ({ models: ids.map(id => ({ id, object: 'model', created: 1, owned_by: 'test' })) })
const database = await createDatabase(t)
const cheap = await startCompatible(t, { ...listed('m', 'other', 'vectors'), behaviour: after(slowMs) })
const dear = await startCompatible(t, { ...listed('m', 'rare'), behaviour: after(0) })
const box = await startOllama(t, { models: ['home:1b'] })
cheap.others.set('/embeddings', embed({ dimensions: 8, seed: 1 }))
box.others.set('/api/generate', speakNatively(echo))
const price = (usd: number) => ({ input_usd_per_1m: usd, output_usd_per_1m: usd })
const gateway = await startGateway(t, {
  databaseUrl: database.url,
  config: {
    machines: { box: { url: box.origin, max_concurrency: 1 } },
    providers: {
      cheap: { base_url: `${cheap.origin}/v1`, api_key: 'sk-cheap-00000000000' },
      dear: { base_url: `${dear.origin}/v1`, api_key: 'sk-dear-000000000000' }
    },
    prices: { 'cheap/m': price(0.1), 'dear/m': price(2), 'cheap/other': price(0.1), 'dear/rare': price(2), 'cheap/vectors': price(0.1) },
    aliases: { listed: ['dear/m', 'cheap/m'], mixed: { weighted: { 'cheap/m': 1, 'dear/m': 3 } } }
  }
})
await until('every list to be read', async () => {
  const { data } = (await (await gateway.fetch('/v1/models')).json()) as { data: { id: string }[] }
  return ['m', 'other', 'rare', 'home:1b', 'vectors'].every(id => data.some(model => model.id === id))
})

interface Asking extends Json {
  readonly headers?: Readonly<Record<string, string>>
}

const bodyOf = (more: Json): Json => ({ model: 'm', max_tokens: 20, messages: [{ role: 'user', content: 'Say a dozen words' }], ...more })

function chat({ headers = {}, ...more }: Asking = {}, from: RunningGateway = gateway): Promise<Response> {
  return from.fetch('/v1/chat/completions', { json: bodyOf(more), headers })
}

async function preview({ headers = {}, ...more }: Asking = {}): Promise<Route> {
  const response = await gateway.fetch('/v1/route', { json: bodyOf(more), headers })
  if (response.status !== 200) throw new Error(`${response.status}: ${await response.text()}`)
  return (await response.json()) as Route
}

async function routeOf(response: Response, key?: string): Promise<Route> {
  const id = response.headers.get('x-llm-mcp-route-id')
  const headers: Record<string, string> = key === undefined ? {} : { authorization: `Bearer ${key}` }
  const found = await gateway.fetch(`/v1/routes/${id}`, { headers })
  if (found.status !== 200) throw new Error(`${found.status}: ${await found.text()}`)
  return (await found.json()) as Route
}

const providerOf = (response: Response): string | null => response.headers.get('x-llm-mcp-provider')

async function drained(sending: Promise<Response>): Promise<Response> {
  const response = await sending
  await response.text()
  return response
}

t.test('who is asked for by name answers', async t => {
  // From here on it is known how fast each of them is.
  for (const name of ['cheap', 'dear']) t.equal(providerOf(await drained(chat({ stream: true, provider: { only: [name] } }))), name)
})

t.test('cost and fast choose differently between one that is cheap and slow and one that is dear and fast', async t => {
  for (const [route, provider] of [
    ['cost', 'cheap'],
    ['fast', 'dear']
  ] as const) {
    const expected = await preview({ headers: { 'x-llm-mcp-route': route } })
    t.match(expected, {
      object: 'route',
      id: null,
      action: 'run',
      policy: route,
      chosen: { target: `${provider}/m`, provider, mode: 'start' }
    })
    const response = await drained(chat({ headers: { 'x-llm-mcp-route': route } }))
    t.equal(providerOf(response), provider)
  }
  t.equal(providerOf(await drained(chat({ provider: { sort: 'price' } }))), 'cheap')
  t.equal(providerOf(await drained(chat({ provider: { sort: 'latency' } }))), 'dear')
  t.equal(
    providerOf(await drained(chat({ provider: { sort: 'latency' }, headers: { 'x-llm-mcp-route': 'cost' } }))),
    'cheap',
    'a header says more'
  )
  t.equal(providerOf(await drained(chat({ model: 'listed' }))), 'dear', 'an alias has its order')
  t.equal(
    providerOf(await drained(chat({ model: 'listed', headers: { 'x-llm-mcp-route': 'cost' } }))),
    'cheap',
    'unless somebody says what counts'
  )
  t.match(await preview({ model: 'auto:cost' }), { policy: 'cost', action: 'run', reason: /^(?!given_order)/ })
})

t.test('what is told beforehand is what happens, and what happened is told afterwards', async t => {
  const expected = await preview()
  const response = await chat()
  await response.json()
  const route = await routeOf(response)
  t.equal(route.id, response.headers.get('x-request-id'))
  const stable = ({ chosen, ranked }: Route) => ({ target: chosen?.target, mode: chosen?.mode, ranked: ranked.map(({ target }) => target) })
  t.same(stable(route), stable(expected))
  t.equal(providerOf(response), route.chosen?.provider)
  t.equal(response.headers.get('x-llm-mcp-eta-ms'), String(Math.round(Number(route.chosen?.eta_p50_s) * 1_000)))
  t.match(route, {
    object: 'route',
    source: 'admin',
    model: 'm',
    action: 'run',
    reason: response.headers.get('x-llm-mcp-reason') as string,
    why: /^Rented from cheap; next best dear\/m is \$[\d.]+ dearer, [\d.]+ s faster/,
    chosen: { target: 'cheap/m', usd: Number, p_miss: 0, score: Number, eta_p90_s: Number },
    parts: { wait_s: 0, load_s: 0, prefill_s: Number, decode_s: Number, concurrency: 1, out_tokens_mean: Number, cached_tokens: 0 },
    ranked: [{ target: 'dear/m', score: Number, eta_s: Number, usd: Number, why: /dearer/ }],
    error: null,
    confidence: Number,
    decided_in_us: Number,
    actual: { outcome: 'ok', target: 'cheap/m', attempts: 1, out_tokens: 12, usd: Number(response.headers.get('x-llm-mcp-cost-usd')) }
  })
  const {
    latency_s: latency,
    within_p90: within,
    eta_error_pct: error
  } = route.actual as { latency_s: number; within_p90: boolean; eta_error_pct: number }
  const { eta_p50_s: p50, eta_p90_s: p90 } = route.chosen as { eta_p50_s: number; eta_p90_s: number }
  t.ok(latency >= slowMs / 1_000)
  t.equal(within, latency <= p90)
  t.ok(Math.abs(error - (latency / p50 - 1) * 100) < 2, `${error} of ${latency} and ${p50}`)
  t.ok(JSON.stringify(route).length <= 2_048)
  t.notMatch(JSON.stringify(route), /dozen/, 'nothing of the prompt')
  await until('it to be in the database', async () => {
    const { rows } = await database.pool.query('select record, target, source from routes where id = $1', [route.id])
    return rows[0]?.record.actual?.outcome === 'ok' && rows[0].target === 'cheap/m' && rows[0].source === 'admin'
  })
})

t.test('a bound of the costs is kept, and says what the cheapest would be', async t => {
  const calls = [cheap, dear].map(({ calls }) => calls.length)
  for (const model of ['m', 'listed']) {
    const refused = await chat({ model, headers: { 'x-llm-mcp-max-cost-usd': '0.0000001' } })
    t.equal(refused.status, 400)
    const { error } = (await refused.json()) as { error: Json }
    t.match(error, { code: 'no_target_within_budget', message: /the cheapest may cost \$0\.00000\d+/ })
    const route = await routeOf(refused)
    t.match(route, {
      action: 'refuse',
      chosen: null,
      error: { status: 400, code: 'no_target_within_budget' },
      actual: { outcome: 'failed', attempts: 0 }
    })
    t.same(
      route.rejected.map(({ filtered }) => filtered),
      ['max_cost', 'max_cost']
    )
  }
  t.same(
    [cheap, dear].map(({ calls }) => calls.length),
    calls
  )
  // 20 tokens of the dear one cost 0.00004, of the cheap one 0.000002.
  for (const model of ['m', 'listed']) {
    const response = await drained(chat({ model, headers: { 'x-llm-mcp-route': 'fast', 'x-llm-mcp-max-cost-usd': '0.00001' } }))
    t.equal(providerOf(response), 'cheap')
  }
  t.equal(
    providerOf(await drained(chat({ model: 'listed', headers: { 'x-llm-mcp-max-cost-usd': '0.00001' } }))),
    'cheap',
    'an order is no way around it'
  )
  t.equal((await chat({ n: 10, headers: { 'x-llm-mcp-max-cost-usd': '0.00001' } })).status, 400, 'ten answers are ten times as dear')
  const job = await gateway.fetch('/v1/jobs', { json: { kind: 'chat', max_cost_usd: 1e-7, payload: bodyOf({}) } })
  t.equal(job.status, 400)
  t.match(await job.json(), { error: { code: 'no_target_within_budget' } })
})

t.test('what a deadline means is the request’s to say', async t => {
  const soft = await drained(chat({ headers: { 'x-llm-mcp-deadline-ms': '20000' } }))
  t.equal(soft.status, 200)
  cheap.behaviour = after(3_000)
  await drained(chat({ stream: true, provider: { only: ['cheap'] } }))
  const only = { provider: { only: ['cheap'] } }
  const hard = await chat({ ...only, headers: { 'x-llm-mcp-deadline-ms': '300', 'x-llm-mcp-deadline': 'hard' } })
  t.equal(hard.status, 503)
  t.match(await hard.json(), { error: { message: /after its deadline/ } })
  t.match(await routeOf(hard), {
    knob: { deadline: 'hard', deadline_s: 0.3 },
    rejected: [{ target: 'cheap/m', filtered: 'deadline', eta_s: Number }, { filtered: 'not_in_only' }]
  })
  cheap.behaviour = after(slowMs)
  const alone = await chat({ headers: { 'x-llm-mcp-deadline': 'hard' } })
  t.equal(alone.status, 400)
  t.match(await alone.json(), { error: { param: 'x-llm-mcp-deadline' } })
})

t.test('OpenRouter’s fields choose among providers, and are not sent on to others', async t => {
  const asked = async (provider: Json, more: Json = {}) => drained(chat({ provider, ...more }))
  t.equal(providerOf(await asked({ only: ['DEAR'] })), 'dear')
  t.notOk('provider' in (dear.calls.at(-1)?.body ?? {}))
  t.equal(providerOf(await asked({ ignore: ['cheap'] })), 'dear')
  t.equal(providerOf(await asked({ order: ['dear', 'cheap'] })), 'dear')
  t.match(await preview({ provider: { ignore: ['cheap'] } }), {
    chosen: { target: 'dear/m' },
    rejected: [{ target: 'cheap/m', filtered: 'ignored' }]
  })
  t.match(await preview({ provider: { max_price: { completion: 1 } } }), {
    chosen: { target: 'cheap/m' },
    rejected: [{ filtered: 'above_max_price' }]
  })
  t.match(await preview({ provider: { zdr: true } }), { action: 'refuse', error: { status: 400, code: 'unsupported_parameter' } })
  t.match(await preview({ provider: { only: ['azure'] } }), { action: 'refuse', error: { status: 400, param: 'provider.only' } })
  const soft = await asked({ only: ['dear'], preferred_min_throughput: 10, max_price: { image: 1 } })
  t.equal(soft.headers.get('x-llm-mcp-dropped'), 'provider.preferred_min_throughput, provider.max_price.image')

  const broken = (_call: unknown, response: import('node:http').ServerResponse) => void response.writeHead(500).end('{}')
  dear.behaviour = broken
  t.equal(providerOf(await asked({ order: ['dear'] })), 'cheap', 'who is not in the order comes after it')
  t.equal((await asked({ order: ['dear'], allow_fallbacks: false })).status, 502)
  t.equal(
    (await asked({ sort: 'latency', allow_fallbacks: false }, { headers: {} })).status >= 500 ||
      providerOf(await asked({ sort: 'latency', allow_fallbacks: false })) === 'cheap',
    true
  )
  dear.behaviour = after(0)
})

t.test('several models are tried in their order, whatever they cost, each within the rights of the key', async t => {
  const models = ['rare', 'other']
  t.equal((await drained(chat({ model: undefined, models }))).headers.get('x-llm-mcp-model'), 'rare')
  t.notOk('models' in (dear.calls.at(-1)?.body ?? {}))
  dear.behaviour = (_call, response) => void response.writeHead(500).end('{}')
  const response = await drained(chat({ model: 'rare', models: ['other'] }))
  t.same([response.headers.get('x-llm-mcp-model'), response.headers.get('x-llm-mcp-reason')], ['other', 'fallback'])
  t.match(await routeOf(response), { chosen: { target: 'dear/rare' }, actual: { target: 'cheap/other', attempts: 2 } })
  dear.behaviour = after(0)
  t.match(await preview({ model: 'rare', models: ['other'], provider: { sort: { by: 'price', partition: 'none' } } }), {
    chosen: { target: 'cheap/other' }
  })
  const { key } = (await (await gateway.fetch('/v1/keys', { json: { kind: 'source', source: 'narrow', models: ['rare'] } })).json()) as {
    key: string
  }
  const narrow = await gateway.fetch('/v1/route', {
    json: bodyOf({ model: 'rare', models: ['other'] }),
    headers: { authorization: `Bearer ${key}` }
  })
  t.match(await narrow.json(), {
    chosen: { target: 'dear/rare' },
    ranked: [],
    rejected: [{ target: 'cheap/other', filtered: 'not_allowed' }]
  })
  const unknown = await chat({ models: ['m', 'mm'] })
  t.equal(unknown.status, 404)
  t.match(await unknown.json(), { error: { param: 'models', message: /"mm"/ } })
})

t.test('what cannot be read is refused by its name', async t => {
  const faults: readonly (readonly [Asking, string])[] = [
    [{ headers: { 'x-llm-mcp-route': 'cheapest' } }, 'x-llm-mcp-route'],
    [{ headers: { 'x-llm-mcp-max-cost-usd': '-1' } }, 'x-llm-mcp-max-cost-usd'],
    [{ headers: { 'x-llm-mcp-max-cost-usd': '0' } }, 'x-llm-mcp-max-cost-usd'],
    [{ headers: { 'x-llm-mcp-max-cost-usd': 'NaN' } }, 'x-llm-mcp-max-cost-usd'],
    [{ headers: { 'x-llm-mcp-deadline-ms': '5000', 'x-llm-mcp-deadline': 'firm' } }, 'x-llm-mcp-deadline'],
    [{ models: 'm' }, 'models'],
    [{ models: [] }, 'models'],
    [{ models: ['m', 5] }, 'models[1]'],
    [{ provider: 'cheap' }, 'provider'],
    [{ provider: { order: 'cheap' } }, 'provider.order'],
    [{ provider: { only: [1] } }, 'provider.only'],
    [{ provider: { allow_fallbacks: 'no' } }, 'provider.allow_fallbacks'],
    [{ provider: { sort: 'speed' } }, 'provider.sort'],
    [{ provider: { sort: { by: 'price', partition: 'all' } } }, 'provider.sort.partition'],
    [{ provider: { max_price: 3 } }, 'provider.max_price'],
    [{ provider: { max_price: { prompt: -1 } } }, 'provider.max_price.prompt'],
    [{ provider: { data_collection: 'maybe' } }, 'provider.data_collection'],
    [{ provider: { quantizations: ['q9'] } }, 'provider.quantizations'],
    [{ provider: { preferred_max_latency: { p10: 1 } } }, 'provider.preferred_max_latency']
  ]
  for (const [asked, param] of faults) {
    for (const response of [
      await chat(asked),
      await gateway.fetch('/v1/route', { json: bodyOf({ ...asked, headers: undefined }), headers: asked.headers ?? {} })
    ]) {
      t.equal(response.status, 400, param)
      t.equal(((await response.json()) as { error: { param: string } }).error.param, param)
      t.equal(response.headers.get('x-llm-mcp-route-id'), null, 'nothing was decided')
    }
  }
  const vectors = await gateway.fetch('/v1/embeddings', { json: { model: 'vectors', input: 'x', models: ['m'] } })
  t.match([vectors.status, await vectors.json()], [400, { error: { param: 'models' } }])
})

t.test('to ask what would happen asks nobody, takes nothing, and says what would be refused', async t => {
  const { key } = (await (
    await gateway.fetch('/v1/keys', {
      json: { kind: 'source', source: 'asker', limits: { requests_per_minute: 2, concurrent_requests: 1 } }
    })
  ).json()) as { key: string }
  const headers = { authorization: `Bearer ${key}` }
  const before = [cheap, dear, box].map(({ calls }) => calls.filter(({ method }) => method === 'POST').length)
  for (const model of ['m', 'home:1b', 'auto', 'local', 'nobody', 'mixed']) {
    for (let count = 0; count < 3; count++) {
      const response = await gateway.fetch(count === 0 ? '/route' : '/v1/route', { json: bodyOf({ model }), headers })
      t.equal(response.status, 200)
      t.equal(response.headers.get('x-ratelimit-remaining-requests'), '2')
      const route = (await response.json()) as Route
      if (model === 'nobody')
        t.match(route, { action: 'refuse', error: { status: 404, code: 'model_not_found' }, ranked: [], rejected: [] })
      if (model === 'mixed')
        t.match(route, {
          chosen: { target: 'cheap/m' },
          chances: [
            { model: 'cheap/m', share: 0.25 },
            { model: 'dear/m', share: 0.75 }
          ]
        })
    }
  }
  t.same(
    [cheap, dear, box].map(({ calls }) => calls.filter(({ method }) => method === 'POST').length),
    before
  )
  const { rows } = await database.pool.query(`select from routes where source = 'asker'`)
  t.equal(rows.length, 0)
  const free = await gateway.fetch('/v1/chat/completions', { json: bodyOf({ model: 'home:1b' }), headers })
  t.equal(free.status, 200, 'its place was never taken')
})

t.test('each kind of answer has a route, and only its source and admins see it', async t => {
  const key = await keyFor(gateway, 'alice')
  const other = await keyFor(gateway, 'bob')
  const headers = { authorization: `Bearer ${key}` }
  const messages = [{ role: 'user', content: 'Hello' }]
  const send = async (path: string, json: Json) => drained(gateway.fetch(path, { json, headers }))
  const streamed = await gateway.fetch('/v1/chat/completions', {
    json: { model: 'm', messages, stream: true, stream_options: { include_usage: true } },
    headers
  })
  const text = await streamed.text()
  t.match(text, new RegExp(`"x_llm_mcp":\\{[^}]*"route_id":"${streamed.headers.get('x-llm-mcp-route-id')}"`))
  const answers: Record<string, Response> = {
    stream: streamed,
    completions: await send('/v1/completions', { model: 'home:1b', prompt: 'Once' }),
    embeddings: await send('/v1/embeddings', { model: 'vectors', input: 'x' }),
    responses: await send('/v1/responses', { model: 'm', input: 'x' }),
    choices: await send('/v1/chat/completions', { model: 'home:1b', messages, n: 3 }),
    unknown: await send('/v1/chat/completions', { model: 'nobody', messages }),
    job: await send('/v1/jobs', { kind: 'chat', route: 'fast', payload: { model: 'm', messages } })
  }
  for (const [name, response] of Object.entries(answers)) {
    const id = response.headers.get('x-llm-mcp-route-id') ?? ''
    t.match(id, /^[0-9a-f-]{36}$/, name)
    const route = await until(`the route of ${name}`, async () => {
      const found = await gateway.fetch(`/v1/routes/${id}`, { headers })
      const route = found.status === 200 ? ((await found.json()) as Route) : null
      return route?.actual == null ? null : route
    })
    if (name === 'unknown') t.match(route, { action: 'refuse', actual: { outcome: 'failed', error: 'model_not_found' } })
    else t.match(route, { source: 'alice', actual: { outcome: 'ok' } }, name)
    if (name === 'choices') t.match(route, { actual: { attempts: 3 } })
    if (name === 'job') t.match(route, { policy: 'fast', actual: { target: 'dear/m' } })
    t.equal((await gateway.fetch(`/v1/routes/${id}`)).status, 200, 'an admin sees it')
    t.equal((await gateway.fetch(`/v1/routes/${id}`, { headers: { authorization: `Bearer ${other}` } })).status, 404)
  }
  t.equal((await gateway.fetch('/v1/routes/01890000-0000-7000-8000-000000000000')).status, 404)
  t.equal((await gateway.fetch('/v1/routes/x')).status, 404)
})

t.test('a request that waits for a machine can be asked about while it waits, and as the job it was', async t => {
  const held: (() => void)[] = []
  const usual = box.behaviour
  box.behaviour = async (call, response, request) => {
    await new Promise<void>(resolve => held.push(resolve))
    await usual(call, response, request)
  }
  const first = chat({ model: 'home:1b', max_tokens: undefined })
  await until('the machine to be full', () => held.length === 1)
  const waiting = await chat({ model: 'home:1b', stream: true })
  const id = waiting.headers.get('x-llm-mcp-route-id')
  const jobId = waiting.headers.get('x-llm-mcp-job-id')
  t.match(await (await gateway.fetch(`/v1/routes/${id}`)).json(), { actual: null, chosen: { target: 'box/home:1b' } })
  for (let count = 0; count < 2; count++) {
    await until('a call', () => held.length > 0)
    held.shift()?.()
  }
  await Promise.all([first.then(response => response.text()), waiting.text()])
  const over = {
    id,
    action: 'wait',
    reason: 'waited',
    chosen: { mode: 'wait', device: 'box' },
    actual: { outcome: 'ok', attempts: 1, target: 'box/home:1b' }
  }
  const route = await until('its end', async () => {
    const route = (await (await gateway.fetch(`/v1/routes/${id}`)).json()) as Route
    return route.action === 'wait' && route.actual !== null ? route : null
  })
  t.match(route, over)
  t.match(await (await gateway.fetch(`/v1/routes/${jobId}`)).json(), over)
  box.behaviour = usual
})

t.test('a request that stays in the house gets a 503 when its machines are away, and no cloud hears of it', async t => {
  await local(t)
})

async function local(t: Test): Promise<void> {
  const cloud = await startCompatible(t, listed('llama3.2:3b'))
  const home = await startOllama(t, { models: ['llama3.2:3b'] })
  let connections = 0
  cloud.server.on('connection', () => connections++)
  const house = await startGateway(t, {
    databaseUrl: (await createDatabase(t)).url,
    config: {
      machines: { home: { url: home.origin, max_concurrency: 1 } },
      providers: { far: { base_url: `${cloud.origin}/v1`, api_key: 'sk-cloud-00000000000' } },
      prices: { 'far/llama3.2:3b': price(0.1) },
      aliases: { pair: ['home/llama3.2:3b', 'far/llama3.2:3b'] }
    }
  })
  await until('both lists to be read', async () => {
    const { data } = (await (await house.fetch('/v1/models')).json()) as { data: { id: string; targets?: unknown[] }[] }
    return data.some(({ id, targets }) => id === 'llama3.2:3b' && targets?.length === 2)
  })
  const stay = { 'x-llm-mcp-local-only': 'true' }
  const ask = (more: Asking = {}) => chat({ model: 'llama3.2:3b', ...more, headers: stay }, house)
  t.equal(providerOf(await drained(ask())), 'ollama')
  const before = { connections, lists: cloud.calls.length }
  const usual = home.behaviour

  // It fails: no fallback leaves the house.
  home.behaviour = (_call, response) => void response.destroy()
  for (const more of [{}, { stream: true }, { models: ['far/llama3.2:3b'] }, { model: 'pair' }, { provider: { order: ['far'] } }]) {
    const response = await drained(ask(more))
    t.ok(response.status >= 500, `${JSON.stringify(more)}: ${response.status}`)
  }
  // It is full, and dies while somebody waits for it.
  home.behaviour = () => {}
  const running = new AbortController()
  void house.fetch('/v1/chat/completions', { json: bodyOf({ model: 'home/llama3.2:3b' }), signal: running.signal }).catch(() => {})
  await until('the machine to be full', () => home.running.now > 0)
  const waiting = ask({ provider: { sort: 'latency' }, headers: stay })
  await until(
    'it to wait',
    async () => ((await (await house.fetch('/v1/jobs?status=queued')).json()) as { data: unknown[] }).data.length > 0
  )
  home.server.closeAllConnections()
  home.server.close()
  running.abort()
  const ended = await house.fetch('/v1/route', { json: bodyOf({ model: 'llama3.2:3b' }), headers: stay })
  t.equal(ended.status, 200)
  await until('the machine to be known as away', async () => {
    const route = (await (await house.fetch('/v1/route', { json: bodyOf({ model: 'llama3.2:3b' }), headers: stay })).json()) as Route
    return route.action === 'refuse' && route.error?.status === 503
  })
  for (const more of [
    {},
    { stream: true },
    { model: 'auto' },
    { model: 'pair' },
    { model: 'auto:fast' },
    { models: ['far/llama3.2:3b'] }
  ]) {
    const response = await drained(ask(more))
    t.equal(response.status, 503, JSON.stringify(more))
  }
  const { data } = (await (await house.fetch('/v1/jobs?status=queued')).json()) as { data: { id: string }[] }
  for (const { id } of data) await house.fetch(`/v1/jobs/${id}/cancel`, { method: 'POST' })
  await waiting.then(response => response.text()).catch(() => {})
  t.same(cloud.calls.filter(({ method }) => method !== 'GET').length, 0)
  t.ok(connections - before.connections <= cloud.calls.length - before.lists, 'whatever was opened was for a list')
  const leaving = await drained(chat({ model: 'llama3.2:3b' }, house))
  t.equal(providerOf(leaving), 'far', 'whoever may leave is answered')
  home.behaviour = usual
}
