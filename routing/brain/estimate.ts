// What one option would come to: time, dollars, the risk to be late, and the delay of others, in one figure. Pure.

import { contextDoublesAt } from '../profile.ts'
import type { Lengths } from './lengths.ts'
import { rentedPromptTokensPerS } from './rented.ts'
import type { Estimate, Knob, Option, Pace, TokenDollars, Work } from './types.ts'

/** Dollars: a second, and a missed deadline. */
export const knobs: Readonly<Record<Knob['route'], Knob>> = {
  cost: { route: 'cost', secondUsd: 2e-7, missUsd: 2e-4 },
  balanced: { route: 'balanced', secondUsd: 2e-5, missUsd: 2e-3 },
  fast: { route: 'fast', secondUsd: 4e-4, missUsd: 1e-2 }
}

// A price that nobody knows counts as that of a dear model, dollars a token: it is asked last, and never taken for free.
const unknownPrice = { inputUsd: 1e-5, outputUsd: 5e-5 }
// Everyone behind waits as long as this runs; but of a long queue most will go elsewhere.
const waitingCounted = 8
// A call that fails is found out after about so long, and made again.
const failureS = 3

/** What an option has before this work, from now. */
export interface Queue {
  /** When each place of the machine is free, soonest first. */
  readonly freeS: readonly number[]
  /** When the machine can begin to load something. */
  readonly loaderFreeS: number
  /** When models that are not loaded yet will be. */
  readonly readyS: ReadonlyMap<string, number>
  /** Calls that will be sent to the provider before. */
  readonly ahead: number
  /** How much waits, for each of the machines that could take it. */
  readonly waitingEach: number
}

/** Null when it cannot be: a cold model where nothing may be loaded. */
export function estimate(work: Work, option: Option, queue: Queue): Estimate | null {
  return option.pace.kind === 'own' ? ownEstimate(work, option, option.pace, queue) : rentedEstimate(work, option, option.pace, queue)
}

function ownEstimate(work: Work, option: Option, pace: Extract<Pace, { kind: 'own' }>, queue: Queue): Estimate | null {
  const site = option.site.own
  if (site === null || queue.freeS.length === 0) return null
  const free = queue.freeS[0] as number
  const isLoaded = site.loaded.has(option.model)
  const ready = queue.readyS.get(option.model)
  let waitS = free
  let loadS = 0
  let evictionUsd = 0
  const isCold = !isLoaded && ready === undefined
  if (ready !== undefined && !isLoaded) waitS = Math.max(free, ready)
  if (isCold) {
    if (!site.mayLoad) return null
    const victims = site.victimsFor(option.model, pace.gb)
    // Somebody runs what would have to leave: all of them are waited for.
    const roomS = victims === null ? (queue.freeS.at(-1) as number) : 0
    waitS = Math.max(queue.loaderFreeS, roomS)
    loadS = pace.loadS
    waitS = Math.max(waitS, free - loadS)
    for (const victim of victims ?? site.loaded) evictionUsd += site.evictionUsd(victim)
  }
  const startS = waitS + loadS
  const { lengths, promptTokens, knob } = work
  const { calls, answers } = callsOf(work)
  let others = 0
  for (const at of queue.freeS) if (at > startS) others++
  // Calls of the same request run beside each other as far as there is room, and after each other beyond.
  const beside = Math.min(calls, Math.max(1, site.slots - others))
  const rounds = Math.ceil(calls / beside)
  const concurrency = Math.min(site.slots, others + beside)
  const promptLeft = Math.max(0, promptTokens - option.cachedTokens)
  const prefillS = promptLeft * pace.promptS * concurrency * rounds
  const tokenS = pace.tauS + pace.betaS * (concurrency - 1)
  const decode = (tokens: number): number => rounds * tokens * tokenS * withContext(promptTokens + tokens / 2)
  const decodeS = decode(lengths.mean)
  const soloS = calls * promptLeft * pace.promptS + answers * lengths.mean * pace.tauS
  const booked = pace.price === undefined ? null : dollars(pace.price, work)
  const energyUsd = (tokens: number, promptRead: number): number =>
    site.usdPerS * (loadS + calls * promptRead * pace.promptS + answers * tokens * pace.tauS)
  const beforeS = startS + prefillS
  const missShare = late(work, beforeS, rounds * tokenS * withContext(promptTokens + lengths.mean / 2))
  const price = booked ?? {
    usd: energyUsd(lengths.mean, promptLeft),
    // A bound holds also where nothing of it is remembered after all.
    usdP90: energyUsd(lengths.quantile(0.9), promptTokens),
    counted: energyUsd(lengths.mean, promptLeft)
  }
  const slowing = (pace.betaS / pace.tauS) * (concurrency - 1)
  const othersUsd = knob.secondUsd * soloS * (slowing + Math.min(waitingCounted, queue.waitingEach)) + evictionUsd
  const etaS = beforeS + decodeS
  return {
    option,
    waitS,
    loadS,
    prefillS,
    decodeS,
    etaS,
    raw: { p50: beforeS + decode(lengths.quantile(0.5)), p90: beforeS + decode(lengths.quantile(0.9)) },
    concurrency,
    usd: price.usd,
    usdP90: price.usdP90,
    missShare,
    othersUsd,
    score: price.counted + knob.secondUsd * etaS + knob.missUsd * missShare + othersUsd,
    isCold
  }
}

