import t from 'tap'
import { type Alias, createCatalog } from '../../routing/catalog.ts'
import { createDispatch } from '../../routing/dispatch.ts'
import { type ErrorCode, type ErrorOptions, GatewayError } from '../../routing/errors.ts'
import { createLoad } from '../../routing/load.ts'
import type { Reply, ReplyFacts, RunSummary, Settlement } from '../../routing/ports.ts'
import type { Run, RunPorts } from '../../routing/run-ports.ts'
import type { PriceBook } from '../../routing/targets.ts'
import type { Adapter, Attempt, AttemptEnd, AttemptHandle, AttemptObserver, ModelRequest, Target, Usage } from '../../routing/types.ts'
import { fc } from '../support/properties.ts'
import { caller, requestFor, targetOn } from './dispatch-stage.ts'

const prices: PriceBook = { configured: new Map(), registered: () => null }

const rented = (id: string, changes: Partial<Target> = {}) => targetOn(id, changes)
const own = (id: string, changes: Partial<Target> = {}) => targetOn(id, changes, { own: true })

const usage: Usage = { promptTokens: 3, completionTokens: 2, cachedTokens: 0, reasoningTokens: 0, providerNanoUsd: null, busyMs: null }
const usageEvent = Buffer.from('data: {"choices":[],"usage":{"prompt_tokens":3}}\n\n')

const failure = (code: ErrorCode, options: ErrorOptions = {}): AttemptEnd => ({
  ok: false,
  error: new GatewayError(code, `${code} of an upstream`, options),
  sent: true
})

/** A call of a fake adapter, to be carried on by the test. */
interface Launched {
  readonly attempt: Attempt
  readonly observer: AttemptObserver
  readonly calls: { resumed: number; aborted: number }
  frames(text: string, tokens: number): boolean
  end(end?: AttemptEnd): void
}

interface World {
  readonly targets: readonly Target[]
  readonly aliases?: Readonly<Record<string, Alias>>
  readonly onLaunch?: (launched: Launched) => void
  readonly claim?: (deviceId: string, attemptId: string) => Promise<boolean>
  readonly retriesLeft?: number
  readonly journal?: 'broken'
  readonly nanoUsd?: number | null
  readonly vectorSpaces?: Readonly<Record<string, string>>
  readonly ports?: Partial<RunPorts>
  /** Whatever the reply is told, before it is written down; may act on the run. */
  readonly onReply?: (what: string, run: () => Run | null) => void
  readonly full?: () => boolean
}

/** A dispatcher whose every port writes down what it is told. */
function createWorld(world: World) {
  let nowMs = 1_000
  let ids = 0
  let run: Run | null = null
  let retriesLeft = world.retriesLeft ?? 3
  const log: string[] = []
  const failed: string[] = []
  const launched: Launched[] = []
  const settlements: Settlement[] = []
  const facts: ReplyFacts[] = []
  const summaries: RunSummary[] = []
  const books = { begun: [] as string[], settled: [] as string[] }
  const slots = { granted: [] as string[], released: [] as string[] }
  const recorded: string[] = []
  const missing: string[] = []
  const retries = { counted: 0, taken: 0 }
  const load = createLoad(() => nowMs)

  const adapter: Adapter = {
    name: 'fake',
    features: new Set(),
    chat: launch,
    embed: launch,
    listModels: async () => []
  }

  function launch(attempt: Attempt, observer: AttemptObserver): AttemptHandle {
    let over = false
    const calls = { resumed: 0, aborted: 0 }
    const one: Launched = {
      attempt,
      observer,
      calls,
      frames: (text, tokens) => (over ? true : observer.frames(Buffer.from(text), tokens)),
      end(end = { ok: true }) {
        if (over) return
        over = true
        observer.end(end)
      }
    }
    launched.push(one)
    world.onLaunch?.(one)
    return {
      resume() {
        calls.resumed++
      },
      abort() {
        calls.aborted++
        one.end(failure('client_gone'))
      }
    }
  }

  const upstreams = [...new Map(world.targets.map(({ upstream }) => [upstream.id, upstream])).values()]
  const catalog = createCatalog({
    upstreams,
    targets: world.targets,
    listed: new Set(upstreams.map(({ id }) => id)),
    aliases: new Map(Object.entries(world.aliases ?? {})),
    auto: [],
    prices,
    vectorSpaces: new Map(Object.entries(world.vectorSpaces ?? {})),
    demo: targetOn('echo', { model: 'echo' })
  })
  const errors: GatewayError[] = []
  const dimensions = new Map<string, number>()
  const claim = world.claim ?? (() => Promise.resolve(true))
  const ports: RunPorts = {
    catalog: () => catalog,
    adapters: new Map([['fake', adapter]]),
    health: {
      isDown: () => false,
      alive: () => {},
      failed: id => void failed.push(id)
    },
    breakers: { isOpen: () => false, begin: () => {}, record: (id, error) => recorded.push(`${id} ${error?.code ?? 'ok'}`) },
    load,
    retries: {
      count() {
        retries.counted++
      },
      take() {
        if (retriesLeft === 0) return false
        retriesLeft--
        retries.taken++
        return true
      }
    },
    slots: {
      async claim(deviceId, attemptId) {
        const granted = await claim(deviceId, attemptId)
        if (granted) slots.granted.push(`${deviceId} ${attemptId}`)
        return granted
      },
      release(deviceId, attemptId, afterMs) {
        slots.released.push(`${deviceId} ${attemptId}`)
        log.push(`release ${deviceId}${afterMs === 0 ? '' : ` in ${afterMs} ms`}`)
      }
    },
    ledger: {
      begin(attempt) {
        if (world.journal === 'broken') throw new Error('no space left')
        books.begun.push(attempt.id)
      },
      settle(attempt, settlement) {
        books.settled.push(attempt.id)
        settlements.push(settlement)
        return { nanoUsd: world.nanoUsd === undefined ? 1_500 : world.nanoUsd, estimated: false, promptTokens: 0, completionTokens: 0 }
      }
    },
    dimensions: {
      known: space => dimensions.get(space) ?? null,
      async learn(space, length) {
        if (!dimensions.has(space)) dimensions.set(space, length)
        return dimensions.get(space) as number
      }
    },
    localOnly: false,
    now: () => nowMs,
    random: () => 0,
    newId: () => `a${++ids}`,
    onMissing: target => missing.push(target.id),
    ...world.ports
  }

  function tell(what: string): void {
    log.push(what)
    world.onReply?.(what, () => run)
  }

  const reply: Reply = {
    start(known) {
      facts.push(known)
      tell(`start ${known.target.upstream.id}`)
    },
    frames(events) {
      tell(`frames ${events}`)
      return !(world.full?.() ?? false)
    },
    body: json => tell(`body ${json}`),
    finish: done => tell(`finish${done === null ? '' : ` ${done}`}`),
    fail(error) {
      errors.push(error)
      tell(`fail ${error.code}`)
    },
    over(summary) {
      summaries.push(summary)
      tell(`over ${summary.outcome}`)
    }
  }

  const dispatch = createDispatch(ports)
  return {
    log,
    errors,
    launched,
    settlements,
    facts,
    summaries,
    books,
    slots,
    recorded,
    missing,
    retries,
    load,
    pass(ms: number) {
      nowMs += ms
    },
    send(request: Partial<ModelRequest> = {}): Run {
      run = dispatch.run(requestFor(request), caller, reply)
      return run
    },
    lose: dispatch.lose,
    /** Machines on which a call failed. */
    failed,
    /** The call running now. */
    now(): Launched {
      const last = launched.at(-1)
      if (last === undefined) throw new Error('nothing was launched')
      return last
    },
    summary(): RunSummary {
      const [only, ...more] = summaries
      if (only === undefined || more.length > 0) throw new Error(`over ${summaries.length} times`)
      return only
    },
    /** What holds after every run, however it went. */
    faults(): string[] {
      const found: string[] = []
      const check = (holds: boolean, what: string): void => {
        if (!holds) found.push(what)
      }
      const said = log.map(line => line.split(' ')[0] as string).filter(word => word !== 'release')
      const count = (word: string) => said.filter(other => other === word).length
      check(count('over') === 1, `over ${count('over')} times`)
      check(said.at(-1) === 'over', 'told something after it was over')
      check(count('start') <= 1, 'started twice')
      check(
        count('fail') + count('finish') + count('body') <= 1 || (count('body') === 1 && count('fail') + count('finish') === 0),
        `ended twice: ${said}`
      )
      check(count('body') <= 1, 'two bodies')
      const ended = said.findIndex(word => word === 'fail' || word === 'finish' || word === 'body')
      check(ended === -1 || said.slice(ended + 1).every(word => word === 'over'), `told after its end: ${said}`)
      const begins = said.findIndex(word => word === 'frames' || word === 'body' || word === 'finish')
      check(begins === -1 || said.slice(0, begins).includes('start'), `told before its start: ${said}`)
      check(books.begun.join() === books.settled.join(), `begun ${books.begun}, settled ${books.settled}`)
      check([...slots.granted].sort().join() === [...slots.released].sort().join(), `granted ${slots.granted}, released ${slots.released}`)
      for (const { id } of upstreams) check(load.inFlight(id) === 0, `${id} has ${load.inFlight(id)} in flight`)
      check(retries.taken <= Math.max(0, books.begun.length - 1), `${retries.taken} retries taken for ${books.begun.length} attempts`)
      check(retries.counted === Math.min(1, books.begun.length), `counted ${retries.counted} times`)
      return found
    }
  }
}

