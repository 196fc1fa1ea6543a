// The project's own routing under the simulator's clock: the same core as in the gateway, with what the world shows in place of the catalog.

import { createAffinity } from '../../routing/brain/affinity.ts'
import { createCalibration, type Eta, type EtaFacts, waitSpread } from '../../routing/brain/calibration.ts'
import { knobs, remainingS, slowness } from '../../routing/brain/estimate.ts'
import { createLengthModel, knownLength, type Lengths } from '../../routing/brain/lengths.ts'
import { type Planned, plan, workAtMost } from '../../routing/brain/plan.ts'
import { learnedPace, priorPace, slower } from '../../routing/brain/priors.ts'
import { createRentedModel } from '../../routing/brain/rented.ts'
import type { Estimate, Option, OwnSite, Pace, Route, Site, Work } from '../../routing/brain/types.ts'
import { createWarmth, residencyS, victimsAmong } from '../../routing/brain/warmth.ts'
import { inOrder, type Waits } from '../../routing/fair.ts'
import { observe, type Profile, readProfile } from '../../routing/profile.ts'
import type { Finished, Job, NodeView, OwnNode, Policy, RentedNode, World } from '../types.ts'

const usdPerKwh = 0.25
const classOf = { 0: 0, 1: 1, 2: 3 } as const
// The reference device's seconds for a job are charged in millionths, as in the gateway.
const micros = 1e6
const quarantineS = 600
const stuckAfter = 3
const slowestLoad = 1.5

interface Waiting extends Waits {
  readonly job: Job
  readonly charge: number
  /** Seconds it was expected to take when it was sent. */
  serviceS: number | null
}

interface Sent {
  readonly facts: EtaFacts
  readonly raw: Eta
}

export interface OursOptions {
  readonly route: Route
  /** It knows the true lengths, noises and speeds: the reference that regret is measured against. */
  readonly isKnowing: boolean
  /** It knows the true lengths only: what is left of its error is that of its speeds. */
  readonly knowsLengths?: boolean
}

export interface Ours extends Policy {
  /** Seconds it expects a token of this model to take on this node. */
  tokenS(node: string, model: string, nowS: number): number | null
  /** Seconds it expected a running job to take when it sent it. */
  serviceS(job: Job): number | null
}

