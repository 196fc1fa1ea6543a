// What a source may use: requests and tokens per minute, requests at once. Counted over all processes, mostly in memory.

import type { KeyLimits } from '../store/keys.ts'
import type { Grant, LimitMetric, PermitRequest, WindowName } from '../store/limits.ts'
import { formatDuration } from './limits/durations.ts'
import { createPermits } from './limits/permits.ts'
import { overConcurrent, overRequests, overTokens, tooManyTokens } from './limits/refusals.ts'
import { createWindows, type Refused, type Taken, type Windows } from './limits/windows.ts'

export type { KeyLimits } from '../store/keys.ts'

export interface LimitsPorts {
  /** Takes up to `want` points of the cluster's minute. Rejects when the database is away. */
  readonly take: (request: WindowName & { readonly want: number }) => Promise<Grant>
  /** Gives back points that were not used. */
  readonly giveBack: (request: WindowName & { readonly window: number; readonly points: number }) => Promise<void>
  /** Says how many permits this process has and takes up to `want` more; with 0 it gives back. Resolves to how many it got. */
  readonly holdPermits: (request: PermitRequest) => Promise<number>
  /** Milliseconds of a clock that never jumps. */
  readonly now: () => number
  /** How many gateways are alive; as last known while the database is away. */
  readonly processes: () => number
}

export interface Admission {
  /** x-ratelimit-* as they stand now; {} where the key has no such limit. */
  headers(): Record<string, string>
  /**
   * Once, at the end: the tokens that were really used, or null when the request failed without using any.
   * Also gives back its place among the running requests. Safe twice.
   */
  settle(actualTokens: number | null): void
}

export interface Limits {
  /**
   * Lets a request in, or throws or rejects with GatewayError: `rate_limit_exceeded`, `token_limit_exceeded` or
   * `concurrency_limit_exceeded`. A refused request uses nothing. `source` may be one person behind a source.
   * Without limits the answer comes at once.
   */
  admit(source: string, limits: KeyLimits, estimatedTokens: number): Promise<Admission> | Admission
  /** For the answer to a refusal: x-ratelimit-* of a source under these limits. */
  headersOf(source: string, limits: KeyLimits): Record<string, string>
  /** Gives back what is not used. Running requests may still settle. */
  close(): Promise<void>
}

const free: Admission = { headers: () => ({}), settle: () => {} }
// Idle permits and slices are with the others again within a second.
const sweepEveryMs = 250

export function createLimits(ports: LimitsPorts): Limits {
  const requests = windowsOf('requests')
  const tokens = windowsOf('tokens')
  const permits = createPermits(ports)
  const timer = setInterval(() => {
    requests.sweep()
    tokens.sweep()
    permits.sweep()
  }, sweepEveryMs)
  timer.unref()

  function windowsOf(metric: LimitMetric): Windows {
    return createWindows({
      take: request => ports.take({ ...request, metric }),
      giveBack: request => ports.giveBack({ ...request, metric }),
      now: ports.now,
      processes: ports.processes
    })
  }

  function admit(source: string, limits: KeyLimits, estimatedTokens: number): Promise<Admission> | Admission {
    const { requestsPerMinute, tokensPerMinute, concurrentRequests } = limits
    if (requestsPerMinute === null && tokensPerMinute === null && concurrentRequests === null) return free
    const estimate = Math.max(0, Math.ceil(estimatedTokens))
    if (tokensPerMinute !== null && estimate > tokensPerMinute) throw tooManyTokens(source, tokensPerMinute, estimate)
    return admitLimited(source, limits, estimate)
  }

  /** 1. a request, 2. its tokens, 3. its place. Whoever refuses, what was taken before is given back. */
  async function admitLimited(source: string, limits: KeyLimits, estimate: number): Promise<Admission> {
    const { requestsPerMinute, tokensPerMinute, concurrentRequests } = limits
    const oneRequest = requestsPerMinute === null ? null : await requests.take(source, requestsPerMinute, 1)
    if (isRefused(oneRequest)) throw overRequests(source, requestsPerMinute, oneRequest.resetMs)
    const itsTokens = tokensPerMinute === null ? null : await tokens.take(source, tokensPerMinute, estimate)
    if (isRefused(itsTokens)) {
      oneRequest?.correct(-1)
      throw overTokens(source, tokensPerMinute, { estimate, resetMs: itsTokens.resetMs })
    }
    const release = concurrentRequests === null ? null : await permits.take(source, concurrentRequests)
    if (concurrentRequests !== null && release === null) {
      oneRequest?.correct(-1)
      itsTokens?.correct(-estimate)
      throw overConcurrent(source, concurrentRequests)
    }
    let isSettled = false
    return {
      headers: () => headersOf(source, limits),
      settle(actualTokens) {
        if (isSettled) return
        isSettled = true
        release?.()
        itsTokens?.correct(Math.max(0, Math.ceil(actualTokens ?? 0)) - estimate)
      }
    }
  }

  function headersOf(source: string, { requestsPerMinute, tokensPerMinute }: KeyLimits): Record<string, string> {
    return {
      ...(requestsPerMinute === null ? {} : headersFor('requests', requestsPerMinute, requests.state(source, requestsPerMinute))),
      ...(tokensPerMinute === null ? {} : headersFor('tokens', tokensPerMinute, tokens.state(source, tokensPerMinute)))
    }
  }

  return {
    admit,
    headersOf,
    async close() {
      clearInterval(timer)
      await Promise.all([requests.close(), tokens.close(), permits.close()])
    }
  }
}

function isRefused(outcome: Taken | Refused | null): outcome is Refused {
  return outcome !== null && !outcome.ok
}

function headersFor(metric: LimitMetric, limit: number, { remaining, resetMs }: ReturnType<Windows['state']>): Record<string, string> {
  return {
    [`x-ratelimit-limit-${metric}`]: String(limit),
    [`x-ratelimit-remaining-${metric}`]: String(remaining),
    [`x-ratelimit-reset-${metric}`]: formatDuration(resetMs)
  }
}
