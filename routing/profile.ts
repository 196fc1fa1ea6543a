// How fast a model is on a machine, learned from every answer: tokens alone and beside others, prompts, loading. Pure.

/** Of one model on one machine; plain JSON, to be kept. Seconds; null = nothing is known yet. */
export interface Profile {
  readonly version: 1
  readonly answer: AnswerPace | null
  /** Of a token alone, over hundreds of answers: what a machine comes back to. Absent where it was kept before this was. */
  readonly usualTauS?: number
  readonly promptSPerToken: number | null
  readonly loadS: number | null
  /** As clients see it. */
  readonly ttftS: number | null
  /** Of the time for a token, around what was expected: 0.1 = usually 10 % off. */
  readonly variation: number
  readonly samples: { readonly answers: number; readonly prompts: number; readonly loads: number; readonly failures: number }
  /** Of the last observation. Epoch, ms. */
  readonly atMs: number
}

/** A token takes `tauS + betaS x (others beside it)`. */
export interface AnswerPace {
  readonly tauS: number
  readonly betaS: number
  /** How unsure both are, in observations: covariance of tau with itself, of both, of beta with itself. */
  readonly covariance: readonly [number, number, number]
  /** How many times too slow the last answer was, when that was far off; below 1 = too fast. 1 = it was not. */
  readonly farOff: number
}

/** One call that is over. What was not seen is null. */
export interface Observation {
  /** Epoch, ms. */
  readonly atMs: number
  /** The machine's fault, where it failed. */
  readonly isFailure: boolean
  readonly loadMs: number | null
  readonly ttftMs: number | null
  readonly prompt: Stretch | null
  readonly answer: Stretch | null
  /** Made to be measured: no prompt of it was seen before, and it counts five times. */
  readonly isBenchmark: boolean
}

export interface Stretch {
  readonly tokens: number
  readonly ms: number
  /** Calls on this machine at once, on average over this time; 1 = it was alone. */
  readonly concurrency: number
}

/** For people; null = not known. */
export interface ProfileFigures {
  /** Of each caller. */
  readonly tokensPerSecond: number | null
  readonly tokensPerSecondAtTwo: number | null
  readonly tokensPerSecondAtFour: number | null
  readonly promptTokensPerSecond: number | null
  readonly loadMs: number | null
  readonly ttftMs: number | null
  readonly variation: number | null
  readonly samples: Profile['samples']
}

const benchmarkWeight = 5
// An observation counts half after 23 others.
const forgetting = 0.97
// Twice as slow or as fast as expected is far off: it counts as that much, and two in a row are another speed. At 2.5, one in ten
// machines that were throttled to a third was not noticed, because the first answer had moved the expectation already.
const farOffRatio = 2
// Before two were ever seen at once, a second caller is taken to cost this share of a token's time, as on most GPUs.
const usualBeta = 0.45
const leastTauShare = 0.15
// What is usual changes by half within 70 answers.
const usualShare = 0.01
// A direction that is never seen (always alone) must not become so unsure that one noisy sighting decides it.
const mostUnsure = 5
// Attention grows with the context: a token takes twice as long at this many. From a study of Ollama's answers.
export const contextDoublesAt = 24_000
// The first token of an answer is made by the prompt: of a few tokens it would be a large share.
const answerTokensAtLeast = 8
const promptTokensAtLeast = 20
// Ollama counts what it had in its cache as well: so much faster than ever before, a prompt was not read.
const cachedRatio = 4
// Beside others a prompt's time is no longer its own.
const aloneAtMost = 1.3
// One that counts five times must be sure.
const aloneInBenchmark = 1.02
// Of a model that is in memory, `load_duration` is some tens of milliseconds.
const loadMsAtLeast = 150
// What is beyond is a broken counter.
const dayMs = 86_400_000
const tokenMsAtLeast = 1e-4
const contextAtMost = 1e7

