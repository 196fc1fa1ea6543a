// The loop that gives jobs to machines: the best job that something free can run, again and again until there is none.

import type { Decision } from '../routing/decide.ts'
import type { GatewayError } from '../routing/errors.ts'
import { deadlineExceeded } from '../routing/patience.ts'
import { providerOf } from '../routing/targets.ts'
import type { ModelRequest, Target } from '../routing/types.ts'
import { type Candidate, setAside } from '../store/jobs/candidates.ts'
import { claimJob } from '../store/jobs/claim.ts'
import type { Pool } from '../store/pool.ts'
import type { Candidates } from './candidates.ts'
import { isRentFree, isTooLate, mayComeBack, targetOn } from './judgements.ts'
import type { Reach } from './lanes.ts'
import { askedOf, createLooks, type Decisions, type LookPorts } from './look.ts'
import type { Notices } from './notices.ts'
import { jobClasses } from './types.ts'

export interface WorkerPorts extends LookPorts {
  readonly pool: Pool
  readonly processId: string
  readonly candidates: Candidates
  readonly notices: Notices
  /** The machine said that it is full: what is decided from now on knows it. */
  readonly full: (deviceId: string) => void
  /** An attempt of ours will run on this target as soon as its request is read: what is decided from now on knows it. */
  readonly reserved: (target: Target, attemptId: string) => void
  /** Calls of ours that run on an upstream now. */
  readonly inFlight: (upstreamId: string) => number
  /** Whether this process runs jobs that belong to nobody. */
  readonly runsAny: () => boolean
  /** Jobs that belong to nobody, at once. */
  readonly concurrency: number
  /** How many run here now. */
  readonly running: () => number
  /** A claim is ours: run it. `target` null = `echo`. */
  readonly run: (claimed: { readonly jobId: string; readonly attempt: number; readonly target: Target | null }) => void
  /** These can never run: each ends with its error. */
  readonly refuse: (refused: readonly Refused[]) => Promise<void>
  readonly mendTickets: (ids: readonly string[]) => Promise<void>
  readonly newId: () => string
  readonly log: (message: string, error: unknown) => void
}

export interface Refused {
  readonly job: Candidate
  readonly error: GatewayError
}

export interface Worker {
  /** Something may have changed: looks for work, now or when it is done with what it does. */
  wake(): void
  /**
   * Gives the place of an attempt that is over to the best job that waits for that machine. False when there is none: then the
   * place is still the attempt's.
   */
  handOver(deviceId: string, attemptId: string): Promise<boolean>
  /** Forgets which machines were full. */
  forgetFull(deviceId: string | null): void
  /** Resolves when it looks for nothing any more. */
  idle(): Promise<void>
  /** No further claims. */
  stop(): Promise<void>
}

type Claimed =
  /** `over`: those that are claimed by now, by us or by others. */
  { readonly what: 'claimed' | 'gone'; readonly over: readonly Candidate[] } | { readonly what: 'waits' }
type Placed = Claimed | { readonly what: 'refused'; readonly error: GatewayError } | { readonly what: 'aside' }

// A job whose machines turn out to be full one after the other waits for the next look.
const triesAtMost = 16
// A machine that was full stays so for as long as an answer takes; whoever frees a place hands it on by himself.
const fullForMs = 200
// Nothing can run it as things are: a machine is away, or a provider rests. It must not stand in the way meanwhile.
const asideMs = 2_000
const backstopMs = 1_000
// A provider's limit is looked at no more often than this.
const limitAtLeastMs = 50
/** Of a rented provider, in one process: more is its rate limits' business. */
const rentedAtOnce = 64
// Looks of the backstop.
const homelessEvery = 60

// Heads that others were quicker to get: after so many looks the next one is their business.
const missesAtMost = 3
// So long after that several are asked for at once.
const contendedForMs = 1_000

const interactive = jobClasses.indexOf('interactive')

