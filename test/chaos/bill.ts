// The bill of the pretended machines: what they were asked, and what came of it, on disk and by their own clock.

import { appendFileSync, existsSync, readFileSync } from 'node:fs'
import { readLines } from './lines.ts'

export type Upstream = 'box' | 'openai'

export type BillLine =
  | {
      readonly t: 'begin'
      /** Of all machines together; no two calls have the same. */
      readonly call: number
      readonly upstream: Upstream
      /** Which process of ours asked: each has a door of its own. */
      readonly door: string
      /** `x-client-request-id`. */
      readonly attempt: string
      /** What the client wrote into its prompt; empty when it cannot be found. */
      readonly mark: string
      /** Epoch, ms. */
      readonly at: number
    }
  | {
      readonly t: 'end'
      readonly call: number
      /** The connection was closed before the answer's end. */
      readonly cut: boolean
      readonly at: number
    }

/** One call, begun and perhaps ended. */
export interface Call {
  readonly call: number
  readonly upstream: Upstream
  readonly door: string
  readonly attempt: string
  readonly mark: string
  readonly beganAt: number
  /** Null: it still runs. */
  readonly endedAt: number | null
  readonly cut: boolean
}

export interface Bill {
  write(line: BillLine): void
}

/** Without fsync: whoever writes it is never killed. */
export function createBill(path: string): Bill {
  return { write: line => appendFileSync(path, `${JSON.stringify(line)}\n`) }
}

/** In the order in which they began. */
export function readBill(path: string): Call[] {
  return callsOf(existsSync(path) ? readLines<BillLine>(readFileSync(path, 'utf8')) : [])
}

export function callsOf(lines: readonly BillLine[]): Call[] {
  const ends = new Map(lines.flatMap(line => (line.t === 'end' ? [[line.call, line] as const] : [])))
  return lines.flatMap(line => {
    if (line.t !== 'begin') return []
    const { t: _, at, ...begun } = line
    const end = ends.get(line.call)
    return [{ ...begun, beganAt: at, endedAt: end?.at ?? null, cut: end?.cut ?? false }]
  })
}

/** What a call answers: no two calls say the same, so a result tells which call it came from. */
export function textOf(call: number): string {
  return `call ${call} has this to say`
}

/** The first number of a call's vector, as the text of a result. */
export function vectorText(first: unknown): string {
  return textOf(Number(first))
}
