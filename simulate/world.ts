// One run: the requests arrive, the nodes work, and a policy decides. Nothing here knows the policy, and nothing draws for it.

import { createHash } from 'node:crypto'
import { createAgenda } from './agenda.ts'
import { createOwnNode, type SimulatedOwnNode } from './own-node.ts'
import type { End, NodePorts, SimulatedNode } from './ports.ts'
import { createStream } from './random.ts'
import { createRentedNode, type SimulatedRentedNode } from './rented-node.ts'
import { defaults } from './scenario.ts'
import { drawTraffic, type Request } from './traffic.ts'
import type { Job, Policy, Scenario, Truth, World } from './types.ts'

/** What became of one request. Seconds of the true clock. */
export interface Fate {
  readonly request: Request
  endedS: number | null
  outcome: 'answered' | 'left' | 'unfinished'
  /** Where it is, or was answered. */
  node: string | null
  /** What its attempts cost on rented nodes. */
  usd: number
  sends: number
  eta: { readonly p50S: number; readonly p90S: number } | null
}

export interface Course {
  /** In the order of arrival. */
  readonly fates: readonly Fate[]
  /** When the last was answered, or patience with the rest ended. */
  readonly endS: number
  /** Busy seconds of each own node. */
  readonly busyS: ReadonlyMap<string, number>
  readonly loads: number
  readonly refusals: number
  /** sha256 of every send and load with its moment: the same seed, scenario and policy give the same. */
  readonly hash: string
}

// `Policy.stored` is called as often as the product writes its state down.
const storeEveryS = 5

/** Throws when the policy does what cannot be: sends a job twice at once, one that has ended, or to no node. */
export function runWorld(scenario: Scenario, policy: Policy, seed: number): Course {
  const agenda = createAgenda()
  const decisions = createHash('sha256')
  const untilS = scenario.duration + (scenario.drain ?? defaults.drainS)
  const offset = (atS: number): number => (scenario.clockSkew ?? []).reduce((sum, { t, by }) => (atS >= t ? sum + by : sum), 0)
  const shown = (atS: number): number => atS + offset(atS)
  const fates: Fate[] = drawTraffic(scenario, seed, shown).map(request => {
    return { request, endedS: null, outcome: 'unfinished', node: null, usd: 0, sends: 0, eta: null }
  })
  const choices = createStream(seed, 'policy')
  const own = new Map<string, SimulatedOwnNode>()
  const rented = new Map<string, SimulatedRentedNode>()
  const nodes = new Map<string, SimulatedNode>()
  let open = fates.length
  let loads = 0
  let refusals = 0

  const ports: NodePorts = {
    agenda,
    seed,
    hidden: scenario.hidden ?? {},
    shown,
    ended,
    loads: ({ node, model }) => {
      loads++
      decisions.update(`${agenda.nowS} load ${model} ${node}\n`)
    },
    loaded: load => policy.loaded?.(load, world)
  }
  for (const config of scenario.nodes) {
    if (config.kind === 'cloud') rented.set(config.id, createRentedNode(config, { ...ports, scenario }))
    else own.set(config.id, createOwnNode(config, { ...ports, scenario, commandsMemory: policy.commandsMemory }))
    nodes.set(config.id, rented.get(config.id) ?? simulated(own, config.id))
  }

  const world: World = {
    scenario,
    get nowS() {
      return shown(agenda.nowS)
    },
    node: id => simulated(nodes, id).view,
    nodes: Array.from(nodes.values(), ({ view }) => view),
    random: choices.uniform,
    send,
    load: (node, model, evict = []) => own.get(node)?.load(model, evict) ?? false,
    wakeAt: atS => agenda.at(atS - offset(agenda.nowS), () => policy.woken?.(world)),
    truth,
    price: (node, model) => rented.get(node)?.knownPrice(model) ?? { in: 0, out: 0 }
  }

  function send(job: Job, id: string): void {
    const node = simulated(nodes, id)
    const fate = fateOf(job)
    if (fate.endedS !== null) throw new Error(`Job ${job.id} was sent to ${id} at ${agenda.nowS} s, but has ended.`)
    if (fate.node !== null) throw new Error(`Job ${job.id} was sent to ${id} at ${agenda.nowS} s, but is on ${fate.node}.`)
    fate.node = id
    fate.sends++
    decisions.update(`${agenda.nowS} send ${job.id} ${id}\n`)
    node.send(fate.request)
  }

  function ended({ request, usd, finished }: End): void {
    const fate = fateOf(request.job)
    fate.usd += usd
    if (finished.outcome === 'refused') refusals++
    if (finished.outcome === 'done') close(fate, 'answered')
    else if (finished.outcome !== 'cancelled') {
      // Its client may have left at the very moment of a refusal.
      if (fate.endedS !== null) return
      fate.node = null
    }
    policy.finished(finished, world)
  }

  function close(fate: Fate, outcome: Fate['outcome']): void {
    fate.outcome = outcome
    fate.endedS = agenda.nowS
    open--
  }

  function arrives(fate: Fate): void {
    const { job } = fate.request
    policy.arrived(job, world)
    fate.eta = policy.eta?.(job) ?? null
  }

  function leaves(fate: Fate): void {
    if (fate.endedS !== null) return
    close(fate, 'left')
    policy.left?.(fate.request.job, world)
    if (fate.node !== null) nodes.get(fate.node)?.cancel(fate.request)
  }

  function fateOf(job: Job): Fate {
    const fate = fates[job.id]
    if (fate === undefined) throw new Error(`There is no job ${job.id}.`)
    return fate
  }

  function truth(job: Job): Truth {
    const { request } = fateOf(job)
    return {
      outputTokens: request.outputTokens,
      noise: request.noise,
      rented: (node, atS) => simulated(rented, node).draw(request, atS - offset(agenda.nowS)),
      own: (node, model, atS) => simulated(own, node).speed(model, atS - offset(agenda.nowS))
    }
  }

  function turns(id: string, isUp: boolean): void {
    simulated(nodes, id).setUp(isUp)
    policy.changed?.(id, world)
  }

  function stores(): void {
    policy.stored?.(world)
    agenda.at(agenda.nowS + storeEveryS, stores)
  }

  for (const fate of fates) {
    agenda.at(fate.request.arrivedS, () => arrives(fate))
    if (fate.request.leavesS !== null) agenda.at(fate.request.leavesS, () => leaves(fate))
  }
  for (const { t, node, up } of scenario.events ?? []) agenda.at(t, () => turns(node, up))
  for (const { t } of scenario.restart ?? []) agenda.at(t, () => policy.restarted?.(world))
  if (scenario.restart !== undefined) stores()
  while (open > 0 && agenda.step(untilS));

  // What was not answered is counted until the drain ends, as if the clock had run on.
  const endS = open > 0 ? untilS : agenda.nowS
  if (open > 0) agenda.at(untilS, () => undefined)
  while (open > 0 && agenda.step(untilS));
  const busyS = new Map(Array.from(own, ([id, node]) => [id, node.busyS()]))
  return { fates, endS, busyS, loads, refusals, hash: decisions.digest('hex') }
}

function simulated<T>(nodes: ReadonlyMap<string, T>, id: string): T {
  const node = nodes.get(id)
  if (node === undefined) throw new Error(`There is no such node: ${id}.`)
  return node
}
