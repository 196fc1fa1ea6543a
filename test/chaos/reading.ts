// One job's stream, read over any number of connections: what its text was, and whether every event came once and in order.

import type { Frame } from './frames.ts'
import type { StreamReading } from './history.ts'

export interface Reading {
  /** Takes the next event, of whichever connection. */
  take(frame: Frame): void
  /** For `Last-Event-ID`; null before the first numbered event. */
  lastId(): string | null
  isOver(): boolean
  done(connections: number): StreamReading
}

export function createReading(): Reading {
  const faults: string[] = []
  let attempt = 0
  let seq = -1
  let attempts = 0
  let lastId: string | null = null
  let text = ''
  let resultText: string | null = null
  let status: string | null = null

  function take(frame: Frame): void {
    if (status !== null) faults.push(`${frame.event} after the end`)
    const value = parsed(frame)
    if (frame.event === 'status') return
    number(frame)
    if (frame.event === 'attempt') {
      attempts++
      text = ''
    }
    if (frame.event === 'message') text += deltaOf(value)
    if (frame.event === 'result') resultText = contentOf(value)
    if (frame.event === 'end') {
      status = String(value.status)
      if (resultText === null) faults.push('an end without a result')
      else if (status === 'done' && resultText !== text)
        faults.push(`the stream said ${JSON.stringify(text)}, its result ${JSON.stringify(resultText)}`)
    }
  }

  function number({ id, event }: Frame): void {
    const [, first, second] = /^(\d+)-(\d+)$/.exec(id ?? '') ?? []
    if (first === undefined) {
      faults.push(`${event} without a number: ${id}`)
      return
    }
    const [nextAttempt, nextSeq] = [Number(first), Number(second)]
    const follows = nextAttempt === attempt ? nextSeq === seq + 1 : nextAttempt > attempt
    if (!follows) faults.push(`${event} ${id} after ${lastId}`)
    attempt = nextAttempt
    seq = nextSeq
    lastId = id
  }

  function parsed({ event, data }: Frame): Record<string, unknown> {
    try {
      return JSON.parse(data) as Record<string, unknown>
    } catch {
      faults.push(`${event} with what is no JSON: ${data.slice(0, 80)}`)
      return {}
    }
  }

  return {
    take,
    lastId: () => lastId,
    isOver: () => status !== null,
    done: connections => ({ text, status, connections, attempts, faults })
  }
}

/** The text one chunk of a chat adds. */
export function deltaOf(chunk: Readonly<Record<string, unknown>>): string {
  const [choice] = (chunk.choices ?? []) as readonly { readonly delta?: { readonly content?: unknown } }[]
  return typeof choice?.delta?.content === 'string' ? choice.delta.content : ''
}

function contentOf(job: Readonly<Record<string, unknown>>): string | null {
  const result = job.result as { readonly choices?: readonly { readonly message?: { readonly content?: unknown } }[] } | null
  const content = result?.choices?.[0]?.message?.content
  return typeof content === 'string' ? content : null
}
