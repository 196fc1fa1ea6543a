import { fileURLToPath } from 'node:url'
import t from 'tap'
import { baselines } from '../../simulate/policies/baselines.ts'
import { createOurs, type OursOptions } from '../../simulate/policies/ours.ts'
import { firstSeed, meanRow, simulate } from '../../simulate/run.ts'
import { readScenario } from '../../simulate/scenario.ts'
import type { Policy, Row } from '../../simulate/types.ts'

// A few seeds of what bench/routing.ts measures at length: enough to see that something is broken.
const seeds = 3
const balanced: OursOptions = { route: 'balanced', isKnowing: false }

function mean(id: string, createPolicy: () => Policy): Row {
  const scenario = readScenario(fileURLToPath(new URL(`../scenarios/${id}.json`, import.meta.url)))
  return meanRow(firstSeed, seeds, seed => simulate(scenario, createPolicy, seed).row)
}

for (const [id, knowingScore] of [
  ['01_mixed', 0.222],
  ['02_flood', 0.532],
  ['03_light', 0.064]
] as const) {
  t.test(`${id}: nearly as good as with perfect knowledge, and what is told holds`, async t => {
    const row = mean(id, () => createOurs(balanced))
    const knowing = mean(id, () => createOurs({ ...balanced, isKnowing: true }))
    t.ok(Math.abs(knowing.score / knowingScore - 1) <= 0.15, `who knows everything: ${knowing.score} of ${knowingScore}`)
    t.ok(row.score / knowing.score <= 1.09, `regret ${row.score / knowing.score - 1}`)
    t.ok((row.etaP90CoveragePct ?? 0) >= 87 && (row.etaP90CoveragePct ?? 0) <= 93, `p90 holds for ${row.etaP90CoveragePct} %`)
    t.ok((row.worstWindowCoveragePct ?? 0) >= 80, `${row.worstWindowCoveragePct} % in the worst window`)
    t.ok((row.p90p50Median ?? 9) <= 3.5, `p90/p50 ${row.p90p50Median}`)
    t.equal(row.provider429, 0)
    t.equal(row.unfinished, 0)
  })
}

t.test('other rules cost several times as much, and the cheapest provider alone nearly twice', async t => {
  const row = mean('01_mixed', () => createOurs(balanced))
  const least = mean('01_mixed', baselines['least_busy'] as () => Policy)
  t.ok(least.score > 3 * row.score, `least busy ${least.score}`)
  const rented = mean('01_mixed', baselines['cloud_cheapest'] as () => Policy)
  t.ok(row.usd <= 0.6 * rented.usd && row.missPct <= rented.missPct, `$${row.usd} of $${rented.usd}`)
})

t.test('physics that nobody told: no worse than a planner that knows all but those', async t => {
  const row = mean('11_hidden', () => createOurs(balanced))
  const knowing = mean('11_hidden', () => createOurs({ ...balanced, isKnowing: true }))
  t.ok(row.score <= 1.15 * knowing.score, `${row.score} of ${knowing.score}`)
  t.ok((row.etaP90CoveragePct ?? 0) >= 80)
})
