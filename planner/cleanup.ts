// Forgets old jobs, events and sources, every hour, in small steps.

import { deleteOldJobs, forgetSources, keepEventDays } from '../store/jobs/cleanup.ts'
import type { Pool } from '../store/pool.ts'

export interface Cleanup {
  /** Cleans up now, and then every hour. */
  start(): void
  /** Resolves when that is done; never rejects. */
  run(): Promise<void>
  close(): Promise<void>
}

const everyMs = 3_600_000
// 5,000 rows took 36 ms; between two steps others have the disk.
const batchRows = 5_000
const pauseMs = 500
const eventDays = 2
const sourceDays = 30

/** Finished jobs are kept for `retentionDays`. Several processes may do this: one of them at a time. */
export function createCleanup(ports: {
  readonly pool: Pool
  readonly retentionDays: number
  readonly log: (message: string, error: unknown) => void
  /** For tests: 5,000 rows and 500 ms if not given. */
  readonly batch?: { readonly rows: number; readonly pauseMs: number }
}): Cleanup {
  const { pool, retentionDays, log, batch = { rows: batchRows, pauseMs } } = ports
  const leaving = new AbortController()
  let timer: NodeJS.Timeout | null = null
  let running: Promise<void> | null = null

  async function pass(): Promise<void> {
    // First, because events of a day that has no place of its own cannot be dropped as a whole.
    await attempt('days of events could not be kept', () => keepEventDays(pool, eventDays))
    await attempt('old sources could not be forgotten', () => forgetSources(pool, sourceDays))
    await attempt('old jobs could not be deleted', async () => {
      while (!leaving.signal.aborted) {
        const deleted = await deleteOldJobs(pool, retentionDays, batch.rows)
        if (deleted === null || deleted < batch.rows) return
        await pause(batch.pauseMs)
      }
    })
  }

  async function attempt(failure: string, act: () => Promise<unknown>): Promise<void> {
    if (leaving.signal.aborted) return
    try {
      await act()
    } catch (error) {
      log(failure, error)
    }
  }

  function pause(ms: number): Promise<void> {
    return new Promise(resolve => {
      const end = () => {
        clearTimeout(waiting)
        leaving.signal.removeEventListener('abort', end)
        resolve()
      }
      const waiting = setTimeout(end, ms)
      leaving.signal.addEventListener('abort', end)
    })
  }

  function run(): Promise<void> {
    running ??= pass().finally(() => {
      running = null
    })
    return running
  }

  return {
    start() {
      void run()
      timer = setInterval(() => void run(), everyMs)
      timer.unref()
    },
    run,
    async close() {
      leaving.abort()
      if (timer !== null) clearInterval(timer)
      await running
    }
  }
}
