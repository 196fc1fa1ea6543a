// Whether a request may leave for the provider.

import type { FastifyRequest } from 'fastify'
import { GatewayError } from '../../routing/errors.ts'
import { isAllowed } from '../../routing/rules.ts'
import type { Caller, Target, Upstream } from '../../routing/types.ts'
import { maxCostName } from '../knobs.ts'
import { wantsToStay } from '../local-only.ts'

/** `localOnly`: nobody's request may leave the house. Throws GatewayError. */
export function checkMayLeave({ headers }: FastifyRequest, provider: Upstream, localOnly: boolean): void {
  const mustStay = wantsToStay(headers)
  if (provider.own || !(localOnly || mustStay)) return
  throw new GatewayError('no_capacity', `${provider.id} is not in this house, and the request may not leave it.`, { shouldRetry: false })
}

/** What is not interpreted has no price before it is made. Throws GatewayError: a bound that is not kept must not look kept. */
export function checkUnbounded({ headers, url }: FastifyRequest): void {
  if (headers[maxCostName] === undefined) return
  const path = url.slice(0, 100).split('?', 1)[0]
  throw new GatewayError('unsupported_parameter', `${maxCostName} cannot be kept for ${path}: what it costs is known afterwards only.`, {
    param: maxCostName
  })
}

/** A key for certain models needs a request that plainly names one of them. Throws GatewayError `forbidden`. */
export function checkMayUse(caller: Caller, target: Target, model: string | null): void {
  if (caller.models === null && caller.providers === null) return
  const param = { param: 'model' }
  if (model === null) {
    throw new GatewayError('forbidden', 'This key may use certain models only, and the request does not plainly name one.', param)
  }
  if (!isAllowed(target, model, caller)) {
    throw new GatewayError('forbidden', `This key may not use the model "${model}" of ${target.upstream.id}.`, param)
  }
}
