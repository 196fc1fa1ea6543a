// Limits per source with a clock and a cluster of our own: many processes, one limit.

import { mock } from 'node:test'
import fc from 'fast-check'
import t from 'tap'
import { type Admission, createLimits, type KeyLimits, type Limits } from '../../gateway/limits.ts'
import { GatewayError } from '../../routing/errors.ts'
import type { Grant } from '../../store/limits.ts'

// Counters expire by the same clock as ours.
mock.timers.enable({ apis: ['setTimeout', 'setInterval', 'Date'] })
const none: KeyLimits = { requestsPerMinute: null, tokensPerMinute: null, concurrentRequests: null }
const perMinute = (requestsPerMinute: number): KeyLimits => ({ ...none, requestsPerMinute })
const tokensOf = (tokensPerMinute: number): KeyLimits => ({ ...none, tokensPerMinute })
const atOnce = (concurrentRequests: number): KeyLimits => ({ ...none, concurrentRequests })

/** Everything that waits for nothing but us has happened. */
const settled = (): Promise<void> => new Promise(resolve => setImmediate(resolve))

async function pass(ms: number): Promise<void> {
  mock.timers.tick(ms)
  await settled()
}

const opened: Cluster[] = []
t.afterEach(async () => {
  await Promise.all(opened.splice(0).map(close))
})

async function close(state: Cluster): Promise<void> {
  state.isSlow = false
  state.isAway = false
  while (state.answer()) await settled()
  await Promise.all(state.processes.map(limits => limits.close()))
}

interface Cluster {
  readonly processes: readonly Limits[]
  /** Questions asked of the database. */
  asked: number
  isAway: boolean
  /** While true, answers wait for `answer`. */
  isSlow: boolean
  /** What waits is the answer, not the question. */
  isLate: boolean
  /** False when none waits. */
  answer(which?: number): boolean
  readonly windows: Map<string, { started: number; granted: number }>
  readonly permits: Map<string, Map<number, number>>
}

/** A database that counts as ours does, and `count` processes. */
function cluster(count: number): Cluster {
  const waiting: (() => void)[] = []
  const state: Cluster = {
    processes: Array.from({ length: count }, (_, process) =>
      createLimits({
        take: request => reply(() => take(`${request.metric} ${request.limit} ${request.source}`, request)),
        giveBack: request =>
          reply(() => {
            const window = state.windows.get(`${request.metric} ${request.limit} ${request.source}`)
            if (window?.started === request.window) window.granted -= request.points
          }),
        holdPermits: request =>
          reply(() => {
            const held = state.permits.get(request.source) ?? new Map<number, number>()
            state.permits.set(request.source, held.set(process, 0))
            const others = [...held.values()].reduce((sum, permits) => sum + permits, 0)
            const granted = Math.max(0, Math.min(request.want, request.limit - others - request.held))
            held.set(process, request.held + granted)
            return granted
          }),
        now: () => Date.now(),
        processes: () => count
      })
    ),
    asked: 0,
    isAway: false,
    isSlow: false,
    isLate: false,
    answer(which = 0) {
      const [next] = waiting.splice(which % Math.max(1, waiting.length), 1)
      next?.()
      return next !== undefined
    },
    windows: new Map(),
    permits: new Map()
  }

  opened.push(state)

  function take(key: string, { limit, want }: { limit: number; want: number }): Grant {
    const known = state.windows.get(key)
    const window = known !== undefined && Date.now() < known.started + 60_000 ? known : { started: Date.now(), granted: 0 }
    state.windows.set(key, window)
    const granted = Math.min(want, limit - window.granted)
    window.granted += granted
    return { granted, left: limit - window.granted, resetMs: window.started + 60_000 - Date.now(), window: window.started }
  }

  async function reply<T>(act: () => T): Promise<T> {
    state.asked++
    const isAway = state.isAway
    const early = state.isLate && !isAway ? { answer: act() } : null
    if (state.isSlow) await new Promise<void>(resolve => waiting.push(resolve))
    if (isAway) throw new Error('connection refused')
    return early === null ? act() : early.answer
  }

  return state
}

