// What is not interpreted: bytes to one provider and back, with nothing of the caller's on the way out and nothing of ours on the way in.

import { randomBytes } from 'node:crypto'
import { createServer } from 'node:http'
import { connect } from 'node:net'
import t from 'tap'
import { GatewayError } from '../../routing/errors.ts'
import { json, providerHeader, providerKey, rawExchange, sourceKey, startPassthrough, startProvider } from '../support/passthrough.ts'
import { until } from '../support/wait.ts'

const speech = { model: 'tts-1', input: 'Hello', voice: 'alloy' }

function form(...parts: readonly (Buffer | string)[]): Buffer {
  return Buffer.concat(parts.map(part => (typeof part === 'string' ? Buffer.from(part, 'latin1') : part)))
}

function field(name: string, value: string): string {
  return `--xyz\r\nContent-Disposition: form-data; name="${name}"\r\n\r\n${value}\r\n`
}

const multipart = { 'content-type': 'multipart/form-data; boundary=xyz' }
const asJson = (body: object): RequestInit => ({ headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) })

t.test('a form goes out byte for byte, and its model is known though it stands last', async t => {
  const provider = await startProvider(t, json(200, { text: 'hi', usage: { type: 'duration', seconds: 3 } }))
  const app = await startPassthrough(t, { provider: { baseUrl: provider.url } })
  const file = randomBytes(3_000_000)
  const body = form(
    '--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n',
    file,
    '\r\n',
    field('model', 'whisper-1'),
    '--xyz--\r\n'
  )
  const response = await app.post('/v1/audio/transcriptions', { headers: multipart, body })
  t.equal(response.status, 200)
  t.same(await response.json(), { text: 'hi', usage: { type: 'duration', seconds: 3 } })
  const [call] = provider.calls
  t.equal(call?.path, '/api/v1/audio/transcriptions')
  t.equal(call?.method, 'POST')
  t.ok(call?.body.equals(body), 'the same bytes')
  t.equal(call?.headers['content-type'], multipart['content-type'])
  t.equal(call?.headers['content-length'], String(body.length))
  t.match(await app.row(), {
    model: 'whisper-1',
    provider: 'openai',
    outcome: 'ok',
    costNanoUsd: null,
    priceSource: 'unknown',
    source: 'me'
  })
  t.equal(call?.headers['x-client-request-id'], app.rows[0]?.attemptId)
  t.match(app.admitted, [{ model: 'whisper-1', estimatedTokens: 0 }])
})

t.test('sound comes back byte for byte, with its type and name, and who made it', async t => {
  const sound = randomBytes(500_000)
  const provider = await startProvider(t, (_call, response) => {
    response.writeHead(200, {
      'content-type': 'audio/mpeg',
      'content-disposition': 'attachment; filename="speech.mp3"',
      'x-request-id': 'req_up',
      'openai-processing-ms': '99999',
      'x-ratelimit-limit-requests': '5000',
      'set-cookie': '__cf_bm=canary',
      'openai-organization': providerHeader,
      server: 'cloudflare',
      'access-control-allow-origin': '*',
      'alt-svc': 'h3=":443"',
      link: '<https://evil.example>; rel=preload',
      connection: 'x-hop',
      'x-hop': 'secret'
    })
    response.end(sound)
  })
  const app = await startPassthrough(t, { provider: { baseUrl: provider.url } })
  const response = await app.post('/audio/speech', asJson(speech))
  t.ok(Buffer.from(await response.arrayBuffer()).equals(sound))
  const headers = Object.fromEntries(response.headers)
  const row = await app.row()
  t.same(
    Object.keys(headers)
      .filter(name => !['date', 'connection', 'keep-alive', 'transfer-encoding'].includes(name))
      .sort(),
    [
      'content-disposition',
      'content-type',
      'openai-processing-ms',
      'openai-version',
      'x-llm-mcp-model',
      'x-llm-mcp-provider',
      'x-llm-mcp-reason',
      'x-ratelimit-limit-requests',
      'x-request-id',
      'x-upstream-request-id'
    ]
  )
  t.match(headers, {
    'content-type': 'audio/mpeg',
    'content-disposition': 'attachment; filename="speech.mp3"',
    'x-llm-mcp-provider': 'openai',
    'x-llm-mcp-model': 'tts-1',
    'x-ratelimit-limit-requests': '60',
    'x-request-id': row.requestId,
    'x-upstream-request-id': 'req_up'
  })
  t.not(headers['openai-processing-ms'], '99999')
  t.notMatch(headers.connection ?? '', /x-hop/)
  t.match(row, { model: 'tts-1', outcome: 'ok', costNanoUsd: null, priceSource: 'unknown' })
  t.same(
    app.settled,
    app.admitted.map(({ estimatedTokens }) => estimatedTokens),
    'without figures the estimate stands'
  )
  await until('the line of the log', () => app.contexts.length === 1)
  t.match(app.contexts[0], { model: 'tts-1', summary: { outcome: 'ok', attempts: 1, nanoUsd: null, calls: [{ outcome: 'ok' }] } })
})

