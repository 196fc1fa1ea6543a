// Keeps why requests went where they went: the last ones in memory, where they can be read at once, and all but floods in the database.

import { type Explained, type Explanation, explain, type Over, type OverCall } from '../routing/brain/explain.ts'
import { Passing } from '../routing/places.ts'
import type { RouteKeeper, RouteRecord, RouteStart, RunSummary, Settled } from '../routing/ports.ts'
import type { Pool } from '../store/pool.ts'
import { findRoute, insertRoutes, type RouteRow } from '../store/routes.ts'

export interface KeptRoutes extends RouteKeeper {
  /** A job was stored, to run here or elsewhere. `start` is asked only where there is room for it. */
  submitted(id: string, start: () => RouteStart): void
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
  /** Written down; what is above is in memory only. */
  readonly rowsPerSecond: number
  /** For a database that is away. */
  readonly waitingAtMost: number
}

// Of 2 kB or so: 4 MB.
const usualLimits: RouteLimits = { keptAtMost: 2_000, rowsPerSecond: 100, waitingAtMost: 1_000 }
const flushEveryMs = 1_000
const weighedAtMost = 16

/** One that is over, or is written down before. Of most nobody ever asks, so it is put into words only when somebody does. */
class Kept {
  readonly jobId: string | null
  /** Of all that came of this request, each once. */
  readonly calls: readonly KeptCall[]
  readonly tookMs: number
  readonly source: string
  #explained: Explained | null
  #explanation: Explanation | null = null

  constructor(explained: Explained, { jobId, calls, tookMs }: Pick<Kept, 'jobId' | 'calls' | 'tookMs'>) {
    this.jobId = jobId
    this.calls = calls
    this.tookMs = tookMs
    this.source = explained.caller.source
    this.#explained = explained
    // What was weighed against many would take more room than its own words.
    if (weighedOf(explained) > weighedAtMost) this.explanation()
  }

  /** Throws what `explain` throws. */
  explanation(): Explanation {
    if (this.#explained !== null) {
      this.#explanation = explain(this.#explained)
      this.#explained = null
    }
    return this.#explanation as Explanation
  }
}

/** How many targets its decision still holds. */
function weighedOf({ decision, figures }: Explained): number {
  const weighed = decision.planned ?? figures
  return (weighed?.estimates.length ?? 0) + (weighed?.without.length ?? 0) + decision.rejected.length
}

/** Without the body, and whatever else is the request's alone. */
function withoutBody({ request }: RouteStart): Explained['request'] {
  const { id, model, route, maxUsd, patience, isDeadlineHard, localOnly, fallbacks, preference } = request
  // Most say nothing but this.
  const isPlain = [route, maxUsd, patience, isDeadlineHard, fallbacks, preference].every(part => part === undefined)
  if (isPlain) return { id, model, localOnly }
  return {
    id,
    model,
    localOnly,
    ...(route !== undefined && { route }),
    ...(maxUsd !== undefined && { maxUsd }),
    ...(patience !== undefined && { patience }),
    ...(isDeadlineHard !== undefined && { isDeadlineHard }),
    ...(fallbacks !== undefined && { fallbacks }),
    ...(preference !== undefined && { preference })
  }
}

/** What runs or waits here. */
interface Open {
  readonly start: RouteStart
  /** It is written down with the next ones, if it is not over by then. */
  isDue: boolean
  /** Others can read of it. */
  isWritten: boolean
}

type KeptCall = OverCall & { readonly attemptId: string; readonly settled: Settled }

/** To be written down. */
interface Waiting {
  readonly entry: Kept
  readonly model: string
  readonly target: string | null
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
  /** Its own memory holds the same. */
  const open = new Passing<Open>()
  /** The oldest first. */
  const kept = new Map<string, Kept>()
  /** By the job that a request waited as. */
  const byJob = new Map<string, string>()
  let waiting = new Map<string, Waiting>()
  /** Written down before they were over: each has room for its end. */
  const early = new Set<string>()
  let taken = 0
  let takenEarly = 0
  let unstored = 0
  let flushing: Promise<void> | null = null
  let isFailing = false
  let isClosed = false
  const timer = setInterval(() => {
    taken = 0
    takenEarly = 0
    writeOpen()
    void flush()
  }, flushEveryMs)
  timer.unref()

  function remember(id: string, entry: Kept): void {
    forget(id)
    kept.set(id, entry)
    if (entry.jobId !== null) byJob.set(entry.jobId, id)
    for (const oldest of kept.keys()) {
      if (kept.size <= limits.keptAtMost) break
      forget(oldest)
    }
  }

  function forget(id: string): void {
    const entry = kept.get(id)
    if (entry === undefined) return
    kept.delete(id)
    if (entry.jobId !== null) byJob.delete(entry.jobId)
  }

  function begun(start: RouteStart): void {
    const before = open.get(start.request.id)
    // What waits does so for longer than a moment, most of what runs does not.
    const isDue = before?.isDue === true || start.decision.action === 'enqueue'
    open.set(start.request.id, { start, isDue, isWritten: before?.isWritten === true })
  }

