// Why requests went where they went, kept in memory and in a real database: bounded, never waited for, and whole.

import { mock } from 'node:test'
import t, { type Test } from 'tap'
import { createRoutes, type KeptRoutes, type RouteLimits } from '../../planner/routes.ts'
import type { Explanation } from '../../routing/brain/explain.ts'
import { GatewayError } from '../../routing/errors.ts'
import { uuidv7 } from '../../routing/ids.ts'
import type { CallRecord, RouteRecord, RouteStart } from '../../routing/ports.ts'
import type { ModelRequest, Target } from '../../routing/types.ts'
import type { Pool } from '../../store/pool.ts'
import { findRoute, forgetRoutes, insertRoutes } from '../../store/routes.ts'
import { createDatabase } from '../support/cluster.ts'
import { until } from '../support/wait.ts'

const newId = (): string => uuidv7(Date.now())
const home = { id: 'home/m', model: 'm', upstream: { id: 'home', adapter: 'openai', device: null } } as unknown as Target

function start(id: string, changes: { readonly source?: string; readonly jobId?: string } = {}): RouteStart {
  return {
    request: {
      id,
      model: 'm',
      localOnly: false,
      prompt: { low: 1, expected: 1 },
      body: { bytes: Buffer.from('canary') },
      ...(changes.jobId !== undefined && { jobId: changes.jobId })
    } as unknown as ModelRequest,
    caller: { keyId: 'canary', source: changes.source ?? 'alice', subSource: null, kind: 'source', models: null, providers: null },
    decision: { action: 'run', ranked: [home], rejected: [], reason: 'only_target' },
    figures: null,
    etaMs: null,
    chosen: home,
    decidedUs: 1
  }
}

function call(nanoUsd: number, completionTokens = 5): CallRecord {
  return {
    attemptId: newId(),
    target: home,
    settled: { nanoUsd, completionTokens, promptTokens: 1, estimated: false }
  } as unknown as CallRecord
}

function record(begun: RouteStart, calls: readonly CallRecord[], tookMs = 100): RouteRecord {
  const nanoUsd = calls.reduce((sum, { settled }) => sum + (settled.nanoUsd ?? 0), 0)
  return {
    ...begun,
    reason: 'only_target',
    summary: { outcome: 'ok', error: null, target: home, attempts: calls.length, rejected: [], usage: null, nanoUsd, ttftMs: 1, calls },
    tookMs
  }
}

async function stage(t: Test, limits?: Partial<RouteLimits>, onRows: (ids: readonly string[]) => void = () => {}) {
  const { pool } = await createDatabase(t)
  const usual = { keptAtMost: 100, rowsPerSecond: 100, waitingAtMost: 1_000 }
  const logged: string[] = []
  let isAway = false
  const database = {
    query(...given: Parameters<Pool['query']>) {
      if (isAway) return Promise.reject(new Error('away'))
      const { name, values } = given[0] as unknown as { name: string; values: readonly string[] }
      if (name === 'routes.insert') onRows(JSON.parse(values[0] as string).map(({ id }: { id: string }) => id))
      return pool.query(...given)
    }
  } as Pool
  const routes = createRoutes({ pool: database, log: message => void logged.push(message), limits: { ...usual, ...limits } })
  t.teardown(() => routes.close())
  const count = async (): Promise<number> => (await pool.query('select count(*)::integer as count from routes')).rows[0].count
  return {
    pool,
    routes,
    logged,
    count,
    away(now: boolean) {
      isAway = now
    }
  }
}

t.test('a route can be read while it runs, when it is over, by others, and after a restart', async t => {
  const { pool, routes, count } = await stage(t)
  const id = newId()
  routes.begun(start(id))
  t.match(await routes.find(id, 'alice'), { id, action: 'run', chosen: { target: 'home/m' }, actual: null })
  t.equal(await routes.find(id, 'bob'), null)
  routes.keep(record(start(id), [call(7)]))
  t.match(await routes.find(id, null), { id, actual: { outcome: 'ok', usd: 7e-9, attempts: 1 } })
  t.equal(await routes.find(id, 'bob'), null)
  t.equal(await count(), 0, 'nobody waited for the database')
  await until('a second to pass', async () => (await count()) === 1)
  t.match(await findRoute(pool, id, 'alice'), { id, source: 'alice', actual: { outcome: 'ok' } })
  t.equal(await findRoute(pool, id, 'bob'), null)
  const next = createRoutes({ pool, log: () => {} })
  t.match(await next.find(id, 'alice'), { id })
  t.equal(await next.find(id, 'bob'), null)
  t.equal(await next.find(newId(), null), null)
  await next.close()
  const { rows } = await pool.query('select * from routes')
  t.match(rows, [{ id, source: 'alice', model: 'm', target: 'home/m', job_id: null }])
  t.notMatch(JSON.stringify(rows), /canary/)
})

