import { mock } from 'node:test'
import t from 'tap'
import { createLedger, type RunningLedger } from '../../ledger/ledger.ts'
import { type ErrorCode, type ErrorOptions, GatewayError } from '../../routing/errors.ts'
import type { Settlement } from '../../routing/ports.ts'
import type { Attempt, Caller, Device, Price, Target, Usage } from '../../routing/types.ts'
import type { CostRow } from '../../store/costs.ts'
import { fc } from '../support/properties.ts'

const caller: Caller = { keyId: 'key-1', source: 'me', subSource: 'anna', kind: 'source', models: null, providers: null }
// 360 W at 0.25 $/kWh are 25 nano-dollars a millisecond.
const device: Device = { id: 'box', maxConcurrency: 1, watts: 360, vramGb: null, ramGb: null, keepAlive: null, numCtx: null }
// A prompt token costs 1,000 nano-dollars, a token of the answer 10,000.
const priced: Price = { source: 'config', tokens: { inputUsdPer1m: 1, outputUsdPer1m: 10 } }

interface Kind {
  readonly price?: Price
  readonly device?: Device | null
}

function attemptFor(id: string, { price = priced, device: machine = null }: Kind = {}): Attempt {
  const target: Target = {
    id: 'up/m',
    upstream: {
      id: 'up',
      adapter: 'fake',
      own: machine !== null,
      baseUrl: '',
      apiKey: null,
      headers: {},
      device: machine,
      timeouts: { connectMs: 1, firstTokenMs: 1, idleMs: 1, totalMs: 1 },
      models: null,
      auto: [],
      streamUsage: true,
      registryId: null
    },
    model: 'm',
    contextTokens: null,
    maxOutputTokens: null,
    features: null,
    operations: ['chat', 'complete'],
    loaded: true,
    price,
    createdAt: 0
  }
  return {
    id,
    target,
    request: {
      id: 'request-1',
      operation: 'chat',
      body: { bytes: Buffer.alloc(0), json: () => ({}), with: () => Buffer.alloc(0) },
      model: 'm',
      stream: true,
      includeUsage: false,
      streamOptions: null,
      maxOutputTokens: null,
      needs: [],
      choices: 1,
      prompt: { low: 30, expected: 100 },
      longest: { low: 30, expected: 100 },
      input: null,
      embedding: null,
      localOnly: false
    }
  }
}

const usage = (changes: Partial<Usage> = {}): Usage => ({
  promptTokens: 40,
  completionTokens: 5,
  cachedTokens: 0,
  reasoningTokens: 0,
  providerNanoUsd: null,
  busyMs: null,
  ...changes
})

const settlement = (changes: Partial<Settlement> = {}): Settlement => ({
  outcome: 'ok',
  usage: usage(),
  tokensSeen: 5,
  sent: true,
  error: null,
  durationMs: 2_000.4,
  ttftMs: 100.6,
  ...changes
})

const failed = (code: ErrorCode, options: ErrorOptions = {}, changes: Partial<Settlement> = {}): Settlement =>
  settlement({
    outcome: code === 'client_gone' ? 'aborted' : 'failed',
    usage: null,
    tokensSeen: 0,
    ttftMs: null,
    error: new GatewayError(code, 'x', options),
    ...changes
  })

/** Until this turn of the loop is over. */
function turn(): Promise<void> {
  return new Promise(resolve => setImmediate(resolve))
}

