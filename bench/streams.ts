// Streams of jobs under load: what a reader waits for a token in the process that writes it and in another, and what the database pays.

import { fork } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { startEmbeddedPostgres } from '../bin/postgres.ts'
import { createEventWriter, createWatches } from '../queue/events.ts'
import { createNotices } from '../queue/notices.ts'
import type { JobRecord } from '../queue/types.ts'
import { notify } from '../store/channels.ts'
import { findJob } from '../store/jobs/read.ts'
import { listen } from '../store/listen.ts'
import { migrate } from '../store/migrate.ts'
import { type Connection, createPool } from '../store/pool.ts'

export interface StreamFigures {
  readonly streams: number
  readonly tokensPerSecond: number
  readonly seconds: number
  readonly tokens: number
  /** From `frames` to `next` in the same process, and in another. */
  readonly withinMs: { readonly p50: number; readonly p99: number }
  readonly acrossMs: { readonly p50: number; readonly p99: number }
  /** 100 = one core. */
  readonly databaseCpuPercent: number
}

/** Runs it on a database of its own. On Linux, for /proc. */
export async function measureStreams({ streams = 100, tokensPerSecond = 50, seconds = 10 } = {}): Promise<StreamFigures> {
  const dataDir = mkdtempSync(join(tmpdir(), 'llm-mcp-bench-'))
  chmodSync(dataDir, 0o755)
  const server = await startEmbeddedPostgres({ dataDir, log: () => {} })
  try {
    const { connection } = server
    const side = startSide(connection)
    await migrate(side.pool)
    const ids = Array.from({ length: streams }, () => randomUUID())
    for (const id of ids) {
      await side.pool.query(
        `insert into jobs (id, kind, class, lane, tag, charge, weight, source, request, caller, stream, max_attempts, status, attempt_no, process_id, started_at)
         values ($1, 'chat', 2, '2/chat/m', 0, 0, 1, 'bench', '{}', '{}', true, 3, 'running', 1, $2, now())`,
        [id, side.id]
      )
    }
    const other = fork(fileURLToPath(import.meta.url), ['read'], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
    other.send({ connection, ids })
    await once(other, 'message')
    const within: number[] = []
    const reading = readLatencies(side, ids, within)
    const logs = ids.map(id => side.writer.open(id, 1))
    const cpuBefore = cpuSeconds(server.dataDir)
    const startedAt = performance.now()
    for (let at = 0; at < tokensPerSecond * seconds; at++) {
      // Spread over the interval, as streams of different requests are.
      for (const [index, log] of logs.entries()) {
        const dueAt = startedAt + ((at + index / streams) * 1_000) / tokensPerSecond
        const waitMs = dueAt - performance.now()
        if (waitMs > 1) await new Promise(resolve => setTimeout(resolve, waitMs))
        log.frames(
          Buffer.from(
            `data: ${JSON.stringify({ object: 'chat.completion.chunk', model: 'm', choices: [{ index: 0, delta: { content: ' token' } }], sent: now() })}\n\n`
          )
        )
      }
    }
    const tookSeconds = (performance.now() - startedAt) / 1_000
    const cpu = cpuSeconds(server.dataDir) - cpuBefore
    for (const log of logs) log.retrying()
    await side.writer.close()
    await side.pool.query(`update jobs set status = 'done', process_id = null, finished_at = now()`)
    await side.pool.query(`select pg_notify('llm_mcp_changed', '')`)
    other.send('done')
    const [across] = (await once(other, 'message')) as [number[]]
    await reading
    await side.close()
    if (across.length !== within.length) throw new Error(`the other process read ${across.length} tokens of ${within.length}`)
    return {
      streams,
      tokensPerSecond,
      seconds,
      tokens: within.length,
      withinMs: percentiles(within),
      acrossMs: percentiles(across),
      databaseCpuPercent: Math.round((cpu / tookSeconds) * 1_000) / 10
    }
  } finally {
    await server.release()
    rmSync(dataDir, { recursive: true, force: true, maxRetries: 5 })
  }
}

type Side = ReturnType<typeof startSide>

function startSide(connection: Connection) {
  const id = randomUUID()
  const pool = createPool(connection, { max: 5, name: 'bench', onError: () => {} })
  const notices = createNotices({ processId: id, send: all => notify(pool, all), log: () => {} })
  const writer = createEventWriter({ pool, notices, now: Date.now, log: console.error })
  const listener = listen(connection, [], (channel, payload) => watches.notified(channel, payload))
  const watches = createWatches({
    pool,
    listener,
    writer,
    find: jobId => findJob(pool, jobId, null),
    outlook: async () => new Map(),
    processId: id,
    now: () => performance.now(),
    log: console.error
  })
  return {
    id,
    pool,
    writer,
    watches,
    async close() {
      watches.close()
      await writer.close()
      await notices.close()
      await listener.close()
      await pool.end()
    }
  }
}

/** Follows all of them to their ends. */
async function readLatencies(side: Side, ids: readonly string[], latencies: number[]): Promise<void> {
  await Promise.all(
    ids.map(async id => {
      const watch = side.watches.watch((await findJob(side.pool, id, null)) as JobRecord, null)
      for (let events = await watch.next(); events !== null; events = await watch.next()) {
        const gotAt = now()
        for (const event of events) if (event.type === 'chunk') latencies.push(gotAt - JSON.parse(event.json).sent)
      }
    })
  )
}

/** One clock for both processes. */
function now(): number {
  return performance.timeOrigin + performance.now()
}

/** Of the server and all its processes. What the scheduler counted: clock ticks charge those too much that wake at a tick. */
function cpuSeconds(dataDir: string): number {
  const postmaster = readFileSync(join(dataDir, 'postmaster.pid'), 'utf8').split('\n')[0] as string
  let nanoseconds = 0
  for (const pid of readdirSync('/proc').filter(name => /^\d+$/.test(name))) {
    try {
      const parent = readFileSync(`/proc/${pid}/stat`, 'utf8')
        .replace(/^.*\) /s, '')
        .split(' ')[1]
      if (pid === postmaster || parent === postmaster) nanoseconds += Number(readFileSync(`/proc/${pid}/schedstat`, 'utf8').split(' ')[0])
    } catch {
      // It ended meanwhile.
    }
  }
  return nanoseconds / 1e9
}

