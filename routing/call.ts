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

/** What a call is made of. */
export interface CallParts {
  readonly adapter: Adapter
  readonly attempt: Attempt
  readonly caller: Caller
  /** What is wrong with vectors of this length, or null. */
  readonly mismatch: (dimensions: number) => GatewayError | null | Promise<GatewayError | null>
}

/**
 * Starts the call; `observer.end` comes exactly once, and never from within this function.
 * Throws what the ledger throws when the intent cannot be written down: then nothing was sent.
 */
export function startCall(ports: CallPorts, parts: CallParts, observer: CallObserver): AttemptHandle {
  ports.ledger.begin(parts.attempt, parts.caller)
  const call = new Call(ports, parts, observer)
  call.launch()
  return call
}

/** A class, so that a call is one object and not a dozen functions. */
class Call implements AttemptObserver, AttemptHandle {
  readonly #ports: CallPorts
  readonly #parts: CallParts
  readonly #observer: CallObserver
  readonly #attempt: Attempt
  readonly #startedAt: number
  #handle: AttemptHandle | null = null
  #held: Buffer[] | null = null
  #heldBytes = 0
  #tokensSeen = 0
  #ttftMs: number | null = null
  #usage: Usage | null = null
  #usageEvent: Buffer | null = null
  #body: Buffer | null = null
  // An adapter may end at once, e.g. on a request it cannot translate; its end is told once the caller has the handle.
  #isLaunched = false
  #hasBegun = false
  #isOver = false

  constructor(ports: CallPorts, parts: CallParts, observer: CallObserver) {
    this.#ports = ports
    this.#parts = parts
    this.#observer = observer
    this.#attempt = parts.attempt
    this.#startedAt = ports.now()
  }

  launch(): void {
    const { adapter } = this.#parts
    const { request, target } = this.#attempt
    this.#ports.load.begin(target.upstream.id)
    try {
      const operation = adapter[request.operation]
      if (operation === undefined)
        throw new GatewayError('unsupported_parameter', `${target.upstream.id} has no ${request.operation} endpoint.`)
      this.#handle = operation.call(adapter, this.#attempt, this)
    } catch (thrown) {
      this.end({ ok: false, error: toGatewayError(thrown), sent: false })
    }
    this.#isLaunched = true
  }

  resume(): void {
    this.#handle?.resume()
  }

  abort(): void {
    this.#handle?.abort()
  }

  begun(): void {
    if (this.#hasBegun || this.#isOver) return
    this.#hasBegun = true
    this.#observer.begun?.()
  }

  frames(events: Buffer, tokens: number): boolean {
    if (this.#isOver) return true
    const observer = this.#observer
    const { device } = this.#attempt.target.upstream
    if (device !== null) this.#ports.health.alive(device.id)
    if (tokens > 0) {
      this.begun()
      this.#tokensSeen += tokens
      observer.streamed?.(tokens)
    }
    if (this.#ttftMs === null) {
      if (tokens === 0 && this.#heldBytes + events.length <= heldBytesAtMost) {
        this.#held ??= []
        this.#held.push(events)
        this.#heldBytes += events.length
        return true
      }
      this.#ttftMs = this.#ports.now() - this.#startedAt
      observer.begin()
      const first = this.#takeHeld()
      if (first !== null && !this.#isOver) observer.frames(first)
    }
    // The client may have left while it was being told.
    return this.#isOver || observer.frames(events)
  }

  body(json: Buffer): void {
    this.#body = json
    // Only for an upstream that does not count: its text at four bytes a token, without the envelope. Vectors are no tokens.
    this.#tokensSeen = this.#attempt.request.operation === 'embed' ? 0 : Math.ceil(Math.max(0, json.length - 300) / 4)
  }

  usage(figures: Usage | null, event: Buffer | null): void {
    this.#usage = figures
    this.#usageEvent = event
  }

  limits(told: RequestLimit): void {
    if (!this.#isOver) this.#observer.limits?.(told)
  }

  end(result: AttemptEnd): void {
    if (this.#isLaunched) this.#ended(result)
    else queueMicrotask(() => this.#ended(result))
  }

  #takeHeld(): Buffer | null {
    const held = this.#held
    if (held === null) return null
    this.#held = null
    return held.length === 1 ? (held[0] as Buffer) : Buffer.concat(held)
  }

  #ended(result: AttemptEnd): void {
    if (this.#isOver) return
    this.#isOver = true
    const durationMs = this.#ports.now() - this.#startedAt
    const fault = result.ok ? this.#faultOf(result.dimensions) : result.error
    if (fault instanceof Promise) void fault.then(error => this.#settle(result, error, durationMs))
    else this.#settle(result, fault, durationMs)
  }

  #settle(result: AttemptEnd, error: GatewayError | null, durationMs: number): void {
    const { load, ledger } = this.#ports
    const attempt = this.#attempt
    const { target, request } = attempt
    const startedAt = this.#startedAt
    const usage = this.#usage
    const outcome: Outcome = error === null ? 'ok' : error.code === 'client_gone' ? 'aborted' : 'failed'
    const ttftMs = this.#ttftMs ?? (error === null ? durationMs : null)
    const sent = result.ok || result.sent
    const { id, device } = target.upstream
    const sharedBy = device === null ? 1 : Math.max(1, load.averageInFlight(id, startedAt, startedAt + durationMs))
    const settled = ledger.settle(attempt, { outcome, usage, tokensSeen: this.#tokensSeen, error, durationMs, sent, ttftMs, sharedBy })
    load.finish(id, durationMs)
    const end: { -readonly [Field in keyof CallEnd]: CallEnd[Field] } = {
      attemptId: attempt.id,
      target,
      outcome,
      error,
      startedAt,
      durationMs,
      ttftMs,
      usage,
      settled,
      usageEvent: this.#usageEvent,
      body: this.#body,
      done: result.ok ? (result.done ?? null) : null,
      held: this.#takeHeld()
    }
    // Of machines that are ours something is learned by them.
    const isMeasured = (device !== null || request.isBenchmark === true) && request.operation !== 'embed'
    if (isMeasured && error === null && usage !== null) end.timings = this.#timingsOf(usage, durationMs)
    this.#observer.end(end)
  }

  /** Without figures of the server's, a stream shows when its answer began. */
  #timingsOf(used: Usage, durationMs: number): CallTimings {
    const endMs = this.#startedAt + durationMs
    const seen = { loadMs: null, promptMs: null, answerMs: this.#ttftMs === null ? null : durationMs - this.#ttftMs }
    const { loadMs, promptMs, answerMs } = used.timings ?? seen
    const answerAt = endMs - (answerMs ?? 0)
    // Before the first token nobody has seen how long it took.
    const answerTokens = used.timings === undefined ? used.completionTokens - 1 : used.completionTokens
    return { loadMs, prompt: this.#stretch(used.promptTokens, promptMs, answerAt), answer: this.#stretch(answerTokens, answerMs, endMs) }
  }

  #stretch(tokens: number, ms: number | null, untilMs: number): Stretch | null {
    if (ms === null) return null
    const { id } = this.#attempt.target.upstream
    const fromMs = Math.max(this.#startedAt, untilMs - ms)
    return { tokens, ms, concurrency: Math.max(1, this.#ports.load.averageInFlight(id, fromMs, untilMs)) }
  }

  #faultOf(dimensions: number | undefined): ReturnType<CallParts['mismatch']> {
    return dimensions === undefined ? null : this.#parts.mismatch(dimensions)
  }
}
