// How fast and how willing rented models are, learned from every call: first token, speed, failures, and how many calls they take. Pure.

import { LRUCache } from 'lru-cache'

/** Seconds; of one model of one provider. */
export interface RentedPace {
  readonly ttftS: number
  readonly tokenS: number
  /** The share of calls that fail. */
  readonly failures: number
  readonly samples: number
}

export interface RentedEnd {
  readonly ttftS: number | null
  /** After the first token. */
  readonly answerS: number | null
  readonly promptTokens: number
  readonly outputTokens: number
  readonly isFailure: boolean
}

export interface RentedModel {
  pace(targetId: string): RentedPace
  observe(targetId: string, end: RentedEnd): void
  /** Seconds until the provider takes another call, after `ahead` others. */
  waitS(provider: string, ahead: number, nowS: number): number
  sent(provider: string, nowS: number): void
  /** It said that it was one too many. */
  refused(provider: string, nowS: number): void
  /** What is known of its limit, by its configuration or its headers; a second is the unit of both. */
  limit(provider: string, limit: { readonly perS: number; readonly burst: number } | null): void
  snapshot(): unknown
  restore(kept: unknown): void
}

// Before anything was measured: usual figures of public providers.
const priorPace: RentedPace = { ttftS: 0.8, tokenS: 1 / 70, failures: 0.01, samples: 0 }
const gain = 0.1
const targetsAtMost = 10_000
// Reading a prompt at a provider, tokens a second.
export const rentedPromptTokensPerS = 20_000
const shrink = 0.8
const recoveryPerMinute = 0.05
// Nearer to where it was refused than this it does not go by itself until that is long ago.
const ceilingShare = 0.9
const ceilingForS = 3_600
const windowS = 60

interface Bucket {
  /** Calls a second and at once; infinite until one was refused. */
  perS: number
  burst: number
  tokens: number
  atS: number
  /** The rate that was too much, and when. */
  ceiling: { perS: number; atS: number } | null
  known: boolean
  sentAtS: number[]
}

export function createRentedModel(): RentedModel {
  const paces = new LRUCache<string, RentedPace>({ max: targetsAtMost })
  const buckets = new Map<string, Bucket>()

  function bucketOf(provider: string, nowS: number): Bucket {
    let bucket = buckets.get(provider)
    if (bucket === undefined) {
      const unlimited = Number.POSITIVE_INFINITY
      bucket = { perS: unlimited, burst: unlimited, tokens: unlimited, atS: nowS, ceiling: null, known: false, sentAtS: [] }
      buckets.set(provider, bucket)
    }
    refill(bucket, nowS)
    return bucket
  }

  return {
    pace: targetId => paces.get(targetId) ?? priorPace,
    observe(targetId, { ttftS, answerS, promptTokens, outputTokens, isFailure }) {
      const before = paces.get(targetId) ?? priorPace
      const isFirst = before.samples === 0
      const failures = before.failures + 0.02 * ((isFailure ? 1 : 0) - before.failures)
      if (isFailure) return void paces.set(targetId, { ...before, failures })
      const first = ttftS === null ? null : Math.max(1e-3, ttftS - promptTokens / rentedPromptTokensPerS)
      const each = answerS === null || outputTokens < 8 || !(answerS > 0) ? null : answerS / outputTokens
      paces.set(targetId, {
        ttftS: logMean(before.ttftS, first, isFirst),
        tokenS: logMean(before.tokenS, each, isFirst),
        failures,
        samples: before.samples + 1
      })
    },
    waitS(provider, ahead, nowS) {
      const { tokens, perS } = bucketOf(provider, nowS)
      const missing = ahead + 1 - tokens
      // What a rounding error lacks is there.
      return missing <= 1e-9 ? 0 : missing / perS
    },
    sent(provider, nowS) {
      const bucket = bucketOf(provider, nowS)
      bucket.tokens = Math.max(0, bucket.tokens - 1)
      bucket.sentAtS = bucket.sentAtS.filter(atS => atS > nowS - windowS)
      bucket.sentAtS.push(nowS)
    },
    refused(provider, nowS) {
      const bucket = bucketOf(provider, nowS)
      const lately = bucket.sentAtS.filter(atS => atS > nowS - windowS).length
      const was = Number.isFinite(bucket.perS) ? bucket.perS : Math.max(1, lately) / windowS
      bucket.ceiling = { perS: was, atS: nowS }
      bucket.perS = was * shrink
      bucket.burst = Math.max(1, Math.min(bucket.burst, bucket.perS * 10))
      bucket.tokens = 0
    },
    limit(provider, limit) {
      if (limit === null || !(limit.perS > 0) || !(limit.burst >= 1)) return
      const bucket = buckets.get(provider)
      if (bucket?.known) return
      buckets.set(provider, {
        perS: limit.perS,
        burst: limit.burst,
        tokens: limit.burst,
        atS: bucket?.atS ?? 0,
        ceiling: null,
        known: true,
        sentAtS: bucket?.sentAtS ?? []
      })
    },
    snapshot: () => ({
      version: 1,
      paces: [...paces.entries()],
      limits: [...buckets].filter(([, { perS }]) => Number.isFinite(perS)).map(([provider, { perS, burst }]) => [provider, { perS, burst }])
    }),
    restore(kept) {
      const snapshot = kept as {
        version?: unknown
        paces?: [string, RentedPace][]
        limits?: [string, { perS: number; burst: number }][]
      } | null
      if (snapshot?.version !== 1) return
      for (const [id, pace] of snapshot.paces ?? []) {
        if ([pace.ttftS, pace.tokenS].every(figure => figure > 0) && pace.failures >= 0) paces.set(id, pace)
      }
      for (const [provider, { perS, burst }] of snapshot.limits ?? []) {
        if (!(perS > 0) || !(burst >= 1) || buckets.has(provider)) continue
        buckets.set(provider, { perS, burst, tokens: 1, atS: 0, ceiling: { perS, atS: 0 }, known: false, sentAtS: [] })
      }
    }
  }
}

function refill(bucket: Bucket, nowS: number): void {
  const passedS = Math.max(0, nowS - bucket.atS)
  bucket.atS = nowS
  if (!Number.isFinite(bucket.perS)) return
  bucket.tokens = Math.min(bucket.burst, bucket.tokens + passedS * bucket.perS)
  if (bucket.known || bucket.ceiling === null) return
  const isOld = nowS - bucket.ceiling.atS > ceilingForS
  const grown = bucket.perS * (1 + (recoveryPerMinute * passedS) / 60)
  bucket.perS = isOld ? grown : Math.min(grown, Math.max(bucket.perS, bucket.ceiling.perS * ceilingShare))
}

function logMean(before: number, now: number | null, isFirst: boolean): number {
  if (now === null || !(now > 0)) return before
  return isFirst ? now : Math.exp((1 - gain) * Math.log(before) + gain * Math.log(now))
}
