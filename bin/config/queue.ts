// How much may wait, and how much of it one process runs at once.

import type { ConfigFile } from './schema.ts'

export interface QueueSettings {
  /** Interactive requests that wait for a machine. */
  readonly maxWaiting: number
  readonly maxWaitingPerSource: number
  /** Jobs that wait. */
  readonly maxJobs: number
  readonly maxJobsPerSource: number
  /** Jobs that one process runs at the same time. */
  readonly workerConcurrency: number
}

export function queueSettingsOf(value: ConfigFile): QueueSettings {
  const queue = value?.queue
  return {
    maxWaiting: queue?.max_waiting ?? 10_000,
    maxWaitingPerSource: queue?.max_waiting_per_source ?? 1_000,
    maxJobs: queue?.max_jobs ?? 1_000_000,
    maxJobsPerSource: queue?.max_jobs_per_source ?? 100_000,
    workerConcurrency: queue?.worker_concurrency ?? 64
  }
}
