// Keeps what the brain has learned over a restart: written down every 5 s when there is something new, read at the start.

import type { Brain } from '../routing/brain/brain.ts'
import { newestBrainState, saveBrainState } from '../store/brain-state.ts'
import type { Pool } from '../store/pool.ts'

export interface BrainKeeper {
  /** Begins with what the gateway knew that wrote last, and keeps what is learned from now on. Never rejects. */
  start(): Promise<void>
  /** After a last time. Never rejects. */
  close(): Promise<void>
}

const saveEveryMs = 5_000

/**
 * Each process has a row of its own: two gateways learn apart, and one that starts has what the one that wrote last knew. A process that
 * is killed loses the last 5 s.
 */
export function createBrainKeeper({
  pool,
  processId,
  brain,
  log
}: {
  readonly pool: Pool
  readonly processId: string
  readonly brain: Pick<Brain, 'revision' | 'snapshot' | 'restore'>
  readonly log: (message: string, error?: unknown) => void
}): BrainKeeper {
  let saved = brain.revision()
  let timer: NodeJS.Timeout | null = null
  let saving: Promise<void> | null = null
  let isFailing = false

  function save(): Promise<void> {
    saving ??= saveNow().finally(() => {
      saving = null
    })
    return saving
  }

  async function saveNow(): Promise<void> {
    const revision = brain.revision()
    if (revision === saved) return
    try {
      await saveBrainState(pool, processId, JSON.stringify(brain.snapshot()))
      saved = revision
      isFailing = false
    } catch (error) {
      if (!isFailing) log('what was learned of answers and providers could not be kept; it is tried again', error)
      isFailing = true
    }
  }

  async function restore(): Promise<void> {
    try {
      const kept = await newestBrainState(pool)
      if (kept !== null && !brain.restore(kept)) log('what was learned of answers and providers is of another version, and is not used')
    } catch (error) {
      log('what was learned of answers and providers could not be read: learning begins anew', error)
    }
    saved = brain.revision()
  }

  return {
    async start() {
      await restore()
      timer = setInterval(() => void save(), saveEveryMs)
      timer.unref()
    },
    async close() {
      if (timer !== null) clearInterval(timer)
      await saving
      await save()
    }
  }
}
