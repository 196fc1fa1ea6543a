// Jobs and tickets that disagree, for whatever reason, agree again; and those that agree stay as they are.

import { randomUUID } from 'node:crypto'
import t from 'tap'
import { ticketQueue } from '../../queue/boss.ts'
import { createReconciler } from '../../queue/reconciler.ts'
import { cancelOrphans, comparePage, firstId, mendTickets } from '../../store/jobs/reconcile.ts'
import { inTransaction } from '../../store/pool.ts'
import { until } from '../support/wait.ts'
import { createRows, type Rows } from './rows.ts'

/** A reconciler that walks over everything each time it is asked. */
async function createWalk(rows: Rows, more: { readonly pageRows?: number; readonly processId?: string } = {}) {
  const ready: string[] = []
  const logged: unknown[] = []
  const mended = { jobs: 0, tickets: 0 }
  let clockMs = 0
  const reconciler = createReconciler({
    pool: rows.pool,
    tickets: rows.boss,
    notices: { ready: lane => void ready.push(lane) },
    processId: more.processId ?? (await rows.process()),
    now: () => clockMs,
    log: (message, error) => void logged.push([message, error]),
    onMended: ({ jobs, tickets }) => {
      mended.jobs += jobs
      mended.tickets += tickets
    },
    ...(more.pageRows === undefined ? {} : { pageRows: more.pageRows })
  })
  return {
    ready,
    logged,
    mended,
    step: () => reconciler.step(),
    /** The next round may begin. */
    wait: () => {
      clockMs += 20_000
    },
    close: () => reconciler.close()
  }
}

/** What a page over everything finds: nothing, when all agree. */
async function disagreeing(rows: Rows): Promise<number> {
  const page = await comparePage(rows.pool, firstId, 20_000)
  return (page?.jobs.length ?? 0) + (page?.tickets.length ?? 0)
}

t.test('a hundred tickets that were deleted and a hundred that were left active are mended, in pages', async t => {
  const rows = await createRows(t)
  const processId = await rows.process()
  const missing = await Promise.all(Array.from({ length: 100 }, () => rows.job({ lane: 'a' }, 'none')))
  const left = await Promise.all(Array.from({ length: 100 }, () => rows.job({ lane: 'b' })))
  const fine = await Promise.all(Array.from({ length: 20 }, () => rows.job({ lane: 'c' })))
  await rows.pool.query(`update pgboss.job set state = 'active', started_on = now() where id = any ($1)`, [left])
  t.match(await rows.claim(missing[0] as string, processId), { outcome: 'no_ticket' })

  const walk = await createWalk(rows, { processId, pageRows: 64 })
  for (let steps = 0; steps < 4; steps += 1) await walk.step()
  t.same(walk.logged, [])
  t.same(walk.mended, { jobs: 200, tickets: 0 })
  t.same([...new Set(walk.ready)].sort(), ['a', 'b'])
  t.equal(await disagreeing(rows), 0)
  for (const id of [missing[0], missing[99], left[0], left[99], fine[0]])
    t.match(await rows.claim(id as string, processId), { outcome: 'claimed' })
  t.equal(await disagreeing(rows), 0)
})

t.test('a ticket that pg-boss ended while its job waits is made anew, with the tries that are left', async t => {
  const rows = await createRows(t)
  const processId = await rows.process()
  const ended = await Promise.all(['completed', 'cancelled', 'failed'].map(() => rows.job({ attempts: 1, max_attempts: 3 })))
  for (const [index, state] of ['completed', 'cancelled', 'failed'].entries())
    await rows.pool.query('update pgboss.job set state = $2::pgboss.job_state, completed_on = now() where id = $1', [ended[index], state])
  // Expired by pg-boss itself: tried again, and failed for good.
  const expired = await rows.job()
  const failed = await rows.job({ max_attempts: 1 })
  await rows.claim(expired, processId)
  await rows.claim(failed, processId)
  await rows.pool.query(`update pgboss.job set started_on = now() - interval '2 days' where id = any ($1)`, [[expired, failed]])
  await rows.boss.supervise(ticketQueue)
  t.equal(await rows.ticketState(expired), 'retry')
  t.equal(await rows.ticketState(failed), 'failed')

  const walk = await createWalk(rows, { processId })
  await walk.step()
  t.same(walk.mended, { jobs: 5, tickets: 0 })
  for (const id of ended) {
    t.equal(await rows.ticketState(id), 'created')
    const { rows: found } = await rows.pool.query('select retry_limit, retry_count from pgboss.job where id = $1', [id])
    t.same(found, [{ retry_limit: 1, retry_count: 0 }])
    t.match(await rows.claim(id, processId), { outcome: 'claimed' })
  }
  t.equal(await disagreeing(rows), 0)
})

t.test('the ticket of a running job is active again, under the count that fences its attempt', async t => {
  const rows = await createRows(t)
  const processId = await rows.process()
  const ids = await Promise.all([rows.job(), rows.job(), rows.job()])
  const [waiting, deleted, over] = ids
  for (const id of ids) {
    await rows.claim(id, processId)
    await rows.pool.query('select put_back_tickets($1)', [[id]])
    await rows.pool.query(`update jobs set status = 'queued', process_id = null, attempts = 0 where id = $1`, [id])
    await rows.claim(id, processId)
  }
  await rows.pool.query(`update pgboss.job set state = 'retry' where id = $1`, [waiting])
  await rows.pool.query('delete from pgboss.job where id = $1', [deleted])
  await rows.boss.cancel(ticketQueue, over)

  const { jobs, lanes } = await mendTickets(rows.pool, rows.boss, ids)
  t.same([...jobs].sort(), [...ids].sort())
  t.same(lanes, [], 'nothing that anybody could claim')
  for (const id of ids) {
    t.equal(await rows.ticketState(id), 'active')
    const { rows: found } = await rows.pool.query('select retry_count, retry_limit, started_on from pgboss.job where id = $1', [id])
    t.match(found, [{ retry_count: 1, retry_limit: 3, started_on: Date }])
    const { affected } = (await rows.boss.fail(ticketQueue, { id, retryCount: 1 }, null)) as unknown as { affected: number }
    t.equal(affected, 1)
    t.equal(await rows.ticketState(id), 'retry', 'two of three tries are left')
  }
})

