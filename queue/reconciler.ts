// Walks over all jobs and tickets once a minute or more often, a page a second, and mends what disagrees.

import type { Tickets } from '../store/jobs/end.ts'
import { cancelOrphans, comparePage, firstId, isFirstProcess, mendTickets } from '../store/jobs/reconcile.ts'
import type { Pool } from '../store/pool.ts'
import type { Notices } from './notices.ts'

export interface Reconciler {
  start(): void
  /** One page, and what is to be mended on it. Resolves when that is done; never rejects. */
  step(): Promise<void>
  close(): Promise<void>
}

const everyMs = 1_000
// A million jobs are walked over in 50 steps.
const pageRows = 20_000
// A round over a short queue is over at once, and begins again after a while; a long one is always under way.
const roundMs = 20_000
// Their rows are locked for as long as it takes: some tens of ms.
const batchIds = 500

/** One process of those alive does it. `now` is any clock that goes forward, in ms. */
export function createReconciler(ports: {
  readonly pool: Pool
  readonly tickets: Tickets
  readonly notices: Pick<Notices, 'ready'>
  readonly processId: string
  readonly now: () => number
  readonly log: (message: string, error: unknown) => void
  /** Told when something had to be mended, which something must have caused. */
  readonly onMended: (mended: { readonly jobs: number; readonly tickets: number }) => void
  /** For tests: 20,000 if not given. */
  readonly pageRows?: number
}): Reconciler {
  const { pool, tickets, notices, processId, now, log, onMended } = ports
  let cursor = firstId
  let roundBegan = Number.NEGATIVE_INFINITY
  let closed = false
  let timer: NodeJS.Timeout | null = null
  let stepping: Promise<void> | null = null
  let failing = false

  async function pass(): Promise<void> {
    if (cursor === firstId && now() - roundBegan < roundMs) return
    try {
      if (!(await isFirstProcess(pool, processId))) {
        cursor = firstId
        return
      }
      if (cursor === firstId) roundBegan = now()
      const page = await comparePage(pool, cursor, ports.pageRows ?? pageRows)
      if (page === null) return
      let mended = 0
      for (const ids of batches(page.jobs)) {
        if (closed) return
        const { jobs, lanes } = await mendTickets(pool, tickets, ids)
        mended += jobs.length
        for (const lane of lanes) notices.ready(lane)
      }
      let cancelled = 0
      for (const ids of batches(page.tickets)) {
        if (closed) return
        cancelled += (await cancelOrphans(pool, tickets, ids)).length
      }
      if (mended + cancelled > 0) onMended({ jobs: mended, tickets: cancelled })
      cursor = page.next ?? firstId
      failing = false
    } catch (error) {
      if (!failing) log('jobs and their tickets could not be compared', error)
      failing = true
    }
  }

  function step(): Promise<void> {
    stepping ??= pass().finally(() => {
      stepping = null
    })
    return stepping
  }

  function schedule(): void {
    if (closed) return
    timer = setTimeout(() => void step().finally(schedule), everyMs)
    timer.unref()
  }

  return {
    start: schedule,
    step,
    async close() {
      closed = true
      if (timer !== null) clearTimeout(timer)
      await stepping
    }
  }
}

function batches(ids: readonly string[]): (readonly string[])[] {
  return Array.from({ length: Math.ceil(ids.length / batchIds) }, (_, at) => ids.slice(at * batchIds, (at + 1) * batchIds))
}
