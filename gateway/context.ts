// What belongs to one request while it is here: its id, its caller, what came of it.

import type { FastifyReply } from 'fastify'
import type { GatewayError } from '../routing/errors.ts'
import type { RunSummary } from '../routing/ports.ts'
import type { Caller } from '../routing/types.ts'
import type { KeyRecord } from '../store/keys.ts'

export interface RequestContext {
  /** UUIDv7; `x-request-id` of the answer. */
  readonly id: string
  /** Of a clock that never jumps, ms. */
  readonly startedAt: number
  /** Set by the auth plugin before any handler runs. */
  caller: Caller | null
  error: GatewayError | null
  summary: RunSummary | null
  /** As asked; of a request that is passed on without one, its path. Null where no model is asked. */
  model: string | null
  stream: boolean
  bodyBytes: number
  /** When its handler began, by the same clock; what lies between this and the first call is ours. Null = it never did. */
  handledAt: number | null
  /** W3C trace context, as it came; unchecked. */
  traceparent: string | null
  /** Of the key that was used; null with authentication off. */
  key: KeyRecord | null
  /** Headers that every answer of this request carries: limits, CORS. */
  headers: Record<string, string>
}

/** Of a request that has just come. */
export function newContext(id: string, traceparent: string | null): RequestContext {
  return {
    id,
    startedAt: performance.now(),
    caller: null,
    error: null,
    summary: null,
    model: null,
    stream: false,
    bodyBytes: 0,
    handledAt: null,
    traceparent,
    key: null,
    headers: {}
  }
}

/** Adds the headers of every answer, where they are not set. `openai-processing-ms` is the time until now. */
export function addStandard(headers: Record<string, string>, context: RequestContext): void {
  for (const name in context.headers) headers[name] ??= context.headers[name] as string
  headers['x-request-id'] ??= context.id
  headers['openai-version'] ??= '2020-10-01'
  headers['openai-processing-ms'] ??= String(Math.round(performance.now() - context.startedAt))
}

/** The same, where there are no others. */
export function standardHeaders(context: RequestContext): Record<string, string> {
  const headers: Record<string, string> = {}
  addStandard(headers, context)
  return headers
}

/** What plugins have set on an answer so far, such as CORS: a raw response knows nothing of it. */
export function headersSoFar(reply: FastifyReply): Record<string, string> {
  const set = Object.entries(reply.getHeaders()).filter(([, value]) => value !== undefined)
  return Object.fromEntries(set.map(([name, value]) => [name, String(value)]))
}

declare module 'fastify' {
  interface FastifyRequest {
    context: RequestContext
  }
  interface FastifyInstance {
    knownRoutes: { readonly method: string; readonly url: string }[]
  }
}