const nothing: Omit<Profile, 'atMs'> = {
  version: 1,
  answer: null,
  promptSPerToken: null,
  loadS: null,
  ttftS: null,
  variation: 0,
  samples: { answers: 0, prompts: 0, loads: 0, failures: 0 }
}

/** What is known after one more call; `before` null = nothing was. Formulas: recursive least squares and weighted means. */
export function observe(before: Profile | null, observation: Observation): Profile {
  const profile = before ?? { ...nothing, atMs: observation.atMs }
  const { samples, atMs } = profile
  const seen = { ...profile, atMs: Math.max(atMs, observation.atMs) }
  if (observation.isFailure) return { ...seen, samples: { ...samples, failures: samples.failures + 1 } }
  return withAnswer(withPrompt(withStart(seen, observation), observation), observation)
}

function withStart(profile: Profile, { loadMs, ttftMs }: Observation): Profile {
  const isLoad = loadMs !== null && isTime(loadMs) && loadMs >= loadMsAtLeast
  const ttftS = ttftMs === null || !isTime(ttftMs) ? null : ttftMs / 1_000
  return {
    ...profile,
    // Including the load it would say little of the next answer.
    ttftS: ttftS === null || isLoad ? profile.ttftS : inLogarithms(profile.ttftS, ttftS, 0.1),
    loadS: isLoad ? mean(profile.loadS, loadMs / 1_000, 0.5) : profile.loadS,
    samples: isLoad ? { ...profile.samples, loads: profile.samples.loads + 1 } : profile.samples
  }
}

function withPrompt(profile: Profile, { prompt, isBenchmark }: Observation): Profile {
  if (prompt === null || !isLong(prompt, promptTokensAtLeast)) return profile
  const known = profile.promptSPerToken
  const concurrency = Math.max(1, prompt.concurrency)
  if (known !== null && concurrency > (isBenchmark ? aloneInBenchmark : aloneAtMost)) return profile
  const took = prompt.ms / 1_000 / prompt.tokens / concurrency
  if (known !== null && !isBenchmark && took < known / cachedRatio) return profile
  // Much too slow is believed sooner: what seems too fast may have been in the cache.
  const usual = known !== null && took > farOffRatio * known ? 0.5 : 0.15
  const share = isBenchmark ? 1 - 0.85 ** benchmarkWeight : usual
  return {
    ...profile,
    promptSPerToken: inLogarithms(known, took, share),
    samples: { ...profile.samples, prompts: profile.samples.prompts + 1 }
  }
}

function withAnswer(profile: Profile, { prompt, answer, isBenchmark }: Observation): Profile {
  if (answer === null || !isLong(answer, answerTokensAtLeast)) return profile
  const read = prompt !== null && isLong(prompt, 1) ? prompt.tokens : 0
  const context = Math.min(contextAtMost, read + answer.tokens / 2)
  const tookS = answer.ms / 1_000 / answer.tokens / (1 + context / contextDoublesAt)
  const others = Math.max(0, answer.concurrency - 1)
  const weight = isBenchmark ? benchmarkWeight : 1
  const before = profile.answer
  const samples = { ...profile.samples, answers: profile.samples.answers + 1 }
  if (before === null) {
    const tauS = tookS / (1 + usualBeta * others)
    return { ...profile, samples, usualTauS: tauS, answer: { tauS, betaS: usualBeta * tauS, covariance: [1 / weight, 0, 1], farOff: 1 } }
  }
  const expected = before.tauS + before.betaS * others
  const off = tookS / expected
  const square = Math.min(farOffRatio - 1, Math.abs(off - 1)) ** 2
  const pace = learned(before, { others, off, expected, weight })
  return {
    ...profile,
    samples,
    usualTauS: inLogarithms(profile.usualTauS ?? before.tauS, pace.tauS, usualShare),
    variation: Math.sqrt(profile.samples.answers === 1 ? square : mean(profile.variation ** 2, square, 0.05)),
    answer: pace
  }
}

