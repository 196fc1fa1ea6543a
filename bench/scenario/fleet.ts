// The nodes of a scenario behind sockets, and what they have to say afterwards: who answered what, and what it cost.

import { createOwnNode, type SimulatedOwnNode } from '../../simulate/own-node.ts'
import type { End, NodePorts } from '../../simulate/ports.ts'
import { createRentedNode } from '../../simulate/rented-node.ts'
import type { Request } from '../../simulate/traffic.ts'
import type { Scenario } from '../../simulate/types.ts'
import type { LiveAgenda } from './agenda.ts'
import { type Front, openMachine } from './machine.ts'
import { openProvider } from './provider.ts'

export interface Fleet {
  /** By node. */
  readonly urls: ReadonlyMap<string, string>
  /** Of each request: what its calls cost on rented nodes, how many there were, and where the last was. */
  readonly bills: ReadonlyMap<Request, Bill>
  /** What happened that is no answer: refusals, failures, in words. */
  readonly loads: () => number
  readonly refusals: () => number
  readonly failures: () => number
  /** Seconds in which each own node took power. */
  busyS(): Map<string, number>
  close(): void
}

export interface Bill {
  usd: number
  calls: number
  node: string
  /** When the last of its calls ended. */
  endedS: number
}

// Tokens are sent as often as this; the physics counts them exactly.
const tickMs = 5

export async function openFleet(
  scenario: Scenario,
  { seed, agenda, requests }: { seed: number; agenda: LiveAgenda; requests: readonly Request[] }
): Promise<Fleet> {
  const bills = new Map<Request, Bill>()
  const own = new Map<string, SimulatedOwnNode>()
  const fronts = new Map<string, Front>()
  let loads = 0
  let refusals = 0
  let failures = 0

  const ports: NodePorts = {
    agenda,
    seed,
    hidden: scenario.hidden ?? {},
    shown: atS => atS,
    ended(end) {
      settle(end)
      fronts.get(end.finished.node)?.ended(end)
    },
    loads: () => {
      loads++
    },
    loaded: ({ node }) => fronts.get(node)?.loaded()
  }

  function settle({ request, usd, finished }: End): void {
    const bill = bills.get(request) ?? { usd: 0, calls: 0, node: '', endedS: 0 }
    bills.set(request, { usd: bill.usd + usd, calls: bill.calls + 1, node: finished.node, endedS: agenda.nowS })
    if (finished.outcome === 'refused') refusals++
    if (finished.outcome === 'failed') failures++
  }

  for (const config of scenario.nodes) {
    if (config.kind === 'cloud') {
      const node = createRentedNode(config, { ...ports, scenario })
      fronts.set(config.id, await openProvider(node, { config, agenda, requests }))
    } else {
      // Ollama loads and throws out by itself what it is not told.
      const node = createOwnNode(config, { ...ports, scenario, commandsMemory: false })
      own.set(config.id, node)
      fronts.set(config.id, await openMachine(node, { config, scenario, agenda, requests }))
    }
  }
  const ticker = setInterval(() => agenda.enter(tick), tickMs)

  function tick(): void {
    for (const front of fronts.values()) front.tick()
  }

  return {
    urls: new Map([...fronts].map(([id, { url }]) => [id, url])),
    bills,
    loads: () => loads,
    refusals: () => refusals,
    failures: () => failures,
    busyS() {
      let busy = new Map<string, number>()
      agenda.enter(() => {
        busy = new Map([...own].map(([id, node]) => [id, node.busyS()]))
      })
      return busy
    },
    close() {
      clearInterval(ticker)
      for (const front of fronts.values()) front.close()
    }
  }
}
