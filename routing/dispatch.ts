// Carries one request through: decide, slot, call, next target, until it is answered or refused. All I/O comes in as ports.

import type { Brain } from './brain/brain.ts'
import type { Planned as Weighed } from './brain/plan.ts'
import { type CallEnd, startCall } from './call.ts'
import { type Alias, type Catalog, canonical } from './catalog.ts'
import { formatUsd } from './cost.ts'
import {
  type Decision,
  type DecisionInput,
  type DecisionView,
  decide,
  decideAll,
  eachInTurn,
  type ModelOf,
  type Rejected,
  reasonOf
} from './decide.ts'
import { GatewayError, toGatewayError } from './errors.ts'
import type { Load } from './load.ts'
import type {
  Breakers,
  CallRecord,
  Dimensions,
  Ledger,
  MachineHealth,
  MachineMemory,
  Outcome,
  Profiles,
  Reply,
  RouteKeeper,
  RouteStart,
  RunSummary,
  Slots
} from './ports.ts'
import { isBroker, passedOn, placeOf, providerNames } from './preference.ts'
import type { RetryBudget } from './retries.ts'
import { providerOf } from './targets.ts'
import type { Adapter, Attempt, AttemptHandle, Before, Caller, ModelRequest, Target, VectorSpace } from './types.ts'

export interface DispatchPorts {
  readonly catalog: () => Catalog
  readonly adapters: ReadonlyMap<string, Adapter>
  readonly breakers: Breakers
  readonly load: Load
  readonly retries: RetryBudget
  readonly slots: Slots
  readonly health: MachineHealth
  readonly ledger: Ledger
  readonly dimensions: Dimensions
  /** Absent where nothing is learned. */
  readonly profiles?: Profiles
  /** Absent where targets are not weighed. */
  readonly brain?: Brain
  /** What is in the memory of machines; absent where they see to it themselves. */
  readonly memory?: MachineMemory
  /** Keeps why a request went where it went, and what came of it; absent where nobody asks. */
  readonly routes?: RouteKeeper
  readonly localOnly: boolean
  /** Milliseconds of a clock that never jumps. */
  readonly now: () => number
  readonly random: () => number
  readonly newId: () => string
  /** The catalog is wrong about this target. */
  readonly onMissing: (target: Target) => void
  /** Takes a request for which every machine is full, to run it later; absent where nothing can wait. */
  readonly overflow?: Overflow
}

/** Whoever takes a request over tells its reply of everything from here on. */
export type Overflow = (waiting: {
  readonly request: ModelRequest
  readonly caller: Caller
  readonly reply: Reply
  /** When its answer was likely when it was decided that it waits; null = nobody knows. */
  readonly etaMs?: RouteStart['etaMs']
}) => Run

/** A place that a request was given when its turn came. */
export interface Claimed {
  readonly target: Target
  /** Of the first call. */
  readonly attemptId: string
  /** The slot of that call is ours already; the dispatch gives it back. Not so for rented targets. */
  readonly hasSlot: boolean
  /** It may cost no rent: no rented target answers where this one fails. */
  readonly ownOnly?: boolean
}

export interface Run {
  resume(): void
  /** Ends the run: the upstream is closed at once. `error` is told to the client, if there still is one. Safe twice. */
  cancel(error: GatewayError | null): void
}

export interface Dispatch {
  /** Carries the request through; `reply` hears of everything. With `claimed`, it has waited, and begins there. */
  run(request: ModelRequest, caller: Caller, reply: Reply, claimed?: Claimed): Run
  /** What would be done with it now, touching nothing. With `mayQueue`, full machines are no reason to refuse it. */
  plan(request: ModelRequest, caller: Caller, mayQueue?: boolean): Decision
  /** Whether a target honours a feature by itself. */
  canCarry(target: Target, feature: ModelRequest['needs'][number]): boolean
}

/** For whoever asks what would happen. */
export interface Previewing {
  /** What would be done with a request now, and what it would come to, touching nothing. */
  preview(request: ModelRequest, caller: Caller): Preview
}

export type Preview = RouteStart & {
  /** Where the name leaves the choice to chance: how often each model is the first. Of these the first stands here. */
  readonly chances: readonly { readonly model: string; readonly share: number }[] | null
}

/** For whoever gives places to what waits. */
export interface Scheduling {
  /** What would be done with several that wait, in the order they are to be served: what one gets, the next has not. */
  schedule(waiting: readonly { readonly request: ModelRequest; readonly caller: Caller }[]): readonly Decision[]
  /** When the answer of one is likely; null = nobody knows. Of a list that nobody weighed, as if nothing waited before it. */
  eta(decision: Decision, asked: { readonly request: ModelRequest; readonly caller: Caller }): RouteStart['etaMs']
  /** A request that was just stored to wait: what it would have saved counts for what is loaded. */
  arrived(decision: Decision): void
  /** The machine said that all its places are taken. */
  full(deviceId: string): void
  /** This attempt will run there as soon as its request is read. */
  reserved(target: Target, attemptId: string): void
}

