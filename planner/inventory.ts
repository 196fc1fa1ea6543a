// Knows which models are where: asks every upstream, again and again, and swaps the catalog whole when something changed.

import { isDeepStrictEqual } from 'node:util'
import { type Alias, type Catalog, createCatalog } from '../routing/catalog.ts'
import { chooseContextTokens } from '../routing/context-size.ts'
import { type GatewayError, toGatewayError } from '../routing/errors.ts'
import { contextTokensAtMost, overLimit } from '../routing/model-limits.ts'
import { type PriceBook, targetOf } from '../routing/targets.ts'
import type { Adapter, Device, ModelListing, Target, Upstream } from '../routing/types.ts'
import type { StoredModel } from '../store/devices.ts'
import { createJoins, type Joins } from './joins.ts'
import { isSynced, type ModelPolicy, offered } from './model-sync.ts'

export interface InventoryPorts {
  /** At the start, in order of preference. */
  readonly upstreams: readonly Upstream[]
  /** An Ollama that may or may not run on this machine: taken in when it first answers. Null = none to look for. */
  readonly candidate: Upstream | null
  readonly adapters: ReadonlyMap<string, Adapter>
  readonly aliases: ReadonlyMap<string, Alias>
  readonly auto: readonly string[]
  readonly prices: PriceBook
  /** Names that are one model, or are not, by the operator's word: name -> canonical name. */
  readonly sameModels: ReadonlyMap<string, string>
  /** Models declared to make the same vectors, by `upstream/model` or by model. */
  readonly vectorSpaces: ReadonlyMap<string, string>
  readonly demo: Target
  readonly saveDevice: (upstream: Upstream) => Promise<void>
  /** Returns them with the context sizes that are pinned. */
  readonly saveModels: (upstream: Upstream, models: readonly StoredModel[]) => Promise<StoredModel[]>
  readonly knownModels: (upstream: Upstream) => Promise<StoredModel[]>
  /** What a rented provider offers, as it was written down by whoever asked it last; null = nobody did yet. */
  readonly offeredModels: (upstream: Upstream) => Promise<readonly ModelListing[] | null>
  readonly policy: ModelPolicy
  /** `askedAtMs`: when it was asked, by a clock that never jumps. */
  readonly onListed: (upstreamId: string, askedAtMs: number) => void
  /** Told once for each change between reachable and not. */
  readonly onState: (upstream: Upstream, error: GatewayError | null) => void
}

export interface Inventory {
  readonly catalog: () => Catalog
  /**
   * Asks everyone; resolves when own machines have answered or `ms` have passed. A configured machine that was never seen
   * is given `newMs`: without its list, its models would be unknown names.
   */
  start(ms: number, newMs: number): Promise<void>
  /** Other upstreams than before: new ones are asked at once, those that are left out are forgotten, changed limits hold from now on. */
  change(upstreams: readonly Upstream[]): void
  /** The catalog was wrong about this upstream, or others know more of it: ask again soon. */
  refresh(upstreamId: string): void
  /** Upstreams that did not answer when they were last asked, by id. */
  unavailable(): ReadonlySet<string>
  /** Which names were taken for one model, and which look alike and were not. */
  joins(): Joins['told']
  /** What each upstream offers now, for people. */
  report(): readonly UpstreamReport[]
  stop(): void
}

export interface UpstreamReport {
  readonly upstream: Upstream
  readonly models: readonly string[]
  readonly error: string | null
}

interface State {
  upstream: Upstream
  models: readonly StoredModel[]
  /** The list was read at least once, now or in an earlier life. */
  listed: boolean
  error: GatewayError | null
  timer: NodeJS.Timeout | null
  asking: Promise<void> | null
}

const ownEveryMs = 15_000
const rentedEveryMs = 3_600_000
const failedEveryMs = 5_000
const soonMs = 200

