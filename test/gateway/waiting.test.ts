// What a client says of its patience, and what becomes of its request when it leaves.

import type { IncomingHttpHeaders } from 'node:http'
import t from 'tap'
import { patienceOf, queuedComment } from '../../gateway/waiting.ts'
import type { GatewayError } from '../../routing/errors.ts'
import type { Patience } from '../../routing/types.ts'
import { until } from '../support/wait.ts'
import { ask, chat, chunk, facts, jobId, serve } from './waiting-support.ts'

const deadline = 'x-llm-mcp-deadline-ms'
const disconnect = 'x-llm-mcp-on-disconnect'

t.test('a deadline and what to do when the client leaves are read from headers', async t => {
  const cases: readonly [headers: IncomingHttpHeaders, patience: Patience | null][] = [
    [{}, null],
    [{ [deadline]: '1' }, { deadlineMs: 1, onDisconnect: 'cancel' }],
    [{ [deadline]: ' 86400000 ' }, { deadlineMs: 86_400_000, onDisconnect: 'cancel' }],
    [{ [disconnect]: 'finish' }, { deadlineMs: null, onDisconnect: 'finish' }],
    [{ [disconnect]: 'Cancel' }, { deadlineMs: null, onDisconnect: 'cancel' }],
    [
      { [deadline]: '5000', [disconnect]: 'FINISH' },
      { deadlineMs: 5_000, onDisconnect: 'finish' }
    ]
  ]
  for (const [headers, patience] of cases) t.same(patienceOf(headers), patience, JSON.stringify(headers))
})

t.test('a patience that cannot be read is refused by its name', async t => {
  for (const value of ['', '0', '-1', '1.5', '1e3', '86400001', '999999999', '10, 20', 'soon', '٣']) {
    t.throws(() => patienceOf({ [deadline]: value }), { code: 'invalid_request', param: deadline }, value)
  }
  for (const value of ['', 'true', 'keep', 'cancel, finish']) {
    t.throws(() => patienceOf({ [disconnect]: value }), { code: 'invalid_request', param: disconnect }, value)
  }
})

t.test('a place is told as a comment, as far as it is known', async t => {
  t.equal(queuedComment({ jobId, position: 3, etaMs: { p50: 1_200.4, p90: 2_400 } }), ': queued position=3 eta_ms=1200\n\n')
  t.equal(queuedComment({ jobId, position: null, etaMs: { p50: 5, p90: 9 } }), ': queued eta_ms=5\n\n')
  t.equal(queuedComment({ jobId, position: 1_000, etaMs: null }), ': queued position=1000\n\n')
  t.equal(queuedComment({ jobId, position: null, etaMs: null }), ': queued\n\n')
})

t.test('bad headers are a 400 before anything is counted or run', async t => {
  const { url, runs, settled } = await serve(t)
  const cases: readonly [path: string, body: object][] = [
    ['/v1/chat/completions', chat],
    ['/v1/completions', { model: 'm', prompt: 'hi' }],
    ['/v1/embeddings', { model: 'm', input: 'hi' }],
    ['/v1/responses', { model: 'm', input: 'hi' }]
  ]
  for (const [path, body] of cases) {
    for (const headers of [{ [deadline]: '0' }, { [disconnect]: 'stay' }]) {
      const asked = ask(`${url}${path}`, body, headers)
      t.equal((await asked.response).statusCode, 400, path)
      t.match(JSON.parse(await asked.whole()), { error: { code: 'invalid_request', param: Object.keys(headers)[0] } })
    }
  }
  t.same([runs.length, settled], [0, []])
})

t.test('what a client said of its patience comes with its request', async t => {
  const { url, next } = await serve(t)
  const asked = ask(`${url}/v1/chat/completions`, chat, { [deadline]: '60000', [disconnect]: 'finish' })
  const run = await next()
  t.same(run.request.patience, { deadlineMs: 60_000, onDisconnect: 'finish' })
  run.reply.start(facts)
  run.reply.body(Buffer.from('{}'))
  run.over()
  t.equal(await asked.whole(), '{}')
  const plain = ask(`${url}/v1/chat/completions`, chat)
  t.notOk('patience' in (await next()).request)
  plain.leave()
})

for (const stream of [true, false]) {
  t.test(`a deadline that passes before the ${stream ? 'first token' : 'answer'} ends the run with a 504`, async t => {
    const { url, next, settled } = await serve(t)
    const asked = ask(`${url}/v1/chat/completions`, { ...chat, stream }, { [deadline]: '150' })
    const beganAt = performance.now()
    const run = await next()
    run.reply.waiting?.({ jobId, position: 1, etaMs: null })
    const response = await asked.response
    const tookMs = performance.now() - beganAt
    t.equal(response.statusCode, 504)
    t.ok(tookMs < 1_500, `${Math.round(tookMs)} ms`)
    t.equal(response.headers['x-should-retry'], 'false')
    t.equal(response.headers['x-llm-mcp-job-id'], jobId)
    t.match(JSON.parse(await asked.whole()), { error: { type: 'server_error', code: 'deadline_exceeded', param: deadline } })
    t.match(run.cancelled, { code: 'deadline_exceeded' })
    t.same(settled, [null])
  })
}

