import t from 'tap'
import { plan, workAtMost } from '../../routing/brain/plan.ts'
import type { Asked, Option, OwnSite, Work } from '../../routing/brain/types.ts'
import { type Decision, type DecisionInput, type DecisionView, decide, decideAll } from '../../routing/decide.ts'
import type { Device, Feature, ModelRequest, Target, Upstream } from '../../routing/types.ts'
import { fc } from '../support/properties.ts'
import { chanceOf, evenLengths, machine, on, rented as rentedOption, workOf } from './brain/stage.ts'
import { requestFor } from './dispatch-stage.ts'

const device: Device = { id: 'home', maxConcurrency: 2, watts: 100, vramGb: 24, ramGb: null, keepAlive: null, numCtx: null }

/** A target, and what the brain makes of it. */
interface Weighed {
  readonly target: Target
  readonly option: Option
}

function target(
  id: string,
  own: boolean,
  changes: Partial<Omit<Target, 'upstream'>> & { readonly upstream?: Partial<Upstream> } = {}
): Target {
  const { upstream, ...rest } = changes
  return {
    id: `${id}/m`,
    model: 'm',
    contextTokens: null,
    maxOutputTokens: null,
    features: null,
    operations: ['chat', 'complete'],
    loaded: true,
    price: { source: 'unknown', tokens: null },
    createdAt: 0,
    ...rest,
    upstream: {
      id,
      adapter: 'openai',
      own,
      baseUrl: '',
      apiKey: null,
      headers: {},
      device: own ? { ...device, id } : null,
      timeouts: { connectMs: 1, firstTokenMs: 1, idleMs: 1, totalMs: 1 },
      models: null,
      auto: [],
      streamUsage: true,
      registryId: null,
      ...upstream
    }
  }
}

function own(id: string, site: Partial<OwnSite> = {}, pace: Parameters<typeof on>[1] = {}): Weighed {
  return { target: target(id, true), option: on(machine(id, { slots: 2, ...site }), pace) }
}

function rented(id: string, pace: Parameters<typeof rentedOption>[1] = {}): Weighed {
  return { target: target(id, false), option: rentedOption(id, pace) }
}

function request(changes: Partial<ModelRequest> = {}): ModelRequest {
  return requestFor({ id: 'r', prompt: { low: 900, expected: 1_000 }, ...changes })
}

function workFor({ request: { id, prompt, maxUsd, choices, isDeadlineHard, patience } }: Asked, options: readonly Option[]): Work {
  return workOf(options, {
    id,
    promptTokens: prompt.expected,
    lengths: evenLengths(200),
    leftS: patience?.deadlineMs == null ? null : patience.deadlineMs / 1_000,
    isHard: isDeadlineHard === true,
    maxUsd: maxUsd === undefined ? null : maxUsd / choices
  })
}

/** Everything idle and well, unless said otherwise by the upstream's id. */
interface Moment {
  readonly open?: readonly string[]
  readonly denied?: readonly string[]
  readonly missing?: readonly string[]
  readonly down?: readonly string[]
  readonly coolingMs?: Readonly<Record<string, number>>
  readonly inFlight?: Readonly<Record<string, number>>
}

function viewOf(fleet: readonly Weighed[], moment: Moment = {}, random: () => number = () => 0) {
  const asked: Asked[] = []
  const options = new Map(fleet.map(({ target, option }) => [target.id, { ...option, id: target.id }]))
  const view: DecisionView = {
    canCarry: () => true,
    isOpen: ({ upstream }) => moment.open?.includes(upstream.id) ?? false,
    isDenied: ({ upstream }) => moment.denied?.includes(upstream.id) ?? false,
    isMissing: ({ upstream }) => moment.missing?.includes(upstream.id) ?? false,
    isDown: ({ upstream }) => moment.down?.includes(upstream.id) ?? false,
    coolingMs: ({ upstream }) => moment.coolingMs?.[upstream.id] ?? 0,
    inFlight: ({ upstream }) => moment.inFlight?.[upstream.id] ?? 0,
    averageMs: () => 0,
    waitS({ id }, ahead) {
      const { pace } = options.get(id) as Option
      return pace.kind === 'own' ? 0 : pace.waitS(ahead)
    },
    weigh(requests) {
      asked.push(...requests)
      const works = requests.map(one =>
        workFor(
          one,
          one.targets.map(({ id }) => options.get(id) as Option)
        )
      )
      return plan(works, random)
    }
  }
  return { view, asked }
}

