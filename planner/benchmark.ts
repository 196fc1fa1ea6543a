// Benchmarks: measures models, phase by phase, by jobs of class benchmark. Whoever goes on with one after its process died finds in its
// row which phases are over, and in the queue, by their idempotency keys, the jobs of the one that is not. What was measured is learned
// when all of it is over: one that is cancelled leaves no trace in the profile.

import { setTimeout as sleep } from 'node:timers/promises'
import type { JobRecord, Jobs } from '../queue/types.ts'
import { GatewayError, toGatewayError } from '../routing/errors.ts'
import type { Observation } from '../routing/profile.ts'
import type { Caller, ModelRequest, Target } from '../routing/types.ts'
import {
  type BenchmarkPhase,
  type BenchmarkRecord,
  benchmarkPhases,
  endAsCancelled,
  findBenchmark,
  finishBenchmark,
  finishedBenchmarks,
  type Measure,
  openBenchmarks,
  saveBenchmark
} from '../store/benchmarks.ts'
import type { Pool } from '../store/pool.ts'
import { refuseDear } from './benchmark-choice.ts'
import { measureOf, observationOf, resultOf } from './benchmark-figures.ts'

export interface BenchmarkPorts {
  readonly pool: Pool
  readonly jobs: Pick<Jobs, 'submit' | 'find' | 'earlier' | 'cancel'>
  /** What is to be measured, as it is now; null when there is no such model. */
  readonly target: (id: string) => Target | null
  /** What a rented model may cost, unless somebody pays anyway. */
  readonly maxUsdPer1m: number
  /** A streamed chat request for this target only. */
  readonly request: (ask: {
    readonly id: string
    readonly target: Target
    readonly text: string
    readonly maxTokens: number
  }) => ModelRequest
  /** Nothing runs there, for any process. */
  readonly isIdle: (deviceId: string) => Promise<boolean>
  /** Takes the model out of the machine's memory. False where that cannot be asked for. */
  readonly unload: (target: Target, signal: AbortSignal) => Promise<boolean>
  /** The machine has other models in memory than before: whoever sends it work asks it soon. Never rejects. */
  readonly refresh: (target: Target) => Promise<void>
  /** One answer that was measured teaches how fast the machine is. */
  readonly learn: (deviceId: string, model: string, seen: Omit<Observation, 'atMs'>) => void
  /** What was learned of machines is written down now, as far as this process knows it. Never rejects. */
  readonly keep: () => Promise<void>
  readonly newId: () => string
  /** Numbers from 0 to 1: no two prompts are alike. */
  readonly random: () => number
}

/** Whose jobs they are, and whose costs. */
export const benchmarkSource = 'benchmark'

const caller: Caller = { keyId: null, source: benchmarkSource, subSource: null, kind: 'admin', models: null, providers: null }

// Enough that the speed of a fast GPU can be told, and not long on a slow one.
const answerTokens = 128
const promptTokens = 1_024
const promptRuns = 3
const atOnceOf = { alone: 1, two: 2, four: 4 } as const
const roundsAtOnce = { two: 2, four: 1 } as const
const machinesAtOnce = 8
const lookEveryMs = 1_000
const pollMs = 100
const idleWithinMs = 10_000
// People come first, so it may take long until there is a place.
const jobWithinMs = 3_600_000
// After a start, a machine's models are there within seconds.
const targetWithinMs = 30_000

/**
 * Ends it where it is, and with it the request that is on its way; one that is over stays as it is. Whoever works on it finds that out
 * by itself. Null when there is none.
 */
export async function cancelBenchmark(ports: Pick<BenchmarkPorts, 'pool' | 'jobs'>, id: string): Promise<BenchmarkRecord | null> {
  // First the row: whoever submits a job from now on sees it.
  const benchmark = await endAsCancelled(ports.pool, id)
  if (benchmark?.state === 'cancelled') await cancelJobs(ports, benchmark, benchmark.progress.phase)
  return benchmark
}

