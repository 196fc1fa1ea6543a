// What an attempt cost, in whole nano-dollars. Pure; the SQL function calculate_job_cost() will sum what is computed here.

import type { PriceSource, Target, TokenPrice, Usage } from './types.ts'

export interface Cost {
  /** Null = unknown, which is never the same as 0. */
  readonly nanoUsd: number | null
  readonly source: PriceSource
}

/**
 * The provider's own figure wins, then the target's price, and for own machines electricity: watts x busy time x price.
 * Rounded up to the next nano-dollar.
 */
export function costOf(target: Target, usage: Usage, usdPerKwh: number): Cost {
  if (usage.providerNanoUsd !== null) return { nanoUsd: usage.providerNanoUsd, source: 'provider' }
  if (target.price.tokens !== null) return { nanoUsd: tokenCost(target.price.tokens, usage), source: target.price.source }
  if (target.price.source === 'free') return { nanoUsd: 0, source: 'free' }
  const device = target.upstream.device
  if (device !== null && usage.busyMs !== null) {
    return { nanoUsd: energyCost(device.watts, usage.busyMs, usdPerKwh), source: 'electricity' }
  }
  return { nanoUsd: null, source: 'unknown' }
}

/** Nano-dollars for tokens at a price in dollars per million: 1 $/1M = 1,000 nano-dollars a token. */
export function tokenCost(price: TokenPrice, usage: Usage): number {
  const { inputUsdPer1m: input, outputUsdPer1m: output, cachedInputUsdPer1m: cached } = priceAt(price, usage.promptTokens)
  const cachedTokens = Math.min(usage.cachedTokens, usage.promptTokens)
  const nano =
    (usage.promptTokens - cachedTokens) * input * 1_000 +
    cachedTokens * (cached ?? input) * 1_000 +
    usage.completionTokens * output * 1_000 +
    (price.requestUsd ?? 0) * 1e9
  return roundUp(nano)
}

/** The price that holds for a prompt of this length. */
export function priceAt(price: TokenPrice, promptTokens: number): TokenPrice {
  if (price.tiers === undefined) return price
  return Object.assign({}, price, ...price.tiers.filter(({ abovePromptTokens }) => promptTokens > abovePromptTokens))
}

function energyCost(watts: number, busyMs: number, usdPerKwh: number): number {
  return roundUp(((watts * busyMs) / 3.6e9) * usdPerKwh * 1e9)
}

// Five roundings of 2^-53 are the most that the sums here see; a larger share would hide true parts of large amounts.
const floatError = 2e-15

/** Up, but not because of a float's last bit: 10 tokens at 0.2 $/1M are 2,000, not 2,001. */
function roundUp(nano: number): number {
  // $9 million: above it floats are no whole numbers, and soon no column holds them. Only a senseless price gets there.
  if (!(nano <= Number.MAX_SAFE_INTEGER)) return Number.MAX_SAFE_INTEGER
  const nearest = Math.round(nano)
  return Math.abs(nano - nearest) < Math.max(1e-6, nearest * floatError) ? nearest : Math.ceil(nano)
}

/** Nano-dollars as a decimal number of dollars for headers and JSON, without an exponent: 1234 -> "0.000001234". */
export function formatUsd(nanoUsd: number): string {
  const whole = Math.floor(nanoUsd / 1e9)
  const rest = String(nanoUsd - whole * 1e9)
    .padStart(9, '0')
    .replace(/0+$/, '')
  return rest === '' ? String(whole) : `${whole}.${rest}`
}