/** Lets everything that is settled take its course. */
async function turn(times = 1): Promise<void> {
  for (let index = 0; index < times; index++) await new Promise(resolve => setImmediate(resolve))
}

t.test('an answer is passed on, and everything it took is given back', async t => {
  const world = createWorld({ targets: [own('home')] })
  world.send()
  await turn()
  const call = world.now()
  t.equal(call.attempt.id, 'a1')
  t.equal(world.load.inFlight('home'), 1)
  call.frames('role;', 0)
  t.same(world.log, [], 'what says nothing yet is held back')
  world.pass(40)
  call.frames('Hello;', 1)
  world.pass(60)
  call.frames('there;', 1)
  call.observer.usage(usage, usageEvent)
  call.end({ ok: true, done: Buffer.from('[DONE]') })
  t.same(world.log, ['start home', 'frames role;', 'frames Hello;', 'frames there;', 'release home-box', 'finish [DONE]', 'over ok'])
  t.same(world.facts, [{ target: world.facts[0]?.target, reason: 'only_target', nanoUsd: null, dropped: [] }])
  t.match(world.settlements, [{ outcome: 'ok', usage, tokensSeen: 2, sent: true, error: null, durationMs: 100, ttftMs: 40 }])
  t.match(world.summary(), { outcome: 'ok', error: null, target: { id: 'home/m' }, attempts: 1, usage, nanoUsd: 1_500, ttftMs: 40 })
  t.same(world.recorded, ['home/m ok'])
  t.same(world.faults(), [])
})

t.test('a rented target needs no slot and is called at once', async t => {
  const world = createWorld({ targets: [rented('cloud')] })
  world.send()
  t.equal(world.launched.length, 1)
  world.now().frames('x', 1)
  world.now().end()
  t.same(world.log, ['start cloud', 'frames x', 'finish', 'over ok'])
  t.same(world.slots.granted, [])
  t.same(world.faults(), [])
})

t.test('a failure before the first token moves on unseen, and nothing of the failed attempt leaks', async t => {
  const world = createWorld({ targets: [rented('a'), rented('b')] })
  world.send()
  world.now().frames('role of a;', 0)
  world.now().end(failure('upstream_unavailable'))
  t.equal(world.launched.length, 2)
  t.same(world.log, [])
  world.now().frames('role of b;', 0)
  world.now().frames('token of b;', 1)
  world.now().end()
  t.same(world.log, ['start b', 'frames role of b;', 'frames token of b;', 'finish', 'over ok'])
  t.match(world.facts, [{ reason: 'fallback' }])
  t.match(world.summary(), { attempts: 2, target: { id: 'b/m' } })
  t.same(world.recorded, ['a/m upstream_unavailable', 'b/m ok'])
  t.match(world.settlements, [{ outcome: 'failed', ttftMs: null }, { outcome: 'ok' }])
  t.same(world.faults(), [])
})

