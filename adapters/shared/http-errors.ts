// What an OpenAI-shaped server's failure means to us. Sources: protocols OpenAI 8 and 9, OpenRouter 4.

import type { IncomingHttpHeaders } from 'node:http'
import { GatewayError } from '../../routing/errors.ts'

const textAtMost = 500
const aboutContext =
  /context[ _](length|window|size)|maximum context|too many tokens|prompt is too long|input is too long|exceeds? the (model's )?(maximum )?context/i

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

/** The error for an answer with this status; `text` is its body, at most 64 KiB of it. */
export function errorFromStatus(upstreamId: string, status: number, text: string, headers: IncomingHttpHeaders): GatewayError {
  const failure = failureIn(parseOrNull(text)) ?? { message: plain(text), code: null, type: null, metadata: {} }
  return errorFrom(upstreamId, status, failure, retryAfterMs(headers))
}

/** The error for a failure told inside a 200: its numeric code is the status, if it looks like one. */
export function errorFromFailure(upstreamId: string, failure: UpstreamFailure): GatewayError {
  const status = Number(failure.code)
  if (Number.isInteger(status) && status >= 400 && status <= 599) return errorFrom(upstreamId, status, failure, null)
  if (failure.code === 'rate_limit_exceeded') return errorFrom(upstreamId, 429, failure, null)
  if (failure.code === 'context_length_exceeded') return errorFrom(upstreamId, 400, failure, null)
  if (failure.code === 'insufficient_quota') return errorFrom(upstreamId, 402, failure, null)
  return errorFrom(upstreamId, 502, failure, null)
}

function errorFrom(upstreamId: string, status: number, failure: UpstreamFailure, waitMs: number | null): GatewayError {
  const said = `${upstreamId} answered ${status}: ${cleaned(failure.message)}`
  if (failure.code === 'context_length_exceeded' || (status === 400 && aboutContext.test(failure.message))) {
    return new GatewayError('context_length_exceeded', said, { param: 'messages' })
  }
  if (status === 403 && (Array.isArray(failure.metadata.reasons) || failure.metadata.flagged_input !== undefined)) {
    return new GatewayError('upstream_refused', said, { status: 400, publicCode: 'content_policy_violation' })
  }
  if (status === 429 && failure.code === 'insufficient_quota') return new GatewayError('upstream_denied', said)
  if (status === 401 || status === 402 || status === 403) return new GatewayError('upstream_denied', said)
  if (status === 404) return new GatewayError('upstream_lacks_model', said, { param: 'model' })
  if (status === 429) return new GatewayError('upstream_rate_limited', said, { retryAfterMs: waitMs ?? 1_000 })
  // A redirect too: it is not followed, and not the request's fault.
  if (status < 400 || status === 408 || status === 409 || status === 425 || status >= 500) {
    return new GatewayError('upstream_unavailable', said, {
      status: status === 408 || status === 504 || status === 524 ? 504 : status === 503 || status === 529 ? 503 : 502,
      ...(waitMs === null ? {} : { retryAfterMs: waitMs })
    })
  }
  const code = failure.code !== null && /^[a-z_]+$/.test(failure.code) ? { publicCode: failure.code } : {}
  return new GatewayError('upstream_refused', said, { status: status >= 400 && status < 500 ? status : 400, ...code })
}

/** `retry-after-ms`, or `retry-after` as seconds or a date; null when absent or nonsense. At most an hour. */
export function retryAfterMs(headers: IncomingHttpHeaders): number | null {
  const exact = Number(headers['retry-after-ms'])
  if (headers['retry-after-ms'] !== undefined && Number.isFinite(exact) && exact >= 0) return Math.min(exact, 3_600_000)
  const header = headers['retry-after']
  if (typeof header !== 'string' || header.trim() === '') return null
  const seconds = Number(header)
  const ms = Number.isFinite(seconds) ? seconds * 1_000 : Date.parse(header) - Date.now()
  return Number.isFinite(ms) && ms >= 0 ? Math.min(ms, 3_600_000) : null
}

/** A text of somebody else's, safe to show: short, without anything that looks like a key. */
export function cleaned(text: string): string {
  const bare = text.replace(/\b(sk|pk|key|gsk|xai)[-_][A-Za-z0-9*_.-]{6,}/g, '$1-[hidden]').replace(/Bearer\s+\S+/gi, 'Bearer [hidden]')
  return bare.length > textAtMost ? `${bare.slice(0, textAtMost)}…` : bare
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

/** A text of the upstream's without our own secrets, however they look: some servers quote the key they refuse. */
export function withoutSecrets(
  text: string,
  upstream: { readonly apiKey: string | null; readonly headers: Readonly<Record<string, string>> }
): string {
  let bare = text
  for (const secret of [upstream.apiKey, ...Object.values(upstream.headers)]) {
    if (secret !== null && secret.length >= 6) bare = bare.replaceAll(secret, '[hidden]')
  }
  return bare
}
