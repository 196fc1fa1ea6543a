// The error for a request that no target may answer: what was wrong with it, or when it may be asked again.

import type { Planned } from './brain/plan.ts'
import type { DecisionInput, DecisionView, Rejected, Rejection } from './decide.ts'
import { type ErrorCode, GatewayError } from './errors.ts'
import type { PreferenceRejection } from './preference.ts'
import type { Feature, Operation, Target } from './types.ts'

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

const able: Record<Operation, string> = { chat: 'answer chat requests', complete: 'continue texts', embed: 'make embeddings' }

/** The field of a request that holds its text. */
const inputOf: Record<Operation, string> = { chat: 'messages', complete: 'prompt', embed: 'input' }

// One that was restarted is seen within half a second.
const downRetryMs = 2_000

// What of a request's wishes about providers left nobody: the code of the error, the field, and what none of them does.
const preferences: readonly (readonly [PreferenceRejection, ErrorCode, string, string])[] = [
  ['above_max_price', 'no_target_within_budget', 'provider.max_price', 'is cheap enough'],
  ['price_unknown', 'no_target_within_budget', 'provider.max_price', 'has a known price'],
  ['cannot_assure', 'unsupported_parameter', 'provider', 'can hold to what only OpenRouter can'],
  ['keeps_data', 'unsupported_parameter', 'provider.data_collection', 'is known to keep no prompts'],
  ['drops_parameters', 'unsupported_parameter', 'provider.require_parameters', 'honours every parameter'],
  ['not_in_only', 'invalid_request', 'provider.only', 'is one of those named'],
  ['not_in_order', 'invalid_request', 'provider.order', 'is one of those named'],
  ['ignored', 'invalid_request', 'provider.ignore', 'is not to be ignored']
]

/** Nobody is left: what of the request, or of the moment, is the reason. */
export function refusal(input: DecisionInput, rejected: readonly Rejected[], view: DecisionView): GatewayError {
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
  const wish = preferences.find(([reason]) => reasons.has(reason))
  if (wish !== undefined) {
    const [, code, param, what] = wish
    return new GatewayError(code, `${model} has no target left that ${what} ("${param}").`, { param })
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

/** A bound of the request's own that no target keeps: `without` are all that it could have had. */
export function tooDear({ request }: DecisionInput, without: Planned['without']): GatewayError | null {
  if (without.length === 0) return null
  if (without.some(({ why }) => why === 'max_cost' || why === 'price_unknown')) {
    const least = Math.min(...without.map(({ estimate }) => estimate?.usdP90 ?? Number.POSITIVE_INFINITY))
    const cheapest = Number.isFinite(least) ? `the cheapest may cost $${least.toPrecision(2)}` : 'no price is known'
    return new GatewayError(
      'no_target_within_budget',
      `No target for "${request.model}" is sure to cost at most $${request.maxUsd}: with a long answer, ${cheapest}.`,
      { param: 'x-llm-mcp-max-cost-usd' }
    )
  }
  if (!without.some(({ why }) => why === 'deadline')) return null
  const soonest = Math.min(...without.map(({ estimate }) => estimate?.etaS ?? Number.POSITIVE_INFINITY))
  return new GatewayError('no_capacity', `"${request.model}" would probably answer after its deadline: in ${soonest.toFixed(1)} s.`, {
    retryAfterMs: Math.min(60_000, Math.max(1_000, Math.ceil(soonest * 1_000)))
  })
}

/** When something may be free again: the shortest rest, or a usual answer's time, which counts for a minute at most; 1 s or more. */
function retryAfterMs(targets: readonly Target[], view: DecisionView): number {
  const waits = targets.map(target => view.coolingMs(target) || Math.min(60_000, view.averageMs(target) || 2_000))
  return Math.max(1_000, Math.ceil(Math.min(...waits)))
}
