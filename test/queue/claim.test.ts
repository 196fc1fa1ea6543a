// Who gets a job and a place, when many ask at once; and what is written about an attempt that is not the last one.

import { randomUUID } from 'node:crypto'
import t from 'tap'
import { claimedJobs, runningOf } from '../../store/jobs/claim.ts'
import { endJobs } from '../../store/jobs/end.ts'
import { mendTickets } from '../../store/jobs/reconcile.ts'
import { putBackJobs, type RetryTickets, retryJob, reviveJob } from '../../store/jobs/retry.ts'
import { inTransaction } from '../../store/pool.ts'
import { claimSlot, releaseSlot } from '../../store/slots.ts'
import { until } from '../support/wait.ts'
import { addDevice, anotherPool, claim, endOf, holders } from './core-support.ts'
import { createRows } from './rows.ts'

const rows = await createRows(t)
const { pool, boss } = rows
const pools = [pool, anotherPool(t, pool), anotherPool(t, pool)]
const me = await rows.process()
const other = await rows.process()
const error = { message: 'no', type: 'server_error', code: 'upstream_unavailable' }

t.test('of 24 who ask at once for a machine with 4 places, jobs and direct requests, 4 get one, always', async t => {
  for (let round = 0; round < 5; round++) {
    const deviceId = `four-${round}`
    await addDevice(pool, deviceId, 4)
    const ids: string[] = []
    while (ids.length < 12) ids.push(await rows.job())
    const asked = Array.from({ length: 24 }, async (_, number) => {
      const from = pools[number % 3] as typeof pool
      if (number % 2 === 0) return (await claimSlot(from, { deviceId, processId: me, attemptId: randomUUID(), lanesAhead: [] })) !== null
      return (await claim(from, { jobId: ids[(number - 1) / 2] as string, processId: other, deviceId })).outcome === 'claimed'
    })
    const granted = (await Promise.all(asked)).filter(Boolean).length
    t.equal(granted, 4)
    const held = await holders(pool, deviceId)
    t.equal(new Set(held.map(({ attempt }) => attempt)).size, 4, 'each for an attempt of its own')
    const { rows: running } = await pool.query(`select count(*)::integer as count from jobs where status = 'running' and device_id = $1`, [
      deviceId
    ])
    t.equal(running[0].count, held.filter(({ process }) => process === other).length, 'jobs run that hold a place, and no other')
  }
})

t.test('of 20 who ask at once for one job, one gets it', async t => {
  await addDevice(pool, 'wide', 30)
  const jobId = await rows.job()
  const asked = Array.from({ length: 20 }, (_, number) =>
    claim(pools[number % 3] as typeof pool, { jobId, processId: me, deviceId: 'wide' })
  )
  const outcomes = (await Promise.all(asked)).map(({ outcome }) => outcome)
  t.same(outcomes.toSorted(), ['claimed', ...Array(19).fill('gone')])
  t.match(await rows.read(jobId), { status: 'running', attempts: 1, attempt_no: 1, process_id: me })
  t.equal((await holders(pool, 'wide')).filter(({ attempt }) => attempt !== null).length, 1)
})

t.test('whoever asks for a job that somebody is at goes on to the next, and does not wait', async t => {
  const jobId = await rows.job()
  const client = await pool.connect()
  try {
    await client.query('begin')
    await client.query('select from jobs where id = $1 for update', [jobId])
    t.match(await claim(pools[1] as typeof pool, { jobId, processId: me }), { outcome: 'gone' })
  } finally {
    await client.query('rollback')
    client.release()
  }
})

t.test('an attempt that is over hands its place on, and only its own', async t => {
  await addDevice(pool, 'one', 1)
  const [first, second, third] = await Promise.all([rows.job(), rows.job(), rows.job()])
  const attemptId = randomUUID()
  await claim(pool, { jobId: first, processId: me, deviceId: 'one', attemptId })
  t.match(await claim(pool, { jobId: second, processId: me, deviceId: 'one' }), { outcome: 'full' })
  t.match(await rows.read(second), { status: 'queued', attempt_no: 0 }, 'nothing is changed then')
  const next = randomUUID()
  t.match(await claim(pool, { jobId: second, processId: other, deviceId: 'one', attemptId: next, fromAttemptId: attemptId }), {
    outcome: 'claimed'
  })
  t.same(await holders(pool, 'one'), [{ process: other, attempt: next }])
  const late = { jobId: third, processId: me, deviceId: 'one', fromAttemptId: attemptId }
  t.match(await claim(pool, late), { outcome: 'full' }, 'it has handed it on already')
  await releaseSlot(pool, 'one', attemptId)
  t.same(await holders(pool, 'one'), [{ process: other, attempt: next }], 'nor does it give it back once more')
})

