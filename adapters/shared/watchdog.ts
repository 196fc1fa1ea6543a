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
  const totalAt = performance.now() + timeouts.totalMs
  let firstTokenAt = performance.now() + timeouts.firstTokenMs
  let lastAt = 0
  let hasToken = false
  let pausedAt: number | null = null
  let stopped = false
  let timer: NodeJS.Timeout | undefined
  let turn: NodeJS.Immediate | undefined
  let timerAt = 0

  function due(): { readonly phase: Phase; readonly at: number } {
    if (pausedAt !== null) return { phase: 'total', at: totalAt }
    const at = hasToken ? lastAt + timeouts.idleMs : firstTokenAt
    if (totalAt < at) return { phase: 'total', at: totalAt }
    return { phase: hasToken ? 'idle' : 'first_token', at }
  }

  function arm(): void {
    clearTimeout(timer)
    timerAt = due().at
    timer = setTimeout(look, Math.min(Math.max(1, Math.ceil(timerAt - performance.now())), longestTimerMs))
  }

  /** After a stall of this process timers come before sockets: what has arrived meanwhile is heard first. */
  function look(): void {
    clearImmediate(turn)
    turn = setImmediate(check)
  }

  function check(): void {
    const { phase, at } = due()
    if (at > performance.now()) {
      arm()
    } else {
      stop()
      onExpire(phase)
    }
  }

  /** A deadline moved: only an earlier one needs another timer, a later one is found when the timer fires. */
  function moved(): void {
    if (!stopped && due().at < timerAt) arm()
  }

  function token(): void {
    if (hasToken) return
    hasToken = true
    lastAt = performance.now()
    moved()
  }

  function activity(): void {
    lastAt = performance.now()
  }

  function pause(): void {
    pausedAt ??= performance.now()
  }

  function resume(): void {
    if (pausedAt === null) return
    lastAt = performance.now()
    firstTokenAt += lastAt - pausedAt
    pausedAt = null
    moved()
  }

  function stop(): void {
    stopped = true
    clearTimeout(timer)
    clearImmediate(turn)
  }

  arm()
  return { token, activity, pause, resume, stop }
}
