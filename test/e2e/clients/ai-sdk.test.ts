// The Vercel AI SDK: its OpenAI provider by Responses (the default) and by chat, and its provider for compatible servers.

import { createOpenAI } from '@ai-sdk/openai'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { type EmbeddingModel, embed, embedMany, generateText, isStepCount, type LanguageModel, Output, streamText, tool } from 'ai'
import t from 'tap'
import { z } from 'zod'
import { plainText, promptTokens, speak, weatherman } from '../../support/mind.ts'
import { callsTo, chatModels, completionModels, dimensions, embeddingModels, kinds, setStage } from '../../support/stage.ts'
import { chunk, nativeLines } from '../../support/upstream.ts'
import { isSame, vectorOf } from '../../support/vectors.ts'
import { until } from '../../support/wait.ts'

const stage = await setStage(t)
const { gateway } = stage
t.afterEach(() => stage.reset())
// The SDK warns on the console by default; here a warning is a failure.
const warnings: unknown[] = []
Object.assign(globalThis, { AI_SDK_LOG_WARNINGS: (given: { warnings: unknown[] }) => warnings.push(...given.warnings) })

const baseURL = `${gateway.url}/v1`
const openai = createOpenAI({ baseURL, apiKey: gateway.key })
const compatible = createOpenAICompatible({
  name: 'house',
  baseURL,
  apiKey: gateway.key,
  includeUsage: true,
  supportsStructuredOutputs: true
})
const ways: Record<string, (model: string) => Exclude<LanguageModel, string>> = {
  'openai, responses': model => openai(model),
  'openai, chat': model => openai.chat(model),
  'openai-compatible': model => compatible(model)
}
const words = plainText.join('')
const figures = { inputTokens: promptTokens, outputTokens: 3, totalTokens: promptTokens + 3 }
const weather = tool({
  description: 'The weather of a city',
  inputSchema: z.object({ city: z.string(), unit: z.string() }),
  execute: async ({ city, unit }) => `${city} 21 ${unit}`
})

