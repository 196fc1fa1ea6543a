// How much may wait: a bound for each source, and one for all. Counted in the database, remembered for moments.

import { LRUCache } from 'lru-cache'
import { GatewayError } from '../routing/errors.ts'
import { countBacklog } from '../store/jobs/submit.ts'
import type { Pool } from '../store/pool.ts'

export interface BacklogLimits {
  /** Requests whose clients wait: of all sources, and of one. */
  readonly maxWaiting: number
  readonly maxWaitingPerSource: number
  /** Jobs. */
  readonly maxJobs: number
  readonly maxJobsPerSource: number
}

export interface Backlog {
  /**
   * Stores one more, and gives back what `store` gives; or throws `queue_full`: 429 where the source's own bound is reached, 503 where
   * that of all is.
   */
  admit<T>(asking: Asking, store: () => Promise<T>): Promise<T>
}

export interface Asking {
  readonly source: string
  readonly interactive: boolean
  /** Told to whoever is refused. */
  readonly retryAfterMs: number
}

interface Count {
  /** By the database. */
  counted: number
  /** Stored since it was asked. */
  since: number
  /** Let in, and perhaps not stored yet: no count sees them. */
  storing: number
  at: number
  /** One question for all who come meanwhile. */
  asking: Promise<void> | null
}

// Below half of a bound nobody counts twice a second; near it, a place that came free is seen at once.
const farMs = 1_000
const nearMs = 20
const sourcesAtMost = 10_000

export function createBacklog(pool: Pool, limits: BacklogLimits, now: () => number): Backlog {
  const counts = new LRUCache<string, Count>({ max: sourcesAtMost })

  /** The count in which it was let in, or null when there is no room. */
  async function enter(source: string | null, interactive: boolean, bound: number): Promise<Count | null> {
    const key = `${interactive ? 'i' : 'j'}${source === null ? '' : ` ${source}`}`
    let count = counts.get(key)
    if (count === undefined) {
      count = { counted: 0, since: 0, storing: 0, at: Number.NEGATIVE_INFINITY, asking: null }
      counts.set(key, count)
    }
    const waiting = waitingIn(count)
    const age = now() - count.at
    const isOld = waiting >= bound ? age > nearMs : waiting * 2 >= bound && age > farMs
    if (isOld || count.asking !== null || count.at === Number.NEGATIVE_INFINITY) {
      await (count.asking ??= ask(count, { source, interactive, atMost: bound + 1 }))
    }
    if (waitingIn(count) >= bound) return null
    count.storing++
    return count
  }

  async function ask(count: Count, what: Parameters<typeof countBacklog>[1]): Promise<void> {
    try {
      const sinceBefore = count.since
      count.counted = await countBacklog(pool, what)
      // Those that were stored in the meantime may be counted twice, which the next question puts right.
      count.since -= sinceBefore
      count.at = now()
    } finally {
      count.asking = null
    }
  }

  function leave(count: Count, isStored: boolean): void {
    count.storing--
    if (isStored) count.since++
  }

  return {
    async admit({ source, interactive, retryAfterMs }, store) {
      const [ofOne, ofAll] = interactive ? [limits.maxWaitingPerSource, limits.maxWaiting] : [limits.maxJobsPerSource, limits.maxJobs]
      const own = await enter(source, interactive, ofOne)
      if (own === null) {
        const what = `${interactive ? 'requests' : 'jobs'} of "${source}"`
        throw full(`${ofOne} ${what} wait already, as many as may: this one would be number ${ofOne + 1}.`, retryAfterMs, 429)
      }
      let all: Count | null = null
      let isStored = false
      try {
        all = await enter(null, interactive, ofAll)
        if (all === null) {
          const what = interactive ? 'requests' : 'jobs'
          throw full(`The queue is full: ${ofAll} ${what} wait, and this one would be number ${ofAll + 1}.`, retryAfterMs, 503)
        }
        const stored = await store()
        isStored = true
        return stored
      } finally {
        leave(own, isStored)
        if (all !== null) leave(all, isStored)
      }
    }
  }
}

function waitingIn({ counted, since, storing }: Count): number {
  return counted + since + storing
}

function full(message: string, retryAfterMs: number, status: number): GatewayError {
  return new GatewayError('queue_full', message, { status, retryAfterMs: Math.min(60_000, Math.max(1_000, Math.ceil(retryAfterMs))) })
}
