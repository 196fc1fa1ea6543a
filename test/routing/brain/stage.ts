// What the tests of the brain share: machines, providers and work with plain figures, and chance that is the same in every run.

import { knobs } from '../../../routing/brain/estimate.ts'
import type { Lengths } from '../../../routing/brain/lengths.ts'
import type { Option, OwnSite, Pace, Site, Work } from '../../../routing/brain/types.ts'

/** Numbers from 0 to 1, the same ones in every run. */
export function chanceOf(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Of a normal distribution around 0. */
export function normalOf(chance: () => number): number {
  return Math.sqrt(-2 * Math.log(1 - chance())) * Math.cos(2 * Math.PI * chance())
}

/** Any length from 0 to twice the mean is as likely: everything about it can be worked out by hand. */
export function evenLengths(mean: number): Lengths {
  return {
    mean,
    quantile: share => 2 * mean * share,
    beyond: tokens => Math.max(0, Math.min(1, 1 - tokens / (2 * mean))),
    moreAfter: tokens => Math.max(1, (2 * mean - tokens) / 2)
  }
}

type OwnPace = Extract<Pace, { kind: 'own' }>
type RentedPace = Extract<Pace, { kind: 'rented' }>

/** One place, model `m` in memory, nothing runs. */
export function machine(id: string, changes: Partial<OwnSite> = {}): Site {
  return {
    id,
    own: {
      slots: 1,
      usdPerS: 0,
      busyS: [],
      loaded: new Set(['m']),
      loading: null,
      mayLoad: true,
      victimsFor: () => [],
      evictionUsd: () => 0,
      ...changes
    }
  }
}

/** Model `m` there: 0.01 s a token, 0.004 s more for each other, 0.001 s for a prompt's token, 4 s to load. */
export function on(site: Site, changes: Partial<OwnPace> & { readonly model?: string; readonly cachedTokens?: number } = {}): Option {
  const { model = 'm', cachedTokens = 0, ...pace } = changes
  return {
    id: `${site.id}/${model}`,
    site,
    model,
    pace: { kind: 'own', tauS: 0.01, betaS: 0.004, promptS: 0.001, loadS: 4, gb: 5, ...pace },
    cachedTokens
  }
}

/** Model `m` of a provider: 0.5 s to the first token, 0.02 s for each, never fails, $1 and $4 for a million tokens. */
export function rented(id: string, changes: Partial<RentedPace> & { readonly cachedTokens?: number; readonly site?: Site } = {}): Option {
  const { cachedTokens = 0, site = { id, own: null }, ...pace } = changes
  return {
    id: `${id}/m`,
    site,
    model: 'm',
    pace: {
      kind: 'rented',
      ttftS: 0.5,
      tokenS: 0.02,
      failures: 0,
      inputUsd: 1e-6,
      cachedUsd: 1e-7,
      outputUsd: 4e-6,
      waitS: () => 0,
      ...pace
    },
    cachedTokens
  }
}

/** 1,000 tokens of prompt, 200 of answer on average and 360 of a long one, no bounds. */
export function workOf(options: readonly Option[], changes: Partial<Work> = {}): Work {
  return {
    id: 'w',
    promptTokens: 1_000,
    lengths: evenLengths(200),
    knob: knobs.balanced,
    leftS: null,
    isHard: false,
    maxUsd: null,
    chain: [],
    options,
    ...changes
  }
}

/** Where in a value, at any depth, a number is none: its path; null = nowhere. Functions and sets are passed over. */
export function notFinite(value: unknown, path = ''): string | null {
  if (typeof value === 'number') return Number.isFinite(value) ? null : `${path} = ${value}`
  if (typeof value !== 'object' || value === null) return null
  const entries = value instanceof Map ? [...value.entries()] : Object.entries(value)
  for (const [name, inner] of entries) {
    const found = notFinite(inner, `${path}.${String(name)}`)
    if (found !== null) return found
  }
  return null
}
