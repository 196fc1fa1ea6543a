// The call of a compatible server itself: what is asked, its figures, abort, pace and silence.

import t from 'tap'
import { createAdapter as createOpenAi } from '../../adapters/openai.ts'
import { compatibleBody, originOf, usageFrom } from '../../adapters/shared/dialect.ts'
import type { AttemptHandle, Timeouts } from '../../routing/types.ts'
import { attemptFor, begin, type Changes, codeOf, createLine, failureOf, json, long, passed, play, sse, up } from './compatible.ts'
import { chunk, completion, counted, done, figures, spoken, usageChunk } from './compatible-events.ts'

t.test('the call says what is asked, of whom, with which key', async t => {
  const heard = begin({ model: 'other', body: { future: 1.5 } })
  t.match(heard.line.request, {
    origin: 'http://up.example',
    path: '/v1/chat/completions',
    method: 'POST',
    headers: { authorization: 'Bearer k', 'content-type': 'application/json', 'x-extra': 'e' },
    clientRequestId: 'attempt-1',
    connectMs: 1_000
  })
  t.same(JSON.parse(String(heard.line.request?.body)), {
    model: 'other',
    messages: [{ role: 'user', content: 'hello' }],
    stream: true,
    future: 1.5,
    stream_options: { include_usage: true }
  })
  heard.handle.abort()
  const keyless = begin({ upstream: { apiKey: null, baseUrl: 'https://h:8443' } })
  t.same([keyless.line.request?.origin, keyless.line.request?.path], ['https://h:8443', '/chat/completions'])
  t.notOk('authorization' in (keyless.line.request?.headers ?? {}))
  keyless.handle.abort()
})

t.test('usage is always asked for, unless the server refuses to be asked', async t => {
  const options = (changes: Changes) => JSON.parse(compatibleBody(attemptFor(changes), false).toString()).stream_options
  t.same(options({}), { include_usage: true })
  t.same(options({ body: { stream_options: { include_usage: false, include_obfuscation: false } } }), {
    include_usage: true,
    include_obfuscation: false
  })
  t.same(options({ body: { stream_options: null } }), { include_usage: true })
  t.equal(options({ stream: false }), undefined)
  t.equal(options({ upstream: { streamUsage: false } }), undefined)
  t.equal(
    options({ upstream: { streamUsage: false }, body: { stream_options: { include_usage: true } } }),
    undefined,
    'also when the client asks'
  )
  const asked = attemptFor({ body: { stream_options: { include_usage: true } } })
  t.equal(compatibleBody(asked, false), asked.request.body.bytes, 'to the byte')
})

t.test('a base URL is an origin and what comes before the path', async t => {
  t.same(originOf('http://h:1'), { origin: 'http://h:1', prefix: '' })
  t.same(originOf('https://h/api/v1'), { origin: 'https://h', prefix: '/api/v1' })
})

t.test('senseless figures are 0, and where nothing is left nobody has counted', async t => {
  t.same(usageFrom({}, 7), { promptTokens: 0, completionTokens: 0, cachedTokens: 0, reasoningTokens: 0, providerNanoUsd: 7, busyMs: null })
  t.same(
    usageFrom(
      { prompt_tokens: 5, completion_tokens: '9', prompt_tokens_details: [], completion_tokens_details: { reasoning_tokens: Number.NaN } },
      null
    ),
    { ...counted, promptTokens: 5, completionTokens: 0, cachedTokens: 0, reasoningTokens: 0 }
  )
  t.equal(usageFrom({ prompt_tokens: 2.4 }, null)?.promptTokens, 2)
  for (const none of [
    {},
    { prompt_tokens: 0, completion_tokens: 0 },
    { prompt_tokens: -5 },
    { prompt_tokens: 10, completion_tokens: 1e300 }
  ]) {
    t.equal(usageFrom(none, null), null, JSON.stringify(none))
  }
  t.equal(usageFrom({ prompt_tokens: 1e300 }, 5)?.promptTokens, 1e9, 'what was charged counts')
})

t.test('a usage event is passed on in OpenAI’s form, whatever the upstream’s', async t => {
  const cases: readonly object[] = [{ usage: figures }, { choices: null, usage: figures }, { id: 'x', choices: [], usage: figures }]
  for (const one of cases) {
    const heard = play([Buffer.from(`${spoken('x')}${chunk({}, 'stop')}data: ${JSON.stringify(one)}\n\n${done}`)])
    t.same(JSON.parse(heard.usageEvent?.slice(6) ?? ''), { ...one, choices: [] })
    t.equal(passed(heard), spoken('x') + chunk({}, 'stop'))
  }
})

t.test('nothing could be sent: the failure says so', async t => {
  const refused = begin()
  up(refused).error(Object.assign(new Error('refused'), { code: 'ECONNREFUSED' }), false)
  t.match(refused.end, { ok: false, sent: false, error: { code: 'upstream_unavailable', cause: { code: 'ECONNREFUSED' } } })
  const heard = begin({ upstream: { baseUrl: 'no url' } })
  await heard.ended
  t.match(heard.end, { ok: false, sent: false, error: { code: 'internal_error' } })
})