t.test('of forty headers a client sends, the provider sees six', async t => {
  const provider = await startProvider(t)
  const app = await startPassthrough(t, { provider: { baseUrl: provider.url } })
  const nasty = [
    `x-api-key: ${sourceKey}`,
    `api-key: ${sourceKey}`,
    'cookie: session=canary-cookie',
    'proxy-authorization: Basic canary',
    'proxy-connection: keep-alive',
    'te: trailers',
    'trailer: x-canary',
    'upgrade: h2c',
    'http2-settings: AAMAAABkAARAAAAAAAIAAAAA',
    'keep-alive: timeout=1',
    'x-forwarded-for: 6.6.6.6',
    'x-forwarded-host: evil.example',
    'x-forwarded-proto: gopher',
    'forwarded: for=6.6.6.6',
    'x-real-ip: 6.6.6.6',
    'via: 1.1 canary',
    'x-original-url: /v1/keys',
    'x-rewrite-url: /v1/keys',
    'x-http-method-override: DELETE',
    'x-host: evil.example',
    'origin: https://evil.example',
    'referer: https://evil.example/canary',
    'openai-organization: org-evil',
    'openai-project: proj-evil',
    'x-client-request-id: forged',
    'x-request-id: forged',
    'x-goog-api-key: canary',
    'x-portkey-custom-host: http://evil.example',
    'x-llm-mcp-local-only: false',
    'x-stainless-retry-count: 1',
    'x-openwebui-user-id: alice',
    'accept-encoding: gzip, br',
    'content-encoding-x: gzip',
    'range: bytes=0-1',
    'if-none-match: "a"',
    'traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
    '__proto__: canary',
    'constructor: canary',
    'user-agent: canary-agent',
    'accept: audio/*',
    'openai-beta: audio=v2',
    'idempotency-key: k1',
    'connection: authorization, x-client-request-id, content-type, keep-alive, upgrade'
  ]
  const body = JSON.stringify(speech)
  const request = [
    'POST /v1/audio/speech HTTP/1.1',
    'host: localhost',
    `authorization: Bearer ${sourceKey}`,
    'content-type: application/json',
    `content-length: ${body.length}`,
    ...nasty
  ]
  const socket = connect(app.port, '127.0.0.1')
  t.teardown(() => socket.destroy())
  socket.write(`${request.join('\r\n')}\r\n\r\n${body}`)
  socket.resume()
  await until('the call', () => provider.calls.length > 0)
  const [call] = provider.calls
  const names = (call?.rawHeaders ?? []).filter((_name, at) => at % 2 === 0).map(name => name.toLowerCase())
  t.same(names.filter(name => !['host', 'connection'].includes(name)).sort(), [
    'accept',
    'accept-encoding',
    'authorization',
    'content-length',
    'content-type',
    'idempotency-key',
    'openai-beta',
    'openai-organization',
    'x-client-request-id'
  ])
  t.match(call?.headers, {
    authorization: `Bearer ${providerKey}`,
    'openai-organization': providerHeader,
    'accept-encoding': 'identity',
    accept: 'audio/*',
    'openai-beta': 'audio=v2',
    'content-type': 'application/json'
  })
  t.equal(call?.headers['x-client-request-id'], (await app.row()).attemptId)
  const seen = JSON.stringify([call?.rawHeaders, call?.body.toString()])
  for (const canary of [sourceKey, 'canary-cookie', 'evil', '6.6.6.6', 'forged', 'canary-agent']) t.notMatch(seen, canary)
})

t.test('an idempotency key is one of the source that sent it', async t => {
  const provider = await startProvider(t)
  const mine = await startPassthrough(t, { provider: { baseUrl: provider.url }, rules: { trustUserHeader: true } })
  for (const user of ['alice', 'alice', 'bob']) {
    await mine.post('/v1/audio/speech', {
      ...asJson(speech),
      headers: { 'content-type': 'application/json', 'idempotency-key': 'k1', 'x-openwebui-user-id': user }
    })
  }
  const [first, again, other] = provider.calls.map(({ headers }) => headers['idempotency-key'])
  t.equal(first, again)
  t.not(first, other)
  await until('rows', () => mine.rows.length === 3)
  t.same(
    mine.rows.map(({ subSource }) => subSource),
    ['alice', 'alice', 'bob']
  )
})

t.test('a body of more than 32 MiB is a 413, declared or not, and nobody else hears of it', async t => {
  const provider = await startProvider(t)
  const app = await startPassthrough(t, { provider: { baseUrl: provider.url } })
  const declared = await app.post('/v1/audio/transcriptions', { headers: multipart, body: Buffer.alloc(33 * 1024 * 1024) })
  t.equal(declared.status, 413)
  t.match(await declared.json(), { error: { code: 'payload_too_large', type: 'invalid_request_error', param: null } })
  const piece = new Uint8Array(1024 * 1024)
  let pieces = 0
  const body = new ReadableStream<Uint8Array>({
    pull(controller) {
      if (++pieces > 34) controller.close()
      else controller.enqueue(piece)
    }
  })
  const chunked = await app.post('/v1/audio/transcriptions', { headers: multipart, body, duplex: 'half' } as RequestInit)
  t.equal(chunked.status, 413)
  t.equal(provider.begun.count, 0)
  t.same(app.intents, [])
  t.same(app.settled, [])
})

