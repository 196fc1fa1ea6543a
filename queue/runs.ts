// The attempts that run here: begun when they were claimed for us, stopped when they are not ours any more, finished when they end.

import { setTimeout as sleep } from 'node:timers/promises'
import type { Dispatch } from '../routing/dispatch.ts'
import { GatewayError, toGatewayError } from '../routing/errors.ts'
import { actualCharge } from '../routing/fair.ts'
import type { Reply } from '../routing/ports.ts'
import type { Claimed, Run } from '../routing/run-ports.ts'
import { providerOf } from '../routing/targets.ts'
import type { Caller, ModelRequest, Target } from '../routing/types.ts'
import { type ClaimedJob, claimedJobs } from '../store/jobs/claim.ts'
import { putBackJobs } from '../store/jobs/retry.ts'
import { inTransaction } from '../store/pool.ts'
import type { EventWriter } from './events.ts'
import { type AttemptResult, type FinishPorts, finishAttempt } from './finish.ts'
import { createJobReply, type JobReplyEnd } from './job-reply.ts'
import { isRentFree, noMachine } from './judgements.ts'
import { restoredRequest, type StoredRequest } from './submit.ts'

/** A request whose client holds the line here. */
export interface Held {
  readonly request: ModelRequest
  readonly caller: Caller
  /** Null: the client has left, and the job goes on. */
  readonly client: Reply | null
  /** The result is to be kept, for whoever asks later. */
  readonly keep: boolean
  /** It is the client's no more: what was claimed is given back. */
  readonly isCancelled: boolean
  /** Why it ended before it was claimed; null = its client left. */
  readonly endedBy?: GatewayError | null
  /** The attempt has begun: what is to be resumed and cancelled. */
  began(run: Run): void
  /** The attempt is over. `willRetry` = another one follows; otherwise the client is to be told. */
  over(end: JobReplyEnd, willRetry: boolean): void
}

export interface RunsPorts extends FinishPorts {
  readonly dispatch: Pick<Dispatch, 'run'>
  /** What a stored request may run on there. */
  readonly targetOn: (request: StoredRequest, caller: Caller, job: Pick<ClaimedJob, 'deviceId' | 'provider'>) => Target | null
  /** Reads the bytes of a request again. */
  readonly read: (operation: ModelRequest['operation'], bytes: Buffer) => Promise<Pick<ModelRequest, 'body' | 'input'>>
  readonly events: Pick<EventWriter, 'open'>
  readonly held: (jobId: string) => Held | null
  /** Whether a machine is away, asked just now where that is not known. Never rejects. */
  readonly isAway: (deviceId: string) => Promise<boolean>
  /** Gives back a place that was claimed and is not used. */
  readonly release: (deviceId: string, attemptId: string) => void
  /** One runs less: on this machine, or on none of ours. */
  readonly onOver: (deviceId: string | null) => void
  /** An attempt is over, and what it was is stored. */
  readonly onFinished: (job: ClaimedJob, status: 'done' | 'error' | 'cancelled' | 'retry') => void
}

export interface Runs {
  /** A claim is ours. `target` undefined: another process made it for us. */
  begin(claimed: { readonly jobId: string; readonly target?: Target | null }): void
  /**
   * Ends an attempt that is not ours any more: its job is cancelled, or was given to somebody else. Nothing is written about it.
   * `attempt`: only that one.
   */
  stop(jobId: string, attempt?: number): void
  /** What runs here, or is being stored: job and attempt; 0 while the attempt is not known yet. */
  all(): ReadonlyMap<string, number>
  /** How many jobs of nobody run here. */
  readonly count: number
  /** Lets what runs end for `ms`, and puts the rest back. Resolves when all is stored, or a second later. */
  close(ms: number): Promise<void>
}

interface Entry {
  attempt: number
  run: Run | null
  isStopped: boolean
  isHeld: boolean
  isOver: boolean
}