function one(): { limits: Limits; state: Cluster } {
  const state = cluster(1)
  return { limits: state.processes[0] as Limits, state }
}

async function attempt(limits: Limits, key: KeyLimits, tokens = 1, source = 'me'): Promise<Admission | GatewayError> {
  try {
    return await limits.admit(source, key, tokens)
  } catch (error) {
    if (error instanceof GatewayError) return error
    throw error
  }
}

async function admitted(limits: Limits, key: KeyLimits, tokens = 1, source = 'me'): Promise<Admission> {
  const outcome = await attempt(limits, key, tokens, source)
  if (outcome instanceof GatewayError) throw outcome
  return outcome
}

async function refused(limits: Limits, key: KeyLimits, tokens = 1, source = 'me'): Promise<GatewayError> {
  const outcome = await attempt(limits, key, tokens, source)
  if (outcome instanceof GatewayError) return outcome
  throw new Error('it was admitted')
}

async function countAdmitted(limits: Limits, key: KeyLimits, offered: number, tokens = 1): Promise<number> {
  const outcomes = await Promise.all(Array.from({ length: offered }, () => attempt(limits, key, tokens)))
  return outcomes.filter(outcome => !(outcome instanceof GatewayError)).length
}

t.test('a key without limits costs nothing: one answer for all, at once', async t => {
  const { limits, state } = one()
  const admission = limits.admit('me', none, 1e9)
  t.notOk(admission instanceof Promise)
  t.equal(admission, limits.admit('you', none, 5))
  if (!(admission instanceof Promise)) {
    t.same(admission.headers(), {})
    admission.settle(5)
    admission.settle(null)
  }
  t.equal(state.asked, 0)
})

t.test('the minute begins with the first request, and ends for all at once', async t => {
  const { limits } = one()
  await pass(12_345)
  for (let request = 0; request < 5; request++) await admitted(limits, perMinute(5))
  await pass(59_999)
  t.match(await refused(limits, perMinute(5)), { retryAfterMs: 1 })
  await pass(1)
  t.equal(await countAdmitted(limits, perMinute(5), 20), 5)
})

t.test('a refusal says which limit of whom, when it resets, and when to come again', async t => {
  const { limits } = one()
  await admitted(limits, perMinute(1), 1, 'team/alice')
  await pass(500)
  const error = await refused(limits, perMinute(1), 1, 'team/alice')
  t.match(error, { code: 'rate_limit_exceeded', status: 429, type: 'requests', retryAfterMs: 59_500, shouldRetry: true })
  t.match(error.message, 'team/alice')
  t.match(error.message, '1 requests per minute')
  t.match(error.message, '59.5s')
  await admitted(limits, perMinute(1), 1, 'team/bob')

  await admitted(limits, tokensOf(10), 10)
  const tokens = await refused(limits, tokensOf(10), 4)
  t.match(tokens, { code: 'token_limit_exceeded', publicCode: 'rate_limit_exceeded', status: 429, type: 'tokens', shouldRetry: true })
  t.match(tokens.message, '10 tokens per minute')
  t.match(tokens.message, 'estimated at 4')

  await admitted(limits, atOnce(1))
  t.match(await refused(limits, atOnce(1)), {
    code: 'concurrency_limit_exceeded',
    publicCode: 'rate_limit_exceeded',
    type: 'requests',
    retryAfterMs: 1_000,
    shouldRetry: true
  })
  t.ok((await refused(limits, perMinute(1), 1, 'team/alice'.padEnd(5_000, 'x')).catch(() => null)) === null)
  t.ok((await refused(limits, perMinute(1), 1, 'team/alice'.padEnd(5_000, 'x'))).message.length < 400)
})

t.test('an estimate that is larger than the limit is refused at once and not to be tried again', async t => {
  const { limits, state } = one()
  const error = await refused(limits, { ...tokensOf(100), requestsPerMinute: 1 }, 101)
  t.match(error, { code: 'token_limit_exceeded', shouldRetry: false, retryAfterMs: null })
  t.match(error.message, 'never fit')
  t.equal(state.asked, 0)
  await admitted(limits, { ...tokensOf(100), requestsPerMinute: 1 }, 100)
})

