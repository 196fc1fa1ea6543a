// How jobs are stored: their places in the order, their tickets, and what comes twice.

import { randomUUID } from 'node:crypto'
import t from 'tap'
import { createSubmitter } from '../../queue/submit.ts'
import { uuidv7 } from '../../routing/ids.ts'
import { endJobs } from '../../store/jobs/end.ts'
import { findByIdempotencyKeys, type JobRow } from '../../store/jobs/submit.ts'
import { inTransaction } from '../../store/pool.ts'
import { anotherPool, endOf } from './core-support.ts'
import { createRows } from './rows.ts'

const rows = await createRows(t)
const { pool, boss } = rows
const submitter = createSubmitter({ pool, boss })

function row(source: string, changes: Partial<JobRow> = {}): JobRow {
  return {
    id: uuidv7(Date.now()),
    kind: 'chat',
    class: 2,
    lane: '2/chat/any/m',
    charge: 1_000,
    weight: 1,
    model: 'm',
    source,
    subSource: null,
    keyId: null,
    ownerProcess: null,
    outlivesOwner: true,
    request: { model: 'm' },
    caller: { source },
    payload: Buffer.from('{}'),
    stream: false,
    maxAttempts: 3,
    idempotencyKey: null,
    requestHash: null,
    maxCostUsd: null,
    metadata: null,
    webhookUrl: null,
    deadlineAt: null,
    ...changes
  }
}

async function order(jobClass = 2): Promise<string[]> {
  const { rows: found } = await pool.query(`select source from jobs where class = $1 and status = 'queued' order by tag, id`, [jobClass])
  return found.map(({ source }) => source)
}

t.beforeEach(async () => {
  await pool.query('delete from jobs')
  await pool.query('delete from source_vtime')
  await pool.query('update class_vtime set v = 0')
})

t.test('a stored job has all that it came with, and a ticket with its tries', async t => {
  const job = row('a', {
    payload: Buffer.from('{"ü":1}'),
    metadata: { k: 'v' },
    webhookUrl: 'https://h.example/',
    deadlineAt: 2e12,
    maxAttempts: 5
  })
  t.equal(await submitter.submit(job), true)
  t.match(await rows.read(job.id), {
    status: 'queued',
    ready: true,
    source: 'a',
    metadata: { k: 'v' },
    webhook_status: 'waiting',
    deadline_at: new Date(2e12),
    attempts: 0,
    attempt_no: 0
  })
  t.equal(String((await rows.read(job.id))['payload']), '{"ü":1}')
  const { rows: tickets } = await pool.query(`select state::text, retry_limit, retry_backoff from pgboss.job where id = $1`, [job.id])
  t.same(tickets, [{ state: 'created', retry_limit: 4, retry_backoff: true }])
})

t.test('those that come while one transaction is on its way go together, and each hears of its own', async t => {
  const bad = row('a', { charge: -1 })
  const twice = row('a')
  const sent = [row('a'), row('a'), bad, twice, twice, row('b')]
  const settled = await Promise.allSettled(sent.map(job => submitter.submit(job)))
  t.same(
    settled.map(each => (each.status === 'fulfilled' ? each.value : 'refused')),
    [true, true, 'refused', true, false, true]
  )
  const { rows: tickets } = await pool.query(`select count(*)::integer as count from pgboss.job join jobs using (id) where name = 'jobs'`)
  t.equal(tickets[0].count, 4, 'a ticket for each that is stored')
  t.equal(await rows.ticketState(bad.id), null)
})

t.test('sources take turns by their weights, however many each has, and whenever they came', async t => {
  for (let count = 0; count < 8; count++) await submitter.submit(row('flood'))
  await Promise.all([
    ...Array.from({ length: 4 }, () => submitter.submit(row('light', { weight: 1 }))),
    ...Array.from({ length: 8 }, () => submitter.submit(row('heavy', { weight: 2 })))
  ])
  const first = (await order()).slice(0, 8)
  const count = (source: string): number => first.filter(name => name === source).length
  t.same([count('flood'), count('light'), count('heavy')], [2, 2, 4])
})

t.test('whoever was idle comes in where his class is served, and has saved up nothing', async t => {
  await pool.query('update class_vtime set v = 5000 where class = 2')
  await submitter.submit(row('new'))
  const { rows: found } = await pool.query('select tag from jobs')
  t.same(found, [{ tag: '5000' }])
  await submitter.submit(row('new'))
  const { rows: both } = await pool.query('select tag from jobs order by tag')
  t.same(both, [{ tag: '5000' }, { tag: '6000' }], 'and the next one behind it')
  const { rows: other } = await pool.query('select class, vfinish from source_vtime')
  t.same(other, [{ class: 2, vfinish: '7000' }])
})

t.test('what was not used is given back when a job ends, and what was used beyond it is added', async t => {
  const [first, second] = [row('a', { charge: 1_000, weight: 2 }), row('a', { charge: 1_000, weight: 2 })]
  await submitter.submit(first)
  await submitter.submit(second)
  const vfinish = async () => (await pool.query(`select vfinish from source_vtime where source = 'a'`)).rows[0].vfinish
  t.equal(await vfinish(), '1000')
  await inTransaction(pool, tx => endJobs(tx, boss, [endOf(first.id, 0, { spent: 3_000 })]))
  t.equal(await vfinish(), '2000')
  await inTransaction(pool, tx => endJobs(tx, boss, [endOf(second.id, 0, { status: 'cancelled', spent: 0 })]))
  t.equal(await vfinish(), '1500')
})

t.test('one idempotency key is one job of its source, from however many processes it comes at once', async t => {
  const others = [submitter, ...[1, 2].map(() => createSubmitter({ pool: anotherPool(t, pool), boss }))]
  const hash = Buffer.from('00'.repeat(32), 'hex')
  const sent = Array.from({ length: 30 }, (_, number) =>
    row('a', { idempotencyKey: 'k', requestHash: hash, id: randomUUID(), charge: number })
  )
  const isNew = await Promise.all(sent.map((job, number) => (others[number % 3] as typeof submitter).submit(job)))
  t.equal(isNew.filter(Boolean).length, 1)
  const winner = sent[isNew.indexOf(true)]?.id
  t.same(await findByIdempotencyKeys(pool, [{ source: 'a', key: 'k' }]), [{ id: winner, source: 'a', key: 'k', hash }])
  t.equal(await submitter.submit(row('b', { idempotencyKey: 'k', requestHash: hash })), true, 'another source has keys of its own')
  const { rows: tickets } = await pool.query(`select count(*)::integer as count from pgboss.job where id = any ($1::uuid[])`, [
    sent.map(({ id }) => id)
  ])
  t.equal(tickets[0].count, 1, 'and no ticket is left over')
})

t.test('sources that submit across each other do not wait for each other', async t => {
  const others = [submitter, createSubmitter({ pool: anotherPool(t, pool), boss })]
  const names = ['a', 'b', 'c', 'd']
  const sent = Array.from({ length: 60 }, (_, number) => {
    const source = names[(number * 7) % 4] as string
    return (others[number % 2] as typeof submitter).submit(row(source, { class: 1 + (number % 2) }))
  })
  t.ok((await Promise.all(sent)).every(Boolean))
})
