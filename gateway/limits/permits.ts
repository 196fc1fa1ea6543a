// How many requests of a source run at once, over all processes: each holds permits, and lends them to its requests.

import type { PermitRequest } from '../../store/limits.ts'

export interface PermitsPorts {
  /** Says how many are held here and takes up to `want` more; resolves to how many those are. Rejects when the database is away. */
  readonly holdPermits: (request: PermitRequest) => Promise<number>
  readonly now: () => number
  readonly processes: () => number
}

export interface Permits {
  /** A permit, or null when as many run as may. Never rejects. The permit is given back by calling it, once. */
  take(source: string, limit: number): Promise<(() => void) | null>
  /** Once in a while: permits that were not needed for most of a second go back to the others. */
  sweep(): void
  /** Gives back all that no request uses. */
  close(): Promise<void>
}

interface Holding {
  readonly source: string
  readonly limit: number
  held: number
  used: number
  waiting: number
  /** Since when not all that is held is used. */
  spareSince: number
  /** Until then nobody asks again: it was full a moment ago. */
  fullUntil: number
  /** False while the database may believe something else. */
  isSaid: boolean
  asking: Promise<void> | null
}

const idleMs = 750
// A source at its limit asks at most ten times a second, however many requests it sends.
const fullMs = 100
const awayMs = 1_000
// Sources whose permits could not be given back, as the database is away. Beyond that, they return when the process ends.
const unsaidAtMost = 10_000

export function createPermits(ports: PermitsPorts): Permits {
  const holdings = new Map<string, Holding>()

  async function take(source: string, limit: number): Promise<(() => void) | null> {
    const holding = holdingOf(source, limit)
    holding.waiting++
    try {
      for (;;) {
        if (holding.used < holding.held) return lend(holding)
        if (ports.now() >= holding.fullUntil) await say(holding)
        else if (!holding.isSaid && holding.held < shareOf(limit)) holding.held++
        else return null
      }
    } finally {
      holding.waiting--
    }
  }

  function lend(holding: Holding): () => void {
    holding.used++
    return () => {
      if (holding.used === holding.held) holding.spareSince = ports.now()
      holding.used--
    }
  }

  /** One question at a time for each source, shared by all who wait: what is held is said as it is, not as a change. */
  function say(holding: Holding): Promise<void> {
    holding.asking ??= sayNow(holding).finally(() => {
      holding.asking = null
    })
    return holding.asking
  }

  async function sayNow(holding: Holding): Promise<void> {
    const { source, limit, held } = holding
    const want = Math.min(limit, Math.max(0, holding.waiting - (held - holding.used)))
    try {
      const granted = await ports.holdPermits({ source, limit, held, want })
      holding.held += granted
      holding.isSaid = true
      if (granted < want) holding.fullUntil = ports.now() + fullMs
    } catch {
      // The database is away, which is no reason to refuse: this process goes on with its share, and says so when it is back.
      holding.isSaid = false
      holding.fullUntil = ports.now() + awayMs
    }
    holding.spareSince = ports.now()
  }

  function shareOf(limit: number): number {
    return Math.max(1, Math.floor(limit / ports.processes()))
  }

  function holdingOf(source: string, limit: number): Holding {
    const key = `${limit} ${source}`
    const known = holdings.get(key)
    if (known !== undefined) return known
    const holding: Holding = {
      source,
      limit,
      held: 0,
      used: 0,
      waiting: 0,
      spareSince: ports.now(),
      fullUntil: 0,
      isSaid: true,
      asking: null
    }
    holdings.set(key, holding)
    return holding
  }

  function giveBack(holding: Holding): Promise<void> {
    // First here, then there: nobody is lent what others may have already.
    holding.held = holding.used
    return say(holding)
  }

  return {
    take,
    sweep() {
      for (const [key, holding] of holdings) {
        if (holding.waiting > 0 || holding.asking !== null) continue
        const isSpare = holding.used < holding.held && ports.now() - holding.spareSince >= idleMs
        if (isSpare || (!holding.isSaid && ports.now() >= holding.fullUntil)) void giveBack(holding)
        else if (holding.held === 0 && (holding.isSaid || holdings.size > unsaidAtMost) && ports.now() >= holding.fullUntil)
          holdings.delete(key)
      }
    },
    async close() {
      await Promise.all([...holdings.values()].map(holding => (holding.used < holding.held ? giveBack(holding) : null)))
    }
  }
}