t.test('once nothing is left, refusals come from memory', async t => {
  const { limits, state } = one()
  t.equal(await countAdmitted(limits, perMinute(100), 300), 100)
  const before = state.asked
  t.equal(await countAdmitted(limits, perMinute(100), 1_000), 0)
  t.equal(state.asked, before)
})

t.test('a slice serves many requests, waiting ones share one question, and the next slice comes ahead', async t => {
  const state = cluster(2)
  const [limits] = state.processes as [Limits]
  await Promise.all(Array.from({ length: 30 }, () => admitted(limits, perMinute(1_600))))
  t.equal(state.asked, 1, 'slices are of 100')
  state.isSlow = true
  for (let request = 0; request < 70; request++) await admitted(limits, perMinute(1_600))
  t.equal(state.asked, 2, 'asked for when half is used, without waiting')
  state.isSlow = false
  state.answer()
  await settled()
  for (let request = 0; request < 40; request++) await admitted(limits, perMinute(1_600))
  t.equal(state.asked, 2)
})

t.test('tokens: the estimate is taken, then corrected, or given back', async t => {
  const { limits } = one()
  const key = tokensOf(1_000)
  const left = (admission: Admission): string | undefined => admission.headers()['x-ratelimit-remaining-tokens']
  const first = await admitted(limits, key, 400)
  t.equal(left(first), '600')
  first.settle(100)
  await settled()
  t.equal(left(first), '900', 'fewer')
  first.settle(1_000)
  await settled()
  t.equal(left(first), '900', 'twice is once')
  const second = await admitted(limits, key, 100)
  second.settle(300)
  await settled()
  t.equal(left(second), '600', 'more')
  const third = await admitted(limits, key, 600)
  t.equal(left(third), '0')
  third.settle(null)
  await settled()
  t.equal(left(third), '600', 'failed')
  await admitted(limits, key, 600)
  await refused(limits, key, 1)
})

t.test('tokens used beyond what was left are a debt to the next slice', async t => {
  const { limits } = one()
  const key = tokensOf(1_000)
  const first = await admitted(limits, key, 10)
  first.settle(500)
  await settled()
  t.equal(first.headers()['x-ratelimit-remaining-tokens'], '500')
  t.equal(await countAdmitted(limits, key, 100, 10), 50)
  const last = await refused(limits, key, 1)
  t.equal(last.code, 'token_limit_exceeded')
})

t.test('what is settled after its minute changes nothing in the next', async t => {
  const { limits } = one()
  const key = tokensOf(1_000)
  const late = await admitted(limits, key, 1_000)
  const more = await admitted(limits, tokensOf(500), 1)
  await pass(60_000)
  const next = await admitted(limits, key, 1_000)
  await admitted(limits, tokensOf(500), 1)
  late.settle(null)
  more.settle(10_000)
  await settled()
  t.equal(next.headers()['x-ratelimit-remaining-tokens'], '0')
  t.equal(more.headers()['x-ratelimit-remaining-tokens'], '499')
})

t.test('a refused request uses nothing of the other limits', async t => {
  const { limits } = one()
  const key: KeyLimits = { requestsPerMinute: 10, tokensPerMinute: 100, concurrentRequests: 1 }
  const first = await admitted(limits, key, 60)
  t.equal((await refused(limits, key, 60)).code, 'token_limit_exceeded')
  t.equal((await refused(limits, key, 40)).code, 'concurrency_limit_exceeded', 'its place is taken')
  await settled()
  t.match(limits.headersOf('me', key), { 'x-ratelimit-remaining-requests': '9', 'x-ratelimit-remaining-tokens': '40' })
  first.settle(60)
  await admitted(limits, key, 40)
})