t.test('only what another target can mend goes to the next one', async t => {
  const cases: readonly [code: ErrorCode, moves: boolean][] = [
    ['upstream_unavailable', true],
    ['upstream_rate_limited', true],
    ['upstream_denied', true],
    ['upstream_lacks_model', true],
    ['upstream_refused', false],
    ['upstream_broke', false],
    ['invalid_request', false],
    ['internal_error', false]
  ]
  for (const [code, moves] of cases) {
    const world = createWorld({ targets: [rented('a'), rented('b')] })
    world.send()
    world.now().end(failure(code))
    t.equal(world.launched.length, moves ? 2 : 1, code)
    if (moves) world.now().end(failure('upstream_refused'))
    t.same(world.log, [`fail ${moves ? 'upstream_refused' : code}`, 'over failed'], code)
    t.equal(world.summary().ttftMs, null)
    t.same(world.faults(), [], code)
  }
})

t.test('the last failure is told when nobody is left', async t => {
  const world = createWorld({ targets: [rented('a'), rented('b')] })
  world.send()
  world.now().end(failure('upstream_denied'))
  world.now().end(failure('upstream_unavailable', { status: 504 }))
  t.same(world.log, ['fail upstream_unavailable', 'over failed'])
  t.match(world.summary(), { attempts: 2, outcome: 'failed', error: { status: 504 }, target: { id: 'b/m' } })
  t.same(world.faults(), [])
})

t.test('a failure after the first token ends the stream with that error and moves nowhere', async t => {
  const world = createWorld({ targets: [rented('a'), rented('b')] })
  world.send()
  world.now().frames('Hel', 1)
  // Whatever the adapter calls it: bytes of this attempt are out.
  world.now().end(failure('upstream_unavailable'))
  t.equal(world.launched.length, 1)
  t.same(world.log, ['start a', 'frames Hel', 'fail upstream_unavailable', 'over failed'])
  t.match(world.settlements, [{ outcome: 'failed', tokensSeen: 1, ttftMs: 0 }])
  t.same(world.faults(), [])
})

t.test('frames without a token are held back up to 64 KiB, and then are an answer', async t => {
  const world = createWorld({ targets: [rented('a'), rented('b')] })
  world.send()
  const piece = 'x'.repeat(32 * 1024)
  t.equal(world.now().frames(piece, 0), true)
  t.equal(world.now().frames(piece, 0), true)
  t.same(world.log, [])
  world.now().frames('one more', 0)
  t.same(
    world.log.map(line => line.length),
    ['start a'.length, 7 + 64 * 1024, 'frames one more'.length]
  )
  world.now().end(failure('upstream_unavailable'))
  t.equal(world.log.at(-2), 'fail upstream_unavailable')
  t.same(world.faults(), [])
})

t.test('an answer without one token is an answer', async t => {
  const world = createWorld({ targets: [rented('a')] })
  world.send()
  world.now().frames('role;', 0)
  world.now().frames('empty;', 0)
  world.now().end()
  t.same(world.log, ['start a', 'frames role;empty;', 'finish', 'over ok'])
  const silent = createWorld({ targets: [rented('a')] })
  silent.send()
  silent.now().end()
  t.same(silent.log, ['start a', 'finish', 'over ok'])
  t.same([...world.faults(), ...silent.faults()], [])
})

t.test('a prompt too long for one target goes to a larger one only', async t => {
  const targets = [
    rented('small', { contextTokens: 8_192 }),
    rented('same', { contextTokens: 8_192 }),
    rented('smaller', { contextTokens: 4_096 }),
    rented('larger', { contextTokens: 16_384 }),
    rented('unknown', { contextTokens: null })
  ]
  const world = createWorld({ targets })
  world.send()
  world.now().end(failure('context_length_exceeded'))
  t.equal(world.now().attempt.target.upstream.id, 'larger')
  world.now().end(failure('context_length_exceeded'))
  t.equal(world.now().attempt.target.upstream.id, 'unknown')
  world.now().end(failure('context_length_exceeded'))
  t.same(world.log, ['fail context_length_exceeded', 'over failed'])
  t.same(world.recorded.length, 3)
  t.same(world.faults(), [])

  const alone = createWorld({ targets: [rented('a', { contextTokens: 8_192 }), rented('b', { contextTokens: 8_192 })] })
  alone.send()
  alone.now().end(failure('context_length_exceeded'))
  t.equal(alone.launched.length, 1)
  t.same(alone.log, ['fail context_length_exceeded', 'over failed'])
})

t.test('a target that failed otherwise says nothing about the length', async t => {
  const targets = [rented('a', { contextTokens: 32_768 }), rented('b', { contextTokens: 8_192 }), rented('c', { contextTokens: 16_384 })]
  const world = createWorld({ targets })
  world.send()
  world.now().end(failure('upstream_unavailable'))
  t.equal(world.now().attempt.target.upstream.id, 'b')
  world.now().end(failure('context_length_exceeded'))
  t.equal(world.now().attempt.target.upstream.id, 'c', 'larger than the one it was too long for')
  world.now().frames('x', 1)
  world.now().end()
  t.equal(world.log.at(-1), 'over ok')
  t.same(world.faults(), [])
})

t.test('second tries come out of the budget, first ones do not', async t => {
  const world = createWorld({ targets: [rented('a'), rented('b'), rented('c')], retriesLeft: 1 })
  world.send()
  world.now().end(failure('upstream_unavailable'))
  world.now().end(failure('upstream_unavailable'))
  t.equal(world.launched.length, 2, 'no third: the budget is spent')
  t.same(world.log, ['fail upstream_unavailable', 'over failed'])
  t.same(world.retries, { counted: 1, taken: 1 })
  t.same(world.faults(), [])
})

