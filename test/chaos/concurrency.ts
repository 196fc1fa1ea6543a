// How many calls ran on the box at once, at every instant, against its limit. Pure.

import type { Call } from './bill.ts'
import type { HistoryLine } from './history.ts'

export interface Excess {
  readonly at: number
  readonly running: number
  /** Of these, by processes that were frozen then, or a moment before. */
  readonly ofFrozen: number
}

export interface Concurrency {
  readonly most: number
  /** Most among the calls of processes that were not frozen. */
  readonly mostAwake: number
  readonly excesses: readonly Excess[]
}

// A process that wakes needs a moment to hear that its places are others' now.
const wakingMs = 1_500

/** `frozen` processes may be over the limit by what they hold themselves; nobody else may, ever. */
export function concurrencyOf(calls: readonly Call[], history: readonly HistoryLine[], limit: number): Concurrency {
  const naps = napsOf(history)
  const boxed = calls.filter(({ upstream }) => upstream === 'box')
  const running = new Map<number, Call>()
  const steps = boxed
    .flatMap(call => [
      { at: call.beganAt, call, begins: true },
      ...(call.endedAt === null ? [] : [{ at: call.endedAt, call, begins: false }])
    ])
    // An end and a begin in one millisecond: the end was first, for the bill writes it before the last byte leaves.
    .toSorted((a, b) => a.at - b.at || Number(a.begins) - Number(b.begins))
  let [most, mostAwake] = [0, 0]
  const excesses: Excess[] = []
  for (const { at, call, begins } of steps) {
    if (!begins) {
      running.delete(call.call)
      continue
    }
    running.set(call.call, call)
    const awake = [...running.values()].filter(({ door }) => !isFrozen(door, at)).length
    most = Math.max(most, running.size)
    mostAwake = Math.max(mostAwake, awake)
    if (awake > limit) excesses.push({ at, running: running.size, ofFrozen: running.size - awake })
  }
  return { most, mostAwake, excesses }

  function isFrozen(door: string, at: number): boolean {
    return naps.some(nap => nap.door === door && at >= nap.from && at <= nap.to)
  }
}

function napsOf(history: readonly HistoryLine[]): { readonly door: string; readonly from: number; readonly to: number }[] {
  return history.flatMap((line, index) => {
    if (line.t !== 'fault' || line.kind !== 'stop') return []
    const woken = history
      .slice(index)
      .find(later => later.t === 'fault' && later.process === line.process && (later.kind === 'continue' || later.kind === 'kill'))
    return [{ door: line.process, from: line.at, to: (woken?.at ?? Number.POSITIVE_INFINITY) + wakingMs }]
  })
}
