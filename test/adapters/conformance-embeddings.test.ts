// What every adapter that gives vectors promises; those that give them have an entry in `vectorFakes` (fakes.ts).

import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { readEmbeddingRequest } from '../../gateway/dialects/openai-embeddings.ts'
import type { Timeouts } from '../../routing/types.ts'
import { until } from '../support/wait.ts'
import { adapterFor, asBytes, faultsOf, knobs, nobody, start } from './conformance.ts'
import { vectorFakes } from './fakes.ts'

type Answer = (response: ServerResponse) => void

const sayJson =
  (body: object | string, status = 200): Answer =>
  response =>
    response.writeHead(status, { 'content-type': 'application/json' }).end(typeof body === 'string' ? body : JSON.stringify(body))

async function serveVectors(t: Test, answer: Answer): Promise<{ origin: string; open: () => number; calls: () => number }> {
  let open = 0
  let calls = 0
  const server = createServer((request, response) => {
    calls++
    open++
    response.on('close', () => open--)
    request.resume().on('end', () => answer(response))
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    return new Promise(resolve => server.close(resolve))
  })
  return { origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, open: () => open, calls: () => calls }
}

const two = await readEmbeddingRequest(asBytes({ model: 'm', input: ['a', 'b'] }), knobs)

for (const [name, fake] of Object.entries(vectorFakes)) {
  t.test(`${name}: embed`, async t => {
    const adapter = await adapterFor(t, name)
    if (fake === null) {
      t.equal(adapter.embed, undefined, 'a made-up vector is worse than an error')
      return
    }
    const begin = (origin: string, timeouts: Partial<Timeouts> = {}) =>
      start(adapter, { operation: 'embed', request: two, baseUrl: `${origin}${fake.basePath}`, timeouts })
    const good = fake.answer([
      [0.5, -0.25],
      [1, 0]
    ])

    t.test('gives a vector for each text, its figures, and how long the vectors are', async t => {
      const { origin } = await serveVectors(t, sayJson(good))
      const heard = begin(origin)
      await heard.ended
      t.same(faultsOf(heard, false), [])
      t.same(heard.calls, ['usage', 'body', 'end'])
      t.same(heard.end, { ok: true, dimensions: 2 })
      t.match(heard.usage, { promptTokens: 4, completionTokens: 0 })
      t.same(JSON.parse(String(heard.body)), {
        object: 'list',
        data: [
          { object: 'embedding', index: 0, embedding: [0.5, -0.25] },
          { object: 'embedding', index: 1, embedding: [1, 0] }
        ],
        model: 'm',
        usage: { prompt_tokens: 4, total_tokens: 4 }
      })
    })

    t.test('what is not a vector of one length for each text is no answer', async t => {
      const answers: Readonly<Record<string, object | string>> = {
        'one for two': fake.answer([[1, 2]]),
        'three for two': fake.answer([[1], [2], [3]]),
        none: fake.answer([]),
        ragged: fake.answer([[1, 2], [1]]),
        empty: fake.answer([[], []]),
        'NaN, which is no JSON': JSON.stringify(good).replace('0.5', 'NaN'),
        null: JSON.stringify(good).replace('0.5', 'null'),
        'a text': JSON.stringify(good).replace('0.5', '"0.5"'),
        'larger than a 32-bit float': JSON.stringify(good).replace('0.5', '1e300'),
        'cut off': JSON.stringify(good).slice(0, -20),
        'no object': '[]',
        'no vectors': '{}',
        'something else': '{"object":"list","data":{},"embeddings":"x"}',
        'base64 of 7 bytes': JSON.stringify(fake.answer([[1], [1]])).replaceAll('[1]', '"AAAAAAAAAA=="'),
        'no base64': JSON.stringify(fake.answer([[1], [1]])).replaceAll('[1]', '"AAAA*AAA"'),
        'base64 of a NaN': JSON.stringify(fake.answer([[1], [1]])).replaceAll('[1]', '"AADAfw=="'),
        'nested too deeply': `{"x":${'['.repeat(100_000)}`
      }
      for (const [what, answer] of Object.entries(answers)) {
        const { origin } = await serveVectors(t, sayJson(answer))
        const heard = begin(origin)
        await heard.ended
        t.same(faultsOf(heard, false), [], what)
        t.match(heard.end, { ok: false, sent: true, error: { code: 'upstream_unavailable', status: 502 } }, what)
        t.equal(heard.body, null, what)
      }
    })

    t.test('a broken, silent, endless, foreign or absent upstream fails in time', async t => {
      const zoo: Readonly<Record<string, readonly [answer: Answer, status: number]>> = {
        html: [response => response.writeHead(200, { 'content-type': 'text/html' }).end('<html>'), 502],
        compressed: [response => response.writeHead(200, { 'content-type': 'application/json', 'content-encoding': 'gzip' }).end('x'), 502],
        'cut off': [
          response => {
            response.writeHead(200, { 'content-type': 'application/json' }).write('{"data":')
            setTimeout(() => response.destroy(), 20)
          },
          502
        ],
        'an error in a 200': [sayJson({ error: { message: 'no', code: 500 } }), 502],
        silent: [() => {}, 504],
        hanging: [response => response.writeHead(200, { 'content-type': 'application/json' }).write('{'), 504]
      }
      for (const [what, [answer, status]] of Object.entries(zoo)) {
        const { origin, open } = await serveVectors(t, answer)
        const heard = begin(origin, { firstTokenMs: 200, idleMs: 200 })
        await heard.ended
        t.same(faultsOf(heard, false), [], what)
        t.match(heard.end, { ok: false, sent: true, error: { code: 'upstream_unavailable', status } }, what)
        if (what === 'compressed') t.match(heard.end, { error: { message: /compressed answer \(gzip\)/ } })
        await until('the upstream to be closed', () => open() === 0)
      }
      const absent = start(adapter, { operation: 'embed', request: two, baseUrl: await nobody(fake) })
      await absent.ended
      t.same(faultsOf(absent, false), [])
      t.match(absent.end, { ok: false, sent: false, error: { code: 'upstream_unavailable', cause: { code: 'ECONNREFUSED' } } })
    })

    t.test('an answer without an end is cut off', async t => {
      const piece = Buffer.alloc(1024 * 1024, '1,')
      const { origin, open } = await serveVectors(t, response => {
        response.writeHead(200, { 'content-type': 'application/json' })
        const more = () => {
          while (!response.destroyed && response.write(piece));
        }
        response.on('drain', more)
        more()
      })
      const heard = begin(origin)
      await heard.ended
      t.same(faultsOf(heard, false), [])
      t.match(heard.end, { ok: false, error: { code: 'upstream_unavailable', message: /more than 67108864 bytes/ } })
      await until('the upstream to be closed', () => open() === 0)
    })

    t.test('a status becomes an error of ours', async t => {
      const cases: readonly [status: number, code: string][] = [
        [400, 'upstream_refused'],
        [401, 'upstream_denied'],
        [404, 'upstream_lacks_model'],
        [429, 'upstream_rate_limited'],
        [500, 'upstream_unavailable']
      ]
      for (const [status, code] of cases) {
        const { origin } = await serveVectors(t, sayJson(fake.refusal, status))
        const heard = begin(origin)
        await heard.ended
        t.same(faultsOf(heard, false), [], String(status))
        t.match(heard.end, { ok: false, sent: true, error: { code } }, String(status))
      }
    })

    t.test('an abort ends it at once and once, and closes the upstream', async t => {
      const { origin, open, calls } = await serveVectors(t, () => {})
      const early = begin(origin)
      t.same(early.calls, [], 'nothing is told within the call')
      early.handle.abort()
      const heard = begin(origin)
      await until('the call to arrive', () => calls() > 0)
      heard.handle.abort()
      heard.handle.abort()
      heard.handle.resume()
      await Promise.all([early.ended, heard.ended])
      await until('the upstream to be closed', () => open() === 0)
      t.same([...faultsOf(early, false), ...faultsOf(heard, false)], [])
      t.match(heard.end, { ok: false, sent: true, error: { code: 'client_gone' } })
    })
  })
}