interface Case extends Partial<Omit<DecisionInput, 'request' | 'targets'>> {
  readonly request?: Partial<ModelRequest>
}

function inputOf(fleet: readonly Weighed[], { request: asked, ...input }: Case = {}): DecisionInput {
  return {
    request: request(asked),
    caller: { source: 's', models: null, providers: null },
    space: null,
    targets: fleet.map(({ target }) => target),
    ordered: false,
    localOnly: false,
    mayQueue: false,
    ...input
  }
}

const decideOn = (fleet: readonly Weighed[], given: Case = {}, moment: Moment = {}): Decision =>
  decide(inputOf(fleet, given), viewOf(fleet, moment).view)

const ids = (targets: readonly Target[]): string[] => targets.map(({ upstream }) => upstream.id)

/** `run a b`, `enqueue a`, `refuse no_capacity`. */
function told(decision: Decision): string {
  if (decision.action === 'refuse') return `refuse ${decision.error.code}`
  return [decision.action, ...ids(decision.action === 'run' ? decision.ranked : decision.feasible)].join(' ')
}

const full = { inFlight: { home: 2 } }
const busy = { busyS: [5, 5] }

t.test('what is best for all comes first, and then what is next best', async t => {
  t.equal(told(decideOn([rented('dear', { outputUsd: 1e-4 }), own('home'), rented('cloud')])), 'run home cloud dear')
  t.equal(
    told(decideOn([own('home', {}, { tauS: 1 }), rented('cloud')], { request: { route: 'fast' } })),
    'run cloud home',
    'also a rented one'
  )
})

t.test('why the first is first is said in a word', async t => {
  const reason = (fleet: readonly Weighed[], given: Case = {}): unknown => {
    const decision = decideOn(fleet, given)
    return decision.action === 'run' && decision.reason
  }
  t.equal(reason([own('home')]), 'only_target')
  t.equal(reason([own('home'), rented('cloud')]), 'cheapest_and_fastest')
  t.equal(reason([rented('slow', { tokenS: 0.05, outputUsd: 1e-6 }), rented('cloud')]), 'cheapest')
  t.equal(reason([own('quick', { usdPerS: 2e-7 }), own('home', {}, { tauS: 0.05 })]), 'fastest')
  t.equal(
    reason([own('home'), rented('cloud')], {
      tiers: new Map([
        ['cloud/m', 0],
        ['home/m', 1]
      ]),
      ordered: true
    }),
    'given_order'
  )
})

t.test('to wait is chosen only where that is best and the request may', async t => {
  const fleet = [own('home', busy), rented('cloud')]
  t.equal(told(decideOn(fleet, { mayQueue: true }, full)), 'enqueue home cloud')
  t.equal(told(decideOn(fleet, { mayQueue: false }, full)), 'run cloud', 'whoever may not wait gets what is free')
  t.equal(told(decideOn([own('home', { busyS: [500, 500] }), rented('cloud')], { mayQueue: true }, full)), 'run cloud', 'nor for ever')
  t.equal(told(decideOn([own('home', busy)], { mayQueue: true }, full)), 'enqueue home')
  t.equal(told(decideOn([own('home', busy)], {}, full)), 'refuse no_capacity')
  const limited = [rented('cloud', { waitS: () => 3 })]
  t.equal(told(decideOn(limited, { mayQueue: true })), 'enqueue cloud', 'a provider’s limit is waited for as well')
  t.equal(told(decideOn(limited)), 'refuse no_capacity')
})

