// What it costs to find the next job and to claim it: the heads of the lanes, the decision, the claim. `npm run bench:claim [-- --quick]`.

import type { AddressInfo } from 'node:net'
import { connect, createServer } from 'node:net'
import { createCandidates } from '../queue/candidates.ts'
import { createNotices } from '../queue/notices.ts'
import { createWorker } from '../queue/worker.ts'
import { createCatalog } from '../routing/catalog.ts'
import { decideAll } from '../routing/decide.ts'
import { uuidv7 } from '../routing/ids.ts'
import type { Target, Upstream } from '../routing/types.ts'
import { createPool, type Pool } from '../store/pool.ts'
import { fill, openBenchDatabase, reset } from './support/database.ts'
import { publish, type Row, timesOf, timesRow } from './support/figures.ts'

const isQuick = process.argv.includes('--quick')
const claims = isQuick ? 100 : 500
const many = isQuick ? 20_000 : 1_000_000
// All are taken, then all are freed.
const placesAtOnce = 64
const rows: Row[] = []
// One case takes seconds; whoever waits sees them come.
const add = (row: Row): void => {
  rows.push(row)
  process.stderr.write(`${row.name}: ${row.figure}\n`)
}

const database = await openBenchDatabase(process.env.BENCH_DATABASE_URL)
const { pool, processId } = database

// What runs on each machine, as the process knows it that runs it.
const taken = new Map<string, number>()
const view = {
  canCarry: () => true,
  isOpen: () => false,
  isDenied: () => false,
  isMissing: () => false,
  isDown: () => false,
  coolingMs: () => 0,
  inFlight: (target: Target) => taken.get(target.upstream.id) ?? 0,
  averageMs: () => 0
}
const oneCaller = { p50: 2, p99: 10 }
const eightCallers = { p50: 5 }

// What any statement costs here and now: the measure of all others.
await reset(pool, { count: 1, places: 64 })
const statements: number[] = []
for (let at = 0; at < 500; at++) {
  const began = performance.now()
  await pool.query({ name: 'bench.one', text: 'select 1' })
  statements.push(performance.now() - began)
}
add(timesRow('for comparison: select 1', timesOf(statements), null))

for (const count of [0, 10_000, many]) {
  await reset(pool, { count: 1, places: 64 })
  // With an empty queue, what is measured is the only job there is.
  if (count > 0) await fill(pool, { count })
  add(
    timesRow(
      `one caller, ${count.toLocaleString('en')} queued`,
      timesOf(await measure(pool, { callers: 1, machines: 1, lanes: 1, refill: count === 0 })),
      oneCaller
    )
  )
  if (count > 0)
    add(
      timesRow(
        `eight callers, ${count.toLocaleString('en')} queued`,
        timesOf(await measure(pool, { callers: 8, machines: 1, lanes: 1 })),
        eightCallers
      )
    )
}

await reset(pool, { count: 1, places: 64 })
await fill(pool, { count: many / 10, lanes: 300 })
add(timesRow('one caller, 300 lanes', timesOf(await measure(pool, { callers: 1, machines: 1, lanes: 300 })), oneCaller))

await reset(pool, { count: 1, places: 64 })
await fill(pool, { count: 10_000 })
await fill(pool, { count: many / 10, isWaiting: true, tagFrom: 1e9 })
add(timesRow('one caller, 100 k wait for a retry', timesOf(await measure(pool, { callers: 1, machines: 1, lanes: 1 })), oneCaller))

await reset(pool, { count: 1, places: 64 })
await fill(pool, { count: 1_000, needs: ['vision'] })
await fill(pool, { count: 10_000, tagFrom: 1e9 })
add(
  timesRow(
    'one caller, 1,000 heads that no machine can run',
    timesOf(await measure(pool, { callers: 1, machines: 1, lanes: 1 })),
    oneCaller
  )
)

await reset(pool, { count: 64, places: 8 })
await fill(pool, { count: 10_000 })
add(timesRow('eight callers, 64 machines', timesOf(await measure(pool, { callers: 8, machines: 64, lanes: 1 })), eightCallers))

