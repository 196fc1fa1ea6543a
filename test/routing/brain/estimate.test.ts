import t from 'tap'
import { estimate, knobs, type Queue, remainingS, slowness } from '../../../routing/brain/estimate.ts'
import { knownLength } from '../../../routing/brain/lengths.ts'
import type { Estimate, Option, Pace, Work } from '../../../routing/brain/types.ts'
import { fc } from '../../support/properties.ts'
import { evenLengths, machine, notFinite, on, rented, workOf } from './stage.ts'

const idle: Queue = { freeS: [0], loaderFreeS: 0, readyS: new Map(), ahead: 0, waitingEach: 0 }

function estimateOf(option: Option, work: Partial<Work> = {}, queue: Partial<Queue> = {}): Estimate {
  const found = estimate(workOf([option], work), option, { ...idle, ...queue })
  if (found === null) throw new Error('no estimate')
  return found
}

type Figures = Partial<
  Record<'waitS' | 'loadS' | 'prefillS' | 'decodeS' | 'etaS' | 'usd' | 'usdP90' | 'missShare' | 'othersUsd' | 'score', number>
>

function isAs(t: { ok(value: boolean, name: string): unknown }, found: Estimate, figures: Figures, name = ''): void {
  for (const [field, wanted] of Object.entries(figures)) {
    const figure = found[field as keyof Figures]
    t.ok(Math.abs(Number(figure) - wanted) < 1e-9 * Math.max(1e-3, Math.abs(wanted)) + 1e-12, `${name} ${field}: ${figure}, not ${wanted}`)
  }
}

// 200 tokens after a prompt of 1,000: 0.01 s each, a little more because of what is before them.
const decodeS = 2 * (1 + 1_100 / 24_000)

t.test('a model in memory: the prompt is read, the answer is written, and electricity is paid for both', async t => {
  const found = estimateOf(on(machine('box', { usdPerS: 1e-5 })))
  isAs(t, found, { waitS: 0, loadS: 0, prefillS: 1, decodeS, etaS: 1 + decodeS, usd: 3e-5, usdP90: 4.6e-5, missShare: 0, othersUsd: 0 })
  isAs(t, found, { score: 3e-5 + 2e-5 * (1 + decodeS) })
  t.ok(Math.abs(found.raw.p50 - (1 + decodeS)) < 1e-9)
  t.ok(Math.abs(found.raw.p90 - (1 + 3.6 * (1 + 1_180 / 24_000))) < 1e-9, 'a long answer has 360')
  t.match(found, { concurrency: 1, isCold: false })
})

t.test('what the machine has read already is neither waited for nor paid', async t => {
  const site = machine('box', { usdPerS: 1e-5 })
  isAs(t, estimateOf(on(site, { cachedTokens: 900 })), { prefillS: 0.1, etaS: 0.1 + decodeS, usd: 2.1e-5 })
  isAs(t, estimateOf(on(site, { cachedTokens: 5_000 })), { prefillS: 0, usd: 2e-5 }, 'never less than nothing')
})

t.test('beside another call all is slower, and the other one pays as well', async t => {
  const two = machine('box', { slots: 2, busyS: [5], usdPerS: 1e-5 })
  const beside = estimateOf(on(two), {}, { freeS: [0, 5] })
  const slowerS = 2.8 * (1 + 1_100 / 24_000)
  isAs(t, beside, { waitS: 0, prefillS: 2, decodeS: slowerS, etaS: 2 + slowerS, usd: 3e-5, othersUsd: 2e-5 * 3 * 0.4 })
  t.equal(beside.concurrency, 2)
  isAs(t, beside, { score: 3e-5 + 2e-5 * (2 + slowerS) + 2e-5 * 3 * 0.4 })
})

t.test('whatever waits behind it is delayed by as long as it runs', async t => {
  const site = machine('box')
  isAs(t, estimateOf(on(site), {}, { waitingEach: 1 }), { othersUsd: 2e-5 * 3 })
  const [many, more] = [estimateOf(on(site), {}, { waitingEach: 1e3 }), estimateOf(on(site), {}, { waitingEach: 1e9 })]
  t.equal(many.othersUsd, more.othersUsd, 'of a long queue most will go elsewhere')
  isAs(t, estimateOf(rented('cloud'), {}, { waitingEach: 5 }), { othersUsd: 0 }, 'a provider delays nobody')
})