/** A ledger whose journal and database write down what they are told. */
function createBooks(behaviour: { readonly insert?: (rows: readonly CostRow[]) => Promise<void> } = {}) {
  const journal = { intents: [] as CostRow[], settled: [] as CostRow[], stored: [] as string[], writes: 0, closed: 0, fails: false }
  const inserted: (readonly CostRow[])[] = []
  const logged: string[] = []
  let nowMs = 1_000
  const ledger: RunningLedger = createLedger({
    journal: {
      intent(row, settled = []) {
        if (journal.fails) throw new Error('no space left')
        journal.writes++
        journal.settled.push(...settled)
        journal.intents.push(row)
      },
      settle(...rows) {
        if (journal.fails) throw new Error('no space left')
        journal.writes++
        journal.settled.push(...rows)
      },
      stored: rows => journal.stored.push(...rows.map(({ attemptId }) => attemptId)),
      close: () => journal.closed++
    },
    async insert(rows) {
      await behaviour.insert?.(rows)
      inserted.push(rows)
    },
    usdPerKwh: 0.25,
    now: () => nowMs++,
    log: message => logged.push(message)
  })
  return {
    ledger,
    journal,
    inserted,
    logged,
    ids: () => inserted.flat().map(({ attemptId }) => attemptId),
    book(id: string, kind?: Kind, how: Settlement = settlement()) {
      const attempt = attemptFor(id, kind)
      ledger.begin(attempt, caller)
      return ledger.settle(attempt, how)
    }
  }
}

mock.timers.enable({ apis: ['setTimeout'] })
t.teardown(() => mock.timers.reset())

/** So many milliseconds, and everything that follows from them. */
async function pass(ms: number): Promise<void> {
  mock.timers.tick(ms)
  for (let turn = 0; turn < 5; turn++) await new Promise(resolve => setImmediate(resolve))
}

t.test('before the call, what its prompt costs is written down as lost', async t => {
  const { ledger, journal } = createBooks()
  ledger.begin(attemptFor('a'), caller)
  t.strictSame(journal.intents, [
    {
      attemptId: 'a',
      requestId: 'request-1',
      jobId: null,
      source: 'me',
      subSource: 'anna',
      keyId: 'key-1',
      provider: 'up',
      model: 'm',
      deviceId: null,
      outcome: 'lost',
      errorCode: 'process_lost',
      promptTokens: 100,
      completionTokens: 0,
      cachedTokens: 0,
      reasoningTokens: 0,
      costNanoUsd: 100_000,
      priceSource: 'config',
      estimated: true,
      ttftMs: null,
      durationMs: 0,
      startedAt: 1_000,
      finishedAt: 1_000
    }
  ])
  ledger.begin(attemptFor('b', { price: { source: 'unknown', tokens: null } }), caller)
  t.match(journal.intents[1], { costNanoUsd: null, priceSource: 'unknown' })
  ledger.begin(attemptFor('c', { price: { source: 'electricity', tokens: null }, device }), { ...caller, keyId: null })
  t.match(journal.intents[2], { costNanoUsd: 0, priceSource: 'electricity', provider: 'up', deviceId: 'box', keyId: null })
})

t.test('what cannot be written down is not begun', async t => {
  const { ledger, journal } = createBooks()
  journal.fails = true
  t.throws(() => ledger.begin(attemptFor('a'), caller), /no space/)
  t.throws(() => ledger.settle(attemptFor('a'), settlement()), /twice or never begun/)
})

t.test('an attempt is settled once', async t => {
  const { ledger, journal } = createBooks()
  const attempt = attemptFor('a')
  ledger.begin(attempt, caller)
  ledger.settle(attempt, settlement())
  t.throws(() => ledger.settle(attempt, settlement()), /twice/)
  t.throws(() => ledger.settle(attemptFor('b'), settlement()), /never begun/)
  await turn()
  t.equal(journal.settled.length, 1)
})

t.test('settlements are in the journal when the turn of the loop is over, or with the next intent, in one write', async t => {
  const { book, ledger, journal } = createBooks()
  book('a')
  t.equal(journal.writes, 1, 'its intent')
  book('b')
  t.equal(journal.writes, 2, 'the settlement of the first went with the intent of the second')
  t.same(
    journal.settled.map(({ attemptId }) => attemptId),
    ['a']
  )
  book('c')
  await turn()
  t.equal(journal.writes, 4)
  t.same(
    journal.settled.map(({ attemptId }) => attemptId),
    ['a', 'b', 'c']
  )
  await turn()
  t.equal(journal.writes, 4, 'and nothing is written twice')
  book('d')
  journal.fails = true
  t.throws(() => ledger.begin(attemptFor('e'), caller))
  journal.fails = false
  await turn()
  t.equal(journal.settled.at(-1)?.attemptId, 'd', 'an intent that could not be written takes no settlement with it')
})

