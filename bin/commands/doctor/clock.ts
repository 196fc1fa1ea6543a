// Does this machine's clock agree with everybody else's? Keys expire by it, and costs are kept by day.

import { type Finding, fail, ok, skipped, warn } from './check.ts'

export interface ClockReading {
  /** Whose clock: "the database's". */
  readonly whose: string
  /** Ours minus theirs. */
  readonly aheadMs: number
  /** How wrong that may be. */
  readonly uncertainMs: number
}

const warnAboveMs = 2_000
const failAboveMs = 60_000

export function clockCheck(readings: readonly ClockReading[]): Finding {
  if (readings.length === 0) return skipped('nobody to compare with: the database is on this machine, and no provider answered')
  const sure = ({ aheadMs, uncertainMs }: ClockReading): number => Math.max(0, Math.abs(aheadMs) - uncertainMs)
  const worst = readings.reduce((a, b) => (sure(b) > sure(a) ? b : a))
  const seconds = (Math.abs(worst.aheadMs) / 1_000).toFixed(1)
  const remedy = "Let this machine's clock be set by NTP (timedatectl set-ntp true)."
  if (sure(worst) <= warnAboveMs) return ok(`agrees with ${readings.map(({ whose }) => whose).join(' and ')}`)
  const detail = `${seconds} s ${worst.aheadMs > 0 ? 'ahead of' : 'behind'} ${worst.whose}`
  return sure(worst) > failAboveMs ? fail(detail, remedy) : warn(detail, remedy)
}

/** By the Date header of an answer, which counts whole seconds. Null when it has none. */
export function readingOfDate(whose: string, date: string | undefined, askedAtMs: number, answeredAtMs: number): ClockReading | null {
  const theirs = date === undefined ? Number.NaN : Date.parse(date)
  if (Number.isNaN(theirs)) return null
  const roundTripMs = answeredAtMs - askedAtMs
  return { whose, aheadMs: askedAtMs + roundTripMs / 2 - (theirs + 500), uncertainMs: 500 + roundTripMs / 2 }
}
