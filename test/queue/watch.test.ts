import t from 'tap'
import type { EventId, JobEvent } from '../../queue/types.ts'
import { createDatabase } from '../support/cluster.ts'
import { fc } from '../support/properties.ts'
import { until } from '../support/wait.ts'
import { addJob, claim, claimed, end, endRow, frame, numbered, readAll, requeue, short, startSide } from './events-support.ts'

const database = await createDatabase(t)
const { pool } = database
const here = startSide(t, database.connection)
const there = startSide(t, database.connection)

const idOf = (event: JobEvent): EventId | null => (event.type === 'status' ? null : event.id)

t.test('a reader of the same process and one of another get every event of a job, in order', async t => {
  const id = await addJob(pool)
  const readers = [await here.follow(id), await there.follow(id)]
  const reading = readers.map(reader => readAll(reader))
  const log = await claimed(here, id)
  for (const text of ['a', 'b', 'c']) log.frames(frame(text))
  log.frames(Buffer.concat([frame('d', 'e'), Buffer.from(': nothing\n\ndata: [DONE]\n\n')]))
  await end(here, log)
  const expected = ['1-0 attempt', '1-1 "a"', '1-2 "b"', '1-3 "c"', '1-4 "d"', '1-5 "e"', '1-6 result done', '1-7 end done']
  for (const events of await Promise.all(reading)) {
    t.same(numbered(events), expected)
    const result = events.find(({ type }) => type === 'result')
    t.equal(result?.type === 'result' ? String(result.job.result) : null, '{"ok":true}')
  }
})

t.test('a reader who comes when all is over gets the whole from the table', async t => {
  const id = await addJob(pool)
  const log = await claimed(here, id)
  log.frames(frame('a', 'b'))
  await end(here, log)
  for (const side of [here, there])
    t.same((await readAll(await side.follow(id))).map(short), ['1-0 attempt', '1-1 "a"', '1-2 "b"', '1-3 result done', '1-4 end done'])
})

t.test('a reader who comes back after any event gets what is beyond it, while the job runs and when it is over', async t => {
  const id = await addJob(pool)
  const log = await claimed(here, id)
  log.frames(frame('a', 'b', 'c', 'd'))
  const expected = ['1-0 attempt', '1-1 "a"', '1-2 "b"', '1-3 "c"', '1-4 "d"', '1-5 result done', '1-6 end done']
  const reading: Promise<JobEvent[]>[] = []
  for (let seq = 0; seq <= 4; seq++) for (const side of [here, there]) reading.push(readAll(await side.follow(id, { attempt: 1, seq })))
  await end(here, log)
  const read = await Promise.all(reading)
  for (const [index, events] of read.entries()) t.same(numbered(events), expected.slice(Math.floor(index / 2) + 1))
  for (let seq = 0; seq <= 6; seq++)
    t.same(numbered(await readAll(await there.follow(id, { attempt: 1, seq }))), expected.slice(seq + 1), `after 1-${seq}`)
})

t.test('an attempt that is followed by another: the next marker, then its chunks from 1', async t => {
  const id = await addJob(pool)
  const reading = [readAll(await here.follow(id)), readAll(await there.follow(id))]
  const first = await claimed(here, id)
  first.frames(frame('a', 'b'))
  const early = await there.follow(id)
  await until('chunks elsewhere', async () => (await early.next())?.some(({ type }) => type === 'chunk'))
  await requeue(here, first)
  const second = await claimed(there, id)
  second.frames(frame('x', 'y'))
  const tail = ['2-0 attempt', '2-1 "x"', '2-2 "y"', '2-3 result done', '2-4 end done']
  const late = readAll(await here.follow(id, { attempt: 1, seq: 1 }))
  await end(there, second)
  t.same(numbered(await readAll(early)), tail)
  t.same(numbered(await late), tail)
  for (const events of await Promise.all(reading)) t.same(numbered(events).slice(-5), tail)
})

t.test('a job without stream: its states, then result and end', async t => {
  const id = await addJob(pool, false)
  const reading = [here, there].map(async side => readAll(await side.follow(id)))
  await until('both to see it queued', () => true)
  await claim(pool, id, here.id)
  await endRow(pool, id, 'done')
  const expected = ['1-1 result done', '1-2 end done']
  for (const events of await Promise.all(reading)) t.same(numbered(events), expected)
  t.same(numbered(await readAll(await there.follow(id, { attempt: 1, seq: 1 }))), expected.slice(1))
  t.same(numbered(await readAll(await there.follow(id, { attempt: 1, seq: 2 }))), [])
})

