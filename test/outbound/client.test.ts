import { createServer, type IncomingHttpHeaders, type RequestListener, type ServerResponse } from 'node:http'
import { type AddressInfo, createServer as createTcpServer, type Socket } from 'node:net'
import { gzipSync } from 'node:zlib'
import t, { type Test } from 'tap'
import { createOutbound, type Exchange, type Outbound, type OutboundRequest } from '../../outbound/client.ts'
import { until } from '../support/wait.ts'

function outboundFor(t: Test): Outbound {
  const outbound = createOutbound()
  t.teardown(() => outbound.close())
  return outbound
}

/** A real server on a free port; `origin` and the sockets it has. */
async function serve(t: Test, listener: RequestListener): Promise<{ origin: string; sockets: Set<Socket> }> {
  const server = createServer(listener)
  const sockets = new Set<Socket>()
  server.on('connection', socket => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    return new Promise(resolve => server.close(resolve))
  })
  return { origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, sockets }
}

/** A server that speaks no HTTP by itself. */
async function serveTcp(t: Test, connected: (socket: Socket) => void): Promise<string> {
  const sockets = new Set<Socket>()
  const server = createTcpServer(socket => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
    socket.on('error', () => {})
    connected(socket)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    return new Promise(resolve => server.close(resolve))
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

/** A port where nobody listens. */
async function freePort(): Promise<number> {
  const server = createTcpServer()
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise(resolve => server.close(resolve))
  return port
}

const to = (origin: string, changes: Partial<OutboundRequest> = {}): OutboundRequest => ({
  origin,
  path: '/',
  method: 'POST',
  headers: {},
  body: '{}',
  connectMs: 2_000,
  ...changes
})

interface Heard {
  readonly calls: string[]
  status: number
  headers: IncomingHttpHeaders
  bytes: number
  text: string
  error: Error | null
  sent: boolean | null
  readonly exchange: Exchange
  readonly over: Promise<void>
}

/** Sends and listens to the end. `room`: what `data` answers. */
function send(outbound: Outbound, request: OutboundRequest, room: () => boolean = () => true): Heard {
  const { promise, resolve } = Promise.withResolvers<void>()
  const heard = {
    calls: [] as string[],
    status: 0,
    headers: {} as IncomingHttpHeaders,
    bytes: 0,
    text: '',
    error: null as Error | null,
    sent: null as boolean | null,
    over: promise
  }
  const exchange = outbound.send(request, {
    head(status, headers) {
      heard.calls.push('head')
      heard.status = status
      heard.headers = headers
    },
    data(chunk) {
      if (heard.calls.at(-1) !== 'data') heard.calls.push('data')
      heard.bytes += chunk.length
      if (heard.bytes < 100_000) heard.text += chunk
      return room()
    },
    end() {
      heard.calls.push('end')
      resolve()
    },
    error(error, sent) {
      heard.calls.push('error')
      heard.error = error
      heard.sent = sent
      resolve()
    }
  })
  return Object.assign(heard, { exchange })
}

async function refusal(answer: Promise<unknown>): Promise<string> {
  try {
    await answer
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? (error as Error).message
  }
  return 'none'
}

t.test('an exchange is a head, its data and an end', async t => {
  const { origin } = await serve(t, (request, response) => {
    let text = ''
    request.on('data', chunk => {
      text += chunk
    })
    request.on('end', () =>
      response.writeHead(201, { 'x-a': 'b' }).end(`${request.method} ${request.url} ${request.headers['x-b']} ${text}`)
    )
  })
  const outbound = outboundFor(t)
  const heard = send(outbound, to(origin, { path: '/v1/chat?x=1', headers: { 'x-b': 'c' }, body: Buffer.from('größe') }))
  await heard.over
  t.same(heard.calls, ['head', 'data', 'end'])
  t.same([heard.status, heard.headers['x-a'], heard.text], [201, 'b', 'POST /v1/chat?x=1 c größe'])
  t.equal(heard.exchange.sent, true)
})

t.test('a redirect is an answer, and nobody follows it', async t => {
  let reached = 0
  const other = await serve(t, (_request, response) => {
    reached++
    response.end()
  })
  const { origin } = await serve(t, (_request, response) => response.writeHead(307, { location: `${other.origin}/stolen` }).end('moved'))
  const outbound = outboundFor(t)
  const heard = send(outbound, to(origin, { headers: { authorization: 'Bearer k', 'x-api-key': 'k' } }))
  await heard.over
  t.same([heard.status, heard.text], [307, 'moved'])
  const answer = await outbound.fetchText(to(origin), { maxBytes: 100, timeoutMs: 5_000 })
  t.equal(answer.status, 307)
  t.equal(reached, 0)
})

t.test('nothing compressed is asked for, and what comes compressed is left as it is', async t => {
  const zipped = gzipSync('x'.repeat(100_000))
  let asked: string | undefined
  const { origin } = await serve(t, (request, response) => {
    asked = request.headers['accept-encoding'] as string
    response.writeHead(200, { 'content-encoding': 'gzip' }).end(zipped)
  })
  const heard = send(outboundFor(t), to(origin, { headers: { 'accept-encoding': 'gzip, br' } }))
  await heard.over
  t.equal(asked, 'identity')
  t.equal(heard.bytes, zipped.length)
})

t.test('informational answers are not the answer', async t => {
  const { origin } = await serve(t, (_request, response) => {
    response.writeProcessing()
    response.writeEarlyHints({ link: '</x>; rel=preload' }, () => response.writeHead(200).end('real'))
  })
  const heard = send(outboundFor(t), to(origin))
  await heard.over
  t.same(heard.calls, ['head', 'data', 'end'])
  t.same([heard.status, heard.text], [200, 'real'])
})

t.test('an abort closes the connection, and nothing is heard after it', async t => {
  const { origin, sockets } = await serve(t, (_request, response) => {
    response.writeHead(200)
    const timer = setInterval(() => response.write('tick'), 1)
    response.on('close', () => clearInterval(timer))
  })
  const outbound = outboundFor(t)
  const heard = send(outbound, to(origin))
  await until('the first data', () => heard.bytes > 0)
  t.equal(sockets.size, 1)
  heard.exchange.abort()
  const { length } = heard.calls
  const { bytes } = heard
  heard.exchange.abort()
  heard.exchange.resume()
  await until('the connection to be closed', () => sockets.size === 0)
  t.equal(heard.calls.length, length)
  t.equal(heard.bytes, bytes)
})

t.test('an abort before the answer, and before there is a connection, is as good', async t => {
  const { origin, sockets } = await serve(t, () => {})
  const outbound = outboundFor(t)
  const heard = send(outbound, to(origin))
  await until('the request to arrive', () => sockets.size === 1 && heard.exchange.sent)
  heard.exchange.abort()
  await until('the connection to be closed', () => sockets.size === 0)
  t.same(heard.calls, [])

  let requests = 0
  const counted = await serve(t, (_request, response) => {
    requests++
    response.end('x')
  })
  const early = send(outbound, to(counted.origin))
  t.equal(early.exchange.sent, false)
  early.exchange.abort()
  const late = send(outbound, to(counted.origin))
  await late.over
  t.same(early.calls, [])
  t.equal(requests, 1, 'the first was never made')
})

t.test('a reader that is full stops the upstream, until it has room', async t => {
  const size = 64 * 1024 * 1024
  const piece = Buffer.alloc(64 * 1024)
  let written = 0
  const { origin } = await serve(t, (_request, response) => {
    response.writeHead(200)
    const pump = (): void => {
      while (written < size) {
        written += piece.length
        if (!response.write(piece)) return void response.once('drain', pump)
      }
      response.end()
    }
    pump()
  })
  let isFull = true
  const heard = send(outboundFor(t), to(origin), () => !isFull)
  await until('the first data', () => heard.bytes > 0)
  // The server fills what lies between us and then waits: when it has not written for a while, it stands still.
  let before = -1
  await until('the server to stand still', async () => {
    before = written
    await new Promise(resolve => setTimeout(resolve, 100))
    return written === before
  })
  t.ok(written < size, `${written} bytes fill the way`)
  t.ok(heard.bytes <= 128 * 1024, `${heard.bytes} bytes were taken`)
  isFull = false
  heard.exchange.resume()
  await heard.over
  t.equal(heard.bytes, size)
  t.same(heard.calls, ['head', 'data', 'end'])
})

t.test('where nobody listens nothing was sent', async t => {
  const outbound = outboundFor(t)
  const heard = send(outbound, to(`http://127.0.0.1:${await freePort()}`))
  await heard.over
  t.same(heard.calls, ['error'])
  t.equal(heard.sent, false)
  t.equal((heard.error as NodeJS.ErrnoException).code, 'ECONNREFUSED')
  t.equal(heard.exchange.sent, false)
  heard.exchange.abort()
  heard.exchange.resume()
  t.same(heard.calls, ['error'])
})

t.test('a name that does not exist was sent nothing either', async t => {
  const heard = send(outboundFor(t), to('http://no-such-host.invalid'))
  await heard.over
  t.equal(heard.sent, false)
})

t.test('after a reset something may have been sent', async t => {
  const origin = await serveTcp(t, socket => socket.once('data', () => socket.resetAndDestroy()))
  const heard = send(outboundFor(t), to(origin))
  await heard.over
  t.same(heard.calls, ['error'])
  t.equal(heard.sent, true)
})

t.test('an answer cut short is an error, with what came before it', async t => {
  const { origin } = await serve(t, (_request, response) => {
    response.writeHead(200, { 'content-length': '100' })
    response.write('half', () => response.destroy())
  })
  const heard = send(outboundFor(t), to(origin))
  await heard.over
  t.same(heard.calls, ['head', 'data', 'error'])
  t.same([heard.text, heard.sent], ['half', true])
})

t.test('what is no HTTP is an error', async t => {
  const origin = await serveTcp(t, socket => socket.once('data', () => socket.end('220 smtp ready\r\n')))
  const heard = send(outboundFor(t), to(origin))
  await heard.over
  t.same(heard.calls, ['error'])
  t.equal(heard.sent, true)
})

t.test('headers larger than 32 KiB are an error', async t => {
  const origin = await serveTcp(t, socket =>
    socket.once('data', () => socket.write(`HTTP/1.1 200 OK\r\nx: ${'y'.repeat(64 * 1024)}\r\n\r\n`))
  )
  const heard = send(outboundFor(t), to(origin))
  await heard.over
  t.same(heard.calls, ['error'])
})

t.test('a request that cannot be written fails by itself and is not sent', async t => {
  let requests = 0
  const { origin } = await serve(t, (_request, response) => {
    requests++
    response.end()
  })
  const outbound = outboundFor(t)
  const spoiled: readonly Partial<OutboundRequest>[] = [
    { headers: { 'x-a': 'b\r\nx-c: d' } },
    { headers: { 'x a': 'b' } },
    { path: 'no slash' },
    { path: '/a b\r\n' }
  ]
  for (const changes of spoiled) {
    const heard = send(outbound, to(origin, changes))
    await heard.over
    t.same(heard.calls, ['error'], JSON.stringify(changes))
    t.equal(heard.sent, false)
    t.not(await refusal(outbound.fetchText(to(origin, changes), { maxBytes: 10, timeoutMs: 5_000 })), 'none')
  }
  t.equal(requests, 0)
})

t.test('connections are used again, one exchange at a time', async t => {
  const seen = new Set<Socket>()
  const { origin } = await serve(t, (request, response) => {
    seen.add(request.socket)
    response.end('x')
  })
  const outbound = outboundFor(t)
  for (let index = 0; index < 5; index++) {
    await send(outbound, to(origin)).over
    await new Promise(resolve => setImmediate(resolve))
  }
  t.equal(seen.size, 1)
  await Promise.all(Array.from({ length: 4 }, () => send(outbound, to(origin)).over))
  t.equal(seen.size, 4)
})

t.test('a whole answer is its status, its headers and its text', async t => {
  const { origin } = await serve(t, (_request, response) => response.writeHead(404, { 'x-a': 'b' }).end('größe'))
  const answer = await outboundFor(t).fetchText(to(origin, { method: 'GET', body: null }), { maxBytes: 100, timeoutMs: 5_000 })
  t.same([answer.status, answer.headers['x-a'], answer.text], [404, 'b', 'größe'])
})

t.test('a whole answer is no larger than the limit', async t => {
  const { origin, sockets } = await serve(t, (request, response) => {
    response.writeHead(200)
    const count = Number(request.url?.slice(1))
    response.write('x'.repeat(count))
    if (count === 100) response.end()
  })
  const outbound = outboundFor(t)
  const get = (path: string) => outbound.fetchText(to(origin, { path, method: 'GET', body: null }), { maxBytes: 100, timeoutMs: 5_000 })
  t.match(await refusal(get('/101')), /larger than 100 bytes/)
  await until('the connection to be closed', () => sockets.size === 0)
  t.equal((await get('/100')).text.length, 100)
})

t.test('a whole answer comes in time or is called off, and the connection is closed', async t => {
  const { origin, sockets } = await serve(t, (request, response) => {
    if (request.url === '/half') response.writeHead(200).write('half')
  })
  const outbound = outboundFor(t)
  for (const path of ['/silent', '/half']) {
    const late = refusal(outbound.fetchText(to(origin, { path }), { maxBytes: 100, timeoutMs: 50 }))
    t.match(await late, /within 50 ms/, path)
    await until('the connection to be closed', () => sockets.size === 0)

    const caller = new AbortController()
    const calledOff = refusal(outbound.fetchText(to(origin, { path }), { maxBytes: 100, timeoutMs: 60_000, signal: caller.signal }))
    await until('the request to arrive', () => sockets.size === 1)
    caller.abort(new Error('enough'))
    t.equal(await calledOff, 'enough')
    await until('the connection to be closed', () => sockets.size === 0)
  }
  const before = refusal(
    outbound.fetchText(to(origin), { maxBytes: 100, timeoutMs: 60_000, signal: AbortSignal.abort(new Error('never')) })
  )
  t.equal(await before, 'never')
  t.equal(
    await refusal(outbound.fetchText(to(origin), { maxBytes: 100, timeoutMs: 60_000, signal: AbortSignal.abort('no error') })),
    'called off'
  )
  t.equal(sockets.size, 0)
})

t.test('a whole answer from nobody is an error that says so', async t => {
  const origin = `http://127.0.0.1:${await freePort()}`
  t.equal(await refusal(outboundFor(t).fetchText(to(origin), { maxBytes: 100, timeoutMs: 5_000 })), 'ECONNREFUSED')
})

t.test('closing ends what is running', async t => {
  const { origin } = await serve(t, (_request, response) => void response.writeHead(200).write('x'))
  const outbound = createOutbound()
  const heard = send(outbound, to(origin))
  await until('the first data', () => heard.bytes > 0)
  await outbound.close()
  await heard.over
  t.equal(heard.calls.at(-1), 'error')
})

t.test('an answer of many headers and none is an answer', async t => {
  const { origin } = await serve(t, (_request, response: ServerResponse) => {
    response.sendDate = false
    response.writeHead(204).end()
  })
  const heard = send(outboundFor(t), to(origin, { method: 'DELETE', body: null }))
  await heard.over
  t.same(heard.calls, ['head', 'end'])
  t.equal(heard.status, 204)
})
