// What is done once for all processes is done by one of them, and by another when that one dies.

import { randomUUID } from 'node:crypto'
import t, { type Test } from 'tap'
import { type Chore, createChores } from '../../planner/chores.ts'
import { callChore, callChoreAgain, listChores } from '../../store/chores.ts'
import type { Pool } from '../../store/pool.ts'
import { removeProcess, seenProcess } from '../../store/processes.ts'
import { createDatabase } from '../support/cluster.ts'
import { until } from '../support/wait.ts'

const hourMs = 3_600_000

/**
 * A process as the others see it: alive for an hour, or until it is gone. Its row is removed: that it was not seen lately says nothing
 * in the first three seconds of a database server, and how old ours is by then is luck.
 */
async function processOf(pool: Pool) {
  const id = randomUUID()
  await seenProcess(pool, { id, host: 'test', pid: 1, version: 'test' })
  await pool.query(`update processes set seen_at = now() + interval '1 hour' where id = $1`, [id])
  return { id, goAway: () => removeProcess(pool, id) }
}

function choresOf(t: Test, pool: Pool, processId: string, chore: Partial<Chore> & Pick<Chore, 'run'>) {
  const logged: string[] = []
  const chores = createChores({
    pool,
    processId,
    chores: [{ name: 'dust', everyMs: hourMs, atOnce: true, limitMs: 60_000, ...chore }],
    log: (message, error) => void logged.push(`${message}: ${(error as Error).message}`)
  })
  t.teardown(() => chores.close())
  return { chores, logged }
}

/** Something that is done when the test says so. */
function held() {
  const begun: AbortSignal[] = []
  const ends: ((note: string) => void)[] = []
  return {
    begun,
    ends,
    run: (signal: AbortSignal) =>
      new Promise<string>((resolve, reject) => {
        begun.push(signal)
        ends.push(resolve)
        signal.addEventListener('abort', () => reject(signal.reason))
      })
  }
}

t.test('of many processes that look at once, one does what is due, and nobody does it again before its time', async t => {
  const { pool } = await createDatabase(t)
  let count = 0
  const all = await Promise.all(
    Array.from({ length: 6 }, async () => {
      const { id } = await processOf(pool)
      return choresOf(t, pool, id, { run: async () => `done ${++count}` }).chores
    })
  )
  for (let round = 0; round < 3; round++) await Promise.all(all.map(chores => chores.look()))
  t.equal(count, 1)
  t.match(await listChores(pool), [{ name: 'dust', isRunning: false, succeeded: true, note: 'done 1' }])
  await callChore(pool, 'dust')
  await Promise.all(all.map(chores => chores.look()))
  t.equal(count, 2, 'called for, it is done again')
})

t.test('what a process that died was at is done by another; whoever wakes again stops, and says nothing about it any more', async t => {
  const { pool } = await createDatabase(t)
  const [frozen, living] = [await processOf(pool), await processOf(pool)]
  const [first, second] = [held(), held()]
  const one = choresOf(t, pool, frozen.id, first)
  const other = choresOf(t, pool, living.id, second)
  const ending = one.chores.look()
  await until('the first begins', () => first.begun.length === 1)
  await Promise.race([other.chores.look(), until('the other begins too early', () => second.begun.length === 1)])
  t.equal(second.begun.length, 0, 'while somebody alive is at it')
  await frozen.goAway()
  other.chores.start()
  await until('the other begins', () => second.begun.length === 1)
  await until('the first is told', () => first.begun[0]?.aborted === true)
  await ending
  t.match(await listChores(pool), [{ isRunning: true, succeeded: null, note: null }], 'it is the other who is at it')
  second.ends[0]?.('all clean')
  await until('it is done', async () => (await listChores(pool))[0]?.succeeded === true)
  t.match(await listChores(pool), [{ isRunning: false, note: 'all clean' }])
})

t.test('a failure is told, noted, and tried again sooner than its time', async t => {
  const { pool } = await createDatabase(t)
  const { id } = await processOf(pool)
  const { chores, logged } = choresOf(t, pool, id, {
    run: async () => {
      throw new Error('no broom')
    }
  })
  await chores.look()
  t.same(logged, ['dust failed: no broom'])
  const [row] = await listChores(pool)
  t.match(row, { succeeded: false, note: 'no broom', isRunning: false })
  const waitMs = (row?.dueAt?.getTime() ?? 0) - Date.now()
  t.ok(waitMs > 0 && waitMs < 11_000, `${waitMs} ms`)
})

