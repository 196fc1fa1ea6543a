// /v1/devices and /v1/discovery: the machines, for admins.

import type { FastifyInstance, FastifyRequest } from 'fastify'
import { GatewayError } from '../../routing/errors.ts'
import type { DevicePatch, DeviceRecord, DiscoveryRun } from '../../store/fleet.ts'
import { readBody } from '../body.ts'
import { type Facts, missing, wrong } from '../fields.ts'
import { type DeviceView, deviceObject, readDevicePatch } from '../fleet/device.ts'

export interface FleetPorts {
  readonly list: () => Promise<readonly DeviceRecord[]>
  readonly find: (id: string) => Promise<DeviceRecord | null>
  readonly patch: (id: string, patch: DevicePatch) => Promise<DeviceRecord | null>
  /** What this gateway knows of a machine beyond its record. */
  readonly view: (id: string) => DeviceView
  /** Starts a look around, or joins the one that is on its way; resolves with its end. Throws GatewayError when it does not come. */
  readonly discover: () => Promise<DiscoveryRun>
  readonly lastDiscovery: () => Promise<DiscoveryRun | null>
  /** Somebody says that a machine is away: whether that is so, asked just now. Null when there is no such machine. */
  readonly check: (id: string, reason: string) => Promise<DeviceRecord | null>
}

const reasonLength = 200

export function registerFleet(app: FastifyInstance, ports: FleetPorts): void {
  const config = { requires: ['admin'] as const }
  const shown = (record: DeviceRecord) => deviceObject(record, ports.view(record.id))
  const found = async (id: string) => existing(canBeId(id) ? await ports.find(id) : null)

  app.get('/v1/devices', { config }, async () => ({ object: 'list', data: (await ports.list()).map(shown) }))

  app.get<{ Params: { id: string } }>('/v1/devices/:id', { config }, async request => shown(await found(idOf(request))))

  app.patch<{ Params: { id: string } }>('/v1/devices/:id', { config }, async request => {
    const patch = readDevicePatch(bodyOf(request))
    const before = await found(idOf(request))
    if (before.origin === 'config' && patch.state !== undefined && patch.state === 'proposed') {
      throw new GatewayError('invalid_request', 'This machine is in the configuration: it can be blocked, but not be a proposal.', {
        param: 'state'
      })
    }
    return shown(existing(await ports.patch(before.id, patch)))
  })

  app.post('/v1/devices/offline', { config }, async request => {
    const { device_id: id, reason } = bodyOf(request)
    if (id === undefined || id === null) throw missing('device_id', 'the id of a machine')
    if (typeof id !== 'string') throw wrong('device_id', 'the id of a machine', id)
    if (reason !== undefined && reason !== null && typeof reason !== 'string') throw wrong('reason', 'a text', reason)
    return shown(
      existing(canBeId(id) ? await ports.check(id, (reason ?? 'somebody said so').replaceAll('\0', '').slice(0, reasonLength)) : null)
    )
  })

  app.post('/v1/discovery/run', { config }, async () => runObject(await ports.discover()))

  app.get('/v1/discovery/last', { config }, async () => {
    const run = await ports.lastDiscovery()
    if (run === null) throw new GatewayError('not_found', 'Nobody has looked for machines yet: POST /v1/discovery/run does.')
    return runObject(run)
  })
}

function idOf(request: FastifyRequest<{ Params: { id: string } }>): string {
  return request.params.id.slice(0, 256)
}

/** PostgreSQL takes no NUL. */
function canBeId(id: string): boolean {
  return !id.includes('\0')
}

function bodyOf(request: FastifyRequest): Facts {
  return request.body instanceof Buffer ? readBody(request.body).json() : {}
}

function existing(record: DeviceRecord | null): DeviceRecord {
  if (record === null) throw new GatewayError('not_found', 'There is no machine with this id.')
  return record
}

function runObject({ id, startedAt, finishedAt, result, error }: DiscoveryRun): Readonly<Record<string, unknown>> {
  return {
    id,
    object: 'discovery_run',
    started_at: startedAt.toISOString(),
    finished_at: finishedAt?.toISOString() ?? null,
    error,
    ...(result as Readonly<Record<string, unknown>> | null)
  }
}
