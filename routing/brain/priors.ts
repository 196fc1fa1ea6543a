// What is expected of a model on a machine before anything was measured there: from its size and the machine's memory. Pure.

import type { Profile } from '../profile.ts'
import type { Pace } from './types.ts'

export interface MachineFacts {
  /** As the machine or the configuration names it; null = unknown. */
  readonly gpu: string | null
  readonly watts: number
  readonly vramGb: number | null
}

export interface ModelFacts {
  /** Gigabytes of the weights; null = unknown. */
  readonly gb: number | null
  /** Billions of parameters. */
  readonly paramsB: number | null
}

// Memory bandwidth, GB/s, and half-precision speed, TFLOPS, by what is in the name: the makers' data sheets.
const machines: readonly (readonly [RegExp, number, number])[] = [
  [/5090/, 1_792, 209],
  [/4090/, 1_008, 165],
  [/4080/, 717, 97],
  [/4070/, 504, 58],
  [/4060/, 272, 30],
  [/3090/, 936, 71],
  [/3080/, 760, 60],
  [/3060/, 360, 25],
  [/H100/i, 3_350, 990],
  [/A100/i, 1_935, 312],
  [/\bL4\b/, 300, 121],
  [/M[1-4] Ultra/i, 800, 50],
  [/M[1-4] Max/i, 400, 28],
  [/M[1-4] Pro/i, 220, 14],
  [/M[1-4]/i, 110, 8]
]
// Of a machine without a name: gigabytes a second and TFLOPS for each watt, as large GPUs and small computers have them alike.
const perWatt = { bandwidth: 2.5, tflops: 0.3 }
// What of the bandwidth and of the speed is reached.
const reached = { bandwidth: 0.6, flops: 0.35 }
const loadBaseS = 2
const loadGbPerS = 0.7
const usualGb = 5
// Four bits a weight, and what is around them.
const gbPerBillion = 0.6
const watts = { gpu: 150, apple: 60 }
// Free electricity (0 watts) says nothing of the speed.
const usualWatts = 150
// Smaller than any: Ollama lists models that run elsewhere with some hundred bytes.
const leastGb = 0.01

/** Of an own machine, by a roofline: each token reads all weights once. */
export function priorPace(machine: MachineFacts, model: ModelFacts): Extract<Pace, { kind: 'own' }> {
  const named = machine.gpu === null ? undefined : machines.find(([name]) => name.test(machine.gpu as string))
  const power = machine.watts > 0 ? machine.watts : usualWatts
  const bandwidth = named?.[1] ?? perWatt.bandwidth * power
  const tflops = named?.[2] ?? perWatt.tflops * power
  const gb = [model.gb ?? 0, (model.paramsB ?? 0) * gbPerBillion].find(size => size >= leastGb) ?? usualGb
  const billions = model.paramsB || gb / gbPerBillion
  const tauS = (gb * 1.1) / Math.max(1, bandwidth) / reached.bandwidth
  const share = power >= watts.gpu ? 0.45 : power >= watts.apple ? 0.8 : 0.95
  return {
    kind: 'own',
    tauS,
    betaS: share * tauS,
    promptS: (2 * billions) / (Math.max(0.1, tflops) * 1_000 * reached.flops),
    loadS: loadBaseS + gb / loadGbPerS,
    gb: model.gb
  }
}

// What was seen so long ago counts half.
const halfLifeS = 600
// A slow figure nobody has seen confirmed for a while is believed less and less.
const believedForS = 30
const doubtS = 120

/** What is known, in place of what is only expected. `nowMs`: by the same clock as the profile. */
export function learnedPace(prior: Extract<Pace, { kind: 'own' }>, profile: Profile | null, nowMs: number): Extract<Pace, { kind: 'own' }> {
  if (profile === null) return prior
  const { answer, promptSPerToken, loadS, usualTauS, samples, atMs } = profile
  const slowing = answer === null ? 1 : answer.tauS / (usualTauS ?? answer.tauS)
  const ageS = Math.max(0, nowMs - atMs) / 1_000
  const ease = slowing <= 1 || ageS <= believedForS ? 1 : (1 + (slowing - 1) * Math.exp(-(ageS - believedForS) / doubtS)) / slowing
  return {
    kind: 'own',
    tauS: answer === null ? prior.tauS : answer.tauS * ease,
    betaS: answer === null ? prior.betaS : answer.betaS * ease,
    promptS: promptSPerToken ?? prior.promptS,
    loadS: loadS ?? prior.loadS,
    gb: prior.gb,
    samples: samples.answers * 0.5 ** (ageS / halfLifeS)
  }
}

/** The same machine while it is so many times as slow. */
export function slower(pace: Extract<Pace, { kind: 'own' }>, times: number): Extract<Pace, { kind: 'own' }> {
  return times === 1 ? pace : { ...pace, tauS: pace.tauS * times, betaS: pace.betaS * times, promptS: pace.promptS * times }
}
