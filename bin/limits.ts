// The limits of sources, with their counters in the database.

import { createLimits, type Limits } from '../gateway/limits.ts'
import { giveBackToWindow, holdPermits, livingProcesses, sweepLimits, takeFromWindow } from '../store/limits.ts'
import type { Pool } from '../store/pool.ts'

// Only for the size of slices and for when the database is away.
const countEveryMs = 2_000
const sweepEveryMs = 60_000

export function createClusterLimits({
  pool,
  processId,
  now,
  log
}: {
  readonly pool: Pool
  readonly processId: string
  readonly now: () => number
  readonly log: (message: string, error: unknown) => void
}): Limits {
  let processes = 1
  const look = (): void => {
    livingProcesses(pool).then(
      living => {
        processes = living
      },
      () => {
        // The database is away: as many as when it was last asked.
      }
    )
  }
  look()
  const count = setInterval(look, countEveryMs)
  const sweep = setInterval(
    () => void sweepLimits(pool).catch(error => log('old limit windows could not be forgotten', error)),
    sweepEveryMs
  )
  count.unref()
  sweep.unref()
  const limits = createLimits({
    take: request => takeFromWindow(pool, request),
    giveBack: request => giveBackToWindow(pool, request),
    holdPermits: request => holdPermits(pool, processId, request),
    now,
    processes: () => processes
  })
  return {
    ...limits,
    async close() {
      clearInterval(count)
      clearInterval(sweep)
      await limits.close()
    }
  }
}
