// Which of a provider's many models are offered: the most context for the money, within a price. Pure.

import type { ModelListing, TokenPrice } from './types.ts'

export interface ChoiceRules {
  /** How many that cost something, and a fifth as many that do not. */
  readonly top: number
  /** The mean of the prices of a million prompt and a million answer tokens, with what requests of 2,000 tokens cost. */
  readonly maxUsdPer1m: number
  /** Offered in any case: the operator has named them. */
  readonly wished: ReadonlySet<string>
}

export type LeftOut = 'no_text' | 'price_unknown' | 'too_expensive' | 'below_the_top'

export interface Choice {
  readonly listing: ModelListing
  /** Null where there is no price. */
  readonly score: number | null
  /** Null = it is offered. */
  readonly leftOut: LeftOut | null
}

// One model with ten million tokens would stand above all others for what nobody uses.
const contextTokensAtMost = 1_048_576
// Under a cent per million, prices are rounding errors of each other.
const usdPer1mAtLeast = 0.01
const freeShare = 0.2
// A usual prompt and its answer.
const tokensOfRequest = 2_000

/** Thousands of tokens of context for a dollar per million tokens, 0 to 104,858; null when the price is unknown. */
export function scoreOf({ maxContextTokens, price }: Pick<ModelListing, 'maxContextTokens' | 'price'>): number | null {
  if (price === null) return null
  const context = Math.min(maxContextTokens ?? 0, contextTokensAtMost) / 1_000
  return context / Math.max(usdPer1mAtLeast, meanUsdPer1m(price))
}

/**
 * All of `listings` in the order of the list, each with what becomes of it. Free models are ranked among themselves, by context: a price
 * of 0 is a price, but nothing can be divided by it. Embedding models have no rank: there are few, and nothing stands in for one of them.
 */
export function chooseModels(listings: readonly ModelListing[], rules: ChoiceRules): Choice[] {
  const scored = listings.map(listing => ({ listing, score: scoreOf(listing), leftOut: unfit(listing, rules) }))
  const ranked = scored.filter(({ listing, leftOut }) => leftOut === null && listing.operations.includes('chat'))
  const byRank = ranked.toSorted(
    (a, b) => (b.score ?? 0) - (a.score ?? 0) || (b.listing.createdAt ?? 0) - (a.listing.createdAt ?? 0) || compare(a.listing, b.listing)
  )
  const offered = new Set([
    ...byRank.filter(({ listing }) => !isFree(listing)).slice(0, rules.top),
    ...byRank.filter(({ listing }) => isFree(listing)).slice(0, Math.ceil(rules.top * freeShare))
  ])
  const isRanked = new Set(ranked)
  return scored.map(choice => {
    if (rules.wished.has(choice.listing.model)) return { ...choice, leftOut: null }
    return isRanked.has(choice) && !offered.has(choice) ? { ...choice, leftOut: 'below_the_top' } : choice
  })
}

function unfit({ operations, price }: ModelListing, { maxUsdPer1m }: ChoiceRules): LeftOut | null {
  if (operations.length === 0) return 'no_text'
  // Whatever else the list tells: of a list that can be misread, the price is what counts.
  if (price === null) return 'price_unknown'
  return meanUsdPer1m(price) > maxUsdPer1m ? 'too_expensive' : null
}

function isFree({ price }: ModelListing): boolean {
  return price !== null && meanUsdPer1m(price) === 0
}

/** Of a million prompt and a million answer tokens; a price per request is that of 2,000 tokens more. */
export function meanUsdPer1m({ inputUsdPer1m, outputUsdPer1m, requestUsd = 0 }: TokenPrice): number {
  return (inputUsdPer1m + outputUsdPer1m) / 2 + requestUsd * (1_000_000 / tokensOfRequest)
}

function compare(a: ModelListing, b: ModelListing): number {
  return a.model < b.model ? -1 : 1
}