t.test('a full machine is waited for until its first place is free', async t => {
  const site = machine('box', { slots: 2 })
  const found = estimateOf(on(site), {}, { freeS: [5, 5] })
  isAs(t, found, { waitS: 5, prefillS: 1, etaS: 6 + decodeS })
  t.equal(found.concurrency, 1, 'both are over by then')
  t.equal(estimateOf(on(site), {}, { freeS: [5, 9] }).concurrency, 2)
})

t.test('a model that is being loaded is waited for, and not loaded again', async t => {
  const loading = on(machine('box', { loaded: new Set() }))
  const found = estimateOf(loading, {}, { readyS: new Map([['m', 3]]), loaderFreeS: 3 })
  isAs(t, found, { waitS: 3, loadS: 0, etaS: 4 + decodeS })
  t.equal(found.isCold, false)
  isAs(t, estimateOf(loading, {}, { readyS: new Map([['m', 3]]), freeS: [7] }), { waitS: 7 }, 'the place comes later')
})

t.test('a cold model is loaded first, and that is paid too', async t => {
  const cold = on(machine('box', { loaded: new Set(['other']), usdPerS: 1e-5 }))
  const found = estimateOf(cold)
  isAs(t, found, { waitS: 0, loadS: 4, prefillS: 1, etaS: 5 + decodeS, usd: 7e-5, usdP90: 8.6e-5 })
  t.equal(found.isCold, true)
  isAs(t, estimateOf(cold, {}, { loaderFreeS: 3 }), { waitS: 3, loadS: 4, etaS: 8 + decodeS }, 'another load is first')
  isAs(t, estimateOf(cold, {}, { freeS: [6] }), { waitS: 2, loadS: 4, etaS: 7 + decodeS }, 'it is loaded while the place is taken')
})

t.test('a load that throws others out costs what they are worth', async t => {
  const evictionUsd = (model: string): number => (model === 'a' ? 1e-3 : 2e-4)
  const cold = (victims: readonly string[] | null, freeS: readonly number[] = [0]): Estimate =>
    estimateOf(on(machine('box', { slots: 2, loaded: new Set(['a', 'b']), victimsFor: () => victims, evictionUsd })), {}, { freeS })
  isAs(t, cold([]), { othersUsd: 0 })
  isAs(t, cold(['b']), { othersUsd: 2e-4 })
  isAs(t, cold(['a', 'b']), { othersUsd: 1.2e-3 })
  const noRoom = cold(null, [0, 9])
  isAs(t, noRoom, { waitS: 9, loadS: 4 }, 'those that run must end first')
  t.ok(noRoom.othersUsd >= 1.2e-3, 'and all may have to go')
})

t.test('where nothing may be loaded a cold model cannot be, and a warm one can', async t => {
  const site = machine('box', { mayLoad: false })
  t.equal(estimate(workOf([]), on(site, { model: 'cold' }), idle), null)
  isAs(t, estimateOf(on(site)), { etaS: 1 + decodeS })
  t.equal(estimate(workOf([]), on(machine('box', { slots: 0 })), { ...idle, freeS: [] }), null, 'nor anything without a place')
})

t.test('a provider: its limit, its first token, its speed, its failures and its price', async t => {
  const found = estimateOf(rented('cloud', { waitS: ahead => 2 + ahead, failures: 0.1 }))
  // 0.05 s to read 1,000 tokens, 3 s for a failure that comes in one of ten.
  isAs(t, found, { waitS: 2, loadS: 0, prefillS: 0.55, decodeS: 4, etaS: 6.85, usd: 1.8e-3, usdP90: 2.44e-3 })
  isAs(t, found, { score: 1.8e-3 + 2e-5 * 6.85 })
  t.ok(Math.abs(found.raw.p50 - 6.55) < 1e-9 && Math.abs(found.raw.p90 - 9.75) < 1e-9)
  isAs(t, estimateOf(rented('cloud', { waitS: ahead => 2 + ahead }), {}, { ahead: 3 }), { waitS: 5 }, 'after three others')
})