t.test('an abort ends at once and once, and closes the connection', async t => {
  for (const sent of [true, false]) {
    const heard = begin()
    heard.line.sent = sent
    heard.handle.abort()
    heard.handle.abort()
    t.match(heard.end, { ok: false, sent, error: { code: 'client_gone' } })
    t.equal(heard.line.aborted, 1)
    up(heard).head(200, sse)
    up(heard).data(Buffer.from(spoken('x')))
    up(heard).end()
    up(heard).error(new Error('late'), true)
    t.same(heard.calls, ['end'])
  }
  const running = begin()
  up(running).head(200, sse)
  up(running).data(Buffer.from(chunk({ content: 'x' }, null, { usage: figures })))
  running.handle.abort()
  t.same(running.calls, ['frames', 'usage', 'end'], 'figures that are known are told')
})

t.test('an abort from within what is told ends once', async t => {
  for (const moment of ['frames', 'body', 'usage'] as const) {
    const line = createLine()
    const calls: string[] = []
    const stop = (what: string): true => {
      calls.push(what)
      if (what === moment) handle.abort()
      return true
    }
    const handle: AttemptHandle = createOpenAi({ outbound: line.outbound }).chat(attemptFor({ stream: moment === 'frames' }), {
      frames: () => stop('frames'),
      body: () => void stop('body'),
      usage: () => void stop('usage'),
      end: () => void stop('end')
    })
    line.upstream?.head(200, moment === 'frames' ? sse : json)
    line.upstream?.data(Buffer.from(moment === 'frames' ? spoken('x') + chunk({}, 'stop') + done : JSON.stringify(completion)))
    line.upstream?.end()
    t.equal(calls.filter(call => call === 'end').length, 1, moment)
    t.equal(calls.at(-1), 'end', moment)
  }
})

t.test('the reader’s pace reaches the connection, and its pause is no silence', async t => {
  let full = true
  const heard = begin({ upstream: { timeouts: { ...long, idleMs: 40 } } }, 'openai', () => !full)
  up(heard).head(200, sse)
  t.equal(up(heard).data(Buffer.from(spoken('x'))), false)
  await new Promise(resolve => setTimeout(resolve, 120))
  t.equal(heard.end, null)
  full = false
  heard.handle.resume()
  t.equal(heard.line.resumed, 1)
  t.equal(up(heard).data(Buffer.from(spoken('y'))), true)
  await heard.ended
  t.match(failureOf(heard), { code: 'upstream_broke', status: 504 })
})

t.test('silence has an end, and says which', async t => {
  const cases: readonly [name: string, timeouts: Partial<Timeouts>, stream: string, code: string, phase: RegExp][] = [
    ['no token', { firstTokenMs: 10 }, chunk({ role: 'assistant' }), 'upstream_unavailable', /first_token, 10 ms/],
    ['a pause', { idleMs: 10 }, spoken('x'), 'upstream_broke', /idle, 10 ms/],
    ['the whole, before a token', { totalMs: 10 }, '', 'upstream_unavailable', /total, 10 ms/],
    ['the whole, after a token', { totalMs: 10 }, spoken('x'), 'upstream_broke', /total, 10 ms/]
  ]
  for (const [name, timeouts, stream, code, phase] of cases) {
    const heard = begin({ upstream: { timeouts: { ...long, ...timeouts } } })
    up(heard).head(200, sse)
    if (stream !== '') up(heard).data(Buffer.from(stream))
    await heard.ended
    t.match(failureOf(heard), { code, status: 504, message: phase }, name)
    t.equal(heard.line.aborted, 1, name)
  }
  const finished = begin({ upstream: { timeouts: { ...long, idleMs: 10 } } })
  up(finished).head(200, sse)
  up(finished).data(Buffer.from(spoken('x') + chunk({}, 'stop')))
  await finished.ended
  t.equal(codeOf(finished.end), 'ok', 'after the finish it is no silence')
  const unsent = begin({ upstream: { timeouts: { ...long, firstTokenMs: 10 } } })
  unsent.line.sent = false
  await unsent.ended
  t.equal(unsent.end?.ok === false && unsent.end.sent, false, 'still connecting')
})

t.test('a whole answer that is on its way is not cut off by the time for its first token', async t => {
  const heard = begin({ stream: false, upstream: { timeouts: { ...long, firstTokenMs: 30 } } })
  up(heard).head(200, json)
  up(heard).data(Buffer.from('\n'))
  await new Promise(resolve => setTimeout(resolve, 90))
  t.equal(heard.end, null)
  up(heard).data(Buffer.from(JSON.stringify(completion)))
  up(heard).end()
  t.equal(codeOf(heard.end), 'ok')
})

t.test('a server that says [DONE] and does not close holds nobody up', async t => {
  const heard = play([Buffer.from(spoken('x') + chunk({}, 'stop') + usageChunk + done)], { close: 'none' })
  t.equal(heard.end, null, 'the end of the body may still bring something')
  await heard.ended
  t.same([codeOf(heard.end), heard.end?.ok === true && String(heard.end.done)], ['ok', done])
  t.same(heard.usage, counted)
  t.equal(heard.line.aborted, 1)
})