function percentiles(values: readonly number[]): { p50: number; p99: number } {
  const sorted = values.toSorted((one, other) => one - other)
  const at = (share: number): number => Math.round((sorted[Math.floor(sorted.length * share)] ?? Number.NaN) * 10) / 10
  return { p50: at(0.5), p99: at(0.99) }
}

async function readElsewhere(): Promise<void> {
  const [{ connection, ids }] = (await once(process, 'message')) as [{ connection: Connection; ids: string[] }]
  const side = startSide(connection)
  const latencies: number[] = []
  const reading = readLatencies(side, ids, latencies)
  process.send?.('reading')
  await once(process, 'message')
  await reading
  // A long message is cut off by what disconnects before it has left.
  await new Promise(resolve => process.send?.(latencies, resolve))
  await side.close()
  process.disconnect()
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (process.argv[2] === 'read') await readElsewhere()
  else {
    const figures = await measureStreams()
    console.log(
      `${figures.streams} streams × ${figures.tokensPerSecond} tokens/s, ${figures.seconds} s, ${cpus().length} cores (${cpus()[0]?.model})`
    )
    console.log(`token latency within one process: p50 ${figures.withinMs.p50} ms, p99 ${figures.withinMs.p99} ms`)
    console.log(`token latency across processes:   p50 ${figures.acrossMs.p50} ms, p99 ${figures.acrossMs.p99} ms`)
    console.log(`database: ${figures.databaseCpuPercent} % of one core`)
  }
}
