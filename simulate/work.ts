// One request's work on an own node: it reads its prompt, then it answers, and somewhere it may stand still.

import type { Request } from './traffic.ts'
import type { Finished } from './types.ts'

// README of the scenarios: so many tokens of context double the time of a token.
const contextTokens = 24_000
// Floating point leaves crumbs of a token; the largest job has 1e5.
const crumb = 1e-7

export interface Phase {
  readonly kind: 'prompt' | 'answer' | 'still'
  /** Tokens; of standing still, seconds. */
  left: number
}

/** Seconds are of the true clock. */
export interface Work {
  readonly request: Request
  readonly sentS: number
  readonly startedS: number
  /** Of the prompt, what was not known here. */
  readonly readTokens: number
  /** Times that a token takes the longer for its context. */
  readonly context: number
  readonly phases: Phase[]
  streamed: number
  firstTokenS: number | null
  promptS: number
  outputS: number
  /** Seconds times how many ran. */
  promptShared: number
  outputShared: number
}

type Start = Pick<Work, 'request' | 'sentS' | 'startedS'> & { readonly knownTokens: number; readonly contextFactor: number }

export function createWork({ request, sentS, startedS, knownTokens, contextFactor }: Start): Work {
  const { job, outputTokens, stall } = request
  const readTokens = Math.max(1, job.promptTokens - knownTokens)
  const before = stall === null ? outputTokens : outputTokens * stall.share
  const rest: Phase[] =
    stall === null
      ? []
      : [
          { kind: 'still', left: stall.seconds },
          { kind: 'answer', left: outputTokens - before }
        ]
  return {
    request,
    sentS,
    startedS,
    readTokens,
    context: 1 + (contextFactor * (job.promptTokens + outputTokens / 2)) / contextTokens,
    phases: [{ kind: 'prompt', left: readTokens }, { kind: 'answer', left: before }, ...rest],
    streamed: 0,
    firstTokenS: null,
    promptS: 0,
    outputS: 0,
    promptShared: 0,
    outputShared: 0
  }
}

/** Lets it run for so long at this many units of its phase a second, beside as many others as make `active`. */
export function progress(work: Work, rate: number, seconds: number, active: number): void {
  const phase = work.phases[0]
  if (phase === undefined) return
  const done = Math.min(phase.left, rate * seconds)
  phase.left -= done
  if (phase.kind === 'answer') work.streamed += done
  if (phase.kind === 'prompt') {
    work.promptS += seconds
    work.promptShared += seconds * active
  } else {
    work.outputS += seconds
    work.outputShared += seconds * active
  }
}

/** Leaves the phases that have nothing left; true when there are no more. */
export function turnOver(work: Work, nowS: number): boolean {
  while (work.phases[0] !== undefined && work.phases[0].left <= crumb) {
    if (work.phases.shift()?.kind === 'prompt') work.firstTokenS = nowS
  }
  return work.phases.length === 0
}

/** Whole tokens of the answer, `seconds` after it was last brought up to date. */
export function streamed(work: Work, rate: number, seconds: number): number {
  const phase = work.phases[0]
  const since = phase?.kind === 'answer' ? Math.min(phase.left, rate * seconds) : 0
  return Math.floor(work.streamed + since + crumb)
}

type Ending = { readonly node: string; readonly outcome: Finished['outcome']; shown(atS: number): number }

export function finishedWork(work: Work, { node, outcome, shown }: Ending): Finished {
  const isDone = outcome === 'done'
  return {
    job: work.request.job,
    node,
    outcome,
    sentS: shown(work.sentS),
    startedS: shown(work.startedS),
    promptTokens: work.readTokens,
    promptS: work.promptS,
    outputTokens: isDone ? work.request.outputTokens : streamed(work, 0, 0),
    outputS: work.outputS,
    firstTokenS: work.firstTokenS === null ? null : shown(work.firstTokenS),
    isCut: isDone && work.request.isCut,
    meanActive: { prompt: mean(work.promptShared, work.promptS), output: mean(work.outputShared, work.outputS) }
  }
}

/** Of a request that never began: it waited, or was refused. */
export function unbegun(request: Request, sentS: number, { node, outcome, shown }: Ending): Finished {
  return {
    job: request.job,
    node,
    outcome,
    sentS: shown(sentS),
    startedS: shown(sentS),
    promptTokens: 0,
    promptS: 0,
    outputTokens: 0,
    outputS: 0,
    firstTokenS: null,
    isCut: false,
    meanActive: { prompt: 0, output: 0 }
  }
}

const mean = (sum: number, seconds: number): number => (seconds > 0 ? sum / seconds : 0)
