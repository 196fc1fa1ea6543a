// Webhooks: tells a receiver that a job has ended, signed as Standard Webhooks has it, until it answers with 2xx or all tries are used up.

import { createHmac } from 'node:crypto'
import type { Guarded } from '../outbound/guarded.ts'
import { GatewayError } from '../routing/errors.ts'
import { type Boss, webhookQueue } from './boss.ts'
import type { JobRecord, JobWebhook } from './types.ts'

export interface WebhooksPorts {
  readonly boss: Boss
  readonly guarded: Guarded
  /** The master: each source has its own secret, made of this one. At least 24 bytes. */
  readonly secret: Buffer
  /** With its result, unless that is large; null when there is none. */
  readonly find: (jobId: string) => Promise<JobRecord | null>
  /** The job object, as JSON. */
  readonly describe: (job: JobRecord) => Buffer
  /** Keeps with the job what came of its webhook. */
  readonly record: (jobId: string, outcome: Pick<JobWebhook, 'status' | 'error'>) => Promise<void>
  /** Asks for another delivery, with all its tries; false when one is waiting already. */
  readonly again: (job: Pick<JobRecord, 'id' | 'source'>) => Promise<boolean>
  /** Epoch, ms. */
  readonly now: () => number
  readonly log: (message: string, error: unknown) => void
  /** For one try, all in all. */
  readonly timeoutMs?: number
  /** How often the queue is looked at. */
  readonly pollMs?: number
}

export interface Webhooks {
  /** Throws GatewayError `invalid_request` for a URL that may never be called. Names are looked up when they are called, not here. */
  check(url: string): void
  /** What a source's webhooks are signed with, as its receivers need it: `whsec_` and base64. */
  secretOf(source: string): string
  /** Sends the webhook of a finished job once more, with all its tries and under the same id; nothing while a delivery is waiting. */
  redeliver(job: Pick<JobRecord, 'id' | 'source'>): Promise<void>
  /** Delivers from now on, until `close`. */
  work(): void
  /** Takes nothing new, and resolves when what is under way is over. */
  close(): Promise<void>
}

interface Ticket {
  readonly id: string
  readonly data: { readonly jobId: string }
  readonly retryCount: number
  readonly retryLimit: number
  readonly expireInSeconds: number
  /** The source. */
  readonly groupId?: string | null
}

/** What came of one try. `isFinal`: another one would be in vain. */
interface Try {
  readonly error: string | null
  readonly isFinal: boolean
}

// Standard Webhooks' least.
const secretBytesAtLeast = 24
// Within pg-boss's 60 s for a ticket, with room for the database; Standard Webhooks recommends 15 to 30 s.
const defaultTimeoutMs = 15_000
const resultBytesAtMost = 64 * 1024
const deliveriesAtOnce = 32
// Receivers that hang hold their own source up, not all of them.
const deliveriesAtOnceOfSource = 8
const ticketsAtOnce = 8
const defaultPollMs = 1_000

