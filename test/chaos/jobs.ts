// What the clients ask for, and how an answer of each kind is read.

import { vectorText } from './bill.ts'
import type { WorkKind } from './history.ts'
import { chatModel, embeddingModel, rentedModel } from './machines.ts'

/** A job object, as far as the checker looks into it. */
export interface SeenJob {
  readonly id: string
  readonly kind: WorkKind
  readonly status: string
  readonly attempts: number
  readonly cost_usd: number | null
  readonly result: unknown
  readonly error: { readonly code: string; readonly message: string } | null
}

export const terminal: readonly string[] = ['done', 'error', 'cancelled']

/** The body of a submit. The mark stands in the prompt, and so on the bill. */
export function bodyOf(kind: WorkKind, mark: string, stream: boolean): Record<string, unknown> {
  return { kind, ...contents[kind](`[[${mark}]] Say something.`), ...(stream ? { stream: true } : {}) }
}

const contents: Readonly<Record<WorkKind, (prompt: string) => object>> = {
  chat: prompt => ({ model: chatModel, payload: { messages: [{ role: 'user', content: prompt }] } }),
  'openai.chat': prompt => ({ model: rentedModel, payload: { messages: [{ role: 'user', content: prompt }] } }),
  'ollama.generate': prompt => ({ payload: { model: chatModel, prompt } }),
  embed: prompt => ({ model: embeddingModel, payload: { input: prompt } }),
  echo: prompt => ({ payload: { prompt } })
}

/** The text of a call, where a result holds one; of an echo its payload. Null when it is not in the form of its kind. */
export function resultText(kind: WorkKind, result: unknown): string | null {
  const value = (result ?? {}) as {
    readonly choices?: readonly { readonly message?: { readonly content?: unknown } }[]
    readonly response?: unknown
    readonly data?: readonly { readonly embedding?: readonly unknown[] }[]
    readonly prompt?: unknown
  }
  const text = {
    chat: () => value.choices?.[0]?.message?.content,
    'openai.chat': () => value.choices?.[0]?.message?.content,
    'ollama.generate': () => value.response,
    embed: () => vectorText(value.data?.[0]?.embedding?.[0]),
    echo: () => value.prompt
  }[kind]()
  return typeof text === 'string' ? text : null
}
