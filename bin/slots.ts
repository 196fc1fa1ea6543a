// The slots of machines for the dispatcher: claims wait out a short outage of the database, releases never get lost.

import { GatewayError } from '../routing/errors.ts'
import type { Slots } from '../routing/ports.ts'
import { isConnectionError, type Pool } from '../store/pool.ts'
import { claimSlot, releaseSlot } from '../store/slots.ts'

// The embedded server is back within a second of being killed.
const claimWithinMs = 3_000
const pauseMs = 100

/** The queue, which has a say in who gets a place. */
export interface SlotQueue {
  /** Lanes with requests that wait for this machine, and are served no later than one that comes now. */
  ahead(deviceId: string): readonly string[]
  /** Gives the place of an attempt that is over to whoever waits for it; false when nobody does. */
  handOver(deviceId: string, attemptId: string): Promise<boolean>
  /** A place is free. */
  freed(deviceId: string): void
}

/** `close` gives up on releases that wait; the process's own end frees its slots. */
export function createSlots({
  pool,
  processId,
  queue,
  log
}: {
  readonly pool: Pool
  readonly processId: string
  readonly queue: () => SlotQueue
  readonly log: (message: string, error: unknown) => void
}): Slots & { close(): void } {
  const timers = new Set<NodeJS.Timeout>()
  // Places of ours on their way back, by machine.
  const releases = new Map<string, Set<Promise<void>>>()
  let closed = false

  async function claim(deviceId: string, attemptId: string, { mayOvertake }: { readonly mayOvertake: boolean }): Promise<boolean> {
    const until = performance.now() + claimWithinMs
    for (;;) {
      // Looked at before: one that is done while we ask counts as well.
      const leaving = [...(releases.get(deviceId) ?? [])]
      try {
        const lanesAhead = mayOvertake ? [] : queue().ahead(deviceId)
        if ((await claimSlot(pool, { deviceId, processId, attemptId, lanesAhead })) !== null) return true
        // Our own last answer is over, and its place on the way back: a client that asks again at once must not find it taken.
        if (leaving.length === 0 || performance.now() > until) return false
        await Promise.race(leaving)
      } catch (error) {
        if (isTaken(error)) return true
        if (!isConnectionError(error) || performance.now() > until) {
          throw new GatewayError('database_unavailable', 'The database is away, so no place on a machine can be taken.', {
            cause: error,
            retryAfterMs: 1_000
          })
        }
        await new Promise(resolve => setTimeout(resolve, pauseMs))
      }
    }
  }

  function release(deviceId: string, attemptId: string, afterMs: number): void {
    const done = Promise.withResolvers<void>()
    const ofDevice = releases.get(deviceId) ?? new Set()
    releases.set(deviceId, ofDevice.add(done.promise))
    const give = (): void => {
      giveBack(deviceId, attemptId).then(
        () => {
          ofDevice.delete(done.promise)
          done.resolve()
        },
        (error: unknown) => {
          log('a place on a machine could not be given back yet', error)
          later(1_000, give)
        }
      )
    }
    if (afterMs > 0) later(afterMs, give)
    else give()
  }

  async function giveBack(deviceId: string, attemptId: string): Promise<void> {
    if (!closed && (await queue().handOver(deviceId, attemptId))) return
    await releaseSlot(pool, deviceId, attemptId)
    queue().freed(deviceId)
  }

  function later(ms: number, act: () => void): void {
    if (closed) return
    const timer = setTimeout(() => {
      timers.delete(timer)
      act()
    }, ms)
    timers.add(timer)
  }

  return {
    claim,
    release,
    close() {
      closed = true
      for (const timer of timers) clearTimeout(timer)
    }
  }
}

/** A claim whose answer was lost on the way, tried again: the attempt has its place already. */
function isTaken(error: unknown): boolean {
  return (error as { code?: unknown }).code === '23505'
}
