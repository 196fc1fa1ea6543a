// One run of discovery: looks around, compares with what was known, writes it down, and says what came of it.

import { matchesAny } from '../../routing/patterns.ts'
import { beginDiscovery, type FoundDevice, finishDiscovery, listDevices, markHostile, saveFound } from '../../store/fleet.ts'
import type { Pool } from '../../store/pool.ts'
import { marksOf } from '../health/marks.ts'
import { compare } from './compare.ts'
import { type FoundMachine, type LookResult, look } from './look.ts'
import { originOf, type Probe } from './probe.ts'
import { readTailscale, type TailscaleReading } from './tailscale.ts'

export interface ApprovalRules {
  /** Of Tailscale (`tag:gpu`); names of machines may have `*`. */
  readonly tags: readonly string[]
  readonly names: readonly string[]
}

export interface DiscoveryPorts {
  readonly pool: Pool
  readonly probe: Probe
  /** Null = found on PATH. */
  readonly tailscaleBin: string | null
  /** Of Ollama, on each machine. */
  readonly ports: readonly number[]
  /** What the configuration names, and this gateway itself. */
  readonly known: readonly { readonly url: string; readonly name: string }[]
  readonly approve: ApprovalRules
  /** Of this process: addresses like 127.0.0.1 mean something on it alone. */
  readonly host: string
  readonly newId: () => string
  readonly now: () => number
  /** From 0 to 1: who is asked first, of those that nobody knows yet. */
  readonly random: () => number
  readonly tailscale?: (signal: AbortSignal) => Promise<TailscaleReading>
}

/** As GET /v1/discovery/last shows it. */
export interface DiscoveryResult {
  readonly tailscale: LookResult['tailscale']
  readonly found: readonly { readonly id: string; readonly url: string; readonly models: number; readonly version: string | null }[]
  readonly added: readonly string[]
  readonly changed: readonly { readonly id: string; readonly fields: readonly string[] }[]
  readonly gone: readonly string[]
  /** The first 200. */
  readonly unreachable: LookResult['unreachable']
  readonly unreachable_count: number
  /** Of them, those for which there was no time. */
  readonly not_asked: number
  readonly took_ms: number
}

// What a person may want to read of those that did not answer.
const unreachableAtMost = 200

/** Returns what is written down. Throws what kept it from looking; then the run is written down as failed. */
export async function discover(ports: DiscoveryPorts, signal: AbortSignal): Promise<DiscoveryResult> {
  const { pool, host } = ports
  const id = ports.newId()
  await beginDiscovery(pool, id)
  try {
    const all = await listDevices(pool)
    const devices = all.filter(({ key, onlyHost }) => key !== null && (onlyHost === null || onlyHost === host))
    const before = devices.map(device => ({
      id: device.id,
      isGone: device.goneAt !== null,
      key: plainKey(device.key as string),
      url: device.url,
      kind: device.adapter === 'openai' ? ('openai' as const) : ('ollama' as const),
      os: device.os,
      tags: device.tags,
      version: device.version
    }))
    const read = ports.tailscale ?? ((on: AbortSignal) => readTailscale({ command: ports.tailscaleBin, signal: on }))
    const seen = await look({
      tailscale: await read(signal),
      ports: ports.ports,
      known: ports.known,
      names: new Map(before.map(device => [device.key, device.id])),
      taken: all.map(device => device.id),
      probe: ports.probe,
      now: ports.now,
      random: ports.random,
      signal
    })
    const isReadable = seen.tailscale.state === 'running'
    const { added, changed, gone, kept } = compare(before, seen.found, isReadable)
    // An address keeps its name when Tailscale comes to know it, or forgets it.
    const beforeOf = new Map([...changed, ...kept].flatMap(({ before: device, machine }) => (machine ? [[machine.key, device]] : [])))
    const found = seen.found.map(machine => toDevice(machine, beforeOf.get(machine.key) ?? null, ports))
    const foundIds = found.map(device => device.id)
    const hostile = hostileOf(
      before.filter(({ id }) => !foundIds.includes(id)),
      seen.unreachable
    )
    // Those are there: what they answer is what is wrong with them.
    const missing = gone.filter(
      ({ id, isGone, key }) =>
        !isGone &&
        isJudged(key, isReadable) &&
        !hostile.some(one => one.id === id) &&
        // Nobody asked these here: the time was over, or the configuration has them by now.
        !seen.unasked.has(key) &&
        !ports.known.some(({ name }) => name === id)
    )
    // First the marks: all processes read their machines anew when what was found is saved.
    await markHostile(pool, hostile, foundIds)
    await saveFound(
      pool,
      found,
      missing.map(device => device.id)
    )
    const back = before.filter(device => device.isGone && foundIds.includes(device.id))
    const result: DiscoveryResult = {
      tailscale: seen.tailscale,
      found: found.map(device => ({ id: device.id, url: device.url, models: device.modelCount, version: device.version })),
      added: [...added.map(({ name }) => name), ...back.map(device => device.id)],
      changed: changed.map(({ before: device, fields }) => ({ id: device.id, fields })),
      gone: missing.map(device => device.id),
      unreachable: seen.unreachable.slice(0, unreachableAtMost),
      unreachable_count: seen.unreachable.length,
      not_asked: seen.unasked.size,
      took_ms: Math.round(seen.tookMs)
    }
    await finishDiscovery(pool, id, result, null)
    return result
  } catch (error) {
    await finishDiscovery(pool, id, null, error instanceof Error ? error.message : String(error)).catch(() => {})
    throw error
  }
}

