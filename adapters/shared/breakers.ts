// One circuit breaker per target (opossum), fed with outcomes; the calls themselves do not run through it.

import CircuitBreaker from 'opossum'
import type { GatewayError } from '../../routing/errors.ts'
import type { Breakers } from '../../routing/ports.ts'

const options = {
  timeout: false as const,
  volumeThreshold: 5,
  errorThresholdPercentage: 50,
  rollingCountTimeout: 30_000,
  resetTimeout: 5_000,
  // Nobody reads them; kept, every breaker sorts the latencies of its last 30 s every 3 s: at 6,000 calls a second 180,000 of them, for 60 ms.
  rollingPercentilesEnabled: false,
  enableSnapshots: false,
  // Only what the error table calls a failure is one: a busy machine or a bad request says nothing against the target.
  errorFilter: (error: GatewayError) => error.breaker !== 'failure'
}
// Nobody answers there: no need to see it five times.
const nobodyThere = new Set(['ECONNREFUSED', 'EHOSTUNREACH', 'ENETUNREACH', 'ENOTFOUND', 'UND_ERR_CONNECT_TIMEOUT'])
const breakersAtMost = 2_000

type Breaker = CircuitBreaker<[GatewayError | null], void>

/**
 * Breakers are made when a target first fails or answers; the oldest is dropped when there are more than 2,000.
 * `begin` is told of each call that is made, and `record` of its end: while one tries a half-open target, it looks open to others.
 */
export function createBreakers(): Breakers & { begin(targetId: string): void; close(): void } {
  const breakers = new Map<string, Breaker>()
  const tried = new Set<string>()

  function breakerOf(targetId: string): Breaker {
    let breaker = breakers.get(targetId)
    if (breaker === undefined) {
      if (breakers.size >= breakersAtMost) drop(breakers.keys().next().value as string)
      breaker = new CircuitBreaker(outcome => (outcome === null ? Promise.resolve() : Promise.reject(outcome)), options)
      breakers.set(targetId, breaker)
    }
    return breaker
  }

  function drop(targetId: string): void {
    breakers.get(targetId)?.shutdown()
    breakers.delete(targetId)
    tried.delete(targetId)
  }

  return {
    isOpen(targetId) {
      const breaker = breakers.get(targetId)
      return breaker !== undefined && (breaker.opened || (breaker.halfOpen && (tried.has(targetId) || !breaker.pendingClose)))
    },
    begin(targetId) {
      if (breakers.get(targetId)?.halfOpen === true) tried.add(targetId)
    },
    record(targetId, error) {
      tried.delete(targetId)
      // opossum would take it for an answer.
      if (error?.code === 'client_gone') return
      const breaker = breakerOf(targetId)
      // A target of last resort is called although its breaker is open; opossum would not look at that outcome.
      if (error === null && !breaker.closed) return breaker.close()
      // The rejection is the outcome we just handed in.
      breaker.fire(error).catch(() => {})
      const code = (error?.cause as NodeJS.ErrnoException | undefined)?.code
      if (error?.breaker === 'failure' && code !== undefined && nobodyThere.has(code)) breaker.open()
    },
    close() {
      for (const id of [...breakers.keys()]) drop(id)
    }
  }
}
