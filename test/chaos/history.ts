// What the clients were told, and what was done to the processes: the other half of the truth, beside the machines' bill.

import { appendFileSync } from 'node:fs'

export const workKinds = ['chat', 'openai.chat', 'ollama.generate', 'embed', 'echo'] as const
export type WorkKind = (typeof workKinds)[number]

export type HistoryLine =
  /** An idempotency key, before it is sent for the first time. */
  | { readonly t: 'submit'; readonly key: string; readonly mark: string; readonly kind: WorkKind; readonly at: number }
  /** Every acknowledgement: a key may have several, by retries and on purpose. */
  | { readonly t: 'ack'; readonly key: string; readonly id: string; readonly status: number; readonly at: number }
  /** An answer that no healthy gateway gives to a good request. */
  | { readonly t: 'refused'; readonly what: string; readonly status: number; readonly text: string; readonly at: number }
  /** The first time a client saw that its job had ended. */
  | { readonly t: 'finished'; readonly id: string; readonly status: string; readonly text: string | null; readonly at: number }
  /** A job's stream, read to its end over all cuts. */
  | { readonly t: 'streamed'; readonly id: string; readonly reading: StreamReading; readonly at: number }
  /** A request whose client held the line. */
  | { readonly t: 'asked'; readonly mark: string; readonly stream: boolean; readonly answer: Answer; readonly at: number }
  | { readonly t: 'fault'; readonly kind: FaultKind; readonly process: string; readonly note?: string; readonly at: number }

export type FaultKind = 'start' | 'ready' | 'kill' | 'stop' | 'continue' | 'ended' | 'postgres'

export interface StreamReading {
  /** Of the attempt it ended with. */
  readonly text: string
  readonly status: string | null
  /** Connections it took. */
  readonly connections: number
  readonly attempts: number
  /** What was wrong with the order of its events. */
  readonly faults: readonly string[]
}

export type Answer =
  | { readonly outcome: 'answered'; readonly text: string }
  /** An error that says so: a status, an error frame, a broken connection. */
  | { readonly outcome: 'failed'; readonly status: number; readonly text: string }
  /** A stream that ended as if it were whole, and was not. */
  | { readonly outcome: 'truncated'; readonly text: string }

export interface History {
  readonly lines: readonly HistoryLine[]
  /** `at` is added. */
  write(line: Untimed<HistoryLine>): void
}

type Untimed<T> = T extends unknown ? Omit<T, 'at'> : never

/** Kept in memory, and written to `path` for whoever looks into a failure. */
export function createHistory(path: string): History {
  const lines: HistoryLine[] = []
  return {
    lines,
    write(untimed) {
      const line = { ...untimed, at: Date.now() } as HistoryLine
      lines.push(line)
      appendFileSync(path, `${JSON.stringify(line)}\n`)
    }
  }
}