export function createRuns(ports: RunsPorts): Runs {
  const entries = new Map<string, Entry>()
  const finishing = new Set<Promise<void>>()
  let asked: { readonly jobId: string; readonly target: Target | null | undefined }[] = []
  let isAsking = false

  function begin({ jobId, target }: { readonly jobId: string; readonly target?: Target | null }): void {
    if (entries.has(jobId)) return
    entries.set(jobId, { attempt: 0, run: null, isStopped: false, isHeld: ports.held(jobId) !== null, isOver: false })
    asked.push({ jobId, target })
    if (!isAsking) void ask()
  }

  /** One query for all that were claimed in the meantime. */
  async function ask(): Promise<void> {
    isAsking = true
    while (asked.length > 0) {
      const batch = asked
      asked = []
      const rows = await claimedJobs(
        ports.pool,
        batch.map(({ jobId }) => jobId),
        ports.processId
      ).catch((error: unknown) => {
        ports.log('claimed jobs could not be read', error)
        return null
      })
      const found = new Map((rows ?? []).map(row => [row.id, row]))
      for (const { jobId, target } of batch) {
        const job = found.get(jobId)
        // Whatever the database says is ours and does not run comes back with the next look.
        if (job === undefined) entries.delete(jobId)
        else void start(job, target)
      }
    }
    isAsking = false
  }

  async function start(job: ClaimedJob, given: Target | null | undefined): Promise<void> {
    const entry = entries.get(job.id) as Entry
    entry.attempt = job.attempt
    const held = ports.held(job.id)
    const stored = job.request as StoredRequest | null
    try {
      if (stored === null)
        return finish(job, entry, { outcome: { status: 'done', result: job.payload, usage: null }, end: null, log: null })
      // Found again after it had been stopped by mistake: its place may be somebody else's.
      if (!job.hasPlace) throw new GatewayError('process_lost', 'The place of this attempt on its machine is taken.')
      const target = given ?? ports.targetOn(stored, job.caller as Caller, job)
      if (target === null) throw noMachine(stored.model)
      // Only its client had the request, and the client is gone.
      const isGone = held === null && job.payload === null
      if (entry.isStopped || isGone || held?.isCancelled === true) {
        throw held?.endedBy ?? new GatewayError('client_gone', 'The client went away.')
      }
      const request = held?.request ?? restoredRequest(stored, await ports.read(stored.operation, job.payload ?? Buffer.alloc(0)), job.id)
      if (entry.isStopped) throw new GatewayError('client_gone', 'The job was taken away.')
      run(job, entry, { request: { ...request, jobId: job.id }, held, target })
    } catch (thrown) {
      if (job.deviceId !== null) ports.release(job.deviceId, job.attemptId)
      const error = toGatewayError(thrown)
      if (error.code === 'internal_error') ports.log('a job could not be begun', thrown)
      finish(job, entry, { outcome: outcomeOf(job, entry, { error, started: false, result: null, end: null }), end: null, log: null })
    }
  }

  function run(
    job: ClaimedJob,
    entry: Entry,
    { request, held, target }: { request: ModelRequest; held: Held | null; target: Target }
  ): void {
    const log = job.stream ? ports.events.open(job.id, job.attempt, () => entry.run?.resume()) : null
    const ownOnly = target.upstream.own && isRentFree(job.class, request)
    const claimed: Claimed = { target, attemptId: job.attemptId, hasSlot: job.deviceId !== null, ownOnly }
    const reply = createJobReply({
      stream: request.stream,
      keep: held?.keep ?? true,
      events: log,
      client: held?.client ?? null,
      onStale: error => entry.run?.cancel(error),
      onEnd(end) {
        const { error, started, result } = end
        const ended = outcomeOf(job, entry, { error, started: started && held !== null, result, end })
        const outcome = ended.status === 'done' ? { ...ended, usage: withMeasures(request, ended.usage, end) } : ended
        held?.over(end, outcome.status === 'retry')
        const deviceId = end.summary.target?.upstream.device?.id ?? null
        if (outcome.status !== 'retry' || deviceId === null || !machineFaults.has(outcome.error.code)) {
          return finish(job, entry, { outcome, end, log })
        }
        // A try is counted only where it may have been the job's fault: not when its machine went away under it.
        void ports
          .isAway(deviceId)
          .then(isAway => finish(job, entry, { outcome: { ...outcome, status: isAway ? 'lost' : 'retry' }, end, log }))
      }
    })
    const running = ports.dispatch.run(request, job.caller as Caller, reply, claimed)
    entry.run = running
    // It may be over already: nothing could be sent.
    if (!entry.isOver) held?.began(running)
    if (entry.isStopped) running.cancel(null)
  }

  /** The error table decides: once more, or never. */
  function outcomeOf(
    job: ClaimedJob,
    entry: Entry,
    { error, started, result, end }: { error: GatewayError | null; started: boolean; result: Buffer | null; end: JobReplyEnd | null }
  ): AttemptResult {
    if (error === null) return { status: 'done', result, usage: usageOf(end) }
    if (error.code === 'client_gone') return { status: 'cancelled', error }
    const isWanted = ports.held(job.id)?.isCancelled !== true
    const afterMs = error.retryAfterMs ?? 0
    const inTime = job.deadlineAt === null || Date.now() + afterMs < job.deadlineAt.getTime()
    // What a client has seen a part of cannot be begun again behind its back.
    if (isWanted && error.jobRetry && !started && job.attempts < job.maxAttempts && inTime && !entry.isStopped)
      return { status: 'retry', error }
    return { status: 'error', error }
  }

  function finish(
    job: ClaimedJob,
    entry: Entry,
    { outcome, end, log }: { outcome: AttemptResult; end: JobReplyEnd | null; log: ReturnType<EventWriter['open']> | null }
  ): void {
    entry.isOver = true
    ports.onOver(job.deviceId)
    if (entry.isStopped) {
      log?.dropped()
      entries.delete(job.id)
      return
    }
    const last = end?.summary.calls.at(-1)
    const done = finishAttempt(ports, {
      job,
      outcome,
      events: log,
      attemptIds: end?.summary.calls.map(({ attemptId }) => attemptId) ?? [],
      spent: last === undefined ? 0 : actualCharge(last.settled, last.target.upstream.own),
      ttftMs: end?.summary.ttftMs ?? null,
      movedTo: movedFrom(job, end?.summary.target ?? null)
    }).then(
      status => {
        entries.delete(job.id)
        if (status !== null) ports.onFinished(job, status)
      },
      (error: unknown) => {
        ports.log('the end of a job could not be stored', error)
        entries.delete(job.id)
        // What the database refuses, it refuses always: without it, the job can end all the same.
        const refused = new GatewayError('internal_error', 'The result could not be stored.')
        if (outcome.status === 'done') finish(job, entry, { outcome: { status: 'error', error: refused }, end, log: null })
      }
    )
    finishing.add(done)
    void done.finally(() => finishing.delete(done))
  }

  return {
    begin,
    stop(jobId, attempt) {
      const entry = entries.get(jobId)
      if (entry === undefined || entry.isOver || (attempt !== undefined && attempt !== entry.attempt)) return
      entry.isStopped = true
      entry.run?.cancel(null)
    },
    all: () => new Map([...entries].map(([id, { attempt }]) => [id, attempt])),
    get count() {
      let count = 0
      for (const { isHeld, isOver } of entries.values()) if (!isHeld && !isOver) count++
      return count
    },
    async close(ms) {
      const until = performance.now() + ms
      const isBusy = (): boolean => [...entries.values()].some(({ isOver }) => !isOver)
      while (isBusy() && performance.now() < until) await sleep(20)
      const rest = [...entries].filter(([, { isOver }]) => !isOver).map(([id, { attempt }]) => ({ id, attemptNo: attempt }))
      if (rest.length > 0) {
        // First back into the queue, then off the machine: its place is held until nothing runs on it any more.
        const lanes = await inTransaction(ports.pool, client => putBackJobs(client, rest, ports.processId)).catch((error: unknown) => {
          ports.log('running jobs could not be put back; others will find them lost', error)
          return []
        })
        for (const { id } of rest) this.stop(id)
        for (const lane of new Set(lanes)) ports.notices.ready(lane)
      }
      await Promise.race([Promise.all(finishing), sleep(Math.max(1_000, until - performance.now()), undefined, { ref: false })])
    }
  }
}

