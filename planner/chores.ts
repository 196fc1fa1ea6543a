// What is done once for all processes: each looks once a second what is due, one does it, and another does it again when that one dies.

import { setTimeout as sleep } from 'node:timers/promises'
import { finishChore, isChoreOf, knowChores, takeChores } from '../store/chores.ts'
import type { Pool } from '../store/pool.ts'

export interface Chore {
  readonly name: string
  /** From one end to the next begin; 0 = only when it is called for. */
  readonly everyMs: number
  /** When a process starts: at once, unless it was done in the last 10 minutes; otherwise in its time. */
  readonly atOnce: boolean
  /** It is broken off after so long. */
  readonly limitMs: number
  /**
   * Does it. May be done twice where a process dies in the middle. `signal`: the process leaves, it took too long, or another
   * process has taken it over. Returns a figure or two for people. Throws what kept it from being done.
   */
  run(signal: AbortSignal): Promise<string>
}

export interface Chores {
  start(): void
  /** Looks now; resolves when what was due is done. Never rejects. */
  look(): Promise<void>
  close(): Promise<void>
}

const lookEveryMs = 1_000
// A failure is tried again sooner, and less and less so.
const retryMs = { first: 10_000, most: 600_000 }
const checkEveryMs = 1_000
const finishEveryMs = 500

/** Safe in any number of processes: each chore is done by one of them at a time. */
export function createChores(ports: {
  readonly pool: Pool
  readonly processId: string
  readonly chores: readonly Chore[]
  readonly log: (message: string, error: unknown) => void
}): Chores {
  const { pool, processId, log } = ports
  const chores = new Map(ports.chores.map(chore => [chore.name, chore]))
  const leaving = new AbortController()
  const running = new Map<string, Promise<void>>()
  const failures = new Map<string, number>()
  let isKnown = false
  let timer: NodeJS.Timeout | null = null
  let failing = false
  let taking = false

  async function look(): Promise<void> {
    const idle = [...chores.keys()].filter(name => !running.has(name))
    // One at a time: what is ours and does not run is taken to be lost.
    if (leaving.signal.aborted || idle.length === 0 || taking) return
    taking = true
    let begun: readonly Promise<void>[] = []
    try {
      if (!isKnown) await knowChores(pool, ports.chores)
      isKnown = true
      begun = (await takeChores(pool, idle, processId)).map(begin)
      failing = false
    } catch (error) {
      if (!failing) log('what is due could not be found out; it is tried again', error)
      failing = true
    }
    taking = false
    await Promise.all(begun)
  }

  function begin(name: string): Promise<void> {
    const done = carryOut(chores.get(name) as Chore).finally(() => running.delete(name))
    running.set(name, done)
    return done
  }

  async function carryOut(chore: Chore): Promise<void> {
    const over = new AbortController()
    const signal = AbortSignal.any([over.signal, leaving.signal, AbortSignal.timeout(chore.limitMs)])
    // Whoever was frozen finds out that others went on without him.
    const check = setInterval(() => {
      isChoreOf(pool, chore.name, processId).then(
        isOurs => {
          if (!isOurs) over.abort(new Error('another process has taken it over'))
        },
        () => {}
      )
    }, checkEveryMs)
    check.unref()
    try {
      const note = await chore.run(signal)
      failures.delete(chore.name)
      await finish({ name: chore.name, succeeded: true, note, nextMs: chore.everyMs === 0 ? null : chore.everyMs })
    } catch (error) {
      const count = (failures.get(chore.name) ?? 0) + 1
      failures.set(chore.name, count)
      if (!leaving.signal.aborted) log(`${chore.name} failed`, error)
      const backoffMs = Math.min(retryMs.most, retryMs.first * 2 ** (count - 1))
      const nextMs = leaving.signal.aborted ? 0 : chore.everyMs === 0 ? null : Math.min(chore.everyMs, backoffMs)
      const note = error instanceof Error ? error.message : String(error)
      await finish({ name: chore.name, succeeded: false, note, nextMs })
    } finally {
      clearInterval(check)
    }
  }

  /** Again and again with the database away: what stays ours without being done is done by nobody. Never rejects. */
  async function finish(end: Omit<Parameters<typeof finishChore>[1], 'processId'>): Promise<void> {
    // PostgreSQL takes no NUL.
    const written = { ...end, processId, note: end.note.replaceAll('\0', '') }
    for (;;) {
      try {
        await finishChore(pool, written)
        return
      } catch {
        // Others find out that we are gone.
        if (leaving.signal.aborted) return
        await sleep(finishEveryMs, null, { signal: leaving.signal, ref: false }).catch(() => {})
      }
    }
  }

  return {
    start() {
      const tick = (): void => void look()
      tick()
      timer = setInterval(tick, lookEveryMs)
      timer.unref()
    },
    look,
    async close() {
      leaving.abort(new Error('the process leaves'))
      if (timer !== null) clearInterval(timer)
      await Promise.allSettled(running.values())
    }
  }
}
