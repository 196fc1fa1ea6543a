// Follows a job's stream over as many connections as it takes: after each cut it goes on where the last one stopped.

import { setTimeout as wait } from 'node:timers/promises'
import type { GatewayClient } from '../client.ts'
import type { StreamEvent } from './events.ts'

export interface FollowOptions {
  readonly client: Pick<GatewayClient, 'stream'>
  readonly id: string
  readonly signal: AbortSignal
  /** There is a connection. */
  readonly onOpen: () => void
  readonly onEvent: (event: StreamEvent) => void
  /** The connection is gone; another try comes soon. */
  readonly onLost: (reason: string) => void
  /** So long without a sign of the gateway, and it gives up. */
  readonly giveUpMs?: number
}

const firstWaitMs = 250
const longestWaitMs = 5_000

/** Resolves after the job's `end`, or when called off. Throws when the gateway refuses, or stays away for `giveUpMs` (60 s). */
export async function follow({ client, id, signal, onOpen, onEvent, onLost, giveUpMs = 60_000 }: FollowOptions): Promise<void> {
  let lastEventId: string | null = null
  let heardAt = performance.now()
  let losses = 0
  let hasEnded = false
  const ended = new AbortController()
  const path = `/v1/jobs/${encodeURIComponent(id)}/stream`
  for (;;) {
    const cut = await client.stream({
      path,
      lastEventId,
      signal: AbortSignal.any([signal, ended.signal]),
      onOpen,
      onHeard() {
        heardAt = performance.now()
      },
      onEvent(event) {
        if (hasEnded) return
        losses = 0
        lastEventId = event.id ?? lastEventId
        hasEnded = event.event === 'end'
        onEvent(event)
        if (hasEnded) ended.abort()
      }
    })
    if (hasEnded || signal.aborted) return
    const leftMs = giveUpMs - (performance.now() - heardAt)
    if (leftMs <= 0) throw new Error(`The job could not be followed for ${giveUpMs / 1_000} s: ${cut.reason}`)
    onLost(cut.reason)
    // Half of it by chance: all that watched a gateway that is starting again would otherwise come at once.
    const backoffMs = Math.min(longestWaitMs, firstWaitMs * 2 ** losses++) * (0.5 + Math.random() / 2)
    await wait(Math.min(leftMs, Math.max(backoffMs, cut.retryAfterMs)), undefined, { signal }).catch(() => {})
    if (signal.aborted) return
  }
}
