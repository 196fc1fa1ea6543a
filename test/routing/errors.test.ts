import t from 'tap'
import { type ErrorCode, GatewayError, toGatewayError } from '../../routing/errors.ts'

type Row = readonly [status: number, type: string, nextTarget: boolean, breaker: string, jobRetry: boolean, shouldRetry: boolean]

// The table of design 5, written down a second time on purpose.
const rows: Record<ErrorCode, Row> = {
  invalid_request: [400, 'invalid_request_error', false, 'none', false, false],
  context_length_exceeded: [400, 'invalid_request_error', false, 'none', false, false],
  unsupported_parameter: [400, 'invalid_request_error', false, 'none', false, false],
  no_target_within_budget: [400, 'invalid_request_error', false, 'none', false, false],
  model_not_found: [404, 'invalid_request_error', false, 'none', false, false],
  not_found: [404, 'invalid_request_error', false, 'none', false, false],
  method_not_allowed: [405, 'invalid_request_error', false, 'none', false, false],
  job_not_finished: [409, 'invalid_request_error', false, 'none', false, false],
  request_timeout: [408, 'invalid_request_error', false, 'none', false, true],
  payload_too_large: [413, 'invalid_request_error', false, 'none', false, false],
  unsupported_media_type: [415, 'invalid_request_error', false, 'none', false, false],
  idempotency_key_reused: [422, 'invalid_request_error', false, 'none', false, false],
  headers_too_large: [431, 'invalid_request_error', false, 'none', false, false],
  invalid_api_key: [401, 'invalid_request_error', false, 'none', false, false],
  forbidden: [403, 'permission_error', false, 'none', false, false],
  insufficient_quota: [429, 'insufficient_quota', false, 'none', false, false],
  rate_limit_exceeded: [429, 'requests', false, 'none', true, true],
  token_limit_exceeded: [429, 'tokens', false, 'none', true, true],
  concurrency_limit_exceeded: [429, 'requests', false, 'none', true, true],
  no_capacity: [503, 'service_unavailable_error', false, 'none', true, true],
  queue_full: [503, 'service_unavailable_error', false, 'none', true, true],
  server_draining: [503, 'service_unavailable_error', false, 'none', true, true],
  database_unavailable: [503, 'service_unavailable_error', false, 'none', true, true],
  storage_full: [503, 'service_unavailable_error', false, 'none', true, false],
  upstream_rate_limited: [429, 'requests', true, 'cool_down', true, true],
  upstream_denied: [502, 'server_error', true, 'denied', true, false],
  upstream_lacks_model: [404, 'invalid_request_error', true, 'not_here', true, false],
  upstream_unavailable: [502, 'server_error', true, 'failure', true, false],
  machine_lost: [502, 'server_error', true, 'failure', true, false],
  upstream_refused: [400, 'invalid_request_error', false, 'none', false, false],
  upstream_broke: [502, 'server_error', false, 'failure', true, false],
  dimension_mismatch: [502, 'server_error', true, 'none', false, false],
  client_gone: [499, 'invalid_request_error', false, 'none', false, false],
  deadline_exceeded: [504, 'server_error', false, 'none', false, false],
  process_lost: [500, 'server_error', false, 'none', true, false],
  internal_error: [500, 'server_error', false, 'none', true, false]
}
const codes = Object.keys(rows) as ErrorCode[]

t.test('a code decides status, type, next target, breaker, job retry and the word to SDKs', async t => {
  for (const code of codes) {
    const { status, type, nextTarget, breaker, jobRetry, shouldRetry } = new GatewayError(code, 'x')
    t.same([status, type, nextTarget, breaker, jobRetry, shouldRetry], rows[code], code)
  }
})

t.test('the body has OpenAI’s four keys, whatever the error', async t => {
  const published: Partial<Record<ErrorCode, string>> = {
    token_limit_exceeded: 'rate_limit_exceeded',
    concurrency_limit_exceeded: 'rate_limit_exceeded',
    upstream_rate_limited: 'rate_limit_exceeded',
    upstream_lacks_model: 'model_not_found'
  }
  for (const code of codes) {
    t.same(
      new GatewayError(code, 'What happened.').body(),
      { error: { message: 'What happened.', type: rows[code][1], param: null, code: published[code] ?? code } },
      code
    )
  }
  t.same(new GatewayError('upstream_refused', 'x', { param: 'n', publicCode: 'too_many', status: 422 }).body(), {
    error: { message: 'x', type: 'invalid_request_error', param: 'n', code: 'too_many' }
  })
  t.same(Object.keys(new GatewayError('invalid_request', '').body().error), ['message', 'type', 'param', 'code'])
})

t.test('a wait of over a minute is not retried by SDKs, unless we say so', async t => {
  const cases: readonly [code: ErrorCode, options: { retryAfterMs?: number; shouldRetry?: boolean }, shouldRetry: boolean][] = [
    ['no_capacity', {}, true],
    ['no_capacity', { retryAfterMs: 0 }, true],
    ['no_capacity', { retryAfterMs: 60_000 }, true],
    ['no_capacity', { retryAfterMs: 60_001 }, false],
    ['upstream_rate_limited', { retryAfterMs: 3_600_000 }, false],
    ['no_capacity', { shouldRetry: false }, false],
    ['no_capacity', { retryAfterMs: 1, shouldRetry: false }, false],
    ['upstream_unavailable', { retryAfterMs: 1 }, false],
    ['upstream_unavailable', { shouldRetry: true }, true]
  ]
  for (const [code, options, expected] of cases) {
    t.equal(new GatewayError(code, 'x', options).shouldRetry, expected, `${code} ${JSON.stringify(options)}`)
  }
})

t.test('options stand above the table, and nothing else changes', async t => {
  const cause = new Error('why')
  const error = new GatewayError('upstream_unavailable', 'x', { status: 504, retryAfterMs: 7, param: 'p', cause })
  t.match(error, { status: 504, retryAfterMs: 7, param: 'p', cause, code: 'upstream_unavailable', breaker: 'failure', nextTarget: true })
  t.match(new GatewayError('forbidden', 'x'), { status: 403, retryAfterMs: null, param: null, publicCode: 'forbidden' })
  t.equal('cause' in new GatewayError('forbidden', 'x'), false)
  t.ok(error instanceof Error)
  t.equal(error.name, 'GatewayError')
})

t.test('what nobody foresaw is an internal error that does not tell its text', async t => {
  const known = new GatewayError('forbidden', 'x')
  t.equal(toGatewayError(known), known)
  for (const thrown of [new Error('secret'), 'secret', null, undefined, { message: 'secret' }]) {
    const error = toGatewayError(thrown)
    t.match(error, { code: 'internal_error', status: 500 })
    t.notMatch(JSON.stringify(error.body()), /secret/)
    if (thrown !== undefined) t.equal(error.cause, thrown)
  }
})