export interface Losing {
  /** A machine is away: the calls that run there fail now, and go on elsewhere where nothing was sent yet. */
  lose(deviceId: string): void
  /** A machine does not finish loading this target: the calls that wait for it and could go elsewhere do. */
  leave(target: Target): void
}

/** A call on a machine of ours. */
interface Calling {
  readonly upstreamId: string
  readonly targetId: string
  /** Nothing came of it yet, and another target is left. */
  mayLeave(): boolean
  end(error: GatewayError): void
}

// A machine may notice a closed connection after the next call has arrived; its slot is given on a little later.
const abortedSlotRestMs = 100
// Usual loads take less.
const loadWaitMs = 30_000

export function createDispatch(ports: DispatchPorts): Dispatch & Previewing & Scheduling & Losing {
  // What ends the calls that run on each machine.
  const calling = new Map<string, Set<Calling>>()
  const view: DecisionView = {
    canCarry: (target, feature) => ports.adapters.get(target.upstream.adapter)?.features.has(feature) ?? false,
    isOpen: target => ports.breakers.isOpen(target.id),
    isDenied: target => ports.load.isDenied(target.upstream.id),
    isMissing: target => ports.load.isMissing(target.id),
    isDown: ({ upstream: { device } }) => device !== null && ports.health.isDown(device.id),
    coolingMs: target => ports.load.cooling(target.id),
    inFlight: target => ports.load.inFlight(target.upstream.id),
    averageMs: target => ports.load.averageMs(target.upstream.id),
    drops: (target, request) => (ports.adapters.get(target.upstream.adapter)?.dropped?.(withParameters(request), target) ?? []).length > 0,
    ...(ports.brain !== undefined && { weigh: ports.brain.plan, waitS: ports.brain.waitS })
  }

  /** What is to be decided about a request, or the error that leaves nothing to decide. `random` in [0, 1) chooses within weighted aliases. */
  function inputOf(request: ModelRequest, caller: Caller, { mayQueue, random }: { mayQueue: boolean; random: number }): Resolved {
    const catalog = ports.catalog()
    const isEmbedding = request.operation === 'embed'
    // Vectors of two models cannot be mixed, so nothing about embeddings is left to chance.
    const resolution = catalog.resolve(request.model, isEmbedding ? 0 : random)
    const space = isEmbedding ? catalog.spaceOf(request.model) : null
    if (!resolution.found) return { error: unknownModel(request.model, resolution.nearest, 'model'), space }
    if (isEmbedding && space === null) {
      const message = `Embeddings need a model by its name, not "${request.model}": vectors of different models cannot be compared.`
      return { error: new GatewayError('invalid_request', message, { param: 'model' }), space }
    }
    const { targets } = resolution
    // Whoever says what counts wants to have it weighed; of a list all are as good.
    const ordered = resolution.ordered && request.route === undefined
    const plain = { request, caller, targets, ordered, space, localOnly: ports.localOnly, mayQueue, modelOf: modelOfIn(catalog) }
    if (request.fallbacks === undefined && request.preference === undefined) return { input: plain, space }
    const listed = listedTargets(catalog, { request, targets, ordered, random })
    return listed instanceof GatewayError ? { error: listed, space } : { input: { ...plain, ...listed }, space }
  }

  function planned(request: ModelRequest, caller: Caller, mayQueue: boolean, random = ports.random()): Planned {
    const { error, input, space } = inputOf(request, caller, { mayQueue, random })
    return { decision: error === undefined ? decide(input, view) : { action: 'refuse', error, rejected: [] }, space }
  }

  /** Of a given order, which nobody weighed: what the first of it would come to. */
  function figuresOf(decision: Decision, request: ModelRequest, caller: Caller): Weighed | null {
    if (ports.brain === undefined || decision.action === 'refuse' || decision.planned !== undefined) return null
    const targets = (decision.action === 'run' ? decision.ranked : decision.feasible).slice(0, figuresAtMost)
    const [weighed] = ports.brain.plan([{ request, caller, targets }])
    if (weighed === undefined) return null
    const place = new Map(targets.map(({ id }, at) => [id, at]))
    const estimates = weighed.estimates.toSorted((one, other) => (place.get(one.option.id) ?? 0) - (place.get(other.option.id) ?? 0))
    const best = estimates.find(({ option }) => option.id === targets[0]?.id) ?? null
    if (best === null) return null
    const action = decision.action === 'enqueue' || best.waitS > 0 ? 'wait' : best.isCold ? 'load' : 'start'
    return { ...weighed, estimates, best, action }
  }

  function schedule(waiting: readonly { readonly request: ModelRequest; readonly caller: Caller }[]): readonly Decision[] {
    const resolved = waiting.map(({ request, caller }) => inputOf(request, caller, { mayQueue: true, random: ports.random() }))
    const decisions = decideAll(
      resolved.flatMap(({ input }) => (input === undefined ? [] : [input])),
      view
    )
    let next = 0
    return resolved.map(({ error }) => (error === undefined ? (decisions[next++] as Decision) : { action: 'refuse', error, rejected: [] }))
  }

  function eta(decision: Decision, { request, caller }: { readonly request: ModelRequest; readonly caller: Caller }): RouteStart['etaMs'] {
    const weighed = decision.planned ?? figuresOf(decision, request, caller)
    return weighed === null || ports.brain === undefined ? null : inMs(ports.brain.eta(weighed))
  }

  /** One that nobody planned before. A load that pays by now is begun. What is refused would have saved nothing. */
  function arrived({ action, planned: plan }: Decision): void {
    if (plan === undefined || action === 'refuse') return
    const wish = ports.brain?.arrived(plan) ?? null
    if (wish !== null) ports.memory?.load(wish.option.id, wish.victims)
  }

  function preview(request: ModelRequest, caller: Caller): Preview {
    const beganAt = ports.now()
    const { decision } = planned(request, caller, ports.overflow !== undefined, 0)
    const decidedUs = (ports.now() - beganAt) * 1_000
    const figures = figuresOf(decision, request, caller)
    const weighed = decision.planned ?? figures
    const chosen = decision.action === 'run' ? (decision.ranked[0] ?? null) : null
    const alias =
      request.operation === 'embed' || request.route !== undefined ? undefined : ports.catalog().source.aliases.get(request.model)
    const etaMs = weighed === null || ports.brain === undefined ? null : inMs(ports.brain.eta(weighed))
    return { request, caller, decision, figures, etaMs, chosen, decidedUs, chances: chancesOf(alias) }
  }

  return {
    run(request, caller, reply, claimed) {
      const { preference } = request
      const own = preference === undefined ? request : { ...request, preference: passedOn(preference, houseOf(ports.catalog())) }
      return createRun({ ports, calling, view, planned, figuresOf, arrived, request: own, caller, reply, claimed: claimed ?? null })
    },
    plan: (request, caller, mayQueue = false) => planned(request, caller, mayQueue).decision,
    preview,
    schedule,
    eta,
    arrived,
    full: deviceId => ports.brain?.full(deviceId),
    reserved: (target, attemptId) => ports.brain?.reserved(target, attemptId),
    lose(deviceId) {
      for (const call of [...(calling.get(deviceId) ?? [])])
        call.end(new GatewayError('machine_lost', `The machine ${call.upstreamId} does not answer any more.`))
    },
    leave({ id, model, upstream }) {
      const calls = [...(calling.get(upstream.device?.id ?? '') ?? [])].filter(call => call.targetId === id && call.mayLeave())
      for (const call of calls) call.end(new GatewayError('upstream_unavailable', `${upstream.id} does not finish loading "${model}".`))
    },
    canCarry: (target, feature) => view.canCarry(target, feature) && (target.features === null || target.features.has(feature))
  }
}

