// What the events of jobs are to those who write them and those who read them. Types only.

import type { EventRow } from '../../store/job-events.ts'
import type { EventId, JobRecord, JobStatus, JobWatch } from '../types.ts'

/**
 * The events of one attempt. After `open`: `frames` as they come, then either `settle`, its rows in the transaction that ends the
 * job, and `ended`; or `retrying`, or `dropped`. Nothing may be called after one of these three.
 */
export interface EventLog {
  readonly jobId: string
  readonly attempt: number
  /**
   * Whole server-sent events as an adapter gives them; each with data is a chunk, `[DONE]` is none.
   * False = too much waits for the database: `onRoom` of this log is called when there is room. What was given is kept all the same.
   */
  frames(events: Buffer): boolean
  /**
   * For the transaction that ends the job: the chunks that may not be in the database for good yet, then `result` and `end`.
   * Waits for what is being written; nothing of this log is written after that. May be called again, with another status too.
   */
  settle(status: JobStatus): Promise<readonly EventRow[]>
  /** That transaction is through: tells the readers, here and elsewhere. */
  ended(status: JobStatus): void
  /** The attempt failed, and another will follow: what waits is written as usual. Also after `settle`. */
  retrying(): void
  /** The attempt is not ours any more: what waits is forgotten. */
  dropped(): void
}

export interface EventWriter {
  /** Begins the events of an attempt of a job with `stream` with their marker, as soon as it is claimed. */
  open(jobId: string, attempt: number, onRoom?: () => void): EventLog
  /** Writes what still waits, for at most `timeoutMs` (default 5 s). */
  close(timeoutMs?: number): Promise<void>

  // For the readers of this process.
  /** The newest attempt that is written here and not in the database as a whole. */
  written(jobId: string): WrittenHere | null
  /** `news` is called with the id of a job that has chunks, an attempt or an end more. */
  onNews(news: (jobId: string) => void): void
}

/** What this process has in memory of an attempt. */
export interface WrittenHere {
  readonly attempt: number
  readonly at: Date
  /** The chunks after `seq`, up to about `bytes`; null when they are not in memory any more: read the table. */
  after(seq: number, bytes: number): readonly string[] | null
}

export interface Watches {
  /** Follows a job, which the caller has just read, from after an event on. */
  watch(job: JobRecord, after: EventId | null): JobWatch
  /** A notification came: give it every one that comes from `listen`, also those with an empty payload. */
  notified(channel: string, payload: string): void
  close(): void
}
