// How a request is framed, over real sockets: which bodies are taken, and what becomes of one that is refused.

import net, { type AddressInfo } from 'node:net'
import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import type { KeyCache } from '../../gateway/keys.ts'
import { registerAuth } from '../../gateway/plugins/auth.ts'
import { registerErrors } from '../../gateway/plugins/errors.ts'
import { registerChecks, registerRequests } from '../../gateway/plugins/requests.ts'
import type { KeyRecord } from '../../store/keys.ts'
import { until } from '../support/wait.ts'

const key = 'sk-llm-of-this-test'
const record = { id: 'k1', kind: 'source', source: 'me' } as KeyRecord

/** A server with our hooks and one route, which says how long its body was. */
async function serve(t: Test, { onHead = () => {}, later = Promise.resolve() } = {}): Promise<FastifyInstance> {
  const app = Fastify({ bodyLimit: 1024 * 1024 })
  t.teardown(() => app.close())
  app.decorate('knownRoutes', [{ method: 'POST', url: '/v1/length' }])
  registerRequests(app, { newId: () => 'r1', logRequest: () => {} })
  registerChecks(app, () => false)
  registerErrors(app, () => {})
  const keys = { find: (given: string) => (given === key ? record : Promise.resolve(null)) } as KeyCache
  registerAuth(app, { keys, auth: true, allowedHosts: [], corsOrigins: [] })
  app.addHook('preParsing', (_request, _reply, _payload, done) => {
    onHead()
    done()
  })
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (_request, body, done) => done(null, body))
  const length = async (request: FastifyRequest) => {
    await later
    return { bytes: (request.body as Buffer).length }
  }
  app.post('/v1/length', { config: { requires: ['source'] } }, length)
  app.post('/open', { config: { requires: 'none' } }, length)
  await app.listen({ host: '127.0.0.1', port: 0 })
  return app
}

interface Client {
  readonly socket: net.Socket
  /** What came back. */
  text(): string
  /** The other side has said its last word. */
  readonly over: { ended: boolean; closed: boolean; error: string | null }
  sentBytes: number
}

function connect(t: Test, app: FastifyInstance): Client {
  // It does not hang up by itself when the other side does: that would hide who closes.
  const socket = net.connect({ host: '127.0.0.1', port: (app.server.address() as AddressInfo).port, allowHalfOpen: true })
  t.teardown(() => socket.destroy())
  let text = ''
  const client: Client = { socket, text: () => text, over: { ended: false, closed: false, error: null }, sentBytes: 0 }
  socket.on('data', chunk => {
    text += chunk
  })
  socket.on('end', () => {
    client.over.ended = true
  })
  socket.on('error', error => {
    client.over.error = error.message
  })
  socket.on('close', () => {
    client.over.closed = true
  })
  return client
}

const head = (...lines: readonly string[]) =>
  ['POST /v1/length HTTP/1.1', 'host: localhost', 'content-type: application/json', ...lines, '', ''].join('\r\n')
const authorized = `authorization: Bearer ${key}`
const chunked = 'transfer-encoding: chunked'
const piece = Buffer.from(`10000\r\n${'x'.repeat(65_536)}\r\n`)

/** Writes chunks, as fast as they are taken, until `bytes` are sent or the connection is gone. */
function keepWriting(client: Client, bytes: number): void {
  const { socket } = client
  if (socket.destroyed || client.sentBytes >= bytes) return
  client.sentBytes += piece.length
  if (socket.write(piece)) setImmediate(() => keepWriting(client, bytes))
  else socket.once('drain', () => keepWriting(client, bytes))
}

const isWhole = (text: string) => {
  const [top = '', body = ''] = text.split('\r\n\r\n')
  const length = /content-length: (\d+)/i.exec(top)?.[1]
  return length !== undefined && Buffer.byteLength(body) === Number(length)
}

