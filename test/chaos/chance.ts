// Chance that can be had again: one seeded generator that everything random in a run asks. Numbers: xorshift128 (Marsaglia, 2003).

export interface Chance {
  /** From 0 up to, but not, 1. */
  next(): number
  /** A whole number below `end`. */
  below(end: number): number
  /** From `low` up to `high`, with fractions. */
  between(low: number, high: number): number
  /** True once in so many times, on average. */
  oneIn(times: number): boolean
  /** Throws when there is nothing to pick from. */
  pick<T>(list: readonly T[]): T
  /** Another generator, so that what one part of a run asks does not move what another part gets. */
  fork(): Chance
}

export function createChance(seed: number): Chance {
  const state = new Uint32Array(4)
  for (let index = 0, mixed = seed >>> 0; index < 4; index++) {
    // Weyl steps, mixed: small seeds must not begin alike.
    mixed = (mixed + 0x9e3779b9) >>> 0
    let word = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b)
    word = Math.imul(word ^ (word >>> 13), 0xc2b2ae35)
    state[index] = (word ^ (word >>> 16)) >>> 0
  }

  function word(): number {
    const [first = 0, second = 0, third = 0, fourth = 0] = state
    const shifted = first ^ (first << 11)
    state.set([second, third, fourth, fourth ^ (fourth >>> 19) ^ shifted ^ (shifted >>> 8)])
    return state[3] ?? 0
  }

  const next = (): number => word() / 2 ** 32
  const below = (end: number): number => Math.floor(next() * end)
  return {
    next,
    below,
    between: (low, high) => low + next() * (high - low),
    oneIn: times => below(times) === 0,
    pick(list) {
      if (list.length === 0) throw new Error('nothing to pick from')
      return list[below(list.length)] as (typeof list)[number]
    },
    fork: () => createChance(word())
  }
}