t.test('a machine that turns out to be full costs nothing of the budget', async t => {
  const claim = (device: string) => Promise.resolve(device === 'c-box')
  const world = createWorld({
    targets: [rented('a'), own('b'), own('c')],
    aliases: { all: { kind: 'ordered', models: ['a/m', 'b/m', 'c/m'] } },
    claim,
    retriesLeft: 1
  })
  world.send({ model: 'all' })
  world.now().end(failure('upstream_unavailable'))
  await turn()
  t.equal(world.now().attempt.target.upstream.id, 'c')
  world.now().frames('x', 1)
  world.now().end()
  t.same(world.retries, { counted: 1, taken: 1 })
  t.same(world.summary().rejected, [{ target: 'b/m', reason: 'full' }])
  t.same(world.faults(), [])
})

t.test('with the budget spent, a slot that was taken is given back', async t => {
  const world = createWorld({
    targets: [rented('a'), own('b')],
    aliases: { all: { kind: 'ordered', models: ['a/m', 'b/m'] } },
    retriesLeft: 0
  })
  world.send({ model: 'all' })
  world.now().end(failure('upstream_unavailable'))
  await turn()
  t.equal(world.launched.length, 1)
  t.same(
    world.log.filter(line => !line.startsWith('release')),
    ['fail upstream_unavailable', 'over failed']
  )
  t.same(world.faults(), [])
})

t.test('when every place is taken after all, the wait is told', async t => {
  const world = createWorld({ targets: [own('a'), own('b')], claim: () => Promise.resolve(false) })
  world.load.begin('a')
  world.load.finish('a', 7_000.5)
  world.send()
  await turn()
  t.same(world.log, ['fail no_capacity', 'over failed'])
  t.match(world.summary(), {
    attempts: 0,
    target: null,
    error: { status: 503, retryAfterMs: 7_001 },
    rejected: [
      { target: 'a/m', reason: 'full' },
      { target: 'b/m', reason: 'full' }
    ]
  })
  t.same(world.faults(), [])
})

t.test('after two refused places it waits, and does not ask every other machine as well; rented targets need none', async t => {
  const asked: string[] = []
  let waits = 0
  const claim = (deviceId: string) => {
    asked.push(deviceId)
    return Promise.resolve(false)
  }
  const overflow = (): Run => {
    waits++
    return { resume() {}, cancel() {} }
  }
  const world = createWorld({ targets: ['a', 'b', 'c', 'd'].map(id => own(id)), claim, ports: { overflow } })
  world.send()
  await turn()
  t.same(asked, ['a-box', 'b-box'])
  t.equal(waits, 1)
  const dear = createWorld({ targets: [own('a'), own('b'), rented('cloud')], claim, ports: { overflow } })
  dear.send()
  await turn()
  t.equal(dear.now().attempt.target.upstream.id, 'cloud')
  t.equal(waits, 1)
})

t.test('when nobody can say whether a place is free, the next target is tried, and otherwise that is the error', async t => {
  const away = () => Promise.reject(new GatewayError('database_unavailable', 'away'))
  const world = createWorld({ targets: [own('home'), rented('cloud')], claim: away })
  world.send()
  await turn()
  t.equal(world.now().attempt.target.upstream.id, 'cloud')
  world.now().frames('x', 1)
  world.now().end()
  t.equal(world.log.at(-1), 'over ok')
  t.match(world.facts, [{ reason: 'next_best' }])

  const alone = createWorld({ targets: [own('home')], claim: away })
  alone.send()
  await turn()
  t.same(alone.log, ['fail database_unavailable', 'over failed'])
  const odd = createWorld({ targets: [own('home')], claim: () => Promise.reject(new Error('secret')) })
  odd.send()
  await turn()
  t.same(odd.log, ['fail internal_error', 'over failed'])
  t.same([...world.faults(), ...alone.faults(), ...odd.faults()], [])
})

t.test('what cannot be written down is not called', async t => {
  for (const target of [own('home'), rented('cloud')]) {
    const world = createWorld({ targets: [target, rented('other')], journal: 'broken' })
    world.send()
    await turn()
    t.equal(world.launched.length, 0)
    t.same(
      world.log.filter(line => !line.startsWith('release')),
      ['fail no_capacity', 'over failed']
    )
    t.match(world.summary().error, { retryAfterMs: 5_000 })
    t.same(world.faults(), [])
  }
})

t.test('an adapter that throws fails its attempt, which is booked and given back', async t => {
  for (const target of [own('home'), rented('cloud')]) {
    const world = createWorld({
      targets: [target],
      onLaunch() {
        throw new Error('secret')
      }
    })
    world.send()
    await turn()
    t.same(
      world.log.filter(line => !line.startsWith('release')),
      ['fail internal_error', 'over failed']
    )
    t.match(world.settlements, [{ outcome: 'failed', sent: false, tokensSeen: 0, error: { code: 'internal_error' } }])
    t.same(world.faults(), [])
  }
  const both = createWorld({
    targets: [rented('cloud')],
    onLaunch(launched) {
      launched.end(failure('upstream_refused'))
      throw new Error('and then it throws')
    }
  })
  both.send()
  await turn()
  t.equal(both.settlements.length, 1)
  t.same(both.faults(), [])
})

t.test('an adapter may end before it returns', async t => {
  for (const target of [own('home'), rented('cloud')]) {
    const world = createWorld({ targets: [target, rented('next')], onLaunch: launched => launched.end(failure('upstream_unavailable')) })
    world.send()
    await turn()
    t.equal(world.launched.length, 2)
    t.same(
      world.log.filter(line => !line.startsWith('release')),
      ['fail upstream_unavailable', 'over failed']
    )
    t.same(world.faults(), [])
  }
})