t.test('what a provider has read already is cheaper, and not quicker', async t => {
  isAs(t, estimateOf(rented('cloud', { cachedTokens: 600 })), { usd: 4e-4 + 6e-5 + 8e-4, prefillS: 0.55 })
  isAs(t, estimateOf(rented('cloud', { cachedTokens: 5_000 })), { usd: 1e-4 + 8e-4 }, 'never more than the prompt')
  isAs(t, estimateOf(rented('cloud', { cachedTokens: 600, cachedUsd: null })), { usd: 1.8e-3 }, 'without a price of its own')
  isAs(t, estimateOf(rented('cloud', { cachedTokens: 600, cachedUsd: 0 })), { usd: 4e-4 + 8e-4 }, 'or for nothing')
})

t.test('a price for the call itself is paid whatever the length', async t => {
  isAs(t, estimateOf(rented('cloud', { callUsd: 0.01 })), { usd: 0.0118, usdP90: 0.01244 })
})

t.test('a price of 0 is a price, and an unknown one is never taken for 0', async t => {
  const free = estimateOf(rented('free', { inputUsd: 0, cachedUsd: 0, outputUsd: 0 }))
  t.same([free.usd, free.usdP90], [0, 0])
  for (const price of [{ inputUsd: null, outputUsd: null, cachedUsd: null }, { inputUsd: null }, { outputUsd: null }]) {
    const unknown = estimateOf(rented('new', price))
    t.same([unknown.usd, unknown.usdP90], [null, null])
    t.ok(unknown.score > estimateOf(rented('dear', { inputUsd: 3e-6, outputUsd: 1.5e-5 })).score, 'it is asked after a dear one')
  }
  t.ok(free.score < estimateOf(rented('cloud')).score)
})

t.test('the share of answers that would come after the deadline costs', async t => {
  const box = on(machine('box'))
  const left = (leftS: number | null): Estimate => estimateOf(box, { leftS })
  isAs(t, left(null), { missShare: 0 })
  isAs(t, left(100), { missShare: 0 })
  isAs(t, left(1), { missShare: 1 }, 'the prompt alone takes as long')
  isAs(t, left(-5), { missShare: 1 })
  // 1 s is left for the answer; every length up to 400 is as likely.
  const missShare = 1 - 1 / (0.01 * (1 + 1_100 / 24_000)) / 400
  isAs(t, left(2), { missShare, score: 2e-5 * (1 + decodeS) + 2e-3 * missShare })
  isAs(t, estimateOf(rented('cloud'), { leftS: 4.55 }), { missShare: 0.5 })
  isAs(t, estimateOf(rented('cloud', { waitS: () => 4 }), { leftS: 4.55 }), { missShare: 1 }, 'a limit takes of it too')
  isAs(t, estimateOf(box, { leftS: 2, lengths: knownLength(50) }), { missShare: 0 }, 'a short answer is in time')
})

t.test('vectors have no answer to wait for', async t => {
  isAs(t, estimateOf(on(machine('box')), { lengths: knownLength(0), leftS: 2 }), { decodeS: 0, etaS: 1, missShare: 0 })
})

t.test('what counts is in the hands of the route: dollars, seconds or both', async t => {
  const [cheap, quick] = [rented('cheap', { tokenS: 0.06, outputUsd: 1e-6 }), rented('quick', { tokenS: 0.005 })]
  const better = (route: keyof typeof knobs): string =>
    estimateOf(cheap, { knob: knobs[route] }).score < estimateOf(quick, { knob: knobs[route] }).score ? 'cheap' : 'quick'
  t.same([better('cost'), better('fast')], ['cheap', 'quick'])
  t.same(
    [knobs.cost, knobs.balanced, knobs.fast].map(({ secondUsd, missUsd }) => [secondUsd, missUsd]),
    [
      [2e-7, 2e-4],
      [2e-5, 2e-3],
      [4e-4, 1e-2]
    ]
  )
})

t.test('a call that runs is over when what is still to come has come', async t => {
  const pace = { tauS: 0.01, betaS: 0.004, promptS: 0.001 }
  const call = { promptTokens: 1_000, cachedTokens: 0, lengths: evenLengths(200), ranS: 0, streamed: 0 }
  t.ok(Math.abs(remainingS(call, pace, 1) - (1 + decodeS)) < 1e-9)
  t.ok(Math.abs(remainingS({ ...call, ranS: 0.6 }, pace, 1) - (0.4 + decodeS)) < 1e-9, 'of the prompt a part is read')
  t.ok(Math.abs(remainingS({ ...call, ranS: 60 }, pace, 1) - decodeS) < 1e-9, 'never less than nothing')
  t.ok(Math.abs(remainingS({ ...call, cachedTokens: 1_000 }, pace, 1) - decodeS) < 1e-9)
  const streaming = remainingS({ ...call, ranS: 3, streamed: 200 }, pace, 1)
  t.ok(Math.abs(streaming - (1 + 1_250 / 24_000)) < 1e-9, 'of those that had 200, the mean has 300')
  t.ok(remainingS({ ...call, streamed: 200 }, pace, 3) > streaming * 1.7, 'beside two others it takes longer')
})

