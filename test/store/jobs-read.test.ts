// Reading jobs: what a record holds, which jobs a list shows, how far a job is from its turn; and that none of it reads the whole table.

import t from 'tap'
import { findJob, findJobs, listJobs, positions } from '../../store/jobs/read.ts'
import type { JobFilter } from '../../store/jobs/record.ts'
import type { Pool } from '../../store/pool.ts'
import { createRows, idAt } from '../queue/rows.ts'
import { createDatabase } from '../support/cluster.ts'

const anything: JobFilter = {
  status: null,
  kind: null,
  model: null,
  device: null,
  source: null,
  createdAfter: null,
  createdBefore: null
}

async function bookCost(pool: Pool, jobId: string, nanoUsd: number | null): Promise<void> {
  await pool.query(
    `insert into llm_costs (attempt_id, request_id, job_id, source, provider, model, outcome, prompt_tokens, completion_tokens,
                            cached_tokens, reasoning_tokens, cost_nano_usd, price_source, estimated, duration_ms, started_at, finished_at)
     values (gen_random_uuid(), gen_random_uuid(), $1, 'me', 'p', 'm', 'ok', 1, 1, 0, 0, $2, $3, false, 1, now(), now())`,
    [jobId, nanoUsd, nanoUsd === null ? 'unknown' : 'config']
  )
}

t.test('a job is found with everything that is known of it', async t => {
  const rows = await createRows(t)
  const id = await rows.job({
    status: 'error',
    kind: 'openai.chat',
    class: 1,
    lane: '1/chat/any/m',
    tag: '9007199254740993',
    sub_source: 'ann',
    stream: true,
    attempts: 2,
    attempt_no: 4,
    device_id: 'home',
    provider: 'ollama',
    created_at: new Date(1_000),
    started_at: new Date(2_000),
    first_token_at: new Date(3_000),
    finished_at: new Date(4_000),
    deadline_at: new Date(5_000),
    max_cost_usd: 0.5,
    metadata: { a: 'b' },
    usage: { total_tokens: 3 },
    error: { message: 'no', type: 'server_error', code: 'process_lost' },
    webhook_url: 'https://h.example/',
    webhook_status: 'failed',
    webhook_error: 'HTTP 500'
  })
  await rows.pool.query('update jobs set result = $2 where id = $1', [id, Buffer.from('{}')])
  await bookCost(rows.pool, id, 5)
  await bookCost(rows.pool, id, 7)
  t.same(await findJob(rows.pool, id, 'me'), {
    id,
    kind: 'openai.chat',
    class: 'interactive',
    model: 'm',
    source: 'me',
    subSource: 'ann',
    status: 'error',
    lane: '1/chat/any/m',
    tag: '9007199254740993',
    stream: true,
    attempts: 2,
    maxAttempts: 3,
    attemptNo: 4,
    processId: null,
    deviceId: 'home',
    provider: 'ollama',
    createdAt: new Date(1_000),
    startedAt: new Date(2_000),
    firstTokenAt: new Date(3_000),
    finishedAt: new Date(4_000),
    deadlineAt: new Date(5_000),
    maxCostUsd: 0.5,
    metadata: { a: 'b' },
    usage: { total_tokens: 3 },
    costNanoUsd: 12,
    error: { message: 'no', type: 'server_error', code: 'process_lost' },
    result: Buffer.from('{}'),
    resultBytes: 2,
    webhook: { url: 'https://h.example/', status: 'failed', error: 'HTTP 500' }
  })
  const [listed] = await listJobs(rows.pool, { filter: anything, source: null, after: null, limit: 1 })
  t.same(listed, { ...(await findJob(rows.pool, id, null)), result: null }, 'a list says the same, but for the result')
})

t.test('a job of another source is not found', async t => {
  const rows = await createRows(t)
  const id = await rows.job()
  t.equal(await findJob(rows.pool, id, 'you'), null)
  t.match(await findJob(rows.pool, id, 'me'), { id })
  t.match(await findJob(rows.pool, id, null), { id })
  t.same(
    (await findJobs(rows.pool, [id, idAt(0, 0)])).map(job => job.id),
    [id]
  )
})