/** Another process on the same database. */
function elsewhere(t: Test, pool: Pool): KeptRoutes {
  const other = createRoutes({ pool, log: () => {} })
  t.teardown(() => other.close())
  return other
}

t.test('what waits can be read elsewhere within a second, what runs within two, and what it came to as well', async t => {
  const { pool, routes } = await stage(t)
  const other = elsewhere(t, pool)
  const [waits, runs] = [newId(), newId()]
  routes.begun({ ...start(waits), decision: { action: 'enqueue', feasible: [home], rejected: [] }, chosen: null })
  routes.begun(start(runs))
  t.equal(await other.find(waits, null), null, 'nobody waited for the database')
  await until('the one that waits', async () => (await other.find(waits, null)) !== null)
  t.match(await other.find(waits, 'alice'), { id: waits, action: 'wait', actual: null })
  t.equal(await other.find(waits, 'bob'), null)
  await until('the one that runs', async () => (await other.find(runs, null)) !== null)
  t.match(await other.find(runs, 'alice'), { id: runs, action: 'run', chosen: { target: 'home/m' }, actual: null })
  routes.keep(record(start(runs), [call(1)]))
  await routes.flush()
  t.match(await other.find(runs, 'alice'), { id: runs, actual: { outcome: 'ok' } })
})

t.test('what ends soon is written once', async t => {
  mock.timers.enable({ apis: ['setInterval'] })
  t.teardown(() => mock.timers.reset())
  const written: string[] = []
  const { routes } = await stage(t, {}, ids => written.push(...ids))
  const pass = async (): Promise<string[]> => {
    mock.timers.tick(1_000)
    await routes.flush()
    return written.splice(0)
  }
  const [waits, runs] = [newId(), newId()]
  routes.begun({ ...start(waits), decision: { action: 'enqueue', feasible: [home], rejected: [] }, chosen: null })
  routes.keep(record(start(waits), [call(1)]))
  routes.begun(start(runs))
  t.same(await pass(), [waits])
  routes.keep(record(start(runs), [call(1)]))
  t.same(await pass(), [runs])
  const long = newId()
  routes.begun(start(long))
  t.same(await pass(), [])
  t.same(await pass(), [long], 'while it runs')
  t.same(await pass(), [])
  routes.keep(record(start(long), [call(1)]))
  t.same(await pass(), [long], 'and when it is over')
})

t.test('a job is known from its submission on, here and elsewhere, until whoever runs it knows more', async t => {
  const { pool, routes } = await stage(t)
  const other = elsewhere(t, pool)
  const id = newId()
  routes.submitted(id, () => ({ ...start(id), decision: { action: 'enqueue', feasible: [home], rejected: [] }, chosen: null }))
  t.match(await routes.find(id, 'alice'), { id, action: 'wait', actual: null }, 'at once')
  t.equal(await routes.find(id, 'bob'), null)
  other.keep(record(start(id), [call(1)]))
  await other.flush()
  t.match(await routes.find(id, 'alice'), { actual: { outcome: 'ok' } })
  await routes.flush()
  t.match(await findRoute(pool, id, null), { actual: { outcome: 'ok' } }, 'what is over is not replaced by what was known before')
  t.match(await routes.find(id, 'alice'), { actual: { outcome: 'ok' } })
  other.submitted(id, () => t.fail('it was quicker than its answer') as never)
})

t.test('a submission that cannot be explained disturbs nobody', async t => {
  const { routes, logged } = await stage(t)
  routes.submitted(newId(), () => {
    throw new Error('no plan')
  })
  t.equal(logged.length, 1)
})

t.test('a source with a long name finds its own', async t => {
  const { pool, routes } = await stage(t)
  const source = 's'.repeat(128)
  const [runs, over] = [newId(), newId()]
  routes.begun(start(runs, { source }))
  routes.keep(record(start(over, { source }), [call(1)]))
  for (const id of [runs, over]) {
    t.match(await routes.find(id, source), { id })
    t.equal(await routes.find(id, source.slice(1)), null)
  }
  await routes.flush()
  t.match(await findRoute(pool, over, source), { id: over })
})

t.test('a quarter of what is written is not over, and its end has room', async t => {
  const { routes, count, pool } = await stage(t, { rowsPerSecond: 20 })
  const ids = Array.from({ length: 10 }, newId)
  let asked = 0
  for (const id of ids) {
    routes.submitted(id, () => {
      asked++
      return start(id)
    })
  }
  t.equal(asked, 5, 'each has room for its end')
  await routes.flush()
  t.equal(await count(), 5)
  for (let at = 0; at < 20; at++) routes.keep(record(start(newId()), []))
  t.equal(routes.unstored, 10)
  for (const id of ids) routes.keep(record(start(id), [call(1)]))
  t.equal(routes.unstored, 15, 'those that were written are written again')
  await routes.flush()
  t.equal(await count(), 15)
  for (const id of ids.slice(0, 5)) t.match(await findRoute(pool, id, null), { actual: { outcome: 'ok' } })
})

