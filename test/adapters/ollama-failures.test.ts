// Tests of how Ollama fails: statuses, error lines, broken streams, machines that are not there.

import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import t from 'tap'
import { createAdapter } from '../../adapters/ollama.ts'
import { GatewayError } from '../../routing/errors.ts'
import { answer, ask, attemptFor, createPorts, deltasOf, done, type Json, line, listen, startNdjson, status } from './ollama-support.ts'

t.test('a status and its text say what went wrong', async t => {
  const html = '<html><head><title>502 Bad Gateway</title></head><body><h1>nginx</h1></body></html>'
  const table: readonly (readonly [string, RequestListener, Json])[] = [
    [
      '404',
      status(404, { error: 'model "x" not found, try pulling it first' }),
      { code: 'upstream_lacks_model', message: /home\/qwen3:8b.*404.*not found/ }
    ],
    [
      'too long',
      status(400, { error: 'the prompt is longer than the context length of the model' }),
      { code: 'context_length_exceeded', param: 'messages' }
    ],
    [
      'too long, other words',
      status(400, { error: 'the input length exceeds the context length' }),
      { code: 'context_length_exceeded', param: 'messages' }
    ],
    ['too long, few words', status(400, { error: 'too long' }), { code: 'context_length_exceeded' }],
    ['too long as 500', status(500, { error: 'input length exceeds maximum context length' }), { code: 'context_length_exceeded' }],
    [
      'no tools',
      status(400, { error: 'registry.ollama.ai/library/x does not support tools' }),
      { code: 'unsupported_parameter', param: 'tools' }
    ],
    ['no thinking', status(400, { error: '"x" does not support thinking' }), { code: 'unsupported_parameter', param: 'reasoning_effort' }],
    ['no chat', status(400, { error: '"x" does not support chat' }), { code: 'unsupported_parameter', param: null }],
    [
      'another 400',
      status(400, { error: 'invalid character in request' }),
      { code: 'upstream_refused', status: 400, message: /invalid character/ }
    ],
    ['another 4xx', status(422, { error: 'hm' }), { code: 'upstream_refused', status: 422 }],
    ['401', status(401, { error: 'unauthorized', signin_url: 'https://example.com' }), { code: 'upstream_denied' }],
    ['403', status(403, { error: 'cloud is disabled' }), { code: 'upstream_denied', message: /cloud is disabled/ }],
    ['403 without a body', status(403, ''), { code: 'upstream_denied', message: /Host.*IP address/ }],
    ['429', status(429, { error: 'slow down' }, { 'retry-after': '7' }), { code: 'upstream_rate_limited', retryAfterMs: 7000 }],
    ['429 without a time', status(429, ''), { code: 'upstream_rate_limited', retryAfterMs: null }],
    ['499', status(499, { error: 'request canceled' }), { code: 'upstream_rate_limited', retryAfterMs: 1000 }],
    [
      '503',
      status(503, { error: 'server busy, please try again.  maximum pending requests exceeded' }),
      { code: 'upstream_rate_limited', retryAfterMs: 1000, breaker: 'cool_down' }
    ],
    [
      '500',
      status(500, { error: 'model requires more system memory (20 GiB) than is available (8 GiB)' }),
      { code: 'upstream_unavailable', status: 502, message: /more system memory/ }
    ],
    ['500, a deadline', status(500, { error: 'context deadline exceeded' }), { code: 'upstream_unavailable' }],
    ['500, not text', status(500, { error: { code: 7, message: 'an object' } }), { code: 'upstream_unavailable', message: /an object/ }],
    ['502 with HTML', status(502, html), { code: 'upstream_unavailable', message: /^(?!.*<).*502 Bad Gateway nginx/ }],
    ['504 without a body', status(504, ''), { code: 'upstream_unavailable', status: 504 }],
    ['a redirect is not followed', status(302, '', { location: 'http://127.0.0.1:9/' }), { code: 'upstream_unavailable', status: 502 }],
    ['a long text is cut', status(500, { error: 'x'.repeat(5000) }), { code: 'upstream_unavailable', message: /^.{0,50}x{500}$/ }],
    ['an endless body is not read', endless(500), { code: 'upstream_unavailable' }],
    ['a body that breaks off', breakOff(500, '{"error":"half'), { code: 'upstream_unavailable', status: 502 }],
    ['200, but HTML', status(200, html, { 'content-type': 'text/html' }), { code: 'upstream_unavailable', message: /text\/html/ }],
    ['200 without a type', status(200, ''), { code: 'upstream_unavailable' }]
  ]
  for (const [name, handler, expected] of table) {
    // No time runs out here: an endless body has to be seen as one.
    const timeouts = { connectMs: 1000, firstTokenMs: 60_000, idleMs: 60_000, totalMs: 60_000 }
    const { heard, end } = await ask(t, handler, { upstream: { timeouts } })
    t.match(end, { ok: false, sent: true, error: expected }, name)
    t.ok(!end.ok && end.error instanceof GatewayError)
    t.same(heard.calls, ['end'], name)
  }
})

function endless(code: number): RequestListener {
  return (_request, response) => {
    response.writeHead(code, { 'content-type': 'text/html' })
    const more = (): void => {
      while (!response.destroyed && response.write('<'.repeat(16 * 1024)));
    }
    response.on('drain', more)
    more()
  }
}

