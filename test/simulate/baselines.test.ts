import { fileURLToPath } from 'node:url'
import t from 'tap'
import { baselines } from '../../simulate/policies/baselines.ts'
import { firstSeed, meanRow, simulate } from '../../simulate/run.ts'
import { readScenario } from '../../simulate/scenario.ts'
import type { Policy, Row } from '../../simulate/types.ts'

const scenario = (name: string) => readScenario(fileURLToPath(new URL(`../scenarios/${name}.json`, import.meta.url)))
const row = (name: string, policy: string): Row =>
  meanRow(firstSeed, 3, seed => simulate(scenario(name), baselines[policy] as () => Policy, seed).row)

t.test('those of the study that do not hang on luck come out as there, to a quarter', async t => {
  const table = {
    '01_mixed': { least_busy: 0.939, cheapest_first: 4.152, cloud_cheapest: 1.391, cloud_fastest: 1.043 },
    '02_flood': { least_busy: 3.916, cheapest_first: 18.624, cloud_cheapest: 8.127, cloud_fastest: 1.59 },
    '03_light': { least_busy: 0.351, cheapest_first: 0.528, cloud_cheapest: 0.118, cloud_fastest: 0.344 }
  }
  for (const [name, scores] of Object.entries(table)) {
    for (const [policy, wanted] of Object.entries(scores)) {
      const { score, unfinished } = row(name, policy)
      t.ok(Math.abs(score / wanted - 1) < 0.25, `${name} ${policy}: ${score.toFixed(3)}, in the study ${wanted}`)
      t.equal(unfinished, 0, `${name} ${policy}`)
    }
  }
})

t.test('every baseline answers a quiet hour with a node that goes down and clients that leave', async t => {
  const events = [
    { t: 600, node: 'rtx4090', up: false },
    { t: 1200, node: 'rtx4090', up: true },
    { t: 1800, node: 'cloudA', up: false },
    { t: 1900, node: 'cloudA', up: true }
  ]
  // Without the slow node, on which some of them drown.
  const light = scenario('03_light')
  const nodes = light.nodes.filter(({ id }) => id !== 'minipc')
  for (const create of Object.values(baselines)) {
    const { row } = simulate({ ...light, nodes, events, cancelFraction: 0.2 }, create, 1)
    t.equal(row.unfinished, 0, row.policy)
  }
})

t.test('cheapest_first rents nothing, and those who rent own nothing', async t => {
  const shares = (policy: string) => row('03_light', policy).shares
  t.match(shares('cheapest_first'), { cloudA: 0, cloudB: 0 })
  t.match(shares('cloud_cheapest'), { cloudA: 100 })
  t.match(shares('cloud_fastest'), { cloudB: 100 })
})
