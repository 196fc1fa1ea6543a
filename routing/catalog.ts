// The models this gateway can reach, as one immutable snapshot, and what a name in a request means in it.

import type { Route } from './brain/types.ts'
import { nearest } from './nearest.ts'
import { type PriceBook, priceOf, unlistedTarget } from './targets.ts'
import type { Target, Upstream, VectorSpace } from './types.ts'

export type Alias =
  | { readonly kind: 'ordered'; readonly models: readonly string[] }
  | { readonly kind: 'weighted'; readonly models: readonly { readonly model: string; readonly weight: number }[] }

export interface CatalogSource {
  /** In order of preference. */
  readonly upstreams: readonly Upstream[]
  /** Of every upstream that was ever listed. */
  readonly targets: readonly Target[]
  /** Upstreams whose models are known; any other takes every name bound to it. */
  readonly listed: ReadonlySet<string>
  readonly aliases: ReadonlyMap<string, Alias>
  /** What `auto` tries first. */
  readonly auto: readonly string[]
  readonly prices: PriceBook
  /** Models declared to make the same vectors, by `upstream/model` or by model; any other is a space of its own. */
  readonly vectorSpaces: ReadonlyMap<string, string>
  /** Other names of a model that is certainly the same one, by each of its names; absent = there are none. */
  readonly sameAs?: ReadonlyMap<string, readonly string[]>
  /** Answers by name always, and `auto` only when there is nothing else. */
  readonly demo: Target
}

export type Resolution =
  /** `ordered`: the order is somebody's will (an alias, a list) and stands above our own preferences. */
  | { readonly found: true; readonly targets: readonly Target[]; readonly ordered: boolean }
  | { readonly found: false; readonly nearest: readonly string[] }

export interface Catalog {
  readonly source: CatalogSource
  /** `random` in [0, 1) chooses within weighted aliases. */
  resolve(name: string, random: number): Resolution
  /** The vector space a name stands for: that of the first model it names. Null for `auto` and its like, which stand for none. */
  spaceOf(name: string): VectorSpace | null
  /** One entry per model name, own machines first; with the targets that serve it. */
  readonly models: readonly CatalogModel[]
}

export interface CatalogModel {
  readonly id: string
  readonly targets: readonly Target[]
}

const virtual = ['auto', 'auto:cost', 'auto:fast', 'local', 'cloud']
// The same models as `auto`, by what they cost or how long they take instead of by the configured order.
const weighed: ReadonlyMap<string, Route> = new Map([
  ['auto:cost', 'cost'],
  ['auto:fast', 'fast']
])

/** True for names that stand for our own choice. */
export function isVirtual(name: string): boolean {
  return virtual.includes(name)
}

/** What counts more, where the name itself says so. */
export function routeOf(name: string): Route | null {
  return weighed.get(name) ?? null
}

// OpenRouter's variants of a listed model, which its list does not repeat.
const openrouterVariant = /:(nitro|floor|online|thinking|extended|exacto)$/

