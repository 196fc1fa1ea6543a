// Orders to the process of the clients, and what comes back.

import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { startPart } from './processes.ts'

export interface TargetRequest {
  readonly port: number
  /** Head and body, as they go over the wire, in latin1. */
  readonly request: string
}

export interface Closed {
  readonly kind: 'closed'
  readonly target: TargetRequest
  readonly connections: number
  readonly seconds: number
}

export interface ClosedFigures {
  readonly answers: number
  readonly failed: number
  readonly seconds: number
}

export interface Paired {
  readonly kind: 'paired'
  readonly targets: readonly TargetRequest[]
  readonly rounds: number
  /** Until the first token of a stream, not its end. */
  readonly untilToken: boolean
}

export interface PairedFigures {
  /** Milliseconds, by target. */
  readonly times: readonly (readonly number[])[]
  readonly failed: number
}

export interface Streamed {
  readonly kind: 'streamed'
  readonly target: TargetRequest
  readonly streams: number
  readonly tokens: number
  readonly everyMs: number
  /** How long after the last token was due they are still waited for. */
  readonly graceMs: number
}

export interface StreamedFigures {
  readonly offered: number
  readonly received: number
  readonly failed: number
  /** Those that came to their end. */
  readonly ended: number
  readonly lost: number
  readonly reordered: number
  /** From the provider's write to the reader's read, ms, of every sixteenth token. */
  readonly delays: { readonly p50: number; readonly p99: number }
  readonly firsts: { readonly p50: number; readonly p99: number }
  readonly seconds: number
}

export type Order = Closed | Paired | Streamed

export interface Clients {
  closed(order: Omit<Closed, 'kind'>): Promise<ClosedFigures>
  paired(order: Omit<Paired, 'kind'>): Promise<PairedFigures>
  streamed(order: Omit<Streamed, 'kind'>): Promise<StreamedFigures>
  stop(): void
}

export async function startClients(): Promise<Clients> {
  const child = startPart(fileURLToPath(new URL('load.ts', import.meta.url)), [], 'load')
  await once(child, 'message')
  async function order<Figures>(what: Order): Promise<Figures> {
    child.send(what)
    const [{ figures, error }] = (await once(child, 'message')) as [{ figures?: Figures; error?: string }]
    if (figures === undefined) throw new Error(error ?? 'The clients did not answer.')
    return figures
  }
  return {
    closed: what => order({ kind: 'closed', ...what }),
    paired: what => order({ kind: 'paired', ...what }),
    streamed: what => order({ kind: 'streamed', ...what }),
    stop: () => child.disconnect()
  }
}
