// Keeps this process alive in the eyes of the others, from a thread that a busy main loop cannot delay.

import { Worker } from 'node:worker_threads'
import type { Connection } from './pool.ts'
import type { ProcessIdentity } from './processes.ts'

export interface HeartbeatData {
  readonly connection: Connection
  readonly identity: ProcessIdentity
  /** Counted up by the main loop: a loop that is stuck for 10 s is not alive. */
  readonly pulse: SharedArrayBuffer
}

/** Starts the thread. `stop` ends it; the row in `processes` is the caller's to remove. */
export function startHeartbeat(connection: Connection, identity: ProcessIdentity): { stop(): Promise<void> } {
  const pulse = new SharedArrayBuffer(4)
  const counter = new Int32Array(pulse)
  const timer = setInterval(() => Atomics.add(counter, 0, 1), 1_000)
  timer.unref()
  const workerData: HeartbeatData = { connection, identity, pulse }
  const worker = new Worker(new URL('./heartbeat-thread.ts', import.meta.url), { workerData })
  worker.unref()
  return {
    async stop() {
      clearInterval(timer)
      await worker.terminate()
    }
  }
}
