// The brain of a gateway process: what it has learned, what runs, and the plan for requests over the targets of the catalog. No I/O.

import { LRUCache } from 'lru-cache'
import type { Catalog } from '../catalog.ts'
import { canonical } from '../catalog.ts'
import { priceAt } from '../cost.ts'
import { timeOf } from '../ids.ts'
import type { CallRecord } from '../ports.ts'
import type { Profile } from '../profile.ts'
import type { Caller, Device, ModelRequest, RequestLimit, Target, TokenPrice } from '../types.ts'
import { type Chain, createAffinity } from './affinity.ts'
import { createCalibration, type Eta, type EtaFacts } from './calibration.ts'
import { knobs, remainingS, slowness } from './estimate.ts'
import { createLengthModel, knownLength, type Lengths } from './lengths.ts'
import { type Planned, plan, workAtMost } from './plan.ts'
import { learnedPace, priorPace, slower } from './priors.ts'
import { createRentedModel } from './rented.ts'
import type { Asked, Option, OwnSite, Pace, Site, TokenDollars, Work } from './types.ts'
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
  /** A call will begin on this target as soon as its request is read: what is planned from now on counts it. Of rented ones only. */
  reserved(target: Target, attemptId: string): void
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

/** A load that takes so long that something is wrong, or one of those that ended well after all. */
export interface LoadNews {
  readonly target: Target
  readonly state: 'stuck' | 'works'
}

export interface BegunCall {
  readonly attemptId: string
  readonly target: Target
  readonly request: ModelRequest
  readonly caller: Pick<Caller, 'source'>
}

interface Loading {
  readonly target: Target
  readonly sinceMs: number
  /** Not by a call. */
  readonly isCommanded: boolean
  /** What is done after it before anything can be seen of its end; null = its end is not seen at all. */
  readonly afterS: number | null
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
}

type OwnPace = Extract<Pace, { kind: 'own' }>

/** A site, and how many times as slow as known it is just now. */
interface Place {
  readonly site: Site
  readonly slow: number
}

const noModels: ReadonlyMap<string, Target> = new Map()
const paceForMs = 1_000
const reservedAtMost = 1_000
// A machine that others fill is asked again after as long.
const fullForMs = 200
const ownPrefixForS = 1_800
// As long as providers keep a prompt, by their documentation.
const rentedPrefixForS = 300
const rentedPrefixes = 64
// All of it, but for a rounding.
const wholeMemory = 0.999
// A load that takes much longer than the slowest is stuck, and with it the loading of the whole machine for a while.
const stuckAfter = 3
const slowestLoad = 1.5
// A prompt may be read so much slower than is expected.
const slowestPrompt = 3
// From a cold disk even a small model may take so long that was loaded in a moment before.
const stuckAtLeastS = 10
const quarantineMs = 600_000
// Two models of a provider that are refused within so long have one limit together.
const togetherS = 10
// Of what others run or load on a machine nobody here knows how long it goes on.
const foreignS = 5
const elsewhereS = 5

