import t from 'tap'
import { knobs } from '../../../routing/brain/estimate.ts'
import { freeAt, isStartable, type Planned, plan, workAtMost } from '../../../routing/brain/plan.ts'
import type { Option, Site, Work } from '../../../routing/brain/types.ts'
import { fc } from '../../support/properties.ts'
import { chanceOf, evenLengths, machine, notFinite, on, rented, workOf } from './stage.ts'

const never = (): number => 0

/** What each of them is to do, and where: `start fast`. */
function told(planned: readonly Planned[]): string[] {
  return planned.map(({ action, best }) => (best === null ? action : `${action} ${best.option.site.id}`))
}

/** Each with an id of its own. */
const works = (...given: readonly (readonly Option[])[]): Work[] => given.map((options, at) => workOf(options, { id: `w${at}` }))

t.test('a job waits for the fast machine that is free sooner than the slow one would be done', async t => {
  const fast = on(machine('fast', { busyS: [2] }))
  const slow = on(machine('slow'), { tauS: 0.1, betaS: 0.05 })
  const planned = plan(works([slow, fast]), never)
  t.same(told(planned), ['wait fast'])
  t.same(
    (planned[0] as Planned).estimates.filter(isStartable).map(({ option }) => option.id),
    ['slow/m'],
    'although the slow one is idle'
  )
  t.same(told(plan(works([slow, on(machine('fast', { busyS: [60] }))]), never)), ['start slow'], 'but not for ever')
})

t.test('what one gets the next has not', async t => {
  const one = on(machine('one'))
  const other = on(machine('other'), { tauS: 0.011, betaS: 0.004 })
  t.same(told(plan(works([one, other], [one, other]), never)), ['start one', 'start other'])
  t.same(told(plan(works([one], [one], [one]), never)), ['start one', 'wait one', 'wait one'])
  const waits = plan(works([one], [one], [one]), never).map(({ best }) => best?.waitS ?? Number.NaN)
  t.ok(waits[0] === 0 && Math.abs((waits[2] as number) / 2 - (waits[1] as number)) < 1e-9, waits.join())
})

t.test('of more than a machine can do soon, a part is rented, and the machine is not left idle', async t => {
  const home = on(machine('home'))
  const cloud = rented('cloud', { inputUsd: 5e-8, outputUsd: 1e-7 })
  const planned = told(plan(works(...Array(6).fill([home, cloud])), never))
  t.ok(planned.includes('start cloud') && planned.includes('start home'), planned.join())
  t.same(told(plan(works([home, cloud]), never)), ['start home'], 'one alone is not')
})

t.test('later jobs take what is free only where that is what they want themselves', async t => {
  const fast = on(machine('fast', { busyS: [1] }))
  const slow = on(machine('slow'), { tauS: 0.1, betaS: 0.05 })
  const other = on(machine('other'))
  t.same(told(plan(works([fast, slow], [fast, slow]), never)), ['wait fast', 'wait fast'], 'the second waits as well')
  t.same(told(plan(works([fast], [fast, other]), never)), ['wait fast', 'start other'], 'and passes where it wants to go elsewhere')
  t.same(told(plan(works([fast], [slow]), never)), ['wait fast', 'start slow'], 'or can')
})

t.test('one load at a time on a machine, and whoever wants the same model waits for that one', async t => {
  const site = machine('box', { slots: 4, loaded: new Set(['warm']) })
  const [x, y, warm] = [on(site, { model: 'x' }), on(site, { model: 'y' }), on(site, { model: 'warm' })]
  const planned = plan(works([x], [y], [x], [warm]), never)
  t.same(told(planned), ['load box', 'wait box', 'wait box', 'start box'])
  const [, second, third] = planned.map(({ best }) => best)
  t.match(second, { waitS: 4, loadS: 4, isCold: true })
  t.match(third, { waitS: 4, loadS: 0, isCold: false })
  const loading = machine('box', { slots: 4, loaded: new Set(['warm']), loading: { model: 'y', leftS: 3 } })
  const [a, b] = plan(works([on(loading, { model: 'y' })], [on(loading, { model: 'x' })]), never)
  t.match(a, { action: 'wait', best: { waitS: 3, loadS: 0 } }, 'one that is under way')
  t.match(b, { action: 'wait', best: { waitS: 3, loadS: 4 } }, 'and after it the next')
})

