// Server-sent events, as a client reads them.

import { createParser } from 'eventsource-parser'

export interface Frame {
  readonly id: string | null
  readonly event: string
  readonly data: string
}

/** The events of one connection, one after another. Throws when it breaks. */
export async function* framesOf(response: Response): AsyncGenerator<Frame> {
  const waiting: Frame[] = []
  const parser = createParser({
    onEvent: ({ id, event, data }) => waiting.push({ id: id === undefined || id === '' ? null : id, event: event ?? 'message', data })
  })
  const decoder = new TextDecoder()
  if (response.body === null) return
  for await (const chunk of response.body) {
    parser.feed(decoder.decode(chunk as Uint8Array, { stream: true }))
    yield* waiting.splice(0)
  }
}