interface Planned {
  readonly decision: Decision
  readonly space: VectorSpace | null
}

type Resolved = { readonly space: VectorSpace | null } & (
  | { readonly error: GatewayError; readonly input?: undefined }
  | { readonly error?: undefined; readonly input: DecisionInput }
)

/** What waits is planned without its body: the names of its fields say enough. */
function withParameters(request: ModelRequest): ModelRequest {
  const fields = Object.fromEntries((request.preference?.parameters ?? []).map(name => [name, true]))
  return { ...request, body: { bytes: Buffer.alloc(0), json: () => fields, with: () => Buffer.alloc(0) } }
}

// Of a long list nobody wants to know what the last ones would cost.
const figuresAtMost = 8

const modelNames = new WeakMap<Catalog, ModelOf>()

/** The model that a target has: one and the same under all names that are certainly its own. */
function modelOfIn(catalog: Catalog): ModelOf {
  const known = modelNames.get(catalog)
  if (known !== undefined) return known
  const { sameAs } = catalog.source
  const modelOf: ModelOf = ({ model }) => {
    const name = canonical(model)
    return [name, ...(sameAs?.get(name) ?? [])].toSorted()[0] as string
  }
  modelNames.set(catalog, modelOf)
  return modelOf
}

const houses = new WeakMap<Catalog, ReadonlySet<string>>()

/** Every name of a provider or machine of this house. */
function houseOf(catalog: Catalog): ReadonlySet<string> {
  const known = houses.get(catalog)
  if (known !== undefined) return known
  const names = new Set(catalog.source.upstreams.flatMap(providerNames))
  houses.set(catalog, names)
  return names
}

