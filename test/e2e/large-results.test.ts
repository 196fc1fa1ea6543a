// Results of many megabytes, and many who want them at once: everybody else goes on as before.

import { once } from 'node:events'
import { connect } from 'node:net'
import t from 'tap'
import { createDatabase } from '../support/cluster.ts'
import { startGateway } from '../support/gateway.ts'
import { until } from '../support/wait.ts'
import { jobsOf, keyFor } from './queue-support.ts'

const megabytes = 18
const readers = 30

t.test('thirty readers of one large result: two are served at once, and another source’s small requests succeed', async t => {
  const database = await createDatabase(t)
  const gateway = await startGateway(t, { databaseUrl: database.url })
  const [alice, bob] = [jobsOf(gateway, await keyFor(gateway, 'alice')), jobsOf(gateway, await keyFor(gateway, 'bob'))]
  const { job } = await alice.submit({ kind: 'echo', payload: {} })
  const id = String(job.id)
  await alice.until(id, 'done')
  // Random, as an answer is no repetition: it does not become small in the table.
  await database.pool.query(
    `update jobs
        set result = convert_to(to_json((select string_agg(md5(random()::text), '') from generate_series(1, $2::integer)))::text, 'utf8')
      where id = $1`,
    [id, (megabytes * 1024 * 1024) / 32]
  )
  // One of them begins, and takes nothing more of it.
  const { hostname, port } = new URL(gateway.url)
  const began = performance.now()
  const idle = connect(Number(port), hostname)
  idle.on('error', () => {})
  t.teardown(() => idle.destroy())
  idle.write(`GET /v1/jobs/${id} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer ${gateway.key}\r\n\r\n`)
  await once(idle, 'data')
  idle.pause()
  let most = 0
  let isOver = false
  const watching = (async () => {
    while (!isOver) {
      const { rows } = await database.pool.query(
        `select count(*) as reading
           from pg_stat_activity
          where datname = current_database() and pid <> pg_backend_pid() and state = 'active' and query like 'select result from jobs%'`
      )
      most = Math.max(most, Number(rows[0].reading))
    }
  })()
  const answers = Promise.all(
    Array.from({ length: readers }, async () => {
      const response = await alice.find(id)
      return {
        status: response.httpStatus,
        length: String(response.result ?? '').length,
        code: (response.error as { code?: string })?.code
      }
    })
  ).finally(() => {
    isOver = true
  })
  const small: unknown[] = []
  while (!isOver) {
    const { status } = await bob.submit({ kind: 'echo', payload: {} })
    small.push(status)
  }
  const given = await answers
  await watching
  t.ok(small.length > 5, `${small.length} small requests`)
  t.same(
    small.filter(status => status !== 202),
    []
  )
  const whole = given.filter(({ status }) => status === 200)
  t.ok(whole.length >= 3, `${whole.length} of ${readers} got it`)
  t.same(
    whole.filter(({ length }) => length !== megabytes * 1024 * 1024),
    []
  )
  t.same(
    given.filter(({ status, code }) => status !== 200 && !(status === 503 && code === 'no_capacity')),
    []
  )
  t.ok(most >= 1 && most <= 2, `${most} at once`)
  const ended = async (): Promise<boolean> => gateway.lines().some(({ route, status }) => route === '/v1/jobs/:id' && status === 499)
  await until('who takes nothing to be cut off', ended, 60_000)
  const ms = performance.now() - began
  t.ok(ms > 29_000 && ms < 50_000, `cut off after ${Math.round(ms)} ms`)
})
