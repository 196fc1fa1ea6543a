// llm-mcp devices list, discover: what there is, and what was found.

import type { ClientOptions } from '../../config/client.ts'
import { withClient } from '../client.ts'
import { age, fieldsOf, numberOf, textOf } from '../jobs/job.ts'
import { plain, printJson, table } from '../print.ts'

export interface DeviceOptions extends ClientOptions {
  readonly json?: boolean
}

type Fields = Readonly<Record<string, unknown>>

export async function listDevicesCommand(options: DeviceOptions): Promise<void> {
  await withClient(options, async client => {
    const { body } = await client.ask({ method: 'GET', path: '/v1/devices' })
    if (options.json === true) return printJson(body)
    const devices = listOf(body.data).map(entry => fieldsOf(entry) ?? {})
    if (devices.length === 0) return console.error('No machines. Look for some with: llm-mcp devices discover')
    console.log(deviceTable(devices, Date.now()))
    const proposed = devices.filter(({ state }) => state === 'proposed').map(({ id }) => plain(String(id)))
    if (proposed.length > 0) console.error(`Proposed, and sent nothing yet: llm-mcp devices approve ${proposed.join(' ')}`)
  })
}

export async function discoverCommand(options: DeviceOptions): Promise<void> {
  await withClient(options, async client => {
    const { body } = await client.ask({ method: 'POST', path: '/v1/discovery/run' })
    if (options.json === true) printJson(body)
    else show(body)
    if (typeof body.error === 'string') throw new Error(plain(body.error))
  })
}

/** One line a machine. */
export function deviceTable(devices: readonly Fields[], nowMs: number): string {
  return table(
    ['id', 'state', 'health', 'in use', 'models', 'url', 'seen'],
    devices.map(device => [
      String(device.id),
      [String(device.state), ...(device.gone_at === null ? [] : ['gone']), ...listOf(device.marks).map(String)].join(', '),
      String(device.health),
      `${String(device.in_use)}/${String(device.max_concurrency)}`,
      String(listOf(device.models).length || (device.models_found ?? 0)),
      String(device.url),
      age(textOf(device.seen_at) ?? textOf(device.found_at), nowMs)
    ]),
    [3, 4, 6]
  )
}

function show(body: Fields): void {
  const found = listOf(body.found).map(entry => fieldsOf(entry) ?? {})
  const added = new Set(listOf(body.added))
  if (found.length > 0) {
    console.log(
      table(
        ['id', 'url', 'models', ''],
        found.map(({ id, url, models }) => [String(id), String(url), String(models), added.has(id) ? 'new' : '']),
        [2]
      )
    )
  } else console.log('No machines were found.')
  const gone = listOf(body.gone)
  if (gone.length > 0) console.log(`Gone: ${gone.map(id => plain(String(id))).join(', ')}`)
  const unreachable = listOf(body.unreachable)
  for (const entry of unreachable.map(other => fieldsOf(other) ?? {})) {
    console.error(plain(`${String(entry.name)} (${String(entry.address)}): ${String(entry.detail)}`))
  }
  const more = (numberOf(body.unreachable_count) ?? 0) - unreachable.length
  if (more > 0) console.error(`${more} more did not answer.`)
  const unasked = numberOf(body.not_asked) ?? 0
  if (unasked > 0) console.error(`For ${unasked} of them there was no time: look again.`)
  console.error(plain(textOf(fieldsOf(body.tailscale)?.message) ?? ''))
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : []
}