t.test('a place beyond a limit that was lowered is not handed on', async t => {
  await addDevice(pool, 'smaller', 2)
  const ids = await Promise.all([rows.job(), rows.job(), rows.job()])
  const attempts = [randomUUID(), randomUUID()]
  for (const number of [0, 1])
    await claim(pool, { jobId: ids[number] as string, processId: me, deviceId: 'smaller', attemptId: attempts[number] as string })
  await pool.query(`update devices set max_concurrency = 1 where id = 'smaller'`)
  const handed = { jobId: ids[2] as string, processId: me, deviceId: 'smaller', fromAttemptId: attempts[1] as string }
  t.match(await claim(pool, handed), { outcome: 'full' })
})

t.test('whoever frees a place for a client’s request gives it to the process that holds the client', async t => {
  await addDevice(pool, 'shared', 1)
  const jobId = await rows.job({ owner_process: other })
  t.match(await claim(pool, { jobId, processId: me, deviceId: 'shared' }), { outcome: 'claimed', attempt: 1, runner: other })
  t.match(await holders(pool, 'shared'), [{ process: other }])
  t.same(await runningOf(pool, other).then(list => list.some(({ id }) => id === jobId)), true)
})

t.test('a job whose owner is gone is given to nobody, and holds no place', async t => {
  await addDevice(pool, 'idle', 1)
  const jobId = await rows.job({ owner_process: randomUUID() })
  t.match(await claim(pool, { jobId, processId: me, deviceId: 'idle' }), { outcome: 'owner_gone' })
  t.match(await rows.read(jobId), { status: 'queued', attempt_no: 0 })
  t.match(await holders(pool, 'idle'), [{ attempt: null }])
})

t.test('a job without a ticket is given to nobody, until it has one again', async t => {
  await addDevice(pool, 'ticketless', 1)
  const jobId = await rows.job({}, 'none')
  t.match(await claim(pool, { jobId, processId: me, deviceId: 'ticketless' }), { outcome: 'no_ticket' })
  t.match(await rows.read(jobId), { status: 'queued', attempt_no: 0 })
  t.match(await holders(pool, 'ticketless'), [{ attempt: null }])
  await mendTickets(pool, boss, [jobId])
  t.match(await claim(pool, { jobId, processId: me, deviceId: 'ticketless' }), { outcome: 'claimed' })
})

t.test('nobody overtakes: a direct request gets no place while one waits in a lane before it', async t => {
  await addDevice(pool, 'queued', 1)
  const lane = '1/chat/any/queued'
  const ask = () => claimSlot(pool, { deviceId: 'queued', processId: me, attemptId: randomUUID(), lanesAhead: [lane, '1/chat/any/empty'] })
  const waiting = await rows.job({ class: 1, lane })
  t.equal(await ask(), null)
  await pool.query('update jobs set ready = false where id = $1', [waiting])
  t.equal(await ask(), 1, 'one that waits for its next try is in nobody’s way')
})

