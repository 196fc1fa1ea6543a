// What waits, as this process knows it: the lanes that have something ready, and their best jobs in the order they are to be served.

import type { Catalog } from '../routing/catalog.ts'
import { inOrder } from '../routing/fair.ts'
import { type Candidate, candidatesOf, classesServedAt, headsOf, readyLanes } from '../store/jobs/candidates.ts'
import type { Pool } from '../store/pool.ts'
import { classOf, createReach, type Reach } from './lanes.ts'

export interface Candidates {
  /** Something of this lane may run now. */
  add(lane: string): void
  /** Asks the database which lanes there are. */
  refresh(): Promise<void>
  /** Where the jobs of a lane may run. */
  reach(lane: string): Reach
  /** The known lanes that `wanted` wants. */
  lanes(wanted: (reach: Reach, jobClass: number) => boolean): string[]
  /** The best jobs of these lanes. Lanes that turn out to be empty are forgotten. */
  heads(lanes: readonly string[]): Promise<Heads>
  /** This class was just served. */
  served(jobClass: number): void
}

export interface Heads {
  /** Whoever has dealt with so many of one lane does not know what follows in it. */
  readonly each: number
  /** Best first, a few at a time: most looks end with the first. */
  readonly pages: AsyncIterable<readonly Candidate[]>
}

// A loose scan is about 8 us a lane; a queue with more kinds of work than this is looked at in turns.
const lanesAtMost = 5_000
// 64 lanes x 4 heads: 0.6 ms (bench/claim.ts).
const lanesAtOnce = 64
// Of few lanes more each, so that many that nothing can run are dealt with in one go.
const headsAtOnce = 64
const headsEach = { least: 4, most: 32 }
// With all that a decision needs, a row is 2 kB.
const pageSizes = [8, 32]
const servedEveryMs = 500

export function createCandidates({ pool, catalog, now }: { pool: Pool; catalog: () => Catalog; now: () => number }): Candidates {
  // With a number that grows: what was added while the database was asked is not known to its answer.
  const known = new Map<string, number>()
  let added = 0
  const reach = createReach(catalog)
  let turn = 0
  let servedAt: Date[] = []
  let servedReadAt = Number.NEGATIVE_INFINITY

  /** At most 64 of them: requests that somebody waits for first, the others in turns. */
  function someOf(lanes: readonly string[]): readonly string[] {
    if (lanes.length <= lanesAtOnce) return lanes
    const urgent = lanes.filter(lane => classOf(lane) <= 1)
    const rest = lanes.filter(lane => classOf(lane) > 1)
    const inTurn = (list: readonly string[], count: number): string[] =>
      Array.from({ length: Math.min(count, list.length) }, (_, at) => list[(turn + at) % list.length] as string)
    const first = inTurn(urgent, rest.length === 0 ? lanesAtOnce : lanesAtOnce / 2)
    const chosen = [...first, ...inTurn(rest, lanesAtOnce - first.length)]
    turn += lanesAtOnce / 2
    return chosen
  }

  function forget(lane: string, before: number): void {
    if ((known.get(lane) ?? 0) <= before) known.delete(lane)
  }

  async function heads(lanes: readonly string[]): Promise<Heads> {
    const asked = someOf(lanes)
    const each = Math.max(headsEach.least, Math.min(headsEach.most, Math.floor(headsAtOnce / asked.length)))
    if (asked.length === 0) return { each, pages: pagesOf([]) }
    if (now() - servedReadAt > servedEveryMs) {
      servedReadAt = now()
      servedAt = await classesServedAt(pool)
    }
    const before = added
    const found = await headsOf(pool, asked, each)
    const alive = new Set(found.map(({ lane }) => lane))
    for (const lane of asked) if (!alive.has(lane)) forget(lane, before)
    const waiting = found.map(head => ({ ...head, class: classOf(head.lane) }))
    return { each, pages: pagesOf(inOrder(waiting, servedAt, Date.now()).map(({ id }) => id)) }
  }

  async function* pagesOf(ids: readonly string[]): AsyncGenerator<readonly Candidate[]> {
    for (let at = 0, page = 0; at < ids.length; page++) {
      const size = pageSizes[Math.min(page, pageSizes.length - 1)] as number
      yield await candidatesOf(pool, ids.slice(at, at + size))
      at += size
    }
  }

  return {
    reach,
    add(lane) {
      known.set(lane, ++added)
    },
    async refresh() {
      const before = added
      const lanes = await readyLanes(pool, lanesAtMost)
      for (const lane of known.keys()) forget(lane, before)
      for (const lane of lanes) if (!known.has(lane)) known.set(lane, before)
    },
    lanes: wanted => [...known.keys()].filter(lane => wanted(reach(lane), classOf(lane))),
    heads,
    served(jobClass) {
      servedAt[jobClass] = new Date()
    }
  }
}
