// What a request says of its way outside of its body: `x-llm-mcp-route`, `-max-cost-usd`, `-deadline`, `-local-only`.

import type { IncomingHttpHeaders } from 'node:http'
import type { Route } from '../routing/brain/types.ts'
import { GatewayError } from '../routing/errors.ts'
import { deadlineName } from '../routing/patience.ts'
import type { Knobs } from './dialects/model.ts'
import { wantsToStay } from './local-only.ts'

export const routeName = 'x-llm-mcp-route'
export const maxCostName = 'x-llm-mcp-max-cost-usd'
export const deadlineKindName = 'x-llm-mcp-deadline'
export const routes = ['cost', 'balanced', 'fast'] as const satisfies readonly Route[]

/** Throws GatewayError `invalid_request` naming the header that cannot be read. `hasDeadline`: it has one, whoever says so. */
export function readKnobs(
  headers: IncomingHttpHeaders,
  requestId: string,
  hasDeadline: boolean = headers[deadlineName] !== undefined
): Knobs {
  const route = routeIn(headers[routeName])
  const maxUsd = maxCostIn(headers[maxCostName])
  return {
    requestId,
    localOnly: wantsToStay(headers),
    ...(route !== null && { route }),
    ...(maxUsd !== null && { maxUsd }),
    ...(isHard(headers, hasDeadline) && { isDeadlineHard: true as const })
  }
}

/** One of the three, in any case; null for what is none. */
export function routeFrom(value: unknown): Route | null {
  return typeof value === 'string' ? (routes.find(route => route === value.trim().toLowerCase()) ?? null) : null
}

/** What a deadline means, in any case; null for what is neither. */
export function deadlineKindFrom(value: unknown): 'soft' | 'hard' | null {
  const kind = typeof value === 'string' ? value.trim().toLowerCase() : null
  return kind === 'soft' || kind === 'hard' ? kind : null
}

function routeIn(header: string | string[] | undefined): Route | null {
  if (header === undefined) return null
  const route = routeFrom(String(header))
  if (route === null) throw wrongHeader(routeName, `one of ${routes.join(', ')}`)
  return route
}

/** Dollars above 0; a bound of nothing would refuse everything, and is more likely a mistake. */
function maxCostIn(header: string | string[] | undefined): number | null {
  if (header === undefined) return null
  const text = String(header).trim()
  const usd = /^(\d{1,9}(\.\d{0,12})?|\.\d{1,12})(e[+-]?\d{1,2})?$/i.test(text) ? Number(text) : Number.NaN
  if (!(usd > 0) || !Number.isFinite(usd)) throw wrongHeader(maxCostName, 'dollars above 0, such as 0.002')
  return usd
}

/** `soft` asks for nothing, so that it needs no deadline. */
function isHard(headers: IncomingHttpHeaders, hasDeadline: boolean): boolean {
  const header = headers[deadlineKindName]
  if (header === undefined) return false
  const kind = deadlineKindFrom(header)
  if (kind === null) throw wrongHeader(deadlineKindName, '"soft" or "hard"')
  if (kind === 'hard' && !hasDeadline) throw wrongHeader(deadlineKindName, `"soft" or left out without ${deadlineName}`)
  return kind === 'hard'
}

function wrongHeader(name: string, expected: string): GatewayError {
  return new GatewayError('invalid_request', `${name} must be ${expected}.`, { param: name })
}
