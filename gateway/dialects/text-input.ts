// `prompt` and `input`: a text, a list of texts, a list of tokens, or a list of such lists.

import { GatewayError } from '../../routing/errors.ts'
import { estimateTokens } from '../../routing/tokens.ts'
import type { TextInput, TokenEstimate } from '../../routing/types.ts'
import { missing, wrong } from '../fields.ts'
import { isToken, loadDecoder } from '../token-text.ts'

export interface ReadTextInput {
  readonly input: TextInput
  /** Of all texts together, and of the longest one. */
  readonly prompt: TokenEstimate
  readonly longest: TokenEstimate
}

export interface TextInputRules {
  /** The field's name. */
  readonly name: 'prompt' | 'input'
  readonly textsAtMost: number
  /** Whether an empty text means something. */
  readonly mayBeEmpty: boolean
}

/** Throws GatewayError `invalid_request` naming the element that is wrong. */
export async function readTextInput(value: unknown, rules: TextInputRules): Promise<ReadTextInput> {
  const { name } = rules
  if (value === undefined || value === null) throw missing(name, 'a text, a list of texts, or lists of tokens')
  const items: readonly unknown[] = typeof value === 'string' || isTokenList(value) ? [value] : Array.isArray(value) ? value : []
  if (items.length === 0) throw wrong(name, 'a text, a list of texts, or lists of tokens', value)
  if (items.length > rules.textsAtMost) {
    throw new GatewayError('invalid_request', `"${name}" has ${items.length} elements; at most ${rules.textsAtMost} are taken at once.`, {
      param: name,
      publicCode: 'invalid_value'
    })
  }
  const asTokens = typeof items[0] !== 'string'
  const decode = asTokens ? await loadDecoder() : null
  const texts = items.map((item, index) => {
    const at = items.length === 1 && item === value ? name : `${name}[${index}]`
    const isText = typeof item === 'string'
    if (isText === asTokens || (!isText && !isTokenList(item))) {
      throw wrong(at, asTokens ? 'a list of cl100k_base tokens, as the first element is' : 'a text, as the first element is', item)
    }
    if (item.length === 0 && !rules.mayBeEmpty) throw wrong(at, 'something to work on', item)
    return isText ? item : (decode as NonNullable<typeof decode>)(item)
  })
  const estimates = texts.map((text, index) => (asTokens ? exactly(items[index] as readonly number[]) : estimateOf(text)))
  return {
    input: { texts, asTokens },
    prompt: estimates.reduce((sum, one) => ({ low: sum.low + one.low, expected: sum.expected + one.expected })),
    longest: estimates.reduce((most, one) => ({ low: Math.max(most.low, one.low), expected: Math.max(most.expected, one.expected) }))
  }
}

function isTokenList(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.length > 0 && value.every(isToken)
}

/** The same text may have other tokens for another model: at least half as many, as far as was seen. */
function exactly(tokens: readonly number[]): TokenEstimate {
  return { low: Math.ceil(tokens.length / 2), expected: tokens.length }
}

function estimateOf(text: string): TokenEstimate {
  return estimateTokens({ textBytes: Buffer.byteLength(text), messages: 0, pictures: 0 })
}