  function keep(record: RouteRecord): void {
    const { request } = record
    open.delete(request.id)
    try {
      const before = kept.get(request.id)
      const jobId = jobOf(record) ?? before?.jobId ?? null
      const calls = callsOf(record.summary, before)
      const tookMs = Math.max(record.tookMs, before?.tookMs ?? 0)
      const { caller, decision, figures, etaMs, chosen, decidedUs, reason } = record
      const over = { reason, summary: together(record.summary, calls), tookMs }
      const explained = { request: withoutBody(record), caller, decision, figures, etaMs, chosen, decidedUs, over }
      const entry = new Kept(explained, { jobId, calls, tookMs })
      remember(request.id, entry)
      store(request.id, { entry, model: request.model, target: record.summary.target?.id ?? null })
    } catch (error) {
      log('why a request went where it went could not be kept', error)
    }
  }

  function store(id: string, row: Waiting): void {
    const hasRoom = early.delete(id)
    if (waiting.has(id)) return void waiting.set(id, row)
    if (isClosed || (!hasRoom && taken >= limits.rowsPerSecond) || waiting.size >= limits.waitingAtMost) {
      unstored++
      return
    }
    if (!hasRoom) taken++
    waiting.set(id, row)
  }

  /** What waits, or runs for a while, can be asked about elsewhere: from its second second on. What ends before is written once. */
  function writeOpen(): void {
    for (const each of open.values()) {
      const { id } = each.start.request
      if (each.isWritten) continue
      if (each.isDue) each.isWritten = kept.has(id) || storeEarly(id, () => each.start)
      else each.isDue = true
    }
  }

  /** Takes room for its end as well, and half of what there is at most: what is over says more. False = there is none left. */
  function storeEarly(id: string, start: () => RouteStart): boolean {
    if (waiting.has(id)) return true
    const isFull = taken + 2 > limits.rowsPerSecond || takenEarly + 2 > limits.rowsPerSecond / 2
    if (isClosed || isFull || waiting.size >= limits.waitingAtMost / 2) return false
    try {
      waiting.set(id, earlyRow(start()))
    } catch (error) {
      log('why a request went where it went could not be kept', error)
      return true
    }
    taken += 2
    takenEarly += 2
    early.add(id)
    // Of jobs that run elsewhere nobody here hears the end.
    for (const oldest of early) {
      if (early.size <= limits.keptAtMost) break
      early.delete(oldest)
    }
    return true
  }

  function flush(): Promise<void> {
    flushing ??= write().finally(() => {
      flushing = null
    })
    return flushing
  }

  async function write(): Promise<void> {
    while (waiting.size > 0) {
      const batch = [...waiting].slice(0, Math.max(1, limits.rowsPerSecond))
      try {
        await insertRoutes(
          pool,
          batch.flatMap(([id, row]) => rowOf(id, row))
        )
        isFailing = false
      } catch (error) {
        if (!isFailing) log('routes could not be written down; it is tried again', error)
        isFailing = true
        return
      }
      // Of one of them there may be more to say by now.
      for (const [id, row] of batch) if (waiting.get(id) === row) waiting.delete(id)
    }
  }

  /** None of one that cannot be put into words: the others are kept. */
  function rowOf(id: string, { entry, model, target }: Waiting): RouteRow[] {
    try {
      return [{ id, jobId: entry.jobId, source: entry.source, model, target, record: entry.explanation() }]
    } catch (error) {
      log('why a request went where it went could not be kept', error)
      return []
    }
  }

  return {
    begun,
    keep,
    submitted(id, start) {
      // It runs here by now, or has done so.
      if (open.get(id) === undefined && !kept.has(id)) storeEarly(id, start)
    },
    async find(id, source) {
      const own = byJob.get(id) ?? id
      const isTheirs = (of: string): boolean => source === null || of === source
      const running = open.get(own)
      if (running !== undefined) return isTheirs(running.start.caller.source) ? explain(running.start) : null
      const over = kept.get(own)
      if (over !== undefined) return isTheirs(over.source) ? over.explanation() : null
      const fresh = waiting.get(own)
      if (fresh === undefined) return findRoute(pool, id, source)
      if (!isTheirs(fresh.entry.source)) return null
      // Whoever runs it may have written of it by now.
      return (await findRoute(pool, id, source).catch(() => null)) ?? fresh.entry.explanation()
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

/** Of one that is not over. */
function earlyRow(start: RouteStart): Waiting {
  const { request, caller, decision, figures, etaMs, chosen, decidedUs } = start
  const explained = { request: withoutBody(start), caller, decision, figures, etaMs, chosen, decidedUs }
  const entry = new Kept(explained, { jobId: jobOf(start), calls: [], tookMs: 0 })
  return { entry, model: request.model, target: chosen?.id ?? null }
}

/** The job that a request waited as; null where it has the same id. */
function jobOf({ request }: RouteStart): string | null {
  const jobId = request.jobId ?? null
  return jobId === request.id ? null : jobId
}

/** All calls of a request, each once, those of before first. */
function callsOf({ calls }: RunSummary, before: Kept | undefined): readonly KeptCall[] {
  const now = calls.map(({ attemptId, target, error, settled }) => ({ attemptId, target, error, settled }))
  if (before === undefined || before.calls.length === 0) return now
  const all = new Map([...before.calls, ...now].map(call => [call.attemptId, call]))
  return [...all.values()]
}

/** Several runs of one request as one. */
function together(last: RunSummary, calls: readonly KeptCall[]): Over {
  if (calls.length === last.calls.length) return last
  const nanoUsd = calls.reduce<number | null>(
    (sum, { settled }) => (sum === null || settled.nanoUsd === null ? null : sum + settled.nanoUsd),
    0
  )
  return { ...last, attempts: calls.length, nanoUsd, calls }
}
