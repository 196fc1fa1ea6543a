// Chunks of a stream in OpenAI's form: which blocks of them need no look inside, and what one says when it gets one.

import { eachEvent } from '../../outbound/sse.ts'
import type { Operation } from '../../routing/types.ts'
import { failureIn, isRecord, type UpstreamFailure } from './http-errors.ts'

// Looked for in every block of a running stream. Quotes inside of texts are escaped, so none of these can be text.
const markers = ['"error"', '[DONE]'].map(text => Buffer.from(text))
// Keys that are on every chunk, and say something only with a value that begins like this.
const keys = [
  { key: Buffer.from('"usage"'), opens: 0x7b },
  { key: Buffer.from('"finish_reason"'), opens: 0x22 }
]

/** True when every event of the block is a JSON object or a comment, by its first and last bytes, and none says anything special. */
export function isPlain(block: Buffer): boolean {
  for (const marker of markers) {
    if (block.includes(marker)) return false
  }
  for (const { key, opens } of keys) {
    if (hasValue(block, key, opens)) return false
  }
  let plain = true
  eachEvent(block, (start, end) => {
    if (plain && block[start] !== 0x3a) plain = isObjectEvent(block, start, end)
  })
  return plain
}

/** Does the key stand there with a value that begins with this byte, however the JSON is spaced? */
function hasValue(block: Buffer, key: Buffer, opens: number): boolean {
  for (let found = block.indexOf(key); found !== -1; found = block.indexOf(key, found + key.length)) {
    const colon = afterSpace(block, found + key.length)
    if (block[colon] === 0x3a && block[afterSpace(block, colon + 1)] === opens) return true
  }
  return false
}

function afterSpace(block: Buffer, from: number): number {
  let at = from
  while (block[at] === 0x20 || block[at] === 0x09) at++
  return at
}

/** `data: {"` or `data:{"` at the start, `}` at the end. */
function isObjectEvent(block: Buffer, start: number, end: number): boolean {
  let last = end - 1
  while (last > start && (block[last] === 0x0a || block[last] === 0x0d)) last--
  const brace = block[start + 5] === 0x20 ? start + 6 : start + 5
  return block[start] === 0x64 && block[start + 4] === 0x3a && block[brace] === 0x7b && block[brace + 1] === 0x22 && block[last] === 0x7d
}

/** Events that are no comments. */
export function countEvents(block: Buffer): number {
  let events = 0
  eachEvent(block, start => {
    if (block[start] === 0x64) events++
  })
  return events
}

/** Does a choice of a chunk carry something of the answer, as opposed to a role or empty strings? */
export function carriesOutput(choice: Readonly<Record<string, unknown>>, operation: Operation): boolean {
  if (operation === 'complete') return typeof choice.text === 'string' && choice.text !== ''
  if (!isRecord(choice.delta)) return false
  for (const [key, value] of Object.entries(choice.delta)) {
    if (key === 'role' || value === null || value === '') continue
    if (Array.isArray(value) && value.length === 0) continue
    return true
  }
  return false
}

/** The failure of an answer, or a choice's own (OpenRouter, in a 200). */
export function failureInAnswer(json: unknown): UpstreamFailure | null {
  const failure = failureIn(json)
  if (failure !== null || !isRecord(json) || !Array.isArray(json.choices)) return failure
  for (const choice of json.choices) {
    const own = failureIn(choice)
    if (own !== null) return own
  }
  return null
}
