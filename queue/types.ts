// What a job is to the rooms around the queue; what is stored of it has its words in store/jobs/record.ts.

import type { Caller, ModelRequest } from '../routing/types.ts'
import type { JobClass, JobFilter, JobKind, JobRecord, JobStatus } from '../store/jobs/record.ts'
import type { HeldResult } from './results.ts'

export {
  type JobClass,
  type JobError,
  type JobFilter,
  type JobKind,
  type JobRecord,
  type JobStatus,
  type JobWebhook,
  jobClasses,
  jobKinds,
  jobStatuses
} from '../store/jobs/record.ts'

/** A job that is to be stored: checked, and in our own form. */
export interface NewJob {
  /** UUIDv7. */
  readonly id: string
  readonly kind: JobKind
  readonly class: JobClass
  /** As the client wrote it, to be shown and filtered by; null for `echo`. `request.model` may name the provider as well. */
  readonly model: string | null
  /** What is to be asked of a model; null for `echo`. Its body is stored as it is. */
  readonly request: ModelRequest | null
  /** Of `echo`: what is given back, JSON. */
  readonly echo: Buffer | null
  readonly caller: Caller
  /** Its source's share among those that wait. */
  readonly weight: number
  readonly maxAttempts: number
  /** Epoch, ms. */
  readonly deadlineAt: number | null
  readonly maxCostUsd: number | null
  /** Tokens are kept for whoever reads the stream. */
  readonly stream: boolean
  readonly idempotency: { readonly key: string; readonly hash: Buffer } | null
  readonly metadata: Readonly<Record<string, string>> | null
  readonly webhookUrl: string | null
}

/** Where a job stands among those that wait for the same machines; nulls when it does not wait. */
export interface JobOutlook {
  /** 1 = next. At most 1,000: whoever is further behind is told 1,000. */
  readonly position: number | null
  readonly etaMs: { readonly p50: number; readonly p90: number } | null
}

/** Null = of all sources, for admins. */
export type JobScope = { readonly source: string } | null

export interface Submitted {
  readonly job: JobRecord
  readonly outlook: JobOutlook
  /** An earlier job with the same idempotency key, and the same body. */
  readonly replayed: boolean
}

/**
 * What the gateway may do with jobs. Everything throws GatewayError `database_unavailable` when the database is away. A job comes with
 * its result, unless that is large: then `result` reads it.
 */
export interface Jobs {
  /** Resolves when it is durable. Throws `queue_full`, or `idempotency_key_reused`. */
  submit(job: NewJob): Promise<Submitted>
  /** The job that came with this idempotency key before, or null. Throws `idempotency_key_reused` when its body was another one. */
  earlier(source: string, idempotency: { readonly key: string; readonly hash: Buffer }): Promise<Submitted | null>
  /** Null when there is none in this scope. */
  find(id: string, scope: JobScope): Promise<{ readonly job: JobRecord; readonly outlook: JobOutlook } | null>
  /**
   * The result of a finished job that came without it because it is large; the caller releases it. Throws `no_capacity` when too much
   * of them is under way, and `client_gone` when `signal` fires while it waits for its turn.
   */
  result(job: JobRecord, signal: AbortSignal): Promise<HeldResult>
  /** Newest first, without results. */
  list(query: {
    readonly filter: JobFilter
    readonly scope: JobScope
    readonly after: string | null
    readonly limit: number
  }): Promise<JobRecord[]>
  /** Ends it where it is; one that is over stays as it is. Null when there is none in this scope. */
  cancel(id: string, scope: JobScope): Promise<JobRecord | null>
  /**
   * Queues a finished job again. Null when there is none. Throws `job_not_finished`, `queue_full`, or `invalid_request` where its request was
   * not kept.
   */
  retry(id: string, scope: JobScope): Promise<JobRecord | null>
  /** Sends its webhook again. Null when there is none. Throws `job_not_finished`, or `not_found` when it has no webhook. */
  redeliver(id: string, scope: JobScope): Promise<JobRecord | null>
  /** Follows a job from after an event on; null when there is none in this scope. */
  watch(id: string, scope: JobScope, after: EventId | null): Promise<JobWatch | null>
}

export interface EventId {
  readonly attempt: number
  readonly seq: number
}

/** What happened to a job, numbered within its attempt. `status` has no number: it is true for the moment only. */
export type JobEvent =
  | { readonly type: 'status'; readonly status: JobStatus; readonly outlook: JobOutlook }
  | { readonly type: 'attempt'; readonly id: EventId; readonly at: Date }
  /** One chunk of a chat completion: a JSON object, as text. */
  | { readonly type: 'chunk'; readonly id: EventId; readonly json: string }
  | { readonly type: 'result'; readonly id: EventId; readonly job: JobRecord }
  | { readonly type: 'end'; readonly id: EventId; readonly status: JobStatus; readonly at: Date }

/** Reads the events of one job at the pace of its reader: nothing is fetched ahead of `next`. */
export interface JobWatch {
  /** The next events, at least one; waits for them. Null after the end. Rejects with GatewayError `database_unavailable` after 60 s without one. */
  next(): Promise<readonly JobEvent[] | null>
  close(): void
}
