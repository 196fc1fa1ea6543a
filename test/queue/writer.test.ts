// What the writer of events has in hand, and what it does when its connection goes: without a database, and by a clock of the test's.

import { EventEmitter } from 'node:events'
import { mock } from 'node:test'
import t, { type Test } from 'tap'
import type { EventWriterPorts } from '../../queue/events/writer.ts'
import { createEventWriter } from '../../queue/events.ts'
import { frame } from './events-support.ts'

interface Batch {
  /** `<job>:<seq>` of its rows; none = only asked whether the connection still stands. */
  readonly rows: readonly string[]
  readonly characters: number
  readonly answer: PromiseWithResolvers<{ rows: object[] }>
}

class Connection extends EventEmitter {
  released: boolean | null = null
  query: (statement: string | { values: unknown[][] }) => Promise<{ rows: object[] }>

  constructor(query: Connection['query']) {
    super()
    this.query = query
  }

  release(isBroken: boolean): void {
    this.released = isBroken
  }
}

/** A writer whose statements are answered at once, or, `held`, when the test says so. */
function house(t: Test) {
  mock.timers.enable({ apis: ['setTimeout'] })
  let nowMs = 1_000
  const clock = mock.method(performance, 'now', () => nowMs)
  const state = { batches: [] as Batch[], connections: [] as Connection[], isHeld: false }

  function query(statement: string | { values: unknown[][] }): Promise<{ rows: object[] }> {
    const [jobs = [], , seqs = [], , , data = []] = typeof statement === 'string' ? [] : (statement.values as string[][])
    const answer = Promise.withResolvers<{ rows: object[] }>()
    const rows = jobs.map((job, index) => `${job}:${seqs[index]}`)
    state.batches.push({ rows, characters: data.reduce((sum, { length }) => sum + length, 0), answer })
    if (!state.isHeld) answer.resolve({ rows: [] })
    return answer.promise
  }

  const writer = createEventWriter({
    pool: {
      async connect() {
        const connection = new Connection(query)
        state.connections.push(connection)
        return connection
      }
    } as unknown as EventWriterPorts['pool'],
    notices: { changed: () => {}, wrote: () => {} },
    now: () => 0,
    log: () => {}
  })
  t.teardown(async () => {
    mock.timers.reset()
    clock.mock.restore()
    for (const { answer } of state.batches) answer.resolve({ rows: [] })
    await writer.close(0)
  })
  return {
    state,
    writer,
    async pass(ms: number) {
      nowMs += ms
      mock.timers.tick(ms)
      for (let turns = 0; turns < 10; turns++) await new Promise(resolve => setImmediate(resolve))
    },
    connection: () => state.connections.at(-1) as Connection,
    /** Of those that had any. */
    rows: () => state.batches.flatMap(({ rows }) => (rows.length > 0 ? [rows] : []))
  }
}

const seqs = (rows: readonly { readonly seq: number }[]): number[] => rows.map(({ seq }) => seq)

t.test('what is settled is written by nobody else', async t => {
  const { writer, pass, rows } = house(t)
  const [settled, other] = [writer.open('settled', 1), writer.open('other', 1)]
  settled.frames(frame('a'))
  t.same(seqs(await settled.settle('done')), [0, 1, 2, 3])
  other.frames(frame('b'))
  await pass(100)
  t.same(rows(), [['other:0', 'other:1']])
})

t.test('who settles gets what is being written too, when it has been, and what is not safe yet', async t => {
  const { state, writer, pass, rows } = house(t)
  state.isHeld = true
  const log = writer.open('job', 1)
  log.frames(frame('a'))
  await pass(100)
  log.frames(frame('b'))
  const settling = log.settle('done')
  t.same(await Promise.race([settling, pass(100).then(() => 'it waits')]), 'it waits')
  state.batches[0]?.answer.resolve({ rows: [] })
  t.same(seqs(await settling), [0, 1, 2, 3, 4])
  await pass(5_000)
  t.same(rows(), [['job:0', 'job:1']])
})

t.test('a connection that ends in the middle of a batch: what is not safe is written again, in order', async t => {
  const { state, writer, pass, connection, rows } = house(t)
  const log = writer.open('job', 1)
  log.frames(frame('a'))
  await pass(100)
  state.isHeld = true
  log.frames(frame('b'))
  await pass(100)
  log.frames(frame('c'))
  const old = connection()
  old.emit('end')
  t.equal(old.released, true)
  state.batches[1]?.answer.reject(new Error('Connection terminated'))
  state.isHeld = false
  await pass(300)
  await pass(300)
  t.same(rows(), [['job:0', 'job:1'], ['job:2'], ['job:0', 'job:1', 'job:2', 'job:3']])
  t.equal(state.connections.length, 2)
})

