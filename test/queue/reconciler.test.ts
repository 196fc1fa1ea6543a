// Jobs and tickets that disagree, for whatever reason, agree again; and those that agree stay as they are.

import { randomUUID } from 'node:crypto'
import { mock } from 'node:test'
import t from 'tap'
import { ticketQueue } from '../../queue/boss.ts'
import { createReconciler } from '../../queue/reconciler.ts'
import type { Tickets } from '../../store/jobs/end.ts'
import { cancelOrphans, comparePage, firstId, isFirstProcess, mendTickets } from '../../store/jobs/reconcile.ts'
import { inTransaction } from '../../store/pool.ts'
import { until } from '../support/wait.ts'
import { createRows, type Rows } from './rows.ts'

/** A reconciler that walks over everything each time it is asked. */
async function createWalk(rows: Rows, more: { readonly pageRows?: number; readonly processId?: string; readonly tickets?: Tickets } = {}) {
  const ready: string[] = []
  const logged: unknown[] = []
  const mended = { jobs: 0, tickets: 0 }
  let clockMs = 0
  const reconciler = createReconciler({
    pool: rows.pool,
    tickets: more.tickets ?? rows.boss,
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

/** Those of pg-boss; `insert` is called before a batch of tickets is made anew, with its length. */
function watched({ boss }: Rows, insert: (count: number) => void): Tickets {
  return {
    complete: (...given) => boss.complete(...given),
    cancel: (...given) => boss.cancel(...given),
    deleteJob: (...given) => boss.deleteJob(...given),
    async insert(...given) {
      insert(given[1].length)
      return boss.insert(...given)
    }
  }
}

/** So many queued jobs without a ticket. */
async function lost(rows: Rows, count: number): Promise<void> {
  const id = await rows.job({}, 'none')
  await rows.pool.query(
    `insert into jobs
     select made.*
       from jobs, generate_series(2, $2::integer) as number,
            jsonb_populate_record(jobs, jsonb_build_object('id', gen_random_uuid(), 'tag', number)) as made
      where jobs.id = $1`,
    [id, count]
  )
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
  // One that has used all its tries still gets one.
  const used = await rows.job({ attempts: 3, max_attempts: 3 }, 'none')
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
  t.same(walk.mended, { jobs: 6, tickets: 0 })
  t.same((await rows.pool.query('select retry_limit from pgboss.job where id = $1', [used])).rows, [{ retry_limit: 0 }])
  t.match(await rows.claim(used, processId), { outcome: 'claimed' })
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

t.test('only a process that plans, and was seen in the last 3 s, counts as the first', async t => {
  const rows = await createRows(t)
  const me = await rows.process()
  t.equal(await isFirstProcess(rows.pool, me), true)
  const before = async (number: number, role: string, seen: string): Promise<void> => {
    const id = `00000000-0000-4000-8000-00000000000${number}`
    await rows.pool.query(
      `insert into processes (id, host, pid, version, role, seen_at) values ($1, 'h', 1, 'v', $2, now() + $3::interval)`,
      [id, role, seen]
    )
  }
  for (const [number, role] of ['gateway', 'worker'].entries()) await before(number, role, '1 hour')
  t.equal(await isFirstProcess(rows.pool, me), true, 'the others do not plan')
  await before(2, 'all', '-4 s')
  // A server that has just started gives everybody time to be seen.
  await until('the silent one to be passed over', () => isFirstProcess(rows.pool, me))
  await before(3, 'planner', '1 hour')
  t.equal(await isFirstProcess(rows.pool, me), false)
  t.equal(await isFirstProcess(rows.pool, randomUUID()), false, 'nor is one that is not there')
})

t.test('a ticket that pg-boss is ending right now is waited for, and made anew', async t => {
  const rows = await createRows(t)
  const id = await rows.job()
  const { mending } = await inTransaction(rows.pool, async tx => {
    await tx.query(`update pgboss.job set state = 'completed' where id = $1`, [id])
    const mending = mendTickets(rows.pool, rows.boss, [id])
    await until('it to wait', async () => {
      const { rowCount } = await rows.pool.query(
        `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`
      )
      return rowCount
    })
    return { mending }
  })
  t.same((await mending).jobs, [id])
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

t.test('pages of any length find what one over everything finds, each job and ticket once', async t => {
  const rows = await createRows(t)
  const processId = await rows.process()
  const [fine, running] = [await rows.job(), await rows.job()]
  const unheld = await rows.job()
  const deleted = await rows.job()
  for (const id of [running, unheld, deleted]) await rows.claim(id, processId)
  await rows.pool.query('select put_back_tickets($1)', [[unheld]])
  await rows.pool.query('delete from pgboss.job where id = $1', [deleted])
  const missing = [await rows.job({}, 'none'), await rows.job({}, 'none')]
  const over = await rows.job({ status: 'done' })
  const orphans = Array.from({ length: 8 }, () => randomUUID())
  await rows.boss.insert(
    ticketQueue,
    orphans.map(id => ({ id }))
  )
  const expected = { jobs: [unheld, deleted, ...missing].sort(), tickets: [over, ...orphans].sort() }
  for (const length of [1, 2, 3, 5, 20_000]) {
    const found = { jobs: [] as string[], tickets: [] as string[] }
    let pages = 0
    for (let after: string | null = firstId; after !== null && pages <= 20; pages += 1) {
      const page = await comparePage(rows.pool, after, length)
      found.jobs.push(...(page?.jobs ?? []))
      found.tickets.push(...(page?.tickets ?? []))
      after = page?.next ?? null
    }
    t.same({ jobs: found.jobs.sort(), tickets: found.tickets.sort() }, expected, `${length} at once`)
    t.ok(pages <= 20, `${pages} pages`)
  }
  t.same(await rows.ticketState(fine), 'created')
})

t.test('many are mended some hundreds at a time; a process that closes ends with those under way', async t => {
  const rows = await createRows(t)
  const counts: number[] = []
  const tickets = watched(rows, count => {
    counts.push(count)
    if (counts.length === 1) closing = walk.close()
  })
  const processId = await rows.process()
  const walk = await createWalk(rows, { processId, tickets })
  let closing: Promise<void> | null = null
  await lost(rows, 1_100)
  const stepping = walk.step()
  await until('the first of them', () => counts.length > 0)
  await closing
  t.equal(await disagreeing(rows), 600, 'what was begun is done')
  await stepping
  t.same(counts, [500])
  await (await createWalk(rows, { processId, tickets })).step()
  t.same(counts, [500, 500, 100])
  t.equal(await disagreeing(rows), 0)
})

t.test('a page that could not be mended is gone over again; each time that the database goes away is told once', async t => {
  const rows = await createRows(t)
  await lost(rows, 6)
  let isAway = true
  const tickets = watched(rows, () => {
    if (isAway) throw new Error('away')
  })
  const walk = await createWalk(rows, { tickets, pageRows: 4 })
  for (let steps = 0; steps < 3; steps += 1) await walk.step()
  t.match(walk.logged, [[/compared/, { message: 'away' }]])
  walk.wait()
  isAway = false
  await walk.step()
  t.same(walk.mended, { jobs: 4, tickets: 0 })
  isAway = true
  for (let steps = 0; steps < 2; steps += 1) await walk.step()
  t.equal(walk.logged.length, 2)
  isAway = false
  await walk.step()
  t.same(walk.mended, { jobs: 6, tickets: 0 })
})

t.test('a long round is followed by the next at once, and one that another process went on with by one from the beginning', async t => {
  const rows = await createRows(t)
  const [processId, before] = [randomUUID(), '00000000-0000-4000-8000-000000000000']
  const alive = (id: string): unknown =>
    rows.pool.query(`insert into processes (id, host, pid, version, seen_at) values ($1, 'h', 1, 'v', now() + interval '1 hour')`, [id])
  await alive(processId)
  const first = await rows.job({}, 'none')
  await lost(rows, 7)
  const walk = await createWalk(rows, { processId, pageRows: 4 })
  const loseFirst = (): unknown => rows.pool.query('delete from pgboss.job where id = $1', [first])
  const state = async (): Promise<unknown> => (await rows.ticketState(first)) ?? 'none'

  await walk.step()
  t.equal(await state(), 'created')
  await loseFirst()
  walk.wait()
  await walk.step()
  await walk.step()
  t.equal(await disagreeing(rows), 1, 'the round is over')
  await walk.step()
  t.equal(await state(), 'created', 'and the next has begun, for it took 20 s')

  await loseFirst()
  await alive(before)
  await walk.step()
  await rows.pool.query('delete from processes where id = $1', [before])
  walk.wait()
  await walk.step()
  t.equal(await state(), 'created')
})

t.test('whoever asks while a page is gone over waits for that one', async t => {
  const rows = await createRows(t)
  const walk = await createWalk(rows)
  const stepping = walk.step()
  t.equal(walk.step(), stepping)
  await stepping
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

t.test('one that is closed looks no more, also when it was in the middle of a look', async t => {
  mock.timers.enable({ apis: ['setTimeout'] })
  t.teardown(() => mock.timers.reset())
  let asked = 0
  const answered = Promise.withResolvers<{ rows: object[] }>()
  const query = () => {
    asked++
    return answered.promise
  }
  const begin = () => {
    const reconciler = createReconciler({
      pool: { query } as unknown as Rows['pool'],
      tickets: {} as Tickets,
      notices: { ready() {} },
      processId: randomUUID(),
      now: () => 0,
      log: (_message, error) => t.error(error),
      onMended: () => {}
    })
    reconciler.start()
    return reconciler
  }
  const unused = begin()
  await unused.close()
  mock.timers.tick(5_000)
  t.equal(asked, 0)
  const looking = begin()
  mock.timers.tick(1_000)
  t.equal(asked, 1)
  const closing = looking.close()
  answered.resolve({ rows: [{ is_first: false }] })
  await closing
  await new Promise(resolve => setImmediate(resolve))
  mock.timers.tick(5_000)
  t.equal(asked, 1)
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
