// An own node: jobs that share its speed, one load at a time, and a memory that holds so much. The physics of the scenarios' README.

import { driftAt, driftMoments } from './drift.ts'
import { createMemory, type Memory } from './memory.ts'
import type { NodePorts, SimulatedNode } from './ports.ts'
import { createStream } from './random.ts'
import type { Request } from './traffic.ts'
import type { Finished, NodeView, OwnNode, Scenario } from './types.ts'
import { createWork, finishedWork, progress, streamed, turnOver, unbegun, type Work } from './work.ts'

// README of the scenarios: the noise of a load.
const loadNoise = 0.15

export interface SimulatedOwnNode extends SimulatedNode {
  load(model: string, evict: readonly string[]): boolean
  /** Out of memory; false while something runs on it. */
  unload(model: string): boolean
  /** Tokens/s alone at this moment, and what its next load would take. */
  speed(model: string, atS: number): { readonly dec: number; readonly pre: number; readonly loadS: number }
}

interface Running {
  readonly work: Work
  readonly view: NodeView['active'][number]
}

interface Waiting {
  readonly request: Request
  readonly sentS: number
}

/** `commandsMemory`: the policy says what is loaded; otherwise the node does for the head of its queue, as Ollama does. */
export function createOwnNode(
  config: OwnNode,
  run: NodePorts & { readonly scenario: Scenario; readonly commandsMemory: boolean }
): SimulatedOwnNode {
  const { agenda, hidden } = run
  const memory: Memory = createMemory(config, run.scenario.models)
  const models = new Map(Object.entries(config.models))
  let active: Running[] = []
  let activeViews: NodeView['active'] = []
  let waiting: Waiting[] = []
  let loading: { readonly model: string; readonly sinceS: number; readonly isStuck: boolean } | null = null
  let isUp = true
  let hasStuck = false
  let loads = 0
  let drift = driftAt(config.drift, 0)
  let atS = 0
  let busyS = 0
  // What was scheduled for an earlier version is out of date.
  let version = 0
  for (const moment of driftMoments(config.drift)) agenda.at(moment, drifts)

  const view: NodeView = {
    id: config.id,
    kind: 'own',
    get isUp() {
      return isUp
    },
    loaded: memory.models,
    get loading() {
      return loading && { model: loading.model, sinceS: run.shown(loading.sinceS) }
    },
    get active() {
      return activeViews
    },
    get waiting() {
      return waiting.length
    }
  }

  function send(request: Request): void {
    advance()
    const sentS = agenda.nowS
    if (!isUp || !models.has(request.job.model)) {
      // Nobody answers, or it is told at once that there is no such model.
      const outcome = isUp ? 'failed' : 'lost'
      agenda.at(sentS, () => endsUnbegun({ request, sentS }, outcome))
      return
    }
    waiting.push({ request, sentS })
    next()
  }

  function cancel(request: Request): void {
    advance()
    const waits = waiting.find(each => each.request === request)
    const runs = active.find(({ work }) => work.request === request)
    waiting = waiting.filter(each => each !== waits)
    if (runs !== undefined) remove([runs])
    next()
    if (waits !== undefined) endsUnbegun(waits, 'cancelled')
    if (runs !== undefined) ends(runs.work, 'cancelled')
  }

  function load(model: string, evict: readonly string[]): boolean {
    advance()
    if (!isUp || loading !== null || !models.has(model) || memory.models.has(model)) return false
    const victims = evict.filter(each => memory.models.has(each))
    if (victims.some(isBusy) || !memory.hasRoom(model, victims)) return false
    for (const victim of victims) memory.evict(victim)
    beginLoad(model)
    next()
    return true
  }

  function unload(model: string): boolean {
    advance()
    if (isBusy(model)) return false
    memory.evict(model)
    next()
    return true
  }

  function setUp(up: boolean): void {
    if (up === isUp) return
    advance()
    isUp = up
    if (up) return next()
    const [ran, waited, ended] = [active, waiting, loading]
    remove(ran)
    waiting = []
    loading = null
    memory.clear()
    next()
    for (const { work } of ran) ends(work, 'lost')
    for (const each of waited) endsUnbegun(each, 'lost')
    if (ended !== null) run.loaded({ node: config.id, model: ended.model, seconds: agenda.nowS - ended.sinceS, ok: false })
  }

  function drifts(): void {
    advance()
    drift = driftAt(config.drift, agenda.nowS)
    next()
  }

  /** Brings what runs up to now, at the rates that held until now. */
  function advance(): void {
    const seconds = agenda.nowS - atS
    atS = agenda.nowS
    if (seconds <= 0) return
    // A load that is stuck computes nothing.
    if (active.length > 0 || (loading !== null && !loading.isStuck)) busyS += seconds
    const isHalted = halts()
    for (const { work } of active) progress(work, rate(work, isHalted), seconds, active.length)
  }

  /** Units of the phase a second: prompts get an equal share of the speed, answers lose by the serial fraction. */
  function rate({ request, phases, context }: Work, isHalted: boolean): number {
    const alone = models.get(request.job.model)
    if (phases[0]?.kind === 'still') return 1
    if (alone === undefined) return 0
    const speed = drift / request.noise
    if (phases[0]?.kind === 'prompt') return (alone.pre * speed) / active.length
    return isHalted ? 0 : (alone.dec * speed) / ((1 + config.s * (active.length - 1)) * context)
  }

  const halts = (): boolean => hidden.prefillHaltsDecode === true && active.some(({ work }) => work.phases[0]?.kind === 'prompt')

  /** Takes from the queue what may begin, and finds out when something will change here by itself. Everything must be advanced. */
  function next(): void {
    while (isUp && fromQueue());
    const planned = ++version
    const isHalted = halts()
    let soonestS = Number.POSITIVE_INFINITY
    for (const { work } of active) soonestS = Math.min(soonestS, (work.phases[0]?.left ?? 0) / rate(work, isHalted))
    if (soonestS === Number.POSITIVE_INFINITY) return
    agenda.at(agenda.nowS + soonestS, () => {
      if (planned === version) phaseEnds()
    })
  }

  /** Of those that had no other phase, the answer is there. */
  function phaseEnds(): void {
    advance()
    const done = active.filter(({ work }) => turnOver(work, agenda.nowS))
    remove(done)
    for (const { work } of done) memory.ran(work.request)
    next()
    for (const { work } of done) ends(work, 'done')
  }

  /**
   * The first whose model is loaded begins, if a slot is free; true when one did. The first whose model is not loaded blocks all
   * other loads until it has its own, and no more than that: the study's tables come out only so.
   */
  function fromQueue(): boolean {
    const first = active.length < config.slots ? waiting.find(({ request }) => memory.models.has(request.job.model)) : undefined
    if (first !== undefined) {
      waiting = waiting.filter(each => each !== first)
      begin(first)
      return true
    }
    const unloaded = waiting.find(({ request }) => !memory.models.has(request.job.model))
    if (unloaded !== undefined && loading === null && !run.commandsMemory) makeRoom(unloaded.request.job.model)
    return false
  }

  /** As Ollama: idle ones go, by the alphabet, as their keep-alive is the same; where they are not enough, busy ones are waited for. */
  function makeRoom(model: string): void {
    const idle = [...memory.models].filter(each => !isBusy(each)).sort()
    for (let count = 0; count <= idle.length; count++) {
      const victims = idle.slice(0, count)
      if (!memory.hasRoom(model, victims)) continue
      for (const victim of victims) memory.evict(victim)
      return beginLoad(model)
    }
  }

  function beginLoad(model: string): void {
    const { stuckLoad } = run.scenario
    const isStuck = !hasStuck && stuckLoad?.node === config.id && agenda.nowS >= stuckLoad.from
    const mine = { model, sinceS: agenda.nowS, isStuck }
    const seconds = loadSeconds(model)
    hasStuck ||= isStuck
    loads++
    loading = mine
    memory.reserve(model)
    run.loads({ node: config.id, model })
    if (isStuck) return
    agenda.at(agenda.nowS + seconds, () => {
      if (loading !== mine) return
      advance()
      loading = null
      memory.fill(model)
      next()
      run.loaded({ node: config.id, model, seconds, ok: true })
    })
  }

  function loadSeconds(model: string): number {
    const gb = run.scenario.models[model]?.gb ?? 0
    return (config.loadBase + gb / config.loadGBs) * Math.exp(loadNoise * createStream(run.seed, 'load', config.id, loads).normal())
  }

  function begin({ request, sentS }: Waiting): void {
    const knownTokens = hidden.prefixCache ? memory.known(request) : 0
    const startedS = agenda.nowS
    const work = createWork({ request, sentS, startedS, knownTokens, contextFactor: hidden.contextFactor ?? 1 })
    const view = {
      job: request.job,
      startedS: run.shown(startedS),
      get streamed() {
        return streamed(work, rate(work, halts()), agenda.nowS - atS)
      }
    }
    active.push({ work, view })
    activeViews = active.map(each => each.view)
  }

  function remove(gone: readonly Running[]): void {
    active = active.filter(each => !gone.includes(each))
    activeViews = active.map(({ view }) => view)
  }

  const isBusy = (model: string): boolean => active.some(({ work }) => work.request.job.model === model)

  function ends(work: Work, outcome: Finished['outcome']): void {
    run.ended({ request: work.request, usd: 0, finished: finishedWork(work, { node: config.id, outcome, shown: run.shown }) })
  }

  function endsUnbegun({ request, sentS }: Waiting, outcome: Finished['outcome']): void {
    run.ended({ request, usd: 0, finished: unbegun(request, sentS, { node: config.id, outcome, shown: run.shown }) })
  }

  return {
    view,
    send,
    cancel,
    load,
    unload,
    setUp,
    busyS: () => {
      advance()
      return busyS
    },
    speed: (model, when) => {
      const alone = models.get(model) ?? { dec: 0, pre: 0 }
      const factor = driftAt(config.drift, when)
      return { dec: alone.dec * factor, pre: alone.pre * factor, loadS: loadSeconds(model) }
    }
  }
}
