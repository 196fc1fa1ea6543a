// What this process tells the others: gathered for some milliseconds, then sent in one statement, outside of all transactions.

import { changedChannel, fromProcess, jobsChannel, type Notice, toProcess } from '../store/channels.ts'

/** Said to one process. */
export type Command =
  /** Close the upstream of these jobs: they are cancelled, or not yours any more. */
  | { readonly type: 'stop'; readonly jobs: readonly string[] }
  /** These jobs were claimed for you, because you hold their clients' connections. */
  | { readonly type: 'claimed'; readonly jobs: readonly string[] }

export interface Notices {
  /** A job of this lane may run now. */
  ready(lane: string): void
  /** A job began an attempt or ended; for its readers. */
  changed(jobId: string): void
  /** Events were written by this process. */
  wrote(): void
  stop(processId: string, jobId: string): void
  claimed(processId: string, jobId: string): void
  /** Sends what waits. */
  close(): Promise<void>
}

// NOTIFY costs the server a wake-up of every listener; ten milliseconds are nothing next to a model's answer.
const gatherMs = 10
// Half of what a payload may hold: 36 characters an id.
const idsAtMost = 100
const bytesAtMost = 4_000

export function createNotices({
  processId,
  send,
  log
}: {
  readonly processId: string
  readonly send: (notices: readonly Notice[]) => Promise<void>
  readonly log: (message: string, error: unknown) => void
}): Notices {
  const lanes = new Set<string>()
  const changed = new Set<string>()
  const stops = new Map<string, Set<string>>()
  const claims = new Map<string, Set<string>>()
  let hasWritten = false
  let timer: NodeJS.Timeout | null = null

  function later(): void {
    timer ??= setTimeout(() => void flush(), gatherMs)
  }

  async function flush(): Promise<void> {
    if (timer !== null) clearTimeout(timer)
    timer = null
    const notices = taken()
    if (notices.length === 0) return
    try {
      await send(notices)
    } catch (error) {
      // Everybody looks for himself once a second; what is lost is time.
      log('other processes could not be notified', error)
    }
  }

  function taken(): Notice[] {
    const notices: Notice[] = []
    // Names of models can be long, or have commas; an empty payload says "look everywhere".
    const all = [...lanes].join(',')
    const isTold = Buffer.byteLength(all) <= bytesAtMost && all.split(',').length === lanes.size
    if (lanes.size > 0) notices.push({ channel: jobsChannel, payload: isTold ? all : '' })
    for (const ids of parts(changed)) notices.push({ channel: changedChannel, payload: ids.join(',') })
    if (hasWritten) notices.push({ channel: fromProcess(processId), payload: '' })
    for (const [type, targets] of [
      ['stop', stops],
      ['claimed', claims]
    ] as const) {
      for (const [target, jobs] of targets) {
        for (const ids of parts(jobs)) notices.push({ channel: toProcess(target), payload: JSON.stringify({ type, jobs: ids }) })
      }
      targets.clear()
    }
    lanes.clear()
    changed.clear()
    hasWritten = false
    return notices
  }

  return {
    ready(lane) {
      lanes.add(lane)
      later()
    },
    changed(jobId) {
      changed.add(jobId)
      later()
    },
    wrote() {
      hasWritten = true
      later()
    },
    stop(target, jobId) {
      addTo(stops, target, jobId)
      // Somebody waits for this one, and money may be running.
      void flush()
    },
    claimed(target, jobId) {
      addTo(claims, target, jobId)
      // A machine's place is held for it.
      void flush()
    },
    close: flush
  }
}

/** Null for anything else: the channel is open to whoever may use the database. */
export function commandOf(payload: string): Command | null {
  try {
    const { type, jobs } = JSON.parse(payload) as { type?: unknown; jobs?: unknown }
    if (!Array.isArray(jobs) || !jobs.every(id => typeof id === 'string')) return null
    return type === 'stop' || type === 'claimed' ? { type, jobs } : null
  } catch {
    return null
  }
}

function addTo(map: Map<string, Set<string>>, key: string, value: string): void {
  const known = map.get(key)
  if (known === undefined) map.set(key, new Set([value]))
  else known.add(value)
}

function parts(ids: ReadonlySet<string>): string[][] {
  const all = [...ids]
  return Array.from({ length: Math.ceil(all.length / idsAtMost) }, (_, at) => all.slice(at * idsAtMost, (at + 1) * idsAtMost))
}