t.test('a deadline that passes after the headers is told in the stream', async t => {
  const { url, next } = await serve(t)
  const asked = ask(`${url}/v1/chat/completions`, { ...chat, stream: true }, { [deadline]: '2200' })
  const run = await next()
  run.reply.waiting?.({ jobId, position: 1, etaMs: null })
  t.equal((await asked.response).statusCode, 200)
  const text = await asked.whole()
  t.match(text, /^: queued position=1\n\ndata: \{"error":\{[^\n]*"code":"deadline_exceeded"\}\}\n\n$/)
  t.match(run.cancelled, { code: 'deadline_exceeded' })
})

t.test('a stream whose first token came in time goes on after its deadline', async t => {
  const { url, next } = await serve(t)
  const asked = ask(`${url}/v1/chat/completions`, { ...chat, stream: true }, { [deadline]: '300' })
  const beganAt = performance.now()
  const run = await next()
  run.reply.start(facts)
  run.reply.frames(chunk('a'))
  await until('the deadline to have passed', () => performance.now() - beganAt > 450)
  t.equal(run.cancelled, null)
  run.reply.frames(chunk('b'))
  run.reply.finish(null)
  run.over()
  t.match(await asked.whole(), /"a"[\s\S]*"b"[\s\S]*\[DONE\]\n\n$/)
})

t.test('whoever is let in after the deadline is told so, and nothing is run', async t => {
  const { url, runs, settled } = await serve(t, {
    admit: async admission => {
      const beganAt = performance.now()
      await until('the deadline to have passed', () => performance.now() - beganAt > 60)
      return admission
    }
  })
  const asked = ask(`${url}/v1/chat/completions`, chat, { [deadline]: '50' })
  t.equal((await asked.response).statusCode, 504)
  t.match(JSON.parse(await asked.whole()), { error: { code: 'deadline_exceeded' } })
  t.same([runs.length, settled], [0, [null]])
})

t.test('a client that leaves while it waits ends its run, unless it said otherwise', async t => {
  for (const [headers, cancelled] of [
    [{}, 'silent'],
    [{ [disconnect]: 'cancel' }, 'silent']
  ] as const) {
    const { url, next, streams, settled } = await serve(t)
    const asked = ask(`${url}/v1/chat/completions`, { ...chat, stream: true }, headers)
    const run = await next()
    run.reply.waiting?.({ jobId, position: 1, etaMs: null })
    asked.leave()
    await until('it to be cancelled', () => run.cancelled !== null)
    t.equal(run.cancelled, cancelled)
    t.same([streams.size, settled], [0, [null]])
  }
})

for (const stream of [true, false]) {
  t.test(`with "finish" a run goes on for nobody, stream: ${stream}`, async t => {
    const { url, next, streams, settled } = await serve(t)
    const asked = ask(`${url}/v1/chat/completions`, { ...chat, stream }, { [disconnect]: 'finish' })
    const run = await next()
    run.reply.waiting?.({ jobId, position: 1, etaMs: null })
    asked.leave()
    await until('the gateway to notice', () => run.resumed > 0)
    run.reply.waiting?.({ jobId, position: 1, etaMs: null })
    run.reply.start(facts)
    if (stream) {
      t.equal(run.reply.frames(chunk('x'.repeat(1_000_000))), true, 'nobody is ever full')
      t.equal(run.reply.frames(chunk('x'.repeat(1_000_000))), true)
      run.reply.finish(null)
    } else {
      run.reply.body(Buffer.from('{}'))
    }
    t.equal(run.cancelled, null)
    t.same([streams.size, settled], [1, []], 'it is still open, for whoever shuts down')
    run.over()
    t.same([streams.size, settled], [0, [null]], 'and its place is given back at its end')
  })
}

t.test('with "finish" a failure after the client left is told to nobody', async t => {
  const { url, next, streams } = await serve(t)
  const asked = ask(`${url}/v1/chat/completions`, chat, { [disconnect]: 'finish' })
  const run = await next()
  asked.leave()
  await until('the gateway to notice', () => run.resumed > 0)
  run.reply.fail({ message: 'no' } as GatewayError)
  run.over('failed')
  t.equal(streams.size, 0)
})

t.test('with "finish" a reader that was full when it left holds nothing up', async t => {
  const { url, next } = await serve(t)
  const asked = ask(`${url}/v1/chat/completions`, { ...chat, stream: true }, { [disconnect]: 'finish' })
  const run = await next()
  run.reply.start(facts)
  run.reply.frames(chunk('a'))
  ;(await asked.response).pause()
  await until('the reader to be full', () => !run.reply.frames(chunk('x'.repeat(1_000_000))))
  asked.leave()
  await until('the run to be resumed', () => run.resumed > 0)
  t.equal(run.reply.frames(chunk('x')), true)
  run.over()
})

t.test('a shutdown ends what goes on for nobody', async t => {
  const { url, next, streams } = await serve(t)
  const asked = ask(`${url}/v1/chat/completions`, chat, { [disconnect]: 'finish' })
  const run = await next()
  asked.leave()
  await until('the gateway to notice', () => run.resumed > 0)
  streams.endAll({ code: 'server_draining' } as GatewayError)
  t.match(run.cancelled, { code: 'server_draining' })
  t.equal(streams.size, 0)
})

t.test('with "finish" an answer that came to its end leaves nothing open', async t => {
  const { url, next, streams } = await serve(t)
  const asked = ask(`${url}/v1/chat/completions`, chat, { [disconnect]: 'finish' })
  const run = await next()
  run.reply.start(facts)
  run.reply.body(Buffer.from('{}'))
  run.over()
  await asked.whole()
  await until('it to be closed', () => streams.size === 0)
  t.equal(run.resumed, 0)
})