t.test('a chore on demand waits for its call, and a shorter interval holds at once', async t => {
  const { pool } = await createDatabase(t)
  const { id } = await processOf(pool)
  let count = 0
  const run = async () => String(++count)
  const { chores } = choresOf(t, pool, id, { everyMs: 0, atOnce: false, run })
  await chores.look()
  t.equal(count, 0)
  await callChore(pool, 'dust')
  await chores.look()
  await chores.look()
  t.equal(count, 1)
  await choresOf(t, pool, id, { everyMs: 60_000, atOnce: true, run }).chores.look()
  t.equal(count, 1, 'one that was done before is not new')
  const [row] = await listChores(pool)
  t.ok((row?.dueAt?.getTime() ?? Number.POSITIVE_INFINITY) < Date.now() + 61_000)
})

t.test('a call while somebody is at it is for nothing, or for once more: it may have looked before there was this to do', async t => {
  const { pool } = await createDatabase(t)
  const { id } = await processOf(pool)
  const work = held()
  const { chores } = choresOf(t, pool, id, work)
  for (const [call, again] of [
    [callChore, 0],
    [callChoreAgain, 1]
  ] as const) {
    const before = work.begun.length
    if (before > 0) await callChore(pool, 'dust')
    const ending = chores.look()
    await until('it to begin', () => work.begun.length === before + 1)
    await call(pool, 'dust')
    t.match(await listChores(pool), [{ isRunning: true, dueAt: Date }])
    work.ends.at(-1)?.('done')
    await ending
    const next = chores.look()
    if (again === 1) await until('it to begin once more', () => work.begun.length === before + 2)
    t.equal(work.begun.length, before + 1 + again)
    work.ends.at(-1)?.('done')
    await next
  }
  await chores.look()
  t.equal(work.begun.length, 3, 'once')
})

t.test('a process that leaves breaks off what it is at, and it is due for the others at once', async t => {
  const { pool } = await createDatabase(t)
  const [leaver, stayer] = [await processOf(pool), await processOf(pool)]
  const [first, second] = [held(), held()]
  const one = choresOf(t, pool, leaver.id, first)
  void one.chores.look()
  await until('it begins', () => first.begun.length === 1)
  await one.chores.close()
  t.same(one.logged, [])
  void choresOf(t, pool, stayer.id, second).chores.look()
  await until('another begins', () => second.begun.length === 1)
  second.ends[0]?.('')
})

/** The answers to the first statements of this name are lost on their way: they were carried out, or not, and fail. */
function losing(pool: Pool, name: string, { isCarriedOut, times }: { readonly isCarriedOut: boolean; readonly times: number }): Pool {
  let lost = 0
  return new Proxy(pool, {
    get(target, key) {
      if (key !== 'query') return Reflect.get(target, key)
      return async (statement: { readonly name: string }) => {
        if (statement.name !== name || lost === times) return target.query(statement as never)
        lost++
        if (isCarriedOut) await target.query(statement as never)
        throw new Error('Connection terminated unexpectedly')
      }
    }
  })
}

t.test('a process that lost the answer to its taking is at it all the same', async t => {
  const { pool } = await createDatabase(t)
  const { id } = await processOf(pool)
  let count = 0
  const { chores, logged } = choresOf(t, losing(pool, 'chores.take', { isCarriedOut: true, times: 1 }), id, {
    run: async () => String(++count)
  })
  await chores.look()
  t.match([count, logged.length, await listChores(pool)], [0, 1, [{ isRunning: true }]])
  await chores.look()
  t.match([count, logged.length, await listChores(pool)], [1, 1, [{ isRunning: false, note: '1' }]])
})

for (const isCarriedOut of [true, false]) {
  t.test(
    `an end that ${isCarriedOut ? 'got no answer' : 'could not be'} written down is written down later, and nothing is done again`,
    async t => {
      const { pool } = await createDatabase(t)
      const { id } = await processOf(pool)
      let count = 0
      const { chores, logged } = choresOf(t, losing(pool, 'chores.finish', { isCarriedOut, times: 2 }), id, {
        run: async () => String(++count)
      })
      void chores.look()
      const [row] = await until('its end', async () => {
        await chores.look()
        const rows = await listChores(pool)
        return rows[0]?.isRunning === false && rows[0].finishedAt !== null ? rows : null
      })
      t.match([count, logged, row], [1, [], { succeeded: true, note: '1' }])
    }
  )
}

t.test('what takes too long is broken off', async t => {
  const { pool } = await createDatabase(t)
  const { id } = await processOf(pool)
  const { chores, logged } = choresOf(t, pool, id, { ...held(), limitMs: 5 })
  await chores.look()
  t.match(logged, [/dust failed: .*timeout/])
})