/** Machines that are known, by name or address, and answered as no honest server does. */
function hostileOf(
  before: readonly { readonly id: string; readonly url: string }[],
  unreachable: LookResult['unreachable']
): readonly { readonly id: string; readonly reason: string }[] {
  const hostile = unreachable.filter(({ reason }) => reason === 'hostile')
  return before.flatMap(({ id, url }) => {
    const { origin } = new URL(url)
    const answer = hostile.find(({ name, address, port }) => name === id || originOf(address, port) === origin)
    return answer === undefined ? [] : [{ id, reason: answer.detail }]
  })
}

/** Without Tailscale nothing is known of the tailnet, but this machine's own neighbours were asked. */
function isJudged(key: string, isReadable: boolean): boolean {
  return isReadable || key.startsWith('http://127.')
}

function toDevice(
  machine: FoundMachine,
  before: { readonly id: string; readonly key: string } | null,
  { host, approve }: DiscoveryPorts
): FoundDevice {
  const isHere = isLoopback(machine.url)
  const id = before?.id ?? machine.name
  // A node's id stays for the time that Tailscale is away.
  const key = before !== null && machine.key.startsWith('http://') ? before.key : machine.key
  return {
    id,
    key: isHere ? `${host} ${key}` : key,
    url: machine.url,
    adapter: machine.kind,
    origin: machine.origin,
    onlyHost: isHere ? host : null,
    os: machine.os,
    tags: machine.tags,
    version: machine.version,
    modelCount: machine.modelCount,
    marks: machine.version === null ? [] : marksOf(machine.kind, machine.version),
    isApproved: machine.tags.some(tag => approve.tags.includes(tag)) || matchesAny(approve.names, [id])
  }
}

function isLoopback(url: string): boolean {
  const { hostname } = new URL(url)
  return hostname.startsWith('127.') || hostname === '[::1]'
}

/** As `look` has it: without the host that it is for. */
function plainKey(key: string): string {
  return key.slice(key.indexOf(' ') + 1)
}

/** One line for people. */
export function discoveryNote(result: DiscoveryResult): string {
  const { tailscale, found, added, changed, gone, not_asked: unasked, took_ms: tookMs } = result
  const left = unasked === 0 ? '' : `, ${unasked} not asked for want of time`
  return `${found.length} machines, ${added.length} new, ${changed.length} changed, ${gone.length} gone${left}, in ${tookMs} ms. ${tailscale.message}`
}
