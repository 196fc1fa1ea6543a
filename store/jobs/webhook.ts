// What came of the webhook of a job, and that it is to be sent again.

import type { Pool } from '../pool.ts'
import { type Tickets, type Transaction, webhookQueue, within } from './end.ts'
import type { JobRecord, JobWebhook } from './record.ts'

export async function recordWebhook(pool: Pool, jobId: string, { status, error }: Pick<JobWebhook, 'status' | 'error'>): Promise<void> {
  await pool.query({
    name: 'jobs.webhook',
    text: 'update jobs set webhook_status = $2, webhook_error = $3 where id = $1',
    values: [jobId, status, error]
  })
}

/** A ticket for another delivery, with all its tries. False: one is waiting already, and this adds nothing. */
export async function sendWebhookAgain(
  tx: Transaction,
  tickets: Pick<Tickets, 'insert'>,
  { id, source }: Pick<JobRecord, 'id' | 'source'>
): Promise<boolean> {
  const { rowCount } = await tx.query({
    name: 'jobs.webhook_again',
    text: `update jobs set webhook_status = 'waiting', webhook_error = null where id = $1 and webhook_status <> 'waiting'`,
    values: [id]
  })
  if (rowCount !== 1) return false
  await tickets.insert(webhookQueue, [{ data: { jobId: id }, group: { id: source } }], within(tx))
  return true
}
