// When those who follow jobs look, what they listen to meanwhile, and how they end: without a database, and by a clock of the test's.

import { mock } from 'node:test'
import t, { type Test } from 'tap'
import type { WrittenHere } from '../../queue/events/types.ts'
import type { WatchPorts } from '../../queue/events/watch.ts'
import { createWatches } from '../../queue/events.ts'
import type { JobEvent, JobRecord, JobStatus } from '../../queue/types.ts'
import { changedChannel, fromProcess } from '../../store/channels.ts'
import { until } from '../support/wait.ts'
import { numbered } from './events-support.ts'

const at = new Date('2027-01-31T12:00:00Z')

interface Stored {
  status: JobStatus
  attemptNo: number
  processId: string | null
}

/** A job as the database has it, which the test changes as it likes, and one process that follows it. */
function house(t: Test, first: Partial<Stored> = {}) {
  mock.timers.enable({ apis: ['setInterval', 'setTimeout'] })
  t.teardown(() => mock.timers.reset())
  let nowMs = 0
  let news: (jobId: string) => void = () => {}
  const job: Stored = { status: 'running', attemptNo: 1, processId: 'there', ...first }
  const state = {
    job: job as Stored | null,
    rows: [] as { seq: number; kind: string; count: number; data: string }[],
    here: null as WrittenHere | null,
    isAway: false,
    listened: [] as string[],
    queries: [] as string[],
    logged: [] as string[],
    /** What `find` says instead of what is stored. */
    found: undefined as JobRecord | null | undefined
  }

  const record = (): JobRecord =>
    ({ id: 'job', stream: true, createdAt: at, startedAt: at, finishedAt: at, ...state.job }) as unknown as JobRecord

  async function query({ name, values }: { name: string; values: unknown[][] }): Promise<{ rows: object[] }> {
    state.queries.push(name)
    if (state.isAway) throw new Error('away')
    if (name === 'job_events.followed') {
      if (state.job === null) return { rows: [] }
      const { status, attemptNo, processId } = state.job
      return { rows: [{ id: 'job', status, attempt_no: attemptNo, process_id: processId }] }
    }
    const [, [attempt] = [], [seq] = []] = values as number[][]
    const rows = state.rows.filter(row => row.seq > (seq as number) || row.seq + row.count > (seq as number) + 1)
    return { rows: rows.map(row => ({ number: '1', attempt, at, ...row })) }
  }

  const watches = createWatches({
    pool: { query } as unknown as WatchPorts['pool'],
    listener: {
      add: channel => void state.listened.push(channel),
      remove: channel => void state.listened.splice(state.listened.indexOf(channel), 1)
    },
    writer: {
      written: () => state.here,
      onNews: listener => {
        news = listener
      }
    },
    find: async () => (state.found === undefined ? record() : state.found),
    async outlook() {
      state.queries.push('outlook')
      return new Map()
    },
    processId: 'here',
    now: () => nowMs,
    log: message => void state.logged.push(message)
  })
  t.teardown(() => watches.close())
  return {
    state,
    watches,
    /** All that a reader gets, as it comes. */
    follow(after: { attempt: number; seq: number } | null = null) {
      const watch = watches.watch(record(), after)
      const seen: JobEvent[] = []
      const end = (async () => {
        for (let events = await watch.next(); events !== null; events = await watch.next()) seen.push(...events)
      })()
      return { watch, seen, end }
    },
    news: () => news('job'),
    tick(ms: number) {
      nowMs += ms
      mock.timers.tick(ms)
    },
    /** Lets everything happen that happens by itself. */
    async settle() {
      for (let turns = 0; turns < 20; turns++) await new Promise(resolve => setImmediate(resolve))
    },
    chunk(seq: number, text: string) {
      state.rows.push({ seq, kind: 'chunks', count: 1, data: JSON.stringify({ choices: [{ delta: { content: text } }] }) })
    }
  }
}

const marker = { seq: 0, kind: 'attempt', count: 1, data: '' }

t.test('it listens to the process that runs the job, as long as that runs it and somebody follows it', async t => {
  const { state, watches, follow, settle, news } = house(t, { status: 'queued', processId: null })
  const [one, two] = [follow(), follow()]
  await settle()
  t.same(state.listened, [changedChannel, changedChannel])
  state.job = { status: 'running', attemptNo: 1, processId: 'there' }
  watches.notified(changedChannel, 'job')
  await settle()
  t.same(state.listened.toSorted(), [changedChannel, changedChannel, fromProcess('there'), fromProcess('there')].toSorted())
  state.job = { status: 'running', attemptNo: 2, processId: 'elsewhere' }
  watches.notified(changedChannel, 'other,job')
  await settle()
  t.same(state.listened.toSorted(), [changedChannel, changedChannel, fromProcess('elsewhere'), fromProcess('elsewhere')].toSorted())
  one.watch.close()
  await one.end
  t.same(state.listened.toSorted(), [changedChannel, fromProcess('elsewhere')].toSorted())
  state.here = { attempt: 3, at, after: () => [] }
  news()
  await settle()
  t.same(state.listened, [changedChannel], 'what is here needs no telling')
  two.watch.close()
  await two.end
  t.same(state.listened, [])
})

