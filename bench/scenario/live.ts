// One scenario against the real gateway: its fleet, the gateway with what it is to know, its clients, and what came of it.

import { randomUUID } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { fileURLToPath } from 'node:url'
import { startEmbeddedPostgres } from '../../bin/postgres.ts'
import { createCalibration } from '../../routing/brain/calibration.ts'
import { createLengthModel } from '../../routing/brain/lengths.ts'
import { createRentedModel } from '../../routing/brain/rented.ts'
import { type Outcome, outcomeOf } from '../../simulate/outcome.ts'
import { benchmarked } from '../../simulate/policies/ours.ts'
import { drawTraffic, type Request } from '../../simulate/traffic.ts'
import type { Scenario } from '../../simulate/types.ts'
import type { Fate } from '../../simulate/world.ts'
import { saveBrainState } from '../../store/brain-state.ts'
import { migrate } from '../../store/migrate.ts'
import { createPool, type Pool } from '../../store/pool.ts'
import { changeProfile } from '../../store/profiles.ts'
import { changed, copyTo, type Replacement } from '../../test/chaos/mutants.ts'
import { type BenchGateway, startBenchGateway } from '../support/gateway.ts'
import { createLiveAgenda } from './agenda.ts'
import { sendAll, type Told } from './clients.ts'
import { type Bill, openFleet } from './fleet.ts'

export interface Live {
  readonly outcome: Outcome
  readonly told: ReadonlyMap<Request, Told>
  readonly errors: readonly string[]
  /** Calls that providers failed to answer. */
  readonly failures: number
  /** Of one core, while requests came. */
  readonly cpuShare: number
  /** How much later than it should this process did something, p99: what is beyond some milliseconds spoils the figures. */
  readonly lateMs: number
  readonly loadAtStart: string
}

/** How many times as fast as in the scenario everything goes. */
export const speed = 10
const drainS = 600
const contextTokens = 65_536

// Every place on the list gets its figure by chance: the best of them is any that could be had.
const randomScore: Replacement = {
  file: 'routing/brain/plan.ts',
  find: '  estimates.sort((one, other) => one.score - other.score)\n',
  replace:
    '  for (const each of estimates) (each as { score: number }).score = random()\n  estimates.sort((one, other) => one.score - other.score)\n'
}

/** `isRandom`: the score is replaced by chance, in a copy of the program. */
export async function runLive(scenario: Scenario, { seed, isRandom }: { seed: number; isRandom: boolean }): Promise<Live> {
  const requests = drawTraffic(scenario, seed, atS => atS)
  const agenda = createLiveAgenda(speed)
  const fleet = await openFleet(scenario, { seed, agenda, requests })
  const folder = mkdtempSync(join(tmpdir(), 'llm-mcp-scenario-'))
  const root = join(folder, 'copy')
  // An edit in the middle of the run is to change nothing.
  await copyTo(fileURLToPath(new URL('../../', import.meta.url)), root, null)
  if (isRandom) await replace(root, randomScore)
  const gateway = await startBenchGateway(configOf(scenario, fleet.urls), {
    root,
    imports: [new URL('fast-clock.ts', import.meta.url)],
    env: { BENCH_CLOCK_SPEED: String(speed) },
    prepare: dataDir => withDatabase(dataDir, pool => knowLimits(pool, scenario))
  })
  try {
    await prepared(gateway, scenario)
    const keys = await keysOf(gateway, scenario)
    const loadAtStart = (loadavg()[0] ?? 0).toFixed(1)
    const cpuMs = gateway.cpuMs()
    const beganAt = performance.now()
    const delay = monitorEventLoopDelay({ resolution: 5 })
    delay.enable()
    agenda.start()
    const told = await sendAll(requests, { gateway, agenda, speed, keys }, scenario.duration + drainS)
    delay.disable()
    const cpuShare = (gateway.cpuMs() - cpuMs) / (performance.now() - beganAt)
    const fates = requests.map((request): Fate => fateOf(request, told.get(request), fleet.bills.get(request)))
    const course = { fates, endS: agenda.clockS(), busyS: fleet.busyS(), loads: fleet.loads(), refusals: fleet.refusals(), hash: '' }
    return {
      outcome: outcomeOf(scenario, isRandom ? 'gateway, random' : 'gateway', course),
      told,
      errors: [...told.values()].flatMap(({ error }) => (error === null ? [] : [error])),
      failures: fleet.failures(),
      cpuShare,
      // It counts its own pause.
      lateMs: Math.max(0, delay.percentile(99) / 1e6 - 5),
      loadAtStart
    }
  } finally {
    await gateway.stop()
    fleet.close()
    agenda.close()
    rmSync(folder, { recursive: true, force: true })
  }
}

async function replace(root: string, replacement: Replacement): Promise<void> {
  const path = join(root, replacement.file)
  await writeFile(path, changed(await readFile(path, 'utf8'), replacement))
}

/** Names of machines and providers are in lower case. */
const upstreamOf = (node: string): string => node.toLowerCase()

