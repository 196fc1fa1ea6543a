// When jobs that wait will probably be answered: what this process found out when it planned them last.

import { LRUCache } from 'lru-cache'
import type { Decision } from '../routing/decide.ts'
import type { Scheduling } from '../routing/dispatch.ts'
import type { Caller, ModelRequest } from '../routing/types.ts'
import type { JobOutlook } from './types.ts'

export interface Forecast {
  /** From now on. Null: nothing can run it as things are. */
  readonly etaMs: JobOutlook['etaMs']
  /** As if nothing waited before it. */
  readonly isAlone: boolean
}

export interface Forecasts {
  /** What was decided about jobs that wait, all that come before them among them. */
  planned(jobs: readonly Planned[], decisions: readonly Decision[]): void
  /** A request begins to wait, and its client was told this. */
  arrived(jobId: string, etaMs: JobOutlook['etaMs']): void
  /** Null: nobody planned it here lately. */
  of(jobId: string): Forecast | null
}

interface Planned {
  readonly id: string
  readonly request: unknown
  readonly caller: unknown
}

// Whoever waits is planned anew every second; what is older says nothing any more.
const validMs = 5_000
// Between two looks of one moment nothing changes that a client could make use of.
const anewAfterMs = 200
const atMost = 2_000

export function createForecasts({
  eta,
  now
}: {
  readonly eta: Scheduling['eta']
  /** A clock that never jumps, ms. */
  readonly now: () => number
}): Forecasts {
  const known = new LRUCache<string, Forecast & { readonly atMs: number; readonly plannedAtMs: number }>({ max: atMost })

  function forecast({ request, caller }: Planned, decision: Decision): Forecast | null {
    if (decision.action === 'refuse') return { etaMs: null, isAlone: false }
    const etaMs = eta(decision, { request: request as ModelRequest, caller: caller as Caller })
    return etaMs === null ? null : { etaMs, isAlone: decision.planned === undefined }
  }

  return {
    planned(jobs, decisions) {
      const atMs = now()
      for (const [at, job] of jobs.entries()) {
        const before = known.get(job.id)
        if (before !== undefined && atMs - before.plannedAtMs < anewAfterMs) continue
        const found = forecast(job, decisions[at] as Decision)
        if (found === null) known.delete(job.id)
        else known.set(job.id, { ...found, atMs, plannedAtMs: atMs })
      }
    },
    arrived(jobId, etaMs) {
      if (etaMs !== null) known.set(jobId, { etaMs, isAlone: true, atMs: now(), plannedAtMs: Number.NEGATIVE_INFINITY })
    },
    of(jobId) {
      const found = known.get(jobId)
      if (found === undefined) return null
      const { etaMs, isAlone, atMs } = found
      const agoMs = now() - atMs
      if (agoMs > validMs) return null
      return { etaMs: etaMs === null ? null : { p50: later(etaMs.p50, agoMs), p90: later(etaMs.p90, agoMs) }, isAlone }
    }
  }
}

function later(ms: number, agoMs: number): number {
  return Math.max(0, Math.round(ms - agoMs))
}
