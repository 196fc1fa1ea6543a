// The machines of this process: which there are, how they are, and what a person may do with them.

import { hostname } from 'node:os'
import type { FleetPorts } from '../gateway/routes/fleet.ts'
import type { Outbound } from '../outbound/client.ts'
import { machinesInUse } from '../planner/discovery/owners.ts'
import { askMachine } from '../planner/health/ask.ts'
import { marksOf } from '../planner/health/marks.ts'
import { createTeller } from '../planner/health/teller.ts'
import { createHealth, type Watched } from '../planner/health.ts'
import type { Inventory } from '../planner/inventory.ts'
import { GatewayError } from '../routing/errors.ts'
import type { MachineHealth } from '../routing/ports.ts'
import type { Profile } from '../routing/profile.ts'
import type { Upstream } from '../routing/types.ts'
import { fleetChannel, healthChannel } from '../store/channels.ts'
import { callChore } from '../store/chores.ts'
import {
  type DeviceRecord,
  declareMachines,
  findDevice,
  lastDiscovery,
  listDevices,
  livingProcesses,
  patchDevice,
  type StoredLimits,
  setHealth,
  settleDeclared,
  setVersion
} from '../store/fleet.ts'
import type { Pool } from '../store/pool.ts'
import { foundUpstream, type Settings, withLimits } from './config.ts'
import { deviceId } from './own-device.ts'

export interface Fleet {
  readonly health: MachineHealth
  /** Whether a machine is away, asked just now where that is not known; one that says nothing for half a second is not. Never rejects. */
  readonly isAway: (deviceId: string) => Promise<boolean>
  /** For the routes of machines and discovery. */
  readonly routes: FleetPorts
  /** Watches the machines from now on, and takes in those that were approved. */
  start(inventory: Pick<Inventory, 'catalog' | 'change' | 'report' | 'refresh'>): Promise<void>
  notified(channel: string, payload: string): void
  close(): void
}

export const discovery = 'discovery'

// Somebody waits for the answer, and another process may be at it. A second until one looks, five for a slow `tailscale`, 18 to ask and
// 2.5 for the last answers (planner/discovery/look.ts).
const discoveryWithinMs = 30_000
const pollMs = 100
const callEveryMs = 1_000
const awayWithinMs = 500
const declareEveryMs = 30_000
// A gateway that starts again within a minute still has its machines.
const unusedForS = 60

