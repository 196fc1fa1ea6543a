// Machines of configurations: gone when no living process has them any more, and back when one has.

import { randomUUID } from 'node:crypto'
import t, { type Test } from 'tap'
import { upsertDevice } from '../../store/devices.ts'
import { declareMachines, listDevices, settleDeclared } from '../../store/fleet.ts'
import type { Pool } from '../../store/pool.ts'
import { removeProcess, seenProcess } from '../../store/processes.ts'
import { machineStates } from '../../store/troubles.ts'
import { createDatabase } from '../support/cluster.ts'

async function world(t: Test, ids: readonly string[]) {
  const { pool } = await createDatabase(t)
  for (const id of ids) await upsertDevice(pool, { id, url: `http://${id}`, adapter: 'ollama', maxConcurrency: 1 })
  return pool
}

async function process(pool: Pool, machines: readonly string[] | null): Promise<string> {
  const id = randomUUID()
  await seenProcess(pool, { id, host: 'h', pid: 1, version: '1' })
  if (machines !== null) await declareMachines(pool, id, machines)
  return id
}

const gone = async (pool: Pool): Promise<string[]> => (await listDevices(pool)).flatMap(({ id, goneAt }) => (goneAt === null ? [] : [id]))

t.test('a machine is gone when no living process has it, and back when one has it again', async t => {
  const pool = await world(t, ['one', 'two'])
  const first = await process(pool, ['one'])
  const second = await process(pool, ['two'])
  await settleDeclared(pool, 0)
  t.same(await gone(pool), [])
  await removeProcess(pool, first)
  await settleDeclared(pool, 0)
  await settleDeclared(pool, 0)
  t.same(await gone(pool), ['one'])
  await pool.query(`update processes set seen_at = now() - interval '11 seconds' where id = $1`, [second])
  await process(pool, ['one'])
  await settleDeclared(pool, 0)
  t.same(await gone(pool), ['two'], 'a process that is silent has nothing')
  const { rows } = await pool.query('select device_id, kind from device_events order by id')
  t.same(
    rows.map(({ device_id: id, kind }) => `${id} ${kind}`),
    ['one gone', 'one found', 'two gone'],
    'each is told once'
  )
})

t.test('nothing is gone that was in use just now, that was found, or that an older version may have', async t => {
  const pool = await world(t, ['seen', 'found'])
  await process(pool, [])
  await pool.query(`update devices set origin = 'tailscale' where id = 'found'`)
  await pool.query(`update devices set seen_at = now() - interval '59 seconds' where id = 'seen'`)
  await settleDeclared(pool, 60)
  t.same(await gone(pool), [])
  await pool.query(`update devices set seen_at = now() - interval '61 seconds' where id = 'seen'`)
  const older = await process(pool, null)
  await settleDeclared(pool, 60)
  t.same(await gone(pool), [], 'it does not say what it has')
  await removeProcess(pool, older)
  await settleDeclared(pool, 60)
  t.same(await gone(pool), ['seen'])
})

t.test('people are not told of a machine that nobody has in a configuration any more', async t => {
  const pool = await world(t, ['box'])
  await pool.query(`update devices set health = 'down'`)
  t.match(await machineStates(pool), [{ id: 'box', health: 'down' }])
  await process(pool, [])
  await settleDeclared(pool, 0)
  t.same(await machineStates(pool), [])
})
