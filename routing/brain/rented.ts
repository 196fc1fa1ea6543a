// How fast and how willing rented models are, learned from every call: first token, speed, failures, and how many calls they take. Pure.

import { LRUCache } from 'lru-cache'
import { type Buckets, createBuckets } from './buckets.ts'

/** Seconds; of one model of one provider. */
export interface RentedPace {
  readonly ttftS: number
  readonly tokenS: number
  /** The share of calls that fail. */
  readonly failures: number
  readonly samples: number
  /** Of what was sent there before, the share that it counts as kept. */
  readonly cached: number
}

export interface RentedEnd {
  readonly ttftS: number | null
  /** After the first token. */
  readonly answerS: number | null
  /** Where nobody saw a first token. */
  readonly wholeS?: number | null
  /** Of what was sent there before, the share that was counted as kept this time; null = nothing was sent before. */
  readonly cachedShare?: number | null
  readonly promptTokens: number
  readonly outputTokens: number
  readonly isFailure: boolean
}

export interface RentedModel {
  pace(targetId: string): RentedPace
  observe(targetId: string, end: RentedEnd): void
  /** How many calls they take: see buckets.ts. */
  readonly waitS: Buckets['waitS']
  readonly sent: Buckets['sent']
  readonly taken: Buckets['taken']
  readonly refused: Buckets['refused']
  readonly told: Buckets['told']
  readonly limit: Buckets['limit']
  snapshot(): unknown
  restore(kept: unknown): void
}

// Before anything was measured: usual figures of public providers.
const priorPace: RentedPace = { ttftS: 0.8, tokenS: 1 / 70, failures: 0.01, samples: 0, cached: 1 }
const gain = 0.1
const cachedGain = 0.3
const targetsAtMost = 10_000
// Reading a prompt at a provider, tokens a second.
export const rentedPromptTokensPerS = 20_000
const keptAtMost = 500

export function createRentedModel(): RentedModel {
  const paces = new LRUCache<string, RentedPace>({ max: targetsAtMost })
  const buckets = createBuckets()

  return {
    pace: targetId => paces.get(targetId) ?? priorPace,
    observe(targetId, { ttftS, answerS, wholeS = null, cachedShare = null, promptTokens, outputTokens, isFailure }) {
      const before = paces.get(targetId) ?? priorPace
      const isFirst = before.samples === 0
      const failures = before.failures + 0.02 * ((isFailure ? 1 : 0) - before.failures)
      if (isFailure) return void paces.set(targetId, { ...before, failures })
      const cached = cachedShare === null ? before.cached : before.cached + cachedGain * (cachedShare - before.cached)
      if (wholeS !== null) {
        const { ttftS, tokenS, samples } = stretched(before, { wholeS, promptTokens, outputTokens })
        return void paces.set(targetId, { ttftS, tokenS, samples, failures, cached })
      }
      const first = ttftS === null ? null : Math.max(1e-3, ttftS - promptTokens / rentedPromptTokensPerS)
      const each = answerS === null || outputTokens < 8 || !(answerS > 0) ? null : answerS / outputTokens
      paces.set(targetId, {
        ttftS: logMean(before.ttftS, first, isFirst),
        tokenS: logMean(before.tokenS, each, isFirst),
        failures,
        cached,
        samples: before.samples + (first === null && each === null ? 0 : 1)
      })
    },
    waitS: buckets.waitS,
    sent: buckets.sent,
    taken: buckets.taken,
    refused: buckets.refused,
    told: buckets.told,
    limit: buckets.limit,
    snapshot: () => ({
      version: 1,
      // Those used last.
      paces: [...paces.entries()].slice(0, keptAtMost),
      limits: buckets.snapshot()
    }),
    restore(kept) {
      const snapshot = kept as { version?: unknown; paces?: unknown; limits?: unknown } | null | undefined
      if (snapshot?.version !== 1) return
      for (const entry of listOf(snapshot.paces).toReversed()) {
        const [id, pace] = entry as [unknown, Partial<RentedPace> | null | undefined]
        const { ttftS, tokenS, failures, samples } = pace ?? {}
        const isPace = [ttftS, tokenS].every(figure => Number(figure) > 0 && Number.isFinite(figure)) && Number(failures) >= 0
        if (typeof id !== 'string' || !isPace || !Number.isFinite(samples)) continue
        const { cached } = { cached: 1, ...pace }
        paces.set(id, { ...(pace as RentedPace), cached: cached >= 0 && cached <= 1 ? cached : 1 })
      }
      buckets.restore(listOf(snapshot.limits))
    }
  }
}

/** An answer that came in one piece: first token and speed are both taken to be as much slower or faster as the whole was. */
function stretched(
  before: RentedPace,
  { wholeS, promptTokens, outputTokens }: { readonly wholeS: number; readonly promptTokens: number; readonly outputTokens: number }
): Pick<RentedPace, 'ttftS' | 'tokenS' | 'samples'> {
  const ownS = wholeS - promptTokens / rentedPromptTokensPerS
  const ratio = Math.max(1e-3, ownS) / (before.ttftS + outputTokens * before.tokenS)
  if (!(ratio > 0) || !Number.isFinite(ratio)) return before
  const isFirst = before.samples === 0
  return {
    ttftS: logMean(before.ttftS, before.ttftS * ratio, isFirst),
    // Nothing was written, so nothing is known of how fast.
    tokenS: outputTokens === 0 ? before.tokenS : logMean(before.tokenS, before.tokenS * ratio, isFirst),
    samples: before.samples + 1
  }
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value.filter(Array.isArray) : []
}

function logMean(before: number, now: number | null, isFirst: boolean): number {
  if (now === null || !(now > 0)) return before
  return isFirst ? now : Math.exp((1 - gain) * Math.log(before) + gain * Math.log(now))
}
