// Why a request went where it went, what that was expected to come to, and what came of it: for people, in about 2 kB. Pure.

import type { Decision, Rejection } from '../decide.ts'
import type { GatewayError } from '../errors.ts'
import { timeOf } from '../ids.ts'
import type { Outcome, RouteStart, RunSummary, Settled } from '../ports.ts'
import { providerOf } from '../targets.ts'
import type { ModelRequest, Target } from '../types.ts'
import { knobs } from './estimate.ts'
import { type ChosenTarget, comparison, failedOf, short, whyOf } from './explain-words.ts'
import type { Planned } from './plan.ts'
import type { Estimate, Knob } from './types.ts'

/** Seconds and dollars; null = unknown. */
export interface Explanation {
  readonly object: 'route'
  /** Null of a request that was not made. */
  readonly id: string | null
  readonly at: string
  readonly model: string
  readonly source: string
  readonly action: 'run' | 'wait' | 'refuse'
  /** The same word as in the header `x-llm-mcp-reason`; null = refused. */
  readonly reason: string | null
  /** In a sentence. */
  readonly why: string
  readonly policy: Knob['route']
  readonly knob: {
    readonly second_usd: number
    readonly miss_usd: number
    readonly max_cost_usd: number | null
    readonly deadline_s: number | null
    readonly deadline: 'soft' | 'hard'
    readonly local_only: boolean
  }
  readonly chosen: Chosen | null
  readonly parts: Parts | null
  /** The others that could answer, best first. */
  readonly ranked: readonly RankedTarget[]
  readonly more_ranked: number
  /** Those that may not, or cannot now. */
  readonly rejected: readonly RejectedTarget[]
  readonly more_rejected: number
  readonly error: { readonly status: number; readonly code: string; readonly param: string | null; readonly message: string } | null
  /** 0 = guessed from size and price; towards 1 = known from many answers. */
  readonly confidence: number | null
  readonly decided_in_us: number | null
  /** Null while it is not over. */
  readonly actual: Actual | null
}

export interface Chosen {
  readonly target: string
  readonly provider: string
  readonly model: string
  readonly device: string | null
  /** `load`: its model has to be loaded first. `wait`: for a place on it. */
  readonly mode: 'start' | 'load' | 'wait'
  readonly eta_p50_s: number | null
  readonly eta_p90_s: number | null
  readonly usd: number | null
  readonly p_miss: number | null
  readonly score: number | null
}

export interface Parts {
  readonly wait_s: number | null
  readonly load_s: number | null
  readonly prefill_s: number | null
  readonly decode_s: number | null
  readonly concurrency: number
  readonly out_tokens_p50: number | null
  readonly out_tokens_mean: number | null
  readonly cached_tokens: number
  readonly congestion_usd: number | null
}

export interface RankedTarget {
  readonly target: string
  readonly score: number | null
  readonly eta_s: number | null
  readonly usd: number | null
  readonly why: string
}

export interface RejectedTarget {
  readonly target: string
  readonly filtered: Rejection
  readonly eta_s?: number | null
  /** With a long answer: what a bound of the request is held against. */
  readonly usd?: number | null
}

export interface Actual {
  readonly outcome: Outcome
  /** Of the last call; null = none was made. */
  readonly target: string | null
  readonly attempts: number
  readonly latency_s: number
  readonly ttft_s: number | null
  readonly usd: number | null
  readonly out_tokens: number | null
  /** How much longer it took than expected; negative = less. */
  readonly eta_error_pct: number | null
  readonly within_p90: boolean | null
  readonly error: string | null
  /** Calls that came to nothing, the first ones first. */
  readonly failed: readonly FailedCall[]
}

export interface FailedCall {
  readonly target: string
  readonly error: string
}

export interface Explained extends Omit<RouteStart, 'caller' | 'request'> {
  readonly caller: { readonly source: string }
  readonly request: Pick<
    ModelRequest,
    'id' | 'model' | 'route' | 'maxUsd' | 'patience' | 'isDeadlineHard' | 'localOnly' | 'fallbacks' | 'preference'
  >
  /** Of one that is over; absent = it is not. */
  readonly over?: { readonly reason: string; readonly summary: Over; readonly tookMs: number }
  /** How many targets are named; absent = as many as 2 kB hold. */
  readonly listed?: Listed
}

interface Listed {
  readonly ranked: number
  readonly rejected: number
  /** Absent = a few. */
  readonly failed?: number
}

/** What is known of a request that is over. */
export type Over = Pick<RunSummary, 'outcome' | 'error' | 'target' | 'attempts' | 'nanoUsd' | 'ttftMs'> & {
  readonly calls: readonly OverCall[]
}

export interface OverCall {
  readonly target: Pick<Target, 'id'>
  readonly error: Pick<GatewayError, 'publicCode'> | null
  readonly settled: Pick<Settled, 'completionTokens'>
}

const usuallyListed = { ranked: 4, rejected: 6, failed: 4 }
const bytesAtMost = 2_048
const textAtMost = 300
// After as many answers a figure is believed half.
const halfBelieved = 3

