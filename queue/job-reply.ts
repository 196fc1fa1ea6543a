// Where the answer of a job goes: into its result, its events, and to the client who holds the line for it.

import { eachEvent, sseData } from '../outbound/sse.ts'
import { type GatewayError, toGatewayError } from '../routing/errors.ts'
import type { Reply, RunSummary } from '../routing/ports.ts'
import { createAssembler } from './assemble.ts'
import type { EventLog } from './events.ts'

export interface JobReplyEnd {
  /** In OpenAI's form; null where nobody asked for it to be kept, or there is none. */
  readonly result: Buffer | null
  readonly error: GatewayError | null
  /** What is to be said to a client; null where it was the client who left. */
  readonly told: GatewayError | null
  /** The client has seen a part of the answer: nothing can be tried again. */
  readonly started: boolean
  readonly summary: RunSummary
}

/**
 * The reply of one attempt. `client`: who holds the line, or null. Its `fail` and `over` are the caller's: only he knows whether
 * there will be another attempt.
 */
export function createJobReply({
  stream,
  keep,
  events,
  client,
  onStale,
  onEnd
}: {
  readonly stream: boolean
  /** Whether the result is wanted. */
  readonly keep: boolean
  readonly events: EventLog | null
  readonly client: Reply | null
  /** The answer cannot be kept: it is too large, or no answer at all. */
  readonly onStale: (error: GatewayError) => void
  readonly onEnd: (end: JobReplyEnd) => void
}): Reply {
  const assembler = stream && keep ? createAssembler() : null
  let result: Buffer | null = null
  let error: GatewayError | null = null
  let told: GatewayError | null = null
  let started = false

  function assemble(frames: Buffer): void {
    if (assembler === null || error !== null) return
    try {
      eachEvent(frames, (start, end) => {
        const data = sseData(frames.subarray(start, end))
        if (data !== null && data !== '[DONE]') assembler.chunk(JSON.parse(data))
      })
    } catch (thrown) {
      error = toGatewayError(thrown)
      onStale(error)
    }
  }

  return {
    start(facts) {
      started = true
      client?.start(facts)
    },
    frames(frames) {
      assemble(frames)
      const hasRoom = events?.frames(frames) ?? true
      return (client?.frames(frames) ?? true) && hasRoom
    },
    body(json) {
      if (keep) result = json
      client?.body(json)
    },
    finish(done) {
      if (assembler !== null && error === null) {
        try {
          result = Buffer.from(JSON.stringify(assembler.completion()))
        } catch (thrown) {
          error = toGatewayError(thrown)
        }
      }
      client?.finish(done)
    },
    fail(failure) {
      error ??= failure
      told = failure
    },
    over(summary) {
      onEnd({ result, error: error ?? summary.error, told, started, summary })
    }
  }
}