const own: Kind = { price: { source: 'electricity', tokens: null }, device }
const unknown: Kind = { price: { source: 'unknown', tokens: null } }
const reset = Object.assign(new Error('reset'), { code: 'ECONNRESET' })

t.test('what an attempt costs: counted, estimated, known to be nothing, or unknown', async t => {
  const cases: readonly [
    name: string,
    kind: Kind,
    how: Settlement,
    nanoUsd: number | null,
    source: string,
    estimated: boolean,
    tokens: readonly [number, number]
  ][] = [
    // answered
    ['answered and counted', {}, settlement(), 90_000, 'config', false, [40, 5]],
    ['answered, nobody counted', {}, settlement({ usage: null }), 150_000, 'config', true, [100, 5]],
    ['the provider says what it charged', {}, settlement({ usage: usage({ providerNanoUsd: 7 }) }), 7, 'provider', false, [40, 5]],
    ['the provider says nothing was charged', {}, settlement({ usage: usage({ providerNanoUsd: 0 }) }), 0, 'provider', false, [40, 5]],
    ['nobody knows the price', unknown, settlement(), null, 'unknown', false, [40, 5]],
    ['nobody knows the price, nobody counted', unknown, settlement({ usage: null }), null, 'unknown', true, [100, 5]],
    // turned down: nothing was begun
    ['refused', {}, failed('upstream_refused'), 0, 'free', false, [0, 0]],
    ['refused, at an unknown price', unknown, failed('upstream_refused'), 0, 'free', false, [0, 0]],
    ['told to wait', {}, failed('upstream_rate_limited'), 0, 'free', false, [0, 0]],
    ['denied', {}, failed('upstream_denied'), 0, 'free', false, [0, 0]],
    ['not there', {}, failed('upstream_lacks_model'), 0, 'free', false, [0, 0]],
    ['too long', {}, failed('context_length_exceeded'), 0, 'free', false, [0, 0]],
    ['an error of its own', {}, failed('upstream_unavailable', { status: 502 }), 0, 'free', false, [0, 0]],
    // never left
    ['nobody listens', {}, failed('upstream_unavailable', { cause: reset }, { sent: false }), 0, 'free', false, [0, 0]],
    ['a time-out while connecting', {}, failed('upstream_unavailable', { status: 504 }, { sent: false }), 0, 'free', false, [0, 0]],
    ['left before it was sent', {}, failed('client_gone', {}, { sent: false }), 0, 'free', false, [0, 0]],
    ['could not be made', {}, failed('internal_error', {}, { sent: false }), 0, 'free', false, [0, 0]],
    // may have been begun: the prompt at least
    ['a reset before the answer', {}, failed('upstream_unavailable', { cause: reset }), 100_000, 'config', true, [100, 0]],
    ['silent for too long', {}, failed('upstream_unavailable', { status: 504 }), 100_000, 'config', true, [100, 0]],
    ['the client left before the first token', {}, failed('client_gone'), 100_000, 'config', true, [100, 0]],
    ['the same at an unknown price', unknown, failed('client_gone'), null, 'unknown', true, [100, 0]],
    ['broke off before anything was passed on', {}, failed('upstream_broke'), 100_000, 'config', true, [100, 0]],
    // was begun
    ['broke off', {}, failed('upstream_broke', {}, { tokensSeen: 3 }), 130_000, 'config', true, [100, 3]],
    ['the client left', {}, failed('client_gone', {}, { tokensSeen: 3 }), 130_000, 'config', true, [100, 3]],
    [
      'broke off, figures were there',
      {},
      failed('upstream_broke', {}, { usage: usage(), tokensSeen: 3 }),
      90_000,
      'config',
      false,
      [40, 5]
    ],
    [
      'the client left after figures for the prompt',
      {},
      failed('client_gone', {}, { usage: usage({ completionTokens: 0 }) }),
      40_000,
      'config',
      false,
      [40, 0]
    ],
    [
      'the same at an unknown price',
      unknown,
      failed('client_gone', {}, { usage: usage({ completionTokens: 0 }) }),
      null,
      'unknown',
      false,
      [40, 0]
    ],
    [
      'refused, with figures that are 0',
      {},
      failed('upstream_refused', {}, { usage: usage({ promptTokens: 0, completionTokens: 0 }) }),
      0,
      'free',
      false,
      [0, 0]
    ],
    [
      'refused, and the provider says it cost nothing',
      unknown,
      failed('upstream_unavailable', {}, { usage: usage({ providerNanoUsd: 0, completionTokens: 0 }) }),
      0,
      'provider',
      false,
      [40, 0]
    ],
    // own machines
    [
      'an own machine that says how long it worked',
      own,
      settlement({ usage: usage({ busyMs: 1_000 }) }),
      25_000,
      'electricity',
      false,
      [40, 5]
    ],
    ['an own machine that does not', own, settlement({ durationMs: 4_000 }), 100_000, 'electricity', false, [40, 5]],
    ['one of four calls at a time', own, settlement({ durationMs: 4_000, sharedBy: 4 }), 25_000, 'electricity', false, [40, 5]],
    ['an own machine that turned it down', own, failed('upstream_rate_limited'), 0, 'electricity', false, [0, 0]],
    ['an own machine the client left', own, failed('client_gone', {}, { durationMs: 1_000 }), 25_000, 'electricity', true, [100, 0]],
    ['an own machine that is off', own, failed('upstream_unavailable', { cause: reset }, { sent: false }), 0, 'electricity', false, [0, 0]],
    ['an own machine with a price', { ...own, price: priced }, settlement(), 90_000, 'config', false, [40, 5]],
    // the demo
    ['free', { price: { source: 'free', tokens: null } }, settlement(), 0, 'free', false, [40, 5]],
    ['free, and left', { price: { source: 'free', tokens: null } }, failed('client_gone'), 0, 'free', true, [100, 0]]
  ]
  for (const [name, kind, how, nanoUsd, source, estimated, tokens] of cases) {
    const { book, journal } = createBooks()
    const [promptTokens, completionTokens] = tokens
    t.strictSame(book('a', kind, how), { nanoUsd, estimated, promptTokens, completionTokens }, name)
    await turn()
    const [row] = journal.settled
    t.strictSame(
      [row?.costNanoUsd, row?.priceSource, row?.estimated, row?.promptTokens, row?.completionTokens, row?.outcome, row?.errorCode],
      [nanoUsd, source, estimated, ...tokens, how.outcome, how.error?.code ?? null],
      name
    )
  }
})

