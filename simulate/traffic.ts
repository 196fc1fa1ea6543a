// All requests of a run, drawn before it begins: the same seed gives the same whatever a policy does.

import { drawLengths } from './lengths.ts'
import { createStream, hash32, type Stream } from './random.ts'
import { defaults } from './scenario.ts'
import type { Job, Scenario, ScenarioSource } from './types.ts'

/** A job, and what only the world knows of it. Seconds of the true clock. */
export interface Request {
  readonly job: Job
  readonly arrivedS: number
  readonly outputTokens: number
  readonly isCut: boolean
  /** exp(0.12 z): what its work takes on any own node, times. */
  readonly noise: number
  /** When its client leaves, if it is not answered by then. */
  readonly leavesS: number | null
  /** Where its answer stands still, as a share of it, and for how long. */
  readonly stall: { readonly share: number; readonly seconds: number } | null
  /** The conversation it is a turn of. */
  readonly conversation: string | null
  /** What names its own streams: the source and its number there. */
  readonly key: string
}

// README of the scenarios: the noise of a job's work.
const jobNoise = 0.12
// The time between two turns of a conversation, besides what the answer takes on the reference device.
const meanThinkS = 30

/** In the order of arrival. `shown` is the clock that a policy sees. */
export function drawTraffic(scenario: Scenario, seed: number, shown: (atS: number) => number): Request[] {
  const drafts = scenario.sources.flatMap(source => ofSource(scenario, source, seed))
  drafts.sort((a, b) => a.arrivedS - b.arrivedS || (a.key < b.key ? -1 : 1))
  return drafts.map((draft, id) => ({ ...draft, job: { ...draft.job, id, arrivedS: shown(draft.arrivedS) } }))
}

type Draft = Omit<Request, 'job'> & { readonly job: Omit<Job, 'id' | 'arrivedS'> }

function ofSource(scenario: Scenario, source: ScenarioSource, seed: number): Draft[] {
  const times = arrivals(source, scenario.duration, createStream(seed, source.id, 'arrivals'))
  return times.flatMap((atS, number) => conversation(scenario, source, { seed, atS, number }))
}

/** When each begins, in no certain order. None begins after the scenario. */
export function arrivals(source: ScenarioSource, duration: number, stream: Stream): number[] {
  const from = source.from ?? 0
  const to = Math.min(source.to ?? duration, duration)
  const times: number[] = []
  const { rate = 1, every = duration, size = 1, inRate = 1 } = source
  if (source.kind === 'poisson') {
    for (let atS = from + stream.exponential(1 / rate); atS < to; atS += stream.exponential(1 / rate)) times.push(atS)
  } else if (source.kind === 'burst') {
    for (let startS = from + stream.exponential(every); startS < to; startS += stream.exponential(every)) {
      const requests = Math.max(1, Math.round(size * Math.exp(0.5 * stream.normal())))
      let atS = startS
      for (let index = 0; index < requests; index++, atS += stream.exponential(1 / inRate)) if (atS < to) times.push(atS)
    }
  } else {
    for (const startS of source.at ?? []) for (let index = 0; index < size; index++) times.push(startS + index * 0.02)
  }
  return times
}

/**
 * One request, or the `turns` of a conversation. A turn comes a while after the one before it, as if that had been answered as
 * soon as the reference device could: by when it really was would depend on the policy.
 */
function conversation(scenario: Scenario, source: ScenarioSource, start: { seed: number; atS: number; number: number }): Draft[] {
  const turns: Draft[] = []
  const name = `${source.id}/${start.number}`
  let { atS } = start
  let historyTokens = 0
  const prefix: string[] = []
  const model = drawModel(source, createStream(start.seed, name, 'model'))
  const reference = scenario.models[model]?.ref ?? { dec: 1, pre: 1 }
  for (let turn = 0; turn < (source.turns ?? 1); turn++) {
    const key = `${name}/${turn}`
    const stream = createStream(start.seed, key)
    const { promptTokens: ownTokens, outputTokens, isCut } = drawLengths(source, stream)
    const promptTokens = historyTokens + ownTokens
    const aloneS = ownTokens / reference.pre + outputTokens / reference.dec
    const noise = Math.exp(jobNoise * stream.normal())
    prefix.push(chained(prefix.at(-1), `${key}/question`))
    turns.push({
      job: {
        source: source.id,
        weight: source.weight ?? 1,
        model,
        promptTokens,
        maxTokens: source.maxTokens ?? null,
        deadlineS: source.deadline,
        prio: source.prio,
        prefix: source.turns === undefined ? [] : [...prefix]
      },
      arrivedS: atS,
      outputTokens,
      isCut,
      noise,
      leavesS: leaves(scenario, atS, aloneS, createStream(start.seed, key, 'leaves')),
      stall: stalls(scenario, createStream(start.seed, key, 'stall')),
      conversation: source.turns === undefined ? null : name,
      key
    })
    prefix.push(chained(prefix.at(-1), `${key}/answer`))
    historyTokens = promptTokens + outputTokens
    atS += aloneS + stream.exponential(meanThinkS)
    if (atS >= scenario.duration) break
  }
  return turns
}

function drawModel(source: ScenarioSource, stream: Stream): string {
  if (source.model !== undefined) return source.model
  const mix = Object.entries(source.mix ?? {})
  let left = stream.uniform() * mix.reduce((sum, [, share]) => sum + share, 0)
  for (const [model, share] of mix) if ((left -= share) < 0) return model
  return mix.at(-1)?.[0] ?? ''
}

/**
 * At a random point of twice the time that the reference device alone would take: some leave while they wait, most while they are
 * answered, and where it is fast some are answered before.
 */
function leaves(scenario: Scenario, arrivedS: number, aloneS: number, stream: Stream): number | null {
  return stream.uniform() < (scenario.cancelFraction ?? 0) ? arrivedS + 2 * aloneS * stream.uniform() : null
}

function stalls(scenario: Scenario, stream: Stream): Request['stall'] {
  const { stalls = 0, stallSeconds = defaults.stallS } = scenario.hidden ?? {}
  return stream.uniform() < stalls ? { share: stream.uniform(), seconds: stallSeconds } : null
}

/** The hash of a message with all before it. */
function chained(before: string | undefined, message: string): string {
  const text = `${before ?? ''}\n${message}`
  return [text, `${text}\n`].map(each => hash32(each).toString(16).padStart(8, '0')).join('')
}
