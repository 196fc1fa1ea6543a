// Every open answer, and the one clock that looks after all of them: late headers, keep-alive comments, stalled readers, draining.

import type { GatewayError } from '../routing/errors.ts'
import { Places } from '../routing/places.ts'

/** An open answer, as the clock sees it. */
export interface OpenStream {
  /** Called about once a second. */
  tick(nowMs: number): void
  /** Ends it with this error, told to the client. */
  end(error: GatewayError): void
  /** Among the open ones; theirs alone to write. */
  place?: number | null
}

export interface Streams {
  add(stream: OpenStream): void
  /** Safe twice. */
  remove(stream: OpenStream): void
  readonly size: number
  /** Resolves when none is open any more, at the latest after `ms`. */
  settled(ms: number): Promise<void>
  endAll(error: GatewayError): void
  close(): void
}

/** One timer for all of them: a timer each would cost more than the streams do. */
export function createStreams(): Streams {
  const open = new Places<OpenStream>()
  const waiters = new Set<() => void>()
  const timer = setInterval(() => {
    const now = performance.now()
    for (const stream of open) stream.tick(now)
  }, 1_000)
  timer.unref()

  return {
    add(stream) {
      stream.place = open.add(stream)
    },
    remove(stream) {
      if (stream.place == null) return
      open.remove(stream.place)
      stream.place = null
      if (open.size === 0) for (const wake of waiters) wake()
    },
    get size() {
      return open.size
    },
    settled(ms) {
      if (open.size === 0) return Promise.resolve()
      return new Promise(resolve => {
        const wake = (): void => {
          clearTimeout(limit)
          waiters.delete(wake)
          resolve()
        }
        const limit = setTimeout(wake, ms)
        waiters.add(wake)
      })
    },
    endAll(error) {
      for (const stream of [...open]) stream.end(error)
    },
    close() {
      clearInterval(timer)
    }
  }
}