t.test('the cost is unknown while nothing is booked, and when one price is', async t => {
  const rows = await createRows(t)
  const [none, free, unknown] = [await rows.job(), await rows.job(), await rows.job()]
  await bookCost(rows.pool, free, 0)
  await bookCost(rows.pool, unknown, 5)
  await bookCost(rows.pool, unknown, null)
  const costs = new Map(
    (await listJobs(rows.pool, { filter: anything, source: null, after: null, limit: 9 })).map(job => [job.id, job.costNanoUsd])
  )
  t.same([costs.get(none), costs.get(free), costs.get(unknown)], [null, 0, null])
  t.equal((await findJob(rows.pool, unknown, null))?.costNanoUsd, null)
})

t.test('a list is newest first, goes on after a job, and is narrowed by whatever is asked', async t => {
  const rows = await createRows(t)
  const ids: string[] = []
  for (let index = 0; index < 8; index += 1) {
    ids.push(
      await rows.job(
        {
          id: idAt(1_000 * index, 1),
          source: index < 4 ? 'me' : 'you',
          status: index % 2 === 0 ? 'queued' : 'done',
          kind: index === 3 ? 'embed' : 'chat',
          model: index === 5 ? 'n' : 'm',
          device_id: index === 6 ? 'home' : null
        },
        'none'
      )
    )
  }
  async function list(filter: Partial<JobFilter>, more: { source?: string; after?: string; limit?: number } = {}): Promise<number[]> {
    const { source = null, after = null, limit = 100 } = more
    const jobs = await listJobs(rows.pool, { filter: { ...anything, ...filter }, source, after, limit })
    return jobs.map(job => ids.indexOf(job.id))
  }
  t.same(await list({}), [7, 6, 5, 4, 3, 2, 1, 0])
  t.same(await list({}, { limit: 3 }), [7, 6, 5])
  t.same(await list({}, { limit: 3, after: ids[5]?.toUpperCase() as string }), [4, 3, 2])
  t.same(await list({}, { source: 'me' }), [3, 2, 1, 0])
  t.same(await list({ source: 'you' }), [7, 6, 5, 4])
  t.same(await list({ source: 'you' }, { source: 'me' }), [], 'nobody sees the jobs of others')
  t.same(await list({ source: 'me' }, { source: 'me' }), [3, 2, 1, 0])
  t.same(await list({ status: 'done' }), [7, 5, 3, 1])
  t.same(await list({ status: 'done' }, { source: 'me' }), [3, 1])
  t.same(await list({ kind: 'embed' }), [3])
  t.same(await list({ model: 'n' }), [5])
  t.same(await list({ device: 'home' }), [6])
  t.same(await list({ status: 'done', model: 'm', kind: 'chat', source: 'you' }), [7])
  t.same(await list({ createdAfter: 5_000 }), [7, 6], 'the bounds themselves are left out')
  t.same(await list({ createdBefore: 2_000 }), [1, 0])
  t.same(await list({ createdAfter: 1_000, createdBefore: 5_000 }, { after: ids[4] as string }), [3, 2])
  t.same(await list({ createdBefore: 3_000 }, { after: ids[6] as string }), [2, 1, 0])
  t.same(await list({ createdAfter: -1, createdBefore: 9e15 }), [7, 6, 5, 4, 3, 2, 1, 0])
})

t.test('the position of a job is its place among those that may run now, in its lane', async t => {
  const rows = await createRows(t)
  const second = await rows.job({ tag: 20 })
  const third = await rows.job({ tag: 20 })
  const first = await rows.job({ tag: 10 })
  await rows.job({ tag: 5, lane: 'other' })
  const waiting = await rows.job({ tag: 1, ready: false })
  const over = await rows.job({ tag: 1, status: 'done' })
  t.same(
    await positions(rows.pool, [first, second, third, waiting, over]),
    new Map([
      [first, 1],
      [second, 2],
      [third, 3]
    ])
  )
  t.same(await positions(rows.pool, []), new Map())
})

t.test('nobody is told more than a thousand', async t => {
  const { pool } = await createDatabase(t)
  await fill(pool, 1_500, `'queued'`)
  const ids = [999, 1_000, 1_400].map(number => idAt(0, number))
  const found = await positions(pool, ids)
  t.same(
    ids.map(id => found.get(id)),
    [999, 1_000, 1_000]
  )
})

