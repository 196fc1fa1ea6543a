// Prompts of a wanted length that say which request they are: only the pretended machines know what that one's answer will be.

import type { Request } from '../../simulate/traffic.ts'

export interface Message {
  readonly role: 'user' | 'assistant'
  readonly content: string
}

// As the gateway takes a prompt's length from its text (routing/tokens.ts): four bytes a token, and four tokens for each message.
const bytesPerToken = 4
const tokensPerMessage = 4

/** With all that was said before it in its conversation. */
export function messagesOf(request: Request, all: readonly Request[]): Message[] {
  const { conversation, job } = request
  const earlier = conversation === null ? [] : all.filter(other => other.conversation === conversation && other.job.id < job.id)
  let before = 0
  const said = earlier.flatMap((turn): Message[] => {
    const question = questionOf(turn, before)
    before = turn.job.promptTokens + turn.outputTokens
    return [question, { role: 'assistant', content: text(`@${turn.job.id} `, turn.outputTokens) }]
  })
  return [...said, questionOf(request, before)]
}

function questionOf({ job }: Request, before: number): Message {
  return { role: 'user', content: text(`#${job.id} `, job.promptTokens - before) }
}

/** The number of the request whose prompt this is; null = it is none of ours. */
export function numberIn(messages: unknown): number | null {
  const last: unknown = Array.isArray(messages) ? messages.at(-1) : null
  const content = typeof last === 'object' && last !== null && 'content' in last ? last.content : null
  const [, number] = typeof content === 'string' ? (/^#(\d+) /.exec(content) ?? []) : []
  return number === undefined ? null : Number(number)
}

function text(begin: string, tokens: number): string {
  return begin.padEnd(bytesPerToken * (tokens - tokensPerMessage), 'word ')
}
