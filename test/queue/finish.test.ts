// The end of an attempt: one transaction, fenced, written until the database has it.

import t from 'tap'
import { type AttemptResult, type FinishPorts, finishAttempt } from '../../queue/finish.ts'
import { GatewayError } from '../../routing/errors.ts'
import type { CostRow } from '../../store/costs.ts'
import { claimedJobs } from '../../store/jobs/claim.ts'
import type { Pool } from '../../store/pool.ts'
import { claim } from './core-support.ts'
import { createRows } from './rows.ts'

const rows = await createRows(t)
const { pool, boss } = rows
const me = await rows.process()
const other = await rows.process()
const done: AttemptResult = { status: 'done', result: Buffer.from('{"ok":true}'), usage: { total_tokens: 3 } }
const failed: AttemptResult = { status: 'retry', error: new GatewayError('upstream_unavailable', 'It answered 500') }

function portsWith(changes: Partial<FinishPorts> = {}) {
  const told: string[] = []
  const logged: string[] = []
  const ready: string[] = []
  const ports: FinishPorts = {
    pool,
    boss,
    notices: { changed: (id: string) => void told.push(id) } as FinishPorts['notices'],
    processId: me,
    unstored: () => [],
    onReady: lane => void ready.push(lane),
    log: message => void logged.push(message),
    ...changes
  }
  return { ports, told, logged, ready }
}

async function running(changes: Record<string, unknown> = {}) {
  const id = await rows.job({ charge: 1_000, weight: 1, ...changes })
  await claim(pool, { jobId: id, processId: me })
  const [job] = await claimedJobs(pool, [id], me)
  if (job === undefined) throw new Error('not claimed')
  return job
}

const finished = (job: Awaited<ReturnType<typeof running>>, outcome: AttemptResult) => ({
  job,
  outcome,
  events: null,
  attemptIds: [job.attemptId],
  spent: 500,
  ttftMs: 250,
  movedTo: null
})

t.test('a job that is done has its result, its figures, and is over everywhere', async t => {
  const job = await running({ source: 'figures' })
  await pool.query(`insert into source_vtime (source, class, vfinish) values ('figures', 2, 9000)`)
  const { ports, told } = portsWith()
  t.equal(await finishAttempt(ports, finished(job, done)), 'done')
  const row = await rows.read(job.id)
  t.match(row, { status: 'done', usage: { total_tokens: 3 }, error: null, process_id: null, finished_at: Date })
  t.equal(String(row['result']), '{"ok":true}')
  t.equal((row['first_token_at'] as Date).getTime() - (row['started_at'] as Date).getTime(), 250)
  t.match(await rows.attempt(job.id, 1), { outcome: 'done', ended_at: Date })
  t.equal(await rows.ticketState(job.id), 'completed')
  t.same(told, [job.id])
  const { rows: order } = await pool.query(`select vfinish from source_vtime where source = 'figures'`)
  t.same(order, [{ vfinish: '8500' }], 'what it did not use is given back')
})

t.test('a job whose machine went away waits for nothing and loses no try, four times; then it is over', async t => {
  const job = await running({ max_attempts: 2 })
  const lost: AttemptResult = { status: 'lost', error: new GatewayError('machine_lost', 'It does not answer any more') }
  const { ports, told, ready } = portsWith()
  t.equal(await finishAttempt(ports, finished(job, lost)), 'retry')
  t.match(await rows.read(job.id), {
    status: 'queued',
    ready: true,
    attempts: 0,
    lost_attempts: 1,
    process_id: null,
    error: { code: 'machine_lost' }
  })
  t.match(await rows.attempt(job.id, 1), { outcome: 'lost', ended_at: Date })
  t.equal(await rows.ticketState(job.id), 'retry')
  t.same(told, [job.id])
  t.same(ready, [job.lane])
  t.equal(await finishAttempt(ports, finished(job, lost)), null, 'twice changes nothing')
  for (let time = 2; time <= 5; time++) {
    await claim(pool, { jobId: job.id, processId: me })
    const [again] = await claimedJobs(pool, [job.id], me)
    t.equal(await finishAttempt(ports, finished(again as typeof job, lost)), time < 5 ? 'retry' : 'error')
  }
  t.match(await rows.read(job.id), { status: 'error', lost_attempts: 4, error: { code: 'machine_lost' } })
  t.equal(await rows.ticketState(job.id), 'cancelled')
})

