// A house as clients meet it: a gateway in front of OpenAI, of a compatible server, and of an Ollama, all with pretended models.

import type { Test } from 'tap'
import { createDatabase, type TestDatabase } from './cluster.ts'
import { type RunningGateway, startGateway } from './gateway.ts'
import { continueTexts, echo, speak, speakNatively } from './mind.ts'
import { type FakeUpstream, startCompatible, startOllama } from './upstream.ts'
import { embed, embedNatively } from './vectors.ts'
import { until } from './wait.ts'

export interface Stage {
  readonly database: TestDatabase
  readonly gateway: RunningGateway
  readonly openai: FakeUpstream
  /** Any other server that speaks OpenAI's API; it shows its thoughts. */
  readonly compatible: FakeUpstream
  readonly ollama: FakeUpstream
  /** The pretended behaviour again, after a test that had its own. */
  reset(): void
}

/** One chat model of each kind of upstream. */
export const chatModels = { openai: 'gpt-4o-mini', compatible: 'vendor/name:free', ollama: 'llama3.2:3b' } as const
export const embeddingModels = {
  openai: 'text-embedding-3-small',
  compatible: 'vendor/multilingual-embed',
  ollama: 'nomic-embed-text'
} as const
export const completionModels = { openai: 'gpt-3.5-turbo-instruct', compatible: 'vendor/name:free', ollama: 'llama3.2:3b' } as const
export const kinds = ['openai', 'compatible', 'ollama'] as const
export const dimensions = 8

/** Taken away when `t` ends. `config`: more of llm-mcp.yaml. */
export async function setStage(t: Test, config: Readonly<Record<string, unknown>> = {}): Promise<Stage> {
  const database = await createDatabase(t)
  const model = (id: string): object => ({ id, object: 'model', created: 1, owned_by: 'test' })
  const openai = await startCompatible(t, { models: [chatModels.openai, embeddingModels.openai, completionModels.openai].map(model) })
  const compatible = await startCompatible(t, { models: [chatModels.compatible, embeddingModels.compatible].map(model) })
  const ollama = await startOllama(t, {
    models: [chatModels.ollama, embeddingModels.ollama],
    capabilities: name => (/embed/.test(name) ? ['embedding'] : ['completion', 'tools', 'vision', 'thinking', 'insert'])
  })
  reset()
  const gateway = await startGateway(t, {
    databaseUrl: database.url,
    npmStart: true,
    config: {
      machines: { box: { url: ollama.origin, max_concurrency: 16 } },
      providers: {
        openai: { base_url: `${openai.origin}/v1`, api_key: 'sk-openai-0000000000' },
        vllm: { base_url: `${compatible.origin}/v1`, api_key: 'sk-vllm-000000000000' }
      },
      ...config
    }
  })
  const names = [...Object.values(chatModels), ...Object.values(embeddingModels), completionModels.openai]
  await until('every list to be read', async () => {
    const { data } = (await (await gateway.fetch('/v1/models')).json()) as { data: { id: string }[] }
    return names.every(name => data.some(({ id }) => id === name))
  })

  function reset(): void {
    openai.behaviour = speak()
    compatible.behaviour = speak(undefined, 'reasoning_content')
    ollama.behaviour = speakNatively()
    for (const [fake, seed] of [
      [openai, 1],
      [compatible, 2]
    ] as const) {
      fake.others.set('/embeddings', embed({ dimensions, seed }))
      fake.others.set('/completions', continueTexts)
    }
    ollama.others.set('/api/embed', embedNatively({ dimensions, seed: 3 }))
    ollama.others.set('/api/generate', speakNatively(echo))
  }

  return { database, gateway, openai, compatible, ollama, reset }
}

/** The calls a fake got to one endpoint. */
export function callsTo(fake: FakeUpstream, end: string): FakeUpstream['calls'] {
  return fake.calls.filter(({ path }) => path.endsWith(end))
}