t.test('a settled row is whole numbers, within what the table takes', async t => {
  const { book, journal } = createBooks()
  book('a', {}, settlement({ usage: usage({ cachedTokens: 99, reasoningTokens: 2 }) }))
  await turn()
  t.match(journal.settled[0], { cachedTokens: 40, reasoningTokens: 2, ttftMs: 101, durationMs: 2_000, startedAt: 1_000, finishedAt: 1_001 })
  book('b', {}, settlement({ ttftMs: null }))
  await turn()
  t.equal(journal.settled[1]?.ttftMs, null)
})

t.test('a settlement the journal refuses still goes to the database', async t => {
  const { ledger, journal, logged, ids } = createBooks()
  ledger.begin(attemptFor('a'), caller)
  journal.fails = true
  t.equal(ledger.settle(attemptFor('a'), settlement()).nanoUsd, 90_000)
  await turn()
  t.equal(logged.length, 1)
  await pass(100)
  t.same(ids(), ['a'])
})

t.test('rows reach the database within a tenth of a second, together, in order, at most 500 at once', async t => {
  const { book, inserted, ids, journal } = createBooks()
  const names = Array.from({ length: 1_200 }, (_, index) => `a${index}`)
  for (const name of names) book(name)
  await pass(99)
  t.equal(inserted.length, 0)
  t.same(journal.stored, [])
  await pass(1)
  t.same(
    inserted.map(rows => rows.length),
    [500, 500, 200]
  )
  t.same(ids(), names)
  t.same(journal.stored, names)
  book('late')
  await pass(100)
  t.same(ids().at(-1), 'late')
})

