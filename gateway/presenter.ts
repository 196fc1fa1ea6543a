// Our answer in the client's dialect. Chat and legacy completions are ours already, to the byte.

import type { GatewayError } from '../routing/errors.ts'
import { errorFrame } from './plugins/errors.ts'

/** Bytes on their way to one client. An empty or null answer means that nothing is sent now. */
export interface Presenter {
  /** What goes out with the headers of a stream. */
  open(): Buffer | null
  /** Throws GatewayError when it cannot go on; `fail` follows then. */
  frames(events: Buffer): Buffer | null
  /** A whole answer. Throws GatewayError when it is none. */
  body(json: Buffer): Buffer
  /** The end of a stream; `done` is the upstream's own terminator. */
  finish(done: Buffer | null): Buffer
  /** An error as the client is to hear of it: about the fields that it knows. */
  error(error: GatewayError): GatewayError
  /** After a stream has begun: the client must see that this is no clean end. */
  fail(error: GatewayError): Buffer
}

const doneFrame = Buffer.from('data: [DONE]\n\n')

export const identity: Presenter = {
  open: () => null,
  frames: events => events,
  body: json => json,
  finish: done => done ?? doneFrame,
  error: error => error,
  fail: errorFrame
}
