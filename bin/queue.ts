// The queue of this process: its own connections, pg-boss, and what it is given of the other rooms.

import { readBody } from '../gateway/body.ts'
import { readTextInput } from '../gateway/dialects/text-input.ts'
import { jobJson, noOutlook } from '../gateway/jobs/object.ts'
import type { JobCounts, JobMetrics } from '../gateway/metrics/jobs.ts'
import { createGuarded } from '../outbound/guarded.ts'
import { startBoss } from '../queue/boss.ts'
import { createQueue, type FinishedJob, type Queue, type QueuePorts } from '../queue/queue.ts'
import { jobClasses } from '../queue/types.ts'
import { countJobs } from '../store/jobs/candidates.ts'
import { createPool } from '../store/pool.ts'
import type { Settings } from './config.ts'
import type { Database } from './database.ts'

export interface ProcessQueue {
  readonly queue: Queue
  /** Of all processes, as of the last seconds; null while nobody knows. */
  counts(): JobCounts | null
  /** Where what happens is counted; until then it is not. */
  countIn(metrics: JobMetrics): void
  close(): Promise<void>
}

export interface ProcessQueuePorts
  extends Pick<
    QueuePorts,
    'processId' | 'listener' | 'catalog' | 'dispatch' | 'load' | 'isAway' | 'isDown' | 'release' | 'unstored' | 'newId' | 'now' | 'log'
  > {
  readonly settings: Settings
  readonly database: Database
}

// Apart from those of the requests, so that a long queue keeps nobody out.
const connections = 8
const countEveryMs = 5_000
const countAtMost = 10_000

/** Throws when the tables of pg-boss are of another version than ours know. */
export async function openQueue(ports: ProcessQueuePorts): Promise<ProcessQueue> {
  const { settings, database, log } = ports
  const isWorker = settings.role === 'all' || settings.role === 'worker'
  const isPlanner = settings.role === 'all' || settings.role === 'planner'
  const pool = createPool(database.connection, {
    max: connections,
    name: 'queue',
    onError: error => log('a database connection was lost', error)
  })
  const boss = await startBoss({ connection: database.connection, supervise: isPlanner, log })
  let metrics: JobMetrics | null = null
  let counts: JobCounts | null = null

  const queue = createQueue({
    ...ports,
    pool,
    boss,
    read: async (operation, bytes) => {
      const body = readBody(bytes)
      if (operation === 'chat') return { body, input: null }
      const name = operation === 'embed' ? 'input' : 'prompt'
      const { input } = await readTextInput(body.json()[name], { name, textsAtMost: 2_048, mayBeEmpty: operation === 'complete' })
      return { body, input }
    },
    limits: settings.queue,
    isWorker,
    isPlanner,
    webhooks:
      settings.webhooks.secret === null
        ? null
        : {
            secret: settings.webhooks.secret,
            guarded: createGuarded({ allow: settings.webhooks.allow }),
            describe: job => jobJson(job, noOutlook)
          },
    onFinished: finished => count(finished),
    onOverflow: outcome => metrics?.overflow(outcome)
  })

  function count({ kind, class: jobClass, status, attempts, waitedMs }: FinishedJob): void {
    metrics?.jobAttempt(status)
    if (attempts === 1) metrics?.jobStarted(jobClass, waitedMs)
    if (status !== 'retry') metrics?.job({ kind, status })
  }

  const clock = setInterval(() => {
    countJobs(pool, countAtMost).then(
      ({ waiting, running }) => {
        counts = { waiting: Object.fromEntries(jobClasses.map((name, index) => [name, waiting[index] ?? 0])), running }
      },
      () => {
        // The database is away: nobody knows.
        counts = null
      }
    )
  }, countEveryMs)
  clock.unref()

  return {
    queue,
    counts: () => counts,
    countIn(given) {
      metrics = given
    },
    async close() {
      clearInterval(clock)
      await boss.stop({ graceful: false, close: true }).catch((error: unknown) => log('pg-boss could not be stopped in order', error))
      await pool.end().catch(() => {})
    }
  }
}
