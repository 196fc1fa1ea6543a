// The small decisions of what is passed through: which model a body names, where a path leads, what an answer used, what a failure says.

import { createServer } from 'node:https'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import { checkDestination, checkSegments } from '../../gateway/passthrough/destination.ts'
import { connectionFailure, failureOf } from '../../gateway/passthrough/failures.ts'
import { clientHeaders, upstreamHeaders } from '../../gateway/passthrough/headers.ts'
import { readOpaqueBody } from '../../gateway/passthrough/model.ts'
import { createUsageWatch } from '../../gateway/passthrough/usage.ts'
import type { Upstream } from '../../routing/types.ts'
import { startPassthrough } from '../support/passthrough.ts'
import { fc } from '../support/properties.ts'

const upstream: Upstream = {
  id: 'openai',
  adapter: 'openai',
  own: false,
  baseUrl: 'https://api.openai.com/v1',
  apiKey: 'sk-canary-0123456789',
  headers: { 'X-Extra': 'canary-extra', Accept: 'application/json' },
  device: null,
  timeouts: { connectMs: 1, firstTokenMs: 1, idleMs: 1, totalMs: 1 },
  models: null,
  auto: [],
  streamUsage: true,
  registryId: null
}

const disposition = 'Content-Disposition: form-data; name="model"'

/** A form of these parts, each given as head and value. */
function form(parts: readonly (readonly [string, string])[], boundary = 'xyz'): string {
  return `${parts.map(([head, value]) => `--${boundary}\r\n${head}\r\n\r\n${value}\r\n`).join('')}--${boundary}--\r\n`
}

