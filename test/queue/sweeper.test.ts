// Attempts of lost processes, clients that are gone, waits and deadlines that are over; and who may say so.

import { randomUUID } from 'node:crypto'
import t from 'tap'
import { createSweeper } from '../../queue/sweeper.ts'
import { look, type Swept, sweepLost } from '../../store/jobs/sweep.ts'
import { inTransaction, type Pool } from '../../store/pool.ts'
import { until } from '../support/wait.ts'
import { createRows, idAt, type Rows } from './rows.ts'

/** A sweeper with a clock of its own, and what it told others. */
async function createSwept(rows: Rows, more: { readonly pool?: Pool; readonly processId?: string; readonly random?: () => number } = {}) {
  const told: string[] = []
  const logged: unknown[] = []
  let clockMs = 0
  const sweeper = createSweeper({
    pool: more.pool ?? rows.pool,
    tickets: rows.boss,
    notices: {
      ready: lane => void told.push(`ready ${lane}`),
      changed: id => void told.push(`changed ${id}`),
      stop: (processId, id) => void told.push(`stop ${processId} ${id}`)
    },
    processId: more.processId ?? (await rows.process()),
    now: () => clockMs,
    random: more.random ?? (() => 0),
    log: (message, error) => void logged.push([message, error])
  })
  async function tick(ms = 1_000): Promise<void> {
    clockMs += ms
    await sweeper.sweep()
  }
  return {
    sweeper,
    told,
    logged,
    tick,
    /** Looks until it has something to tell; on a machine that is busy, a look may come late and the count begins again. */
    async settle() {
      const known = told.length
      for (let looks = 0; looks < 100 && told.length === known; looks += 1) await tick()
    }
  }
}

/** A running job whose process is gone. */
async function lostJob(rows: Rows): Promise<string> {
  const id = await rows.job()
  const lost = await rows.process()
  await rows.claim(id, lost)
  await rows.pool.query('delete from processes where id = $1', [lost])
  return id
}

t.test('what a lost process was running is queued again, where it was, and costs no try', async t => {
  const rows = await createRows(t)
  await rows.pool.query(`insert into devices (id, url, adapter, max_concurrency) values ('home', 'http://h', 'ollama', 2)`)
  await rows.pool.query(`insert into device_slots (device_id, slot_no) values ('home', 1), ('home', 2)`)
  const lost = await rows.process()
  const alive = await rows.process()
  const id = await rows.job({ tag: 77 })
  const other = await rows.job()
  t.match(await rows.claim(id, lost, { device: 'home' }), { outcome: 'claimed', attempt: 1 })
  t.match(await rows.claim(other, alive, { device: 'home' }), { outcome: 'claimed' })
  await rows.pool.query('delete from processes where id = $1', [lost])
  // Its place had gone on to a later call of the same attempt.
  await rows.pool.query('update device_slots set attempt_id = $2 where process_id = $1', [lost, randomUUID()])

  const { settle, told, logged } = await createSwept(rows)
  await settle()
  t.same(logged, [])
  t.match(await rows.read(id), {
    status: 'queued',
    ready: true,
    process_id: null,
    tag: '77',
    attempts: 0,
    lost_attempts: 1,
    attempt_no: 1,
    device_id: null
  })
  t.match(await rows.attempt(id, 1), { outcome: 'lost', ended_at: Date })
  t.equal(await rows.ticketState(id), 'retry')
  t.same((await rows.pool.query('select slot_no from device_slots where process_id is null')).rows.length, 1)
  t.same(told, ['ready 2/chat/any/m', `changed ${id}`, `stop ${lost} ${id}`])
  t.match(await rows.read(other), { status: 'running', process_id: alive }, 'the other runs on')

  t.match(await rows.claim(id, alive), { outcome: 'claimed', attempt: 2 }, 'and it can be claimed at once')
  t.match(await rows.read(id), { attempts: 1, ticket_retry: 1 })
})