t.test('an answer of one piece goes out with its cost', async t => {
  const world = createWorld({ targets: [rented('a'), rented('b')] })
  world.send({ stream: false })
  world.now().end(failure('upstream_unavailable'))
  world.now().observer.usage(usage, null)
  world.now().observer.body(Buffer.from('{"answer":1}'))
  t.same(world.log, [], 'not before its cost is known')
  world.now().end()
  t.same(world.log, ['start b', 'body {"answer":1}', 'over ok'])
  t.match(world.facts, [{ reason: 'fallback', nanoUsd: 3_000 }], 'both calls')
  t.match(world.summary(), { outcome: 'ok', usage, nanoUsd: 3_000, attempts: 2 })
  t.same(world.faults(), [])
})

t.test('where nobody counts, the text of a whole answer is counted at four bytes a token', async t => {
  const world = createWorld({ targets: [rented('a')] })
  world.send({ stream: false })
  world.now().observer.body(Buffer.alloc(701, 'x'))
  world.now().end()
  t.match(world.settlements, [{ usage: null, tokensSeen: 101 }])
})

t.test('a body whose attempt fails in the end is not sent', async t => {
  const world = createWorld({ targets: [rented('a')] })
  world.send({ stream: false })
  world.now().observer.body(Buffer.from('{}'))
  world.now().end(failure('upstream_unavailable'))
  t.same(world.log, ['fail upstream_unavailable', 'over failed'])
  t.same(world.faults(), [])
})

t.test('an adapter that brings nothing for a whole answer fails, and the client does not wait for ever', async t => {
  const world = createWorld({ targets: [rented('a')] })
  world.send({ stream: false })
  world.now().end()
  t.match(world.log.join(), /^fail \w+,over failed$/)
  t.same(world.faults(), [])
})

t.test('the usage chunk goes out only when it was asked for, with what we know', async t => {
  const facts = (log: readonly string[]) => {
    const line = log.find(line => line.includes('usage'))
    return line === undefined ? null : JSON.parse(line.replace(/^frames data: /, ''))
  }
  const unasked = createWorld({ targets: [rented('a')] })
  unasked.send({ includeUsage: false })
  unasked.now().frames('x', 1)
  unasked.now().observer.usage(usage, usageEvent)
  unasked.now().end()
  t.equal(facts(unasked.log), null)

  const rentedOne = createWorld({ targets: [rented('a'), rented('b')], nanoUsd: 1_234 })
  rentedOne.send({ includeUsage: true })
  rentedOne.now().end(failure('upstream_unavailable'))
  rentedOne.now().frames('x', 1)
  rentedOne.now().observer.usage(usage, usageEvent)
  rentedOne.now().end({ ok: true, done: Buffer.from('[DONE]') })
  t.same(facts(rentedOne.log), {
    choices: [],
    usage: { prompt_tokens: 3 },
    x_llm_mcp: { provider: 'b', model: 'm', device: null, reason: 'fallback', attempts: 2, cost_usd: 0.000002468, route_id: 'request' }
  })
  t.match(rentedOne.log.at(-3), /\n\n$/, 'an event to its end')
  t.same(rentedOne.log.slice(-2), ['finish [DONE]', 'over ok'])

  const ownOne = createWorld({ targets: [own('home')], nanoUsd: null })
  ownOne.send({ includeUsage: true })
  await turn()
  ownOne.now().frames('x', 1)
  ownOne.now().observer.usage(usage, Buffer.from('data: {"choices":[],"note":"}"}\r\n\r\n'))
  ownOne.now().end()
  t.same(JSON.parse((ownOne.log.find(line => line.includes('note')) ?? '').slice('frames data: '.length)), {
    choices: [],
    note: '}',
    x_llm_mcp: { provider: 'home', model: 'm', device: 'home-box', reason: 'only_target', attempts: 1, cost_usd: null, route_id: 'request' }
  })

  const none = createWorld({ targets: [rented('a')] })
  none.send({ includeUsage: true })
  none.now().frames('x', 1)
  none.now().observer.usage(usage, null)
  none.now().end()
  t.same(none.log, ['start a', 'frames x', 'finish', 'over ok'], 'an upstream without the event')
  t.same([...unasked.faults(), ...rentedOne.faults(), ...ownOne.faults(), ...none.faults()], [])
})

t.test('an unknown name is told with the nearest ones, and nothing is called', async t => {
  const world = createWorld({ targets: [rented('a', { model: 'gpt-4o' })] })
  world.send({ model: 'gpt-4p' })
  t.same(world.log, ['fail model_not_found', 'over failed'])
  t.match(world.summary().error?.message, /Did you mean "gpt-4o"/)
  t.match(world.summary(), { attempts: 0, target: null, ttftMs: null })
  t.same(world.faults(), [])
})

t.test('a refused request calls nobody and says who was left out', async t => {
  const world = createWorld({ targets: [rented('a')] })
  world.send({ localOnly: true })
  t.same(world.log, ['fail no_capacity', 'over failed'])
  t.same(world.summary().rejected, [{ target: 'a/m', reason: 'not_local' }])
  const houseRule = createWorld({ targets: [rented('a')], ports: { localOnly: true } })
  houseRule.send()
  t.same(houseRule.log, ['fail no_capacity', 'over failed'])
  t.equal(houseRule.launched.length, 0)
})

t.test('a target whose adapter is gone is passed over', async t => {
  const targets = [targetOn('a', {}, { adapter: 'gone' }), rented('b')]
  const world = createWorld({ targets })
  world.send()
  world.now().frames('x', 1)
  world.now().end()
  t.same(world.log, ['start b', 'frames x', 'finish', 'over ok'])
  const ownOne = createWorld({ targets: [targetOn('a', {}, { adapter: 'gone', own: true })] })
  ownOne.send()
  await turn()
  t.same(ownOne.log, ['release a-box', 'fail internal_error', 'over failed'])
  t.same([...world.faults(), ...ownOne.faults()], [])
})

