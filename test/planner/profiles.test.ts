// What is learned of machines is kept, and processes lose nothing of each other.

import t, { type Test } from 'tap'
import { createProfiles } from '../../planner/profiles.ts'
import type { Observation } from '../../routing/profile.ts'
import { recordModels, upsertDevice } from '../../store/devices.ts'
import type { Pool } from '../../store/pool.ts'
import { createDatabase } from '../support/cluster.ts'

const listing = {
  model: 'small',
  createdAt: null,
  maxContextTokens: null,
  maxOutputTokens: null,
  features: null,
  operations: ['chat'],
  loaded: true,
  price: null,
  memory: null,
  digest: null
} as const

async function machine(t: Test): Promise<Pool> {
  const { pool } = await createDatabase(t)
  await upsertDevice(pool, { id: 'rtx', url: 'http://x', adapter: 'ollama', maxConcurrency: 2 })
  await recordModels(pool, 'rtx', [{ listing, numCtx: null }], false)
  return pool
}

function keeper(t: Test, pool: Pool) {
  const logged: string[] = []
  const profiles = createProfiles({ pool, now: Date.now, log: message => void logged.push(message) })
  t.teardown(() => profiles.close())
  return { profiles, logged }
}

const answer = (tokensPerSecond: number): Omit<Observation, 'atMs'> => ({
  isFailure: false,
  loadMs: null,
  ttftMs: 100,
  prompt: null,
  answer: { tokens: 100, ms: 100_000 / tokensPerSecond, concurrency: 1 },
  isBenchmark: false
})

t.test('what was learned is there after a restart', async t => {
  const pool = await machine(t)
  const first = keeper(t, pool).profiles
  await first.start()
  t.equal(first.of('rtx', 'small'), null)
  first.observe('rtx', 'small', answer(50))
  t.equal(first.of('rtx', 'small')?.samples.answers, 1, 'known at once')
  await first.close()
  const second = keeper(t, pool).profiles
  await second.start()
  t.same(second.of('rtx', 'small'), first.of('rtx', 'small'))
  const { rows } = await pool.query('select profile_samples, profiled_at from device_models')
  t.match(rows, [{ profile_samples: 1, profiled_at: Date }])
})

t.test('two processes learn together', async t => {
  const pool = await machine(t)
  const [one, other] = [keeper(t, pool).profiles, keeper(t, pool).profiles]
  for (let round = 0; round < 5; round++) {
    for (let count = 0; count < 10; count++) {
      one.observe('rtx', 'small', answer(50))
      other.observe('rtx', 'small', answer(50))
    }
    await Promise.all([one.flush(), other.flush()])
  }
  await one.flush()
  await other.flush()
  t.equal(one.of('rtx', 'small')?.samples.answers, 100)
  t.same(one.of('rtx', 'small'), other.of('rtx', 'small'))
})

t.test('what comes while it is being written counts once', async t => {
  const pool = await machine(t)
  const { profiles } = keeper(t, pool)
  profiles.observe('rtx', 'small', answer(50))
  const flushed = profiles.flush()
  profiles.observe('rtx', 'small', answer(50))
  await flushed
  t.equal(profiles.of('rtx', 'small')?.samples.answers, 2)
  await profiles.flush()
  t.equal(profiles.of('rtx', 'small')?.samples.answers, 2)
})

t.test('a database that is away, a model that is gone and a profile that is none are survived', async t => {
  const pool = await machine(t)
  await pool.query(`update device_models set profile = '{"version": 7}', profiled_at = now()`)
  const { profiles, logged } = keeper(t, pool)
  await profiles.start()
  t.equal(profiles.of('rtx', 'small'), null)
  profiles.observe('rtx', 'gone', answer(50))
  await profiles.flush()
  t.equal(profiles.of('rtx', 'gone')?.samples.answers, 1)
  t.same(logged, [])
  const query = pool.connect
  Object.assign(pool, { connect: () => Promise.reject(new Error('Connection terminated')) })
  for (let count = 0; count < 600; count++) profiles.observe('rtx', 'small', answer(50))
  await profiles.flush()
  await profiles.flush()
  t.equal(logged.length, 1, 'said once')
  Object.assign(pool, { connect: query })
  await profiles.flush()
  t.ok((profiles.of('rtx', 'small')?.samples.answers ?? 0) >= 250)
})

t.test('what a running benchmark sees is not learned before it is over, but that a machine fails is', async t => {
  const { profiles } = keeper(t, await machine(t))
  profiles.observe('rtx', 'small', { ...answer(50), isBenchmark: true })
  t.equal(profiles.of('rtx', 'small'), null)
  profiles.observe('rtx', 'small', { ...answer(50), answer: null, isBenchmark: true, isFailure: true })
  t.match(profiles.of('rtx', 'small'), { samples: { answers: 0, failures: 1 } })
  profiles.measured('rtx', 'small', { ...answer(50), isBenchmark: true })
  t.match(profiles.of('rtx', 'small'), { samples: { answers: 1, failures: 1 } })
})
