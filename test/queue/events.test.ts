import { chmod, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { startEmbeddedPostgres } from '../../bin/postgres.ts'
import { createEventWriter, type EventRow, insertEvents } from '../../queue/events.ts'
import type { JobEvent } from '../../queue/types.ts'
import { insertEventsSoon } from '../../store/job-events.ts'
import { migrate } from '../../store/migrate.ts'
import { createPool, type Pool } from '../../store/pool.ts'
import { createDatabase } from '../support/cluster.ts'
import { until } from '../support/wait.ts'
import { addJob, chunk, claim, claimed, end, frame, numbered, readAll, startSide } from './events-support.ts'

const database = await createDatabase(t)
const { pool } = database

interface Stored {
  readonly seq: number
  readonly kind: string
  readonly count: number
  readonly data: string
}

async function stored(jobId: string): Promise<Stored[]> {
  const { rows } = await pool.query('select seq, kind, count, data from job_events where job_id = $1 order by attempt, seq', [jobId])
  return rows
}

const chunksOf = (rows: readonly { kind: string; data: string }[]): string[] =>
  rows.filter(({ kind }) => kind === 'chunks').flatMap(({ data }) => data.split('\n'))

/** A pool whose connections tell of their statements before they make them, and of what came of them; both may throw. */
function guarded(t: { teardown(done: () => unknown): void }, before: (text: string) => void, after: () => void = () => {}): Pool {
  const own = createPool(database.connection, { max: 2, name: 'test', onError: () => {} })
  own.on('connect', client => {
    const query = client.query.bind(client) as (...parameters: unknown[]) => Promise<unknown>
    Object.assign(client, {
      query: async (...parameters: unknown[]) => {
        before(String((parameters[0] as { text?: string }).text ?? parameters[0]))
        const answer = await query(...parameters)
        after()
        return answer
      }
    })
  })
  t.teardown(() => own.end())
  return own
}

const silent = { changed: () => {}, wrote: () => {} }

t.test('chunks of all attempts are written in one statement, a row for each attempt, and told of once', async t => {
  const statements: string[] = []
  let told = 0
  const writer = createEventWriter({
    pool: guarded(t, text => void statements.push(text)),
    notices: { changed: () => {}, wrote: () => void (told += 1) },
    now: Date.now,
    log: () => {}
  })
  t.teardown(() => writer.close())
  const jobs = await Promise.all(Array.from({ length: 5 }, () => addJob(pool)))
  const logs = jobs.map(id => writer.open(id, 1))
  for (const log of logs) for (const text of ['a', 'b', 'c']) log.frames(frame(text))
  for (const id of jobs) await until('both rows', async () => (await stored(id)).length === 2)
  t.equal(statements.length, 1)
  t.equal(told, 1)
  t.match(await stored(jobs[0] as string), [
    { seq: 0, kind: 'attempt', count: 1, data: '' },
    { seq: 1, kind: 'chunks', count: 3, data: ['a', 'b', 'c'].map(chunk).join('\n') }
  ])
})

t.test('what a transaction ends with is not written by anyone else, and the whole is there once', async t => {
  const side = startSide(t, database.connection)
  const id = await addJob(pool)
  const log = await claimed(side, id)
  log.frames(frame('a'))
  await until('the first rows', async () => (await stored(id)).length === 2)
  log.frames(frame('b'))
  const rows = await log.settle('error')
  t.same(log.frames(frame('late')), true)
  t.same(
    rows.slice(-3).map(({ seq, kind, data }) => [seq, kind, data]),
    [
      [2, 'chunks', chunk('b')],
      [3, 'result', ''],
      [4, 'end', 'error']
    ]
  )
  t.match((await log.settle('done')).at(-1), { seq: 4, data: 'done' })
  // Twice, as after a doubtful commit.
  await insertEvents(pool, rows)
  await insertEvents(pool, rows)
  log.ended('error')
  t.equal(side.writer.written(id), null)
  t.same(
    (await stored(id)).map(({ seq, kind }) => [seq, kind]),
    [
      [0, 'attempt'],
      [1, 'chunks'],
      [2, 'chunks'],
      [3, 'result'],
      [4, 'end']
    ]
  )
})

t.test('an attempt that is taken away writes no more; one that failed writes what is left', async t => {
  const side = startSide(t, database.connection)
  const [dropped, failed] = [await addJob(pool), await addJob(pool)]
  const gone = await claimed(side, dropped)
  const left = await claimed(side, failed)
  for (const log of [gone, left]) log.frames(frame('a'))
  gone.dropped()
  left.retrying()
  await until('the rest', async () => chunksOf(await stored(failed)).length === 1)
  await until('the writer to forget it', () => side.writer.written(failed) === null)
  t.same(chunksOf(await stored(dropped)), [])
})

t.test('a database that is away, or does not say what came of a batch: everything is written once and in order', async t => {
  const fails = ['before', 'before', 'after', null, 'after', 'before', null, 'after']
  let statements = 0
  const failAt = (when: string): void => {
    if (fails[statements % fails.length] === when) throw new Error('Connection terminated')
  }
  const writer = createEventWriter({
    pool: guarded(
      t,
      () => {
        statements += 1
        failAt('before')
      },
      () => failAt('after')
    ),
    notices: silent,
    now: Date.now,
    log: () => {}
  })
  t.teardown(() => writer.close())
  const jobs = await Promise.all([1, 2, 3].map(() => addJob(pool)))
  const logs = jobs.map(id => writer.open(id, 1))
  let count = 0
  await until('eight statements', () => {
    for (const log of logs) log.frames(frame(String(count)))
    count += 1
    return statements >= 8
  })
  for (const id of jobs) {
    await until('all', async () => chunksOf(await stored(id)).length >= count)
    t.same(
      chunksOf(await stored(id)),
      Array.from({ length: count }, (_, at) => chunk(String(at)))
    )
  }
})

t.test('kill -9 of the database: readers here and elsewhere miss nothing, and see nothing twice', async t => {
  const dataDir = await mkdtemp(join(tmpdir(), 'llm-mcp-events-'))
  // The server may run as another account.
  await chmod(dataDir, 0o755)
  const server = await startEmbeddedPostgres({ dataDir, log: () => {} })
  const own = createPool(server.connection, { max: 2, name: 'test', onError: () => {} })
  const sides = [startSide(t, server.connection), startSide(t, server.connection)] as const
  // In the order of their making: the sides go first, the files last.
  t.teardown(async () => {
    await own.end()
    await server.release()
    await rm(dataDir, { recursive: true, force: true, maxRetries: 5 })
  })
  await migrate(own)
  const [here, there] = sides
  const id = await addJob(own)
  const log = await claimed(here, id)
  const seen: JobEvent[][] = [[], []]
  const reading = [here, there].map(async (side, index) => readAll(await side.follow(id), event => seen[index]?.push(event)))
  for (let at = 1; at <= 120; at++) {
    log.frames(frame(String(at)))
    // Twice, right after the other process has seen a chunk: what it saw may be gone with the server.
    if (at === 40 || at === 80) {
      await until('the other reader to come after', () => numbered(seen[1] ?? []).length > at)
      process.kill(Number((await readFile(join(server.dataDir, 'postmaster.pid'), 'utf8')).split('\n')[0]), 'SIGKILL')
    }
    await new Promise(resolve => setTimeout(resolve, 5))
  }
  await end(here, log)
  const expected = [
    '1-0 attempt',
    ...Array.from({ length: 120 }, (_, at) => `1-${at + 1} "${at + 1}"`),
    '1-121 result done',
    '1-122 end done'
  ]
  for (const events of await Promise.all(reading)) t.same(numbered(events), expected)
  t.same(numbered(await readAll(await there.follow(id))), expected, 'and from the table alone')
})

t.test('an attempt of which more than 8 MiB wait is told to stop, and to go on when there is room', async t => {
  let isAway = true
  let hasRoom = 0
  const writer = createEventWriter({
    pool: guarded(t, () => {
      if (isAway) throw new Error('Connection terminated')
    }),
    notices: silent,
    now: Date.now,
    log: () => {}
  })
  t.teardown(() => writer.close())
  const id = await addJob(pool)
  const log = writer.open(id, 1, () => void (hasRoom += 1))
  const megabyte = frame('x'.repeat(1024 * 1024))
  const taken = Array.from({ length: 10 }, () => log.frames(megabyte))
  t.same(taken, [...Array(7).fill(true), false, false, false])
  isAway = false
  await until('room', () => hasRoom > 0)
  t.equal(log.frames(frame('more')), true)
  await until('all', async () => chunksOf(await stored(id)).length === 11)
  t.equal(hasRoom, 1)
})

t.test('all attempts together may keep 64 MiB waiting', async t => {
  let isAway = true
  const writer = createEventWriter({
    pool: guarded(t, () => {
      if (isAway) throw new Error('Connection terminated')
    }),
    notices: silent,
    now: Date.now,
    log: () => {}
  })
  t.teardown(() => writer.close(0))
  const logs = await Promise.all(Array.from({ length: 11 }, async () => writer.open(await addJob(pool), 1)))
  const six = frame('x'.repeat(6 * 1024 * 1024))
  t.same(
    logs.map(log => log.frames(six)),
    [...Array(10).fill(true), false]
  )
  isAway = true
  for (const log of logs.slice(0, 10)) log.dropped()
  isAway = false
})

t.test('rows that a killed server may have forgotten are written again', async t => {
  const side = startSide(t, database.connection)
  const id = await addJob(pool)
  const log = await claimed(side, id)
  log.frames(frame('a', 'b'))
  await until('the rows', async () => chunksOf(await stored(id)).length === 2)
  // As if the server had come up without them.
  await pool.query('delete from job_events where job_id = $1', [id])
  await pool.query(`select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`)
  await until('the rows again', async () => chunksOf(await stored(id)).length === 2)
  t.same(
    (await stored(id)).map(({ seq }) => seq),
    [0, 1]
  )
  await end(side, log)
  t.same(chunksOf(await stored(id)), ['a', 'b'].map(chunk))
})

t.test('a row that the server refuses for good does not hold up the others', async t => {
  const refused: string[] = []
  const writer = createEventWriter({ pool, notices: silent, now: Date.now, log: message => void refused.push(message) })
  t.teardown(() => writer.close())
  const id = await addJob(pool)
  writer.open('no uuid', 1)
  writer.open(id, 1)
  await until('the good one', async () => (await stored(id)).length === 1)
  t.same(refused, ['an event of job no uuid was refused'])
})

t.test('line breaks within a chunk, other line ends, several lines of data, and bytes that the server does not take', async t => {
  const side = startSide(t, database.connection)
  const id = await addJob(pool)
  const log = await claimed(side, id)
  log.frames(Buffer.from('\ufeffdata: {"a":\ndata: 1}\n\nevent: x\r\ndata: {"b":2}\r\n\r\ndata: {"c":\0 3}\n\n: note\n\ndata: [DONE]\n\n'))
  await end(side, log)
  t.same(
    chunksOf(await stored(id)).map(json => JSON.parse(json)),
    [{ a: 1 }, { b: 2 }, { c: 3 }]
  )
})

t.test('the batch does not wait for the disk, the end of a job does', async t => {
  const id = await addJob(pool)
  await claim(pool, id, '00000000-0000-4000-8000-000000000000')
  const seen: string[] = []
  await pool.query(`create or replace function note_commit() returns trigger language plpgsql as $$
    begin
      perform pg_notify('commits', current_setting('synchronous_commit'));
      return new;
    end $$`)
  await pool.query('create trigger note_commit after insert on job_events for each row execute function note_commit()')
  const client = await pool.connect()
  client.on('notification', ({ payload }) => void seen.push(payload ?? ''))
  await client.query('listen commits')
  const row = (seq: number): EventRow => ({ jobId: id, attempt: 1, seq, kind: 'chunks', count: 1, data: '{}', at: new Date() })
  await insertEventsSoon(client, [row(1)])
  await insertEvents(client, [row(2)])
  await until('both', () => seen.length === 2)
  t.same(seen, ['off', 'on'])
  client.release(true)
  await pool.query('drop trigger note_commit on job_events')
})

t.test('close writes what waits', async t => {
  const side = startSide(t, database.connection)
  const id = await addJob(pool)
  const log = await claimed(side, id)
  log.frames(frame('a', 'b'))
  await side.writer.close()
  t.same(chunksOf(await stored(id)), ['a', 'b'].map(chunk))
})