t.test('what is written about an attempt that is not the last one changes nothing', async t => {
  const id = await rows.job()
  await claim(pool, { jobId: id, processId: me })
  await inTransaction(pool, tx => putBackJobs(tx, [{ id, attemptNo: 1 }], me))
  await claim(pool, { jobId: id, processId: other })
  const before = await rows.read(id)
  t.match(before, { attempt_no: 2, process_id: other, attempts: 1, ticket_retry: 1 })
  const end = (attemptNo: number, runner: string | null) => inTransaction(pool, tx => endJobs(tx, boss, [endOf(id, attemptNo, { runner })]))
  t.same(await end(1, me), [], 'an earlier attempt')
  t.same(await end(2, me), [], 'somebody else’s attempt')
  t.same(await end(1, null), [])
  t.same(await inTransaction(pool, tx => putBackJobs(tx, [{ id, attemptNo: 1 }], other)), [])
  t.same(await inTransaction(pool, tx => putBackJobs(tx, [{ id, attemptNo: 2 }], me)), [])
  const retry = { id, attemptNo: 1, runner: other, ticketRetry: 0, error, afterMs: 0 }
  t.equal(await inTransaction(pool, tx => retryJob(tx, boss, retry)), false)
  t.equal(await inTransaction(pool, tx => retryJob(tx, boss, { ...retry, attemptNo: 2, runner: me })), false)
  t.same(await rows.read(id), before)
  t.equal(await rows.ticketState(id), 'active')
  t.match(await end(2, other), [{ id, status: 'done' }])
  t.same(await end(2, other), [], 'it is over once')
  t.equal(await rows.ticketState(id), 'completed')
})

t.test('a retry and a cancel at the same time do not wait for each other', async t => {
  const id = await rows.job()
  await claim(pool, { jobId: id, processId: me })
  const cancelling = pools[1] as typeof pool
  let cancelled: Promise<unknown> | null = null
  const tickets: RetryTickets = {
    async fail(...given) {
      const failed = await boss.fail(...given)
      cancelled = inTransaction(cancelling, tx => endJobs(tx, boss, [endOf(id, 1, { status: 'cancelled', result: null, error })]))
      await until('the cancel to wait for a lock', async () => {
        const { rows: waiting } = await pool.query(
          `select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`
        )
        return waiting.length > 0
      })
      return failed
    }
  }
  const retried = await inTransaction(pool, tx =>
    retryJob(tx, tickets, { id, attemptNo: 1, runner: me, ticketRetry: 0, error, afterMs: 0 })
  )
  t.equal(retried, true)
  t.match(await cancelled, [{ id, status: 'cancelled' }])
})

t.test('what runs is told with what it needs, to the process that runs it only', async t => {
  await addDevice(pool, 'told', 1)
  const id = await rows.job({ request: { model: 'm' }, caller: { source: 'me' }, payload: Buffer.from('{"a":1}') })
  const attemptId = randomUUID()
  await claim(pool, { jobId: id, processId: me, deviceId: 'told', attemptId })
  const [job] = await claimedJobs(pool, [id], me)
  t.match(job, { id, attempt: 1, attemptId, deviceId: 'told', hasPlace: true, attempts: 1, ticketRetry: 0, request: { model: 'm' } })
  t.equal(String(job?.payload), '{"a":1}')
  t.same(await claimedJobs(pool, [id], other), [])
  await releaseSlot(pool, 'told', attemptId)
  t.match(await claimedJobs(pool, [id], me), [{ hasPlace: false }], 'and that its place is gone')
})

t.test('a job that is over comes anew: behind what its source has waiting, charged again, and the fence goes on', async t => {
  await pool.query('update class_vtime set v = 5000 where class = 3')
  await pool.query(`insert into source_vtime (source, class, vfinish) values ('again', 3, 9000)`)
  const id = await rows.job({ source: 'again', class: 3, tag: 10, charge: 600, weight: 2, webhook_url: 'https://h.example/' })
  const revive = () => inTransaction(pool, tx => reviveJob(tx, id))
  t.equal(await revive(), null, 'not before it is over')
  await claim(pool, { jobId: id, processId: me })
  await pool.query(`update jobs set payload = '{}' where id = $1`, [id])
  await inTransaction(pool, tx => endJobs(tx, boss, [endOf(id, 1, { runner: me, spent: 600 })]))
  await pool.query(`update jobs set webhook_error = 'status 500', webhook_status = 'failed' where id = $1`, [id])
  t.same(await revive(), { lane: '2/chat/any/m', maxAttempts: 3 })
  t.match(await rows.read(id), {
    status: 'queued',
    tag: '9000',
    attempts: 0,
    attempt_no: 2,
    result: null,
    webhook_status: 'waiting',
    webhook_error: null
  })
  const { rows: order } = await pool.query(`select vfinish from source_vtime where source = 'again'`)
  t.same(order, [{ vfinish: '9300' }])
})
