// The judge of chaos runs, shown a run in which all went well, and the same run with one thing wrong at a time.

import t from 'tap'
import { type BillLine, callsOf, textOf } from './bill.ts'
import type { CostSummary } from './charges.ts'
import { check, type Evidence } from './checker.ts'
import type { HistoryLine, StreamReading } from './history.ts'
import type { SeenJob } from './jobs.ts'
import { createReading } from './reading.ts'

const begun = (call: number, mark: string, at: number, door = 'worker-1', upstream: 'box' | 'openai' = 'box'): BillLine => ({
  t: 'begin',
  call,
  upstream,
  door,
  attempt: `attempt-${call}`,
  mark,
  at
})
const ended = (call: number, at: number, cut = false): BillLine => ({ t: 'end', call, cut, at })
const submitted = (mark: string, kind: 'chat' | 'openai.chat', at: number): HistoryLine => ({
  t: 'submit',
  key: `key-${mark}`,
  mark,
  kind,
  at
})
const acknowledged = (mark: string, id: string, at: number): HistoryLine => ({ t: 'ack', key: `key-${mark}`, id, status: 202, at })
const seen = (id: string, call: number, at: number): HistoryLine => ({ t: 'finished', id, status: 'done', text: textOf(call), at })
const job = (id: string, kind: 'chat' | 'openai.chat', call: number, cost: number): SeenJob => ({
  id,
  kind,
  status: 'done',
  attempts: 1,
  cost_usd: cost,
  result: { choices: [{ message: { content: textOf(call) } }] },
  error: null
})
const reading: StreamReading = { text: textOf(1), status: 'done', connections: 2, attempts: 1, faults: [] }

// a: one call. b: rented, one call. c: interrupted by a kill, begun again by another.
const bill: readonly BillLine[] = [
  begun(1, 'a', 100_100),
  ended(1, 100_200),
  begun(2, 'b', 100_150, 'worker-2', 'openai'),
  ended(2, 100_300),
  begun(3, 'c', 200_100, 'worker-1'),
  ended(3, 200_151, true),
  begun(4, 'c', 203_500, 'worker-2'),
  ended(4, 203_600)
]
const history: readonly HistoryLine[] = [
  submitted('a', 'chat', 100_000),
  acknowledged('a', 'A', 100_050),
  acknowledged('a', 'A', 100_060),
  { t: 'streamed', id: 'A', reading, at: 100_210 },
  seen('A', 1, 100_250),
  submitted('b', 'openai.chat', 100_000),
  acknowledged('b', 'B', 100_050),
  seen('B', 2, 100_350),
  submitted('c', 'chat', 200_000),
  acknowledged('c', 'C', 200_050),
  { t: 'fault', kind: 'kill', process: 'worker-1', at: 200_150 },
  seen('C', 4, 203_700)
]
const summary: CostSummary = {
  unknown_price_attempts: 0,
  by_provider: [
    { provider: 'ollama', attempts: 3, cost_usd: 0.002 },
    { provider: 'openai', attempts: 1, cost_usd: 1 }
  ]
}
const jobs: readonly SeenJob[] = [job('A', 'chat', 1, 0.001), job('B', 'openai.chat', 2, 1), job('C', 'chat', 4, 0.001)]

interface Change {
  readonly bill?: readonly BillLine[]
  readonly history?: readonly HistoryLine[]
  readonly jobs?: readonly SeenJob[]
  readonly summary?: CostSummary | null
}

function evidence(change: Change): Evidence {
  return {
    history: change.history ?? history,
    calls: callsOf(change.bill ?? bill),
    jobs: new Map((change.jobs ?? jobs).map(given => [given.id, given])),
    summary: change.summary === undefined ? summary : change.summary,
    limit: 2
  }
}

function withJob(change: Partial<SeenJob>): readonly SeenJob[] {
  return jobs.map((given, index) => (index === 0 ? { ...given, ...change } : given))
}

function withReading(change: Partial<StreamReading>): readonly HistoryLine[] {
  return history.map(line => (line.t === 'streamed' ? { ...line, reading: { ...reading, ...change } } : line))
}

