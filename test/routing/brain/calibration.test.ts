import t from 'tap'
import { createCalibration, type EtaFacts, waitSpread } from '../../../routing/brain/calibration.ts'
import { fc } from '../../support/properties.ts'
import { chanceOf, normalOf, notFinite } from './stage.ts'

const warm: EtaFacts = { kind: 'own', start: 'warm', depth: 0 }
const raw = { p50: 10, p90: 15 }

/** How often what happened was within what was said, percent. What happens is `slower` times what is thought, with noise. */
function follow(
  calibration: ReturnType<typeof createCalibration>,
  { count, slower, spread, chance, facts = warm }: { count: number; slower: number; spread: number; chance: () => number; facts?: EtaFacts }
): { readonly p50: number; readonly p90: number } {
  const within = { p50: 0, p90: 0 }
  for (let nth = 0; nth < count; nth++) {
    const p50 = 2 + 20 * chance()
    const thought = { p50, p90: 1.5 * p50 }
    const took = p50 * slower * Math.exp(spread * normalOf(chance))
    const eta = calibration.eta(facts, thought)
    if (took <= eta.p50) within.p50++
    if (took <= eta.p90) within.p90++
    calibration.observe(facts, thought, took)
  }
  return { p50: (100 * within.p50) / count, p90: (100 * within.p90) / count }
}

t.test('what was never seen is told as the formulas say it, and a long queue a little later', async t => {
  t.same(createCalibration().eta(warm, raw), raw)
  t.same(createCalibration().eta({ kind: 'rented', start: 'queued', depth: 4 }, raw), raw)
  const { p50, p90 } = createCalibration().eta({ kind: 'rented', start: 'queued', depth: 40 }, raw)
  t.ok(p50 >= 10 && p50 < 15 && p90 >= 15 && p90 < 22, `${p50}, ${p90}`)
})

t.test('nine in ten are within p90 and half within p50, whatever the error and its spread', async t => {
  for (const [slower, spread] of [
    [1, 0.3],
    [3, 0.3],
    [0.25, 0.6],
    [1.5, 1]
  ] as const) {
    for (let seed = 1; seed <= 5; seed++) {
      const calibration = createCalibration()
      const chance = chanceOf(seed)
      follow(calibration, { count: 200, slower, spread, chance })
      const { p50, p90 } = follow(calibration, { count: 2_000, slower, spread, chance })
      t.ok(Math.abs(p90 - 90) <= 3, `${slower} x, spread ${spread}, seed ${seed}: p90 covers ${p90} %`)
      t.ok(Math.abs(p50 - 50) <= 3, `${slower} x, spread ${spread}, seed ${seed}: p50 covers ${p50} %`)
    }
  }
})

t.test('what becomes three times slower, or faster again, is followed', async t => {
  for (let seed = 1; seed <= 5; seed++) {
    const calibration = createCalibration()
    const chance = chanceOf(seed)
    follow(calibration, { count: 1_000, slower: 1, spread: 0.3, chance })
    const before = calibration.eta(warm, raw)
    follow(calibration, { count: 60, slower: 3, spread: 0.3, chance })
    const { p90 } = follow(calibration, { count: 300, slower: 3, spread: 0.3, chance })
    t.ok(p90 >= 85 && p90 <= 95, `seed ${seed}: ${p90} %`)
    const slow = calibration.eta(warm, raw)
    t.ok(slow.p90 / before.p90 > 2.2 && slow.p90 / before.p90 < 4, `seed ${seed}: ${slow.p90} after ${before.p90}`)
    follow(calibration, { count: 600, slower: 1, spread: 0.3, chance })
    t.ok(calibration.eta(warm, raw).p90 / before.p90 < 1.4, `seed ${seed}: back`)
  }
})

t.test('a depth that was never seen is like the next shallower one, and not like a deeper one', async t => {
  const at = (depth: number): EtaFacts => ({ kind: 'own', start: 'queued', depth })
  // What is short and what is long is two things; within each the shallower one is taken.
  for (const [seen, deeper, shallower] of [
    [2, [3, 5, 7], [0, 1]],
    [16, [20, 100, 1e6], [0, 2, 7]]
  ] as const) {
    const calibration = createCalibration()
    const unseen = shallower.map(depth => calibration.eta(at(depth), raw))
    follow(calibration, { count: 300, slower: 4, spread: 0.1, chance: chanceOf(1), facts: at(seen) })
    const known = calibration.eta(at(seen), raw)
    t.ok(known.p50 > 30)
    for (const depth of deeper) t.same(calibration.eta(at(depth), raw), known, `${depth} after ${seen}`)
    t.same(
      shallower.map(depth => calibration.eta(at(depth), raw)),
      unseen
    )
    const last = at(deeper[1])
    calibration.observe(last, raw, 41)
    t.ok(calibration.eta(last, raw).p50 > 30, 'its own begins from there')
    t.not(calibration.eta(last, raw).p50, known.p50)
    t.same(calibration.eta(at(seen), raw), known, 'which keeps its own')
  }
})

t.test('machines and providers, warm and cold, are each for themselves', async t => {
  const calibration = createCalibration()
  follow(calibration, { count: 100, slower: 5, spread: 0.1, chance: chanceOf(1) })
  t.ok(calibration.eta(warm, raw).p50 > 30)
  t.same(calibration.eta({ ...warm, kind: 'rented' }, raw), raw)
  t.same(calibration.eta({ ...warm, start: 'cold' }, raw), raw)
  t.same(calibration.eta({ ...warm, start: 'queued' }, raw), raw)
})

