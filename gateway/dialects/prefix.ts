// A conversation by its beginnings: one link for each message, with everything before it, so that it stays where it was read already.

import { hash } from 'node:crypto'
import type { Chain } from '../../routing/brain/affinity.ts'
import { estimateTokens } from '../../routing/tokens.ts'
import { isRecord } from '../fields.ts'

// Of what is shorter little is saved.
const tokensAtLeast = 256
const linksAtMost = 32
// Of a picture or a sound its ends tell it apart well enough.
const endsOfData = 64

/**
 * Absent for short prompts and for those of one message. `messages` were checked before. `toolsBytes`: of the definitions that stand before
 * all messages. At most 32 links: the first and the last 31.
 */
export function prefixOf(
  messages: unknown,
  { expectedTokens, toolsBytes }: { readonly expectedTokens: number; readonly toolsBytes: number }
): { readonly prefix?: Chain } {
  if (!Array.isArray(messages) || messages.length < 2 || expectedTokens < tokensAtLeast) return {}
  const links: { hash: string; tokens: number }[] = []
  let before = String(toolsBytes)
  let textBytes = toolsBytes
  let pictures = 0
  for (const [at, message] of messages.entries()) {
    if (!isRecord(message)) return {}
    const text = textOf(message)
    before = hash('sha1', `${before}\n${String(message.role)}\n${text.said}`, 'hex').slice(0, 16)
    textBytes += text.bytes
    pictures += text.pictures
    links.push({ hash: before, tokens: estimateTokens({ textBytes, messages: at + 1, pictures }).expected })
  }
  const [first] = links
  return { prefix: links.length <= linksAtMost || first === undefined ? links : [first, ...links.slice(1 - linksAtMost)] }
}

/** What tells a message apart, and how much of it is text. */
function textOf({ content, tool_calls: calls, tool_call_id: id }: Readonly<Record<string, unknown>>): {
  readonly said: string
  readonly bytes: number
  readonly pictures: number
} {
  const called = calls === undefined || calls === null ? '' : JSON.stringify(calls)
  const answered = typeof id === 'string' ? id : ''
  if (typeof content === 'string') return { said: `${content}${called}${answered}`, bytes: content.length + called.length, pictures: 0 }
  const parts: readonly unknown[] = Array.isArray(content) ? content : []
  let said = ''
  let bytes = called.length
  let pictures = 0
  for (const part of parts) {
    if (!isRecord(part)) continue
    if (typeof part.text === 'string') {
      said += part.text
      bytes += part.text.length
    } else {
      if (part.type === 'image_url') pictures++
      said += endsOf(part)
    }
  }
  return { said: `${said}${called}${answered}`, bytes, pictures }
}

function endsOf(part: Readonly<Record<string, unknown>>): string {
  const inner = part.image_url ?? part.input_audio ?? part.file
  const data = isRecord(inner) ? (inner.url ?? inner.data ?? inner.file_data) : inner
  if (typeof data !== 'string') return String(part.type)
  return `${String(part.type)}${data.length}${data.slice(0, endsOfData)}${data.slice(-endsOfData)}`
}