t.test('tickets without a job, and those of jobs that are over, are cancelled', async t => {
  const rows = await createRows(t)
  const orphan = randomUUID()
  await rows.boss.insert(ticketQueue, [{ id: orphan }])
  const done = await rows.job({ status: 'done' })
  const active = await rows.job({ status: 'error' })
  await rows.pool.query(`update pgboss.job set state = 'active', started_on = now() where id = $1`, [active])
  const completed = await rows.job({ status: 'done' })
  await rows.pool.query(`update pgboss.job set state = 'completed' where id = $1`, [completed])
  const queued = await rows.job()
  const walk = await createWalk(rows)
  await walk.step()
  t.same(walk.mended, { jobs: 0, tickets: 3 })
  for (const id of [orphan, done, active]) t.equal(await rows.ticketState(id), 'cancelled')
  t.equal(await rows.ticketState(completed), 'completed')
  t.equal(await rows.ticketState(queued), 'created')
})

t.test('a finished job that is queued again right now keeps its ticket', async t => {
  const rows = await createRows(t)
  const done = await rows.job({ status: 'done' })
  await inTransaction(rows.pool, async tx => {
    await tx.query(`update jobs set status = 'queued', finished_at = null where id = $1`, [done])
    t.same(await cancelOrphans(rows.pool, rows.boss, [done]), [])
  })
  t.same(await cancelOrphans(rows.pool, rows.boss, [done]), [], 'nor after it')
  t.equal(await rows.ticketState(done), 'created')
})

t.test('mending leaves alone what is right, what is over, and what somebody is at', async t => {
  const rows = await createRows(t)
  const processId = await rows.process()
  const [fine, running, over, held] = [
    await rows.job(),
    await rows.job(),
    await rows.job({ status: 'cancelled' }, 'none'),
    await rows.job({}, 'none')
  ]
  await rows.claim(running, processId)
  const ids = [fine, running, over, held]
  await inTransaction(rows.pool, async tx => {
    await tx.query('select from jobs where id = $1 for update', [held])
    t.same((await mendTickets(rows.pool, rows.boss, ids)).jobs, [])
  })
  const both = await Promise.all([mendTickets(rows.pool, rows.boss, ids), mendTickets(rows.pool, rows.boss, ids)])
  t.same(
    both.flatMap(({ jobs }) => jobs),
    [held],
    'by one of two'
  )
  t.equal(await rows.ticketState(over), null)
  t.equal(await rows.ticketState(running), 'active')
})

t.test('the first of the living processes does it, and another one only after it is gone', async t => {
  const rows = await createRows(t)
  const [first, second] = [await rows.process(), await rows.process()].sort() as [string, string]
  const id = await rows.job({}, 'none')
  const other = await createWalk(rows, { processId: second })
  await other.step()
  t.equal(await rows.ticketState(id), null)
  await rows.pool.query('delete from processes where id = $1', [first])
  await other.step()
  t.equal(await rows.ticketState(id), 'created')
})

t.test('one page is compared at a time, and one that was not to be had is asked for again', async t => {
  const rows = await createRows(t)
  const id = await rows.job({}, 'none')
  const walk = await createWalk(rows)
  await inTransaction(rows.pool, async tx => {
    await tx.query('select pg_advisory_xact_lock(1819109485, 3)')
    await walk.step()
    t.equal(await rows.ticketState(id), null)
  })
  walk.wait()
  await walk.step()
  t.equal(await rows.ticketState(id), 'created')
})

t.test('a round that is over begins again after 20 s', async t => {
  const rows = await createRows(t)
  const walk = await createWalk(rows)
  await walk.step()
  const id = await rows.job({}, 'none')
  await walk.step()
  t.equal(await rows.ticketState(id), null)
  walk.wait()
  await walk.step()
  t.equal(await rows.ticketState(id), 'created')
})

t.test('a database that is away is told once, and the walk goes on where it was', async t => {
  const rows = await createRows(t)
  const ids = await Promise.all(Array.from({ length: 10 }, () => rows.job({}, 'none')))
  const walk = await createWalk(rows, { pageRows: 4 })
  await walk.step()
  await rows.pool.query('alter table pgboss.job rename to away')
  await walk.step()
  await walk.step()
  t.equal(walk.logged.length, 1)
  await rows.pool.query('alter table pgboss.away rename to job')
  for (let steps = 0; steps < 3; steps += 1) await walk.step()
  t.equal(walk.mended.jobs, ids.length)
})

t.test('a started reconciler walks by itself until it is closed', async t => {
  const rows = await createRows(t)
  const id = await rows.job({}, 'none')
  const reconciler = createReconciler({
    pool: rows.pool,
    tickets: rows.boss,
    notices: { ready() {} },
    processId: await rows.process(),
    now: () => performance.now(),
    log: (_message, error) => t.error(error),
    onMended: () => {}
  })
  reconciler.start()
  await until('the ticket is there', () => rows.ticketState(id))
  await reconciler.close()
})