export function createWorker(ports: WorkerPorts): Worker {
  const { pool, candidates } = ports
  const decisionsOf = createLooks(ports)
  const fullUntil = new Map<string, number>()
  let fullTimer: NodeJS.Timeout | null = null
  let limitTimer: NodeJS.Timeout | null = null
  let busy: Promise<void> | null = null
  let again = false
  let isStopped = false
  let failures = 0
  let looks = 0
  // When others were quicker, last.
  let missedAt = Number.NEGATIVE_INFINITY

  const timer = setInterval(() => {
    candidates
      .refresh()
      .then(() => {
        wake()
        if (++looks % homelessEvery === 0) return endHomeless()
      })
      .catch((error: unknown) => failed(error))
  }, backstopMs)
  timer.unref()

  function failed(error: unknown): void {
    if (failures++ === 0) ports.log('the queue could not be read; it is tried again', error)
  }

  function wake(): void {
    if (isStopped) return
    again = true
    busy ??= loop().finally(() => {
      busy = null
      if (again) wake()
    })
  }

  async function loop(): Promise<void> {
    try {
      do {
        again = false
        // Until nothing is claimable. What others are claiming right now still looks as if it were.
        for (let misses = 0; misses < missesAtMost; ) {
          const outcome = await pass()
          if (outcome === 'nothing') break
          misses = outcome === 'moved' ? 0 : misses + 1
        }
      } while (again && !isStopped)
      failures = 0
    } catch (error) {
      // The backstop comes back to it.
      again = false
      failed(error)
    }
  }

  /** Jobs that nothing here can run stand in nobody's way, so that nobody else comes by them. */
  async function endHomeless(): Promise<void> {
    if (!ports.runsAny()) return
    const { pages } = await candidates.heads(candidates.lanes(({ devices, unbounded }) => !unbounded && devices.size === 0))
    for await (const jobs of pages) {
      const alone = jobs.filter(({ ownerProcess, request }) => ownerProcess === null && request !== null)
      const decisions = ports.schedule(alone.map(askedOf))
      const refused = alone.flatMap((job, at) => {
        const decision = decisions[at]
        return decision?.action === 'refuse' && !mayComeBack(job, decision) ? [{ job, error: decision.error }] : []
      })
      if (refused.length > 0) await ports.refuse(refused)
    }
  }

  function isFull(deviceId: string): boolean {
    return (fullUntil.get(deviceId) ?? 0) > ports.now()
  }

  /** Somebody who does not know of our job yet may free a place without handing it on: we look again by ourselves. */
  function markFull(deviceId: string): void {
    fullUntil.set(deviceId, ports.now() + fullForMs)
    fullTimer ??= setTimeout(() => {
      fullTimer = null
      wake()
    }, fullForMs + 1)
    fullTimer.unref()
  }

  /** When a provider takes another call, nobody tells us. */
  function wakeFor({ planned }: Decision): void {
    const best = planned?.best ?? null
    if (best === null || best.option.site.own !== null) return
    const ms = Math.max(limitAtLeastMs, best.waitS * 1_000)
    if (ms >= backstopMs || limitTimer !== null) return
    limitTimer = setTimeout(() => {
      limitTimer = null
      wake()
    }, ms)
    limitTimer.unref()
  }

  function mayRun({ ownerProcess }: Candidate): boolean {
    // Also one of ours that nobody here waits for any more: it ends as soon as it begins, and stands in nobody's way.
    return ownerProcess !== null || mayRunAny()
  }

  function mayRunAny(): boolean {
    return ports.runsAny() && ports.running() < ports.concurrency
  }

  /** Requests that somebody waits for are interactive at least, and are seen to by whoever looks. */
  function isWanted(jobClass: number): boolean {
    return jobClass <= interactive || mayRunAny()
  }

  /** One look at the heads: whether one of them made way for the next, or was only taken by somebody else. */
  async function pass(): Promise<'moved' | 'missed' | 'nothing'> {
    if (isStopped) return 'nothing'
    const lanes = candidates.lanes(
      (reach, jobClass) => isWanted(jobClass) && (reach.unbounded || [...reach.devices].some(id => !isFull(id)))
    )
    if (lanes.length === 0) return 'nothing'
    let result: 'moved' | 'missed' | 'nothing' = 'nothing'
    const aside: string[] = []
    const refused: Refused[] = []
    const over = new Set<string>()
    const passed = new Map<string, number>()
    const decisions = decisionsOf()
    const { each, pages } = await candidates.heads(lanes, isWanted)

    /** False when the next of this lane may come before all that is left of the others. */
    function mayGoOn({ lane }: Candidate): boolean {
      const count = (passed.get(lane) ?? 0) + 1
      passed.set(lane, count)
      return count < each
    }

    look: for await (const jobs of pages) {
      decisions.add(jobs.filter(mayRun))
      for (const [at, job] of jobs.entries()) {
        if (isStopped) break look
        if (over.has(job.id) || !mayRun(job)) continue
        const outcome = await place(job, jobs.slice(at + 1), decisions)
        if (outcome.what === 'waits') continue
        decisions.drop('over' in outcome ? outcome.over : [job])
        if (outcome.what === 'aside') aside.push(job.id)
        if (outcome.what === 'refused') refused.push({ job, error: outcome.error })
        if (outcome.what !== 'gone') result = 'moved'
        else if (result === 'nothing') result = 'missed'
        const done = 'over' in outcome ? outcome.over : [job]
        for (const { id } of done) over.add(id)
        if (!done.every(mayGoOn)) break look
      }
    }
    if (aside.length > 0) await setAside(pool, aside, asideMs)
    if (refused.length > 0) await ports.refuse(refused)
    return result
  }

  /** Tries the targets of one job, best first. `next` may go in its stead where others are quicker. */
  async function place(job: Candidate, next: readonly Candidate[], decisions: Decisions): Promise<Placed> {
    const request = job.request as ModelRequest | null
    if (request === null) return unlessFull(await claim([job], null, null))
    for (let tries = 0; tries < triesAtMost; tries++) {
      const decision = decisions.of(job)
      if (decision.action === 'refuse') {
        return mayComeBack(job, decision) ? { what: 'aside' } : { what: 'refused', error: decision.error }
      }
      // Its place goes to one that can still be in time: what is sure to be late is told so now, not when its time is over.
      if (next.length > 0 && isTooLate(job, decision))
        return { what: 'refused', error: deadlineExceeded(request.patience ?? null, request.stream) }
      // To wait is better than anything it could have now.
      if (decision.action === 'enqueue') {
        wakeFor(decision)
        return { what: 'waits' }
      }
      const target = worthIt(job, decision.ranked).find(({ upstream }) =>
        upstream.device === null ? mayRent(job, upstream.id) : !isFull(upstream.device.id)
      )
      if (target === undefined) return { what: 'waits' }
      const outcome = await claim([job, ...rivals(job, next, target)], target, null)
      if (outcome.what !== 'full') return outcome
      const { device } = target.upstream
      if (device === null) return { what: 'waits' }
      // Others use it too: without it, something else may be best, or to wait.
      markFull(device.id)
      ports.full(device.id)
      decisions.again()
    }
    return { what: 'waits' }
  }

  /** Where several processes look at the same heads, those after this one that would go to the same machine. */
  function rivals(job: Candidate, next: readonly Candidate[], target: Target): readonly Candidate[] {
    if (target.upstream.device === null || ports.now() - missedAt > contendedForMs) return []
    return next.filter(other => {
      if (other.lane !== job.lane || !mayRun(other) || other.request === null) return false
      const [decision] = ports.schedule([askedOf(other)])
      return decision?.action === 'run' && worthIt(other, decision.ranked)[0] === target
    })
  }

  /** A batch has time: unless it says what time is worth, it waits for a machine of ours that can do it, and costs no rent. */
  function worthIt(job: Candidate, ranked: readonly Target[]): readonly Target[] {
    const isOwnOnly = isRentFree(job.class, job.request as ModelRequest) && candidates.reach(job.lane).devices.size > 0
    return isOwnOnly ? ranked.filter(({ upstream }) => upstream.own) : ranked
  }

  /** Rented targets have no places that one could hold for another process. */
  function mayRent({ ownerProcess }: Candidate, upstreamId: string): boolean {
    if (ownerProcess !== null && ownerProcess !== ports.processId) return false
    return ports.inFlight(upstreamId) < rentedAtOnce
  }

  /** The first of these jobs that nobody else is at, for a place on this target. */
  async function claim(
    jobs: readonly Candidate[],
    target: Target | null,
    fromAttemptId: string | null
  ): Promise<Claimed | { readonly what: 'full' }> {
    const attemptId = ports.newId()
    const claimed = await claimJob(pool, {
      jobIds: jobs.map(({ id }) => id),
      deviceId: target?.upstream.device?.id ?? null,
      provider: target === null ? 'echo' : providerOf(target.upstream),
      processId: ports.processId,
      attemptId,
      fromAttemptId,
      paid: target !== null && !target.upstream.own
    })
    if (claimed.outcome === 'gone') {
      missedAt = ports.now()
      return { what: 'gone', over: jobs }
    }
    if (claimed.outcome === 'full') return { what: 'full' }
    // Its owner is silent: whoever sweeps decides.
    if (claimed.outcome === 'owner_gone') return { what: 'waits' }
    const at = jobs.findIndex(({ id }) => id === claimed.job)
    const job = jobs[at] as Candidate
    const over = jobs.slice(0, at + 1)
    if (over.length > 1) missedAt = ports.now()
    if (claimed.outcome === 'no_ticket') {
      await ports.mendTickets([job.id])
      return { what: 'gone', over }
    }
    candidates.served(job.class)
    if (claimed.runner === ports.processId) {
      if (target !== null) ports.reserved(target, attemptId)
      ports.run({ jobId: job.id, attempt: claimed.attempt, target })
    } else ports.notices.claimed(claimed.runner, job.id)
    return { what: 'claimed', over }
  }

  async function handOver(deviceId: string, attemptId: string): Promise<boolean> {
    for (let looks = 1; looks < missesAtMost; looks++) {
      const outcome = await handOn(deviceId, attemptId, { inOrder: true })
      if (outcome !== 'missed') return outcome === 'claimed'
    }
    return (await handOn(deviceId, attemptId, { inOrder: false })) === 'claimed'
  }

  /**
   * Gives a place to the best job that may have it. `missed`: somebody else is at that very job, who may find no place for it; it must not
   * lose its turn by that. Without `inOrder` the next one gets it then.
   */
  async function handOn(
    deviceId: string,
    attemptId: string,
    { inOrder }: { readonly inOrder: boolean }
  ): Promise<'claimed' | 'missed' | 'nothing'> {
    if (isStopped) return 'nothing'
    const lanes = candidates.lanes((reach: Reach, jobClass) => isWanted(jobClass) && reach.devices.has(deviceId))
    if (lanes.length === 0) return 'nothing'
    const { pages } = await candidates.heads(lanes, isWanted)
    for await (const page of pages) {
      const jobs = page.filter(job => mayRun(job) && job.request !== null)
      const decisions = ports.schedule(jobs.map(askedOf))
      for (const [at, job] of jobs.entries()) {
        const decision = decisions[at] as Decision
        const target = targetOn(decision, deviceId)
        // The next look ends it.
        if (target === null || (at + 1 < jobs.length && isTooLate(job, decision))) continue
        const { what } = await claim([job], target, attemptId)
        if (what === 'claimed') return 'claimed'
        // The place is not ours any more, or the machine has fewer now.
        if (what === 'full') return 'nothing'
        if (what === 'gone' && inOrder) return 'missed'
      }
    }
    return 'nothing'
  }

  return {
    wake,
    handOver,
    forgetFull(deviceId) {
      if (deviceId === null) fullUntil.clear()
      else fullUntil.delete(deviceId)
    },
    async idle() {
      while (busy !== null) await busy
    },
    async stop() {
      isStopped = true
      clearInterval(timer)
      if (fullTimer !== null) clearTimeout(fullTimer)
      if (limitTimer !== null) clearTimeout(limitTimer)
      await busy
    }
  }
}

/** What needs no machine finds none of them full. */
function unlessFull(outcome: Claimed | { readonly what: 'full' }): Claimed {
  return outcome.what === 'full' ? { what: 'waits' } : outcome
}
