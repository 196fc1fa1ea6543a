// What is old is forgotten: finished jobs, days of events, sources; and nothing else.

import t from 'tap'
import { cleanUp } from '../../planner/cleanup.ts'
import { deleteOldJobs } from '../../store/jobs/cleanup.ts'
import { inTransaction } from '../../store/pool.ts'
import { createRows, type Rows } from '../queue/rows.ts'
import { until } from '../support/wait.ts'

const dayMs = 86_400_000
const daysAgo = (days: number) => new Date(Date.now() - days * dayMs)

const whole = new AbortController().signal

function clean(rows: Rows, more: { readonly batch?: { rows: number; pauseMs: number } } = {}, signal = whole): Promise<string> {
  return cleanUp({ pool: rows.pool, retentionDays: 30, routeDays: 7, ...more }, signal)
}

t.test('jobs that ended before the retention are deleted with their attempts, in batches; what they cost stays', async t => {
  const rows = await createRows(t)
  const old = await Promise.all(Array.from({ length: 7 }, () => rows.job({ status: 'done', finished_at: daysAgo(31) })))
  const young = await rows.job({ status: 'done', finished_at: daysAgo(29), created_at: daysAgo(40) })
  const waiting = await rows.job({ created_at: daysAgo(40) })
  await rows.pool.query(
    `insert into job_attempts (job_id, attempt, attempt_id, process_id) values ($1, 1, gen_random_uuid(), gen_random_uuid())`,
    [old[0]]
  )
  await rows.pool.query(
    `insert into llm_costs (attempt_id, request_id, job_id, source, provider, model, outcome, prompt_tokens, completion_tokens,
                            cached_tokens, reasoning_tokens, cost_nano_usd, price_source, estimated, duration_ms, started_at, finished_at)
     values (gen_random_uuid(), gen_random_uuid(), $1, 'me', 'p', 'm', 'ok', 1, 1, 0, 0, 5, 'config', false, 1, now(), now())`,
    [old[0]]
  )
  t.equal(await clean(rows, { batch: { rows: 3, pauseMs: 1 } }), '7 jobs, 0 routes, 0 sources, 0 discovery runs and 0 benchmarks forgotten')
  const { rows: left } = await rows.pool.query('select id from jobs order by id')
  t.same(
    left.map(({ id }) => id),
    [young, waiting]
  )
  t.same((await rows.pool.query('select count(*)::integer as count from job_attempts')).rows, [{ count: 0 }])
  t.same((await rows.pool.query('select count(*)::integer as count from llm_costs')).rows, [{ count: 1 }])
})

t.test('old days of events are dropped, new ones are made, also when their first events came before', async t => {
  const rows = await createRows(t)
  const dayOf = (days: number) => daysAgo(days).toISOString().slice(0, 10).replaceAll('-', '')
  const tables = async () =>
    (await rows.pool.query(`select relname from pg_class where relname ~ '^job_events_[0-9]+$' and relkind = 'r' order by 1`)).rows.map(
      row => row.relname
    )
  // No process ran for days: today has no table yet, and an old day has one.
  for (const day of await tables()) await rows.pool.query(`drop table ${day}`)
  await rows.pool.query(
    `create table job_events_${dayOf(5)} partition of job_events for values from ('${daysAgo(5).toISOString().slice(0, 10)}') to ('${daysAgo(4).toISOString().slice(0, 10)}')`
  )
  await rows.pool.query(
    `insert into job_events (job_id, attempt, seq, kind, count, data, at)
     select gen_random_uuid(), 1, 1, 'chunks', 1, at::text, at from unnest($1::timestamptz[]) as at`,
    [[daysAgo(0), daysAgo(4.99), daysAgo(2.5), daysAgo(9)]]
  )
  await clean(rows)
  t.same(
    await tables(),
    [dayOf(0), dayOf(-1), dayOf(-2)].map(day => `job_events_${day}`)
  )
  const { rows: events } = await rows.pool.query('select tableoid::regclass::text as place from job_events order by at')
  t.same(events, [{ place: 'job_events_rest' }, { place: `job_events_${dayOf(0)}` }])
  await t.resolves(clean(rows), 'and again')
})

t.test('a source that sent nothing for 30 days is forgotten, unless it still waits', async t => {
  const rows = await createRows(t)
  await rows.pool.query(
    `insert into source_vtime (source, class, vfinish, changed_at) values
     ('gone', 2, 5, $1), ('here', 2, 5, $2), ('over', 2, 5, $1), ('waits', 2, 5, $1), ('waits', 3, 5, $1)`,
    [daysAgo(31), daysAgo(29)]
  )
  await rows.job({ source: 'waits' })
  // Young jobs, which stay: none of them waits any more.
  for (const status of ['done', 'error', 'cancelled']) await rows.job({ source: 'over', status })
  t.match(await clean(rows), /3 sources/)
  const { rows: left } = await rows.pool.query('select source, class from source_vtime order by source')
  t.same(left, [
    { source: 'here', class: 2 },
    { source: 'waits', class: 2 }
  ])
  t.equal((await rows.pool.query(`select from jobs where source = 'over'`)).rowCount, 3)
})

