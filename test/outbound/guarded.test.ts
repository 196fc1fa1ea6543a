import { createServer, type IncomingMessage, type RequestListener } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { type AddressInfo, createServer as createTcpServer, type Server, type Socket } from 'node:net'
import { getCACertificates, setDefaultCACertificates } from 'node:tls'
import { brotliCompressSync, constants } from 'node:zlib'
import t, { type Test } from 'tap'
import { createGuarded, type GuardedPorts, type GuardedRequest } from '../../outbound/guarded.ts'
import { until } from '../support/wait.ts'

/** Listens on 127.0.0.1 until `t` ends. */
async function listen(t: Test, server: Server): Promise<{ port: number; sockets: Set<Socket> }> {
  const sockets = new Set<Socket>()
  server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.on('close', () => sockets.delete(socket))
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    return new Promise(resolve => server.close(resolve))
  })
  return { port: (server.address() as AddressInfo).port, sockets }
}

const serve = (t: Test, listener: RequestListener) => listen(t, createServer(listener))

/** The name leads to 127.0.0.1, and that is allowed. */
const guardedWith = (changes: Partial<GuardedPorts> = {}) =>
  createGuarded({ allow: ['127.0.0.1'], resolve: async () => ['127.0.0.1'], connectMs: 1_000, ...changes })

const post = (changes: Partial<GuardedRequest> = {}): GuardedRequest => ({ headers: {}, body: '{}', timeoutMs: 5_000, ...changes })

t.test('headers and body arrive, under the name that the URL has, on a connection of their own', async t => {
  const heard: { request: IncomingMessage; body: string }[] = []
  const { port, sockets } = await serve(t, (request, response) => {
    let body = ''
    request.on('data', chunk => (body += chunk))
    request.on('end', () => {
      heard.push({ request, body })
      response.writeHead(201).end('thanks')
    })
  })
  const names: string[] = []
  const guarded = guardedWith({
    resolve: async name => {
      names.push(name)
      return ['127.0.0.1']
    }
  })
  const headers = { 'content-type': 'application/json', 'webhook-id': '1', 'accept-encoding': 'br' }
  t.same(await guarded.post(`http://Hooks.example.com:${port}/a%20b?c=d#e`, post({ headers, body: '{"ü":1}' })), { status: 201 })
  t.same(names, ['hooks.example.com'])
  t.match(heard, [
    {
      body: '{"ü":1}',
      request: {
        method: 'POST',
        url: '/a%20b?c=d',
        headers: { host: `hooks.example.com:${port}`, 'accept-encoding': 'identity', 'webhook-id': '1', connection: 'close' }
      }
    }
  ])
  await until('the connection is closed', () => sockets.size === 0)
})

t.test('a name is looked up once, and what it leads to later is not called', async t => {
  let requests = 0
  const { port } = await serve(t, (_request, response) => {
    requests++
    response.end()
  })
  let lookups = 0
  // First an address where nobody is, which may be called; from then on one of ours.
  const resolve = async () => (lookups++ === 0 ? ['198.51.100.7'] : ['127.0.0.1'])
  const guarded = createGuarded({ allow: ['198.51.100.7'], resolve, connectMs: 200 })
  await t.rejects(guarded.post(`http://hooks.example.com:${port}/`, post({ timeoutMs: 1_000 })), { code: 'upstream_unavailable' })
  t.equal(lookups, 1)
  await t.rejects(guarded.post(`http://hooks.example.com:${port}/`, post()), { code: 'invalid_request' })
  t.same({ lookups, requests }, { lookups: 2, requests: 0 })
})

t.test('an address that does not answer is followed by the next one of the name', async t => {
  const { port } = await serve(t, (_request, response) => response.writeHead(204).end())
  const guarded = guardedWith({ allow: ['::1', '127.0.0.1'], resolve: async () => ['::1', '127.0.0.1'] })
  t.same(await guarded.post(`http://hooks.example.com:${port}/`, post()), { status: 204 })
})

t.test('a redirect is an answer, and is not followed', async t => {
  let requests = 0
  const inside = await serve(t, (_request, response) => {
    requests++
    response.end()
  })
  for (const status of [301, 302, 303, 307, 308]) {
    for (const location of [`http://127.0.0.1:${inside.port}/`, `//127.0.0.1:${inside.port}/`, '/again']) {
      let asked = 0
      const { port } = await serve(t, (_request, response) => {
        asked++
        response.writeHead(status, { location }).end()
      })
      t.same(await guardedWith().post(`http://hooks.example.com:${port}/`, post()), { status }, `${status} ${location}`)
      t.equal(asked, 1)
    }
  }
  t.equal(requests, 0)
})

