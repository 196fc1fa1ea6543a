import t from 'tap'
import { inTransaction } from '../../store/pool.ts'
import { createDatabase } from '../support/cluster.ts'

t.test('two transactions that wait for each other are both carried out', async t => {
  const { pool } = await createDatabase(t)
  await pool.query('create table held (id integer primary key, value integer not null)')
  await pool.query('insert into held values (1, 0), (2, 0)')
  let attempts = 0
  let both: () => void = () => {}
  let holding = 0
  const held = new Promise<void>(resolve => {
    both = resolve
  })
  const add = (first: number, second: number): Promise<void> =>
    inTransaction(pool, async client => {
      attempts++
      await client.query('update held set value = value + 1 where id = $1', [first])
      if (++holding === 2) both()
      await held
      await client.query('update held set value = value + 1 where id = $1', [second])
    })
  await Promise.all([add(1, 2), add(2, 1)])
  t.same((await pool.query('select value from held order by id')).rows, [{ value: 2 }, { value: 2 }])
  t.equal(attempts, 3, 'one of them once more')
})

t.test('what a statement refuses is not tried again', async t => {
  const { pool } = await createDatabase(t)
  let attempts = 0
  await t.rejects(
    inTransaction(pool, client => {
      attempts++
      return client.query('select 1 / 0')
    }),
    { code: '22012' }
  )
  t.equal(attempts, 1)
})
