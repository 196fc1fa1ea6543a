// What waits, as this process knows it: the lanes that have something ready, and their best jobs in the order they are to be served.

import type { Catalog } from '../routing/catalog.ts'
import { inOrder } from '../routing/fair.ts'
import { timeOf } from '../routing/ids.ts'
import { type Candidate, candidatesOf, classesServedAt, type Head, headsOf, readyLanes, wholeHeadsOf } from '../store/jobs/candidates.ts'
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
  /**
   * The best jobs of these lanes. Lanes that turn out to be empty are forgotten. `isWanted` is asked again for every page: what is not
   * wanted any more is not read.
   */
  heads(lanes: readonly string[], isWanted?: (jobClass: number) => boolean): Promise<Heads>
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
// 64 lanes x 2 heads: 0.35 ms.
const lanesAtOnce = 64
// Of few lanes more each, so that many that nothing can run are dealt with in one go.
const headsAtOnce = 128
const headsEach = { least: 2, most: 32 }
// Of so few lanes the first page comes with the heads: one way there and back less.
const fewLanes = 2
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

  async function heads(lanes: readonly string[], isWanted: (jobClass: number) => boolean = () => true): Promise<Heads> {
    const asked = someOf(lanes)
    const each = Math.max(headsEach.least, Math.min(headsEach.most, Math.floor(headsAtOnce / asked.length)))
    if (asked.length === 0) return { each, pages: pagesOf([], isWanted) }
    if (now() - servedReadAt > servedEveryMs) {
      servedReadAt = now()
      servedAt = await classesServedAt(pool)
    }
    if (asked.length <= fewLanes) return { each, pages: await wholePages(asked, each, isWanted) }
    return { each, pages: pagesOf(ordered(await alive(asked, headsOf(pool, asked, each))), isWanted) }
  }

  /** Forgets the lanes in which nothing was found. */
  async function alive<T extends Head>(asked: readonly string[], looking: Promise<readonly T[]>): Promise<readonly T[]> {
    const before = added
    const found = await looking
    const lanesFound = new Set(found.map(({ lane }) => lane))
    for (const lane of asked) if (!lanesFound.has(lane)) forget(lane, before)
    return found
  }

  function ordered<T extends Head>(found: readonly T[]): readonly (T & { readonly class: number })[] {
    return inOrder(
      found.map(head => ({ ...head, class: classOf(head.lane), createdMs: timeOf(head.id) })),
      servedAt,
      Date.now()
    )
  }

  /** Of few lanes the first page is read at once; the rest as always, when somebody comes so far. */
  async function wholePages(
    asked: readonly string[],
    each: number,
    isWanted: (jobClass: number) => boolean
  ): Promise<AsyncIterable<readonly Candidate[]>> {
    const ofEach = (pageSizes[0] as number) / asked.length
    const found = ordered(await alive(asked, wholeHeadsOf(pool, asked, ofEach)))
    const counts = new Map<string, number>()
    // After the last that is known of a lane, its next may come before all others.
    const end = found.findIndex(({ lane }) => {
      counts.set(lane, (counts.get(lane) ?? 0) + 1)
      return counts.get(lane) === ofEach
    })
    const first = end === -1 ? found : found.slice(0, end + 1)
    return (async function* () {
      yield first
      if (end === -1) return
      const seen = new Set(first.map(({ id }) => id))
      yield* pagesOf(
        ordered(await headsOf(pool, asked, each)).filter(({ id }) => !seen.has(id)),
        isWanted
      )
    })()
  }

  async function* pagesOf(
    heads: readonly { readonly id: string; readonly class: number }[],
    isWanted: (jobClass: number) => boolean
  ): AsyncGenerator<readonly Candidate[]> {
    for (let left = heads, page = 0; ; page++) {
      left = left.filter(head => isWanted(head.class))
      if (left.length === 0) return
      const size = pageSizes[Math.min(page, pageSizes.length - 1)] as number
      yield await candidatesOf(
        pool,
        left.slice(0, size).map(({ id }) => id)
      )
      left = left.slice(size)
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
