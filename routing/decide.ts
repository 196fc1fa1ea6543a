// Which targets may answer a request, in which order, and why each other one may not. Pure.

import { isStartable, type Planned } from './brain/plan.ts'
import type { Asked, Estimate } from './brain/types.ts'
import { canonical, isVirtual } from './catalog.ts'
import type { GatewayError } from './errors.ts'
import type { PreferenceRejection } from './preference.ts'
import { refusal, tooDear } from './refusals.ts'
import { hasFailed, isSound, rejectionOf } from './rules.ts'
import type { Caller, Feature, ModelRequest, Operation, Target, VectorSpace } from './types.ts'

export type Rejection =
  | 'context'
  | 'cooling_down'
  | 'deadline'
  | 'down'
  | 'full'
  | 'max_cost'
  | 'no_fallback'
  | 'no_load'
  | 'no_place'
  | 'no_rent'
  | 'not_allowed'
  | 'not_chosen'
  | 'not_local'
  | 'other_vector_space'
  | 'price_unknown'
  | PreferenceRejection
  | `lacks_${Feature}`
  | `no_${Operation}`

export interface Rejected {
  readonly target: string
  readonly reason: Rejection
}

/** `planned`: what each target would come to, where that was weighed. */
export type Decision =
  | {
      readonly action: 'run'
      readonly ranked: readonly Target[]
      readonly rejected: readonly Rejected[]
      readonly reason: string
      readonly planned?: Planned
    }
  /** It may wait, and that is better than anything it could have now: `feasible`, best first. */
  | { readonly action: 'enqueue'; readonly feasible: readonly Target[]; readonly rejected: readonly Rejected[]; readonly planned?: Planned }
  | { readonly action: 'refuse'; readonly error: GatewayError; readonly rejected: readonly Rejected[]; readonly planned?: Planned }

export interface DecisionInput {
  readonly request: ModelRequest
  readonly caller: Pick<Caller, 'models' | 'providers' | 'source'>
  readonly targets: readonly Target[]
  /** The order of `targets` is somebody's will. */
  readonly ordered: boolean
  /** Of a list that is weighed all the same: where each target stands in it, by its id. Equal ones are weighed against each other. */
  readonly tiers?: ReadonlyMap<string, number>
  /** The name that a target was found under, by its id, where that is another than the request's. */
  readonly names?: ReadonlyMap<string, string>
  /** Every name that providers and machines of this house have. */
  readonly house?: ReadonlySet<string>
  /** The model that a target has, by whatever name; absent = by its own. */
  readonly modelOf?: ModelOf
  /** Of embeddings: the only space whose vectors may be given; null for everything else. */
  readonly space: VectorSpace | null
  /** The house's rule for all requests. */
  readonly localOnly: boolean
  readonly mayQueue: boolean
}

export type ModelOf = (target: Target) => string

/** What is known of the moment. */
export interface DecisionView {
  /** What the adapter can carry, whatever the model. */
  canCarry(target: Target, feature: Feature): boolean
  isOpen(target: Target): boolean
  isDenied(target: Target): boolean
  isMissing(target: Target): boolean
  /** Its machine is away. */
  isDown(target: Target): boolean
  coolingMs(target: Target): number
  inFlight(target: Target): number
  averageMs(target: Target): number
  /** It would leave out something that the request says. */
  drops?(target: Target, request: ModelRequest): boolean
  /** Seconds until a rented target takes another call, after `ahead` others; with `obeysRests` false it may refuse it. Absent: at once. */
  waitS?(target: Target, ahead: number, obeysRests: boolean): number
  /** What each of these requests should do, in the order they are to be served. Absent: own machines come first. */
  readonly weigh?: (asked: readonly Asked[]) => readonly Planned[]
}

/**
 * Numbered in the order they decide:
 * 1. who may see it and can do it at all; 2. who can hold the prompt; 3. who is away, rests or is full;
 * 4. rank: working before broken, denying and lacking ones and those that failed this request, room for the expected prompt, of a list those
 *    that take a call now, the given order, then what is best for all: dollars, time, deadlines and the delay of others in one figure.
 *    Without that, own before rented, loaded before cold, least busy, configured order.
 * An open breaker, a refused key and a missing model only rank last: the last target that could answer is never put out.
 */
