// A chat answer on its way to a client of the Responses API.

import { eachEvent, sseData } from '../../../outbound/sse.ts'
import { GatewayError } from '../../../routing/errors.ts'
import type { Presenter } from '../../presenter.ts'
import { createResponsesStream } from './events.ts'
import { isRecord, type Json } from './fields.ts'
import { type ResponseOptions, responseObject } from './object.ts'

/** `onAnswer` hears of the output of an answer that came to its end. */
export function createResponsesPresenter(options: ResponseOptions, onAnswer: (output: readonly Json[]) => void): Presenter {
  const stream = createResponsesStream(options)
  // Events made before one could not be: they are numbered, so they go out with the failure.
  let unsent: Buffer[] = []
  return {
    open: () => stream.open(),
    frames(events) {
      eachEvent(events, (start, end) => {
        const chunk = parsed(sseData(events.subarray(start, end)))
        if (chunk !== null) unsent.push(stream.chunk(chunk))
      })
      const pieces = unsent
      unsent = []
      return pieces.length === 1 ? (pieces[0] as Buffer) : Buffer.concat(pieces)
    },
    body(json) {
      const completion = parsed(json.toString('utf8'))
      if (completion === null) throw new GatewayError('upstream_unavailable', 'The answer is no chat completion.')
      const response = responseObject(completion, options)
      onAnswer(response.output as readonly Json[])
      return Buffer.from(JSON.stringify(response))
    },
    // Its last event is the end; there is no [DONE].
    finish() {
      const end = stream.finish()
      onAnswer(stream.items())
      return end
    },
    error: inResponses,
    fail: error => Buffer.concat([...unsent, stream.fail(error)])
  }
}

const fields: readonly (readonly [chat: string, responses: string])[] = [
  ['messages', 'input'],
  ['response_format', 'text.format'],
  ['max_completion_tokens', 'max_output_tokens'],
  ['reasoning_effort', 'reasoning.effort']
]

/** An error about a field of the chat request that we made, told by the field of the client's own. */
export function inResponses(error: GatewayError): GatewayError {
  const field = fields.find(([chat]) => error.param === chat || error.param?.startsWith(`${chat}[`) === true)
  return field === undefined ? error : error.about(field[1])
}

/** Null for comments, which have no data; what is no JSON object was refused before it came here. */
function parsed(text: string | null): Record<string, unknown> | null {
  if (text === null) return null
  const value: unknown = JSON.parse(text)
  return isRecord(value) ? value : null
}