t.test('what is two seconds old is safe when its connection still stands; then it is let go', async t => {
  const { state, writer, pass, connection, rows } = house(t)
  const log = writer.open('job', 1)
  log.frames(frame('a'))
  await pass(100)
  log.retrying()
  await pass(1_900)
  t.equal(writer.written('job')?.attempt, 1, 'it may have to be written again')
  await pass(2_100)
  t.equal(writer.written('job'), null)
  t.same([rows(), state.batches.length > 1], [[['job:0', 'job:1']], true], 'its connection was asked')
  await pass(100)
  t.equal(connection().released, false)
  t.equal(connection().listenerCount('error') + connection().listenerCount('end'), 0)
  const again = writer.open('job', 2)
  await pass(100)
  t.equal(state.connections.length, 2)
  state.connections[1]?.emit('error', new Error('gone'))
  again.retrying()
  await pass(300)
  t.same(rows().slice(1), [['job:0'], ['job:0']], 'also what failed is written again')
})

t.test('an attempt that goes does not take a newer one along', async t => {
  const { writer } = house(t)
  const first = writer.open('job', 1)
  writer.open('job', 2)
  first.dropped()
  t.equal(writer.written('job')?.attempt, 2)
})

t.test('one with much to write does not keep the others waiting', async t => {
  const { writer, pass, state } = house(t)
  const [large, small] = [writer.open('large', 1), writer.open('small', 1)]
  for (let count = 0; count < 12; count++) large.frames(frame('x'.repeat(1024 * 1024)))
  small.frames(frame('a'))
  for (let count = 0; count < 5; count++) await pass(100)
  const first = state.batches.findIndex(({ rows }) => rows.includes('small:1'))
  t.equal(first, 1)
  t.ok(
    state.batches.every(({ characters }) => characters < 5.5 * 1024 * 1024),
    'a batch is about 4 MiB'
  )
  t.equal(state.batches.flatMap(({ rows }) => rows.filter(row => row.startsWith('large:'))).length, 13)
})

t.test('what may have to be written again is in memory, and counts as waiting once it has to', async t => {
  const { state, writer, pass, connection } = house(t)
  const log = writer.open('job', 1)
  for (let count = 0; count < 5; count++) t.equal(log.frames(frame('x'.repeat(1024 * 1024))), true)
  for (let count = 0; count < 4; count++) await pass(100)
  t.equal(writer.written('job')?.after(0, 1)?.length, 1)
  state.isHeld = true
  connection().emit('end')
  for (let count = 0; count < 3; count++) t.equal(log.frames(frame('x'.repeat(1024 * 1024 - 400))), true, 'eight MiB may wait')
  t.equal(log.frames(frame('x'.repeat(2_000))), false)
})

t.test('what an attempt had waiting counts no more when it is gone, whether it was being written or not', async t => {
  const { state, writer, pass } = house(t)
  state.isHeld = true
  const six = frame('x'.repeat(6 * 1024 * 1024))
  const fill = (name: string) =>
    Array.from({ length: 11 }, (_, index) => {
      const log = writer.open(`${name} ${index}`, 1)
      return { log, isTaken: log.frames(six) }
    })
  for (const name of ['first', 'second', 'third']) {
    const logs = fill(name)
    t.same(
      logs.map(({ isTaken }) => isTaken),
      [...Array(10).fill(true), false],
      name
    )
    await pass(300)
    for (const { log } of logs) log.dropped()
    state.batches.at(-1)?.answer.resolve({ rows: [] })
    await pass(300)
  }
})

t.test('those that were told to wait go on when half of what may wait is gone, of their own and of all', async t => {
  const { state, writer, pass } = house(t)
  const wentOn: string[] = []
  const megabyte = frame('x'.repeat(1024 * 1024))
  const batches = (): number => state.batches.filter(({ rows }) => rows.length > 0).length
  const own = writer.open('own', 1, () => wentOn.push(`own after ${batches()}`))
  t.same(
    Array.from({ length: 10 }, () => own.frames(megabyte)),
    [...Array(7).fill(true), false, false, false]
  )
  // Ten MiB in batches of about four.
  for (let count = 0; count < 4; count++) await pass(100)
  t.same(wentOn, ['own after 2'])

  state.batches = []
  const others = Array.from({ length: 11 }, (_, index) => writer.open(`other ${index}`, 1))
  for (const other of others) for (let count = 0; count < 6; count++) other.frames(megabyte)
  const small = writer.open('small', 1, () => wentOn.push(`small after ${batches()}`))
  t.equal(small.frames(frame('x')), false, 'all together have more than 64 MiB')
  for (let count = 0; count < 20; count++) await pass(100)
  t.match(wentOn, ['own after 2', /^small after (8|9)$/], 'when 32 MiB are left')
})