export function decide(input: DecisionInput, view: DecisionView): Decision {
  const sifted = sift(input, view)
  const { request, caller } = input
  const plan = isWeighed(sifted) ? view.weigh?.([{ request, caller, targets: sifted.sound }])[0] : undefined
  return decided(sifted, plan, view)
}

/** Of several requests in the order they are to be served: what one gets, the next has not. */
export function decideAll(inputs: readonly DecisionInput[], view: DecisionView): Decision[] {
  const sifted = inputs.map(input => sift(input, view))
  const ahead = new Map<string, number>()
  const weighed = sifted.filter(isWeighed)
  const plans = view.weigh?.(weighed.map(({ input, sound }) => ({ request: input.request, caller: input.caller, targets: sound }))) ?? []
  let next = 0
  return sifted.map(each => decided(each, isWeighed(each) ? plans[next++] : undefined, view, ahead))
}

/** `plan`: of one that is weighed, unless it stands too far back. */
function decided(sifted: Sifted, plan: Planned | undefined, view: DecisionView, ahead?: Ahead): Decision {
  const { input } = sifted
  if (plan !== undefined) return alone(chosen(sifted, plan, view), input)
  if (view.weigh === undefined) return alone(ranked(sifted, view, ahead), input)
  const bounded = withinBounds(sifted, view)
  return alone(isWeighed(sifted) ? later(bounded, view) : ranked(bounded, view, ahead), input)
}

/** By provider: calls of requests decided before in one go, that nobody weighed. */
type Ahead = Map<string, number>

interface Sifted {
  readonly input: DecisionInput
  readonly rejected: Rejected[]
  /** They could, but for their places. */
  readonly full: readonly Target[]
  readonly feasible: readonly Target[]
  /** Of both: those that work, as far as is known, and have room for what is expected. */
  readonly sound: readonly Target[]
  /** What would break a bound of the request, where that was looked at apart. */
  readonly out?: Planned['without']
}

function sift(input: DecisionInput, view: DecisionView): Sifted {
  const rejected: Rejected[] = []
  const full: Target[] = []
  const spent = spentModels(input)
  const feasible = input.targets.filter(target => {
    const reason = spent?.has(modelIn(input, target)) ? 'no_fallback' : rejectionOf(target, input, view)
    if (reason === null) return true
    if (reason === 'full') full.push(target)
    rejected.push({ target: target.id, reason })
    return false
  })
  const able = full.length === 0 ? feasible : input.targets.filter(target => feasible.includes(target) || full.includes(target))
  return { input, rejected, full, feasible, sound: able.filter(target => isSound(target, input.request, view)) }
}

/** The order of a list is its writer's will, also where money says otherwise; but what is bounded must be looked at. */
function isWeighed({ input, sound }: Sifted): boolean {
  return sound.length > 0 && (!input.ordered || input.tiers !== undefined || isBounded(input.request))
}

function isBounded({ maxUsd, isDeadlineHard }: ModelRequest): boolean {
  return maxUsd !== undefined || isDeadlineHard === true
}

/** Also those that are only tried last, and those that are full, must keep the bounds of a request: without the ones that would not. */
function withinBounds(sifted: Sifted, view: DecisionView): Sifted {
  const { input, feasible, full, rejected } = sifted
  if (!isBounded(input.request) || feasible.length + full.length === 0) return sifted
  const out = outOfBounds(input, [...feasible, ...full], view)
  const reasons = new Map(out.map(({ option, why }) => [option.id, why]))
  const isWithin = ({ id }: Target): boolean => !reasons.has(id)
  return {
    ...sifted,
    feasible: feasible.filter(isWithin),
    full: full.filter(isWithin),
    rejected: [...rejected.filter(({ target }) => !reasons.has(target)), ...[...reasons].map(([target, reason]) => ({ target, reason }))],
    out
  }
}

