// Bad input of every kind: a clear error in OpenAI's form, never a crash, never a guess.

import { connect } from 'node:net'
import t, { type Test } from 'tap'
import { createDatabase } from '../support/cluster.ts'
import { adminKey, startGateway } from '../support/gateway.ts'
import { startCompatible } from '../support/upstream.ts'

const database = await createDatabase(t)
const upstream = await startCompatible(t)
const gateway = await startGateway(t, {
  databaseUrl: database.url,
  env: {
    OPENAI_API_KEY: 'sk-upstream-openai-000000000000',
    OPENAI_UPSTREAM_URL: `${upstream.origin}/v1`,
    LLM_MCP_ALLOWED_HOSTS: 'gate.example'
  }
})
const messages = [{ role: 'user', content: 'hi' }]
const good = { model: 'openai/gpt-4o-mini', messages }

async function refused(t: Test, answer: Response, status: number, more: object = {}): Promise<void> {
  const body = (await answer.json()) as { error: object }
  t.equal(answer.status, status, JSON.stringify(body))
  t.same(Object.keys(body), ['error'])
  t.same(Object.keys(body.error).sort(), ['code', 'message', 'param', 'type'])
  t.match(body.error, more)
  t.ok(answer.headers.get('x-request-id'))
}

function post(body: string | Uint8Array, headers: Record<string, string> = {}): Promise<Response> {
  return gateway.fetch('/v1/chat/completions', {
    method: 'POST',
    body: body as string,
    headers: { 'content-type': 'application/json', ...headers }
  })
}

t.test('fields that are wrong are named', async t => {
  const cases: [object, string][] = [
    [{ messages }, 'model'],
    [{ model: '', messages }, 'model'],
    [{ model: 7, messages }, 'model'],
    [{ model: 'x'.repeat(300), messages }, 'model'],
    [{ model: 'auto' }, 'messages'],
    [{ model: 'auto', messages: [] }, 'messages'],
    [{ model: 'auto', messages: 'hi' }, 'messages'],
    [{ model: 'auto', messages: ['hi'] }, 'messages[0]'],
    [{ model: 'auto', messages: [{ content: 'x' }] }, 'messages[0].role'],
    [{ model: 'auto', messages: [{ role: 'user', content: 7 }] }, 'messages[0].content'],
    [{ model: 'auto', messages: [{ role: 'user', content: [{ text: 'x' }] }] }, 'messages[0].content[0]'],
    [
      { model: 'auto', messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'https://example.com/x.png' } }] }] },
      'messages[0].content[0].image_url'
    ],
    [{ ...good, stream: 'yes' }, 'stream'],
    [{ ...good, stream_options: [] }, 'stream_options'],
    [{ ...good, n: 0 }, 'n'],
    [{ ...good, n: 1.5 }, 'n'],
    [{ ...good, max_tokens: -1 }, 'max_tokens'],
    [{ ...good, max_completion_tokens: 'many' }, 'max_completion_tokens'],
    [{ ...good, tools: {} }, 'tools'],
    [{ ...good, response_format: 'json' }, 'response_format'],
    [{ ...good, logprobs: 1 }, 'logprobs']
  ]
  for (const [body, param] of cases) await refused(t, await post(JSON.stringify(body)), 400, { param, type: 'invalid_request_error' })
})

t.test('null means absent', async t => {
  const nulls = {
    stream: null,
    stream_options: null,
    n: null,
    max_tokens: null,
    tools: null,
    tool_choice: null,
    response_format: null,
    logprobs: null,
    temperature: null
  }
  t.equal((await post(JSON.stringify({ ...good, ...nulls }))).status, 200)
})