/** The targets of a request that names several models, or an order of providers. A name that means nothing is an error, not passed over. */
function listedTargets(
  catalog: Catalog,
  {
    request,
    targets,
    ordered,
    random
  }: { readonly request: ModelRequest; readonly targets: readonly Target[]; readonly ordered: boolean; readonly random: number }
): Pick<DecisionInput, 'targets' | 'ordered' | 'house' | 'tiers' | 'names'> | GatewayError {
  const { fallbacks = [], preference, anyFallback } = request
  const house = houseOf(catalog)
  const all: Target[] = [...targets]
  const seen = new Set(targets.map(({ id }) => id))
  const names = new Map<string, string>()
  /** Where a target stands: its model, and within an ordered one its own place. */
  const place = new Map<string, readonly [model: number, own: number]>(targets.map(({ id }, at) => [id, [0, ordered ? at : 0]]))
  for (const [at, name] of fallbacks.entries()) {
    const found = catalog.resolve(name, random)
    if (!found.found) return unknownModel(name, found.nearest, 'models')
    const isOrdered = found.ordered && request.route === undefined
    for (const [index, target] of found.targets.entries()) {
      if (seen.has(target.id)) continue
      seen.add(target.id)
      all.push(target)
      names.set(target.id, name)
      place.set(target.id, [anyFallback === true ? 0 : at + 1, isOrdered ? index : 0])
    }
  }
  const hasOrder = preference !== undefined && preference.order.length > 0
  if (!hasOrder && !ordered && (fallbacks.length === 0 || anyFallback === true)) return { targets: all, ordered: false, house, names }
  const keys = all.map(target => {
    const [model, own] = place.get(target.id) ?? [0, 0]
    return { target, key: [model, hasOrder ? placeOf(target, preference, house) : 0, own] }
  })
  keys.sort((one, other) => difference(one.key, other.key))
  const tiers = new Map<string, number>()
  let tier = 0
  for (const [at, { target, key }] of keys.entries()) {
    const before = keys[at - 1]
    if (before !== undefined && difference(before.key, key) !== 0) tier++
    tiers.set(target.id, tier)
  }
  return { targets: keys.map(({ target }) => target), ordered: true, tiers, house, names }
}

function difference(one: readonly number[], other: readonly number[]): number {
  for (const [at, value] of one.entries()) if (value !== other[at]) return value - (other[at] ?? 0)
  return 0
}

function chancesOf(alias: Alias | undefined): Preview['chances'] {
  if (alias?.kind !== 'weighted' || alias.models.length < 2) return null
  const total = alias.models.reduce((sum, { weight }) => sum + weight, 0)
  return alias.models.map(({ model, weight }) => ({ model, share: total > 0 ? weight / total : 0 }))
}

/** Of a place that was given: what was found for that target, if anything. */
function at(weighed: Weighed | null, target: Target | null): Weighed | null {
  if (weighed === null || target === null) return weighed
  const best = weighed.estimates.find(({ option }) => option.id === target.id)
  return best === undefined ? null : { ...weighed, best, action: best.isCold ? 'load' : 'start' }
}

/** Whole milliseconds; null where they are no figures. */
function inMs(eta: { readonly p50: number; readonly p90: number } | null): RouteStart['etaMs'] {
  if (eta === null || !Number.isFinite(eta.p50) || !Number.isFinite(eta.p90)) return null
  return { p50: Math.round(eta.p50 * 1_000), p90: Math.round(eta.p90 * 1_000) }
}

function unknownModel(model: string, nearest: readonly string[], param: string): GatewayError {
  const hint = nearest.length === 0 ? '' : ` Did you mean ${nearest.map(name => `"${name}"`).join(', ')}?`
  return new GatewayError('model_not_found', `The model "${model}" does not exist here.${hint} GET /v1/models lists what does.`, {
    param
  })
}

