// What this process sees of its targets right now: calls running, rests after a 429, refusals. Memory only, lost without harm.

import { LRUCache } from 'lru-cache'

export interface Load {
  inFlight(upstreamId: string): number
  /** How many ran at once on average between two moments of the clock; of long ago, as far as that is remembered. */
  averageInFlight(upstreamId: string, fromMs: number, toMs: number): number
  begin(upstreamId: string): void
  finish(upstreamId: string, durationMs: number): void
  /** How long an answer of this upstream took lately, ms. */
  averageMs(upstreamId: string): number
  /** The upstream asked for a rest: no call before then. */
  coolDown(targetId: string, ms: number): void
  /** Milliseconds left of the rest; 0 = none. */
  cooling(targetId: string): number
  /** The upstream refused our key or account; it is asked last for a while. */
  deny(upstreamId: string): void
  isDenied(upstreamId: string): boolean
  /** The upstream said it has no such model. */
  miss(targetId: string): void
  isMissing(targetId: string): boolean
  /** A new inventory was taken: what was missing may be there. */
  forgetMissing(upstreamId: string): void
}

const deniedMs = 60_000
const missingMs = 30_000
// Clients can make up names of targets where a list is unknown; upstreams come from the configuration.
const targetsAtMost = 10_000
// Calls begin and end this often within one answer, at most; beyond, its first part is not counted.
const stepsAtMost = 512

/** `count` calls from here on; `area`: calls x ms before. */
interface Step {
  readonly atMs: number
  readonly count: number
  readonly area: number
}

/** `now`: milliseconds of a clock that never jumps. */
export function createLoad(now: () => number): Load {
  const inFlight = new Map<string, number>()
  const average = new Map<string, number>()
  const steps = new Map<string, Step[]>()
  const coolUntil = new LRUCache<string, number>({ max: targetsAtMost })
  const deniedUntil = new Map<string, number>()
  const missingUntil = new LRUCache<string, number>({ max: targetsAtMost })

  function left(until: Map<string, number> | LRUCache<string, number>, id: string): number {
    const at = until.get(id)
    if (at === undefined) return 0
    const ms = at - now()
    if (ms <= 0) until.delete(id)
    return Math.max(0, ms)
  }

  function setInFlight(id: string, count: number): void {
    inFlight.set(id, count)
    const known = steps.get(id) ?? []
    if (known.length === 0) steps.set(id, known)
    if (known.length >= stepsAtMost * 2) known.splice(0, stepsAtMost)
    const atMs = now()
    known.push({ atMs, count, area: areaAt(known.at(-1), atMs) })
  }

  /** Without a step before, nothing ran. */
  function areaAt(step: Step | undefined, atMs: number): number {
    return step === undefined ? 0 : step.area + step.count * (atMs - step.atMs)
  }

  return {
    inFlight: id => inFlight.get(id) ?? 0,
    averageInFlight(id, fromMs, toMs) {
      const known = steps.get(id) ?? []
      const areaUntil = (atMs: number): number =>
        areaAt(
          known.findLast(step => step.atMs <= atMs),
          atMs
        )
      const first = known[0]?.atMs ?? toMs
      const since = Math.max(fromMs, first)
      return toMs <= since ? (inFlight.get(id) ?? 0) : (areaUntil(toMs) - areaUntil(since)) / (toMs - since)
    },
    begin(id) {
      setInFlight(id, (inFlight.get(id) ?? 0) + 1)
    },
    finish(id, durationMs) {
      setInFlight(id, Math.max(0, (inFlight.get(id) ?? 0) - 1))
      average.set(id, 0.8 * (average.get(id) ?? durationMs) + 0.2 * durationMs)
    },
    averageMs: id => average.get(id) ?? 0,
    coolDown(id, ms) {
      coolUntil.set(id, Math.max(coolUntil.get(id) ?? 0, now() + ms))
    },
    cooling: id => left(coolUntil, id),
    deny(id) {
      deniedUntil.set(id, now() + deniedMs)
    },
    isDenied: id => left(deniedUntil, id) > 0,
    miss(id) {
      missingUntil.set(id, now() + missingMs)
    },
    isMissing: id => left(missingUntil, id) > 0,
    forgetMissing(upstreamId) {
      for (const id of missingUntil.keys()) {
        if (id.startsWith(`${upstreamId}/`)) missingUntil.delete(id)
      }
    }
  }
}
