// This machine's own Ollama, and machines as the database knows them.

import { hostname } from 'node:os'
import type { Upstream } from '../routing/types.ts'
import { upsertDevice } from '../store/devices.ts'
import type { Pool } from '../store/pool.ts'
import { localOllamaUpstream, type Settings } from './config.ts'

/**
 * This machine's own Ollama is another machine's on another gateway of the same database, so its device goes by this host's name.
 * `candidate`: nobody asked for it, it is used when it is there.
 */
export function withOwnDevice(settings: Settings): { upstreams: readonly Upstream[]; candidate: Upstream | null } {
  const { localOllama, upstreams } = settings
  if (localOllama === null) return { upstreams, candidate: null }
  const { hostname: host } = new URL(localOllama.url)
  const deviceName = /^(127\.|\[::1\]$|localhost$)/.test(host) ? ownDeviceId() : host
  const named = (upstream: Upstream): Upstream =>
    upstream.device === null ? upstream : { ...upstream, device: { ...upstream.device, id: deviceName } }
  if (localOllama.explicit) {
    return { upstreams: upstreams.map(upstream => (upstream.id === localOllama.id ? named(upstream) : upstream)), candidate: null }
  }
  const found = localOllamaUpstream(settings)
  return { upstreams, candidate: found === null ? null : named(found) }
}

/** Makes the machine known to all gateways of the database; nothing for what is no machine. */
export function saveDevice(pool: Pool, upstream: Upstream): Promise<void> {
  const { device } = upstream
  if (device === null) return Promise.resolve()
  return upsertDevice(pool, { id: device.id, url: upstream.baseUrl, adapter: upstream.adapter, maxConcurrency: device.maxConcurrency })
}

/** The context sizes of its models are somebody's will, and replace those that were pinned. */
export function isContextSet({ device }: Upstream): boolean {
  return device !== null && (device.numCtx !== null || device.modelLimits?.maxContextK !== undefined)
}

/** What the machine is called that this process runs on. */
export function ownDeviceId(): string {
  return hostname()
}

/** What the machine is called in the database. */
export function deviceId(upstream: Upstream): string {
  return upstream.device?.id ?? upstream.id
}
