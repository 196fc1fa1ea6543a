// Benchmarks of this process: what may be measured, and what measuring needs of the other rooms.

import { readBody } from '../gateway/body.ts'
import { readChatBody } from '../gateway/dialects/openai-chat.ts'
import type { BenchmarksPorts } from '../gateway/routes/benchmarks.ts'
import type { Outbound } from '../outbound/client.ts'
import { runBenchmarks } from '../planner/benchmark.ts'
import { chooseBenchmark } from '../planner/benchmark-choice.ts'
import type { Chore } from '../planner/chores.ts'
import type { Jobs } from '../queue/types.ts'
import type { Catalog } from '../routing/catalog.ts'
import { providerOf } from '../routing/targets.ts'
import type { ModelRequest, Target } from '../routing/types.ts'
import { findBenchmark, insertBenchmark, listBenchmarks } from '../store/benchmarks.ts'
import { callChore } from '../store/chores.ts'
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
const unloadWithinMs = 30_000
const unloadCapBytes = 64 * 1024

export function createBenchmarks(ports: {
  readonly pool: Pool
  readonly jobs: Pick<Jobs, 'submit' | 'find'>
  readonly catalog: () => Catalog
  readonly outbound: Outbound
  readonly maxUsdPer1m: number
  /** What was learned of machines is written down. */
  readonly keep: () => Promise<void>
  readonly newId: () => string
}): Benchmarks {
  const { pool, jobs, catalog, outbound, newId } = ports
  const work = {
    pool,
    jobs,
    target: (id: string) => catalog().source.targets.find(target => target.id === id) ?? null,
    maxUsdPer1m: ports.maxUsdPer1m,
    request,
    isIdle: async (deviceId: string) => (await findDevice(pool, deviceId))?.taken === 0,
    unload,
    keep: ports.keep,
    newId,
    random: Math.random
  }

  /** By Ollama's own word for it: nothing to say, and nothing to be kept. */
  async function unload({ upstream, model }: Target, signal: AbortSignal): Promise<boolean> {
    if (upstream.adapter !== 'ollama') return false
    const { origin, pathname } = new URL(upstream.baseUrl)
    const { status } = await outbound.fetchText(
      {
        origin,
        path: `${pathname.replace(/\/$/, '')}/api/generate`,
        method: 'POST',
        headers: {
          ...upstream.headers,
          'content-type': 'application/json',
          ...(upstream.apiKey === null ? {} : { authorization: `Bearer ${upstream.apiKey}` })
        },
        body: JSON.stringify({ model, keep_alive: 0, stream: false }),
        connectMs: upstream.timeouts.connectMs
      },
      { maxBytes: unloadCapBytes, timeoutMs: unloadWithinMs, signal }
    )
    return status === 200
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
        await callChore(pool, name).catch(() => {})
        return benchmark
      },
      find: id => findBenchmark(pool, id),
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
