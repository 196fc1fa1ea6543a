// POST and GET /v1/jobs and what belongs to them: work that is kept until it is done.

import type { IncomingHttpHeaders } from 'node:http'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { JobRecord, JobScope, Jobs, NewJob, Submitted } from '../../queue/types.ts'
import type { Dispatch } from '../../routing/dispatch.ts'
import { GatewayError } from '../../routing/errors.ts'
import { timeOf } from '../../routing/ids.ts'
import type { Caller, ModelRequest } from '../../routing/types.ts'
import { bodyOf } from '../answer.ts'
import { callerOf, limitsName } from '../caller.ts'
import { headersSoFar } from '../context.ts'
import type { Knobs } from '../dialects/model.ts'
import { invalid } from '../fields.ts'
import { readJobQuery } from '../jobs/filter.ts'
import { follow, readLastEventId } from '../jobs/follow.ts'
import { kindFacts } from '../jobs/kinds.ts'
import { jobObject, noOutlook } from '../jobs/object.ts'
import { type Payload, readPayload } from '../jobs/payload.ts'
import { placed } from '../jobs/placing.ts'
import { showJob } from '../jobs/show.ts'
import { readIdempotency, readOwner, readSubmission, type Submission } from '../jobs/submission.ts'
import { readKnobs } from '../knobs.ts'
import type { Limits } from '../limits.ts'
import { uuidOf } from '../query.ts'
import type { Streams } from '../streams.ts'
import { deadlineMsOf } from '../waiting.ts'

export interface JobsPorts {
  readonly jobs: Jobs
  readonly dispatch: Pick<Dispatch, 'plan'>
  readonly limits: Limits
  readonly streams: Streams
  /** Null = no secret is set to sign them with. */
  readonly webhooks: {
    /** Throws GatewayError `invalid_request` for an address that may never be called. */
    check(url: string): void
    secretOf(source: string): string
  } | null
  /** The share of a source that is not the caller's own; null when there is no such source. */
  readonly weightOf: (source: string) => Promise<number | null>
  /** A job was stored that asks a model: why it waits can be asked from now on. Absent: when it runs. */
  readonly onSubmitted?: OnSubmitted
  readonly newId: () => string
  /** Epoch, ms. */
  readonly now: () => number
}

/** A request was stored as a job, and of which caller. */
export type OnSubmitted = (request: ModelRequest, caller: Caller) => void

interface OneJob {
  Params: { id: string }
}

const config = { requires: ['source', 'admin'] as const }
const webhooksOff = 'Webhooks are off here: whoever runs this gateway sets LLM_MCP_WEBHOOK_SECRET to sign them with.'