for (const [way, modelOf] of Object.entries(ways)) {
  for (const kind of kinds) {
    const model = modelOf(chatModels[kind])

    t.test(`${way}, ${kind}: generateText`, async t => {
      const { text, usage, finishReason, warnings: given } = await generateText({ model, prompt: 'Hello', maxRetries: 0 })
      t.equal(text, words)
      t.equal(finishReason, 'stop')
      t.match(usage, figures)
      t.same(given ?? [], [])
    })

    t.test(`${way}, ${kind}: streamText`, async t => {
      const errors: unknown[] = []
      const result = streamText({
        model,
        instructions: 'Be brief',
        prompt: 'Hello',
        maxRetries: 0,
        onError: ({ error }) => {
          errors.push(error)
        }
      })
      const pieces: string[] = []
      for await (const piece of result.textStream) pieces.push(piece)
      t.same(pieces, plainText)
      t.equal(await result.finishReason, 'stop')
      t.match(await result.usage, figures)
      t.same(errors, [])
    })

    t.test(`${way}, ${kind}: an object by its schema, at once and streamed`, async t => {
      const output = Output.object({ schema: z.object({ city: z.string(), celsius: z.number() }) })
      const whole = await generateText({ model, prompt: 'Lisbon?', output, maxRetries: 0 })
      t.same(whole.output, { city: 'Lisbon', celsius: 21 })
      const result = streamText({ model, prompt: 'Lisbon?', output, maxRetries: 0 })
      const partial: unknown[] = []
      for await (const piece of result.partialOutputStream) partial.push(piece)
      t.same(await result.output, { city: 'Lisbon', celsius: 21 })
      t.ok(partial.length > 1, 'it grows')
    })

    t.test(`${way}, ${kind}: tools in several steps, at once and streamed`, async t => {
      const asked = { model, prompt: 'Lisbon and Łódź?', tools: { weather }, stopWhen: isStepCount(3), maxRetries: 0 }
      const whole = await generateText(asked)
      t.equal(whole.text, 'The tools said: Lisbon 21 °C and Łódź 21 °C')
      t.equal(whole.steps.length, 2)
      t.same(
        whole.steps[0]?.toolCalls.map(({ input }) => input),
        [
          { city: 'Lisbon', unit: '°C' },
          { city: 'Łódź', unit: '°C' }
        ]
      )
      t.equal(whole.steps[0]?.finishReason, 'tool-calls')
      t.match(whole.totalUsage, { inputTokens: 2 * promptTokens })
      const result = streamText(asked)
      let text = ''
      for await (const piece of result.textStream) text += piece
      t.equal(text, whole.text)
      t.equal((await result.steps).length, 2)
    })
  }

  for (const [kind, name] of Object.entries({ openai: chatModels.openai, ollama: chatModels.ollama })) {
    t.test(`${way}, ${kind}: an abort in the middle closes the upstream`, async t => {
      const fake = kind === 'openai' ? stage.openai : stage.ollama
      fake.behaviour = (call, response) => {
        response.writeHead(200, { 'content-type': kind === 'openai' ? 'text/event-stream' : 'application/x-ndjson' })
        response.write(kind === 'openai' ? chunk({ role: 'assistant', content: 'x' }) : nativeLines(String(call.body.model), 'x', 'y')[0])
      }
      const before = fake.aborted.count
      const leaving = new AbortController()
      const result = streamText({ model: modelOf(name), prompt: 'Hello', abortSignal: leaving.signal, maxRetries: 0, onError: () => {} })
      const types: string[] = []
      for await (const { type } of result.fullStream) {
        types.push(type)
        if (type === 'text-delta') leaving.abort()
      }
      const leftAt = performance.now()
      await until('the upstream to be closed', () => fake.aborted.count === before + 1)
      t.ok(performance.now() - leftAt < 500)
      t.equal(types.at(-1), 'abort')
    })
  }
}

t.test('by Responses, what was said before is referred to by its id, within an answer and after it', async t => {
  // By default this provider trusts that the server keeps what it said.
  stage.openai.behaviour = speak(heard => ({ text: ['Let me look. '], ...weatherman(heard) }))
  const model = openai(chatModels.openai)
  for (const streamed of [false, true]) {
    const asked = {
      model,
      messages: [{ role: 'user' as const, content: 'Lisbon?' }],
      tools: { weather },
      stopWhen: isStepCount(3),
      maxRetries: 0
    }
    const first = streamed ? streamText(asked) : await generateText(asked)
    t.match(await first.text, /^The tools said: /)
    t.equal((await first.steps).length, 2)
    stage.reset()
    const { messages } = await first.response
    const second = await generateText({
      model,
      messages: [...asked.messages, ...messages, { role: 'user', content: 'Thanks' }],
      maxRetries: 0
    })
    t.equal(second.text, words)
    const [within, after] = callsTo(stage.openai, '/chat/completions')
      .slice(-2)
      .map(({ body }) => body.messages as { role: string; content: string; tool_calls?: unknown[] }[])
    t.match(within?.[1], { role: 'assistant', content: 'Let me look. ', tool_calls: [{}, {}] })
    t.ok(after?.some(({ role, content }) => role === 'assistant' && content.startsWith('The tools said')))
    stage.openai.behaviour = speak(heard => ({ text: ['Let me look. '], ...weatherman(heard) }))
  }
  const reference = [{ type: 'item_reference', id: 'msg_of_nobody' }]
  const unknown = await gateway.fetch('/v1/responses', { json: { model: chatModels.openai, input: reference } })
  t.equal(unknown.status, 400)
  t.match(await unknown.json(), { error: { code: 'unsupported_parameter', param: 'input[0]', message: /"store": false/ } })
})

