// What runs by itself in this process: the chores, which all processes do together, each once.

import { hostname } from 'node:os'
import { registeredPrice } from '../ledger/registry.ts'
import { type Chore, createChores } from '../planner/chores.ts'
import { cleanUp } from '../planner/cleanup.ts'
import { createAddressGuard, defaultRanges } from '../planner/discovery/guard.ts'
import { createProbe } from '../planner/discovery/probe.ts'
import { discover, discoveryNote } from '../planner/discovery/run.ts'
import { createHardware } from '../planner/hardware.ts'
import type { Inventory } from '../planner/inventory.ts'
import { isSynced, type ModelSyncPorts, syncModels, syncNote } from '../planner/model-sync.ts'
import type { Adapter, Target } from '../routing/types.ts'
import { fleetChannel, notify } from '../store/channels.ts'
import { callChore, settleChore } from '../store/chores.ts'
import type { Pool } from '../store/pool.ts'
import { openAlerts } from './alerts.ts'
import type { Settings } from './config.ts'
import { discovery } from './fleet.ts'
import { ownDeviceId } from './own-device.ts'

export interface Planner {
  /** Does nothing where this process has another role. */
  start(): void
  /** A target was asked that does not have its model. */
  missing(target: Target): void
  close(): Promise<void>
}

const hourMs = 3_600_000
const minuteMs = 60_000
export const modelSync = 'models.sync'

/** What a sync of all rented models is given. */
export function modelSyncPorts(ports: {
  readonly settings: Settings
  readonly pool: Pool
  readonly adapters: ReadonlyMap<string, Adapter>
}): ModelSyncPorts {
  const { settings, pool, adapters } = ports
  return {
    pool,
    upstreams: settings.upstreams,
    adapters,
    aliases: settings.aliases,
    prices: { configured: settings.prices, registered: registeredPrice },
    policy: settings.modelSync,
    onSynced: provider => notify(pool, [{ channel: fleetChannel, payload: provider }])
  }
}

export function openPlanner(ports: {
  readonly settings: Settings
  readonly pool: Pool
  readonly processId: string
  readonly adapters: ReadonlyMap<string, Adapter>
  readonly inventory: Pick<Inventory, 'refresh'>
  /** Servers that discovery need not look for: those of the configuration, and this one. */
  readonly known: readonly { readonly url: string; readonly name: string }[]
  /** What others of this process do for all. */
  readonly more: readonly Chore[]
  readonly newId: () => string
  readonly log: (message: string, error?: unknown) => void
}): Planner {
  const { settings, pool, processId, adapters, inventory, log } = ports
  const isPlanner = settings.role === 'all' || settings.role === 'planner'
  const { modelSync: sync } = settings
  const { discovery: where } = settings
  const discoveryPorts = {
    pool,
    probe: createProbe(createAddressGuard(where.ranges ?? defaultRanges)),
    tailscaleBin: where.tailscaleBin,
    ports: where.ollamaPorts,
    known: ports.known,
    approve: where.approve,
    host: hostname(),
    newId: ports.newId,
    now: () => performance.now(),
    random: Math.random
  }
  const alerts = openAlerts(ports)
  // Of this host, and so in each process, not once for all.
  const hardware = createHardware({ pool, deviceId: ownDeviceId(), log })
  const chores = createChores({
    pool,
    processId,
    log,
    chores: [
      ...(settings.upstreams.some(isSynced)
        ? [{ name: modelSync, everyMs: sync.everyHours * hourMs, atOnce: sync.onStartup, limitMs: 5 * minuteMs, run: syncAll }]
        : []),
      {
        name: discovery,
        everyMs: settings.discovery.everySeconds * 1_000,
        atOnce: settings.discovery.everySeconds > 0,
        limitMs: 2 * minuteMs,
        run: async signal => discoveryNote(await discover(discoveryPorts, signal))
      },
      ...ports.more,
      {
        name: 'cleanup',
        everyMs: hourMs,
        atOnce: true,
        limitMs: 6 * hourMs,
        run: signal => cleanUp({ pool, retentionDays: settings.jobRetentionDays, routeDays: settings.routeRetentionDays }, signal)
      },
      ...alerts.chores
    ]
  })

  async function syncAll(signal: AbortSignal): Promise<string> {
    const results = await syncModels(modelSyncPorts({ settings, pool, adapters }), signal)
    const note = syncNote(results)
    if (results.some(({ error }) => error !== null)) throw new Error(note)
    return note
  }

  return {
    start() {
      if (!isPlanner) return
      chores.start()
      // What failed with a provider that was taken out of the configuration.
      if (!settings.upstreams.some(isSynced))
        settleChore(pool, modelSync, 'no provider has a list').catch(error => log('what is due could not be written down', error))
      hardware.start()
    },
    missing({ upstream }) {
      inventory.refresh(upstream.id)
      // Its list is older than the upstream's.
      if (isSynced(upstream)) callChore(pool, modelSync, 10 * minuteMs).catch(error => log('the models could not be listed again', error))
    },
    async close() {
      await hardware.close()
      await chores.close()
      await alerts.close()
    }
  }
}
