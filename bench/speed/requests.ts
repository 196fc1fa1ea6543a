// The requests of the bench, as they go over the wire.

import type { TargetRequest } from './clients.ts'
import type { Target } from './targets.ts'

export type Size = '1 KB' | '64 KB'

const word = 'Über die Geschwindigkeit – what a prompt says, in the words of several people. '

/** A conversation of about so many bytes, not all of them ASCII. `stream`: so many tokens, so far apart, are to come back. */
export function chatOf(
  target: Pick<Target, 'port' | 'headers'>,
  {
    size,
    model = 'gpt-4o-mini',
    path = '/v1/chat/completions',
    stream
  }: {
    readonly size: Size
    readonly model?: string
    readonly path?: string
    readonly stream?: { readonly tokens: number; readonly everyMs: number }
  }
): TargetRequest {
  const [turns, words] = size === '1 KB' ? [3, 3] : [41, 19]
  const text = word.repeat(words)
  const messages = Array.from({ length: turns }, (_, at) => ({
    role: at === 0 ? 'system' : at % 2 === 1 ? 'user' : 'assistant',
    content: `${at === 0 && stream !== undefined ? `[[${stream.tokens}x${stream.everyMs}]] ` : ''}${at}. ${text}`
  }))
  const body = JSON.stringify({ model, messages, temperature: 0.2, ...(stream !== undefined && { stream: true }) })
  const bytes = Buffer.from(body)
  const headers = {
    host: `127.0.0.1:${target.port}`,
    ...target.headers,
    'content-type': 'application/json',
    'content-length': bytes.length
  }
  const head = [`POST ${path} HTTP/1.1`, ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`)].join('\r\n')
  return { port: target.port, request: `${head}\r\n\r\n${bytes.toString('latin1')}` }
}
