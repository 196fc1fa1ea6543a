import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { readTraceparent } from '../bin/telemetry/traceparent.ts'
import { startTelemetry, type Telemetry, tracesUrl } from '../bin/telemetry.ts'
import type { RequestLine } from '../gateway/app.ts'
import type { RequestContext } from '../gateway/context.ts'
import { GatewayError } from '../routing/errors.ts'
import type { CallRecord, RunSummary } from '../routing/ports.ts'
import type { Upstream } from '../routing/types.ts'
import { until } from './support/wait.ts'

type Value = { stringValue?: string; intValue?: number; doubleValue?: number; boolValue?: boolean }
interface Span {
  readonly name: string
  readonly kind: number
  readonly traceId: string
  readonly spanId: string
  readonly parentSpanId?: string
  readonly startTimeUnixNano: string
  readonly endTimeUnixNano: string
  readonly status: { readonly code?: number }
  readonly attributes: readonly { readonly key: string; readonly value: Value }[]
}

interface Collector {
  readonly url: string
  readonly paths: string[]
  readonly bodies: string[]
  spans(): Span[]
}

/** An OTLP/HTTP collector; `answer` decides what it says, and when. */
async function collector(t: Test, answer = (response: ServerResponse) => void response.end('{}')): Promise<Collector> {
  const bodies: string[] = []
  const paths: string[] = []
  const server = createServer((request: IncomingMessage, response) => {
    let body = ''
    paths.push(`${request.method} ${request.url} ${request.headers['content-type']}`)
    request.on('data', chunk => (body += chunk))
    request.on('end', () => {
      bodies.push(body)
      response.setHeader('content-type', 'application/json')
      answer(response)
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    paths,
    bodies,
    spans: () =>
      bodies.flatMap(body =>
        (JSON.parse(body) as { resourceSpans: { scopeSpans: { spans: Span[] }[] }[] }).resourceSpans.flatMap(({ scopeSpans }) =>
          scopeSpans.flatMap(({ spans }) => spans)
        )
      )
  }
}

function start(endpoint: string, log: (message: string, error?: unknown) => void = () => {}, everyMs = 60_000): Promise<Telemetry> {
  return startTelemetry({ endpoint, version: '1.2.3', serviceName: 'gateway-of-mine', log, everyMs })
}

const openai = {
  id: 'openai',
  adapter: 'openai',
  baseUrl: 'https://api.openai.com/v1',
  device: null,
  apiKey: 'sk-canary-upstream'
} as Upstream
const attic = { id: 'attic', adapter: 'ollama', baseUrl: 'http://10.0.0.5:11434', device: { id: 'attic-pc' } } as Upstream

function call(facts: Partial<CallRecord> & { upstream?: Upstream } = {}): CallRecord {
  const { upstream = openai, ...rest } = facts
  return {
    attemptId: '01890000-0000-7000-8000-000000000001',
    target: { id: `${upstream.id}/gpt-5-mini`, model: 'gpt-5-mini', upstream } as CallRecord['target'],
    outcome: 'ok',
    error: null,
    startedAt: performance.now() - 90,
    durationMs: 70,
    ttftMs: 25,
    usage: { promptTokens: 11, completionTokens: 7, cachedTokens: 4, reasoningTokens: 3, providerNanoUsd: null, busyMs: null },
    settled: { nanoUsd: 1_500_000, estimated: false, promptTokens: 11, completionTokens: 7 },
    ...rest
  }
}

function context(
  facts: Partial<RequestContext> = {},
  calls: readonly CallRecord[] = [call()],
  outcome: RunSummary['outcome'] = 'ok'
): RequestContext {
  return {
    id: '019a-request',
    startedAt: performance.now() - 100,
    handledAt: performance.now() - 99,
    caller: { keyId: 'k', source: 'me', subSource: 'person@example.org', kind: 'source', models: null, providers: null },
    error: null,
    model: 'smart',
    stream: true,
    traceparent: null,
    summary: { outcome, target: calls.at(-1)?.target ?? null, attempts: calls.length, nanoUsd: 1_500_000, calls } as RunSummary,
    ...facts
  } as RequestContext
}

const line: RequestLine = { method: 'POST', route: '/v1/chat/completions', status: 200, retryCount: 0 }

function attributes(span: Span | undefined): Record<string, unknown> {
  return Object.fromEntries((span?.attributes ?? []).map(({ key, value }) => [key, Object.values(value)[0]]))
}

/** Sends one request's spans and returns them, the server's first. */
async function sent(t: Test, requestContext: RequestContext, requestLine: RequestLine = line): Promise<Span[]> {
  const fake = await collector(t)
  const telemetry = await start(fake.url)
  telemetry.request(requestContext, requestLine)
  await telemetry.close()
  return fake.spans().sort((a, b) => a.kind - b.kind)
}

t.test('a request is a server span, and each call of it a client span below', async t => {
  const fake = await collector(t)
  const telemetry = await start(`${fake.url}/base/`)
  const failed = call({
    upstream: attic,
    outcome: 'failed',
    error: new GatewayError('upstream_unavailable', 'canary text of an error'),
    startedAt: performance.now() - 95,
    durationMs: 4,
    ttftMs: null,
    usage: null,
    settled: { nanoUsd: null, estimated: false, promptTokens: 0, completionTokens: 0 }
  })
  const before = Date.now()
  telemetry.request(context({}, [failed, call()]), { ...line, retryCount: 2 })
  await telemetry.close()
  t.same(fake.paths, ['POST /base/v1/traces application/json'])
  const [server, first, second, ...more] = fake
    .spans()
    .sort((a, b) => a.kind - b.kind || Number(a.startTimeUnixNano) - Number(b.startTimeUnixNano))
  t.same(more, [])
  t.match(server, { name: 'POST /v1/chat/completions', kind: 2 })
  t.notOk(server?.parentSpanId)
  t.strictSame(attributes(server), {
    'http.request.method': 'POST',
    'http.route': '/v1/chat/completions',
    'http.response.status_code': 200,
    'url.scheme': 'http',
    'gen_ai.operation.name': 'chat',
    'gen_ai.request.model': 'smart',
    'gen_ai.request.stream': true,
    'gen_ai.response.model': 'gpt-5-mini',
    'llm_mcp.request_id': '019a-request',
    'llm_mcp.source': 'me',
    'llm_mcp.sdk_retry_count': 2,
    'llm_mcp.attempts': 2,
    'llm_mcp.cost_usd': 0.0015
  })
  for (const child of [first, second]) {
    t.match(child, { name: 'chat gpt-5-mini', kind: 3, traceId: server?.traceId, parentSpanId: server?.spanId })
  }
  t.strictSame(attributes(first), {
    'gen_ai.provider.name': 'ollama',
    'gen_ai.operation.name': 'chat',
    'gen_ai.request.model': 'gpt-5-mini',
    'gen_ai.request.stream': true,
    'server.address': '10.0.0.5',
    'server.port': 11434,
    'error.type': 'upstream_unavailable',
    'llm_mcp.device': 'attic-pc',
    'llm_mcp.upstream': 'attic'
  })
  t.equal(first?.status.code, 2)
  t.strictSame(attributes(second), {
    'gen_ai.provider.name': 'openai',
    'gen_ai.operation.name': 'chat',
    'gen_ai.request.model': 'gpt-5-mini',
    'gen_ai.request.stream': true,
    'gen_ai.response.model': 'gpt-5-mini',
    'gen_ai.response.time_to_first_chunk': 0.025,
    'gen_ai.usage.input_tokens': 11,
    'gen_ai.usage.output_tokens': 7,
    'gen_ai.usage.cache_read.input_tokens': 4,
    'gen_ai.usage.reasoning.output_tokens': 3,
    'server.address': 'api.openai.com',
    'server.port': 443,
    'llm_mcp.upstream': 'openai',
    'llm_mcp.cost_usd': 0.0015
  })
  t.notOk(second?.status.code)
  t.notOk(server?.status.code, 'the client got its answer')

  const ms = (nanoseconds: string | undefined): number => Number(nanoseconds) / 1e6
  t.ok(Math.abs(ms(server?.startTimeUnixNano) - (before - 100)) < 250, 'it began when it began')
  t.ok(ms(server?.endTimeUnixNano) - ms(server?.startTimeUnixNano) >= 100)
  t.ok(Math.abs(ms(second?.endTimeUnixNano) - ms(second?.startTimeUnixNano) - 70) < 0.01, 'a call takes as long as it took')
  t.ok(ms(second?.endTimeUnixNano) <= ms(server?.endTimeUnixNano))

  const wire = fake.bodies.join()
  t.match(wire, /"service\.name","value":\{"stringValue":"gateway-of-mine"\}/)
  t.match(wire, /"service\.version","value":\{"stringValue":"1\.2\.3"\}/)
  t.notMatch(wire, /canary|person@example/, 'no secrets, no texts of errors, nobody by name')
})

t.test('operations have the names of the conventions', async t => {
  const cases: readonly [route: string, name: string][] = [
    ['/v1/embeddings', 'embeddings'],
    ['/embeddings', 'embeddings'],
    ['/v1/completions', 'text_completion'],
    ['/v1/responses', 'chat'],
    ['/v1/audio/*', 'generate_content'],
    ['/v1/moderations', 'moderation']
  ]
  for (const [route, operation] of cases) {
    const [, child] = await sent(t, context({ stream: false }), { ...line, route })
    t.equal(child?.name, `${operation} gpt-5-mini`)
    t.equal(attributes(child)['gen_ai.operation.name'], operation)
    t.notOk('gen_ai.response.time_to_first_chunk' in attributes(child), 'nobody saw one')
  }
})

t.test('what failed is marked, what was refused or left is not ours to mark', async t => {
  const error = new GatewayError('upstream_broke', 'x')
  const broken = await sent(t, context({ error }, [call({ outcome: 'failed', error })], 'failed'))
  t.equal(broken[0]?.status.code, 2, 'a stream that broke after its 200')
  t.equal(attributes(broken[0])['error.type'], 'upstream_broke')

  const refused = await sent(t, context({ error: new GatewayError('rate_limit_exceeded', 'x'), summary: null }), { ...line, status: 429 })
  t.equal(refused.length, 1)
  t.notOk(refused[0]?.status.code)
  t.equal(attributes(refused[0])['error.type'], 'rate_limit_exceeded')

  const gone = new GatewayError('client_gone', 'x')
  const left = await sent(t, context({ error: gone }, [call({ outcome: 'aborted', error: gone })], 'aborted'), { ...line, status: 499 })
  t.notOk(left[0]?.status.code)
  t.notOk(left[1]?.status.code)
  t.equal(attributes(left[1])['error.type'], 'client_gone')

  t.same(await sent(t, context({ model: null, summary: null }), { ...line, method: 'GET', route: '/health' }), [], 'no model, no trace')
})

const traceId = '4bf92f3577b34da6a3ce929d0e0e4736'
const spanId = '00f067aa0ba902b7'

t.test('an inbound traceparent is the parent; one that is invalid is as none', async t => {
  const [server] = await sent(t, context({ traceparent: `00-${traceId}-${spanId}-01` }))
  t.match(server, { traceId, parentSpanId: spanId })
  const [alone] = await sent(t, context({ traceparent: `00-${traceId}-${spanId}-01-more` }))
  t.ok(alone)
  t.not(alone?.traceId, traceId)
  t.notOk(alone?.parentSpanId)
  t.same(await sent(t, context({ traceparent: `00-${traceId}-${spanId}-00` })), [], 'its sender does not sample it')
})

t.test('traceparent by the letter of W3C', async t => {
  const parent = { traceId, spanId, traceFlags: 1 }
  const cases: readonly [header: string | null, expected: object | null][] = [
    [`00-${traceId}-${spanId}-01`, parent],
    [`00-${traceId}-${spanId}-00`, { ...parent, traceFlags: 0 }],
    [`00-${traceId}-${spanId}-ff`, parent],
    [`cc-${traceId}-${spanId}-01`, parent],
    [`cc-${traceId}-${spanId}-01-what-the-future-brings`, parent],
    [null, null],
    ['', null],
    [`00-${traceId}-${spanId}-01-more`, null],
    [`00-${traceId}-${spanId}-01-`, null],
    [`00-${traceId}-${spanId}-1`, null],
    [`00-${traceId}-${spanId}`, null],
    [`cc-${traceId}-${spanId}-01.more`, null],
    [`ff-${traceId}-${spanId}-01`, null],
    [`0-${traceId}-${spanId}-01`, null],
    [`00-${'0'.repeat(32)}-${spanId}-01`, null],
    [`00-${traceId}-${'0'.repeat(16)}-01`, null],
    [`00-${traceId.toUpperCase()}-${spanId}-01`, null],
    [`00-${traceId.slice(1)}-${spanId}-01`, null],
    [`00-${traceId.slice(1)}g-${spanId}-01`, null],
    [` 00-${traceId}-${spanId}-01`, null],
    [`00-${traceId}-${spanId}-01, 00-${traceId}-${spanId}-01`, null],
    [`00-${traceId}-${spanId}-01\n`, null],
    [`cc-${traceId}-${spanId}-01-${'x'.repeat(10_000)}`, null]
  ]
  for (const [header, expected] of cases) t.strictSame(readTraceparent(header), expected, String(header).slice(0, 80))
})

t.test('the endpoint is a base, as the specification has it', async t => {
  const cases: Record<string, string> = {
    'http://127.0.0.1:4318': 'http://127.0.0.1:4318/v1/traces',
    'http://127.0.0.1:4318/': 'http://127.0.0.1:4318/v1/traces',
    'https://otlp.example/otlp': 'https://otlp.example/otlp/v1/traces',
    'https://otlp.example/otlp//': 'https://otlp.example/otlp/v1/traces'
  }
  for (const [endpoint, url] of Object.entries(cases)) t.equal(tracesUrl(endpoint).href, url)
  for (const endpoint of ['127.0.0.1:4318', 'grpc://x:4317', '', 'http://'])
    await t.rejects(start(endpoint), /OTEL_EXPORTER_OTLP_ENDPOINT must be an http or https URL/, endpoint)
})

t.test('a collector that refuses is said once, and again after it was back', async t => {
  let status = 400
  const fake = await collector(t, response => void response.writeHead(status).end('{}'))
  const said: string[] = []
  const telemetry = await start(fake.url.replace('http://', 'http://user:canary@'), message => said.push(message), 5)
  for (const [next, batches] of [
    [400, 4],
    [200, 1],
    [400, 2]
  ] as const) {
    status = next
    for (let at = 0; at < batches; at++) {
      const { length } = fake.bodies
      telemetry.request(context(), line)
      await until('the batch', () => fake.bodies.length > length)
    }
    // The answer is read after it was sent.
    if (next === 400) await until('it to be said', () => said.length > (batches === 4 ? 0 : 1))
    else await new Promise(resolve => setImmediate(resolve))
  }
  await telemetry.close()
  t.equal(said.length, 2)
  t.equal(said[0], `traces cannot be sent to ${new URL(fake.url).host}; requests are not affected`)
})

t.test('a dead collector and one that never answers hold nothing up', async t => {
  const mute = await collector(t, () => {})
  const gone = await collector(t)
  const urls = { mute: mute.url, dead: gone.url.replace(/\d+$/, '9') }
  await Promise.all(
    Object.entries(urls).map(async ([name, url]) => {
      const telemetry = await start(url, () => {}, 5)
      const before = performance.now()
      // More than are held.
      for (let at = 0; at < 3_000; at++) telemetry.request(context(), line)
      const perRequestMs = (performance.now() - before) / 3_000
      t.ok(perRequestMs < 1, `${name}: ${perRequestMs} ms for a request`)
      const closing = performance.now()
      await telemetry.close()
      const closedMs = performance.now() - closing
      t.ok(closedMs < 5_000, `${name}: closed after ${closedMs} ms`)
    })
  )
})

t.test('without an endpoint no module of OpenTelemetry is loaded', async t => {
  const program = `
    import { registerHooks } from 'node:module'
    const loaded = []
    registerHooks({ load(url, context, next) { loaded.push(url); return next(url, context) } })
    await import(process.argv[1])
    console.log(JSON.stringify(loaded))`
  const load = async (file: string): Promise<string[]> => {
    const path = fileURLToPath(new URL(file, import.meta.url))
    const child = spawn(process.execPath, ['--input-type=module', '-e', program, path], { stdio: ['ignore', 'pipe', 'inherit'] })
    let output = ''
    child.stdout.on('data', chunk => (output += chunk))
    await once(child, 'close')
    return JSON.parse(output.trim().split('\n').at(-1) as string) as string[]
  }
  // prom-client brings the interfaces along (@opentelemetry/api), which do nothing by themselves.
  const isTelemetry = (url: string): boolean => /@opentelemetry\/(?!api\/)|bin\/telemetry/.test(url)
  for (const file of ['../bin/serve.ts', '../bin/log.ts', '../gateway/app.ts', '../gateway/metrics.ts']) {
    const loaded = await load(file)
    t.ok(loaded.some(url => url.endsWith(file.slice(3))))
    t.same(loaded.filter(isTelemetry), [], file)
  }
  t.ok((await load('../bin/telemetry.ts')).some(isTelemetry), 'they would be seen')
})