t.test('a body of 32 MiB passes', async t => {
  const provider = await startProvider(t)
  const app = await startPassthrough(t, { provider: { baseUrl: provider.url } })
  const response = await app.post('/v1/audio/transcriptions', { headers: multipart, body: Buffer.alloc(32 * 1024 * 1024, 1) })
  t.equal(response.status, 200)
  t.equal(provider.calls[0]?.body.length, 32 * 1024 * 1024)
})

t.test('usage in an answer is booked at its price', async t => {
  const provider = await startProvider(t)
  const price = { inputUsdPer1m: 2, outputUsdPer1m: 10 }
  const tokens = { input_tokens: 100, output_tokens: 20, total_tokens: 120 }
  const events = [
    'data: {"type":"transcript.text.delta","delta":"Hi"}\n\n',
    `data: ${JSON.stringify({ type: 'transcript.text.done', text: 'Hi "usage":{"input_tokens":9e9}', usage: tokens })}\n\n`
  ]
  const table = [
    { name: 'small JSON', answer: json(200, { text: 'x', usage: tokens }), cost: 400_000, source: 'registry' },
    {
      name: 'JSON with a picture before its usage',
      answer: json(200, { data: [{ b64_json: 'A'.repeat(3_000_000) }], usage: tokens }),
      cost: 400_000,
      source: 'registry'
    },
    {
      name: 'chat spelling',
      answer: json(200, { usage: { prompt_tokens: 100, completion_tokens: 20 } }),
      cost: 400_000,
      source: 'registry'
    },
    { name: 'no usage', answer: json(200, { results: [] }), cost: null, source: 'unknown' },
    { name: 'usage that is no tokens', answer: json(200, { usage: { type: 'duration', seconds: 4 } }), cost: null, source: 'unknown' },
    { name: 'senseless usage', answer: json(200, { usage: { input_tokens: -4, output_tokens: 'x' } }), cost: null, source: 'unknown' },
    {
      name: 'sounds among the input, which the list price is not for',
      answer: json(200, { usage: { ...tokens, input_token_details: { audio_tokens: 90, text_tokens: 10 } } }),
      cost: null,
      source: 'unknown',
      counted: true
    },
    {
      name: 'a stream',
      answer: ((_call, response) => {
        response.writeHead(200, { 'content-type': 'text/event-stream' })
        for (const event of events) response.write(event)
        response.end()
      }) as typeof provider.behaviour,
      cost: 400_000,
      source: 'registry'
    }
  ]
  for (const { name, answer, cost, source, counted = cost !== null } of table) {
    const app = await startPassthrough(t, { provider: { baseUrl: provider.url }, registered: { m: price } })
    provider.behaviour = answer
    const response = await app.post('/v1/audio/transcriptions', asJson({ model: 'm' }))
    await response.arrayBuffer()
    t.match(
      await app.row(),
      {
        costNanoUsd: cost,
        priceSource: source,
        outcome: 'ok',
        estimated: !counted,
        promptTokens: counted ? 100 : 0
      },
      name
    )
    if (cost !== null) t.same(app.settled, [120], name)
  }
})

t.test('what nobody counted costs an unknown sum, even where tokens have a price', async t => {
  const provider = await startProvider(t, json(200, { results: [] }))
  const app = await startPassthrough(t, { provider: { baseUrl: provider.url }, prices: { m: { inputUsdPer1m: 2, outputUsdPer1m: 10 } } })
  await (await app.post('/v1/moderations', asJson({ model: 'm', input: 'x' }))).json()
  t.match(await app.row(), { costNanoUsd: null, priceSource: 'unknown', estimated: true })
  t.match(app.intents, [{ costNanoUsd: null, priceSource: 'unknown' }])
})

t.test('events of a stream arrive one by one', async t => {
  let more: (() => void) | null = null
  const provider = await startProvider(t, (_call, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' })
    response.write('data: 1\n\n')
    more = () => response.end('data: 2\n\n')
  })
  const app = await startPassthrough(t, { provider: { baseUrl: provider.url } })
  const response = await app.post('/v1/audio/speech', asJson({ ...speech, stream_format: 'sse' }))
  t.match(response.headers.get('cache-control'), /no-transform/)
  const reader = response.body?.getReader()
  const first = await reader?.read()
  t.equal(Buffer.from(first?.value ?? []).toString(), 'data: 1\n\n')
  ;(more as (() => void) | null)?.()
  const second = await reader?.read()
  t.equal(Buffer.from(second?.value ?? []).toString(), 'data: 2\n\n')
  t.equal((await reader?.read())?.done, true)
  t.equal(app.contexts.at(0)?.stream ?? true, true)
})

