// Which targets may answer a request, in which order, and why each other one may not. Pure.

import { canonical, isVirtual } from './catalog.ts'
import { GatewayError } from './errors.ts'
import { matchesAny } from './patterns.ts'
import { providerOf } from './targets.ts'
import type { Caller, Feature, ModelRequest, Operation, Target, VectorSpace } from './types.ts'

export type Rejection =
  | 'context'
  | 'cooling_down'
  | 'down'
  | 'full'
  | 'not_allowed'
  | 'not_chosen'
  | 'not_local'
  | 'other_vector_space'
  | `lacks_${Feature}`
  | `no_${Operation}`

export interface Rejected {
  readonly target: string
  readonly reason: Rejection
}

export type Decision =
  | { readonly action: 'run'; readonly ranked: readonly Target[]; readonly rejected: readonly Rejected[]; readonly reason: string }
  /** Every target that could is full, and the request may wait. */
  | { readonly action: 'enqueue'; readonly feasible: readonly Target[]; readonly rejected: readonly Rejected[] }
  | { readonly action: 'refuse'; readonly error: GatewayError; readonly rejected: readonly Rejected[] }

export interface DecisionInput {
  readonly request: ModelRequest
  readonly caller: Pick<Caller, 'models' | 'providers'>
  readonly targets: readonly Target[]
  /** The order of `targets` is somebody's will. */
  readonly ordered: boolean
  /** Of embeddings: the only space whose vectors may be given; null for everything else. */
  readonly space: VectorSpace | null
  /** The house's rule for all requests. */
  readonly localOnly: boolean
  readonly mayQueue: boolean
}

/** What is known of the moment. */
export interface DecisionView {
  /** What the adapter can carry, whatever the model. */
  canCarry(target: Target, feature: Feature): boolean
  isOpen(target: Target): boolean
  isDenied(target: Target): boolean
  isMissing(target: Target): boolean
  /** Its machine is away. */
  isDown(target: Target): boolean
  coolingMs(target: Target): number
  inFlight(target: Target): number
  averageMs(target: Target): number
}

// Which request field a feature comes from, for the error that names it.
const parameters: Record<Feature, string> = {
  audio: 'modalities',
  best_of: 'best_of',
  echo_prompt: 'echo',
  file: 'messages',
  forced_tool_choice: 'tool_choice',
  functions: 'functions',
  json_object: 'response_format',
  json_schema: 'response_format',
  logprobs: 'logprobs',
  n: 'n',
  prompts: 'prompt',
  reasoning: 'reasoning_effort',
  suffix: 'suffix',
  tools: 'tools',
  vision: 'messages'
}

/**
 * Numbered in the order they decide:
 * 1. who may see it and can do it at all; 2. who can hold the prompt; 3. who is away, rests or is full;
 * 4. rank: working before broken, denying and lacking ones, room for the expected prompt, the given order,
 *    own before rented, loaded before cold, least busy, configured order.
 * An open breaker, a refused key and a missing model only rank last: the last target that could answer is never put out.
 */
export function decide(input: DecisionInput, view: DecisionView): Decision {
  const { request } = input
  const rejected: Rejected[] = []
  const full: Target[] = []
  const feasible = input.targets.filter(target => {
    const reason = rejectionOf(target, input, view)
    if (reason === null) return true
    if (reason === 'full') full.push(target)
    rejected.push({ target: target.id, reason })
    return false
  })
  if (feasible.length === 0) {
    if (full.length > 0 && input.mayQueue) return { action: 'enqueue', feasible: full, rejected }
    return { action: 'refuse', error: refusal(input, rejected, view), rejected }
  }
  const keyed = feasible.map((target, index) => ({ target, key: rankKey(target, index, input.ordered, request, view) }))
  keyed.sort((a, b) => compare(a.key, b.key))
  const ranked = keyed.map(({ target }) => target)
  return {
    action: 'run',
    ranked,
    rejected,
    reason: reasonFor(ranked[0] as Target, ranked.length, input.ordered && !isVirtual(request.model))
  }
}

function rejectionOf(target: Target, input: DecisionInput, view: DecisionView): Rejection | null {
  // 1
  if (input.request.only !== undefined && target.id !== input.request.only) return 'not_chosen'
  if (input.request.providers !== undefined && !input.request.providers.includes(providerOf(target.upstream))) return 'not_chosen'
  if (!isAllowed(target, input.request.model, input.caller)) return 'not_allowed'
  if ((input.localOnly || input.request.localOnly) && !target.upstream.own) return 'not_local'
  if (!target.operations.includes(input.request.operation)) return `no_${input.request.operation}`
  if (input.space !== null && !input.space.has(target)) return 'other_vector_space'
  for (const feature of input.request.needs) {
    if (!view.canCarry(target, feature) || (target.features !== null && !target.features.has(feature))) return `lacks_${feature}`
  }
  // 2
  if (target.contextTokens !== null && input.request.longest.low > target.contextTokens) return 'context'
  // 3
  if (view.isDown(target)) return 'down'
  if (view.coolingMs(target) > 0) return 'cooling_down'
  const slots = target.upstream.device?.maxConcurrency
  if (slots !== undefined && view.inFlight(target) >= slots) return 'full'
  return null
}