await reset(pool, { count: 1, places: 64 })
await fill(pool, { count: 10_000 })
const holder = await pool.connect()
await holder.query('begin isolation level repeatable read')
await holder.query('select count(*) from jobs')
// As many claims as a busy minute has: what they leave behind cannot be cleaned up while that transaction is open.
const whileOpen = await measure(pool, { callers: 1, machines: 1, lanes: 1, count: isQuick ? 500 : 3_000 })
add(timesRow('one caller, a transaction open all the time (the last third)', timesOf(whileOpen.slice(-whileOpen.length / 3)), oneCaller))
await holder.query('rollback')
holder.release()

const proxy = await slowed(database.connection)
if (proxy !== null) {
  const far = createPool(proxy.connection, { max: 8, name: 'bench far', onError: () => {} })
  await reset(pool, { count: 1, places: 64 })
  await fill(pool, { count: 10_000 })
  add(timesRow('one caller, 1 ms away', timesOf(await measure(far, { callers: 1, machines: 1, lanes: 1 })), null))
  await far.end()
  proxy.close()
}

const url = process.env.BENCH_DATABASE_URL
const title = `Claims${url === undefined ? '' : `, ${database.label}`}${isQuick ? ' (quick)' : ''}`
publish(new URL('results-queue.md', import.meta.url), title, database.label, rows)
await database.close()
process.exit(rows.every(({ isMet }) => isMet) ? 0 : 1)

function machine(number: number, places: number): Upstream {
  return {
    id: `box${number}`,
    adapter: 'ollama',
    own: true,
    baseUrl: 'http://box',
    apiKey: null,
    headers: {},
    device: { id: `box${number}`, maxConcurrency: places, watts: 100, vramGb: null, ramGb: null, keepAlive: null, numCtx: null },
    timeouts: { connectMs: 1, firstTokenMs: 1, idleMs: 1, totalMs: 1 },
    models: null,
    auto: [],
    streamUsage: true,
    registryId: null
  }
}

function targetOf(upstream: Upstream, model: string): Target {
  return {
    id: `${upstream.id}/${model}`,
    upstream,
    model,
    contextTokens: 8_192,
    maxOutputTokens: null,
    features: new Set(['tools']),
    operations: ['chat'],
    loaded: true,
    price: { source: 'electricity', tokens: null },
    createdAt: 0
  }
}

interface Measure {
  readonly callers: number
  readonly machines: number
  readonly lanes: number
  readonly count?: number
  /** One job at a time, put there before each claim. */
  readonly refill?: boolean
}