t.test('headers are there for limits that exist, on admissions and refusals', async t => {
  const { limits } = one()
  const key: KeyLimits = { requestsPerMinute: 2, tokensPerMinute: 1_000, concurrentRequests: 5 }
  t.same(limits.headersOf('me', key), {
    'x-ratelimit-limit-requests': '2',
    'x-ratelimit-remaining-requests': '2',
    'x-ratelimit-reset-requests': '0s',
    'x-ratelimit-limit-tokens': '1000',
    'x-ratelimit-remaining-tokens': '1000',
    'x-ratelimit-reset-tokens': '0s'
  })
  await admitted(limits, key, 300)
  await pass(250)
  const second = await admitted(limits, key, 200)
  const expected = {
    'x-ratelimit-limit-requests': '2',
    'x-ratelimit-remaining-requests': '0',
    'x-ratelimit-reset-requests': '59.75s',
    'x-ratelimit-limit-tokens': '1000',
    'x-ratelimit-remaining-tokens': '500',
    'x-ratelimit-reset-tokens': '59.75s'
  }
  t.same(second.headers(), expected)
  await refused(limits, key, 300)
  await settled()
  t.same(limits.headersOf('me', key), expected)
  t.same(Object.keys((await admitted(limits, perMinute(7))).headers()).length, 3)
  t.same((await admitted(limits, atOnce(7))).headers(), {})
})

t.test('a place is free again when its request has settled, once', async t => {
  const { limits, state } = one()
  const running = [await admitted(limits, atOnce(2)), await admitted(limits, atOnce(2))] as const
  await refused(limits, atOnce(2))
  running[0].settle(5)
  running[0].settle(5)
  const before = state.asked
  await admitted(limits, atOnce(2))
  t.equal(state.asked, before, 'the permit was still here')
  await refused(limits, atOnce(2))
})

t.test('a source at its limit of running requests does not ask for each refusal', async t => {
  const { limits, state } = one()
  await admitted(limits, atOnce(1))
  await Promise.all(Array.from({ length: 500 }, () => refused(limits, atOnce(1))))
  t.equal(state.asked, 2)
  await pass(99)
  await refused(limits, atOnce(1))
  t.equal(state.asked, 2)
  await pass(1)
  await refused(limits, atOnce(1))
  t.equal(state.asked, 3)
})

t.test('spare permits are with the others within a second', async t => {
  const state = cluster(2)
  const [one, two] = state.processes as [Limits, Limits]
  const running = await Promise.all([1, 2, 3].map(() => admitted(one, atOnce(3))))
  await refused(two, atOnce(3))
  for (const admission of running.slice(1)) admission.settle(1)
  await refused(two, atOnce(3))
  await pass(1_000)
  t.equal(await countAdmitted(two, atOnce(3), 5), 2)
  t.same(
    [...(state.permits.get('me') ?? [])],
    [
      [0, 1],
      [1, 2]
    ]
  )
})

t.test('slices that lie idle are with the others within a second, and when a process ends', async t => {
  const state = cluster(2)
  const [one, two] = state.processes as [Limits, Limits]
  await admitted(one, perMinute(800))
  t.equal(await countAdmitted(two, perMinute(800), 800), 750)
  const rest = cluster(2)
  const [first, second] = rest.processes as [Limits, Limits]
  await admitted(first, perMinute(800))
  await pass(1_000)
  t.equal(await countAdmitted(second, perMinute(800), 700), 700)
  await second.close()
  t.equal(await countAdmitted(first, perMinute(800), 200), 99)
  const idle = cluster(2)
  const [third, fourth] = idle.processes as [Limits, Limits]
  await admitted(third, perMinute(800))
  await pass(1_000)
  t.equal(await countAdmitted(fourth, perMinute(800), 900), 799)
})

t.test('an answer that was long on its way does not make the minute longer', async t => {
  const { limits, state } = one()
  state.isSlow = state.isLate = true
  const first = admitted(limits, perMinute(100))
  await settled()
  await pass(5_000)
  state.answer()
  t.equal((await first).headers()['x-ratelimit-reset-requests'], '55s')
  state.isSlow = false
  await pass(54_999)
  await admitted(limits, perMinute(100))
  t.equal(state.asked, 1)
  await pass(1)
  await admitted(limits, perMinute(100))
  t.equal(state.asked, 2)
})

