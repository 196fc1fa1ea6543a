// What an upstream lists, as targets: with the context size that holds there, and a price. Pure.

import type { ModelListing, Price, Target, TokenPrice, Upstream } from './types.ts'

export interface PriceBook {
  /** Prices set by hand, by `upstream/model` or by model. */
  readonly configured: ReadonlyMap<string, TokenPrice>
  /** The price registry; null = it does not know the model. */
  readonly registered: (registryId: string, model: string) => TokenPrice | null
}

/**
 * Who answers, as it is told and booked: a rented provider by its name, Ollama as `ollama` whatever the machine (whose name stands
 * beside it), any other server of ours by its name: LM Studio is not OpenAI.
 */
export function providerOf(upstream: Upstream): string {
  return upstream.device !== null && upstream.adapter === 'ollama' ? upstream.adapter : upstream.id
}

/** The provider's own figure, then the configuration, then the registry; own machines are priced by electricity. */
export function priceOf(book: PriceBook, upstream: Upstream, model: string, listed: TokenPrice | null): Price {
  if (listed !== null) return { source: 'provider', tokens: listed }
  const configured = book.configured.get(`${upstream.id}/${model}`) ?? book.configured.get(model)
  if (configured !== undefined) return { source: 'config', tokens: configured }
  if (upstream.own) return { source: 'electricity', tokens: null }
  const registered = upstream.registryId === null ? null : book.registered(upstream.registryId, model)
  return registered === null ? { source: 'unknown', tokens: null } : { source: 'registry', tokens: registered }
}

/** `contextTokens`: the pinned size, for servers that take one; otherwise what the listing says. */
export function targetOf(book: PriceBook, upstream: Upstream, listing: ModelListing, contextTokens: number | null): Target {
  return {
    id: `${upstream.id}/${listing.model}`,
    upstream,
    model: listing.model,
    contextTokens: contextTokens ?? listing.maxContextTokens,
    maxOutputTokens: listing.maxOutputTokens,
    features: listing.features === null ? null : new Set(listing.features),
    operations: listing.operations,
    loaded: listing.loaded,
    price: priceOf(book, upstream, listing.model, listing.price),
    createdAt: listing.createdAt ?? 0,
    ...(upstream.own && { memoryGb: memoryGbOf(listing, contextTokens), paramsB: listing.build?.paramsB ?? null })
  }
}

const gib = 1024 ** 3
// Buffers beside the weights.
const weightFactor = 1.1

/** What it takes in memory: as it is loaded now, otherwise weights and the cache of its context. */
function memoryGbOf({ memory }: ModelListing, contextTokens: number | null): number | null {
  if (memory === null) return null
  if (memory.loadedBytes !== null) return memory.loadedBytes / gib
  return (memory.weightBytes * weightFactor + (memory.kvBytesPerToken ?? 0) * (contextTokens ?? 0)) / gib
}

/** A model we were not told of, on an upstream whose list could not be read: it shall say itself what it can. */
export function unlistedTarget(book: PriceBook, upstream: Upstream, model: string): Target {
  return {
    id: `${upstream.id}/${model}`,
    upstream,
    model,
    contextTokens: null,
    maxOutputTokens: null,
    features: null,
    operations: ['chat', 'complete', 'embed'],
    loaded: false,
    price: priceOf(book, upstream, model, null),
    createdAt: 0
  }
}