/** Jobs of 20 sources, 40 models and 10 machines, numbered from 1. */
async function fill(pool: Pool, count: number, status: string): Promise<void> {
  const text = `
insert into jobs (id, kind, class, lane, tag, charge, weight, source, model, device_id, request, caller, max_attempts, status,
                  ready, finished_at, process_id)
select ($1 || lpad(to_hex(n), 12, '0'))::uuid, (array['chat', 'embed', 'openai.chat'])[1 + n % 3], 2, 'lane', n, 1, 1,
       'source-' || abs(hashint4(n)) % 20, 'model-' || abs(hashint4(n + 1)) % 40,
       case when n % 2 = 0 then 'device-' || abs(hashint4(n + 2)) % 10 end, '{}', '{}', 3, status, true,
       case when status in ('done', 'error', 'cancelled') then now() end,
       case when status = 'running' then gen_random_uuid() end
  from generate_series($2::integer, $3::integer) as n
 cross join lateral (select ${status} as status) as chosen`
  const prefix = idAt(0, 0).slice(0, 24)
  // It may take longer than a request may, on a machine that is busy.
  const patient = (query: object) => pool.query({ query_timeout: 60_000, ...query } as never)
  for (let from = 1; from <= count; from += 10_000) await patient({ text, values: [prefix, from, Math.min(count, from + 9_999)] })
  await patient({ text: 'vacuum analyze jobs' })
}

interface PlanNode {
  readonly 'Node Type': string
  readonly 'Relation Name'?: string
  readonly 'Actual Rows': number
  readonly 'Actual Loops': number
  readonly 'Rows Removed by Filter'?: number
  readonly Plans?: readonly PlanNode[]
}

/** Every table read of a plan: which way, and how many rows it looked at. */
function reads(node: PlanNode): { readonly how: string; readonly rows: number }[] {
  const own =
    node['Relation Name'] === 'jobs'
      ? [{ how: node['Node Type'], rows: (node['Actual Rows'] + (node['Rows Removed by Filter'] ?? 0)) * node['Actual Loops'] }]
      : []
  return [...own, ...(node.Plans ?? []).flatMap(reads)]
}

t.test('a page of two hundred thousand jobs is read through an index, however it is narrowed', async t => {
  const { pool } = await createDatabase(t)
  // Those that are not over are few and young, as in life.
  await fill(
    pool,
    200_000,
    `case when n > 199900 then 'running' when n > 198000 then 'queued' when n % 50 = 0 then 'error' when n % 97 = 0 then 'cancelled' else 'done' end`
  )
  const filters: readonly Partial<JobFilter>[] = [
    {},
    { status: 'done' },
    { status: 'queued' },
    { status: 'running' },
    { status: 'error' },
    { kind: 'chat' },
    { kind: 'ollama.embed' },
    { model: 'model-7' },
    { model: 'nobody has it' },
    { device: 'device-3' },
    { status: 'error', model: 'model-7' },
    { status: 'error', kind: 'embed' },
    { status: 'running', model: 'model-7' },
    { status: 'done', device: 'device-3' },
    { kind: 'chat', model: 'model-7' },
    { createdAfter: 0 },
    { createdBefore: 0 }
  ]
  const client = await pool.connect()
  try {
    for (const filter of filters) {
      for (const source of [null, 'source-3', 'nobody']) {
        for (const after of [null, idAt(0, 100_000)]) {
          const asked: { name?: string; text: string; values: readonly unknown[] }[] = []
          const probe = { query: async (query: (typeof asked)[number]) => asked.push(query) && { rows: [] } }
          await listJobs(probe as never, { filter: { ...anything, ...filter }, source, after, limit: 20 })
          const [{ name: statement, text, values }] = asked as [(typeof asked)[number]]
          const literals = values.map(value => (typeof value === 'number' ? value : `'${value}'`)).join(', ')
          // The server keeps one plan for any values for a statement with a name, and makes one for the values otherwise.
          await client.query(`set plan_cache_mode = ${statement === undefined ? 'force_custom_plan' : 'force_generic_plan'}`)
          await client.query(`prepare page as ${text}`)
          const { rows } = await client.query(`explain (analyze, format json) execute page (${literals})`)
          await client.query('deallocate page')
          const found = reads(rows[0]['QUERY PLAN'][0].Plan)
          const name = JSON.stringify({ ...filter, source, after: after !== null })
          t.notOk(
            found.some(({ how }) => how === 'Seq Scan'),
            `${name} does not read the table`
          )
          const most = Math.max(0, ...found.map(({ rows: count }) => count))
          t.ok(most <= 2_500, `${name} looks at few rows: ${most}, ${rows[0]['QUERY PLAN'][0]['Execution Time']} ms`)
        }
      }
    }
  } finally {
    client.release()
  }
})