t.test('the model of a form', async t => {
  const type = 'multipart/form-data; boundary=xyz'
  const one = form([[disposition, 'tts-1']])
  const table: readonly (readonly [string, string, string, string | null])[] = [
    ['plain', type, one, 'tts-1'],
    ['a quoted boundary', 'Multipart/Form-Data; boundary="xyz"', one, 'tts-1'],
    ['a charset before it', 'multipart/form-data; charset=utf-8; boundary=xyz', one, 'tts-1'],
    ['without the last line break', type, one.slice(0, -2), 'tts-1'],
    [
      'lower case, with a type',
      type,
      form([['content-disposition: form-data; name="model"\r\ncontent-type: text/plain', 'tts-1']]),
      'tts-1'
    ],
    ['an unquoted name', type, form([['Content-Disposition: form-data; name=model', 'tts-1']]), 'tts-1'],
    [
      'behind a file whose name has everything in it',
      type,
      form([
        ['Content-Disposition: form-data; name="file"; filename="m\\"odel;\xff.wav"', 'x'],
        [disposition, 'tts-1']
      ]),
      'tts-1'
    ],
    [
      'behind an empty field',
      type,
      form([
        ['Content-Disposition: form-data; name="prompt"', ''],
        [disposition, 'tts-1']
      ]),
      'tts-1'
    ],
    ['no such field', type, form([['Content-Disposition: form-data; name="voice"', 'x']]), null],
    ['another case', type, form([['Content-Disposition: form-data; name="Model"', 'x']]), null],
    ['a boundary that is not there', 'multipart/form-data; boundary=abc', one, null],
    ['two boundaries', 'multipart/form-data; boundary=abc; boundary=xyz', one, null],
    ['another multipart', 'multipart/mixed; boundary=xyz', one, null],
    ['something before it', type, `preamble\r\n${one}`, null],
    ['something after it', type, `${one}more`, null],
    ['a second form after it', type, one + one, null],
    ['no end', type, one.slice(0, -6), null],
    ['an encoding', type, form([[`${disposition}\r\nContent-Transfer-Encoding: base64`, 'dHRzLTE=']]), null],
    ['a header nobody needs', type, form([[`${disposition}\r\nX: y`, 'tts-1']]), null],
    ['a folded header', type, form([['Content-Disposition: form-data;\r\n name="model"', 'tts-1']]), null],
    ['two dispositions', type, form([[`${disposition}\r\nContent-Disposition: form-data; name="x"`, 'tts-1']]), null],
    ['two names', type, form([['Content-Disposition: form-data; name="x"; name="model"', 'tts-1']]), null],
    ['an extended name', type, form([[`${disposition}; name*=utf-8''other`, 'tts-1']]), null],
    ['an escaped name', type, form([['Content-Disposition: form-data; name="mod\\el"', 'tts-1']]), null],
    ['an unfinished name', type, form([['Content-Disposition: form-data; name="model', 'tts-1']]), null],
    ['a file', type, form([[`${disposition}; filename="a"`, 'tts-1']]), null],
    ['a value with a line break', type, form([[disposition, 'tts-1\r\n']]), null],
    ['no value', type, form([[disposition, '']]), null],
    ['a value of 257 characters', type, form([[disposition, 'x'.repeat(257)]]), null],
    [
      'a boundary that is the beginning of a line',
      type,
      form([
        [disposition, 'tts-1'],
        ['Content-Disposition: form-data; name="file"', 'a\r\n--xyzzy\r\nb']
      ]),
      null
    ],
    [
      'a boundary in the middle of a line',
      type,
      form([
        [disposition, 'tts-1'],
        ['Content-Disposition: form-data; name="file"', 'a--xyz--b']
      ]),
      null
    ],
    [
      'a boundary after a bare line feed',
      type,
      form([
        [disposition, 'tts-1'],
        ['Content-Disposition: form-data; name="file"', 'a\n--xyz\n']
      ]),
      null
    ],
    [
      'a field behind a boundary in the middle of a line',
      type,
      form([['Content-Disposition: form-data; name="file"', `a--xyz\r\n${disposition}\r\n\r\ntts-1`]]),
      null
    ],
    [
      'a field behind a bare line feed',
      type,
      form([['Content-Disposition: form-data; name="file"', `a\n--xyz\r\n${disposition}\r\n\r\ntts-1`]]),
      null
    ],
    [
      'a boundary that shares the line break of a head',
      type,
      `--xyz\r\nContent-Disposition: form-data; name="a"\r\n\r\n--xyz\r\n${disposition}\r\n\r\ntts-1\r\n--xyz--`,
      null
    ],
    ['spaces behind a boundary', type, one.replace('--xyz\r\n', '--xyz \r\n'), null],
    ['only the end', type, '--xyz--', null],
    ['a head without an end', type, `--xyz\r\n${'x'.repeat(20_000)}`, null]
  ]
  for (const [name, contentType, body, expected] of table) {
    const bytes = Buffer.from(body, 'latin1')
    const read = readOpaqueBody(contentType, bytes)
    t.equal(read.model, expected, name)
    t.equal(read.bytes, bytes, `${name}: untouched`)
  }
  const twice = Buffer.from(
    form([
      [disposition, 'a'],
      [disposition, 'b']
    ])
  )
  t.throws(() => readOpaqueBody(type, twice), { code: 'invalid_request', param: 'model' })
})

t.test('the model of JSON', async t => {
  const type = 'application/json; charset=utf-8'
  const read = (text: string, contentType = type) => readOpaqueBody(contentType, Buffer.from(text))
  t.equal(read('{"input":"x","model":"tts-1"}').model, 'tts-1')
  t.equal(read('{"model":"größe"}').model, 'größe', 'beyond ASCII as it is')
  t.equal(read('{"model":null}').model, null)
  t.equal(read('{}').model, null)
  t.equal(read('').model, null)
  t.equal(read('{"model":"x"}', 'application/jsonl').model, null)
  t.equal(read('{"model":"x"}', 'text/plain').model, null)
  t.equal(readOpaqueBody(undefined, Buffer.from('{"model":"x"}')).model, null)
  for (const text of ['{"model":1}', '{"model":""}', `{"model":"${'x'.repeat(257)}"}`, '[]', '{', '{"__proto__":1}']) {
    t.throws(() => read(text), { code: 'invalid_request' }, text.slice(0, 30))
  }
  const twice = read('{"model":"a","model":"b","\\u006dodel":"c"}')
  t.same([twice.model, twice.bytes.toString()], ['c', '{"model":"c"}'])
})