t.test('a load is begun while all places are taken only so early that both are ready together', async t => {
  const cold = (busyS: number): Planned[] => plan(works([on(machine('box', { loaded: new Set(), busyS: [busyS] }))]), never)
  t.same(told(cold(3)), ['load box'])
  t.same(told(cold(9)), ['wait box'])
  t.match(cold(9)[0], { best: { waitS: 5, loadS: 4 } })
})

t.test('calls to a provider are counted against its limit before they are made', async t => {
  const site: Site = { id: 'cloud', own: null }
  const limited = rented('cloud', { site, waitS: ahead => Math.max(0, ahead - 1) })
  const planned = plan(works([limited], [limited], [limited], [limited]), never)
  t.same(told(planned), ['start cloud', 'start cloud', 'wait cloud', 'wait cloud'])
  t.same(
    planned.map(({ best }) => best?.waitS),
    [0, 0, 1, 2]
  )
})

t.test('what would break a bound of the request is left out, with the reason and the figures', async t => {
  const dear = rented('dear', { outputUsd: 1e-3 })
  const unknown = rented('unknown', { outputUsd: null })
  const stuck = on(machine('stuck', { loaded: new Set(), mayLoad: false }))
  const late = rented('late', { tokenS: 1 })
  const good = rented('good')
  const options = [dear, unknown, stuck, late, good]
  const [planned] = plan([workOf(options, { maxUsd: 0.01, isHard: true, leftS: 30 })], never)
  t.same(
    planned?.without.map(({ option, why, estimate }) => [option.site.id, why, estimate === null]),
    [
      ['dear', 'max_cost', false],
      ['unknown', 'price_unknown', false],
      ['stuck', 'no_load', true],
      ['late', 'deadline', false]
    ]
  )
  t.same(
    planned?.estimates.map(({ option }) => option.id),
    ['good/m']
  )
  t.equal(plan([workOf(options)], never)[0]?.estimates.length, 4, 'without bounds only what cannot be')
  const none = plan([workOf([dear, unknown], { maxUsd: 0.01 })], never)[0]
  t.match(none, { action: 'refuse', best: null, estimates: [] })
  t.match(plan([workOf([])], never)[0], { action: 'refuse', best: null, without: [] })
})

t.test('what a request may cost holds for a long answer, not for a usual one', async t => {
  // 0.0018 on average, 0.00244 for one of 360 tokens.
  const asked = (maxUsd: number): string => told(plan([workOf([rented('cloud')], { maxUsd })], never))[0] as string
  t.equal(asked(0.00243), 'refuse')
  t.equal(asked(0.00245), 'start cloud')
  const free = rented('free', { inputUsd: 0, cachedUsd: 0, outputUsd: 0 })
  t.same(
    told(plan([workOf([free, rented('unknown', { inputUsd: null })], { maxUsd: 0 })], never)),
    ['start free'],
    'nothing is a bound too'
  )
})

t.test('a hard deadline leaves out what would more likely be late, a soft one nothing', async t => {
  const cloud = rented('cloud')
  const asked = (leftS: number, isHard: boolean): string => told(plan([workOf([cloud], { leftS, isHard })], never))[0] as string
  t.equal(asked(4.5, true), 'refuse', 'half of the answers take longer than 4.55 s')
  t.equal(asked(4.6, true), 'start cloud')
  t.equal(asked(0.1, false), 'start cloud')
})

t.test('among equals each is chosen as often, and never always the first', async t => {
  const options = ['a', 'b', 'c'].map(id => rented(id))
  const counts = new Map<string, number>()
  const chance = chanceOf(11)
  for (let nth = 0; nth < 3_000; nth++) {
    const id = plan([workOf(options)], chance)[0]?.best?.option.site.id ?? ''
    counts.set(id, (counts.get(id) ?? 0) + 1)
  }
  for (const id of ['a', 'b', 'c']) t.ok(Math.abs((counts.get(id) ?? 0) - 1_000) < 120, `${id}: ${counts.get(id)}`)
  const better = [...options, rented('better', { tokenS: 0.019 })]
  for (let nth = 0; nth < 20; nth++) t.same(told(plan([workOf(better)], chance)), ['start better'])
  t.same(told(plan([workOf(options)], () => 1)), ['start c'], 'also at the end of chance')
})

t.test('beyond 32 nothing is planned, but what waits altogether counts', async t => {
  t.equal(workAtMost, 32)
  t.equal(plan(works(...Array(40).fill([rented('cloud')])), never).length, 32)
  const home = on(machine('home'))
  const others = (waiting: number): number => plan(works([home]), never, waiting)[0]?.best?.othersUsd ?? Number.NaN
  t.equal(others(1), 0)
  t.ok(others(3) > 0 && others(5) > others(3))
  const two = [home, on(machine('second'))]
  t.ok((plan(works(two), never, 5)[0]?.best?.othersUsd ?? 0) < others(5), 'two machines share the queue')
})

