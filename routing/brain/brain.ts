// The brain of a gateway process: what it has learned, what runs, and the plan for requests over the targets of the catalog. No I/O.

import type { Catalog } from '../catalog.ts'
import { canonical } from '../catalog.ts'
import { timeOf } from '../ids.ts'
import type { CallRecord } from '../ports.ts'
import type { Profile } from '../profile.ts'
import type { Caller, ModelRequest, Target } from '../types.ts'
import { createAffinity } from './affinity.ts'
import { createCalibration, type Eta, type EtaFacts } from './calibration.ts'
import { knobs, remainingS } from './estimate.ts'
import { createLengthModel, knownLength, type Lengths } from './lengths.ts'
import { type Planned, plan, workAtMost } from './plan.ts'
import { learnedPace, priorPace } from './priors.ts'
import { createRentedModel } from './rented.ts'
import type { Asked, Option, OwnSite, Pace, Site, Work } from './types.ts'
import { createWarmth, residencyS, victimsAmong, type Wish } from './warmth.ts'

export interface BrainPorts {
  readonly catalog: () => Catalog
  /** What was learned of a model on a machine; null = nothing yet. */
  readonly profile: (deviceId: string, model: string) => Profile | null
  readonly usdPerKwh: number
  readonly random: () => number
  /** Milliseconds of a clock that never jumps. */
  readonly now: () => number
  /** Epoch, ms. */
  readonly epoch: () => number
}

export interface Brain {
  /** In the order they are to be served: what each should do now. Those beyond the first 32 are not planned. */
  plan(asked: readonly Asked[]): readonly Planned[]
  /** What a client is told: calibrated seconds, from now. */
  eta(planned: Planned): Eta | null
  /** A request that nobody planned before: what it would have saved where its model is not loaded. A load that is worth it now, or null. */
  arrived(planned: Planned): Wish | null
  /** A call begins on this target. */
  began(call: BegunCall): void
  /** So many tokens have come of it. */
  streamed(attemptId: string, tokens: number): void
  ended(call: CallRecord): void
  /** A whole request is over that was planned like this. `tookS`: from then on. */
  answered(planned: Planned, tookS: number): void
  /** The machine said that all its places are taken: others use it too. */
  full(deviceId: string): void
  /** A load without a request begins, or is over. */
  loading(target: Target, isLoading: boolean): void
  /** A model was thrown out. */
  unloaded(target: Target): void
  /** What the model there is worth in memory, dollars; above 0 it is better kept. */
  worth(target: Target): number
  /** A provider's headers or its 429 tell how much it takes. */
  limit(provider: string, limit: { readonly perS: number; readonly burst: number }): void
  snapshot(): unknown
  restore(kept: unknown): void
}

export interface BegunCall {
  readonly attemptId: string
  readonly target: Target
  readonly request: ModelRequest
  readonly caller: Pick<Caller, 'source'>
}

interface Running {
  readonly target: Target
  readonly source: string
  readonly request: ModelRequest
  readonly lengths: Lengths
  readonly cachedTokens: number
  readonly startedAt: number
  readonly isCold: boolean
  streamed: number
}

// What the list of a machine's models says is up to 15 s old; what was seen since is newer.
const seenForMs = 20_000
// A machine that others fill is asked again after as long.
const fullForMs = 200
const ownPrefixForS = 1_800
// As long as providers keep a prompt, by their documentation.
const rentedPrefixForS = 300
const rentedPrefixes = 64
// A load that takes much longer than the slowest is stuck, and with it the loading of the whole machine for a while.
const stuckAfter = 3
const slowestLoad = 1.5
const quarantineMs = 600_000
// Of what others run on a machine nobody here knows how long it goes on.
const foreignS = 5

