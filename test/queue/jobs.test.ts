// What the gateway may do with jobs that are over, on a real database: run them again, and tell of them again.

import t, { type Test } from 'tap'
import { type BacklogLimits, createBacklog } from '../../queue/backlog.ts'
import { webhookQueue } from '../../queue/boss.ts'
import { createJobs, type JobsPorts } from '../../queue/jobs.ts'
import { createResults } from '../../queue/results.ts'
import type { Jobs } from '../../queue/types.ts'
import { endJobs } from '../../store/jobs/end.ts'
import { readResult } from '../../store/jobs/read.ts'
import { sendWebhookAgain } from '../../store/jobs/webhook.ts'
import { inTransaction } from '../../store/pool.ts'
import { endOf } from './core-support.ts'
import { short, startSide } from './events-support.ts'
import { createRows } from './rows.ts'

const rows = await createRows(t)
const { pool, connection, boss } = rows
const me = await rows.process()
const roomy: BacklogLimits = { maxWaiting: 100, maxWaitingPerSource: 100, maxJobs: 100, maxJobsPerSource: 100 }

function jobsWith(limits: Partial<BacklogLimits> = {}): Jobs & { readonly lanes: string[] } {
  const lanes: string[] = []
  const ports: JobsPorts = {
    pool,
    boss,
    backlog: createBacklog(pool, { ...roomy, ...limits }, () => performance.now()),
    notices: { changed() {} } as unknown as JobsPorts['notices'],
    submitter: null as never,
    watches: null as never,
    results: createResults((id, attemptNo) => readResult(pool, id, attemptNo)),
    webhooks: { redeliver: async job => void (await inTransaction(pool, tx => sendWebhookAgain(tx, boss, job))) },
    outlook: async () => new Map(),
    onReady: lane => void lanes.push(lane),
    stop() {}
  }
  return { ...createJobs(ports), lanes }
}

/** A job with an attempt, which is over. */
async function over(row: Readonly<Record<string, unknown>> = {}): Promise<string> {
  const id = await rows.job({ payload: '{}', ...row })
  await pool.query('insert into source_vtime (source, class, vfinish) values ($1, $2, 0) on conflict do nothing', [
    row['source'] ?? 'me',
    row['class'] ?? 2
  ])
  const { attempt } = await rows.claim(id, me)
  await inTransaction(pool, tx => endJobs(tx, boss, [endOf(id, attempt, { runner: me })]))
  return id
}

async function webhookTickets(id: string): Promise<number> {
  const text = `select count(*) as tickets from pgboss.job where name = $1 and data->>'jobId' = $2`
  return Number((await pool.query(text, [webhookQueue, id])).rows[0].tickets)
}

/** Every event that a reader gets who begins after `after`, until nothing comes for a moment or it ends. */
async function followed(t: Test, id: string, after: { attempt: number; seq: number } | null = null): Promise<string[]> {
  const side = startSide(t, connection)
  const watch = await side.follow(id, after)
  const all: string[] = []
  for (;;) {
    const next = await Promise.race([watch.next(), new Promise<null>(resolve => setTimeout(resolve, 300, null))])
    if (next === null) break
    all.push(...next.map(short))
  }
  watch.close()
  await side.close()
  return all
}

