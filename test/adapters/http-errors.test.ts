import type { IncomingHttpHeaders } from 'node:http'
import t from 'tap'
import { errorFromFailure, errorFromStatus, failureIn } from '../../adapters/shared/http-errors.ts'
import { cleaned, retryAfterMs } from '../../outbound/said.ts'
import { fc } from '../support/properties.ts'

const of = (status: number, body: unknown = '', headers: IncomingHttpHeaders = {}) =>
  errorFromStatus('up', status, typeof body === 'string' ? body : JSON.stringify(body), headers)

const failed = (message: string, more: object = {}) => ({ error: { message, type: 'x', param: null, code: null, ...more } })

t.test('a status means one of our errors', async t => {
  const cases: readonly [status: number, body: unknown, code: string, told: number][] = [
    [400, failed('bad temperature'), 'upstream_refused', 400],
    [413, failed('too large'), 'upstream_refused', 413],
    [422, failed('unprocessable'), 'upstream_refused', 422],
    [401, failed('bad key'), 'upstream_denied', 502],
    [402, failed('no credits'), 'upstream_denied', 502],
    [403, failed('not allowed'), 'upstream_denied', 502],
    [403, failed('flagged', { metadata: { reasons: ['violence'] } }), 'upstream_refused', 400],
    [403, failed('flagged', { metadata: { flagged_input: 'x' } }), 'upstream_refused', 400],
    [404, failed('no such model'), 'upstream_lacks_model', 404],
    [408, failed('slow'), 'upstream_unavailable', 504],
    [409, failed('conflict'), 'upstream_unavailable', 502],
    [425, failed('early'), 'upstream_unavailable', 502],
    [429, failed('slow down'), 'upstream_rate_limited', 429],
    [429, failed('pay', { code: 'insufficient_quota' }), 'upstream_denied', 502],
    [500, failed('oops'), 'upstream_unavailable', 502],
    [502, '<html><body>Bad gateway</body></html>', 'upstream_unavailable', 502],
    [503, '', 'upstream_unavailable', 503],
    [504, '', 'upstream_unavailable', 504],
    [524, '', 'upstream_unavailable', 504],
    [529, failed('overloaded'), 'upstream_unavailable', 503],
    [301, '', 'upstream_unavailable', 502],
    [307, '<a href="https://elsewhere">moved</a>', 'upstream_unavailable', 502],
    [400, failed("This model's maximum context length is 8192 tokens."), 'context_length_exceeded', 400],
    [400, failed('the request exceeds the available context size'), 'context_length_exceeded', 400],
    [400, failed('prompt is too long: 9 tokens'), 'context_length_exceeded', 400],
    [400, failed('x', { code: 'context_length_exceeded' }), 'context_length_exceeded', 400],
    [413, failed('x', { code: 'context_length_exceeded' }), 'context_length_exceeded', 400],
    [400, { object: 'error', message: "This model's maximum context length is 4096 tokens", code: 400 }, 'context_length_exceeded', 400],
    [500, failed('lost the context window'), 'upstream_unavailable', 502]
  ]
  for (const [status, body, code, told] of cases) {
    const error = of(status, body)
    t.same([error.code, error.status], [code, told], `${status} ${JSON.stringify(body)}`)
    t.match(error.message, new RegExp(`^up answered ${status}: .`))
  }
})

t.test('only what says more than ours stays of an upstream’s code', async t => {
  t.equal(of(400, failed('x', { code: 'invalid_image' })).publicCode, 'invalid_image')
  t.equal(of(400, failed('x', { code: 400 })).publicCode, 'upstream_refused')
  t.equal(of(400, failed('x', { code: 'Bad Code <script>' })).publicCode, 'upstream_refused')
  t.equal(of(403, failed('x', { metadata: { reasons: [] } })).publicCode, 'content_policy_violation')
  t.equal(of(404, failed('x')).param, 'model')
})

t.test('the wait an upstream asks for is kept', async t => {
  t.equal(of(429, '', { 'retry-after': '7' }).retryAfterMs, 7_000)
  t.equal(of(429).retryAfterMs, 1_000, 'a second where it does not say')
  t.equal(of(503, '', { 'retry-after': '9' }).retryAfterMs, 9_000)
  t.equal(of(503).retryAfterMs, null)
  t.equal(of(429, '', { 'retry-after': '120' }).shouldRetry, false)
})

t.test('a wait is read from either header, as seconds or as a date', async t => {
  const cases: readonly [headers: IncomingHttpHeaders, ms: number | null][] = [
    [{}, null],
    [{ 'retry-after': '0' }, 0],
    [{ 'retry-after': '1.5' }, 1_500],
    [{ 'retry-after': ' 3 ' }, 3_000],
    [{ 'retry-after': '' }, null],
    [{ 'retry-after': 'soon' }, null],
    [{ 'retry-after': '-5' }, null],
    [{ 'retry-after': '1e9' }, 3_600_000],
    [{ 'retry-after': new Date(0).toUTCString() }, null],
    [{ 'retry-after': '5', 'retry-after-ms': '250.5' }, 250.5],
    [{ 'retry-after': '5', 'retry-after-ms': 'x' }, 5_000],
    [{ 'retry-after-ms': '-1' }, null],
    [{ 'retry-after-ms': '1e12' }, 3_600_000]
  ]
  for (const [headers, ms] of cases) t.equal(retryAfterMs(headers), ms, JSON.stringify(headers))
  const inAMinute = retryAfterMs({ 'retry-after': new Date(Date.now() + 60_000).toUTCString() })
  t.ok(inAMinute !== null && inAMinute > 50_000 && inAMinute <= 60_000, String(inAMinute))
})

