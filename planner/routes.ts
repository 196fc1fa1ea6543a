// Keeps why requests went where they went: the last ones in memory, where they can be read at once, and all but floods in the database.

import { type Explanation, explain, type Over } from '../routing/brain/explain.ts'
import type { RouteKeeper, RouteRecord, RouteStart, RunSummary, Settled } from '../routing/ports.ts'
import type { Pool } from '../store/pool.ts'
import { findRoute, insertRoutes, type RouteRow } from '../store/routes.ts'

export interface KeptRoutes extends RouteKeeper {
  /** Of one source, or of any when it is null. Null when nothing is known of it. Rejects when the database is needed and away. */
  find(id: string, source: string | null): Promise<unknown>
  /** Those that were kept in memory only, because too many came at once. */
  readonly unstored: number
  /** Writes down what waits for it. Never rejects. */
  flush(): Promise<void>
  /** After a last flush. */
  close(): Promise<void>
}

export interface RouteLimits {
  /** In memory. */
  readonly keptAtMost: number
  readonly bytesAtMost: number
  /** Written down; what is above is in memory only. */
  readonly rowsPerSecond: number
  /** For a database that is away. */
  readonly waitingAtMost: number
}

// A record has 2 kB at most: 4 MB.
const usualLimits: RouteLimits = { keptAtMost: 2_000, bytesAtMost: 4 * 1024 * 1024, rowsPerSecond: 100, waitingAtMost: 1_000 }
const flushEveryMs = 1_000

interface Kept {
  readonly explanation: Explanation
  readonly jobId: string | null
  readonly bytes: number
  /** Of all that came of this request, each once. */
  readonly calls: ReadonlyMap<string, Settled>
  readonly tookMs: number
}

/** Whatever comes, nothing of it is waited for. A process that is killed loses those of its last second. */
export function createRoutes({
  pool,
  log,
  limits = usualLimits
}: {
  readonly pool: Pool
  readonly log: (message: string, error: unknown) => void
  /** For tests. */
  readonly limits?: RouteLimits
}): KeptRoutes {
  /** What runs or waits now: its own memory holds the same. */
  const open = new Map<string, RouteStart>()
  /** The oldest first. */
  const kept = new Map<string, Kept>()
  /** By the job that a request waited as. */
  const byJob = new Map<string, string>()
  let bytes = 0
  let waiting = new Map<string, RouteRow>()
  let taken = 0
  let unstored = 0
  let flushing: Promise<void> | null = null
  let isFailing = false
  let isClosed = false
  const timer = setInterval(() => {
    taken = 0
    void flush()
  }, flushEveryMs)
  timer.unref()

  function remember(id: string, entry: Kept): void {
    forget(id)
    kept.set(id, entry)
    bytes += entry.bytes
    if (entry.jobId !== null) byJob.set(entry.jobId, id)
    for (const oldest of kept.keys()) {
      if (kept.size <= limits.keptAtMost && bytes <= limits.bytesAtMost) break
      forget(oldest)
    }
  }

  function forget(id: string): void {
    const entry = kept.get(id)
    if (entry === undefined) return
    kept.delete(id)
    bytes -= entry.bytes
    if (entry.jobId !== null) byJob.delete(entry.jobId)
  }

  function keep(record: RouteRecord): void {
    const { request } = record
    open.delete(request.id)
    try {
      const before = kept.get(request.id)
      const jobId = jobOf(record) ?? before?.jobId ?? null
      const calls = new Map([...(before?.calls ?? []), ...record.summary.calls.map(call => [call.attemptId, call.settled] as const)])
      const tookMs = Math.max(record.tookMs, before?.tookMs ?? 0)
      const explanation = explain({ ...record, over: { ...record, summary: together(record.summary, [...calls.values()]), tookMs } })
      remember(request.id, { explanation, jobId, bytes: Buffer.byteLength(JSON.stringify(explanation)), calls, tookMs })
      store({
        id: request.id,
        jobId,
        source: record.caller.source,
        model: request.model,
        target: record.summary.target?.id ?? null,
        record: explanation
      })
    } catch (error) {
      log('why a request went where it went could not be kept', error)
    }
  }

  function store(row: RouteRow): void {
    if (waiting.has(row.id)) return void waiting.set(row.id, row)
    if (isClosed || taken >= limits.rowsPerSecond || waiting.size >= limits.waitingAtMost) {
      unstored++
      return
    }
    taken++
    waiting.set(row.id, row)
  }

  function flush(): Promise<void> {
    flushing ??= write().finally(() => {
      flushing = null
    })
    return flushing
  }

  async function write(): Promise<void> {
    while (waiting.size > 0) {
      const batch = [...waiting.values()].slice(0, Math.max(1, limits.rowsPerSecond))
      try {
        await insertRoutes(pool, batch)
        isFailing = false
      } catch (error) {
        if (!isFailing) log('routes could not be written down; it is tried again', error)
        isFailing = true
        return
      }
      // Of one of them there may be more to say by now.
      for (const row of batch) if (waiting.get(row.id) === row) waiting.delete(row.id)
    }
  }

  return {
    begun: start => void open.set(start.request.id, start),
    keep,
    async find(id, source) {
      const own = byJob.get(id) ?? id
      const running = open.get(own)
      const known = running === undefined ? kept.get(own)?.explanation : explain(running)
      if (known !== undefined) return source === null || known.source === source ? known : null
      return findRoute(pool, id, source)
    },
    get unstored() {
      return unstored
    },
    flush,
    async close() {
      if (isClosed) return
      clearInterval(timer)
      await flushing
      await flush()
      isClosed = true
      waiting = new Map()
    }
  }
}

/** The job that a request waited as; null where it has the same id. */
function jobOf({ request }: RouteRecord): string | null {
  const jobId = request.jobId ?? null
  return jobId === request.id ? null : jobId
}

/** Several runs of one request as one. */
function together(last: RunSummary, settled: readonly Settled[]): Over {
  if (settled.length === last.calls.length) return last
  const nanoUsd = settled.reduce<number | null>((sum, each) => (sum === null || each.nanoUsd === null ? null : sum + each.nanoUsd), 0)
  return { ...last, attempts: settled.length, nanoUsd, calls: settled.map(each => ({ settled: each })) }
}
