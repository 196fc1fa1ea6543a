// The brain of a gateway process: what it has learned, what runs, and the plan for requests over the targets of the catalog. No I/O.

import { LRUCache } from 'lru-cache'
import type { Catalog } from '../catalog.ts'
import { canonical } from '../catalog.ts'
import { priceAt } from '../cost.ts'
import { timeOf } from '../ids.ts'
import { Passing, Places } from '../places.ts'
import type { CallRecord } from '../ports.ts'
import type { Profile } from '../profile.ts'
import type { Caller, Device, ModelRequest, RequestLimit, Target, TokenPrice } from '../types.ts'
import { type Chain, createAffinity } from './affinity.ts'
import { createCalibration, type Eta, type EtaFacts } from './calibration.ts'
import { knobs, remainingS, slowness } from './estimate.ts'
import { createLengthModel, knownLength, type Lengths } from './lengths.ts'
import { createMemories, type LoadNews } from './memories.ts'
import { type Planned, plan, workAtMost } from './plan.ts'
import { learnedPace, priorPace, slower } from './priors.ts'
import { createRentedModel } from './rented.ts'
import type { Asked, Option, OwnSite, Pace, Site, TokenDollars, Work } from './types.ts'
import { createWarmth, type Wish } from './warmth.ts'

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
  /** A call will begin on this target as soon as its request is read: what is planned from now on counts it. Of rented ones only. */
  reserved(target: Target, attemptId: string): void
  /** A place on this machine is being asked for: what is planned until it is known whether there was one counts it as taken. */
  asking(target: Target): void
  /** It is known. */
  asked(target: Target): void
  /** A call begins on this target. */
  began(call: BegunCall): void
  /** The first piece of its answer has come: its model is in memory. */
  begun(attemptId: string): void
  /** So many tokens have come of it. */
  streamed(attemptId: string, tokens: number): void
  ended(call: CallRecord): void
  /** A whole request is over that was planned like this. `tookS`: from then on. */
  answered(planned: Planned, tookS: number): void
  /** The machine said that all its places are taken: others use it too. */
  full(deviceId: string): void
  /** As far as is known: by the machine's own list, and by what was seen since. */
  isLoaded(target: Target): boolean
  /** What would have to leave for it, of these or of all that is idle; null = there is no room for it now, or nothing is loaded there. */
  victims(target: Target, among?: readonly string[]): readonly Target[] | null
  /** A load without a request begins. */
  loading(target: Target): void
  /** It ended well. */
  loaded(target: Target): void
  /** It failed, or the model was thrown out. */
  unloaded(target: Target): void
  /** Another gateway loads something there, as far as is known; null = not any more. */
  loadingElsewhere(upstreamId: string, model: string | null): void
  /** Nothing can be loaded there for so long: another gateway saw a load that did not end. */
  stuckElsewhere(upstreamId: string, ms: number): void
  /** What became of loads since this was asked last: to be asked again and again, because nobody else may look at that machine. */
  watch(): readonly LoadNews[]
  /** The machine has told what it has loaded: by the clock's time it was asked at. What was seen before counts no more. */
  listed(upstreamId: string, askedAtMs: number): void
  /** The machine was away: whatever was known of its memory is not true any more. */
  lost(deviceId: string): void
  /** Seconds until a rented target takes another call, after `ahead` others there; 0 for machines. `obeysRests`: see buckets.ts. */
  waitS(target: Target, ahead: number, obeysRests: boolean): number
  /** A provider's headers tell how much it takes of this model, in answer to a call. */
  limits(attemptId: string, told: RequestLimit): void
  /** Another number whenever something was learned that is worth keeping. */
  revision(): number
  snapshot(): unknown
  /** False when it is nothing that this version has kept. */
  restore(kept: unknown): boolean
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
  /** What had been sent there before, of a rented target: so much of it should be counted as kept. */
  readonly expectedCached: number
  readonly startedAt: number
  readonly isCold: boolean
  hasBegun: boolean
  streamed: number
  /** Among those of its machine; null = rented. */
  place: number | null
}

type OwnPace = Extract<Pace, { kind: 'own' }>

/** A site, and how many times as slow as known it is just now. */
interface Place {
  readonly site: Site
  readonly slow: number
}

