// Benchmarks: measures models, phase by phase, by jobs of class benchmark. Whoever goes on with one after its process died finds in its
// row which phases are over, and in the queue, by their idempotency keys, the jobs of the one that is not.

import { setTimeout as sleep } from 'node:timers/promises'
import type { JobRecord, Jobs } from '../queue/types.ts'
import { GatewayError, toGatewayError } from '../routing/errors.ts'
import type { Caller, ModelRequest, Target } from '../routing/types.ts'
import {
  type BenchmarkPhase,
  type BenchmarkProgress,
  type BenchmarkRecord,
  benchmarkPhases,
  finishBenchmark,
  type Measure,
  openBenchmarks,
  saveBenchmark
} from '../store/benchmarks.ts'
import type { Pool } from '../store/pool.ts'
import { refuseDear } from './benchmark-choice.ts'

export interface BenchmarkPorts {
  readonly pool: Pool
  readonly jobs: Pick<Jobs, 'submit' | 'find'>
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

/** Works on all that are open, one at a time on each machine, until none is left. Throws what kept it, or `signal`'s reason. */
export async function runBenchmarks(ports: BenchmarkPorts, signal: AbortSignal): Promise<string> {
  const running = new Map<string, { readonly place: string; readonly end: Promise<void> }>()
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
        const end = measure(ports, benchmark, signal)
          .catch((error: unknown) => void failures.push(error))
          .finally(() => running.delete(benchmark.id))
        running.set(benchmark.id, { place, end })
      }
      if (running.size === 0) break
      await Promise.race([...[...running.values()].map(({ end }) => end), sleep(lookEveryMs, undefined, { signal }).catch(() => {})])
    }
  } finally {
    await Promise.allSettled([...running.values()].map(({ end }) => end))
  }
  if (failures.length > 0) throw failures[0]
  return `${count} benchmarks`
}

/** Throws only what is not the benchmark's own end: `signal`'s reason, or a database that is away. */
async function measure(ports: BenchmarkPorts, benchmark: BenchmarkRecord, signal: AbortSignal): Promise<void> {
  const { pool } = ports
  let progress = benchmark.progress
  try {
    const target = await present(ports, benchmark, signal)
    // Prices change while it waits.
    if (!benchmark.paysAnyway) refuseDear(target, ports.maxUsdPer1m)
    const steps = stepsOf(benchmark, target)
    const of = steps.reduce((sum, { rounds, atOnce, skipped }) => sum + (skipped === null ? rounds * atOnce : 0), 0)
    progress = { ...progress, of }
    for (const step of steps) {
      if (progress.measures[step.phase] !== undefined) continue
      const done = Object.values(progress.measures).reduce((sum, { requests }) => sum + requests, 0)
      progress = { ...progress, phase: step.phase, done }
      await saveBenchmark(pool, benchmark.id, progress)
      const seen = await carryOut(
        ports,
        { benchmark, target, step },
        {
          signal,
          async onDone() {
            progress = { ...progress, done: progress.done + 1 }
            await saveBenchmark(pool, benchmark.id, progress)
          }
        }
      )
      // Before the phase is over for all: a phase that is over is not measured again.
      await ports.keep()
      // One that was left out after all is no request to wait for.
      const fewer = step.skipped === null && seen.skipped !== null ? step.rounds * step.atOnce : 0
      progress = { ...progress, of: progress.of - fewer, measures: { ...progress.measures, [step.phase]: seen } }
      if (seen.requests > 0 && seen.failures === seen.requests) throw new Failed(step.phase, seen.error)
    }
    progress = { ...progress, phase: null }
    await finishBenchmark(pool, benchmark.id, { progress, result: resultOf(progress), error: null })
  } catch (thrown) {
    signal.throwIfAborted()
    const error = toGatewayError(thrown)
    if (error.code === 'database_unavailable') throw thrown
    const message = thrown instanceof Failed ? thrown.message : error.message
    await finishBenchmark(pool, benchmark.id, { progress, result: resultOf(progress), error: message })
  }
}

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

interface Step {
  readonly phase: BenchmarkPhase
  readonly rounds: number
  readonly atOnce: number
  readonly maxTokens: number
  /** Null = it is carried out. */
  readonly skipped: string | null
}

