// What a request says of who shall answer it, in the fields that OpenRouter has for that (`provider`). Pure.
// Names that this house has mean its own providers and machines; any other name means one of OpenRouter's, which is told of it.

import { priceAt } from './cost.ts'
import { providerOf } from './targets.ts'
import type { Target, Upstream } from './types.ts'

export interface ProviderPreference {
  /** Empty = no order of theirs. */
  readonly order: readonly string[]
  /** Empty = all may. */
  readonly only: readonly string[]
  readonly ignore: readonly string[]
  /** False: of a model nobody answers but the one that is asked first; with an order, nobody but those in it. */
  readonly allowFallbacks: boolean
  /** Dollars per million tokens, and for a call; absent = no bound. */
  readonly maxPrice: { readonly prompt?: number; readonly completion?: number; readonly request?: number }
  /** Whoever answers must keep nothing: machines of ours, and OpenRouter, which sees to it. */
  readonly keepsNothing: boolean
  /** Nobody may leave out a parameter. */
  readonly requireParameters: boolean
  /** The names of its fields, where none may be left out. */
  readonly parameters?: readonly string[]
  /** Conditions that nobody but OpenRouter can hold to, by their fields. */
  readonly brokered: readonly string[]
  /** Wishes that nobody but OpenRouter looks at, by their fields. */
  readonly hints: readonly string[]
  /** As it came. */
  readonly given: Readonly<Record<string, unknown>>
  /** The same for OpenRouter, without the names of this house; null = nothing is left. Absent = as it came. */
  readonly passedOn?: Readonly<Record<string, unknown>> | null
}

export type PreferenceRejection =
  | 'above_max_price'
  | 'cannot_assure'
  | 'drops_parameters'
  | 'ignored'
  | 'keeps_data'
  | 'not_in_only'
  | 'not_in_order'
  | 'price_unknown'

/** OpenRouter: one that asks others in its turn. */
export function isBroker({ adapter }: Upstream): boolean {
  return adapter === 'openrouter'
}

/** All names that a target's provider has, in lower case. */
export function providerNames(upstream: Upstream): readonly string[] {
  const names = [upstream.id, providerOf(upstream), ...(upstream.device === null ? [] : [upstream.device.id])]
  return [...new Set(names.map(name => name.toLowerCase()))]
}

/** Why a target is not wanted; null = it is. `house`: every name of this house. */
export function unwanted(
  { upstream, price }: Target,
  wish: ProviderPreference,
  { house, drops, promptTokens }: { readonly house: ReadonlySet<string>; readonly drops: () => boolean; readonly promptTokens: number }
): PreferenceRejection | null {
  const names = providerNames(upstream)
  const isBroking = isBroker(upstream)
  const isNamed = (list: readonly string[]): boolean =>
    list.some(name => names.includes(name)) || (isBroking && list.some(name => !house.has(name)))
  if (wish.ignore.some(name => names.includes(name))) return 'ignored'
  if (wish.only.length > 0 && !isNamed(wish.only)) return 'not_in_only'
  if (!wish.allowFallbacks && wish.order.length > 0 && !isNamed(wish.order)) return 'not_in_order'
  if (wish.keepsNothing && !upstream.own && !isBroking) return 'keeps_data'
  if (wish.brokered.length > 0 && !isBroking) return 'cannot_assure'
  const { prompt, completion, request } = wish.maxPrice
  if (prompt !== undefined || completion !== undefined || request !== undefined) {
    const { tokens, source } = price
    // Nobody sends a bill for an own machine.
    if (tokens === null && source !== 'free' && !upstream.own) return 'price_unknown'
    const isAbove = (figure: number | undefined, most: number | undefined): boolean => most !== undefined && (figure ?? 0) > most
    const now = tokens === null ? null : priceAt(tokens, promptTokens)
    if (isAbove(now?.inputUsdPer1m, prompt) || isAbove(now?.outputUsdPer1m, completion) || isAbove(now?.requestUsd, request))
      return 'above_max_price'
  }
  return wish.requireParameters && !isBroking && drops() ? 'drops_parameters' : null
}

/** Where a target stands in the order that was given; those that are not in it come last. */
export function placeOf({ upstream }: Target, { order }: ProviderPreference, house: ReadonlySet<string>): number {
  const names = providerNames(upstream)
  const at = order.findIndex(name => names.includes(name) || (isBroker(upstream) && !house.has(name)))
  return at === -1 ? order.length : at
}

/** What is left for OpenRouter without the names that are only of this house. */
export function passedOn(wish: ProviderPreference, house: ReadonlySet<string>): ProviderPreference {
  const lists = (['order', 'only', 'ignore'] as const).filter(name => wish[name].some(entry => house.has(entry)))
  if (lists.length === 0) return wish
  const left = Object.entries(wish.given).flatMap(([name, value]) => {
    if (!lists.some(list => list === name) || !Array.isArray(value)) return [[name, value] as const]
    const theirs = value.filter(entry => !house.has(String(entry).toLowerCase()))
    return theirs.length === 0 ? [] : [[name, theirs] as const]
  })
  return { ...wish, passedOn: left.length === 0 ? null : Object.fromEntries(left) }
}