t.test(
  'what was found, measured and decided is forgotten: looks after 30 days but never the last, benchmarks after 90, readings and routes after 7',
  async t => {
    const { pool, ...rows } = await createRows(t)
    const run = (days: number) =>
      pool.query('insert into discovery_runs (id, started_at, finished_at) values (gen_random_uuid(), $1, $1)', [daysAgo(days)])
    await run(33)
    await run(32)
    await run(31)
    const benchmark = (model: string, finishedAt: Date | null, createdAt: Date) =>
      pool.query(
        `insert into benchmarks (id, provider, target, model, task, state, runs, requested_by, progress, created_at, finished_at)
       values (gen_random_uuid(), 'p', 'p/' || $1, $1, 'chat', case when $2::timestamptz is null then 'running' else 'done' end, 1, 'me', '{}', $3, $2)`,
        [model, finishedAt, createdAt]
      )
    await benchmark('old', daysAgo(91), daysAgo(91))
    await benchmark('young', daysAgo(89), daysAgo(91))
    await benchmark('open', null, daysAgo(91))
    await pool.query(`insert into devices (id, url, adapter, max_concurrency) values ('box', 'http://127.0.0.1:9', 'ollama', 1)`)
    await pool.query(`insert into device_metrics (device_id, at, cpu_percent) values ('box', $1, 1), ('box', $2, 2)`, [
      daysAgo(7.1),
      daysAgo(6.9)
    ])
    const route = (days: number) =>
      pool.query(`insert into routes (id, at, source, model, record) values (gen_random_uuid(), $1, 's', $2, '{}')`, [
        daysAgo(days),
        `m${days}`
      ])
    await route(7.1)
    await route(6.9)
    t.equal(await clean({ ...rows, pool }), '0 jobs, 1 routes, 0 sources, 2 discovery runs and 1 benchmarks forgotten')
    t.match((await pool.query('select started_at from discovery_runs')).rows, [{ started_at: Date }])
    t.same((await pool.query('select model from benchmarks order by model')).rows, [{ model: 'open' }, { model: 'young' }])
    t.same((await pool.query('select cpu_percent from device_metrics')).rows, [{ cpu_percent: 2 }])
    t.same((await pool.query('select model from routes')).rows, [{ model: 'm6.9' }])
    await run(1)
    t.match(await clean({ ...rows, pool }), / 1 discovery runs/)
  }
)

t.test('a job that somebody is at is left', async t => {
  const rows = await createRows(t)
  const ended = { status: 'done', finished_at: daysAgo(31) }
  const [held] = [await rows.job(ended), await rows.job(ended)]
  await inTransaction(rows.pool, async tx => {
    await tx.query('select from jobs where id = $1 for update', [held])
    t.equal(await deleteOldJobs(rows.pool, 30, 100), 1)
  })
  t.equal(await deleteOldJobs(rows.pool, 30, 100), 1)
})

t.test('while somebody waits, only what is a day over its time is deleted', async t => {
  const rows = await createRows(t)
  const [due, overdue] = [
    await rows.job({ status: 'error', finished_at: daysAgo(30.5) }),
    await rows.job({ status: 'cancelled', finished_at: daysAgo(31.5) })
  ]
  const waiting = await rows.job()
  await clean(rows)
  t.same(await rows.read(overdue), {})
  t.match(await rows.read(due), { status: 'error' })
  await rows.pool.query('update jobs set ready = false where id = $1', [waiting])
  await clean(rows)
  t.same(await rows.read(due), {})
})

t.test('what fails is told, and the rest is done all the same', async t => {
  const rows = await createRows(t)
  const id = await rows.job({ status: 'done', finished_at: daysAgo(31) })
  await rows.pool.query('drop function keep_job_event_days')
  await t.rejects(clean(rows), /keep_job_event_days/)
  t.same(await rows.read(id), {})
})

t.test('it does not keep a closing process waiting', async t => {
  const rows = await createRows(t)
  for (let count = 0; count < 4; count += 1) await rows.job({ status: 'done', finished_at: daysAgo(31) })
  const leaving = new AbortController()
  const cleaning = clean(rows, { batch: { rows: 1, pauseMs: 3_600_000 } }, leaving.signal)
  const rejected = t.rejects(cleaning, /leaves/)
  await until('the first batch is gone', async () => (await rows.pool.query('select from jobs')).rowCount === 3)
  leaving.abort(new Error('the process leaves'))
  await rejected
  t.equal((await rows.pool.query('select from jobs')).rowCount, 3)
})