t.test('a machine that is full by what is seen makes it wait, whatever the plan thinks', async t => {
  t.equal(told(decideOn([own('home')], { mayQueue: true }, full)), 'enqueue home')
  t.equal(told(decideOn([own('home')], {}, full)), 'refuse no_capacity')
  t.equal(told(decideOn([own('home'), rented('cloud')], { mayQueue: true }, full)), 'run cloud')
  const broken = { ...full, open: ['cloud'] }
  t.equal(told(decideOn([own('home'), rented('cloud')], { mayQueue: true }, broken)), 'enqueue home', 'rather than what does not work')
  t.equal(told(decideOn([own('home'), rented('cloud')], {}, broken)), 'run cloud')
  const before = { failed: ['cloud/m'], attempts: 1, nanoUsd: 0 }
  t.equal(told(decideOn([own('home'), rented('cloud')], { request: { before }, mayQueue: true }, full)), 'enqueue home')
})

t.test('a cold model is called for, and loaded by that', async t => {
  const fleet = [own('home', { loaded: new Set() }, { loadS: 1 }), rented('dear', { outputUsd: 1e-3 })]
  t.equal(told(decideOn(fleet, { mayQueue: true })), 'run home dear')
  const loading = [own('home', { loaded: new Set(), loading: { model: 'm', leftS: 1 } }), rented('dear', { outputUsd: 1e-3 })]
  t.equal(told(decideOn(loading, { mayQueue: true })), 'enqueue home dear', 'one that is being loaded is waited for')
})

t.test('of several requests, what one gets the next has not', async t => {
  const fleet = [own('home', { slots: 1 }), rented('cloud', { outputUsd: 1e-3 })]
  const one = (id: string): DecisionInput => inputOf(fleet, { request: { id }, mayQueue: true })
  t.same(decideAll([one('1'), one('2')], viewOf(fleet).view).map(told), ['run home cloud', 'enqueue home cloud'])
  t.same(decideAll([], viewOf(fleet).view), [])
})

t.test('beyond the 32 that are planned together all wait that may, and none runs by another rule', async t => {
  const fleet = [rented('cloud'), own('home', busy), rented('last')]
  const moment = { ...full, open: ['cloud'] }
  const { view, asked } = viewOf(fleet, moment)
  const inputs = Array.from({ length: 40 }, (_, at) => inputOf(fleet, { request: { id: String(at) }, mayQueue: at !== 35 }))
  const decisions = decideAll(inputs, view)
  t.equal(asked.length, 40, 'how many wait is known all the same')
  const beyond = decisions.slice(workAtMost).map(told)
  t.ok(decisions.slice(0, workAtMost).every(({ planned }) => planned !== undefined))
  t.equal(beyond[3], 'run last cloud', 'whoever may not wait is answered')
  t.same([...new Set(beyond.toSpliced(3, 1))], ['enqueue home last cloud'], 'where it may go: those that work first')
  t.ok(decisions.slice(workAtMost).every(({ planned }) => planned === undefined))
})

t.test('beyond the 32, what can never be is refused and does not wait', async t => {
  const fleet = [rented('cloud')]
  const given = (at: number): Case => {
    if (at === 33) return { localOnly: true }
    if (at === 34) return { request: { maxUsd: 1e-6 } }
    return { request: { id: String(at) } }
  }
  const inputs = Array.from({ length: 36 }, (_, at) => inputOf(fleet, { mayQueue: true, ...given(at) }))
  t.same(decideAll(inputs, viewOf(fleet).view).slice(32).map(told), [
    'enqueue cloud',
    'refuse no_capacity',
    'refuse no_target_within_budget',
    'enqueue cloud'
  ])
})

t.test('requests that nobody weighs take no place among the 32', async t => {
  const fleet = [rented('a'), own('home')]
  const inputs = Array.from({ length: 60 }, (_, at) =>
    inputOf(fleet, { request: { id: String(at), ...(at % 2 === 1 && { model: 'listed' }) }, mayQueue: true, ordered: at % 2 === 1 })
  )
  const { view, asked } = viewOf(fleet)
  const decisions = decideAll(inputs, view)
  t.equal(asked.length, 30)
  t.ok(decisions.every((decision, at) => at % 2 === 0 || told(decision) === 'run a home'))
  t.ok(decisions.every(({ planned }, at) => (planned !== undefined) === (at % 2 === 0)))
})

