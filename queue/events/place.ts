// How far one reader of one job has read, and what rows, chunks and ends make of that. Nothing here waits.

import type { EventPlace, EventRow, FollowedState } from '../../store/job-events.ts'
import type { EventId, JobEvent, JobRecord, JobStatus } from '../types.ts'

export interface Place {
  readonly jobId: string
  /** Jobs without it have no rows. */
  readonly hasStream: boolean
  status: JobStatus
  /** The job's newest attempt. */
  attemptNo: number
  processId: string | null
  /** What the reader has: -1 = not even the marker of the attempt. */
  attempt: number
  seq: number
  isRowEnd: boolean
  /** Of the rows of this attempt that were seen: where its last events stand. */
  resultSeq: number | null
  endSeq: number | null
  /** The reader came back, and was told nothing yet. */
  isResumed: boolean
}

const finished: ReadonlySet<JobStatus> = new Set(['done', 'error', 'cancelled'])

export function isFinished(status: JobStatus): boolean {
  return finished.has(status)
}

export function startPlace(job: JobRecord, after: EventId | null): Place {
  const place: Place = {
    jobId: job.id,
    hasStream: job.stream,
    status: job.status,
    attemptNo: job.attemptNo,
    processId: job.processId,
    attempt: -1,
    seq: 0,
    isRowEnd: true,
    resultSeq: null,
    endSeq: null,
    isResumed: false
  }
  moveTo(place, job.attemptNo)
  // What an older attempt had left is not worth having, and of a newer one nobody knows.
  if (after === null || after.attempt !== job.attemptNo) return place
  place.seq = after.seq
  place.isRowEnd = false
  place.isResumed = true
  return place
}

/** Before the first event of an attempt. The number 0 is the marker's, and jobs without attempt or stream have none. */
function moveTo(place: Place, attempt: number): void {
  place.attempt = attempt
  place.seq = place.hasStream && attempt > 0 ? -1 : 0
  place.isRowEnd = true
  place.resultSeq = null
  place.endSeq = null
  place.isResumed = false
}

/** Takes over what is known of the job, unless we know better; true when something is new. */
export function learn(place: Place, { status, attemptNo, processId }: FollowedState): boolean {
  if (attemptNo < place.attemptNo) return false
  const isNew = status !== place.status || attemptNo !== place.attemptNo || processId !== place.processId
  place.status = status
  place.attemptNo = attemptNo
  place.processId = processId
  if (attemptNo > place.attempt) moveTo(place, attemptNo)
  return isNew
}

/** The marker of the attempt, if the reader has not got it. */
function marker(place: Place, at: Date): JobEvent[] {
  if (place.seq >= 0) return []
  place.seq = 0
  place.isRowEnd = true
  return [{ type: 'attempt', id: { attempt: place.attempt, seq: 0 }, at }]
}

/** The next chunks of its attempt, from memory. */
export function takeChunks(place: Place, at: Date, chunks: readonly string[]): JobEvent[] {
  const events = marker(place, at)
  for (const json of chunks) events.push({ type: 'chunk', id: { attempt: place.attempt, seq: ++place.seq }, json })
  if (chunks.length > 0) place.isRowEnd = false
  if (events.length > 0) place.isResumed = false
  return events
}

/**
 * The events of rows that were read for this place. `isLast`: the job was over before they were read, nothing can come between them.
 * Until then a reader waits where a number is missing: a server that was killed may have forgotten the row, and will be given it again.
 */
export function takeRows(place: Place, rows: readonly EventRow[], isLast: boolean): JobEvent[] {
  const events: JobEvent[] = []
  for (const row of rows) {
    if (row.kind === 'result') place.resultSeq = row.seq
    else if (row.kind === 'end') place.endSeq = row.seq
    // Chunks after the result come from one who was taken for lost and goes on writing.
    else if (place.resultSeq === null) {
      if (row.seq > Math.max(place.seq, 0) + 1 && !isLast) break
      events.push(...marker(place, row.at))
      if (row.kind === 'chunks') events.push(...chunksOf(place, row))
    }
  }
  if (events.length > 0) place.isResumed = false
  return events
}

function chunksOf(place: Place, { seq, count, data }: EventRow): JobEvent[] {
  const last = seq + count - 1
  const known = Math.max(0, place.seq + 1 - seq)
  if (last < place.seq) return []
  place.seq = last
  place.isRowEnd = true
  const lines = data.split('\n').slice(known)
  return lines.map((json, index) => ({ type: 'chunk', id: { attempt: place.attempt, seq: seq + known + index }, json }))
}

/** What a reader is told who has got everything else; nothing when he has got the end too. */
export function lastEvents(place: Place, job: JobRecord): JobEvent[] {
  const { attempt } = place
  const events = marker(place, job.startedAt ?? job.createdAt)
  if (!place.hasStream) {
    place.resultSeq = 1
    place.endSeq = 2
    if (place.seq > 2) place.seq = 0
  }
  const { seq, isResumed } = place
  if (isResumed && seq === place.endSeq) return []
  const hasResult = isResumed && place.endSeq === seq + 1 && (place.resultSeq ?? seq) === seq
  // A reader may be further than the rows: he had chunks of an attempt that was ended by others before these were written.
  const resultSeq = Math.max(place.resultSeq ?? 0, seq + 1)
  const endSeq = hasResult ? seq + 1 : Math.max(place.endSeq ?? 0, resultSeq + 1)
  if (!hasResult) events.push({ type: 'result', id: { attempt, seq: resultSeq }, job })
  events.push({ type: 'end', id: { attempt, seq: endSeq }, status: job.status, at: job.finishedAt ?? job.createdAt })
  return events
}

export function asked({ jobId, attempt, seq, isRowEnd }: Place): EventPlace {
  return { jobId, attempt, seq, isRowEnd }
}