t.test('a process that is silent for 3 s has lost its attempts, and one that pays for them after 10', async t => {
  const rows = await createRows(t)
  const [silent, quiet] = [await rows.process(), await rows.process()]
  const [own, paid, trusted] = [await rows.job(), await rows.job(), await rows.job()]
  await rows.claim(own, silent)
  await rows.claim(paid, silent, { paid: true })
  await rows.claim(trusted, quiet)
  // Right after the server came up, all are alive.
  await until('the server is up for long enough', async () => {
    const { rows: found } = await rows.pool.query(`select now() - pg_postmaster_start_time() > interval '11 seconds' as up`)
    return found[0].up
  })
  const seen = (processId: string, seconds: number) =>
    rows.pool.query('update processes set seen_at = now() - make_interval(secs => $2) where id = $1', [processId, seconds])
  const ports = { pool: rows.pool, tickets: rows.boss, mayAct: () => true }
  await Promise.all([seen(silent, 4), seen(quiet, 0)])
  t.same((await sweepLost(ports)).changed, [own])
  t.match(await rows.read(paid), { status: 'running', process_id: silent })
  t.match(await rows.read(trusted), { status: 'running', process_id: quiet })
  await Promise.all([seen(silent, 11), seen(quiet, 0)])
  t.same((await sweepLost(ports)).changed, [paid])
  t.match(await rows.read(paid), { status: 'queued', paid: false })
})

t.test('a job that is lost a fifth time ends with its stream, its webhook, its ticket, and the charge given back', async t => {
  const rows = await createRows(t)
  await rows.pool.query(`insert into source_vtime (source, class, vfinish) values ('me', 2, 10000)`)
  await rows.pool.query('update class_vtime set v = 100 where class = 2')
  const lost = await rows.process()
  const id = await rows.job({ lost_attempts: 4, stream: true, webhook_url: 'https://h.example/', charge: 600, weight: 2 })
  await rows.claim(id, lost)
  await rows.pool.query(
    `insert into job_events (job_id, attempt, seq, kind, count, data, at) values ($1, 1, 0, 'attempt', 1, '', now()), ($1, 1, 1, 'chunks', 7, '', now())`,
    [id]
  )
  await rows.pool.query('delete from processes where id = $1', [lost])
  const { settle, told } = await createSwept(rows)
  await settle()
  t.match(await rows.read(id), {
    status: 'error',
    error: { type: 'server_error', code: 'process_lost' },
    finished_at: Date,
    lost_attempts: 5,
    webhook_status: 'waiting'
  })
  t.equal(await rows.ticketState(id), 'cancelled')
  t.match(await rows.attempt(id, 1), { outcome: 'lost' })
  const events = await rows.pool.query(
    'select attempt, seq, kind, count, data from job_events where job_id = $1 and seq > 1 order by seq',
    [id]
  )
  t.same(events.rows, [
    { attempt: 1, seq: 8, kind: 'result', count: 1, data: '' },
    { attempt: 1, seq: 9, kind: 'end', count: 1, data: 'error' }
  ])
  const webhooks = await rows.pool.query(`select data from pgboss.job where name = 'webhooks'`)
  t.same(webhooks.rows, [{ data: { jobId: id } }])
  const { rows: order } = await rows.pool.query('select vfinish from source_vtime')
  t.same(order, [{ vfinish: '9700' }])
  t.same(told, [`changed ${id}`, `stop ${lost} ${id}`])
})

t.test('a charge is not given back beyond what its class has been served', async t => {
  const rows = await createRows(t)
  await rows.pool.query(`insert into source_vtime (source, class, vfinish) values ('me', 2, 10000)`)
  await rows.pool.query('update class_vtime set v = 9900 where class = 2')
  await rows.job({ deadline_at: new Date(0), charge: 300 })
  await rows.job({ deadline_at: new Date(0), charge: 300 })
  const { settle } = await createSwept(rows)
  await settle()
  t.same((await rows.pool.query('select vfinish from source_vtime')).rows, [{ vfinish: '9900' }])
})

