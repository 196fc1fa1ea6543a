import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { newContext } from '../../gateway/context.ts'
import { errorFrame, errorReply, rawErrorAnswer, registerErrors } from '../../gateway/plugins/errors.ts'
import { GatewayError } from '../../routing/errors.ts'

t.test('an error becomes status, headers and a body with four keys', async t => {
  const { status, headers, body } = errorReply(new GatewayError('model_not_found', 'The model "é" is not here.', { param: 'model' }))
  t.equal(status, 404)
  t.strictSame(headers, { 'content-type': 'application/json; charset=utf-8' })
  t.strictSame(JSON.parse(body), {
    error: { message: 'The model "é" is not here.', type: 'invalid_request_error', param: 'model', code: 'model_not_found' }
  })
})

t.test('a wait is told in milliseconds and in whole seconds, never too short', async t => {
  const waits: readonly [ms: number, exact: string, seconds: string][] = [
    [0, '0', '0'],
    [1, '1', '1'],
    [999.2, '1000', '1'],
    [1_000, '1000', '1'],
    [1_001, '1001', '2'],
    [60_000, '60000', '60']
  ]
  for (const [retryAfterMs, exact, seconds] of waits) {
    const { headers } = errorReply(new GatewayError('no_capacity', 'x', { retryAfterMs }))
    t.equal(headers['retry-after-ms'], exact)
    t.equal(headers['retry-after'], seconds)
  }
  t.notOk('retry-after' in errorReply(new GatewayError('no_capacity', 'x')).headers)
})

t.test('SDKs are told not to retry where the status alone would make them, and to retry where all was full', async t => {
  const cases: readonly [error: GatewayError, header: string | undefined][] = [
    [new GatewayError('upstream_unavailable', 'x'), 'false'],
    [new GatewayError('upstream_broke', 'x'), 'false'],
    [new GatewayError('internal_error', 'x'), 'false'],
    [new GatewayError('insufficient_quota', 'x'), 'false'],
    [new GatewayError('no_capacity', 'x', { retryAfterMs: 60_001 }), 'false'],
    [new GatewayError('no_capacity', 'x', { retryAfterMs: 60_000 }), 'true'],
    [new GatewayError('no_capacity', 'x'), undefined],
    [new GatewayError('queue_full', 'x', { status: 429, retryAfterMs: 5_000 }), 'true'],
    [new GatewayError('queue_full', 'x', { status: 429, retryAfterMs: 60_001 }), 'false'],
    [new GatewayError('rate_limit_exceeded', 'x'), undefined],
    [new GatewayError('request_timeout', 'x'), undefined],
    [new GatewayError('upstream_refused', 'x', { status: 409 }), 'false'],
    [new GatewayError('upstream_refused', 'x', { status: 408 }), 'false'],
    [new GatewayError('invalid_request', 'x'), undefined]
  ]
  for (const [error, header] of cases) t.equal(errorReply(error).headers['x-should-retry'], header, `${error.code} ${error.status}`)
})

t.test('a queue that is full for one source alone is a 429 about requests', async t => {
  const { status, headers, body } = errorReply(new GatewayError('queue_full', 'x', { status: 429, retryAfterMs: 5_000 }))
  t.equal(status, 429)
  t.equal(headers['retry-after'], '5')
  t.match(JSON.parse(body), { error: { type: 'requests', code: 'queue_full' } })
  t.match(JSON.parse(errorReply(new GatewayError('queue_full', 'x')).body), { error: { type: 'service_unavailable_error' } })
})

t.test('only a 401 says how to sign in', async t => {
  t.equal(errorReply(new GatewayError('invalid_api_key', 'x')).headers['www-authenticate'], 'Bearer realm="llm-mcp"')
  t.notOk('www-authenticate' in errorReply(new GatewayError('forbidden', 'x')).headers)
})

t.test('an error in a stream is one event, whatever its text', async t => {
  const frame = errorFrame(new GatewayError('upstream_broke', 'line one\n\nline two\r\ndata: [DONE]')).toString()
  t.match(frame, /^data: \{.*\}\n\n$/)
  t.equal(frame.indexOf('\n'), frame.length - 2)
  t.equal(JSON.parse(frame.slice(6)).error.message, 'line one\n\nline two\r\ndata: [DONE]')
})

