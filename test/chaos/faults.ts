// What is done to the processes: kills, freezes, and the end of PostgreSQL, at moments that chance picks.

import { setTimeout as delay } from 'node:timers/promises'
import type { Chance } from './chance.ts'
import { type Fleet, fleetNames } from './fleet.ts'
import type { Machines } from './machines.ts'

export interface FaultPlan {
  /** One SIGKILL each. */
  readonly cycles: number
  /** SIGSTOPs, spread over the cycles. */
  readonly stops: number
  /** Spread over the cycles. */
  readonly postgresKills: number
  /** Between two cycles. */
  readonly pauseMs: readonly [number, number]
}

// Silence of 3 s frees a slot: one freeze in three ends before, the others after.
const shortFreezeMs = [1_500, 2_500] as const
const longFreezeMs = [4_000, 5_000] as const

interface Field {
  readonly fleet: Fleet
  readonly machines: Machines
  readonly chance: Chance
}

/** Resolves after the last fault, when nothing is frozen any more. */
export async function breakThings(field: Field, plan: FaultPlan): Promise<void> {
  const { fleet, chance } = field
  const freezes: Promise<void>[] = []
  for (let cycle = 0; cycle < plan.cycles; cycle++) {
    await delay(chance.between(...plan.pauseMs))
    if (isDue(cycle, plan.stops, plan.cycles)) freezes.push(freeze(field))
    if (isDue(cycle, plan.postgresKills, plan.cycles)) fleet.killPostgres()
    await killOne(field)
  }
  await Promise.all(freezes)
}

/** True `times` times, evenly spread over `cycles`, the first time at once. */
function isDue(cycle: number, times: number, cycles: number): boolean {
  return Math.ceil(((cycle + 1) * times) / cycles) > Math.ceil((cycle * times) / cycles)
}

/** Of a process that has a job in hand, where one can be found soon: it shall come back to a job that others have finished. */
async function freeze({ fleet, machines, chance }: Field): Promise<void> {
  const awake = (): string[] => fleetNames.filter(name => fleet.stateOf(name) === 'up')
  for (let tries = 0; tries < 100; tries++) {
    const busy = awake().filter(name => machines.running(name).some(mark => mark.startsWith('job-')))
    const names = busy.length > 0 ? busy : tries === 99 ? awake() : []
    if (names.length > 0) {
      const name = chance.pick(names)
      fleet.freeze(name)
      const [lowMs, highMs] = chance.oneIn(3) ? shortFreezeMs : longFreezeMs
      await delay(chance.between(lowMs, highMs))
      fleet.thaw(name)
      return
    }
    await delay(10)
  }
}

/** Whoever is up; now and then one that is only starting. A frozen one is left to come back: it shall write late. */
async function killOne({ fleet, chance }: Field): Promise<void> {
  for (;;) {
    const wanted = chance.oneIn(8) ? ['up', 'starting'] : ['up']
    const names = fleetNames.filter(name => wanted.includes(fleet.stateOf(name)))
    if (names.length > 0) return fleet.kill(chance.pick(names))
    await delay(50)
  }
}