t.test('what was run for a client goes with it, unless it may outlive it', async t => {
  const rows = await createRows(t)
  const lost = await rows.process()
  const payload = Buffer.from('{}')
  const running = await rows.job({ owner_process: lost, outlives_owner: false, payload, class: 1 })
  const runningOn = await rows.job({ owner_process: lost, payload, lane: 'a' })
  const queued = await rows.job({ owner_process: lost, outlives_owner: false, payload })
  const queuedOn = await rows.job({ owner_process: lost, payload, lane: 'b' })
  const bodiless = await rows.job({ owner_process: lost, lane: 'c' })
  const alive = await rows.process()
  const held = await rows.job({ owner_process: alive, outlives_owner: false })
  await rows.claim(running, lost)
  await rows.claim(runningOn, lost)
  await rows.pool.query('delete from processes where id = $1', [lost])
  const { settle, told } = await createSwept(rows)
  await settle()
  for (const id of [running, queued, bodiless]) {
    t.match(await rows.read(id), { status: 'cancelled', error: { code: 'client_gone' } })
    t.equal(await rows.ticketState(id), 'cancelled')
  }
  for (const id of [runningOn, queuedOn]) {
    t.match(await rows.read(id), { status: 'queued', owner_process: null, ready: true })
    t.match(await rows.claim(id, alive), { outcome: 'claimed' })
  }
  t.match(await rows.read(held), { status: 'queued', owner_process: alive })
  t.same(told.filter(notice => notice.startsWith('ready')).sort(), ['ready a', 'ready b'])
})

t.test('a job that waits becomes ready when its time has come, and not before', async t => {
  const rows = await createRows(t)
  const due = await rows.job({ ready: false, run_at: new Date(Date.now() - 1_000), lane: 'a' })
  const later = await rows.job({ ready: false, run_at: new Date(Date.now() + 60_000), lane: 'b' })
  const { settle, told } = await createSwept(rows)
  await settle()
  t.match(await rows.read(due), { ready: true })
  t.match(await rows.read(later), { ready: false })
  t.same(told, ['ready a'])
})

t.test('a queued job whose deadline has passed ends, ready or not; a running one is its worker’s', async t => {
  const rows = await createRows(t)
  const alive = await rows.process()
  const past = { deadline_at: new Date(Date.now() - 1_000), stream: true }
  const waiting = await rows.job({ ...past, ready: false, run_at: new Date(Date.now() + 60_000) })
  const ready = await rows.job(past)
  const running = await rows.job(past)
  await rows.claim(running, alive)
  const open = await rows.job({ deadline_at: new Date(Date.now() + 60_000) })
  const { settle } = await createSwept(rows)
  await settle()
  for (const id of [waiting, ready]) {
    t.match(await rows.read(id), { status: 'error', error: { code: 'deadline_exceeded' } })
    t.equal(await rows.ticketState(id), 'cancelled')
    const { rows: events } = await rows.pool.query('select attempt, seq, kind, data from job_events where job_id = $1 order by seq', [id])
    t.same(events, [
      { attempt: 0, seq: 1, kind: 'result', data: '' },
      { attempt: 0, seq: 2, kind: 'end', data: 'error' }
    ])
  }
  t.match(await rows.read(running), { status: 'running' })
  t.match(await rows.read(open), { status: 'queued' })
})

t.test('a class is as far as the furthest job that began, running or just over, and never goes back', async t => {
  const rows = await createRows(t)
  const alive = await rows.process()
  const startedAt = new Date(Date.now() + 5_000)
  await rows.claim(await rows.job({ tag: 500 }), alive)
  await rows.job({ tag: 900, status: 'done', started_at: startedAt })
  await rows.job({ tag: 9_000, status: 'error' })
  await rows.job({ tag: 7_000, status: 'done', started_at: new Date(0), finished_at: new Date(Date.now() - 60_000) })
  await rows.job({ tag: 800 })
  await rows.job({ class: 3, tag: 40, status: 'done', started_at: new Date(0) })
  await rows.pool.query('update class_vtime set v = 50 where class = 3')
  const { tick } = await createSwept(rows)
  await tick()
  const { rows: classes } = await rows.pool.query('select class, v, served_at from class_vtime order by class')
  t.match(classes, [{ v: '0' }, { v: '0' }, { v: '900', served_at: startedAt }, { v: '50' }, { v: '0' }])
  t.ok(classes[3].served_at > new Date(0), 'a later time stays')
})

t.test('a process is given up after 3 s in which all went well, and the count begins again after a gap', async t => {
  const rows = await createRows(t)
  const { tick, settle } = await createSwept(rows)
  const first = await lostJob(rows)
  for (let looks = 0; looks < 3; looks += 1) await tick()
  t.match(await rows.read(first), { status: 'running' }, 'not after 2 s')
  await settle()
  t.match(await rows.read(first), { status: 'queued' }, 'after 3')

  const second = await lostJob(rows)
  await tick(1_600)
  for (let looks = 0; looks < 2; looks += 1) await tick()
  t.match(await rows.read(second), { status: 'running' }, 'a pause of its own')
  await settle()
  t.match(await rows.read(second), { status: 'queued' })
})