t.test('a run in which every job ended once and was charged once is found right', async t => {
  const verdict = check(evidence({}))
  t.same(verdict.violations, [])
  t.match(verdict, { acknowledged: 3, lost: 0, doubled: 0, resumedStreams: 1, charges: { billed: 4, charged: 4, notArrived: 0 } })
  t.same(verdict.recovery.box, { count: 1, p50: 3_350, max: 3_350 })
})

const wrongs: readonly (readonly [string, Change, RegExp])[] = [
  ['a job that nobody knows any more', { jobs: jobs.slice(1) }, /^lost: job A/],
  ['a job that runs for ever', { jobs: withJob({ status: 'running' }) }, /^stuck: job A .* is running/],
  ['a job that failed on a machine that never fails', { jobs: withJob({ status: 'error' }) }, /^failed: job A/],
  ['a result that no machine gave', { jobs: withJob({ result: { choices: [{ message: { content: 'x' } }] } }) }, /^result: .*is no call/],
  ["another job's result", { jobs: withJob({ result: job('A', 'chat', 4, 1).result }) }, /^result: .*belongs to c/],
  [
    'the result of a call that was cut',
    { bill: bill.map(line => (line.t === 'end' && line.call === 4 ? { ...line, cut: true } : line)) },
    /^result: .*was cut/
  ],
  [
    'a result that changed after it was seen',
    { history: history.map(line => (line.t === 'finished' && line.id === 'C' ? { ...line, text: textOf(3) } : line)) },
    /^late writer: job C/
  ],
  [
    'a result that changed after it was seen, and was seen again',
    { history: [...history, seen('A', 3, 100_300)], jobs: withJob({ result: job('A', 'chat', 3, 1).result }) },
    /^late writer: job A/
  ],
  ['two jobs for one key', { history: [...history, acknowledged('a', 'B', 100_070)] }, /^doubled: key-a became 2 jobs/],
  ['one job for two keys', { history: [...history, acknowledged('b', 'A', 100_070)] }, /^doubled: key-a and key-b are one job/],
  [
    'two calls of one attempt',
    { bill: bill.map(line => (line.t === 'begin' ? { ...line, attempt: 'same' } : line)) },
    /^attempt same made 4 calls/
  ],
  ['an event out of order', { history: withReading({ faults: ['message 1-3 after 1-1'] }) }, /^stream: message 1-3/],
  ['a stream with another text than the result', { history: withReading({ text: 'call' }) }, /^stream: job A ended with "call"/],
  [
    'a stream that ends in the middle as if it were whole',
    { history: [...history, { t: 'asked', mark: 'd', stream: true, answer: { outcome: 'truncated', text: 'ca' }, at: 1 }] },
    /^truncated: d/
  ],
  [
    "a caller who got another's answer",
    { history: [...history, { t: 'asked', mark: 'd', stream: false, answer: { outcome: 'answered', text: textOf(1) }, at: 1 }] },
    /^answer: that of d belongs to a/
  ],
  [
    'a good request that is refused',
    { history: [...history, { t: 'refused', what: 'submit', status: 400, text: '', at: 1 }] },
    /^refused: submit: 400/
  ],
  [
    'a process that ends by itself',
    { history: [...history, { t: 'fault', kind: 'ended', process: 'worker-3', note: 'after it was ready, code 1', at: 900_000 }] },
    /^ended by itself: worker-3/
  ],
  [
    'a call that nobody charged',
    { summary: { ...summary, by_provider: summary.by_provider.map(row => ({ ...row, attempts: row.attempts - 1 })) } },
    /^charge missing: 3 calls of box, 2 charges/
  ],
  [
    'a rented job charged twice',
    { jobs: jobs.map(given => (given.id === 'B' ? { ...given, cost_usd: 2 } : given)) },
    /^charge doubled: job B/
  ],
  [
    'a rented job charged nothing',
    { jobs: jobs.map(given => (given.id === 'B' ? { ...given, cost_usd: 0 } : given)) },
    /^charge missing: job B/
  ],
  ['an own job charged twice', { jobs: withJob({ cost_usd: 0.002 }) }, /^charge doubled: job A/],
  ['an own job charged nothing', { jobs: withJob({ cost_usd: null }) }, /^charge missing: job A/],
  [
    'three calls at once on two places',
    { bill: [...bill, begun(5, 'x', 100_110), begun(6, 'y', 100_120), ended(5, 100_190), ended(6, 100_190)] },
    /^concurrency: 3 calls at once on 2 places/
  ]
]