t.test('one that took an hour changes what is told of the next by half at most', async t => {
  const calibration = createCalibration()
  calibration.observe(warm, raw, 1e6)
  const { p50, p90 } = calibration.eta(warm, raw)
  t.ok(p50 > 10 && p50 < 15 && p90 > 15 && p90 < 22.5, `${p50}, ${p90}`)
  for (let nth = 0; nth < 1_000; nth++) calibration.observe(warm, raw, 1e6)
  t.ok(calibration.eta(warm, raw).p90 < 15 * 25, 'and however many do, it is no more than some twenty times as much')
})

t.test('those of a long queue err alike, and count for less each', async t => {
  const moved = (depth: number): number => {
    const calibration = createCalibration()
    const facts: EtaFacts = { kind: 'own', start: 'queued', depth }
    const before = calibration.eta(facts, raw).p90
    calibration.observe(facts, raw, 200)
    return Math.log(calibration.eta(facts, raw).p90 / before)
  }
  t.ok(moved(1) > 0.1 && Math.abs(moved(4) - moved(1)) < 1e-9)
  t.ok(moved(800) > 0 && moved(800) < moved(1) / 20)
})

t.test('what says nothing is not learned from', async t => {
  const calibration = createCalibration()
  for (const took of [0, -1, Number.NaN]) calibration.observe(warm, raw, took)
  calibration.observe(warm, { p50: 0, p90: 0 }, 5)
  calibration.observe(warm, { p50: Number.NaN, p90: 9 }, 5)
  t.same(calibration.eta(warm, raw), raw)
})

t.test('what is kept as JSON and read again says the same', async t => {
  const calibration = createCalibration()
  const facts: readonly EtaFacts[] = [warm, { kind: 'rented', start: 'queued', depth: 9 }, { kind: 'own', start: 'cold', depth: 0 }]
  for (const [at, each] of facts.entries())
    follow(calibration, { count: 50, slower: 2 + at, spread: 0.2, chance: chanceOf(at), facts: each })
  const again = createCalibration()
  again.restore(JSON.parse(JSON.stringify(calibration.snapshot())))
  for (const each of facts) t.same(again.eta(each, raw), calibration.eta(each, raw))
  calibration.observe(warm, raw, 50)
  again.observe(warm, raw, 50)
  t.same(again.eta(warm, raw), calibration.eta(warm, raw), 'and learns on as fast')
})

t.test('nonsense is not restored, and what is good beside it is', async t => {
  const good = { median: 1, high: 1, count: 9 }
  const kept = (...corrections: readonly unknown[]): unknown => ({ version: 1, corrections })
  const nonsense: readonly unknown[] = [
    null,
    undefined,
    7,
    'calibration',
    {},
    { version: 2, corrections: [['own/warm/0', good]] },
    { version: 1, corrections: { 'own/warm/0': good } },
    kept(null),
    kept(5),
    kept(['own/warm/0']),
    kept(['own/warm/0', null]),
    kept([7, good]),
    kept(['own/warm/0', { ...good, median: null }]),
    kept(['own/warm/0', { ...good, high: '1' }]),
    kept(['own/warm/0', { ...good, high: 1e308 }]),
    kept(['own/warm/0', { ...good, median: -99 }]),
    kept(['own/warm/0', { ...good, count: -5 }])
  ]
  for (const [at, each] of nonsense.entries()) {
    const calibration = createCalibration()
    calibration.restore(each)
    calibration.observe({ ...warm, start: 'cold' }, raw, 20)
    t.same(calibration.eta(warm, raw), raw, `nonsense ${at}`)
  }
  const calibration = createCalibration()
  calibration.restore(kept(null, ['own/cold/0', { median: 'x' }], ['own/warm/0', good]))
  t.ok(calibration.eta(warm, raw).p50 > 20)
})

t.test('p90 is never below p50, and both stay numbers above nothing', async t => {
  const seconds = fc.oneof(fc.double({ min: 1e-6, max: 1e6, noNaN: true }), fc.constantFrom(0, 1e-300, 1e300, Number.POSITIVE_INFINITY))
  const given = fc.record({
    depth: fc.oneof(fc.nat(100), fc.constantFrom(1e9)),
    p50: fc.double({ min: 1e-3, max: 1e5, noNaN: true }),
    wider: fc.double({ min: 1, max: 50, noNaN: true }),
    took: seconds
  })
  fc.assert(
    fc.property(fc.array(given, { maxLength: 40 }), steps => {
      const calibration = createCalibration()
      for (const { depth, p50, wider, took } of steps) {
        const facts: EtaFacts = { kind: 'own', start: 'queued', depth }
        calibration.observe(facts, { p50, p90: p50 * wider }, took)
        const eta = calibration.eta(facts, { p50, p90: p50 * wider })
        const wrong = notFinite([eta, calibration.snapshot()])
        if (wrong !== null) throw new Error(wrong)
        if (!(eta.p50 > 0 && eta.p90 >= eta.p50)) return false
      }
      return true
    }),
    { numRuns: 1_000 }
  )
  t.pass()
})

t.test('what a wait adds to a long answer grows with it, and evens out with more before it', async t => {
  t.ok(waitSpread(10, 1) > 5 && waitSpread(10, 1) < 20, 'behind one: about as much again')
  t.ok(Math.abs(waitSpread(20, 4) - 2 * waitSpread(10, 4)) < 1e-9)
  t.equal(waitSpread(10, 0), waitSpread(10, 1))
  t.equal(waitSpread(0, 5), 0)
  t.ok(waitSpread(10, 20) < waitSpread(10, 5))
  t.ok(waitSpread(10, 1e9) > 1, 'the speed of the queue is never known for sure')
})
