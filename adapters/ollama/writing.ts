// What the writers of answers have in common, chat or completion: their shape, and the fields that all chunks share.

import type { Usage } from '../../routing/types.ts'
import type { NativeLine } from './lines.ts'

export type ReasoningField = 'reasoning' | 'reasoning_content' | 'both'

export interface ReplyPorts {
  /** The model's name on every chunk. */
  readonly model: string
  readonly reasoningField: ReasoningField
  readonly now: () => number
  readonly randomId: () => string
}

export interface EventWriter {
  add(line: NativeLine): void
  /** The events of all lines since the last time, as SSE, and how many of the lines bring output; null = none. */
  take(): { readonly events: Buffer; readonly tokens: number } | null
  usageEvent(usage: Usage): Buffer
}

/** What is written between two network chunks: appended to by the writers, taken as one buffer. */
export interface Batch {
  text: string
  tokens: number
  readonly take: EventWriter['take']
}

export function createBatch(): Batch {
  const batch: Batch = {
    text: '',
    tokens: 0,
    take() {
      if (batch.text === '') return null
      const taken = { events: Buffer.from(batch.text), tokens: batch.tokens }
      batch.text = ''
      batch.tokens = 0
      return taken
    }
  }
  return batch
}

export interface Assembly {
  /** False = the answer has become larger than `maxBytes`. */
  add(line: NativeLine): boolean
  body(usage: Usage): Buffer
}

/**
 * The beginning of every chunk of one attempt. The id is ours, because Ollama's own OpenAI layer numbers 0 to 998;
 * the time is that of the first line, the same on all.
 */
export function createIdentity({ model, now, randomId }: ReplyPorts, idPrefix: string): (createdAt: unknown, object: string) => string {
  const id = JSON.stringify(`${idPrefix}-${randomId()}`)
  let created: number | null = null
  return (createdAt, object) => {
    created ??= secondsOf(createdAt) ?? Math.floor(now() / 1000)
    return `{"id":${id},"object":"${object}","created":${created},"model":${JSON.stringify(model)},"system_fingerprint":"fp_ollama"`
  }
}

function secondsOf(createdAt: unknown): number | null {
  if (typeof createdAt !== 'string' || createdAt.length > 64) return null
  const seconds = Math.floor(Date.parse(createdAt) / 1000)
  // Go writes a time that was never set as the year 1.
  return seconds > 0 ? seconds : null
}

export function usageJson({ promptTokens, completionTokens }: Usage): string {
  return JSON.stringify({ prompt_tokens: promptTokens, completion_tokens: completionTokens, total_tokens: promptTokens + completionTokens })
}
