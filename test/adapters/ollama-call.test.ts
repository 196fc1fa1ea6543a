// Tests of one call to Ollama under way: back-pressure, abort and the times it may take.

import type { RequestListener, ServerResponse } from 'node:http'
import t from 'tap'
import { createAdapter } from '../../adapters/ollama.ts'
import {
  answer,
  ask,
  attemptFor,
  createPorts,
  done,
  type Heard,
  type Json,
  line,
  listen,
  recorded,
  serve,
  startNdjson,
  turns,
  until
} from './ollama-support.ts'

t.test('a reader that is full stops the upstream, and gets the rest when it has room', async t => {
  const token = `${JSON.stringify(line({ content: 'x'.repeat(1000) }))}\n`
  const count = 20_000
  let response: ServerResponse | undefined
  const baseUrl = await serve(t, (_request, started) => {
    response = startNdjson(started)
    for (let index = 0; index < count; index++) response.write(token)
    response.end(`${JSON.stringify(done())}\n`)
  })
  const heard = listen()
  heard.room = false
  let received = 0
  const observer = {
    ...heard.observer,
    frames: (events: Buffer, tokens: number) => {
      received += tokens
      return heard.observer.frames(events.subarray(0, 0), tokens)
    }
  }
  const handle = createAdapter(createPorts(t)).chat(attemptFor({ upstream: { baseUrl } }), observer)
  await until(() => heard.calls.length > 0, 'the first tokens came')
  await turns(500)
  t.same(heard.calls, ['frames'], 'not a byte was read after the first false')
  t.ok(received < 200, `${received} tokens`)
  t.ok(Number(response?.writableLength) > 5_000_000, `${response?.writableLength} bytes wait in the machine`)
  handle.resume()
  await until(() => heard.calls.length === 2, 'one more batch came')
  t.notOk(response?.writableFinished)
  heard.room = true
  handle.resume()
  t.same(await heard.ended, { ok: true })
  t.equal(received, count)
})

t.test('a reader that has room again while it is being told does not wait forever', async t => {
  const baseUrl = await serve(t, answer([...Array(2000).fill(line({ content: 'x'.repeat(500) })), done()]))
  const heard = listen()
  const handle = createAdapter(createPorts(t)).chat(attemptFor({ upstream: { baseUrl } }), {
    ...heard.observer,
    frames(events, tokens) {
      heard.observer.frames(events.subarray(0, 0), tokens)
      handle.resume()
      return false
    }
  })
  t.same(await heard.ended, { ok: true })
  t.equal(
    heard.tokens.reduce((sum, tokens) => sum + tokens, 0),
    2000
  )
})

t.test('an abort closes the upstream and ends the attempt once, whenever it comes', async t => {
  const table: readonly (readonly [string, boolean, RequestListener, (heard: Heard, isAsked: () => boolean) => boolean])[] = [
    ['before an answer', true, () => {}, (_heard, isAsked) => isAsked()],
    ['before an answer, not streamed', false, () => {}, (_heard, isAsked) => isAsked()],
    [
      'in a stream',
      true,
      (_request, response) => {
        startNdjson(response).write(`${JSON.stringify(line({ content: 'a' }))}\n`)
      },
      heard => heard.calls.length > 0
    ]
  ]
  for (const [name, stream, handler, isReady] of table) {
    let isAsked = false
    let isClosed = false
    const baseUrl = await serve(t, (request, response) => {
      isAsked = true
      request.on('close', () => {})
      response.on('close', () => {
        isClosed = true
      })
      handler(request, response)
    })
    const heard = listen()
    const handle = createAdapter(createPorts(t)).chat(attemptFor({ stream, upstream: { baseUrl } }), heard.observer)
    await until(() => isReady(heard, () => isAsked), 'the attempt is under way')
    handle.abort()
    t.match(await heard.ended, { ok: false, sent: true, error: { code: 'client_gone' } }, name)
    handle.abort()
    handle.resume()
    await until(() => isClosed, 'the upstream was closed')
    t.equal(heard.calls.filter(call => call === 'end').length, 1)
  }
})

t.test('an abort from within a callback is the last word', async t => {
  const baseUrl = await serve(t, answer(recorded))
  const heard = listen()
  const handle = createAdapter(createPorts(t)).chat(attemptFor({ upstream: { baseUrl } }), {
    ...heard.observer,
    frames(events, tokens) {
      heard.observer.frames(events, tokens)
      handle.abort()
      return true
    }
  })
  t.match(await heard.ended, { ok: false, error: { code: 'client_gone' } })
  t.same(heard.calls, ['frames', 'end'])
})

