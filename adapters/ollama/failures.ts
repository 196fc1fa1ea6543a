// What Ollama's errors mean: by status before the answer begins, by text inside it. Source: its server/routes.go, sched.go.

import type { IncomingHttpHeaders } from 'node:http'
import { type ErrorOptions, GatewayError } from '../../routing/errors.ts'
import { isObject } from './values.ts'

// There is no Retry-After from Ollama; a place in its queue is free again after one short answer.
const busyRetryMs = 1000
const longestText = 500

/**
 * For an answer that is not a 200. `where` names the machine and model, `body` is what was read of the answer.
 * 1. denied, 2. not here, 3. busy, which is not broken, 4. a prompt too long, which some versions answer with 500,
 * 5. broken, 6. the request's own fault.
 */
export function failureOfStatus(where: string, status: number, headers: IncomingHttpHeaders, body: string): GatewayError {
  const text = errorTextOf(body)
  const said = `${where} answered ${status}${text === '' ? '' : `: ${text}`}`
  // 1.
  if (status === 403 && body.trim() === '') {
    return new GatewayError(
      'upstream_denied',
      `${said} with an empty body: it refuses the Host name it was called by; use its IP address in the configuration.`
    )
  }
  if (status === 401 || status === 403) return new GatewayError('upstream_denied', said)
  // 2.
  if (status === 404) return new GatewayError('upstream_lacks_model', said)
  // 3.
  if (status === 429) return new GatewayError('upstream_rate_limited', said, retryAfter(headers, null))
  if (status === 499 || status === 503) return new GatewayError('upstream_rate_limited', said, retryAfter(headers, busyRetryMs))
  // 4.
  if (tellsTooLong(text) && (status === 400 || status === 413 || status === 500)) return tooLong(said)
  if (status === 400 && /too long|exceeds/i.test(text)) return tooLong(said)
  // 5.
  if (status < 400 || status === 408 || status >= 500) {
    return new GatewayError('upstream_unavailable', said, { status: status === 408 || status === 504 ? 504 : 502 })
  }
  // 6.
  if (status === 400 && tellsUnsupported(text)) return notSupported(said, text)
  return new GatewayError('upstream_refused', said, { status })
}

/** For an error line inside a 200, as long as nothing was answered: only its text tells what it is. */
export function failureOfText(where: string, text: string): GatewayError {
  const said = `${where} answered with an error${text === '' ? '' : `: ${text}`}`
  if (tellsTooLong(text)) return tooLong(said)
  if (tellsUnsupported(text)) return notSupported(said, text)
  if (/\bmodel\b.*\bnot found\b/i.test(text)) return new GatewayError('upstream_lacks_model', said)
  if (/server busy|maximum pending requests|request canceled/i.test(text)) {
    return new GatewayError('upstream_rate_limited', said, { retryAfterMs: busyRetryMs })
  }
  if (/unauthorized/i.test(text)) return new GatewayError('upstream_denied', said)
  return new GatewayError('upstream_unavailable', said)
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

function tooLong(said: string): GatewayError {
  return new GatewayError('context_length_exceeded', said, { param: 'messages' })
}

function tellsUnsupported(text: string): boolean {
  return /(does|is|are) not support/i.test(text)
}

function notSupported(said: string, text: string): GatewayError {
  const param = /not support(ed)? tools/i.test(text)
    ? 'tools'
    : /think/i.test(text)
      ? 'reasoning_effort'
      : /image|vision/i.test(text)
        ? 'messages'
        : undefined
  return new GatewayError('unsupported_parameter', said, param === undefined ? {} : { param })
}

function retryAfter(headers: IncomingHttpHeaders, otherwiseMs: number | null): ErrorOptions {
  const seconds = Number(headers['retry-after'] ?? Number.NaN)
  if (Number.isFinite(seconds) && seconds >= 0) return { retryAfterMs: Math.ceil(seconds * 1000) }
  return otherwiseMs === null ? {} : { retryAfterMs: otherwiseMs }
}