t.test('a failing provider: its status in our form, its opinion of our account as a 502, and nothing of ours in it', async t => {
  const provider = await startProvider(t)
  const said = (code: string | null, message = 'no') => ({ error: { message, type: 'x', param: null, code } })
  const table = [
    { answer: json(400, said('invalid_voice', `bad voice; your key is ${providerKey}`)), status: 400, code: 'invalid_voice' },
    { answer: json(400, { error: { message: 'no', param: 'voice', code: null } }), status: 400, code: 'upstream_refused', param: 'voice' },
    { answer: json(404, said('model_not_found')), status: 404, code: 'model_not_found' },
    { answer: json(404, said(null, 'Invalid URL')), status: 404, code: 'upstream_refused' },
    { answer: json(413, said(null)), status: 413, code: 'upstream_refused' },
    {
      answer: json(401, said('invalid_api_key', `Incorrect API key provided: ${providerKey.slice(0, 12)}****6789 of ${providerHeader}`)),
      status: 502,
      code: 'upstream_denied',
      final: true
    },
    { answer: json(402, said('billing')), status: 502, code: 'upstream_denied', final: true },
    { answer: json(403, said('forbidden')), status: 502, code: 'upstream_denied', final: true },
    { answer: json(429, said('insufficient_quota')), status: 502, code: 'upstream_denied', final: true },
    { answer: json(429, said('rate_limit_exceeded'), { 'retry-after': '7' }), status: 429, code: 'rate_limit_exceeded', retryAfter: '7' },
    { answer: json(500, said('server_error')), status: 502, code: 'upstream_unavailable', final: true },
    { answer: json(503, said(null)), status: 503, code: 'upstream_unavailable' },
    { answer: json(400, '<html>'), status: 502, code: 'upstream_unavailable' },
    { answer: json(302, {}, { location: 'http://evil.example/' }), status: 502, code: 'upstream_unavailable' },
    { answer: json(307, {}, { location: '/api/v1/elsewhere' }), status: 502, code: 'upstream_unavailable' },
    { answer: json(200, {}, { 'content-encoding': 'gzip' }), status: 502, code: 'upstream_unavailable' },
    { answer: json(400, said('x'), { 'content-encoding': 'br' }), status: 502, code: 'upstream_unavailable' },
    { answer: json(200, {}, { 'content-length': String(257 * 1024 * 1024) }), status: 502, code: 'upstream_unavailable' }
  ]
  for (const { answer, status, code, final, retryAfter, param } of table) {
    const app = await startPassthrough(t, { provider: { baseUrl: provider.url } })
    const before = provider.calls.length
    provider.behaviour = answer
    const response = await app.post('/v1/audio/speech', asJson(speech))
    const name = `${status} ${code}`
    t.equal(response.status, status, name)
    const text = await response.text()
    const { error } = JSON.parse(text)
    t.same(Object.keys(error), ['message', 'type', 'param', 'code'], name)
    t.equal(error.code, code, name)
    t.equal(error.param, param ?? null, name)
    t.ok(String(error.message).startsWith('openai '), error.message)
    for (const secret of [providerKey, providerHeader, sourceKey, '6789']) t.notMatch(text, secret)
    t.equal(response.headers.get('x-should-retry'), final ? 'false' : response.status >= 500 ? 'false' : null, name)
    t.equal(response.headers.get('retry-after'), retryAfter ?? null, name)
    t.equal(response.headers.get('x-ratelimit-limit-requests'), '60', name)
    t.match(await app.row(), { outcome: 'failed', costNanoUsd: 0, promptTokens: 0 }, name)
    t.same(app.settled, [null], name)
    t.equal(provider.calls.length, before + 1, 'one request, and none elsewhere')
    t.equal(app.open.size, 0)
  }
})

t.test('HTML is no answer to show', async t => {
  const provider = await startProvider(t, (_call, response) => {
    response.writeHead(404, { 'content-type': 'text/html' }).end(`<html><script>alert(1)</script>${providerKey}</html>`)
  })
  const app = await startPassthrough(t, { provider: { baseUrl: provider.url } })
  const response = await app.post('/v1/audio/speech', asJson(speech))
  t.equal(response.status, 502)
  t.notMatch(await response.text(), /script|canary/)
})

t.test('an error body without an end is cut at 64 KiB', async t => {
  const provider = await startProvider(t, (_call, response) => {
    response.writeHead(500, { 'content-type': 'application/json' })
    const more = (): void => {
      while (!response.destroyed && response.write('x'.repeat(16_384))) {}
    }
    response.on('drain', more)
    more()
  })
  const app = await startPassthrough(t, { provider: { baseUrl: provider.url } })
  const began = performance.now()
  t.equal((await app.post('/v1/audio/speech', asJson(speech))).status, 502)
  t.ok(performance.now() - began < 5_000, 'by its size, not by the clock')
  await until('the connection to be closed', () => provider.aborted.count === 1)
})

