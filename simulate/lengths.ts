// How long prompts and answers are: quantiles of public traces, and what is drawn from them.

import type { Stream } from './random.ts'
import type { ScenarioSource } from './types.ts'

// Azure LLM inference traces 2023, CC-BY-4.0. Prompt and answer are practically uncorrelated, so each is drawn for itself.
const shares = [0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1] as const

/** Tokens at each of `shares`. */
const tables = {
  code: {
    prompt: [3, 18, 76, 151, 413, 799, 1087, 1480, 1911, 2425, 3180, 5108, 7212, 7436, 7437],
    output: [6, 6, 6, 7, 8, 9, 11, 13, 16, 20, 29, 55, 88, 258, 1899]
  },
  conv: {
    prompt: [2, 27, 181, 209, 388, 404, 724, 1022, 1072, 1130, 1316, 2705, 4083, 4154, 7930],
    output: [10, 16, 41, 53, 78, 91, 103, 129, 177, 385, 401, 427, 459, 610, 1000]
  }
} as const satisfies Record<string, Record<'prompt' | 'output', readonly number[]>>

/** Tokens that this share of all lengths stays below; between two of the table in log space. */
export function quantile(table: 'code' | 'conv', of: 'prompt' | 'output', share: number): number {
  const values: readonly number[] = tables[table][of]
  const above = shares.findIndex(each => each >= share)
  const upper = values[above] ?? Number.NaN
  const lower = values[above - 1] ?? upper
  const from = shares[above - 1] ?? 0
  const to = shares[above] ?? 1
  return to === from ? upper : Math.exp(Math.log(lower) + ((share - from) / (to - from)) * Math.log(upper / lower))
}

export interface Lengths {
  readonly promptTokens: number
  readonly outputTokens: number
  /** The answer would have been longer than `maxTokens`. */
  readonly isCut: boolean
}

type Scales = Pick<ScenarioSource, 'len' | 'inScale' | 'outScale' | 'maxTokens'>

/** Whole tokens, at least one of each. Draws two numbers, whatever the scales. */
export function drawLengths({ len, inScale = 1, outScale = 1, maxTokens = Number.POSITIVE_INFINITY }: Scales, stream: Stream): Lengths {
  const promptTokens = whole(quantile(len, 'prompt', stream.uniform()) * inScale)
  const wanted = whole(quantile(len, 'output', stream.uniform()) * outScale)
  return { promptTokens, outputTokens: Math.min(wanted, maxTokens), isCut: wanted > maxTokens }
}

const whole = (tokens: number): number => Math.max(1, Math.round(tokens))