/** Works on all that are open, one at a time on each machine, until none is left. Throws what kept it, or `signal`'s reason. */
export async function runBenchmarks(ports: BenchmarkPorts, signal: AbortSignal): Promise<string> {
  const running = new Map<string, { readonly place: string; readonly over: AbortController; readonly end: Promise<void> }>()
  const failures: unknown[] = []
  let count = 0
  try {
    while (failures.length === 0) {
      signal.throwIfAborted()
      const open = await openBenchmarks(ports.pool)
      for (const benchmark of open) {
        const place = benchmark.deviceId ?? benchmark.provider
        const isTaken = [...running].some(([id, other]) => id === benchmark.id || other.place === place)
        if (isTaken || running.size >= machinesAtOnce) continue
        count++
        const over = new AbortController()
        const end = measure(ports, benchmark, { leaving: signal, over: over.signal })
          .catch((error: unknown) => void failures.push(error))
          .finally(() => running.delete(benchmark.id))
        running.set(benchmark.id, { place, over, end })
      }
      if (running.size === 0) break
      for (const id of await finishedBenchmarks(ports.pool, [...running.keys()])) running.get(id)?.over.abort(new Cancelled())
      await Promise.race([...[...running.values()].map(({ end }) => end), sleep(lookEveryMs, undefined, { signal }).catch(() => {})])
    }
  } finally {
    await Promise.allSettled([...running.values()].map(({ end }) => end))
  }
  if (failures.length > 0) throw failures[0]
  return `${count} benchmarks`
}

/** Throws only what is not the benchmark's own end: the reason of `leaving`, or a database that is away. `over`: it was cancelled. */
async function measure(
  ports: BenchmarkPorts,
  benchmark: BenchmarkRecord,
  { leaving, over }: { readonly leaving: AbortSignal; readonly over: AbortSignal }
): Promise<void> {
  const { pool } = ports
  const signal = AbortSignal.any([leaving, over])
  let progress = benchmark.progress
  let target: Target | null = null
  try {
    target = await present(ports, benchmark, signal)
    // Prices change while it waits.
    if (!benchmark.paysAnyway) refuseDear(target, ports.maxUsdPer1m)
    const steps = stepsOf(benchmark, target)
    const of = steps.reduce((sum, { rounds, atOnce, skipped }) => sum + (skipped === null ? rounds * atOnce : 0), 0)
    progress = { ...progress, of }
    for (const step of steps) {
      if (progress.measures[step.phase] !== undefined) continue
      const done = Object.values(progress.measures).reduce((sum, { requests }) => sum + requests, 0)
      progress = { ...progress, phase: step.phase, done }
      await save()
      const seen = await carryOut(
        ports,
        { benchmark, target, step },
        {
          signal,
          async onDone() {
            progress = { ...progress, done: progress.done + 1 }
            await save()
          }
        }
      )
      // One that was left out after all is no request to wait for.
      const fewer = step.skipped === null && seen.skipped !== null ? step.rounds * step.atOnce : 0
      progress = { ...progress, of: progress.of - fewer, measures: { ...progress.measures, [step.phase]: seen } }
      if (seen.requests > 0 && seen.failures === seen.requests) throw new Failed(step.phase, seen.error)
    }
    progress = { ...progress, phase: null }
    await finish(null)
  } catch (thrown) {
    leaving.throwIfAborted()
    const error = toGatewayError(thrown)
    if (over.aborted || thrown instanceof Cancelled) {
      await endAsCancelled(pool, benchmark.id)
      await cancelJobs(ports, benchmark, progress.phase)
    } else if (error.code === 'database_unavailable') throw thrown
    else await finish(thrown instanceof Failed ? thrown.message : error.message)
  } finally {
    if (target !== null) await ports.refresh(target)
  }

  async function save(): Promise<void> {
    if (!(await saveBenchmark(pool, benchmark.id, progress))) throw new Cancelled()
  }

  async function finish(error: string | null): Promise<void> {
    // It was cancelled in this moment.
    if ((await finishedBenchmarks(pool, [benchmark.id])).length > 0) return
    // Before it is over for all who look: what they find in the profile then is what was measured.
    if (target !== null) await learn(ports, benchmark, target)
    await finishBenchmark(pool, benchmark.id, { progress, result: resultOf(progress), error })
  }
}

/** By whoever cancelled it, or one of its jobs. */
class Cancelled extends Error {}

