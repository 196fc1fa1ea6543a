// What Ollama's errors mean: by status before the answer begins, by text inside it. Source: its server/routes.go, sched.go.

import type { IncomingHttpHeaders } from 'node:http'
import { type ErrorCode, type ErrorOptions, GatewayError } from '../../routing/errors.ts'
import { isObject } from './values.ts'

// There is no Retry-After from Ollama; a place in its queue is free again after one short answer.
const busyRetryMs = 1000
const longestText = 500

/**
 * For an answer that is not a 200. `where` names the machine and model, `body` is what was read of the answer,
 * `input` the field of the request that may be too long.
 * 1. denied, 2. not here, 3. busy, which is not broken, 4. a prompt too long, which some versions answer with 500,
 * 5. a model that has no such use, which some versions answer with 500 too, 6. broken, 7. the request's own fault.
 */
export function failureOfStatus(
  where: string,
  status: number,
  headers: IncomingHttpHeaders,
  body: string,
  input = 'messages'
): GatewayError {
  const text = errorTextOf(body)
  const said = (code: ErrorCode, options: ErrorOptions = {}): GatewayError =>
    new GatewayError(code, `${where} answered ${status}`, { ...options, quote: text })
  // 1.
  if (status === 403 && body.trim() === '') {
    return new GatewayError(
      'upstream_denied',
      `${where} answered 403 with an empty body: it refuses the Host name it was called by; use its IP address in the configuration.`
    )
  }
  if (status === 401 || status === 403) return said('upstream_denied')
  // 2.
  if (status === 404) return said('upstream_lacks_model')
  // 3.
  if (status === 429) return said('upstream_rate_limited', retryAfter(headers, null))
  if (status === 499 || status === 503) return said('upstream_rate_limited', retryAfter(headers, busyRetryMs))
  // 4.
  if (tellsTooLong(text) && (status === 400 || status === 413 || status === 500)) return said('context_length_exceeded', { param: input })
  if (status === 400 && /too long|exceeds/i.test(text)) return said('context_length_exceeded', { param: input })
  // 5.
  if (/not support embedding/i.test(text)) return said('unsupported_parameter', fieldOf(text, input))
  // 6.
  if (status < 400 || status === 408 || status >= 500) {
    return said('upstream_unavailable', { status: status === 408 || status === 504 ? 504 : 502 })
  }
  // 7.
  if (status === 400 && tellsUnsupported(text)) return said('unsupported_parameter', fieldOf(text, input))
  return said('upstream_refused', { status })
}

/** For an error line inside a 200, as long as nothing was answered: only its text tells what it is. */
export function failureOfText(where: string, text: string, input = 'messages'): GatewayError {
  const said = (code: ErrorCode, options: ErrorOptions = {}): GatewayError =>
    new GatewayError(code, `${where} answered with an error`, { ...options, quote: text })
  if (tellsTooLong(text)) return said('context_length_exceeded', { param: input })
  if (tellsUnsupported(text)) return said('unsupported_parameter', fieldOf(text, input))
  if (/\bmodel\b.*\bnot found\b/i.test(text)) return said('upstream_lacks_model')
  if (/server busy|maximum pending requests|request canceled/i.test(text)) {
    return said('upstream_rate_limited', { retryAfterMs: busyRetryMs })
  }
  if (/unauthorized/i.test(text)) return said('upstream_denied')
  return said('upstream_unavailable')
}

/** One line of at most 500 characters, whatever the body was: Ollama's `{"error":"text"}`, OpenAI's object, HTML, nothing. */
export function errorTextOf(body: string): string {
  try {
    const parsed: unknown = JSON.parse(body)
    if (isObject(parsed)) return errorValueText(parsed.error ?? parsed.message)
  } catch {
    // Not JSON: what a proxy or another server says, without its markup.
  }
  return oneLine(body.slice(0, 4096).replace(/<[^>]*>/g, ' '))
}

/** The text of an `error` field, which is a string for Ollama and an object for most others. */
export function errorValueText(error: unknown): string {
  if (typeof error === 'string') return oneLine(error)
  if (isObject(error) && typeof error.message === 'string') return oneLine(error.message)
  return ''
}

function oneLine(text: string): string {
  return text
    .slice(0, longestText * 2)
    .replace(/\s+/g, ' ')
    .trim()
    .slice(0, longestText)
}

// "context deadline exceeded" and "requires more system memory than is available" are other things.
function tellsTooLong(text: string): boolean {
  return /context (length|window|size|limit)/i.test(text)
    ? /exceed|longer|too (long|large)/i.test(text)
    : /\b(prompt|input)\b.*(too long|longer than|exceed)/i.test(text)
}

function tellsUnsupported(text: string): boolean {
  return /(does|is|are) not support/i.test(text)
}

function fieldOf(text: string, input: string): ErrorOptions {
  const param = /not support(ed)? tools/i.test(text)
    ? 'tools'
    : /think/i.test(text)
      ? 'reasoning_effort'
      : /image|vision/i.test(text)
        ? input
        : /insert/i.test(text)
          ? 'suffix'
          : /embedding/i.test(text)
            ? 'model'
            : undefined
  return param === undefined ? {} : { param }
}

function retryAfter(headers: IncomingHttpHeaders, otherwiseMs: number | null): ErrorOptions {
  const seconds = Number(headers['retry-after'] ?? Number.NaN)
  if (Number.isFinite(seconds) && seconds >= 0) return { retryAfterMs: Math.ceil(seconds * 1000) }
  return otherwiseMs === null ? {} : { retryAfterMs: otherwiseMs }
}