export function createFleet(ports: {
  readonly settings: Settings
  readonly pool: Pool
  readonly processId: string
  readonly outbound: Outbound
  /** Those of the configuration. */
  readonly upstreams: readonly Upstream[]
  /** Machines that the configuration names, and this host's own. */
  readonly declared: readonly string[]
  readonly inFlight: (upstreamId: string) => number
  readonly profileOf: (deviceId: string, model: string) => Profile | null
  /** Calls that run there are to fail now. */
  readonly onDown: (deviceId: string) => void
  readonly onUp: (deviceId: string) => void
  readonly log: (message: string, error?: unknown) => void
}): Fleet {
  const { settings, pool, outbound, log } = ports
  const host = hostname()
  let inventory: Pick<Inventory, 'catalog' | 'change' | 'report' | 'refresh'> | null = null
  const versions = new Map<string, string>()
  let isLoading = false
  let again = false
  let isClosed = false

  const teller = createTeller({ write: (id, { state, note }) => setHealth(pool, id, state, note), log })
  const health = createHealth({
    processId: ports.processId,
    now: () => performance.now(),
    random: Math.random,
    living: () => livingProcesses(pool),
    inFlight: id => ports.inFlight(upstreamOf(id)?.id ?? id),
    onChange: act,
    tell: (id, state, note) => teller.tell(id, { state, note }),
    log
  })

  function act(id: string, state: 'up' | 'down'): void {
    if (state === 'down') ports.onDown(id)
    else {
      ports.onUp(id)
      inventory?.refresh(upstreamOf(id)?.id ?? id)
    }
  }

  function machines(): readonly Upstream[] {
    return (inventory?.catalog().source.upstreams ?? []).filter(({ device }) => device !== null)
  }

  function upstreamOf(id: string): Upstream | null {
    return machines().find(upstream => upstream.device?.id === id) ?? null
  }

  /** What the configuration says, with what was set by hand, and those that were found and approved. */
  async function load(): Promise<void> {
    const records = await listDevices(pool)
    const byId = new Map(records.map(record => [record.id, record]))
    const limited = ports.upstreams.flatMap(upstream => {
      const record = byId.get(deviceId(upstream))
      return upstream.device !== null && record?.state === 'blocked' ? [] : [withRecord(upstream, record)]
    })
    const configured = new Set(ports.upstreams.map(deviceId))
    const configuredUrls = ports.upstreams.filter(({ device }) => device !== null).map(({ baseUrl }) => baseUrl)
    const found = machinesInUse(records, { host, configuredUrls }).filter(({ id }) => !configured.has(id))
    const own = limited.filter(upstream => upstream.own)
    const rented = limited.filter(upstream => !upstream.own)
    inventory?.change([
      ...own,
      ...found.map(record => withRecord(foundUpstream({ id: record.id, url: record.url, type: record.adapter }, settings), record)),
      ...rented
    ])
    const onlyHosts = new Map(records.map(({ id, onlyHost }) => [id, onlyHost]))
    health.watch(machines().map(upstream => watched(upstream, onlyHosts.get(deviceId(upstream)) ?? loopbackOf(upstream))))
  }

  /** Tells the others which machines are in use here, and that those of the configuration are gone which nobody has there any more. */
  async function declare(unusedS: number): Promise<void> {
    try {
      await declareMachines(pool, ports.processId, ports.declared)
      await settleDeclared(pool, unusedS)
    } catch (error) {
      log('which machines are configured could not be written down', error)
    }
  }

  function reload(): void {
    again = true
    if (!isLoading) void loadAll()
  }

  /** As often as it was asked for meanwhile, one after the other. */
  async function loadAll(): Promise<void> {
    isLoading = true
    while (again && !isClosed) {
      again = false
      await load().catch((error: unknown) => log('the machines could not be read', error))
    }
    isLoading = false
  }

  /** A configured machine on a loopback address is this host's own. */
  function loopbackOf({ baseUrl }: Upstream): string | null {
    const { hostname: name } = new URL(baseUrl)
    return /^(127\.|\[::1\]$|localhost$)/.test(name) ? host : null
  }

  function watched(upstream: Upstream, onlyHost: string | null): Watched {
    return {
      deviceId: deviceId(upstream),
      onlyHost,
      async ask(signal) {
        const version = await askMachine(outbound, upstream, signal)
        if (version !== null) remember(deviceId(upstream), version)
      }
    }
  }

  /** A server's version, when it is another than before. */
  function remember(id: string, version: string): void {
    if (versions.get(id) === version) return
    versions.set(id, version)
    setVersion(pool, id, version, marksOf('ollama', version)).catch((error: unknown) => {
      versions.delete(id)
      log('the version of a machine could not be written down', error)
    })
  }

  async function discover(): ReturnType<FleetPorts['discover']> {
    const before = (await lastDiscovery(pool))?.id ?? null
    const beganAt = performance.now()
    let calledAt: number | null = null
    while (performance.now() - beganAt < discoveryWithinMs) {
      const last = await lastDiscovery(pool)
      if (last !== null && last.id !== before) return last
      // A process that starts makes its chores known, and with that a call is forgotten; one that was done just now is not done again.
      if (calledAt === null || performance.now() - calledAt >= callEveryMs) {
        await callChore(pool, discovery, calledAt === null ? 0 : callEveryMs)
        calledAt = performance.now()
      }
      await new Promise(resolve => setTimeout(resolve, pollMs))
    }
    throw new GatewayError('no_capacity', 'No process looked for machines in time: one of them must have the role planner or all.', {
      retryAfterMs: 5_000
    })
  }

  const declaring = setInterval(() => void declare(unusedForS), declareEveryMs)
  declaring.unref()

  return {
    health,
    async isAway(id) {
      if (health.isDown(id)) return true
      const late = new Promise<'up'>(resolve => setTimeout(() => resolve('up'), awayWithinMs).unref())
      return (await Promise.race([health.check(id), late])) === 'down'
    },
    routes: {
      list: () => listDevices(pool),
      find: id => findDevice(pool, id),
      patch: (id, patch) => patchDevice(pool, id, patch),
      view: id => ({ used: usedAs(id) }),
      discover,
      lastDiscovery: () => lastDiscovery(pool),
      async check(id, reason) {
        const record = await findDevice(pool, id)
        if (record === null || upstreamOf(id) === null) return record
        log(`the machine ${id} is said to be away (${reason}): it is asked`)
        await health.check(id)
        return findDevice(pool, id)
      }
    },
    async start(given) {
      inventory = given
      await load().catch((error: unknown) => log('the machines could not be read yet', error))
      await declare(0)
    },
    notified(channel, payload) {
      if (channel === fleetChannel && payload === '') reload()
      else if (channel === fleetChannel) inventory?.refresh(payload)
      else if (channel === healthChannel) {
        const [state, ...id] = payload.split(' ')
        if (state !== 'up' && state !== 'down') return
        health.told(id.join(' '), state)
      }
    },
    close() {
      isClosed = true
      clearInterval(declaring)
      health.close()
      teller.close()
    }
  }

  function usedAs(id: string): ReturnType<FleetPorts['view']>['used'] {
    const upstream = upstreamOf(id)
    if (upstream === null || upstream.device === null) return null
    const { targets } = inventory?.catalog().source ?? { targets: [] }
    const report = inventory?.report().find(({ upstream: other }) => other.id === upstream.id)
    const { watts, vramGb, ramGb } = upstream.device
    return {
      watts,
      vramGb,
      ramGb,
      models: targets
        .filter(target => target.upstream.id === upstream.id)
        .map(({ model, loaded, contextTokens }) => ({ id: model, loaded, contextTokens, profile: ports.profileOf(id, model) })),
      error: report?.error ?? null
    }
  }
}

function withRecord(upstream: Upstream, record: DeviceRecord | undefined): Upstream {
  return record === undefined || record.limits === null ? upstream : withLimits(upstream, present(record.limits))
}

/** Those that are set. */
function present(limits: StoredLimits): Parameters<typeof withLimits>[1] {
  return Object.fromEntries(Object.entries(limits).filter(([, value]) => value !== null))
}
