// Readers that take nothing of an answer are cut off, those that are slow are not.

import { createServer } from 'node:http'
import { type AddressInfo, connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { cutStalled } from '../../gateway/stalled.ts'
import { until } from '../support/wait.ts'

const mebibyte = 1024 * 1024

/** Answers `/n` with n MiB at once. Connects to it: what it gives is not read unless that is begun. */
async function serving(t: Test): Promise<(mebibytes: number) => Socket> {
  const server = createServer((request, response) => response.end(Buffer.alloc(Number(request.url?.slice(1)) * mebibyte)))
  cutStalled(server, { afterMs: 500, lookEveryMs: 20 })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return mebibytes => {
    const socket = connect((server.address() as AddressInfo).port, '127.0.0.1')
    socket.on('error', () => {})
    socket.write(`GET /${mebibytes} HTTP/1.1\r\nhost: a\r\n\r\n`)
    t.teardown(() => socket.destroy())
    return socket.pause()
  }
}

t.test('who takes nothing is cut off', async t => {
  const ask = await serving(t)
  const began = performance.now()
  const socket = ask(64)
  await sleep(400)
  let bytes = 0
  // To see the end its rest must be read; what comes now was on its way before.
  await sleep(600)
  socket.on('data', piece => (bytes += piece.length)).resume()
  await until('it to be cut', () => socket.destroyed)
  t.ok(performance.now() - began >= 500)
  t.ok(bytes < 64 * mebibyte, `${bytes} bytes`)
})

t.test('who is slow gets all of it, and who asks for nothing more stays', async t => {
  const ask = await serving(t)
  const slow = ask(16)
  const idle = ask(0).resume()
  let bytes = 0
  slow.on('data', piece => {
    bytes += piece.length
    if (bytes < 14 * mebibyte) setTimeout(() => slow.resume(), 10)
    if (bytes < 14 * mebibyte) slow.pause()
  })
  const began = performance.now()
  slow.resume()
  await until('all of it', () => bytes > 16 * mebibyte, 20_000)
  t.ok(performance.now() - began > 700, `${performance.now() - began} ms`)
  t.notOk(slow.destroyed)
  t.notOk(idle.destroyed)
})