function configOf(scenario: Scenario, urls: ReadonlyMap<string, string>): object {
  const own = scenario.nodes.flatMap(node => (node.kind === 'cloud' ? [] : [node]))
  const rented = scenario.nodes.flatMap(node => (node.kind === 'cloud' ? [node] : []))
  return {
    machines: Object.fromEntries(
      own.map(({ id, slots, watts, vram }) => [
        upstreamOf(id),
        { url: urls.get(id), max_concurrency: slots, watts, vram_gb: vram, num_ctx: contextTokens }
      ])
    ),
    providers: Object.fromEntries(
      rented.map(({ id }) => [upstreamOf(id), { type: 'openrouter', base_url: urls.get(id), api_key: 'sk-or-scenario' }])
    ),
    policy: { electricity_usd_per_kwh: 0.25 }
  }
}

/** It knows what the simulator's policy knows at the start: every model, and what benchmarks have measured. */
async function prepared(gateway: BenchGateway, scenario: Scenario): Promise<void> {
  const own = scenario.nodes.flatMap(node => (node.kind === 'cloud' ? [] : [node]))
  const targets = scenario.nodes.flatMap(node => Object.keys(node.models).map(model => `${upstreamOf(node.id)}/${model}`))
  const names = [...new Set(scenario.nodes.flatMap(node => Object.keys(node.models)))]
  await until(`all models of ${targets.length} targets are listed`, async () => {
    const { data } = (await (await gateway.fetch('/v1/models')).json()) as { data: { id: string }[] }
    return names.every(name => data.some(({ id }) => id === name))
  })
  await withDatabase(gateway.dataDir, async pool => {
    for (const node of own) {
      const lie = scenario.benchmarkError?.[node.id] ?? 1
      for (const [model, { dec, pre }] of Object.entries(node.models)) {
        const profile = benchmarked(node, scenario.models[model]?.gb ?? 0, dec / lie, pre / lie)
        const key = { deviceId: upstreamOf(node.id), model: `${model}:latest` }
        await until(`${model} of ${node.id} is known`, async () => (await changeProfile(pool, key, () => profile)) !== null)
      }
    }
  })
  await until('the machines are up and their benchmarks known', async () => {
    const { data } = (await (await gateway.fetch('/v1/devices')).json()) as { data: Device[] }
    return own.every(({ id, models }) => {
      const device = data.find(other => other.id === upstreamOf(id))
      return device?.health === 'up' && device.models.filter(({ profile }) => profile !== null).length === Object.keys(models).length
    })
  })
}

async function withDatabase(dataDir: string, act: (pool: Pool) => Promise<void>): Promise<void> {
  const server = await startEmbeddedPostgres({ dataDir, log: () => {} })
  const pool = createPool(server.connection, { max: 1, name: 'scenario', onError: () => {} })
  try {
    await act(pool)
  } finally {
    await pool.end()
    await server.release()
  }
}

/** How many calls providers take: as a gateway of an earlier time has left it. */
async function knowLimits(pool: Pool, { nodes }: Scenario): Promise<void> {
  const rented = createRentedModel()
  for (const node of nodes) if (node.kind === 'cloud') rented.limit(upstreamOf(node.id), { perS: node.rpm / 60, burst: node.rpm / 6 })
  const state = {
    version: 1,
    lengths: createLengthModel().snapshot(),
    calibration: createCalibration().snapshot(),
    rented: rented.snapshot()
  }
  await migrate(pool)
  await saveBrainState(pool, randomUUID(), JSON.stringify(state))
}

interface Device {
  readonly id: string
  readonly health: string
  readonly models: readonly { readonly profile: unknown }[]
}

async function keysOf(gateway: BenchGateway, { sources }: Scenario): Promise<Map<string, string>> {
  const keys = new Map<string, string>()
  for (const { id, weight = 1 } of sources) {
    const response = await gateway.fetch('/v1/keys', { json: { kind: 'source', source: id, weight } })
    const { key } = (await response.json()) as { key?: string }
    if (key === undefined) throw new Error(`no key was made for ${id}: ${response.status}`)
    keys.set(id, key)
  }
  return keys
}

function fateOf(request: Request, told: Told | undefined, bill: Bill | undefined): Fate {
  // Nobody waits at the line for a batch: it is over when its machine is done with it.
  const endedS = told?.endedS == null ? null : request.job.prio === 2 ? (bill?.endedS ?? null) : told.endedS
  const isLeft = endedS === null && request.leavesS !== null
  return {
    request,
    endedS: isLeft ? request.leavesS : endedS,
    outcome: endedS !== null ? 'answered' : isLeft ? 'left' : 'unfinished',
    node: bill?.node ?? null,
    usd: bill?.usd ?? 0,
    sends: bill?.calls ?? 0,
    eta: null
  }
}

async function until(what: string, probe: () => Promise<boolean>): Promise<void> {
  for (const end = performance.now() + 20_000; performance.now() < end; ) {
    if (await probe()) return
    await new Promise(resolve => setTimeout(resolve, 50))
  }
  throw new Error(`waited 20 s in vain until ${what}`)
}
