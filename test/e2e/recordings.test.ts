// Recorded traffic of the real providers, served by a fake one through the real gateway to the real client.
// The recordings are not part of this repository; without them these tests are skipped by name.

import type OpenAI from 'openai'
import t from 'tap'
import { createDatabase } from '../support/cluster.ts'
import { startGateway } from '../support/gateway.ts'
import { recorded, replay, skipWithoutRecordings, textOf } from '../support/recordings.ts'
import { startCompatible, startOllama } from '../support/upstream.ts'
import { base64Of, floatsOf, isSame } from '../support/vectors.ts'

const chat = /chat(\/completions)?$/

t.test('recordings', { skip: skipWithoutRecordings }, async t => {
  const database = await createDatabase(t)
  const compatible = await startCompatible(t, { models: ['recorded', 'recorded-embed'].map(id => ({ id, created: 1 })) })
  const router = await startCompatible(t, { models: [{ id: 'recorded', created: 1 }] })
  const ollama = await startOllama(t, { models: ['llama3', 'llama3.1'] })
  const gateway = await startGateway(t, {
    databaseUrl: database.url,
    config: {
      machines: { box: { url: ollama.origin, max_concurrency: 16 } },
      providers: {
        openai: { base_url: `${compatible.origin}/v1`, api_key: 'sk-recorded-0000000000', models: ['recorded', 'recorded-embed'] },
        openrouter: { type: 'openrouter', base_url: `${router.origin}/v1`, api_key: 'sk-or-recorded-00000000', models: ['recorded'] }
      }
    }
  })
  const client = gateway.client()
  const streams = [
    { name: 'openai-chat-stream-2', provider: 'openai', fake: compatible },
    { name: 'openrouter-chat-stream', provider: 'openrouter', fake: router },
    { name: 'openrouter-stream-reasoning', provider: 'openrouter', fake: router },
    { name: 'openrouter-stream-error', provider: 'openrouter', fake: router },
    { name: 'openrouter-tool-calls-2026-08', provider: 'openrouter', fake: router },
    { name: 'ollama-compat-chat-stream-thinking', provider: 'openai', fake: compatible },
    { name: 'ollama-compat-stream-2026-08', provider: 'openai', fake: compatible },
    { name: 'ollama-compat-parallel-tools', provider: 'openai', fake: compatible }
  ]

  for (const { name, provider, fake } of streams) {
    recorded(name, chat).forEach((interaction, index) => {
      const text = textOf(interaction)
      if (interaction.response.status !== 200 || (!text.startsWith('data:') && !text.startsWith(':'))) return
      const request = {
        ...interaction.request.body,
        model: `${provider}/recorded`
      } as unknown as OpenAI.ChatCompletionCreateParamsStreaming
      t.test(`${name} ${index}: the strictest path of the client finishes it`, async t => {
        fake.behaviour = replay(interaction)
        const final = await client.chat.completions.stream(request as never).finalChatCompletion()
        const whole = expected(text)
        t.equal(final.choices[0]?.message.content ?? '', whole.content)
        t.equal(final.choices[0]?.finish_reason, whole.finish)
        t.same(
          (final.choices[0]?.message.tool_calls ?? []).map(call =>
            'function' in call ? [call.id, call.function.name, call.function.arguments] : []
          ),
          whole.tools
        )
      })
      t.test(`${name} ${index}: the client's bytes are the upstream's, but for the usage event, wherever the chunks are cut`, async t => {
        const unasked = { ...request, stream: true, stream_options: undefined }
        const kept = text
          .split(/(?<=\n\n)/)
          .filter(event => !isFinalUsage(event))
          .join('')
        const length = Buffer.byteLength(text)
        // Every place in a small recording is a lot of requests; the adapter's own test tries them all.
        for (let round = 0; round < 25; round++) {
          const cut = Math.floor((length * (round + 0.5)) / 25)
          fake.behaviour = replay(interaction, round === 0 ? [] : [cut - 1, cut, cut + 1])
          const answer = await gateway.fetch('/v1/chat/completions', { json: unasked })
          t.equal(await answer.text(), kept, `cut at ${cut}`)
        }
      })
    })
  }

  t.test('ollama-native-chat-stream: the native stream becomes one the client finishes', async t => {
    for (const interaction of recorded('ollama-native-chat-stream', chat)) {
      const lines = textOf(interaction)
        .trim()
        .split('\n')
        .map(line => JSON.parse(line) as { message?: { content: string }; eval_count?: number })
      const content = lines.map(line => line.message?.content ?? '').join('')
      const length = Buffer.byteLength(textOf(interaction))
      for (const cuts of [[], [1, 2, 3], [Math.floor(length / 2)], [length - 3, length - 1]]) {
        ollama.behaviour = replay(interaction, cuts)
        const final = await client.chat.completions
          .stream({ model: 'llama3', messages: interaction.request.body.messages as never, stream_options: { include_usage: true } })
          .finalChatCompletion()
        t.equal(final.choices[0]?.message.content, content)
        t.equal(final.usage?.completion_tokens, lines.at(-1)?.eval_count)
      }
    }
  })

  t.test("errors: each provider's own form becomes OpenAI's", async t => {
    const cases: [string, string, typeof compatible, number][] = [
      ['openrouter-error-401', 'openrouter', router, 502],
      ['ollama-cloud-error-401', 'openai', compatible, 502]
    ]
    for (const [name, provider, fake, status] of cases) {
      const [interaction] = recorded(name, chat)
      if (interaction === undefined) throw new Error(`${name} holds no chat request`)
      fake.behaviour = replay(interaction)
      const answer = await gateway.fetch('/v1/chat/completions', {
        json: { model: `${provider}/recorded`, messages: [{ role: 'user', content: 'hi' }] }
      })
      t.equal(answer.status, status)
      t.match(await answer.json(), { error: { message: /401/, type: 'server_error', param: null, code: 'upstream_denied' } })
    }
  })

  for (const name of ['openai-embeddings-base64', 'openai-embeddings-dimensions']) {
    t.test(`${name}: the vectors are the recorded ones, in whichever encoding they are asked for`, async t => {
      for (const interaction of recorded(name, /embeddings$/)) {
        const { body } = interaction.request
        const { data, usage } = interaction.response.body as {
          data: { embedding: number[] | string }[]
          usage: { prompt_tokens: number }
        }
        const vectors = data.map(({ embedding }) => (typeof embedding === 'string' ? floatsOf(embedding) : embedding))
        compatible.others.set('/embeddings', replay(interaction))
        // A space of its own for each: they have different lengths.
        const request = { ...body, model: 'openai/recorded-embed', dimensions: vectors[0]?.length }
        const float = (await (await gateway.fetch('/v1/embeddings', { json: { ...request, encoding_format: 'float' } })).json()) as {
          data: { embedding: number[] }[]
          usage: unknown
        }
        t.ok(float.data.every(({ embedding }, at) => isSame(embedding, vectors[at] as number[])))
        t.same(float.usage, usage)
        const base64 = (await (await gateway.fetch('/v1/embeddings', { json: { ...request, encoding_format: 'base64' } })).json()) as {
          data: { embedding: string }[]
        }
        t.same(
          base64.data.map(({ embedding }) => embedding),
          vectors.map(base64Of)
        )
        const { encoding_format: _, ...unsaid } = request as Record<string, unknown>
        const sdk = await client.embeddings.create(unsaid as unknown as OpenAI.EmbeddingCreateParams)
        t.ok(sdk.data.every(({ embedding }, at) => isSame(embedding, vectors[at]?.map(Math.fround) as number[])))
      }
    })
  }

  t.test("errors of OpenAI's own: what the caller can mend is told as it came, what is the house's business is not", async t => {
    const asked = { embeddings: { input: 'a' }, responses: { input: 'a' } }
    const cases: [string, 'embeddings' | 'responses', number, object][] = [
      ['openai-embeddings-error', 'embeddings', 404, { type: 'invalid_request_error', code: 'model_not_found' }],
      ['openai-error-context-length', 'responses', 400, { type: 'invalid_request_error', code: 'context_length_exceeded', param: 'input' }],
      ['openai-error-401', 'responses', 502, { type: 'server_error', code: 'upstream_denied', param: null }]
    ]
    for (const [name, route, status, error] of cases) {
      const [interaction] = recorded(name, new RegExp(`${route}$`))
      if (interaction === undefined) throw new Error(`${name} holds no such request`)
      compatible.behaviour = replay(interaction)
      compatible.others.set('/embeddings', replay(interaction))
      const model = route === 'embeddings' ? 'openai/recorded-embed' : 'openai/recorded'
      for (const stream of route === 'embeddings' ? [false] : [false, true]) {
        const answer = await gateway.fetch(`/v1/${route}`, { json: { ...asked[route], model, ...(stream ? { stream } : {}) } })
        t.equal(answer.status, status, name)
        const { error: told } = (await answer.json()) as { error: Record<string, unknown> }
        t.same(Object.keys(told).sort(), ['code', 'message', 'param', 'type'])
        t.match(told, error, name)
      }
    }
  })
})

