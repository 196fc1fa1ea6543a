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
const gainAtLeast = 0.02
const gainAtFirst = 0.25
const gainFactor = 1.6
// No observation says more than this: a machine that slept for an hour.
const ratioAtMost = 20
const correctionAtMost = Math.log(50)

export function createCalibration(): Calibration {
  const corrections = new Map<string, Correction>()

  /** A depth that was never seen is like the next shallower one. */
  function nearest({ kind, start, depth }: EtaFacts): Correction {
    for (let level = levelOf(depth); level >= 0; level--) {
      const found = corrections.get(`${kind}/${start}/${level}`)
      if (found !== undefined) return found
    }
    return { median: 0, high: 0, count: 0 }
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
      const gain = gainFactor * Math.max(gainAtLeast, gainAtFirst / Math.sqrt(correction.count))
      correction.median = moved(correction.median, 0.5, gain, tookS / raw.p50)
      correction.high = moved(correction.high, 0.9, gain, tookS / raw.p90)
    },
    snapshot: () => ({ version: 1, corrections: [...corrections] }),
    restore(kept) {
      const snapshot = kept as { version?: unknown; corrections?: [string, Correction][] } | null
      if (snapshot?.version !== 1 || !Array.isArray(snapshot.corrections)) return
      for (const [key, { median, high, count }] of snapshot.corrections) {
        if ([median, high, count].every(Number.isFinite)) corrections.set(key, { median, high, count })
      }
    }
  }
}

/** One step towards the quantile `share` of ln(actual / raw). */
function moved(before: number, share: number, gain: number, ratio: number): number {
  const error = Math.log(Math.min(ratioAtMost, Math.max(1 / ratioAtMost, ratio)))
  const next = before + gain * (error > before ? share : share - 1)
  return Math.max(-correctionAtMost, Math.min(correctionAtMost, next))
}

function levelOf(depth: number): number {
  return depth <= 0 ? 0 : Math.min(depthsAtMost, 1 + Math.floor(Math.log2(depth)))
}
