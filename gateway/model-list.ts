// The list of models as clients see it: each with what it can do, what it costs and where it runs. Pure.

import { type Catalog, type CatalogModel, isVirtual } from '../routing/catalog.ts'
import type { Feature, Operation, PriceSource, Target, VectorSpace } from '../routing/types.ts'

/** OpenAI's four fields, then OpenRouter's names for the rest, then what only we can say. */
export interface ModelObject {
  readonly id: string
  readonly object: 'model'
  /** Epoch, s. */
  readonly created: number
  readonly owned_by: string
  /** The largest of its targets; null = unknown. */
  readonly context_length: number | null
  readonly architecture: {
    /** `text+image->text`; null where nobody says. */
    readonly modality: string | null
    readonly input_modalities: readonly string[]
    readonly output_modalities: readonly string[]
  }
  readonly supported_parameters: readonly string[]
  /** Of the first target, which is the one that is preferred. */
  readonly pricing: Pricing | null
  readonly top_provider: { readonly context_length: number | null; readonly max_completion_tokens: number | null }
  readonly operations: readonly Operation[]
  readonly targets: readonly TargetObject[]
}

/** Dollars per token (`request`: per call) as decimal strings. Null instead of it: unknown, or priced by electricity. */
export interface Pricing {
  readonly prompt: string
  readonly completion: string
  readonly input_cache_read?: string
  readonly request?: string
}

export interface TargetObject {
  readonly provider: string
  readonly model: string
  readonly own: boolean
  readonly context_length: number | null
  readonly max_completion_tokens: number | null
  readonly operations: readonly Operation[]
  readonly loaded: boolean
  /** False: it did not answer when it was last asked for its models. */
  readonly available: boolean
  readonly price_source: PriceSource
  readonly pricing: Pricing | null
}

export interface ModelView {
  /** Whether a target honours a feature, where its server's list does not say. */
  readonly canCarry: (target: Target, feature: Feature) => boolean
  readonly isAvailable: (upstreamId: string) => boolean
  /** Where embeddings by this name may go; null = nowhere. */
  readonly spaceOf: (id: string) => VectorSpace | null
}

/**
 * The names of the catalog in its order, each once, with the targets that a request by this name would reach.
 * What a server calls by a name that means something else here is listed under its machine's name, which reaches it.
 */
export function listedModels(catalog: Catalog): readonly CatalogModel[] {
  const found = new Map<string, CatalogModel>()
  const add = (id: string, targets: readonly Target[]): void => {
    if (!found.has(id)) found.set(id, { id, targets })
  }
  for (const { id, targets } of catalog.models) {
    const resolved = targetsOf(catalog, id)
    const isOurName = isVirtual(id) || catalog.source.aliases.has(id)
    // A server's model of such a name: the name itself is listed where we put it, not where that server would.
    const isTaken = isOurName && targets.some(target => target !== catalog.source.demo)
    if (!isTaken) add(id, resolved)
    for (const target of targets) {
      const isReached = resolved.includes(target) && !(isTaken && isVirtual(id))
      if (!isReached && targetsOf(catalog, target.id).includes(target)) add(target.id, [target])
    }
  }
  return [...found.values()]
}

/** What the name stands for now, in the order in which an idle house would try them; empty where it stands for nothing. */
export function targetsOf(catalog: Catalog, id: string): readonly Target[] {
  const resolution = catalog.resolve(id, 0)
  if (!resolution.found) return []
  return resolution.ordered ? resolution.targets : resolution.targets.toSorted((a, b) => rank(a) - rank(b))
}

/** As `decide` ranks them: own before rented, loaded before cold. */
function rank({ upstream, loaded }: Target): number {
  return (upstream.own ? 0 : 2) + (loaded ? 0 : 1)
}

export function modelObject({ id, targets: named }: CatalogModel, view: ModelView): ModelObject {
  // `auto` makes no embeddings, and an alias those of its own space, whatever else it stands for.
  const space = view.spaceOf(id)
  const targets = named.map(target =>
    space?.has(target) === true ? target : { ...target, operations: target.operations.filter(operation => operation !== 'embed') }
  )
  const [first] = targets
  const contexts = targets.map(target => target.contextTokens).filter(tokens => tokens !== null)
  return {
    id,
    object: 'model',
    created: Math.trunc(Math.max(0, ...targets.map(target => target.createdAt))),
    owned_by: first === undefined ? 'llm-mcp' : first.upstream.own ? 'local' : first.upstream.id,
    context_length: contexts.length === 0 ? null : Math.max(...contexts),
    architecture: architectureOf(targets),
    supported_parameters: parametersOf(targets, view),
    pricing: first === undefined ? null : pricingOf(first),
    top_provider: { context_length: first?.contextTokens ?? null, max_completion_tokens: first?.maxOutputTokens ?? null },
    operations: operationsOf(targets),
    targets: targets.map(target => ({
      provider: target.upstream.id,
      model: target.model,
      own: target.upstream.own,
      context_length: target.contextTokens,
      max_completion_tokens: target.maxOutputTokens,
      operations: target.operations,
      loaded: target.loaded,
      available: view.isAvailable(target.upstream.id),
      price_source: target.price.source,
      pricing: pricingOf(target)
    }))
  }
}

