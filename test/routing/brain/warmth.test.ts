import t from 'tap'
import { knobs } from '../../../routing/brain/estimate.ts'
import { plan } from '../../../routing/brain/plan.ts'
import type { Option, OwnSite, Site, Work } from '../../../routing/brain/types.ts'
import { createWarmth, residencyS, victimsAmong, type Warmth } from '../../../routing/brain/warmth.ts'
import { fc } from '../../support/properties.ts'
import { chanceOf, machine, notFinite, on, rented, workOf } from './stage.ts'

/** A machine that has not got model `m`, and a provider that is dear: $0.0018 for what the machine does for 3 s of little power. */
function fleet(
  changes: Partial<OwnSite> = {},
  option: Parameters<typeof on>[1] = {}
): { site: Site; cold: Option; cloud: Option; work: Work } {
  const site = machine('box', { loaded: new Set(), usdPerS: 1e-5, ...changes })
  const cold = on(site, { loadS: 60, ...option })
  const cloud = rented('cloud')
  return { site, cold, cloud, work: workOf([cold, cloud]) }
}

/** So many requests a second apart, all of which were planned. */
function arrive(warmth: Warmth, work: Work, count: number, { fromS = 0, everyS = 1 } = {}): void {
  for (let nth = 0; nth < count; nth++) for (const planned of plan([work], () => 0)) warmth.arrived(planned, fromS + nth * everyS)
}

/** Worth as given, in dollars. */
function worthOf(values: Readonly<Record<string, number>>, atS = 0): Warmth {
  const warmth = createWarmth()
  warmth.restore({ version: 1, values: Object.entries(values).map(([model, usd]) => [JSON.stringify(['box', model]), { usd, atS }]) })
  return warmth
}

t.test('one request never pays for a load; enough of them do', async t => {
  const warmth = createWarmth()
  const { work } = fleet({}, { loadS: 200 })
  t.equal(plan([work], () => 0)[0]?.best?.option.site.id, 'cloud', 'each alone is rented')
  let requests = 0
  while (requests < 50 && warmth.wish(work, requests) === null) arrive(warmth, work, 1, { fromS: requests++ })
  t.ok(requests > 1 && requests < 20, `${requests} requests`)
  t.match(warmth.wish(work, requests), { option: { id: 'box/m' }, victims: [] })
})

t.test('what is refused, or would break its own bound there, saves nothing up', async t => {
  const warmth = createWarmth()
  const { work } = fleet()
  arrive(warmth, { ...work, maxUsd: 1e-12 }, 50)
  t.equal(warmth.value('box', 'm', 50), 0)
  // Rented it would keep its bound, at home, where it would be so much faster, it would not.
  const { site } = fleet()
  const dear = on(site, { loadS: 60, price: { inputUsd: 3e-6, cachedUsd: 3e-6, outputUsd: 4e-6 } })
  const hurried = { knob: knobs.fast, maxUsd: 2.5e-3 }
  arrive(warmth, workOf([dear, rented('cloud', { tokenS: 0.2 })], hurried), 50)
  t.equal(warmth.value('box', 'm', 50), 0)
  arrive(warmth, workOf([dear, rented('cloud', { tokenS: 0.2 })], { ...hurried, maxUsd: 1 }), 1, { fromS: 49 })
  t.ok(warmth.value('box', 'm', 50) > 0, 'with another bound it would')
  arrive(warmth, work, 1, { fromS: 50 })
  t.ok(warmth.value('box', 'm', 50) > 0)
})

t.test('what is cheap to rent is not loaded, however often it comes', async t => {
  const warmth = createWarmth()
  const { cold } = fleet()
  const work = workOf([cold, rented('cheap', { inputUsd: 1e-9, outputUsd: 1e-9, tokenS: 0.001, ttftS: 0.1 })])
  arrive(warmth, work, 200)
  t.equal(warmth.wish(work, 200), null)
  t.equal(warmth.value('box', 'm', 200), 0)
})

t.test('requests that come too seldom do not pay for a load either', async t => {
  const warmth = createWarmth()
  const { work } = fleet({}, { loadS: 200 })
  arrive(warmth, work, 50, { everyS: 1_800 })
  t.equal(warmth.wish(work, 50 * 1_800), null)
})

t.test('what was saved long ago counts less: after 200 s a third', async t => {
  const warmth = worthOf({ m: 1 }, 100)
  t.equal(warmth.value('box', 'm', 100), 1)
  t.ok(Math.abs(warmth.value('box', 'm', 300) - Math.exp(-1)) < 1e-12)
  t.equal(warmth.value('box', 'm', 50), 1, 'a clock that goes back makes nothing more')
  t.equal(warmth.value('box', 'other', 100), 0)
  t.equal(warmth.value('elsewhere', 'm', 100), 0)
})

