// The output items of a response, grown from the deltas of a chat answer. A whole answer is one large delta, so that
// there is one place that knows how items look and in which order they come.

import { GatewayError } from '../../../routing/errors.ts'
import { type Calls, createCalls } from './calls.ts'
import { isRecord, type Json } from './fields.ts'
import type { Emit, Item } from './items.ts'
import { createWriting, itemKindOf, type PartType, type Writing } from './writing.ts'

export interface Output {
  /**
   * One delta: texts, thoughts, a refusal, calls. What is missing or of another kind is passed over.
   * Throws GatewayError `upstream_broke` when the answer grows beyond what is held for the final event.
   */
  take(delta: Json, logprobs: readonly unknown[]): void
  /** Closes what is open. The last item of an answer that was cut off is incomplete, too. */
  close(wasCutOff: boolean): void
  items(): Json[]
}

// Held until the end, since the final event repeats it: 4 million tokens, more than any model writes.
const charactersAtMost = 16 * 1024 * 1024

export function createOutput({
  newId,
  emit,
  summarises
}: {
  readonly newId: () => string
  readonly emit: Emit
  /** Thoughts go out as a summary: the only form in which OpenAI shows them, and in which its clients look for them. */
  readonly summarises: boolean
}): Output {
  const items: Item[] = []
  const calls: Calls = createCalls({ newId, emit, hold, add: addCall })
  let writing: Writing | null = null
  let characters = 0

  function hold(text: string): void {
    characters += text.length
    if (characters > charactersAtMost)
      throw new GatewayError('upstream_broke', `The answer grew beyond ${charactersAtMost} characters, which is all that is held of one.`)
  }

  function addCall(item: Item): number {
    writing?.close('completed')
    writing = null
    return items.push(item) - 1
  }

  function write(type: PartType, text: string, logprobs: readonly unknown[] = []): void {
    hold(text)
    const kind = itemKindOf(type)
    if (writing?.kind !== kind) {
      writing?.close('completed')
      writing = createWriting({ kind, id: `${kind === 'message' ? 'msg' : 'rs'}_${newId()}`, index: items.length, emit })
      items.push(writing)
    }
    writing.write(type, text, logprobs)
  }

  return {
    take(delta, logprobs) {
      // Some servers send the same thoughts under both names.
      const thoughts = textOf(delta.reasoning) || textOf(delta.reasoning_content)
      if (thoughts !== '') write(summarises ? 'summary_text' : 'reasoning_text', thoughts)
      const text = textOf(delta.content)
      if (text !== '' || logprobs.length > 0) write('output_text', text, logprobs)
      const refusal = textOf(delta.refusal)
      if (refusal !== '') write('refusal', refusal)
      if (Array.isArray(delta.tool_calls)) for (const call of delta.tool_calls) if (isRecord(call)) calls.take(call)
    },
    close(wasCutOff) {
      calls.settle()
      // Clients look for a message; an answer of nothing is an empty one.
      if (items.length === 0) write('output_text', '')
      const last = items.at(-1)
      for (const item of items) item.close(wasCutOff && item === last ? 'incomplete' : 'completed')
    },
    items: () => items.map(item => item.value())
  }
}

/** A string, or the texts of a list of parts as some servers write them. */
function textOf(value: unknown): string {
  if (typeof value === 'string') return value
  if (!Array.isArray(value)) return ''
  return value.map(part => (isRecord(part) && typeof part.text === 'string' ? part.text : '')).join('')
}
