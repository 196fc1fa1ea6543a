// GET /v1/dashboard: everything at one look, for admins.

import type { FastifyInstance } from 'fastify'
import { formatUsd } from '../../routing/cost.ts'
import type { Snapshot } from '../../store/dashboard.ts'
import type { DeviceRecord } from '../../store/fleet.ts'
import { type DeviceView, deviceObject } from '../fleet/device.ts'
import { issuesOf } from '../fleet/issues.ts'

export interface DashboardPorts {
  readonly snapshot: () => Promise<Snapshot>
  readonly devices: () => Promise<readonly DeviceRecord[]>
  readonly view: (id: string) => DeviceView
  /** Epoch, ms. */
  readonly now: () => number
}

export function registerDashboard(app: FastifyInstance, ports: DashboardPorts): void {
  app.get('/v1/dashboard', { config: { requires: ['admin'] } }, async () => {
    const [snapshot, devices] = await Promise.all([ports.snapshot(), ports.devices()])
    const nowMs = ports.now()
    const seen = devices.map(device => ({ ...device, error: ports.view(device.id).used?.error ?? null }))
    return {
      object: 'dashboard',
      at: new Date(nowMs).toISOString(),
      issues: issuesOf(snapshot, seen, nowMs),
      jobs: snapshot.jobs,
      running: snapshot.running.map(({ startedAt, ...job }) => ({ ...job, started_at: startedAt.toISOString() })),
      devices: devices.map(device => deviceObject(device, ports.view(device.id))),
      processes: snapshot.processes.map(({ startedAt, ...process }) => ({ ...process, started_at: startedAt.toISOString() })),
      costs: Object.fromEntries(
        Object.entries(snapshot.costs).map(([period, { nanoUsd, unknown }]) => [
          period,
          { cost_usd: Number(formatUsd(nanoUsd)), unknown_price_attempts: unknown }
        ])
      )
    }
  })
}
