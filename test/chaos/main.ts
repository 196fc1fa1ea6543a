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
  const report = await run({ ...form, seed, mutant, isHunt: false, say: console.log })
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

/** Every mutant has to be found out, and in time. */
async function hunt(): Promise<number> {
  let missed = 0
  for (const mutant of mutants.keys()) {
    const { violations, seconds, startSeconds } = await run({ ...shortForm, drainMs: 14_000, seed, mutant, isHunt: true, say: () => {} })
    const huntSeconds = seconds - startSeconds
    // A fleet that does not even start shows nothing about the guard.
    const isFound = startSeconds > 0 && violations.length > 0 && huntSeconds <= mutantWithinSeconds
    if (!isFound) missed++
    console.log(
      `| ${mutant.padEnd(14)} | ${isFound ? 'found ' : 'MISSED'} | ${huntSeconds.toFixed(1).padStart(5)} s | ${violations[0] ?? 'nothing'} |`
    )
  }
  return missed === 0 ? 0 : 1
}
