// The plan: each piece of work that waits, in order, gets the option that is best for all, against places that are free by then. Pure.
// A list schedule with late binding: only what can begin now is begun; everything else is planned anew at the next change.

import { estimate, type Queue } from './estimate.ts'
import type { Estimate, Option, OwnSite, Site, Work } from './types.ts'

export interface Planned {
  readonly work: Work
  /** `load`: the machine begins to load its model now, and it waits for that. `refuse`: no option is left, `without` says why. */
  readonly action: 'start' | 'load' | 'wait' | 'refuse'
  /** The chosen one; null when refused. */
  readonly best: Estimate | null
  /** All that could be, best first. */
  readonly estimates: readonly Estimate[]
  readonly without: readonly LeftOut[]
}

/** An option that is out, with what it would have come to; null where nothing can be said. */
export interface LeftOut {
  readonly option: Option
  readonly why: 'max_cost' | 'price_unknown' | 'deadline' | 'no_load'
  readonly estimate: Estimate | null
}

/** Beyond so many, what waits is not looked at. */
export const workAtMost = 32

interface SiteQueue extends Queue {
  readonly site: Site
  freeS: number[]
  loaderFreeS: number
  readyS: Map<string, number>
  ahead: number
  waitingEach: number
}

/**
 * In the order of `works`, which is the order they are to be served. `waiting`: how much waits altogether, when it is more than these.
 * `random` in [0, 1) decides between equals.
 */
export function plan(works: readonly Work[], random: () => number, waiting = works.length): Planned[] {
  const queues: SiteQueue[] = []
  const planned: Planned[] = []
  for (const [at, work] of works.entries()) {
    if (at >= workAtMost) break
    planned.push(place(work, queues, random, Math.max(0, waiting - at - 1)))
  }
  return planned
}

function place(work: Work, queues: SiteQueue[], random: () => number, behind: number): Planned {
  let machines = 0
  for (const { site } of work.options) if (site.own !== null) machines++
  const waitingEach = behind / Math.max(1, machines)
  const estimates: Estimate[] = []
  const without: LeftOut[] = []
  for (const option of work.options) {
    const queue = queueAt(option.site, queues)
    queue.waitingEach = waitingEach
    const one = estimate(work, option, queue)
    const why = one === null ? 'no_load' : outOf(work, one)
    if (one === null || why !== null) without.push({ option, why: why as LeftOut['why'], estimate: one })
    else estimates.push(one)
  }
  estimates.sort((one, other) => one.score - other.score)
  const best = chosen(estimates, random)
  if (best === null) return { work, action: 'refuse', best, estimates, without }
  return { work, action: reserve(best, queueAt(best.option.site, queues)), best, estimates, without }
}

/** The bound of the request that this would break. */
export function outOf({ maxUsd, isHard }: Work, { usdP90, missShare }: Estimate): LeftOut['why'] | null {
  if (maxUsd !== null && usdP90 === null) return 'price_unknown'
  if (maxUsd !== null && (usdP90 as number) > maxUsd) return 'max_cost'
  return isHard && missShare > 0.5 ? 'deadline' : null
}

/** It could begin at once. */
export function isStartable({ waitS }: Estimate): boolean {
  return waitS <= 0
}

/** Of those that are equally good any one: the first would get everything. */
function chosen(estimates: Estimate[], random: () => number): Estimate | null {
  const [first] = estimates
  if (first === undefined) return null
  let equals = 1
  while (equals < estimates.length && (estimates[equals] as Estimate).score - first.score <= Math.abs(first.score) * 1e-9) equals++
  if (equals === 1) return first
  const at = Math.min(equals - 1, Math.floor(random() * equals))
  const [best] = estimates.splice(at, 1)
  estimates.unshift(best as Estimate)
  return best as Estimate
}

/** When each place will be free, soonest first. */
export function freeAt({ slots, busyS }: OwnSite): number[] {
  if (busyS.length === 0) return Array<number>(slots).fill(0)
  const idle = Math.max(0, slots - busyS.length)
  // More may run than there are places for now: those that end first free none.
  return [...Array<number>(idle).fill(0), ...busyS.toSorted((one, other) => one - other)].slice(-slots)
}

/** There are few sites, so they are walked through. */
function queueAt(site: Site, queues: SiteQueue[]): SiteQueue {
  for (const queue of queues) if (queue.site === site) return queue
  const queue = queueOf(site)
  queues.push(queue)
  return queue
}

// Of providers: nobody adds to these.
const noPlaces: number[] = []
const nothingReady = new Map<string, number>()

function queueOf(site: Site): SiteQueue {
  const { own } = site
  if (own === null) return { site, freeS: noPlaces, loaderFreeS: 0, readyS: nothingReady, ahead: 0, waitingEach: 0 }
  return {
    site,
    freeS: freeAt(own),
    loaderFreeS: own.loading?.leftS ?? 0,
    readyS: new Map(own.loading === null ? [] : [[own.loading.model, own.loading.leftS]]),
    ahead: 0,
    waitingEach: 0
  }
}

function reserve({ option, waitS, loadS, etaS, isCold }: Estimate, queue: SiteQueue): 'start' | 'load' | 'wait' {
  if (option.site.own === null) {
    queue.ahead++
    return waitS <= 0 ? 'start' : 'wait'
  }
  const isLoaded = option.site.own.loaded.has(option.model)
  queue.freeS[0] = etaS
  for (let at = 1; at < queue.freeS.length && (queue.freeS[at - 1] as number) > (queue.freeS[at] as number); at++) {
    const before = queue.freeS[at - 1] as number
    queue.freeS[at - 1] = queue.freeS[at] as number
    queue.freeS[at] = before
  }
  if (!isCold) return waitS <= 0 && isLoaded ? 'start' : 'wait'
  queue.readyS.set(option.model, waitS + loadS)
  queue.loaderFreeS = waitS + loadS
  return waitS <= 0 ? 'load' : 'wait'
}
