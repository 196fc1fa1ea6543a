// What it is worth to have a model in a machine's memory: the regret of the requests that would have liked it there. Pure.
// One request alone never pays for a load; so what each of them would have saved is added up, and a load is bought with it.

import { LRUCache } from 'lru-cache'
import { estimate, type Queue } from './estimate.ts'
import { freeAt, outOf, type Planned } from './plan.ts'
import type { Estimate, Knob, Option, OwnSite, Work } from './types.ts'

export interface Warmth {
  /** A request has come and was planned: what it would have saved on each machine, had its model been there. */
  arrived(planned: Planned, nowS: number): void
  /** Dollars, of what was saved or could have been lately. */
  value(siteId: string, model: string, nowS: number): number
  /** The load that is worth most now, among the options of this work; null = none is worth it. */
  wish(work: Work, nowS: number): Wish | null
  snapshot(): unknown
  restore(kept: unknown): void
}

export interface Wish {
  readonly option: Option
  readonly victims: readonly string[]
  /** Dollars it is worth beyond what it costs. */
  readonly gainUsd: number
}

const decayS = 200
const horizonS = 300
const savedUsdAtMost = 0.005
// To be thrown out, a model must be worth clearly less: otherwise two take turns.
const eviction = 1.3
const entriesAtMost = 20_000

export function createWarmth(): Warmth {
  const values = new LRUCache<string, { usd: number; atS: number }>({ max: entriesAtMost })
  const keyOf = (siteId: string, model: string): string => JSON.stringify([siteId, model])

  function value(siteId: string, model: string, nowS: number): number {
    const found = values.get(keyOf(siteId, model))
    return found === undefined ? 0 : found.usd * Math.exp(-Math.max(0, nowS - found.atS) / decayS)
  }

  function add(siteId: string, model: string, usd: number, nowS: number): void {
    const saved = Math.min(savedUsdAtMost, Math.max(0, usd))
    values.set(keyOf(siteId, model), { usd: value(siteId, model, nowS) + saved, atS: nowS })
  }

  return {
    arrived({ work, estimates, best }, nowS) {
      // What is refused would have saved nothing anywhere.
      if (best === null) return
      const others = estimates.filter(other => other.option !== best.option)
      for (const option of work.options) {
        const site = option.site.own
        if (site === null) continue
        if (site.loaded.has(option.model) || site.loading?.model === option.model) {
          const second = others[0]?.score ?? best.score + savedUsdAtMost
          add(option.site.id, option.model, option === best.option ? second - best.score : 0, nowS)
        } else if (site.mayLoad) {
          const warm = asIfLoaded(work, option, site)
          if (warm !== null && outOf(work, warm) === null) add(option.site.id, option.model, best.score - warm.score, nowS)
        }
      }
    },
    value,
    wish(work, nowS) {
      let found: Wish | null = null
      for (const option of work.options) {
        const site = option.site.own
        if (site === null || !site.mayLoad || site.loading !== null || site.loaded.has(option.model)) continue
        if (option.pace.kind !== 'own') continue
        const victims = site.victimsFor(option.model, option.pace.gb)
        if (victims === null) continue
        const worth = (model: string): number => (horizonS / decayS) * value(option.site.id, model, nowS)
        const price = site.usdPerS * option.pace.loadS + work.knob.secondUsd * option.pace.loadS
        const lost = victims.reduce((sum, victim) => sum + eviction * worth(victim), 0)
        const gainUsd = worth(option.model) - price - lost
        if (gainUsd > 0 && gainUsd > (found?.gainUsd ?? 0)) found = { option, victims, gainUsd }
      }
      return found
    },
    snapshot: () => ({ version: 1, values: [...values.entries()] }),
    restore(kept) {
      const snapshot = kept as { version?: unknown; values?: unknown } | null
      if (snapshot?.version !== 1 || !Array.isArray(snapshot.values)) return
      for (const entry of snapshot.values.filter(Array.isArray)) {
        const [key, worth] = entry as [unknown, unknown]
        if (typeof key === 'string' && isWorth(worth)) values.set(key, { usd: worth.usd, atS: worth.atS })
      }
    }
  }
}

function isWorth(kept: unknown): kept is { readonly usd: number; readonly atS: number } {
  const { usd, atS } = (kept ?? {}) as { usd?: unknown; atS?: unknown }
  return typeof usd === 'number' && Number.isFinite(usd) && usd >= 0 && Number.isFinite(atS)
}

/** Models to throw out, those of least worth first, until there is room; null when there would not be. */
export function victimsAmong(
  idle: readonly { readonly model: string; readonly gb: number; readonly worth: number }[],
  { neededGb, freeGb, places }: { readonly neededGb: number; readonly freeGb: number; readonly places: number }
): readonly string[] | null {
  const victims: string[] = []
  let free = freeGb
  let open = places
  for (const { model, gb } of idle.toSorted((one, other) => one.worth - other.worth)) {
    if (free >= neededGb && open > 0) break
    victims.push(model)
    free += gb
    open++
  }
  return free >= neededGb && open > 0 ? victims : null
}

function asIfLoaded(work: Work, option: Option, site: OwnSite): Estimate | null {
  const loaded: Option = { ...option, site: { ...option.site, own: { ...site, loaded: new Set([option.model]) } } }
  const queue: Queue = { freeS: freeAt(site), loaderFreeS: 0, readyS: new Map(), ahead: 0, waitingEach: 0 }
  return estimate(work, loaded, queue)
}

/** In `cost`, seconds weigh so little that loads would follow each other: what was loaded stays for a minute at least. */
export function residencyS({ route }: Knob): number {
  return route === 'cost' ? 60 : 0
}