t.test('several runs of one request are one route, each call counted once', async t => {
  const { pool, routes } = await stage(t)
  const id = newId()
  const calls = [call(1), call(2), call(4)]
  for (const each of calls.slice(0, 2)) routes.keep(record(start(id), [each], 50))
  t.match(await routes.find(id, null), { actual: { attempts: 2, usd: 3e-9, out_tokens: 10, latency_s: 0.05 } })
  // As one that had waited: it was told of the calls before already.
  routes.keep(record(start(id, { jobId: newId() }), calls, 900))
  t.match(await routes.find(id, null), { actual: { attempts: 3, usd: 7e-9, out_tokens: 15, latency_s: 0.9 } })
  await routes.flush()
  t.match(await findRoute(pool, id, null), { actual: { attempts: 3, failed: [] } })
})

t.test('what failed in one run of a request is told also after the next', async t => {
  const { routes } = await stage(t)
  const id = newId()
  const failed = { ...call(0), error: new GatewayError('machine_lost', 'x') }
  routes.keep(record(start(id), [failed]))
  routes.keep(record(start(id), [call(2)]))
  t.match(await routes.find(id, null), {
    actual: { outcome: 'ok', attempts: 2, eta_error_pct: null, failed: [{ target: 'home/m', error: 'machine_lost' }] }
  })
})

t.test('a request that waited is found by the job it was, too', async t => {
  const { pool, routes } = await stage(t)
  const [id, jobId] = [newId(), newId()]
  routes.keep(record(start(id, { jobId }), [call(1)]))
  routes.keep(record(start(id), [call(1)]))
  t.match(await routes.find(jobId, 'alice'), { id })
  await routes.flush()
  t.match(await findRoute(pool, jobId, 'alice'), { id })
  t.equal(await findRoute(pool, jobId, 'bob'), null)
})

t.test('in memory there are so many, the last ones', async t => {
  const few = await stage(t, { keptAtMost: 3, rowsPerSecond: 0 })
  const ids = Array.from({ length: 5 }, newId)
  for (const id of ids) few.routes.keep(record(start(id), []))
  t.same(await Promise.all(ids.map(async id => (await few.routes.find(id, null)) !== null)), [false, false, true, true, true])
})

t.test('of a flood so many a second are written down, the others are in memory only', async t => {
  const { routes, count } = await stage(t, { rowsPerSecond: 10 })
  const ids = Array.from({ length: 50 }, newId)
  for (const id of ids) routes.keep(record(start(id), []))
  t.equal(routes.unstored, 40)
  // More about one that is to be written down is no further one.
  routes.keep(record(start(ids[0] as string), [call(1)]))
  t.equal(routes.unstored, 40)
  await routes.flush()
  t.equal(await count(), 10)
  t.match(await routes.find(ids[49] as string, null), { id: ids[49] })
  await until('the next second', () => {
    const before = routes.unstored
    routes.keep(record(start(newId()), []))
    return routes.unstored === before
  })
})

t.test('a database that is away loses nothing until too many wait, and is told of once', async t => {
  const { routes, count, logged, away } = await stage(t, { waitingAtMost: 5 })
  away(true)
  for (let at = 0; at < 8; at++) routes.keep(record(start(newId()), []))
  await routes.flush()
  await routes.flush()
  t.equal(logged.length, 1)
  t.equal(routes.unstored, 3)
  away(false)
  await routes.flush()
  t.equal(await count(), 5)
})

t.test('the rest is written down at the end', async t => {
  const { routes, count } = await stage(t)
  for (let at = 0; at < 3; at++) routes.keep(record(start(newId()), []))
  await routes.close()
  await routes.close()
  t.equal(await count(), 3)
})

t.test('old ones are forgotten in batches', async t => {
  const { pool } = await createDatabase(t)
  const ids = Array.from({ length: 5 }, newId)
  await insertRoutes(
    pool,
    ids.map(id => ({ id, jobId: null, source: 's', model: 'm', target: null, record: { id } as Partial<Explanation> }))
  )
  await pool.query(`update routes set at = now() - interval '8 days' where id = any ($1::uuid[])`, [ids.slice(0, 3)])
  t.equal(await forgetRoutes(pool, 7, 2), 2)
  t.equal(await forgetRoutes(pool, 7, 2), 1)
  t.equal(await forgetRoutes(pool, 7, 2), 0)
  t.match(await findRoute(pool, ids[4] as string, null), { id: ids[4] })
})
