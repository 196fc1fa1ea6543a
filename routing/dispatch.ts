// What is to be done with requests, and what runs: one is run, planned, previewed; several are given their places.

import type { Planned as Weighed } from './brain/plan.ts'
import type { Alias } from './catalog.ts'
import { type Decision, type DecisionView, decide, decideAll } from './decide.ts'
import { GatewayError } from './errors.ts'
import type { Places } from './places.ts'
import type { Reply, RouteStart } from './ports.ts'
import { passedOn } from './preference.ts'
import { houseOf, resolve } from './resolve.ts'
import { createRun, inMs, type Planned } from './run.ts'
import type { Claimed, Run, RunPorts } from './run-ports.ts'
import type { Calling } from './trial.ts'
import type { Caller, ModelRequest, Target } from './types.ts'

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

export function createDispatch(ports: RunPorts): Dispatch & Previewing & Scheduling & Losing {
  // What ends the calls that run on each machine.
  const calling = new Map<string, Places<Calling>>()
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

  function resolveNow(asked: { readonly request: ModelRequest; readonly caller: Caller }, mayQueue: boolean, random: number) {
    return resolve(asked, { catalog: ports.catalog(), localOnly: ports.localOnly, mayQueue, random })
  }

  function planned(request: ModelRequest, caller: Caller, mayQueue: boolean, random = ports.random()): Planned {
    const { error, input, space } = resolveNow({ request, caller }, mayQueue, random)
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
    const resolved = waiting.map(one => resolveNow(one, true, ports.random()))
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

  const parts = { ports, calling, view, planned, figuresOf, arrived }

  return {
    run(request, caller, reply, claimed) {
      const { preference } = request
      const own = preference === undefined ? request : { ...request, preference: passedOn(preference, houseOf(ports.catalog())) }
      return createRun(parts, { request: own, caller, reply, claimed: claimed ?? null })
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
        call.lose(new GatewayError('machine_lost', `The machine ${call.upstreamId} does not answer any more.`))
    },
    leave({ id, model, upstream }) {
      const calls = [...(calling.get(upstream.device?.id ?? '') ?? [])].filter(call => call.targetId === id && call.mayLeave())
      for (const call of calls) call.lose(new GatewayError('upstream_unavailable', `${upstream.id} does not finish loading "${model}".`))
    },
    canCarry: (target, feature) => view.canCarry(target, feature) && (target.features === null || target.features.has(feature))
  }
}

/** What waits is planned without its body: the names of its fields say enough. */
function withParameters(request: ModelRequest): ModelRequest {
  const fields = Object.fromEntries((request.preference?.parameters ?? []).map(name => [name, true]))
  return { ...request, body: { bytes: Buffer.alloc(0), json: () => fields, with: () => Buffer.alloc(0) } }
}

// Of a long list nobody wants to know what the last ones would cost.
const figuresAtMost = 8

function chancesOf(alias: Alias | undefined): Preview['chances'] {
  if (alias?.kind !== 'weighted' || alias.models.length < 2) return null
  const total = alias.models.reduce((sum, { weight }) => sum + weight, 0)
  return alias.models.map(({ model, weight }) => ({ model, share: total > 0 ? weight / total : 0 }))
}