function rentedEstimate(work: Work, option: Option, pace: Extract<Pace, { kind: 'rented' }>, queue: Queue): Estimate {
  const { lengths, promptTokens, knob } = work
  const waitS = pace.waitS(queue.ahead)
  const prefillS = pace.ttftS + promptTokens / rentedPromptTokensPerS
  const decodeS = lengths.mean * pace.tokenS
  const beforeS = waitS + prefillS + failureS * pace.failures
  const etaS = beforeS + decodeS
  const { usd, usdP90, counted } = dollars(pace, work, option.cachedTokens)
  const missShare = late(work, waitS + prefillS, pace.tokenS)
  return {
    option,
    waitS,
    loadS: 0,
    prefillS,
    decodeS,
    etaS,
    raw: { p50: waitS + prefillS + lengths.quantile(0.5) * pace.tokenS, p90: waitS + prefillS + lengths.quantile(0.9) * pace.tokenS },
    concurrency: 1,
    usd,
    usdP90,
    missShare,
    othersUsd: 0,
    score: counted + knob.secondUsd * etaS + knob.missUsd * missShare,
    isCold: false
  }
}

const single = { calls: 1, answers: 1 }

/** Calls that the request is made of, and answers that come of them in all. */
function callsOf({ choices }: Work): typeof single {
  if (choices === undefined) return single
  return { calls: choices.areCalls ? choices.count : 1, answers: choices.count }
}

interface Dollars {
  /** With answers of the usual length; null = the price is unknown. */
  readonly usd: number | null
  /** With long ones, and nothing at the price of what was read before: that is the provider's to say, afterwards. */
  readonly usdP90: number | null
  /** What is weighed: of an unknown price, what a dear model would take. */
  readonly counted: number
}

function dollars({ inputUsd, cachedUsd, outputUsd, callUsd = 0 }: TokenDollars, work: Work, cachedTokens = 0): Dollars {
  const { lengths, promptTokens } = work
  const { calls, answers } = callsOf(work)
  const isKnown = inputUsd !== null && outputUsd !== null
  const input = inputUsd ?? unknownPrice.inputUsd
  const output = outputUsd ?? unknownPrice.outputUsd
  const of = (tokens: number, cached: number): number =>
    calls * (callUsd + (promptTokens - cached) * input + cached * (cachedUsd ?? input)) + answers * tokens * output
  const cached = Math.min(cachedTokens, promptTokens)
  if (!isKnown) return { usd: null, usdP90: null, counted: of(lengths.quantile(0.9), cached) }
  const usd = of(lengths.mean, cached)
  const long = lengths.quantile(0.9)
  return { usd, usdP90: Math.max(of(long, 0), of(long, cached)), counted: usd }
}

/** The share of answers that would be longer than what can come until the deadline; of a stream, the chance that its first token comes later. */
function late({ leftS, lengths, isStream }: Work, beforeS: number, tokenS: number): number {
  if (leftS === null) return 0
  if (leftS <= 0) return 1
  // What it takes until then is known to a factor of two or so.
  if (isStream === true) return 1 / (1 + (leftS / Math.max(beforeS, 1e-9)) ** 4)
  const forAnswerS = leftS - beforeS
  return forAnswerS <= 0 ? 1 : lengths.beyond(forAnswerS / tokenS)
}

/** Attention grows with the context. */
function withContext(tokens: number): number {
  return 1 + tokens / contextDoublesAt
}

// Before that nothing can be said of how fast it goes.
const judgedAfterS = 3
const slowFrom = 2

/**
 * How many times as long a call has taken for what it has given so far; 1 unless that is twice as long. What stalls or became slow is
 * known by this before its answer is over.
 */
export function slowness(
  call: { readonly promptTokens: number; readonly cachedTokens: number; readonly ranS: number; readonly streamed: number },
  pace: { readonly tauS: number; readonly betaS: number; readonly promptS: number },
  concurrency: number
): number {
  if (call.ranS < judgedAfterS) return 1
  const promptS = Math.max(0, call.promptTokens - call.cachedTokens) * pace.promptS * concurrency
  const answerS = call.streamed * (pace.tauS + pace.betaS * (concurrency - 1)) * withContext(call.promptTokens + call.streamed / 2)
  const ratio = call.ranS / Math.max(judgedAfterS / slowFrom, promptS + answerS)
  return ratio >= slowFrom ? ratio : 1
}

/** How long a call that runs here goes on. `ranS`: since it began; `streamed`: tokens it has given. */
export function remainingS(
  call: {
    readonly promptTokens: number
    readonly cachedTokens: number
    readonly lengths: Lengths
    readonly ranS: number
    readonly streamed: number
  },
  pace: { readonly tauS: number; readonly betaS: number; readonly promptS: number },
  concurrency: number
): number {
  const tokenS = pace.tauS + pace.betaS * (concurrency - 1)
  const more = call.lengths.moreAfter(call.streamed)
  const decodeS = more * tokenS * withContext(call.promptTokens + call.streamed + more / 2)
  if (call.streamed > 0) return decodeS
  const prefillS = Math.max(0, call.promptTokens - call.cachedTokens) * pace.promptS * concurrency
  return Math.max(0, prefillS - call.ranS) + decodeS
}