export function createBrain(ports: BrainPorts): Brain {
  const lengths = createLengthModel()
  const calibration = createCalibration()
  const rented = createRentedModel()
  const affinity = createAffinity()
  const warmth = createWarmth()
  const running = new Map<string, Running>()
  const onDevice = new Map<string, Set<Running>>()
  /** By device and model: when it was seen in memory, or thrown out (negative). */
  const seenLoaded = new Map<string, number>()
  const loads = new Map<string, { readonly target: Target; readonly sinceMs: number }>()
  const stuckUntil = new Map<string, number>()
  const fullUntil = new Map<string, number>()
  const loadedAt = new Map<string, number>()
  let known: { readonly of: Catalog; readonly byUpstream: ReadonlyMap<string, readonly Target[]> } | null = null

  const nowS = (): number => ports.now() / 1_000

  /** All models of a machine, as the catalog lists them. */
  function modelsOf(upstreamId: string): readonly Target[] {
    const catalog = ports.catalog()
    if (known?.of !== catalog) known = { of: catalog, byUpstream: Map.groupBy(catalog.source.targets, ({ upstream }) => upstream.id) }
    return known.byUpstream.get(upstreamId) ?? []
  }

  /** Only Ollama loads and unloads by itself; other servers have what they have. */
  function isLoaded(target: Target): boolean {
    if (target.upstream.adapter !== 'ollama') return true
    const at = seenLoaded.get(target.id)
    return at !== undefined && ports.now() - Math.abs(at) < seenForMs ? at > 0 : target.loaded
  }

  function ownPace(target: Target): Extract<Pace, { kind: 'own' }> {
    const { device } = target.upstream
    const gb = target.memoryGb ?? null
    const prior = priorPace(
      { gpu: null, watts: device?.watts ?? 0, vramGb: device?.vramGb ?? null },
      { gb, paramsB: target.paramsB ?? null }
    )
    return learnedPace(prior, device === null ? null : ports.profile(device.id, target.model), ports.epoch())
  }

  function rentedPace(target: Target): Pace {
    const { ttftS, tokenS, failures } = rented.pace(target.id)
    const price = target.price.tokens
    const isFree = target.price.source === 'free'
    const per = (usdPer1m: number | undefined): number | null => (usdPer1m === undefined ? (isFree ? 0 : null) : usdPer1m / 1e6)
    return {
      kind: 'rented',
      ttftS,
      tokenS,
      failures,
      inputUsd: per(price?.inputUsdPer1m),
      cachedUsd: per(price?.cachedInputUsdPer1m ?? price?.inputUsdPer1m),
      outputUsd: per(price?.outputUsdPer1m),
      waitS: ahead => rented.waitS(target.upstream.id, ahead, nowS())
    }
  }

  function siteOf(target: Target): Site {
    const { id, device } = target.upstream
    return { id, own: device === null ? null : ownSite(target, device.maxConcurrency, device.watts, device.vramGb ?? device.ramGb) }
  }

  function ownSite({ upstream }: Target, slots: number, watts: number, memoryGb: number | null): OwnSite {
    const here = [...(onDevice.get(upstream.id) ?? [])]
    const busyS = here.map(call => leftS(call, here.length))
    const isFull = (fullUntil.get(upstream.device?.id ?? '') ?? 0) > ports.now()
    while (isFull && busyS.length < slots) busyS.push(foreignS)
    const models = modelsOf(upstream.id)
    const loadedModels = models.filter(isLoaded)
    const busy = new Set(here.map(({ target }) => target.model))
    const loading = loadingOn(upstream.id)
    return {
      slots,
      usdPerS: (watts * ports.usdPerKwh) / 3.6e6,
      busyS,
      loaded: new Set(loadedModels.map(({ model }) => model)),
      loading,
      mayLoad: (stuckUntil.get(upstream.id) ?? 0) <= ports.now(),
      victimsFor(_model, gb) {
        // Without knowledge of its memory the machine sees to it itself.
        if (memoryGb === null || gb === null || loadedModels.some(other => other.memoryGb == null)) return []
        const used = loadedModels.reduce((sum, other) => sum + (other.memoryGb ?? 0), 0)
        const idle = loadedModels.filter(other => !busy.has(other.model) && isSettled(other))
        return victimsAmong(
          idle.map(other => ({ model: other.model, gb: other.memoryGb ?? 0, worth: warmth.value(upstream.id, other.model, nowS()) })),
          { neededGb: gb, freeGb: memoryGb - used, places: Number.POSITIVE_INFINITY }
        )
      },
      evictionUsd: model => 1.5 * warmth.value(upstream.id, model, nowS())
    }
  }

  function isSettled({ id }: Target): boolean {
    return ports.now() - (loadedAt.get(id) ?? Number.NEGATIVE_INFINITY) >= residencyS(knobs.cost) * 1_000
  }

  function leftS({ target, request, lengths: of, cachedTokens, startedAt, streamed, isCold }: Running, active: number): number {
    const pace = ownPace(target)
    const ranS = Math.max(0, (ports.now() - startedAt) / 1_000 - (isCold && streamed === 0 ? pace.loadS : 0))
    return remainingS({ promptTokens: request.prompt.expected, cachedTokens, lengths: of, ranS, streamed }, pace, active)
  }

  function loadingOn(upstreamId: string): OwnSite['loading'] {
    const load = loads.get(upstreamId)
    if (load === undefined) return null
    const { loadS } = ownPace(load.target)
    const ranS = (ports.now() - load.sinceMs) / 1_000
    if (ranS > stuckAfter * slowestLoad * loadS) {
      stuckUntil.set(upstreamId, ports.now() + quarantineMs)
      loads.delete(upstreamId)
      return null
    }
    return { model: load.target.model, leftS: Math.max(0.1, loadS - ranS) }
  }

  function lengthsOf(request: ModelRequest, source: string): Lengths {
    // Vectors have no length that anybody waits for.
    if (request.operation === 'embed') return knownLength(0)
    return lengths.of(source, canonical(request.model), request.maxOutputTokens)
  }

  function workOf({ request, caller, targets }: Asked, sites: Map<string, Site>): Work {
    const deadlineMs = request.patience?.deadlineMs ?? null
    const chain = request.prefix ?? []
    return {
      id: request.id,
      promptTokens: request.prompt.expected,
      lengths: lengthsOf(request, caller.source),
      knob: knobs[request.route ?? 'balanced'],
      leftS: deadlineMs === null ? null : (deadlineMs - Math.max(0, ports.epoch() - timeOf(request.id))) / 1_000,
      isHard: request.isDeadlineHard === true,
      maxUsd: request.maxUsd ?? null,
      chain,
      options: targets.map((target): Option => {
        let site = sites.get(target.upstream.id)
        if (site === undefined) sites.set(target.upstream.id, (site = siteOf(target)))
        const pace = target.upstream.device === null ? rentedPace(target) : ownPace(target)
        const cachedTokens = chain.length === 0 ? 0 : affinity.cached(target.id, chain, nowS())
        return { id: target.id, site, model: target.model, pace, cachedTokens }
      })
    }
  }

  function factsOf({ action, best }: Planned, depth: number): EtaFacts {
    return {
      kind: best?.option.site.own === null ? 'rented' : 'own',
      start: best?.isCold ? 'cold' : action === 'start' ? 'warm' : 'queued',
      depth
    }
  }

  function ended({ attemptId, target, error, usage, ttftMs, durationMs, settled, outcome }: CallRecord): void {
    const call = running.get(attemptId)
    if (call === undefined) return
    running.delete(attemptId)
    onDevice.get(target.upstream.id)?.delete(call)
    fullUntil.delete(target.upstream.device?.id ?? '')
    if (loads.get(target.upstream.id)?.target.id === target.id) loads.delete(target.upstream.id)
    const isOwn = target.upstream.device !== null
    if (error === null && isOwn) seen(target)
    if (error?.code === 'machine_lost') for (const other of modelsOf(target.upstream.id)) affinity.forget(other.id)
    if (!isOwn) learnRented(call, { error, ttftMs, durationMs, completionTokens: usage?.completionTokens ?? settled.completionTokens })
    if (call.request.operation === 'embed') return
    const tokens = usage?.completionTokens ?? settled.completionTokens
    const model = canonical(call.request.model)
    const bound = call.request.maxOutputTokens
    if (outcome === 'ok' && usage !== null) {
      lengths.observe(call.source, model, { tokens: tokens / call.request.choices, isCut: bound !== null && tokens >= bound })
    } else if (outcome === 'aborted' && call.streamed > 0) {
      lengths.observe(call.source, model, { tokens: call.streamed, isCut: true })
    }
  }

  function learnRented(
    { target, request }: Running,
    end: Pick<CallRecord, 'error' | 'ttftMs' | 'durationMs'> & { readonly completionTokens: number }
  ): void {
    const { error, ttftMs, durationMs, completionTokens } = end
    if (error?.breaker === 'cool_down') rented.refused(target.upstream.id, nowS())
    if (error !== null && error.breaker !== 'failure') return
    rented.observe(target.id, {
      ttftS: request.stream && ttftMs !== null ? ttftMs / 1_000 : null,
      answerS: request.stream && ttftMs !== null ? (durationMs - ttftMs) / 1_000 : null,
      promptTokens: request.prompt.expected,
      outputTokens: completionTokens,
      isFailure: error !== null
    })
  }

  function seen(target: Target): void {
    const before = seenLoaded.get(target.id)
    seenLoaded.set(target.id, ports.now())
    if (before === undefined || before < 0) loadedAt.set(target.id, ports.now())
  }

  return {
    plan(asked) {
      const sites = new Map<string, Site>()
      return plan(
        asked.slice(0, workAtMost).map(one => workOf(one, sites)),
        ports.random,
        asked.length
      )
    },
    eta(planned) {
      return planned.best === null ? null : calibration.eta(factsOf(planned, 0), planned.best.raw)
    },
    arrived(planned) {
      warmth.arrived(planned, nowS())
      return warmth.wish(planned.work, nowS())
    },
    began({ attemptId, target, request, caller }) {
      const chain = request.prefix ?? []
      const isOwn = target.upstream.device !== null
      const isCold = isOwn && !isLoaded(target)
      const call: Running = {
        target,
        request,
        source: caller.source,
        lengths: lengthsOf(request, caller.source),
        cachedTokens: affinity.cached(target.id, chain, nowS()),
        startedAt: ports.now(),
        isCold,
        streamed: 0
      }
      running.set(attemptId, call)
      if (!isOwn) rented.sent(target.upstream.id, nowS())
      else onDevice.set(target.upstream.id, (onDevice.get(target.upstream.id) ?? new Set()).add(call))
      if (isCold && !loads.has(target.upstream.id)) loads.set(target.upstream.id, { target, sinceMs: ports.now() })
      affinity.read(target.id, chain, {
        nowS: nowS(),
        forS: isOwn ? ownPrefixForS : rentedPrefixForS,
        chains: target.upstream.device?.maxConcurrency ?? rentedPrefixes
      })
    },
    streamed(attemptId, tokens) {
      const call = running.get(attemptId)
      if (call === undefined) return
      if (call.streamed === 0 && call.isCold && loads.get(call.target.upstream.id)?.target.id === call.target.id) {
        loads.delete(call.target.upstream.id)
        seen(call.target)
      }
      call.streamed += tokens
    },
    ended,
    answered(planned, tookS) {
      if (planned.best !== null) calibration.observe(factsOf(planned, 0), planned.best.raw, tookS)
    },
    full: deviceId => void fullUntil.set(deviceId, ports.now() + fullForMs),
    loading(target, isLoading) {
      if (isLoading) loads.set(target.upstream.id, { target, sinceMs: ports.now() })
      else {
        loads.delete(target.upstream.id)
        seen(target)
      }
    },
    unloaded(target) {
      seenLoaded.set(target.id, -ports.now())
      affinity.forget(target.id)
    },
    worth: target => warmth.value(target.upstream.id, target.model, nowS()),
    limit: (provider, limit) => rented.limit(provider, limit),
    snapshot: () => ({
      version: 1,
      lengths: lengths.snapshot(),
      calibration: calibration.snapshot(),
      rented: rented.snapshot()
    }),
    restore(kept) {
      const state = kept as { version?: unknown; lengths?: unknown; calibration?: unknown; rented?: unknown } | null
      if (state?.version !== 1) return
      lengths.restore(state.lengths)
      calibration.restore(state.calibration)
      rented.restore(state.rented)
    }
  }
}
