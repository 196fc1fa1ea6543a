// `x-llm-mcp-local-only`: a request that may not leave the machines of its owner.

import type { IncomingHttpHeaders } from 'node:http'
import { GatewayError } from '../routing/errors.ts'

const name = 'x-llm-mcp-local-only'

/** Throws GatewayError `invalid_request` for a wish that cannot be read: privacy is not to be guessed at. */
export function wantsToStay(headers: IncomingHttpHeaders): boolean {
  const header = headers[name]
  if (header === undefined) return false
  const value = String(header).trim().toLowerCase()
  if (value === 'true' || value === '1') return true
  if (value === 'false' || value === '0' || value === '') return false
  throw new GatewayError('invalid_request', `${name} must be "true" or "false".`, { param: name })
}
