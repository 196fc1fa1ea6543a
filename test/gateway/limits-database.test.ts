// Limits per source over one real database: two gateways, each with its own connections, share what a source may use.

import { randomUUID } from 'node:crypto'
import t, { type Test } from 'tap'
import { type Admission, createLimits, type KeyLimits, type Limits } from '../../gateway/limits.ts'
import { GatewayError } from '../../routing/errors.ts'
import { giveBackToWindow, holdPermits, livingProcesses, sweepLimits, takeFromWindow } from '../../store/limits.ts'
import { createPool, type Pool } from '../../store/pool.ts'
import { removeProcess, seenProcess } from '../../store/processes.ts'
import { createDatabase, type TestDatabase } from '../support/cluster.ts'
import { until } from '../support/wait.ts'

const none: KeyLimits = { requestsPerMinute: null, tokensPerMinute: null, concurrentRequests: null }

interface Gateway {
  readonly id: string
  readonly pool: Pool
  readonly limits: Limits
  /** Statements sent. */
  asked: number
}

async function startGateway(t: Test, { connection }: TestDatabase): Promise<Gateway> {
  const id = randomUUID()
  const pool = createPool(connection, { max: 5, name: 'test', onError: () => {} })
  // Without a thread that says so each second, it lives until it is made to die.
  await seenProcess(pool, { id, host: 'here', pid: 1, version: 'test' })
  await pool.query(`update processes set seen_at = now() + interval '1 hour' where id = $1`, [id])
  const counted = <Answer>(answer: Promise<Answer>): Promise<Answer> => {
    gateway.asked++
    return answer
  }
  const gateway: Gateway = {
    id,
    pool,
    asked: 0,
    limits: createLimits({
      take: request => counted(takeFromWindow(pool, request)),
      giveBack: request => counted(giveBackToWindow(pool, request)),
      holdPermits: request => counted(holdPermits(pool, id, request)),
      now: () => performance.now(),
      processes: () => 2
    })
  }
  t.teardown(async () => {
    await gateway.limits.close()
    await pool.end()
  })
  return gateway
}

async function attempt({ limits }: Gateway, key: KeyLimits, tokens = 1, source = 'me'): Promise<Admission | null> {
  try {
    return await limits.admit(source, key, tokens)
  } catch (error) {
    if (error instanceof GatewayError && error.status === 429) return null
    throw error
  }
}

t.test('10,000 requests at three times the limit: what is admitted is the limit, however they are spread', async t => {
  const database = await createDatabase(t)
  const limit = 3_333
  const spreads: readonly [name: string, toTheFirst: number][] = [
    ['even', 5],
    ['90 to 10', 9],
    ['all at one', 10]
  ]
  for (const [source, toTheFirst] of spreads) {
    const gateways = [await startGateway(t, database), await startGateway(t, database)] as const
    let admitted = 0
    // Clients of an SDK: each waits for its answer before it asks again.
    let sent = 0
    const client = async (): Promise<void> => {
      while (sent < 10_000) {
        const gateway = gateways[sent++ % 10 < toTheFirst ? 0 : 1]
        const admission = await attempt(gateway, { ...none, requestsPerMinute: limit }, 1, source)
        if (admission !== null) admitted++
        admission?.settle(1)
      }
    }
    await Promise.all(Array.from({ length: 50 }, client))
    const { rows } = await database.pool.query('select granted from limit_windows where source = $1', [source])
    t.ok(admitted <= limit && admitted >= limit * 0.95, `${source}: ${admitted} of ${limit}`)
    t.ok(Number(rows[0].granted) <= limit)
    const asked = gateways[0].asked + gateways[1].asked
    t.ok(asked < 100, `${source}: ${asked} statements`)
  }
})

