// Which processes ask a machine how it is: two of those that can reach it, the same two for everybody who looks. Pure.

import { createHash } from 'node:crypto'

const probersEach = 2

export interface LivingProcess {
  readonly id: string
  readonly host: string
}

/**
 * Rendezvous hashing: each process has a weight for each machine, the two heaviest ask. When one dies, only its machines change hands.
 * `onlyHost`: processes elsewhere cannot reach it.
 */
export function probersOf(deviceId: string, onlyHost: string | null, living: readonly LivingProcess[]): string[] {
  return living
    .filter(({ host }) => onlyHost === null || host === onlyHost)
    .map(({ id }) => ({ id, weight: weightOf(deviceId, id) }))
    .toSorted((a, b) => (a.weight < b.weight ? 1 : -1))
    .slice(0, probersEach)
    .map(({ id }) => id)
}

function weightOf(deviceId: string, processId: string): string {
  return createHash('sha256').update(`${deviceId} ${processId}`).digest('hex')
}