/** Throws when the secret is too short: what is signed with an empty one, anybody can sign. */
export function createWebhooks({
  boss,
  guarded,
  secret,
  find,
  describe,
  record,
  again,
  now,
  log,
  timeoutMs = defaultTimeoutMs,
  pollMs = defaultPollMs
}: WebhooksPorts): Webhooks {
  if (secret.length < secretBytesAtLeast) throw new Error(`The secret of webhooks must have at least ${secretBytesAtLeast} bytes.`)
  const underWay = new Set<Promise<void>>()
  const ofSource = new Map<string, number>()
  let running: Promise<void> | null = null
  let isClosed = false
  let isBehind = false
  let failures = 0
  let wake = (): void => {}

  // A loop of our own: pg-boss's `work` sleeps after each ticket it finds alone, and a batch of it lasts as long as its slowest.
  function work(): void {
    running ??= loop()
  }

  async function loop(): Promise<void> {
    while (!isClosed) {
      const atOnce = Math.min(ticketsAtOnce, deliveriesAtOnce - underWay.size)
      const tickets = atOnce === 0 ? [] : await take(atOnce)
      for (const ticket of tickets) begin(ticket)
      if (isClosed || (atOnce > 0 && tickets.length === atOnce)) continue
      isBehind = atOnce === 0 || fullSources().length > 0
      await pause()
    }
  }

  async function take(atOnce: number): Promise<readonly Ticket[]> {
    try {
      const ignoreGroups = fullSources()
      const tickets = await boss.fetch<Ticket['data']>(webhookQueue, { batchSize: atOnce, includeMetadata: true, ignoreGroups })
      failures = 0
      return tickets
    } catch (error) {
      if (failures++ === 0) log('webhooks cannot be fetched; it is tried again and again', error)
      return []
    }
  }

  function fullSources(): string[] {
    return [...ofSource].filter(([, count]) => count >= deliveriesAtOnceOfSource).map(([source]) => source)
  }

  function begin(ticket: Ticket): void {
    const source = ticket.groupId ?? null
    if (source !== null) ofSource.set(source, (ofSource.get(source) ?? 0) + 1)
    const delivery = settle(ticket).finally(() => {
      underWay.delete(delivery)
      if (source !== null) {
        const left = (ofSource.get(source) ?? 1) - 1
        if (left === 0) ofSource.delete(source)
        else ofSource.set(source, left)
      }
      if (isBehind) wake()
    })
    underWay.add(delivery)
  }

  function pause(): Promise<void> {
    return new Promise(resolve => {
      const timer = setTimeout(resolve, pollMs)
      wake = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }

  /** Never rejects: a ticket that cannot be settled expires, and is taken again. */
  async function settle(ticket: Ticket): Promise<void> {
    const attempt = { id: ticket.id, retryCount: ticket.retryCount }
    try {
      if (await isOver(ticket)) await boss.complete(webhookQueue, attempt)
      else await boss.fail(webhookQueue, attempt)
    } catch (error) {
      log('a webhook could not be handled; it is tried again', error)
    }
  }

  /** Tries once, and keeps what came of it. False: it is to be tried again. */
  async function isOver(ticket: Ticket): Promise<boolean> {
    const startedAt = now()
    const job = await find(ticket.data.jobId)
    // One that was queued again tells of its next end.
    if (job === null || job.webhook === null || job.finishedAt === null) return true
    const isLast = ticket.retryCount >= ticket.retryLimit
    // Nobody comes after the last try: should this process die in it, the job must not wait for ever.
    if (isLast) await record(job.id, { status: 'failed', error: 'the last try was cut off' })
    const { error, isFinal } = await tryOnce(job, job.webhook.url, job.finishedAt)
    // After so long (the process was stopped) the ticket is somebody else's, and so is the job's record.
    if (now() - startedAt > ticket.expireInSeconds * 1_000) return false
    await record(job.id, { status: error === null ? 'delivered' : isFinal || isLast ? 'failed' : 'waiting', error })
    return error === null || isFinal
  }

  async function tryOnce(job: JobRecord, url: string, finishedAt: Date): Promise<Try> {
    const id = `${job.id}.${job.attemptNo}`
    const timestamp = String(Math.floor(now() / 1_000))
    const facts = JSON.stringify({ type: `job.${job.status}`, timestamp: finishedAt.toISOString() })
    const body = Buffer.concat([Buffer.from(`${facts.slice(0, -1)},"data":`), dataOf(job), Buffer.from('}')])
    const headers = {
      'content-type': 'application/json',
      'user-agent': 'llm-mcp',
      'webhook-id': id,
      'webhook-timestamp': timestamp,
      'webhook-signature': `v1,${createHmac('sha256', keyOf(job.source)).update(`${id}.${timestamp}.`).update(body).digest('base64')}`
    }
    try {
      const { status } = await guarded.post(url, { headers, body, timeoutMs })
      if (status >= 200 && status < 300) return { error: null, isFinal: true }
      // 410: the receiver wants no more of it.
      return { error: `status ${status}`, isFinal: status === 410 }
    } catch (error) {
      if (!(error instanceof GatewayError)) throw error
      return { error: error.logMessage, isFinal: error.code === 'invalid_request' }
    }
  }

  /** A result that is too large is null, as that of a job without one: it is read at /v1/jobs/{id}. */
  function dataOf(job: JobRecord): Buffer {
    const isSmall = job.result === null || job.result.length <= resultBytesAtMost
    const data = isSmall ? describe(job) : null
    return data !== null && data.length <= resultBytesAtMost ? data : describe({ ...job, result: null })
  }

  /** No source can sign for another one, and no secret has to be stored. */
  function keyOf(source: string): Buffer {
    return createHmac('sha256', secret).update(`webhook ${source}`).digest()
  }

  async function redeliver(job: Pick<JobRecord, 'id' | 'source'>): Promise<void> {
    if (!(await again(job))) return
    isBehind = true
    wake()
  }

  async function close(): Promise<void> {
    isClosed = true
    wake()
    await running
    await Promise.all(underWay)
  }

  return { check: url => guarded.check(url), secretOf: source => `whsec_${keyOf(source).toString('base64')}`, redeliver, work, close }
}