/** Every figure in it is finite. Without `listed` it has at most 2 kB as JSON. */
export function explain(explained: Explained): Explanation {
  if (explained.listed !== undefined) return explanationOf(explained, explained.listed)
  for (let listed = usuallyListed; ; listed = half(listed)) {
    const explanation = explanationOf(explained, listed)
    if (listed.ranked + listed.rejected === 0 || Buffer.byteLength(JSON.stringify(explanation)) <= bytesAtMost) return explanation
  }
}

function half({ ranked, rejected, failed }: typeof usuallyListed): typeof usuallyListed {
  return { ranked: Math.floor(ranked / 2), rejected: Math.floor(rejected / 2), failed: Math.floor(failed / 2) }
}

function explanationOf(explained: Explained, listed: Listed): Explanation {
  const { request, caller, decision, decidedUs, over } = explained
  const weighed = decision.planned ?? explained.figures
  const chosen = chosenOf(explained, weighed)
  const { route, secondUsd, missUsd } = knobs[request.route ?? 'balanced']
  const out = leftOut(decision)
  const others = (weighed?.estimates ?? []).filter(({ option }) => option.id !== chosen?.target && !out.has(option.id))
  const estimated = new Set([chosen?.target, ...others.map(({ option }) => option.id)])
  const unweighed = decision.action === 'run' ? decision.ranked.filter(({ id }) => !estimated.has(id) && !out.has(id)) : []
  const isByScore = decision.planned !== undefined
  const ranked = [...others.map(other => rankedTarget(other, chosen, isByScore)), ...unweighed.map(target => lastResort(target, isByScore))]
  const named = new Set([...estimated, ...unweighed.map(({ id }) => id)])
  const rejected = rejectedTargets(decision, named)
  const reason = over?.reason ?? (decision.action === 'run' ? decision.reason : decision.action === 'enqueue' ? 'waits' : null)
  return {
    object: 'route',
    id: request.id,
    at: new Date(timeOf(request.id) || 0).toISOString(),
    model: short(request.model),
    source: short(caller.source),
    action: decision.action === 'enqueue' ? 'wait' : decision.action,
    reason: decision.action === 'refuse' ? null : reason,
    why: short(whyOf(explained, { weighed, chosen, second: others[0], isOnly: ranked.length === 0 }), textAtMost),
    policy: route,
    knob: {
      second_usd: secondUsd,
      miss_usd: missUsd,
      max_cost_usd: figure(request.maxUsd),
      deadline_s: request.patience?.deadlineMs == null ? null : seconds(request.patience.deadlineMs / 1_000),
      deadline: request.isDeadlineHard === true ? 'hard' : 'soft',
      local_only: request.localOnly
    },
    chosen: chosen === null ? null : chosen.shown,
    parts: chosen === null || chosen.estimate === null || weighed === null ? null : partsOf(chosen.estimate, weighed),
    ranked: ranked.slice(0, listed.ranked),
    more_ranked: Math.max(0, ranked.length - listed.ranked),
    rejected: rejected.slice(0, listed.rejected),
    more_rejected: Math.max(0, rejected.length - listed.rejected),
    error: decision.action === 'refuse' ? errorOf(decision.error) : null,
    confidence: confidenceOf(chosen?.estimate ?? null),
    decided_in_us: decidedUs === null || !Number.isFinite(decidedUs) ? null : Math.max(0, Math.round(decidedUs)),
    actual: over === undefined ? null : actualOf(explained, { over, chosen, failedAtMost: listed.failed ?? usuallyListed.failed })
  }
}

/** Those that could not answer. One that is full now still can, when its place is free; but not where that was found out too late. */
function leftOut(decision: Decision): ReadonlySet<string> {
  const tried = new Set(decision.action === 'run' ? decision.ranked.map(({ id }) => id) : [])
  return new Set(decision.rejected.filter(({ target, reason }) => reason !== 'full' || tried.has(target)).map(({ target }) => target))
}

/** Where it was sent first, or what it waits for. */
function chosenOf({ decision, chosen, etaMs }: Explained, weighed: Planned | null): ChosenTarget | null {
  const waitsFor = decision.action === 'enqueue' ? decision.feasible.find(({ id }) => id === (weighed?.best?.option.id ?? id)) : undefined
  const target = chosen ?? waitsFor
  if (target === undefined || decision.action === 'refuse') return null
  const estimate = weighed?.estimates.find(({ option }) => option.id === target.id) ?? null
  const waits = chosen === null
  return {
    target: target.id,
    estimate,
    shown: {
      target: short(target.id),
      provider: short(providerOf(target.upstream)),
      model: short(target.model),
      device: target.upstream.device === null ? null : short(target.upstream.device.id),
      mode: waits ? 'wait' : estimate?.isCold === true ? 'load' : 'start',
      eta_p50_s: etaMs === null ? null : seconds(etaMs.p50 / 1_000),
      eta_p90_s: etaMs === null ? null : seconds(etaMs.p90 / 1_000),
      usd: figure(estimate?.usd),
      p_miss: figure(estimate?.missShare),
      score: figure(estimate?.score)
    }
  }
}

