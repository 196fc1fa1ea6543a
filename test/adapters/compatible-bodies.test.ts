// Answers of compatible servers that are no streams.

import t from 'tap'
import { compatibleBody } from '../../adapters/shared/dialect.ts'
import { passedOn } from '../../routing/preference.ts'
import type { Attempt } from '../../routing/types.ts'
import { attemptFor, begin, type Changes, codeOf, failureOf, type Heard, json, long, passed, sse, up } from './compatible.ts'
import { chunk, completion, counted, done, routerUsage, spoken } from './compatible-events.ts'

function answer(
  status: number,
  headers: Record<string, string>,
  body: string,
  changes: Changes = { stream: false },
  dialect: 'openai' | 'openrouter' = 'openai'
): Heard {
  const heard = begin(changes, dialect)
  up(heard).head(status, headers)
  const bytes = Buffer.from(body)
  for (let at = 0; at < bytes.length && heard.end === null; at += 7) up(heard).data(bytes.subarray(at, at + 7))
  if (heard.end === null) up(heard).end()
  return heard
}

t.test('a whole answer passes through as it came', async t => {
  const text = ` ${JSON.stringify(completion, null, 1)}\n`
  const heard = answer(200, json, text)
  t.same([heard.body, heard.usage, heard.usageEvent, heard.calls], [text, counted, null, ['usage', 'body', 'end']])
  t.strictSame(heard.end, { ok: true })
  const charged = answer(200, json, JSON.stringify({ ...completion, usage: routerUsage }), { stream: false }, 'openrouter')
  t.equal(charged.usage?.providerNanoUsd, 12_340)
  const uncounted = answer(200, { 'content-type': 'application/problem+json' }, JSON.stringify({ ...completion, usage: undefined }))
  t.same([uncounted.usage, uncounted.calls], [null, ['body', 'end']])
})

t.test('a success that is none is a failure', async t => {
  const cases: readonly [name: string, headers: Record<string, string>, body: string, code: string][] = [
    ['an error in a 200', json, '{"error":{"message":"no","code":429}}', 'upstream_rate_limited'],
    ['an error of one word', json, '{"error":"no"}', 'upstream_unavailable'],
    [
      'an error in a choice',
      json,
      JSON.stringify({ ...completion, choices: [{ error: { code: 502, message: 'x' } }] }),
      'upstream_unavailable'
    ],
    ['no choices', json, '{"object":"list"}', 'upstream_unavailable'],
    ['empty choices', json, '{"choices":[]}', 'upstream_unavailable'],
    ['no JSON', json, '{"choices":[', 'upstream_unavailable'],
    ['nothing', json, '', 'upstream_unavailable'],
    ['a list', json, '[]', 'upstream_unavailable'],
    ['HTML', { 'content-type': 'text/html' }, '<html>', 'upstream_unavailable'],
    ['a stream nobody asked for', sse, spoken('x') + chunk({}, 'stop') + done, 'upstream_unavailable'],
    ['no type', {}, JSON.stringify(completion), 'upstream_unavailable'],
    ['compressed', { ...json, 'content-encoding': 'gzip' }, JSON.stringify(completion), 'upstream_unavailable']
  ]
  for (const [name, headers, body, code] of cases) {
    const heard = answer(200, headers, body)
    t.equal(codeOf(heard.end), code, name)
    t.equal(heard.body, null, name)
    t.equal(passed(heard), '', name)
    t.equal(heard.end?.ok === false && heard.end.sent, true)
  }
  t.equal(codeOf(answer(200, { ...json, 'content-encoding': 'identity' }, JSON.stringify(completion)).end), 'ok')
})

t.test('one body for a stream is a failure, and may be told as one', async t => {
  t.match(failureOf(answer(200, json, JSON.stringify(completion), {})).message, /one JSON body/)
  t.equal(codeOf(answer(200, json, '{"error":{"code":402,"message":"pay"}}', {}).end), 'upstream_denied')
  t.equal(codeOf(answer(200, { 'content-type': 'text/html' }, '<html>', {}).end), 'upstream_unavailable')
  t.equal(codeOf(answer(200, { ...sse, 'content-encoding': 'br' }, spoken('x') + done, {}).end), 'upstream_unavailable')
})

t.test('an answer without an end is not kept for ever', async t => {
  const heard = begin({ stream: false })
  up(heard).head(200, json)
  const piece = Buffer.alloc(1024 * 1024, ' ')
  for (let index = 0; index < 70 && heard.end === null; index++) up(heard).data(piece)
  t.match(failureOf(heard), { code: 'upstream_unavailable' })
  t.equal(heard.line.aborted, 1)
  const refused = begin({ stream: false })
  up(refused).head(429, json)
  for (let index = 0; index < 70 && refused.end === null; index++) up(refused).data(piece)
  t.equal(codeOf(refused.end), 'upstream_rate_limited', 'an error is read as far as it matters')
  t.equal(refused.line.aborted, 1)
})

t.test('a status says more than the way its body ends', async t => {
  for (const stream of [true, false]) {
    const cut = begin({ stream })
    up(cut).head(429, { ...json, 'retry-after': '7' })
    up(cut).data(Buffer.from('{"error":{"mess'))
    up(cut).error(Object.assign(new Error('reset'), { code: 'ECONNRESET' }), true)
    t.match(failureOf(cut), { code: 'upstream_rate_limited', retryAfterMs: 7_000 })

    const silent = begin({ stream, upstream: { timeouts: { ...long, firstTokenMs: 5 } } })
    up(silent).head(401, json)
    await silent.ended
    t.equal(codeOf(silent.end), 'upstream_denied')
  }
})

t.test('fields about providers were seen to here: only OpenRouter gets them, without the names of this house', async t => {
  const body = { models: ['b'], provider: { only: ['rtx', 'azure'], zdr: true }, seed: 1 }
  const sent = (upstream: object, change: (request: Attempt['request']) => Attempt['request'] = request => request): unknown => {
    const attempt = attemptFor({ body, stream: false, upstream })
    return JSON.parse(compatibleBody({ ...attempt, request: change(attempt.request) }, false).toString())
  }
  const plain = { model: 'm', messages: [{ role: 'user', content: 'hello' }], seed: 1 }
  t.same(sent({}), plain)
  const router = { adapter: 'openrouter' }
  t.same(sent(router), { ...plain, provider: body.provider }, 'as it came')
  const named = (house: string[]) => (request: Attempt['request']) => ({
    ...request,
    preference: passedOn(request.preference as NonNullable<typeof request.preference>, new Set(house))
  })
  t.same(sent(router, named(['rtx'])), { ...plain, provider: { only: ['azure'], zdr: true } })
  t.same(sent(router, named(['rtx', 'azure'])), { ...plain, provider: { zdr: true } })
})
