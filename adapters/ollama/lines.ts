// One line of Ollama's answer, parsed and checked. Wire format: ChatResponse and GenerateResponse in its api/types.go.

import type { Usage } from '../../routing/types.ts'
import { errorValueText } from './failures.ts'
import { count, isObject, type Json } from './values.ts'

export interface NativeToolCall {
  readonly id: string | null
  readonly name: string
  /** JSON. */
  readonly arguments: string
}

export interface TokenLogprob {
  readonly token: string
  readonly logprob: number
  readonly bytes: unknown
}

export interface TokenLogprobs extends TokenLogprob {
  readonly top_logprobs: readonly TokenLogprob[]
}

export interface NativeLine {
  /** Null = no error; Ollama's own text otherwise, which may be empty. */
  readonly error: string | null
  readonly createdAt: unknown
  readonly content: string
  readonly thinking: string
  readonly toolCalls: readonly NativeToolCall[]
  /** In the form of OpenAI's chat; null = none. */
  readonly logprobs: readonly TokenLogprobs[] | null
  readonly done: boolean
  readonly doneReason: unknown
  /** Where the counters of the last line stand, unchecked. */
  readonly raw: Json
}

const noCalls: readonly NativeToolCall[] = []

/** A line of /api/chat; null when it is not what Ollama writes. */
export function parseLine(text: string): NativeLine | null {
  return parsed(text, raw => (raw.message === undefined || raw.message === null ? {} : raw.message))
}

/** The same of /api/generate, where the text is called `response` and stands at the top. */
export function parseGeneratedLine(text: string): NativeLine | null {
  return parsed(text, raw => ({ content: raw.response, thinking: raw.thinking }))
}

function parsed(text: string, messageOf: (raw: Json) => unknown): NativeLine | null {
  try {
    const raw: unknown = JSON.parse(text)
    if (!isObject(raw)) return null
    const message = messageOf(raw)
    if (!isObject(message)) return null
    const content = message.content ?? ''
    const thinking = message.thinking ?? ''
    if (typeof content !== 'string' || typeof thinking !== 'string') return null
    const toolCalls = toolCallsOf(message.tool_calls)
    if (toolCalls === null) return null
    return {
      error: raw.error === undefined || raw.error === null ? null : errorValueText(raw.error),
      createdAt: raw.created_at,
      content,
      thinking,
      toolCalls,
      logprobs: logprobsOf(raw.logprobs),
      done: raw.done === true,
      doneReason: raw.done_reason,
      raw
    }
  } catch {
    // Not JSON, or nested too deeply to be written again.
    return null
  }
}

/** Does it bring a piece of the answer, as against the beginning, the end, or nothing? */
export function carriesOutput(line: NativeLine): boolean {
  return line.content !== '' || line.thinking !== '' || line.toolCalls.length > 0
}

/** From the last line. Zero counters are left out by Ollama; nonsense counts as zero. */
export function usageOf(last: NativeLine): Usage {
  const { raw } = last
  const parts = [raw.load_duration, raw.prompt_eval_duration, raw.eval_duration]
  const nanoseconds = parts.every(part => part === undefined)
    ? count(raw.total_duration)
    : parts.reduce<number>((sum, part) => sum + (count(part) ?? 0), 0)
  return {
    promptTokens: count(raw.prompt_eval_count) ?? 0,
    completionTokens: count(raw.eval_count) ?? 0,
    cachedTokens: 0,
    reasoningTokens: 0,
    providerNanoUsd: null,
    busyMs: nanoseconds === null ? null : nanoseconds / 1e6,
    ...(raw.eval_duration !== undefined && {
      timings: {
        loadMs: milliseconds(raw.load_duration),
        promptMs: milliseconds(raw.prompt_eval_duration),
        answerMs: milliseconds(raw.eval_duration)
      }
    })
  }
}

function milliseconds(nanoseconds: unknown): number | null {
  const ns = count(nanoseconds)
  return ns === null ? null : ns / 1e6
}

function toolCallsOf(calls: unknown): readonly NativeToolCall[] | null {
  if (calls === undefined || calls === null) return noCalls
  if (!Array.isArray(calls)) return null
  const parsed: NativeToolCall[] = []
  for (const call of calls as unknown[]) {
    if (!isObject(call) || !isObject(call.function) || typeof call.function.name !== 'string') return null
    const given = call.function.arguments ?? {}
    if (!isObject(given) && typeof given !== 'string') return null
    parsed.push({
      id: typeof call.id === 'string' && call.id !== '' ? call.id : null,
      name: call.function.name,
      arguments: typeof given === 'string' ? given : JSON.stringify(given)
    })
  }
  return parsed
}

/** Entries that are not in form are left out: they are a by-product, not the answer. */
function logprobsOf(entries: unknown): readonly TokenLogprobs[] | null {
  if (!Array.isArray(entries) || entries.length === 0) return null
  const content = entries.flatMap((entry: unknown) => {
    const token = tokenOf(entry)
    if (token === null || !isObject(entry)) return []
    const top: unknown[] = Array.isArray(entry.top_logprobs) ? entry.top_logprobs : []
    return [{ ...token, top_logprobs: top.map(tokenOf).filter(token => token !== null) }]
  })
  return content.length === 0 ? null : content
}

function tokenOf(entry: unknown): TokenLogprob | null {
  if (!isObject(entry) || typeof entry.token !== 'string' || typeof entry.logprob !== 'number') return null
  const bytes = Array.isArray(entry.bytes) && entry.bytes.every(byte => count(byte) !== null) ? entry.bytes : null
  return { token: entry.token, logprob: entry.logprob, bytes }
}
