// Models are taken into memory and out of it without a word, as real calls would have them.

import type { RequestListener } from 'node:http'
import t, { type Test } from 'tap'
import { createAdapter } from '../../adapters/ollama.ts'
import type { GatewayError } from '../../routing/errors.ts'
import type { Target } from '../../routing/types.ts'
import { answer, attemptFor, bodyOf, createPorts, done, type Json, line, listen, serve, status, target, until } from './ollama-support.ts'

async function hold(
  t: Test,
  listener: RequestListener,
  keepAlive: string | number,
  changes: Partial<Target> = {},
  signal?: AbortSignal
): Promise<unknown> {
  const baseUrl = await serve(t, listener)
  const there = { ...target, ...changes, upstream: { ...target.upstream, baseUrl: `${baseUrl}/ollama/`, apiKey: 'sk-secret-1' } }
  return createAdapter(createPorts(t)).hold?.(there, keepAlive, signal ?? new AbortController().signal)
}

t.test('what is asked for: a load with the context of real calls, an unload, and an embedding of nothing', async t => {
  const cases: readonly [name: string, keepAlive: string | number, changes: Partial<Target>, path: string, body: Json][] = [
    ['a load', '30m', {}, '/api/generate', { model: 'qwen3:8b', keep_alive: '30m', stream: false, options: { num_ctx: 4_096 } }],
    ['for ever', -1, { contextTokens: null }, '/api/generate', { model: 'qwen3:8b', keep_alive: -1, stream: false }],
    ['an unload', 0, {}, '/api/generate', { model: 'qwen3:8b', keep_alive: 0, stream: false }],
    [
      'embeddings',
      '5m',
      { operations: ['embed'] },
      '/api/embed',
      { model: 'qwen3:8b', input: [], keep_alive: '5m', options: { num_ctx: 4_096 } }
    ],
    ['their unload', 0, { operations: ['embed'] }, '/api/generate', { model: 'qwen3:8b', keep_alive: 0, stream: false }]
  ]
  for (const [name, keepAlive, changes, path, body] of cases) {
    const heard: Json[] = []
    await hold(
      t,
      async (request, response) => {
        heard.push({ path: request.url, authorization: request.headers.authorization, body: await bodyOf(request) })
        response.end('{"done":true}')
      },
      keepAlive,
      changes
    )
    t.same(heard, [{ path: `/ollama${path}`, authorization: 'Bearer sk-secret-1', body }], name)
  }
})

t.test('what goes wrong is an error of ours, without our key', async t => {
  const cases: readonly [name: string, listener: RequestListener, error: object][] = [
    ['no such model', status(404, { error: "model 'qwen3:8b' not found" }), { code: 'upstream_lacks_model' }],
    [
      'no memory',
      status(500, { error: 'model requires more system memory (sk-secret-1)' }),
      { code: 'upstream_unavailable', message: /500/ }
    ],
    ['busy', status(503, { error: 'server busy' }), { code: 'upstream_rate_limited' }],
    ['an error in a 200', status(200, { error: 'llama runner process has terminated' }), { code: 'upstream_unavailable' }],
    ['another server', status(200, 'hello'), { code: 'upstream_unavailable', message: /no JSON object/ }],
    ['a broken connection', (_, response) => void response.destroy(), { code: 'upstream_unavailable' }],
    ['too much', status(200, 'x'.repeat(100_000)), { code: 'upstream_unavailable' }]
  ]
  for (const [name, listener, wanted] of cases) {
    const error = (await hold(t, listener, '30m').catch((thrown: unknown) => thrown)) as GatewayError
    t.match(error, wanted, name)
    t.notMatch(JSON.stringify([error.message, error.logMessage]), /sk-secret/)
  }
})

t.test('one that is called off ends at once, and the machine hears of it', async t => {
  const caller = new AbortController()
  let isGone = false
  const held = hold(
    t,
    (_, response) => {
      response.on('close', () => {
        isGone = true
      })
      caller.abort(new Error('enough'))
    },
    '30m',
    {},
    caller.signal
  )
  await t.rejects(held, { code: 'upstream_unavailable' })
  await until(() => isGone, 'the connection is closed')
})

t.test('the first piece of an answer is told, also of one that is not streamed', async t => {
  for (const stream of [true, false]) {
    const baseUrl = await serve(
      t,
      answer([line({ content: '' }), line({ thinking: 'x' }), line({ content: 'a' }), line({ content: 'b' }), done()])
    )
    const heard = listen()
    let begun = 0
    const observer = { ...heard.observer, begun: () => void begun++ }
    createAdapter(createPorts(t)).chat(attemptFor({ stream, upstream: { baseUrl } }), observer)
    t.match(await heard.ended, { ok: true })
    t.equal(begun, 1)
  }
})
