// The options of a request for Ollama, from OpenAI's fields and from its own, checked one by one.

import { isGiven, isObject, type Json, wrong } from './values.ts'

// What an unknown context is taken for, so that no answer is without an end.
const assumedContextTokens = 8192

type Kind = 'number' | 'whole' | 'stops'

/**
 * Options that take effect per request, with the names they go by. Never the ones a model is loaded with
 * (num_ctx, num_batch, num_gpu, main_gpu, use_mmap, num_thread, draft_num_predict): another value reloads the model
 * under everybody else's requests.
 */
const runtimeOptions: readonly { readonly name: string; readonly aliases?: readonly string[]; readonly kind: Kind }[] = [
  { name: 'temperature', kind: 'number' },
  { name: 'top_p', kind: 'number' },
  { name: 'seed', kind: 'whole' },
  { name: 'stop', kind: 'stops' },
  { name: 'presence_penalty', kind: 'number' },
  { name: 'frequency_penalty', kind: 'number' },
  { name: 'top_k', kind: 'whole' },
  { name: 'min_p', kind: 'number' },
  { name: 'typical_p', kind: 'number' },
  { name: 'repeat_penalty', aliases: ['repetition_penalty'], kind: 'number' },
  { name: 'repeat_last_n', kind: 'whole' }
]

/** The fields of a request that these options are taken from. */
export const optionFields: readonly string[] = ['options', ...runtimeOptions.flatMap(({ name, aliases = [] }) => [name, ...aliases])]

export interface OptionLimits {
  readonly contextTokens: number | null
  /** What the answer may have, if OpenAI's fields say so. */
  readonly answerTokens: number | null
  /** Where nobody says; without it, as many as there is room for. */
  readonly defaultAnswerTokens?: number
}

/** Throws GatewayError `invalid_request` naming the field that is wrong, because Ollama answers a wrong type with 500. */
export function optionsOf(body: Json, limits: OptionLimits): Json {
  const given = body.options ?? {}
  if (!isObject(given)) throw wrong('options', 'an object')
  const options: Record<string, unknown> = { num_predict: answerTokensOf(given, limits) }
  if (limits.contextTokens !== null) options.num_ctx = limits.contextTokens
  for (const { name, aliases = [], kind } of runtimeOptions) {
    const names = [name, ...aliases]
    const top = names.find(name => isGiven(body[name]))
    const nested = names.find(name => isGiven(given[name]))
    const value =
      top !== undefined
        ? optionValue(body[top], top, kind)
        : nested === undefined
          ? undefined
          : optionValue(given[nested], `options.${nested}`, kind)
    if (value !== undefined) options[name] = value
  }
  return options
}

/** Always a bound: without one a model may talk until the machine is switched off. */
function answerTokensOf(given: Json, { contextTokens, answerTokens, defaultAnswerTokens }: OptionLimits): number {
  const bound = contextTokens ?? assumedContextTokens
  if (answerTokens !== null) return Math.min(answerTokens, bound)
  const native = given.num_predict
  if (!isGiven(native)) return Math.min(defaultAnswerTokens ?? bound, bound)
  if (!Number.isInteger(native)) throw wrong('options.num_predict', 'a whole number')
  // Ollama's own -1 and -2 ask for no bound.
  return Number(native) < 1 ? bound : Math.min(Number(native), bound)
}

function optionValue(value: unknown, param: string, kind: Kind): number | readonly string[] | undefined {
  if (kind === 'stops') return stopsOf(value, param)
  if (typeof value !== 'number' || !Number.isFinite(value)) throw wrong(param, 'a number')
  if (kind === 'whole' && !Number.isInteger(value)) throw wrong(param, 'a whole number')
  return value
}

function stopsOf(value: unknown, param: string): readonly string[] | undefined {
  const stops: unknown = typeof value === 'string' ? [value] : value
  if (!Array.isArray(stops) || !stops.every(stop => typeof stop === 'string')) throw wrong(param, 'a string or a list of strings')
  // Ollama finds an empty stop in every text and ends at once.
  const real = stops.filter(stop => stop !== '')
  return real.length === 0 ? undefined : real
}
