// One call within a run: where it stands among the calls of its machine, and what goes back when it is over.

import { type CallEnd, type CallObserver, startCall } from './call.ts'
import { GatewayError } from './errors.ts'
import { mismatch } from './lessons.ts'
import { Places } from './places.ts'
import type { RunPorts } from './run-ports.ts'
import type { Adapter, Attempt, AttemptHandle, Caller, ModelRequest, RequestLimit, Target, VectorSpace } from './types.ts'

/** A call on a machine of ours. */
export interface Calling {
  readonly upstreamId: string
  readonly targetId: string
  /** Nothing came of it yet, and another target is left. */
  mayLeave(): boolean
  /** Ends it, and says why. */
  lose(error: GatewayError): void
}

/** The run that a trial is of. */
export interface TrialOwner {
  readonly request: ModelRequest
  readonly caller: Caller
  readonly isCancelled: boolean
  /** Targets are left that were not tried. */
  readonly hasOthers: boolean
  begun(target: Target): void
  /** False = the reader is full. */
  frames(events: Buffer): boolean
  ended(end: CallEnd, trial: Trial): void
}

export interface TrialParts {
  readonly ports: RunPorts
  /** Calls by their machine. */
  readonly calling: Map<string, Places<Calling>>
  readonly owner: TrialOwner
  readonly attempt: Attempt
  readonly hasSlot: boolean
  readonly space: VectorSpace | null
}

// A machine may notice a closed connection after the next call has arrived; its slot is given on a little later.
const abortedSlotRestMs = 100

export class Trial implements CallObserver, Calling {
  readonly #parts: TrialParts
  readonly #target: Target
  #handle: AttemptHandle | null = null
  #hasBegun = false
  /** Why it was ended from outside. */
  #lost: GatewayError | null = null
  /** Among the calls of its machine. */
  #place: number | null = null

  constructor(parts: TrialParts) {
    this.#parts = parts
    this.#target = parts.attempt.target
  }

  /** Null, or why nothing was sent; then all is given back. */
  start(adapter: Adapter): GatewayError | null {
    const { ports, owner, attempt, space } = this.#parts
    const { request, caller } = owner
    const target = this.#target
    this.#enter()
    try {
      this.#handle = startCall(
        ports,
        { adapter, attempt, caller, mismatch: dimensions => mismatch(ports, request, { space, dimensions }) },
        this
      )
    } catch (error) {
      // What cannot be written down is not spent.
      this.#leave()
      this.giveBack(0)
      return new GatewayError('no_capacity', 'The gateway cannot write its journal, so it makes no calls.', {
        cause: error,
        retryAfterMs: 5_000
      })
    }
    ports.breakers.begin(target.id)
    ports.brain?.began({ attemptId: attempt.id, target, request, caller })
    return null
  }

  /** Its place on the machine, and its load there. */
  giveBack(afterMs: number): void {
    const { ports, attempt, hasSlot } = this.#parts
    const { device } = this.#target.upstream
    ports.memory?.settled(this.#target, attempt.id)
    if (hasSlot && device !== null) ports.slots.release(device.id, attempt.id, afterMs)
  }

  resume(): void {
    this.#handle?.resume()
  }

  abort(): void {
    this.#handle?.abort()
  }

  // 1. of a machine that is lost, or does not finish loading

  get upstreamId(): string {
    return this.#target.upstream.id
  }

  get targetId(): string {
    return this.#target.id
  }

  mayLeave(): boolean {
    return !this.#hasBegun && this.#parts.owner.hasOthers
  }

  lose(error: GatewayError): void {
    this.#lost ??= error
    this.abort()
  }

  #enter(): void {
    const { device } = this.#target.upstream
    if (device === null) return
    const { calling } = this.#parts
    let here = calling.get(device.id)
    if (here === undefined) calling.set(device.id, (here = new Places()))
    this.#place = here.add(this)
  }

  #leave(): void {
    if (this.#place !== null) this.#parts.calling.get(this.#target.upstream.device?.id ?? '')?.remove(this.#place)
    this.#place = null
  }

  // 2. what the call tells

  begun(): void {
    const { ports, attempt } = this.#parts
    this.#hasBegun = true
    ports.brain?.begun(attempt.id)
    ports.memory?.settled(this.#target, attempt.id)
  }

  begin(): void {
    this.#parts.owner.begun(this.#target)
  }

  frames(events: Buffer): boolean {
    return this.#parts.owner.frames(events)
  }

  streamed(tokens: number): void {
    const { ports, attempt } = this.#parts
    ports.brain?.streamed(attempt.id, tokens)
  }

  limits(told: RequestLimit): void {
    const { ports, attempt } = this.#parts
    ports.brain?.limits(attempt.id, told)
  }

  end(end: CallEnd): void {
    const { ports, owner } = this.#parts
    this.#leave()
    ports.brain?.ended(end)
    this.giveBack(end.outcome === 'aborted' ? abortedSlotRestMs : 0)
    const lost = end.outcome === 'aborted' && !owner.isCancelled ? this.#lost : null
    owner.ended(lost === null ? end : { ...end, outcome: 'failed', error: lost }, this)
  }
}
