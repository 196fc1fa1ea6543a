// Which headers go out and which come back: two short lists. Whatever is not on them stays here.

import { createHash } from 'node:crypto'
import type { IncomingHttpHeaders } from 'node:http'
import { withoutSecrets } from '../../outbound/said.ts'
import type { Caller, Upstream } from '../../routing/types.ts'

/** Of the client's, as it wrote them. Its keys, cookies, addresses and everything of one connection only are not among them. */
const passedOn = ['content-type', 'accept', 'openai-beta'] as const
/** Of the provider's; its limits are not the client's, and cookies would be the gateway's. */
const passedBack = ['content-type', 'content-length', 'content-disposition'] as const

const visible = /^[\t\x20-\x7e]*$/

/** What the provider gets to see. The length is the body's own, so that two readers cannot differ on where it ends. */
export function upstreamHeaders(
  given: IncomingHttpHeaders,
  { upstream, caller, attemptId }: { readonly upstream: Upstream; readonly caller: Caller; readonly attemptId: string }
): Record<string, string> {
  const headers: Record<string, string> = {}
  for (const name of passedOn) {
    const value = given[name]
    if (typeof value === 'string' && visible.test(value)) headers[name] = value
  }
  const idempotencyKey = given['idempotency-key']
  if (typeof idempotencyKey === 'string' && idempotencyKey !== '') headers['idempotency-key'] = ownKey(caller, idempotencyKey)
  for (const [name, value] of Object.entries(upstream.headers)) headers[name.toLowerCase()] = value
  if (upstream.apiKey !== null) headers.authorization = `Bearer ${upstream.apiKey}`
  headers['x-client-request-id'] = attemptId
  return headers
}

/** To the provider all callers are one account: two that use the same key must not get each other's answers. */
function ownKey({ source, subSource }: Caller, key: string): string {
  return createHash('sha256')
    .update(JSON.stringify([source, subSource, key]))
    .digest('hex')
}

/** What the client gets to see of a success. */
export function clientHeaders(given: IncomingHttpHeaders, upstream: Upstream): Record<string, string> {
  const headers: Record<string, string> = {}
  for (const name of passedBack) {
    const value = given[name]
    if (typeof value === 'string' && visible.test(value)) headers[name] = value
  }
  const requestId = given['x-request-id']
  if (typeof requestId === 'string' && /^[\w.:-]{1,200}$/.test(requestId) && withoutSecrets(requestId, upstream) === requestId)
    headers['x-upstream-request-id'] = requestId
  // As for streams of ours: nothing on the way may hold events back.
  if (isEventStream(given)) Object.assign(headers, { 'cache-control': 'no-cache, no-transform', 'x-accel-buffering': 'no' })
  return headers
}

export function isEventStream(headers: IncomingHttpHeaders): boolean {
  return /^text\/event-stream\b/i.test(headers['content-type'] ?? '')
}

export function isJson(headers: IncomingHttpHeaders): boolean {
  return /^application\/(?:[\w.-]+\+)?json\b/i.test(headers['content-type'] ?? '')
}