t.test('tokens are shared in the same way, corrected by what was used', async t => {
  const database = await createDatabase(t)
  const gateways = [await startGateway(t, database), await startGateway(t, database)] as const
  const key = { ...none, tokensPerMinute: 100_000 }
  let used = 0
  for (let request = 0; request < 3_000; request++) {
    const admission = await attempt(gateways[request % 2 === 0 ? 0 : 1], key, 500)
    if (admission === null) continue
    const actual = request % 5 === 0 ? null : 100
    admission.settle(actual)
    used += actual ?? 0
  }
  t.ok(used <= 100_000 && used >= 95_000, `${used} tokens of 100000`)
})

t.test('no more than three run at once, over two gateways, and three do', async t => {
  const database = await createDatabase(t)
  const gateways = [await startGateway(t, database), await startGateway(t, database)] as const
  const key = { ...none, concurrentRequests: 3 }
  const seen = { running: 0, most: 0, served: [0, 0] }
  const client = async (index: number): Promise<void> => {
    const which = index % 2 === 0 ? 0 : 1
    for (let request = 0; request < 150; request++) {
      const admission = await attempt(gateways[which], key)
      if (admission === null) {
        await new Promise(resolve => setTimeout(resolve, 5))
        continue
      }
      seen.served[which] = (seen.served[which] ?? 0) + 1
      seen.most = Math.max(seen.most, ++seen.running)
      await new Promise(resolve => setTimeout(resolve, 1 + ((index + request) % 4)))
      seen.running--
      admission.settle(1)
    }
  }
  await Promise.all(Array.from({ length: 10 }, (_, index) => client(index)))
  t.equal(seen.most, 3)
  // Who has stopped sending gives its places back, and then all three are the other's.
  const [, second] = gateways
  const running: Admission[] = []
  await until('three places', async () => {
    const admission = await attempt(second, key)
    if (admission !== null) running.push(admission)
    return running.length === 3
  })
  t.equal(await attempt(second, key), null)
  for (const admission of running) admission.settle(1)
})

t.test('what a dead gateway held is free: silent for three seconds, or gone', async t => {
  const database = await createDatabase(t)
  const key = { ...none, concurrentRequests: 3 }
  for (const die of [
    (id: string) => database.pool.query(`update processes set seen_at = now() - interval '3.1 seconds' where id = $1`, [id]),
    (id: string) => removeProcess(database.pool, id)
  ]) {
    const [first, second] = [await startGateway(t, database), await startGateway(t, database)]
    const source = first.id
    for (let request = 0; request < 3; request++) t.ok(await attempt(first, key, 1, source))
    t.equal(await attempt(second, key, 1, source), null)
    await die(first.id)
    t.ok(await until('a place', () => attempt(second, key, 1, source), 2_000))
    t.ok(await attempt(second, key, 1, source))
    t.ok(await attempt(second, key, 1, source))
    t.equal(await attempt(second, key, 1, source), null)
  }
})

t.test('a gateway that stops gives back what it did not use', async t => {
  const database = await createDatabase(t)
  const gateway = await startGateway(t, database)
  const key: KeyLimits = { requestsPerMinute: 160, tokensPerMinute: 1_600, concurrentRequests: 2 }
  const running = (await attempt(gateway, key, 30)) as Admission
  await attempt(gateway, key, 30).then(admission => admission?.settle(20))
  await gateway.limits.close()
  const { rows: windows } = await database.pool.query('select metric, granted from limit_windows order by metric')
  t.same(windows, [
    { metric: 'requests', granted: '2' },
    { metric: 'tokens', granted: '50' }
  ])
  const { rows: permits } = await database.pool.query('select permits from limit_permits')
  t.same(permits, [{ permits: 1 }])
  running.settle(5)
})

