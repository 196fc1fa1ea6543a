// Gives a job and a place on a machine to an attempt, in one statement (migrations/0005_claim_one_of_several.sql).

import type { Pool } from '../pool.ts'

export interface Claim {
  /** Best first: it gets the first of them that waits and that nobody else is at. */
  readonly jobIds: readonly string[]
  /** Null = a rented target, which has no places. */
  readonly deviceId: string | null
  readonly provider: string
  readonly processId: string
  readonly attemptId: string
  /** The attempt that holds a place there and hands it on; null = any free one. */
  readonly fromAttemptId: string | null
  readonly paid: boolean
}

export type ClaimOutcome =
  /** `runner`: the process that is to run it, which is another one where that holds the client's connection. */
  | { readonly outcome: 'claimed'; readonly job: string; readonly attempt: number; readonly runner: string }
  | { readonly outcome: 'owner_gone'; readonly job: string }
  | { readonly outcome: 'full'; readonly job: string }
  | { readonly outcome: 'no_ticket'; readonly job: string }
  /** None of them waits any more. */
  | { readonly outcome: 'gone' }

/** Safe from any number of processes: one of them gets a job, and a place is given once. */
export async function claimJob(pool: Pool, claim: Claim): Promise<ClaimOutcome> {
  const { rows } = await pool.query({
    name: 'jobs.claim',
    text: 'select outcome, job, attempt, runner from claim_job($1, $2, $3, $4, $5, $6, $7)',
    values: [claim.jobIds, claim.deviceId, claim.provider, claim.processId, claim.attemptId, claim.fromAttemptId, claim.paid]
  })
  return rows[0]
}

/** What the runner of an attempt needs to begin. */
export interface ClaimedJob {
  readonly id: string
  readonly attempt: number
  readonly attemptId: string
  readonly kind: string
  readonly class: number
  readonly lane: string
  readonly model: string | null
  readonly source: string
  readonly stream: boolean
  readonly deviceId: string | null
  readonly provider: string | null
  /** The attempt holds its place on the machine, or needs none. */
  readonly hasPlace: boolean
  readonly attempts: number
  readonly maxAttempts: number
  readonly ticketRetry: number
  readonly charge: number
  readonly weight: number
  readonly request: unknown
  readonly caller: unknown
  readonly payload: Buffer | null
  readonly webhookUrl: string | null
  readonly ownerProcess: string | null
  readonly createdAt: Date
  readonly startedAt: Date
  readonly deadlineAt: Date | null
}

/** Running jobs by id, as far as they belong to this process. */
export async function claimedJobs(pool: Pool, ids: readonly string[], processId: string): Promise<ClaimedJob[]> {
  const { rows } = await pool.query({
    name: 'jobs.claimed',
    text: `
select id, attempt_no as attempt, attempt_id as "attemptId", kind, class, lane, model, source, stream, device_id as "deviceId", provider,
       device_id is null or exists (
         select from device_slots where device_slots.device_id = jobs.device_id and device_slots.attempt_id = jobs.attempt_id
       ) as "hasPlace",
       attempts, max_attempts as "maxAttempts", ticket_retry as "ticketRetry", charge, weight, request, caller, payload,
       webhook_url as "webhookUrl", owner_process as "ownerProcess", created_at as "createdAt", started_at as "startedAt",
       deadline_at as "deadlineAt"
  from jobs
 where id = any ($1::uuid[])
   and status = 'running'
   and process_id = $2`,
    values: [ids, processId]
  })
  return rows.map(row => ({ ...row, charge: Number(row.charge) }))
}

/** All that the database says this process is running: job and attempt. */
export async function runningOf(pool: Pool, processId: string): Promise<{ readonly id: string; readonly attempt: number }[]> {
  const { rows } = await pool.query({
    name: 'jobs.running_of',
    text: `select id, attempt_no as attempt from jobs where status = 'running' and process_id = $1`,
    values: [processId]
  })
  return rows
}