t.test('whoever is told nothing looks once a second, for the state of the job and for its rows', async t => {
  const { state, follow, settle, tick, chunk } = house(t)
  state.rows.push(marker)
  const { seen } = follow()
  await settle()
  t.same(numbered(seen), ['1-0 attempt'])
  chunk(1, 'a')
  await settle()
  t.same(numbered(seen), ['1-0 attempt'])
  tick(1_000)
  await settle()
  t.same(numbered(seen), ['1-0 attempt', '1-1 "a"'])
  state.job = { status: 'queued', attemptNo: 1, processId: null }
  tick(1_000)
  await settle()
  t.equal(seen.at(-1)?.type, 'status')
  state.job = { status: 'running', attemptNo: 2, processId: 'there' }
  state.rows = [marker]
  tick(1_000)
  await settle()
  t.same(numbered(seen), ['1-0 attempt', '1-1 "a"', '2-0 attempt'])
})

t.test('who may have missed notifications looks at everything at once', async t => {
  const { state, watches, follow, settle } = house(t)
  follow()
  await settle()
  const before = state.queries.length
  watches.notified(changedChannel, 'another')
  watches.notified(fromProcess('another'), '')
  await settle()
  t.equal(state.queries.length, before, 'what is about others is nothing to it')
  watches.notified(changedChannel, '')
  await settle()
  t.same(state.queries.slice(before), ['job_events.followed'])
})

t.test('places in line are asked for once a second, whatever else happens', async t => {
  const { state, watches, follow, settle, tick } = house(t, { status: 'queued', attemptNo: 0, processId: null })
  follow()
  await settle()
  const asked = (): number => state.queries.filter(name => name === 'outlook').length
  t.equal(asked(), 1)
  for (let times = 0; times < 3; times++) {
    watches.notified(changedChannel, 'job')
    await settle()
  }
  t.equal(asked(), 1)
  tick(1_000)
  await settle()
  t.equal(asked(), 2)
})

t.test('a job that is gone ends the watch, whenever that is found out', async t => {
  const { state, watches, follow, settle } = house(t)
  const running = follow()
  await settle()
  state.job = null
  watches.notified(changedChannel, 'job')
  await running.end
  state.job = { status: 'done', attemptNo: 1, processId: null }
  state.rows = [marker]
  state.found = null
  const over = follow()
  await over.end
  t.same(numbered(over.seen), ['1-0 attempt'])
  t.same(state.listened, [])
})

t.test('a job that is queued again while its end is read is followed on', async t => {
  const { state, follow, settle, watches } = house(t, { status: 'done', processId: null })
  state.rows = [marker]
  state.found = { id: 'job', stream: true, status: 'queued', attemptNo: 1, processId: null, createdAt: at } as unknown as JobRecord
  const { seen, end } = follow()
  await settle()
  t.same(numbered(seen), ['1-0 attempt'])
  state.job = { status: 'running', attemptNo: 2, processId: 'there' }
  watches.notified(changedChannel, 'job')
  await settle()
  state.found = undefined
  state.job = { status: 'done', attemptNo: 2, processId: null }
  watches.notified(changedChannel, 'job')
  await end
  t.same(numbered(seen), ['1-0 attempt', '2-0 attempt', '2-1 result done', '2-2 end done'])
})

t.test('what is written here under an attempt that is not the newest is not told', async t => {
  const { state, follow, settle, news } = house(t, { attemptNo: 2 })
  state.here = { attempt: 1, at, after: () => ['{}'] }
  const { seen } = follow()
  news()
  await settle()
  t.same(numbered(seen), [])
})

t.test('what is still here of a job that is over is not told: the table has all that counts', async t => {
  const { state, follow } = house(t, { status: 'done', processId: null })
  state.rows = [marker]
  state.here = { attempt: 1, at, after: seq => (seq === 0 ? ['{"choices":[{"delta":{"content":"late"}}]}'] : []) }
  const { seen, end } = follow()
  await end
  t.same(numbered(seen), ['1-0 attempt', '1-1 result done', '1-2 end done'])
})

t.test('a database that is away is asked again after 250 ms, and told of once', async t => {
  const { state, follow, settle, tick } = house(t)
  state.rows = [marker]
  state.isAway = true
  const { seen } = follow()
  await settle()
  for (let times = 0; times < 3; times++) {
    const before = state.queries.length
    tick(249)
    await settle()
    t.equal(state.queries.length, before)
    tick(1)
    await settle()
    t.ok(state.queries.length > before)
  }
  t.equal(state.logged.length, 1)
  state.isAway = false
  tick(250)
  await settle()
  t.same(numbered(seen), ['1-0 attempt'])
})

t.test('a reader that asks for more while it waits is told of its mistake', async t => {
  const { watches, state } = house(t)
  const watch = watches.watch({ id: 'job', stream: true, ...state.job } as unknown as JobRecord, null)
  void watch.next()
  await t.rejects(watch.next(), /while it waits/)
})

t.test('at the end all watches end, and nothing is looked at any more', async t => {
  const { state, watches, follow, settle, tick, news } = house(t)
  const { end } = follow()
  await settle()
  state.isAway = true
  watches.notified(changedChannel, 'job')
  await settle()
  const before = state.queries.length
  watches.close()
  await end
  tick(5_000)
  watches.notified(changedChannel, '')
  news()
  await settle()
  t.equal(state.queries.length, before)
  t.same(state.listened, [])
  const late = follow()
  await until('it to be over', () => late.end.then(() => true))
})