t.test('alone, a process keeps its slices', async t => {
  const { limits, state } = one()
  await admitted(limits, perMinute(800))
  await pass(30_000)
  await admitted(limits, perMinute(800))
  t.equal(state.asked, 1)
})

t.test('with the database away each process goes on with its share, and pays for it afterwards', async t => {
  const state = cluster(2)
  const [limits, other] = state.processes as [Limits, Limits]
  state.isAway = true
  t.equal(await countAdmitted(limits, perMinute(100), 200), 50)
  t.equal(await countAdmitted(limits, tokensOf(1_000), 20, 40), 12)
  t.equal(await countAdmitted(limits, atOnce(4), 20), 2)
  t.equal(await countAdmitted(limits, perMinute(1), 3), 1, 'at least one')
  t.equal((await attempt(limits, tokensOf(900), 800)) instanceof GatewayError, false, 'however large')
  t.equal((await refused(limits, perMinute(100))).code, 'rate_limit_exceeded')
  await pass(1_000)
  t.equal(await countAdmitted(limits, perMinute(100), 200), 0, 'no more than its share, however often it is tried')
  state.isAway = false
  await pass(1_000)
  t.equal(await countAdmitted(limits, perMinute(100), 30), 30)
  t.equal(await countAdmitted(other, perMinute(100), 200), 20)
  t.equal(await countAdmitted(limits, perMinute(100), 200), 0)
  t.equal(await countAdmitted(other, atOnce(4), 20), 2, 'what runs has been said')
})

t.test('an outage in the middle of a minute gives nobody more than its share of it', async t => {
  const state = cluster(2)
  const [limits] = state.processes as [Limits]
  t.equal(await countAdmitted(limits, perMinute(100), 40), 40)
  state.isAway = true
  t.equal(await countAdmitted(limits, perMinute(100), 100), 10)
  const far = cluster(2)
  const [second] = far.processes as [Limits]
  t.equal(await countAdmitted(second, perMinute(100), 80), 80)
  far.isAway = true
  t.equal(await countAdmitted(second, perMinute(100), 100), 0)
  await pass(60_000)
  t.equal(await countAdmitted(second, perMinute(100), 100), 50, 'the next minute')
  far.isAway = false
  await pass(60_000)
  await admitted(second, perMinute(100))
  far.isAway = true
  t.equal(await countAdmitted(second, perMinute(100), 100), 49, 'and the one after')
})

t.test('what was never granted is not given back', async t => {
  const state = cluster(2)
  const [limits] = state.processes as [Limits]
  await countAdmitted(limits, perMinute(100), 40)
  state.isAway = true
  await countAdmitted(limits, perMinute(100), 5)
  state.isAway = false
  await pass(3_000)
  t.equal(state.windows.get('requests 100 me')?.granted, 40)
})

t.test('a request that is too large for what is left does not hold up a small one', async t => {
  const { limits } = one()
  await admitted(limits, tokensOf(100), 95)
  const outcomes = await Promise.all([10, 3, 3, 2].map(tokens => attempt(limits, tokensOf(100), tokens)))
  t.same(
    outcomes.map(outcome => outcome instanceof GatewayError),
    [true, false, true, false]
  )
})

t.test('of the people behind a key, the longest unused ones are forgotten', async t => {
  const { limits, state } = one()
  const key: KeyLimits = { requestsPerMinute: 5, tokensPerMinute: 100, concurrentRequests: 2 }
  const remaining = (person: number): string | undefined => limits.headersOf(`team/${person}`, key)['x-ratelimit-remaining-requests']
  for (let person = 0; person < 10_050; person++) (await admitted(limits, key, 1, `team/${person}`)).settle(1)
  t.same([remaining(0), remaining(49), remaining(50), remaining(10_049)], ['5', '5', '4', '4'])
  await pass(1_000)
  t.ok(
    [...state.permits.values()].every(held => held.get(0) === 0),
    'no permit is kept'
  )
  const before = state.asked
  await admitted(limits, key, 1, 'team/0')
  t.equal(state.asked, before + 3, 'looked up anew')
})

