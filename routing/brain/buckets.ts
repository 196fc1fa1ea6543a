// How many calls providers take, one bucket of tokens for each: told by their headers, or learned from what they refuse. Pure.

import { LRUCache } from 'lru-cache'
import type { RequestLimit } from '../types.ts'

/** Calls a second, and at once. */
export interface CallLimit {
  readonly perS: number
  readonly burst: number
}

/** `key`: a provider, or one model of it. Seconds of a clock that never jumps. */
export interface Buckets {
  /**
   * Seconds until another call is taken, after `ahead` others. With `obeysRests` false it may be refused: a rest is only a guess, and whoever
   * has nothing else may as well hear the refusal.
   */
  waitS(key: string, ahead: number, nowS: number, obeysRests?: boolean): number
  sent(key: string, nowS: number): void
  /** It was answered. */
  taken(key: string): void
  /** It said that it was one too many. `sentS`: when that call was made; now, if not given. */
  refused(key: string, nowS: number, sentS?: number): void
  /** What its headers said to a call made at `sentS`. */
  told(key: string, limit: RequestLimit, at: { readonly nowS: number; readonly sentS: number }): void
  /** What is known of it for sure. */
  limit(key: string, limit: CallLimit): void
  snapshot(): readonly (readonly [string, CallLimit])[]
  restore(kept: readonly unknown[]): void
}

interface Bucket {
  /** Infinite until one was refused. */
  perS: number
  burst: number
  tokens: number
  atS: number
  /** What it never goes above, where that is known for sure. */
  readonly most: CallLimit
  /** The rate that was too much, and when. */
  ceiling: { readonly perS: number; readonly atS: number } | null
  /** What was refused of the calls made before. */
  cutAtS: number
  /** As it was then. */
  before: Pick<Bucket, 'perS' | 'burst' | 'ceiling'> | null
  /** Nothing at all until then. */
  restUntilS: number
  /** In a row, without one that was taken. */
  refusals: number
  /** Its headers speak of windows that begin anew: until then what is left is all there is. */
  windowEndS: number | null
  told: { readonly missing: number; readonly resetS: number } | null
  counter: Counter
}

/** Calls of each of the last seconds. */
interface Counter {
  readonly counts: number[]
  readonly seconds: number[]
}

const shrink = 0.8
// What was taken in the last minute will nearly all be taken in the next one.
const takenShare = 0.85
const recoveryPerMinute = 0.05
// Nearer to where it was refused than this it does not go by itself until that is long ago.
const ceilingShare = 0.9
const ceilingForS = 3_600
const windowS = 60
// A rate over less time than this would be that of a burst.
const spanAtLeastS = 10
const burstS = 10
// With fewer calls taken in a minute, it is not our rate that is refused: it is busy, or a day's calls are used up.
const takenAtLeast = 3
const restAtMostS = 60
// More of them in a row say nothing of a rate.
const refusalsForRate = 2
const keysAtMost = 10_000
const keptAtMost = 500
const unlimited: CallLimit = { perS: Number.POSITIVE_INFINITY, burst: Number.POSITIVE_INFINITY }

export function createBuckets(): Buckets {
  const buckets = new LRUCache<string, Bucket>({ max: keysAtMost })

  function bucketOf(key: string, nowS: number): Bucket {
    let bucket = buckets.get(key)
    if (bucket === undefined) buckets.set(key, (bucket = newBucket(unlimited, nowS)))
    refill(bucket, nowS)
    return bucket
  }

  return {
    waitS(key, ahead, nowS, obeysRests = true) {
      // Asked for every target of every decision: what was never limited is not even remembered.
      if (!buckets.has(key)) return 0
      const bucket = bucketOf(key, nowS)
      const restS = obeysRests ? Math.max(0, bucket.restUntilS - nowS) : 0
      const missing = ahead + 1 - bucket.tokens
      // What a rounding error lacks is there.
      if (missing <= 1e-9) return restS
      return Math.max(restS, bucket.windowEndS === null ? missing / bucket.perS : bucket.windowEndS - nowS)
    },
    sent(key, nowS) {
      const bucket = bucketOf(key, nowS)
      bucket.tokens = Math.max(0, bucket.tokens - 1)
      count(bucket.counter, nowS, 1)
    },
    taken(key) {
      const bucket = buckets.get(key)
      if (bucket !== undefined) bucket.refusals = 0
    },
    refused(key, nowS, sentS = nowS) {
      const bucket = bucketOf(key, nowS)
      count(bucket.counter, sentS, -1)
      bucket.tokens = 0
      // Of a crowd that was sent at once, all but the first tell only how few of it were taken.
      if (sentS < bucket.cutAtS) return cut(Object.assign(bucket, bucket.before), nowS)
      bucket.cutAtS = nowS
      bucket.before = { perS: bucket.perS, burst: bucket.burst, ceiling: bucket.ceiling }
      bucket.refusals++
      if (bucket.refusals <= refusalsForRate) cut(bucket, nowS)
      // It takes none at all for a while, whatever our rate.
      const shut = bucket.refusals - (lately(bucket.counter, nowS).calls < takenAtLeast ? 0 : refusalsForRate)
      if (shut > 0) bucket.restUntilS = nowS + Math.min(restAtMostS, 2 ** (shut - 1))
    },
    told(key, { requests, remaining, resetS, isWindow }, { nowS, sentS }) {
      const bucket = bucketOf(key, nowS)
      const missing = Math.max(0, requests - remaining)
      const before = bucket.told
      bucket.told = { missing, resetS }
      // In a bucket more missing takes longer; in a window the end only comes nearer.
      if (isWindow === true) bucket.windowEndS = nowS + resetS
      else if (before !== null && missing > before.missing) bucket.windowEndS = resetS < before.resetS ? nowS + resetS : null
      else if (bucket.windowEndS !== null) bucket.windowEndS = nowS + resetS
      // What it refused lately says more than what it tells.
      const isFree = bucket.ceiling === null || nowS - bucket.ceiling.atS > ceilingForS
      if (isFree && missing > 0 && resetS > 0) Object.assign(bucket, { perS: missing / resetS, burst: requests, ceiling: null })
      // Others may use it too: what is left is what it says, but for what was sent since.
      bucket.tokens = Math.max(0, Math.min(bucket.burst, remaining) - since(bucket.counter, sentS))
    },
    limit(key, limit) {
      if (!(limit.perS > 0) || !(limit.burst >= 1)) return
      const bucket = buckets.get(key)
      if (bucket !== undefined && Number.isFinite(bucket.most.perS)) return
      buckets.set(key, newBucket(limit, bucket?.atS ?? 0))
    },
    snapshot: () =>
      [...buckets.entries()]
        .filter(([, { perS, burst }]) => Number.isFinite(perS) && Number.isFinite(burst))
        .slice(0, keptAtMost)
        .map(([key, { perS, burst }]) => [key, { perS, burst }] as const),
    restore(kept) {
      // The one used last comes last, as it was.
      for (const entry of kept.slice(0, keptAtMost).toReversed()) {
        const [key, limit] = entry as [unknown, Partial<CallLimit> | null | undefined]
        const { perS, burst } = limit ?? {}
        if (typeof key !== 'string' || buckets.has(key) || !isPositive(perS) || !isPositive(burst) || burst < 1) continue
        // Nobody knows what was sent before the restart.
        buckets.set(key, { ...newBucket(unlimited, 0), perS, burst, tokens: 1, ceiling: { perS, atS: 0 } })
      }
    }
  }
}