t.test('what is not decided by heartbeats waits for nothing', async t => {
  const rows = await createRows(t)
  const due = await rows.job({ ready: false, run_at: new Date(0) })
  const overdue = await rows.job({ deadline_at: new Date(0) })
  const { tick } = await createSwept(rows, { processId: randomUUID() })
  await tick()
  t.match(await rows.read(due), { ready: true })
  t.match(await rows.read(overdue), { status: 'error' })
})

t.test('a sweeper whose database was away says so once and gives nobody up for the next 3 s', async t => {
  const rows = await createRows(t)
  let away = false
  const pool = new Proxy(rows.pool, {
    get(target, name) {
      if (away && (name === 'query' || name === 'connect')) return async () => Promise.reject(new Error('away'))
      const value = Reflect.get(target, name)
      return typeof value === 'function' ? value.bind(target) : value
    }
  })
  const { tick, settle, logged } = await createSwept(rows, { pool })
  await lostJob(rows)
  await settle()
  away = true
  await tick()
  await tick()
  t.match(logged, [['jobs could not be looked after', { message: 'away' }]])
  away = false
  const id = await lostJob(rows)
  // A clock that stood still meanwhile.
  await tick(-1_000)
  for (let looks = 0; looks < 2; looks += 1) await tick()
  t.match(await rows.read(id), { status: 'running' })
  await settle()
  t.match(await rows.read(id), { status: 'queued' })
})

t.test('a sweeper whose own heartbeat is old gives nobody up: those of all others may be old as well', async t => {
  const rows = await createRows(t)
  const processId = await rows.process()
  const id = await lostJob(rows)
  await rows.pool.query('delete from processes')
  const { settle, tick } = await createSwept(rows, { processId })
  for (let looks = 0; looks < 6; looks += 1) await tick()
  t.match(await rows.read(id), { status: 'running' })
  await rows.pool.query(`insert into processes (id, host, pid, version, seen_at) values ($1, 'h', 1, 'v', now() + interval '1 hour')`, [
    processId
  ])
  await tick()
  t.match(await rows.read(id), { status: 'running' }, 'nor as soon as it is there again')
  await settle()
  t.match(await rows.read(id), { status: 'queued' })
})

t.test('a step that began long before, by the database’s clock, is given up', async t => {
  const rows = await createRows(t)
  const id = await rows.job()
  const lost = await rows.process()
  await rows.claim(id, lost)
  await rows.pool.query('delete from processes')
  const asked: number[] = []
  const ports = { pool: rows.pool, tickets: rows.boss }
  await sweepLost({ ...ports, mayAct: databaseMs => asked.push(databaseMs) < 0 })
  t.match(await rows.read(id), { status: 'running' })
  t.ok(Math.abs((asked[0] ?? 0) - Date.now()) < 60_000)
  await sweepLost({ ...ports, mayAct: () => true })
  t.match(await rows.read(id), { status: 'queued' })
})

t.test('silence is measured up to the beginning of a step, so that a server frozen within it finds nobody silent', async t => {
  const rows = await createRows(t)
  const process = await rows.process()
  const id = await rows.job()
  await rows.claim(id, process)
  await until('the server is up for long enough', async () => {
    const { rows: found } = await rows.pool.query(`select now() - pg_postmaster_start_time() > interval '6 seconds' as up`)
    return found[0].up
  })
  await rows.pool.query(`update processes set seen_at = now() where id = $1`, [process])
  // The frozen server: its clock goes on for some seconds between the begin and the comparison.
  const frozen = new Proxy(rows.pool, {
    get(target, name) {
      if (name !== 'connect') return Reflect.get(target, name)
      return async () => {
        const client = await target.connect()
        return new Proxy(client, {
          get(inner, key) {
            const value = Reflect.get(inner, key)
            if (key !== 'query') return typeof value === 'function' ? value.bind(inner) : value
            return async (query: { name?: string }, values: unknown) => {
              // Twice, because a statement has two seconds.
              for (const seconds of query.name === 'sweep.lost' ? [1.7, 1.7] : []) await inner.query('select pg_sleep($1)', [seconds])
              return inner.query(query as never, values as never)
            }
          }
        })
      }
    }
  }) as Pool
  const swept: Swept = await sweepLost({ pool: frozen, tickets: rows.boss, mayAct: () => true })
  t.same(swept.changed, [])
  t.match(await rows.read(id), { status: 'running' })
})