t.test('a call that has given much less than it should is known to be slow before it is over', async t => {
  const pace = { tauS: 0.01, betaS: 0.004, promptS: 0.001 }
  const call = { promptTokens: 1_000, cachedTokens: 0, ranS: 20, streamed: 300 }
  t.equal(slowness({ ...call, ranS: 4.5 }, pace, 1), 1)
  t.equal(slowness({ ...call, ranS: 0.1, streamed: 0 }, pace, 1), 1, 'too early to say')
  t.ok(slowness(call, pace, 1) > 4 && slowness(call, pace, 1) < 5.5, String(slowness(call, pace, 1)))
  t.ok(slowness({ ...call, streamed: 0 }, pace, 1) > 5, 'nothing came at all')
  t.ok(slowness(call, pace, 4) < slowness(call, pace, 1), 'beside three others less was to come')
})

const small = fc.double({ min: 1e-6, max: 1, noNaN: true })
const seconds = fc.double({ min: 0, max: 1_000, noNaN: true })
const price = fc.oneof(fc.constantFrom(null, 0), fc.double({ min: 0, max: 1e-3, noNaN: true }))
const ownPace = fc.record({ tauS: small, share: fc.double({ min: 0, max: 1, noNaN: true }), promptS: small, loadS: seconds })
const rentedPace = fc.record({ ttftS: seconds, tokenS: small, failures: fc.double({ min: 0, max: 1, noNaN: true }), in: price, out: price })
const work = fc.record({
  promptTokens: fc.nat(100_000),
  cachedTokens: fc.nat(100_000),
  mean: fc.double({ min: 0, max: 5_000, noNaN: true }),
  route: fc.constantFrom('cost', 'balanced', 'fast'),
  leftS: fc.option(fc.double({ min: -100, max: 1_000, noNaN: true })),
  usdPerS: fc.double({ min: 0, max: 1e-3, noNaN: true }),
  waitS: seconds,
  isLoaded: fc.boolean(),
  waitingEach: fc.nat(50)
})
const times = fc.double({ min: 1, max: 10, noNaN: true })

type WorkGiven = typeof work extends fc.Arbitrary<infer T> ? T : never

function scoreOf(option: Option, given: WorkGiven, queue: Partial<Queue> = {}): number {
  const { promptTokens, mean, route, leftS, waitingEach } = given
  const asked = { promptTokens, lengths: evenLengths(mean), knob: knobs[route as keyof typeof knobs], leftS }
  const found = estimateOf(option, asked, { waitingEach, ...queue })
  const wrong = notFinite({ ...found, option: null })
  if (wrong !== null) throw new Error(wrong)
  return found.score
}

t.test('slower or later is never better, on a machine', async t => {
  fc.assert(
    fc.property(
      ownPace,
      work,
      times,
      fc.constantFrom('token', 'prompt', 'load', 'wait', 'energy', 'deadline'),
      (pace, given, more, what) => {
        const score = (by: number): number => {
          const of = (name: string): number => (what === name ? by : 1)
          const tauS = pace.tauS * of('token')
          const site = machine('box', {
            usdPerS: given.usdPerS * of('energy'),
            loaded: new Set(given.isLoaded ? ['m'] : []),
            slots: 1
          })
          const option = on(site, {
            tauS,
            betaS: tauS * pace.share,
            promptS: pace.promptS * of('prompt'),
            loadS: pace.loadS * of('load'),
            cachedTokens: given.cachedTokens
          })
          const leftS = given.leftS === null || what !== 'deadline' ? given.leftS : given.leftS - by
          return scoreOf(option, { ...given, leftS }, { freeS: [given.waitS * of('wait')] })
        }
        return score(more) >= score(1) - 1e-12
      }
    ),
    { numRuns: 10_000 }
  )
  t.pass()
})

