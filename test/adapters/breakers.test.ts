import { mock } from 'node:test'
import t from 'tap'
import { createBreakers } from '../../adapters/shared/breakers.ts'
import { type ErrorCode, GatewayError } from '../../routing/errors.ts'

const error = (code: ErrorCode, cause?: unknown) => new GatewayError(code, 'x', cause === undefined ? {} : { cause })
const broke = error('upstream_unavailable')
const refusedConnection = error('upstream_unavailable', Object.assign(new Error('x'), { code: 'ECONNREFUSED' }))

// The breaker looks at an outcome in its own time, but within one turn.
const turn = () => new Promise(resolve => setImmediate(resolve))

mock.timers.enable({ apis: ['setTimeout', 'setInterval', 'Date'] })
t.teardown(() => mock.timers.reset())

function breakersFor(t: { teardown(act: () => void): void }) {
  const breakers = createBreakers()
  t.teardown(() => breakers.close())
  return {
    ...breakers,
    async record(id: string, ...outcomes: readonly (GatewayError | null)[]) {
      for (const outcome of outcomes) {
        breakers.record(id, outcome)
        await turn()
      }
    }
  }
}

t.test('a target nobody knows is not broken', async t => {
  t.equal(breakersFor(t).isOpen('a'), false)
})

t.test('five calls of which more than half fail open it, for this target only', async t => {
  const { record, isOpen } = breakersFor(t)
  await record('a', broke, broke, broke, broke)
  t.equal(isOpen('a'), false, 'four say nothing yet')
  await record('a', broke)
  t.equal(isOpen('a'), true)
  t.equal(isOpen('b'), false)
})

t.test('half of the calls may fail', async t => {
  const { record, isOpen } = breakersFor(t)
  await record('a', null, broke, null, broke, null, broke, null, broke)
  t.equal(isOpen('a'), false)
  await record('a', broke)
  t.equal(isOpen('a'), true)
})

t.test('failures of long ago are forgotten', async t => {
  const { record, isOpen } = breakersFor(t)
  await record('a', broke, broke, broke, broke)
  mock.timers.tick(33_000)
  await record('a', broke)
  t.equal(isOpen('a'), false)
})

t.test('where nobody listens, once is enough', async t => {
  for (const code of ['ECONNREFUSED', 'EHOSTUNREACH', 'ENETUNREACH', 'ENOTFOUND', 'UND_ERR_CONNECT_TIMEOUT']) {
    const { record, isOpen } = breakersFor(t)
    await record('a', error('upstream_unavailable', Object.assign(new Error('x'), { code })))
    t.equal(isOpen('a'), true, code)
  }
  const { record, isOpen } = breakersFor(t)
  await record('a', error('upstream_unavailable', Object.assign(new Error('x'), { code: 'ECONNRESET' })))
  t.equal(isOpen('a'), false, 'a reset is not nobody')
})

t.test('only what says something against the target counts', async t => {
  const harmless: readonly ErrorCode[] = [
    'invalid_request',
    'context_length_exceeded',
    'upstream_refused',
    'upstream_rate_limited',
    'upstream_denied',
    'upstream_lacks_model',
    'client_gone',
    'internal_error'
  ]
  for (const code of harmless) {
    const { record, isOpen } = breakersFor(t)
    await record('a', ...Array.from({ length: 20 }, () => error(code)))
    t.equal(isOpen('a'), false, code)
  }
  const { record, isOpen } = breakersFor(t)
  await record('a', ...Array.from({ length: 5 }, () => error('upstream_broke')))
  t.equal(isOpen('a'), true, 'upstream_broke')
})

t.test('after five seconds it is tried again, and what comes of it decides', async t => {
  const { record, isOpen } = breakersFor(t)
  await record('a', refusedConnection)
  mock.timers.tick(4_999)
  t.equal(isOpen('a'), true)
  mock.timers.tick(1)
  t.equal(isOpen('a'), false, 'half open')
  await record('a', refusedConnection)
  t.equal(isOpen('a'), true)
  mock.timers.tick(5_000)
  t.equal(isOpen('a'), false)
  await record('a', broke)
  t.equal(isOpen('a'), true, 'any failure')
  mock.timers.tick(5_000)
  await record('a', null)
  mock.timers.tick(60_000)
  t.equal(isOpen('a'), false)
})

t.test('half open, one call at a time tries it, and it looks open to all others until that one is over', async t => {
  const { begin, record, isOpen } = breakersFor(t)
  begin('a')
  t.equal(isOpen('a'), false, 'a call to a whole target is no try')
  await record('a', refusedConnection)
  begin('a')
  mock.timers.tick(5_000)
  t.equal(isOpen('a'), false, 'a call of last resort that began before is none either')
  begin('a')
  t.equal(isOpen('a'), true, 'somebody is trying')
  t.equal(isOpen('a'), true)
  t.equal(isOpen('b'), false)
  mock.timers.tick(60_000)
  t.equal(isOpen('a'), true, 'however long it takes')
  await record('a', error('client_gone'))
  t.equal(isOpen('a'), false, 'nothing came of it: the next may try')
  begin('a')
  t.equal(isOpen('a'), true)
  await record('a', broke)
  mock.timers.tick(4_999)
  t.equal(isOpen('a'), true)
  mock.timers.tick(1)
  t.equal(isOpen('a'), false)
  begin('a')
  await record('a', null)
  begin('a')
  t.equal(isOpen('a'), false, 'whole again')
})

t.test('what a client that left says of a target is nothing', async t => {
  const { record, isOpen } = breakersFor(t)
  await record('a', broke, broke, broke, ...Array.from({ length: 20 }, () => error('client_gone')), broke, broke)
  t.equal(isOpen('a'), true, 'it does not count as an answer')
})

t.test('a target of last resort that answers although it is open, is closed', async t => {
  const { record, isOpen } = breakersFor(t)
  await record('a', refusedConnection)
  await record('a', broke, broke)
  t.equal(isOpen('a'), true)
  await record('a', null)
  t.equal(isOpen('a'), false)
})

t.test('2,000 targets are kept, and the oldest is forgotten first', async t => {
  const { record, isOpen } = breakersFor(t)
  await record('oldest', refusedConnection)
  await record('second', refusedConnection)
  for (let index = 0; index < 1_999; index++) await record(`t${index}`, null)
  t.equal(isOpen('oldest'), false)
  t.equal(isOpen('second'), true)
})

t.test('closing forgets everything, twice is safe', async t => {
  const { record, isOpen, close } = breakersFor(t)
  await record('a', refusedConnection)
  close()
  close()
  t.equal(isOpen('a'), false)
})