function outOfBounds({ request, caller }: DecisionInput, targets: readonly Target[], view: DecisionView): Planned['without'] {
  return targets.length === 0 ? [] : (view.weigh?.([{ request, caller, targets }])[0]?.without ?? [])
}

function modelIn({ modelOf }: Pick<DecisionInput, 'modelOf'>, target: Target): string {
  return modelOf?.(target) ?? canonical(target.model)
}

/** With an order only those that are in it are left anyway. */
function hasFallbacks({ preference }: ModelRequest): boolean {
  return preference === undefined || preference.allowFallbacks || preference.order.length > 0
}

/** Without fallbacks: the models that had their try. */
function spentModels(input: DecisionInput): ReadonlySet<string> | null {
  const { before } = input.request
  if (before === undefined || hasFallbacks(input.request)) return null
  return new Set(input.targets.filter(({ id }) => before.failed.includes(id)).map(target => modelIn(input, target)))
}

/** Those that may be tried one after the other: without fallbacks, of each model only the first. */
export function eachInTurn(targets: readonly Target[], input: Pick<DecisionInput, 'request' | 'modelOf'>): readonly Target[] {
  if (hasFallbacks(input.request)) return targets
  const seen = new Set<string>()
  return targets.filter(target => {
    const model = modelIn(input, target)
    return !seen.has(model) && seen.add(model) !== undefined
  })
}

function alone(decision: Decision, input: DecisionInput): Decision {
  if (decision.action !== 'run' || hasFallbacks(input.request)) return decision
  const kept = eachInTurn(decision.ranked, input)
  const models = new Set(kept.map(target => modelIn(input, target)))
  const able = new Set([...decision.ranked.map(({ id }) => id), ...(decision.planned?.estimates ?? []).map(({ option }) => option.id)])
  // Also those that it would have to wait for.
  const others = input.targets.filter(target => able.has(target.id) && !kept.includes(target) && models.has(modelIn(input, target)))
  const left = new Set(others.map(({ id }) => id))
  return {
    ...decision,
    ranked: kept,
    rejected: [
      ...decision.rejected.filter(({ target }) => !left.has(target)),
      ...others.map(({ id }) => ({ target: id, reason: 'no_fallback' as const }))
    ]
  }
}

function ranked(sifted: Sifted, view: DecisionView, ahead: Ahead = new Map()): Decision {
  const { input, rejected, full, feasible, sound, out = [] } = sifted
  const { request } = input
  if (feasible.length === 0) {
    if (full.length > 0 && input.mayQueue) return { action: 'enqueue', feasible: full, rejected }
    // One that is full would keep the bounds.
    const error = (full.length === 0 ? tooDear(input, out) : null) ?? refusal(input, rejected, view)
    return { action: 'refuse', error, rejected }
  }
  const limited = limitedOf(sifted, view, ahead)
  if (input.mayQueue && !feasible.some(target => sound.includes(target) && !limited.has(target))) {
    // Nothing that works can begin now. What failed this request, or would only refuse it, is no better than to wait.
    const waiting = sound.filter(target => full.includes(target) || limited.has(target))
    if (waiting.length > 0 && (limited.size > 0 || request.before !== undefined)) return { action: 'enqueue', feasible: waiting, rejected }
  }
  const keyed = feasible.map((target, index) => ({ target, key: rankKey(target, { input, index, isLimited: limited.has(target) }, view) }))
  keyed.sort((a, b) => compare(a.key, b.key))
  const order = keyed.map(({ target }) => target)
  const first = order[0] as Target
  if (!first.upstream.own) ahead.set(first.upstream.id, (ahead.get(first.upstream.id) ?? 0) + 1)
  return {
    action: 'run',
    ranked: order,
    rejected,
    reason: reasonFor(first, order.length, isGiven(input))
  }
}