t.test('places are free when their calls are over, soonest first', async t => {
  const free = (slots: number, busyS: readonly number[]): number[] => freeAt(machine('m', { slots, busyS }).own as NonNullable<Site['own']>)
  t.same(free(3, []), [0, 0, 0])
  t.same(free(3, [7, 2]), [0, 2, 7])
  t.same(free(2, [9, 1, 5]), [5, 9], 'more run than there are places: the first that ends frees none')
})

/** A fleet, and what is asked of it, that a seed stands for. */
function fleetOf(seed: number, most = 4) {
  const chance = chanceOf(seed)
  const one = <T>(...values: readonly T[]): T => values[Math.floor(chance() * values.length)] as T
  const up = (to: number): number => to * chance() ** 3
  const sites = Array.from({ length: 1 + Math.floor(chance() * 4) }, (_, at): Site => {
    if (chance() < 0.4) return { id: `s${at}`, own: null }
    const slots = one(1, 1, 2, 4)
    const names = ['a', 'b', 'c'].filter(() => chance() < 0.4)
    return machine(`s${at}`, {
      slots,
      usdPerS: one(0, up(1e-3)),
      busyS: Array.from({ length: Math.floor(chance() * (slots + 2)) }, () => up(200)),
      loaded: new Set(names),
      loading: chance() < 0.2 ? { model: one('a', 'b'), leftS: 0.1 + up(60) } : null,
      mayLoad: chance() < 0.8,
      victimsFor: () => one<readonly string[] | null>(null, [], names),
      evictionUsd: () => up(0.01)
    })
  })
  const figures = sites.map(() => ({ rate: up(5), ttftS: up(10), tokenS: 1e-4 + up(0.5), failures: up(1) }))
  const optionOf = (site: Site, at: number): Option => {
    const model = one('a', 'b')
    const { rate, ttftS, tokenS, failures } = figures[at] as (typeof figures)[number]
    const cachedTokens = one(0, Math.floor(up(5_000)))
    if (site.own !== null)
      return { ...on(site, { model, tauS: tokenS, betaS: tokenS * chance(), promptS: up(0.01), loadS: up(60), cachedTokens }) }
    const price = (): number | null => one(null, 0, up(1e-4), up(1e-4))
    const waitS = (ahead: number): number => (rate < 1 ? 0 : ahead * rate)
    return {
      ...rented(site.id, { site, ttftS, tokenS, failures, inputUsd: price(), outputUsd: price(), cachedUsd: price(), waitS, cachedTokens }),
      model
    }
  }
  const works = Array.from({ length: 1 + Math.floor(chance() * most) }, (_, at): Work => {
    const bounded = chance()
    return {
      ...workOf(sites.map(optionOf).filter(() => chance() < 0.8)),
      id: `w${at}`,
      promptTokens: Math.floor(up(20_000)),
      lengths: evenLengths(up(2_000)),
      knob: knobs[one('cost', 'balanced', 'fast')],
      leftS: one(null, up(100) - 5),
      isHard: chance() < 0.4,
      maxUsd: bounded < 0.5 ? null : bounded < 0.6 ? 0 : up(0.05)
    }
  })
  return { sites, works, chance, optionOf }
}

/** Dollars of a long answer, and seconds of a usual one on an idle site, worked out apart. */
/** Nothing at the price of what was read before: whether it is kept is not ours to say. */
function longUsd({ promptTokens, lengths }: Work, { pace, site }: Option, isCold: boolean): number | null {
  const tokens = lengths.quantile(0.9)
  if (pace.kind === 'own') {
    const readS = promptTokens * pace.promptS
    return (site.own?.usdPerS ?? 0) * (readS + tokens * pace.tauS + (isCold ? pace.loadS : 0))
  }
  if (pace.inputUsd === null || pace.outputUsd === null) return null
  return promptTokens * pace.inputUsd + tokens * pace.outputUsd
}

function leastS({ promptTokens, lengths }: Work, { pace, cachedTokens }: Option): number {
  const tokens = lengths.quantile(0.5)
  return pace.kind === 'own'
    ? Math.max(0, promptTokens - cachedTokens) * pace.promptS + tokens * pace.tauS
    : pace.ttftS + promptTokens / 20_000 + tokens * pace.tokenS
}