t.test('one request adds what it would have saved, and half a cent at most', async t => {
  const warmth = createWarmth()
  const { work, cold } = fleet({}, { loadS: 200 })
  const [planned] = plan([work], () => 0)
  arrive(warmth, work, 1)
  const warm = plan([workOf([on(machine('box', { usdPerS: 1e-5 }))])], () => 0)[0]?.best?.score ?? 0
  t.ok(Math.abs(warmth.value('box', 'm', 0) - ((planned?.best?.score ?? 0) - warm)) < 1e-12)
  arrive(warmth, workOf([cold, rented('dear', { outputUsd: 1 })], { id: 'dear' }), 1)
  t.ok(warmth.value('box', 'm', 0) < 0.01)
  const refused = createWarmth()
  arrive(refused, workOf([on(machine('box', { loaded: new Set(), mayLoad: true }))], { maxUsd: 0, isHard: true, leftS: 1 }), 1)
  t.ok(refused.value('box', 'm', 0) <= 0.005, 'also where nothing else could have been')
})

t.test('a model that is in memory is worth what it saves against the next best', async t => {
  const warmth = createWarmth()
  const warm = on(machine('box'))
  const work = workOf([warm, rented('cloud')])
  const [planned] = plan([work], () => 0)
  const [best, second] = planned?.estimates ?? []
  arrive(warmth, work, 1)
  t.ok(Math.abs(warmth.value('box', 'm', 0) - ((second?.score ?? 0) - (best?.score ?? 0))) < 1e-12)
  const alone = createWarmth()
  arrive(alone, workOf([warm]), 1)
  t.ok(alone.value('box', 'm', 0) > 0.004, 'without a next best it is worth much')
  const passedOver = createWarmth()
  arrive(passedOver, workOf([on(machine('box', { busyS: [1_000] })), rented('cloud')]), 5)
  t.equal(passedOver.value('box', 'm', 0), 0, 'where it was not chosen it saved nothing')
})

t.test('to take the place of another, a model must be worth 1.3 times as much', async t => {
  const { work } = fleet({ loaded: new Set(['old']), victimsFor: () => ['old'], usdPerS: 0 }, { loadS: 1e-6 })
  t.equal(worthOf({ m: 0.0129, old: 0.01 }).wish(work, 0), null)
  const wish = worthOf({ m: 0.0131, old: 0.01 }).wish(work, 0)
  t.match(wish, { victims: ['old'] })
  t.ok((wish?.gainUsd ?? 0) > 0)
  const back = fleet({ loaded: new Set(['m']), victimsFor: () => ['m'], usdPerS: 0 }, { loadS: 1e-6, model: 'old' })
  t.equal(worthOf({ m: 0.0131, old: 0.01 }).wish(back.work, 0), null, 'and it stays then')
  t.equal(
    worthOf({ m: 0.02, old: 0.01, older: 0.01 }).wish(fleet({ victimsFor: () => ['old', 'older'] }).work, 0),
    null,
    'of two both count'
  )
})

t.test('a load must pay for its own time and power', async t => {
  const { work } = fleet({ usdPerS: 1e-4 }, { loadS: 50 })
  // 50 s at 1e-4 and at what a second is worth: $0.006; what is there counts one and a half times.
  t.equal(worthOf({ m: 0.0039 }).wish(work, 0), null)
  t.match(worthOf({ m: 0.0041 }).wish(work, 0), { option: { id: 'box/m' } })
  t.equal(worthOf({ m: 0.0041 }).wish({ ...work, knob: knobs.fast }, 0), null, 'whoever is in a hurry pays more for it')
})

t.test('nothing is wished for where it is there already, is coming, cannot be, or has no room', async t => {
  const wish = (changes: Partial<OwnSite>) => worthOf({ m: 1 }).wish(fleet(changes).work, 0)
  t.ok(wish({}) !== null)
  t.equal(wish({ loaded: new Set(['m']) }), null)
  t.equal(wish({ loading: { model: 'm', leftS: 1 } }), null)
  t.equal(wish({ loading: { model: 'other', leftS: 1 } }), null, 'one at a time')
  t.equal(wish({ mayLoad: false }), null)
  t.equal(wish({ victimsFor: () => null }), null, 'those that run are not thrown out')
  t.equal(worthOf({ m: 1 }).wish(workOf([rented('box')]), 0), null)
})

t.test('of several loads the one worth most is wished for', async t => {
  const warmth = createWarmth()
  warmth.restore({
    version: 1,
    values: ['a', 'b', 'c'].map((id, at) => [JSON.stringify([id, 'm']), { usd: [0.1, 0.3, 0.2][at], atS: 0 }])
  })
  const options = ['a', 'b', 'c'].map(id => on(machine(id, { loaded: new Set() })))
  t.match(warmth.wish(workOf(options), 0), { option: { id: 'b/m' } })
  t.match(warmth.wish(workOf(options.toReversed()), 0), { option: { id: 'b/m' } })
})

