// Stores jobs with their tickets, durably: those that come while one transaction is on its way go together in the next.

import { expectedCharge } from '../routing/fair.ts'
import type { Caller, ModelRequest } from '../routing/types.ts'
import { ticketQueue, within } from '../store/jobs/end.ts'
import { insertJobs, type JobRow } from '../store/jobs/submit.ts'
import { inTransaction, type Pool } from '../store/pool.ts'
import type { Boss } from './boss.ts'
import { laneOf } from './lanes.ts'
import { jobClasses, type NewJob } from './types.ts'

export interface Submitter {
  /** Resolves when it is on disk: true when it is new, false when its idempotency key is there already. */
  submit(row: JobRow): Promise<boolean>
}

// One statement of this size takes some milliseconds; more at once would only make the first wait.
const rowsAtOnce = 500
const bytesAtOnce = 16 * 1024 * 1024
// One that commits while another gathers.
const transactionsAtOnce = 2

interface Waiting {
  readonly row: JobRow
  readonly resolve: (isNew: boolean) => void
  readonly reject: (error: unknown) => void
}

export function createSubmitter({ pool, boss }: { readonly pool: Pool; readonly boss: Boss }): Submitter {
  let waiting: Waiting[] = []
  let running = 0

  async function run(): Promise<void> {
    running++
    while (waiting.length > 0) {
      const batch = take()
      try {
        const stored = new Set(await store(batch.map(({ row }) => row)))
        for (const { row, resolve } of batch) resolve(stored.has(row.id))
      } catch (error) {
        if (batch.length === 1) batch[0]?.reject(error)
        else await oneByOne(batch)
      }
    }
    running--
  }

  function take(): Waiting[] {
    let bytes = 0
    let count = 0
    for (const { row } of waiting) {
      bytes += row.payload?.length ?? 0
      if (count > 0 && (count >= rowsAtOnce || bytes > bytesAtOnce)) break
      count++
    }
    const batch = waiting.slice(0, count)
    waiting = waiting.slice(count)
    return batch
  }

  /** Something was wrong with one of them, or with the way: each hears of its own. */
  async function oneByOne(batch: readonly Waiting[]): Promise<void> {
    for (const { row, resolve, reject } of batch) {
      try {
        resolve((await store([row])).includes(row.id))
      } catch (error) {
        reject(error)
      }
    }
  }

  function store(rows: readonly JobRow[]): Promise<string[]> {
    return inTransaction(pool, async client => {
      const stored = await insertJobs(client, rows)
      const isStored = new Set(stored)
      const tickets = rows
        .filter(({ id }) => isStored.has(id))
        .map(({ id, maxAttempts }) => ({ id, data: {}, retryLimit: maxAttempts - 1, retryDelay: 1, retryBackoff: true, retryDelayMax: 60 }))
      if (tickets.length > 0) await boss.insert(ticketQueue, tickets, within(client))
      return stored
    })
  }

  return {
    submit(row) {
      return new Promise<boolean>((resolve, reject) => {
        waiting.push({ row, resolve, reject })
        if (running < transactionsAtOnce) void run()
      })
    }
  }
}

/** What a job that waits for a model is stored as; its payload apart. */
export function rowOf(job: NewJob): JobRow {
  const { request, caller } = job
  const jobClass = jobClasses.indexOf(job.class)
  return {
    id: job.id,
    kind: job.kind,
    class: jobClass,
    lane: laneOf(jobClass, request, caller),
    charge: request === null ? 0 : expectedCharge(request),
    weight: job.weight,
    model: job.model,
    source: caller.source,
    subSource: caller.subSource,
    keyId: caller.keyId,
    ownerProcess: null,
    outlivesOwner: true,
    request: request === null ? null : storedRequest(request),
    caller,
    payload: request === null ? job.echo : request.body.bytes,
    stream: job.stream,
    maxAttempts: job.maxAttempts,
    idempotencyKey: job.idempotency?.key ?? null,
    requestHash: job.idempotency?.hash ?? null,
    maxCostUsd: job.maxCostUsd,
    metadata: job.metadata,
    webhookUrl: job.webhookUrl,
    deadlineAt: job.deadlineAt
  }
}

/** A request without what its bytes say again. */
export type StoredRequest = Omit<ModelRequest, 'body' | 'input'>

export function storedRequest({ body: _body, input: _input, ...facts }: ModelRequest): StoredRequest {
  return facts
}

/** The other way round; `whole` was read from the bytes that were stored. */
export function restoredRequest(stored: StoredRequest, whole: Pick<ModelRequest, 'body' | 'input'>, jobId: string): ModelRequest {
  return { ...stored, jobId, body: whole.body, input: whole.input }
}

export type { Caller }
