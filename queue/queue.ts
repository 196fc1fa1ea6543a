// The queue of one process, put together: what it submits, what it runs, what waits in it, and what it tells the others.

import type { Catalog } from '../routing/catalog.ts'
import type { Dispatch, Scheduling } from '../routing/dispatch.ts'
import type { Load } from '../routing/load.ts'
import type { Overflow } from '../routing/run-ports.ts'
import { providerOf } from '../routing/targets.ts'
import type { Caller, ModelRequest, Target } from '../routing/types.ts'
import { changedChannel, fromProcess, jobsChannel, notify, toProcess } from '../store/channels.ts'
import type { CostRow } from '../store/costs.ts'
import { type ClaimedJob, runningOf } from '../store/jobs/claim.ts'
import { endJobs } from '../store/jobs/end.ts'
import { findJob, findJobs, readResult } from '../store/jobs/read.ts'
import { mendTickets } from '../store/jobs/reconcile.ts'
import { recordWebhook, sendWebhookAgain } from '../store/jobs/webhook.ts'
import type { Listener } from '../store/listen.ts'
import { inTransaction, type Pool } from '../store/pool.ts'
import { type BacklogLimits, createBacklog } from './backlog.ts'
import type { Boss } from './boss.ts'
import { createCandidates } from './candidates.ts'
import { createEventWriter, createWatches } from './events.ts'
import { errorOf } from './finish.ts'
import { createForecasts } from './forecasts.ts'
import { cancelJob, createJobs, createOutlook } from './jobs.ts'
import { createReach } from './lanes.ts'
import { commandOf, createNotices } from './notices.ts'
import { createWaiters } from './overflow.ts'
import { createReconciler } from './reconciler.ts'
import { createResults } from './results.ts'
import { createRuns, type RunsPorts } from './runs.ts'
import { createSubmitter, type StoredRequest } from './submit.ts'
import { createSweeper } from './sweeper.ts'
import type { JobClass, JobKind, JobRecord, JobStatus, Jobs } from './types.ts'
import { jobClasses } from './types.ts'
import { createWebhooks, type Webhooks, type WebhooksPorts } from './webhooks.ts'
import { createWorker } from './worker.ts'

export interface QueuePorts {
  readonly pool: Pool
  readonly boss: Boss
  readonly processId: string
  readonly listener: Pick<Listener, 'add' | 'remove'>
  readonly catalog: () => Catalog
  /** Made after the queue, because it overflows into it. */
  readonly dispatch: () => Dispatch & Scheduling
  readonly load: Pick<Load, 'inFlight' | 'averageMs'>
  readonly isAway: RunsPorts['isAway']
  /** The same, as far as it is known. */
  readonly isDown: (deviceId: string) => boolean
  /** Gives back a place that is not used. */
  readonly release: (deviceId: string, attemptId: string) => void
  readonly unstored: (attemptIds: readonly string[]) => CostRow[]
  readonly read: RunsPorts['read']
  readonly limits: BacklogLimits & { readonly workerConcurrency: number }
  /** Runs jobs that belong to nobody. */
  readonly isWorker: boolean
  /** Looks after tickets. */
  readonly isPlanner: boolean
  /** Null = webhooks are refused. */
  readonly webhooks: Pick<WebhooksPorts, 'guarded' | 'secret' | 'describe'> | null
  readonly onFinished: (job: FinishedJob) => void
  readonly onOverflow: (outcome: 'queued' | 'full' | 'timeout') => void
  readonly newId: () => string
  /** A clock that never jumps, ms. */
  readonly now: () => number
  readonly log: (message: string, error?: unknown) => void
}

export interface FinishedJob {
  readonly kind: JobKind
  readonly class: JobClass
  readonly status: 'done' | 'error' | 'cancelled' | 'retry'
  readonly attempts: number
  /** From its coming to the start of this attempt. */
  readonly waitedMs: number
}

export interface Queue {
  readonly jobs: Jobs
  readonly overflow: Overflow
  readonly webhooks: Webhooks | null
  /** A notification came. */
  notified(channel: string, payload: string): void
  /** For the places on machines (bin/slots.ts). */
  ahead(deviceId: string): readonly string[]
  handOver(deviceId: string, attemptId: string): Promise<boolean>
  freed(deviceId: string): void
  /** Claims from now on. */
  start(): void
  /** Leaves the jobs of nobody to others; requests that wait here still get their turn. */
  retire(): void
  /** Lets what runs end for `ms`, puts the rest back, and stores what is left. */
  close(ms: number): Promise<void>
}

// A claim whose answer was lost is found by this, and a notification too.
const lookEveryMs = 1_000
// Where nothing was answered yet, an answer is taken to last as long as this.
const unknownAnswerMs = 5_000

