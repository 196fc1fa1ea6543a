// One run: a fleet is started, measured in peace, broken under load, mended, drained and judged.

import { chmod, mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { createBill, readBill } from './bill.ts'
import { createChance } from './chance.ts'
import type { CostSummary } from './charges.ts'
import { check, type Verdict } from './checker.ts'
import { startClients } from './clients.ts'
import { breakThings, type FaultPlan } from './faults.ts'
import { createFleet, type Fleet, fleetNames } from './fleet.ts'
import { createHistory, type FaultKind, type History } from './history.ts'
import { askUntilAnswered } from './http.ts'
import type { SeenJob } from './jobs.ts'
import { type Liveness, measureLiveness } from './liveness.ts'
import { boxSlots, startMachines } from './machines.ts'
import { copyTo } from './mutants.ts'
import { scenes } from './scenes.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))

export interface RunOptions {
  readonly seed: number
  readonly plan: FaultPlan
  readonly submitters: number
  readonly callers: number
  /** The jobs of a scene shall have ended so long after its begin. */
  readonly sceneMs: number
  /** All that was begun shall have ended so long after the last fault. */
  readonly drainMs: number
  /** Whether a slow start of a job, or a gap between two calls, is a fault; otherwise it is only reported. */
  readonly judgesSpeed: boolean
  readonly mutant: string | null
  /** Ends the run as soon as something like this is wrong, and keeps no files; null = goes on to the end. */
  readonly hunted: RegExp | null
  readonly say: (text: string) => void
}

export interface RunReport {
  readonly seed: number
  readonly seconds: number
  /** Of these, until the fleet was up. */
  readonly startSeconds: number
  /** Empty = all is well. */
  readonly violations: readonly string[]
  readonly liveness: Liveness | null
  /** Null when the run did not come so far. */
  readonly verdict: Verdict | null
  readonly faults: Readonly<Record<FaultKind, number>>
  /** Until all that was begun had ended, ms; null when it did not. */
  readonly drainedMs: number | null
  /** History, bill and logs; null when they were removed, because all went well. */
  readonly folder: string | null
}

export async function run(options: RunOptions): Promise<RunReport> {
  const beganAt = performance.now()
  const folder = await mkdtemp(join(tmpdir(), 'llm-mcp-chaos-'))
  // The embedded database runs as another account, and must be able to come here.
  await chmod(folder, 0o755)
  const copy = join(folder, 'project')
  await copyTo(root, copy, options.mutant)
  await mkdir(join(folder, 'fleet'))
  const chance = createChance(options.seed)
  const billPath = join(folder, 'bill.ndjson')
  const history = createHistory(join(folder, 'history.ndjson'))
  const machines = await startMachines({ bill: createBill(billPath), chance: chance.fork(), doors: fleetNames })
  const fleet = createFleet({ root: copy, folder: join(folder, 'fleet'), machines, history })
  const violations: string[] = []
  let liveness: Liveness | null = null
  let verdict: Verdict | null = null
  let drainedMs: number | null = null
  let startSeconds = 0

  try {
    await steps()
  } catch (error) {
    violations.push(`the run broke off: ${error instanceof Error ? error.message : String(error)}`)
  } finally {
    await fleet.close()
    await machines.close()
  }
  const isKept = violations.length > 0 && options.hunted === null
  if (!isKept) await rm(folder, { recursive: true, force: true, maxRetries: 3 })
  return {
    seed: options.seed,
    seconds: (performance.now() - beganAt) / 1_000,
    startSeconds,
    violations,
    liveness,
    verdict,
    faults: countFaults(history),
    drainedMs,
    folder: isKept ? folder : null
  }

  async function steps(): Promise<void> {
    await fleet.start()
    startSeconds = (performance.now() - beganAt) / 1_000
    options.say(`${fleetNames.length} processes are up after ${seconds(beganAt)} s`)

    // 1. in peace
    const measured = await measureLiveness({ fleet, machines, history, billPath })
    liveness = measured.figures
    if (options.judgesSpeed || options.hunted !== null) violations.push(...measured.violations)
    options.say(`in peace: ${JSON.stringify(liveness)}`)
    if (isFound()) return

    // 2. on purpose
    for (const scene of scenes) {
      violations.push(...(await scene({ fleet, machines, history, patienceMs: options.sceneMs })))
      options.say(`${scene.name} after ${seconds(beganAt)} s`)
      if (options.hunted === null) continue
      violations.push(...(await judged(null)).violations)
      if (isFound()) return
    }

    // 3. under fire
    machines.setPace({ lowMs: 50, highMs: 300, slowOneIn: 40 })
    const clients = startClients({ fleet, history, chance: chance.fork(), submitters: options.submitters, callers: options.callers })
    await breakThings({ fleet, machines, chance: chance.fork() }, options.plan)
    options.say(`everything was broken after ${seconds(beganAt)} s`)

    // 4. in peace again
    const mendedAt = performance.now()
    await fleet.allUp(60_000)
    if (await clients.drain(options.drainMs)) drainedMs = performance.now() - mendedAt
    else
      violations.push(
        `stuck: ${clients.open().length} jobs had not ended, or were not heard of, ${options.drainMs} ms after the last fault: ${clients.open().slice(0, 10).join(', ')}`
      )
    options.say(`drained after ${seconds(beganAt)} s`)
    if (isFound()) return

    // 5. judged
    verdict = await judged(await settledCosts(fleet, billPath))
    violations.push(...verdict.violations)
  }

  function isFound(): boolean {
    return violations.some(violation => options.hunted?.test(violation))
  }

  async function judged(summary: CostSummary | null): Promise<Verdict> {
    const jobs = await readJobs(fleet, history)
    return check({ history: history.lines, calls: readBill(billPath), jobs, summary, limit: boxSlots })
  }
}

// A process that died is booked by another within 30 s, and costs are written in batches.
const costsWithinMs = 45_000

/** The sums, once they cover the bill, or when they will not. */
async function settledCosts(fleet: Fleet, billPath: string): Promise<CostSummary> {
  const signal = AbortSignal.timeout(Math.ceil(costsWithinMs))
  const calls = readBill(billPath).length
  let last: CostSummary | null = null
  while (!signal.aborted) {
    const said = await askUntilAnswered({ fleet, signal, first: 0 }, { path: '/v1/costs/summary?period=month' })
    if (said?.status === 200) last = JSON.parse(said.text) as CostSummary
    const charges = (last?.by_provider ?? []).reduce((sum, { provider, attempts }) => sum + (provider === 'echo' ? 0 : attempts), 0)
    if (charges >= calls) break
    await delay(200)
  }
  if (last === null) throw new Error('GET /v1/costs/summary does not answer')
  return last
}

async function readJobs(fleet: Fleet, history: History): Promise<Map<string, SeenJob | null>> {
  const ids = [...new Set(history.lines.flatMap(line => (line.t === 'ack' ? [line.id] : [])))]
  const jobs = new Map<string, SeenJob | null>()
  const signal = AbortSignal.timeout(60_000)
  const readers = Array.from({ length: 8 }, async (_, first) => {
    for (let id = ids.pop(); id !== undefined; id = ids.pop()) {
      const said = await askUntilAnswered({ fleet, signal, first }, { path: `/v1/jobs/${id}` })
      jobs.set(id, said?.status === 200 ? (JSON.parse(said.text) as SeenJob) : null)
    }
  })
  await Promise.all(readers)
  return jobs
}

function countFaults({ lines }: History): Record<FaultKind, number> {
  const counts: Record<FaultKind, number> = { start: 0, ready: 0, kill: 0, stop: 0, continue: 0, ended: 0, postgres: 0 }
  for (const line of lines) if (line.t === 'fault') counts[line.kind]++
  return counts
}

function seconds(since: number): string {
  return ((performance.now() - since) / 1_000).toFixed(1)
}
