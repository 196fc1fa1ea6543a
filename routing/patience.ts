// How long a client waits for its answer, and what it is told when that is over.

import { GatewayError } from './errors.ts'
import type { Patience } from './types.ts'

/** The request header with the ms a client waits for its answer, of a stream for its first token. */
export const deadlineName = 'x-llm-mcp-deadline-ms'

/** Told to a client whose deadline has passed, wherever its request was at that time. */
export function deadlineExceeded(patience: Patience | null, stream: boolean): GatewayError {
  const what = stream ? 'first token' : 'answer'
  return new GatewayError('deadline_exceeded', `There was no ${what} within the ${patience?.deadlineMs} ms of ${deadlineName}.`, {
    param: deadlineName
  })
}
