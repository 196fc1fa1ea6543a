// How far a watched job is, and the line that says so. Pure: the caller brings the clock.

import type { StreamEvent } from './events.ts'
import { type Eta, numberOf, readEta, seconds, textOf } from './job.ts'

export interface Progress {
  readonly status: string
  readonly position: number | null
  readonly etaMs: Eta | null
  /** 0 = none has begun. */
  readonly attempt: number
  /** Chunks of this attempt: a token each, as far as anybody can see from here. */
  readonly chunks: number
  /** When the chunks of the last few seconds came. */
  readonly recentMs: readonly number[]
  /** Why there is no connection; null = there is one. */
  readonly lost: string | null
}

// Long enough to be steady, short enough to show a machine that slows down.
const rateWindowMs = 5_000
// Before that, a burst of chunks that were stored would pass for a fast machine.
const rateSinceMs = 500
// A stored answer comes all at once, and each of its chunks copies this list.
const recentAtMost = 2_000

export function progressOf(status: string, position: number | null, etaMs: Eta | null): Progress {
  return { status, position, etaMs, attempt: 0, chunks: 0, recentMs: [], lost: null }
}

/** What it is after an event. */
export function advanced(progress: Progress, { event, data }: StreamEvent, nowMs: number): Progress {
  if (event === 'status') {
    return { ...progress, status: textOf(data.status) ?? progress.status, position: numberOf(data.position), etaMs: readEta(data.eta_ms) }
  }
  if (event === 'attempt') {
    const attempt = numberOf(data.attempt) ?? progress.attempt + 1
    return { ...progress, status: 'running', position: null, etaMs: null, attempt, chunks: 0, recentMs: [] }
  }
  if (event === 'chunk') {
    return {
      ...progress,
      chunks: progress.chunks + 1,
      recentMs: [...progress.recentMs.slice(-recentAtMost).filter(ms => ms > nowMs - rateWindowMs), nowMs]
    }
  }
  return progress
}

/** For a line that stands for itself. `key` leaves out what changes all the time: two with the same key need not both be said. */
export function progressLine({ status, position, etaMs, attempt, lost }: Progress): { readonly key: string; readonly text: string } {
  if (lost !== null) return { key: 'lost', text: `connection lost, trying again: ${lost}` }
  const key = [
    status,
    ...(position === null ? [] : [`position ${position}`]),
    ...(attempt === 0 || status !== 'running' ? [] : [`attempt ${attempt}`])
  ].join(', ')
  return { key, text: etaMs === null ? key : `${key}, ETA ${seconds(etaMs.p50)} (at most ${seconds(etaMs.p90)}, nine times of ten)` }
}

/** With the pace and the time that has passed, for a line that is written anew all the time. */
export function liveText(progress: Progress, { nowMs, sinceMs }: { readonly nowMs: number; readonly sinceMs: number }): string {
  const { status, position, etaMs, attempt, chunks, lost } = progress
  const perSecond = rate(progress.recentMs, nowMs)
  const parts = [
    ...(lost === null ? [status] : ['connection lost, trying again']),
    ...(position === null ? [] : [`position ${position}`]),
    ...(etaMs === null ? [] : [`ETA ${seconds(etaMs.p50)}–${seconds(etaMs.p90)}`]),
    ...(attempt === 0 || status !== 'running' ? [] : [`attempt ${attempt}`]),
    ...(chunks === 0 ? [] : [`${chunks} tokens`]),
    ...(perSecond === null ? [] : [`${perSecond.toFixed(1)} tokens/s`])
  ]
  return `${parts.join(' · ')} · ${seconds(nowMs - sinceMs)}`
}

function rate(recentMs: readonly number[], nowMs: number): number | null {
  const first = recentMs[0]
  if (first === undefined || nowMs - first < rateSinceMs) return null
  return (recentMs.filter(ms => ms > nowMs - rateWindowMs).length / Math.min(rateWindowMs, nowMs - first)) * 1_000
}