export function createQueue(ports: QueuePorts): Queue {
  const { pool, boss, processId, catalog, load, log } = ports
  const notices = createNotices({ processId, send: list => notify(pool, list), log })
  const reach = createReach(catalog)
  const candidates = createCandidates({ pool, catalog, now: ports.now })
  const backlog = createBacklog(pool, ports.limits, ports.now)
  const submitter = createSubmitter({ pool, boss })
  const forecasts = createForecasts({ eta: (...decided) => ports.dispatch().eta(...decided), now: ports.now })
  const outlook = createOutlook(pool, paceOf, forecasts.of)
  const events = createEventWriter({ pool, notices, now: Date.now, log })
  const watches = createWatches({
    pool,
    listener: ports.listener,
    writer: events,
    find: id => findJob(pool, id, null),
    outlook: async ids => outlook(await findJobs(pool, ids)),
    processId,
    now: ports.now,
    log
  })
  const webhooks =
    ports.webhooks === null
      ? null
      : createWebhooks({
          ...ports.webhooks,
          boss,
          find: id => findJob(pool, id, null),
          record: (id, outcome) => recordWebhook(pool, id, outcome),
          again: job => inTransaction(pool, client => sendWebhookAgain(client, boss, job)),
          now: Date.now,
          log
        })
  const results = createResults((id, attemptNo) => readResult(pool, id, attemptNo))
  const cancelling = { pool, boss, notices, stop }
  const waiters = createWaiters({
    processId,
    backlog,
    submit: row => submitter.submit(row),
    cancel: (id, error) => cancelJob(cancelling, id, error),
    look,
    usualMs: usualMs,
    expected: forecasts.arrived,
    onStored: ready,
    onOutcome: ports.onOverflow,
    newId: ports.newId,
    log
  })
  const runs = createRuns({
    pool,
    boss,
    notices,
    processId,
    unstored: ports.unstored,
    log,
    dispatch: { run: (...run) => ports.dispatch().run(...run) },
    targetOn,
    read: ports.read,
    events,
    held: id => waiters.held(id),
    isAway: ports.isAway,
    onReady: ready,
    release: ports.release,
    // A place on a machine is handed on; one that was held back by nothing but our own number is not.
    onOver(deviceId) {
      if (deviceId === null || runs.count + 1 >= ports.limits.workerConcurrency) worker.wake()
    },
    onFinished(job, status) {
      ports.onFinished({
        kind: job.kind as JobKind,
        class: jobClasses[job.class] as JobClass,
        status,
        attempts: job.attempts,
        waitedMs: job.startedAt.getTime() - job.createdAt.getTime()
      })
    }
  })
  const worker = createWorker({
    pool,
    processId,
    candidates,
    notices,
    schedule: waiting => ports.dispatch().schedule(waiting),
    planned: forecasts.planned,
    arrived: decision => ports.dispatch().arrived(decision),
    full: deviceId => ports.dispatch().full(deviceId),
    reserved: (target, attemptId) => ports.dispatch().reserved(target, attemptId),
    inFlight: id => load.inFlight(id),
    runsAny: () => ports.isWorker && !isRetired,
    concurrency: ports.limits.workerConcurrency,
    running: () => runs.count,
    run: claimed => runs.begin(claimed),
    async refuse(refused) {
      const ended = await inTransaction(pool, client =>
        endJobs(
          client,
          boss,
          refused.map(({ job, error }) => ({
            id: job.id,
            attemptNo: job.attemptNo,
            status: 'error',
            error: errorOf(error, job),
            result: null,
            usage: null,
            spent: 0,
            runner: null,
            ttftMs: null
          }))
        )
      )
      for (const { id } of ended) notices.changed(id)
      for (const { job, error } of refused) if (job.ownerProcess === processId) waiters.stopped(job.id, error)
    },
    mendTickets: async ids => {
      await mendTickets(pool, boss, ids)
    },
    newId: ports.newId,
    now: ports.now,
    log
  })
  const sweeper = createSweeper({ pool, tickets: boss, notices, processId, now: ports.now, random: Math.random, log })
  const reconciler = createReconciler({
    pool,
    tickets: boss,
    notices,
    processId,
    now: ports.now,
    log,
    onMended: mended => log(`the queue was mended: ${mended.jobs} jobs, ${mended.tickets} tickets`)
  })
  let isRetired = false
  let clock: NodeJS.Timeout | null = null
  // What the last look found that the database says is ours and does not run here: it may be a claim that is on its way to us.
  let unknown = new Set<string>()

  function ready(lane: string): void {
    candidates.add(lane)
    worker.wake()
    notices.ready(lane)
  }

  function stop(jobId: string, where: string): void {
    if (where === processId) stopHere(jobId)
    else notices.stop(where, jobId)
  }

  /** First its client is told why; then nothing more is written about it. */
  function stopHere(jobId: string): void {
    waiters.stopped(jobId, null)
    runs.stop(jobId)
  }

  function notified(channel: string, payload: string): void {
    if (channel === jobsChannel) {
      worker.forgetFull(null)
      if (payload === '') return void candidates.refresh().then(worker.wake, () => {})
      for (const lane of payload.split(',')) candidates.add(lane)
      worker.wake()
    } else if (channel === toProcess(processId)) {
      const command = commandOf(payload)
      // The connection is new: something may have been missed.
      if (command === null) return void compare()
      for (const jobId of command.jobs) {
        if (command.type === 'claimed') runs.begin({ jobId })
        else stopHere(jobId)
      }
    } else if (channel === changedChannel || channel.startsWith(fromProcess(''))) watches.notified(channel, payload)
  }

  /** What the database says we run, against what we do run. */
  async function compare(): Promise<void> {
    let stored: Awaited<ReturnType<typeof runningOf>>
    const before = runs.all()
    try {
      stored = await runningOf(pool, processId)
    } catch {
      // The database is away; the next look is in a second.
      return
    }
    const ours = new Map(stored.map(({ id, attempt }) => [id, attempt]))
    for (const [id, attempt] of before) {
      // Cancelled, or given to somebody else while we were not looking.
      if (attempt !== 0 && ours.get(id) !== attempt) runs.stop(id, attempt)
    }
    const now = runs.all()
    const missing = new Set([...ours.keys()].filter(id => !now.has(id)))
    for (const id of missing) if (unknown.has(id)) runs.begin({ jobId: id })
    unknown = missing
  }

  async function look(ids: readonly string[]): Promise<Map<string, { status: JobStatus; outlook: JobRecordOutlook }>> {
    const jobs = await findJobs(pool, ids)
    const places = await outlook(jobs)
    return new Map(jobs.map(job => [job.id, { status: job.status, outlook: places.get(job.id) ?? { position: null, etaMs: null } }]))
  }

  function targetsOf(request: Pick<ModelRequest, 'model' | 'only'>): readonly Target[] {
    const resolution = catalog().resolve(request.only ?? request.model, 0)
    return resolution.found ? resolution.targets : []
  }

  /** One that would be chosen now, if that is there; a name may stand for several models of one machine. */
  function targetOn(
    request: StoredRequest,
    caller: Caller,
    { deviceId, provider }: Pick<ClaimedJob, 'deviceId' | 'provider'>
  ): Target | null {
    const decision = ports.dispatch().plan(request as ModelRequest, caller, true)
    const chosen = decision.action === 'run' ? decision.ranked : decision.action === 'enqueue' ? decision.feasible : []
    return (
      [...chosen, ...targetsOf(request)].find(({ upstream }) =>
        deviceId === null ? providerOf(upstream) === provider : upstream.device?.id === deviceId
      ) ?? null
    )
  }

  function usualMs(request: ModelRequest): number {
    const times = targetsOf(request).map(({ upstream }) => load.averageMs(upstream.id))
    return Math.max(0, ...times) || unknownAnswerMs
  }

  /** How fast a lane is served where its machines are; null = those that could serve it are away. */
  function paceOf(lane: string): { each: number; atOnce: number } | null {
    const { devices, unbounded } = reach(lane)
    const upstreams = catalog().source.upstreams.filter(
      ({ device }) => device !== null && devices.has(device.id) && !ports.isDown(device.id)
    )
    if (upstreams.length === 0) return unbounded ? { each: unknownAnswerMs / 5, atOnce: 16 } : null
    const atOnce = upstreams.reduce((sum, { device }) => sum + (device?.maxConcurrency ?? 0), 0)
    const known = upstreams.map(({ id }) => load.averageMs(id)).filter(ms => ms > 0)
    return { each: known.length === 0 ? unknownAnswerMs : known.reduce((sum, ms) => sum + ms, 0) / known.length, atOnce }
  }

  return {
    jobs: createJobs({ ...cancelling, submitter, backlog, watches, results, webhooks, outlook, onReady: ready }),
    overflow: waiters.overflow,
    webhooks,
    notified,
    ahead: deviceId => candidates.lanes((lane, jobClass) => jobClass <= interactive && lane.devices.has(deviceId)),
    handOver: (deviceId, attemptId) => worker.handOver(deviceId, attemptId),
    freed(deviceId) {
      worker.forgetFull(deviceId)
      const waiting = candidates.lanes(lane => lane.devices.has(deviceId))
      // Jobs of nobody, for which we are no worker: one of those is told.
      for (const lane of waiting) notices.ready(lane)
      if (waiting.length > 0) worker.wake()
    },
    start() {
      for (const channel of [jobsChannel, toProcess(processId)]) ports.listener.add(channel)
      sweeper.start()
      if (ports.isPlanner) reconciler.start()
      if (ports.isWorker) webhooks?.work()
      clock = setInterval(() => void compare(), lookEveryMs)
      clock.unref()
      candidates.refresh().then(worker.wake, error => log('the queue could not be read yet', error))
    },
    retire() {
      isRetired = true
    },
    async close(ms) {
      await worker.stop()
      if (clock !== null) clearInterval(clock)
      await runs.close(ms)
      waiters.close()
      watches.close()
      await Promise.all([sweeper.close(), reconciler.close(), webhooks?.close(), events.close()])
      await notices.close()
    }
  }
}

const interactive = jobClasses.indexOf('interactive')
type JobRecordOutlook = { readonly position: number | null; readonly etaMs: { readonly p50: number; readonly p90: number } | null }

export type { JobRecord }