/** Of a list that nobody weighs: those that work, but whose provider takes no call just now. */
function limitedOf({ input, feasible, sound }: Sifted, view: DecisionView, ahead: Ahead): ReadonlySet<Target> {
  if (!input.ordered || view.waitS === undefined) return noTargets
  // Who stands alone in a list may as well hear the refusal: a rest is only a guess.
  const obeysRests = sound.length > 1
  const isLimited = (target: Target): boolean => {
    const { id, own } = target.upstream
    return !own && (view.waitS?.(target, ahead.get(id) ?? 0, obeysRests) ?? 0) > 0
  }
  return new Set(feasible.filter(target => sound.includes(target) && isLimited(target)))
}

/** Too far back to be planned: what those before it leave is not known yet, so it waits where it may. */
function later(sifted: Sifted, view: DecisionView): Decision {
  const { input, rejected, full, feasible, sound } = sifted
  const able = input.targets.filter(target => feasible.includes(target) || full.includes(target))
  if (!input.mayQueue || able.length === 0) return ranked(sifted, view)
  const isUnsound = (target: Target): number => (sound.includes(target) ? 0 : 1)
  return { action: 'enqueue', feasible: able.toSorted((one, other) => isUnsound(one) - isUnsound(other)), rejected }
}

function chosen(sifted: Sifted, plan: Planned, view: DecisionView): Decision {
  const { input, feasible, sound } = sifted
  const planned = inTiers(plan, input)
  const { without, estimates } = planned
  const targetOf = byId(sound)
  const others = feasible.every(target => sound.includes(target)) ? noTargetList : feasible.filter(target => !sound.includes(target))
  // Usually there are none, and an error that nobody is told costs more than all the rest.
  const unsound = others.length === 0 ? null : withinBounds({ ...sifted, rejected: [], full: [], feasible: others }, view)
  const last = unsound === null || unsound.feasible.length === 0 ? null : ranked(unsound, view)
  const rest = last?.action === 'run' ? last.ranked : noTargetList
  const rejected =
    without.length === 0 && unsound === null
      ? sifted.rejected
      : [...sifted.rejected, ...without.map(({ option, why }) => ({ target: option.id, reason: why })), ...(unsound?.rejected ?? [])]
  if (planned.best === null && rest.length === 0) {
    const away = outOfReach(sifted, view)
    // What is away now and would keep the bounds may be back soon.
    const out = away.some(({ isWithin }) => isWithin) ? [] : [...without, ...away.flatMap(({ without }) => without)]
    return { action: 'refuse', error: tooDear(input, out) ?? refusal(input, rejected, view), rejected, planned }
  }
  const inOrder = estimates.map(({ option }) => targetOf(option.id) as Target)
  if (planned.action === 'wait' && input.mayQueue) return { action: 'enqueue', feasible: inOrder, rejected, planned }
  const now = inOrder.filter((target, at) => isStartable(estimates[at] as Estimate) && feasible.includes(target))
  // What could begin by the plan is full by now: others use it too. As in the plan, to wait for what works is better than what does not.
  if (now.length === 0 && inOrder.length > 0 && input.mayQueue) return { action: 'enqueue', feasible: inOrder, rejected, planned }
  const first = now[0] ?? rest[0]
  if (first === undefined) {
    return { action: 'refuse', error: refusal(input, rejected, view), rejected, planned }
  }
  return {
    action: 'run',
    ranked: rest.length === 0 ? now : [...now, ...rest],
    rejected,
    reason:
      tiersOf(input) === null ? whyFirst(first, planned, rest) : reasonFor(first, planned.estimates.length + rest.length, isGiven(input)),
    planned
  }
}

const noTargetList: readonly Target[] = []
// Fewer are found as fast without a table.
const listedAtMost = 8

function byId(targets: readonly Target[]): (id: string) => Target | undefined {
  if (targets.length <= listedAtMost) return id => targets.find(target => target.id === id)
  const table = new Map(targets.map(target => [target.id, target]))
  return id => table.get(id)
}

