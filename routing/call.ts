// One attempt on one target: written down before, told on as it comes, booked after. The next target is not its business.

import { GatewayError, toGatewayError } from './errors.ts'
import type { Load } from './load.ts'
import type { CallRecord, CallTimings, Ledger, MachineHealth, Outcome } from './ports.ts'
import type { Stretch } from './profile.ts'
import type { Adapter, Attempt, AttemptEnd, AttemptHandle, AttemptObserver, Caller, RequestLimit, Usage } from './types.ts'

export interface CallPorts {
  readonly ledger: Ledger
  readonly load: Load
  readonly health: Pick<MachineHealth, 'alive'>
  /** Milliseconds of a clock that never jumps. */
  readonly now: () => number
}

/** Told in this order: `begin` once, with the first token; `frames`; `end` once. */
export interface CallObserver {
  begin(): void
  /** False = the reader is full. */
  frames(events: Buffer): boolean
  /** The first of them, also of an answer that is not streamed, where the adapter can tell. Before everything else. */
  begun?(): void
  /** So many more pieces of output came. */
  streamed?(tokens: number): void
  /** What the provider tells of its limit. */
  limits?(told: RequestLimit): void
  end(end: CallEnd): void
}

export interface CallEnd extends CallRecord {
  /** The upstream's own terminator, or null for ours. */
  readonly done: Buffer | null
  /** Of a stream, if the upstream gave one. */
  readonly usageEvent: Buffer | null
  /** Of an answer that is not streamed. */
  readonly body: Buffer | null
  /** Lifecycle frames of a stream that never had a token. */
  readonly held: Buffer | null
}

// Lifecycle frames (a role, an empty delta) held back until a token comes; more than this is no lifecycle any more.
const heldBytesAtMost = 64 * 1024

/**
 * Starts the call; `observer.end` comes exactly once, and never from within this function.
 * Throws what the ledger throws when the intent cannot be written down: then nothing was sent.
 * `mismatch`: what is wrong with vectors of this length, or null.
 */
export function startCall(
  ports: CallPorts,
  {
    adapter,
    attempt,
    caller,
    mismatch
  }: {
    adapter: Adapter
    attempt: Attempt
    caller: Caller
    mismatch: (dimensions: number) => GatewayError | null | Promise<GatewayError | null>
  },
  observer: CallObserver
): AttemptHandle {
  const { target, request } = attempt
  ports.ledger.begin(attempt, caller)
  const startedAt = ports.now()
  let held: Buffer[] = []
  let heldBytes = 0
  let tokensSeen = 0
  let ttftMs: number | null = null
  let usage: Usage | null = null
  let usageEvent: Buffer | null = null
  let body: Buffer | null = null
  // An adapter may end at once, e.g. on a request it cannot translate; its end is told once the caller has the handle.
  let launched = false
  let hasBegun = false
  let isOver = false

  const attemptObserver: AttemptObserver = {
    begun,
    frames(events, tokens) {
      if (isOver) return true
      if (tokens > 0) begun()
      if (target.upstream.device !== null) ports.health.alive(target.upstream.device.id)
      tokensSeen += tokens
      if (tokens > 0) observer.streamed?.(tokens)
      if (ttftMs === null) {
        if (tokens === 0 && heldBytes + events.length <= heldBytesAtMost) {
          held.push(events)
          heldBytes += events.length
          return true
        }
        ttftMs = ports.now() - startedAt
        observer.begin()
        const first = takeHeld()
        if (first !== null && !isOver) observer.frames(first)
      }
      // The client may have left while it was being told.
      return isOver || observer.frames(events)
    },
    body(json) {
      body = json
      // Only for an upstream that does not count: its text at four bytes a token, without the envelope. Vectors are no tokens.
      tokensSeen = request.operation === 'embed' ? 0 : Math.ceil(Math.max(0, json.length - 300) / 4)
    },
    usage(figures, event) {
      usage = figures
      usageEvent = event
    },
    limits(told) {
      if (!isOver) observer.limits?.(told)
    },
    end(result) {
      if (launched) ended(result)
      else queueMicrotask(() => ended(result))
    }
  }

  ports.load.begin(target.upstream.id)
  let handle: AttemptHandle | null = null
  try {
    const operation = adapter[request.operation]
    if (operation === undefined)
      throw new GatewayError('unsupported_parameter', `${target.upstream.id} has no ${request.operation} endpoint.`)
    handle = operation.call(adapter, attempt, attemptObserver)
    launched = true
  } catch (thrown) {
    attemptObserver.end({ ok: false, error: toGatewayError(thrown), sent: false })
    launched = true
  }
  return { resume: () => handle?.resume(), abort: () => handle?.abort() }

  function begun(): void {
    if (hasBegun || isOver) return
    hasBegun = true
    observer.begun?.()
  }

  function takeHeld(): Buffer | null {
    if (held.length === 0) return null
    const frames = held.length === 1 ? (held[0] as Buffer) : Buffer.concat(held)
    held = []
    return frames
  }

  function ended(result: AttemptEnd): void {
    if (isOver) return
    isOver = true
    const durationMs = ports.now() - startedAt
    const fault = result.ok ? faultOf(result.dimensions) : result.error
    if (fault instanceof Promise) void fault.then(error => settle(result, error, durationMs))
    else settle(result, fault, durationMs)
  }

  function settle(result: AttemptEnd, error: GatewayError | null, durationMs: number): void {
    const outcome: Outcome = error === null ? 'ok' : error.code === 'client_gone' ? 'aborted' : 'failed'
    const firstMs = ttftMs ?? (error === null ? durationMs : null)
    const sent = result.ok || result.sent
    const { id, device } = target.upstream
    const sharedBy = device === null ? 1 : Math.max(1, ports.load.averageInFlight(id, startedAt, startedAt + durationMs))
    const settled = ports.ledger.settle(attempt, { outcome, usage, tokensSeen, error, durationMs, sent, ttftMs: firstMs, sharedBy })
    const timings = error === null && usage !== null && request.operation !== 'embed' ? timingsOf(usage, durationMs) : null
    ports.load.finish(target.upstream.id, durationMs)
    observer.end({
      attemptId: attempt.id,
      target,
      outcome,
      error,
      startedAt,
      durationMs,
      ttftMs: firstMs,
      usage,
      settled,
      usageEvent,
      body,
      done: result.ok ? (result.done ?? null) : null,
      held: takeHeld(),
      ...(timings !== null && { timings })
    })
  }

  /** Without figures of the server's, a stream shows when its answer began. */
  function timingsOf(used: Usage, durationMs: number): CallTimings {
    const endMs = startedAt + durationMs
    const seen = { loadMs: null, promptMs: null, answerMs: ttftMs === null ? null : durationMs - ttftMs }
    const { loadMs, promptMs, answerMs } = used.timings ?? seen
    const answerAt = endMs - (answerMs ?? 0)
    // Before the first token nobody has seen how long it took.
    const answerTokens = used.timings === undefined ? used.completionTokens - 1 : used.completionTokens
    return { loadMs, prompt: stretch(used.promptTokens, promptMs, answerAt), answer: stretch(answerTokens, answerMs, endMs) }
  }

  function stretch(tokens: number, ms: number | null, untilMs: number): Stretch | null {
    if (ms === null) return null
    const { id } = target.upstream
    return { tokens, ms, concurrency: Math.max(1, ports.load.averageInFlight(id, Math.max(startedAt, untilMs - ms), untilMs)) }
  }

  function faultOf(dimensions: number | undefined): ReturnType<typeof mismatch> {
    return dimensions === undefined ? null : mismatch(dimensions)
  }
}