export function createOurs({ route, isKnowing, knowsLengths = isKnowing }: OursOptions): Ours {
  const knob = knobs[route]
  let memory = createMemory()
  let kept: unknown = null
  const waiting = new Map<number, Waiting>()
  const running = new Map<number, Waiting>()
  const promised = new Map<number, Sent & { readonly eta: Eta; readonly atS: number }>()
  const finishTag = new Map<string, number>()
  const classTag = new Map<number, number>()
  const servedMs: number[] = []
  const loadedAtS = new Map<string, number>()
  const stuckUntilS = new Map<string, number>()
  let isSeeded = false
  // The next moment it asked to be woken at.
  let wakeAtS = Number.NEGATIVE_INFINITY

  function seed(world: World): void {
    if (isSeeded) return
    isSeeded = true
    for (const node of world.scenario.nodes) {
      if (node.kind === 'cloud') {
        memory.rented.limit(node.id, { perS: node.rpm / 60, burst: node.rpm / 6 })
        continue
      }
      if (world.scenario.blankProfiles) continue
      const lie = world.scenario.benchmarkError?.[node.id] ?? 1
      for (const [model, { dec, pre }] of Object.entries(node.models)) {
        memory.profiles.set(`${node.id}/${model}`, benchmarked(node, world.scenario.models[model]?.gb ?? 0, dec / lie, pre / lie))
      }
    }
  }

  function lengthsOf(job: Job, world: World): Lengths {
    return knowsLengths ? knownLength(world.truth(job).outputTokens) : memory.lengths.of(job.source, job.model, job.maxTokens)
  }

  function ownPace(job: Job, node: OwnNode, world: World, slow: number): Extract<Pace, { kind: 'own' }> {
    const gb = world.scenario.models[job.model]?.gb ?? null
    if (isKnowing) {
      const { dec, pre, loadS } = world.truth(job).own(node.id, job.model, world.nowS)
      const { noise } = world.truth(job)
      return { kind: 'own', tauS: noise / dec, betaS: (node.s * noise) / dec, promptS: noise / pre, loadS, gb }
    }
    const prior = priorPace({ gpu: null, watts: node.watts, vramGb: node.vram }, { gb, paramsB: null })
    return slower(learnedPace(prior, memory.profiles.get(`${node.id}/${job.model}`) ?? null, world.nowS * 1_000), slow)
  }

  /** How much slower than known the node is just now, by what it has streamed. */
  function slownessOf(node: OwnNode, view: NodeView, world: World): number {
    if (isKnowing) return 1
    const of = ({ job, startedS, streamed }: NodeView['active'][number]): number => {
      const call = { promptTokens: job.promptTokens, cachedTokens: 0, ranS: world.nowS - startedS, streamed }
      return slowness(call, ownPace(job, node, world, 1), node.slots)
    }
    return view.active.reduce((most, call) => Math.max(most, of(call)), 1)
  }

  function rentedPace(job: Job, node: RentedNode, world: World): Pace {
    const price = world.price(node.id, job.model)
    const waitS = (ahead: number): number => memory.rented.waitS(node.id, ahead, world.nowS)
    const dollars = { inputUsd: price.in / 1e6, cachedUsd: null, outputUsd: price.out / 1e6, waitS }
    if (isKnowing) {
      const { ttftS, tokensPerSecond, fails } = world.truth(job).rented(node.id, world.nowS)
      return { kind: 'rented', ttftS, tokenS: 1 / tokensPerSecond, failures: fails ? 1 : 0, ...dollars }
    }
    const { ttftS, tokenS, failures } = memory.rented.pace(`${node.id}/${job.model}`)
    return { kind: 'rented', ttftS, tokenS, failures, ...dollars }
  }

  /** Fresh for each plan: what runs, what is loaded, what could leave. */
  function siteOf(node: OwnNode, view: NodeView, world: World): Site {
    const { nowS, scenario } = world
    const busy = new Set(view.active.map(({ job }) => job.model))
    const slow = slownessOf(node, view, world)
    const paces = view.active.map(({ job }) => ownPace(job, node, world, slow))
    const own: OwnSite = {
      slots: node.slots,
      usdPerS: (node.watts * usdPerKwh) / 3.6e6,
      busyS: view.active.map(({ job, startedS, streamed }, at) =>
        remainingS(
          {
            promptTokens: job.promptTokens,
            cachedTokens: 0,
            lengths: lengthsOf(job, world),
            ranS: nowS - startedS,
            streamed
          },
          paces[at] as Extract<Pace, { kind: 'own' }>,
          view.active.length
        )
      ),
      loaded: view.loaded,
      loading: loadingOf(node, view, world),
      mayLoad: (stuckUntilS.get(node.id) ?? 0) <= nowS,
      victimsFor(model, gb) {
        const loaded = [...view.loaded]
        const used = loaded.reduce((sum, name) => sum + (scenario.models[name]?.gb ?? 0), 0)
        const idle = loaded
          .filter(name => !busy.has(name) && nowS - (loadedAtS.get(`${node.id}/${name}`) ?? 0) >= residencyS(knob))
          .map(name => ({ model: name, gb: scenario.models[name]?.gb ?? 0, worth: memory.warmth.value(node.id, name, nowS) }))
        return victimsAmong(idle, {
          neededGb: gb ?? scenario.models[model]?.gb ?? 0,
          freeGb: node.vram - used,
          places: node.maxLoaded - loaded.length
        })
      },
      evictionUsd: model => 1.5 * memory.warmth.value(node.id, model, nowS)
    }
    return { id: node.id, own }
  }

  /** A load that takes much longer than any has is stuck, and so is the machine's loading, but not what it has. */
  function loadingOf(node: OwnNode, view: NodeView, world: World): OwnSite['loading'] {
    if (view.loading === null) return null
    const { model, sinceS } = view.loading
    const loadS = memory.profiles.get(`${node.id}/${model}`)?.loadS ?? 2 + (world.scenario.models[model]?.gb ?? 5) / 0.7
    const ranS = world.nowS - sinceS
    if (ranS > stuckAfter * slowestLoad * loadS) {
      stuckUntilS.set(node.id, Math.max(stuckUntilS.get(node.id) ?? 0, world.nowS + quarantineS))
      return null
    }
    return { model, leftS: Math.max(0.1, loadS - ranS) }
  }

  function works(order: readonly Waiting[], world: World): Work[] {
    const sites = new Map<string, Site>()
    const slow = new Map<string, number>()
    for (const node of world.scenario.nodes) {
      const view = world.node(node.id)
      if (node.kind !== 'cloud') slow.set(node.id, slownessOf(node, view, world))
      if (view.isUp) sites.set(node.id, node.kind === 'cloud' ? { id: node.id, own: null } : siteOf(node, view, world))
    }
    return order.map(({ id, job }) => ({
      id,
      promptTokens: job.promptTokens,
      lengths: lengthsOf(job, world),
      knob,
      leftS: job.deadlineS - (world.nowS - job.arrivedS),
      isHard: false,
      maxUsd: world.scenario.maxCost ?? null,
      chain: [],
      options: world.scenario.nodes.flatMap((node): Option[] => {
        const site = sites.get(node.id)
        if (site === undefined || node.models[job.model] === undefined) return []
        const pace = node.kind === 'cloud' ? rentedPace(job, node, world) : ownPace(job, node, world, slow.get(node.id) ?? 1)
        const id = `${node.id}/${job.model}`
        return [{ id, site, model: job.model, pace, cachedTokens: memory.affinity.cached(id, chainOf(job), world.nowS) }]
      })
    }))
  }

  function run(world: World, fresh: Job | null): void {
    seed(world)
    for (let isFirst = true; ; isFirst = false) {
      const order = inOrder([...waiting.values()], servedDates(), world.nowS * 1_000)
      const planned = plan(works(order.slice(0, workAtMost), world), world.random, order.length)
      if (isFirst && fresh !== null) {
        const at = order.findIndex(({ job }) => job === fresh)
        promise(fresh, at, order.length, planned, world)
        consider(planned[at], world)
      }
      let started = 0
      for (const { work, action, best } of planned) {
        const of = waiting.get(Number(work.id))
        if (of === undefined || best === null) continue
        if (action === 'start') {
          started++
          begin(of, best, world)
        }
        if (action === 'load') {
          const victims = best.option.site.own?.victimsFor(best.option.model, null) ?? []
          world.load(best.option.site.id, best.option.model, victims)
        }
      }
      if (started === 0 || waiting.size === 0) return wake(planned, world)
    }
  }

  function begin(of: Waiting, { option, etaS }: Estimate, world: World): void {
    const { job } = of
    of.serviceS = etaS
    waiting.delete(job.id)
    running.set(job.id, of)
    classTag.set(of.class, Math.max(classTag.get(of.class) ?? 0, of.tag))
    servedMs[of.class] = world.nowS * 1_000
    const isRented = option.site.own === null
    memory.affinity.read(option.id, chainOf(job), { nowS: world.nowS, forS: isRented ? 300 : 3_600, chains: option.site.own?.slots ?? 64 })
    if (isRented) memory.rented.sent(option.site.id, world.nowS)
    world.send(job, option.site.id)
  }

  function promise(job: Job, at: number, waitingCount: number, planned: readonly Planned[], world: World): void {
    const of = planned[Math.min(at, planned.length - 1)]
    const best = of?.best
    if (best === null || best === undefined || of === undefined) return
    const beyond = Math.max(0, at - planned.length + 1)
    const lastS = Math.max(...planned.map(({ best: one }) => one?.waitS ?? 0))
    // Those that wait in the plan begin one after the other until then; so will those beyond it.
    const moreS = (beyond * lastS) / Math.max(1, planned.filter(({ best: one }) => (one?.waitS ?? 0) > 0).length)
    const facts: EtaFacts = {
      kind: best.option.site.own === null ? 'rented' : 'own',
      start: of.action === 'start' ? 'warm' : best.isCold ? 'cold' : 'queued',
      depth: waitingCount - 1
    }
    const raw = { p50: best.raw.p50 + moreS, p90: best.raw.p90 + moreS + waitSpread(best.waitS + moreS, at) }
    promised.set(job.id, { facts, raw, eta: memory.calibration.eta(facts, raw), atS: world.nowS })
  }

  function consider(planned: Planned | undefined, world: World): void {
    if (planned === undefined) return
    memory.warmth.arrived(planned, world.nowS)
    const wish = memory.warmth.wish(planned.work, world.nowS)
    if (wish !== null) world.load(wish.option.site.id, wish.option.model, wish.victims)
  }

  function wake(planned: readonly Planned[], world: World): void {
    const waits = planned.flatMap(({ action, best }) => (action === 'wait' && best?.option.site.own === null ? [best.waitS] : []))
    if (waits.length === 0) return
    const atS = world.nowS + Math.max(0.01, Math.min(...waits))
    if (wakeAtS > world.nowS && wakeAtS <= atS) return
    wakeAtS = atS
    world.wakeAt(atS)
  }

  function servedDates(): Date[] {
    return Array.from({ length: 5 }, (_, at) => new Date(servedMs[at] ?? 0))
  }

  function add(of: Waiting): void {
    waiting.set(of.job.id, of)
  }

  function tagged(job: Job, world: World): Waiting {
    const jobClass = classOf[job.prio]
    const key = `${job.source}/${jobClass}`
    const tag = Math.max(classTag.get(jobClass) ?? 0, finishTag.get(key) ?? 0)
    const charge = chargeOf(job, memory.lengths.of(job.source, job.model, job.maxTokens).mean, world)
    finishTag.set(key, tag + charge / job.weight)
    return { id: String(job.id).padStart(8, '0'), class: jobClass, tag, createdMs: job.arrivedS * 1_000, job, charge, serviceS: null }
  }

  function learn(end: Finished, world: World): void {
    const { job, node, outcome } = end
    const id = `${node}/${job.model}`
    const scenarioNode = world.scenario.nodes.find(other => other.id === node)
    const isRented = scenarioNode?.kind === 'cloud'
    if (outcome === 'refused') return memory.rented.refused(node, world.nowS)
    if (isRented) {
      if (outcome === 'cancelled' || outcome === 'lost') return
      memory.rented.observe(id, {
        ttftS: end.firstTokenS === null ? null : end.firstTokenS - end.sentS,
        answerS: end.outputS,
        promptTokens: end.promptTokens,
        outputTokens: end.outputTokens,
        isFailure: outcome === 'failed'
      })
    } else if (outcome === 'done') {
      const seen = observe(memory.profiles.get(id) ?? null, {
        atMs: world.nowS * 1_000,
        isFailure: false,
        loadMs: null,
        ttftMs: null,
        isBenchmark: false,
        prompt: { tokens: end.promptTokens, ms: end.promptS * 1_000, concurrency: end.meanActive.prompt },
        answer: { tokens: end.outputTokens, ms: end.outputS * 1_000, concurrency: end.meanActive.output }
      })
      memory.profiles.set(id, seen)
    }
    if (outcome === 'done' || (outcome === 'cancelled' && end.outputTokens > 0)) {
      memory.lengths.observe(job.source, job.model, { tokens: end.outputTokens, isCut: end.isCut || outcome === 'cancelled' })
    }
  }

  function settle(end: Finished, of: Waiting, world: World): void {
    const key = `${end.job.source}/${of.class}`
    const isRented = world.scenario.nodes.find(other => other.id === end.node)?.kind === 'cloud'
    const actual = isRented ? 0 : chargeOf({ ...end.job, promptTokens: end.promptTokens }, end.outputTokens, world)
    finishTag.set(key, Math.max(0, (finishTag.get(key) ?? 0) + (actual - of.charge) / end.job.weight))
    const promise = promised.get(end.job.id)
    promised.delete(end.job.id)
    if (promise !== undefined && end.outcome === 'done') memory.calibration.observe(promise.facts, promise.raw, world.nowS - promise.atS)
  }

  return {
    name: isKnowing ? (route === 'balanced' ? 'oracle' : `oracle:${route}`) : route,
    commandsMemory: true,
    arrived(job, world) {
      seed(world)
      add(tagged(job, world))
      run(world, job)
    },
    finished(end, world) {
      const of = running.get(end.job.id)
      if (of === undefined) return
      running.delete(end.job.id)
      learn(end, world)
      if (end.outcome === 'done' || end.outcome === 'cancelled') settle(end, of, world)
      else add(of)
      run(world, null)
    },
    loaded({ node, model, seconds, ok }, world) {
      if (ok) {
        loadedAtS.set(`${node}/${model}`, world.nowS)
        const before = memory.profiles.get(`${node}/${model}`) ?? null
        const seen = { isFailure: false, ttftMs: null, isBenchmark: false, prompt: null, answer: null }
        memory.profiles.set(`${node}/${model}`, observe(before, { ...seen, atMs: world.nowS * 1_000, loadMs: seconds * 1_000 }))
      }
      run(world, null)
    },
    changed: (_node, world) => run(world, null),
    woken: world => run(world, null),
    left(job, world) {
      waiting.delete(job.id)
      promised.delete(job.id)
      run(world, null)
    },
    stored() {
      kept = JSON.parse(
        JSON.stringify({
          lengths: memory.lengths.snapshot(),
          calibration: memory.calibration.snapshot(),
          rented: memory.rented.snapshot(),
          warmth: memory.warmth.snapshot(),
          profiles: [...memory.profiles]
        })
      )
    },
    restarted(world) {
      memory = createMemory()
      isSeeded = false
      if (kept === null) return
      const stored = kept as Record<'lengths' | 'calibration' | 'rented' | 'warmth', unknown> & { profiles: [string, unknown][] }
      memory.lengths.restore(stored.lengths)
      memory.calibration.restore(stored.calibration)
      memory.rented.restore(stored.rented)
      memory.warmth.restore(stored.warmth)
      seed(world)
      for (const [id, profile] of stored.profiles) {
        const read = readProfile(profile)
        if (read !== null) memory.profiles.set(id, read)
      }
    },
    serviceS: job => running.get(job.id)?.serviceS ?? null,
    tokenS(node, model, nowS) {
      const profile = memory.profiles.get(`${node}/${model}`)
      return profile === undefined ? null : learnedPace(unknownPace, profile, nowS * 1_000).tauS
    },
    eta(job) {
      const promise = promised.get(job.id)
      return promise === undefined ? undefined : { p50S: promise.eta.p50, p90S: promise.eta.p90 }
    }
  }
}

