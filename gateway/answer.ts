// The way of every model request: whom it counts for, its limits, the run, and the answer in the client's dialect.

import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Jobs } from '../queue/types.ts'
import type { Dispatch } from '../routing/dispatch.ts'
import { GatewayError, toGatewayError } from '../routing/errors.ts'
import { deadlineExceeded } from '../routing/patience.ts'
import type { RunSummary } from '../routing/ports.ts'
import type { Caller, ModelRequest, Patience } from '../routing/types.ts'
import { callerOf, limitsName } from './caller.ts'
import { headersSoFar } from './context.ts'
import { runWhole } from './copies.ts'
import type { Knobs } from './dialects/model.ts'
import { readKnobs } from './knobs.ts'
import type { Admission, Limits } from './limits.ts'
import { identity, type Presenter } from './presenter.ts'
import { createReply } from './reply.ts'
import { mayRespondAsync, respondAsync } from './respond-async.ts'
import type { OnSubmitted } from './routes/jobs.ts'
import type { Streams } from './streams.ts'
import { patienceOf, remainingMs } from './waiting.ts'

export interface AnswerPorts {
  readonly dispatch: Dispatch
  readonly streams: Streams
  readonly limits: Limits
  /** Absent: whoever prefers to be answered later is answered now. */
  readonly jobs?: Jobs
  readonly onSubmitted?: OnSubmitted
}

/** A request that was read, and how its answer is to look. */
export interface Asked {
  readonly request: ModelRequest
  /** Null: OpenAI's own form, which is ours. */
  readonly presenter: Presenter | null
  /** Hints that were left out on the way in, by their field. */
  readonly dropped: readonly string[]
}

/**
 * Answers on the raw response, and from here on nobody else writes to it; or with a job, as any route would.
 * Throws or rejects with GatewayError before it has begun.
 */
export function answer(ports: AnswerPorts, request: FastifyRequest, reply: FastifyReply, asked: Asked): Promise<unknown> | undefined {
  const { context } = request
  context.model = asked.request.model
  context.stream = asked.request.stream
  const patience = patienceOf(request.headers)
  const caller = callerOf(request, () => asked.request.body.json().user)
  context.caller = caller
  const admission = admit(ports.limits, request, caller, estimateOf(asked.request))
  const { jobs } = ports
  if (jobs !== undefined && mayRespondAsync(request.headers, asked)) {
    const submitting = { request, reply, asked: asked.request, caller, patience }
    return Promise.resolve(admission).then(admitted => respondAsync({ ...ports, jobs }, { ...submitting, admission: admitted }))
  }
  const given = { request, reply, asked, caller, patience }
  if (admission instanceof Promise) return admission.then(admitted => run(ports, { ...given, admission: admitted }))
  run(ports, { ...given, admission })
  return undefined
}

function run(
  { dispatch, streams }: AnswerPorts,
  {
    request,
    reply,
    asked,
    caller,
    patience,
    admission
  }: {
    readonly request: FastifyRequest
    readonly reply: FastifyReply
    readonly asked: Asked
    readonly caller: Caller
    readonly patience: Patience | null
    readonly admission: Admission
  }
): void {
  const { context } = request
  const model = patience === null ? asked.request : { ...asked.request, patience }
  const leftMs = remainingMs(patience, context.startedAt)
  if (leftMs !== null && leftMs <= 0) {
    admission.settle(null)
    throw deadlineExceeded(patience, model.stream)
  }
  Object.assign(context.headers, admission.headers())
  // Only a page needs what CORS has set, and every answer would pay for the looking.
  if (request.headers.origin !== undefined) Object.assign(context.headers, headersSoFar(reply))
  // It is kept under the request's own id.
  context.headers['x-llm-mcp-route-id'] = context.id
  // From here on the response is ours alone: no serialisation, no hooks, one write per piece.
  reply.hijack()
  // The client left while its limits were looked up: nobody would tell the run.
  if (reply.raw.destroyed) return admission.settle(null)
  const client = createReply({
    response: reply.raw,
    context,
    stream: model.stream,
    streams,
    presenter: asked.presenter ?? identity,
    dropped: asked.dropped,
    patience,
    onOver: summary => admission.settle(tokensOf(summary))
  })
  try {
    client.attach(runWhole(dispatch, model, caller, client))
  } catch (error) {
    // Nothing was decided.
    delete context.headers['x-llm-mcp-route-id']
    client.fail(toGatewayError(error))
    admission.settle(null)
  }
}

/** `x-llm-mcp-local-only` and the like. Throws GatewayError when one of them cannot be read. */
export function knobsOf(request: FastifyRequest): Knobs {
  return readKnobs(request.headers, request.context.id)
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