t.test('a job that is cancelled while it waits ends with 0-1 and 0-2', async t => {
  const id = await addJob(pool)
  const watch = await there.follow(id)
  t.match(await watch.next(), [{ type: 'status', status: 'queued' }])
  await endRow(pool, id, 'cancelled')
  await pool.query(
    `insert into job_events (job_id, attempt, seq, kind, count, data, at)
     values ($1, 0, 1, 'result', 1, '', now()), ($1, 0, 2, 'end', 1, 'cancelled', now())`,
    [id]
  )
  const expected = ['0-1 result cancelled', '0-2 end cancelled']
  t.same((await readAll(watch)).map(short), expected)
  t.same((await readAll(await here.follow(id))).map(short), expected)
  t.same((await readAll(await here.follow(id, { attempt: 0, seq: 1 }))).map(short), expected.slice(1))
  t.same((await readAll(await here.follow(id, { attempt: 0, seq: 2 }))).map(short), [])
})

t.test('a job whose events were dropped with their day still ends with result and end', async t => {
  const id = await addJob(pool)
  const log = await claimed(here, id)
  log.frames(frame('a'))
  await end(here, log)
  await pool.query('delete from job_events where job_id = $1', [id])
  t.same((await readAll(await here.follow(id))).map(short), ['1-0 attempt', '1-1 result done', '1-2 end done'])
  t.same((await readAll(await there.follow(id, { attempt: 1, seq: 7 }))).map(short), ['1-8 result done', '1-9 end done'])
})

t.test('what one who was taken for lost writes after the end is not told', async t => {
  const id = await addJob(pool)
  await claim(pool, id, here.id)
  await pool.query(
    `insert into job_events (job_id, attempt, seq, kind, count, data, at)
     values ($1, 1, 0, 'attempt', 1, '', now()), ($1, 1, 1, 'result', 1, '', now()), ($1, 1, 2, 'end', 1, 'error', now()),
            ($1, 1, 1, 'chunks', 1, '{}', now() - interval '1 s'), ($1, 1, 2, 'chunks', 1, '{}', now() + interval '1 s')`,
    [id]
  )
  await endRow(pool, id, 'error')
  t.same((await readAll(await there.follow(id))).map(short), ['1-0 attempt', '1-1 result error', '1-2 end error'])
})

t.test('a reader waits where a number is missing until it is written', async t => {
  const id = await addJob(pool)
  await claim(pool, id, here.id)
  const rows = (seq: number): unknown =>
    pool.query(
      `insert into job_events (job_id, attempt, seq, kind, count, data, at)
       values ($1, 1, $2, case $2::integer when 0 then 'attempt' else 'chunks' end, 1, $3, now())`,
      [id, seq, frame(String(seq)).toString().slice(6, -2)]
    )
  await rows(0)
  await rows(1)
  await rows(3)
  const watch = await there.follow(id)
  const seen: JobEvent[] = []
  const reading = readAll(watch, event => seen.push(event))
  await until('the first', () => seen.some(({ type }) => type === 'chunk'))
  await pool.query('select pg_notify($1, $2)', [`llm_mcp_from_${here.id}`, ''])
  await rows(2)
  await until('the rest', () => numbered(seen).length === 4)
  t.same(numbered(seen), ['1-0 attempt', '1-1 "1"', '1-2 "2"', '1-3 "3"'])
  watch.close()
  await reading
})

t.test('who waits in line is told so again only when something changed', async t => {
  const id = await addJob(pool)
  here.outlooks.set(id, { position: 3, etaMs: { p50: 100, p90: 200 } })
  const watch = await here.follow(id)
  const seen: JobEvent[] = []
  const reading = readAll(watch, event => seen.push(event))
  await until('the first', () => seen.length > 0)
  here.outlooks.set(id, { position: 2, etaMs: { p50: 100, p90: 200 } })
  await until('the second', () => seen.length > 1)
  t.match(seen, [
    { type: 'status', status: 'queued', outlook: { position: 3 } },
    { type: 'status', status: 'queued', outlook: { position: 2 } }
  ])
  const looks = here.looks()
  await until('two more looks', () => here.looks() > looks + 1)
  t.equal(seen.length, 2)
  watch.close()
  t.same(await reading, seen)
  t.equal(await watch.next(), null)
})

t.test('a reader who takes his time gets a long stream in pieces, from memory and table', async t => {
  const id = await addJob(pool)
  const log = await claimed(here, id)
  const slow = [await here.follow(id), await there.follow(id)]
  const text = 'x'.repeat(1_000)
  for (let at = 0; at < 40; at++) {
    const isTaken = log.frames(frame(...Array.from({ length: 50 }, () => text)))
    if (!isTaken) t.fail('2 MB are not too much')
  }
  await end(here, log)
  for (const watch of slow) {
    let largest = 0
    const events: JobEvent[] = []
    for (let next = await watch.next(); next !== null; next = await watch.next()) {
      largest = Math.max(
        largest,
        next.reduce((sum, event) => sum + (event.type === 'chunk' ? event.json.length : 0), 0)
      )
      events.push(...next)
    }
    t.ok(largest < 400_000, `${largest} at once`)
    t.same(
      events.filter(({ type }) => type === 'chunk').map(idOf),
      Array.from({ length: 2_000 }, (_, at) => ({ attempt: 1, seq: at + 1 }))
    )
  }
})