t.test('while the database is away rows are kept, tried again ever more slowly, and lose neither order nor count', async t => {
  let isAway = true
  const tries: string[][] = []
  const { book, ids, logged, journal } = createBooks({
    async insert(rows) {
      tries.push(rows.map(({ attemptId }) => attemptId))
      if (isAway) throw new Error('connection refused')
    }
  })
  book('a')
  await pass(100)
  t.same(tries, [['a']])
  book('b')
  await pass(199)
  t.equal(tries.length, 1, 'not before twice the time')
  await pass(1)
  t.same(tries.at(-1), ['a', 'b'])
  await pass(399)
  t.equal(tries.length, 2)
  await pass(1)
  t.equal(tries.length, 3)
  for (let round = 0; round < 10; round++) await pass(5_000)
  t.ok(tries.length >= 10, 'at the latest every five seconds')
  t.equal(logged.length, 1, 'told once')
  t.same(journal.stored, [])
  isAway = false
  await pass(5_000)
  t.same(ids(), ['a', 'b'])
  t.same(journal.stored, ['a', 'b'])
  isAway = true
  book('c')
  await pass(100)
  t.equal(logged.length, 2, 'and again the next time')
  isAway = false
  await pass(200)
  t.same(ids(), ['a', 'b', 'c'])
})

t.test('what is settled during a write goes with the next one', async t => {
  const { promise, resolve } = Promise.withResolvers<void>()
  let writes = 0
  const { book, ids, inserted } = createBooks({
    async insert() {
      if (writes++ === 0) await promise
    }
  })
  book('a')
  await pass(100)
  book('b')
  await pass(1_000)
  t.equal(writes, 1, 'only one at a time')
  resolve()
  await pass(0)
  t.same(ids(), ['a', 'b'])
  t.equal(inserted.length, 2)
})

t.test('50,000 rows wait in memory, what comes then waits in the journal, and is told once', async t => {
  let isAway = true
  const { book, ids, logged, journal } = createBooks({
    async insert() {
      if (isAway) throw new Error('connection refused')
    }
  })
  for (let index = 0; index < 50_010; index++) book(`a${index}`)
  await turn()
  t.equal(journal.settled.length, 50_010)
  t.equal(logged.length, 1)
  isAway = false
  await pass(100)
  for (let turn = 0; turn < 50; turn++) await pass(0)
  t.equal(ids().length, 50_000)
  t.equal(ids().at(-1), 'a49999')
  t.equal(journal.stored.length, 50_000, 'what was not stored is not called stored')
  book('later')
  await pass(100)
  t.equal(ids().at(-1), 'later')
})

t.test('a row the database refuses does not hold up the others', async t => {
  const { book, ids, logged, journal } = createBooks({
    async insert(rows) {
      if (rows.some(({ attemptId }) => attemptId === 'bad')) throw Object.assign(new Error('bad value'), { code: '22P05' })
    }
  })
  book('a')
  book('bad')
  book('b')
  await pass(100)
  t.same(ids(), ['a', 'b'])
  t.equal(logged.length, 1)
  t.same(journal.stored, ['a', 'bad', 'b'], 'it is in the log')
})