for (const [wrong, change, expected] of wrongs) {
  t.test(`${wrong} is found`, async t => {
    const { violations } = check(evidence(change))
    t.ok(
      violations.some(violation => expected.test(violation)),
      violations.join('\n')
    )
  })
}

t.test('money is not looked at before the books are closed, and everything else is', async t => {
  t.match(check(evidence({ summary: null, jobs: jobs.slice(1) })).violations, [/^lost: job A/])
  t.same(check(evidence({ summary: null, jobs: withJob({ cost_usd: null }) })).violations, [])
})

t.test('a charge for an attempt that never arrived is no doubled one, where a fault explains it', async t => {
  const change = {
    jobs: [...jobs, job('D', 'openai.chat', 5, 2)],
    bill: [...bill, begun(5, 'd', 200_300, 'worker-2', 'openai'), ended(5, 200_400)],
    history: [...history, submitted('d', 'openai.chat', 200_000), acknowledged('d', 'D', 200_010), seen('D', 5, 200_500)],
    summary: {
      ...summary,
      by_provider: summary.by_provider.map(row => ({
        ...row,
        attempts: row.attempts + (row.provider === 'openai' ? 2 : 0),
        cost_usd: row.cost_usd + 2
      }))
    }
  }
  const verdict = check(evidence(change))
  t.same(verdict.violations, [])
  t.equal(verdict.charges.notArrived, 1)
})

t.test('a frozen process may hold its places above the limit, and nobody else', async t => {
  const over: readonly BillLine[] = [
    begun(5, 'x', 300_000, 'worker-3'),
    begun(6, 'y', 303_500, 'worker-1'),
    begun(7, 'z', 303_600, 'worker-1'),
    ended(6, 303_700),
    ended(7, 303_700),
    ended(5, 304_000)
  ]
  const frozen: readonly HistoryLine[] = [
    { t: 'fault', kind: 'stop', process: 'worker-3', at: 300_010 },
    { t: 'fault', kind: 'continue', process: 'worker-3', at: 304_500 }
  ]
  const books = {
    ...summary,
    by_provider: summary.by_provider.map(row => ({ ...row, attempts: row.attempts + (row.provider === 'ollama' ? 3 : 0) }))
  }
  const verdict = check(evidence({ bill: [...bill, ...over], history: [...history, ...frozen], summary: books }))
  t.same(verdict.violations, [])
  t.match(verdict.concurrency, { most: 3, mostAwake: 2 })
  t.match(check(evidence({ bill: [...bill, ...over], summary: books })).violations, [/^concurrency: 3 calls/])
})

t.test('a stream that is read over two connections is one reading', async t => {
  const reading = createReading()
  const chunk = (content: string): string => JSON.stringify({ choices: [{ delta: { content } }] })
  const frames = [
    { id: null, event: 'status', data: '{}' },
    { id: '1-0', event: 'attempt', data: '{}' },
    { id: '1-1', event: 'message', data: chunk('never mind') },
    { id: '2-0', event: 'attempt', data: '{}' },
    { id: '2-1', event: 'message', data: chunk('a ') },
    { id: '2-2', event: 'message', data: chunk('b') },
    { id: '2-3', event: 'result', data: JSON.stringify({ result: { choices: [{ message: { content: 'a b' } }] } }) },
    { id: '2-4', event: 'end', data: '{"status":"done"}' }
  ]
  for (const frame of frames) reading.take(frame)
  t.equal(reading.isOver(), true)
  t.same(reading.done(2), { text: 'a b', status: 'done', connections: 2, attempts: 2, faults: [] })
})

t.test('an event that comes twice, or is left out, is a fault of the stream', async t => {
  const reading = createReading()
  for (const id of ['1-0', '1-1', '1-1', '1-3']) reading.take({ id, event: 'message', data: '{}' })
  t.same(reading.done(1).faults, ['message 1-1 after 1-1', 'message 1-3 after 1-1'])
})
