// Benchmarks of this process: what may be measured, and what measuring needs of the other rooms.

import { readBody } from '../gateway/body.ts'
import { readChatBody } from '../gateway/dialects/openai-chat.ts'
import type { BenchmarksPorts } from '../gateway/routes/benchmarks.ts'
import { cancelBenchmark, runBenchmarks } from '../planner/benchmark.ts'
import { chooseBenchmark } from '../planner/benchmark-choice.ts'
import type { Chore } from '../planner/chores.ts'
import type { CommandedMemory } from '../planner/memory.ts'
import type { ProfileKeeper } from '../planner/profiles.ts'
import type { Jobs } from '../queue/types.ts'
import type { Catalog } from '../routing/catalog.ts'
import { providerOf } from '../routing/targets.ts'
import type { ModelRequest, Target } from '../routing/types.ts'
import { findBenchmark, insertBenchmark, listBenchmarks } from '../store/benchmarks.ts'
import { fleetChannel, notify } from '../store/channels.ts'
import { callChoreAgain } from '../store/chores.ts'
import { findDevice } from '../store/fleet.ts'
import type { Pool } from '../store/pool.ts'

export interface Benchmarks {
  readonly routes: BenchmarksPorts
  readonly chore: Chore
}

const name = 'benchmarks'
// Whoever asks for one calls for it; this is for what was left over.
const everyMs = 15_000
const limitMs = 6 * 3_600_000

export function createBenchmarks(ports: {
  readonly pool: Pool
  readonly jobs: Pick<Jobs, 'submit' | 'find' | 'earlier' | 'cancel'>
  readonly catalog: () => Catalog
  readonly memory: Pick<CommandedMemory, 'unload'>
  readonly profiles: Pick<ProfileKeeper, 'measured' | 'flush'>
  readonly maxUsdPer1m: number
  readonly newId: () => string
}): Benchmarks {
  const { pool, jobs, catalog, memory, profiles, newId } = ports
  const work = {
    pool,
    jobs,
    target: (id: string) => catalog().source.targets.find(target => target.id === id) ?? null,
    maxUsdPer1m: ports.maxUsdPer1m,
    request,
    isIdle: async (deviceId: string) => (await findDevice(pool, deviceId))?.taken === 0,
    unload,
    refresh,
    learn: profiles.measured,
    keep: profiles.flush,
    newId,
    random: Math.random
  }

  async function unload(target: Target, signal: AbortSignal): Promise<boolean> {
    try {
      return await memory.unload(target, signal)
    } finally {
      await refresh(target)
    }
  }

  /** All gateways ask it, this one too. Those that do not hear of it ask within 15 s anyway. */
  async function refresh({ upstream }: Target): Promise<void> {
    if (upstream.device !== null) await notify(pool, [{ channel: fleetChannel, payload: upstream.id }]).catch(() => {})
  }

  return {
    routes: {
      async submit({ prompt, runs, requestedBy, ...asked }) {
        const target = chooseBenchmark(catalog().source.targets, asked, ports.maxUsdPer1m)
        const benchmark = await insertBenchmark(pool, {
          id: newId(),
          deviceId: target.upstream.device?.id ?? null,
          provider: providerOf(target.upstream),
          target: target.id,
          model: target.model,
          task: 'chat',
          runs,
          prompt,
          requestedBy,
          paysAnyway: asked.pay
        })
        // Otherwise somebody comes by within 15 s.
        await callChoreAgain(pool, name).catch(() => {})
        return benchmark
      },
      find: id => findBenchmark(pool, id),
      cancel: id => cancelBenchmark(work, id),
      list: query => listBenchmarks(pool, query)
    },
    chore: { name, everyMs, atOnce: true, limitMs, run: signal => runBenchmarks(work, signal) }
  }
}

function request({
  id,
  target,
  text,
  maxTokens
}: {
  readonly id: string
  readonly target: Target
  readonly text: string
  readonly maxTokens: number
}): ModelRequest {
  const body = readBody(
    Buffer.from(
      JSON.stringify({
        model: target.id,
        messages: [{ role: 'user', content: text }],
        max_tokens: maxTokens,
        stream: true,
        stream_options: { include_usage: true }
      })
    )
  )
  return readChatBody(body, { requestId: id, localOnly: false })
}