t.test('a given order stays as it is given', async t => {
  const fleet = [rented('dear', { outputUsd: 1e-2 }), own('home'), rented('cloud')]
  t.equal(told(decideOn(fleet, { ordered: true })), 'run dear home cloud')
  t.equal(told(decideOn(fleet, { ordered: true, request: { maxUsd: 10 } })), 'run dear home cloud', 'also where it is bounded')
  t.equal(told(decideOn(fleet, { ordered: true, request: { maxUsd: 0.1 } })), 'run home cloud', 'but for what breaks a bound')
  const tiers = new Map([
    ['dear/m', 0],
    ['cloud/m', 1],
    ['home/m', 1]
  ])
  t.equal(told(decideOn(fleet, { ordered: true, tiers })), 'run dear home cloud', 'among equals the better one')
  const waiting = [own('home', busy), rented('cloud')]
  const first = new Map([
    ['home/m', 0],
    ['cloud/m', 1]
  ])
  t.equal(told(decideOn(waiting, { ordered: true, tiers: first, mayQueue: true }, full)), 'run cloud', 'the first that can begin now')
  t.equal(
    told(decideOn([own('home', busy), rented('cloud', { waitS: () => 1 })], { ordered: true, tiers: first, mayQueue: true }, full)),
    'enqueue home cloud'
  )
})

t.test('in a list that nobody weighs, a provider that takes no call just now is passed over, and not refused', async t => {
  const limited = (id: string, calls = 0) => rented(id, { waitS: ahead => (ahead < calls ? 0 : 2) })
  const fleet = [limited('cheap'), rented('dear')]
  const { view, asked } = viewOf(fleet)
  t.equal(told(decide(inputOf(fleet, { ordered: true }), view)), 'run dear cheap')
  t.same(asked, [], 'nothing was weighed for that')
  t.equal(told(decideOn(fleet, { ordered: true }, { open: ['dear'] })), 'run cheap dear', 'it comes before one that is broken')
  const all = [limited('cheap'), limited('dear')]
  t.equal(told(decideOn(all, { ordered: true })), 'run cheap dear', 'who may not wait is answered, if they can')
  t.equal(told(decideOn(all, { ordered: true, mayQueue: true })), 'enqueue cheap dear')
  t.equal(told(decideOn([...all, own('home')], { ordered: true, mayQueue: true }, full)), 'enqueue cheap dear home')
  const inputs = Array.from({ length: 4 }, (_, at) =>
    inputOf([limited('cheap', 2), rented('dear')], { request: { id: String(at) }, ordered: true })
  )
  t.same(
    decideAll(inputs, viewOf([limited('cheap', 2), rented('dear')]).view).map(told),
    ['run cheap dear', 'run cheap dear', 'run dear cheap', 'run dear cheap'],
    'what one gets the next has not'
  )
})

t.test('the only target is one beside which nothing could answer', async t => {
  const reason = (fleet: readonly Weighed[], given: Case = {}, moment: Moment = {}): unknown => {
    const decision = decideOn(fleet, given, moment)
    return decision.action === 'run' && decision.reason
  }
  t.equal(reason([rented('cloud')]), 'only_target')
  t.equal(reason([rented('cloud'), rented('dear')], {}, { denied: ['dear'] }), 'only_sound')
  t.equal(reason([rented('cloud'), rented('dear')], { ordered: true, request: { maxUsd: 1 } }, { denied: ['dear'] }), 'given_order')
  const tiers = new Map([
    ['home/m', 0],
    ['cloud/m', 1]
  ])
  t.equal(reason([own('home', busy), rented('cloud')], { ordered: true, tiers }, full), 'given_order', 'one that is full is no other way')
})

