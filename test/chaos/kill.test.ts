// The short form of `npm run chaos -- kill`: what was acknowledged survives whatever is killed or frozen.

import t from 'tap'
import { shortForm } from './forms.ts'
import { reportText } from './report.ts'
import { run } from './run.ts'

t.test('two gateways and three workers are killed and frozen at random: every acknowledged job ends once and is charged once', async t => {
  const seed = Math.floor(Math.random() * 1e9)
  t.comment(`seed ${seed}`)
  const report = await run({ ...shortForm, seed, mutant: null, hunted: null, say: text => t.comment(text) })
  t.comment(reportText(report))
  t.same(report.violations, [], `seed ${seed}`)
  t.ok((report.verdict?.acknowledged ?? 0) > 100, 'there was something to lose')
  t.ok((report.verdict?.lateWriters ?? 0) > 0, 'somebody came too late')
})
