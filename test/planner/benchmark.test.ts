// Running a benchmark, with a real database and without a machine.

import t from 'tap'
import { type BenchmarkPorts, runBenchmarks } from '../../planner/benchmark.ts'
import type { Target } from '../../routing/types.ts'
import { findBenchmark, insertBenchmark } from '../../store/benchmarks.ts'
import { createDatabase } from '../support/cluster.ts'

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
      find: () => Promise.resolve(null)
    },
    target: () => target,
    maxUsdPer1m: 10,
    request: () => ({}) as ReturnType<BenchmarkPorts['request']>,
    isIdle: async () => true,
    unload: async () => false,
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
