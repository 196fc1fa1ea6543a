// What was learned is there after a restart, bounded, and nothing stops for want of it.

import { randomUUID } from 'node:crypto'
import t from 'tap'
import { createBrainKeeper } from '../../planner/brain-state.ts'
import { createBrain } from '../../routing/brain/brain.ts'
import { createLengthModel } from '../../routing/brain/lengths.ts'
import type { Catalog } from '../../routing/catalog.ts'
import { forgetBrainStates } from '../../store/brain-state.ts'
import { createPool, type Pool } from '../../store/pool.ts'
import { seenProcess } from '../../store/processes.ts'
import { createDatabase } from '../support/cluster.ts'

function keeper(pool: Pool, brain: Parameters<typeof createBrainKeeper>[0]['brain'], processId = randomUUID()) {
  const logged: string[] = []
  return { logged, processId, keeper: createBrainKeeper({ pool, processId, brain, log: message => void logged.push(message) }) }
}

/** Something that learns a number. */
function learner(known: number | null = null) {
  let revision = 0
  return {
    known: () => known,
    learn(value: number) {
      known = value
      revision++
    },
    revision: () => revision,
    snapshot: () => ({ version: 1, known }),
    restore(kept: unknown) {
      const state = kept as { version?: unknown; known: number }
      if (state.version !== 1) return false
      known = state.known
      return true
    }
  }
}

const states = async (pool: Pool): Promise<{ process_id: string }[]> =>
  (await pool.query('select process_id from brain_state order by saved_at')).rows

t.test('a gateway begins with what the one that wrote last knew', async t => {
  const { pool } = await createDatabase(t)
  const [first, second] = [learner(), learner()]
  for (const [brain, value] of [
    [first, 1],
    [second, 2]
  ] as const) {
    const { keeper: kept } = keeper(pool, brain)
    await kept.start()
    brain.learn(value)
    await kept.close()
  }
  const third = learner()
  const { keeper: kept, logged } = keeper(pool, third)
  await kept.start()
  t.equal(third.known(), 2)
  await kept.close()
  t.equal((await states(pool)).length, 2, 'one that has learned nothing writes nothing')
  t.same(logged, [])
})

t.test('a state of another version, or a broken one, is one line in the log', async t => {
  const { pool } = await createDatabase(t)
  const brain = createBrain({
    catalog: () => ({ source: { targets: [] } }) as unknown as Catalog,
    profile: () => null,
    usdPerKwh: 0.25,
    random: () => 0,
    now: () => 0,
    epoch: () => 0
  })
  for (const state of [
    { version: 7 },
    [],
    'nonsense',
    { version: 1, lengths: { version: 1, all: 'x' }, calibration: { version: 1, corrections: [null] }, rented: 3 }
  ]) {
    await pool.query('delete from brain_state')
    await pool.query('insert into brain_state (process_id, state) values ($1, $2)', [randomUUID(), JSON.stringify(state)])
    const { keeper: kept, logged } = keeper(pool, brain)
    await kept.start()
    t.equal(logged.length, 1, JSON.stringify(state))
    await kept.close()
  }
})

t.test('without a database learning goes on', async t => {
  const pool = createPool({ host: '127.0.0.1', port: 9, user: 'x', database: 'x' }, { max: 1, name: 'test', onError: () => {} })
  t.teardown(() => pool.end())
  const brain = learner()
  const { keeper: kept, logged } = keeper(pool, brain)
  await kept.start()
  brain.learn(5)
  await kept.close()
  t.equal(logged.length, 2, 'once for reading, once for writing')
})

t.test('rows of gateways that are gone are forgotten after a day, the newest never', async t => {
  const { pool } = await createDatabase(t)
  const save = async (age: string): Promise<string> => {
    const id = randomUUID()
    await pool.query(`insert into brain_state (process_id, state, saved_at) values ($1, '{}', now() - $2::interval)`, [id, age])
    return id
  }
  const alive = await save('3 days')
  await seenProcess(pool, { id: alive, host: 'h', pid: 1, version: '1' })
  const newest = await save('2 days')
  await save('4 days')
  await forgetBrainStates(pool)
  t.same(
    (await states(pool)).map(({ process_id: id }) => id),
    [alive, newest]
  )
})

t.test('ten thousand sources take no more room than the 500 that were used last', async t => {
  const model = createLengthModel()
  for (let source = 0; source < 10_000; source++) {
    for (let count = 0; count < 3; count++) model.observe(`source ${source}`, 'm', { tokens: 100 + source, isCut: false })
  }
  // Used is not only what learns.
  model.of('source 5000', 'm', null)
  const kept = model.snapshot()
  t.equal(kept.pairs.length, 500)
  t.equal(kept.sources.length, 500)
  t.equal(kept.pairs[0]?.[0], '["source 5000","m"]')
  t.ok(JSON.stringify(kept).length < 400_000)
  const next = createLengthModel()
  next.restore(JSON.parse(JSON.stringify(kept)))
  t.same(
    next.snapshot().pairs.map(([name]) => name),
    kept.pairs.map(([name]) => name),
    'in the same order'
  )
  const [was, is] = [model, next].map(each => each.of('source 9999', 'm', null).mean) as [number, number]
  t.ok(Math.abs(was / is - 1) < 0.01)
})