t.test('an abort after the end says nothing', async t => {
  const baseUrl = await serve(t, answer(recorded))
  const heard = listen()
  const handle = createAdapter(createPorts(t)).chat(attemptFor({ upstream: { baseUrl } }), heard.observer)
  t.same(await heard.ended, { ok: true })
  handle.abort()
  t.same(heard.calls.filter(call => call === 'end').length, 1)
})

t.test('time runs out before the first token, between two, and over all', async t => {
  const long = { connectMs: 1000, firstTokenMs: 60_000, idleMs: 60_000, totalMs: 60_000 }
  const start = (response: ServerResponse): void => {
    startNdjson(response).write(`${JSON.stringify(line({}))}\n`)
  }
  const token = (response: ServerResponse): void => {
    response.write(`${JSON.stringify(line({ content: 'a' }))}\n`)
  }
  const table: readonly (readonly [string, Partial<typeof long>, (response: ServerResponse) => void, Json])[] = [
    ['no answer', { firstTokenMs: 50 }, () => {}, { code: 'upstream_unavailable', status: 504, message: /token within 50 ms/ }],
    ['headers, but no token', { firstTokenMs: 50 }, start, { code: 'upstream_unavailable', status: 504 }],
    [
      'silence after a token',
      { idleMs: 50 },
      response => {
        start(response)
        token(response)
      },
      { code: 'upstream_broke', message: /silent for 50 ms/ }
    ],
    ['too long in all, before a token', { totalMs: 50 }, start, { code: 'upstream_unavailable', status: 504, message: /within 50 ms/ }],
    [
      'too long in all, talking',
      { totalMs: 500 },
      response => {
        start(response)
        const timer = setInterval(() => token(response), 10)
        response.on('close', () => clearInterval(timer))
      },
      { code: 'upstream_broke', message: /within 500 ms/ }
    ],
    [
      'half an error',
      { firstTokenMs: 50 },
      response => {
        response.writeHead(500).write('{"error":"ha')
      },
      { code: 'upstream_unavailable', status: 502, message: /500/ }
    ]
  ]
  for (const [name, timeouts, handler, expected] of table) {
    let isClosed = false
    const { heard, end } = await ask(
      t,
      (_request, response) => {
        response.on('close', () => {
          isClosed = true
        })
        handler(response)
      },
      { upstream: { timeouts: { ...long, ...timeouts } } }
    )
    t.match(end, { ok: false, sent: true, error: expected }, name)
    t.equal(heard.calls.at(-1), 'end')
    await until(() => isClosed, `the upstream was closed: ${name}`)
  }
})

t.test('a talking machine is not silent', async t => {
  let tokens = 0
  const { heard, end } = await ask(
    t,
    (_request, response) => {
      startNdjson(response)
      const timer = setInterval(() => {
        response.write(`${JSON.stringify(line({ content: 'a' }))}\n`)
        if (++tokens < 50) return
        clearInterval(timer)
        response.end(`${JSON.stringify(done())}\n`)
      }, 20)
    },
    { upstream: { timeouts: { connectMs: 1000, firstTokenMs: 900, idleMs: 800, totalMs: 60_000 } } }
  )
  t.same(end, { ok: true })
  t.equal(
    heard.tokens.reduce((sum, count) => sum + count, 0),
    50
  )
})

t.test('a full reader is no silence of the machine', async t => {
  const baseUrl = await serve(t, answer([...Array(3000).fill(line({ content: 'x'.repeat(500) })), done()]))
  const heard = listen()
  heard.room = false
  const timeouts = { connectMs: 1000, firstTokenMs: 5000, idleMs: 200, totalMs: 60_000 }
  const handle = createAdapter(createPorts(t)).chat(attemptFor({ upstream: { baseUrl, timeouts } }), heard.observer)
  await until(() => heard.calls.length > 0, 'the first tokens came')
  const pausedMs = performance.now()
  await until(() => performance.now() - pausedMs > 500, 'the pause was longer than the idle time')
  t.same(heard.calls, ['frames'])
  heard.room = true
  handle.resume()
  t.same(await heard.ended, { ok: true })
})