// What a machine that went away leaves behind.
const machineFaults: ReadonlySet<string> = new Set(['machine_lost', 'upstream_unavailable', 'upstream_broke'])

/** Null = it ran where it was claimed for. */
function movedFrom(job: ClaimedJob, target: Target | null): { deviceId: string | null; provider: string } | null {
  if (target === null) return null
  const ran = { deviceId: target.upstream.device?.id ?? null, provider: providerOf(target.upstream) }
  return ran.deviceId === job.deviceId && ran.provider === job.provider ? null : ran
}

/** In OpenAI's words. */
function usageOf(end: JobReplyEnd | null): Record<string, unknown> | null {
  const settled = end?.summary.calls.at(-1)?.settled
  if (settled === undefined) return null
  return {
    prompt_tokens: settled.promptTokens,
    completion_tokens: settled.completionTokens,
    total_tokens: settled.promptTokens + settled.completionTokens
  }
}

/** Of a benchmark with how long each part of its last call took. */
function withMeasures(
  { isBenchmark }: ModelRequest,
  usage: Readonly<Record<string, unknown>> | null,
  { summary }: JobReplyEnd
): Readonly<Record<string, unknown>> | null {
  const call = summary.calls.at(-1)
  if (isBenchmark !== true || call === undefined) return usage
  const { loadMs = null, prompt = null, answer = null } = call.timings ?? {}
  return { ...usage, ttft_ms: call.ttftMs, duration_ms: call.durationMs, load_ms: loadMs, prompt, answer }
}
