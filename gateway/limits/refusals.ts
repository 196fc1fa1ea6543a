// What a refused request is told: which limit of whom, how high it is, when it resets, what to do.

import { GatewayError } from '../../routing/errors.ts'
import { formatDuration } from './durations.ts'

const concurrentRetryMs = 1_000

/** `resetMs`: until the window ends. */
export function overRequests(source: string, limit: number | null, resetMs: number): GatewayError {
  return new GatewayError(
    'rate_limit_exceeded',
    `Rate limit reached for ${shown(source)}: ${limit} requests per minute (requests_per_minute of its key). ` +
      `It resets in ${formatDuration(resetMs)}. Wait until then, or ask an admin for a key with a higher limit.`,
    { retryAfterMs: retryAfter(resetMs) }
  )
}

/** `resetMs`: until the window ends. */
export function overTokens(
  source: string,
  limit: number | null,
  at: { readonly estimate: number; readonly resetMs: number }
): GatewayError {
  return new GatewayError(
    'token_limit_exceeded',
    `Token limit reached for ${shown(source)}: ${limit} tokens per minute (tokens_per_minute of its key); this request is estimated ` +
      `at ${at.estimate}. It resets in ${formatDuration(at.resetMs)}. Wait until then, send less, or ask an admin for a key with a higher limit.`,
    { retryAfterMs: retryAfter(at.resetMs) }
  )
}

/** More than a whole minute has: to wait would be useless. */
export function tooManyTokens(source: string, limit: number, estimate: number): GatewayError {
  return new GatewayError(
    'token_limit_exceeded',
    `This request is estimated at ${estimate} tokens, and ${shown(source)} may use ${limit} per minute (tokens_per_minute of its key), ` +
      'so it can never fit. Send a shorter prompt, ask for fewer tokens, or ask an admin for a key with a higher limit.',
    { shouldRetry: false }
  )
}

/** Running requests end when they end; a second is a guess. */
export function overConcurrent(source: string, limit: number): GatewayError {
  return new GatewayError(
    'concurrency_limit_exceeded',
    `${shown(source)} has ${limit} ${limit === 1 ? 'request' : 'requests'} running, as many as its key allows at once ` +
      '(concurrent_requests of its key). Try again when one of them has ended, or ask an admin for a key with a higher limit.',
    { retryAfterMs: concurrentRetryMs }
  )
}

/** The name of a person comes from a header, and may be long. */
function shown(source: string): string {
  return source.length > 100 ? `${source.slice(0, 99)}…` : source
}

function retryAfter(resetMs: number): number {
  return Math.min(60_000, Math.ceil(resetMs))
}