t.test('two sweepers at once do it once, and one that is at it keeps the other out', async t => {
  const rows = await createRows(t)
  const lost = await rows.process()
  const ids = await Promise.all(Array.from({ length: 40 }, () => rows.job()))
  for (const id of ids) await rows.claim(id, lost)
  await rows.pool.query('delete from processes where id = $1', [lost])
  const ports = { pool: rows.pool, tickets: rows.boss, mayAct: () => true }
  const results = await Promise.all(Array.from({ length: 5 }, () => sweepLost(ports)))
  t.equal(
    results.reduce((sum, { changed }) => sum + changed.length, 0),
    40
  )
  const { rows: lostOnce } = await rows.pool.query('select count(*)::integer as count from jobs where lost_attempts = 1 and attempts = 0')
  t.same(lostOnce, [{ count: 40 }])

  const last = await rows.job({ status: 'running', process_id: lost, attempt_no: 1, attempts: 1 })
  await inTransaction(rows.pool, async tx => {
    await tx.query('select pg_advisory_xact_lock(1819109485, 2)')
    t.same((await sweepLost(ports)).changed, [])
  })
  t.same((await sweepLost(ports)).changed, [last])
})

t.test('a job that somebody is at is left for the next sweep', async t => {
  const rows = await createRows(t)
  const lost = await rows.process()
  const [held, free] = [await rows.job(), await rows.job()]
  await rows.claim(held, lost)
  await rows.claim(free, lost)
  await rows.pool.query('delete from processes where id = $1', [lost])
  const ports = { pool: rows.pool, tickets: rows.boss, mayAct: () => true }
  await inTransaction(rows.pool, async tx => {
    await tx.query('select from jobs where id = $1 for update', [held])
    t.same((await sweepLost(ports)).changed, [free])
  })
  t.same((await sweepLost(ports)).changed, [held])
})

t.test('more than one step can do are done in the same sweep', async t => {
  const rows = await createRows(t)
  await rows.pool.query(
    `insert into jobs (id, kind, class, lane, tag, charge, weight, source, request, caller, max_attempts, ready, run_at)
     select ($1 || lpad(to_hex(n), 12, '0'))::uuid, 'echo', 2, 'a', n, 1, 1, 'me', '{}', '{}', 3, false, now() - interval '1 second'
       from generate_series(1, 1200) as n`,
    [idAt(Date.now(), 0).slice(0, 24)]
  )
  const { settle } = await createSwept(rows)
  await settle()
  t.same((await rows.pool.query('select count(*)::integer as count from jobs where not ready')).rows, [{ count: 0 }])
})

t.test('of many processes only a few act on each look', async t => {
  const rows = await createRows(t)
  for (let index = 0; index < 7; index += 1) await rows.process()
  const id = await rows.job({ ready: false, run_at: new Date(0) })
  let chance = 0.6
  const { settle, tick } = await createSwept(rows, { random: () => chance })
  t.equal((await look(rows.pool, randomUUID())).living, 8)
  for (let looks = 0; looks < 6; looks += 1) await tick()
  t.match(await rows.read(id), { ready: false }, 'four of eight')
  chance = 0.4
  await settle()
  t.match(await rows.read(id), { ready: true })
})

t.test('a started sweeper goes on by itself until it is closed', async t => {
  const rows = await createRows(t)
  const sweeper = createSweeper({
    pool: rows.pool,
    tickets: rows.boss,
    notices: { ready() {}, changed() {}, stop() {} },
    processId: await rows.process(),
    now: () => performance.now(),
    random: Math.random,
    log: (_message, error) => t.error(error)
  })
  sweeper.start()
  const id = await rows.job({ ready: false, run_at: new Date(0) })
  await until('the job is ready', async () => (await rows.read(id))['ready'])
  await sweeper.close()
})