t.test('bodies that are no JSON objects, too deep, too many, too big', async t => {
  await refused(t, await post(''), 400)
  await refused(t, await post('{"model":'), 400, { message: /not valid JSON/ })
  await refused(t, await post('[]'), 400)
  await refused(t, await post('"text"'), 400)
  await refused(t, await post('null'), 400)
  await refused(t, await post(new Uint8Array([0x7b, 0x22, 0xff, 0x22, 0x7d])), 400, { message: /UTF-8/ })
  await refused(t, await post(JSON.stringify(good).replace('{', '{"__proto__":{"admin":true},')), 400, { message: /__proto__/ })
  await refused(t, await post(`{"model":"auto","messages":${'['.repeat(70)}${']'.repeat(70)}}`), 400, { message: /deeper than 64/ })
  await refused(t, await post(`{"model":"auto","messages":[${'{},'.repeat(250_000)}{}]}`), 400, { message: /elements/ })
  for (let round = 0; round < 5; round++) await refused(t, await post('x'.repeat(33 * 1024 * 1024)), 413, { code: 'payload_too_large' })
  const secret = 'canary-text-5512'
  const answer = await post(`{"model":"auto","messages":[{"role":"user","content":"${secret}"]}`)
  t.notMatch(await answer.text(), secret)
})

t.test('content types and encodings we do not take', async t => {
  await refused(t, await post(JSON.stringify(good), { 'content-type': 'text/plain' }), 415)
  await refused(t, await post(JSON.stringify(good), { 'content-type': 'application/x-www-form-urlencoded' }), 415)
  await refused(t, await post(JSON.stringify(good), { 'content-encoding': 'gzip' }), 415)
  t.equal((await post(JSON.stringify(good), { 'content-type': 'application/json; charset=utf-8' })).status, 200)
})

t.test('unknown paths and wrong methods', async t => {
  await refused(t, await gateway.fetch('/v1/nope'), 404, { code: 'not_found' })
  await refused(t, await gateway.fetch('/v1//chat/completions', { json: good }), 404)
  await refused(t, await gateway.fetch('/V1/models'), 404)
  const wrong = await gateway.fetch('/v1/chat/completions')
  t.equal(wrong.headers.get('allow'), 'POST')
  await refused(t, wrong, 405, { code: 'method_not_allowed' })
  await refused(t, await gateway.fetch('/v1/models/gpt-4o-mini', { method: 'DELETE' }), 405)
  await refused(t, await gateway.fetch('/v1/costs/summary?period=year'), 400, { param: 'period' })
})

t.test('features that no target honours are named, hints are not in the way', async t => {
  const demo = { model: 'echo', messages }
  await refused(t, await post(JSON.stringify({ ...demo, logprobs: true })), 400, { code: 'unsupported_parameter', param: 'logprobs' })
  await refused(t, await post(JSON.stringify({ ...demo, response_format: { type: 'json_schema', json_schema: { name: 'x' } } })), 400, {
    param: 'response_format'
  })
  t.equal(
    (await post(JSON.stringify({ ...demo, logit_bias: { 1: 2 }, user: 'me', metadata: { a: 'b' }, store: true, service_tier: 'auto' })))
      .status,
    200
  )
})

t.test('two keys of one name reach nobody twice', async t => {
  upstream.calls.length = 0
  t.equal(
    (await post('{"model":"openai/secret","messages":[{"role":"user","content":"hi"}],"mod\\u0065l":"openai/gpt-4o-mini"}')).status,
    200
  )
  const [call] = upstream.calls.filter(({ method }) => method === 'POST')
  t.equal(call?.text.match(/"model"/g)?.length, 1)
  t.notMatch(call?.text, /u0065|secret/)
  t.match(call?.body, { model: 'gpt-4o-mini' })
})

t.test('local-only fails closed', async t => {
  upstream.calls.length = 0
  const answer = await post(JSON.stringify(good), { 'x-llm-mcp-local-only': 'true' })
  await refused(t, answer, 503, { code: 'no_capacity' })
  t.equal(answer.headers.get('x-should-retry'), 'false')
  await refused(t, await post(JSON.stringify(good), { 'x-llm-mcp-local-only': 'maybe' }), 400)
  t.equal(upstream.calls.length, 0)
})

