// What is to happen in a simulated run, by time: a binary heap, in order of entry where the time is the same.

export interface Agenda {
  /** The true clock, s. */
  readonly nowS: number
  /** Not before now, whatever is asked. */
  at(atS: number, act: () => void): void
  /** Lets the next thing happen, unless it is after `untilS` or there is none; then false. */
  step(untilS: number): boolean
}

interface Entry {
  readonly atS: number
  readonly number: number
  readonly act: () => void
}

// A policy that sends again at once what fails at once would hold the clock for ever.
const actsAtOneMoment = 1_000_000

/** Throws when the clock stands still for a million acts. */
export function createAgenda(): Agenda {
  const heap: Entry[] = []
  let nowS = 0
  let entered = 0
  let sinceMoved = 0

  function step(untilS: number): boolean {
    const first = heap[0]
    if (first === undefined || first.atS > untilS) return false
    const last = heap.pop()
    if (last !== undefined && last !== first) sink(heap, last)
    sinceMoved = first.atS > nowS ? 0 : sinceMoved + 1
    if (sinceMoved > actsAtOneMoment) throw new Error(`The clock stands still at ${nowS} s: something is done again and again at once.`)
    nowS = first.atS
    first.act()
    return true
  }

  return {
    get nowS() {
      return nowS
    },
    at: (atS, act) => rise(heap, { atS: Math.max(nowS, atS), number: entered++, act }),
    step
  }
}

const isBefore = (a: Entry, b: Entry): boolean => a.atS < b.atS || (a.atS === b.atS && a.number < b.number)

function rise(heap: Entry[], entry: Entry): void {
  let hole = heap.length
  while (hole > 0) {
    const parentIndex = (hole - 1) >> 1
    const parent = heap[parentIndex]
    if (parent === undefined || !isBefore(entry, parent)) break
    heap[hole] = parent
    hole = parentIndex
  }
  heap[hole] = entry
}

/** Puts `entry` at the top, whose own has been taken, and lets it sink to its place. */
function sink(heap: Entry[], entry: Entry): void {
  let hole = 0
  for (;;) {
    const left = heap[2 * hole + 1]
    const right = heap[2 * hole + 2]
    if (left === undefined) break
    const isRight = right !== undefined && isBefore(right, left)
    const child = isRight ? right : left
    if (!isBefore(child, entry)) break
    heap[hole] = child
    hole = 2 * hole + (isRight ? 2 : 1)
  }
  heap[hole] = entry
}
