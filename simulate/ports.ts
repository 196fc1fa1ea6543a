// What a node of the simulated world needs of the run it is in, and what it gives to it.

import type { Agenda } from './agenda.ts'
import type { Request } from './traffic.ts'
import type { Finished, HiddenPhysics, NodeView } from './types.ts'

export interface NodePorts {
  readonly agenda: Pick<Agenda, 'nowS' | 'at'>
  readonly seed: number
  readonly hidden: HiddenPhysics
  /** The policy's clock for a moment of the true one. */
  shown(atS: number): number
  /** A request has ended here, however it did. The node is in order by then and may be sent to. */
  ended(end: End): void
  /** The node begins to load, by command or of itself. */
  loads(load: { readonly node: string; readonly model: string }): void
  loaded(load: { readonly node: string; readonly model: string; readonly seconds: number; readonly ok: boolean }): void
}

export interface End {
  readonly request: Request
  readonly usd: number
  readonly finished: Finished
}

export interface SimulatedNode {
  readonly view: NodeView
  send(request: Request): void
  /** The client has left: ends the request if it is here. */
  cancel(request: Request): void
  /** Down: what runs here is lost. */
  setUp(isUp: boolean): void
  /** Seconds until now in which it took power. */
  busyS(): number
}
