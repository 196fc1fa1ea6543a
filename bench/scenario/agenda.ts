// The simulator's agenda by the true clock, so many times as fast: what is due happens when it is due, and what comes from outside between.

import { type Agenda, createAgenda } from '../../simulate/agenda.ts'

export interface LiveAgenda extends Pick<Agenda, 'nowS' | 'at'> {
  /** The clock stands at 0 until then. */
  start(): void
  /** Something happens now, after all that was due before. */
  enter(act: () => void): void
  /** Seconds of the scenario; without what is still to be done for them. */
  clockS(): number
  close(): void
}

export function createLiveAgenda(speed: number): LiveAgenda {
  const agenda = createAgenda()
  const timers = new Set<NodeJS.Timeout>()
  const early: number[] = []
  let beganAt: number | null = null

  const clockS = (): number => (beganAt === null ? 0 : ((performance.now() - beganAt) / 1_000) * speed)

  function catchUp(): void {
    while (agenda.step(clockS()));
  }

  function alarm(atS: number): void {
    if (beganAt === null) return void early.push(atS)
    // A moment is over when its whole millisecond is.
    const timer = setTimeout(
      () => {
        timers.delete(timer)
        catchUp()
        if (clockS() < atS) alarm(atS)
      },
      Math.max(0, Math.ceil(((atS - clockS()) * 1_000) / speed))
    )
    timers.add(timer)
  }

  return {
    get nowS() {
      return agenda.nowS
    },
    at(atS, act) {
      agenda.at(atS, act)
      alarm(atS)
    },
    start() {
      beganAt = performance.now()
      for (const atS of early) alarm(atS)
    },
    enter(act) {
      catchUp()
      agenda.at(clockS(), act)
      catchUp()
    },
    clockS,
    close() {
      for (const timer of timers) clearTimeout(timer)
    }
  }
}
