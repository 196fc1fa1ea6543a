// Knows which models are where: asks every upstream, again and again, and swaps the catalog whole when something changed.

import { type Alias, type Catalog, createCatalog } from '../routing/catalog.ts'
import { chooseContextTokens } from '../routing/context-size.ts'
import { type GatewayError, toGatewayError } from '../routing/errors.ts'
import { type PriceBook, targetOf } from '../routing/targets.ts'
import type { Adapter, ModelListing, Target, Upstream } from '../routing/types.ts'
import type { StoredModel } from '../store/devices.ts'

export interface InventoryPorts {
  /** In order of preference. */
  readonly upstreams: readonly Upstream[]
  /** An Ollama that may or may not run on this machine: taken in when it first answers. Null = none to look for. */
  readonly candidate: Upstream | null
  readonly adapters: ReadonlyMap<string, Adapter>
  readonly aliases: ReadonlyMap<string, Alias>
  readonly auto: readonly string[]
  readonly prices: PriceBook
  /** Models declared to make the same vectors, by `upstream/model` or by model. */
  readonly vectorSpaces: ReadonlyMap<string, string>
  readonly demo: Target
  readonly saveDevice: (upstream: Upstream) => Promise<void>
  /** Returns them with the context sizes that are pinned. */
  readonly saveModels: (upstream: Upstream, models: readonly StoredModel[]) => Promise<StoredModel[]>
  readonly knownModels: (upstream: Upstream) => Promise<StoredModel[]>
  readonly onListed: (upstreamId: string) => void
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
  /** The catalog was wrong about this upstream: ask it again soon. */
  refresh(upstreamId: string): void
  /** What each upstream offers now, for people. */
  /** Upstreams that did not answer when they were last asked, by id. */
  unavailable(): ReadonlySet<string>
  report(): readonly UpstreamReport[]
  stop(): void
}

export interface UpstreamReport {
  readonly upstream: Upstream
  readonly models: readonly string[]
  readonly error: string | null
}

interface State {
  readonly upstream: Upstream
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
  let stopped = false
  let catalog = build()

  function build(): Catalog {
    const found = [...states.values()]
    const upstreams = [...ports.upstreams]
    // The machine's own Ollama, once found, comes before everything rented.
    const joined = ports.candidate === null ? undefined : states.get(ports.candidate.id)
    if (joined?.listed === true) upstreams.unshift(joined.upstream)
    const order = new Map(upstreams.map((upstream, index) => [upstream.id, index]))
    const listed = found.filter(state => state.listed && order.has(state.upstream.id))
    listed.sort((a, b) => (order.get(a.upstream.id) as number) - (order.get(b.upstream.id) as number))
    return createCatalog({
      upstreams,
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
    const all = ports.candidate === null ? ports.upstreams : [...ports.upstreams, ports.candidate]
    for (const upstream of all) states.set(upstream.id, { upstream, models: [], listed: false, error: null, timer: null, asking: null })
    await Promise.all(ports.upstreams.filter(upstream => upstream.own).map(remember))
    const own = [...states.values()].filter(({ upstream }) => upstream.own)
    const isNew = (state: State): boolean => state.upstream !== ports.candidate && !state.listed
    const waits = own.map(state => ({ ms: isNew(state) ? newMs : ms, answer: ask(state) }))
    for (const state of states.values()) if (!state.upstream.own) void ask(state)
    await Promise.all(waits.map(wait => Promise.race([wait.answer, new Promise(resolve => setTimeout(resolve, wait.ms).unref())])))
    catalog = build()
  }

  /** A machine that is off right now still has its models: known from before, so that they are not "unknown". */
  async function remember(upstream: Upstream): Promise<void> {
    const state = states.get(upstream.id) as State
    await ports.saveDevice(upstream)
    state.models = await ports.knownModels(upstream)
    state.listed = state.models.length > 0
  }

  function ask(state: State): Promise<void> {
    state.asking ??= read(state).finally(() => {
      state.asking = null
      const every = state.error !== null ? failedEveryMs : state.upstream.own ? ownEveryMs : rentedEveryMs
      schedule(state, every)
    })
    return state.asking
  }

  async function read(state: State): Promise<void> {
    const { upstream } = state
    try {
      const models = await list(upstream)
      if (upstream === ports.candidate && !state.listed) await ports.saveDevice(upstream)
      state.models = upstream.device === null ? models : await ports.saveModels(upstream, models)
      state.listed = true
      if (state.error !== null) ports.onState(upstream, null)
      state.error = null
      ports.onListed(upstream.id)
      catalog = build()
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
    const listings = await adapter.listModels(upstream, AbortSignal.timeout(30_000))
    const wanted = upstream.models === null ? listings : listings.filter(({ model }) => upstream.models?.includes(model))
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
      numCtx:
        upstream.device !== null && upstream.adapter === 'ollama'
          ? chooseContextTokens(upstream.device, listing.memory, listing.maxContextTokens)
          : null
    }))
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
    refresh(upstreamId) {
      const state = states.get(upstreamId)
      if (state !== undefined && state.asking === null) schedule(state, soonMs)
    },
    unavailable: () => new Set([...states.values()].filter(({ error }) => error !== null).map(({ upstream }) => upstream.id)),
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