/** One step of recursive least squares on (1, others), relative to what was expected: noise grows with the time a token takes. */
function learned(
  before: AnswerPace,
  { others, off, expected, weight }: { readonly others: number; readonly off: number; readonly expected: number; readonly weight: number }
): AnswerPace {
  const counted = Math.min(farOffRatio, Math.max(1 / farOffRatio, off))
  const isFar = counted !== off
  // Not an odd one out, but another speed: both figures move by the lesser of the two, and are unsure again.
  if (isFar && Math.log(before.farOff) * Math.log(off) > 0) {
    const jump = off > 1 ? Math.min(before.farOff, off) : Math.max(before.farOff, off)
    return { tauS: before.tauS * jump, betaS: before.betaS * jump, covariance: [1, 0, 1], farOff: 1 }
  }
  const share = weight * (before.tauS / expected) ** 2
  const [tau, both, beta] = before.covariance
  const alongTau = tau + both * others
  const alongBeta = both + beta * others
  const scale = forgetting / share + alongTau + alongBeta * others
  const residual = (counted - 1) * expected
  return {
    tauS: Math.max(leastTauShare * before.tauS, before.tauS + (alongTau / scale) * residual),
    betaS: Math.max(0, before.betaS + (alongBeta / scale) * residual),
    covariance: bounded([
      (tau - (alongTau * alongTau) / scale) / forgetting,
      (both - (alongTau * alongBeta) / scale) / forgetting,
      (beta - (alongBeta * alongBeta) / scale) / forgetting
    ]),
    farOff: isFar ? off : 1
  }
}

function bounded([tau, both, beta]: readonly [number, number, number]): readonly [number, number, number] {
  const ofTau = Math.min(1, Math.sqrt(mostUnsure / tau))
  const ofBeta = Math.min(1, Math.sqrt(mostUnsure / beta))
  return [tau * ofTau * ofTau, both * ofTau * ofBeta, beta * ofBeta * ofBeta]
}

export function figuresOf({ answer, promptSPerToken, loadS, ttftS, variation, samples }: Profile): ProfileFigures {
  const pace = (others: number): number | null => (answer === null ? null : 1 / (answer.tauS + answer.betaS * others))
  return {
    tokensPerSecond: pace(0),
    tokensPerSecondAtTwo: pace(1),
    tokensPerSecondAtFour: pace(3),
    promptTokensPerSecond: promptSPerToken === null ? null : 1 / promptSPerToken,
    loadMs: loadS === null ? null : loadS * 1_000,
    ttftMs: ttftS === null ? null : ttftS * 1_000,
    variation: samples.answers < 2 ? null : variation,
    samples
  }
}

/** A profile that was kept; null when it is none, or of another version: then learning begins anew. */
export function readProfile(kept: unknown): Profile | null {
  if (typeof kept !== 'object' || kept === null || (kept as { version?: unknown }).version !== 1) return null
  const profile = kept as Profile
  const pace = profile.answer
  const figures = [
    profile.atMs,
    profile.variation,
    profile.promptSPerToken ?? 1,
    profile.loadS ?? 1,
    profile.ttftS ?? 1,
    profile.usualTauS ?? 1,
    ...Object.values(profile.samples ?? { none: Number.NaN }),
    ...(pace === null ? [] : [pace?.tauS, pace?.betaS, ...(pace?.covariance ?? [Number.NaN]), pace?.farOff])
  ]
  return figures.every(figure => Number.isFinite(figure)) && (pace === null || pace.tauS > 0) ? profile : null
}

function isTime(ms: number): boolean {
  return ms > 0 && ms < dayMs
}

function isLong({ tokens, ms }: Stretch, tokensAtLeast: number): boolean {
  return isTime(ms) && tokens >= tokensAtLeast && ms / tokens > tokenMsAtLeast
}

function mean(before: number | null, now: number, share: number): number {
  return before === null ? now : (1 - share) * before + share * now
}

function inLogarithms(before: number | null, now: number, share: number): number {
  return before === null ? now : Math.exp(mean(Math.log(before), Math.log(now), share))
}
