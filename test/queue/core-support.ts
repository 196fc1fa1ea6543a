// What the tests of claiming and running have in common: machines with places, and pools of other processes.

import { randomUUID } from 'node:crypto'
import type { Test } from 'tap'
import type { StoredRequest } from '../../queue/submit.ts'
import { type Catalog, createCatalog } from '../../routing/catalog.ts'
import { type PriceBook, unlistedTarget } from '../../routing/targets.ts'
import type { Caller, Target, Upstream } from '../../routing/types.ts'
import { type ClaimOutcome, claimJob } from '../../store/jobs/claim.ts'
import type { JobEnd } from '../../store/jobs/end.ts'
import { createPool, type Pool } from '../../store/pool.ts'

/** A machine with so many places. */
export async function addDevice(pool: Pool, id: string, places: number): Promise<void> {
  await pool.query(`insert into devices (id, url, adapter, max_concurrency) values ($1, 'http://h', 'ollama', $2)`, [id, places])
  await pool.query('insert into device_slots (device_id, slot_no) select $1, generate_series(1, $2::integer)', [id, places])
}

/** Who holds the places of a machine, in order. */
export async function holders(pool: Pool, deviceId: string): Promise<{ process: string | null; attempt: string | null }[]> {
  const { rows } = await pool.query(
    'select process_id as process, attempt_id as attempt from device_slots where device_id = $1 order by slot_no',
    [deviceId]
  )
  return rows
}

/** Another pool on the same database, as another process has it. */
export function anotherPool(t: Test, { options: { host, port, user, database } }: Pool): Pool {
  const pool = createPool(
    {
      ...(host === undefined ? {} : { host }),
      ...(port === undefined ? {} : { port }),
      ...(user === undefined ? {} : { user }),
      ...(database === undefined ? {} : { database })
    },
    { max: 4, name: 'test', onError: () => {} }
  )
  t.teardown(() => pool.end())
  return pool
}

export interface Claiming {
  /** Several: best first. */
  readonly jobId: string | readonly string[]
  readonly processId: string
  readonly deviceId?: string | null
  readonly attemptId?: string
  readonly fromAttemptId?: string
}

export function claim(pool: Pool, { jobId, processId, deviceId = null, attemptId, fromAttemptId }: Claiming): Promise<ClaimOutcome> {
  return claimJob(pool, {
    jobIds: typeof jobId === 'string' ? [jobId] : jobId,
    deviceId,
    provider: 'ollama',
    processId,
    attemptId: attemptId ?? randomUUID(),
    fromAttemptId: fromAttemptId ?? null,
    paid: false
  })
}

/** The end of an attempt, as its runner tells it. */
export function endOf(id: string, attemptNo: number, changes: Partial<JobEnd> = {}): JobEnd {
  return {
    id,
    attemptNo,
    status: 'done',
    error: null,
    result: Buffer.from('{}'),
    usage: null,
    spent: 0,
    runner: null,
    ttftMs: null,
    ...changes
  }
}

const prices: PriceBook = { configured: new Map(), registered: () => null }

/** Something that answers; a machine of ours with one place if not said otherwise. */
export function targetAt(upstream: string, model: string, { own = true, places = 1 }: { own?: boolean; places?: number } = {}): Target {
  const device = { id: upstream, maxConcurrency: places, watts: 1, vramGb: null, ramGb: null, keepAlive: null, numCtx: null }
  const where: Upstream = {
    id: upstream,
    adapter: own ? 'ollama' : 'openai',
    own,
    baseUrl: 'http://127.0.0.1:9',
    apiKey: null,
    headers: {},
    device: own ? device : null,
    timeouts: { connectMs: 1, firstTokenMs: 1, idleMs: 1, totalMs: 1 },
    models: null,
    auto: [],
    streamUsage: true,
    registryId: null
  }
  return { ...unlistedTarget(prices, where, model), operations: ['chat'] }
}

export function catalogOf(targets: readonly Target[]): Catalog {
  const upstreams = [...new Map(targets.map(({ upstream }) => [upstream.id, upstream])).values()]
  const demo = targetAt('demo', 'demo')
  return createCatalog({
    upstreams,
    targets,
    listed: new Set(upstreams.map(({ id }) => id)),
    aliases: new Map(),
    auto: [],
    prices,
    vectorSpaces: new Map(),
    demo
  })
}

/** What a stored request for a model says, as far as the queue looks at it. */
export function requestFor(model: string, changes: Partial<StoredRequest> = {}): StoredRequest {
  return { operation: 'chat', model, stream: false, localOnly: false, ...changes } as StoredRequest
}

export const caller: Caller = { keyId: null, source: 'me', subSource: null, kind: 'source', models: null, providers: null }