t.test('a flush ends when all is stored, or when its time is over', async t => {
  const quick = createBooks()
  quick.book('a')
  await quick.ledger.flush(1_000)
  t.same(quick.ids(), ['a'])

  const stuck = createBooks({ insert: () => new Promise(() => {}) })
  stuck.book('a')
  let isOver = false
  const flushed = stuck.ledger.flush(1_000).then(() => {
    isOver = true
  })
  await pass(999)
  t.equal(isOver, false)
  await pass(1)
  await flushed
  t.same(stuck.ids(), [])
})

t.test('a flush goes on trying while it has time, also when the database comes back late', async t => {
  let triesUntilBack = 6
  const late = createBooks({
    async insert() {
      if (--triesUntilBack > 0) throw new Error('connection refused')
    }
  })
  late.book('a')
  let isOver = false
  const flushed = late.ledger.flush(3_000).then(() => {
    isOver = true
  })
  for (let round = 0; round < 4; round++) await pass(100)
  t.equal(isOver, false)
  for (let round = 0; round < 20 && !isOver; round++) await pass(100)
  await flushed
  t.same(late.ids(), ['a'])
  t.equal(triesUntilBack, 0, 'nothing is tried once all is stored')

  let tries = 0
  const away = createBooks({
    insert() {
      tries++
      return Promise.reject(new Error('connection refused'))
    }
  })
  away.book('a')
  isOver = false
  const closed = away.ledger.close().then(() => {
    isOver = true
  })
  for (let round = 0; round < 29; round++) await pass(100)
  t.equal(isOver, false)
  t.ok(tries > 10 && tries <= 30, `${tries} tries in three seconds`)
  await pass(100)
  await closed
  const before = tries
  await pass(60_000)
  t.equal(tries, before, 'and none after it')
})

t.test('closing stores what waits and closes the journal', async t => {
  const { book, ledger, ids, journal } = createBooks()
  book('a')
  await ledger.close()
  t.same(ids(), ['a'])
  t.equal(journal.closed, 1)

  let tries = 0
  const away = createBooks({
    insert() {
      tries++
      return Promise.reject(new Error('connection refused'))
    }
  })
  away.book('a')
  const closing = away.ledger.close()
  await pass(3_000)
  await closing
  t.equal(away.journal.closed, 1)
  t.same(away.journal.stored, [], 'the journal keeps it')
  const before = tries
  await pass(60_000)
  t.equal(tries, before, 'nothing is tried after the end')
})

t.test('whatever the database does, each settled attempt is stored once, in the order they were settled', async t => {
  const step = fc.oneof(
    { weight: 4, arbitrary: fc.constant('settle' as const) },
    { weight: 2, arbitrary: fc.integer({ min: 1, max: 6_000 }) },
    { weight: 1, arbitrary: fc.constantFrom('fail' as const, 'lose' as const, 'work' as const) }
  )
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), async steps => {
      let mode: 'fail' | 'lose' | 'work' = 'work'
      const table = new Map<string, CostRow>()
      const { book, journal } = createBooks({
        async insert(rows) {
          if (mode === 'fail') throw new Error('away')
          for (const row of rows) if (!table.has(row.attemptId)) table.set(row.attemptId, row)
          // The rows are there, but nobody hears of it.
          if (mode === 'lose') throw new Error('the answer was lost')
        }
      })
      const settled: string[] = []
      for (const one of steps) {
        if (one === 'settle') {
          const id = `a${settled.length}`
          settled.push(id)
          book(id)
        } else if (typeof one === 'number') await pass(one)
        else mode = one
      }
      mode = 'work'
      await pass(5_000)
      await pass(5_000)
      const stored = [...table.keys()]
      return stored.join() === settled.join() && journal.stored.join() === settled.join()
    }),
    { numRuns: 300 }
  )
  t.pass()
})
