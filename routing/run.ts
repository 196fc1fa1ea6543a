// One request from its decision to its end: slot, call, next target, until it is answered or refused. All I/O comes in as ports.

import type { Planned as Weighed } from './brain/plan.ts'
import type { CallEnd } from './call.ts'
import { formatUsd } from './cost.ts'
import { type Decision, type DecisionView, eachInTurn, type Rejected, reasonOf } from './decide.ts'
import { GatewayError, toGatewayError } from './errors.ts'
import { learnFrom } from './lessons.ts'
import type { Places } from './places.ts'
import type { CallRecord, Outcome, Reply, ReplyFacts, RouteStart, RunSummary } from './ports.ts'
import { isBroker } from './preference.ts'
import { modelOfIn } from './resolve.ts'
import type { Claimed, Overflow, Run, RunPorts } from './run-ports.ts'
import { providerOf } from './targets.ts'
import { type Calling, Trial, type TrialOwner } from './trial.ts'
import type { Attempt, Before, Caller, ModelRequest, Target, VectorSpace } from './types.ts'

const refusedPlacesAtMost = 2
// Usual loads take less.
const loadWaitMs = 30_000

/** What a run is made of; `planned`, `figuresOf`, `arrived`, `view` and `calling` are the dispatch's. */
export interface RunParts {
  readonly ports: RunPorts
  readonly calling: Map<string, Places<Calling>>
  readonly view: DecisionView
  readonly planned: (request: ModelRequest, caller: Caller, mayQueue: boolean) => Planned
  readonly figuresOf: (decision: Decision, request: ModelRequest, caller: Caller) => Weighed | null
  readonly arrived: (decision: Decision) => void
}

/** What it is to carry through. */
export interface Asked {
  readonly request: ModelRequest
  readonly caller: Caller
  readonly reply: Reply
  readonly claimed: Claimed | null
}

/** Begins at once. */
export function createRun(parts: RunParts, asked: Asked): Run {
  const run = new RequestRun(parts, asked)
  run.begin()
  return run
}

/** A class, so that a request is one object and not two dozen functions. */
class RequestRun implements Run, TrialOwner {
  readonly #parts: RunParts
  readonly #ports: RunPorts
  readonly request: ModelRequest
  readonly caller: Caller
  readonly #reply: Reply
  readonly #claimed: Claimed | null
  readonly #overflow: Overflow | undefined
  readonly #beganAt: number
  readonly #calls: CallRecord[] = []
  #ranked: readonly Target[] = noTargets
  /** A copy of what was decided, as soon as more is known. */
  #rejected: readonly Rejected[] = []
  #space: VectorSpace | null = null
  #reason = ''
  #next = 0
  #attempts = 0
  #isStarted = false
  #isOver = false
  #trial: Trial | null = null
  #successor: Run | null = null
  #cancelled: GatewayError | 'silent' | null = null
  #lastError: GatewayError | null = null
  #largestContextTried = 0
  #hasLookedAgain = false
  #refusedPlaces = 0
  #route: RouteStart | null = null

  constructor(parts: RunParts, { request, caller, reply, claimed }: Asked) {
    const { ports } = parts
    this.#parts = parts
    this.#ports = ports
    this.request = request
    this.caller = caller
    this.#reply = reply
    this.#claimed = claimed
    // Whoever had its turn does not queue up again: it has the machine it was given, or fails over to a free one.
    this.#overflow = claimed === null ? ports.overflow : undefined
    this.#beganAt = ports.now()
  }