t.test('a database that stays away for 60 s ends a watch with an error', async t => {
  let nowMs = 0
  const lonely = startSide(t, database.connection, () => nowMs)
  const id = await addJob(pool)
  const watch = await lonely.follow(id)
  t.match(await watch.next(), [{ type: 'status' }])
  await pool.query('alter table jobs rename to jobs_away')
  t.teardown(() => pool.query('alter table if exists jobs_away rename to jobs'))
  const failed = watch.next().then(
    () => null,
    (error: unknown) => error
  )
  const clock = setInterval(() => (nowMs += 10_000), 100)
  t.match(await failed, { code: 'database_unavailable' })
  clearInterval(clock)
  await pool.query('alter table jobs_away rename to jobs')
  t.equal(await watch.next(), null)
})

t.test('any number of attempts, cuts and returns at any place: no gap, no repeat, and an end', async () => {
  const step = fc.oneof(
    { weight: 8, arbitrary: fc.record({ type: fc.constant('chunks' as const), count: fc.integer({ min: 1, max: 5 }) }) },
    { weight: 2, arbitrary: fc.record({ type: fc.constant('pause' as const), count: fc.integer({ min: 1, max: 70 }) }) },
    { weight: 1, arbitrary: fc.record({ type: fc.constant('retry' as const), count: fc.constant(0) }) }
  )
  const cuts = fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 6 })
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 25 }), fc.array(cuts, { minLength: 2, maxLength: 4 }), async (steps, readers) => {
      const id = await addJob(pool)
      const written = new Map<number, string[]>()
      const readings = readers.map(async (lengths, index) => {
        const seen: JobEvent[] = []
        let last: EventId | null = null
        for (let round = 0; ; round++) {
          // Each return is to the other process.
          const watch = await ((index + round) % 2 === 0 ? here : there).follow(id, last)
          let left = lengths[round % lengths.length] as number
          while (left > 0) {
            const events = await watch.next()
            if (events === null) return seen
            for (const event of events.slice(0, left)) {
              seen.push(event)
              last = idOf(event) ?? last
              if (event.type === 'end') return seen
            }
            left -= events.length
          }
          watch.close()
        }
      })
      let side = here
      let log = await claimed(side, id)
      const texts = (): string[] => {
        const known = written.get(log.attempt) ?? []
        written.set(log.attempt, known)
        return known
      }
      for (const { type, count } of steps) {
        if (type === 'pause') await new Promise(resolve => setTimeout(resolve, count))
        else if (type === 'chunks') {
          const more = Array.from({ length: count }, (_, at) => `${log.attempt}.${texts().length + at + 1}`)
          texts().push(...more)
          log.frames(frame(...more))
        } else {
          await requeue(side, log)
          side = side === here ? there : here
          log = await claimed(side, id)
        }
      }
      await end(side, log)
      for (const seen of await Promise.all(readings)) {
        const all = numbered(seen)
        const lastAttempt = all.slice(all.indexOf(`${log.attempt}-0 attempt`))
        const final = texts()
        const after = final.length + 1
        const whole = [
          `${log.attempt}-0 attempt`,
          ...final.map((text, at) => `${log.attempt}-${at + 1} "${text}"`),
          `${log.attempt}-${after} result done`,
          `${log.attempt}-${after + 1} end done`
        ]
        if (JSON.stringify(lastAttempt) !== JSON.stringify(whole)) throw new Error(`${JSON.stringify(all)} is not ${JSON.stringify(whole)}`)
        let attempt = 0
        let seq = 0
        for (const event of seen) {
          const at = idOf(event)
          if (at === null) continue
          if (event.type === 'attempt' ? at.attempt <= attempt || at.seq !== 0 : at.attempt !== attempt || at.seq !== seq + 1)
            throw new Error(`${short(event)} after ${attempt}-${seq} in ${JSON.stringify(all)}`)
          attempt = at.attempt
          seq = at.seq
          if (event.type === 'chunk' && JSON.parse(event.json).choices[0].delta.content !== written.get(attempt)?.[seq - 1])
            throw new Error(`${short(event)} was never written so`)
        }
      }
    }),
    { numRuns: 25, endOnFailure: true }
  )
})
