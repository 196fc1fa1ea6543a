// What came of the webhook of a job.

import type { Pool } from '../pool.ts'
import type { JobWebhook } from './record.ts'

export async function recordWebhook(pool: Pool, jobId: string, { status, error }: Pick<JobWebhook, 'status' | 'error'>): Promise<void> {
  await pool.query({
    name: 'jobs.webhook',
    text: 'update jobs set webhook_status = $2, webhook_error = $3 where id = $1',
    values: [jobId, status, error]
  })
}
