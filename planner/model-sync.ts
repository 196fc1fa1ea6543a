// Keeps the list of rented models and their prices: asks the providers once for all processes, and writes down what is offered.

import type { Alias } from '../routing/catalog.ts'
import { type ChoiceRules, chooseModels } from '../routing/model-choice.ts'
import { type PriceBook, priceOf } from '../routing/targets.ts'
import type { Adapter, ModelListing, Unread, Upstream } from '../routing/types.ts'
import { listedModels, type SyncResult, saveSyncedModels } from '../store/models.ts'
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
  /** A list that is much shorter than the last one is believed. */
  readonly believesAll?: boolean
  /** Told after each provider whose list was written down. */
  readonly onSynced: (provider: string) => Promise<void>
}

export interface ProviderSync extends SyncResult {
  readonly provider: string
  readonly listed: number
  readonly offered: number
  /** Null = all went well. With `listed` > 0, the rest of the list was written down all the same. */
  readonly error: string | null
  /** What people should know of the list; null = nothing. */
  readonly note: string | null
}

/** Providers whose models come from a list of theirs, and not from the configuration alone. */
export function isSynced(upstream: Upstream): boolean {
  return !upstream.own && upstream.models === null
}

// A list of one model may become another one; hundreds do not go in a day.
const suspicious = { from: 10, share: 0.2 }

const anyway = ' ("llm-mcp models sync --force" believes it)'

const nothing: SyncResult = { added: [], gone: [], repriced: [] }

/** Asks every provider, one after the other. One that fails, or whose list cannot be meant, keeps what it had, and is told in its result. */
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
      results.push({ provider, listed: 0, offered: 0, ...nothing, error: message, note: null })
    }
  }
  return results
}

async function syncOne(ports: ModelSyncPorts, upstream: Upstream, signal: AbortSignal): Promise<ProviderSync> {
  const adapter = ports.adapters.get(upstream.adapter)
  if (adapter === undefined) throw new Error(`no adapter is called "${upstream.adapter}"`)
  const unread: Unread[] = []
  const found = await adapter.listModels(upstream, AbortSignal.any([signal, AbortSignal.timeout(30_000)]), what => void unread.push(what))
  const known = await listedModels(ports.pool, upstream.id)
  const listings = withUnread(found, known, unread)
  const doubt = doubtOf(upstream, { listings, known, believesAll: ports.believesAll === true })
  if (doubt !== null) throw new Error(`${upstream.id} ${doubt}: nothing was changed`)
  const models = offered(upstream, listings, ports.aliases, ports.policy).map(choice => ({
    ...choice,
    price: priceOf(ports.prices, upstream, choice.listing.model, choice.listing.price).tokens
  }))
  const result = await saveSyncedModels(ports.pool, upstream.id, models)
  const count = models.filter(({ leftOut }) => leftOut === null).length
  const told = (isFailure: boolean): string | null =>
    unread.flatMap(what => (what.isFailure === isFailure && what.reason !== null ? [what.reason] : [])).join('; ') || null
  return { provider: upstream.id, listed: listings.length, offered: count, ...result, error: told(true), note: told(false) }
}

/** With those of the last list that may still be there. */
function withUnread(found: readonly ModelListing[], known: readonly ModelListing[], unread: readonly Unread[]): readonly ModelListing[] {
  if (unread.length === 0) return found
  const isAny = unread.some(({ operation }) => operation === null)
  const missing = new Set(unread.map(({ operation }) => operation))
  const before = new Map(known.map(listing => [listing.model, listing]))
  const given = new Set(found.map(({ model }) => model))
  const kept = known.filter(({ model, operations }) => !given.has(model) && (isAny || operations.every(one => missing.has(one))))
  const whole = found.map(listing => {
    const lost = before.get(listing.model)?.operations.filter(one => missing.has(one) && !listing.operations.includes(one)) ?? []
    return lost.length === 0 ? listing : { ...listing, operations: [...listing.operations, ...lost] }
  })
  return [...whole, ...kept.filter(({ operations }) => operations.length > 0)]
}

/** Why a list is not believed; null = it is. All models of a provider do not go at once, nor do all prices. */
function doubtOf(
  { adapter }: Upstream,
  {
    listings,
    known,
    believesAll
  }: { readonly listings: readonly ModelListing[]; readonly known: readonly ModelListing[]; readonly believesAll: boolean }
): string | null {
  const chats = listings.some(({ operations }) => operations.includes('chat'))
  if (listings.length === 0) return 'lists no model at all'
  if (adapter === 'openrouter' && listings.every(({ price }) => price === null)) return 'lists no price that can be read'
  if (believesAll) return null
  // Its embedding models are another list.
  if (adapter === 'openrouter' && !chats && known.some(({ operations }) => operations.includes('chat')))
    return `lists no model that chats, as it did before${anyway}`
  for (const operation of ['chat', 'embed'] as const) {
    const [now, then] = [listings, known].map(list => list.filter(({ operations }) => operations.includes(operation)).length) as [
      number,
      number
    ]
    if (then >= suspicious.from && now < then * suspicious.share)
      return `lists ${now} models for ${operation}, and listed ${then} before${anyway}`
  }
  return null
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
    .map(({ provider, listed, offered: count, added, gone, repriced, error, note }) =>
      error === null
        ? `${provider}: ${count} of ${listed} models offered, ${added.length} new, ${gone.length} gone, ${repriced.length} with a new price${note === null ? '' : ` (${note})`}`
        : `${provider}: ${error}`
    )
    .join('; ')
}
