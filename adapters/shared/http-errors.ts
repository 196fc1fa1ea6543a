// What an OpenAI-shaped server's failure means to us. Sources: protocols OpenAI 8 and 9, OpenRouter 4.

import type { IncomingHttpHeaders } from 'node:http'
import { cleaned, retryAfterMs } from '../../outbound/said.ts'
import { type ErrorCode, type ErrorOptions, GatewayError } from '../../routing/errors.ts'
import type { Operation } from '../../routing/types.ts'

const textAtMost = 500
const aboutContext =
  /context[ _](length|window|size)|maximum (context|input length)|too many tokens|prompt is too long|input is too long|exceeds? the (model's )?(maximum )?context/i

const aboutEndpoint =
  /not supported in the v1\/|not a chat model|not a completion model|unknown (request )?url|(cannot|not found:?) (get|post) \//i

/** The field that is at fault when there is too much text. */
export const inputField: Readonly<Record<Operation, string>> = { chat: 'messages', complete: 'prompt', embed: 'input' }

/** The `error` of a body that may be anything: OpenAI's object, OpenRouter's with a number for code, a bare string, HTML. */
export interface UpstreamFailure {
  readonly message: string
  readonly code: string | null
  readonly type: string | null
  readonly metadata: Readonly<Record<string, unknown>>
}

/** Null when the JSON has no truthy `error`. */
export function failureIn(json: unknown): UpstreamFailure | null {
  const error = isRecord(json) ? json.error : undefined
  if (typeof error === 'string' && error !== '') return { message: error, code: null, type: null, metadata: {} }
  if (!isRecord(error)) return null
  const metadata = isRecord(error.metadata) ? error.metadata : {}
  return {
    message: [error.message, metadata.raw].filter(text => typeof text === 'string' && text !== '').join(': ') || 'no message',
    code: typeof error.code === 'string' || typeof error.code === 'number' ? String(error.code) : null,
    type: typeof error.type === 'string' ? error.type : null,
    metadata
  }
}

/** The error for an answer with this status; `text` is its body, at most 64 KiB of it, `input` the field that may be too long. */
export function errorFromStatus(
  upstreamId: string,
  status: number,
  text: string,
  headers: IncomingHttpHeaders,
  input = inputField.chat
): GatewayError {
  const failure = failureIn(parseOrNull(text)) ?? { message: plain(text), code: null, type: null, metadata: {} }
  return errorFrom({ upstreamId, status, failure, waitMs: retryAfterMs(headers), input })
}

/** The error for a failure told inside a 200: its numeric code is the status, if it looks like one. */
export function errorFromFailure(upstreamId: string, failure: UpstreamFailure, input = inputField.chat): GatewayError {
  return errorFrom({ upstreamId, status: statusOf(failure), failure, waitMs: null, input })
}

function statusOf({ code }: UpstreamFailure): number {
  const status = Number(code)
  if (Number.isInteger(status) && status >= 400 && status <= 599) return status
  if (code === 'rate_limit_exceeded') return 429
  if (code === 'context_length_exceeded') return 400
  if (code === 'insufficient_quota') return 402
  return 502
}

interface Failed {
  readonly upstreamId: string
  readonly status: number
  readonly failure: UpstreamFailure
  readonly waitMs: number | null
  readonly input: string
}

function errorFrom({ upstreamId, status, failure, waitMs, input }: Failed): GatewayError {
  const fail = (code: ErrorCode, options: ErrorOptions = {}): GatewayError =>
    new GatewayError(code, `${upstreamId} answered ${status}`, { ...options, quote: cleaned(failure.message) })
  if (failure.code === 'context_length_exceeded' || (status === 400 && aboutContext.test(failure.message))) {
    return fail('context_length_exceeded', { param: input })
  }
  if (status === 403 && (Array.isArray(failure.metadata.reasons) || failure.metadata.flagged_input !== undefined)) {
    return fail('upstream_refused', { status: 400, publicCode: 'content_policy_violation' })
  }
  if (status === 429 && failure.code === 'insufficient_quota') return fail('upstream_denied')
  if (status === 401 || status === 402 || status === 403) return fail('upstream_denied')
  // A model of another endpoint is not a model that is gone.
  if (status === 404 && aboutEndpoint.test(failure.message)) return fail('upstream_refused', { param: 'model' })
  if (status === 404) return fail('upstream_lacks_model', { param: 'model' })
  if (status === 429) return fail('upstream_rate_limited', { retryAfterMs: waitMs ?? 1_000 })
  // A redirect too: it is not followed, and not the request's fault.
  if (status < 400 || status === 408 || status === 409 || status === 425 || status >= 500) {
    return fail('upstream_unavailable', {
      status: status === 408 || status === 504 || status === 524 ? 504 : status === 503 || status === 529 ? 503 : 502,
      ...(waitMs === null ? {} : { retryAfterMs: waitMs })
    })
  }
  const code = failure.code !== null && /^[a-z_]+$/.test(failure.code) ? { publicCode: failure.code } : {}
  return fail('upstream_refused', { status: status >= 400 && status < 500 ? status : 400, ...code })
}

/** HTML and the like as a few words: proxies answer with whole pages. Each pattern goes over the text once, whatever is in it. */
function plain(text: string): string {
  if (text.trim() === '') return 'an empty body'
  return (
    text
      .replace(/<(script|style)[\s\S]*?(<\/\1>|$)/gi, ' ')
      .replace(/<[^<>]*>/g, ' ')
      .replace(/\s+/g, ' ')
      .trim()
      .slice(0, textAtMost) || 'a page without text'
  )
}

export function parseOrNull(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return null
  }
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