t.test('without fallbacks also those that it would have to wait for are left out', async t => {
  const preference = { allowFallbacks: false, order: [], only: [], ignore: [], maxPrice: {}, brokered: [], hints: [], given: {} }
  const request = { preference: { ...preference, keepsNothing: false, requireParameters: false } }
  const decision = decideOn([own('home', { busyS: [500, 500] }), rented('cloud'), rented('dear', { outputUsd: 1e-3 })], { request }, full)
  t.equal(told(decision), 'run cloud')
  t.same(decision.rejected, [
    { target: 'home/m', reason: 'no_fallback' },
    { target: 'dear/m', reason: 'no_fallback' }
  ])
})

t.test('an open breaker, a refused key, a missing model and too small a context come last, and only then', async t => {
  const fleet = [own('home'), rented('cloud')]
  for (const moment of [{ open: ['home'] }, { denied: ['home'] }, { missing: ['home'] }]) {
    t.equal(told(decideOn(fleet, {}, moment)), 'run cloud home', JSON.stringify(moment))
    t.equal(told(decideOn([own('home')], {}, moment)), 'run home', 'the last one is never put out')
  }
  const small = { ...own('home'), target: { ...own('home').target, contextTokens: 950 } }
  t.equal(told(decideOn([small, rented('cloud')])), 'run cloud home')
  t.equal(told(decideOn(fleet, { request: { maxUsd: 1e-9 } }, { open: ['cloud'] })), 'run home', 'nor does it come last against a bound')
})

t.test('a bound that nobody keeps is refused with what would do', async t => {
  const dear = decideOn([rented('cloud'), rented('dear', { outputUsd: 1e-3 })], { request: { maxUsd: 0.001 } })
  t.match(dear, { action: 'refuse', error: { code: 'no_target_within_budget', message: /\$0\.0024/ } })
  t.same(dear.rejected, [
    { target: 'cloud/m', reason: 'max_cost' },
    { target: 'dear/m', reason: 'max_cost' }
  ])
  const unknown = decideOn([rented('cloud', { outputUsd: null })], { request: { maxUsd: 100 } })
  t.match(unknown, { error: { code: 'no_target_within_budget', message: /no price is known/ }, rejected: [{ reason: 'price_unknown' }] })
  const patience = { deadlineMs: 1_000, onDisconnect: 'cancel' as const }
  const late = decideOn([rented('cloud')], { request: { isDeadlineHard: true, patience } })
  t.match(late, { error: { code: 'no_capacity', message: /after its deadline: in 4\.5 s|4\.6 s/ }, rejected: [{ reason: 'deadline' }] })
  t.equal(told(decideOn([rented('cloud')], { request: { patience } })), 'run cloud', 'a soft deadline refuses nobody')
  const several = decideOn([rented('cloud')], { request: { maxUsd: 0.004, choices: 2 } })
  t.equal(told(several), 'refuse no_target_within_budget', 'two choices cost twice as much')
})

t.test('nobody waits for a full machine that would break a bound of the request, whatever is wrong with it', async t => {
  const patience = { deadlineMs: 2_000, onDisconnect: 'cancel' as const }
  const slow = own('home', {}, { tauS: 1 })
  const hard = { request: { isDeadlineHard: true as const, patience }, mayQueue: true }
  t.match(decideOn([slow], hard, full), { action: 'refuse', error: { code: 'no_capacity', message: /after its deadline/ } })
  t.match(
    decideOn([slow], hard, { ...full, open: ['home'] }),
    { action: 'refuse', error: { message: /after its deadline/ } },
    'an open breaker'
  )
  const small = { ...slow, target: { ...slow.target, contextTokens: 950 } }
  t.match(decideOn([small], hard, full), { action: 'refuse', rejected: [{ reason: 'deadline' }] }, 'too small a context')
  const dear = own('home', { usdPerS: 1 })
  t.equal(
    told(decideOn([dear], { request: { maxUsd: 0.1 }, mayQueue: true }, { ...full, denied: ['home'] })),
    'refuse no_target_within_budget'
  )
  t.equal(told(decideOn([own('home')], { request: { maxUsd: 0.1 }, mayQueue: true }, { ...full, denied: ['home'] })), 'enqueue home')
})