/** The real loop, one process for each caller, with real statements; only the running is left out: a claimed job is over at once. */
async function measure(on: Pool, { callers, machines, lanes, count = claims, refill = false }: Measure): Promise<number[]> {
  const upstreams = Array.from({ length: machines }, (_, index) => machine(index + 1, machines === 1 ? 64 : 8))
  const targets = upstreams.flatMap(upstream => Array.from({ length: lanes }, (_, lane) => targetOf(upstream, `m${lane}`)))
  const catalog = createCatalog({
    upstreams,
    targets,
    listed: new Set(upstreams.map(({ id }) => id)),
    aliases: new Map(),
    auto: [],
    prices: { configured: new Map(), registered: () => null } as never,
    vectorSpaces: new Map(),
    demo: targetOf(upstreams[0] as Upstream, 'echo')
  })
  const times: number[] = []
  const all = await Promise.all(Array.from({ length: callers }, () => createCaller()))
  const each = refill ? 1 : Math.floor(placesAtOnce / callers)
  // In rounds: what ends a job is not measured, and does not go on beside what is.
  for (let isWarm = refill; times.length < count; isWarm = true) {
    await Promise.all(
      all.map(async ({ claim }) => {
        for (let made = 0; made < each; made++) await claim()
      })
    )
    await over(all.flatMap(({ given }) => given.splice(0)))
    taken.clear()
    // Plans are made and pages are read in the first round, which a process of days has behind it.
    if (!isWarm) times.length = 0
  }
  for (const { stop } of all) await stop()
  return times

  async function createCaller() {
    const candidates = createCandidates({ pool: on, catalog: () => catalog, now: () => performance.now() })
    const given: { jobId: string; attempt: number }[] = []
    let began = 0
    let made = 0
    // Only while it is asked: the loop also looks by itself, once a second.
    let claimed: (() => void) | null = null
    const worker = createWorker({
      pool: on,
      processId,
      candidates,
      notices: createNotices({ processId, send: async () => {}, log: () => {} }),
      schedule: waiting =>
        decideAll(
          waiting.map(({ request, caller }) => {
            const resolution = catalog.resolve(request.model, 0)
            const targets = resolution.found ? resolution.targets : []
            return { request, caller, targets, ordered: false, space: null, localOnly: false, mayQueue: true }
          }),
          view
        ),
      planned: () => {},
      arrived: () => {},
      full: () => {},
      reserved: () => {},
      inFlight: () => 0,
      runsAny: () => claimed !== null,
      // Each look claims one job.
      concurrency: 1,
      running: () => (claimed === null ? 1 : 0),
      run(job) {
        const { id } = (job.target as Target).upstream
        taken.set(id, (taken.get(id) ?? 0) + 1)
        given.push(job)
        times.push(performance.now() - began)
        claimed?.()
        claimed = null
      },
      // As the queue does: what nothing here can ever run ends, and makes way.
      async refuse(refused) {
        await pool.query({
          name: 'bench.refuse',
          text: `update jobs set status = 'error', finished_at = now() where id = any ($1::uuid[])`,
          values: [refused.map(({ job }) => job.id)]
        })
      },
      mendTickets: async () => {},
      newId: () => uuidv7(Date.now()),
      now: () => performance.now(),
      log: (message, error) => console.error(message, error)
    })
    await candidates.refresh()
    return {
      given,
      stop: () => worker.stop(),
      async claim() {
        if (refill) {
          await fill(pool, { count: 1, tagFrom: ++made * 1e6, isAnalyzed: false })
          await candidates.refresh()
        }
        const isClaimed = new Promise<void>(resolve => {
          claimed = resolve
        })
        began = performance.now()
        worker.wake()
        await isClaimed
        await worker.idle()
      }
    }
  }
}

/** Not measured: what ends a job, in one transaction as the queue does it. Its place is free for the next. */
async function over(claimed: readonly { readonly jobId: string }[]): Promise<void> {
  await pool.query({
    name: 'bench.over',
    text: `
with ended as (
  update jobs set status = 'done', process_id = null, finished_at = now() where id = any ($1::uuid[]) returning id, device_id, attempt_id
), freed as (
  update device_slots
     set process_id = null, attempt_id = null, claimed_at = null
    from ended
   where device_slots.device_id = ended.device_id
     and device_slots.attempt_id = ended.attempt_id
)
update pgboss.job set state = 'completed' from ended where name = 'jobs' and job.id = ended.id`,
    values: [claimed.map(({ jobId }) => jobId)]
  })
}

/** Every statement's way there and back takes 1 ms more. Null where the database is behind a socket file only and TCP cannot be had. */
async function slowed(connection: {
  readonly host?: string
  readonly port?: number
}): Promise<{ connection: object; close(): void } | null> {
  const { host, port = 5432 } = connection
  if (host === undefined) return null
  const server = createServer(near => {
    const far = host.startsWith('/') ? connect(`${host}/.s.PGSQL.${port}`) : connect(port, host)
    near.on('data', data => setTimeout(() => far.write(data), 0.5))
    far.on('data', data => setTimeout(() => near.write(data), 0.5))
    near.on('close', () => far.destroy())
    far.on('close', () => near.destroy())
    for (const socket of [near, far]) socket.on('error', () => {})
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  return { connection: { ...connection, host: '127.0.0.1', port: (server.address() as AddressInfo).port }, close: () => server.close() }
}
