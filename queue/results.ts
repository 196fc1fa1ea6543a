// Large results: at most two are read at once, their sources taking turns, and what is under way of them has a bound.

import { GatewayError } from '../routing/errors.ts'
import type { JobRecord } from './types.ts'

/** A result that is in memory until it is released. */
export interface HeldResult {
  readonly bytes: Buffer
  /** It is on its way out. Safe twice. */
  release(): void
}

export interface Results {
  /**
   * The result of a finished job, read in its turn. Throws GatewayError: `no_capacity` when that does not come for 30 s, `client_gone`
   * when `signal` fires before it, `job_not_finished` when the job was queued again meanwhile.
   */
  read(job: LargeJob, signal: AbortSignal): Promise<HeldResult>
}

export type LargeJob = Pick<JobRecord, 'id' | 'source' | 'attemptNo' | 'resultBytes'>

// Of all connections of the pool: the others are for everybody's small statements.
const readsAtOnce = 2
const bytesAtMost = 128 * 1024 * 1024
// A single result may be larger; nothing else of its source goes with it then.
const bytesOfSourceAtMost = 64 * 1024 * 1024
const defaultWaitMs = 30_000
const retryAfterMs = 1_000

interface Waiting {
  readonly bytes: number
  /** Its turn has come. */
  begin(): void
}

/** `waitMs`: how long a reader waits for its turn. */
export function createResults(read: (id: string, attemptNo: number) => Promise<Buffer | null>, waitMs = defaultWaitMs): Results {
  /** Who waits, by source; whose turn is next comes first. */
  const lines = new Map<string, Waiting[]>()
  const heldOf = new Map<string, number>()
  let held = 0
  let reading = 0

  function fits(source: string, bytes: number): boolean {
    const own = heldOf.get(source) ?? 0
    return (own === 0 || own + bytes <= bytesOfSourceAtMost) && (held === 0 || held + bytes <= bytesAtMost)
  }

  function hold(source: string, bytes: number): void {
    held += bytes
    const own = (heldOf.get(source) ?? 0) + bytes
    if (own > 0) heldOf.set(source, own)
    else heldOf.delete(source)
  }

  /** Lets in whoever may be read now. A source whose turn it was comes last. */
  function letIn(): void {
    while (reading < readsAtOnce) {
      const next = [...lines].find(([source, [first]]) => first !== undefined && fits(source, first.bytes))
      if (next === undefined) return
      const [source, line] = next
      const first = line.shift() as Waiting
      lines.delete(source)
      if (line.length > 0) lines.set(source, line)
      reading++
      hold(source, first.bytes)
      first.begin()
    }
  }

  /** Resolves when it is its turn, and its bytes are held. */
  function turn(source: string, bytes: number, signal: AbortSignal): Promise<void> {
    if (signal.aborted) return Promise.reject(gone())
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    const waiting: Waiting = { bytes, begin }
    const timer = setTimeout(() => leave(tooMany()), waitMs)
    const onAbort = (): void => leave(gone())
    signal.addEventListener('abort', onAbort)
    lines.set(source, [...(lines.get(source) ?? []), waiting])
    letIn()
    return promise

    function begin(): void {
      clearTimeout(timer)
      signal.removeEventListener('abort', onAbort)
      resolve()
    }

    function leave(error: GatewayError): void {
      clearTimeout(timer)
      signal.removeEventListener('abort', onAbort)
      const line = (lines.get(source) ?? []).filter(other => other !== waiting)
      if (line.length > 0) lines.set(source, line)
      else lines.delete(source)
      reject(error)
    }
  }

  return {
    async read({ id, source, attemptNo, resultBytes }, signal) {
      const size = resultBytes ?? 0
      await turn(source, size, signal)
      let isHeld = true
      const release = (): void => {
        if (!isHeld) return
        isHeld = false
        hold(source, -size)
        letIn()
      }
      try {
        const bytes = await read(id, attemptNo)
        if (bytes === null) throw new GatewayError('job_not_finished', 'The job was queued again while its result was read.')
        return { bytes, release }
      } catch (thrown) {
        release()
        throw thrown
      } finally {
        reading--
        letIn()
      }
    }
  }
}

function gone(): GatewayError {
  return new GatewayError('client_gone', 'The client went away.')
}

function tooMany(): GatewayError {
  return new GatewayError('no_capacity', 'Too many large results are on their way right now.', { retryAfterMs })
}