t.test('a machine that is full and keeps the bounds makes it no final no', async t => {
  const fleet = [own('home'), rented('dear', { outputUsd: 1 })]
  const moment = { ...full, open: ['home', 'dear'] }
  t.equal(told(decideOn(fleet, { request: { maxUsd: 0.1 } }, moment)), 'refuse no_capacity')
})

const features: readonly Feature[] = ['tools', 'vision']

/** A fleet, what is asked of it and by whom, that a seed stands for. */
function situationOf(seed: number) {
  const chance = chanceOf(seed)
  const one = <T>(...values: readonly T[]): T => values[Math.floor(chance() * values.length)] as T
  const up = (to: number): number => to * chance() ** 2
  const fleet = Array.from({ length: Math.floor(chance() * 6) }, (_, at): Weighed => {
    const id = `t${at}`
    const isOwn = chance() < 0.5
    const changes = {
      model: one('m', 'n'),
      contextTokens: one(null, 500, 950, 1_200, 9_000),
      features: one(null, new Set<Feature>(), new Set<Feature>(['tools']), new Set(features)),
      operations: one(['chat'] as const, ['chat', 'complete'] as const, ['embed'] as const)
    }
    const site = machine(id, {
      slots: 2,
      usdPerS: one(0, up(1e-3)),
      busyS: Array.from({ length: Math.floor(chance() * 4) }, () => up(20)),
      loaded: new Set(chance() < 0.6 ? ['m', 'n'] : []),
      mayLoad: chance() < 0.8
    })
    const price = (): number | null => one(null, 0, up(1e-5), up(1e-4))
    return {
      target: target(id, isOwn, changes),
      option: isOwn
        ? on(site, { tauS: up(0.1) + 1e-4, loadS: up(20), model: changes.model })
        : rentedOption(id, {
            tokenS: up(0.1) + 1e-4,
            inputUsd: price(),
            outputUsd: price(),
            cachedUsd: null,
            waitS: () => one(0, 0, 0, up(10))
          })
    }
  })
  const some = (): string[] => fleet.filter(() => chance() < 0.2).map(({ target }) => target.upstream.id)
  const moment: Moment = {
    open: some(),
    denied: some(),
    missing: some(),
    down: some(),
    coolingMs: Object.fromEntries(some().map(id => [id, 1_000])),
    inFlight: Object.fromEntries(fleet.map(({ target }) => [target.upstream.id, Math.floor(chance() * 3)]))
  }
  const isHard = chance() < 0.3
  const given: Case = {
    request: {
      localOnly: chance() < 0.2,
      needs: features.filter(() => chance() < 0.2),
      maxOutputTokens: one(null, 100, 2_000),
      ...(chance() < 0.4 && { maxUsd: one(0, up(0.01), up(0.1)) }),
      ...(chance() < 0.1 && { providers: ['t1', 't3'] }),
      ...(chance() < 0.05 && { only: 't2/m' }),
      ...(isHard && { isDeadlineHard: true as const }),
      ...((isHard || chance() < 0.2) && { patience: { deadlineMs: up(30_000), onDisconnect: 'cancel' as const } })
    },
    caller: { source: 's', models: one(null, null, null, ['n'], ['t0/*', 'm']), providers: one(null, null, null, ['t0', 't1', 't2']) },
    localOnly: chance() < 0.1,
    ordered: chance() < 0.2,
    mayQueue: chance() < 0.5
  }
  return { fleet, moment, given, chance }
}