t.test('dearer, slower or later is never better, at a provider', async t => {
  const what = fc.constantFrom('input', 'output', 'first', 'token', 'failures', 'wait', 'deadline')
  fc.assert(
    fc.property(rentedPace, work, times, what, (pace, given, more, worse) => {
      const score = (by: number): number => {
        const of = (name: string): number => (worse === name ? by : 1)
        const option = rented('cloud', {
          ttftS: pace.ttftS * of('first'),
          tokenS: pace.tokenS * of('token'),
          failures: pace.failures * of('failures'),
          inputUsd: pace.in === null ? null : pace.in * of('input'),
          cachedUsd: null,
          outputUsd: pace.out === null ? null : pace.out * of('output'),
          waitS: () => given.waitS * of('wait'),
          cachedTokens: given.cachedTokens
        } satisfies Partial<Extract<Pace, { kind: 'rented' }>> & { cachedTokens: number })
        const leftS = given.leftS === null || worse !== 'deadline' ? given.leftS : given.leftS - by
        return scoreOf(option, { ...given, leftS })
      }
      return score(more) >= score(1) - 1e-12
    }),
    { numRuns: 10_000 }
  )
  t.pass()
})

t.test('a bound holds also where nothing is counted as read before', async t => {
  const [fresh, read] = [rented('cloud'), rented('cloud', { cachedTokens: 1_000 })].map(option => estimateOf(option))
  t.ok((read?.usd ?? 1) < (fresh?.usd ?? 0), 'a cached price is expected')
  t.equal(read?.usdP90, fresh?.usdP90, 'and not relied on')
  const site = machine('box', { usdPerS: 1e-5 })
  t.equal(estimateOf(on(site, { cachedTokens: 900 })).usdP90, estimateOf(on(site)).usdP90)
})

t.test('several answers cost as many; those of one call read the prompt once', async t => {
  const choices = (count: number, areCalls: boolean): Partial<Work> => ({ choices: { count, areCalls } })
  // $1 and $4 for a million: 1,000 tokens read, 200 written.
  isAs(t, estimateOf(rented('cloud'), choices(8, false)), { usd: 1e-3 + 8 * 8e-4 })
  isAs(t, estimateOf(rented('cloud'), choices(8, true)), { usd: 8 * (1e-3 + 8e-4) })
  const alone = estimateOf(on(machine('box', { usdPerS: 1e-5 })))
  const eight = estimateOf(on(machine('box', { usdPerS: 1e-5 })), choices(8, true))
  isAs(t, eight, { usd: 8 * (alone.usd as number), etaS: 8 * alone.etaS }, 'one place: one after the other')
  const beside = estimateOf(on(machine('box', { slots: 4 })), choices(8, true), { freeS: [0, 0, 0, 0] })
  t.equal(beside.concurrency, 4)
  t.ok(beside.etaS > alone.etaS && beside.etaS < eight.etaS, 'four places: beside each other')
})

t.test('the deadline of a stream is that of its first token', async t => {
  const option = rented('cloud')
  // 0.55 s to the first token, 4 s more for the rest.
  const missShare = (work: Partial<Work>): number => estimateOf(option, work).missShare
  t.equal(missShare({ leftS: 0.55 }), 1)
  t.ok(missShare({ leftS: 2, isStream: true }) < 0.05)
  t.ok(Math.abs(missShare({ leftS: 0.55, isStream: true }) - 0.5) < 1e-9)
  t.ok(missShare({ leftS: 0.3, isStream: true }) > 0.5)
  t.same([missShare({ leftS: 0, isStream: true }), missShare({ leftS: -1, isStream: true })], [1, 1])
})

t.test('a machine whose tokens have a price costs that, and not its electricity', async t => {
  const price = { inputUsd: 1e-4, cachedUsd: 1e-4, outputUsd: 2e-4 }
  isAs(t, estimateOf(on(machine('box', { usdPerS: 1e-5 }), { price })), { usd: 0.1 + 0.04, usdP90: 0.1 + 360 * 2e-4 })
  isAs(t, estimateOf(on(machine('box', { usdPerS: 1e-5 }), { price: { inputUsd: 0, cachedUsd: 0, outputUsd: 0 } })), { usd: 0, usdP90: 0 })
})