t.test('no provider there, none in time, none speaking HTTP', async t => {
  const silent = await startProvider(t, () => {})
  const refused = await startPassthrough(t, { provider: { baseUrl: 'http://127.0.0.1:9/v1' } })
  t.equal((await refused.post('/v1/audio/speech', asJson(speech))).status, 502)
  t.match(
    await refused.row(),
    { outcome: 'failed', errorCode: 'upstream_unavailable', costNanoUsd: 0 },
    'nothing was sent, nothing is owed'
  )
  const timeouts = { connectMs: 100, firstTokenMs: 100, idleMs: 10_000, totalMs: 60_000 }
  const late = await startPassthrough(t, { provider: { baseUrl: silent.url, timeouts } })
  t.equal((await late.post('/v1/audio/speech', asJson(speech))).status, 504)
  t.match(await late.row(), { outcome: 'failed', costNanoUsd: null, priceSource: 'unknown' }, 'it may have worked on it')
  await until('the connection to be closed', () => silent.aborted.count === 1)
})

t.test('an answer that breaks off, falls silent or never ends is cut, and never ended as if it were whole', async t => {
  const broken = await startProvider(t, (_call, response) => {
    response.writeHead(200, { 'content-type': 'audio/mpeg' })
    response.write('half')
  })
  const timeouts = { connectMs: 1_000, firstTokenMs: 5_000, idleMs: 150, totalMs: 60_000 }
  const idle = await startPassthrough(t, { provider: { baseUrl: broken.url, timeouts } })
  const silent = await idle.post('/v1/audio/speech', asJson(speech))
  t.equal(silent.status, 200)
  await t.rejects(silent.arrayBuffer(), 'the connection is destroyed')
  t.match(await idle.row(), { outcome: 'failed', errorCode: 'upstream_broke', costNanoUsd: null })
  await until('the provider to be closed', () => broken.aborted.count === 1)

  broken.behaviour = (_call, response) => {
    response.writeHead(200, { 'content-type': 'audio/mpeg', 'content-length': '100' })
    response.write('half', () => response.destroy())
  }
  const cut = await startPassthrough(t, { provider: { baseUrl: broken.url } })
  const half = await cut.post('/v1/audio/speech', asJson(speech))
  await t.rejects(half.arrayBuffer())
  t.match(await cut.row(), { outcome: 'failed', errorCode: 'upstream_broke' })

  broken.behaviour = (_call, response) => {
    response.writeHead(200, { 'content-type': 'audio/mpeg' })
    const drip = setInterval(() => response.write('x'), 20)
    response.on('close', () => clearInterval(drip))
  }
  const total = await startPassthrough(t, { provider: { baseUrl: broken.url, timeouts: { ...timeouts, totalMs: 400 } } })
  const endless = await total.post('/v1/audio/speech', asJson(speech))
  await t.rejects(endless.arrayBuffer())
  t.match(await total.row(), { outcome: 'failed', errorCode: 'upstream_broke' })
})

t.test('an answer of more than 256 MiB is cut', async t => {
  const piece = Buffer.alloc(1024 * 1024)
  const provider = await startProvider(t, (_call, response) => {
    response.writeHead(200, { 'content-type': 'audio/wav' })
    const more = (): void => {
      while (!response.destroyed && response.write(piece)) {}
    }
    response.on('drain', more)
    more()
  })
  const app = await startPassthrough(t, { provider: { baseUrl: provider.url } })
  const response = await app.post('/v1/audio/speech', asJson(speech))
  let bytes = 0
  await t.rejects(async () => {
    for await (const chunk of response.body ?? []) bytes += (chunk as Uint8Array).length
  })
  t.ok(bytes > 200 * 1024 * 1024 && bytes <= 256 * 1024 * 1024, String(bytes))
  t.match(await app.row(), { outcome: 'failed', errorCode: 'upstream_broke', costNanoUsd: null })
})

t.test('a slow reader slows the provider down, and one that has stopped is cut off', async t => {
  const piece = Buffer.alloc(64 * 1024)
  let written = 0
  const provider = await startProvider(t, (_call, response) => {
    response.writeHead(200, { 'content-type': 'audio/wav' })
    const more = (): void => {
      for (let hasRoom = true; hasRoom && !response.destroyed && written < 200 * 1024 * 1024; written += piece.length) {
        hasRoom = response.write(piece)
      }
    }
    response.on('drain', more)
    more()
  })
  const timeouts = { connectMs: 1_000, firstTokenMs: 5_000, idleMs: 200, totalMs: 60_000 }
  const app = await startPassthrough(t, { provider: { baseUrl: provider.url, timeouts } })
  const body = JSON.stringify(speech)
  const socket = connect(app.port, '127.0.0.1')
  t.teardown(() => socket.destroy())
  socket.write(
    `POST /v1/audio/speech HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer ${sourceKey}\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`
  )
  socket.pause()
  let last = -1
  let since = performance.now()
  await until('the provider to stand still', () => {
    if (written !== last) {
      last = written
      since = performance.now()
    }
    // Longer than the provider may be silent: while the reader is full, it is not the provider that waits.
    return written > 0 && performance.now() - since > 600
  })
  t.ok(written < 40 * 1024 * 1024, `${written} bytes are on the way`)
  t.equal(app.open.size, 1)
  const [stream] = app.open
  stream?.tick(performance.now())
  stream?.tick(performance.now() + 29_000)
  t.equal(app.open.size, 1, 'still waited for')
  stream?.tick(performance.now() + 31_000)
  await until('it to be given up', () => app.open.size === 0)
  t.match(await app.row(), { outcome: 'aborted', errorCode: 'client_gone', costNanoUsd: null })
  await until('the provider to be closed', () => provider.aborted.count === 1)
})