export function createBrain(ports: BrainPorts): Brain {
  const lengths = createLengthModel()
  const calibration = createCalibration()
  const rented = createRentedModel()
  const affinity = createAffinity()
  const warmth = createWarmth()
  const running = new Map<string, Running>()
  /** Attempts that count against their provider's limit and have not begun. Some never begin. */
  const reserved = new LRUCache<string, true>({ max: reservedAtMost })
  const onDevice = new Map<string, Set<Running>>()
  /** By device and model: when it was seen in memory, or thrown out (negative). */
  const seenLoaded = new Map<string, number>()
  /** By upstream: the models of which something was seen. */
  const seenOn = new Map<string, Set<string>>()
  const loads = new Map<string, Loading>()
  /** By machine: what did not end, where it is known, and until when nothing is loaded there. */
  const stuck = new Map<string, { readonly target: Target | null; readonly untilMs: number }>()
  const elsewhere = new Map<string, string>()
  const refusedLast = new Map<string, { readonly targetId: string; readonly atS: number }>()
  let news: LoadNews[] = []
  let revision = 0
  const fullUntil = new Map<string, number>()
  const loadedAt = new Map<string, number>()
  let known: {
    readonly of: Catalog
    readonly byUpstream: ReadonlyMap<string, ReadonlyMap<string, Target>>
    /** What the machines' lists say, or what is always there. */
    readonly loaded: ReadonlyMap<string, readonly string[]>
  } | null = null
  // Asked for every option of every decision, and the same for a second unless something was learned.
  const paces = new WeakMap<Target, { readonly profile: Profile | null; readonly atMs: number; readonly pace: OwnPace }>()

  const nowS = (): number => ports.now() / 1_000

  /** All models of a machine, as the catalog lists them, by name. */
  function modelsOf(upstreamId: string): ReadonlyMap<string, Target> {
    const catalog = ports.catalog()
    if (known?.of !== catalog) {
      const byUpstream = new Map<string, Map<string, Target>>()
      const loaded = new Map<string, string[]>()
      for (const target of catalog.source.targets) {
        const { id, adapter } = target.upstream
        byUpstream.set(id, (byUpstream.get(id) ?? new Map<string, Target>()).set(target.model, target))
        if (target.loaded || adapter !== 'ollama') loaded.set(id, [...(loaded.get(id) ?? []), target.model])
      }
      known = { of: catalog, byUpstream, loaded }
    }
    return known.byUpstream.get(upstreamId) ?? noModels
  }

  /** Few of what a machine has: not all its models are looked at. */
  function loadedOn(upstreamId: string): readonly Target[] {
    const models = modelsOf(upstreamId)
    const listed = known?.loaded.get(upstreamId) ?? []
    const there: Target[] = []
    const look = (name: string): void => {
      const target = models.get(name)
      if (target !== undefined && isLoaded(target)) there.push(target)
    }
    for (const name of listed) look(name)
    for (const name of seenOn.get(upstreamId) ?? []) if (!listed.includes(name)) look(name)
    return there
  }

  /** It was seen in memory, or was thrown out. */
  function mark({ id, model, upstream }: Target, isThere: boolean): void {
    seenLoaded.set(id, isThere ? ports.now() : -ports.now())
    seenOn.set(upstream.id, (seenOn.get(upstream.id) ?? new Set()).add(model))
  }

  /** Only Ollama loads and unloads by itself; other servers have what they have. */
  function isLoaded(target: Target): boolean {
    const { upstream, id, model } = target
    if (upstream.adapter !== 'ollama') return true
    // Ollama lists also what it is only loading.
    if (loads.get(upstream.id)?.target.id === id || elsewhere.get(upstream.id) === model) return false
    const hanging = stuck.get(upstream.id)
    if (hanging?.target?.id === id && hanging.untilMs > ports.now()) return false
    const at = seenLoaded.get(id)
    return at === undefined ? target.loaded : at > 0
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
    const price = tokens === null ? null : priceAt(tokens, promptTokens)
    const unpriced = source === 'free' ? 0 : null
    return {
      kind: 'rented',
      ttftS,
      tokenS,
      failures,
      ...(price === null ? { inputUsd: unpriced, cachedUsd: unpriced, outputUsd: unpriced } : dollarsOf(price)),
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
    const here = [...(onDevice.get(id) ?? [])]
    const slow = slownessOf(here)
    const busyS = here.map(call => leftS(call, here.length, slow))
    return { site: { id, own: ownSite(target, device, busyS) }, slow }
  }

  function ownSite({ upstream }: Target, device: Device, busyS: number[]): OwnSite {
    const slots = device.maxConcurrency
    const memoryGb = device.vramGb ?? device.ramGb
    const isFull = (fullUntil.get(device.id) ?? 0) > ports.now()
    while (isFull && busyS.length < slots) busyS.push(foreignS)
    const models = modelsOf(upstream.id)
    const loading = loadingOn(upstream.id)
    return {
      slots,
      usdPerS: (device.watts * ports.usdPerKwh) / 3.6e6,
      busyS,
      loaded: {
        has(model) {
          const found = models.get(model)
          return found !== undefined && isLoaded(found)
        },
        [Symbol.iterator]: () =>
          loadedOn(upstream.id)
            .map(({ model }) => model)
            [Symbol.iterator]()
      },
      loading,
      mayLoad: !isStuck(upstream.id),
      victimsFor: (_model, gb) => victimsOn(upstream.id, { gb, memoryGb, mayLeave: isSettled })?.map(({ model }) => model) ?? null,
      evictionUsd: model => 1.5 * warmth.value(upstream.id, model, nowS())
    }
  }

  /** Of those that may leave and that nothing runs on, the ones of least worth that make room for so much; null = it would not be enough. */
  function victimsOn(
    upstreamId: string,
    room: { readonly gb: number | null; readonly memoryGb: number | null; readonly mayLeave: (target: Target) => boolean }
  ): readonly Target[] | null {
    const { gb, memoryGb, mayLeave } = room
    const there = loadedOn(upstreamId)
    // Without knowledge of its memory the machine sees to it itself.
    if (memoryGb === null || gb === null || there.some(other => other.memoryGb == null)) return []
    const freeGb = memoryGb - there.reduce((sum, other) => sum + (other.memoryGb ?? 0), 0)
    // What is larger than the whole memory has a part of it elsewhere.
    const neededGb = Math.min(gb, memoryGb * wholeMemory)
    if (freeGb >= neededGb) return []
    const busy = new Set([...(onDevice.get(upstreamId) ?? [])].map(({ target }) => target.model))
    const idle = there.filter(other => !busy.has(other.model) && mayLeave(other))
    const names = victimsAmong(
      idle.map(other => ({ model: other.model, gb: other.memoryGb ?? 0, worth: warmth.value(upstreamId, other.model, nowS()) })),
      { neededGb, freeGb, places: Number.POSITIVE_INFINITY }
    )
    return names === null ? null : idle.filter(({ model }) => names.includes(model))
  }

  function isSettled({ id }: Target): boolean {
    return ports.now() - (loadedAt.get(id) ?? Number.NEGATIVE_INFINITY) >= residencyS(knobs.cost) * 1_000
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

  function loadingOn(upstreamId: string): OwnSite['loading'] {
    const load = loads.get(upstreamId)
    const other = elsewhere.get(upstreamId)
    if (load === undefined) return other === undefined ? null : { model: other, leftS: elsewhereS }
    const { target, sinceMs, afterS } = load
    const { loadS } = ownPace(target)
    const ranS = (ports.now() - sinceMs) / 1_000
    const mostS = afterS === null ? slowestLoad * loadS : Math.max(stuckAtLeastS, stuckAfter * slowestLoad * loadS) + afterS
    if (ranS <= mostS) return { model: target.model, leftS: Math.max(0.1, loadS - ranS) }
    loads.delete(upstreamId)
    if (afterS === null) return null
    stuck.set(upstreamId, { target, untilMs: ports.now() + quarantineMs })
    news.push({ target, state: 'stuck' })
    return null
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

  function workOf({ request, caller, targets }: Asked, places: Map<string, Place>): Work {
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
        let place = places.get(target.upstream.id)
        if (place === undefined) places.set(target.upstream.id, (place = placeOf(target)))
        const { site, slow } = place
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
    onDevice.get(target.upstream.id)?.delete(call)
    fullUntil.delete(target.upstream.device?.id ?? '')
    revision++
    const isOwn = target.upstream.device !== null
    if (error === null && isOwn) loaded(target)
    else if (isOwn) abandoned(target)
    if (isOwn && keepsNothing(target) && ![...(onDevice.get(target.upstream.id) ?? [])].some(other => other.target.id === target.id)) {
      mark(target, false)
    }
    if (error?.code === 'machine_lost') for (const other of modelsOf(target.upstream.id).values()) affinity.forget(other.id)
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

  /** It answered, or its load ended: it is in memory, and the machine can load. */
  function loaded(target: Target): void {
    const { id: upstreamId } = target.upstream
    const isNew = !isLoaded(target)
    if (loads.get(upstreamId)?.target.id === target.id) loads.delete(upstreamId)
    if (stuck.get(upstreamId)?.target?.id === target.id) works(upstreamId)
    if (elsewhere.get(upstreamId) === target.model) elsewhere.delete(upstreamId)
    mark(target, true)
    if (isNew) loadedAt.set(target.id, ports.now())
  }

  function isStuck(upstreamId: string): boolean {
    return (stuck.get(upstreamId)?.untilMs ?? 0) > ports.now()
  }

  function works(upstreamId: string): void {
    const { target } = stuck.get(upstreamId) ?? { target: null }
    stuck.delete(upstreamId)
    if (target !== null) news.push({ target, state: 'works' })
  }

  /** A call that loaded its model is over without an answer; others may wait for the same load. */
  function abandoned(target: Target): void {
    const load = loads.get(target.upstream.id)
    if (load === undefined || load.target.id !== target.id || load.isCommanded) return
    if (!isWaitedFor(target)) loads.delete(target.upstream.id)
  }

  /** By a call that came when it was not in memory. */
  function isWaitedFor({ id, upstream }: Target): boolean {
    return [...(onDevice.get(upstream.id) ?? [])].some(call => call.target.id === id && call.isCold && !call.hasBegun)
  }

  function victims({ upstream, memoryGb = null }: Target, among?: readonly string[]): readonly Target[] | null {
    const { device } = upstream
    if (device === null) return []
    if (isStuck(upstream.id)) return null
    const room = { gb: memoryGb, memoryGb: device.vramGb ?? device.ramGb }
    const isMeant = ({ model }: Target): boolean => among === undefined || among.includes(model)
    // What has just come leaves only where nothing else would do: a call that has no other place cannot wait a minute for it.
    const settled = victimsOn(upstream.id, { ...room, mayLeave: other => isMeant(other) && isSettled(other) })
    return settled ?? victimsOn(upstream.id, { ...room, mayLeave: isMeant })
  }

  return {
    plan(asked) {
      const places = new Map<string, Place>()
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
    began({ attemptId, target, request, caller }) {
      const chain = request.prefix ?? []
      const isOwn = target.upstream.device !== null
      const isCold = isOwn && !isLoaded(target)
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
        streamed: 0
      }
      running.set(attemptId, call)
      if (!isOwn && !reserved.delete(attemptId)) sent(target)
      else onDevice.set(target.upstream.id, (onDevice.get(target.upstream.id) ?? new Set()).add(call))
      if (isCold && !loads.has(target.upstream.id)) {
        // Vectors come when all of them are made.
        const afterS = request.operation === 'embed' ? null : slowestPrompt * request.prompt.expected * ownPace(target).promptS
        loads.set(target.upstream.id, { target, sinceMs: ports.now(), isCommanded: false, afterS })
      }
    },
    begun(attemptId) {
      const call = running.get(attemptId)
      if (call === undefined || call.hasBegun) return
      call.hasBegun = true
      if (call.target.upstream.device !== null) loaded(call.target)
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
    isLoaded,
    victims,
    loading: target => void loads.set(target.upstream.id, { target, sinceMs: ports.now(), isCommanded: true, afterS: 0 }),
    loaded,
    unloaded(target) {
      const { id: upstreamId } = target.upstream
      const load = loads.get(upstreamId)
      if (load?.target.id === target.id) {
        // A command that failed says nothing of the calls that wait for the same: the machine still loads for them.
        if (load.isCommanded && isWaitedFor(target)) loads.set(upstreamId, { ...load, isCommanded: false })
        else loads.delete(upstreamId)
      }
      mark(target, false)
      affinity.forget(target.id)
    },
    loadingElsewhere(upstreamId, model) {
      if (model === null) elsewhere.delete(upstreamId)
      else elsewhere.set(upstreamId, model)
    },
    stuckElsewhere(upstreamId, ms) {
      if (!stuck.has(upstreamId) || stuck.get(upstreamId)?.target === null)
        stuck.set(upstreamId, { target: null, untilMs: ports.now() + ms })
    },
    watch() {
      for (const upstreamId of [...loads.keys()]) loadingOn(upstreamId)
      for (const [upstreamId, { untilMs }] of stuck) if (untilMs <= ports.now()) stuck.delete(upstreamId)
      const told = news
      news = []
      return told
    },
    listed(upstreamId, askedAtMs) {
      for (const { id } of modelsOf(upstreamId).values()) {
        const at = seenLoaded.get(id)
        if (at !== undefined && Math.abs(at) < askedAtMs) seenLoaded.delete(id)
      }
    },
    lost(deviceId) {
      const upstream = ports.catalog().source.upstreams.find(({ device }) => device?.id === deviceId)
      if (upstream === undefined) return
      loads.delete(upstream.id)
      works(upstream.id)
      elsewhere.delete(upstream.id)
      for (const { id } of modelsOf(upstream.id).values()) {
        seenLoaded.delete(id)
        affinity.forget(id)
      }
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
  return source === 'free' ? { inputUsd: 0, cachedUsd: 0, outputUsd: 0 } : null
}

function dollarsOf({ inputUsdPer1m, cachedInputUsdPer1m, outputUsdPer1m, requestUsd = 0 }: TokenPrice): TokenDollars {
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
