// The name that a job's model has with the provider it is for, and whether anything could ever run it.

import { isConfined, isTooLate } from '../../queue/lasting.ts'
import { isVirtual } from '../../routing/catalog.ts'
import type { Dispatch } from '../../routing/dispatch.ts'
import type { GatewayError } from '../../routing/errors.ts'
import type { Caller, ModelRequest } from '../../routing/types.ts'
import { readBody } from '../body.ts'

/**
 * The request as it is to be queued: bound to `provider`, null = to none, under the name that finds it there. Throws the GatewayError
 * of the decision where no later one would be another: an unknown or forbidden model, a wish that no target honours, a hard deadline
 * that nobody would meet. Machines that are busy or away are no reason.
 */
export function placed(
  dispatch: Pick<Dispatch, 'plan'>,
  request: ModelRequest,
  { caller, provider }: { readonly caller: Caller; readonly provider: string | null }
): ModelRequest {
  let unknown: GatewayError | null = null
  for (const name of namesFor(request.model, provider)) {
    const candidate = bound(request, name, provider)
    const plan = dispatch.plan(candidate, caller, true)
    if (plan.action !== 'refuse' || (plan.error.jobRetry && !isConfined(plan) && !isTooLate(plan))) return candidate
    if (plan.error.code !== 'model_not_found') throw plan.error
    // What is said of the name as the client wrote it says more.
    if (unknown === null || name === request.model) unknown = plan.error
  }
  throw unknown
}

/**
 * `openai/gpt-5` is a model of OpenAI's, and one of OpenRouter's by that very name: a rented provider's own list comes first.
 * Several machines speak Ollama's API, so there a name alone finds them all.
 */
function namesFor(model: string, provider: string | null): readonly string[] {
  if (provider === null || provider === 'ollama' || isVirtual(model)) return [model]
  const own = `${provider}/${model}`
  return model.startsWith(`${provider}/`) ? [model, own] : [own, model]
}

function bound(request: ModelRequest, model: string, provider: string | null): ModelRequest {
  const body = model === request.model ? request.body : readBody(request.body.with({ model })).kept
  return { ...request, model, body, ...(provider === null ? {} : { providers: [provider] }) }
}