const allOperations: readonly Operation[] = ['chat', 'complete', 'embed']

function operationsOf(targets: readonly Target[]): Operation[] {
  return allOperations.filter(operation => targets.some(target => target.operations.includes(operation)))
}

/** Only what a server's own list says: what an adapter could carry does not make a model see. */
function architectureOf(targets: readonly Target[]): ModelObject['architecture'] {
  const operations = operationsOf(targets)
  const writes = operations.includes('chat') || operations.includes('complete')
  const says = (feature: Feature): boolean =>
    targets.some(({ features, operations: able }) => able.includes('chat') && features?.has(feature) === true)
  const input = operations.length === 0 ? [] : ['text']
  if (says('vision')) input.push('image')
  if (says('file')) input.push('file')
  if (says('audio')) input.push('audio')
  const output = [...(writes ? ['text'] : []), ...(operations.includes('embed') ? ['embeddings'] : [])]
  return {
    modality: operations.length === 0 ? null : `${input.join('+')}->${output.join('+')}`,
    input_modalities: input,
    output_modalities: output
  }
}

/** What every target that writes takes; `n` is done by us where a target cannot. */
const writing = [
  'max_tokens',
  'max_completion_tokens',
  'temperature',
  'top_p',
  'stop',
  'seed',
  'frequency_penalty',
  'presence_penalty',
  'n'
] as const

/** In the order in which they are shown. */
const byFeature: readonly { readonly operation: Operation; readonly feature: Feature; readonly names: readonly string[] }[] = [
  { operation: 'chat', feature: 'tools', names: ['tools'] },
  { operation: 'chat', feature: 'forced_tool_choice', names: ['tool_choice'] },
  { operation: 'chat', feature: 'json_object', names: ['response_format'] },
  { operation: 'chat', feature: 'json_schema', names: ['response_format', 'structured_outputs'] },
  { operation: 'chat', feature: 'reasoning', names: ['reasoning', 'reasoning_effort'] },
  { operation: 'chat', feature: 'logprobs', names: ['logprobs', 'top_logprobs'] },
  { operation: 'complete', feature: 'suffix', names: ['suffix'] },
  { operation: 'complete', feature: 'echo_prompt', names: ['echo'] },
  { operation: 'complete', feature: 'best_of', names: ['best_of'] }
]

function parametersOf(targets: readonly Target[], { canCarry }: ModelView): string[] {
  const operations = operationsOf(targets)
  const names = new Set<string>(operations.includes('chat') || operations.includes('complete') ? writing : [])
  for (const entry of byFeature) {
    const honours = (target: Target): boolean =>
      target.operations.includes(entry.operation) &&
      (target.features === null ? canCarry(target, entry.feature) : target.features.has(entry.feature))
    if (targets.some(honours)) for (const name of entry.names) names.add(name)
  }
  if (operations.includes('embed')) names.add('encoding_format')
  return [...names]
}

function pricingOf({ price }: Target): Pricing | null {
  if (price.source === 'free') return { prompt: '0', completion: '0' }
  if (price.tokens === null) return null
  const { inputUsdPer1m, outputUsdPer1m, cachedInputUsdPer1m, requestUsd } = price.tokens
  return {
    prompt: decimal(inputUsdPer1m, -6),
    completion: decimal(outputUsdPer1m, -6),
    ...(cachedInputUsdPer1m === undefined ? {} : { input_cache_read: decimal(cachedInputUsdPer1m, -6) }),
    ...(requestUsd === undefined ? {} : { request: decimal(requestUsd, 0) })
  }
}

/**
 * A number with its point moved by `shift` places, in plain digits: (2.5, -6) -> "0.0000025". A division would give 2.5e-6.
 * Twelve digits are kept, which no price needs, and which leave out what a float adds: 0.30000000000000004 is 0.3.
 */
export function decimal(value: number, shift: number): string {
  const [mantissa, exponent] = value.toExponential(11).split('e') as [string, string]
  const digits = mantissa.replace('.', '').replace(/0+$/, '')
  if (digits === '') return '0'
  const point = 1 + Number(exponent) + shift
  if (point <= 0) return `0.${'0'.repeat(-point)}${digits}`
  return point >= digits.length ? digits.padEnd(point, '0') : `${digits.slice(0, point)}.${digits.slice(point)}`
}
