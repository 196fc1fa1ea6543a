// Random numbers that can be repeated: a stream for each thing that is drawn, so that one draw more in one shifts none in another.

export interface Stream {
  /** Uniform in [0, 1). */
  uniform(): number
  /** Normal, mean 0, deviation 1. */
  normal(): number
  /** Exponential, of this mean. */
  exponential(mean: number): number
}

/** The same key gives the same stream. mulberry32, begun at a hash of the key. */
export function createStream(...key: readonly (string | number)[]): Stream {
  let state = hash32(key.join('\n'))

  function uniform(): number {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }

  return {
    uniform,
    // Box and Muller; one of the two, so that each draw takes two uniform numbers whatever came before.
    normal: () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()),
    exponential: mean => -mean * Math.log(1 - uniform())
  }
}

/** FNV-1a with the finalizer of murmur3, so that keys that differ in one digit begin far apart. */
export function hash32(text: string): number {
  let hash = 0x811c9dc5
  for (let index = 0; index < text.length; index++) hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193)
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return (hash ^ (hash >>> 16)) >>> 0
}
