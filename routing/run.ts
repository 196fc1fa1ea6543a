// One request from its decision to its end: slot, call, next target, until it is answered or refused. All I/O comes in as ports.

import type { Brain } from './brain/brain.ts'
import type { Planned as Weighed } from './brain/plan.ts'
import { type CallEnd, startCall } from './call.ts'
import type { Catalog } from './catalog.ts'
import { formatUsd } from './cost.ts'
import { type Decision, type DecisionView, eachInTurn, type Rejected, reasonOf } from './decide.ts'
import { GatewayError, toGatewayError } from './errors.ts'
import { type LessonPorts, learnFrom, mismatch } from './lessons.ts'
import { Places } from './places.ts'
import type { CallRecord, Ledger, MachineMemory, Outcome, Reply, RouteKeeper, RouteStart, RunSummary, Slots } from './ports.ts'
import { isBroker } from './preference.ts'
import { modelOfIn } from './resolve.ts'
import type { RetryBudget } from './retries.ts'
import { providerOf } from './targets.ts'
import type { Adapter, Attempt, AttemptHandle, Before, Caller, ModelRequest, Target, VectorSpace } from './types.ts'

/** What a run needs of the rest of the gateway. */
export interface RunPorts extends LessonPorts {
  readonly catalog: () => Catalog
  readonly adapters: ReadonlyMap<string, Adapter>
  readonly retries: RetryBudget
  readonly slots: Slots
  readonly ledger: Ledger
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

/** A call on a machine of ours. */
export interface Calling {
  readonly upstreamId: string
  readonly targetId: string
  /** Nothing came of it yet, and another target is left. */
  mayLeave(): boolean
  end(error: GatewayError): void
}

// A machine may notice a closed connection after the next call has arrived; its slot is given on a little later.
const abortedSlotRestMs = 100
const refusedPlacesAtMost = 2
// Usual loads take less.
const loadWaitMs = 30_000

/** Begins at once; `planned`, `figuresOf` and `arrived` are the dispatch's. */
export function createRun({
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
  ports: RunPorts
  calling: Map<string, Places<Calling>>
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
  let refusedPlaces = 0
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
    // Others wait, or much was taken by others: whoever gives places out finds one sooner than a row of questions does.
    if (attempts === 0 && refusedPlaces >= refusedPlacesAtMost && overflow !== undefined) return wait()
    ports.brain?.asking(target)
    ports.slots.claim(device.id, attempt.id, { mayOvertake: claimed !== null }).then(
      granted => {
        ports.brain?.asked(target)
        if (granted) return prepared(attempt, device.id)
        refusedPlaces++
        rejected.push({ target: target.id, reason: 'full' })
        ports.brain?.full(device.id)
        waitOrNext()
      },
      (error: unknown) => {
        ports.brain?.asked(target)
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
    const here = device === null ? null : (calling.get(device.id) ?? new Places<Calling>())
    if (here !== null && device !== null) calling.set(device.id, here)
    const place = here?.add(call) ?? null
    const leave = (): void => {
      if (place !== null) here?.remove(place)
    }
    sentFirstTo(target)
    try {
      handle = running = startCall(
        ports,
        { adapter, attempt, caller, mismatch: dimensions => mismatch(ports, request, { space, dimensions }) },
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
            leave()
            ports.brain?.ended(end)
            giveBack(end.outcome === 'aborted' ? abortedSlotRestMs : 0)
            const isLost = lost !== null && end.outcome === 'aborted' && cancelled === null
            ended(isLost ? { ...end, outcome: 'failed', error: lost } : end)
          }
        }
      )
    } catch (error) {
      // What cannot be written down is not spent.
      leave()
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
    learnFrom(ports, request, end)
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
