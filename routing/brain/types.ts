// What the brain weighs: a piece of work, the options it has, and the sites they are at. Types only. Seconds, tokens and dollars.

import type { Caller, ModelRequest, Target } from '../types.ts'
import type { Chain } from './affinity.ts'
import type { Lengths } from './lengths.ts'

export type Route = 'cost' | 'balanced' | 'fast'

/** What a second and a missed deadline are worth, dollars. */
export interface Knob {
  readonly route: Route
  readonly secondUsd: number
  readonly missUsd: number
}

/** A request with the targets that may answer it. */
export interface Asked {
  readonly request: ModelRequest
  readonly caller: Pick<Caller, 'source'>
  readonly targets: readonly Target[]
}

/** One request, as far as it matters here. */
export interface Work {
  readonly id: string
  readonly promptTokens: number
  readonly lengths: Lengths
  readonly knob: Knob
  /** Until its deadline; null = it has none. */
  readonly leftS: number | null
  /** No answer after the deadline is wanted. */
  readonly isHard: boolean
  /** Its deadline is for the first token; absent = for the whole answer. */
  readonly isStream?: boolean
  /** Answers it is to have, and whether each is a call of its own; absent = one. */
  readonly choices?: { readonly count: number; readonly areCalls: boolean }
  /** All of it must not cost more, even if its answers get long; null = no bound. */
  readonly maxUsd: number | null
  /** Empty where nothing is known of its beginning. */
  readonly chain: Chain
  readonly options: readonly Option[]
}

/** A target that may do it. */
export interface Option {
  /** Of the target. */
  readonly id: string
  readonly site: Site
  /** As it is called there. */
  readonly model: string
  readonly pace: Pace
  /** Tokens of the prompt's beginning that were read there lately. */
  readonly cachedTokens: number
}

export type Pace =
  | {
      readonly kind: 'own'
      /** Of one token alone, and what each other call beside it adds. */
      readonly tauS: number
      readonly betaS: number
      readonly promptS: number
      readonly loadS: number
      /** In memory when loaded; null = unknown. */
      readonly gb: number | null
      /** Answers it is known from, as far as they still count; absent = none. */
      readonly samples?: number
      /** What is booked for its tokens; absent = electricity is. */
      readonly price?: TokenDollars
    }
  | (TokenDollars & {
      readonly kind: 'rented'
      readonly ttftS: number
      readonly tokenS: number
      readonly failures: number
      /** Answers it is known from; absent = none. */
      readonly samples?: number
      /** Until the provider takes one more call, after so many others. */
      waitS(ahead: number): number
    })

/** Dollars a token; null = the price is unknown, which is not 0. */
export interface TokenDollars {
  readonly inputUsd: number | null
  readonly cachedUsd: number | null
  readonly outputUsd: number | null
  /** For the call itself, whatever its length; absent = nothing. */
  readonly callUsd?: number
}

/** A machine of ours, or a provider. */
export interface Site {
  readonly id: string
  readonly own: OwnSite | null
}

export interface OwnSite {
  readonly slots: number
  /** What an hour of work costs, divided by 3,600. */
  readonly usdPerS: number
  /** When each of the calls that run there will be over, from now. */
  readonly busyS: readonly number[]
  readonly loaded: Loaded
  readonly loading: { readonly model: string; readonly leftS: number } | null
  /** False: a load there has not ended for long; nothing is loaded there for now. */
  readonly mayLoad: boolean
  /** What would have to leave for a model; null = there is no room for it now. */
  victimsFor(model: string, gb: number | null): readonly string[] | null
  /** Dollars of delay for others, if this model were thrown out. */
  evictionUsd(model: string): number
}

/** The models in a machine's memory. */
export interface Loaded extends Iterable<string> {
  has(model: string): boolean
}

/** What one option would come to. */
export interface Estimate {
  readonly option: Option
  /** Until it begins there: for a place, for others before it, for a provider's limit. */
  readonly waitS: number
  readonly loadS: number
  readonly prefillS: number
  readonly decodeS: number
  /** All of these. */
  readonly etaS: number
  /** The same with a median answer and with a long one, before calibration. */
  readonly raw: { readonly p50: number; readonly p90: number }
  readonly concurrency: number
  /** Null = unknown. */
  readonly usd: number | null
  readonly usdP90: number | null
  readonly missShare: number
  /** Delay of others, in dollars. */
  readonly othersUsd: number
  /** Dollars; lower is better. */
  readonly score: number
  readonly isCold: boolean
}