function createRun({
  ports,
  calling,
  view,
  planned,
  figuresOf,
  arrived,
  request,
  caller,
  reply,
  claimed
}: {
  ports: DispatchPorts
  calling: Map<string, Set<Calling>>
  view: DecisionView
  planned: (request: ModelRequest, caller: Caller, mayQueue: boolean) => Planned
  figuresOf: (decision: Decision, request: ModelRequest, caller: Caller) => Weighed | null
  arrived: (decision: Decision) => void
  request: ModelRequest
  caller: Caller
  reply: Reply
  claimed: Claimed | null
}): Run {
  // Whoever had its turn does not queue up again: it has the machine it was given, or fails over to a free one.
  const overflow = claimed === null ? ports.overflow : undefined
  const beganAt = ports.now()
  const calls: CallRecord[] = []
  let ranked: readonly Target[] = []
  let rejected: Rejected[] = []
  let space: VectorSpace | null = null
  let reason = ''
  let next = 0
  let attempts = 0
  let started = false
  let over = false
  let handle: AttemptHandle | null = null
  let successor: Run | null = null
  let cancelled: GatewayError | 'silent' | null = null
  let lastError: GatewayError | null = null
  let largestContextTried = 0
  let hasLookedAgain = false
  let route: RouteStart | null = null

  begin()
  return { resume: () => (successor ?? handle)?.resume(), cancel }

  function begin(): void {
    const { decision } = decideNow()
    rejected = [...decision.rejected]
    if (claimed !== null) return beginAt(claimed, decision)
    if (decision.action === 'refuse') return finish('failed', decision.error)
    arrived(decision)
    if (decision.action === 'enqueue') return wait()
    ranked = decision.ranked
    reason = decision.reason
    tryNext()
  }

  function decideNow(): Planned {
    const decidingAt = ports.now()
    const plan = planned(request, caller, overflow !== undefined)
    const { decision } = plan
    const decidedUs = (ports.now() - decidingAt) * 1_000
    space = plan.space
    const figures = figuresOf(decision, request, caller)
    const chosen = claimed?.target ?? (decision.action === 'run' ? (decision.ranked[0] ?? null) : null)
    // Told once: what is learned from this very answer must not change what was expected of it.
    const etaMs = expected(at(decision.planned ?? figures, claimed?.target ?? null))
    route = { request, caller, decision, figures, etaMs, chosen, decidedUs }
    ports.routes?.begun(route)
    return plan
  }

  function expected(weighed: Weighed | null | undefined): RouteStart['etaMs'] {
    return weighed == null || ports.brain === undefined ? null : inMs(ports.brain.eta(weighed))
  }

  /** Those before it had no room after all: what was decided is told of where it is sent. */
  function sentFirstTo(target: Target): void {
    if (route === null || attempts > 0 || route.chosen?.id === target.id) return
    const { decision, figures } = route
    if (decision.action === 'run' && claimed === null) reason = reasonOf(target, decision)
    route = { ...route, decision: withRejected(decision), chosen: target, etaMs: expected(at(decision.planned ?? figures, target)) }
    ports.routes?.begun(route)
  }

  /** With those that turned out to have no room. */
  function withRejected(decision: Decision): Decision {
    return decision.action === 'run' && rejected.length > decision.rejected.length ? { ...decision, rejected: [...rejected] } : decision
  }

  /** What was decided when the place was given holds, whatever the moment says: the place is taken. */
  function beginAt({ target, attemptId, hasSlot, ownOnly = false }: Claimed, decision: Decision): void {
    const others =
      decision.action === 'run' ? decision.ranked.filter(({ id, upstream }) => id !== target.id && (upstream.own || !ownOnly)) : []
    ranked = eachInTurn([target, ...others], { request, modelOf: modelOfIn(ports.catalog()) })
    const left = decision.action === 'run' ? decision.ranked.filter(other => other.id !== target.id && !ranked.includes(other)) : []
    for (const { id, upstream } of left) rejected.push({ target: id, reason: upstream.own || !ownOnly ? 'no_fallback' : 'no_rent' })
    reason = 'waited'
    next = 1
    const attempt: Attempt = { id: attemptId, request, target }
    const { device } = target.upstream
    if (device !== null && hasSlot) prepared(attempt, device.id)
    else run(attempt, hasSlot)
  }

  /** `again`: what was decided after failures. */
  function wait(again: Decision | null = null): void {
    if (overflow === undefined) return finish('failed', allFull())
    // Its client left while a place was asked for: nobody would take it out of the queue again.
    if (cancelled !== null) return calledOff(cancelled)
    over = true
    const etaMs = again === null ? (route?.etaMs ?? null) : expected(again.planned)
    // Whoever asks meanwhile is told that it waits; afterwards, how it came to that.
    if (again !== null && route !== null) ports.routes?.begun({ ...route, decision: again, figures: null, etaMs, chosen: null })
    successor = overflow({
      request: asTried(),
      caller,
      etaMs,
      reply: {
        ...reply,
        fail: error => reply.fail(toldTo(error)),
        over(summary) {
          const whole = withCalls(summary)
          concluded(whole, 'waited')
          reply.over(whole)
        }
      }
    })
  }

  /** As it is decided about once it was tried: who has failed it is asked last. */
  function asTried(): ModelRequest {
    if (attempts === 0) return request
    const before: Before = { failed: [...new Set(calls.map(({ target }) => target.id))], attempts, nanoUsd: totalNanoUsd() }
    return { ...request, before }
  }

  /** What it was before it waited, and what then came of it. */
  function withCalls(summary: RunSummary): RunSummary {
    if (calls.length === 0) return summary
    const all = [...calls, ...summary.calls]
    return {
      ...summary,
      target: all.at(-1)?.target ?? null,
      attempts: attempts + summary.attempts,
      nanoUsd: plus(totalNanoUsd(), summary.calls.length === 0 ? 0 : summary.nanoUsd),
      calls: all
    }
  }

  function tryNext(): void {
    if (over) return
    if (cancelled !== null) return calledOff(cancelled)
    const target = ranked[next++]
    if (target === undefined) return lookAgain()
    const attempt: Attempt = { id: ports.newId(), request, target }
    const device = target.upstream.device
    if (device === null) return run(attempt, false)
    ports.slots.claim(device.id, attempt.id, { mayOvertake: claimed !== null }).then(
      granted => {
        if (granted) return prepared(attempt, device.id)
        rejected.push({ target: target.id, reason: 'full' })
        ports.brain?.full(device.id)
        waitOrNext()
      },
      (error: unknown) => {
        rejected.push({ target: target.id, reason: 'no_place' })
        lastError = toGatewayError(error)
        tryNext()
      }
    )
  }

  function calledOff(why: GatewayError | 'silent'): void {
    finish('aborted', why === 'silent' ? new GatewayError('client_gone', 'The client went away.') : why)
  }

  /** A machine turned out to be full that was thought to be free: to wait for it may be better than all that is left. */
  function waitOrNext(): void {
    if (overflow === undefined || ports.brain === undefined) return tryNext()
    if (attempts > 0) {
      const decision = mayMoveOn() ? planned(asTried(), caller, true).decision : null
      return decision?.action === 'enqueue' ? wait(decision) : tryNext()
    }
    if (lastError !== null) return tryNext()
    const before = route
    if (decideNow().decision.action === 'enqueue') return wait()
    route = before
    tryNext()
  }

  function mayMoveOn(): boolean {
    return attempts > 0 && lastError?.nextTarget === true
  }

  /** All that could begin have failed. What is only busy is waited for, and what has become free meanwhile is tried, once. */
  function lookAgain(): void {
    if (attempts === 0 && lastError === null) return wait()
    if (overflow !== undefined && mayMoveOn() && !hasLookedAgain) {
      hasLookedAgain = true
      const { decision } = planned(asTried(), caller, true)
      if (decision.action === 'enqueue') return wait(decision)
      const tried = new Set(calls.map(({ target }) => target.id))
      const others = decision.action === 'run' ? decision.ranked.filter(({ id }) => !tried.has(id)) : []
      if (others.length > 0) {
        ranked = others
        next = 0
        return tryNext()
      }
    }
    finish('failed', lastError ?? allFull())
  }

  /** A model that is not in memory gets room there first, and nothing else is loaded meanwhile. */
  function prepared(attempt: Attempt, deviceId: string): void {
    // Whoever has waited for this very place and has no other keeps it for a while.
    const waitMs = claimed !== null && next >= ranked.length ? loadWaitMs : 0
    const ready = ports.memory?.prepare(attempt.target, { id: attempt.id, waitMs })
    if (ready === undefined || ready === null) return run(attempt, true)
    ready.then(
      isReady => {
        if (isReady) return run(attempt, true)
        ports.slots.release(deviceId, attempt.id, 0)
        rejected.push({ target: attempt.target.id, reason: 'no_load' })
        waitOrNext()
      },
      // Whoever cannot make room lets the machine do it.
      () => run(attempt, true)
    )
  }

  function allFull(): GatewayError {
    const waitMs = Math.max(...ranked.map(target => view.averageMs(target)), 1_000)
    return new GatewayError('no_capacity', `Every machine for "${request.model}" is busy.`, {
      retryAfterMs: Math.min(60_000, Math.ceil(waitMs))
    })
  }

  function run(attempt: Attempt, hasSlot: boolean): void {
    const { target } = attempt
    const { device } = target.upstream
    const adapter = ports.adapters.get(target.upstream.adapter)
    const giveBack = (afterMs: number): void => {
      ports.memory?.settled(target, attempt.id)
      if (hasSlot && device !== null) ports.slots.release(device.id, attempt.id, afterMs)
    }
    if (adapter === undefined || cancelled !== null) {
      giveBack(0)
      if (adapter === undefined) lastError = new GatewayError('internal_error', `No adapter is called "${target.upstream.adapter}".`)
      return tryNext()
    }
    // Only now is it sure that a call follows: a machine that turns out to be full takes nothing from the budget.
    if (attempts > 0 && !ports.retries.take()) {
      giveBack(0)
      return finish('failed', lastError ?? allFull())
    }
    let running: AttemptHandle | null = null
    let hasBegun = false
    let lost: GatewayError | null = null
    const call: Calling = {
      upstreamId: target.upstream.id,
      targetId: target.id,
      mayLeave: () => !hasBegun && next < ranked.length,
      end(error) {
        lost ??= error
        running?.abort()
      }
    }
    const here = device === null ? null : (calling.get(device.id) ?? new Set())
    if (here !== null && device !== null) calling.set(device.id, here.add(call))
    sentFirstTo(target)
    try {
      handle = running = startCall(
        ports,
        { adapter, attempt, caller, mismatch },
        {
          begun() {
            hasBegun = true
            ports.brain?.begun(attempt.id)
            ports.memory?.settled(target, attempt.id)
          },
          begin: () => start(target, null),
          frames: events => reply.frames(events),
          streamed: tokens => ports.brain?.streamed(attempt.id, tokens),
          limits: told => ports.brain?.limits(attempt.id, told),
          end(end) {
            if (handle === running) handle = null
            here?.delete(call)
            ports.brain?.ended(end)
            giveBack(end.outcome === 'aborted' ? abortedSlotRestMs : 0)
            const isLost = lost !== null && end.outcome === 'aborted' && cancelled === null
            ended(isLost ? { ...end, outcome: 'failed', error: lost } : end)
          }
        }
      )
    } catch (error) {
      // What cannot be written down is not spent.
      here?.delete(call)
      giveBack(0)
      return finish(
        'failed',
        new GatewayError('no_capacity', 'The gateway cannot write its journal, so it makes no calls.', {
          cause: error,
          retryAfterMs: 5_000
        })
      )
    }
    ports.breakers.begin(target.id)
    ports.brain?.began({ attemptId: attempt.id, target, request, caller })
    attempts++
    if (attempts === 1) ports.retries.count()
    // The client left before there was anything to close.
    if (cancelled !== null) running.abort()
  }

  /** Vectors of another length than those of the same space, or than were asked for, are of no use to anyone. */
  function mismatch(dimensions: number): GatewayError | null | Promise<GatewayError | null> {
    if (space === null || request.embedding === null) return null
    const { name } = space
    const asked = request.embedding.dimensions
    if (asked !== null) {
      if (asked === dimensions) return null
      return new GatewayError('dimension_mismatch', `${asked} dimensions were asked for, but "${request.model}" gave ${dimensions}.`, {
        param: 'dimensions'
      })
    }
    const judge = (expected: number): GatewayError | null =>
      expected === dimensions
        ? null
        : new GatewayError('dimension_mismatch', `Vectors of "${name}" have ${expected} dimensions, but these have ${dimensions}.`, {
            param: 'model'
          })
    const known = ports.dimensions.known(name)
    // The first vectors of a space: another gateway may have had others before.
    return known === null ? ports.dimensions.learn(name, dimensions).then(judge) : judge(known)
  }

  function ended(end: CallEnd): void {
    // Without the answer itself: the record lives as long as the request's line in the log.
    const { attemptId, target, outcome, error, startedAt, durationMs, ttftMs, usage, settled, timings } = end
    calls.push({
      attemptId,
      target,
      outcome,
      error,
      startedAt,
      durationMs,
      ttftMs,
      usage,
      settled,
      ...(timings !== undefined && { timings })
    })
    learn(end.target, end.error)
    profile(end)
    const failure = end.error
    if (failure === null) return answer(end)
    if (started || cancelled !== null) return finish(end.outcome, failure)
    lastError = failure
    if (failure.code === 'context_length_exceeded') {
      largestContextTried = Math.max(largestContextTried, end.target.contextTokens ?? Number.POSITIVE_INFINITY)
      // Too long for this one is not too long for all: only larger ones are worth another try.
      while (next < ranked.length && ((ranked[next] as Target).contextTokens ?? Number.POSITIVE_INFINITY) <= largestContextTried) next++
      if (next < ranked.length) return tryNext()
      return finish('failed', failure)
    }
    if (failure.nextTarget) return tryNext()
    finish('failed', failure)
  }

  function answer({ target, body, held, usageEvent, done }: CallEnd): void {
    const { before } = request
    const nanoUsd = before === undefined ? totalNanoUsd() : plus(before.nanoUsd, totalNanoUsd())
    if (request.stream) {
      if (!started) {
        // A whole answer without one token: an empty answer is an answer.
        start(target, null)
        if (held !== null) reply.frames(held)
      }
      if (usageEvent !== null && request.includeUsage) reply.frames(withFacts(usageEvent, target, nanoUsd))
      reply.finish(done)
    } else if (body !== null) {
      start(target, nanoUsd)
      reply.body(body)
    } else {
      return finish('failed', new GatewayError('upstream_unavailable', `${target.upstream.id} ended without an answer.`))
    }
    finish('ok', null)
  }

  function start(target: Target, nanoUsd: number | null): void {
    started = true
    const unheard = isBroker(target.upstream) ? [] : (request.preference?.hints ?? [])
    const dropped = [...unheard, ...(ports.adapters.get(target.upstream.adapter)?.dropped?.(request, target) ?? [])]
    const etaMs = route?.etaMs ?? null
    reply.start({ target, reason: reasonNow(), nanoUsd, dropped, ...(etaMs !== null && { etaMs }) })
  }

  function reasonNow(): string {
    return attempts > 1 ? 'fallback' : reason
  }

  /** How fast the machine was, or that it failed; a client that left says nothing of it. */
  function profile({ target, error, ttftMs, timings }: CallEnd): void {
    const { device } = target.upstream
    const isFailure = error !== null && error.breaker === 'failure'
    if (device === null || (!isFailure && timings === undefined)) return
    ports.profiles?.observe(device.id, target.model, {
      isFailure,
      loadMs: timings?.loadMs ?? null,
      ttftMs: request.stream ? ttftMs : null,
      prompt: timings?.prompt ?? null,
      answer: timings?.answer ?? null,
      isBenchmark: request.isBenchmark === true
    })
  }

  /** Breakers, rests and marks: what this end says of the target. */
  function learn(target: Target, error: GatewayError | null): void {
    ports.breakers.record(target.id, error)
    if (error === null || error.code === 'client_gone') return
    const { device } = target.upstream
    if (device !== null && error.breaker === 'failure' && error.code !== 'machine_lost') ports.health.failed(device.id)
    if (error.breaker === 'cool_down') ports.load.coolDown(target.id, error.retryAfterMs ?? 1_000)
    if (error.breaker === 'denied') ports.load.deny(target.upstream.id)
    if (error.breaker === 'not_here') {
      ports.load.miss(target.id)
      ports.onMissing(target)
    }
  }

  function withFacts(event: Buffer, target: Target, nanoUsd: number | null): Buffer {
    const facts = {
      provider: providerOf(target.upstream),
      model: target.model,
      device: target.upstream.device?.id ?? null,
      reason: reasonNow(),
      attempts: attempts + (request.before?.attempts ?? 0),
      cost_usd: nanoUsd === null ? null : Number(formatUsd(nanoUsd)),
      route_id: request.id
    }
    const close = event.lastIndexOf('}')
    return Buffer.concat([event.subarray(0, close), Buffer.from(`,"x_llm_mcp":${JSON.stringify(facts)}`), event.subarray(close)])
  }

  function cancel(error: GatewayError | null): void {
    if (successor !== null) return successor.cancel(error)
    if (over || cancelled !== null) return
    cancelled = error ?? 'silent'
    // Between two attempts nothing runs; the next step sees `cancelled`.
    handle?.abort()
  }

  function totalNanoUsd(): number | null {
    if (calls.length === 0) return null
    return calls.reduce<number | null>((sum, { settled }) => (sum === null || settled.nanoUsd === null ? null : sum + settled.nanoUsd), 0)
  }

  /** After our own fallbacks, or where money may have been spent, a client's retry would only multiply both. */
  function toldTo(error: GatewayError): GatewayError {
    const spent = calls.some(({ settled }) => settled.nanoUsd !== 0)
    return attempts > 1 || spent ? error.final() : error
  }

  function finish(outcome: Outcome, error: GatewayError | null): void {
    if (over) return
    over = true
    if (error !== null) {
      const told = cancelled !== null && cancelled !== 'silent' ? cancelled : toldTo(error)
      if (cancelled !== 'silent') reply.fail(told)
    }
    const last = calls.at(-1)
    const summary: RunSummary = {
      outcome: cancelled === 'silent' ? 'aborted' : outcome,
      error,
      target: last?.target ?? null,
      attempts,
      rejected,
      usage: last?.usage ?? null,
      nanoUsd: totalNanoUsd(),
      ttftMs: started ? (last?.ttftMs ?? ports.now() - beganAt) : null,
      calls
    }
    concluded(summary, reasonNow())
    reply.over(summary)
  }

  /** What was expected against what came; of one that had waited, whoever decided that it should wait knows both. */
  function concluded(summary: RunSummary, why: string): void {
    if (route === null) return
    const tookMs = ports.now() - beganAt
    route = { ...route, decision: withRejected(route.decision) }
    const weighed = route.decision.planned ?? route.figures
    // What was expected of another target says nothing; only a wait may end anywhere.
    const isMeant = weighed !== null && (weighed.action === 'wait' || weighed.best?.option.id === summary.target?.id)
    if (summary.outcome === 'ok' && summary.attempts === 1 && claimed === null && isMeant) ports.brain?.answered(weighed, tookMs / 1_000)
    ports.routes?.keep({ ...route, reason: why, summary, tookMs })
  }
}

/** Null = unknown. */
function plus(one: number | null, other: number | null): number | null {
  return one === null || other === null ? null : one + other
}