t.test('what an end says of the target is learned', async t => {
  const cases: readonly [code: ErrorCode, options: ErrorOptions, learned: Record<string, unknown>][] = [
    ['upstream_rate_limited', { retryAfterMs: 7_000 }, { cooling: 7_000, denied: false, missing: false, told: [] }],
    ['upstream_rate_limited', {}, { cooling: 1_000, denied: false, missing: false, told: [] }],
    ['upstream_denied', {}, { cooling: 0, denied: true, missing: false, told: [] }],
    ['upstream_lacks_model', {}, { cooling: 0, denied: false, missing: true, told: ['a/m'] }],
    ['upstream_unavailable', { retryAfterMs: 9_000 }, { cooling: 0, denied: false, missing: false, told: [] }]
  ]
  for (const [code, options, learned] of cases) {
    const world = createWorld({ targets: [rented('a')] })
    world.send()
    world.now().end(failure(code, options))
    t.same(world.recorded, [`a/m ${code}`])
    t.same(
      { cooling: world.load.cooling('a/m'), denied: world.load.isDenied('a'), missing: world.load.isMissing('a/m'), told: world.missing },
      learned,
      code
    )
  }
})

t.test('a client that leaves says nothing about the target', async t => {
  const world = createWorld({ targets: [own('home')] })
  const run = world.send()
  await turn()
  run.cancel(null)
  t.same(world.recorded, ['home/m client_gone'], 'which breakers make nothing of')
  t.same(world.log, ['release home-box in 100 ms', 'over aborted'], 'its slot rests for a moment, and nobody is told')
  t.match(world.settlements, [{ outcome: 'aborted', error: { code: 'client_gone' } }])
  t.equal(world.now().calls.aborted, 1)
  t.same(world.faults(), [])
})

t.test('a run that is cancelled with an error tells it, before and after the first token', async t => {
  for (const tokens of [0, 1]) {
    const world = createWorld({ targets: [rented('a'), rented('b')] })
    const run = world.send()
    world.now().frames('x', tokens)
    run.cancel(new GatewayError('server_draining', 'bye'))
    run.cancel(null)
    run.cancel(new GatewayError('internal_error', 'again'))
    t.same(world.log, [...(tokens === 0 ? [] : ['start a', 'frames x']), 'fail server_draining', 'over aborted'])
    t.equal(world.launched.length, 1, 'nobody else is tried')
    t.equal(world.now().calls.aborted, 1)
    t.same(world.faults(), [])
  }
})

t.test('a cancel while a place is being claimed makes no call and gives the place back', async t => {
  let grant = (_granted: boolean): void => {}
  const claim = () =>
    new Promise<boolean>(resolve => {
      grant = resolve
    })
  for (const granted of [true, false]) {
    for (const error of [null, new GatewayError('server_draining', 'bye')]) {
      const world = createWorld({ targets: [own('a'), own('b')], claim })
      const run = world.send()
      run.cancel(error)
      grant(granted)
      await turn()
      t.equal(world.launched.length, 0)
      t.same(world.log, [...(granted ? ['release a-box'] : []), ...(error === null ? [] : ['fail server_draining']), 'over aborted'])
      t.same(world.books.begun, [])
      t.same(world.faults(), [])
    }
  }
})

t.test('a cancel after the end changes nothing', async t => {
  const world = createWorld({ targets: [rented('a')] })
  const run = world.send()
  world.now().frames('x', 1)
  world.now().end()
  const before = [...world.log]
  run.cancel(null)
  run.cancel(new GatewayError('server_draining', 'bye'))
  run.resume()
  await turn()
  t.same(world.log, before)
})

t.test('the reader’s pace reaches the upstream', async t => {
  let full = true
  const world = createWorld({ targets: [rented('a'), rented('b')], full: () => full })
  const run = world.send()
  run.resume()
  world.now().end(failure('upstream_unavailable'))
  t.equal(world.now().frames('role', 0), true, 'what is held back fills nobody')
  t.equal(world.now().frames('x', 1), false)
  run.resume()
  t.equal(world.now().calls.resumed, 1)
  full = false
  t.equal(world.now().frames('y', 1), true)
  world.now().end()
  run.resume()
  t.equal(world.now().calls.resumed, 1, 'not after its end')
  t.same(world.faults(), [])
})

t.test('a client that leaves while it is being told hears no more', async t => {
  for (const moment of ['start', 'frames role;', 'frames x']) {
    const world = createWorld({
      targets: [rented('a')],
      onReply(what, run) {
        if (what.startsWith(moment)) run()?.cancel(null)
      }
    })
    world.send()
    world.now().frames('role;', 0)
    world.now().frames('x', 1)
    t.ok(
      world.log.some(line => line.startsWith(moment)),
      moment
    )
    t.same(world.faults(), [], moment)
  }
})

t.test('a client that leaves while its call is being made is noticed once it stands', async t => {
  const world = createWorld({
    targets: [own('home')],
    onLaunch(launched) {
      launched.frames('x', 1)
    },
    onReply(what, run) {
      if (what === 'start home') run()?.cancel(null)
    }
  })
  world.send()
  await turn()
  t.equal(world.now().calls.aborted, 1)
  t.equal(world.log.at(-1), 'over aborted')
  t.same(world.faults(), [])
})

// ---- any adapter, any time

type Step =
  | { readonly do: 'frames'; readonly tokens: number }
  | { readonly do: 'wait' }
  | { readonly do: 'hang' }
  | { readonly do: 'throw' }
  | { readonly do: 'end'; readonly code: ErrorCode | 'ok' | 'done' }

const endings: readonly (ErrorCode | 'ok' | 'done')[] = [
  'ok',
  'done',
  'upstream_unavailable',
  'upstream_rate_limited',
  'upstream_denied',
  'upstream_lacks_model',
  'upstream_refused',
  'upstream_broke',
  'context_length_exceeded',
  'internal_error'
]
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 3, arbitrary: fc.constant<Step>({ do: 'wait' }) },
  { weight: 4, arbitrary: fc.nat(1).map<Step>(tokens => ({ do: 'frames', tokens })) },
  { weight: 1, arbitrary: fc.constant<Step>({ do: 'throw' }) },
  { weight: 1, arbitrary: fc.constant<Step>({ do: 'hang' }) },
  { weight: 4, arbitrary: fc.constantFrom(...endings).map<Step>(code => ({ do: 'end', code })) }
)
const place = fc.record({
  kind: fc.constantFrom('own' as const, 'rented' as const, 'gone' as const),
  contextTokens: fc.constantFrom(null, 10, 20, 30),
  claim: fc.constantFrom('granted' as const, 'granted' as const, 'full' as const, 'away' as const, 'late' as const),
  script: fc.array(step, { maxLength: 6 })
})
const course = fc.record({
  places: fc.array(place, { minLength: 1, maxLength: 4 }),
  stream: fc.boolean(),
  includeUsage: fc.boolean(),
  brokenJournal: fc.integer({ min: 0, max: 9 }).map(dice => dice === 0),
  retriesLeft: fc.nat(3),
  cancelAtTurn: fc.option(fc.nat(8), { freq: 2 }),
  cancelInReply: fc.option(fc.constantFrom('start', 'frames', 'body', 'finish', 'fail'), { freq: 4 }),
  cancelSilently: fc.boolean(),
  readerIsFull: fc.boolean()
})

