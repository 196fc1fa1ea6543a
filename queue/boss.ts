// pg-boss: the tickets of jobs, their retries with backoff, and the webhooks. The only file that knows how it is set up.

import { PgBoss } from 'pg-boss'
import { ticketQueue, webhookQueue } from '../store/jobs/end.ts'
import type { Connection } from '../store/pool.ts'

export type Boss = PgBoss

export { ticketQueue, webhookQueue } from '../store/jobs/end.ts'

// The statements of migrations/0004_jobs.sql that write to its tables know this version.
const schemaVersion = 43
// The longest that pg-boss allows: attempts end by their own limits, and those of lost processes by the sweeper.
const expireSeconds = 86_399

/**
 * Makes its schema, if need be, and the queues. Safe to run from several processes at once.
 * Throws when its schema is of another version than our own statements were written for.
 */
export async function startBoss({
  connection,
  supervise,
  log
}: {
  readonly connection: Connection
  /** Whether this process looks after pg-boss's tables. */
  readonly supervise: boolean
  readonly log: (message: string, error: unknown) => void
}): Promise<Boss> {
  const boss = new PgBoss({
    ...connection,
    application_name: 'llm-mcp tickets',
    max: 4,
    supervise,
    superviseIntervalSeconds: 60,
    useListenNotify: true
  })
  boss.on('error', error => log('pg-boss met an error', error))
  await boss.start()
  const version = await boss.schemaVersion()
  if (version !== schemaVersion) {
    await boss.stop({ graceful: false })
    throw new Error(`pg-boss's tables are of version ${version}, but this release needs ${schemaVersion}. Use the release that made them.`)
  }
  // Its history is in our own table.
  const keeping = { expireInSeconds: expireSeconds, retentionSeconds: 365 * 86_400, deleteAfterSeconds: 3_600 }
  await boss.createQueue(ticketQueue, { ...keeping, retryLimit: 2, retryDelay: 1, retryBackoff: true, retryDelayMax: 60 })
  await boss.createQueue(webhookQueue, {
    retryLimit: 8,
    retryDelay: 5,
    retryBackoff: true,
    retryDelayMax: 3_600,
    expireInSeconds: 60,
    deleteAfterSeconds: 86_400,
    notify: true
  })
  return boss
}