/** Of machines that are away, and providers that rest: what they would come to. */
function outOfReach(
  { input, rejected }: Sifted,
  view: DecisionView
): { readonly isWithin: boolean; readonly without: Planned['without'] }[] {
  if (!isBounded(input.request)) return []
  const away = new Set(rejected.filter(({ reason }) => reason === 'down' || reason === 'cooling_down').map(({ target }) => target))
  return input.targets
    .filter(({ id }) => away.has(id))
    .map(target => {
      const without = outOfBounds(input, [target], view)
      return { isWithin: without.length === 0, without }
    })
}

function tiersOf({ ordered, tiers, targets }: DecisionInput): ReadonlyMap<string, number> | null {
  if (tiers !== undefined) return tiers
  return ordered ? new Map(targets.map(({ id }, at) => [id, at])) : null
}

/** A list that is weighed keeps its order: the first that can begin now, or, where none can, the first. */
function inTiers(planned: Planned, input: DecisionInput): Planned {
  const tiers = tiersOf(input)
  if (tiers === null || planned.best === null) return planned
  const tier = ({ option }: Estimate): number => tiers.get(option.id) ?? Number.POSITIVE_INFINITY
  // Sorting is stable: within a tier the better one stays before the other.
  const estimates = planned.estimates.toSorted((one, other) => tier(one) - tier(other))
  const now = estimates.find(({ waitS }) => waitS <= 0)
  const best = now ?? (estimates[0] as Estimate)
  const action = now === undefined ? 'wait' : best.isCold ? 'load' : 'start'
  return { ...planned, estimates, best, action }
}

/** In a word, for the header; the figures are in the explanation of the route. */
function whyFirst(first: Target, { estimates, best }: Planned, rest: readonly Target[]): string {
  if (estimates.length + rest.length <= 1) return 'only_target'
  if (estimates.length === 1 && best?.option.id === first.id) return 'only_sound'
  const [, second] = estimates
  if (best === null || best.option.id !== first.id || second === undefined) return 'next_best'
  const dollars = (second.usd ?? Number.POSITIVE_INFINITY) - (best.usd ?? Number.POSITIVE_INFINITY)
  const seconds = second.etaS - best.etaS
  if (dollars >= 0 && seconds >= 0) return 'cheapest_and_fastest'
  if (dollars >= 0) return 'cheapest'
  return seconds >= 0 ? 'fastest' : 'least_delay'
}

const noTargets: ReadonlySet<Target> = new Set()

// 4
function rankKey(
  target: Target,
  { input, index, isLimited }: { readonly input: DecisionInput; readonly index: number; readonly isLimited: boolean },
  view: DecisionView
): readonly number[] {
  const { request, ordered } = input
  const expected = request.longest.expected + (request.maxOutputTokens ?? 0)
  return [
    view.isDenied(target) || view.isMissing(target) ? 2 : view.isOpen(target) || hasFailed(target, request) ? 1 : 0,
    target.contextTokens !== null && expected > target.contextTokens ? 1 : 0,
    isLimited ? 1 : 0,
    ordered ? index : 0,
    target.upstream.own ? 0 : 1,
    target.loaded ? 0 : 1,
    target.upstream.own ? view.inFlight(target) : 0,
    index
  ]
}

function compare(a: readonly number[], b: readonly number[]): number {
  for (let at = 0; at < a.length; at++) {
    const difference = (a[at] as number) - (b[at] as number)
    if (difference !== 0) return difference
  }
  return 0
}

/** An order by somebody else than us. */
function isGiven({ ordered, tiers, request }: DecisionInput): boolean {
  return tiers !== undefined || (ordered && !isVirtual(request.model))
}

function reasonFor(first: Target, count: number, isListed: boolean): string {
  if (count === 1) return 'only_target'
  if (isListed) return 'given_order'
  return first.upstream.own ? (first.loaded ? 'own_loaded' : 'own_first') : 'configured_order'
}

/** The same word of another one than the first, where those before it had no room after all. */
export function reasonOf(target: Target, { ranked, reason }: Extract<Decision, { action: 'run' }>): string {
  if (target === ranked[0] || reason === 'given_order') return reason
  return 'next_best'
}