const noCalls = new Places<Running>()
const paceForMs = 1_000
const reservedAtMost = 1_000
// A machine that others fill is asked again after as long.
const fullForMs = 200
const ownPrefixForS = 1_800
// As long as providers keep a prompt, by their documentation.
const rentedPrefixForS = 300
const rentedPrefixes = 64
// A prompt may be read so much slower than is expected.
const slowestPrompt = 3
// Two models of a provider that are refused within so long have one limit together.
const togetherS = 10
// Of what others run on a machine nobody here knows how long it goes on.
const foreignS = 5

export function createBrain(ports: BrainPorts): Brain {
  const lengths = createLengthModel()
  const calibration = createCalibration()
  const rented = createRentedModel()
  const affinity = createAffinity()
  const warmth = createWarmth()
  const running = new Passing<Running>()
  /** Attempts that count against their provider's limit and have not begun. Some never begin. */
  const reserved = new LRUCache<string, true>({ max: reservedAtMost })
  const onDevice = new Map<string, Places<Running>>()
  /** By machine: places that are asked for. */
  const askedFor = new Map<string, number>()
  const memories = createMemories({ catalog: ports.catalog, now: ports.now, warmth, loadS: target => ownPace(target).loadS, callsOn })
  const refusedLast = new Map<string, { readonly targetId: string; readonly atS: number }>()
  let revision = 0
  const fullUntil = new Map<string, number>()
  // Asked for every option of every decision, and the same for a second unless something was learned.
  const paces = new WeakMap<Target, { readonly profile: Profile | null; readonly atMs: number; readonly pace: OwnPace }>()

  const nowS = (): number => ports.now() / 1_000

  function callsOn(upstreamId: string): Places<Running> {
    return onDevice.get(upstreamId) ?? noCalls
  }

  function ownPace(target: Target): OwnPace {
    const { device } = target.upstream
    const profile = device === null ? null : ports.profile(device.id, target.model)
    const last = paces.get(target)
    const atMs = ports.now()
    if (last !== undefined && last.profile === profile && atMs - last.atMs < paceForMs) return last.pace
    const machine = { gpu: null, watts: device?.watts ?? 0, vramGb: device?.vramGb ?? null }
    const prior = priorPace(machine, { gb: target.memoryGb ?? null, paramsB: target.paramsB ?? null })
    const learned = learnedPace(prior, profile, ports.epoch())
    const price = ownPriceOf(target)
    const pace = price === null ? learned : { ...learned, price }
    paces.set(target, { profile, atMs, pace })
    return pace
  }

  function rentedPace(target: Target, promptTokens: number, obeysRests: boolean): Pace {
    const { ttftS, tokenS, failures, samples } = rented.pace(target.id)
    const { tokens, source } = target.price
    const price = tokens === null ? (source === 'free' ? noDollars : unknownDollars) : dollarsOf(priceAt(tokens, promptTokens))
    const { inputUsd, cachedUsd, outputUsd, callUsd } = price
    return {
      kind: 'rented',
      ttftS,
      tokenS,
      failures,
      inputUsd,
      cachedUsd,
      outputUsd,
      callUsd,
      samples,
      waitS: ahead => waitS(target, ahead, obeysRests)
    }
  }

  function waitS({ id, upstream }: Target, ahead: number, obeysRests: boolean): number {
    if (upstream.device !== null) return 0
    return Math.max(rented.waitS(id, ahead, nowS(), obeysRests), rented.waitS(upstream.id, ahead, nowS(), obeysRests))
  }

  function placeOf(target: Target): Place {
    const { id, device } = target.upstream
    if (device === null) return { site: { id, own: null }, slow: 1 }
    const here = [...callsOn(id)]
    const slow = slownessOf(here)
    const busyS = here.map(call => leftS(call, here.length, slow))
    return { site: { id, own: ownSite(target, device, busyS) }, slow }
  }

  /** There are few, so they are walked through. */
  function placeAt(target: Target, places: Place[]): Place {
    const { id } = target.upstream
    for (const place of places) if (place.site.id === id) return place
    const place = placeOf(target)
    places.push(place)
    return place
  }

  function ownSite({ upstream }: Target, device: Device, busyS: number[]): OwnSite {
    const slots = device.maxConcurrency
    const memoryGb = device.vramGb ?? device.ramGb
    const isFull = (fullUntil.get(device.id) ?? 0) > ports.now()
    const taken = isFull ? slots : Math.min(slots, busyS.length + (askedFor.get(upstream.id) ?? 0))
    while (busyS.length < taken) busyS.push(foreignS)
    const models = memories.modelsOf(upstream.id)
    return {
      slots,
      usdPerS: (device.watts * ports.usdPerKwh) / 3.6e6,
      busyS,
      loaded: {
        has(model) {
          const found = models.get(model)
          return found !== undefined && memories.isLoaded(found)
        },
        [Symbol.iterator]: () =>
          memories
            .loadedOn(upstream.id)
            .map(({ model }) => model)
            [Symbol.iterator]()
      },
      loading: memories.loadingOn(upstream.id),
      mayLoad: !memories.isStuck(upstream.id),
      victimsFor: (_model, gb) => memories.settledVictims(upstream.id, { gb, memoryGb })?.map(({ model }) => model) ?? null,
      evictionUsd: model => 1.5 * warmth.value(upstream.id, model, nowS())
    }
  }

  function leftS(call: Running, active: number, slow: number): number {
    const pace = slower(ownPace(call.target), slow)
    // One that waits for its model has the rest of that before it.
    const loadingS = call.isCold && !call.hasBegun && call.streamed === 0 ? pace.loadS - (ports.now() - call.startedAt) / 1_000 : 0
    return Math.max(0, loadingS) + remainingS(progressOf(call, active), pace, active)
  }

  /** How far a call has come. Of one that is not streamed nobody sees it: it is taken to go as fast as is known. */
  function progressOf({ target, request, lengths: of, cachedTokens, startedAt, streamed, isCold }: Running, active: number) {
    const pace = ownPace(target)
    const promptTokens = request.prompt.expected
    const ranS = Math.max(0, (ports.now() - startedAt) / 1_000 - (isCold && streamed === 0 ? pace.loadS : 0))
    const answerS = ranS - Math.max(0, promptTokens - cachedTokens) * pace.promptS * active
    const unseen = request.stream ? 0 : Math.max(0, answerS) / (pace.tauS + pace.betaS * (active - 1))
    return { promptTokens, cachedTokens, lengths: of, ranS, streamed: Math.max(streamed, unseen) }
  }

  /** How many times as slow as known a machine is just now, by the streams that run there. */
  function slownessOf(here: readonly Running[]): number {
    let most = 1
    for (const call of here) {
      if (!call.request.stream || (call.isCold && call.streamed === 0)) continue
      most = Math.max(most, slowness(progressOf(call, here.length), ownPace(call.target), here.length))
    }
    return most
  }

  function lengthsOf(request: ModelRequest, source: string): Lengths {
    // Vectors have no length that anybody waits for.
    if (request.operation === 'embed') return knownLength(0)
    return lengths.of(source, canonical(request.model), request.maxOutputTokens)
  }

  /** Tokens of a prompt's beginning that need not be read again: what a machine of ours keeps, or what a provider is used to count as kept. */
  function cachedOn({ id, upstream }: Target, chain: Chain): number {
    const tokens = affinity.cached(id, chain, nowS())
    return tokens === 0 || upstream.device !== null ? tokens : Math.round(tokens * rented.pace(id).cached)
  }

  function workOf({ request, caller, targets }: Asked, places: Place[]): Work {
    const deadlineMs = request.patience?.deadlineMs ?? null
    const chain = request.prefix ?? []
    return {
      id: request.id,
      promptTokens: request.prompt.expected,
      lengths: lengthsOf(request, caller.source),
      knob: knobs[request.route ?? 'balanced'],
      leftS: deadlineMs === null ? null : (deadlineMs - Math.max(0, ports.epoch() - timeOf(request.id))) / 1_000,
      isHard: request.isDeadlineHard === true,
      isStream: request.stream,
      ...(request.choices > 1 && { choices: choicesOf(request) }),
      maxUsd: request.maxUsd ?? null,
      chain,
      options: targets.map((target): Option => {
        const { site, slow } = placeAt(target, places)
        const pace = site.own === null ? rentedPace(target, request.prompt.expected, targets.length > 1) : slower(ownPace(target), slow)
        const cachedTokens = chain.length === 0 ? 0 : cachedOn(target, chain)
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
    if (call.place !== null) onDevice.get(target.upstream.id)?.remove(call.place)
    fullUntil.delete(target.upstream.device?.id ?? '')
    revision++
    const isOwn = target.upstream.device !== null
    if (error === null && isOwn) memories.loaded(target)
    else if (isOwn) memories.abandoned(target)
    if (isOwn && keepsNothing(target) && ![...callsOn(target.upstream.id)].some(other => other.target.id === target.id))
      memories.left(target)
    if (error?.code === 'machine_lost') for (const other of memories.modelsOf(target.upstream.id).values()) affinity.forget(other.id)
    if (error === null) remember(call)
    if (!isOwn)
      learnRented(call, { error, ttftMs, durationMs, usage, completionTokens: usage?.completionTokens ?? settled.completionTokens })
    if (call.request.operation === 'embed') return
    const model = canonical(call.request.model)
    const { choices, maxOutputTokens: bound } = call.request
    // Who counts none of an answer that has some has not counted.
    if (outcome === 'ok' && usage !== null && (usage.completionTokens > 0 || call.streamed === 0)) {
      // The bound is of each choice as well.
      const tokens = usage.completionTokens / choices
      lengths.observe(call.source, model, { tokens, isCut: bound !== null && tokens >= bound })
    } else if (outcome === 'aborted' && call.streamed > 0) {
      lengths.observe(call.source, model, { tokens: call.streamed / choices, isCut: true })
    }
  }

  /** It has read the prompt of this call, and keeps it for a while. */
  function remember({ target, request }: Running): void {
    const { device } = target.upstream
    affinity.read(target.id, request.prefix ?? [], {
      nowS: nowS(),
      forS: device === null ? rentedPrefixForS : ownPrefixForS,
      chains: device?.maxConcurrency ?? rentedPrefixes
    })
  }

  function learnRented(
    { target, request, startedAt, expectedCached }: Running,
    end: Pick<CallRecord, 'error' | 'ttftMs' | 'durationMs' | 'usage'> & { readonly completionTokens: number }
  ): void {
    const { error, ttftMs, durationMs, completionTokens, usage } = end
    if (error?.breaker === 'cool_down') refused(target, startedAt / 1_000)
    else if (error === null) for (const key of [target.id, target.upstream.id]) rented.taken(key)
    if (error !== null && error.breaker !== 'failure') return
    const isSeen = request.stream && ttftMs !== null
    rented.observe(target.id, {
      ttftS: isSeen ? ttftMs / 1_000 : null,
      answerS: isSeen ? (durationMs - ttftMs) / 1_000 : null,
      wholeS: isSeen ? null : durationMs / 1_000,
      cachedShare: expectedCached > 0 && usage !== null ? Math.min(1, usage.cachedTokens / expectedCached) : null,
      promptTokens: request.prompt.expected,
      outputTokens: completionTokens,
      isFailure: error !== null
    })
  }

  function sent(target: Target): void {
    for (const key of [target.id, target.upstream.id]) rented.sent(key, nowS())
  }

  /** Most limits are of one model; what stops two of them at once is the provider's. */
  function refused(target: Target, sentS: number): void {
    const provider = target.upstream.id
    const last = refusedLast.get(provider)
    const isShared = last !== undefined && last.targetId !== target.id && nowS() - last.atS < togetherS
    refusedLast.set(provider, { targetId: target.id, atS: nowS() })
    rented.refused(isShared ? provider : target.id, nowS(), sentS)
  }

  return {
    plan(asked) {
      const places: Place[] = []
      return plan(
        asked.slice(0, workAtMost).map(one => workOf(one, places)),
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
    reserved(target, attemptId) {
      // The places of machines are counted by the database.
      if (target.upstream.device !== null) return
      reserved.set(attemptId, true)
      sent(target)
    },
    asking: ({ upstream: { id } }) => void askedFor.set(id, (askedFor.get(id) ?? 0) + 1),
    asked({ upstream: { id } }) {
      const left = (askedFor.get(id) ?? 0) - 1
      if (left > 0) askedFor.set(id, left)
      else askedFor.delete(id)
    },
    began({ attemptId, target, request, caller }) {
      const chain = request.prefix ?? []
      const isOwn = target.upstream.device !== null
      const isCold = isOwn && !memories.isLoaded(target)
      const call: Running = {
        target,
        request,
        source: caller.source,
        lengths: lengthsOf(request, caller.source),
        cachedTokens: cachedOn(target, chain),
        expectedCached: isOwn ? 0 : affinity.cached(target.id, chain, nowS()),
        startedAt: ports.now(),
        isCold,
        hasBegun: false,
        streamed: 0,
        place: null
      }
      running.set(attemptId, call)
      if (!isOwn && !reserved.delete(attemptId)) sent(target)
      if (isOwn) {
        const here = onDevice.get(target.upstream.id) ?? new Places<Running>()
        onDevice.set(target.upstream.id, here)
        call.place = here.add(call)
      }
      if (!isCold) return
      // Vectors come when all of them are made.
      const afterS = request.operation === 'embed' ? null : slowestPrompt * request.prompt.expected * ownPace(target).promptS
      memories.begin({ target, isCommanded: false, afterS })
    },
    begun(attemptId) {
      const call = running.get(attemptId)
      if (call === undefined || call.hasBegun) return
      call.hasBegun = true
      if (call.target.upstream.device !== null) memories.loaded(call.target)
      remember(call)
    },
    streamed(attemptId, tokens) {
      const call = running.get(attemptId)
      if (call === undefined) return
      call.streamed += tokens
    },
    ended,
    answered(planned, tookS) {
      revision++
      if (planned.best !== null) calibration.observe(factsOf(planned, 0), planned.best.raw, tookS)
    },
    full: deviceId => void fullUntil.set(deviceId, ports.now() + fullForMs),
    isLoaded: memories.isLoaded,
    victims: memories.victims,
    loading: target => memories.begin({ target, isCommanded: true, afterS: 0 }),
    loaded: memories.loaded,
    unloaded(target) {
      memories.unloaded(target)
      affinity.forget(target.id)
    },
    loadingElsewhere: memories.loadingElsewhere,
    stuckElsewhere: memories.stuckElsewhere,
    watch: memories.watch,
    listed: memories.listed,
    lost(deviceId) {
      const upstream = ports.catalog().source.upstreams.find(({ device }) => device?.id === deviceId)
      if (upstream === undefined) return
      memories.lost(upstream.id)
      for (const { id } of memories.modelsOf(upstream.id).values()) affinity.forget(id)
    },
    waitS,
    limits(attemptId, told) {
      const call = running.get(attemptId)
      if (call === undefined || call.target.upstream.device !== null) return
      rented.told(call.target.id, told, { nowS: nowS(), sentS: call.startedAt / 1_000 })
      revision++
    },
    revision: () => revision,
    snapshot: () => ({
      version: 1,
      lengths: lengths.snapshot(),
      calibration: calibration.snapshot(),
      rented: rented.snapshot()
    }),
    restore(kept) {
      const state = kept as { version?: unknown; lengths?: unknown; calibration?: unknown; rented?: unknown } | null | undefined
      const isWhole = [state?.lengths, state?.calibration, state?.rented].every(part => typeof part === 'object' && part !== null)
      if (state?.version !== 1 || !isWhole) return false
      lengths.restore(state.lengths)
      calibration.restore(state.calibration)
      rented.restore(state.rented)
      return true
    }
  }
}

/** Several answers: of one call where it can ask for them, and of one call each where it asks for one. */
function choicesOf({ choices, needs }: ModelRequest): NonNullable<Work['choices']> {
  return { count: choices, areCalls: !needs.includes('n') && !needs.includes('prompts') }
}

/** What the operator has set for a model on a machine; null = its electricity is what is booked. */
function ownPriceOf({ price: { tokens, source } }: Target): TokenDollars | null {
  if (tokens !== null) return dollarsOf(tokens)
  return source === 'free' ? noDollars : null
}

const noDollars = { inputUsd: 0, cachedUsd: 0, outputUsd: 0, callUsd: 0 } as const
const unknownDollars = { inputUsd: null, cachedUsd: null, outputUsd: null, callUsd: 0 } as const

function dollarsOf({ inputUsdPer1m, cachedInputUsdPer1m, outputUsdPer1m, requestUsd = 0 }: TokenPrice): Required<TokenDollars> {
  return {
    inputUsd: inputUsdPer1m / 1e6,
    cachedUsd: (cachedInputUsdPer1m ?? inputUsdPer1m) / 1e6,
    outputUsd: outputUsdPer1m / 1e6,
    callUsd: requestUsd
  }
}

/** By the operator's word the machine forgets a model after each answer. */
function keepsNothing({ upstream }: Target): boolean {
  const keepAlive = upstream.device?.keepAlive ?? null
  return upstream.adapter === 'ollama' && keepAlive !== null && /^0+(ms|s|m|h)?$/.test(String(keepAlive))
}
