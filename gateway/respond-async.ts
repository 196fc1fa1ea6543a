// `Prefer: respond-async` (RFC 7240): the request becomes a job, and its client is not kept waiting.

import type { IncomingHttpHeaders } from 'node:http'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Jobs, NewJob, Submitted } from '../queue/types.ts'
import type { Dispatch } from '../routing/dispatch.ts'
import { deadlineExceeded } from '../routing/patience.ts'
import type { Caller, ModelRequest, Patience } from '../routing/types.ts'
import { readBody } from './body.ts'
import { placed } from './jobs/placing.ts'
import { showJob } from './jobs/show.ts'
import { readIdempotency } from './jobs/submission.ts'
import type { Admission } from './limits.ts'
import type { OnSubmitted } from './routes/jobs.ts'
import type { Streams } from './streams.ts'
import { remainingMs } from './waiting.ts'

const attemptsAtMost = 3

/** Whether the client prefers a job, and this is a request that can be one: a job's answer has the form of OpenAI's chat or embeddings. */
export function mayRespondAsync(
  headers: IncomingHttpHeaders,
  { request, presenter }: { readonly request: ModelRequest; readonly presenter: unknown }
): boolean {
  return headers.prefer !== undefined && request.operation !== 'complete' && presenter === null && prefersAsync(String(headers.prefer))
}

/** Among others, in any case, with or without parameters. A word within quotes is somebody's value. */
function prefersAsync(preferences: string): boolean {
  return preferences
    .replace(/"(?:[^"\\]|\\.)*"?/g, '')
    .split(',')
    .some(preference => /^[^;=]*/.exec(preference)?.[0].trim().toLowerCase() === 'respond-async')
}

/**
 * Submits the request and answers with the job: 202, or 200 when an earlier one with the same idempotency key is over.
 * Rejects with GatewayError when it is refused, or cannot be stored.
 */
export async function respondAsync(
  {
    dispatch,
    jobs,
    streams,
    onSubmitted
  }: {
    readonly dispatch: Pick<Dispatch, 'plan'>
    readonly jobs: Jobs
    readonly streams: Streams
    readonly onSubmitted?: OnSubmitted
  },
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
    readonly asked: ModelRequest
    readonly caller: Caller
    readonly patience: Patience | null
    readonly admission: Admission
  }
): Promise<FastifyReply> {
  const { context } = request

  async function submit(job: NewJob): Promise<Submitted> {
    const submitted = await jobs.submit(job)
    if (job.request !== null && !submitted.replayed) onSubmitted?.(job.request, caller)
    return submitted
  }

  try {
    Object.assign(context.headers, admission.headers())
    const idempotency = readIdempotency(request.headers, request.body as Buffer)
    // What was taken once is not judged again: its model may be gone.
    const earlier = idempotency === null ? null : await jobs.earlier(caller.source, idempotency)
    const {
      job: stored,
      outlook,
      replayed
    } = earlier ?? (await submit(newJob(dispatch, { request, asked, caller, patience, idempotency })))
    reply.code(stored.finishedAt === null || !replayed ? 202 : 200).headers({
      location: `/v1/jobs/${stored.id}`,
      'preference-applied': 'respond-async',
      'x-llm-mcp-job-id': stored.id,
      'x-llm-mcp-route-id': stored.id,
      ...(replayed ? { 'idempotent-replayed': 'true' } : {})
    })
    return await showJob({ jobs, streams }, { request, reply, shown: { job: stored, outlook } })
  } finally {
    // It counts as a request; its tokens are counted when they are used, and its place is the queue's.
    admission.settle(null)
  }
}

/** What is to be stored. Throws GatewayError where no target could ever answer it, or it is too late. */
function newJob(
  dispatch: Pick<Dispatch, 'plan'>,
  {
    request,
    asked,
    caller,
    patience,
    idempotency
  }: {
    readonly request: FastifyRequest
    readonly asked: ModelRequest
    readonly caller: Caller
    readonly patience: Patience | null
    readonly idempotency: NewJob['idempotency']
  }
): NewJob {
  const { context } = request
  // Several choices are one job only where one call gives them all; otherwise this names them.
  const patient = patience === null ? asked : { ...asked, patience }
  const placedRequest = placed(dispatch, withUsage(patient), { caller, provider: null })
  const leftMs = remainingMs(patience, context.startedAt)
  if (leftMs !== null && leftMs <= 0) throw deadlineExceeded(patience, asked.stream)
  return {
    id: placedRequest.id,
    kind: asked.operation === 'embed' ? 'embed' : 'chat',
    class: 'interactive',
    model: asked.model,
    request: placedRequest,
    echo: null,
    caller,
    weight: context.key?.weight ?? 1,
    maxAttempts: attemptsAtMost,
    deadlineAt: leftMs === null ? null : Math.ceil(Date.now() + leftMs),
    maxCostUsd: asked.maxUsd ?? null,
    stream: asked.stream,
    idempotency,
    metadata: null,
    webhookUrl: null
  }
}

/** Who reads a stream later reads the figures too. */
function withUsage(asked: ModelRequest): ModelRequest {
  if (!asked.stream || asked.includeUsage) return asked
  const streamOptions = { ...asked.streamOptions, include_usage: true }
  return { ...asked, includeUsage: true, streamOptions, body: readBody(asked.body.with({ stream_options: streamOptions })).kept }
}
