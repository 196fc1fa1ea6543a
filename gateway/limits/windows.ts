// A limit per minute, counted over all processes: each takes slices of the cluster's minute and admits from its slice.

import { LRUCache } from 'lru-cache'
import { RateLimiterMemory, RateLimiterRes } from 'rate-limiter-flexible'
import type { Grant, WindowName } from '../../store/limits.ts'

/** Which metric it is, whoever calls knows. */
type SourceLimit = Omit<WindowName, 'metric'>

export interface WindowsPorts {
  /** Takes up to `want` points of the cluster's minute; `window` names it. A promise that rejects means the database is away. */
  readonly take: (request: SourceLimit & { readonly want: number }) => Promise<Grant>
  /** Gives back what was not used. */
  readonly giveBack: (request: SourceLimit & { readonly window: number; readonly points: number }) => Promise<void>
  readonly now: () => number
  readonly processes: () => number
}

export interface Windows {
  /** Takes all of `want`, or nothing. Never rejects. */
  take(source: string, limit: number, want: number): Promise<Taken | Refused>
  /** What the cluster has left, as far as it is known here. */
  state(source: string, limit: number): { readonly remaining: number; readonly resetMs: number }
  /** Once in a while: slices that lie idle go back to the others, windows that are over are forgotten. */
  sweep(): void
  /** Gives every slice back. */
  close(): Promise<void>
}

export interface Taken {
  readonly ok: true
  /** Takes more points, or fewer (negative). Once the window is over, nothing happens. */
  correct(points: number): void
}

export interface Refused {
  readonly ok: false
  readonly resetMs: number
}

/** What this process has of one of the cluster's minutes. */
interface Window {
  /** Its name in the counter. */
  readonly name: string
  /** Null while only this process knows of it: the database was away when it began. */
  id: number | null
  /** Never later than the cluster's own end, because the way of the answer is counted too. */
  endsAt: number
  /** Of the cluster, at the last answer. */
  left: number
  /** Of this process; negative after corrections, which the next slice then pays. */
  balance: number
  granted: number
  /** Taken without asking while the database was away. */
  owed: number
  /** The cluster has nothing left. */
  isSpent: boolean
  /** Not before: the database was away. */
  askAgainAt: number
  usedAt: number
}

interface Bucket {
  readonly source: string
  readonly limit: number
  window: Window | null
  asking: Promise<void> | null
  /** Points that requests are waiting for. */
  waiting: number
  /** One request after the other: a refused one counts for a moment, and nobody may see that. */
  turn: Promise<unknown>
}

const windowMs = 60_000
// Slices per process and minute. More would ask more often, fewer would leave more unused with those who do not need it.
const slicesPerProcess = 8
// Smaller slices are fetched when they are needed: one more in reserve would be much of the limit.
const aheadFrom = 8
const idleMs = 750
const askAgainMs = 1_000
// People behind one key are not counted; the longest unused ones are forgotten, which costs what was left of their slices.
const bucketsAtMost = 10_000