  resume(): void {
    if (this.#successor !== null) this.#successor.resume()
    else this.#trial?.resume()
  }

  cancel(error: GatewayError | null): void {
    if (this.#successor !== null) return this.#successor.cancel(error)
    if (this.#isOver || this.#cancelled !== null) return
    this.#cancelled = error ?? 'silent'
    // Between two attempts nothing runs; the next step sees that it is cancelled.
    this.#trial?.abort()
  }

  begin(): void {
    const { decision } = this.#decideNow()
    this.#rejected = decision.rejected
    if (this.#claimed !== null) return this.#beginAt(this.#claimed, decision)
    if (decision.action === 'refuse') return this.#finish('failed', decision.error)
    this.#parts.arrived(decision)
    if (decision.action === 'enqueue') return this.#wait()
    this.#ranked = decision.ranked
    this.#reason = decision.reason
    this.#tryNext()
  }

  #decideNow(): Planned {
    const { request, caller } = this
    const ports = this.#ports
    const decidingAt = ports.now()
    const plan = this.#parts.planned(request, caller, this.#overflow !== undefined)
    const { decision } = plan
    const decidedUs = (ports.now() - decidingAt) * 1_000
    this.#space = plan.space
    const figures = this.#parts.figuresOf(decision, request, caller)
    const claimed = this.#claimed?.target ?? null
    const chosen = claimed ?? (decision.action === 'run' ? (decision.ranked[0] ?? null) : null)
    // Told once: what is learned from this very answer must not change what was expected of it.
    const etaMs = this.#expected(at(decision.planned ?? figures, claimed))
    this.#route = { request, caller, decision, figures, etaMs, chosen, decidedUs }
    ports.routes?.begun(this.#route)
    return plan
  }

  #expected(weighed: Weighed | null | undefined): RouteStart['etaMs'] {
    const { brain } = this.#ports
    return weighed == null || brain === undefined ? null : inMs(brain.eta(weighed))
  }

  #reject(target: Target, reason: Rejected['reason']): void {
    this.#rejected = [...this.#rejected, { target: target.id, reason }]
  }

  #sentTo(target: Target): void {
    const route = this.#route
    if (route === null || this.#attempts > 0 || route.chosen?.id === target.id) return
    // Those before it had no room after all: what was decided is told of where it is sent.
    const { decision, figures } = route
    if (decision.action === 'run' && this.#claimed === null) this.#reason = reasonOf(target, decision)
    const etaMs = this.#expected(at(decision.planned ?? figures, target))
    this.#route = { ...route, decision: this.#withRejected(decision), chosen: target, etaMs }
    this.#ports.routes?.begun(this.#route)
  }

  /** With those that turned out to have no room. */
  #withRejected(decision: Decision): Decision {
    const isLonger = decision.action === 'run' && this.#rejected.length > decision.rejected.length
    return isLonger ? { ...decision, rejected: this.#rejected } : decision
  }

  /** What was decided when the place was given holds, whatever the moment says: the place is taken. */
  #beginAt({ target, attemptId, hasSlot, ownOnly = false }: Claimed, decision: Decision): void {
    const { request } = this
    const others =
      decision.action === 'run' ? decision.ranked.filter(({ id, upstream }) => id !== target.id && (upstream.own || !ownOnly)) : []
    this.#ranked = eachInTurn([target, ...others], { request, modelOf: modelOfIn(this.#ports.catalog()) })
    const left = decision.action === 'run' ? decision.ranked.filter(other => other.id !== target.id && !this.#ranked.includes(other)) : []
    for (const other of left) this.#reject(other, other.upstream.own || !ownOnly ? 'no_fallback' : 'no_rent')
    this.#reason = 'waited'
    this.#next = 1
    const attempt: Attempt = { id: attemptId, request, target }
    const { device } = target.upstream
    if (device !== null && hasSlot) this.#prepared(attempt, device.id)
    else this.#run(attempt, hasSlot)
  }

  /** `again`: what was decided after failures. */
  #wait(again: Decision | null = null): void {
    const overflow = this.#overflow
    if (overflow === undefined) return this.#finish('failed', this.#allFull())
    // Its client left while a place was asked for: nobody would take it out of the queue again.
    if (this.#cancelled !== null) return this.#calledOff(this.#cancelled)
    this.#isOver = true
    const route = this.#route
    const etaMs = again === null ? (route?.etaMs ?? null) : this.#expected(again.planned)
    // Whoever asks meanwhile is told that it waits; afterwards, how it came to that.
    if (again !== null && route !== null) this.#ports.routes?.begun({ ...route, decision: again, figures: null, etaMs, chosen: null })
    const reply = this.#reply
    this.#successor = overflow({
      request: this.#asTried(),
      caller: this.caller,
      etaMs,
      reply: {
        waiting: place => reply.waiting?.(place),
        start: facts => reply.start(facts),
        frames: events => reply.frames(events),
        body: json => reply.body(json),
        finish: done => reply.finish(done),
        fail: error => reply.fail(this.#toldTo(error)),
        over: summary => {
          const whole = this.#withCalls(summary)
          this.#concluded(whole, 'waited')
          reply.over(whole)
        }
      }
    })
  }

  /** As it is decided about once it was tried: who has failed it is asked last. */
  #asTried(): ModelRequest {
    if (this.#attempts === 0) return this.request
    const failed = [...new Set(this.#calls.map(({ target }) => target.id))]
    const before: Before = { failed, attempts: this.#attempts, nanoUsd: this.#totalNanoUsd() }
    return { ...this.request, before }
  }

  /** What it was before it waited, and what then came of it. */
  #withCalls(summary: RunSummary): RunSummary {
    if (this.#calls.length === 0) return summary
    const all = [...this.#calls, ...summary.calls]
    return {
      ...summary,
      target: all.at(-1)?.target ?? null,
      attempts: this.#attempts + summary.attempts,
      nanoUsd: plus(this.#totalNanoUsd(), summary.calls.length === 0 ? 0 : summary.nanoUsd),
      calls: all
    }
  }

  #tryNext(): void {
    if (this.#isOver) return
    if (this.#cancelled !== null) return this.#calledOff(this.#cancelled)
    const target = this.#ranked[this.#next++]
    if (target === undefined) return this.#lookAgain()
    const attempt: Attempt = { id: this.#ports.newId(), request: this.request, target }
    const { device } = target.upstream
    if (device === null) return this.#run(attempt, false)
    // Others wait, or much was taken by others: whoever gives places out finds one sooner than a row of questions does.
    if (this.#attempts === 0 && this.#refusedPlaces >= refusedPlacesAtMost && this.#overflow !== undefined) return this.#wait()
    this.#claim(attempt, device.id)
  }

  #claim(attempt: Attempt, deviceId: string): void {
    const { brain, slots } = this.#ports
    const { target } = attempt
    brain?.asking(target)
    slots.claim(deviceId, attempt.id, { mayOvertake: this.#claimed !== null }).then(
      granted => {
        brain?.asked(target)
        if (granted) return this.#prepared(attempt, deviceId)
        this.#refusedPlaces++
        this.#reject(target, 'full')
        brain?.full(deviceId)
        this.#waitOrNext()
      },
      (error: unknown) => {
        brain?.asked(target)
        this.#reject(target, 'no_place')
        this.#lastError = toGatewayError(error)
        this.#tryNext()
      }
    )
  }

  #calledOff(why: GatewayError | 'silent'): void {
    this.#finish('aborted', why === 'silent' ? new GatewayError('client_gone', 'The client went away.') : why)
  }

  /** A machine turned out to be full that was thought to be free: to wait for it may be better than all that is left. */
  #waitOrNext(): void {
    if (this.#overflow === undefined || this.#ports.brain === undefined) return this.#tryNext()
    if (this.#attempts > 0) {
      const decision = this.#mayMoveOn() ? this.#parts.planned(this.#asTried(), this.caller, true).decision : null
      return decision?.action === 'enqueue' ? this.#wait(decision) : this.#tryNext()
    }
    if (this.#lastError !== null) return this.#tryNext()
    const before = this.#route
    if (this.#decideNow().decision.action === 'enqueue') return this.#wait()
    this.#route = before
    this.#tryNext()
  }

  #mayMoveOn(): boolean {
    return this.#attempts > 0 && this.#lastError?.nextTarget === true
  }

  /** All that could begin have failed. What is only busy is waited for, and what has become free meanwhile is tried, once. */
  #lookAgain(): void {
    if (this.#attempts === 0 && this.#lastError === null) return this.#wait()
    if (this.#overflow !== undefined && this.#mayMoveOn() && !this.#hasLookedAgain) {
      this.#hasLookedAgain = true
      const { decision } = this.#parts.planned(this.#asTried(), this.caller, true)
      if (decision.action === 'enqueue') return this.#wait(decision)
      const tried = new Set(this.#calls.map(({ target }) => target.id))
      const others = decision.action === 'run' ? decision.ranked.filter(({ id }) => !tried.has(id)) : []
      if (others.length > 0) {
        this.#ranked = others
        this.#next = 0
        return this.#tryNext()
      }
    }
    this.#finish('failed', this.#lastError ?? this.#allFull())
  }

  /** A model that is not in memory gets room there first, and nothing else is loaded meanwhile. */
  #prepared(attempt: Attempt, deviceId: string): void {
    // Whoever has waited for this very place and has no other keeps it for a while.
    const waitMs = this.#claimed !== null && this.#next >= this.#ranked.length ? loadWaitMs : 0
    const ready = this.#ports.memory?.prepare(attempt.target, { id: attempt.id, waitMs })
    if (ready === undefined || ready === null) return this.#run(attempt, true)
    ready.then(
      isReady => {
        if (isReady) return this.#run(attempt, true)
        this.#ports.slots.release(deviceId, attempt.id, 0)
        this.#reject(attempt.target, 'no_load')
        this.#waitOrNext()
      },
      // Whoever cannot make room lets the machine do it.
      () => this.#run(attempt, true)
    )
  }

  #allFull(): GatewayError {
    const waitMs = Math.max(...this.#ranked.map(target => this.#parts.view.averageMs(target)), 1_000)
    return new GatewayError('no_capacity', `Every machine for "${this.request.model}" is busy.`, {
      retryAfterMs: Math.min(60_000, Math.ceil(waitMs))
    })
  }

  #run(attempt: Attempt, hasSlot: boolean): void {
    const ports = this.#ports
    const { target } = attempt
    const adapter = ports.adapters.get(target.upstream.adapter)
    const trial = new Trial({ ports, calling: this.#parts.calling, owner: this, attempt, hasSlot, space: this.#space })
    if (adapter === undefined || this.#cancelled !== null) {
      trial.giveBack(0)
      if (adapter === undefined) this.#lastError = new GatewayError('internal_error', `No adapter is called "${target.upstream.adapter}".`)
      return this.#tryNext()
    }
    // Only now is it sure that a call follows: a machine that turns out to be full takes nothing from the budget.
    if (this.#attempts > 0 && !ports.retries.take()) {
      trial.giveBack(0)
      return this.#finish('failed', this.#lastError ?? this.#allFull())
    }
    this.#sentTo(target)
    this.#trial = trial
    const failure = trial.start(adapter)
    if (failure !== null) {
      this.#trial = null
      return this.#finish('failed', failure)
    }
    this.#attempts++
    if (this.#attempts === 1) ports.retries.count()
    // The client left before there was anything to close.
    if (this.#cancelled !== null) trial.abort()
  }

  // 1. what a trial asks and tells

  get isCancelled(): boolean {
    return this.#cancelled !== null
  }

  get hasOthers(): boolean {
    return this.#next < this.#ranked.length
  }

  begun(target: Target): void {
    this.#start(target, null)
  }

  frames(events: Buffer): boolean {
    return this.#reply.frames(events)
  }

  ended(end: CallEnd, trial: Trial): void {
    if (this.#trial === trial) this.#trial = null
    this.#calls.push(recordOf(end))
    learnFrom(this.#ports, this.request, end)
    const failure = end.error
    if (failure === null) return this.#answer(end)
    if (this.#isStarted || this.#cancelled !== null) return this.#finish(end.outcome, failure)
    this.#lastError = failure
    if (failure.code === 'context_length_exceeded') {
      const ranked = this.#ranked
      this.#largestContextTried = Math.max(this.#largestContextTried, end.target.contextTokens ?? Number.POSITIVE_INFINITY)
      // Too long for this one is not too long for all: only larger ones are worth another try.
      while (this.hasOthers && ((ranked[this.#next] as Target).contextTokens ?? Number.POSITIVE_INFINITY) <= this.#largestContextTried)
        this.#next++
      return this.hasOthers ? this.#tryNext() : this.#finish('failed', failure)
    }
    if (failure.nextTarget) return this.#tryNext()
    this.#finish('failed', failure)
  }

  // 2. what the reply is told

  #answer({ target, body, held, usageEvent, done }: CallEnd): void {
    const { request } = this
    const reply = this.#reply
    const { before } = request
    const nanoUsd = before === undefined ? this.#totalNanoUsd() : plus(before.nanoUsd, this.#totalNanoUsd())
    if (request.stream) {
      if (!this.#isStarted) {
        // A whole answer without one token: an empty answer is an answer.
        this.#start(target, null)
        if (held !== null) reply.frames(held)
      }
      if (usageEvent !== null && request.includeUsage) reply.frames(this.#withFacts(usageEvent, target, nanoUsd))
      reply.finish(done)
    } else if (body !== null) {
      this.#start(target, nanoUsd)
      reply.body(body)
    } else {
      return this.#finish('failed', new GatewayError('upstream_unavailable', `${target.upstream.id} ended without an answer.`))
    }
    this.#finish('ok', null)
  }

  #start(target: Target, nanoUsd: number | null): void {
    this.#isStarted = true
    const { request } = this
    const unheard = isBroker(target.upstream) ? [] : (request.preference?.hints ?? [])
    const unsaid = this.#ports.adapters.get(target.upstream.adapter)?.dropped?.(request, target) ?? []
    const dropped = unheard.length === 0 ? unsaid : [...unheard, ...unsaid]
    const etaMs = this.#route?.etaMs ?? null
    const facts: ReplyFacts = { target, reason: this.#reasonNow(), nanoUsd, dropped }
    this.#reply.start(etaMs === null ? facts : { ...facts, etaMs })
  }

  #reasonNow(): string {
    return this.#attempts > 1 ? 'fallback' : this.#reason
  }

  #withFacts(event: Buffer, target: Target, nanoUsd: number | null): Buffer {
    const facts = {
      provider: providerOf(target.upstream),
      model: target.model,
      device: target.upstream.device?.id ?? null,
      reason: this.#reasonNow(),
      attempts: this.#attempts + (this.request.before?.attempts ?? 0),
      cost_usd: nanoUsd === null ? null : Number(formatUsd(nanoUsd)),
      route_id: this.request.id
    }
    const close = event.lastIndexOf('}')
    return Buffer.concat([event.subarray(0, close), Buffer.from(`,"x_llm_mcp":${JSON.stringify(facts)}`), event.subarray(close)])
  }

  #totalNanoUsd(): number | null {
    if (this.#calls.length === 0) return null
    let sum = 0
    for (const { settled } of this.#calls) {
      if (settled.nanoUsd === null) return null
      sum += settled.nanoUsd
    }
    return sum
  }

  /** After our own fallbacks, or where money may have been spent, a client's retry would only multiply both. */
  #toldTo(error: GatewayError): GatewayError {
    const isSpent = this.#calls.some(({ settled }) => settled.nanoUsd !== 0)
    return this.#attempts > 1 || isSpent ? error.final() : error
  }

  #finish(outcome: Outcome, error: GatewayError | null): void {
    if (this.#isOver) return
    this.#isOver = true
    const cancelled = this.#cancelled
    if (error !== null && cancelled !== 'silent') this.#reply.fail(cancelled ?? this.#toldTo(error))
    const last = this.#calls.at(-1)
    const summary: RunSummary = {
      outcome: cancelled === 'silent' ? 'aborted' : outcome,
      error,
      target: last?.target ?? null,
      attempts: this.#attempts,
      rejected: this.#rejected,
      usage: last?.usage ?? null,
      nanoUsd: this.#totalNanoUsd(),
      ttftMs: this.#isStarted ? (last?.ttftMs ?? this.#ports.now() - this.#beganAt) : null,
      calls: this.#calls
    }
    this.#concluded(summary, this.#reasonNow())
    this.#reply.over(summary)
  }

  /** What was expected against what came; of one that had waited, whoever decided that it should wait knows both. */
  #concluded(summary: RunSummary, reason: string): void {
    const route = this.#route
    if (route === null) return
    const { brain, routes } = this.#ports
    const { request, caller, decision, figures, etaMs, chosen, decidedUs } = route
    const tookMs = this.#ports.now() - this.#beganAt
    const weighed = decision.planned ?? figures
    // What was expected of another target says nothing; only a wait may end anywhere.
    const isMeant = weighed !== null && (weighed.action === 'wait' || weighed.best?.option.id === summary.target?.id)
    if (summary.outcome === 'ok' && summary.attempts === 1 && this.#claimed === null && isMeant) brain?.answered(weighed, tookMs / 1_000)
    routes?.keep({ request, caller, decision: this.#withRejected(decision), figures, etaMs, chosen, decidedUs, reason, summary, tookMs })
  }
}

const noTargets: readonly Target[] = []

/** Without the answer itself: the record lives as long as the request's line in the log. */
function recordOf({ attemptId, target, outcome, error, startedAt, durationMs, ttftMs, usage, settled, timings }: CallEnd): CallRecord {
  const record = { attemptId, target, outcome, error, startedAt, durationMs, ttftMs, usage, settled }
  return timings === undefined ? record : { ...record, timings }
}

export interface Planned {
  readonly decision: Decision
  readonly space: VectorSpace | null
}

/** Of a place that was given: what was found for that target, if anything. */
function at(weighed: Weighed | null, target: Target | null): Weighed | null {
  if (weighed === null || target === null) return weighed
  const best = weighed.estimates.find(({ option }) => option.id === target.id)
  return best === undefined ? null : { ...weighed, best, action: best.isCold ? 'load' : 'start' }
}

/** Whole milliseconds; null where they are no figures. */
export function inMs(eta: { readonly p50: number; readonly p90: number } | null): RouteStart['etaMs'] {
  if (eta === null || !Number.isFinite(eta.p50) || !Number.isFinite(eta.p90)) return null
  return { p50: Math.round(eta.p50 * 1_000), p90: Math.round(eta.p90 * 1_000) }
}

/** Null = unknown. */
function plus(one: number | null, other: number | null): number | null {
  return one === null || other === null ? null : one + other
}