t.test('a body without a key is refused before it is read, and the sender hears of it while it keeps on sending', async t => {
  const app = await serve(t)
  const refusals: readonly [name: string, lines: readonly string[], status: string][] = [
    ['no key', [chunked], '401'],
    ['an unknown key', ['authorization: Bearer sk-llm-unknown', chunked], '401'],
    ['a long one, no key', ['content-length: 900000000'], '401'],
    ['a long one, an unknown key', ['authorization: Bearer sk-llm-unknown', 'content-length: 900000000'], '401'],
    ['an encoding we do not read', [authorized, 'content-encoding: gzip', chunked], '415']
  ]
  const refused = async ([name, lines, status]: (typeof refusals)[number]) => {
    const client = connect(t, app)
    client.socket.write(head(...lines))
    keepWriting(client, 400_000_000)
    await until('the whole answer', () => isWhole(client.text()))
    t.match(client.text(), new RegExp(`^HTTP/1.1 ${status} `), name)
    t.match(client.text(), /^connection: close\r$/im, name)
    await until('the end of the connection', () => client.over.closed, 5_000)
    t.ok(client.over.ended, `${name}: it ended in order first`)
    // One MiB is swallowed; the rest is what the buffers of two sockets hold.
    t.ok(client.socket.bytesWritten < 20_000_000, `${name}: ${client.socket.bytesWritten} bytes were taken`)
  }
  await Promise.all(refusals.map(refused))
})

t.test('a refused sender that says nothing more is let go in a second', async t => {
  const app = await serve(t)
  const client = connect(t, app)
  client.socket.write(`${head(chunked)}5\r\nhello\r\n`)
  await until('the whole answer', () => isWhole(client.text()))
  t.equal(await connectionsOf(app), 1, 'it may say more')
  await until('nothing is left open', () => connectionsOf(app).then(count => count === 0), 5_000)
  t.equal(client.over.error, null)
})

t.test('a refused body that ends is read to its end, and its connection closed at once', async t => {
  const { promise, resolve } = Promise.withResolvers<void>()
  let heads = 0
  const app = await serve(t, { later: promise, onHead: () => heads++ })
  const body = '5\r\nhello\r\n0\r\n\r\n'
  const client = connect(t, app)
  let begunMs = performance.now()
  client.socket.write(head(chunked) + body)
  await until('the refusal', () => isWhole(client.text()))
  await until('nothing is left open', () => connectionsOf(app).then(count => count === 0), 5_000)
  t.match(client.text(), /^HTTP\/1.1 401 /)
  t.ok(performance.now() - begunMs < 900)

  // Its turn comes only after another answer, and by then it is read.
  const patient = connect(t, app)
  patient.socket.write(`${head(authorized, 'content-length: 5')}hello${head(chunked)}${body}`)
  await until('its first request is taken', () => heads === 1)
  begunMs = performance.now()
  resolve()
  await until('the refusal', () => patient.text().includes(' 401 '))
  await until('nothing is left open', () => connectionsOf(app).then(count => count === 0), 5_000)
  t.match(patient.text(), /^HTTP\/1.1 200 [\s\S]*{"bytes":5}HTTP\/1.1 401 /)
  t.ok(performance.now() - begunMs < 900)
})

t.test('a small refused body, and none at all, keep the connection', async t => {
  const app = await serve(t)
  const client = connect(t, app)
  client.socket.write(`${head('content-length: 5')}hello`)
  await until('the refusal', () => /401 Unauthorized/.test(client.text()) && isWhole(client.text()))
  client.socket.write(`${head(authorized, 'content-length: 5')}hello`)
  await until('the next answer', () => client.text().endsWith('{"bytes":5}'))
  client.socket.write('GET /v1/nothing HTTP/1.1\r\nhost: localhost\r\n\r\n')
  await until('a third', () => client.text().includes('HTTP/1.1 404 '))
  t.notMatch(client.text(), /^connection: close/im)
  t.equal(client.over.ended, false)
})

t.test('a body for nobody is not read either', async t => {
  const app = await serve(t)
  const refused = async (line: string) => {
    const client = connect(t, app)
    client.socket.write(head(chunked).replace(/^.*/, line))
    keepWriting(client, 400_000_000)
    await until('the end of the connection', () => client.over.closed, 5_000)
    t.match(client.text(), /^HTTP\/1.1 40[45] /, line)
    t.ok(isWhole(client.text()), line)
    t.ok(client.socket.bytesWritten < 20_000_000, `${line}: ${client.socket.bytesWritten} bytes were taken`)
  }
  await Promise.all(['POST /v1/nothing HTTP/1.1', 'DELETE /v1/length HTTP/1.1'].map(refused))
})

