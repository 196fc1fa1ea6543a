// What our own statements rely on of pg-boss: its tickets after a claim, after a put-back, and what it refuses.

import { randomUUID } from 'node:crypto'
import t from 'tap'
import { startBoss, ticketQueue } from '../../queue/boss.ts'
import { within } from '../../store/jobs/end.ts'
import { retryJob } from '../../store/jobs/retry.ts'
import { inTransaction } from '../../store/pool.ts'
import { createDatabase } from '../support/cluster.ts'
import { claim } from './core-support.ts'
import { createRows } from './rows.ts'

const rows = await createRows(t)
const { pool, boss } = rows
const me = await rows.process()

async function ticket(id: string): Promise<Record<string, unknown>> {
  const { rows: found } = await pool.query(
    `select state::text, retry_count, retry_limit, started_on is not null as begun, start_after > now() as later from pgboss.job where name = 'jobs' and id = $1`,
    [id]
  )
  return found[0]
}

t.test('the ticket of a claimed job is not given to anyone who asks pg-boss', async t => {
  const id = await rows.job()
  await claim(pool, { jobId: id, processId: me })
  t.match(await ticket(id), { state: 'active', retry_count: 0, begun: true })
  t.same(await boss.fetch(ticketQueue, { batchSize: 10 }), [])
})

t.test('pg-boss completes a claimed ticket by its count, and by no other', async t => {
  const id = await rows.job()
  await claim(pool, { jobId: id, processId: me })
  t.match(await boss.complete(ticketQueue, { id, retryCount: 1 }), { affected: 0 })
  t.match(await ticket(id), { state: 'active' })
  t.match(await boss.complete(ticketQueue, { id, retryCount: 0 }), { affected: 1 })
  t.match(await ticket(id), { state: 'completed' })
})

t.test('a ticket that was put back is claimed again with the next count, and costs no try', async t => {
  const id = await rows.job({ max_attempts: 2 })
  for (const count of [0, 1, 2, 3]) {
    t.match(await claim(pool, { jobId: id, processId: me }), { outcome: 'claimed', attempt: count + 1 })
    t.match(await rows.read(id), { ticket_retry: count })
    t.match(await ticket(id), { state: 'active', retry_count: count, retry_limit: count + 1 })
    if (count > 0) t.match(await boss.complete(ticketQueue, { id, retryCount: count - 1 }), { affected: 0 }, 'the one before is over')
    await pool.query('select put_back_tickets($1)', [[id]])
    await pool.query(`update jobs set status = 'queued', process_id = null where id = $1`, [id])
    t.match(await ticket(id), { state: 'retry' })
  }
})

t.test('pg-boss says when the next try may begin, longer each time, until there is none left', async t => {
  const id = await rows.job({ max_attempts: 3 })
  await pool.query(`update pgboss.job set retry_delay = 1, retry_backoff = true, retry_delay_max = 60 where id = $1`, [id])
  const error = { message: 'no', type: 'server_error', code: 'upstream_unavailable' }
  const fail = (attempt: number, afterMs: number) =>
    inTransaction(pool, tx => retryJob(tx, boss, { id, attemptNo: attempt, runner: me, ticketRetry: attempt - 1, error, afterMs }))
  const again = () => pool.query(`update jobs set ready = true where id = $1`, [id])
  await claim(pool, { jobId: id, processId: me })
  t.equal(await fail(1, 0), true)
  t.match(await ticket(id), { state: 'retry', later: true })
  t.match(await rows.read(id), { status: 'queued', ready: false, error, attempts: 1 })
  await again()
  t.match(await claim(pool, { jobId: id, processId: me }), { attempt: 2 })
  t.equal(await fail(2, 3_600_000), true)
  const { rows: due } = await pool.query(`select run_at > now() + interval '59 minutes' as later from jobs where id = $1`, [id])
  t.same(due, [{ later: true }], 'what the upstream asked for holds')
  await again()
  t.match(await claim(pool, { jobId: id, processId: me }), { attempt: 3 })
  await t.rejects(
    inTransaction(pool, async tx => {
      const isAgain = await retryJob(tx, boss, { id, attemptNo: 3, runner: me, ticketRetry: 2, error, afterMs: 0 })
      throw new Error(`again: ${isAgain}`)
    }),
    { message: 'again: false' }
  )
  t.match(await rows.read(id), { status: 'running' }, 'the caller undoes it, and ends the job')
})

t.test('the ticket of a running job that is not active is made so, with the count its attempt has', async t => {
  const id = await rows.job({ max_attempts: 3 })
  await claim(pool, { jobId: id, processId: me })
  await pool.query('select put_back_tickets($1)', [[id]])
  await pool.query('select hold_tickets($1)', [[id]])
  t.match(await ticket(id), { state: 'active', retry_count: 0 })
  t.notOk((await boss.fetch(ticketQueue, { batchSize: 10 })).some(fetched => fetched.id === id))
  t.match(await boss.complete(ticketQueue, { id, retryCount: 0 }), { affected: 1 })
})

t.test('what pg-boss writes within our transaction is undone with it', async t => {
  const id = randomUUID()
  await t.rejects(
    inTransaction(pool, async tx => {
      await boss.insert(ticketQueue, [{ id, data: {} }], within(tx))
      throw new Error('undone')
    }),
    { message: 'undone' }
  )
  t.equal(await ticket(id), undefined)
})

t.test('several processes may begin at once, and tables of another version are refused', async t => {
  const { connection, pool: fresh } = await createDatabase(t)
  const start = () => startBoss({ connection, supervise: false, log: () => {} })
  const bosses = await Promise.all([start(), start(), start()])
  for (const started of bosses) await started.stop({ graceful: false })
  await fresh.query('update pgboss.version set version = 44')
  await t.rejects(start(), { message: /version 44.*needs 43/ })
})
