// What the jobs of a benchmark show: figures of a phase, of the whole, and what the profile of its machine learns. Pure.

import type { JobRecord } from '../queue/types.ts'
import type { Observation } from '../routing/profile.ts'
import type { BenchmarkPhase, BenchmarkProgress, Measure } from '../store/benchmarks.ts'

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

/** Of the jobs of one phase, all of them over. */
export function measureOf(jobs: readonly JobRecord[], phase: BenchmarkPhase): Measure {
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

/** What one of them teaches; null where it says nothing of the machine. */
export function observationOf({ status, usage }: JobRecord): Omit<Observation, 'atMs'> | null {
  return status === 'done' && usage !== null ? { isFailure: false, isBenchmark: true, ...seenOf(usage) } : null
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
export function resultOf({ measures }: BenchmarkProgress): Readonly<Record<string, unknown>> {
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
