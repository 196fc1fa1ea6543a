// One look at the heads of the queue: what is to be done with each job of it, knowing what those before it get.

import { LRUCache } from 'lru-cache'
import { workAtMost } from '../routing/brain/plan.ts'
import type { Decision } from '../routing/decide.ts'
import type { Caller, ModelRequest } from '../routing/types.ts'
import type { Candidate } from '../store/jobs/candidates.ts'

export interface LookPorts {
  /** What would be done with each of these now, in this order; full machines are a reason to wait. */
  readonly schedule: (waiting: readonly { readonly request: ModelRequest; readonly caller: Caller }[]) => readonly Decision[]
  /** What was decided about the first of those that wait, so that each is told when its turn comes. */
  readonly planned: (jobs: readonly Candidate[], decisions: readonly Decision[]) => void
  /** Jobs that nobody looked at before, with what was decided. */
  readonly arrived: (decision: Decision) => void
  readonly now: () => number
}

export interface Decisions {
  /** More jobs of the same look. */
  add(jobs: readonly Candidate[]): void
  /** These are dealt with. */
  drop(jobs: readonly Candidate[]): void
  of(job: Candidate): Decision
  /** Something has changed. */
  again(): void
}

const arrivedAtMost = 20_000
// A plan of 32 takes a millisecond, and nobody is told more often.
const foreseeEveryMs = 1_000

/** What remembers from look to look: whom it has seen, and when the whole row was planned last. Gives the decisions of the next look. */
export function createLooks(ports: LookPorts): () => Decisions {
  // Jobs that were looked at before.
  const arrived = new LRUCache<string, true>({ max: arrivedAtMost })
  let foreseenAt = Number.NEGATIVE_INFINITY

  return createDecisions

  function createDecisions(): Decisions {
    let waiting: readonly Candidate[] = []
    const known = new Map<string, Decision>()

    function decide(): void {
      // Of a long row the first were decided before: they wait, and must not keep the others from what is free.
      const last = waiting.slice(-workAtMost)
      const decided = ports.schedule(last.map(askedOf))
      for (const [at, { id }] of last.entries()) known.set(id, decided[at] as Decision)
      if (last.length === waiting.length) ports.planned(last, decided)
      else foresee()
    }

    /** When the last of a long row would begin if they were the first is nothing to tell them. */
    function foresee(): void {
      if (ports.now() - foreseenAt < foreseeEveryMs) return
      foreseenAt = ports.now()
      const first = waiting.slice(0, workAtMost)
      ports.planned(first, ports.schedule(first.map(askedOf)))
    }

    return {
      add(jobs) {
        const added = jobs.filter(({ request }) => request !== null)
        waiting = [...waiting, ...added]
        decide()
        for (const { id, ownerProcess, request } of added) {
          // A request that somebody waits for counted when it came; a benchmark says nothing of what will be asked for.
          if (ownerProcess !== null || (request as ModelRequest | null)?.isBenchmark === true || arrived.has(id)) continue
          arrived.set(id, true)
          ports.arrived(known.get(id) as Decision)
        }
      },
      drop(jobs) {
        waiting = waiting.filter(({ id }) => !jobs.some(job => job.id === id))
      },
      of: ({ id }) => known.get(id) as Decision,
      again: decide
    }
  }
}

export function askedOf({ request, caller }: Candidate): { readonly request: ModelRequest; readonly caller: Caller } {
  return { request: request as ModelRequest, caller: caller as Caller }
}
