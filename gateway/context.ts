// What belongs to one request while it is here: its id, its caller, what came of it.

import type { RunSummary } from '../routing/dispatch.ts'
import type { GatewayError } from '../routing/errors.ts'
import type { Caller } from '../routing/types.ts'

export interface RequestContext {
  /** UUIDv7; `x-request-id` of the answer. */
  readonly id: string
  /** Of a clock that never jumps, ms. */
  readonly startedAt: number
  /** Set by the auth plugin before any handler runs. */
  caller: Caller | null
  error: GatewayError | null
  summary: RunSummary | null
  /** Of a chat request: as asked. */
  model: string | null
  stream: boolean
  bodyBytes: number
}

/** The headers of every answer. `openai-processing-ms` is the time until now. */
export function standardHeaders(context: RequestContext): Record<string, string> {
  return {
    'x-request-id': context.id,
    'openai-version': '2020-10-01',
    'openai-processing-ms': String(Math.round(performance.now() - context.startedAt))
  }
}

declare module 'fastify' {
  interface FastifyRequest {
    context: RequestContext
  }
  interface FastifyInstance {
    knownRoutes: { readonly method: string; readonly url: string }[]
  }
}