export function registerJobs(app: FastifyInstance, ports: JobsPorts): void {
  const { jobs } = ports

  function shown(request: FastifyRequest, reply: FastifyReply, job: JobRecord | null): Promise<FastifyReply> {
    return showJob(ports, { request, reply, shown: { job: found(job), outlook: noOutlook } })
  }

  /** Work that a source asks for once more is a request like its first one. */
  function countAgain(request: FastifyRequest): Promise<void> {
    const caller = callerOf(request, () => null)
    return countRequest(ports.limits, request, caller)
  }

  app.post('/v1/jobs', { config }, async (request, reply) => {
    const bytes = bodyOf(request, '"kind" and "payload"')
    const idempotency = readIdempotency(request.headers, bytes)
    // What was taken once is not judged again: its deadline may have passed since, and its model may be gone.
    const earlier = idempotency === null ? null : await jobs.earlier(sourceFor(request.context.caller as Caller, bytes), idempotency)
    const submitted = earlier ?? (await submit(ports, request, bytes))
    const { status, webhook } = submitted.job
    reply.header('location', `/v1/jobs/${submitted.job.id}`)
    // What asks no model goes nowhere.
    if (submitted.job.kind !== 'echo') reply.header('x-llm-mcp-route-id', submitted.job.id)
    if (submitted.replayed) reply.header('idempotent-replayed', 'true')
    reply.code(submitted.replayed && isFinished(status) ? 200 : 202)
    const secret = webhook === null ? null : (ports.webhooks?.secretOf(submitted.job.source) ?? null)
    return showJob(ports, { request, reply, shown: { ...submitted, secret } })
  })

  app.get('/v1/jobs', { config }, async request => {
    const { filter, after, limit } = readJobQuery(request.query)
    const records = await jobs.list({ filter, scope: scopeOf(request), after, limit: limit + 1 })
    const data = records.slice(0, limit).map(job => ({ ...jobObject(job, noOutlook), result: null }))
    return { object: 'list', data, first_id: data[0]?.id ?? null, last_id: data.at(-1)?.id ?? null, has_more: records.length > limit }
  })

  app.get<OneJob>('/v1/jobs/:id', { config }, async (request, reply) => {
    return showJob(ports, { request, reply, shown: found(await jobs.find(idOf(request), scopeOf(request))) })
  })

  app.post<OneJob>('/v1/jobs/:id/cancel', { config }, async (request, reply) => {
    return shown(request, reply, await jobs.cancel(idOf(request), scopeOf(request)))
  })

  app.post<OneJob>('/v1/jobs/:id/retry', { config }, async (request, reply) => {
    const id = idOf(request)
    await countAgain(request)
    return shown(request, reply.code(202), await jobs.retry(id, scopeOf(request)))
  })

  app.post<OneJob>('/v1/jobs/:id/webhook', { config }, async (request, reply) => {
    const id = idOf(request)
    if (ports.webhooks === null) throw new GatewayError('unsupported_parameter', webhooksOff)
    await countAgain(request)
    return shown(request, reply.code(202), await jobs.redeliver(id, scopeOf(request)))
  })

  // Without HEAD: it would follow the job to its end, and say nothing.
  app.get<OneJob>('/v1/jobs/:id/stream', { config, exposeHeadRoute: false }, async (request, reply) => {
    const { context } = request
    const after = readLastEventId(request.headers['last-event-id'], request.query)
    const watch = found(await jobs.watch(idOf(request), scopeOf(request), after))
    context.stream = true
    if (request.headers.origin !== undefined) Object.assign(context.headers, headersSoFar(reply))
    reply.hijack()
    follow({ response: reply.raw, context, streams: ports.streams, watch, result: jobs.result, now: ports.now })
  })
}

async function submit(ports: JobsPorts, request: FastifyRequest, bytes: Buffer): Promise<Submitted> {
  const job = await newJob(ports, request, bytes)
  await countRequest(ports.limits, request, request.context.caller as Caller)
  const submitted = await ports.jobs.submit(job)
  if (job.request !== null && !submitted.replayed) ports.onSubmitted?.(job.request, job.caller)
  return submitted
}

/** What is to be stored for a body. Throws GatewayError for everything that makes it none; nothing is stored then. */
async function newJob(ports: JobsPorts, request: FastifyRequest, bytes: Buffer): Promise<NewJob> {
  const { context, headers } = request
  const idempotency = readIdempotency(headers, bytes)
  const nowMs = ports.now()
  const submission = readSubmission(bytes, nowMs)
  const id = ports.newId()
  const facts = kindFacts[submission.kind]
  const deadlineAt = deadlineOf(headers, submission, nowMs)
  const knobs = knobsOf(headers, id, { ...submission, deadlineAt })
  const maxCostUsd = knobs.maxUsd ?? null
  const payload = await readPayload(facts, submission.payload, { model: submission.model, stream: submission.stream, knobs })
  context.model = payload.request?.model ?? null
  const caller = callerOf(request, () => payload.user)
  context.caller = caller
  if (submission.class === 'urgent' && caller.kind !== 'admin') {
    throw new GatewayError('forbidden', 'Only a key of kind admin may submit urgent jobs.', { param: 'priority' })
  }
  if (submission.webhookUrl !== null) checkWebhook(ports, submission.webhookUrl)
  const { owner, weight } = await ownerOf(ports, request, { caller, submission })
  return {
    id,
    kind: submission.kind,
    class: submission.class,
    model: context.model,
    request: place(ports, withDeadline(payload, deadlineAt), { caller: owner, provider: facts.provider }),
    echo: payload.echo,
    caller: owner,
    weight,
    maxAttempts: submission.maxAttempts,
    deadlineAt,
    maxCostUsd,
    stream: payload.stream,
    idempotency,
    metadata: submission.metadata,
    webhookUrl: submission.webhookUrl
  }
}

