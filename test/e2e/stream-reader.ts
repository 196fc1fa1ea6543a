// Reads one job's stream over any number of connections, each cut at any byte, and keeps the events that came whole.

import { request } from 'node:http'
import { adminKey } from '../support/gateway.ts'

export interface SeenEvent {
  /** `attempt`, `chunk`, `result` or `end`. */
  readonly event: string
  readonly attempt: number
  readonly seq: number
  readonly data: Readonly<Record<string, unknown>>
}

export interface Cut {
  /** The connection is reset after so many bytes of its body; never, unless it is said. */
  readonly atByte?: number
  /** Something else that happens after so many bytes. */
  readonly before?: { readonly atByte: number; readonly act: () => void }
}

/** How a connection ended: by our cut, by the other side, without an answer of 200, or with `end`. */
export type Ending = 'cut' | 'lost' | 'refused' | 'end'

export interface StreamReader {
  /** All that had an id, of all connections. */
  readonly events: readonly SeenEvent[]
  /** How many connections ended in the middle of an event, which was thrown away. */
  readonly halves: number
  /** Connects to a gateway, and reads on after the last event that came whole. */
  read(url: string, cut?: Cut): Promise<Ending>
  /** The last id, for `Last-Event-ID`. */
  lastId(): string | null
  /** What the chunks of an attempt say together. */
  text(attempt: number): string
  /** What is wrong with the order of the ids; and where the stream has ended, with its end. */
  faults(): string[]
}

export function createStreamReader(jobId: string): StreamReader {
  const events: SeenEvent[] = []
  const texts = new Map<number, string>()
  let halves = 0

  function read(url: string, { atByte = Number.POSITIVE_INFINITY, before }: Cut = {}): Promise<Ending> {
    const last = lastId()
    const headers = { authorization: `Bearer ${adminKey}`, ...(last === null ? {} : { 'last-event-id': last }) }
    return new Promise(resolve => {
      const asking = request(`${url}/v1/jobs/${jobId}/stream`, { headers, agent: false })
      let left = Buffer.alloc(0)
      let bytes = 0
      let isOver = false
      const over = (ending: Ending): void => {
        if (isOver) return
        isOver = true
        if (left.length > 0) halves++
        asking.destroy()
        resolve(ending)
      }
      asking.on('error', () => over(bytes === 0 ? 'refused' : 'lost'))
      asking.on('response', response => {
        if (response.statusCode !== 200) return over('refused')
        response.on('error', () => over('lost'))
        response.on('close', () => over('lost'))
        response.on('data', (piece: Buffer) => {
          if (isOver) return
          const kept = piece.subarray(0, Math.max(0, atByte - bytes))
          const isActing = before !== undefined && bytes < before.atByte && bytes + piece.length >= before.atByte
          bytes += kept.length
          left = take(Buffer.concat([left, kept]))
          if (isActing) before.act()
          if (events.at(-1)?.event === 'end') return over('end')
          if (bytes < atByte) return
          asking.socket?.resetAndDestroy()
          over('cut')
        })
      })
      asking.end()
    })
  }

  /** Takes the whole events, and gives back what follows the last of them. */
  function take(bytes: Buffer): Buffer<ArrayBuffer> {
    let from = 0
    for (let end = bytes.indexOf('\n\n'); end >= 0; end = bytes.indexOf('\n\n', from)) {
      takeEvent(bytes.toString('utf8', from, end))
      from = end + 2
    }
    return Buffer.from(bytes.subarray(from))
  }

  function takeEvent(text: string): void {
    const fields = new Map(text.split('\n').map(line => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 2)]))
    const [, attempt, seq] = /^(\d+)-(\d+)$/.exec(fields.get('id') ?? '') ?? []
    // Comments, `status`, and the farewell of a gateway that leaves.
    if (attempt === undefined) return
    const seen = {
      event: fields.get('event') ?? 'chunk',
      attempt: Number(attempt),
      seq: Number(seq),
      data: JSON.parse(fields.get('data') ?? '') as Record<string, unknown>
    }
    events.push(seen)
    if (seen.event === 'chunk') texts.set(seen.attempt, (texts.get(seen.attempt) ?? '') + deltaOf(seen.data))
  }

  function lastId(): string | null {
    const last = events.at(-1)
    return last === undefined ? null : `${last.attempt}-${last.seq}`
  }

  function faults(): string[] {
    const found = events.flatMap(({ event, attempt, seq }, index) => {
      const earlier = events[index - 1] ?? { attempt: 0, seq: 0, event: '' }
      const isNext = attempt === earlier.attempt ? seq === earlier.seq + 1 : attempt > earlier.attempt && seq === 0
      const isInPlace =
        (event === 'attempt') === (seq === 0) && (event === 'end') === (earlier.event === 'result') && earlier.event !== 'end'
      return isNext && isInPlace ? [] : [`${event} ${attempt}-${seq} after ${earlier.event} ${earlier.attempt}-${earlier.seq}`]
    })
    const last = events.at(-1)
    return last?.event === 'end' ? found : [...found, `it ends with ${last?.event} ${lastId()}`]
  }

  return {
    events,
    get halves() {
      return halves
    },
    read,
    lastId,
    text: attempt => texts.get(attempt) ?? '',
    faults
  }
}

function deltaOf(chunk: Readonly<Record<string, unknown>>): string {
  const [choice] = chunk.choices as { delta: { content?: string } }[]
  return choice?.delta.content ?? ''
}
