// Finds the adapters: every file directly in adapters/ is one, named after the provider it speaks to.

import { readdirSync } from 'node:fs'
import type { Outbound } from '../../outbound/client.ts'
import type { Adapter } from '../../routing/types.ts'

export interface AdapterPorts {
  readonly outbound: Outbound
  readonly reasoningField: 'reasoning' | 'reasoning_content' | 'both'
  /** Epoch, ms. */
  readonly now: () => number
  readonly randomId: () => string
}

const folder = new URL('../', import.meta.url)

/** The names of all adapters, without loading them. */
export function adapterNames(): string[] {
  return readdirSync(folder)
    .filter(file => file.endsWith('.ts'))
    .map(file => file.slice(0, -3))
    .sort()
}

/** All adapters by name. Throws when a file has no `createAdapter` or calls itself by another name. */
export async function loadAdapters(ports: AdapterPorts): Promise<ReadonlyMap<string, Adapter>> {
  const adapters = await Promise.all(
    adapterNames().map(async name => {
      const module: { createAdapter?: (ports: AdapterPorts) => Adapter } = await import(new URL(`${name}.ts`, folder).href)
      const adapter = module.createAdapter?.(ports)
      if (adapter?.name !== name) throw new Error(`adapters/${name}.ts exports no createAdapter for "${name}"`)
      return adapter
    })
  )
  return new Map(adapters.map(adapter => [adapter.name, adapter]))
}
