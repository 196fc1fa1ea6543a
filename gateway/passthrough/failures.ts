// What a failing answer of the provider becomes for the client: OpenAI's four keys, without anything of ours in it.

import type { IncomingHttpHeaders } from 'node:http'
import { cleaned, retryAfterMs, withoutSecrets } from '../../outbound/said.ts'
import { type ErrorCode, type ErrorOptions, GatewayError } from '../../routing/errors.ts'
import type { Upstream } from '../../routing/types.ts'
import { isRecord } from '../fields.ts'

export interface FailedAnswer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  /** The beginning of its body. */
  readonly text: string
}

/** An answer with a status of 400 or above. The provider's opinion of our key or account is never shown as one of the client's. */
export function failureOf(upstream: Upstream, { status, headers, text }: FailedAnswer): GatewayError {
  const failure = errorIn(text)
  const quote = failure === null ? 'nothing in the form of an error of OpenAI' : cleaned(withoutSecrets(failure.message, upstream))
  const fail = (code: ErrorCode, options: ErrorOptions = {}): GatewayError =>
    new GatewayError(code, `${upstream.id} answered ${status}`, { ...options, quote })
  const waitMs = retryAfterMs(headers)
  if (status === 401 || status === 402 || status === 403) return fail('upstream_denied')
  if (status === 429) {
    if (failure?.code === 'insufficient_quota') return fail('upstream_denied')
    return fail('upstream_rate_limited', { retryAfterMs: waitMs ?? 1_000 })
  }
  if (status >= 500 || status === 408 || status === 409 || status === 425 || failure === null) {
    return fail('upstream_unavailable', {
      status: status === 408 || status === 504 || status === 524 ? 504 : status === 503 || status === 529 ? 503 : 502,
      ...(waitMs === null ? {} : { retryAfterMs: waitMs })
    })
  }
  const options: ErrorOptions = {
    ...(failure.code === null ? {} : { publicCode: failure.code }),
    ...(failure.param === null ? {} : { param: failure.param })
  }
  if (failure.code === 'model_not_found') return fail('upstream_lacks_model', options)
  return fail('upstream_refused', { status, ...options })
}

/** A connection that failed. `cause` tells the books that something may have begun. */
export function connectionFailure(upstream: Upstream, error: Error): GatewayError {
  const code = (error as NodeJS.ErrnoException).code
  const isLate = code === 'UND_ERR_CONNECT_TIMEOUT'
  const reason = isLate ? 'no connection in time' : typeof code === 'string' && /^[A-Z_]{1,40}$/.test(code) ? code : 'the connection broke'
  return new GatewayError('upstream_unavailable', `${upstream.id} could not be asked: ${reason}.`, {
    cause: error,
    status: isLate ? 504 : 502
  })
}

interface Failure {
  readonly message: string
  readonly code: string | null
  readonly param: string | null
}

function errorIn(text: string): Failure | null {
  let body: unknown
  try {
    body = JSON.parse(text)
  } catch {
    return null
  }
  const error = isRecord(body) ? body.error : null
  if (!isRecord(error) || typeof error.message !== 'string') return null
  return { message: error.message, code: nameOrNull(error.code), param: nameOrNull(error.param) }
}

/** Names only: these two go out as they are. */
function nameOrNull(value: unknown): string | null {
  return typeof value === 'string' && /^[a-z][a-z0-9_.[\]]{0,63}$/.test(value) ? value : null
}
