// What a client hears while its request waits in the queue: headers within two seconds, its place as comments, then the answer.

import t from 'tap'
import { GatewayError } from '../../routing/errors.ts'
import { until } from '../support/wait.ts'
import { ask, chat, chunk, facts, jobId, serve } from './waiting-support.ts'

const place = (position: number | null, p50: number | null = null) => ({
  jobId,
  position,
  etaMs: p50 === null ? null : { p50, p90: 2 * p50 }
})

t.test('a queued stream has its headers within two seconds, and hears of its place when it changes', async t => {
  const { url, next } = await serve(t)
  const beganAt = performance.now()
  const asked = ask(`${url}/v1/chat/completions`, { ...chat, stream: true })
  const run = await next()
  run.reply.waiting?.(place(4, 1_500))
  run.reply.waiting?.(place(3, 1_200))
  const { statusCode, headers } = await asked.response
  const tookMs = performance.now() - beganAt
  t.equal(statusCode, 200)
  t.ok(tookMs > 1_900 && tookMs < 2_500, `${Math.round(tookMs)} ms`)
  t.match(headers, { 'content-type': /^text\/event-stream/, 'x-llm-mcp-job-id': jobId, 'x-ratelimit-limit-requests': '9' })
  t.notOk('x-llm-mcp-provider' in headers, 'nobody knows yet')
  await until('its place', () => asked.text() !== '')
  t.equal(asked.text(), ': queued position=3 eta_ms=1200\n\n', 'as it stands now')
  run.reply.waiting?.(place(3, 1_200))
  run.reply.waiting?.(place(1, 300))
  run.reply.start(facts)
  run.reply.frames(chunk('hi'))
  run.reply.finish(null)
  run.over()
  t.match(
    await asked.whole(),
    /^: queued position=3 eta_ms=1200\n\n: queued position=1 eta_ms=300\n\ndata: \{[^\n]*"hi"[\s\S]*\[DONE\]\n\n$/
  )
})

t.test('a request that is queued late, after tries that failed, has its headers at once', async t => {
  const { url, next } = await serve(t)
  const asked = ask(`${url}/v1/chat/completions`, { ...chat, stream: true })
  const beganAt = performance.now()
  const run = await next()
  await until('two seconds to pass', () => performance.now() - beganAt > 2_050)
  run.reply.waiting?.(place(null))
  await asked.response
  const tookMs = performance.now() - beganAt
  t.ok(tookMs < 2_500, `${Math.round(tookMs)} ms`)
  await until('its place', () => asked.text() === ': queued\n\n')
  asked.leave()
})

t.test('a turn that comes within two seconds: the headers say who answers, and there is no comment', async t => {
  const { url, next } = await serve(t)
  const asked = ask(`${url}/v1/chat/completions`, { ...chat, stream: true })
  const run = await next()
  run.reply.waiting?.(place(1))
  run.reply.start(facts)
  run.reply.frames(chunk('hi'))
  const { headers } = await asked.response
  t.match(headers, { 'x-llm-mcp-job-id': jobId, 'x-llm-mcp-provider': 'ollama', 'x-llm-mcp-device': 'box', 'x-llm-mcp-reason': 'waited' })
  run.reply.finish(null)
  run.over()
  t.match(await asked.whole(), /^data: \{/)
})

t.test('who was queued and fails before its headers hears an honest status', async t => {
  const { url, next } = await serve(t)
  for (const stream of [true, false]) {
    const asked = ask(`${url}/v1/chat/completions`, { ...chat, stream })
    const run = await next()
    run.reply.waiting?.(place(9))
    run.reply.fail(new GatewayError('queue_full', 'Too many wait.', { status: 429, retryAfterMs: 5_000 }))
    run.over('failed')
    const { statusCode, headers } = await asked.response
    t.equal(statusCode, 429)
    t.match(headers, { 'x-llm-mcp-job-id': jobId, 'retry-after': '5', 'x-should-retry': 'true' })
    t.match(JSON.parse(await asked.whole()), { error: { type: 'requests', code: 'queue_full' } })
  }
})

t.test('who was queued and fails after its headers hears it in the stream', async t => {
  const { url, next } = await serve(t)
  const asked = ask(`${url}/v1/chat/completions`, { ...chat, stream: true })
  const run = await next()
  run.reply.waiting?.(place(2))
  await asked.response
  run.reply.fail(new GatewayError('no_capacity', 'Ten minutes are over.', { retryAfterMs: 30_000 }))
  run.over('failed')
  t.match(await asked.whole(), /^: queued position=2\n\ndata: \{"error":\{[^\n]*"code":"no_capacity"\}\}\n\n$/)
})

t.test('a whole answer is simply held', async t => {
  const { url, next } = await serve(t)
  const asked = ask(`${url}/v1/chat/completions`, chat)
  const run = await next()
  run.reply.waiting?.(place(2))
  const beganAt = performance.now()
  await until('more than two seconds to pass', () => performance.now() - beganAt > 2_200)
  run.reply.waiting?.(place(1))
  run.reply.start({ ...facts, nanoUsd: 100 })
  run.reply.body(Buffer.from('{"id":"a"}'))
  run.over()
  const { statusCode, headers } = await asked.response
  t.equal(statusCode, 200)
  t.match(headers, { 'x-llm-mcp-job-id': jobId, 'x-llm-mcp-provider': 'ollama', 'x-llm-mcp-cost-usd': /\d/ })
  t.equal(await asked.whole(), '{"id":"a"}')
})

t.test('a client of the Responses API sees comments between its events', async t => {
  const { url, next } = await serve(t)
  const asked = ask(`${url}/v1/responses`, { model: 'm', input: 'hi', stream: true })
  const run = await next()
  run.reply.waiting?.(place(2))
  await asked.response
  run.reply.waiting?.(place(1))
  run.reply.start(facts)
  run.reply.frames(chunk('hello'))
  run.reply.finish(null)
  run.over()
  const text = await asked.whole()
  const parts = text.split('\n\n').filter(part => part !== '')
  t.match(parts[0], /^event: response\.created\n/)
  t.match(parts[1], /^event: response\.in_progress\n/)
  t.same(parts.slice(2, 4), [': queued position=2', ': queued position=1'])
  t.match(text, /"delta":"hello"/)
  t.equal(text.match(/^event: response\.created$/gm)?.length, 1)
})

t.test('a reader that takes nothing hears the last of its places when it reads on', async t => {
  const { url, next } = await serve(t)
  const asked = ask(`${url}/v1/chat/completions`, { ...chat, stream: true })
  const run = await next()
  run.reply.waiting?.(place(1))
  const response = await asked.response
  response.pause()
  let position = 1_000_000
  // Each is written until the socket is full; what comes after that is only kept.
  for (; position < 1_400_000; position++) run.reply.waiting?.(place(position))
  response.resume()
  const last = `: queued position=${position - 1}\n\n`
  await until('the last place', () => asked.text().endsWith(last))
  t.ok(asked.text().length < 8_000_000, 'and not all that were between')
  asked.leave()
})
