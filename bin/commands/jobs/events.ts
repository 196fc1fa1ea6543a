// The events of a job's stream, as they come over the line.

import { eachEvent, sseData } from '../../../outbound/sse.ts'

export interface StreamEvent {
  /** `status`, `attempt`, `chunk`, `result` or `end`. */
  readonly event: string
  /** What to name in Last-Event-ID to go on after it; null = it has none. */
  readonly id: string | null
  readonly data: Readonly<Record<string, unknown>>
}

/** Those of a block of whole events that carry a JSON object; comments and the rest are nothing to us. */
export function eventsOf(block: Buffer): StreamEvent[] {
  const events: StreamEvent[] = []
  eachEvent(block, (start, end) => {
    const bytes = block.subarray(start, end)
    const data = parsed(sseData(bytes))
    if (data === null) return
    const text = bytes.toString('utf8')
    // A chunk is sent as OpenAI sends it: without a name.
    events.push({ event: fieldOf(text, 'event') ?? 'chunk', id: fieldOf(text, 'id'), data })
  })
  return events
}

function parsed(data: string | null): Readonly<Record<string, unknown>> | null {
  if (data === null) return null
  try {
    const value: unknown = JSON.parse(data)
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : null
  } catch {
    return null
  }
}

function fieldOf(text: string, name: string): string | null {
  for (const line of text.split(/\r\n|\n|\r/)) {
    if (line.startsWith(`${name}:`)) return line.slice(name.length + 1).replace(/^ /, '')
  }
  return null
}