t.test('whatever adapters do and whenever a client leaves, every run ends once and gives everything back', async t => {
  await fc.assert(
    fc.asyncProperty(course, async given => {
      const { places } = given
      const targets = places.map(({ kind, contextTokens }, index) =>
        targetOn(`t${index}`, { contextTokens }, { own: kind === 'own', adapter: kind === 'gone' ? 'gone' : 'fake' })
      )
      const placeOf = (target: Target) => places[Number(target.upstream.id.slice(1))] as (typeof places)[number]
      const running: Promise<void>[] = []
      const error = () => (given.cancelSilently ? null : new GatewayError('server_draining', 'bye'))

      async function play(launched: Launched, steps: readonly Step[]): Promise<void> {
        for (const [index, one] of steps.entries()) {
          if (one.do === 'hang') return
          if (one.do === 'wait') await turn()
          else act(launched, one, index)
        }
        // In the end every adapter's own clock runs out.
        launched.end(failure('upstream_unavailable', { status: 504 }))
      }

      function act({ attempt, observer, frames, end }: Launched, one: Step, index: number): void {
        const { stream } = attempt.request
        if (one.do === 'frames' && stream) frames(`${attempt.id}.${index};`, one.tokens)
        if (one.do === 'end') {
          if (one.code === 'ok' || one.code === 'done') {
            observer.usage(usage, stream ? usageEvent : null)
            if (!stream) observer.body(Buffer.from(`"${attempt.id}"`))
            end(one.code === 'ok' ? { ok: true } : { ok: true, done: Buffer.from('[DONE]') })
          } else end(failure(one.code))
        }
      }

      const world = createWorld({
        targets,
        retriesLeft: given.retriesLeft,
        ...(given.brokenJournal ? { journal: 'broken' as const } : {}),
        claim: async (_device, _attempt) => {
          const { claim } = placeOf(targets.find(({ upstream }) => upstream.device?.id === _device) as Target)
          if (claim === 'late') await turn(3)
          if (claim === 'away') throw new GatewayError('database_unavailable', 'away')
          return claim !== 'full'
        },
        onLaunch(launched) {
          // What comes before the first `wait` happens within the call, which is also the only time to throw.
          const steps = placeOf(launched.attempt.target).script
          const thrownAt = steps.findIndex(one => one.do === 'throw')
          const waitedAt = steps.findIndex(one => one.do === 'wait' || one.do === 'hang')
          if (thrownAt === -1 || (waitedAt !== -1 && waitedAt < thrownAt)) return void running.push(play(launched, steps))
          for (const [index, one] of steps.slice(0, thrownAt).entries()) act(launched, one, index)
          throw new Error('boom')
        },
        onReply(what, run) {
          if (given.cancelInReply !== null && what.startsWith(given.cancelInReply)) run()?.cancel(error())
        },
        full: () => given.readerIsFull
      })
      const run = world.send({ stream: given.stream, includeUsage: given.includeUsage })
      if (given.cancelAtTurn !== null) {
        await turn(given.cancelAtTurn)
        run.cancel(error())
        run.cancel(null)
      }
      for (let turns = 0; turns < 60 && world.summaries.length === 0; turns++) await turn()
      // Only an adapter that hangs can still be there; somebody gives up in the end.
      const hung = world.summaries.length === 0
      run.cancel(error())
      await turn(5)
      await Promise.all(running)

      const faults = world.faults()
      const wereTold = world.log.filter(line => line.startsWith('frames a')).map(line => /^frames (a\d+)\./.exec(line)?.[1])
      if (new Set(wereTold).size > 1) faults.push(`bytes of several attempts: ${wereTold}`)
      const ends = world.log.filter(line => /^(fail|finish|body)/.test(line)).length
      const cancelled = given.cancelAtTurn !== null || given.cancelInReply !== null || hung
      if (ends === 0 && !(cancelled && given.cancelSilently)) faults.push('the client was told no end')
      if (hung && !places.some(({ script }) => script.some(one => one.do === 'hang'))) faults.push('hung by itself')
      if (faults.length > 0) throw new Error(`${faults.join('; ')} in ${world.log.join(' | ')}`)
    }),
    { numRuns: 2_500 }
  )
  t.pass()
})

t.test('vectors of another length than the first ones of their space are not given out', async t => {
  const embed = { operation: 'embed', stream: false, embedding: { dimensions: null, encoding: 'float' } } as const
  const world = createWorld({ targets: [rented('a', { operations: ['embed'] }), rented('b', { operations: ['embed'] })] })
  world.send(embed)
  world.now().observer.body(Buffer.from('{}'))
  world.now().end({ ok: true, dimensions: 768 })
  await turn()
  t.match(world.log, ['start a', 'body {}', 'over ok'])

  world.log.length = 0
  world.send(embed)
  world.now().observer.body(Buffer.from('{"wrong":1}'))
  world.now().end({ ok: true, dimensions: 384 })
  t.equal(world.now().attempt.target.upstream.id, 'b', 'the next target is asked')
  world.now().observer.body(Buffer.from('{"right":1}'))
  world.now().end({ ok: true, dimensions: 768 })
  t.same(world.log, ['start b', 'body {"right":1}', 'over ok'])
  t.equal(world.settlements.at(-2)?.outcome, 'failed')

  world.log.length = 0
  world.send({ ...embed, embedding: { dimensions: 256, encoding: 'float' } })
  world.now().observer.body(Buffer.from('{}'))
  world.now().end({ ok: true, dimensions: 256 })
  t.same(world.log, ['start a', 'body {}', 'over ok'], 'a length that was asked for is another matter')
})

