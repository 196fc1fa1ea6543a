// Carries one request through: decide, slot, attempt, next target, until it is answered or refused. All I/O comes in as ports.

import type { Catalog } from './catalog.ts'
import { formatUsd } from './cost.ts'
import { type DecisionView, decide, type Rejected } from './decide.ts'
import { GatewayError, toGatewayError } from './errors.ts'
import type { Load } from './load.ts'
import type { RetryBudget } from './retries.ts'
import type { Adapter, Attempt, AttemptEnd, AttemptHandle, AttemptObserver, Caller, ChatRequest, Target, Usage } from './types.ts'

/** Where the answer goes. Called in this order: `start` once, then `frames` or one `body`, then `finish`; or `fail`, whenever it must be. */
export interface Reply {
  start(facts: ReplyFacts): void
  /** False = the reader is full; `resume` of the run is called when it has room. */
  frames(events: Buffer): boolean
  body(json: Buffer): void
  /** `done`: the upstream's own terminator, or null for ours. */
  finish(done: Buffer | null): void
  /** Before `start` an error body, after it an error frame. */
  fail(error: GatewayError): void
  /** Exactly once, after everything else. */
  over(summary: RunSummary): void
}

export interface ReplyFacts {
  readonly target: Target
  readonly reason: string
  /** Known before the body of an answer that is not streamed. */
  readonly nanoUsd: number | null
}

export interface RunSummary {
  readonly outcome: Outcome
  readonly error: GatewayError | null
  readonly target: Target | null
  readonly attempts: number
  readonly rejected: readonly Rejected[]
  readonly usage: Usage | null
  readonly nanoUsd: number | null
  readonly ttftMs: number | null
}

export type Outcome = 'ok' | 'failed' | 'aborted'

export interface Settlement {
  readonly outcome: Outcome
  /** Null: the upstream gave no figures. */
  readonly usage: Usage | null
  /** Pieces of output seen, for an estimate where there are no figures. */
  readonly tokensSeen: number
  readonly sent: boolean
  readonly error: GatewayError | null
  readonly durationMs: number
  readonly ttftMs: number | null
}

export interface Settled {
  readonly nanoUsd: number | null
  readonly estimated: boolean
}

export interface Ledger {
  /** Written down before the call, so that a kill cannot hide what it cost. */
  begin(attempt: Attempt, caller: Caller): void
  settle(attempt: Attempt, settlement: Settlement): Settled
}

export interface Slots {
  /** One of the machine's places for this attempt; false when all are taken. Throws GatewayError when nobody can say. */
  claim(deviceId: string, attemptId: string): Promise<boolean>
  release(deviceId: string, attemptId: string, afterMs: number): void
}

export interface Breakers {
  isOpen(targetId: string): boolean
  record(targetId: string, error: GatewayError | null): void
}

export interface DispatchPorts {
  readonly catalog: () => Catalog
  readonly adapters: ReadonlyMap<string, Adapter>
  readonly breakers: Breakers
  readonly load: Load
  readonly retries: RetryBudget
  readonly slots: Slots
  readonly ledger: Ledger
  readonly localOnly: boolean
  /** Milliseconds of a clock that never jumps. */
  readonly now: () => number
  readonly random: () => number
  readonly newId: () => string
  /** The catalog is wrong about this target. */
  readonly onMissing: (target: Target) => void
}

export interface Run {
  resume(): void
  /** Ends the run: the upstream is closed at once. `error` is told to the client, if there still is one. Safe twice. */
  cancel(error: GatewayError | null): void
}

export type Dispatch = (request: ChatRequest, caller: Caller, reply: Reply) => Run

// Lifecycle frames (a role, an empty delta) held back until a token comes; more than this is no lifecycle any more.
const heldBytesAtMost = 64 * 1024
// A machine may notice a closed connection after the next call has arrived; its slot is given on a little later.
const abortedSlotRestMs = 100

export function createDispatch(ports: DispatchPorts): Dispatch {
  const view: DecisionView = {
    canCarry: (target, feature) => ports.adapters.get(target.upstream.adapter)?.features.has(feature) ?? false,
    isOpen: target => ports.breakers.isOpen(target.id),
    isDenied: target => ports.load.isDenied(target.upstream.id),
    isMissing: target => ports.load.isMissing(target.id),
    coolingMs: target => ports.load.cooling(target.id),
    inFlight: target => ports.load.inFlight(target.upstream.id),
    averageMs: target => ports.load.averageMs(target.upstream.id)
  }
  return (request, caller, reply) => createRun({ ports, view, request, caller, reply })
}

