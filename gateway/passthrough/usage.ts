// What an answer says that it used, looked for while it passes. Whole JSON when it is small, else the end of it, where usage stands.

import type { Usage } from '../../routing/types.ts'
import { isRecord } from '../fields.ts'

export interface UsageSeen {
  readonly usage: Usage
  /** Some of the input were sounds or pictures, which have prices of their own. */
  readonly hasMedia: boolean
}

export interface UsageWatch {
  see(chunk: Buffer): void
  /** Null when the answer named no tokens. */
  end(): UsageSeen | null
}

const heldBytesAtMost = 1024 * 1024
const tailBytes = 64 * 1024
// $1 million: more than any request costs.
const nanoUsdAtMost = 1e15

/** Holds at most 1 MiB of what it sees. `saysCost`: its `cost` is in dollars, as OpenRouter's is. */
export function createUsageWatch(saysCost: boolean): UsageWatch {
  let held: Buffer[] = []
  let heldBytes = 0

  function see(chunk: Buffer): void {
    held.push(chunk)
    heldBytes += chunk.length
    if (heldBytes <= heldBytesAtMost) return
    const tail = Buffer.concat(held).subarray(-tailBytes)
    // A copy: a view would keep the megabyte it was cut from.
    held = [Buffer.from(tail)]
    heldBytes = tail.length
  }

  function end(): UsageSeen | null {
    const text = Buffer.concat(held).toString('utf8')
    held = []
    const whole = parsed(text)
    return usageFrom(isRecord(whole) ? whole.usage : lastUsage(text), saysCost)
  }

  return { see, end }
}

/**
 * The value of the last key "usage". A string cannot look like one: its quotes would be escaped. That holds for the end of a
 * large JSON (pictures stand before their usage) and for the last event of a stream alike.
 */
function lastUsage(text: string): unknown {
  const key = text.lastIndexOf('"usage"')
  if (key === -1) return null
  const opening = /^"usage"\s*:\s*(?=\{)/.exec(text.slice(key, key + 200))
  if (opening === null) return null
  const start = key + opening[0].length
  let depth = 0
  // Figures only: longer than this it is something else.
  for (let at = start; at < Math.min(text.length, start + 8_192); at++) {
    const sign = text[at]
    if (sign === '{') depth++
    else if (sign === '}' && --depth === 0) return parsed(text.slice(start, at + 1))
  }
  return null
}

/** Both of OpenAI's spellings. Null without any figure, e.g. where only the seconds of a recording are counted. */
function usageFrom(given: unknown, saysCost: boolean): UsageSeen | null {
  if (!isRecord(given)) return null
  const prompt = given.input_tokens ?? given.prompt_tokens
  const completion = given.output_tokens ?? given.completion_tokens
  if (!isCount(prompt) && !isCount(completion)) return null
  const input = detailsOf(given.input_tokens_details ?? given.input_token_details ?? given.prompt_tokens_details)
  const output = detailsOf(given.output_tokens_details ?? given.output_token_details ?? given.completion_tokens_details)
  return {
    usage: {
      promptTokens: count(prompt),
      completionTokens: count(completion),
      cachedTokens: count(input.cached_tokens),
      reasoningTokens: count(output.reasoning_tokens),
      // With a key of one's own there, most of the bill comes from somebody else.
      providerNanoUsd:
        saysCost && given.is_byok !== true && isCount(given.cost) ? Math.min(Math.ceil(given.cost * 1e9), nanoUsdAtMost) : null,
      busyMs: null
    },
    hasMedia: count(input.audio_tokens) > 0 || count(input.image_tokens) > 0
  }
}

function detailsOf(value: unknown): Readonly<Record<string, unknown>> {
  return isRecord(value) ? value : {}
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0
}

function count(value: unknown): number {
  return isCount(value) ? Math.min(Math.round(value), 1e9) : 0
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return null
  }
}