export function createInventory(ports: InventoryPorts): Inventory {
  const states = new Map<string, State>()
  let { upstreams } = ports
  const joins = createJoins(ports.sameModels)
  let stopped = false
  let told: Joins['told'] = { joined: [], guesses: [], moreGuesses: false }
  let catalog = build()

  function build(): Catalog {
    const found = [...states.values()]
    // The machine's own Ollama, once found, comes before everything rented.
    const own = ports.candidate === null ? undefined : states.get(ports.candidate.id)
    const present = own?.listed === true ? [own.upstream, ...upstreams] : upstreams
    const order = new Map(present.map((upstream, index) => [upstream.id, index]))
    const listed = found.filter(state => state.listed && order.has(state.upstream.id))
    listed.sort((a, b) => (order.get(a.upstream.id) as number) - (order.get(b.upstream.id) as number))
    const joined = joins(listed.map(({ upstream, models }) => ({ upstream, listings: models.map(({ listing }) => listing) })))
    told = joined.told
    return createCatalog({
      upstreams: present,
      sameAs: joined.others,
      targets: listed.flatMap(({ upstream, models }) =>
        models.map(({ listing, numCtx }) => targetOf(ports.prices, upstream, listing, numCtx))
      ),
      listed: new Set(listed.map(({ upstream }) => upstream.id)),
      aliases: ports.aliases,
      auto: ports.auto,
      prices: ports.prices,
      vectorSpaces: ports.vectorSpaces,
      demo: ports.demo
    })
  }

  async function start(ms: number, newMs: number): Promise<void> {
    for (const upstream of ports.candidate === null ? upstreams : [...upstreams, ports.candidate])
      states.set(upstream.id, unasked(upstream))
    await Promise.all(upstreams.filter(upstream => upstream.own).map(remember))
    const own = [...states.values()].filter(({ upstream }) => upstream.own)
    const isNew = (state: State): boolean => state.upstream !== ports.candidate && !state.listed
    const waits = own.map(state => ({ ms: isNew(state) ? newMs : ms, answer: ask(state) }))
    for (const state of states.values()) if (!state.upstream.own) void ask(state)
    await Promise.all(waits.map(wait => Promise.race([wait.answer, new Promise(resolve => setTimeout(resolve, wait.ms).unref())])))
    catalog = build()
  }

  function unasked(upstream: Upstream): State {
    return { upstream, models: [], listed: false, error: null, timer: null, asking: null }
  }

  function change(next: readonly Upstream[]): void {
    upstreams = next
    const ids = new Set(next.map(({ id }) => id))
    for (const [id, { timer }] of states) {
      if (ids.has(id) || id === ports.candidate?.id) continue
      if (timer !== null) clearTimeout(timer)
      states.delete(id)
    }
    for (const upstream of next) {
      const state = states.get(upstream.id)
      if (state === undefined) {
        states.set(upstream.id, unasked(upstream))
        void join(upstream)
      } else if (JSON.stringify(state.upstream) !== JSON.stringify(upstream)) {
        state.upstream = upstream
        void join(upstream)
      }
    }
    catalog = build()
  }

  async function join(upstream: Upstream): Promise<void> {
    // With the database away it is known all the same, from its own answer.
    if (upstream.own) await remember(upstream).catch(() => {})
    const state = states.get(upstream.id)
    if (state === undefined || stopped) return
    catalog = build()
    await state.asking
    await ask(state)
  }

  /** A machine that is off right now still has its models: known from before, so that they are not "unknown". */
  async function remember(upstream: Upstream): Promise<void> {
    await ports.saveDevice(upstream)
    const models = await ports.knownModels(upstream)
    const state = states.get(upstream.id)
    if (state === undefined || models.length === 0) return
    state.models = models
    state.listed = true
  }

  function ask(state: State): Promise<void> {
    state.asking ??= read(state).finally(() => {
      state.asking = null
      if (states.get(state.upstream.id) !== state) return
      const every = state.error !== null ? failedEveryMs : state.upstream.own ? ownEveryMs : rentedEveryMs
      schedule(state, every)
    })
    return state.asking
  }

  async function read(state: State): Promise<void> {
    const { upstream } = state
    const askedAtMs = performance.now()
    try {
      const models = await list(upstream)
      // Left out, or changed, while it was asked.
      if (states.get(upstream.id)?.upstream !== upstream) return
      if (upstream === ports.candidate && !state.listed) await ports.saveDevice(upstream)
      const stored = upstream.device === null ? models : await ports.saveModels(upstream, models)
      const isSame = state.listed && isDeepStrictEqual(stored, state.models)
      if (!isSame) state.models = stored
      state.listed = true
      if (state.error !== null) ports.onState(upstream, null)
      state.error = null
      ports.onListed(upstream.id, askedAtMs)
      // Of a hundred machines that are asked again and again nearly all say what they said before.
      if (!isSame) catalog = build()
    } catch (thrown) {
      const error = toGatewayError(thrown)
      // A candidate that never answered is not missing, it is just not there.
      if (state.error === null && (upstream !== ports.candidate || state.listed)) ports.onState(upstream, error)
      state.error = error
    }
  }

  async function list(upstream: Upstream): Promise<StoredModel[]> {
    const adapter = ports.adapters.get(upstream.adapter)
    if (adapter === undefined) throw new Error(`no adapter is called "${upstream.adapter}"`)
    const listings = await listingsOf(upstream, adapter)
    const { device } = upstream
    const allowed = device === null ? listings : listings.filter(listing => overLimit(listing, device) === null)
    const wanted = upstream.models === null ? allowed : allowed.filter(({ model }) => upstream.models?.includes(model))
    // Named by the configuration but not in the list: the configuration knows better.
    const unlisted = (upstream.models ?? []).filter(model => !upstream.own && !listings.some(listing => listing.model === model))
    const added = unlisted.map(
      (model): ModelListing => ({
        model,
        createdAt: null,
        maxContextTokens: null,
        maxOutputTokens: null,
        features: null,
        operations: ['chat', 'complete', 'embed'],
        loaded: true,
        price: null,
        memory: null,
        digest: null
      })
    )
    return [...wanted, ...added].map(listing => ({
      listing,
      numCtx: device !== null && upstream.adapter === 'ollama' ? contextFor(device, listing) : null
    }))
  }

  async function listingsOf(upstream: Upstream, adapter: Adapter): Promise<readonly ModelListing[]> {
    const known = isSynced(upstream) ? await ports.offeredModels(upstream) : null
    if (known !== null) return known
    const listings = await adapter.listModels(upstream, AbortSignal.timeout(30_000))
    if (!isSynced(upstream)) return listings
    return offered(upstream, listings, ports.aliases, ports.policy).flatMap(({ listing, leftOut }) => (leftOut === null ? [listing] : []))
  }

  function contextFor(device: Device, listing: ModelListing): number {
    const limits = [listing.maxContextTokens, contextTokensAtMost(device)].filter(tokens => tokens !== null)
    return chooseContextTokens(device, listing.memory, limits.length === 0 ? null : Math.min(...limits))
  }

  function schedule(state: State, ms: number): void {
    if (stopped) return
    if (state.timer !== null) clearTimeout(state.timer)
    state.timer = setTimeout(() => void ask(state), ms)
    state.timer.unref()
  }

  return {
    catalog: () => catalog,
    start,
    change,
    refresh(upstreamId) {
      const state = states.get(upstreamId)
      if (state !== undefined && state.asking === null) schedule(state, soonMs)
    },
    unavailable: () => new Set([...states.values()].filter(({ error }) => error !== null).map(({ upstream }) => upstream.id)),
    joins: () => told,
    report: () =>
      [...states.values()]
        .filter(({ upstream, listed }) => upstream !== ports.candidate || listed)
        .map(({ upstream, models, error }) => ({
          upstream,
          models: models.map(({ listing }) => listing.model),
          error: error?.message ?? null
        })),
    stop() {
      stopped = true
      for (const { timer } of states.values()) if (timer !== null) clearTimeout(timer)
    }
  }
}