function breakOff(code: number, text: string): RequestListener {
  return (_request, response) => {
    response.writeHead(code, { 'content-type': 'application/x-ndjson', 'content-length': '100000' })
    response.write(text, () => response.destroy())
  }
}

t.test('a stream that fails before its first token may run elsewhere; after it, it is broken', async t => {
  const start = line({})
  const token = line({ content: 'a' })
  const raw = (...parts: unknown[]): string => parts.map(part => `${typeof part === 'string' ? part : JSON.stringify(part)}\n`).join('')
  const cut = (lines: string): RequestListener => breakOff(200, lines)
  const ended =
    (lines: string): RequestListener =>
    (_request, response) => {
      startNdjson(response).end(lines)
    }
  const table: readonly (readonly [string, (lines: string) => RequestListener, string])[] = [
    ['the end before done', ended, ''],
    ['half a line, and the end', ended, '{"model":"x","mess'],
    ['a broken connection', cut, ''],
    ['not JSON', ended, raw('what?', done())],
    ['not an object', ended, raw('7', done())],
    ['a list', ended, raw([], done())],
    ['a message that is none', ended, raw({ message: 'a' }, done())],
    ['content that is none', ended, raw(line({ content: 7 }), done())],
    ['calls that are none', ended, raw(line({ tool_calls: {} }), done())],
    ['a call without a name', ended, raw(line({ tool_calls: [{ function: { arguments: {} } }] }), done())],
    ['arguments that are none', ended, raw(line({ tool_calls: [{ function: { name: 'f', arguments: 7 } }] }), done())],
    ['a line without end', ended, raw('x'.repeat(1024 * 1024 + 1), done())]
  ]
  for (const [name, how, lines] of table) {
    for (const stream of [true, false]) {
      const before = await ask(t, how(raw(start) + lines), { stream })
      t.match(
        before.end,
        { ok: false, sent: true, error: { code: 'upstream_unavailable', status: 502, nextTarget: true } },
        `${name}, before`
      )
      t.same(before.heard.calls, ['end'])
      const after = await ask(t, how(raw(start, token) + lines), { stream })
      // Of an answer that is not streamed the client has seen nothing: another target may still give it.
      const code = stream ? 'upstream_broke' : 'upstream_unavailable'
      t.match(after.end, { ok: false, sent: true, error: { code, status: 502, nextTarget: !stream } }, `${name}, after`)
      t.same([...new Set(after.heard.calls)], stream ? ['frames', 'end'] : ['end'], 'no clean finish, no usage')
      if (stream) t.strictSame(deltasOf(after.heard.frames).slice(1), [{ content: 'a' }])
    }
  }
})

t.test('an error line is mapped by its text before the first token, and ends the answer after it', async t => {
  const table: readonly (readonly [unknown, Json])[] = [
    ['model "x" not found, try pulling it first', { code: 'upstream_lacks_model' }],
    ['the prompt is longer than the context length', { code: 'context_length_exceeded', param: 'messages' }],
    ['"x" does not support tools', { code: 'unsupported_parameter', param: 'tools' }],
    ['server busy, please try again.  maximum pending requests exceeded', { code: 'upstream_rate_limited', retryAfterMs: 1000 }],
    ['unauthorized', { code: 'upstream_denied' }],
    ['an error was encountered while running the model: CUDA error', { code: 'upstream_unavailable', message: /CUDA error/ }],
    [{ message: 'an object' }, { code: 'upstream_unavailable', message: /an object/ }],
    [7, { code: 'upstream_unavailable' }]
  ]
  for (const [error, expected] of table) {
    const before = await ask(t, answer([{ error }]))
    t.match(before.end, { ok: false, sent: true, error: expected }, `${error}`)
    const after = await ask(t, answer([line({ content: 'a' }), { error }]))
    t.match(after.end, {
      ok: false,
      sent: true,
      error: { code: 'upstream_broke', message: typeof error === 'string' ? error.slice(0, 10) : /error/ }
    })
    t.same([...new Set(after.heard.calls)], ['frames', 'end'])
  }
})

t.test('a machine that is not there was not sent anything', async t => {
  const server = createServer()
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise(resolve => server.close(resolve))
  const heard = listen()
  createAdapter(createPorts(t)).chat(attemptFor({ upstream: { baseUrl: `http://127.0.0.1:${port}` } }), heard.observer)
  t.match(await heard.ended, { ok: false, sent: false, error: { code: 'upstream_unavailable', status: 502, message: /ECONNREFUSED/ } })
})

t.test('a machine that hangs up without an answer may have been sent everything', async t => {
  const { end } = await ask(t, request => {
    request.socket.destroy()
  })
  t.match(end, { ok: false, sent: true, error: { code: 'upstream_unavailable', status: 502 } })
})

t.test('an assembled answer has a bound', async t => {
  const token = `${JSON.stringify(line({ content: 'x'.repeat(900 * 1024) }))}\n`
  const { heard, end } = await ask(
    t,
    (_request, response) => {
      startNdjson(response)
      let left = 40
      const more = (): void => {
        while (left-- > 0) if (!response.write(token)) return
        response.end(`${JSON.stringify(done())}\n`)
      }
      response.on('drain', more)
      more()
    },
    { stream: false }
  )
  t.match(end, { ok: false, error: { code: 'upstream_unavailable', message: /larger than 33554432 bytes/ } })
  t.same(heard.calls, ['end'])
})