const unknownPace = priorPace({ gpu: null, watts: 0, vramGb: null }, { gb: null, paramsB: null })

function createMemory() {
  return {
    lengths: createLengthModel(),
    calibration: createCalibration(),
    rented: createRentedModel(),
    affinity: createAffinity(),
    warmth: createWarmth(),
    profiles: new Map<string, Profile>()
  }
}

function chargeOf(job: Pick<Job, 'model' | 'promptTokens'>, outputTokens: number, world: World): number {
  const ref = world.scenario.models[job.model]?.ref ?? { dec: 120, pre: 4_500 }
  return Math.max(1_000, Math.round((job.promptTokens / ref.pre + outputTokens / ref.dec) * micros))
}

function chainOf({ prefix, promptTokens }: Job): { hash: string; tokens: number }[] {
  return prefix.map((hash, at) => ({ hash, tokens: Math.round((promptTokens * (at + 1)) / prefix.length) }))
}

/** What a benchmark has measured, in the form that answers are learned in. */
export function benchmarked(node: OwnNode, gb: number, dec: number, pre: number): Profile {
  return {
    version: 1,
    answer: { tauS: 1 / dec, betaS: node.s / dec, covariance: [0.2, 0, 0.2], farOff: 1 },
    usualTauS: 1 / dec,
    promptSPerToken: 1 / pre,
    loadS: node.loadBase + gb / node.loadGBs,
    ttftS: null,
    variation: 0.1,
    samples: { answers: 5, prompts: 5, loads: 1, failures: 0 },
    atMs: 0
  }
}