t.test('one statement counts: a hundred takers at once get no more than there is, and what is given back can be taken again', async t => {
  const { pool } = await createDatabase(t)
  const name = { source: 'me', metric: 'requests' as const, limit: 1_000 }
  const grants = await Promise.all(Array.from({ length: 100 }, () => takeFromWindow(pool, { ...name, want: 17 })))
  t.equal(
    grants.reduce((sum, { granted }) => sum + granted, 0),
    1_000
  )
  const [first] = grants
  if (first === undefined) throw new Error('no grant')
  t.equal(new Set(grants.map(({ window }) => window)).size, 1)
  t.ok(grants.every(({ resetMs, left }) => resetMs > 50_000 && resetMs <= 60_000 && left >= 0 && left < 1_000))
  t.same(await takeFromWindow(pool, { ...name, want: 5 }).then(({ granted, left }) => [granted, left]), [0, 0])
  await giveBackToWindow(pool, { ...name, window: first.window, points: 12 })
  await giveBackToWindow(pool, { ...name, window: first.window + 1, points: 100 })
  t.same(await takeFromWindow(pool, { ...name, want: 50 }).then(({ granted, left }) => [granted, left]), [12, 0])
  t.equal((await takeFromWindow(pool, { ...name, limit: 5_000, want: 9_000 })).granted, 5_000, 'another limit, another window')
})

t.test('ten gateways that ask in the same moment get no more places than there are', async t => {
  const { pool } = await createDatabase(t)
  const processes = Array.from({ length: 10 }, () => randomUUID())
  for (const id of processes) await seenProcess(pool, { id, host: 'here', pid: 1, version: 'test' })
  for (let round = 0; round < 30; round++) {
    await Promise.all(processes.map(id => seenProcess(pool, { id, host: 'here', pid: 1, version: 'test' })))
    const got = await Promise.all(processes.map(id => holdPermits(pool, id, { source: `s${round}`, limit: 3, held: 0, want: 2 })))
    t.equal(
      got.reduce((sum, permits) => sum + permits, 0),
      3
    )
  }
})

t.test('a window ends a minute after it began, or when the clock of the database is set back by more', async t => {
  const { pool } = await createDatabase(t)
  const name = { source: 'me', metric: 'tokens' as const, limit: 10 }
  const takeAll = async (began: string): Promise<number[]> => {
    await takeFromWindow(pool, { ...name, want: 10 })
    await pool.query(`update limit_windows set started_at = now() + $1::interval, granted = 10`, [began])
    const { granted, left, resetMs } = await takeFromWindow(pool, { ...name, want: 4 })
    return [granted, left, Math.round(resetMs / 1_000)]
  }
  t.same(await takeAll('-59.5 seconds'), [0, 0, 0])
  t.same(await takeAll('-60.1 seconds'), [4, 6, 60])
  t.same(await takeAll('10 seconds'), [0, 0, 60])
  t.same(await takeAll('61 seconds'), [4, 6, 60])
})

t.test('what is long over is swept away, what is held is not', async t => {
  const { pool } = await createDatabase(t)
  const living = randomUUID()
  await seenProcess(pool, { id: living, host: 'here', pid: 1, version: 'test' })
  t.equal(await livingProcesses(pool), 1)
  for (const source of ['old', 'new']) {
    await takeFromWindow(pool, { source, metric: 'tokens', limit: 5, want: 1 })
    await holdPermits(pool, randomUUID(), { source, limit: 5, held: 0, want: 1 })
    await holdPermits(pool, living, { source, limit: 5, held: 0, want: 1 })
    await holdPermits(pool, living, { source, limit: 4, held: 0, want: 0 })
  }
  await pool.query(`update limit_windows set started_at = now() - interval '1 hour' where source = 'old'`)
  await pool.query(`update limit_permits set changed_at = now() - interval '1 hour' where source = 'old'`)
  await sweepLimits(pool)
  t.same((await pool.query('select source from limit_windows')).rows, [{ source: 'new' }])
  t.same((await pool.query(`select process_id, permits from limit_permits where source = 'old'`)).rows, [
    { process_id: living, permits: 1 }
  ])
  t.equal((await pool.query(`select from limit_permits where source = 'new'`)).rowCount, 3)
  await removeProcess(pool, living)
  t.equal(await livingProcesses(pool), 1, 'whoever asks is alive')
})
