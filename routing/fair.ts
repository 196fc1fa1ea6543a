// The fair order of what waits: what a job is charged, and which of several comes first. Pure.

import type { ModelRequest, Usage } from './types.ts'

// The reference machine that work is measured on, so that nobody pays for being sent to a slow one: an 8B model on one large GPU.
const promptTokensPerSecond = 4_500
const answerTokensPerSecond = 120
// Of an answer whose length nobody knows: the mean of public chat traces is 211 (Azure LLM inference traces, 2023).
const usualAnswerTokens = 211
/** Also of the smallest job, so that a flood of nothing still has an order. */
const leastMicros = 1_000

/** What a job is expected to take of the reference machine, microseconds. */
export function expectedCharge(request: Pick<ModelRequest, 'operation' | 'prompt' | 'maxOutputTokens' | 'choices'>): number {
  if (request.operation === 'embed') return micros(request.prompt.expected, 0)
  // A client's own bound is no estimate where it is larger; what is missing is corrected when it is known.
  const each = Math.min(request.maxOutputTokens ?? usualAnswerTokens, usualAnswerTokens)
  return micros(request.prompt.expected, each * request.choices)
}

/** What it took, in the same unit. Work on rented machines takes nothing of what is shared. */
export function actualCharge(usage: Pick<Usage, 'promptTokens' | 'completionTokens'> | null, isOwn: boolean): number {
  if (!isOwn) return 0
  return usage === null ? leastMicros : micros(usage.promptTokens, usage.completionTokens)
}

function micros(promptTokens: number, answerTokens: number): number {
  return Math.max(leastMicros, Math.round((promptTokens / promptTokensPerSecond + answerTokens / answerTokensPerSecond) * 1e6))
}

export interface Waits {
  /** 0 urgent … 4 benchmark. */
  readonly class: number
  readonly tag: number
  readonly id: string
  /** Epoch, ms. */
  readonly createdMs: number
}

// A class that was not served for so long moves up by one; half-way by a half. By class, never by job: an old job of a flood
// must not pass the fresh one of a light source.
const ageingMs = 60_000
const classesUpAtMost = 2

/**
 * Sorted as they are to be served: 1. by class, less what it has aged; at a tie the lower class, which has waited for its turn;
 * 2. by tag; 3. by age. `servedAt`: when each class was served last, by index.
 */
export function inOrder<T extends Waits>(waiting: readonly T[], servedAt: readonly Date[], nowMs: number): T[] {
  const oldest = new Map<number, number>()
  for (const job of waiting) oldest.set(job.class, Math.min(oldest.get(job.class) ?? nowMs, job.createdMs))
  const rank = (of: number): number => of - aged(nowMs - Math.max(servedAt[of]?.getTime() ?? 0, oldest.get(of) ?? nowMs))
  return [...waiting].sort((a, b) => rank(a.class) - rank(b.class) || b.class - a.class || a.tag - b.tag || (a.id < b.id ? -1 : 1))
}

function aged(waitedMs: number): number {
  return Math.min(classesUpAtMost, Math.floor((Math.max(0, waitedMs) / ageingMs) * 2) / 2)
}