export function createWindows(ports: WindowsPorts): Windows {
  // It counts what is used beyond what was granted: at most 0, so a grant is a reward, and a consume above 0 is refused.
  const counter = new RateLimiterMemory({ points: 0, duration: windowMs / 1_000, keyPrefix: '' })
  const buckets = new LRUCache<string, Bucket>({ max: bucketsAtMost, dispose: bucket => forget(bucket.window) })
  let opened = 0

  function take(source: string, limit: number, want: number): Promise<Taken | Refused> {
    const bucket = bucketOf(source, limit)
    bucket.waiting += want
    const result = bucket.turn.then(() => takeNow(bucket, want))
    bucket.turn = result
    return result
  }

  async function takeNow(bucket: Bucket, want: number): Promise<Taken | Refused> {
    for (;;) {
      const window = current(bucket)
      if (window !== null) {
        if (await consume(window, want)) {
          bucket.waiting -= want
          window.usedAt = ports.now()
          fetchAhead(bucket, window)
          return { ok: true, correct: points => correct(bucket, window, points) }
        }
        if (window.isSpent || ports.now() < window.askAgainAt) {
          bucket.waiting -= want
          return { ok: false, resetMs: Math.max(1, window.endsAt - ports.now()) }
        }
      }
      await ask(bucket, want)
    }
  }

  async function consume(window: Window, points: number): Promise<boolean> {
    try {
      note(window, await counter.consume(window.name, points, lasting(window)))
      return true
    } catch (refused) {
      if (!(refused instanceof RateLimiterRes)) throw refused
      // It counts refused points too.
      note(window, await counter.reward(window.name, points, lasting(window)))
      return false
    }
  }

  function fetchAhead(bucket: Bucket, window: Window): void {
    const slice = sliceOf(bucket.limit)
    if (slice < aheadFrom || window.balance >= slice / 2 || window.isSpent || ports.now() < window.askAgainAt) return
    void ask(bucket, 0)
  }

  /** All who wait share one question. Never rejects. */
  function ask(bucket: Bucket, need: number): Promise<void> {
    bucket.asking ??= askCluster(bucket, need).finally(() => {
      bucket.asking = null
    })
    return bucket.asking
  }

  async function askCluster(bucket: Bucket, need: number): Promise<void> {
    const { source, limit } = bucket
    const known = current(bucket)
    const debt = known === null ? 0 : Math.max(0, -known.balance) + known.owed
    const want = Math.min(limit, Math.max(sliceOf(limit), bucket.waiting + debt))
    const askedAt = ports.now()
    try {
      const { granted, left, resetMs, window: id } = await ports.take({ source, limit, want })
      const window = windowOf(bucket, id)
      window.id = id
      window.endsAt = askedAt + resetMs
      window.left = left
      window.isSpent = left <= 0 || granted < want
      window.askAgainAt = 0
      const repaid = Math.min(window.owed, granted)
      window.owed -= repaid
      window.granted += granted - repaid
      await add(window, granted - repaid)
    } catch {
      await fallBack(bucket, need)
    }
  }

  /** The window an answer speaks of: the one we know, or a new one. */
  function windowOf(bucket: Bucket, id: number): Window {
    const known = bucket.window
    if (known !== null && (known.id === id || (known.id === null && ports.now() < known.endsAt))) return known
    return open(bucket, 0)
  }

  /**
   * The database is away: no request fails for that. This process may use its share of the limit, for windows of a minute
   * of its own, less what it has been granted in the window that runs; when the database is back it is paid for from
   * the next slices. A single request larger than the share may go first: it could never go otherwise.
   */
  async function fallBack(bucket: Bucket, need: number): Promise<void> {
    const window = current(bucket) ?? open(bucket, ports.now() + windowMs)
    const share = Math.max(1, Math.floor(bucket.limit / ports.processes()))
    const extra = Math.max(share - window.granted, window.granted === 0 ? need : 0)
    window.askAgainAt = ports.now() + askAgainMs
    if (extra <= 0) return
    window.granted += extra
    window.owed += extra
    await add(window, extra)
  }

  function correct(bucket: Bucket, window: Window, points: number): void {
    if (points !== 0 && current(bucket) === window) void add(window, -points)
  }

  async function add(window: Window, points: number): Promise<void> {
    if (points > 0) note(window, await counter.reward(window.name, points, lasting(window)))
    if (points < 0) note(window, await counter.penalty(window.name, -points, lasting(window)))
  }

  function note(window: Window, counted: RateLimiterRes): void {
    window.balance = -counted.consumedPoints
  }

  /** It forgets by itself, in case we are forgotten first; 0 would mean for ever. */
  function lasting(window: Window): { customDuration: number } {
    return { customDuration: Math.max(1, window.endsAt - ports.now()) / 1_000 }
  }

  function bucketOf(source: string, limit: number): Bucket {
    const key = `${limit} ${source}`
    const known = buckets.get(key)
    if (known !== undefined) return known
    const bucket: Bucket = { source, limit, window: null, asking: null, waiting: 0, turn: Promise.resolve() }
    buckets.set(key, bucket)
    return bucket
  }

  function current(bucket: Bucket): Window | null {
    return bucket.window !== null && ports.now() < bucket.window.endsAt ? bucket.window : null
  }

  function open(bucket: Bucket, endsAt: number): Window {
    forget(bucket.window)
    bucket.window = {
      name: String(++opened),
      id: null,
      endsAt,
      left: 0,
      balance: 0,
      granted: 0,
      owed: 0,
      isSpent: false,
      askAgainAt: 0,
      usedAt: ports.now()
    }
    return bucket.window
  }

  function forget(window: Window | null): void {
    if (window !== null) void counter.delete(window.name)
  }

  function sliceOf(limit: number): number {
    return Math.max(1, Math.floor(limit / (slicesPerProcess * ports.processes())))
  }

  function giveBack(bucket: Bucket): Promise<void> {
    const window = current(bucket)
    const points = window?.balance ?? 0
    if (window === null || window.id === null || points <= 0 || window.owed > 0) return Promise.resolve()
    const { source, limit } = bucket
    window.left += points
    // At once, not only when it is counted: the next sweep must not give the same points again.
    window.balance -= points
    window.granted -= points
    window.isSpent = false
    void add(window, -points)
    // Points that do not arrive are lost until the window ends: too few rather than too many.
    return ports.giveBack({ source, limit, window: window.id, points }).catch(() => {})
  }

  return {
    take,
    state(source, limit) {
      const bucket = buckets.peek(`${limit} ${source}`)
      const window = bucket === undefined ? null : current(bucket)
      if (window === null) return { remaining: limit, resetMs: 0 }
      return { remaining: Math.min(limit, Math.max(0, window.left + window.balance)), resetMs: window.endsAt - ports.now() }
    },
    sweep() {
      for (const [key, bucket] of [...buckets.entries()]) {
        if (bucket.waiting > 0 || bucket.asking !== null) continue
        const window = current(bucket)
        if (window === null) buckets.delete(key)
        // Alone, there is nobody to give it to.
        else if (ports.processes() > 1 && ports.now() - window.usedAt >= idleMs) void giveBack(bucket)
      }
    },
    async close() {
      await Promise.all([...buckets.values()].map(giveBack))
      buckets.clear()
    }
  }
}
