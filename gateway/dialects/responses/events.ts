// A streamed chat answer as the typed events of a response.

import type { GatewayError } from '../../../routing/errors.ts'
import { isRecord, type Json } from './fields.ts'
import { buildResponse, firstChoice, logprobsOf, type Outcome, outcomeOf, type ResponseOptions, wantsSummary } from './object.ts'
import { createOutput } from './output.ts'

/** Every function gives the bytes to send next, maybe none. After `finish` or `fail` nothing more comes. */
export interface ResponsesStream {
  /** `response.created` and `response.in_progress`, once; called again (or by the others first) it gives nothing new. */
  open(): Buffer
  /**
   * One parsed chat.completion.chunk; the one with the usage too. Chunks of another shape are passed over.
   * Throws GatewayError `upstream_broke` when the answer outgrows what is held of one; `fail` takes that error.
   */
  chunk(chunk: Readonly<Json>): Buffer
  /** The closing events, and `response.completed` or `response.incomplete`. */
  finish(): Buffer
  /** `error` (SDKs throw), then `response.failed` with what had been said, in the order of OpenAI. */
  fail(error: GatewayError): Buffer
  /** The output as it stands now. */
  items(): readonly Json[]
}

const inProgress: Outcome = { status: 'in_progress', reason: null, error: null }

export function createResponsesStream(options: ResponseOptions): ResponsesStream {
  let frames: string[] = []
  let sequenceNumber = 0
  let isOpen = false
  let isOver = false
  let finishReason: unknown = null
  /** What the chunks say of the whole answer. */
  const answer: Json = {}
  const output = createOutput({ newId: options.newId, emit, summarises: wantsSummary(options.echo) })

  function emit(type: string, fields: Json): void {
    frames.push(`event: ${type}\ndata: ${JSON.stringify({ type, sequence_number: sequenceNumber++, ...fields })}\n\n`)
  }

  function flush(): Buffer {
    const bytes = Buffer.from(frames.join(''))
    frames = []
    return bytes
  }

  function emitResponse(type: string, outcome: Outcome): void {
    emit(type, { response: buildResponse({ options, outcome, output: output.items(), answer }) })
  }

  function openOnce(): void {
    if (isOpen) return
    isOpen = true
    emitResponse('response.created', inProgress)
    emitResponse('response.in_progress', inProgress)
  }

  function read(chunk: Readonly<Json>): void {
    for (const name of ['model', 'service_tier', 'x_llm_mcp'])
      if (chunk[name] !== undefined && chunk[name] !== null) answer[name] = chunk[name]
    if (isRecord(chunk.usage)) answer.usage = chunk.usage
    const choice = firstChoice(chunk.choices)
    if (choice === null) return
    if (typeof choice.finish_reason === 'string' && choice.finish_reason !== '') finishReason = choice.finish_reason
    output.take(isRecord(choice.delta) ? choice.delta : {}, logprobsOf(choice))
  }

  function failWith(error: GatewayError): void {
    const { message, type, param, publicCode: code } = error
    // Flat as OpenAI's types have it, nested as OpenAI sends it: some clients see an error in one form only.
    emit('error', { code, message, param, error: { type, code, message, param } })
    emitResponse('response.failed', { status: 'failed', reason: null, error })
  }

  return {
    open() {
      openOnce()
      return flush()
    },
    chunk(chunk) {
      if (isOver) return flush()
      openOnce()
      read(chunk)
      return flush()
    },
    finish() {
      if (isOver) return flush()
      isOver = true
      openOnce()
      const outcome = outcomeOf(finishReason)
      if (outcome.error !== null) failWith(outcome.error)
      else {
        output.close(outcome.status === 'incomplete')
        emitResponse(`response.${outcome.status}`, outcome)
      }
      return flush()
    },
    items: () => output.items(),
    fail(error) {
      if (isOver) return flush()
      isOver = true
      openOnce()
      failWith(error)
      return flush()
    }
  }
}
