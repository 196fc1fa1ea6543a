// What the core is given by the rooms around it, and what it tells them.

import type { Planned } from './brain/plan.ts'
import type { Decision, Rejected } from './decide.ts'
import type { GatewayError } from './errors.ts'
import type { Observation, Stretch } from './profile.ts'
import type { Attempt, Caller, ModelRequest, Target, Usage } from './types.ts'

/** Where the answer goes. Called in this order: `start` once, then `frames` or one `body`, then `finish`; or `fail`, whenever it must be. */
export interface Reply {
  /** Before `start`: the request was queued as a job, or its place has changed since. At most once a second. */
  waiting?(place: WaitingPlace): void
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

/** Where a request stands that waits as a job; nulls when that is not known. */
export interface WaitingPlace {
  readonly jobId: string
  /** 1 = next. */
  readonly position: number | null
  readonly etaMs: { readonly p50: number; readonly p90: number } | null
}

export interface ReplyFacts {
  readonly target: Target
  readonly reason: string
  /** Known before the body of an answer that is not streamed. */
  readonly nanoUsd: number | null
  /** Hints that the target does not know, by their field. */
  readonly dropped: readonly string[]
  /** From the decision to the end of the answer, as it was expected. */
  readonly etaMs?: { readonly p50: number; readonly p90: number }
}

export interface RunSummary {
  readonly outcome: Outcome
  readonly error: GatewayError | null
  readonly target: Target | null
  /** Calls that were made. */
  readonly attempts: number
  readonly rejected: readonly Rejected[]
  /** Of the last call. */
  readonly usage: Usage | null
  /** Of all calls together; null when one of them has no known price. */
  readonly nanoUsd: number | null
  readonly ttftMs: number | null
  /** In the order they were made. */
  readonly calls: readonly CallRecord[]
}

/** What is known of one call when it is over. */
export interface CallRecord {
  readonly attemptId: string
  readonly target: Target
  readonly outcome: Outcome
  readonly error: GatewayError | null
  /** By the dispatch's clock, ms. */
  readonly startedAt: number
  readonly durationMs: number
  readonly ttftMs: number | null
  readonly usage: Usage | null
  readonly settled: Settled
  /** Of an answer that came whole. */
  readonly timings?: CallTimings
}

/** How long its parts took, by the server's own clock, or as they were seen here; null = unknown. */
export interface CallTimings {
  readonly loadMs: number | null
  readonly prompt: Stretch | null
  readonly answer: Stretch | null
}

/** What is learned of machines from the calls they answer. */
export interface Profiles {
  observe(deviceId: string, model: string, observation: Omit<Observation, 'atMs'>): void
}

/** What machines have in memory, commanded rather than left to their own order. One load at a time on each. */
export interface MachineMemory {
  /**
   * Before a call whose model may not be loaded: makes room and takes the machine's one load; false = another load runs there, or there
   * is no room, for `waitMs` by now. Null = there is nothing to prepare.
   */
  prepare(target: Target, attempt: { readonly id: string; readonly waitMs: number }): Promise<boolean> | null
  /** A call has its first token, or is over, or is not made after all: its load is over. Safe at any time, also for calls that had none. */
  settled(target: Target, attemptId: string): void
  /** Begins to load a target, by its id, after the victims have left. Never throws. */
  load(targetId: string, victims: readonly string[]): void
}

/** A request, and what was decided about it. */
export interface RouteStart {
  readonly request: ModelRequest
  readonly caller: Caller
  readonly decision: Decision
  /** What the first of a given order would come to, where the decision itself was not weighed. */
  readonly figures: Planned | null
  /** As the client was told. */
  readonly etaMs: { readonly p50: number; readonly p90: number } | null
  /** Where it is sent first; null = it waits, or is refused. */
  readonly chosen: Target | null
  /** How long the decision took, microseconds; null = unknown. */
  readonly decidedUs: number | null
}

/** What is kept of a request: the decision, and what came of it. */
export interface RouteRecord extends RouteStart {
  readonly reason: string
  readonly summary: RunSummary
  readonly tookMs: number
}

/** Neither throws, nor waits. */
export interface RouteKeeper {
  /** It was decided, and runs or waits from now on. */
  begun(start: RouteStart): void
  /** It is over. Of one request several may come: calls for several choices, attempts of a job. */
  keep(record: RouteRecord): void
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
  /** Calls that ran on a machine of ours at the same time, on average, this one among them: they share its electricity. Absent = it was alone. */
  readonly sharedBy?: number
}

/** As it was booked. */
export interface Settled {
  readonly nanoUsd: number | null
  readonly estimated: boolean
  readonly promptTokens: number
  readonly completionTokens: number
}

export interface Ledger {
  /** Written down before the call, so that a kill cannot hide what it cost. */
  begin(attempt: Attempt, caller: Caller): void
  settle(attempt: Attempt, settlement: Settlement): Settled
}

export interface Slots {
  /**
   * One of the machine's places for this attempt; false when all are taken, or when others wait for one that came before it
   * (`mayOvertake` does not look at those). Throws GatewayError when nobody can say.
   */
  claim(deviceId: string, attemptId: string, options: { readonly mayOvertake: boolean }): Promise<boolean>
  /** The place is given to whoever waits for it, or free. */
  release(deviceId: string, attemptId: string, afterMs: number): void
}

/** How machines of ours are, as far as this process has heard. */
export interface MachineHealth {
  isDown(deviceId: string): boolean
  /** It sent something. */
  alive(deviceId: string): void
  /** A call there failed: whether anybody is there is found out at once. */
  failed(deviceId: string): void
}

/** How long the vectors of a space are: recorded when they are first seen. */
export interface Dimensions {
  known(space: string): number | null
  /** Records a length where none is known; resolves to the one that holds, which another process may have found first. */
  learn(space: string, dimensions: number): Promise<number>
}

export interface Breakers {
  isOpen(targetId: string): boolean
  /** A call of this target begins: the one that finds out whether a broken one works again. */
  begin(targetId: string): void
  record(targetId: string, error: GatewayError | null): void
}
