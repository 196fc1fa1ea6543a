// What a run needs of the rest of the gateway, how it is begun and ended, and who takes over one that has to wait.

import type { Brain } from './brain/brain.ts'
import type { Catalog } from './catalog.ts'
import type { GatewayError } from './errors.ts'
import type { LessonPorts } from './lessons.ts'
import type { Ledger, MachineMemory, Reply, RouteKeeper, RouteStart, Slots } from './ports.ts'
import type { RetryBudget } from './retries.ts'
import type { Adapter, Caller, ModelRequest, Target } from './types.ts'

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