/** What stands beside the payload says more than a header; one that cannot be read is wrong all the same. */
function deadlineOf(headers: IncomingHttpHeaders, { deadlineAt }: Submission, nowMs: number): number | null {
  const afterMs = deadlineMsOf(headers)
  return deadlineAt ?? (afterMs === null ? null : nowMs + afterMs)
}

/** The same of what else it says of its way. */
function knobsOf(headers: IncomingHttpHeaders, id: string, { deadlineAt, deadline, route, maxCostUsd }: Submission): Knobs {
  const { isDeadlineHard = false, ...knobs } = readKnobs(headers, id, deadlineAt !== null)
  const isHard = deadline === null ? isDeadlineHard : deadline === 'hard'
  if (isHard && deadlineAt === null) throw invalid('deadline', 'nothing or "soft" without deadline_ms or deadline_at')
  return {
    ...knobs,
    ...(route !== null && { route }),
    ...(maxCostUsd !== null && { maxUsd: maxCostUsd }),
    ...(isHard && { isDeadlineHard: true as const })
  }
}

/** Whoever plans it knows how long it has; time counts from the making of its id. */
function withDeadline(payload: Payload, deadlineAt: number | null): Payload {
  const { request } = payload
  if (request === null || deadlineAt === null) return payload
  return {
    ...payload,
    request: { ...request, patience: { deadlineMs: Math.max(1, deadlineAt - timeOf(request.id)), onDisconnect: 'finish' } }
  }
}

function place(
  { dispatch }: JobsPorts,
  { request, fieldOf }: Payload,
  whose: { readonly caller: Caller; readonly provider: string | null }
): ModelRequest | null {
  if (request === null) return null
  try {
    return placed(dispatch, request, whose)
  } catch (thrown) {
    throw thrown instanceof GatewayError && thrown.param !== null ? thrown.about(fieldOf(thrown.param)) : thrown
  }
}

/** Whose the job would be, before anything else is known of it. */
function sourceFor({ kind, source }: Caller, bytes: Buffer): string {
  return kind === 'admin' ? (readOwner(bytes) ?? source) : source
}

/** Whose the job is: the caller's own, or, for admins, that of a source they name. */
async function ownerOf(
  ports: JobsPorts,
  { context }: FastifyRequest,
  { caller, submission: { source } }: { readonly caller: Caller; readonly submission: Submission }
): Promise<{ readonly owner: Caller; readonly weight: number }> {
  if (source === null || source === caller.source) return { owner: caller, weight: context.key?.weight ?? 1 }
  if (caller.kind !== 'admin') throw new GatewayError('forbidden', 'This key submits jobs of its own source only.', { param: 'source' })
  const weight = await ports.weightOf(source)
  // With authentication off there are no keys to know a source by.
  if (weight === null && context.key !== null) throw invalid('source', 'the name of a source that has a key')
  return { owner: { ...caller, source, subSource: null }, weight: weight ?? 1 }
}

function checkWebhook({ webhooks }: JobsPorts, url: string): void {
  if (webhooks === null) throw new GatewayError('unsupported_parameter', webhooksOff, { param: 'webhook' })
  try {
    webhooks.check(url)
  } catch (thrown) {
    throw thrown instanceof GatewayError ? thrown.about('webhook.url') : thrown
  }
}

/** As one of its key's requests per minute. Its tokens are used when it runs, and it holds no place among running requests. */
async function countRequest(limits: Limits, { context }: FastifyRequest, caller: Caller): Promise<void> {
  const { key } = context
  if (key === null) return
  const rules = { ...key.limits, tokensPerMinute: null, concurrentRequests: null }
  const name = limitsName(caller)
  try {
    const admission = await limits.admit(name, rules, 0)
    admission.settle(null)
  } finally {
    Object.assign(context.headers, limits.headersOf(name, rules))
  }
}

/** A source sees its own jobs, an admin everybody's. */
function scopeOf({ context }: FastifyRequest): JobScope {
  const caller = context.caller as Caller
  return caller.kind === 'admin' ? null : { source: caller.source }
}

function idOf({ params }: FastifyRequest<OneJob>): string {
  return uuidOf(params.id, 'job')
}

function found<T>(thing: T | null): T {
  if (thing === null) throw new GatewayError('not_found', 'There is no job with this id.')
  return thing
}

function isFinished(status: JobRecord['status']): boolean {
  return status !== 'queued' && status !== 'running'
}
