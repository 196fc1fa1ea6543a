// One policy in one scenario with one seed, and the mean of several.

import { createHash } from 'node:crypto'
import { type Outcome, outcomeOf } from './outcome.ts'
import type { Policy, Row, Scenario } from './types.ts'
import { runWorld } from './world.ts'

// Three from here on have as many requests as the study's three had, in each of its scenarios to within 3 percent: 2,537, 2,851 and
// 724 for its 2,527, 2,889 and 747. Bursts differ so much that the first three that come have 5 percent more.
export const firstSeed = 37

/** The same scenario, policy and seed give the same outcome. A policy begins anew each time. */
export function simulate(scenario: Scenario, createPolicy: () => Policy, seed: number): Outcome {
  const policy = createPolicy()
  return outcomeOf(scenario, policy.name, runWorld(scenario, policy, seed))
}

/** The mean of the rows of `seeds` runs, with a hash over theirs. What none of them knows is null. */
export function meanRow(first: number, seeds: number, run: (seed: number) => Row): Row {
  const row = run(first)
  const rows = [row, ...Array.from({ length: seeds - 1 }, (_, index) => run(first + 1 + index))]
  const mean = (of: (row: Row) => number | null): number | null => {
    const values = rows.map(of).filter(value => value !== null)
    return values.length === 0 ? null : values.reduce((sum, each) => sum + each, 0) / values.length
  }
  const sure = (of: (row: Row) => number): number => mean(of) ?? 0
  return {
    policy: row.policy,
    requests: sure(each => each.requests),
    unfinished: sure(each => each.unfinished),
    meanS: sure(each => each.meanS),
    p95S: sure(each => each.p95S),
    missPct: sure(each => each.missPct),
    usd: sure(each => each.usd),
    usdCloud: sure(each => each.usdCloud),
    usdEnergy: sure(each => each.usdEnergy),
    score: sure(each => each.score),
    regretPct: mean(each => each.regretPct),
    etaMedianErrorPct: mean(each => each.etaMedianErrorPct),
    etaP90CoveragePct: mean(each => each.etaP90CoveragePct),
    p90p50Median: mean(each => each.p90p50Median),
    loads: sure(each => each.loads),
    provider429: sure(each => each.provider429),
    shares: Object.fromEntries(Object.keys(row.shares).map(node => [node, sure(each => each.shares[node] ?? 0)])),
    worstWindowCoveragePct: mean(each => each.worstWindowCoveragePct),
    hash:
      rows.length === 1
        ? row.hash
        : createHash('sha256')
            .update(rows.map(({ hash }) => hash).join('\n'))
            .digest('hex')
  }
}