t.test('whatever the form, its bytes are untouched and it is read once', async t => {
  const value = fc.string({ unit: fc.constantFrom('-', '\r', '\n', 'x', 'y', 'z', '"', ';', 'model') })
  fc.assert(
    fc.property(fc.array(fc.tuple(value, value)), parts => {
      const bytes = Buffer.from(form(parts.map(([name, text]) => [`Content-Disposition: form-data; name="${name}"`, text])))
      let model: string | null
      try {
        ;({ model } = readOpaqueBody('multipart/form-data; boundary=xyz', bytes))
      } catch (error) {
        return (error as { code: string }).code === 'invalid_request'
      }
      return model === null || bytes.includes(`name="model"\r\n\r\n${model}\r\n--xyz`)
    })
  )
  const large = Buffer.from(form([['Content-Disposition: form-data; name="file"', '\r\n--xy'.repeat(4_000_000)]]))
  const began = performance.now()
  readOpaqueBody('multipart/form-data; boundary=xyz', large)
  readOpaqueBody('multipart/form-data; boundary=xyz', Buffer.from(`--xyz\r\n${'Content-Disposition: form-data; name="'.repeat(100_000)}`))
  t.ok(performance.now() - began < 1_000, 'in time that grows with the size')
})

t.test('destinations', async t => {
  const paths = ['audio', 'moderations']
  const first = (destination: string, baseUrl = 'https://h/v1', target = destination) =>
    checkDestination(destination, { baseUrl, paths, target })
  t.equal(first('/v1/audio/speech'), 'audio')
  t.equal(first('/v1/moderations'), 'moderations')
  t.equal(first('/audio/a/b.c/d~e', 'https://h'), 'audio')
  t.equal(first('/a/b/audio/x', 'https://h/a/b', '/v1/audio/x?a=1&b[]=%20'), 'audio')
  for (const bad of [
    '/v1/keys',
    '/v1',
    '/v1/',
    '/audio/x',
    '/v1/audiox',
    '/v1/audio/',
    '/v1/audio/..',
    '/v1/audio/.x',
    '/v1/audio/%61',
    '//h/v1/audio',
    '/v1/audio/x y',
    '/v1/audio/é'
  ]) {
    t.throws(() => first(bad), { code: 'invalid_request' }, bad)
  }
  t.throws(() => first('/v1/audio/x', 'https://h/v1', '/v1/audio/x?a=\\'), { code: 'invalid_request' })
  t.doesNotThrow(() => checkSegments(['audio', 'rerank-2']))
  for (const bad of ['', '.', '..', 'a/b', 'A', '%61', '*', ':id']) t.throws(() => checkSegments([bad]), /cannot be passed through/, bad)
})

t.test('headers of the provider win over the client, and ours over both', async t => {
  const caller = { keyId: null, source: 's', subSource: null, kind: 'source' as const, models: null, providers: null }
  const sent = upstreamHeaders(
    { accept: 'audio/*', 'content-type': 'text/plain\u00ff', authorization: 'Bearer mine', 'x-extra': 'mine' },
    {
      upstream: { ...upstream, headers: { ...upstream.headers, Authorization: 'theirs', 'X-Client-Request-Id': 'theirs' } },
      caller,
      attemptId: 'a1'
    }
  )
  t.same(sent, {
    accept: 'application/json',
    'x-extra': 'canary-extra',
    authorization: 'Bearer sk-canary-0123456789',
    'x-client-request-id': 'a1'
  })
  const keyless = upstreamHeaders({}, { upstream: { ...upstream, apiKey: null, headers: { 'api-key': 'k' } }, caller, attemptId: 'a1' })
  t.same(keyless, { 'api-key': 'k', 'x-client-request-id': 'a1' })
  const back = (headers: Record<string, string | string[]>) => clientHeaders(headers, upstream)
  t.same(back({ 'content-type': 'a/b\u0001', 'x-request-id': 'req_1.a:b-c', 'set-cookie': ['a'] }), {
    'x-upstream-request-id': 'req_1.a:b-c'
  })
  for (const odd of ['x'.repeat(201), 'a b', 'sk-canary-0123456789', 'id-sk-canary-0123456789'])
    t.same(back({ 'x-request-id': odd }), {}, odd)
})

