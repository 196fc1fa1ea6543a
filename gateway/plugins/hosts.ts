// Host, target and header rules (Fastify's defaults let duplicate hosts, absolute targets and thousands of headers pass).

import type { IncomingMessage } from 'node:http'
import { isIP } from 'node:net'
import { GatewayError } from '../../routing/errors.ts'

const headersAtMost = 100
const hostForm = /^(\[[0-9a-f:.]+\]|[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?)(:\d{1,5})?$/i

/** Refuses requests whose framing two readers could understand differently. Throws GatewayError. */
export function checkTarget(request: IncomingMessage): void {
  const { rawHeaders, url } = request
  if (url === undefined || !url.startsWith('/')) throw new GatewayError('invalid_request', 'The request target must be a path.')
  if (rawHeaders.length > 2 * headersAtMost)
    throw new GatewayError('headers_too_large', `A request may have at most ${headersAtMost} headers.`)
  let hosts = 0
  for (let at = 0; at < rawHeaders.length; at += 2) {
    const name = rawHeaders[at] as string
    if (name.length === 4 && name.toLowerCase() === 'host') hosts++
  }
  if (hosts !== 1)
    throw new GatewayError('invalid_request', hosts === 0 ? 'The Host header is missing.' : 'The Host header is there twice.')
  if (!hostForm.test(request.headers.host ?? '')) throw new GatewayError('invalid_request', 'The Host header is malformed.')
}

/**
 * For what is answered without a key: only under names that are ours, so that no web page can reach it by pointing
 * a name of its own at this machine. Addresses are safe: a page cannot choose them. Throws GatewayError `forbidden`.
 */
export function checkKeylessHost(host: string, allowed: readonly string[]): void {
  const name = host
    .replace(/:\d+$/, '')
    .replace(/^\[|\]$/g, '')
    .replace(/\.$/, '')
    .toLowerCase()
  if (name === 'localhost' || isIP(name) !== 0 || allowed.includes(name)) return
  throw new GatewayError(
    'forbidden',
    `Without a key this is not answered under the name "${name.slice(0, 100)}". LLM_MCP_ALLOWED_HOSTS can allow it.`
  )
}