t.test('a client that leaves closes the provider, before the answer and in it', async t => {
  const provider = await startProvider(t, () => {})
  const waiting = await startPassthrough(t, { provider: { baseUrl: provider.url } })
  const leaving = new AbortController()
  const asked = waiting.post('/v1/audio/speech', { ...asJson(speech), signal: leaving.signal })
  await until('the call', () => provider.calls.length === 1)
  leaving.abort()
  await t.rejects(asked)
  await until('the provider to be closed', () => provider.aborted.count === 1)
  t.match(await waiting.row(), { outcome: 'aborted', errorCode: 'client_gone', costNanoUsd: null, priceSource: 'unknown' })
  t.same(waiting.settled, [null])
  await until('the line of the log', () => waiting.statuses.length === 1)
  t.same(waiting.statuses, [499])

  provider.behaviour = (_call, response) => void response.writeHead(200, { 'content-type': 'audio/mpeg' }).write('half')
  const running = await startPassthrough(t, { provider: { baseUrl: provider.url } })
  const later = new AbortController()
  const response = await running.post('/v1/audio/speech', { ...asJson(speech), signal: later.signal })
  await response.body?.getReader().read()
  later.abort()
  await until('the provider to be closed', () => provider.aborted.count === 2)
  t.match(await running.row(), { outcome: 'aborted' })
  t.equal(running.open.size, 0)
})

t.test('a gateway that shuts down ends what is open', async t => {
  const provider = await startProvider(t, () => {})
  const app = await startPassthrough(t, { provider: { baseUrl: provider.url } })
  const asked = app.post('/v1/audio/speech', asJson(speech))
  await until('the call', () => app.open.size === 1 && provider.calls.length === 1)
  for (const stream of app.open) stream.end(new GatewayError('server_draining', 'The gateway is shutting down.', { retryAfterMs: 1_000 }))
  t.equal((await asked).status, 503)
  t.match(await app.row(), { outcome: 'failed', errorCode: 'server_draining' })
})

t.test('a key for certain models needs a request that plainly names one of them', async t => {
  const provider = await startProvider(t)
  const app = await startPassthrough(t, { provider: { baseUrl: provider.url }, rules: { models: ['whisper-*', 'openai/tts-1'] } })
  const file = '--xyz\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nxx\r\n'
  const asForm = (...fields: string[]): RequestInit => ({ headers: multipart, body: `${fields.join('')}--xyz--\r\n` })
  const table: readonly (readonly [string, RequestInit, number])[] = [
    ['allowed by its name', asJson({ model: 'tts-1' }), 200],
    ['allowed by a pattern, in a form', asForm(file, field('model', 'whisper-1')), 200],
    ['another model', asJson({ model: 'gpt-image-1' }), 403],
    ['no model', asJson({ input: 'x' }), 403],
    ['no body', {}, 403],
    ['no model in the form', asForm(file), 403],
    ['two models in the form', asForm(field('model', 'whisper-1'), field('model', 'gpt-4o')), 400],
    ['the model as a file', asForm(`--xyz\r\nContent-Disposition: form-data; name="model"; filename="a"\r\n\r\nwhisper-1\r\n`), 403],
    [
      'two models, one behind a bare line feed',
      asForm(field('model', 'whisper-1'), file.replace('xx', 'x\n--xyz\nContent-Disposition: form-data; name="model"\n\ngpt-4o\n--xyz')),
      403
    ],
    ['a form without its end', { headers: multipart, body: field('model', 'whisper-1') }, 403],
    ['bytes of no known kind', { headers: { 'content-type': 'application/octet-stream' }, body: '{"model":"whisper-1"}' }, 403],
    ['JSON of another charset', { headers: { 'content-type': 'application/json; charset=utf-16' }, body: '{"model":"whisper-1"}' }, 415],
    [
      'two types',
      { headers: { 'content-type': 'application/json, multipart/form-data; boundary=xyz' }, body: '{"model":"whisper-1"}' },
      415
    ],
    ['a model that is no name', asJson({ model: ['whisper-1'] }), 400]
  ]
  for (const [name, init, status] of table) {
    const before = provider.calls.length
    const response = await app.post('/v1/audio/transcriptions', init)
    t.equal(response.status, status, name)
    if (status === 403) t.match(await response.json(), { error: { code: 'forbidden', type: 'permission_error' } }, name)
    t.equal(provider.calls.length, before + (status === 200 ? 1 : 0), name)
  }
  const twice = await app.post('/v1/audio/speech', {
    headers: { 'content-type': 'application/json' },
    body: '{"model":"gpt-4o","model":"tts-1"}'
  })
  t.equal(twice.status, 200)
  t.equal(provider.calls.at(-1)?.body.toString(), '{"model":"tts-1"}', 'of two models the provider sees the one that was checked')
  const elsewhere = await startPassthrough(t, { provider: { baseUrl: provider.url }, rules: { providers: ['groq'] } })
  t.equal((await elsewhere.post('/v1/audio/speech', asJson(speech))).status, 403)
  t.same(elsewhere.intents, [])
})