t.test('what is not HTTP gets a whole answer and a closed connection', async t => {
  const cases: readonly [code: string | undefined, status: string][] = [
    ['HPE_HEADER_OVERFLOW', '431'],
    ['ERR_HTTP_REQUEST_TIMEOUT', '408'],
    ['HPE_INVALID_METHOD', '400'],
    [undefined, '400']
  ]
  for (const [code, status] of cases) {
    const [head, body] = rawErrorAnswer(code).split('\r\n\r\n') as [string, string]
    const lines = head.split('\r\n')
    t.ok(head.startsWith(`HTTP/1.1 ${status} `), head)
    t.ok(lines.includes('connection: close'))
    t.ok(lines.includes(`content-length: ${Buffer.byteLength(body)}`))
    t.same(Object.keys(JSON.parse(body).error), ['message', 'type', 'param', 'code'])
  }
})

/** A server with our error plugin and a few routes that fail. */
async function serve(t: Test): Promise<{ app: FastifyInstance; logged: unknown[] }> {
  const app = Fastify({ bodyLimit: 100 })
  const logged: unknown[] = []
  t.teardown(() => app.close())
  app.decorate('knownRoutes', [
    { method: 'GET', url: '/v1/models' },
    { method: 'GET', url: '/v1/models/*' },
    { method: 'POST', url: '/v1/fail' },
    { method: 'DELETE', url: '/v1/keys/:id' }
  ])
  app.decorateRequest('context')
  app.addHook('onRequest', (request, _reply, done) => {
    request.context = newContext('r1', null)
    done()
  })
  registerErrors(app, (_message, error) => logged.push(error))
  app.post('/v1/fail', async request => {
    const { how } = request.body as { how: string }
    if (how === 'ours') throw new GatewayError('no_capacity', 'full', { retryAfterMs: 5 })
    if (how === 'teapot') throw Object.assign(new Error('secret'), { statusCode: 418 })
    throw new Error('secret')
  })
  app.get('/v1/models', async () => ({}))
  return { app, logged }
}

t.test('everything that goes wrong in a route is answered in one form, without what nobody foresaw', async t => {
  const { app, logged } = await serve(t)
  const post = (body: string, type = 'application/json') =>
    app.inject({ method: 'POST', url: '/v1/fail', headers: { 'content-type': type }, body })
  const cases: readonly [name: string, answer: Awaited<ReturnType<typeof post>>, status: number, code: string][] = [
    ['our own', await post('{"how":"ours"}'), 503, 'no_capacity'],
    ['a status of somebody’s', await post('{"how":"teapot"}'), 418, 'invalid_request'],
    ['nobody foresaw it', await post('{"how":"throw"}'), 500, 'internal_error'],
    ['too large', await post(`"${'x'.repeat(200)}"`), 413, 'payload_too_large'],
    ['another type', await post('<a/>', 'text/xml'), 415, 'unsupported_media_type'],
    ['no JSON', await post('{'), 400, 'invalid_request'],
    ['no such path', await app.inject('/v1/nothing?secret=1'), 404, 'not_found'],
    ['another method', await app.inject({ method: 'DELETE', url: '/v1/models' }), 405, 'method_not_allowed'],
    ['another method, deeper', await app.inject({ method: 'POST', url: '/v1/models/a/b' }), 405, 'method_not_allowed'],
    ['another method, with an id', await app.inject('/v1/keys/5?x'), 405, 'method_not_allowed'],
    ['nearly a known path', await app.inject('/v1/models/'), 404, 'not_found'],
    ['nearly a known id', await app.inject('/v1/keys/5/6'), 404, 'not_found']
  ]
  for (const [name, answer, status, code] of cases) {
    t.equal(answer.statusCode, status, name)
    t.strictSame(Object.keys(answer.json().error), ['message', 'type', 'param', 'code'], name)
    t.equal(answer.json().error.code, code, name)
    t.equal(answer.headers['x-request-id'], 'r1', name)
    t.notMatch(answer.body, /secret/, name)
  }
  t.equal(cases[0]?.[1].headers['retry-after-ms'], '5')
  t.equal(cases[7]?.[1].headers.allow, 'GET')
  t.equal(cases[9]?.[1].headers.allow, 'DELETE')
  t.equal(logged.length, 1, 'only what nobody foresaw is logged')
})