const steps = fc.array(
  fc.oneof(
    {
      weight: 12,
      arbitrary: fc.record({ act: fc.constant('admit' as const), process: fc.nat(3), tokens: fc.integer({ min: 0, max: 60 }) })
    },
    {
      weight: 4,
      arbitrary: fc.record({
        act: fc.constant('settle' as const),
        which: fc.nat(),
        used: fc.option(fc.double({ min: 0, max: 1, noNaN: true }))
      })
    },
    { weight: 8, arbitrary: fc.record({ act: fc.constant('answer' as const), which: fc.nat() }) },
    { weight: 2, arbitrary: fc.record({ act: fc.constant('pass' as const), ms: fc.integer({ min: 1, max: 15_000 }) }) }
  ),
  { minLength: 50, maxLength: 250 }
)

t.test('whatever the order of requests, ends and answers, no minute admits more than its limit', async t => {
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom('requests' as const, 'tokens' as const, 'at once' as const),
      fc.record({ count: fc.integer({ min: 1, max: 4 }), limit: fc.integer({ min: 1, max: 400 }), isLate: fc.boolean() }),
      steps,
      async (kind, { count, limit, isLate }, steps) => {
        const state = cluster(count)
        state.isLate = isLate && kind !== 'at once'
        state.isSlow = true
        const key = kind === 'requests' ? perMinute(limit) : kind === 'tokens' ? tokensOf(limit) : atOnce(Math.ceil(limit / 50))
        const window = (): number => state.windows.get(`${kind} ${limit} me`)?.started ?? -1
        /** Per minute of the cluster: requests let in, or tokens of theirs that are used or may be yet. */
        const sums = new Map<number, number>()
        const add = (at: number, points: number): unknown => sums.set(at, (sums.get(at) ?? 0) + points)
        const running: { readonly admission: Admission; readonly at: number; readonly estimate: number }[] = []
        const admit = async (process: number, estimate: number): Promise<void> => {
          const admission = await attempt(state.processes[process % count] as Limits, key, estimate)
          if (admission instanceof GatewayError) return
          add(window(), kind === 'requests' ? 1 : kind === 'tokens' ? estimate : 0)
          running.push({ admission, at: window(), estimate })
        }
        for (const step of steps) {
          if (step.act === 'admit') void admit(step.process, Math.min(step.tokens, limit))
          if (step.act === 'answer') state.answer(step.which)
          if (step.act === 'pass') mock.timers.tick(step.ms)
          const ended = step.act === 'settle' ? running.splice(step.which % Math.max(1, running.length), 1)[0] : undefined
          if (step.act === 'settle' && ended !== undefined) {
            const used = step.used === null ? null : Math.ceil(ended.estimate * step.used)
            ended.admission.settle(used)
            // Of a minute that is over, what was taken stays taken.
            if (kind === 'tokens' && ended.at === window() && Date.now() < ended.at + 60_000) add(ended.at, (used ?? 0) - ended.estimate)
          }
          await settled()
          const most = Math.max(0, ...sums.values())
          if (most > limit) throw new Error(`${most} ${kind} of ${limit}`)
          if (kind === 'at once' && running.length > Math.ceil(limit / 50)) throw new Error(`${running.length} at once`)
        }
      }
    ),
    { numRuns: 100 }
  )
  t.pass()
})

t.test('three times the load fills the limit, however it is spread over the processes', async t => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 20, max: 2_000 }),
      fc.array(fc.nat(9), { minLength: 1, maxLength: 6 }).filter(shares => shares.some(share => share > 0)),
      async (limit, shares) => {
        const state = cluster(shares.length)
        const round = shares.reduce((sum, share) => sum + share, 0)
        let sum = 0
        for (let offered = 0; offered < 3 * limit; offered += round) {
          const counts = await Promise.all(state.processes.map((limits, at) => countAdmitted(limits, perMinute(limit), shares[at] ?? 0)))
          for (const count of counts) sum += count
        }
        if (sum > limit || sum < limit * 0.95) throw new Error(`${sum} of ${limit}`)
      }
    ),
    { numRuns: 50 }
  )
  t.pass()
})