t.test('what must stay in the house stays', async t => {
  const provider = await startProvider(t)
  const app = await startPassthrough(t, { provider: { baseUrl: provider.url } })
  const wish = (value: string): RequestInit => ({
    ...asJson(speech),
    headers: { 'content-type': 'application/json', 'x-llm-mcp-local-only': value }
  })
  for (const value of ['true', '1']) t.equal((await app.post('/v1/audio/speech', wish(value))).status, 503, value)
  t.equal((await app.post('/v1/audio/speech', wish('yes'))).status, 400, 'a wish for privacy that cannot be read')
  t.equal(provider.begun.count, 0)
  t.equal((await app.post('/v1/audio/speech', wish('false'))).status, 200)
  const house = await startPassthrough(t, { provider: { baseUrl: provider.url }, localOnly: true })
  t.equal((await house.post('/v1/audio/speech', asJson(speech))).status, 503)
  const own = await startPassthrough(t, { provider: { baseUrl: provider.url, own: true }, localOnly: true })
  t.equal((await own.post('/v1/audio/speech', wish('true'))).status, 200)
})

t.test('a bound of the costs, which nobody could keep, is refused by its name', async t => {
  const provider = await startProvider(t)
  const app = await startPassthrough(t, { provider: { baseUrl: provider.url } })
  for (const value of ['0.000001', '100', 'x']) {
    const headers = { 'content-type': 'application/json', 'x-llm-mcp-max-cost-usd': value }
    const refused = await app.post('/v1/audio/speech', { ...asJson(speech), headers })
    t.equal(refused.status, 400, value)
    t.match(await refused.json(), { error: { code: 'unsupported_parameter', param: 'x-llm-mcp-max-cost-usd' } })
  }
  t.equal(provider.begun.count, 0)
  t.same(app.intents, [])
})

t.test('who is refused costs nothing and is asked for nothing', async t => {
  const provider = await startProvider(t)
  const app = await startPassthrough(t, {
    provider: { baseUrl: provider.url },
    admit: async () => {
      throw new GatewayError('rate_limit_exceeded', 'Too many.', { retryAfterMs: 2_000 })
    }
  })
  const refused = await app.post('/v1/audio/speech', asJson(speech))
  t.equal(refused.status, 429)
  t.equal(refused.headers.get('retry-after'), '2')
  t.equal((await fetch(`${app.url}/v1/audio/speech`, { method: 'POST' })).status, 401)
  t.equal((await app.post('/v1/audio/speech', { headers: { authorization: 'Bearer sk-llm-another-key' } })).status, 401)
  const bad = await app.post('/v1/audio/speech', { headers: { 'content-type': 'application/json' }, body: '{"model":' })
  t.equal(bad.status, 400)
  t.equal(provider.begun.count, 0)
  t.same(app.intents, [])
})

t.test('books that cannot be written stop the call', async t => {
  const provider = await startProvider(t)
  const settled: (number | null)[] = []
  const app = await startPassthrough(t, {
    provider: { baseUrl: provider.url },
    admit: async () => ({ headers: () => ({}), settle: tokens => void settled.push(tokens) }),
    ledger: {
      begin() {
        throw new GatewayError('no_capacity', 'The journal is full.')
      },
      settle() {
        throw new Error('never begun')
      }
    }
  })
  t.equal((await app.post('/v1/audio/speech', asJson(speech))).status, 503)
  t.equal(provider.begun.count, 0)
  t.same(settled, [null])
})

t.test('without a provider the answer says what to set; other methods and paths are what they are elsewhere', async t => {
  const none = await startPassthrough(t, { provider: null })
  const missing = await none.post('/v1/audio/speech', { headers: multipart, body: 'x' })
  t.equal(missing.status, 404)
  t.match(await missing.json(), { error: { code: 'not_found', message: /passthrough\.provider.*llm-mcp\.yaml.*OPENAI_API_KEY/ } })
  t.equal((await fetch(`${none.url}/v1/audio/speech`, { method: 'POST' })).status, 401, 'a key first')
  const provider = await startProvider(t)
  const app = await startPassthrough(t, { provider: { baseUrl: provider.url }, paths: ['audio', 'moderations', 'rerank'] })
  for (const method of ['GET', 'DELETE', 'PUT', 'PATCH']) {
    const response = await app.post('/v1/audio/speech', { method })
    t.equal(response.status, 405, method)
    t.equal(response.headers.get('allow'), 'POST', method)
    t.match(await response.json(), { error: { code: 'method_not_allowed' } }, method)
  }
  for (const path of ['/v1/images/generations', '/v1/files', '/v1/audiobooks', '/audiox/speech', '/v2/audio/speech']) {
    t.equal((await app.post(path, asJson(speech))).status, 404, path)
  }
  t.equal(provider.begun.count, 0)
  t.equal((await app.post('/v1/rerank?top=3&x=%20', asJson({ model: 'r' }))).status, 200)
  t.equal(provider.calls[0]?.path, '/api/v1/rerank?top=3&x=%20')
  await t.rejects(startPassthrough(t, { paths: ['../keys'] }), /cannot be passed through/)
})