t.test('a caller with a key whose body is too large is listened to, and told so', async t => {
  const app = await serve(t)
  const client = connect(t, app)
  client.socket.write(head(authorized, chunked))
  keepWriting(client, 20 * 1024 * 1024)
  await until('the whole answer', () => isWhole(client.text()))
  t.match(client.text(), /^HTTP\/1.1 413 /)
  await until('all of it is taken', () => client.socket.bytesWritten >= 20 * 1024 * 1024 && client.socket.writableLength === 0)
  client.socket.write('0\r\n\r\n')
  client.socket.write(`${head(authorized, 'content-length: 5')}hello`)
  await until('the next answer', () => client.text().endsWith('{"bytes":5}'))
})

t.test('without a key nobody is listened to for that long, not even where none is needed', async t => {
  const app = await serve(t)
  const client = connect(t, app)
  client.socket.write(head(chunked).replace('/v1/length', '/open'))
  keepWriting(client, 400_000_000)
  await until('the end of the connection', () => client.over.closed, 5_000)
  t.match(client.text(), /^HTTP\/1.1 413 /)
  t.ok(client.socket.bytesWritten < 20_000_000, `${client.socket.bytesWritten} bytes were taken`)
})

t.test('a body that says it is too large is refused for that, not for want of room', async t => {
  const app = await serve(t)
  const headers = { host: 'localhost', authorization: `Bearer ${key}`, 'content-type': 'application/json', 'content-length': '900000000' }
  const answer = await app.inject({ method: 'POST', url: '/v1/length', headers, body: '{}' })
  t.equal(answer.statusCode, 413)
})

t.test('bodies of callers with a key are held up to 256 MiB in all, and room comes back', async t => {
  let heads = 0
  const app = await serve(t, { onHead: () => heads++ })
  const length = 1024 * 1024
  const clients = Array.from({ length: 256 }, () => connect(t, app))
  for (const client of clients) client.socket.write(head(authorized, `content-length: ${length}`))
  // Not counted: nobody reads it.
  const stranger = connect(t, app)
  stranger.socket.write(head(`content-length: ${length}`))
  await until('its refusal', () => stranger.text().startsWith('HTTP/1.1 401 '))
  await until('the requests are there', () => heads === 256)
  const late = connect(t, app)
  late.socket.write(head(authorized, `content-length: ${length}`))
  await until('its refusal', () => isWhole(late.text()))
  t.match(late.text(), /^HTTP\/1.1 503 [\s\S]*retry-after-ms: 1000/)
  clients[0]?.socket.destroy()
  await until('room', async () => {
    const next = connect(t, app)
    next.socket.write(head(authorized, `content-length: ${length}`))
    next.socket.write(Buffer.alloc(length))
    await until('an answer', () => isWhole(next.text()))
    return next.text().endsWith(`{"bytes":${length}}`)
  })
})

t.test('a body is UTF-8, whatever else its type says', async t => {
  const app = await serve(t)
  const cases: readonly [type: string, status: number][] = [
    ['application/json', 200],
    ['application/json; charset=utf-8', 200],
    ['application/json;charset=UTF8', 200],
    ['application/json; charset="us-ascii"', 200],
    ['application/json; charset=', 200],
    ['application/json; odata=minimal; charset=utf-8', 200],
    ['application/json; charset=utf-16', 415],
    ['application/json; charset="UTF-16LE"', 415],
    ['application/json ; Charset = iso-8859-1', 415],
    ['application/json; charset=utf-8; charset=utf-16', 415],
    ['text/plain', 415]
  ]
  for (const [type, status] of cases) {
    const headers = { host: 'localhost', authorization: `Bearer ${key}`, 'content-type': type }
    const answer = await app.inject({ method: 'POST', url: '/v1/length', headers, body: '{}' })
    t.equal(answer.statusCode, status, type)
    if (type.includes('16')) t.match(answer.json().error, { message: /UTF-8/, code: 'unsupported_media_type' }, type)
  }
  const none = await app.inject({ url: '/v1/nothing', headers: { host: 'localhost', 'content-type': 'text/plain; charset=utf-16' } })
  t.equal(none.statusCode, 404, 'where there is no body, it says nothing')
})

function connectionsOf(app: FastifyInstance): Promise<number> {
  return new Promise((resolve, reject) => app.server.getConnections((error, count) => (error === null ? resolve(count) : reject(error))))
}
