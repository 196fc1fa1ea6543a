// Real sockets: what is written in one turn arrives whole and in order, and none waits for a clock.

import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import { holdUntilTurnEnd } from '../../outbound/turn.ts'
import { until } from '../support/wait.ts'

/** Two ends of a connection; `heard`: what the second end has read, piece by piece. */
async function pair(t: Test): Promise<{ near: Socket; far: Socket; heard: string[] }> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const near = connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', noDelay: true })
  const [[far]] = (await Promise.all([once(server, 'connection'), once(near, 'connect')])) as [[Socket], unknown]
  const heard: string[] = []
  far.on('data', bytes => heard.push(String(bytes)))
  far.on('error', () => {})
  near.on('error', () => {})
  t.teardown(() => {
    near.destroy()
    far.destroy()
    server.close()
  })
  return { near, far, heard }
}

t.test('what is written in one turn goes out at its end, in order', async t => {
  const { near, heard } = await pair(t)
  holdUntilTurnEnd(near)
  near.write('a')
  holdUntilTurnEnd(near)
  near.write('b')
  await Promise.resolve()
  near.write('c')
  t.equal(near.writableCorked, 1, 'held once, however often it is asked for')
  t.equal(near.bytesWritten, 3)
  t.equal(near.writableLength, 3, 'nothing has left yet')
  await new Promise(resolve => setImmediate(resolve))
  t.equal(near.writableCorked, 0)
  await until('it has arrived', () => heard.join('') === 'abc')
  holdUntilTurnEnd(near)
  near.write('d')
  await until('the next turn does the same', () => heard.join('') === 'abcd')
})

t.test('each socket goes its own way: one that is ended or destroyed meanwhile holds up no other', async t => {
  const [ended, destroyed, other] = [await pair(t), await pair(t), await pair(t)]
  for (const { near } of [ended, destroyed, other]) {
    holdUntilTurnEnd(near)
    near.write('x')
  }
  ended.near.end('y')
  destroyed.near.destroy()
  await until('all is read', () => ended.heard.join('') === 'xy' && other.heard.join('') === 'x' && destroyed.far.destroyed)
  t.same(destroyed.heard, [])
})
