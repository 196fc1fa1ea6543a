import Fastify from 'fastify'
import t from 'tap'
import type { RequestContext } from '../../gateway/context.ts'
import { createKeyCache, hashKey } from '../../gateway/keys.ts'
import { attemptOutcomes, type JobCounts, overflowOutcomes } from '../../gateway/metrics/jobs.ts'
import { createMetrics, type Metrics, type MetricsPorts } from '../../gateway/metrics.ts'
import { registerAuth } from '../../gateway/plugins/auth.ts'
import { registerErrors } from '../../gateway/plugins/errors.ts'
import { registerMetrics } from '../../gateway/routes/metrics.ts'
import { type JobKind, jobClasses, jobKinds } from '../../queue/types.ts'
import type { CallRecord } from '../../routing/ports.ts'
import type { Caller, KeyKind } from '../../routing/types.ts'

const quiet: MetricsPorts = { version: '1.2.3', slots: () => [], breakers: () => [], openStreams: () => 0 }

/** The samples of a scrape, by name and labels: `llm_mcp_x{a="b"}` to its value. */
async function samples(metrics: Metrics): Promise<Map<string, number>> {
  const lines = (await metrics.text()).split('\n').filter(line => line !== '' && !line.startsWith('#'))
  return new Map(lines.map(line => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ') + 1))]))
}

interface CallFacts {
  readonly upstream?: string
  readonly adapter?: string
  readonly device?: string | null
  readonly model?: string
  readonly outcome?: CallRecord['outcome']
  readonly nanoUsd?: number | null
  readonly startedAt?: number
  readonly ttftMs?: number | null
}

function call(facts: CallFacts = {}): CallRecord {
  const { upstream = 'openai', adapter = 'openai', device = null, outcome = 'ok' } = facts
  return {
    attemptId: '01890000-0000-7000-8000-000000000001',
    target: { model: facts.model ?? 'm', upstream: { id: upstream, adapter, device: device === null ? null : { id: device } } } as never,
    outcome,
    error: null,
    startedAt: facts.startedAt ?? 1_002,
    durationMs: 700,
    ttftMs: facts.ttftMs === undefined ? 200 : facts.ttftMs,
    usage: outcome === 'ok' ? { promptTokens: 99, completionTokens: 99, cachedTokens: 4, reasoningTokens: 2, nanoUsd: null } : null,
    settled: {
      nanoUsd: facts.nanoUsd === undefined ? 1_500_000 : facts.nanoUsd,
      estimated: false,
      promptTokens: outcome === 'ok' ? 10 : 0,
      completionTokens: outcome === 'ok' ? 5 : 0
    }
  } as unknown as CallRecord
}

function context({ calls = null, stream = false, source = 'me', model = 'm' }: ContextFacts = {}): RequestContext {
  return {
    id: 'id',
    startedAt: performance.now() - 50,
    handledAt: 1_000,
    stream,
    model,
    caller: { source, keyId: 'k', kind: 'source' } as Caller,
    summary: calls === null ? null : { calls }
  } as never
}

interface ContextFacts {
  readonly calls?: readonly CallRecord[] | null
  readonly stream?: boolean
  readonly source?: string
  readonly model?: string
}

const chat = { route: '/v1/chat/completions', status: 200, retryCount: 0 }

t.test('a request with one call is counted in everything it touches', async t => {
  const metrics = createMetrics(quiet)
  metrics.request(context({ calls: [call()], stream: true }), chat)
  const found = await samples(metrics)
  const expected: Record<string, number> = {
    'llm_mcp_requests_total{route="/v1/chat/completions",status="200"}': 1,
    'llm_mcp_request_duration_seconds_count{route="/v1/chat/completions"}': 1,
    'llm_mcp_request_duration_seconds_bucket{le="0.1",route="/v1/chat/completions"}': 1,
    llm_mcp_overhead_seconds_sum: 0.002,
    'llm_mcp_overhead_seconds_bucket{le="0.001"}': 0,
    'llm_mcp_overhead_seconds_bucket{le="0.0025"}': 1,
    'llm_mcp_calls_total{provider="openai",outcome="ok"}': 1,
    'llm_mcp_call_duration_seconds_sum{provider="openai"}': 0.7,
    'llm_mcp_time_to_first_token_seconds_sum{provider="openai"}': 0.2,
    'llm_mcp_tokens_total{provider="openai",direction="input"}': 10,
    'llm_mcp_tokens_total{provider="openai",direction="output"}': 5,
    'llm_mcp_tokens_total{provider="openai",direction="cached"}': 4,
    'llm_mcp_tokens_total{provider="openai",direction="reasoning"}': 2,
    'llm_mcp_cost_usd_total{provider="openai"}': 0.0015,
    llm_mcp_fallbacks_total: 0,
    llm_mcp_sdk_retries_total: 0,
    'llm_mcp_build_info{version="1.2.3"}': 1
  }
  for (const [name, value] of Object.entries(expected)) t.equal(found.get(name), value, name)
  t.ok((found.get('process_resident_memory_bytes') ?? 0) > 1e7)
  t.ok((found.get('process_cpu_seconds_total') ?? 0) > 0)
  t.ok((found.get('nodejs_eventloop_lag_max_seconds') ?? -1) >= 0)
})

t.test('a fallback is the call that failed, an unknown price is no price, and a whole answer has no first token', async t => {
  const metrics = createMetrics(quiet)
  const calls = [
    call({ upstream: 'attic', adapter: 'ollama', device: 'attic', outcome: 'failed', nanoUsd: 0, ttftMs: null }),
    call({ upstream: 'groq', adapter: 'openai', nanoUsd: null })
  ]
  metrics.request(context({ calls }), { ...chat, retryCount: 2 })
  metrics.request(context({ calls: [call({ outcome: 'aborted' })] }), { ...chat, status: 499 })
  metrics.request(context(), { ...chat, status: 400 })
  // Two choices made by two calls: nothing failed.
  metrics.request(context({ calls: [call(), call()] }), chat)
  const found = await samples(metrics)
  t.equal(found.get('llm_mcp_fallbacks_total'), 1)
  t.equal(found.get('llm_mcp_sdk_retries_total'), 1)
  t.equal(found.get('llm_mcp_calls_total{provider="ollama",outcome="failed"}'), 1, 'own machines go by their adapter')
  t.equal(found.get('llm_mcp_calls_total{provider="groq",outcome="ok"}'), 1)
  t.equal(found.get('llm_mcp_calls_total{provider="openai",outcome="aborted"}'), 1)
  t.equal(found.get('llm_mcp_cost_unknown_total{provider="groq"}'), 1)
  t.notOk(found.has('llm_mcp_cost_usd_total{provider="groq"}'))
  t.notOk([...found.keys()].some(name => name.startsWith('llm_mcp_time_to_first_token_seconds_count')))
  t.equal(found.get('llm_mcp_overhead_seconds_count'), 3, 'not of a request that called nobody')
})

t.test('routes are one with and without /v1, and what has no name of its own is "other"', async t => {
  const cases: readonly [route: string, status: number, label: string, statusLabel: string][] = [
    ['/chat/completions', 429, '/v1/chat/completions', '429'],
    ['/v1/models/*', 200, '/v1/models', '200'],
    ['/models', 404, '/v1/models', '404'],
    ['/audio/*', 200, '/v1/audio/*', '200'],
    ['/ready', 503, '/ready', '503'],
    ['/metrics', 200, 'other', '200'],
    ['unknown', 404, 'other', '404'],
    ['/v1/keys', 201, 'other', '2xx'],
    ['/v1/jobs', 202, '/v1/jobs', '2xx'],
    ['/v1/jobs/:id/cancel', 404, '/v1/jobs', '404'],
    ['/jobs', 404, '/v1/jobs', '404'],
    ['/v1/embeddings', 418, '/v1/embeddings', '4xx'],
    ['/v1/embeddings', 599, '/v1/embeddings', '5xx'],
    ['/v1/embeddings', 0, '/v1/embeddings', 'other']
  ]
  for (const [route, status, label, statusLabel] of cases) {
    const metrics = createMetrics(quiet)
    metrics.request(context(), { route, status, retryCount: 0 })
    t.equal((await samples(metrics)).get(`llm_mcp_requests_total{route="${label}",status="${statusLabel}"}`), 1, route)
  }
})

t.test('what is so now is asked when it is read', async t => {
  let inUse = 1
  let open = true
  const metrics = createMetrics({
    version: '1',
    slots: () => [{ device: 'attic', max: 2, inUse }],
    breakers: () => [
      { target: 'attic/a"b\n', open },
      { target: 'attic/fine', open: false }
    ],
    openStreams: () => 7
  })
  metrics.began()
  metrics.began()
  metrics.ended()
  metrics.limited('requests')
  metrics.limited('tokens')
  metrics.limited('tokens')
  const first = await samples(metrics)
  t.equal(first.get('llm_mcp_requests_in_flight'), 1)
  t.equal(first.get('llm_mcp_open_streams'), 7)
  t.equal(first.get('llm_mcp_device_slots{device="attic",state="max"}'), 2)
  t.equal(first.get('llm_mcp_device_slots{device="attic",state="used"}'), 1)
  t.equal(first.get('llm_mcp_breaker_open{target="attic/a\\"b?"}'), 1)
  t.equal(first.get('llm_mcp_limit_refusals_total{limit="requests"}'), 1)
  t.equal(first.get('llm_mcp_limit_refusals_total{limit="tokens"}'), 2)
  inUse = 2
  open = false
  const second = await samples(metrics)
  t.equal(second.get('llm_mcp_device_slots{device="attic",state="used"}'), 2)
  t.notOk(
    [...second.keys()].some(name => name.startsWith('llm_mcp_breaker_open')),
    'a closed breaker is gone'
  )
})

t.test('jobs are counted by kind and end, their waits by class, and requests that overflow by what became of them', async t => {
  const metrics = createMetrics(quiet)
  metrics.job({ kind: 'chat', status: 'done' })
  metrics.job({ kind: 'chat', status: 'done' })
  metrics.job({ kind: 'ollama.embed', status: 'cancelled' })
  metrics.jobStarted('interactive', 1_500)
  metrics.jobStarted('batch', Number.NaN)
  metrics.jobAttempt('lost')
  metrics.jobAttempt('done')
  metrics.overflow('queued')
  metrics.overflow('full')
  const found = await samples(metrics)
  t.equal(found.get('llm_mcp_jobs_total{kind="chat",status="done"}'), 2)
  t.equal(found.get('llm_mcp_jobs_total{kind="ollama.embed",status="cancelled"}'), 1)
  t.equal(found.get('llm_mcp_job_wait_seconds_sum{class="interactive"}'), 1.5)
  t.equal(found.get('llm_mcp_job_wait_seconds_bucket{le="1",class="interactive"}'), 0)
  t.equal(found.get('llm_mcp_job_wait_seconds_bucket{le="5",class="interactive"}'), 1)
  t.equal(found.get('llm_mcp_job_wait_seconds_sum{class="batch"}'), 0)
  t.equal(found.get('llm_mcp_job_attempts_total{outcome="lost"}'), 1)
  t.equal(found.get('llm_mcp_queue_overflow_total{outcome="queued"}'), 1)
  t.equal(found.get('llm_mcp_queue_overflow_total{outcome="full"}'), 1)
  t.notOk(
    [...found.keys()].some(name => /^llm_mcp_jobs_(waiting|running)/.test(name)),
    'without a queue nothing waits in it'
  )
})

t.test('what waits and what runs is what was last known, for every class, and nothing where nobody knows', async t => {
  let counts: JobCounts | null = null
  const metrics = createMetrics({ ...quiet, jobs: () => counts })
  const listed = async (): Promise<string[]> => [...(await samples(metrics)).keys()].filter(name => /^llm_mcp_jobs_/.test(name))
  t.same(await listed(), [])
  counts = { waiting: { normal: 12, interactive: 1 }, running: 3 }
  const found = await samples(metrics)
  t.equal(found.get('llm_mcp_jobs_waiting{class="normal"}'), 12)
  t.equal(found.get('llm_mcp_jobs_waiting{class="interactive"}'), 1)
  t.equal(found.get('llm_mcp_jobs_waiting{class="batch"}'), 0)
  t.equal(found.get('llm_mcp_jobs_running'), 3)
  counts = null
  t.same(await listed(), [], 'also when it is not known any more')
})

t.test('every label of jobs together is a bounded number of series', async t => {
  const metrics = createMetrics({ ...quiet, jobs: () => ({ waiting: {}, running: 0 }) })
  for (const kind of [...jobKinds, 'anything', 'else'] as JobKind[])
    for (const status of ['done', 'error', 'cancelled'] as const) metrics.job({ kind, status })
  for (const jobClass of jobClasses) metrics.jobStarted(jobClass, 5)
  for (const outcome of attemptOutcomes) metrics.jobAttempt(outcome)
  for (const outcome of overflowOutcomes) metrics.overflow(outcome)
  const names = [...(await samples(metrics)).keys()].filter(name => /^llm_mcp_(jobs?|queue)_/.test(name))
  t.equal(names.length, 8 * 3 + 5 * 12 + 5 + 3 + 5 + 1)
})

t.test('10,000 sources and models make no series', async t => {
  const metrics = createMetrics({ ...quiet, slots: () => ['a', 'b', 'c'].map(device => ({ device, max: 2, inUse: 1 })) })
  const providers = ['openai', 'openrouter', 'ollama'] as const
  const routes = ['/v1/chat/completions', '/v1/embeddings', '/v1/models', '/health'] as const
  const statuses = [200, 200, 200, 400, 429, 502] as const
  for (let at = 0; at < 10_000; at++) {
    const model = `model-${at}`
    const made = call({ upstream: providers[at % 3] as string, model, outcome: at % 11 === 0 ? 'failed' : 'ok' })
    metrics.request(context({ calls: [made], stream: at % 2 === 0, source: `source-${at}`, model }), {
      route: routes[at % 4] as string,
      status: statuses[at % 6] as number,
      retryCount: 0
    })
  }
  const text = await metrics.text()
  t.notMatch(text, /source-|model-/)
  const { size } = await samples(metrics)
  t.ok(size <= 200, `${size} series`)
})

t.test('whatever names arrive, the number of series has an end', async t => {
  const at = (count: number): number[] => Array.from({ length: count }, (_, index) => index)
  const metrics = createMetrics({
    version: '1',
    slots: () => at(10_000).map(index => ({ device: `device-${index}`, max: 2, inUse: 1 })),
    breakers: () => at(10_000).map(index => ({ target: `target-${index}`, open: true })),
    openStreams: () => 0
  })
  for (const index of at(10_000)) {
    const calls = (['ok', 'failed', 'aborted'] as const).map(outcome => call({ upstream: `provider-${index}`, outcome }))
    metrics.request(context({ calls, stream: true }), { route: `/v1/route-${index}`, status: index % 1_000, retryCount: index })
    metrics.request(context({ calls, stream: true }), { route: '/v1/chat/completions', status: index % 1_000, retryCount: index })
  }
  const found = await samples(metrics)
  const count = (start: string): number => [...found.keys()].filter(name => name.startsWith(start)).length
  t.equal(count('llm_mcp_calls_total'), 7 * 3)
  t.equal(count('llm_mcp_requests_total'), 2 * 16)
  t.equal(count('llm_mcp_device_slots'), 17 * 2)
  t.equal(count('llm_mcp_breaker_open'), 17)
  t.equal(found.get('llm_mcp_breaker_open{target="other"}'), 10_000 - 16)
  t.equal(found.get('llm_mcp_device_slots{device="other",state="max"}'), 2 * (10_000 - 16), 'none is lost')
  t.equal(found.get('llm_mcp_calls_total{provider="other",outcome="ok"}'), 2 * (10_000 - 6), 'none is lost')
  t.ok(found.size <= 350, `${found.size} series`)
})

t.test('a figure that cannot be is nothing, and fails no request', async t => {
  const metrics = createMetrics(quiet)
  const made = {
    ...call(),
    durationMs: Number.NaN,
    settled: { nanoUsd: -5, estimated: true, promptTokens: Number.NaN, completionTokens: -1 }
  }
  t.doesNotThrow(() => metrics.request(context({ calls: [made] }), chat))
  t.equal((await samples(metrics)).get('llm_mcp_tokens_total{provider="openai",direction="input"}'), 0)
})

t.test('every name ends in its unit, every metric says what it is', async t => {
  const text = await createMetrics(quiet).text()
  for (const [, name, type] of text.matchAll(/^# TYPE (\S+) (\S+)$/gm) as Iterable<[string, string, string]>) {
    if (type === 'counter') t.match(name, /_total$/, name)
    if (type === 'histogram') t.match(name, /_seconds$/, name)
    t.match(text, new RegExp(`^# HELP ${name} \\S.{6,}`, 'm'))
  }
})

t.test('GET /metrics takes a key of kind metrics or admin, and no other', async t => {
  const metrics = createMetrics(quiet)
  const app = Fastify()
  const keys = createKeyCache({
    find: async hash => byHash.get(hash.toString('hex')) ?? null,
    isListening: () => true,
    now: () => performance.now()
  })
  const byHash = new Map<string, never>()
  for (const kind of ['admin', 'metrics', 'source', 'worker'] satisfies KeyKind[]) {
    byHash.set(hashKey(`key-of-${kind}`).toString('hex'), { id: kind, source: kind, kind, expiresAt: null, revokedAt: null } as never)
  }
  app.decorate('knownRoutes', [])
  app.decorateRequest('context')
  app.addHook('onRequest', (request, _reply, done) => {
    request.context = { ...context(), headers: {} }
    done()
  })
  registerErrors(app, (_message, error) => t.error(error))
  registerAuth(app, { keys, auth: true, allowedHosts: [], corsOrigins: [] })
  registerMetrics(app, { metrics })
  t.teardown(() => app.close())
  const statuses: Record<string, number> = { admin: 200, metrics: 200, source: 403, worker: 403, nobody: 401 }
  for (const [kind, status] of Object.entries(statuses)) {
    const answer = await app.inject({ url: '/metrics', headers: { authorization: `Bearer key-of-${kind}` } })
    t.equal(answer.statusCode, status, kind)
    if (status !== 200) t.notMatch(answer.body, /llm_mcp_/)
    else {
      t.equal(answer.headers['content-type'], 'text/plain; version=0.0.4; charset=utf-8')
      t.match(answer.body, /^# HELP llm_mcp_requests_total /)
    }
  }
})
