// Running a benchmark, with a real database and without a machine.

import t from 'tap'
import { createBenchmarks } from '../../bin/benchmarks.ts'
import { type BenchmarkPorts, runBenchmarks } from '../../planner/benchmark.ts'
import type { Target } from '../../routing/types.ts'
import { endAsCancelled, findBenchmark, insertBenchmark } from '../../store/benchmarks.ts'
import { fleetChannel } from '../../store/channels.ts'
import { upsertDevice } from '../../store/devices.ts'
import { createDatabase } from '../support/cluster.ts'
import { until } from '../support/wait.ts'

const submitted = new Error('it was submitted')
const ids = { dear: '01900000-0000-7000-8000-000000000001', paid: '01900000-0000-7000-8000-000000000002' }

/** A rented model that costs $40 per million tokens now, whatever it cost when it was asked for. */
function portsOf(pool: BenchmarkPorts['pool']): BenchmarkPorts {
  const target = {
    id: 'cloud/gold',
    upstream: { id: 'cloud', adapter: 'openai', own: false, device: null },
    model: 'gold',
    contextTokens: null,
    operations: ['chat'],
    price: { source: 'provider', tokens: { inputUsdPer1m: 20, outputUsdPer1m: 60 } }
  } as unknown as Target
  return {
    pool,
    jobs: {
      submit: () => Promise.reject(submitted),
      find: () => Promise.resolve(null),
      earlier: () => Promise.resolve(null),
      cancel: () => Promise.resolve(null)
    },
    target: () => target,
    maxUsdPer1m: 10,
    request: () => ({}) as ReturnType<BenchmarkPorts['request']>,
    isIdle: async () => true,
    unload: async () => false,
    refresh: async () => {},
    learn: () => {},
    keep: async () => {},
    newId: () => ids.dear,
    random: () => 0
  }
}

t.test('a model that became dearer while its benchmark waited is not measured, unless somebody pays anyway', async t => {
  const { pool } = await createDatabase(t)
  const asked = { deviceId: null, provider: 'cloud', target: 'cloud/gold', model: 'gold', task: 'chat', runs: 1, prompt: null } as const
  await insertBenchmark(pool, { ...asked, id: ids.dear, requestedBy: 'admin', paysAnyway: false })
  await insertBenchmark(pool, { ...asked, id: ids.paid, requestedBy: 'admin', paysAnyway: true })
  await runBenchmarks(portsOf(pool), new AbortController().signal)
  t.match(await findBenchmark(pool, ids.dear), {
    state: 'error',
    error: /"cloud\/gold" costs \$40 per million tokens.*up to \$10 \(BENCHMARK_MAX_PRICE_PER_1M\)/,
    progress: { done: 0 }
  })
  t.match(await findBenchmark(pool, ids.paid), { state: 'error', error: /submitted|failed/i })
})

t.test('whoever asks for the same while it is not over gets the one that is there', async t => {
  const { pool } = await createDatabase(t)
  let count = 0
  const ask = async (changes: Partial<Parameters<typeof insertBenchmark>[1]> = {}) => {
    const id = `01900000-0000-7000-8000-${String(++count).padStart(12, '0')}`
    const asked = { deviceId: 'box', provider: 'ollama', target: 'box/m', model: 'm', task: 'chat', runs: 3, prompt: null } as const
    return (await insertBenchmark(pool, { ...asked, id, requestedBy: `source ${count}`, paysAnyway: false, ...changes })).id
  }
  const [first, ...others] = await Promise.all([ask(), ask(), ask(), ask()])
  t.ok(
    others.every(id => id === first),
    'also when they come at once'
  )
  const different = [
    await ask({ runs: 4 }),
    await ask({ prompt: 'Hello' }),
    await ask({ target: 'box/n' }),
    await ask({ paysAnyway: true })
  ]
  t.equal(new Set([first, ...different]).size, 5, 'what is measured otherwise is another one')
  await endAsCancelled(pool, first)
  t.not(await ask(), first, 'one that is over is measured anew')
})

t.test('all gateways ask a machine again when a model has left it for a benchmark, and when that is over', async t => {
  const { pool } = await createDatabase(t)
  const target = {
    ...portsOf(pool).target(''),
    id: 'box/m',
    model: 'm',
    upstream: { id: 'box', adapter: 'ollama', own: true, device: { id: 'box', maxConcurrency: 1 } }
  } as unknown as Target
  await upsertDevice(pool, { id: 'box', url: 'http://127.0.0.1:9', adapter: 'ollama', maxConcurrency: 1 })
  const said: string[] = []
  const listener = await pool.connect()
  t.teardown(() => listener.release(true))
  listener.on('notification', ({ payload }) => said.push(`ask ${payload} again`))
  await listener.query(`listen ${fleetChannel}`)
  const benchmarks = createBenchmarks({
    pool,
    jobs: portsOf(pool).jobs,
    catalog: () => ({ source: { targets: [target] } }) as unknown as ReturnType<Parameters<typeof createBenchmarks>[0]['catalog']>,
    memory: {
      async unload({ model }) {
        said.push(`unload ${model}`)
        return true
      }
    },
    profiles: { measured: () => {}, flush: async () => {} },
    maxUsdPer1m: 10,
    newId: () => ids.paid
  })
  const asked = { deviceId: 'box', provider: 'ollama', target: 'box/m', model: 'm', task: 'chat', runs: 1, prompt: null } as const
  await insertBenchmark(pool, { ...asked, id: ids.dear, requestedBy: 'admin', paysAnyway: true })
  await benchmarks.chore.run(new AbortController().signal)
  await until('both notices', () => said.length >= 3)
  t.same(said, ['unload m', 'ask box again', 'ask box again'], 'after it left, and when the benchmark is over')
})
