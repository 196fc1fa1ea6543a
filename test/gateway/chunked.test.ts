// A streamed body framed by ourselves is what Node's own framing would have been, for whoever reads it.

import { once } from 'node:events'
import { createServer } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import t, { type Test } from 'tap'
import { createBodyWriter } from '../../gateway/chunked.ts'

/** All bytes that a client gets that asks like this. */
async function asked(t: Test, request: string, pieces: readonly string[], last?: string): Promise<string> {
  const server = createServer((_request, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    const body = createBodyWriter(response)
    for (const piece of pieces) body.write(Buffer.from(piece))
    body.end(last === undefined ? undefined : Buffer.from(last))
  }).listen(0, '127.0.0.1')
  t.teardown(() => server.close())
  await once(server, 'listening')
  const socket = connect((server.address() as AddressInfo).port, '127.0.0.1')
  socket.write(request)
  let text = ''
  socket.setEncoding('utf8').on('data', piece => (text += piece))
  await once(socket, 'end')
  socket.end()
  return text
}

const http11 = 'GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n'

t.test('each piece is one chunk, and the end is told', async t => {
  const long = 'x'.repeat(300)
  const answer = await asked(t, http11, ['data: one\n\n', '', 'é', long], 'data: [DONE]\n\n')
  t.match(answer, /\r\nTransfer-Encoding: chunked\r\n/i)
  t.equal(
    answer.slice(answer.indexOf('\r\n\r\n') + 4),
    `b\r\ndata: one\n\n\r\n2\r\né\r\n12c\r\n${long}\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n`
  )
})

t.test('an end without anything more, and with nothing at all', async t => {
  for (const last of [undefined, '']) {
    const answer = await asked(t, http11, ['a'], last)
    t.equal(answer.slice(answer.indexOf('\r\n\r\n') + 4), '1\r\na\r\n0\r\n\r\n')
  }
})

t.test('a client of HTTP/1.0 gets the bytes as they are', async t => {
  const answer = await asked(t, 'GET / HTTP/1.0\r\n\r\n', ['one', 'two'], 'three')
  t.notMatch(answer, /transfer-encoding/i)
  t.equal(answer.slice(answer.indexOf('\r\n\r\n') + 4), 'onetwothree')
})

t.test('the connection is good for the next request', async t => {
  const twice = `${http11.replace('connection: close\r\n', '')}${http11}`
  const answer = await asked(t, twice, ['a'], 'b')
  t.equal(answer.match(/1\r\na\r\n1\r\nb\r\n0\r\n\r\n/g)?.length, 2)
})
