// An embedded database for one bench, and what every bench of the queue puts into it.

import { randomUUID } from 'node:crypto'
import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { startEmbeddedPostgres } from '../../bin/postgres.ts'
import { type Boss, startBoss } from '../../queue/boss.ts'
import { migrate } from '../../store/migrate.ts'
import { type Connection, createPool, type Pool } from '../../store/pool.ts'
import { seenProcess } from '../../store/processes.ts'

export interface BenchDatabase {
  readonly pool: Pool
  readonly boss: Boss
  readonly connection: Connection
  readonly label: string
  /** Alive for as long as the bench runs. */
  readonly processId: string
  close(): Promise<void>
}

/** Embedded, or the one of `url`, whose tables of jobs are emptied. */
export async function openBenchDatabase(url: string | undefined): Promise<BenchDatabase> {
  const dataDir = mkdtempSync(join(tmpdir(), 'llm-mcp-bench-'))
  // An embedded database of root's runs as another account, and must be able to come here.
  chmodSync(dataDir, 0o755)
  const server = url === undefined ? await startEmbeddedPostgres({ dataDir, log: () => {} }) : null
  const connection: Connection = server?.connection ?? { connectionString: url as string }
  const pool = createPool(connection, { max: 16, name: 'bench', onError: () => {}, queryMs: 300_000 })
  await migrate(pool)
  const boss = await startBoss({ connection, supervise: false, log: () => {} })
  const processId = randomUUID()
  const identity = { id: processId, host: 'bench', pid: process.pid, version: 'bench' }
  await seenProcess(pool, identity)
  const alive = setInterval(() => void seenProcess(pool, identity).catch(() => {}), 1_000)
  const { rows } = await pool.query('show server_version')
  return {
    pool,
    boss,
    connection,
    processId,
    label: `PostgreSQL ${rows[0].server_version}${server === null ? '' : ', embedded'}`,
    async close() {
      clearInterval(alive)
      await boss.stop({ graceful: false })
      await pool.end()
      await server?.release()
      rmSync(dataDir, { recursive: true, force: true })
    }
  }
}

/** No jobs, no tickets, and `count` machines with as many places each. */
export async function reset(pool: Pool, machines: { readonly count: number; readonly places: number }): Promise<void> {
  await pool.query('truncate jobs, job_attempts, job_events, source_vtime, llm_costs')
  await pool.query('delete from pgboss.job')
  await pool.query('delete from devices')
  await pool.query(
    `insert into devices (id, url, adapter, max_concurrency) select 'box' || n, 'http://box', 'ollama', $2 from generate_series(1, $1::integer) as n`,
    [machines.count, machines.places]
  )
  await pool.query(
    `insert into device_slots (device_id, slot_no) select id, n from devices cross join generate_series(1, max_concurrency) as n`
  )
}

export interface Fill {
  readonly count: number
  /** Spread over so many lanes. */
  readonly lanes?: number
  /** Wait for a retry. */
  readonly isWaiting?: boolean
  /** What no machine here can do. */
  readonly needs?: readonly string[]
  /** Before or behind the others. */
  readonly tagFrom?: number
  /** False: one more job of many, after which no plan is made anew. */
  readonly isAnalyzed?: boolean
  /** With all indexes of a life: some are done, of several sources, models, kinds. */
  readonly isMixed?: boolean
}

/** Jobs and their tickets, in one statement each. */
export async function fill(
  pool: Pool,
  { count, lanes = 1, isWaiting = false, needs = [], tagFrom = 0, isMixed = false, isAnalyzed = true }: Fill
): Promise<void> {
  const request = {
    id: '01890000-0000-7000-8000-000000000000',
    operation: 'chat',
    stream: false,
    includeUsage: false,
    streamOptions: null,
    maxOutputTokens: null,
    needs,
    choices: 1,
    prompt: { low: 10, expected: 12 },
    longest: { low: 10, expected: 12 },
    embedding: null,
    localOnly: false
  }
  const caller = { keyId: null, source: 's', subSource: null, kind: 'source', models: null, providers: null }
  await pool.query(
    `
with made as (
  select n,
         -- UUIDv7 in the order of time.
         (lpad(to_hex((extract(epoch from now()) * 1000)::bigint - $1::bigint + n), 12, '0') || '7000' || '8000' || lpad(to_hex(n + $6::bigint), 12, '0'))::uuid as id,
         case when $7 and n % 100 <> 0 then (array['done', 'done', 'done', 'error'])[1 + n % 4] else 'queued' end as status
    from generate_series(1, $1::bigint) as n
), stored as (
  insert into jobs (id, kind, class, lane, tag, charge, weight, model, source, request, caller, payload, max_attempts, status, ready, run_at,
                    finished_at, device_id, created_at)
  select id, case when $7 then (array['chat', 'embed', 'ollama.generate'])[1 + n % 3] else 'chat' end, 2,
         '2/chat/any/m' || (n % $2::bigint), $6::bigint + n * 1000, 1000, 1, 'm' || (n % $2::bigint), 'source' || (case when $7 then n % 50 else 0 end),
         ($4::jsonb || jsonb_build_object('model', 'm' || (n % $2::bigint)))::json, $5, '{}', 3, status, not $3, case when $3 then now() + interval '1 hour' else now() end,
         case when status <> 'queued' then now() end, case when status <> 'queued' then 'box' || (n % 20) end,
         now() - make_interval(secs => ($1::bigint - n) / 100.0)
    from made
  returning id, status
)
insert into pgboss.job (id, name, data, retry_limit, policy)
select id, 'jobs', '{}', 2, 'standard'
  from stored
 where status = 'queued'`,
    [count, lanes, isWaiting, JSON.stringify(request), JSON.stringify(caller), tagFrom, isMixed]
  )
  if (!isAnalyzed) return
  await pool.query('analyze jobs')
  await pool.query('analyze pgboss.job')
  // What was put there at once is not to be written while the claims are measured.
  await pool.query('checkpoint')
}
