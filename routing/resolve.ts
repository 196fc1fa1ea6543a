// What the names in a request mean: the targets to decide about, in their order, or the error that leaves nothing to decide.

import { type Catalog, canonical } from './catalog.ts'
import type { DecisionInput, ModelOf } from './decide.ts'
import { GatewayError } from './errors.ts'
import { placeOf, providerNames } from './preference.ts'
import type { Caller, ModelRequest, Target, VectorSpace } from './types.ts'

export type Resolved = { readonly space: VectorSpace | null } & (
  | { readonly error: GatewayError; readonly input?: undefined }
  | { readonly error?: undefined; readonly input: DecisionInput }
)

/** What is to be decided about a request, or the error that leaves nothing to decide. `random` in [0, 1) chooses within weighted aliases. */
export function resolve(
  { request, caller }: { readonly request: ModelRequest; readonly caller: Caller },
  { catalog, localOnly, mayQueue, random }: { catalog: Catalog; localOnly: boolean; mayQueue: boolean; random: number }
): Resolved {
  const isEmbedding = request.operation === 'embed'
  // Vectors of two models cannot be mixed, so nothing about embeddings is left to chance.
  const resolution = catalog.resolve(request.model, isEmbedding ? 0 : random)
  const space = isEmbedding ? catalog.spaceOf(request.model) : null
  if (!resolution.found) return { error: unknownModel(request.model, resolution.nearest, 'model'), space }
  if (isEmbedding && space === null) {
    const message = `Embeddings need a model by its name, not "${request.model}": vectors of different models cannot be compared.`
    return { error: new GatewayError('invalid_request', message, { param: 'model' }), space }
  }
  const { targets } = resolution
  // Whoever says what counts wants to have it weighed; of a list all are as good.
  const ordered = resolution.ordered && request.route === undefined
  const plain = { request, caller, targets, ordered, space, localOnly, mayQueue, modelOf: modelOfIn(catalog) }
  if (request.fallbacks === undefined && request.preference === undefined) return { input: plain, space }
  const listed = listedTargets(catalog, { request, targets, ordered, random })
  return listed instanceof GatewayError ? { error: listed, space } : { input: { ...plain, ...listed }, space }
}

const modelNames = new WeakMap<Catalog, ModelOf>()

/** The model that a target has: one and the same under all names that are certainly its own. */
export function modelOfIn(catalog: Catalog): ModelOf {
  const known = modelNames.get(catalog)
  if (known !== undefined) return known
  const { sameAs } = catalog.source
  const modelOf: ModelOf = ({ model }) => {
    const name = canonical(model)
    return [name, ...(sameAs?.get(name) ?? [])].toSorted()[0] as string
  }
  modelNames.set(catalog, modelOf)
  return modelOf
}

const houses = new WeakMap<Catalog, ReadonlySet<string>>()

/** Every name of a provider or machine of this house. */
export function houseOf(catalog: Catalog): ReadonlySet<string> {
  const known = houses.get(catalog)
  if (known !== undefined) return known
  const names = new Set(catalog.source.upstreams.flatMap(providerNames))
  houses.set(catalog, names)
  return names
}

/** The targets of a request that names several models, or an order of providers. A name that means nothing is an error, not passed over. */
function listedTargets(
  catalog: Catalog,
  {
    request,
    targets,
    ordered,
    random
  }: { readonly request: ModelRequest; readonly targets: readonly Target[]; readonly ordered: boolean; readonly random: number }
): Pick<DecisionInput, 'targets' | 'ordered' | 'house' | 'tiers' | 'names'> | GatewayError {
  const { fallbacks = [], preference, anyFallback } = request
  const house = houseOf(catalog)
  const all: Target[] = [...targets]
  const seen = new Set(targets.map(({ id }) => id))
  const names = new Map<string, string>()
  /** Where a target stands: its model, and within an ordered one its own place. */
  const place = new Map<string, readonly [model: number, own: number]>(targets.map(({ id }, at) => [id, [0, ordered ? at : 0]]))
  for (const [at, name] of fallbacks.entries()) {
    const found = catalog.resolve(name, random)
    if (!found.found) return unknownModel(name, found.nearest, 'models')
    const isOrdered = found.ordered && request.route === undefined
    for (const [index, target] of found.targets.entries()) {
      if (seen.has(target.id)) continue
      seen.add(target.id)
      all.push(target)
      names.set(target.id, name)
      place.set(target.id, [anyFallback === true ? 0 : at + 1, isOrdered ? index : 0])
    }
  }
  const hasOrder = preference !== undefined && preference.order.length > 0
  if (!hasOrder && !ordered && (fallbacks.length === 0 || anyFallback === true)) return { targets: all, ordered: false, house, names }
  const keys = all.map(target => {
    const [model, own] = place.get(target.id) ?? [0, 0]
    return { target, key: [model, hasOrder ? placeOf(target, preference, house) : 0, own] }
  })
  keys.sort((one, other) => difference(one.key, other.key))
  const tiers = new Map<string, number>()
  let tier = 0
  for (const [at, { target, key }] of keys.entries()) {
    const before = keys[at - 1]
    if (before !== undefined && difference(before.key, key) !== 0) tier++
    tiers.set(target.id, tier)
  }
  return { targets: keys.map(({ target }) => target), ordered: true, tiers, house, names }
}

function difference(one: readonly number[], other: readonly number[]): number {
  for (const [at, value] of one.entries()) if (value !== other[at]) return value - (other[at] ?? 0)
  return 0
}

function unknownModel(model: string, nearest: readonly string[], param: string): GatewayError {
  const hint = nearest.length === 0 ? '' : ` Did you mean ${nearest.map(name => `"${name}"`).join(', ')}?`
  return new GatewayError('model_not_found', `The model "${model}" does not exist here.${hint} GET /v1/models lists what does.`, {
    param
  })
}
