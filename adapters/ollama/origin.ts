// How a machine is addressed: the parts of its base URL, and the headers that go along.

import type { OutboundRequest } from '../../outbound/client.ts'
import { GatewayError } from '../../routing/errors.ts'
import type { Upstream } from '../../routing/types.ts'

/** A request to a path of Ollama's API. Throws GatewayError `upstream_unavailable` when the base URL is none. */
export function toOutbound(
  upstream: Upstream,
  path: string,
  body: unknown,
  headers: Readonly<Record<string, string>> = {}
): OutboundRequest {
  if (!URL.canParse(upstream.baseUrl))
    throw new GatewayError('upstream_unavailable', `Ollama (${upstream.id}) has a base URL that is not a URL.`)
  const { origin, pathname } = new URL(upstream.baseUrl)
  return {
    origin,
    path: `${pathname.replace(/\/+$/, '')}${path}`,
    method: body === null ? 'GET' : 'POST',
    headers: {
      ...lowerCase(upstream.headers),
      ...credentials(upstream.apiKey),
      ...headers,
      ...(body === null ? {} : { 'content-type': 'application/json' })
    },
    body: body === null ? null : JSON.stringify(body),
    connectMs: upstream.timeouts.connectMs
  }
}

/** So that ours replace the configured ones instead of standing beside them. */
function lowerCase(headers: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]))
}

function credentials(apiKey: string | null): Record<string, string> {
  return apiKey === null ? {} : { authorization: `Bearer ${apiKey}` }
}