t.test('what its calls cost is stored with its end, and not without it', async t => {
  const job = await running()
  const cost: CostRow = {
    attemptId: job.attemptId,
    jobId: job.id,
    source: 'me',
    nanoUsd: 77
  } as unknown as CostRow
  const asked: (readonly string[])[] = []
  const { ports } = portsWith({
    unstored(ids) {
      asked.push(ids)
      return [cost]
    }
  })
  // A row that the table refuses undoes the end as well: nothing is done by half.
  await t.rejects(finishAttempt(ports, finished(job, done)))
  t.match(await rows.read(job.id), { status: 'running' })
  t.equal(await rows.ticketState(job.id), 'active')
  t.same(asked[0], [job.attemptId])
})

t.test('a failure that may pass puts the job back, for when pg-boss and the upstream say', async t => {
  const job = await running()
  const { ports, told } = portsWith()
  t.equal(await finishAttempt(ports, finished(job, failed)), 'retry')
  t.match(await rows.read(job.id), {
    status: 'queued',
    ready: false,
    attempts: 1,
    process_id: null,
    error: { code: 'upstream_unavailable' }
  })
  t.match(await rows.attempt(job.id, 1), { outcome: 'retry', error: { message: 'It answered 500' } })
  t.same(told, [job.id])
})

t.test('a job that pg-boss has no further try for ends with its last error', async t => {
  const job = await running({ max_attempts: 1 })
  const { ports } = portsWith()
  t.equal(await finishAttempt(ports, finished(job, failed)), 'error')
  t.match(await rows.read(job.id), { status: 'error', error: { code: 'upstream_unavailable', type: 'server_error' } })
  t.equal(await rows.ticketState(job.id), 'cancelled')
})

for (const outcome of [done, failed]) {
  t.test(`nothing is written about an attempt that is somebody else’s by now (${outcome.status})`, async t => {
    const job = await running()
    await pool.query('update jobs set process_id = $2, attempt_no = 2 where id = $1', [job.id, other])
    const before = await rows.read(job.id)
    const { ports, told } = portsWith()
    t.equal(await finishAttempt(ports, finished(job, outcome)), null)
    t.same(await rows.read(job.id), before)
    t.equal(await rows.ticketState(job.id), 'active')
    t.same(told, [])
  })
}

t.test('while the database is away it is tried again, and it ends once', async t => {
  const job = await running()
  let failures = 7
  const away = {
    connect: () => (failures-- > 0 ? Promise.reject(Object.assign(new Error('no'), { code: 'ECONNREFUSED' })) : pool.connect())
  } as unknown as Pool
  const { ports, logged, told } = portsWith({ pool: away })
  t.equal(await finishAttempt(ports, finished(job, done)), 'done')
  t.same(logged, ['the end of a job could not be stored; it is tried again'], 'said once')
  t.same(told, [job.id])
})

t.test('when only the answer to the commit was lost, the second try finds that all is done', async t => {
  const job = await running()
  let lost = false
  const cut = {
    async connect() {
      const client = await pool.connect()
      if (lost) return client
      lost = true
      const query = client.query.bind(client) as (...given: unknown[]) => Promise<unknown>
      const cutting = async (...given: unknown[]) => {
        const answer = await query(...given)
        if (given[0] === 'commit') throw Object.assign(new Error('Connection terminated'), { code: 'ECONNRESET' })
        return answer
      }
      return new Proxy(client, { get: (of, name) => (name === 'query' ? cutting : Reflect.get(of, name)) })
    }
  } as unknown as Pool
  const { ports } = portsWith({ pool: cut })
  t.equal(await finishAttempt(ports, finished(job, done)), null)
  t.match(await rows.read(job.id), { status: 'done' })
  t.equal(String((await rows.read(job.id))['result']), '{"ok":true}')
})
