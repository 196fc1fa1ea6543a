// A conversation by its beginnings: one link for each message, with everything before it, so that it stays where it was read already.

import { crc32 } from 'node:zlib'
import type { Chain } from '../../routing/brain/affinity.ts'
import { estimateTokens } from '../../routing/tokens.ts'
import type { ReadBody } from '../body.ts'

// Of what is shorter little is saved.
const tokensAtLeast = 256
const linksAtMost = 32
// Of a message, at its beginning and at its end.
const endBytes = 512

/** What all messages up to one have in them. */
export interface SizeSoFar {
  readonly textBytes: number
  readonly pictures: number
}

/**
 * Absent for short prompts and for those of one message. `sizes`: after each message. `toolsBytes`: of the definitions that stand before
 * all messages. At most 32 links: the first and the last 31.
 *
 * A link is told by the bytes of the messages as they came, of long ones only by those at both ends, and by how many they are: what two
 * conversations would spoil that differ only in the middle of messages of one length is an estimate, and to read 64 kB costs 20 us.
 */
export function prefixOf(
  body: Pick<ReadBody, 'messages'>,
  {
    expectedTokens,
    toolsBytes,
    sizes
  }: { readonly expectedTokens: number; readonly toolsBytes: number; readonly sizes: readonly SizeSoFar[] }
): { readonly prefix?: Chain } {
  if (sizes.length < 2 || expectedTokens < tokensAtLeast) return {}
  const messages = body.messages()
  if (messages === null || messages.ends.length !== sizes.length) return {}
  const { bytes, ends } = messages
  const links: { hash: string; tokens: number }[] = []
  let sum = toolsBytes
  let from = 0
  for (const [at, end] of ends.entries()) {
    if (end - from <= 2 * endBytes) sum = crc32(bytes.subarray(from, end), sum)
    else sum = crc32(bytes.subarray(end - endBytes, end), crc32(bytes.subarray(from, from + endBytes), sum))
    from = end
    if (at > 0 && at <= ends.length - linksAtMost) continue
    const { textBytes, pictures } = sizes[at] as SizeSoFar
    const tokens = estimateTokens({ textBytes: textBytes + toolsBytes, messages: at + 1, pictures }).expected
    links.push({ hash: `${sum.toString(36)}.${end}`, tokens })
  }
  return { prefix: links }
}
