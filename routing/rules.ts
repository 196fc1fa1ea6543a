// Of one target and one request: whether it may and can answer, and whether it is sound. Pure.

import { canonical } from './catalog.ts'
import type { DecisionInput, DecisionView, Rejection } from './decide.ts'
import { matchesAny } from './patterns.ts'
import { unwanted } from './preference.ts'
import { providerOf } from './targets.ts'
import type { ModelRequest, Target } from './types.ts'

const noNames: ReadonlySet<string> = new Set()

/** Why it may not answer, or cannot now; null = it may. By the first three rules of `decide`. */
export function rejectionOf(target: Target, input: DecisionInput, view: DecisionView): Rejection | null {
  // 1
  if (input.request.only !== undefined && target.id !== input.request.only) return 'not_chosen'
  if (input.request.providers !== undefined && !input.request.providers.includes(providerOf(target.upstream))) return 'not_chosen'
  if (!isAllowed(target, input.names?.get(target.id) ?? input.request.model, input.caller)) return 'not_allowed'
  if ((input.localOnly || input.request.localOnly) && !target.upstream.own) return 'not_local'
  const { preference } = input.request
  if (preference !== undefined) {
    const drops = (): boolean => view.drops?.(target, input.request) === true
    const reason = unwanted(target, preference, { house: input.house ?? noNames, drops, promptTokens: input.request.prompt.expected })
    if (reason !== null) return reason
  }
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

/** `*` is the only wildcard. A name that was allowed as such, like an alias, allows all that it stands for. */
export function isAllowed(
  target: Target,
  requested: string,
  { models, providers }: { readonly models: readonly string[] | null; readonly providers: readonly string[] | null }
): boolean {
  if (providers !== null && !matchesAny(providers, [target.upstream.id, providerOf(target.upstream)])) return false
  return models === null || matchesAny(models, [requested, canonical(target.model), target.model, target.id])
}

/** It works, as far as is known, and has room for what is expected. */
export function isSound(target: Target, request: ModelRequest, view: DecisionView): boolean {
  const { longest, maxOutputTokens } = request
  if (view.isDenied(target) || view.isMissing(target) || view.isOpen(target) || hasFailed(target, request)) return false
  return target.contextTokens === null || longest.expected + (maxOutputTokens ?? 0) <= target.contextTokens
}

/** It was asked for this very request, before that waited. */
export function hasFailed({ id }: Target, { before }: ModelRequest): boolean {
  return before?.failed.includes(id) === true
}