function createRun({
  ports,
  view,
  request,
  caller,
  reply
}: {
  ports: DispatchPorts
  view: DecisionView
  request: ChatRequest
  caller: Caller
  reply: Reply
}): Run {
  const beganAt = ports.now()
  let ranked: readonly Target[] = []
  let rejected: Rejected[] = []
  let reason = ''
  let next = 0
  let attempts = 0
  let started = false
  let over = false
  let handle: AttemptHandle | null = null
  let cancelled: GatewayError | 'silent' | null = null
  let lastError: GatewayError | null = null
  let largestContextTried = 0
  let summary: RunSummary | null = null

  begin()
  return { resume: () => handle?.resume(), cancel }

  function begin(): void {
    const resolution = ports.catalog().resolve(request.model, ports.random())
    if (!resolution.found) {
      const hint = resolution.nearest.length === 0 ? '' : ` Did you mean ${resolution.nearest.map(name => `"${name}"`).join(', ')}?`
      return finish(
        'failed',
        new GatewayError('model_not_found', `The model "${request.model}" does not exist here.${hint} GET /v1/models lists what does.`, {
          param: 'model'
        })
      )
    }
    const decision = decide(
      { request, targets: resolution.targets, ordered: resolution.ordered, localOnly: ports.localOnly, mayQueue: false },
      view
    )
    rejected = [...decision.rejected]
    if (decision.action === 'refuse') return finish('failed', decision.error)
    if (decision.action === 'enqueue') return finish('failed', new GatewayError('no_capacity', 'Every machine for this model is busy.'))
    ranked = decision.ranked
    reason = decision.reason
    tryNext()
  }

  function tryNext(): void {
    if (over) return
    if (cancelled !== null)
      return finish('aborted', cancelled === 'silent' ? new GatewayError('client_gone', 'The client went away.') : cancelled)
    const target = ranked[next++]
    if (target === undefined) return finish('failed', lastError ?? allFull())
    const attempt: Attempt = { id: ports.newId(), request, target }
    const device = target.upstream.device
    if (device === null) return run(attempt, false)
    ports.slots.claim(device.id, attempt.id).then(
      granted => {
        if (granted) return run(attempt, true)
        rejected.push({ target: target.id, reason: 'full' })
        tryNext()
      },
      (error: unknown) => {
        lastError = toGatewayError(error)
        tryNext()
      }
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
    const { id: upstreamId, device } = target.upstream
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
    try {
      ports.ledger.begin(attempt, caller)
    } catch (error) {
      // What cannot be written down is not spent.
      giveBack(0)
      return finish(
        'failed',
        new GatewayError('no_capacity', 'The gateway cannot write its journal, so it makes no calls.', {
          cause: error,
          retryAfterMs: 5_000
        })
      )
    }
    attempts++
    if (attempts === 1) ports.retries.count()
    const startedAt = ports.now()
    let held: Buffer[] = []
    let heldBytes = 0
    let tokensSeen = 0
    let ttftMs: number | null = null
    let usage: Usage | null = null
    let usageEvent: Buffer | null = null
    let body: Buffer | null = null

    // An adapter may end at once, e.g. on a request it cannot translate; its end is taken once `handle` stands.
    let launched = false
    let isEnded = false
    let running: AttemptHandle | null = null
    const observer: AttemptObserver = {
      frames(events, tokens) {
        if (isEnded) return true
        tokensSeen += tokens
        if (!started) {
          if (tokens === 0 && heldBytes + events.length <= heldBytesAtMost) {
            held.push(events)
            heldBytes += events.length
            return true
          }
          ttftMs = ports.now() - startedAt
          start(target, null)
          if (held.length > 0 && !isEnded) reply.frames(held.length === 1 ? (held[0] as Buffer) : Buffer.concat(held))
          held = []
        }
        // The client may have left while it was being told.
        if (isEnded) return true
        return reply.frames(events)
      },
      body(json) {
        body = json
        // Only for an upstream that does not count: its text at four bytes a token, without the envelope.
        tokensSeen = Math.ceil(Math.max(0, json.length - 300) / 4)
      },
      usage(figures, event) {
        usage = figures
        usageEvent = event
      },
      end(result) {
        if (launched) ended(result)
        else queueMicrotask(() => ended(result))
      }
    }
    ports.load.begin(upstreamId)
    try {
      handle = running = adapter.chat(attempt, observer)
      launched = true
      // The client left before there was anything to close.
      if (cancelled !== null) running.abort()
    } catch (error) {
      ended({ ok: false, error: toGatewayError(error), sent: false })
    }

    function ended(result: AttemptEnd): void {
      if (isEnded) return
      isEnded = true
      if (handle === running) handle = null
      const durationMs = ports.now() - startedAt
      const error = result.ok ? null : result.error
      const outcome: Outcome = result.ok ? 'ok' : error?.code === 'client_gone' ? 'aborted' : 'failed'
      const settled = ports.ledger.settle(attempt, {
        outcome,
        usage,
        tokensSeen,
        error,
        durationMs,
        sent: result.ok || result.sent,
        ttftMs: ttftMs ?? (result.ok ? durationMs : null)
      })
      ports.load.finish(upstreamId, durationMs)
      giveBack(outcome === 'aborted' ? abortedSlotRestMs : 0)
      learn(target, error)
      summary = { outcome, error, target, attempts, rejected, usage, nanoUsd: settled.nanoUsd, ttftMs: ttftMs ?? durationMs }
      if (result.ok) return answer(result.done ?? null, settled.nanoUsd)
      const failure = result.error
      if (started || cancelled !== null) return finish(outcome, failure)
      lastError = failure
      if (failure.code === 'context_length_exceeded') {
        largestContextTried = Math.max(largestContextTried, target.contextTokens ?? Number.POSITIVE_INFINITY)
        // Too long for this one is not too long for all: only larger ones are worth another try.
        while (next < ranked.length && ((ranked[next] as Target).contextTokens ?? Number.POSITIVE_INFINITY) <= largestContextTried) next++
        if (next < ranked.length) return tryNext()
        return finish('failed', failure)
      }
      if (failure.nextTarget) return tryNext()
      finish('failed', failure)
    }

    function answer(done: Buffer | null, nanoUsd: number | null): void {
      if (request.stream) {
        if (!started) {
          // A whole answer without one token: an empty answer is an answer.
          start(target, null)
          if (held.length > 0) reply.frames(Buffer.concat(held))
        }
        if (usageEvent !== null && request.includeUsage) reply.frames(withFacts(usageEvent, target, nanoUsd))
        reply.finish(done)
      } else if (body !== null) {
        start(target, nanoUsd)
        reply.body(body)
      } else {
        return finish('failed', new GatewayError('upstream_unavailable', `${upstreamId} ended without an answer.`))
      }
      finish('ok', null)
    }
  }

  function start(target: Target, nanoUsd: number | null): void {
    started = true
    reply.start({ target, reason: attempts > 1 ? 'fallback' : reason, nanoUsd })
  }

  /** Breakers, rests and marks: what this end says of the target. */
  function learn(target: Target, error: GatewayError | null): void {
    if (error?.code === 'client_gone') return
    ports.breakers.record(target.id, error)
    if (error === null) return
    if (error.breaker === 'cool_down') ports.load.coolDown(target.id, error.retryAfterMs ?? 1_000)
    if (error.breaker === 'denied') ports.load.deny(target.upstream.id)
    if (error.breaker === 'not_here') {
      ports.load.miss(target.id)
      ports.onMissing(target)
    }
  }

  function withFacts(event: Buffer, target: Target, nanoUsd: number | null): Buffer {
    const facts = {
      provider: target.upstream.device === null ? target.upstream.id : target.upstream.adapter,
      model: target.model,
      device: target.upstream.device?.id ?? null,
      reason: attempts > 1 ? 'fallback' : reason,
      attempts,
      cost_usd: nanoUsd === null ? null : Number(formatUsd(nanoUsd))
    }
    const close = event.lastIndexOf('}')
    return Buffer.concat([event.subarray(0, close), Buffer.from(`,"x_llm_mcp":${JSON.stringify(facts)}`), event.subarray(close)])
  }

  function cancel(error: GatewayError | null): void {
    if (over || cancelled !== null) return
    cancelled = error ?? 'silent'
    // Between two attempts nothing runs; the next step sees `cancelled`.
    handle?.abort()
  }

  function finish(outcome: Outcome, error: GatewayError | null): void {
    if (over) return
    over = true
    if (error !== null) {
      const told = cancelled !== null && cancelled !== 'silent' ? cancelled : error
      if (cancelled !== 'silent') reply.fail(told)
    }
    const last = summary
    reply.over({
      outcome: cancelled === 'silent' ? 'aborted' : outcome,
      error,
      target: last?.target ?? null,
      attempts,
      rejected,
      usage: last?.usage ?? null,
      nanoUsd: last?.nanoUsd ?? null,
      ttftMs: started ? (last?.ttftMs ?? ports.now() - beganAt) : null
    })
  }
}
