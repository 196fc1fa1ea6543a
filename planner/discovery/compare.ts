// What a look changed: machines that are new, different, gone, or as they were. Pure.

import type { FoundMachine } from './look.ts'

/** A machine as it was kept; of what can change, only what was kept is compared. */
export interface RememberedMachine
  extends Pick<FoundMachine, 'key' | 'url'>,
    Partial<Pick<FoundMachine, 'kind' | 'os' | 'tags' | 'version' | 'models'>> {}

export interface Comparison<Before extends RememberedMachine> {
  readonly added: readonly FoundMachine[]
  readonly changed: readonly { readonly before: Before; readonly machine: FoundMachine; readonly fields: readonly string[] }[]
  readonly gone: readonly Before[]
  /** `machine` null: it did not answer, but that says nothing now. */
  readonly kept: readonly { readonly before: Before; readonly machine: FoundMachine | null }[]
}

const compared = ['key', 'url', 'kind', 'os', 'tags', 'version', 'models'] as const

/** `ok`: Tailscale could be read; without it nothing is gone. */
export function compare<Before extends RememberedMachine>(
  before: readonly Before[],
  found: readonly FoundMachine[],
  ok: boolean
): Comparison<Before> {
  const left = new Set(found)
  const pairs = before.map(one => {
    const machine = found.find(machine => machine.key === one.key) ?? null
    if (machine !== null) left.delete(machine)
    return { before: one, machine }
  })
  // Only for those without a partner: two records of one machine would both claim it.
  const matched = pairs.map(({ before, machine }) => {
    const other = machine ?? [...left].find(machine => isSameMachine(before, machine)) ?? null
    if (other !== null) left.delete(other)
    return { before, machine: other, fields: other === null ? [] : differences(before, other) }
  })
  return {
    added: [...left],
    changed: matched.flatMap(({ before, machine, fields }) =>
      machine === null || fields.length === 0 ? [] : [{ before, machine, fields }]
    ),
    gone: ok ? matched.filter(({ machine }) => machine === null).map(({ before }) => before) : [],
    kept: matched
      .filter(({ machine, fields }) => (machine === null ? !ok : fields.length === 0))
      .map(({ before, machine }) => ({ before, machine }))
  }
}

/**
 * Tailscale learnt of an address that was known without it, or forgot it. Two nodes with ids of their own are never one:
 * an address that was given to another node must not inherit what its former owner was trusted with.
 */
function isSameMachine(before: RememberedMachine, machine: FoundMachine): boolean {
  return before.url === machine.url && isAddress(before.key) !== isAddress(machine.key)
}

function isAddress(key: string): boolean {
  return key.startsWith('http://')
}

function differences(before: RememberedMachine, machine: FoundMachine): string[] {
  return compared.filter(field => {
    // A node's id is not given up for the time that Tailscale is away.
    if (field === 'key' && isAddress(machine.key)) return false
    return before[field] !== undefined && textOf(before[field]) !== textOf(machine[field])
  })
}

/** Lists in any order. */
function textOf(value: string | null | readonly string[] | undefined): string {
  return JSON.stringify(typeof value === 'object' && value !== null ? value.toSorted() : value)
}