t.test('the first vectors of a space are compared with what another process has recorded meanwhile', async t => {
  const dimensions = { known: () => null, learn: async () => 16 }
  const world = createWorld({ targets: [rented('a', { operations: ['embed'] })], ports: { dimensions } })
  world.send({ operation: 'embed', stream: false, embedding: { dimensions: null, encoding: 'float' } })
  world.now().observer.body(Buffer.from('{}'))
  world.now().end({ ok: true, dimensions: 8 })
  await turn()
  t.same(world.log, ['fail dimension_mismatch', 'over failed'])
})

t.test('embeddings need a name', async t => {
  const world = createWorld({ targets: [rented('a', { operations: ['embed', 'chat'] })] })
  world.send({ operation: 'embed', model: 'auto', stream: false, embedding: { dimensions: null, encoding: 'float' } })
  t.same(world.log, ['fail invalid_request', 'over failed'])
})

t.test('after our own second try, or where money may be gone, a client is told not to try again', async t => {
  const told = (world: ReturnType<typeof createWorld>) => world.errors.at(-1)?.shouldRetry
  const limited = failure('upstream_rate_limited', { retryAfterMs: 100 })
  const once = createWorld({ targets: [rented('a')], nanoUsd: 0 })
  once.send()
  once.now().end(limited)
  t.equal(told(once), true, 'nothing was spent, and nobody else was tried')
  const twice = createWorld({ targets: [rented('a'), rented('b')], nanoUsd: 0 })
  twice.send()
  twice.now().end(limited)
  twice.now().end(limited)
  t.equal(told(twice), false)
  const dear = createWorld({ targets: [rented('a')], nanoUsd: null })
  dear.send()
  dear.now().end(limited)
  t.equal(told(dear), false, 'an unknown price is not none')
})

t.test('a machine that goes away: what has not begun goes on elsewhere, what has ends with an error', async t => {
  const [first, second] = [own('first'), own('second')]
  const early = createWorld({ targets: [first, second] })
  early.send({ stream: true })
  await turn()
  early.lose('elsewhere')
  t.equal(early.launched.length, 1, 'another machine is not meant')
  early.lose('first-box')
  await turn(3)
  t.equal(early.now().attempt.target.id, second.id)
  early.lose('first-box')
  t.equal(early.launched.length, 2, 'nothing runs there any more')
  early.now().frames('hello', 1)
  early.now().end()
  await turn(3)
  t.match(early.summary(), { outcome: 'ok', calls: [{ error: { code: 'machine_lost' }, outcome: 'failed' }, { error: null }] })
  t.same(early.faults(), [])

  const late = createWorld({ targets: [first, second] })
  late.send({ stream: true })
  await turn()
  late.now().frames('hel', 1)
  late.lose('first-box')
  await turn(3)
  t.match(late.errors, [{ code: 'machine_lost', message: 'The machine first does not answer any more.' }])
  t.equal(late.launched.length, 1)
  t.same(late.faults(), [])
  t.same(late.failed, [], 'that it is away is known')
})

t.test('whoever left is not told of a machine that went away, and a failed call lets the machine be asked', async t => {
  const gone = createWorld({ targets: [own('first')] })
  const run = gone.send()
  await turn()
  run.cancel(null)
  gone.lose('first-box')
  await turn(3)
  t.match(gone.summary(), { outcome: 'aborted' })
  t.same(gone.errors, [])
  t.same(gone.faults(), [])

  const failing = createWorld({ targets: [own('first')] })
  failing.send()
  await turn()
  failing.now().end(failure('upstream_unavailable'))
  await turn(3)
  t.same(failing.failed, ['first-box'])
})

t.test(
  'how fast a machine was is learned from whole answers, with what ran beside them; failures count, clients that left do not',
  async t => {
    const seen: unknown[] = []
    const profiles = { observe: (device: string, model: string, observation: object) => void seen.push({ device, model, ...observation }) }
    const world = createWorld({ targets: [own('first')], ports: { profiles } })
    const timings = { loadMs: 1, promptMs: 100, answerMs: 400 }
    const used = { ...usage, promptTokens: 50, completionTokens: 40, timings }
    world.send()
    await turn()
    const one = world.now()
    world.pass(200)
    world.send({ isBenchmark: true })
    await turn()
    const two = world.now()
    world.pass(300)
    one.frames('a', 1)
    one.observer.usage(used, null)
    one.end()
    await turn(3)
    t.match(seen, [
      {
        device: 'first-box',
        model: 'm',
        isFailure: false,
        isBenchmark: false,
        loadMs: 1,
        ttftMs: 500,
        prompt: { tokens: 50, ms: 100, concurrency: 1 },
        answer: { tokens: 40, ms: 400, concurrency: 1.75 }
      }
    ])
    t.match(world.settlements[0], { sharedBy: 1.6 }, 'alone for 200 ms of 500')
    two.end(failure('upstream_unavailable'))
    await turn(3)
    t.match(seen[1], { isFailure: true, isBenchmark: true, prompt: null, answer: null })
    const run = world.send()
    await turn()
    run.cancel(null)
    await turn(3)
    t.equal(seen.length, 2)

    const unsaid = createWorld({ targets: [own('first')], ports: { profiles } })
    unsaid.send()
    await turn()
    unsaid.pass(100)
    unsaid.now().frames('a', 1)
    unsaid.pass(390)
    unsaid.now().observer.usage({ ...usage, completionTokens: 40 }, null)
    unsaid.now().end()
    await turn(3)
    t.match(seen[2], { loadMs: null, prompt: null, answer: { tokens: 39, ms: 390, concurrency: 1 } }, 'as it was seen here')
  }
)