interface Whole {
  content: string
  finish: string | null
  tools: [string, string, string][]
}

/** What a stream says when it is put together, by the rules of the protocol. */
function expected(text: string): Whole {
  const whole: Whole = { content: '', finish: null, tools: [] }
  for (const line of text.split('\n')) {
    if (!line.startsWith('data: {')) continue
    const chunk = JSON.parse(line.slice(6)) as {
      choices?: {
        delta?: { content?: string; tool_calls?: { index: number; id?: string; function?: { name?: string; arguments?: string } }[] }
        finish_reason?: string | null
      }[]
    }
    for (const choice of chunk.choices ?? []) {
      whole.content += choice.delta?.content ?? ''
      whole.finish = choice.finish_reason || whole.finish
      for (const call of choice.delta?.tool_calls ?? []) {
        const known = (whole.tools[call.index] ??= [call.id ?? '', call.function?.name ?? '', ''])
        known[2] += call.function?.arguments ?? ''
      }
    }
  }
  return whole
}

/** The last event with figures and nothing new; and what OpenRouter says after the end of an answer. */
function isFinalUsage(event: string): boolean {
  if (!event.startsWith('data: {')) return false
  const chunk = JSON.parse(event.slice(6)) as { usage?: object | null; error?: object; choices: { delta: { content?: string } }[] }
  return chunk.error !== undefined || (chunk.usage != null && chunk.choices.every(choice => !choice.delta.content))
}