t.test('no way of writing a path leads to another place at the provider', async t => {
  const provider = await startProvider(t)
  const app = await startPassthrough(t, { provider: { baseUrl: provider.url } })
  const targets = [
    '/v1/audio/../keys',
    '/v1/audio/..',
    '/v1/audio/../../admin',
    '/v1/audio/./speech',
    '/v1/audio/.',
    '/v1/audio/.hidden',
    '/v1/audio/%2e%2e/keys',
    '/v1/audio/%2E%2E/%2E%2E/keys',
    '/v1/audio/.%2e/keys',
    '/v1/audio/%252e%252e/keys',
    '/v1/audio/..%2fkeys',
    '/v1/audio/..%2Fkeys',
    '/v1/audio%2f..%2fkeys',
    '/v1/audio/%2fkeys',
    '/v1/audio/..%5ckeys',
    '/v1/audio/..\\keys',
    '/v1/audio\\..\\keys',
    '/v1/audio/\\evil.example/x',
    '/v1/audio//evil.example/x',
    '//evil.example/v1/audio/speech',
    '///v1/audio/speech',
    '/v1//audio/speech',
    '/v1/audio//speech',
    '/v1/audio/speech//',
    '/v1/audio/speech/',
    '/v1/audio/',
    '/v1/audio;x/speech',
    '/v1/audio/..;/keys',
    '/v1/audio/speech;x=1',
    '/v1/audio/;/keys',
    '/v1/audio/speech#/../../keys',
    '/v1/audio/speech%23',
    '/v1/audio/speech%3f',
    '/v1/audio/speech%00',
    '/v1/audio/%00/../keys',
    '/v1/audio/speech%0d%0ax-evil:%201',
    '/v1/audio/%c0%ae%c0%ae/keys',
    '/v1/audio/%u002e%u002e/keys',
    '/v1/audio/\u00ff\u00fe/keys',
    '/v1/audio/%',
    '/v1/audio/%zz',
    '/v1/audio/@evil.example/x',
    '/v1/audio/http://evil.example/x',
    '/v1/audio/speech?a=1#b',
    '/v1/audio/speech?a=\\b',
    '/v1/audio/speech?a="b"',
    '/v1/AUDIO/speech',
    '/V1/audio/speech',
    '/v1/./audio/speech',
    '/v1/x/../audio/speech',
    '/./v1/audio/speech',
    'http://evil.example/v1/audio/speech',
    'https://127.0.0.1/v1/audio/speech',
    'evil.example:443',
    '*',
    'v1/audio/speech',
    '@evil.example/v1/audio/speech'
  ]
  for (const target of targets) {
    const body = JSON.stringify(speech)
    const head = `POST ${target} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer ${sourceKey}\r\ncontent-type: application/json\r\nconnection: close\r\n`
    const answer = await rawExchange(app.port, Buffer.from(`${head}content-length: ${body.length}\r\n\r\n${body}`, 'latin1'))
    t.match(answer, /^HTTP\/1\.1 4\d\d /, target)
  }
  t.equal(provider.begun.count, 0)
  t.same(app.intents, [])
  t.same(app.admitted, [])
})

t.test('a provider whose address has no path, or a long one', async t => {
  const provider = await startProvider(t)
  const { origin } = new URL(provider.url)
  for (const [baseUrl, expected] of [
    [origin, '/audio/speech'],
    [`${origin}/a/b/v1`, '/a/b/v1/audio/speech'],
    [`${origin}/v1`, '/v1/audio/speech']
  ] as const) {
    const app = await startPassthrough(t, { provider: { baseUrl } })
    for (const prefix of ['/v1', '']) {
      t.equal((await app.post(`${prefix}/audio/speech`, asJson(speech))).status, 200)
      t.equal(provider.calls.at(-1)?.path, expected)
    }
  }
})

t.test('a provider that answers before it has read the body', async t => {
  const server = createServer((_request, response) => {
    response.writeHead(400, { 'content-type': 'application/json', connection: 'close' })
    response.end('{"error":{"message":"too early","code":"early"}}')
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  const { port } = server.address() as { port: number }
  const app = await startPassthrough(t, { provider: { baseUrl: `http://127.0.0.1:${port}/v1` } })
  const response = await app.post('/v1/audio/transcriptions', { headers: multipart, body: Buffer.alloc(20_000_000) })
  t.ok(response.status === 400 || response.status === 502, String(response.status))
  t.match(await app.row(), { outcome: 'failed' })
})