t.test('usage is found however the answer is cut into pieces', async _t => {
  const text = `{"data":"${'A'.repeat(300)}","usage":{"input_tokens":7,"output_tokens":3,"input_tokens_details":{"cached_tokens":2}}}`
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: text.length })), cuts => {
      const watch = createUsageWatch(false)
      const places = [0, ...cuts.sort((a, b) => a - b), text.length]
      for (let at = 1; at < places.length; at++) watch.see(Buffer.from(text.slice(places[at - 1], places[at])))
      const { usage } = watch.end() ?? { usage: null }
      return usage?.promptTokens === 7 && usage.completionTokens === 3 && usage.cachedTokens === 2
    })
  )
})

t.test('what is no usage is none', async t => {
  const found = (text: string, saysCost = false) => {
    const watch = createUsageWatch(saysCost)
    watch.see(Buffer.from(text))
    return watch.end()?.usage ?? null
  }
  for (const text of [
    '',
    'x',
    '{}',
    '{"usage":null}',
    '{"usage":[1]}',
    '{"usage":"x"}',
    '{"a":{"input_tokens":1}}',
    '"usage":{"input_tokens":',
    '{"usage":{"seconds":1}}'
  ]) {
    t.equal(found(text), null, text)
  }
  t.equal(found('{"text":"\\"usage\\":{\\"input_tokens\\":5}"}'), null, 'text is not looked into')
  t.match(found('data: {"usage":{"input_tokens":1}}\n\ndata: {"usage" : {"input_tokens":2,"output_tokens":1e300}}\n\ndata: [DONE]\n\n'), {
    promptTokens: 2,
    completionTokens: 1e9
  })
  t.match(found('{"usage":{"prompt_tokens":1,"cost":0.5}}', true), { providerNanoUsd: 5e8 })
  t.match(found('{"usage":{"prompt_tokens":1,"cost":0.5}}'), { providerNanoUsd: null }, 'only where it is known to be dollars')
  t.match(found('{"usage":{"prompt_tokens":1,"cost":0.5,"is_byok":true}}', true), { providerNanoUsd: null })
})

/** Whatever nobody holds any more is gone. */
function collect(): void {
  setFlagsFromString('--expose-gc')
  runInNewContext('gc')()
}

t.test('a watch holds no more than a megabyte', async t => {
  const watch = createUsageWatch(false)
  const before = process.memoryUsage().arrayBuffers
  for (let at = 0; at < 2_000; at++) watch.see(Buffer.alloc(64 * 1024, 0x41))
  collect()
  watch.see(Buffer.from('"usage":{"input_tokens":4}}'))
  t.match(watch.end(), { usage: { promptTokens: 4 } })
  t.ok(process.memoryUsage().arrayBuffers - before < 10 * 1024 * 1024)
})