t.test('a failure is found in whatever form it is told', async t => {
  const cases: readonly [json: unknown, found: unknown][] = [
    [{ error: { message: 'm', code: 'c', type: 't', metadata: { a: 1 } } }, { message: 'm', code: 'c', type: 't', metadata: { a: 1 } }],
    [{ error: { message: 'm', code: 429 } }, { message: 'm', code: '429', type: null, metadata: {} }],
    [{ error: { message: 'm', metadata: { raw: 'why' } } }, { message: 'm: why', code: null, type: null, metadata: { raw: 'why' } }],
    [{ error: {} }, { message: 'no message', code: null, type: null, metadata: {} }],
    [{ error: 'm' }, { message: 'm', code: null, type: null, metadata: {} }],
    [{ error: '' }, null],
    [{ error: null }, null],
    [{ error: false }, null],
    [{ error: [] }, null],
    [{ message: 'm' }, null],
    [[], null],
    [null, null],
    ['error', null]
  ]
  for (const [json, found] of cases) t.same(failureIn(json), found, JSON.stringify(json))
})

t.test('a failure inside of a 200 means what its code means', async t => {
  const cases: readonly [code: string | null, expected: string][] = [
    ['429', 'upstream_rate_limited'],
    ['rate_limit_exceeded', 'upstream_rate_limited'],
    ['402', 'upstream_denied'],
    ['insufficient_quota', 'upstream_denied'],
    ['404', 'upstream_lacks_model'],
    ['400', 'upstream_refused'],
    ['503', 'upstream_unavailable'],
    ['context_length_exceeded', 'context_length_exceeded'],
    ['200', 'upstream_unavailable'],
    ['99999', 'upstream_unavailable'],
    ['server_error', 'upstream_unavailable'],
    [null, 'upstream_unavailable']
  ]
  for (const [code, expected] of cases)
    t.equal(errorFromFailure('up', { message: 'm', code, type: null, metadata: {} }).code, expected, String(code))
})

t.test('keys do not get into messages, and messages are short', async t => {
  const cases: readonly [text: string, expected: string][] = [
    ['Incorrect API key provided: sk-proj-abcdefghijklmnop.', 'Incorrect API key provided: sk-[hidden]'],
    ['key sk-abc***wxyz is bad', 'key sk-[hidden] is bad'],
    ['Authorization: Bearer abc.def', 'Authorization: Bearer [hidden]'],
    ['gsk_abcdefghijkl and xai-abcdefghijkl', 'gsk-[hidden] and xai-[hidden]'],
    ['ask-me about sk-x', 'ask-me about sk-x']
  ]
  for (const [text, expected] of cases) t.equal(cleaned(text), expected)
  t.equal(cleaned('x'.repeat(10_000)).length, 501)
  t.equal(cleaned('x'.repeat(500)).length, 500)
  t.notMatch(of(401, failed('Incorrect API key provided: sk-proj-abcdefghijklmnop')).message, /abcdef/)
  t.notMatch(of(500, 'Bearer abcdefghijkl was refused').message, /abcdef/)
})

t.test('a page becomes a few words', async t => {
  t.equal(
    of(502, '<html><head><style>p { color: red }</style><script>alert("<b>")</script></head>\n<body><h1>Bad</h1> gateway</body></html>')
      .message,
    'up answered 502: Bad gateway'
  )
  t.equal(of(502, ' \n').message, 'up answered 502: an empty body')
  t.equal(of(502, '<html></html>').message, 'up answered 502: a page without text')
})

t.test('any answer of any status becomes an error of ours that another target or nobody can mend', async t => {
  fc.assert(
    fc.property(
      fc.integer({ min: 300, max: 599 }),
      fc.oneof(fc.json(), fc.string(), fc.constant('{"error":{"code":"é"}}')),
      (status, text) => {
        const error = errorFromStatus('up', status, text, {})
        if (!(error.status >= 400 && error.status <= 599) || error.message.length > 600) return false
        // What is not the request's own fault goes to another target.
        return (status >= 400 && status < 500) || error.nextTarget
      }
    ),
    { numRuns: 3_000 }
  )
  t.pass()
})

t.test('a hostile page takes time in proportion to its length', async t => {
  for (const piece of ['<script ', '<', '<a', '</script', 'sk-', 'Bearer ', ' ', 'sk-a', 'context ']) {
    const text = piece.repeat(Math.ceil((512 * 1024) / piece.length))
    const start = process.cpuUsage()
    of(502, text)
    of(400, failed(text))
    const { user } = process.cpuUsage(start)
    // Of 64 KiB it is given at most; some ms also for eight times that; the square of the length is seconds.
    t.ok(user < 500_000, `${JSON.stringify(piece)}: ${user} us`)
  }
})