t.test('what one source was told, another cannot refer to; and with store: false nobody can', async t => {
  const say = async (store: boolean): Promise<string> => {
    const answer = await gateway.fetch('/v1/responses', { json: { model: chatModels.openai, input: 'Hello', store } })
    return ((await answer.json()) as { output: { id: string }[] }).output[0]?.id as string
  }
  const made = await gateway.fetch('/v1/keys', { json: { kind: 'source', source: 'stranger' } })
  const { key } = (await made.json()) as { key: string }
  const refer = async (id: string, as: string): Promise<number> => {
    const json = {
      model: chatModels.openai,
      input: [
        { type: 'item_reference', id },
        { role: 'user', content: 'And?' }
      ]
    }
    return (await gateway.fetch('/v1/responses', { headers: { authorization: `Bearer ${as}` }, json })).status
  }
  const kept = await say(true)
  t.equal(await refer(kept, gateway.key), 200)
  t.equal(await refer(kept, key), 400)
  t.equal(await refer(await say(false), gateway.key), 400)
})

for (const way of ['openai, responses', 'openai-compatible'] as const) {
  t.test(`${way}: thoughts arrive as thoughts`, async t => {
    // By Responses, thoughts are shown as a summary, and only to those who ask for one.
    const providerOptions = {
      openai: { reasoningEffort: 'low', reasoningSummary: 'auto', forceReasoning: true },
      house: { reasoningEffort: 'low' }
    }
    for (const name of [chatModels.compatible, chatModels.ollama]) {
      const result = streamText({ model: (ways[way] as (typeof ways)[string])(name), prompt: 'Think', providerOptions, maxRetries: 0 })
      for await (const _ of result.textStream);
      t.equal(await result.reasoningText, 'Let me think', name)
      t.equal(await result.text, words)
    }
  })
}

for (const kind of kinds) {
  t.test(`${kind}: one text and many embedded, by both providers`, async t => {
    const models: EmbeddingModel[] = [openai.embedding(embeddingModels[kind]), compatible.embeddingModel(embeddingModels[kind])]
    const seed = kinds.indexOf(kind) + 1
    const values = Array.from({ length: 20 }, (_, index) => `текст ${index} 世界`)
    for (const model of models) {
      const one = await embed({ model, value: 'Hello', maxRetries: 0 })
      t.ok(isSame(one.embedding, vectorOf('Hello', dimensions, seed)))
      t.equal(one.usage.tokens, 4)
      const { embeddings } = await embedMany({ model, values, maxRetries: 0 })
      t.ok(embeddings.every((vector, index) => isSame(vector, vectorOf(values[index], dimensions, seed))))
    }
  })

  t.test(`${kind}: the legacy completion models`, async t => {
    for (const model of [openai.completion(completionModels[kind]), compatible.completionModel(completionModels[kind])]) {
      const { text, usage } = await generateText({ model, prompt: 'Once', maxOutputTokens: 20, maxRetries: 0 })
      t.ok(text.startsWith(' so it goes: ') && text.includes('Once'))
      t.match(usage, figures)
    }
    // Of itself: it has a tool choice by default, which these models have no place for.
    t.same(
      warnings.splice(0).map(warning => (warning as { feature?: string }).feature),
      ['toolChoice', 'toolChoice']
    )
  })
}

t.test('an error of ours is the SDK’s error, with its status', async t => {
  for (const modelOf of Object.values(ways)) {
    await t.rejects(generateText({ model: modelOf('no-such-model'), prompt: 'Hello', maxRetries: 0 }), {
      name: 'AI_APICallError',
      statusCode: 404,
      message: /no-such-model/
    })
  }
})

t.test('nothing was warned of, and the default way is /v1/responses', async t => {
  t.same(warnings, [])
  const routes = new Set(gateway.lines().map(({ route }) => route))
  t.ok(routes.has('/v1/responses') && routes.has('/v1/chat/completions'))
  t.equal(callsTo(stage.openai, '/responses').length, 0, 'the upstream is asked by chat')
})