function partsOf(estimate: Estimate, { work }: Planned): Parts {
  const { waitS, loadS, prefillS, decodeS, concurrency, option, othersUsd } = estimate
  return {
    wait_s: seconds(waitS),
    load_s: seconds(loadS),
    prefill_s: seconds(prefillS),
    decode_s: seconds(decodeS),
    concurrency,
    out_tokens_p50: whole(work.lengths.quantile(0.5)),
    out_tokens_mean: whole(work.lengths.mean),
    cached_tokens: Math.min(option.cachedTokens, work.promptTokens),
    congestion_usd: figure(othersUsd)
  }
}

function rankedTarget(other: Estimate, chosen: ChosenTarget | null, isByScore: boolean): RankedTarget {
  return {
    target: short(other.option.id),
    score: figure(other.score),
    eta_s: seconds(other.etaS),
    usd: figure(other.usd),
    why: chosen === null || chosen.estimate === null ? 'not compared' : comparison(other, chosen.estimate, isByScore)
  }
}

function lastResort({ id }: Target, isByScore: boolean): RankedTarget {
  const why = isByScore ? 'tried last: failing lately, or short of room' : 'later in the given order'
  return { target: short(id), score: null, eta_s: null, usd: null, why }
}

/** Those that only a bound of the request left out stand first: they say what it would take. */
function rejectedTargets({ rejected, planned }: Decision, named: ReadonlySet<string | undefined>): RejectedTarget[] {
  if (rejected.length === 0) return []
  const estimates = new Map((planned?.without ?? []).map(({ option, estimate }) => [option.id, estimate]))
  const reasons = new Map(rejected.map(({ target, reason }) => [target, reason]))
  return [...reasons]
    .filter(([target]) => !named.has(target))
    .map(([target, filtered]) => {
      const estimate = estimates.get(target) ?? null
      const known = estimate === null ? {} : { eta_s: seconds(estimate.etaS), usd: figure(estimate.usdP90) }
      return { target: short(target), filtered, ...known }
    })
    .toSorted((one, other) => Number('eta_s' in other) - Number('eta_s' in one))
}

function actualOf(
  { etaMs }: Explained,
  { over, chosen, failedAtMost }: { over: NonNullable<Explained['over']>; chosen: ChosenTarget | null; failedAtMost: number }
): Actual {
  const { summary, tookMs } = over
  const { outcome, target, attempts, ttftMs, nanoUsd, calls, error } = summary
  const failed = failedOf(calls)
  // What was expected of another target, or without a failure before, says nothing of this one.
  const isMeant = failed.length === 0 && target !== null && target.id === chosen?.target
  const isOk = outcome === 'ok' && isMeant && etaMs !== null && etaMs.p50 > 0
  const tokens = calls.reduce((sum, { settled }) => sum + settled.completionTokens, 0)
  return {
    outcome,
    target: target === null ? null : short(target.id),
    attempts,
    latency_s: seconds(tookMs / 1_000) ?? 0,
    ttft_s: ttftMs === null ? null : seconds(ttftMs / 1_000),
    usd: nanoUsd === null || !Number.isFinite(nanoUsd) ? null : nanoUsd / 1e9,
    out_tokens: calls.length === 0 ? null : tokens,
    eta_error_pct: isOk ? whole((tookMs / etaMs.p50 - 1) * 100) : null,
    within_p90: isOk ? tookMs <= etaMs.p90 : null,
    error: error?.publicCode ?? null,
    failed: failed.slice(0, failedAtMost)
  }
}

function errorOf({ status, publicCode, param, logMessage }: GatewayError): Explanation['error'] {
  return { status, code: publicCode, param, message: short(logMessage, textAtMost) }
}

function confidenceOf(estimate: Estimate | null): number | null {
  if (estimate === null) return null
  const samples = estimate.option.pace.samples ?? 0
  return Number((samples / (samples + halfBelieved)).toFixed(2))
}

/** Three digits; null where it is no figure. */
function figure(value: number | null | undefined): number | null {
  if (value == null) return null
  if (value === 0) return 0
  const size = Math.abs(value)
  // By way of a text it takes ten times as long. A whole number over a power of ten is the nearest there is to its decimal.
  if (size >= 1e-9 && size < 100) {
    const scale = 10 ** (2 - Math.floor(Math.log10(size)))
    return Math.round(value * scale) / scale
  }
  // Rounding the largest of all gives no figure.
  const rounded = Number(value.toPrecision(3))
  return Number.isFinite(rounded) ? rounded : null
}

function seconds(value: number): number | null {
  if (!Number.isFinite(value)) return null
  return Math.abs(value) < 1e9 ? Math.round(value * 1_000) / 1_000 : Number(value.toFixed(3))
}

function whole(value: number): number | null {
  return Number.isFinite(value) ? Math.round(value) : null
}
