// The routing scenarios against the real gateway: a fleet that obeys their physics behind sockets, ten times as fast, and the simulator's
// figures beside. `npm run scenario -- <scenario.json> [--seconds 600] [--seed 37] [--policy random] [--trace <file>]`.

import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { createOurs } from '../simulate/policies/ours.ts'
import { firstSeed, simulate } from '../simulate/run.ts'
import { readScenario } from '../simulate/scenario.ts'
import { table } from '../simulate/table.ts'
import type { Scenario, Row as SimulatedRow } from '../simulate/types.ts'
import { type Live, runLive, speed } from './scenario/live.ts'
import { publish, type Row } from './support/figures.ts'

const usage = 'npm run scenario -- <scenario.json> [--seconds <n>] [--seed <n>] [--policy balanced|random] [--trace <file>]'
// Of what the simulator has: issue 6, point 7.
const bounds = { meanS: 20, p95S: 30, usd: 20 } as const

process.exitCode = await main(process.argv.slice(2))

/** 0 when the gateway does as the simulator says, 1 when it does not, 2 when what was asked for cannot be. */
async function main(words: readonly string[]): Promise<number> {
  try {
    const { scenario, seed, policy, trace } = asked(words)
    const { row: expected, fates } = simulate(scenario, () => createOurs({ route: 'balanced', isKnowing: false }), seed)
    const live = await runLive(scenario, { seed, isRandom: policy === 'random' })
    console.log(table([{ ...expected, policy: 'simulator' }, live.outcome.row]))
    if (trace !== undefined) writeFileSync(trace, traced(fates, live))
    const rows = compared(expected, live)
    const isMet = rows.every(row => row.isMet)
    const label = `seed ${seed}; the first ${scenario.duration} s, ${speed} x as fast; load at the start ${live.loadAtStart}`
    // What is meant to be wrong is no measurement.
    if (policy === 'balanced') publish(new URL('results.md', import.meta.url), `Scenario ${scenario.id}`, label, rows)
    else console.log(rows.map(({ name, figure, isMet }) => `${isMet ? 'met   ' : 'missed'} ${name}: ${figure}`).join('\n'))
    return isMet ? 0 : 1
  } catch (error) {
    const isOurs = error instanceof Error && (error.name === 'UsageError' || error.name === 'ScenarioError')
    if (!isOurs) throw error
    console.error(`${error.message}\n${usage}`)
    return 2
  }
}

interface Asked {
  readonly scenario: Scenario
  readonly seed: number
  readonly policy: 'balanced' | 'random'
  readonly trace: string | undefined
}

function asked(words: readonly string[]): Asked {
  const { values, positionals } = parsed(words)
  const [file, ...others] = positionals
  if (file === undefined || others.length > 0) throw misused('Name one scenario file.')
  const whole = readScenario(file)
  const outside = (['events', 'restart', 'stuckLoad', 'clockSkew', 'priceChange', 'blankProfiles', 'generator'] as const).filter(
    key => whole[key] !== undefined && whole[key] !== false && !(Array.isArray(whole[key]) && whole[key].length === 0)
  )
  const hasOutage = whole.nodes.some(node => node.kind === 'cloud' && (node.outages ?? []).length > 0)
  if (outside.length > 0 || hasOutage) {
    throw misused(`${whole.id} has ${[...outside, ...(hasOutage ? ['outages'] : [])].join(', ')}, which is for the simulator only.`)
  }
  const seconds = numberOf(values.seconds ?? String(whole.duration), '--seconds')
  const policy = values.policy ?? 'balanced'
  if (policy !== 'balanced' && policy !== 'random') throw misused(`--policy must be balanced or random, not ${policy}.`)
  const duration = Math.min(seconds, whole.duration)
  return {
    // A dump comes whenever it is due, also after the end.
    scenario: {
      ...whole,
      duration,
      sources: whole.sources.map(each => ({ ...each, ...(each.at && { at: each.at.filter(at => at < duration) }) }))
    },
    seed: numberOf(values.seed ?? String(firstSeed), '--seed'),
    policy,
    trace: values.trace
  }
}