class Failed extends Error {
  constructor(phase: BenchmarkPhase, error: string | null) {
    super(`Every request of the phase "${phase}" failed${error === null ? '.' : `: ${error}`}`)
  }
}

async function present({ target }: BenchmarkPorts, benchmark: BenchmarkRecord, signal: AbortSignal): Promise<Target> {
  for (const until = performance.now() + targetWithinMs; ; ) {
    const found = target(benchmark.target)
    if (found !== null) return found
    if (performance.now() > until) throw new GatewayError('model_not_found', `There is no model "${benchmark.target}" here any more.`)
    await sleep(pollMs, undefined, { signal })
  }
}

/** What its jobs have seen, also those that another process had carried out. */
async function learn(ports: BenchmarkPorts, benchmark: BenchmarkRecord, { upstream: { device }, model }: Target): Promise<void> {
  if (device === null) return
  for (const phase of benchmarkPhases) {
    for (const job of await jobsOf(ports, benchmark, phase)) {
      const seen = observationOf(job)
      if (seen !== null) ports.learn(device.id, model, seen)
    }
  }
  await ports.keep()
}

/** Those of a phase that were submitted. */
async function jobsOf({ jobs }: Pick<BenchmarkPorts, 'jobs'>, benchmark: BenchmarkRecord, phase: BenchmarkPhase): Promise<JobRecord[]> {
  const { rounds, atOnce } = sizeOf(phase, benchmark)
  const found: JobRecord[] = []
  for (let round = 0; round < rounds; round++) {
    for (let nth = 0; nth < atOnce; nth++) {
      const submitted = await jobs.earlier(benchmarkSource, keyOf(benchmark, { phase, round, nth }))
      if (submitted !== null) found.push(submitted.job)
    }
  }
  return found
}

async function cancelJobs(ports: Pick<BenchmarkPorts, 'jobs'>, benchmark: BenchmarkRecord, phase: BenchmarkPhase | null): Promise<void> {
  if (phase === null) return
  const open = (await jobsOf(ports, benchmark, phase)).filter(({ finishedAt }) => finishedAt === null)
  await Promise.all(open.map(({ id }) => ports.jobs.cancel(id, null)))
}

function keyOf(
  { id }: BenchmarkRecord,
  { phase, round, nth }: { readonly phase: BenchmarkPhase; readonly round: number; readonly nth: number }
): { readonly key: string; readonly hash: Buffer } {
  const key = `${id}/${phase}/${round}/${nth}`
  // The prompt is another one each time; what counts is that it is this measurement.
  return { key, hash: Buffer.from(key) }
}

function sizeOf(phase: BenchmarkPhase, { runs }: BenchmarkRecord): { readonly rounds: number; readonly atOnce: number } {
  if (phase === 'load') return { rounds: 1, atOnce: 1 }
  if (phase === 'prompt') return { rounds: promptRuns, atOnce: 1 }
  return { rounds: phase === 'alone' ? runs : roundsAtOnce[phase], atOnce: atOnceOf[phase] }
}

interface Step {
  readonly phase: BenchmarkPhase
  readonly rounds: number
  readonly atOnce: number
  readonly maxTokens: number
  /** Null = it is carried out. */
  readonly skipped: string | null
}

function stepsOf(benchmark: BenchmarkRecord, { upstream }: Target): Step[] {
  const places = upstream.device?.maxConcurrency ?? Number.POSITIVE_INFINITY
  const rented = upstream.device === null ? 'It is a rented model.' : null
  return benchmarkPhases.map(phase => {
    const size = sizeOf(phase, benchmark)
    if (phase === 'load' || phase === 'prompt') return { phase, ...size, maxTokens: 1, skipped: rented }
    const skipped = size.atOnce <= places ? null : `The machine gives ${places} at once.`
    return { phase, ...size, maxTokens: answerTokens, skipped }
  })
}

