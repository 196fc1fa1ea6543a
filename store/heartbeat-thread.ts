// The thread of heartbeat.ts: one connection of its own, one small statement a second.

import { setTimeout as sleep } from 'node:timers/promises'
import { workerData } from 'node:worker_threads'
import type { HeartbeatData } from './heartbeat.ts'
import { createPool } from './pool.ts'
import { seenProcess } from './processes.ts'

const everyMs = 1_000
const stuckAfterMs = 10_000

const { connection, identity, pulse } = workerData as HeartbeatData
const counter = new Int32Array(pulse)
// Lost connections are made anew by the next beat; there is nothing to add to that.
const pool = createPool(connection, { max: 1, name: 'heartbeat', onError: () => {} })
let lastPulse = -1
let changedAt = performance.now()

for (;;) {
  const now = Atomics.load(counter, 0)
  if (now !== lastPulse) {
    lastPulse = now
    changedAt = performance.now()
  }
  // A database that is away shows in every other statement; here it only means trying again.
  if (performance.now() - changedAt < stuckAfterMs) await seenProcess(pool, identity).catch(() => {})
  await sleep(everyMs)
}
