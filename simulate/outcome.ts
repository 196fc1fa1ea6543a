// What a run came to: time, money, deadlines, and how good the forecasts were.

import type { Row, Scenario } from './types.ts'
import type { Course, Fate } from './world.ts'

export interface Outcome extends Course {
  /** One line of the table; `regretPct` is for those to fill in who ran the oracle. */
  readonly row: Row
}

// README of the scenarios: what a kWh costs, and what a second of waiting and a missed deadline count beside it. Dollars.
const usdPerKwh = 0.25
export const usdPerSecond = 2e-5
export const usdPerMiss = 0.002
// Coverage is looked at in windows of so long, where so many arrived that it says something.
const windowS = 600
const windowRequests = 50

/** The figures of one run, as in the table of the study. */
export function outcomeOf(scenario: Scenario, policy: string, course: Course): Outcome {
  const { fates, endS } = course
  const seconds = (fate: Fate): number => (fate.endedS ?? Math.max(endS, fate.request.arrivedS)) - fate.request.arrivedS
  const isMissed = (fate: Fate): boolean =>
    fate.outcome === 'unfinished' || (fate.outcome === 'answered' && seconds(fate) > fate.request.job.deadlineS)
  const interactive = fates.filter(({ request }) => request.job.prio <= 1)
  const ended = interactive.filter(({ outcome }) => outcome !== 'unfinished')
  const usdCloud = sum(fates.map(({ usd }) => usd))
  const usdEnergy = sum(scenario.nodes.map(node => (node.kind === 'cloud' ? 0 : energy(node.watts, course.busyS.get(node.id) ?? 0))))
  const usd = usdCloud + usdEnergy
  const score = usd + usdPerSecond * sum(fates.map(seconds)) + usdPerMiss * fates.filter(isMissed).length
  const row: Row = {
    policy,
    requests: fates.length,
    unfinished: fates.filter(({ outcome }) => outcome === 'unfinished').length,
    meanS: mean(ended.map(seconds)),
    p95S: quantileOf(ended.map(seconds), 0.95),
    missPct: percent(interactive.filter(isMissed).length, interactive.length),
    usd,
    usdCloud,
    usdEnergy,
    score,
    regretPct: null,
    ...forecasts(fates, seconds),
    loads: course.loads,
    provider429: course.refusals,
    shares: shares(scenario, fates),
    hash: course.hash
  }
  return { ...course, row }
}

const energy = (watts: number, seconds: number): number => ((watts * seconds) / 3.6e6) * usdPerKwh

type Forecasts = Pick<Row, 'etaMedianErrorPct' | 'etaP90CoveragePct' | 'p90p50Median' | 'worstWindowCoveragePct'>

/** Of what a client waited for to the end; what was not answered took as long as it was waited for, at least. */
function forecasts(fates: readonly Fate[], seconds: (fate: Fate) => number): Forecasts {
  const told = fates.flatMap(fate => (fate.eta === null || fate.outcome === 'left' ? [] : [{ ...fate.eta, fate, actualS: seconds(fate) }]))
  if (told.length === 0) return { etaMedianErrorPct: null, etaP90CoveragePct: null, p90p50Median: null, worstWindowCoveragePct: null }
  const coverage = (some: typeof told): number => percent(some.filter(({ p90S, actualS }) => actualS <= p90S).length, some.length)
  const windows = Map.groupBy(told, ({ fate }) => Math.floor(fate.request.arrivedS / windowS))
  const counted = [...windows.values()].filter(({ length }) => length >= windowRequests)
  return {
    etaMedianErrorPct:
      100 *
      quantileOf(
        told.map(({ p50S, actualS }) => Math.abs(p50S - actualS) / actualS),
        0.5
      ),
    etaP90CoveragePct: coverage(told),
    p90p50Median: quantileOf(
      told.map(({ p50S, p90S }) => p90S / p50S),
      0.5
    ),
    worstWindowCoveragePct: counted.length === 0 ? null : Math.min(...counted.map(coverage))
  }
}

/** Percent of the answers that each node gave. */
function shares(scenario: Scenario, fates: readonly Fate[]): Record<string, number> {
  const answered = fates.filter(({ outcome }) => outcome === 'answered')
  const of = (id: string): number => answered.filter(({ node }) => node === id).length
  return Object.fromEntries(scenario.nodes.map(({ id }) => [id, percent(of(id), answered.length)]))
}

const sum = (values: readonly number[]): number => values.reduce((total, each) => total + each, 0)
const mean = (values: readonly number[]): number => (values.length === 0 ? 0 : sum(values) / values.length)
const percent = (part: number, whole: number): number => (whole === 0 ? 0 : (100 * part) / whole)

/** The least value that this share of all does not exceed. */
function quantileOf(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0
}
