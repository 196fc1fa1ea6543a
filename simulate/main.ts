// npm run simulate -- <scenario.json> [--policy balanced] [--seeds 3] [--json]

import { parseArgs } from 'node:util'
import { baselines } from './policies/baselines.ts'
import { createOurs } from './policies/ours.ts'
import { firstSeed, meanRow, simulate } from './run.ts'
import { readScenario } from './scenario.ts'
import { table } from './table.ts'
import type { Policy, Row, Scenario } from './types.ts'

const policies: Readonly<Record<string, () => Policy>> = {
  ...baselines,
  cost: () => createOurs({ route: 'cost', isKnowing: false }),
  balanced: () => createOurs({ route: 'balanced', isKnowing: false }),
  fast: () => createOurs({ route: 'fast', isKnowing: false }),
  oracle: () => createOurs({ route: 'balanced', isKnowing: true }),
  'oracle:fast': () => createOurs({ route: 'fast', isKnowing: true })
}
/** What the others are measured against. */
const reference = 'oracle'
const usage = `npm run simulate -- <scenario.json> [--policy ${Object.keys(policies).join('|')}|all] [--seeds 3] [--json]`

process.exitCode = main(process.argv.slice(2))

/** 0 when it ran, 2 when what was asked for cannot be. */
function main(words: readonly string[]): number {
  try {
    const { file, names, seeds, isJson } = asked(words)
    const scenario = readScenario(file)
    const rows = compared(scenario, names, seeds)
    if (isJson) console.log(JSON.stringify({ scenario: scenario.id, seeds, rows }))
    else console.log(`${scenario.id}: ${scenario.title}; ${rows[0]?.requests.toFixed(0)} requests, mean of ${seeds}\n\n${table(rows)}`)
    return 0
  } catch (error) {
    const isOurs = error instanceof Error && (error.name === 'UsageError' || error.name === 'ScenarioError')
    if (!isOurs) throw error
    console.error(error.message)
    if (error.name === 'UsageError') console.error(usage)
    return 2
  }
}

interface Asked {
  readonly file: string
  readonly names: readonly string[]
  readonly seeds: number
  readonly isJson: boolean
}

function asked(words: readonly string[]): Asked {
  const { values, positionals } = parsed(words)
  const [file, ...others] = positionals
  if (file === undefined || others.length > 0) throw misused('Name one scenario file.')
  const seeds = Number(values.seeds ?? 3)
  if (!Number.isInteger(seeds) || seeds < 1) throw misused(`--seeds must be a whole number above 0, not ${values.seeds}.`)
  const policy = values.policy ?? 'all'
  if (policy !== 'all' && !Object.hasOwn(policies, policy)) throw misused(`There is no policy ${policy}.`)
  return { file, names: policy === 'all' ? Object.keys(policies) : [policy], seeds, isJson: values.json ?? false }
}

function parsed(words: readonly string[]) {
  const options = { policy: { type: 'string' }, seeds: { type: 'string' }, json: { type: 'boolean' } } as const
  try {
    return parseArgs({ args: [...words], options, allowPositionals: true })
  } catch (cause) {
    throw misused(cause instanceof Error ? cause.message : String(cause))
  }
}

function misused(what: string): Error {
  return Object.assign(new Error(what), { name: 'UsageError' })
}

function compared(scenario: Scenario, names: readonly string[], seeds: number): Row[] {
  const run = (name: string): Row => {
    const create = policies[name]
    if (create === undefined) throw misused(`There is no policy ${name}.`)
    return { ...meanRow(firstSeed, seeds, seed => simulate(scenario, create, seed).row), policy: name }
  }
  const best = run(reference)
  const regret = ({ score }: Row): number => 100 * (score / best.score - 1)
  return names.map(name => (name === reference ? best : run(name))).map(row => ({ ...row, regretPct: regret(row) }))
}
