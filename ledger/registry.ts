// Public list prices, from @pydantic/genai-prices (MIT, a snapshot in the package; nothing is fetched).

import { calcPrice, type ModelPrice } from '@pydantic/genai-prices'
import type { TokenPrice } from '../routing/types.ts'

/** The list price of a provider's model today; null when the registry does not know it. Always asks by provider: without one it guesses. */
export function registeredPrice(registryId: string, model: string): TokenPrice | null {
  const found = calcPrice({ input_tokens: 0, output_tokens: 0 }, model, { providerId: registryId })
  return found === null ? null : tokenPriceOf(found.model_price, model)
}

function tokenPriceOf(price: ModelPrice, model: string): TokenPrice | null {
  const input = figures(price.input_mtok)
  // Embeddings have no output, and so no price for one.
  const output = figures(price.output_mtok ?? (/embed/i.test(model) ? 0 : undefined))
  if (input === null || output === null) return null
  const cached = figures(price.cache_read_mtok)
  const request = typeof price.requests_kcount === 'number' ? price.requests_kcount / 1_000 : null
  const starts = [...new Set([input, output, ...(cached === null ? [] : [cached])].flatMap(({ tiers }) => [...tiers.keys()]))].sort(
    (a, b) => a - b
  )
  const tiers = starts.map(start => ({
    abovePromptTokens: start,
    ...optional('inputUsdPer1m', input.tiers.get(start)),
    ...optional('outputUsdPer1m', output.tiers.get(start)),
    ...optional('cachedInputUsdPer1m', cached?.tiers.get(start))
  }))
  return {
    inputUsdPer1m: input.base,
    outputUsdPer1m: output.base,
    ...(cached === null ? {} : { cachedInputUsdPer1m: cached.base }),
    ...(request === null ? {} : { requestUsd: request }),
    ...(tiers.length === 0 ? {} : { tiers })
  }
}

interface Figures {
  readonly base: number
  /** By the number of prompt tokens above which they hold. */
  readonly tiers: ReadonlyMap<number, number>
}

function figures(price: ModelPrice[string]): Figures | null {
  if (price === undefined) return null
  if (typeof price === 'number') return { base: price, tiers: new Map() }
  return { base: price.base, tiers: new Map(price.tiers.map(({ start, price: above }) => [start, above])) }
}

function optional<K extends string>(key: K, value: number | undefined): { [P in K]?: number } {
  return value === undefined ? {} : ({ [key]: value } as { [P in K]?: number })
}
