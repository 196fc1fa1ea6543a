// llm-mcp devices approve, block, limits: what a person says of a machine.

import { type GatewayClient, withClient } from '../client.ts'
import { fieldsOf } from '../jobs/job.ts'
import { plain, printJson } from '../print.ts'
import type { DeviceOptions } from './show.ts'

export interface LimitOptions extends DeviceOptions {
  readonly maxConcurrency?: number
  readonly watts?: number
  readonly vramGb?: number
  readonly ramGb?: number
  readonly maxParamsB?: number
  readonly maxSizeGb?: number
  readonly maxContextK?: number
  readonly allowModel?: readonly string[]
  readonly denyModel?: readonly string[]
  readonly unset?: readonly string[]
}

/** One after the other; one that cannot be changed does not keep the others from it. Exit code 1 then. */
export async function stateCommand(state: 'approved' | 'blocked', ids: readonly string[], options: DeviceOptions): Promise<void> {
  await withClient(options, async client => {
    const changed: unknown[] = []
    for (const id of ids) {
      try {
        const body = await patch(client, id, { state })
        changed.push(body)
        if (options.json !== true) console.log(`${plain(String(body.id))}  ${plain(String(body.state))}`)
      } catch (error) {
        process.exitCode = 1
        console.error(`${plain(id)}: ${error instanceof Error ? error.message : String(error)}`)
      }
    }
    if (options.json === true && changed.length > 0) printJson({ object: 'list', data: changed })
  })
}

/** Prints the limits that hold then. */
export async function limitsCommand(id: string, options: LimitOptions): Promise<void> {
  const limits = limitsOf(options)
  await withClient(options, async client => {
    const body =
      Object.keys(limits).length === 0 ? (await client.ask({ method: 'GET', path: pathOf(id) })).body : await patch(client, id, { limits })
    if (options.json === true) return printJson(body)
    const set = Object.entries(fieldsOf(body.limits) ?? {})
    console.log(
      set.length === 0 ? 'No limits are set by hand.' : set.map(([name, value]) => plain(`${name}  ${JSON.stringify(value)}`)).join('\n')
    )
  })
}

/** By option, as they are called on the wire. */
const names: Readonly<Record<string, string>> = {
  maxConcurrency: 'max_concurrency',
  watts: 'watts',
  vramGb: 'vram_gb',
  ramGb: 'ram_gb',
  maxParamsB: 'max_params_b',
  maxSizeGb: 'max_size_gb',
  maxContextK: 'max_context_k',
  allowModel: 'allow_models',
  denyModel: 'deny_models'
}

function limitsOf(options: LimitOptions): Record<string, unknown> {
  const given = Object.entries(names).flatMap(([option, name]) => {
    const value = (options as Readonly<Record<string, unknown>>)[option]
    return value === undefined ? [] : [[name, value] as const]
  })
  const unset = (options.unset ?? []).map(written => {
    const wanted = written.replaceAll('-', '_')
    const name = Object.values(names).find(known => known === wanted || known === `${wanted}s`)
    if (name === undefined) throw new Error(`${JSON.stringify(written)} is no limit: there are ${Object.values(names).join(', ')}.`)
    return [name, null] as const
  })
  return Object.fromEntries([...given, ...unset])
}

async function patch(client: GatewayClient, id: string, body: unknown): Promise<Readonly<Record<string, unknown>>> {
  return (await client.ask({ method: 'PATCH', path: pathOf(id), body })).body
}

function pathOf(id: string): string {
  return `/v1/devices/${encodeURIComponent(id)}`
}
