// npm run chaos -- kill --cycles 200 [--seed 7] [--mutant no_fence]
// npm run chaos -- mutants

import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { longForm, shortForm } from './forms.ts'
import { mutants } from './mutants.ts'
import { reportPage, reportText } from './report.ts'
import { type RunReport, run } from './run.ts'

const usage = 'npm run chaos -- kill [--cycles <n>] [--seed <n>] [--mutant <name>], or npm run chaos -- mutants [--seed <n>]'
const mutantWithinSeconds = 30

const { values, positionals } = parseArgs({
  options: { cycles: { type: 'string' }, seed: { type: 'string' }, mutant: { type: 'string' } },
  allowPositionals: true
})
const seed = values.seed === undefined ? Math.floor(Math.random() * 1e9) : Number(values.seed)
console.log(`seed ${seed}`)

if (positionals[0] === 'kill') process.exitCode = await kill()
else if (positionals[0] === 'mutants') process.exitCode = await hunt()
else {
  console.error(usage)
  process.exitCode = 2
}

async function kill(): Promise<number> {
  const cycles = values.cycles === undefined ? null : Number(values.cycles)
  const mutant = values.mutant ?? null
  const form = cycles === null ? shortForm : longForm(cycles)
  const report = await run({ ...form, seed, mutant, hunted: null, say: console.log })
  console.log(reportText(report))
  if (cycles !== null && mutant === null) await keep(report, `npm run chaos -- kill --cycles ${cycles}`)
  console.log(report.violations.length === 0 ? 'all is well' : `something is wrong; seed ${seed}`)
  return report.violations.length === 0 ? 0 : 1
}

async function keep(report: RunReport, command: string): Promise<void> {
  const folder = join(fileURLToPath(new URL('../..', import.meta.url)), 'bench')
  await mkdir(folder, { recursive: true })
  await writeFile(join(folder, 'chaos.md'), reportPage(report, command))
}

/** Every mutant has to be found out by what it does, and in time; the project as it is goes the same way and is found right. */
async function hunt(): Promise<number> {
  const all = await hunted(null, /^/)
  let wrong = all.violations.length
  row('none', wrong === 0 ? 'well' : 'ACCUSED', all)
  for (const [mutant, { shows }] of mutants) {
    const { violations, huntSeconds } = await hunted(mutant, shows)
    const shown = violations.filter(violation => shows.test(violation))
    const isFound = shown.length > 0 && huntSeconds <= mutantWithinSeconds
    if (!isFound) wrong++
    row(mutant, isFound ? 'found' : 'MISSED', { violations: shown.length > 0 ? shown : violations, huntSeconds })
  }
  return wrong === 0 ? 0 : 1
}

interface Hunted {
  readonly violations: readonly string[]
  /** From the moment the fleet was up. */
  readonly huntSeconds: number
}

async function hunted(mutant: string | null, what: RegExp): Promise<Hunted> {
  const { violations, seconds, startSeconds } = await run({ ...shortForm, sceneMs: 12_000, seed, mutant, hunted: what, say: () => {} })
  return { violations, huntSeconds: seconds - startSeconds }
}

function row(mutant: string, outcome: string, { violations, huntSeconds }: Hunted): void {
  console.log(`| ${mutant.padEnd(14)} | ${outcome.padEnd(7)} | ${huntSeconds.toFixed(1).padStart(5)} s | ${violations[0] ?? 'nothing'} |`)
}