/** What the server says to these bytes, up to its end or 3 s. */
function raw(text: string): Promise<string> {
  const { port } = new URL(gateway.url)
  return new Promise(resolve => {
    let answer = ''
    const socket = connect(Number(port), '127.0.0.1', () => socket.write(text))
    socket.setTimeout(3_000, () => socket.destroy())
    socket.on('data', data => {
      answer += data
    })
    socket.on('error', () => {})
    socket.on('close', () => resolve(answer))
  })
}

t.test('framing and Host: what two readers could understand differently is refused', async t => {
  const key = `authorization: Bearer ${adminKey}`
  const end = 'connection: close\r\n\r\n'
  const cases: [string, string, RegExp][] = [
    ['a plain request', `GET /v1/models HTTP/1.1\r\nhost: localhost\r\n${key}\r\n${end}`, /^HTTP\/1.1 200/],
    ['any name where a key is given', `GET /v1/models HTTP/1.1\r\nhost: any.example:4000\r\n${key}\r\n${end}`, /^HTTP\/1.1 200/],
    ['no Host', `GET /health HTTP/1.1\r\n${end}`, /^HTTP\/1.1 400[\s\S]*"error"/],
    ['two Hosts', `GET /health HTTP/1.1\r\nhost: localhost\r\nHost: evil.example\r\n${end}`, /^HTTP\/1.1 400[\s\S]*"error"/],
    ['a malformed Host', `GET /health HTTP/1.1\r\nhost: a/?x#\r\n${end}`, /^HTTP\/1.1 400[\s\S]*"error"/],
    ['an absolute target', `GET http://evil.example/health HTTP/1.1\r\nhost: localhost\r\n${end}`, /^HTTP\/1.1 400[\s\S]*"error"/],
    ['a foreign name without a key', `GET /health HTTP/1.1\r\nhost: evil.example\r\n${end}`, /^HTTP\/1.1 403[\s\S]*"forbidden"/],
    ['an allowed name without a key', `GET /health HTTP/1.1\r\nhost: gate.example\r\n${end}`, /^HTTP\/1.1 200/],
    ['an address without a key', `GET /health HTTP/1.1\r\nhost: 127.0.0.1:80\r\n${end}`, /^HTTP\/1.1 200/],
    ['2,000 headers', `GET /health HTTP/1.1\r\nhost: localhost\r\n${'a:b\r\n'.repeat(2_000)}${end}`, /^HTTP\/1.1 431[\s\S]*"error"/],
    ['a huge header', `GET /health HTTP/1.1\r\nhost: localhost\r\nx: ${'a'.repeat(20_000)}\r\n${end}`, /^HTTP\/1.1 431[\s\S]*"error"/],
    [
      'two lengths',
      `POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n${key}\r\ncontent-length: 2\r\ncontent-length: 3\r\n${end}{}`,
      /^HTTP\/1.1 400[\s\S]*"error"/
    ],
    [
      'length and chunks',
      `POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n${key}\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n${end}0\r\n\r\n`,
      /^HTTP\/1.1 400[\s\S]*"error"/
    ],
    ['an odd Expect', `GET /health HTTP/1.1\r\nhost: localhost\r\nexpect: nonsense\r\n${end}`, /^HTTP\/1.1 417[\s\S]*"error"/],
    ['no HTTP', 'hello\r\n\r\n', /^HTTP\/1.1 400[\s\S]*"error"/],
    ['a __proto__ header', `GET /v1/models HTTP/1.1\r\nhost: localhost\r\n__proto__: x\r\n${key}\r\n${end}`, /^HTTP\/1.1 200/]
  ]
  for (const [name, text, expected] of cases) t.match(await raw(text), expected, name)
})

t.test('a body without a key is not waited for', async t => {
  const answer = await raw(
    'POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 30000000\r\n\r\n{'
  )
  t.match(answer, /^HTTP\/1.1 401/)
})

t.test('after all that the gateway still answers', async t => {
  t.equal((await post(JSON.stringify(good))).status, 200)
})
