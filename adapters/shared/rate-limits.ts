// What a provider's headers tell of how many requests it takes. Sources: protocols OpenAI 10, OpenRouter 4.

import type { IncomingHttpHeaders } from 'node:http'
import type { RequestLimit } from '../../routing/types.ts'

// A day and a bit: what would last longer is no limit of requests.
const resetSAtMost = 100_000
const requestsAtMost = 1e9
// Seconds since 1970 are above it for long, and no wait is.
const epochSAtLeast = 1e9
const epochMsAtLeast = 1e12

const unitS: Readonly<Record<string, number>> = { ms: 0.001, s: 1, m: 60, h: 3_600, d: 86_400 }

/**
 * `x-ratelimit-limit-requests` and its like, as OpenAI, Groq and Azure have them: a bucket that fills again. Or the short names of
 * OpenRouter and many proxies, with the moment at which a window ends. Null when they are absent or nonsense. `nowMs`: epoch.
 */
export function requestLimitOf(headers: IncomingHttpHeaders, nowMs: number): RequestLimit | null {
  const long = limitOf(headers, '-requests', nowMs)
  return long ?? limitOf(headers, '', nowMs)
}

function limitOf(headers: IncomingHttpHeaders, suffix: string, nowMs: number): RequestLimit | null {
  const requests = wholeOf(headers[`x-ratelimit-limit${suffix}`])
  const remaining = wholeOf(headers[`x-ratelimit-remaining${suffix}`])
  const reset = resetOf(headers[`x-ratelimit-reset${suffix}`], nowMs)
  if (requests === null || remaining === null || reset === null || requests < 1 || remaining > requests) return null
  return { requests, remaining, resetS: reset.s, ...(reset.isMoment && { isWindow: true }) }
}

function wholeOf(header: string | string[] | undefined): number | null {
  if (typeof header !== 'string' || !/^\d{1,10}$/.test(header.trim())) return null
  const value = Number(header)
  return value <= requestsAtMost ? value : null
}

/** `12ms`, `6m0s`, `1.5` (seconds), or a moment in seconds or milliseconds since 1970. */
function resetOf(header: string | string[] | undefined, nowMs: number): { readonly s: number; readonly isMoment: boolean } | null {
  if (typeof header !== 'string' || header.length > 32) return null
  const text = header.trim()
  if (/^\d+(\.\d+)?$/.test(text)) {
    const value = Number(text)
    const isMoment = value >= epochSAtLeast
    const s = !isMoment ? value : value / (value >= epochMsAtLeast ? 1_000 : 1) - nowMs / 1_000
    return s >= 0 && s <= resetSAtMost ? { s, isMoment } : null
  }
  if (!/^(\d+(\.\d+)?(ms|[smhd]))+$/.test(text)) return null
  const s = [...text.matchAll(/(\d+(?:\.\d+)?)(ms|[smhd])/g)].reduce(
    (sum, [, value, unit]) => sum + Number(value) * (unitS[unit as string] as number),
    0
  )
  return s <= resetSAtMost ? { s, isMoment: false } : null
}
