// What becomes of a request whose first targets fail, or take no call just now: over real connections, with what is told of it.

import t from 'tap'
import { createDatabase } from '../support/cluster.ts'
import { startGateway } from '../support/gateway.ts'
import { answerJson, completion, type FakeUpstream, sayNatively, startCompatible, startOllama } from '../support/upstream.ts'
import { until } from '../support/wait.ts'
import { jobsOf } from './queue-support.ts'

type Json = Record<string, unknown>

const figures = { prompt_tokens: 9, completion_tokens: 12, total_tokens: 21 }
const works = answerJson(200, JSON.stringify(completion('x', { usage: figures })))
const broken = answerJson(500, { error: { message: 'boom' } })
const listed = { models: [{ id: 'm', object: 'model', created: 1, owned_by: 'test' }] }
const database = await createDatabase(t)
const cheap = await startCompatible(t, { ...listed, behaviour: works })
const dear = await startCompatible(t, { ...listed, behaviour: works })
const box = await startOllama(t, { models: ['m'] })
const price = (usd: number) => ({ input_usd_per_1m: usd, output_usd_per_1m: usd })
const gateway = await startGateway(t, {
  databaseUrl: database.url,
  config: {
    machines: { box: { url: box.origin, max_concurrency: 1 } },
    providers: {
      cheap: { base_url: `${cheap.origin}/v1`, api_key: 'sk-cheap-00000000000' },
      dear: { base_url: `${dear.origin}/v1`, api_key: 'sk-dear-000000000000' }
    },
    prices: { 'cheap/m': price(0.1), 'dear/m': price(2) },
    aliases: { listed: ['cheap/m', 'dear/m'] }
  }
})
const jobs = jobsOf(gateway)
await until('every list to be read', async () => {
  const targets = await Promise.all(['box/m', 'cheap/m', 'dear/m'].map(model => chat({ model, max_tokens: 1 })))
  return targets.every(({ status }) => status === 200)
})

function chat(more: Json = {}): Promise<Response> {
  return gateway.fetch('/v1/chat/completions', {
    json: { model: 'm', max_tokens: 20, messages: [{ role: 'user', content: 'Say a dozen words' }], ...more }
  })
}

async function routeOf(response: Response): Promise<Json> {
  const id = response.headers.get('x-llm-mcp-route-id')
  return (await (await gateway.fetch(`/v1/routes/${id}`)).json()) as Json
}

const providerOf = (response: Response): string | null => response.headers.get('x-llm-mcp-provider')
const chatsOf = (...fakes: readonly FakeUpstream[]): number =>
  fakes.reduce((sum, { calls }) => sum + calls.filter(({ path }) => path.endsWith('/chat/completions')).length, 0)

t.test('without fallbacks nobody else of the same model answers, whatever list it stands in', async t => {
  cheap.behaviour = broken
  const before = chatsOf(dear)
  for (const more of [{ model: 'listed' }, { model: 'cheap/m', models: ['dear/m'] }]) {
    const response = await chat({ ...more, provider: { allow_fallbacks: false } })
    t.equal(response.status, 502)
    t.match(await routeOf(response), {
      ranked: [],
      rejected: [{ target: 'dear/m', filtered: 'no_fallback' }],
      actual: { attempts: 1, failed: [{ target: 'cheap/m', error: 'upstream_unavailable' }] }
    })
  }
  t.equal(chatsOf(dear), before)
  cheap.behaviour = works
})

t.test('a request whose providers fail waits for the machine that is only busy', async t => {
  const free = Promise.withResolvers<void>()
  box.behaviour = async (...call) => {
    await free.promise
    return sayNatively('hi')(...call)
  }
  const before = box.calls.length
  const first = chat({ model: 'box/m' })
  await until('the machine to be busy', () => box.calls.slice(before).some(({ path }) => path === '/api/chat'))
  cheap.behaviour = dear.behaviour = broken
  const waiting = chat()
  await until('it waits', async () => (await database.pool.query(`select from jobs where status = 'queued'`)).rows.length === 1)
  free.resolve()
  const response = await waiting
  t.equal(response.status, 200)
  t.equal(providerOf(response), 'ollama')
  t.match(await routeOf(response), {
    reason: 'waited',
    // The second provider is asked, or not, as its rent is against the wait.
    actual: {
      outcome: 'ok',
      target: 'box/m',
      attempts: Number,
      eta_error_pct: null,
      failed: [{ target: 'cheap/m', error: 'upstream_unavailable' }]
    }
  })
  await (await first).text()
  box.behaviour = sayNatively('hi')
  cheap.behaviour = dear.behaviour = works
})

t.test('a batch whose machine fails is tried there again, and rents nothing', async t => {
  let failures = 0
  box.behaviour = (...call) => {
    failures++
    return answerJson(500, { error: 'boom' })(...call)
  }
  const before = chatsOf(cheap, dear)
  const payload = { model: 'm', max_tokens: 20, messages: [{ role: 'user', content: 'Hello' }] }
  const submitted = await gateway.fetch('/v1/jobs', { json: { kind: 'chat', priority: 'batch', max_attempts: 2, payload } })
  const { id } = (await submitted.json()) as { id: string }
  await until('its first try to fail', () => failures === 1)
  box.behaviour = sayNatively('hi')
  t.match(await jobs.until(id, 'done'), { device: 'box', attempts: 2 })
  t.equal(chatsOf(cheap, dear), before)
})

// The last one: afterwards the provider's limit is known.
t.test('a provider that says how much it takes is not asked for more, also in a list', async t => {
  let windowAt = Date.now()
  let taken = 0
  let refused = 0
  cheap.behaviour = (...call) => {
    if (Date.now() - windowAt > 3_000) {
      windowAt = Date.now()
      taken = 0
    }
    taken++
    const headers = {
      'x-ratelimit-limit-requests': '3',
      'x-ratelimit-remaining-requests': String(Math.max(0, 3 - taken)),
      'x-ratelimit-reset-requests': `${((3_000 - (Date.now() - windowAt)) / 1_000).toFixed(2)}s`
    }
    if (taken <= 3) return answerJson(200, JSON.stringify(completion('x', { usage: figures })), headers)(...call)
    refused++
    return answerJson(429, { error: { message: 'slow down' } }, { ...headers, 'retry-after': '1' })(...call)
  }
  const by: Record<string, number> = {}
  const began = Date.now()
  while (Date.now() - began < 4_500) {
    const response = await chat({ model: 'listed' })
    await response.text()
    t.equal(response.headers.get('x-llm-mcp-reason'), 'given_order')
    by[String(providerOf(response))] = (by[String(providerOf(response))] ?? 0) + 1
    await new Promise(resolve => setTimeout(resolve, 150))
  }
  t.equal(refused, 0)
  t.ok((by['cheap'] ?? 0) >= 3 && (by['dear'] ?? 0) >= 3, JSON.stringify(by))
  cheap.behaviour = works
})