t.test('no target that breaks a bound is ever let through: 60,000 fleets', async t => {
  let bounded = 0
  fc.assert(
    fc.property(fc.integer(), seed => {
      const { works, chance } = fleetOf(seed)
      for (const { work, estimates, without, best } of plan(works, chance)) {
        if (estimates.length + without.length !== work.options.length) throw new Error('an option is lost, or counted twice')
        if (best !== null && !estimates.includes(best)) throw new Error('the best is none of them')
        for (const { option, isCold } of estimates) {
          const usd = longUsd(work, option, isCold)
          if (work.maxUsd !== null && (usd === null || usd > work.maxUsd * 1.000_001)) throw new Error(`${usd} for ${work.maxUsd}`)
          if (work.isHard && work.leftS !== null && leastS(work, option) > work.leftS + 1e-9) throw new Error('surely late')
          if (isCold && option.site.own?.mayLoad === false) throw new Error('loaded where nothing may be')
        }
        bounded += without.length
      }
      return true
    }),
    { numRuns: 60_000 }
  )
  t.ok(bounded > 10_000, `${bounded} were left out`)
})

t.test('whatever the fleet, every figure is a number, and no machine gets more than it has places for', async t => {
  fc.assert(
    fc.property(fc.integer(), seed => {
      const { works, sites, chance } = fleetOf(seed, 40)
      const planned = plan(works, chance, works.length + 100)
      for (const { action, best, estimates } of planned) {
        const wrong = notFinite(estimates.map(estimate => ({ ...estimate, option: null })))
        if (wrong !== null) throw new Error(wrong)
        const scores = estimates.map(({ score }) => score)
        if (scores.some((score, at) => score < (scores[at - 1] ?? score) - Math.abs(score) * 1e-8))
          throw new Error(`order ${scores.join()}`)
        for (const each of estimates) {
          const least = [each.waitS, each.loadS, each.prefillS, each.decodeS, each.usd ?? 0, each.othersUsd, each.missShare, each.raw.p50]
          if (Math.min(...least) < 0 || each.missShare > 1 || each.raw.p90 < each.raw.p50) throw new Error(`figures ${least.join()}`)
          if (each.option.site.own !== null && (each.concurrency < 1 || each.concurrency > each.option.site.own.slots))
            throw new Error('places')
        }
        if ((action === 'refuse') !== (best === null)) throw new Error('refused')
        if ((action === 'start' || action === 'load') && (best?.waitS ?? 1) > 0) throw new Error('begun too soon')
      }
      for (const site of sites) {
        if (site.own === null) continue
        const here = planned.filter(({ best }) => best?.option.site === site)
        const starts = here.filter(({ action }) => action === 'start')
        if (starts.length > Math.max(0, site.own.slots - site.own.busyS.length)) throw new Error(`${starts.length} begun`)
        if (starts.some(({ best }) => !site.own?.loaded.has(best?.option.model ?? ''))) throw new Error('begun without its model')
        const loads = here.filter(({ action }) => action === 'load')
        if (loads.length > (site.own.loading === null && site.own.mayLoad ? 1 : 0)) throw new Error(`${loads.length} loads`)
      }
      return true
    }),
    { numRuns: 3_000 }
  )
  t.pass()
})

t.test('one more target never makes the best worse', async t => {
  fc.assert(
    fc.property(fc.integer(), fc.nat(20), (seed, waiting) => {
      const { works, chance, optionOf, sites } = fleetOf(seed, 1)
      const [work] = works as [Work]
      const at = Math.floor(chance() * sites.length)
      const more = { ...optionOf(sites[at] as Site, at), id: 'more' }
      const score = (options: readonly Option[]): number =>
        plan([{ ...work, options: fixed(options) }], chance, 1 + waiting)[0]?.best?.score ?? Number.POSITIVE_INFINITY
      return score([...work.options, more]) <= score(work.options) + 1e-12
    }),
    { numRuns: 20_000 }
  )
  t.pass()
})

/** The same sites with answers that do not change from one question to the next. */
function fixed(options: readonly Option[]): Option[] {
  const known = new Map<Site, Site>()
  const steady = (site: Site): Site => {
    if (site.own === null) return site
    const found = known.get(site) ?? { ...site, own: { ...site.own, victimsFor: () => [], evictionUsd: () => 1e-4 } }
    known.set(site, found)
    return found
  }
  return options.map(option => ({ ...option, site: steady(option.site) }))
}