async function carryOut(
  ports: BenchmarkPorts,
  { benchmark, target, step }: { readonly benchmark: BenchmarkRecord; readonly target: Target; readonly step: Step },
  { signal, onDone }: { readonly signal: AbortSignal; readonly onDone: () => Promise<void> }
): Promise<Measure> {
  if (step.skipped !== null) return { ...measureOf([], step.phase), skipped: step.skipped }
  if (step.phase === 'load') {
    const skipped = await unloaded(ports, target, signal)
    if (skipped !== null) return { ...measureOf([], step.phase), skipped }
  }
  const ended: JobRecord[] = []
  for (let round = 0; round < step.rounds; round++) {
    const jobs = await Promise.all(
      Array.from({ length: step.atOnce }, async (_, nth) => {
        const idempotency = keyOf(benchmark, { phase: step.phase, round, nth })
        const job = await submit(ports, { benchmark, target, step, idempotency }, signal)
        // Whoever cancelled it just now may not have seen this job.
        if ((await findBenchmark(ports.pool, benchmark.id))?.finishedAt !== null) throw new Cancelled()
        const over = await endOf(ports, job, signal)
        if (over.status === 'cancelled') throw new Cancelled()
        await onDone()
        return over
      })
    )
    ended.push(...jobs)
  }
  return measureOf(ended, step.phase)
}

/** Null when the model is not in memory any more; otherwise why that was not done. */
async function unloaded({ isIdle, unload }: BenchmarkPorts, target: Target, signal: AbortSignal): Promise<string | null> {
  const deviceId = target.upstream.device?.id ?? ''
  for (const until = performance.now() + idleWithinMs; !(await isIdle(deviceId)); ) {
    if (performance.now() > until) return 'The machine was at work: the model was left in its memory.'
    await sleep(pollMs, undefined, { signal })
  }
  const isGone = await unload(target, signal).catch(() => false)
  return isGone ? null : 'The machine cannot be told to take a model out of its memory.'
}

async function submit(
  { jobs, request, newId, random }: BenchmarkPorts,
  {
    benchmark,
    target,
    step,
    idempotency
  }: {
    readonly benchmark: BenchmarkRecord
    readonly target: Target
    readonly step: Step
    readonly idempotency: ReturnType<typeof keyOf>
  },
  signal: AbortSignal
): Promise<JobRecord> {
  const id = newId()
  const text = step.phase === 'prompt' ? longText(target, random) : `${wordsOf(4, random)}. ${benchmark.prompt ?? usualPrompt}`
  for (;;) {
    try {
      const { job } = await jobs.submit({
        id,
        kind: 'chat',
        class: 'benchmark',
        model: target.id,
        request: { ...request({ id, target, text, maxTokens: step.maxTokens }), only: target.id, isBenchmark: true },
        echo: null,
        caller,
        weight: 1,
        maxAttempts: 3,
        deadlineAt: Date.now() + jobWithinMs,
        maxCostUsd: null,
        stream: true,
        idempotency,
        metadata: { benchmark: benchmark.id, phase: step.phase },
        webhookUrl: null
      })
      return job
    } catch (error) {
      if (toGatewayError(error).code !== 'queue_full') throw error
      await sleep(lookEveryMs, undefined, { signal })
    }
  }
}

async function endOf({ jobs }: BenchmarkPorts, { id }: JobRecord, signal: AbortSignal): Promise<JobRecord> {
  for (;;) {
    const found = await jobs.find(id, null)
    if (found === null) throw new GatewayError('internal_error', 'A job of the benchmark is gone.')
    if (found.job.finishedAt !== null) return found.job
    await sleep(pollMs, undefined, { signal })
  }
}

const usualPrompt =
  'Tell a long story about a lighthouse and the people who lived there. Write at least five hundred words, and do not stop early.'

const words =
  'river stone window garden copper evening letter bridge winter market silver harbour candle forest engine music summer paper island mountain'.split(
    ' '
  )

function wordsOf(count: number, random: () => number): string {
  return Array.from({ length: count }, () => `${words[Math.floor(random() * words.length)]}${Math.floor(random() * 100)}`).join(' ')
}

/** Of some 1,000 tokens, or half the context where that is less: a word with its number is about three. */
function longText({ contextTokens }: Target, random: () => number): string {
  const tokens = Math.min(promptTokens, Math.floor((contextTokens ?? promptTokens * 2) / 2))
  return `${wordsOf(Math.max(10, Math.floor(tokens / 3)), random)}. Answer with one word.`
}