/** Why this target may not get this request: worked out apart, and only what no circumstance can excuse. */
function forbidden({ target, option }: Weighed, { request: asked, caller, localOnly }: DecisionInput): string | null {
  const { upstream } = target
  if ((localOnly || asked.localOnly) && !upstream.own) return 'local only'
  if (asked.only !== undefined && target.id !== asked.only) return 'only'
  const names = upstream.own ? [upstream.id] : [upstream.id, upstream.adapter]
  if (asked.providers?.some(name => names.includes(name)) === false) return 'providers'
  if (caller.providers?.some(name => names.includes(name)) === false) return 'providers of the key'
  if (caller.models?.includes(target.model) === false && !caller.models.includes(asked.model)) {
    if (!caller.models.includes(`${upstream.id}/*`)) return 'models of the key'
  }
  if (!target.operations.includes('chat')) return 'operation'
  if (asked.needs.some(need => target.features?.has(need) === false)) return 'capability'
  if (target.contextTokens !== null && target.contextTokens < 900) return 'context'
  const { pace, site } = option
  if (asked.maxUsd !== undefined) {
    const known = pace.kind === 'own' || (pace.inputUsd !== null && pace.outputUsd !== null)
    const longUsd =
      pace.kind === 'own'
        ? (site.own?.usdPerS ?? 0) * (1_000 * pace.promptS + 360 * pace.tauS)
        : 1_000 * (pace.inputUsd ?? 0) + 360 * (pace.outputUsd ?? 0)
    if (!known || longUsd > asked.maxUsd * 1.000_001) return 'max cost'
  }
  const deadlineMs = asked.patience?.deadlineMs
  if (asked.isDeadlineHard && deadlineMs != null) {
    const leastS = pace.kind === 'own' ? 1_000 * pace.promptS + 200 * pace.tauS : pace.ttftS + 0.05 + 200 * pace.tokenS
    if (leastS * 1_000 > deadlineMs * 1.000_001) return 'hard deadline'
  }
  return null
}

t.test('no target that is forbidden is ever let through: 40,000 fleets', async t => {
  const counts: Record<string, number> = {}
  fc.assert(
    fc.property(fc.integer(), seed => {
      const { fleet, moment, given, chance } = situationOf(seed)
      const input = inputOf(fleet, given)
      const decision = decide(input, viewOf(fleet, moment, chance).view)
      counts[decision.action] = (counts[decision.action] ?? 0) + 1
      const through = decision.action === 'run' ? decision.ranked : decision.action === 'enqueue' ? decision.feasible : []
      if (new Set(through).size !== through.length) throw new Error('one of them twice')
      for (const weighed of fleet) {
        const why = forbidden(weighed, input)
        if (why !== null) counts[why] = (counts[why] ?? 0) + 1
        if (why !== null && through.includes(weighed.target)) throw new Error(`${weighed.target.id}: ${why}`)
      }
      if (decision.action === 'enqueue') return input.mayQueue && through.length > 0
      if (decision.action === 'refuse') return true
      const { inFlight, down, coolingMs } = moment
      for (const { upstream } of through) {
        if (down?.includes(upstream.id) || coolingMs?.[upstream.id] !== undefined) throw new Error('away')
        if (upstream.own && (inFlight?.[upstream.id] ?? 0) >= 2) throw new Error('full')
      }
      return through.length > 0
    }),
    { numRuns: 40_000 }
  )
  const reasons = ['local only', 'only', 'providers', 'providers of the key', 'models of the key', 'operation', 'capability', 'context']
  for (const name of [...reasons, 'max cost', 'hard deadline', 'run', 'enqueue', 'refuse'])
    t.ok((counts[name] ?? 0) > 500, `${name}: ${counts[name]}`)
})

t.test('what does not work, or has too little room, never comes before what does', async t => {
  fc.assert(
    fc.property(fc.integer(), seed => {
      const { fleet, moment, given, chance } = situationOf(seed)
      const input = inputOf(fleet, given)
      const decision = decide(input, viewOf(fleet, moment, chance).view)
      if (decision.action !== 'run') return true
      const isSound = ({ upstream, contextTokens }: Target): boolean => {
        const isWell = [moment.open, moment.denied, moment.missing].every(list => !list?.includes(upstream.id))
        return isWell && (contextTokens === null || contextTokens >= 1_000 + (input.request.maxOutputTokens ?? 0))
      }
      const firstUnsound = decision.ranked.findIndex(each => !isSound(each))
      return firstUnsound === -1 || decision.ranked.slice(firstUnsound).every(each => !isSound(each))
    }),
    { numRuns: 10_000 }
  )
  t.pass()
})