function parsed(words: readonly string[]) {
  const options = { seconds: { type: 'string' }, seed: { type: 'string' }, policy: { type: 'string' }, trace: { type: 'string' } } as const
  try {
    return parseArgs({ args: [...words], options, allowPositionals: true })
  } catch (cause) {
    throw misused(cause instanceof Error ? cause.message : String(cause))
  }
}

function numberOf(text: string, name: string): number {
  const value = Number(text)
  if (!Number.isInteger(value) || value < 1) throw misused(`${name} must be a whole number above 0, not ${text}.`)
  return value
}

function misused(what: string): Error {
  return Object.assign(new Error(what), { name: 'UsageError' })
}

function compared(expected: SimulatedRow, { outcome: { row }, errors, failures, cpuShare, lateMs }: Live): Row[] {
  const near = (name: string, key: keyof typeof bounds, shown: (value: number) => string): Row => {
    const off = 100 * (row[key] / expected[key] - 1)
    return {
      name,
      figure: `${shown(row[key])}, simulator ${shown(expected[key])} (${off >= 0 ? '+' : ''}${off.toFixed(1)} %)`,
      bound: `± ${bounds[key]} %`,
      isMet: Math.abs(off) <= bounds[key]
    }
  }
  const reported = (name: string, figure: string): Row => ({ name, figure, bound: null, isMet: true })
  const shares = (of: SimulatedRow): string =>
    Object.values(of.shares)
      .map(share => share.toFixed(0))
      .join('/')
  return [
    near('mean latency', 'meanS', value => `${value.toFixed(2)} s`),
    near('p95', 'p95S', value => `${value.toFixed(2)} s`),
    near('spent', 'usd', value => `$${value.toFixed(4)}`),
    {
      name: 'answered',
      figure: `${row.requests - row.unfinished} of ${row.requests}${errors[0] === undefined ? '' : `; ${errors[0].slice(0, 200)}`}`,
      bound: '≥ 99 %',
      isMet: row.unfinished <= row.requests / 100
    },
    reported('spent on rented models', `$${row.usdCloud.toFixed(4)}, simulator $${expected.usdCloud.toFixed(4)}`),
    reported('after their deadline', `${row.missPct.toFixed(1)} %, simulator ${expected.missPct.toFixed(1)} %`),
    reported('where they went', `${shares(row)} %, simulator ${shares(expected)} %`),
    reported('loads', `${row.loads}, simulator ${expected.loads}`),
    reported('refused by providers, failed', `${row.provider429} and ${failures}, simulator ${expected.provider429} refused`),
    reported('the gateway, of one core', `${(100 * cpuShare).toFixed(0)} %`),
    reported('how late the fleet was', `p99 ${lateMs.toFixed(0)} ms, of the scenario's ${((lateMs * speed) / 1_000).toFixed(2)} s`)
  ]
}

/** A line for each request: what became of it here and there. */
function traced(expected: ReturnType<typeof simulate>['fates'], { outcome, told }: Live): string {
  const seconds = ({ endedS, request }: (typeof expected)[number]): string =>
    endedS === null ? '' : (endedS - request.arrivedS).toFixed(2)
  const lines = outcome.fates.map((fate, at) => {
    const { request } = fate
    const { job } = request
    const before = expected[at]
    const { reason, etaMs, error } = told.get(request) ?? { reason: '', etaMs: '', error: '' }
    return [
      job.id,
      request.arrivedS.toFixed(2),
      job.source,
      job.model,
      job.promptTokens,
      request.outputTokens,
      before?.node,
      before === undefined ? '' : seconds(before),
      before?.sends,
      fate.node,
      seconds(fate),
      fate.sends,
      fate.usd.toFixed(6),
      reason,
      etaMs,
      error?.replaceAll(/\s+/g, ' ')
    ].join('\t')
  })
  return `id\tat\tsource\tmodel\tin\tout\tsim node\tsim s\tsim sends\tnode\ts\tsends\tusd\treason\teta ms\terror\n${lines.join('\n')}\n`
}