t.test('while nothing may be loaded there, nothing is saved up for it', async t => {
  const warmth = createWarmth()
  arrive(warmth, fleet({ mayLoad: false }).work, 50)
  t.equal(warmth.value('box', 'm', 50), 0)
})

t.test('those of least worth go first, and no more than must', async t => {
  const idle = [
    { model: 'dear', gb: 4, worth: 3 },
    { model: 'cheap', gb: 4, worth: 1 },
    { model: 'middle', gb: 4, worth: 2 }
  ]
  const victims = (neededGb: number, freeGb: number, places = 9) => victimsAmong(idle, { neededGb, freeGb, places })
  t.same(victims(5, 6), [])
  t.same(victims(6, 6), [], 'what fits exactly fits')
  t.same(victims(8, 6), ['cheap'])
  t.same(victims(12, 6), ['cheap', 'middle'])
  t.same(victims(18, 6), ['cheap', 'middle', 'dear'])
  t.equal(victims(19, 6), null, 'not even without all of them')
  t.same(victims(1, 6, 0), ['cheap'], 'a machine may hold only so many')
  t.equal(victimsAmong([], { neededGb: 8, freeGb: 6, places: 1 }), null, 'those that run are not among them')
  t.equal(victimsAmong([], { neededGb: 1, freeGb: 6, places: 0 }), null)
})

t.test('by cost a model stays for a minute, so that loads do not follow each other', async t => {
  t.same([knobs.cost, knobs.balanced, knobs.fast].map(residencyS), [60, 0, 0])
})

t.test('what is kept as JSON and read again is worth the same', async t => {
  const warmth = worthOf({ m: 0.5, n: 0.2 }, 10)
  arrive(warmth, fleet({}, { loadS: 200 }).work, 3, { fromS: 20 })
  const again = createWarmth()
  again.restore(JSON.parse(JSON.stringify(warmth.snapshot())))
  for (const model of ['m', 'n', 'other']) t.equal(again.value('box', model, 100), warmth.value('box', model, 100))
})

t.test('nonsense is not restored, and what is good beside it is', async t => {
  const key = JSON.stringify(['box', 'm'])
  const good = [key, { usd: 0.5, atS: 0 }]
  const nonsense: readonly unknown[] = [
    null,
    undefined,
    3,
    'warm',
    {},
    { version: 2, values: [good] },
    { version: 1 },
    { version: 1, values: 7 },
    { version: 1, values: [null, 4, [], [key], [key, null], [5, { usd: 1, atS: 0 }]] },
    { version: 1, values: [[key, { usd: -1, atS: 0 }]] },
    { version: 1, values: [[key, { usd: Number.POSITIVE_INFINITY, atS: 0 }]] },
    { version: 1, values: [[key, { usd: '1', atS: 0 }]] },
    { version: 1, values: [[key, { usd: 1, atS: null }]] }
  ]
  for (const [at, kept] of nonsense.entries()) {
    const warmth = createWarmth()
    warmth.restore(kept)
    t.equal(warmth.value('box', 'm', 0), 0, `nonsense ${at}`)
  }
  const warmth = createWarmth()
  warmth.restore({ version: 1, values: [null, good] })
  t.equal(warmth.value('box', 'm', 0), 0.5)
})

t.test('whatever comes, worth is a number and never below nothing', async t => {
  fc.assert(
    fc.property(fc.integer(), fc.nat(30), (seed, count) => {
      const chance = chanceOf(seed)
      const warmth = createWarmth()
      let nowS = 0
      for (let nth = 0; nth < count; nth++) {
        nowS += 1_000 * chance() ** 4
        const own = (id: string): Option =>
          on(
            machine(id, {
              loaded: new Set(chance() < 0.5 ? ['m'] : []),
              busyS: chance() < 0.3 ? [100 * chance()] : [],
              mayLoad: chance() < 0.8,
              loading: chance() < 0.2 ? { model: 'm', leftS: 1 } : null,
              usdPerS: 1e-3 * chance()
            }),
            { tauS: 1e-4 + chance() ** 3, loadS: 100 * chance() }
          )
        const options = [own('a'), own('b'), rented('c', { outputUsd: chance() < 0.3 ? null : 1e-4 * chance() })].filter(
          () => chance() < 0.8
        )
        const work = workOf(options, { maxUsd: chance() < 0.3 ? 0.001 * chance() : null })
        for (const planned of plan([work], chance)) warmth.arrived(planned, nowS)
        const wish = warmth.wish(work, nowS)
        const values = ['a', 'b', 'c'].map(id => warmth.value(id, 'm', nowS))
        const wrong = notFinite([...values, wish?.gainUsd ?? 0, JSON.parse(JSON.stringify(warmth.snapshot()))])
        if (wrong !== null) throw new Error(wrong)
        if (Math.min(...values) < 0 || (wish !== null && !(wish.gainUsd > 0))) return false
      }
      return true
    }),
    { numRuns: 1_000 }
  )
  t.pass()
})
