// The numbers of the queue: jobs that are over, how long they waited, their attempts, and requests that found every machine full.

import { type JobClass, type JobKind, type JobStatus, jobClasses, jobKinds } from '../../queue/types.ts'

/** How many wait, and how many run, over all processes: as whoever feeds it last knew, so that a scrape asks nobody. */
export interface JobCounts {
  readonly waiting: Readonly<Partial<Record<JobClass, number>>>
  readonly running: number
}

export type FinalStatus = Extract<JobStatus, 'done' | 'error' | 'cancelled'>
export const attemptOutcomes = ['done', 'error', 'retry', 'cancelled', 'lost'] as const
export type AttemptOutcome = (typeof attemptOutcomes)[number]
/** `queued`: it waits as a job; `full`: too many wait; `timeout`: its turn did not come in time. */
export const overflowOutcomes = ['queued', 'full', 'timeout'] as const
export type OverflowOutcome = (typeof overflowOutcomes)[number]

export interface JobMetrics {
  /** A job is over. */
  job(finished: { readonly kind: JobKind; readonly status: FinalStatus }): void
  /** An attempt at a job began, so long after the job came. */
  jobStarted(jobClass: JobClass, waitMs: number): void
  /** An attempt at a job is over; `retry` and `lost` are followed by another, or by the end of the job. */
  jobAttempt(outcome: AttemptOutcome): void
  /** What became of a request that found every machine full. */
  overflow(outcome: OverflowOutcome): void
}

interface Instruments {
  counter(name: string, help: string, ...labels: string[]): { labels(...values: string[]): { inc(): void } }
  histogram(
    name: string,
    help: string,
    buckets: number[],
    ...labels: string[]
  ): { labels(...values: string[]): { observe(seconds: number): void } }
  gauge(
    name: string,
    help: string,
    labels: string[],
    collect: (gauge: { set(labels: Record<string, string>, value: number): void; set(value: number): void; remove(): void }) => void,
    together?: 'max'
  ): void
}

// Seconds. At once where a machine is free; a batch waits for the night.
const waitBuckets = [0.01, 0.1, 1, 5, 30, 120, 600, 3_600, 36_000]

/** `counts` absent = this process has no queue, null = nobody knows yet: then the two gauges are not listed. */
export function createJobMetrics({ counter, histogram, gauge }: Instruments, counts: (() => JobCounts | null) | undefined): JobMetrics {
  const jobs = counter('llm_mcp_jobs_total', 'Jobs that are over, by kind and how they ended.', 'kind', 'status')
  const waits = histogram('llm_mcp_job_wait_seconds', 'From the coming of a job to the start of an attempt at it.', waitBuckets, 'class')
  const attempts = counter('llm_mcp_job_attempts_total', 'Attempts at jobs, by how they ended.', 'outcome')
  const overflows = counter(
    'llm_mcp_queue_overflow_total',
    'Requests that found every machine full: queued, refused because too many wait, or given up because their turn did not come.',
    'outcome'
  )
  gauge(
    'llm_mcp_jobs_waiting',
    'Jobs that wait, those of interactive requests among them; over all processes.',
    ['class'],
    gauge => {
      const waiting = counts?.()?.waiting
      if (waiting === undefined) return
      for (const jobClass of jobClasses) gauge.set({ class: jobClass }, waiting[jobClass] ?? 0)
    },
    'max'
  )
  gauge(
    'llm_mcp_jobs_running',
    'Jobs that run; over all processes.',
    [],
    gauge => {
      const running = counts?.()?.running
      if (running === undefined) gauge.remove()
      else gauge.set(running)
    },
    'max'
  )

  return {
    job: ({ kind, status }) => jobs.labels(jobKinds.includes(kind) ? kind : 'other', status).inc(),
    jobStarted: (jobClass, waitMs) => waits.labels(jobClass).observe(waitMs > 0 && Number.isFinite(waitMs) ? waitMs / 1_000 : 0),
    jobAttempt: outcome => attempts.labels(outcome).inc(),
    overflow: outcome => overflows.labels(outcome).inc()
  }
}