function newBucket(limit: CallLimit, nowS: number): Bucket {
  return {
    perS: limit.perS,
    burst: limit.burst,
    tokens: limit.burst,
    atS: nowS,
    most: limit,
    ceiling: null,
    cutAtS: Number.NEGATIVE_INFINITY,
    before: null,
    restUntilS: 0,
    refusals: 0,
    windowEndS: null,
    told: null,
    counter: { counts: Array<number>(windowS).fill(0), seconds: Array<number>(windowS).fill(Number.NEGATIVE_INFINITY) }
  }
}

/** By its rate, or, where that was not even used, by what it takes at once. */
function cut(bucket: Bucket, nowS: number): void {
  const { calls, spanS } = lately(bucket.counter, nowS)
  if (calls < takenAtLeast) return
  const used = calls / spanS
  if (used < ceilingShare * bucket.perS && Number.isFinite(bucket.perS)) {
    bucket.burst = Math.max(1, bucket.burst * shrink)
    return
  }
  const was = Math.min(bucket.perS, used)
  bucket.ceiling = { perS: was, atS: nowS }
  bucket.perS = Math.max(was * shrink, (calls / windowS) * takenShare)
  bucket.burst = Math.max(1, Math.min(bucket.burst, calls, bucket.perS * burstS))
}

function refill(bucket: Bucket, nowS: number): void {
  const passedS = Math.max(0, nowS - bucket.atS)
  bucket.atS = nowS
  if (!Number.isFinite(bucket.perS)) return
  if (bucket.windowEndS === null) bucket.tokens = Math.min(bucket.burst, bucket.tokens + passedS * bucket.perS)
  else if (nowS >= bucket.windowEndS) {
    bucket.tokens = bucket.burst
    bucket.windowEndS = null
  }
  const { ceiling, most } = bucket
  if (ceiling === null) return
  const isOld = nowS - ceiling.atS > ceilingForS
  const grown = Math.min(most.perS, bucket.perS * (1 + (recoveryPerMinute * passedS) / 60))
  bucket.perS = isOld ? grown : Math.min(grown, Math.max(bucket.perS, ceiling.perS * ceilingShare))
}

function count({ counts, seconds }: Counter, atS: number, change: number): void {
  const second = Math.floor(atS)
  const at = ((second % windowS) + windowS) % windowS
  if (seconds[at] !== second) {
    // Older than what is counted.
    if (change < 0 || (seconds[at] as number) > second) return
    seconds[at] = second
    counts[at] = 0
  }
  counts[at] = Math.max(0, (counts[at] as number) + change)
}

/** Of the last minute, or since the first call in it. */
function lately({ counts, seconds }: Counter, nowS: number): { readonly calls: number; readonly spanS: number } {
  let calls = 0
  let first = Math.floor(nowS)
  for (const [at, second] of seconds.entries()) {
    if (second <= nowS - windowS || (counts[at] as number) === 0) continue
    calls += counts[at] as number
    first = Math.min(first, second)
  }
  return { calls, spanS: Math.max(spanAtLeastS, Math.min(windowS, nowS - first)) }
}

function since({ counts, seconds }: Counter, sentS: number): number {
  return counts.reduce((sum, calls, at) => ((seconds[at] as number) > sentS ? sum + calls : sum), 0)
}

function isPositive(figure: unknown): figure is number {
  return typeof figure === 'number' && Number.isFinite(figure) && figure > 0
}
