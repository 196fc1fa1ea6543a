// One budget for second tries, so that a provider in trouble is not hit twice by everybody.

export interface RetryBudget {
  /** A request begins its first attempt. */
  count(): void
  /** May one more attempt be made for a request that already had one? Takes it from the budget. */
  take(): boolean
}

const windowMs = 10_000
const share = 0.2
// Low traffic must fail over too: a share of nothing would be nothing (Envoy's retry budget has the same floor).
const atLeast = 3

/** At most 20 % extra calls, at least 3, over the last 10 to 20 s. `now`: a clock that never jumps, ms. */
export function createRetryBudget(now: () => number): RetryBudget {
  let windowStart = now()
  let calls = 0
  let retries = 0
  let callsBefore = 0
  let retriesBefore = 0

  function roll(): void {
    const elapsed = now() - windowStart
    if (elapsed < windowMs) return
    const adjacent = elapsed < 2 * windowMs
    callsBefore = adjacent ? calls : 0
    retriesBefore = adjacent ? retries : 0
    calls = 0
    retries = 0
    windowStart = now()
  }

  return {
    count() {
      roll()
      calls++
    },
    take() {
      roll()
      if (retries + retriesBefore + 1 > Math.max(atLeast, share * (calls + callsBefore))) return false
      retries++
      return true
    }
  }
}
