// The way of every model request: whom it counts for, its limits, the run, and the answer in the client's dialect.

import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Dispatch } from '../routing/dispatch.ts'
import { GatewayError, toGatewayError } from '../routing/errors.ts'
import type { RunSummary } from '../routing/ports.ts'
import type { Caller, ModelRequest } from '../routing/types.ts'
import { callerOf, limitsName } from './caller.ts'
import { headersSoFar } from './context.ts'
import { runWhole } from './copies.ts'
import type { Knobs } from './dialects/model.ts'
import type { Admission, Limits } from './limits.ts'
import { wantsToStay } from './local-only.ts'
import { identity, type Presenter } from './presenter.ts'
import { createReply } from './reply.ts'
import type { Streams } from './streams.ts'

export interface AnswerPorts {
  readonly dispatch: Dispatch
  readonly streams: Streams
  readonly limits: Limits
}

/** A request that was read, and how its answer is to look. */
export interface Asked {
  readonly request: ModelRequest
  /** Null: OpenAI's own form, which is ours. */
  readonly presenter: Presenter | null
  /** Hints that were left out on the way in, by their field. */
  readonly dropped: readonly string[]
}

/** Answers on the raw response; from here on nobody else writes to it. Throws or rejects with GatewayError before it has begun. */
export function answer(ports: AnswerPorts, request: FastifyRequest, reply: FastifyReply, asked: Asked): Promise<void> | void {
  const { context } = request
  context.model = asked.request.model
  context.stream = asked.request.stream
  const caller = callerOf(request, () => asked.request.body.json().user)
  context.caller = caller
  const admission = admit(ports.limits, request, caller, estimateOf(asked.request))
  if (admission instanceof Promise) return admission.then(admitted => run(ports, { request, reply, asked, caller, admission: admitted }))
  run(ports, { request, reply, asked, caller, admission })
}

function run(
  { dispatch, streams }: AnswerPorts,
  {
    request,
    reply,
    asked,
    caller,
    admission
  }: { request: FastifyRequest; reply: FastifyReply; asked: Asked; caller: Caller; admission: Admission }
): void {
  const { context } = request
  Object.assign(context.headers, admission.headers())
  // Only a page needs what CORS has set, and every answer would pay for the looking.
  if (request.headers.origin !== undefined) Object.assign(context.headers, headersSoFar(reply))
  // From here on the response is ours alone: no serialisation, no hooks, one write per piece.
  reply.hijack()
  // The client left while its limits were looked up: nobody would tell the run.
  if (reply.raw.destroyed) return admission.settle(null)
  const client = createReply({
    response: reply.raw,
    context,
    stream: asked.request.stream,
    streams,
    presenter: asked.presenter ?? identity,
    dropped: asked.dropped,
    onOver: summary => admission.settle(tokensOf(summary))
  })
  try {
    client.attach(runWhole(dispatch, asked.request, caller, client))
  } catch (error) {
    client.fail(toGatewayError(error))
    admission.settle(null)
  }
}

/** `x-llm-mcp-local-only` and the like. Throws GatewayError when one of them cannot be read. */
export function knobsOf(request: FastifyRequest): Knobs {
  return { requestId: request.context.id, localOnly: wantsToStay(request.headers) }
}

/** The body's bytes; `expected` says what should be in it. Throws GatewayError when there is none. */
export function bodyOf(request: FastifyRequest, expected: string): Buffer {
  request.context.handledAt = performance.now()
  if (request.body instanceof Buffer && request.body.length > 0) return request.body
  throw new GatewayError('invalid_request', `The request has no body; send JSON with ${expected}.`)
}

/** Takes what a request needs of its key's limits. Where they refuse, the answer says how they stand. */
export function admit(
  limits: Limits,
  { context }: FastifyRequest,
  caller: Caller,
  estimatedTokens: number
): Promise<Admission> | Admission {
  const { key } = context
  // Authentication is off: nobody is counted.
  if (key === null) return limits.admit('', noLimits, 0)
  const refused = (thrown: unknown): never => {
    Object.assign(context.headers, limits.headersOf(limitsName(caller), key.limits))
    throw thrown
  }
  try {
    const admission = limits.admit(limitsName(caller), key.limits, estimatedTokens)
    return admission instanceof Promise ? admission.catch(refused) : admission
  } catch (thrown) {
    return refused(thrown)
  }
}

const noLimits = { requestsPerMinute: null, tokensPerMinute: null, concurrentRequests: null }

/** What is taken from the tokens of this minute until the real figure is known: as OpenAI counts, with all that may be answered. */
function estimateOf({ prompt, maxOutputTokens, choices }: ModelRequest): number {
  return prompt.expected + (maxOutputTokens ?? 0) * choices
}

/** Null where nothing was used. What an attempt cost that failed before another answered is the house's business. */
function tokensOf({ calls }: RunSummary): number | null {
  const used = calls
    .filter(({ outcome }) => outcome !== 'failed')
    .reduce((sum, { settled }) => sum + settled.promptTokens + settled.completionTokens, 0)
  return used === 0 ? null : used
}
