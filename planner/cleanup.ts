// Forgets what is old, in small steps: finished jobs, days of events, sources that have not come for long, what was found and measured.

import { setTimeout } from 'node:timers/promises'
import { forgetBenchmarks } from '../store/benchmarks.ts'
import { forgetBrainStates } from '../store/brain-state.ts'
import { forgetMetrics } from '../store/device-metrics.ts'
import { forgetDiscoveries } from '../store/fleet.ts'
import { deleteOldJobs, forgetSources, isBusy, keepEventDays } from '../store/jobs/cleanup.ts'
import type { Pool } from '../store/pool.ts'
import { forgetRoutes } from '../store/routes.ts'

export interface CleanupPorts {
  readonly pool: Pool
  readonly retentionDays: number
  /** Of why requests went where they went. */
  readonly routeDays: number
  /** For tests: 5,000 rows and 500 ms if not given. */
  readonly batch?: { readonly rows: number; readonly pauseMs: number }
}

// 5,000 rows took 36 ms; between two steps others have the disk.
const usualBatch = { rows: 5_000, pauseMs: 500 }
const eventDays = 2
const sourceDays = 30
const discoveryDays = 30
const benchmarkDays = 90
const metricsDays = 7
// While somebody waits for a machine, jobs that are too old may stay for a day more.
const graceDays = 1

/**
 * Cleans up once and says what was removed. While requests or jobs wait, only what is a day over its time goes: the rest has time until
 * it is quiet. What fails does not keep the others from being done; the first failure is thrown at the end.
 */
export async function cleanUp({ pool, retentionDays, routeDays, batch = usualBatch }: CleanupPorts, signal: AbortSignal): Promise<string> {
  const failures: unknown[] = []
  let deleted = 0
  let sources = 0
  let discoveries = 0
  let benchmarks = 0
  let routes = 0
  // First, because events of a day that has no place of its own cannot be dropped as a whole.
  await attempt(() => keepEventDays(pool, eventDays))
  await attempt(async () => {
    sources = await forgetSources(pool, sourceDays)
  })
  await attempt(async () => {
    discoveries = await forgetDiscoveries(pool, discoveryDays)
  })
  await attempt(async () => {
    benchmarks = await forgetBenchmarks(pool, benchmarkDays)
  })
  await attempt(() => forgetMetrics(pool, metricsDays))
  await attempt(() => forgetBrainStates(pool))
  await attempt(async () => {
    for (;;) {
      signal.throwIfAborted()
      const days = retentionDays + ((await isBusy(pool)) ? graceDays : 0)
      const count = await deleteOldJobs(pool, days, batch.rows)
      deleted += count
      if (count < batch.rows) return
      await setTimeout(batch.pauseMs, undefined, { signal })
    }
  })
  await attempt(async () => {
    for (;;) {
      signal.throwIfAborted()
      const count = await forgetRoutes(pool, routeDays, batch.rows)
      routes += count
      if (count < batch.rows) return
      await setTimeout(batch.pauseMs, undefined, { signal })
    }
  })
  signal.throwIfAborted()
  if (failures.length > 0) throw failures[0]
  return `${deleted} jobs, ${routes} routes, ${sources} sources, ${discoveries} discovery runs and ${benchmarks} benchmarks forgotten`

  async function attempt(act: () => Promise<unknown>): Promise<void> {
    if (signal.aborted) return
    try {
      await act()
    } catch (error) {
      failures.push(error)
    }
  }
}
