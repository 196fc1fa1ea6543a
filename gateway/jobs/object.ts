// A job as it is shown: over HTTP, in the events of its stream, and to a webhook.

import type { JobClass, JobError, JobKind, JobOutlook, JobRecord, JobStatus } from '../../queue/types.ts'
import { formatUsd } from '../../routing/cost.ts'
import { embeddedObject } from '../dialects/ollama-embed.ts'
import { generatedObject } from '../dialects/ollama-generate.ts'

export interface JobObject {
  readonly id: string
  /** The same: llm-mcp v2's name for it. */
  readonly job_id: string
  readonly object: 'job'
  readonly kind: JobKind
  readonly model: string | null
  readonly status: JobStatus
  readonly priority: JobClass
  readonly source: string
  /** 1 = next; null when it does not wait. */
  readonly position: number | null
  readonly eta_ms: { readonly p50: number; readonly p90: number } | null
  readonly attempts: number
  readonly max_attempts: number
  readonly device: string | null
  readonly provider: string | null
  readonly created_at: string
  readonly started_at: string | null
  readonly first_token_at: string | null
  readonly finished_at: string | null
  readonly deadline_at: string | null
  readonly max_cost_usd: number | null
  /** Null: nothing is booked yet, or nobody knows the price. */
  readonly cost_usd: number | null
  readonly usage: Readonly<Record<string, unknown>> | null
  readonly error: JobError | null
  readonly metadata: Readonly<Record<string, string>> | null
  readonly stream: boolean
  readonly webhook: WebhookObject | null
}

export interface WebhookObject {
  readonly url: string
  readonly status: 'waiting' | 'delivered' | 'failed'
  readonly error: string | null
  /** What its deliveries are signed with; told where it is submitted, and nowhere else. */
  readonly secret?: string
}

/** Of a job of which nobody asked where it stands. */
export const noOutlook: JobOutlook = { position: null, etaMs: null }

/** Everything but its result. */
export function jobObject(job: JobRecord, outlook: JobOutlook, secret: string | null = null): JobObject {
  return {
    id: job.id,
    job_id: job.id,
    object: 'job',
    kind: job.kind,
    model: job.model,
    status: job.status,
    priority: job.class,
    source: job.source,
    position: outlook.position,
    eta_ms: outlook.etaMs,
    attempts: job.attempts,
    max_attempts: job.maxAttempts,
    device: job.deviceId,
    provider: job.provider,
    created_at: job.createdAt.toISOString(),
    started_at: timeText(job.startedAt),
    first_token_at: timeText(job.firstTokenAt),
    finished_at: timeText(job.finishedAt),
    deadline_at: timeText(job.deadlineAt),
    max_cost_usd: job.maxCostUsd,
    cost_usd: job.costNanoUsd === null ? null : Number(formatUsd(job.costNanoUsd)),
    usage: job.usage,
    error: job.error,
    metadata: job.metadata,
    stream: job.stream,
    webhook: job.webhook === null ? null : { ...job.webhook, ...(secret === null ? {} : { secret }) }
  }
}

/** The whole job as JSON on one line. */
export function jobJson(job: JobRecord, outlook: JobOutlook, secret: string | null = null): Buffer {
  return Buffer.concat(jobParts(job, outlook, secret))
}

/** The same in parts, which are not copied: a result in its stored form may have megabytes, and goes in as it is. */
export function jobParts(job: JobRecord, outlook: JobOutlook, secret: string | null = null): readonly Buffer[] {
  const facts = JSON.stringify(jobObject(job, outlook, secret))
  return [Buffer.from(`${facts.slice(0, -1)},"result":`), resultJson(job), Buffer.from('}')]
}

/** The answer in the form of the kind's own provider, as JSON on one line; `null` where there is none. */
export function resultJson(job: JobRecord): Buffer {
  if (job.result === null) return Buffer.from('null')
  if (job.kind === 'ollama.generate') return native(job, job.result, generatedObject)
  if (job.kind === 'ollama.embed') return native(job, job.result, embeddedObject)
  return onOneLine(job.result)
}

type Json = Readonly<Record<string, unknown>>

/** Once more under `data`, where readers of llm-mcp v2 look. */
function native(job: JobRecord, result: Buffer, objectOf: (answer: Json, totalNs: number | null) => Json): Buffer {
  const { startedAt, finishedAt } = job
  const totalNs = startedAt === null || finishedAt === null ? null : Math.max(0, finishedAt.getTime() - startedAt.getTime()) * 1e6
  const object = JSON.stringify(objectOf(JSON.parse(result.toString('utf8')) as Json, totalNs))
  return Buffer.from(`${object.slice(0, -1)},"data":${object}}`)
}

/** Between the values of JSON a line break is a space; within them there is none. */
function onOneLine(json: Buffer): Buffer {
  return json.includes(0x0a) || json.includes(0x0d) ? Buffer.from(json.toString('utf8').replace(/[\r\n]/g, ' ')) : json
}

function timeText(at: Date | null): string | null {
  return at === null ? null : at.toISOString()
}
