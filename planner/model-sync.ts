// Keeps the list of rented models and their prices: asks the providers once for all processes, and writes down what is offered.

import type { Alias } from '../routing/catalog.ts'
import { type ChoiceRules, chooseModels } from '../routing/model-choice.ts'
import { type PriceBook, priceOf } from '../routing/targets.ts'
import type { Adapter, ModelListing, Upstream } from '../routing/types.ts'
import { type SyncResult, saveSyncedModels } from '../store/models.ts'
import type { Pool } from '../store/pool.ts'

export interface ModelPolicy {
  readonly top: number
  readonly maxUsdPer1m: number
}

export interface ModelSyncPorts {
  readonly pool: Pool
  readonly upstreams: readonly Upstream[]
  readonly adapters: ReadonlyMap<string, Adapter>
  readonly aliases: ReadonlyMap<string, Alias>
  readonly prices: PriceBook
  readonly policy: ModelPolicy
  /** Told after each provider whose list was written down. */
  readonly onSynced: (provider: string) => Promise<void>
}

export interface ProviderSync extends SyncResult {
  readonly provider: string
  readonly listed: number
  readonly offered: number
  /** Null = all went well. */
  readonly error: string | null
}

/** Providers whose models come from a list of theirs, and not from the configuration alone. */
export function isSynced(upstream: Upstream): boolean {
  return !upstream.own && upstream.models === null
}

const nothing: SyncResult = { added: [], gone: [], repriced: [] }

/** Asks every provider, one after the other. One that fails keeps what it had, and is told in its result. */
export async function syncModels(ports: ModelSyncPorts, signal: AbortSignal): Promise<ProviderSync[]> {
  const results: ProviderSync[] = []
  for (const upstream of ports.upstreams.filter(isSynced)) {
    signal.throwIfAborted()
    const provider = upstream.id
    try {
      results.push(await syncOne(ports, upstream, signal))
      await ports.onSynced(provider)
    } catch (error) {
      signal.throwIfAborted()
      const message = error instanceof Error ? error.message : String(error)
      results.push({ provider, listed: 0, offered: 0, ...nothing, error: message })
    }
  }
  return results
}

async function syncOne(ports: ModelSyncPorts, upstream: Upstream, signal: AbortSignal): Promise<ProviderSync> {
  const adapter = ports.adapters.get(upstream.adapter)
  if (adapter === undefined) throw new Error(`no adapter is called "${upstream.adapter}"`)
  const listings = await adapter.listModels(upstream, AbortSignal.any([signal, AbortSignal.timeout(30_000)]))
  // An empty list is an answer that says nothing: all models of a provider do not go at once.
  if (listings.length === 0) throw new Error(`${upstream.id} lists no model at all`)
  const models = offered(upstream, listings, ports.aliases, ports.policy).map(choice => ({
    ...choice,
    price: priceOf(ports.prices, upstream, choice.listing.model, choice.listing.price).tokens
  }))
  const result = await saveSyncedModels(ports.pool, upstream.id, models)
  const count = models.filter(({ leftOut }) => leftOut === null).length
  return { provider: upstream.id, listed: listings.length, offered: count, ...result, error: null }
}

/** What becomes of each model of a provider's list. Only OpenRouter lists so many that a choice is needed. */
export function offered(
  upstream: Upstream,
  listings: readonly ModelListing[],
  aliases: ReadonlyMap<string, Alias>,
  policy: ModelPolicy
): ReturnType<typeof chooseModels> {
  const rules: ChoiceRules =
    upstream.adapter === 'openrouter'
      ? { ...policy, wished: wishesFor(upstream, aliases) }
      : { top: Number.POSITIVE_INFINITY, maxUsdPer1m: Number.POSITIVE_INFINITY, wished: new Set(listings.map(({ model }) => model)) }
  return chooseModels(listings, rules)
}

/** Models that the configuration names. */
function wishesFor(upstream: Upstream, aliases: ReadonlyMap<string, Alias>): Set<string> {
  const named = [...aliases.values()].flatMap(({ models }) => models.map(model => (typeof model === 'string' ? model : model.model)))
  const prefix = `${upstream.id}/`
  return new Set([...upstream.auto, ...named.flatMap(name => [name, ...(name.startsWith(prefix) ? [name.slice(prefix.length)] : [])])])
}

/** One line for people. */
export function syncNote(results: readonly ProviderSync[]): string {
  return results
    .map(({ provider, listed, offered: count, added, gone, repriced, error }) =>
      error === null
        ? `${provider}: ${count} of ${listed} models offered, ${added.length} new, ${gone.length} gone, ${repriced.length} with a new price`
        : `${provider}: ${error}`
    )
    .join('; ')
}
