// Carries one request through: decide, slot, call, next target, until it is answered or refused. All I/O comes in as ports.

import type { Brain } from './brain/brain.ts'
import { type CallEnd, startCall } from './call.ts'
import type { Catalog } from './catalog.ts'
import { formatUsd } from './cost.ts'
import { type Decision, type DecisionInput, type DecisionView, decide, decideAll, type Rejected } from './decide.ts'
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
  RunSummary,
  Slots
} from './ports.ts'
import type { RetryBudget } from './retries.ts'
import { providerOf } from './targets.ts'
import type { Adapter, Attempt, AttemptHandle, Caller, ModelRequest, Target, VectorSpace } from './types.ts'

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
export type Overflow = (waiting: { readonly request: ModelRequest; readonly caller: Caller; readonly reply: Reply }) => Run

/** A place that a request was given when its turn came. */
export interface Claimed {
  readonly target: Target
  /** Of the first call. */
  readonly attemptId: string
  /** The slot of that call is ours already; the dispatch gives it back. Not so for rented targets. */
  readonly hasSlot: boolean
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

/** For whoever gives places to what waits. */
export interface Scheduling {
  /** What would be done with several that wait, in the order they are to be served: what one gets, the next has not. */
  schedule(waiting: readonly { readonly request: ModelRequest; readonly caller: Caller }[]): readonly Decision[]
  /** A request that was just stored to wait: what it would have saved counts for what is loaded. */
  arrived(decision: Decision): void
  /** The machine said that all its places are taken. */
  full(deviceId: string): void
}

export interface Losing {
  /** A machine is away: the calls that run there fail now, and go on elsewhere where nothing was sent yet. */
  lose(deviceId: string): void
}

// A machine may notice a closed connection after the next call has arrived; its slot is given on a little later.
const abortedSlotRestMs = 100

export function createDispatch(ports: DispatchPorts): Dispatch & Scheduling & Losing {
  // What ends the calls that run on each machine.
  const calling = new Map<string, Set<() => void>>()
  const view: DecisionView = {
    canCarry: (target, feature) => ports.adapters.get(target.upstream.adapter)?.features.has(feature) ?? false,
    isOpen: target => ports.breakers.isOpen(target.id),
    isDenied: target => ports.load.isDenied(target.upstream.id),
    isMissing: target => ports.load.isMissing(target.id),
    isDown: ({ upstream: { device } }) => device !== null && ports.health.isDown(device.id),
    coolingMs: target => ports.load.cooling(target.id),
    inFlight: target => ports.load.inFlight(target.upstream.id),
    averageMs: target => ports.load.averageMs(target.upstream.id),
    ...(ports.brain !== undefined && { weigh: ports.brain.plan })
  }

  /** What is to be decided about a request, or the error that leaves nothing to decide. */
  function inputOf(request: ModelRequest, caller: Caller, mayQueue: boolean): Resolved {
    const catalog = ports.catalog()
    const isEmbedding = request.operation === 'embed'
    // Vectors of two models cannot be mixed, so nothing about embeddings is left to chance.
    const resolution = catalog.resolve(request.model, isEmbedding ? 0 : ports.random())
    const space = isEmbedding ? catalog.spaceOf(request.model) : null
    if (!resolution.found) return { error: unknownModel(request.model, resolution.nearest), space }
    if (isEmbedding && space === null) {
      const message = `Embeddings need a model by its name, not "${request.model}": vectors of different models cannot be compared.`
      return { error: new GatewayError('invalid_request', message, { param: 'model' }), space }
    }
    const { targets, ordered } = resolution
    return { input: { request, caller, targets, ordered, space, localOnly: ports.localOnly, mayQueue }, space }
  }

  function planned(request: ModelRequest, caller: Caller, mayQueue: boolean): Planned {
    const { error, input, space } = inputOf(request, caller, mayQueue)
    return { decision: error === undefined ? decide(input, view) : { action: 'refuse', error, rejected: [] }, space }
  }

  function schedule(waiting: readonly { readonly request: ModelRequest; readonly caller: Caller }[]): readonly Decision[] {
    const resolved = waiting.map(({ request, caller }) => inputOf(request, caller, true))
    const decisions = decideAll(
      resolved.flatMap(({ input }) => (input === undefined ? [] : [input])),
      view
    )
    let next = 0
    return resolved.map(({ error }) => (error === undefined ? (decisions[next++] as Decision) : { action: 'refuse', error, rejected: [] }))
  }

  /** One that nobody planned before. A load that pays by now is begun. */
  function arrived({ planned: plan }: Decision): void {
    if (plan === undefined) return
    const wish = ports.brain?.arrived(plan) ?? null
    if (wish !== null) ports.memory?.load(wish.option.id, wish.victims)
  }

  return {
    run: (request, caller, reply, claimed) =>
      createRun({ ports, calling, view, planned, arrived, request, caller, reply, claimed: claimed ?? null }),
    plan: (request, caller, mayQueue = false) => planned(request, caller, mayQueue).decision,
    schedule,
    arrived,
    full: deviceId => ports.brain?.full(deviceId),
    lose(deviceId) {
      for (const end of [...(calling.get(deviceId) ?? [])]) end()
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

function unknownModel(model: string, nearest: readonly string[]): GatewayError {
  const hint = nearest.length === 0 ? '' : ` Did you mean ${nearest.map(name => `"${name}"`).join(', ')}?`
  return new GatewayError('model_not_found', `The model "${model}" does not exist here.${hint} GET /v1/models lists what does.`, {
    param: 'model'
  })
}

function createRun({
  ports,
  calling,
  view,
  planned,
  arrived,
  request,
  caller,
  reply,
  claimed
}: {
  ports: DispatchPorts
  calling: Map<string, Set<() => void>>
  view: DecisionView
  planned: (request: ModelRequest, caller: Caller, mayQueue: boolean) => Planned
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
  let decided: Decision | null = null

  begin()
  return { resume: () => (successor ?? handle)?.resume(), cancel }

  function begin(): void {
    const plan = planned(request, caller, overflow !== undefined)
    const { decision } = plan
    decided = decision
    space = plan.space
    rejected = [...decision.rejected]
    if (claimed !== null) return beginAt(claimed, decision)
    arrived(decision)
    if (decision.action === 'refuse') return finish('failed', decision.error)
    if (decision.action === 'enqueue') return wait()
    ranked = decision.ranked
    reason = decision.reason
    tryNext()
  }

  /** What was decided when the place was given holds, whatever the moment says: the place is taken. */
  function beginAt({ target, attemptId, hasSlot }: Claimed, decision: Decision): void {
    const others = decision.action === 'run' ? decision.ranked.filter(({ id }) => id !== target.id) : []
    ranked = [target, ...others]
    reason = 'waited'
    next = 1
    run({ id: attemptId, request, target }, hasSlot)
  }

  function wait(): void {
    if (overflow === undefined) return finish('failed', allFull())
    over = true
    successor = overflow({
      request,
      caller,
      reply: {
        ...reply,
        over(summary) {
          concluded(summary, 'waited')
          reply.over(summary)
        }
      }
    })
  }

  function tryNext(): void {
    if (over) return
    if (cancelled !== null)
      return finish('aborted', cancelled === 'silent' ? new GatewayError('client_gone', 'The client went away.') : cancelled)
    const target = ranked[next++]
    if (target === undefined) return attempts === 0 && lastError === null ? wait() : finish('failed', lastError ?? allFull())
    const attempt: Attempt = { id: ports.newId(), request, target }
    const device = target.upstream.device
    if (device === null) return run(attempt, false)
    ports.slots.claim(device.id, attempt.id, { mayOvertake: claimed !== null }).then(
      granted => {
        if (granted) return prepared(attempt, device.id)
        rejected.push({ target: target.id, reason: 'full' })
        ports.brain?.full(device.id)
        if (mayStillWait()) return wait()
        tryNext()
      },
      (error: unknown) => {
        lastError = toGatewayError(error)
        tryNext()
      }
    )
  }

  /** A machine turned out to be full that was thought to be free: to wait for it may be better than all that is left. */
  function mayStillWait(): boolean {
    if (overflow === undefined || attempts > 0 || lastError !== null || ports.brain === undefined) return false
    const { decision } = planned(request, caller, true)
    decided = decision
    return decision.action === 'enqueue'
  }

  /** A model that is not in memory gets room there first, and nothing else is loaded meanwhile. */
  function prepared(attempt: Attempt, deviceId: string): void {
    const ready = ports.memory?.prepare(attempt.target)
    if (ready === undefined || ready === null) return run(attempt, true)
    ready.then(
      isReady => {
        if (isReady) return run(attempt, true)
        ports.slots.release(deviceId, attempt.id, 0)
        rejected.push({ target: attempt.target.id, reason: 'no_load' })
        tryNext()
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
    let isLost = false
    const lose = (): void => {
      isLost = true
      running?.abort()
    }
    const here = device === null ? null : (calling.get(device.id) ?? new Set())
    if (here !== null && device !== null) calling.set(device.id, here.add(lose))
    try {
      handle = running = startCall(
        ports,
        { adapter, attempt, caller, mismatch },
        {
          begin: () => start(target, null),
          frames: events => reply.frames(events),
          streamed: tokens => ports.brain?.streamed(attempt.id, tokens),
          end(end) {
            if (handle === running) handle = null
            here?.delete(lose)
            ports.brain?.ended(end)
            ports.memory?.settled(end.target)
            giveBack(end.outcome === 'aborted' ? abortedSlotRestMs : 0)
            ended(isLost && end.outcome === 'aborted' && cancelled === null ? lost(end) : end)
          }
        }
      )
    } catch (error) {
      // What cannot be written down is not spent.
      here?.delete(lose)
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

  function lost(end: CallEnd): CallEnd {
    const { upstream } = end.target
    return { ...end, outcome: 'failed', error: new GatewayError('machine_lost', `The machine ${upstream.id} does not answer any more.`) }
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
    const nanoUsd = totalNanoUsd()
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
    const dropped = ports.adapters.get(target.upstream.adapter)?.dropped?.(request, target) ?? []
    const eta = etaNow()
    reply.start({ target, reason: reasonNow(), nanoUsd, dropped, ...(eta !== null && { etaMs: eta }) })
  }

  /** What was expected when it was decided, ms. */
  function etaNow(): { readonly p50: number; readonly p90: number } | null {
    const eta = decided?.planned === undefined ? null : (ports.brain?.eta(decided.planned) ?? null)
    return eta === null ? null : { p50: Math.round(eta.p50 * 1_000), p90: Math.round(eta.p90 * 1_000) }
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
      attempts,
      cost_usd: nanoUsd === null ? null : Number(formatUsd(nanoUsd))
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
    if (decided === null) return
    const tookMs = ports.now() - beganAt
    const { planned: plan } = decided
    if (summary.outcome === 'ok' && summary.attempts === 1 && claimed === null && plan !== undefined) {
      ports.brain?.answered(plan, tookMs / 1_000)
    }
    ports.routes?.keep({ request, caller, decision: decided, etaMs: etaNow(), reason: why, summary, tookMs })
  }
}
