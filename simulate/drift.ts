// Speeds and prices that change in the course of a scenario.

import type { Drift } from './types.ts'

/** What holds at this moment, of all that overlap the product. */
export function driftAt(drift: readonly Drift[] | undefined, atS: number): number {
  let factor = 1
  for (const each of drift ?? []) if (atS >= each.from && atS < (each.to ?? Number.POSITIVE_INFINITY)) factor *= each.factor
  return factor
}

/** The moments at which it changes. */
export function driftMoments(drift: readonly Drift[] | undefined): number[] {
  return (drift ?? []).flatMap(({ from, to }) => (to === undefined ? [from] : [from, to]))
}
