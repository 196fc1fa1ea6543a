// How far estimates of time are off, learned as answers end, so that p50 and p90 hold whatever the error. Pure.
// Online quantile tracking in logarithms, as adaptive conformal inference does it (Gibbs and Candès 2021).

export interface EtaFacts {
  readonly kind: 'own' | 'rented'
  readonly start: 'warm' | 'cold' | 'queued'
  /** How many waited before it. */
  readonly depth: number
}

/** Seconds. */
export interface Eta {
  readonly p50: number
  readonly p90: number
}

export interface Calibration {
  /** `raw`: what the formulas say, with a median and with a long answer. */
  eta(facts: EtaFacts, raw: Eta): Eta
  /** What it came to. `raw` as it was given then. */
  observe(facts: EtaFacts, raw: Eta, tookS: number): void
  snapshot(): unknown
  restore(kept: unknown): void
}

interface Correction {
  median: number
  high: number
  count: number
}

const depthsAtMost = 12
// Behind eight and more, others come in between who go first: until it is known how many, a long queue takes longer than what stands in it.
const longQueueLevel = 4
const ofLongQueue: Readonly<Correction> = { median: 0.2, high: 0.2, count: 0 }
const gainAtLeast = 0.02
const gainAtFirst = 0.25
const gainFactor = 1.6
// No observation says more than this: a machine that slept for an hour.
const ratioAtMost = 20
const correctionAtMost = Math.log(50)

export function createCalibration(): Calibration {
  const corrections = new Map<string, Correction>()

  /** A depth that was never seen is like the next shallower one of its kind. */
  function nearest({ kind, start, depth }: EtaFacts): Correction {
    const least = levelOf(depth) < longQueueLevel ? 0 : longQueueLevel
    for (let level = levelOf(depth); level >= least; level--) {
      const found = corrections.get(`${kind}/${start}/${level}`)
      if (found !== undefined) return found
    }
    return levelOf(depth) < longQueueLevel ? { median: 0, high: 0, count: 0 } : { ...ofLongQueue }
  }

  function own(facts: EtaFacts): Correction {
    const key = `${facts.kind}/${facts.start}/${levelOf(facts.depth)}`
    const found = corrections.get(key) ?? { ...nearest(facts), count: 0 }
    corrections.set(key, found)
    return found
  }

  return {
    eta(facts, raw) {
      const { median, high } = nearest(facts)
      const p50 = raw.p50 * Math.exp(median)
      return { p50, p90: Math.max(p50, raw.p90 * Math.exp(high)) }
    },
    observe(facts, raw, tookS) {
      if (!(tookS > 0) || !(raw.p50 > 0) || !(raw.p90 > 0)) return
      const correction = own(facts)
      correction.count++
      // Those of one long queue were all promised before any of them had ended, and err alike.
      const alike = Math.max(1, facts.depth / 8)
      const gain = (gainFactor * Math.max(gainAtLeast, gainAtFirst / Math.sqrt(correction.count))) / alike
      correction.median = moved(correction.median, 0.5, gain, tookS / raw.p50)
      correction.high = moved(correction.high, 0.9, gain, tookS / raw.p90)
    },
    snapshot: () => ({ version: 1, corrections: [...corrections] }),
    restore(kept) {
      const snapshot = kept as { version?: unknown; corrections?: unknown } | null
      if (snapshot?.version !== 1 || !Array.isArray(snapshot.corrections)) return
      for (const entry of snapshot.corrections.filter(Array.isArray)) {
        const [key, correction] = entry as [unknown, unknown]
        if (typeof key === 'string' && isCorrection(correction)) corrections.set(key, { ...correction })
      }
    }
  }
}

// Services differ from each other by so much of their mean, and the speed of a queue from what is known of it.
const serviceSpread = 0.8
const speedSpread = 0.5
const ninetieth = 1.28

/** What a wait behind others adds to a long answer: their lengths are not known either, but the errors of many even out. */
export function waitSpread(waitS: number, ahead: number): number {
  return waitS * ninetieth * Math.sqrt(serviceSpread ** 2 / Math.max(1, ahead) + speedSpread ** 2)
}

/** One step towards the quantile `share` of ln(actual / raw). */
function moved(before: number, share: number, gain: number, ratio: number): number {
  const error = Math.log(Math.min(ratioAtMost, Math.max(1 / ratioAtMost, ratio)))
  const next = before + gain * (error > before ? share : share - 1)
  return Math.max(-correctionAtMost, Math.min(correctionAtMost, next))
}

function isCorrection(kept: unknown): kept is Correction {
  const { median, high, count } = (kept ?? {}) as Partial<Correction>
  const isBounded = (value: unknown): boolean => typeof value === 'number' && Math.abs(value) <= correctionAtMost
  return isBounded(median) && isBounded(high) && Number.isFinite(count) && Number(count) >= 0
}

function levelOf(depth: number): number {
  return depth <= 0 ? 0 : Math.min(depthsAtMost, 1 + Math.floor(Math.log2(depth)))
}
