// Does what time does to jobs, every half second: all processes look, one at a time acts, and nobody is given up by one that was away.

import type { Tickets } from '../store/jobs/end.ts'
import { look, type Sight, type SweepPorts, type Swept, steps } from '../store/jobs/sweep.ts'
import type { Pool } from '../store/pool.ts'
import type { Notices } from './notices.ts'

export interface Sweeper {
  start(): void
  /** Looks once, and acts if it may. Resolves when that is done; never rejects. */
  sweep(): Promise<void>
  close(): Promise<void>
}

const everyMs = 500
// Heartbeats are renewed each second and trusted for three: a pause that is longer than this makes them look old.
const gapAtMostMs = 1_500
const steadyForMs = 3_000
// Half a second is fine for one process, and for four; fifty need not all do the same.
const actingAtOnce = 4
// 500 jobs each.
const roundsAtMost = 10

/**
 * `now` is any clock that goes forward, in ms. What is decided by heartbeats is done only after 3 s in which every look succeeded
 * without a gap, on this clock and on the database's: when the database was away or frozen, or this process was, all of them are old.
 */
export function createSweeper(ports: {
  readonly pool: Pool
  readonly tickets: Tickets
  readonly notices: Pick<Notices, 'ready' | 'changed' | 'stop'>
  readonly processId: string
  readonly now: () => number
  readonly random: () => number
  readonly log: (message: string, error: unknown) => void
}): Sweeper {
  const { pool, tickets, notices, processId, now, random, log } = ports
  let seen: { readonly localMs: number; readonly databaseMs: number } | null = null
  let steadySince = 0
  let closed = false
  let timer: NodeJS.Timeout | null = null
  let sweeping: Promise<void> | null = null
  let failing = false

  /** Notes that the database answered, and says whether it did so without a gap. */
  function isSteady(databaseMs: number): boolean {
    const localMs = now()
    const isNear = (ms: number) => Math.abs(ms) <= gapAtMostMs
    if (seen === null || !isNear(localMs - seen.localMs) || !isNear(databaseMs - seen.databaseMs)) steadySince = localMs
    seen = { localMs, databaseMs }
    return localMs - steadySince >= steadyForMs
  }

  async function pass(): Promise<void> {
    try {
      const { isAlive, databaseMs, living, work } = await look(pool, processId)
      const steady = isSteady(databaseMs)
      // Others who are like us look dead as well.
      if (!isAlive) seen = null
      if (random() * living < actingAtOnce) {
        if (isAlive && steady) await act(['lost', 'ownerless'], work, isSteady)
        // These need no steadiness, but their answers count as looks: a long sweep is no gap.
        await act(['due', 'overdue', 'classes'], work, databaseMs => {
          if (isAlive) isSteady(databaseMs)
          return true
        })
      }
      failing = false
    } catch (error) {
      seen = null
      if (!failing) log('jobs could not be looked after', error)
      failing = true
    }
  }

  async function act(names: readonly (keyof typeof steps)[], work: Sight['work'], mayAct: SweepPorts['mayAct']): Promise<void> {
    for (const name of names.filter(name => work[name])) {
      for (let round = 0; round < roundsAtMost && !closed; round += 1) {
        const swept = await steps[name]({ pool, tickets, mayAct })
        tell(swept)
        if (!swept.isFull) break
      }
    }
  }

  function tell({ lanes, changed, taken }: Swept): void {
    for (const lane of lanes) notices.ready(lane)
    for (const id of changed) notices.changed(id)
    // Whoever was only frozen hears it when he goes on.
    for (const { processId: from, jobId } of taken) notices.stop(from, jobId)
  }

  function sweep(): Promise<void> {
    sweeping ??= pass().finally(() => {
      sweeping = null
    })
    return sweeping
  }

  function schedule(): void {
    if (closed) return
    timer = setTimeout(() => void sweep().finally(schedule), everyMs)
    timer.unref()
  }

  return {
    start: schedule,
    sweep,
    async close() {
      closed = true
      if (timer !== null) clearTimeout(timer)
      await sweeping
    }
  }
}