function stepsOf({ runs }: BenchmarkRecord, { upstream }: Target): Step[] {
  const places = upstream.device?.maxConcurrency ?? Number.POSITIVE_INFINITY
  const rented = upstream.device === null ? 'It is a rented model.' : null
  return benchmarkPhases.map(phase => {
    if (phase === 'load') return { phase, rounds: 1, atOnce: 1, maxTokens: 1, skipped: rented }
    if (phase === 'prompt') return { phase, rounds: promptRuns, atOnce: 1, maxTokens: 1, skipped: rented }
    const atOnce = atOnceOf[phase]
    const skipped = atOnce <= places ? null : `The machine gives ${places} at once.`
    return { phase, rounds: phase === 'alone' ? runs : roundsAtOnce[phase], atOnce, maxTokens: answerTokens, skipped }
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
        const job = await submit(ports, { benchmark, target, step }, `${benchmark.id}/${step.phase}/${round}/${nth}`, signal)
        const over = await endOf(ports, job, signal)
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
  { benchmark, target, step }: { readonly benchmark: BenchmarkRecord; readonly target: Target; readonly step: Step },
  key: string,
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
        // The prompt is another one each time; what counts is that it is this measurement.
        idempotency: { key, hash: Buffer.from(key) },
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

interface Seen {
  readonly loadMs: number | null
  readonly ttftMs: number | null
  readonly prompt: Pace | null
  readonly answer: Pace | null
}

interface Pace {
  readonly tokens: number
  readonly ms: number
  readonly concurrency: number
}

function measureOf(jobs: readonly JobRecord[], phase: BenchmarkPhase): Measure {
  const seen = jobs.filter(({ status }) => status === 'done').map(({ usage }) => seenOf(usage ?? {}))
  const failed = jobs.filter(({ status }) => status !== 'done')
  const answers = phase === 'load' || phase === 'prompt' ? [] : seen.flatMap(({ answer }) => (answer === null ? [] : [answer]))
  const prompts = phase === 'prompt' ? seen.flatMap(({ prompt }) => (prompt === null ? [] : [prompt])) : []
  return {
    skipped: null,
    requests: jobs.length,
    failures: failed.length,
    loadMs: phase === 'load' ? (seen[0]?.loadMs ?? null) : null,
    promptTokensPerSecond: speed(prompts),
    tokensPerSecond: speed(answers),
    variation: variationOf([...answers, ...prompts].map(rate)),
    ttftMs: phase === 'load' ? null : median(seen.flatMap(({ ttftMs }) => (ttftMs === null ? [] : [ttftMs]))),
    concurrency: answers.length === 0 ? null : average(answers.map(({ concurrency }) => concurrency)),
    error: failed.at(-1)?.error?.message ?? null
  }
}

/** As queue/runs.ts writes it. */
function seenOf(usage: Readonly<Record<string, unknown>>): Seen {
  const figure = (value: unknown): number | null => (typeof value === 'number' && Number.isFinite(value) ? value : null)
  const pace = (value: unknown): Pace | null => {
    const { tokens, ms, concurrency } = (value ?? {}) as Readonly<Record<string, unknown>>
    const [count, took] = [figure(tokens) ?? 0, figure(ms) ?? 0]
    return count > 0 && took > 0 ? { tokens: count, ms: took, concurrency: figure(concurrency) ?? 1 } : null
  }
  return { loadMs: figure(usage.load_ms), ttftMs: figure(usage.ttft_ms), prompt: pace(usage.prompt), answer: pace(usage.answer) }
}

/** Tokens a second of one caller, over all of them; null = none. */
function speed(paces: readonly Pace[]): number | null {
  const ms = paces.reduce((sum, pace) => sum + pace.ms, 0)
  return ms === 0 ? null : (paces.reduce((sum, { tokens }) => sum + tokens, 0) / ms) * 1_000
}

function rate({ tokens, ms }: Pace): number {
  return tokens / ms
}

function average(figures: readonly number[]): number {
  return figures.reduce((sum, figure) => sum + figure, 0) / figures.length
}

function variationOf(figures: readonly number[]): number | null {
  if (figures.length < 2) return null
  const mean = average(figures)
  return Math.sqrt(average(figures.map(figure => (figure - mean) ** 2))) / mean
}

function median(figures: readonly number[]): number | null {
  return figures.toSorted((a, b) => a - b)[Math.floor(figures.length / 2)] ?? null
}

/** In the words of the API. */
function resultOf({ measures }: BenchmarkProgress): Readonly<Record<string, unknown>> {
  const all = Object.values(measures)
  return {
    load_ms: measures.load?.loadMs ?? null,
    prompt_tokens_per_s: measures.prompt?.promptTokensPerSecond ?? null,
    tokens_per_s: measures.alone?.tokensPerSecond ?? null,
    tokens_per_s_at_two: measures.two?.tokensPerSecond ?? null,
    tokens_per_s_at_four: measures.four?.tokensPerSecond ?? null,
    ttft_ms: measures.alone?.ttftMs ?? null,
    variation: measures.alone?.variation ?? null,
    requests: all.reduce((sum, { requests }) => sum + requests, 0),
    failures: all.reduce((sum, { failures }) => sum + failures, 0)
  }
}