t.test('of an endless answer a little is read, and the connection is closed', async t => {
  let written = 0
  const { port, sockets } = await serve(t, (_request, response) => {
    const chunk = Buffer.alloc(64 * 1024)
    const more = (): void => {
      while (!response.destroyed && written < 512 * 1024 * 1024) {
        written += chunk.length
        if (!response.write(chunk)) {
          response.once('drain', more)
          return
        }
      }
    }
    more()
  })
  t.same(await guardedWith().post(`http://hooks.example.com:${port}/`, post()), { status: 200 })
  await until('the connection is closed', () => sockets.size === 0)
  // What the kernel's buffers of both sides took is not what was read.
  t.ok(written < 64 * 1024 * 1024, `${written} bytes were written`)
})

t.test('an answer that says it is huge is not read', async t => {
  const { port, sockets } = await serve(t, (_request, response) => {
    response.writeHead(500, { 'content-length': String(2 ** 40) }).write('x')
  })
  t.same(await guardedWith().post(`http://hooks.example.com:${port}/`, post()), { status: 500 })
  await until('the connection is closed', () => sockets.size === 0)
})

t.test('a compressed bomb is not inflated', async t => {
  const bomb = brotliCompressSync(Buffer.alloc(256 * 1024 * 1024), { params: { [constants.BROTLI_PARAM_QUALITY]: 4 } })
  const { port } = await serve(t, (_request, response) => {
    response.writeHead(200, { 'content-encoding': 'br', 'content-length': bomb.length }).end(bomb)
  })
  const before = process.memoryUsage.rss()
  t.same(await guardedWith().post(`http://hooks.example.com:${port}/`, post()), { status: 200 })
  t.ok(bomb.length < 4_096)
  t.ok(process.memoryUsage.rss() - before < 32 * 1024 * 1024)
})

t.test('a receiver that does not answer is left after the time limit', async t => {
  const { port, sockets } = await serve(t, () => {})
  const started = performance.now()
  await t.rejects(guardedWith().post(`http://hooks.example.com:${port}/secret-path`, post({ timeoutMs: 200 })), {
    code: 'upstream_unavailable',
    message: 'hooks.example.com could not be asked: no answer within 200 ms.'
  })
  t.ok(performance.now() - started < 2_000)
  await until('the connection is closed', () => sockets.size === 0)
})

t.test('headers that trickle in end with the time limit, a body that does takes nothing back', async t => {
  const trickling = (start: string) =>
    createTcpServer(socket => {
      socket.write(start)
      const timer = setInterval(() => socket.write('x'), 20)
      socket.on('close', () => clearInterval(timer))
    })
  const headers = await listen(t, trickling('HTTP/1.1 200 OK\r\nx-slow: '))
  await t.rejects(guardedWith().post(`http://hooks.example.com:${headers.port}/`, post({ timeoutMs: 300 })), {
    message: /no answer within 300 ms/
  })
  // Long enough for the head to come on a busy machine.
  const body = await listen(t, trickling('HTTP/1.1 202 Accepted\r\ncontent-length: 60000\r\n\r\n'))
  t.same(await guardedWith().post(`http://hooks.example.com:${body.port}/`, post({ timeoutMs: 3_000 })), { status: 202 })
  await until('both connections are closed', () => headers.sockets.size + body.sockets.size === 0)
})

t.test('hints before the answer are not the answer', async t => {
  const { port } = await listen(
    t,
    createTcpServer(socket => {
      socket.on('data', () => socket.end('HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n'))
    })
  )
  t.same(await guardedWith().post(`http://hooks.example.com:${port}/`, post()), { status: 410 })
})

t.test('what is no answer is told by a code', async t => {
  for (const [answer, reason] of [
    ['not http at all\r\n\r\n', /^(HPE_|the connection failed$)/],
    [`HTTP/1.1 200 OK\r\nx: ${'x'.repeat(20_000)}\r\n\r\n`, /OVERFLOW$/],
    ['', /^UND_ERR_SOCKET$/],
    ['HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: canary\r\n\r\n', /^(UND_ERR|the connection)/]
  ] as const) {
    const { port } = await listen(
      t,
      createTcpServer(socket => socket.on('data', () => socket.end(answer)))
    )
    const error: Error = await guardedWith()
      .post(`http://hooks.example.com:${port}/`, post())
      .then(
        () => new Error('answered'),
        thrown => thrown
      )
    t.match(error, { code: 'upstream_unavailable' }, answer.slice(0, 30))
    t.match(/could not be asked: (.*)\.$/.exec(error.message)?.[1] ?? error.message, reason)
    t.notMatch(error.message, /canary|127\.0\.0\.1/)
  }
})