t.test('two ends of one job are two: with ids of their own for its webhook, its events and its readers', async t => {
  const jobs = jobsWith()
  const id = await over({ stream: true, webhook_url: 'https://h.example/' })
  await pool.query(
    `insert into job_events (job_id, attempt, seq, kind, count, data, at)
     values ($1, 1, 0, 'attempt', 1, '', now()), ($1, 1, 1, 'chunks', 1, $2, now())`,
    [id, JSON.stringify({ choices: [{ delta: { content: 'old' } }] })]
  )
  t.match((await jobs.find(id, null))?.job, { status: 'done', attemptNo: 1 })
  t.match(await jobs.retry(id, null), { status: 'queued', attempts: 0, attemptNo: 2 })
  t.same(await followed(t, id), ['status queued'], 'what the void attempt said is not told again')
  t.same(await followed(t, id, { attempt: 1, seq: 1 }), ['status queued'])
  t.match(await jobs.cancel(id, null), { status: 'cancelled', attemptNo: 2, error: { code: 'job_cancelled' } })
  const last = ['2-0 attempt', '2-1 result cancelled', '2-2 end cancelled']
  t.same(await followed(t, id), last)
  t.same(await followed(t, id, { attempt: 1, seq: 3 }), last, 'who had the first end gets the second')
  t.same(await followed(t, id, { attempt: 2, seq: 1 }), last.slice(2))
  t.same(await followed(t, id, { attempt: 2, seq: 2 }), [])
  t.equal(await webhookTickets(id), 2)

  t.match(await jobs.retry(id, null), { attemptNo: 3 })
  t.match(await rows.claim(id, me), { outcome: 'claimed', attempt: 4 })
  const ended = await inTransaction(pool, tx => endJobs(tx, boss, [endOf(id, 3), endOf(id, 4, { runner: me })]))
  t.match(ended, [{ id, attemptNo: 4, status: 'done' }])
  t.match(await rows.attempt(id, 4), { outcome: 'done' })
  t.same(jobs.lanes.length, 2)
})

t.test('a job that never began can be run again as well', async t => {
  const jobs = jobsWith()
  const id = await rows.job({ payload: '{}', stream: true })
  await jobs.cancel(id, null)
  t.match(await jobs.retry(id, null), { status: 'queued', attemptNo: 1 })
  t.match(await rows.claim(id, me), { outcome: 'claimed', attempt: 2 })
})

t.test('a job that runs again has no deadline, whoever plans it', async t => {
  const jobs = jobsWith()
  const request = { model: 'm', localOnly: false, isDeadlineHard: true, patience: { deadlineMs: 5, onDisconnect: 'finish' } }
  const id = await over({ request, deadline_at: new Date(Date.now() + 60_000) })
  t.match(await jobs.retry(id, null), { status: 'queued', deadlineAt: null })
  t.same((await rows.read(id))['request'], { model: 'm', localOnly: false })
})

t.test('running a job again needs room in the queue, as a new one does', async t => {
  const source = 'crowded'
  const [first, second] = [await over({ source }), await over({ source })]
  const jobs = jobsWith({ maxJobsPerSource: 1 })
  t.match(await jobs.retry(first, null), { status: 'queued' })
  await t.rejects(jobs.retry(second, { source }), { code: 'queue_full', status: 429 })
  t.match(await rows.read(second), { status: 'done' })
  await t.rejects(jobsWith({ maxJobs: 1 }).retry(second, null), { code: 'queue_full', status: 503 })
  await t.rejects(jobs.retry(first, null), { code: 'job_not_finished' }, 'one that is not over is told so first')
  await jobs.cancel(first, null)
})

t.test('a job whose request was not kept is over, and cannot run again', async t => {
  const jobs = jobsWith()
  const id = await over({ class: 1 })
  await pool.query('update jobs set payload = null where id = $1', [id])
  await t.rejects(jobs.retry(id, null), {
    code: 'invalid_request',
    publicCode: 'request_not_kept',
    status: 409,
    message: /not|only as long/
  })
  t.match(await rows.read(id), { status: 'done', attempt_no: 1 })
})

t.test('while a delivery is waiting, asking for another one adds nothing', async t => {
  const jobs = jobsWith()
  const id = await over({ webhook_url: 'https://h.example/' })
  t.equal(await webhookTickets(id), 1)
  for (let times = 0; times < 3; times++) t.match(await jobs.redeliver(id, null), { webhook: { status: 'waiting' } })
  t.equal(await webhookTickets(id), 1)
  await pool.query(`update jobs set webhook_status = 'failed', webhook_error = 'status 500' where id = $1`, [id])
  await Promise.all(Array.from({ length: 5 }, () => jobs.redeliver(id, null)))
  t.equal(await webhookTickets(id), 2)
  t.match(await rows.read(id), { webhook_status: 'waiting', webhook_error: null })
})
