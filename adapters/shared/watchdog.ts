// Watches the clock of one attempt: the first token, the pauses after it, and the whole, with a single timer.

import type { Timeouts } from '../../routing/types.ts'

export type Phase = 'first_token' | 'idle' | 'total'

export interface Watchdog {
  /** The first token is here: from now on pauses count. */
  token(): void
  /** Something arrived. */
  activity(): void
  /** The reader is full: until `resume` only the whole attempt is timed. */
  pause(): void
  resume(): void
  /** Nothing is reported from now on. Safe twice. */
  stop(): void
}

// Above it setTimeout fires at once.
const longestTimerMs = 2_147_483_647

/** Starts at once; calls `onExpire` at most once. Cheap per chunk: the timer looks at the last activity when it fires. */
export function createWatchdog(
  timeouts: Pick<Timeouts, 'firstTokenMs' | 'idleMs' | 'totalMs'>,
  onExpire: (phase: Phase) => void
): Watchdog {
  return new Watch(timeouts, onExpire)
}

class Watch implements Watchdog {
  readonly #idleMs: number
  readonly #onExpire: (phase: Phase) => void
  readonly #totalAt: number
  #firstTokenAt: number
  #lastAt = 0
  #hasToken = false
  #pausedAt: number | null = null
  #isStopped = false
  #timer: NodeJS.Timeout | undefined
  #turn: NodeJS.Immediate | undefined
  #timerAt = 0

  constructor({ firstTokenMs, idleMs, totalMs }: Pick<Timeouts, 'firstTokenMs' | 'idleMs' | 'totalMs'>, onExpire: (phase: Phase) => void) {
    const now = performance.now()
    this.#idleMs = idleMs
    this.#onExpire = onExpire
    this.#totalAt = now + totalMs
    this.#firstTokenAt = now + firstTokenMs
    this.#arm(now)
  }

  token(): void {
    if (this.#hasToken) return
    this.#hasToken = true
    this.#lastAt = performance.now()
    this.#moved()
  }

  activity(): void {
    this.#lastAt = performance.now()
  }

  pause(): void {
    this.#pausedAt ??= performance.now()
  }

  resume(): void {
    if (this.#pausedAt === null) return
    this.#lastAt = performance.now()
    this.#firstTokenAt += this.#lastAt - this.#pausedAt
    this.#pausedAt = null
    this.#moved()
  }

  stop(): void {
    this.#isStopped = true
    clearTimeout(this.#timer)
    clearImmediate(this.#turn)
  }

  #phase(): Phase {
    if (this.#pausedAt !== null || this.#totalAt < this.#nextAt()) return 'total'
    return this.#hasToken ? 'idle' : 'first_token'
  }

  /** When what comes next is due, but for the whole. */
  #nextAt(): number {
    return this.#hasToken ? this.#lastAt + this.#idleMs : this.#firstTokenAt
  }

  #dueAt(): number {
    return this.#pausedAt === null ? Math.min(this.#totalAt, this.#nextAt()) : this.#totalAt
  }

  #arm(now: number): void {
    clearTimeout(this.#timer)
    this.#timerAt = this.#dueAt()
    this.#timer = setTimeout(look, Math.min(Math.max(1, Math.ceil(this.#timerAt - now)), longestTimerMs), this)
  }

  /** After a stall of this process timers come before sockets: what has arrived meanwhile is heard first. */
  look(): void {
    clearImmediate(this.#turn)
    this.#turn = setImmediate(() => this.#check())
  }

  #check(): void {
    const phase = this.#phase()
    const now = performance.now()
    if (this.#dueAt() > now) return this.#arm(now)
    this.stop()
    this.#onExpire(phase)
  }

  /** A deadline moved: only an earlier one needs another timer, a later one is found when the timer fires. */
  #moved(): void {
    if (!this.#isStopped && this.#dueAt() < this.#timerAt) this.#arm(performance.now())
  }
}

function look(watch: Watch): void {
  watch.look()
}