t.test('failures tell nothing of ours, and waits are read as they are written', async t => {
  const failed = (status: number, error: object | string, headers: Record<string, string> = {}) =>
    failureOf(upstream, { status, headers, text: typeof error === 'string' ? error : JSON.stringify({ error }) })
  const quoted = failed(400, {
    message: `sk-canary-0123456789 canary-extra Bearer abc sk-other-key-123 ${'x'.repeat(600)}`,
    code: 'DROP TABLE',
    param: '<b>'
  })
  t.notMatch(quoted.message, /canary|abc|other/)
  t.ok(quoted.message.length < 600)
  t.match(quoted, { code: 'upstream_refused', publicCode: 'upstream_refused', param: null, status: 400 })
  t.match(failed(400, { message: 'x', code: 'content_policy_violation', param: 'image[0]' }), {
    publicCode: 'content_policy_violation',
    param: 'image[0]'
  })
  for (const [headers, expected] of [
    [{}, 1_000],
    [{ 'retry-after-ms': '250', 'retry-after': '9' }, 250],
    [{ 'retry-after': '9' }, 9_000],
    [{ 'retry-after': '9999999' }, 3_600_000],
    [{ 'retry-after': '-1' }, 1_000],
    [{ 'retry-after': 'soon' }, 1_000],
    [{ 'retry-after-ms': 'x' }, 1_000],
    [{ 'retry-after': '' }, 1_000]
  ] as const) {
    t.equal(failed(429, { message: 'x' }, headers).retryAfterMs, expected, JSON.stringify(headers))
  }
  for (const [status, expected] of [
    [408, 504],
    [409, 502],
    [500, 502],
    [504, 504],
    [524, 504],
    [529, 503],
    [599, 502]
  ] as const) {
    t.match(failed(status, { message: 'x' }), { code: 'upstream_unavailable', status: expected }, String(status))
  }
  for (const text of ['', '<html>', '[]', 'null', '{"error":"x"}', '{"error":{}}', '{"detail":"x"}']) {
    t.match(failed(422, text), { code: 'upstream_unavailable', status: 502 }, text)
  }
  t.match(connectionFailure(upstream, Object.assign(new Error('connect ECONNREFUSED 10.0.0.1:443'), { code: 'ECONNREFUSED' })), {
    message: 'openai could not be asked: ECONNREFUSED.',
    status: 502
  })
  t.match(connectionFailure(upstream, Object.assign(new Error('x'), { code: 'UND_ERR_CONNECT_TIMEOUT' })), { status: 504 })
})

// Of a server that nobody trusts.
const certificate = `-----BEGIN CERTIFICATE-----
MIIBfzCCASWgAwIBAgIUNeL2i3uKyiCFeugo5ILRG8MZyL0wCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMTEzNTIxNFoYDzIxMjYxMDI4
MTM1MjE0WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAQ/elb73HkAOyEYUr0CJmSlGQZ6GtNmsRwzehVGFqTAJyq0109egTd7
sPqc48nOCnIZZ7t4+hBukdHtQoh/3x3wo1MwUTAdBgNVHQ4EFgQUgJJ0p5iorSuB
JDb0/EugDG0Q5GkwHwYDVR0jBBgwFoAUgJJ0p5iorSuBJDb0/EugDG0Q5GkwDwYD
VR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiA0CFhqidbehjcm/u6LO0G5
I5R6Ga2DfzwC1dipn0LrTwIhAI9ieSLt3b+WtYaw5x5N9j/pe/8QTkBmNCtXKbNm
is84
-----END CERTIFICATE-----`
const certificateKey = `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgnjWBdXiX2xQkSkSi
TMsLKwbwwN3LvFp9KX3RLM4EZkahRANCAAQ/elb73HkAOyEYUr0CJmSlGQZ6GtNm
sRwzehVGFqTAJyq0109egTd7sPqc48nOCnIZZ7t4+hBukdHtQoh/3x3w
-----END PRIVATE KEY-----`

t.test('a provider whose certificate nobody vouches for gets no key and no body', async t => {
  let requests = 0
  const server = createServer({ cert: certificate, key: certificateKey }, (_request, response) => {
    requests++
    response.end('{}')
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  const { port } = server.address() as { port: number }
  const app = await startPassthrough(t, { provider: { baseUrl: `https://localhost:${port}/v1` } })
  const response = await app.post('/v1/audio/speech', { headers: { 'content-type': 'application/json' }, body: '{"model":"tts-1"}' })
  t.equal(response.status, 502)
  t.match(await app.row(), { outcome: 'failed', costNanoUsd: 0 })
  t.equal(requests, 0)
})