t.test('a port where nobody listens, a name without addresses and a lookup that fails are failures', async t => {
  const { port } = await listen(t, createTcpServer())
  const closed = await new Promise<number>(resolve => {
    const server = createTcpServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address() as AddressInfo
      server.close(() => resolve(port))
    })
  })
  await t.rejects(guardedWith().post(`http://hooks.example.com:${closed}/`, post()), { message: /could not be asked: ECONNREFUSED\.$/ })
  await t.rejects(guardedWith({ resolve: async () => [] }).post(`http://hooks.example.com:${port}/`, post()), { message: /ENOTFOUND/ })
  const resolve = () => Promise.reject(Object.assign(new Error('getaddrinfo'), { code: 'EAI_AGAIN' }))
  await t.rejects(guardedWith({ resolve }).post(`http://hooks.example.com:${port}/`, post()), {
    code: 'upstream_unavailable',
    message: /EAI_AGAIN/
  })
})

t.test('the time limit counts for looking up the name, and whoever waits can call it off', async t => {
  // Keeps the test alive while nothing else does.
  const alive = setInterval(() => {}, 1_000)
  t.teardown(() => clearInterval(alive))
  const guarded = guardedWith({ resolve: () => new Promise(() => {}) })
  await t.rejects(guarded.post('http://hooks.example.com/', post({ timeoutMs: 100 })), { message: /no answer within 100 ms/ })
  const { port, sockets } = await serve(t, () => {})
  const controller = new AbortController()
  const called = guardedWith().post(`http://hooks.example.com:${port}/`, post({ signal: controller.signal }))
  await until('it is connected', () => sockets.size === 1)
  controller.abort()
  await t.rejects(called, { code: 'upstream_unavailable', message: /called off/ })
  await until('the connection is closed', () => sockets.size === 0)
  await t.rejects(guardedWith().post(`http://hooks.example.com:${port}/`, post({ signal: controller.signal })), { message: /called off/ })
})

// Of a receiver that is vouched for, for a hundred years.
const certificate = `-----BEGIN CERTIFICATE-----
MIIBrjCCAVOgAwIBAgIUXBcoR3dc2RsG0ld34ZJ4LgjGKucwCgYIKoZIzj0EAwIw
HDEaMBgGA1UEAwwRaG9va3MuZXhhbXBsZS5jb20wIBcNMjYxMTIxMTYyMzE0WhgP
MjEyNjEwMjgxNjIzMTRaMBwxGjAYBgNVBAMMEWhvb2tzLmV4YW1wbGUuY29tMFkw
EwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEYPEI3iDHGHoxyiMhuEPQRzRoF0wbmxIG
JJTaTwzsCN3USoTlLJP0SyXKVIVKQHjI1JWLTg+0de3K3/FspkykA6NxMG8wHQYD
VR0OBBYEFAiNkxqcnMoMHZXmE4TY49TaU9f6MB8GA1UdIwQYMBaAFAiNkxqcnMoM
HZXmE4TY49TaU9f6MA8GA1UdEwEB/wQFMAMBAf8wHAYDVR0RBBUwE4IRaG9va3Mu
ZXhhbXBsZS5jb20wCgYIKoZIzj0EAwIDSQAwRgIhAP+50ljHPEf5dPPU3/dQyWSm
wpPStx9XZdT1ijScfl57AiEAlMLh+5b8MZnRobWduoN3s+UTUcUitAeTFqP0mbfv
qTY=
-----END CERTIFICATE-----`
const certificateKey = `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgb6Ebdmh+TdPr4Ld+
TOU75UOS4Q1mLp6xAMade+w7WqChRANCAARg8QjeIMcYejHKIyG4Q9BHNGgXTBub
EgYklNpPDOwI3dRKhOUsk/RLJcpUhUpAeMjUlYtOD7R17crf8WymTKQD
-----END PRIVATE KEY-----`

t.test('over TLS the certificate must be of the name that the URL has', async t => {
  const names: unknown[] = []
  let requests = 0
  const server = createTlsServer({ cert: certificate, key: certificateKey }, (_request, response) => {
    requests++
    response.end()
  })
  server.on('secureConnection', socket => names.push(socket.servername))
  const { port } = await listen(t, server)
  await t.rejects(guardedWith().post(`https://hooks.example.com:${port}/`, post()), { message: /DEPTH_ZERO_SELF_SIGNED_CERT/ })
  const trusted = getCACertificates('default')
  setDefaultCACertificates([...trusted, certificate])
  t.teardown(() => setDefaultCACertificates(trusted))
  t.same(await guardedWith().post(`https://hooks.example.com:${port}/`, post()), { status: 200 })
  t.same(await guardedWith().post(`https://hooks.example.com.:${port}/`, post()), { status: 200 })
  t.ok(names.includes('hooks.example.com'))
  for (const url of [`https://other.example.com:${port}/`, `https://127.0.0.1:${port}/`]) {
    await t.rejects(guardedWith().post(url, post()), { message: /ERR_TLS_CERT_ALTNAME_INVALID/ }, url)
  }
  t.equal(requests, 2)
})