export function createCatalog(source: CatalogSource): Catalog {
  const byModel = new Map<string, Target[]>()
  const byUpstream = new Map<string, Map<string, Target>>()
  for (const target of source.targets) {
    const name = canonical(target.model)
    push(byModel, name, target)
    let own = byUpstream.get(target.upstream.id)
    if (own === undefined) byUpstream.set(target.upstream.id, (own = new Map()))
    own.set(name, target)
  }
  const upstreams = new Map(source.upstreams.map(upstream => [upstream.id, upstream]))
  const answers = source.targets.filter(target => target.operations.includes('chat'))

  function resolve(name: string, random: number): Resolution {
    const targets = named(name, random, { auto: true, alias: true })
    if (targets !== null && targets.length > 0) {
      return { found: true, targets: eachOnce(targets), ordered: !weighed.has(name) && (isVirtual(name) || source.aliases.has(name)) }
    }
    if (targets !== null) return { found: true, targets: [], ordered: false }
    const known = [...virtual, ...source.aliases.keys(), ...byModel.keys()]
    return { found: false, nearest: nearest(name, known, 3) }
  }

  /** Null = the name means nothing here; empty = it does, but nobody serves it. `may`: inside of each other they would not end. */
  function named(name: string, random: number, may: { readonly auto: boolean; readonly alias: boolean }): readonly Target[] | null {
    if (name === 'auto' || weighed.has(name)) return may.auto ? automatic() : null
    if (name === 'local') return preferred(answers.filter(target => target.upstream.own))
    if (name === 'cloud') return rented()
    const alias = may.alias ? source.aliases.get(name) : undefined
    if (alias !== undefined) return inOrder(alias, random).flatMap(model => named(model, random, { ...may, alias: false }) ?? [])
    if (name === source.demo.model) return [source.demo]
    return bound(name) ?? everywhere(canonical(name)) ?? variants(name)
  }

  /** On all servers that have it, under whatever name; by its own name first. */
  function everywhere(model: string): readonly Target[] | null {
    const targets = byModel.get(model)
    const others = source.sameAs?.get(model)
    if (targets === undefined || others === undefined) return targets ?? null
    return [...targets, ...others.flatMap(other => byModel.get(other) ?? [])]
  }

  /** `upstream/model`, and `ollama/model` for any machine that speaks Ollama. */
  function bound(name: string): readonly Target[] | null {
    const slash = name.indexOf('/')
    if (slash <= 0) return null
    const prefix = name.slice(0, slash)
    const model = canonical(name.slice(slash + 1))
    const upstream = upstreams.get(prefix)
    if (upstream === undefined) {
      if (prefix !== 'ollama') return null
      const targets = (byModel.get(model) ?? []).filter(target => target.upstream.adapter === 'ollama')
      return targets.length === 0 ? null : targets
    }
    const target = on(upstream, model)
    return target === null ? null : [target]
  }

  function on(upstream: Upstream, model: string): Target | null {
    const target = byUpstream.get(upstream.id)?.get(model)
    if (target !== undefined) return target
    const known = variantOn(upstream, model)
    if (known !== null) return known
    return source.listed.has(upstream.id) || model === '' ? null : unlistedTarget(source.prices, upstream, model)
  }

  function variantOn(upstream: Upstream, model: string): Target | null {
    if (upstream.adapter !== 'openrouter' || !openrouterVariant.test(model)) return null
    const base = byUpstream.get(upstream.id)?.get(model.replace(openrouterVariant, ''))
    // A variant is served by other providers at other prices: known by name, not by price.
    return base === undefined
      ? null
      : { ...base, id: `${upstream.id}/${model}`, model, price: priceOf(source.prices, upstream, model, null) }
  }

  function variants(name: string): readonly Target[] | null {
    const found = source.upstreams.map(upstream => variantOn(upstream, name)).filter(target => target !== null)
    return found.length === 0 ? null : found
  }

  function automatic(): readonly Target[] {
    const wished = source.auto.flatMap(model => named(model, 0, { auto: false, alias: true }) ?? [])
    const targets = [...wished, ...preferred(answers.filter(target => target.upstream.own)), ...rented()]
    return targets.length === 0 && source.upstreams.length === 0 ? [source.demo] : targets
  }

  function rented(): readonly Target[] {
    return source.upstreams
      .filter(upstream => !upstream.own)
      .flatMap(upstream => {
        const wished = upstream.auto.map(model => on(upstream, model)).filter(target => target !== null)
        if (wished.length > 0) return wished
        const first = answers.find(target => target.upstream.id === upstream.id)
        return first === undefined ? [] : [first]
      })
  }

  function spaceOf(name: string): VectorSpace | null {
    if (isVirtual(name)) return null
    const alias = source.aliases.get(name)
    const first = alias === undefined ? name : inOrder(alias, 0)[0]
    if (first === undefined || isVirtual(first)) return null
    const space = namedSpace(...boundParts(first))
    return { name: space, has: target => spaceName(target.upstream.id, target.model) === space }
  }

  /** A plain name that is declared only together with an upstream is that space, unless it also runs where it is not. */
  function namedSpace(upstream: string | null, model: string): string {
    const plain = spaceName(upstream, model)
    if (upstream !== null || plain !== canonical(model)) return plain
    const spaces = (byModel.get(plain) ?? []).map(target => spaceName(target.upstream.id, target.model))
    return spaces.length === 0 || spaces.includes(plain) ? plain : (spaces[0] as string)
  }

  function spaceName(upstream: string | null, model: string): string {
    const name = canonical(model)
    return (upstream === null ? undefined : source.vectorSpaces.get(`${upstream}/${name}`)) ?? source.vectorSpaces.get(name) ?? name
  }

  /** The upstream a name is bound to, if it is, and the model there. */
  function boundParts(name: string): readonly [string | null, string] {
    const slash = name.indexOf('/')
    const prefix = name.slice(0, Math.max(0, slash))
    if (upstreams.has(prefix)) return [prefix, name.slice(slash + 1)]
    return prefix === 'ollama' ? [null, name.slice(slash + 1)] : [null, name]
  }

  return { source, resolve, spaceOf, models: list(source, byModel, everywhere) }
}

/** `x` and `x:latest` are one. */
export function canonical(model: string): string {
  return model.endsWith(':latest') ? model.slice(0, -7) : model
}

/** Several names may mean one target; it is tried once, where it was named first. */
function eachOnce(targets: readonly Target[]): readonly Target[] {
  const seen = new Set<string>()
  return targets.filter(({ id }) => !seen.has(id) && seen.add(id))
}

/** Loaded models first: they answer at once. */
function preferred(targets: readonly Target[]): readonly Target[] {
  return [...targets.filter(target => target.loaded), ...targets.filter(target => !target.loaded)]
}

function inOrder(alias: Alias, random: number): readonly string[] {
  if (alias.kind === 'ordered') return alias.models
  const total = alias.models.reduce((sum, { weight }) => sum + weight, 0)
  let point = random * total
  const first = alias.models.find(({ weight }) => (point -= weight) < 0) ?? alias.models[0]
  return [first, ...alias.models.filter(entry => entry !== first)].flatMap(entry => (entry === undefined ? [] : [entry.model]))
}

function list(
  source: CatalogSource,
  byModel: ReadonlyMap<string, readonly Target[]>,
  everywhere: (model: string) => readonly Target[] | null
): readonly CatalogModel[] {
  const own: CatalogModel[] = []
  const rented: CatalogModel[] = []
  for (const id of byModel.keys()) {
    const targets = everywhere(id) ?? []
    ;(targets.some(target => target.upstream.own) ? own : rented).push({ id, targets })
  }
  const named = [...source.aliases.keys()].map(id => ({ id, targets: [] }))
  if (own.length + rented.length === 0 && source.upstreams.length === 0) {
    return [
      { id: source.demo.model, targets: [source.demo] },
      { id: 'auto', targets: [source.demo] }
    ]
  }
  return [...own, { id: 'auto', targets: [] }, ...named, ...rented]
}

function push<K, V>(map: Map<K, V[]>, key: K, value: V): void {
  const list = map.get(key)
  if (list === undefined) map.set(key, [value])
  else list.push(value)
}