// 4
function rankKey(target: Target, index: number, ordered: boolean, request: ModelRequest, view: DecisionView): readonly number[] {
  const expected = request.longest.expected + (request.maxOutputTokens ?? 0)
  return [
    view.isDenied(target) || view.isMissing(target) ? 2 : view.isOpen(target) ? 1 : 0,
    target.contextTokens !== null && expected > target.contextTokens ? 1 : 0,
    ordered ? index : 0,
    target.upstream.own ? 0 : 1,
    target.loaded ? 0 : 1,
    target.upstream.own ? view.inFlight(target) : 0,
    index
  ]
}

/** `*` is the only wildcard. A name that was allowed as such, like an alias, allows all that it stands for. */
export function isAllowed(
  target: Target,
  requested: string,
  { models, providers }: { readonly models: readonly string[] | null; readonly providers: readonly string[] | null }
): boolean {
  if (providers !== null && !matchesAny(providers, [target.upstream.id, providerOf(target.upstream)])) return false
  return models === null || matchesAny(models, [requested, canonical(target.model), target.model, target.id])
}

function compare(a: readonly number[], b: readonly number[]): number {
  for (let at = 0; at < a.length; at++) {
    const difference = (a[at] as number) - (b[at] as number)
    if (difference !== 0) return difference
  }
  return 0
}

function reasonFor(first: Target, count: number, isGiven: boolean): string {
  if (count === 1) return 'only_target'
  if (isGiven) return 'given_order'
  return first.upstream.own ? (first.loaded ? 'own_loaded' : 'own_first') : 'configured_order'
}

const able: Record<Operation, string> = { chat: 'answer chat requests', complete: 'continue texts', embed: 'make embeddings' }
/** The field of a request that holds its text. */
const inputOf: Record<Operation, string> = { chat: 'messages', complete: 'prompt', embed: 'input' }

// One that was restarted is seen within half a second.
const downRetryMs = 2_000

function refusal(input: DecisionInput, rejected: readonly Rejected[], view: DecisionView): GatewayError {
  const { request } = input
  // Of providers that the request is not for, nothing need be said.
  const reasons = new Set(rejected.filter(({ reason }) => reason !== 'not_chosen').map(({ reason }) => reason))
  const model = `The model "${request.model}"`
  if (request.providers !== undefined && reasons.size === 0 && rejected.length > 0) {
    return new GatewayError('model_not_found', `${model} is not offered by ${request.providers.join(' or ')} here.`, { param: 'model' })
  }
  const only = (reason: Rejection): boolean => reasons.size === 1 && reasons.has(reason)
  // A target that may not be asked anyway has no room for this request and frees none.
  const left = (...given: readonly Rejection[]): Target[] =>
    input.targets.filter(({ id }) => rejected.some(({ target, reason }) => target === id && given.includes(reason)))
  if (only('not_allowed')) return new GatewayError('forbidden', `This key may not use the model "${request.model}".`, { param: 'model' })
  // The models of another space could not stand in for it anyway.
  const isUnable = request.operation === 'embed' && reasons.has('no_embed') && reasons.size === 2 && reasons.has('other_vector_space')
  if (only(`no_${request.operation}`) || isUnable) {
    return new GatewayError('invalid_request', `${model} does not ${able[request.operation]}.`, { param: 'model' })
  }
  if (reasons.has('full') || reasons.has('cooling_down')) {
    return new GatewayError('no_capacity', `${model} is busy everywhere it could run now.`, {
      retryAfterMs: retryAfterMs(left('full', 'cooling_down'), view)
    })
  }
  if (reasons.has('down')) {
    return new GatewayError('no_capacity', `${model} is on machines only that do not answer now.`, { retryAfterMs: downRetryMs })
  }
  if (reasons.has('context')) {
    const largest = Math.max(...left('context').map(target => target.contextTokens ?? 0))
    return new GatewayError(
      'context_length_exceeded',
      `This request has at least ${request.longest.low} tokens, but ${model.replace('The', 'the')} can hold at most ${largest} here.`,
      { param: inputOf[request.operation] }
    )
  }
  const lacked = [...reasons].find(reason => reason.startsWith('lacks_'))
  if (lacked !== undefined) {
    const param = parameters[lacked.slice(6) as Feature]
    return new GatewayError('unsupported_parameter', `${model} cannot honour "${param}" (${lacked.slice(6)}) on any of its targets.`, {
      param
    })
  }
  if (reasons.has('not_local')) {
    return new GatewayError('no_capacity', `${model} runs on no machine of this house, and the request may not leave it.`, {
      shouldRetry: false
    })
  }
  return new GatewayError('no_capacity', `${model} has no machine that could run it now.`, { retryAfterMs: 5_000 })
}

/** When something may be free again: the shortest rest, or a usual answer's time, which counts for a minute at most; 1 s or more. */
function retryAfterMs(targets: readonly Target[], view: DecisionView): number {
  const waits = targets.map(target => view.coolingMs(target) || Math.min(60_000, view.averageMs(target) || 2_000))
  return Math.max(1_000, Math.ceil(Math.min(...waits)))
}
