// The openai package, unchanged but for its base URL and key: every endpoint it has that we serve, on every kind of upstream.

import OpenAI from 'openai'
import { zodResponseFormat, zodTextFormat } from 'openai/helpers/zod'
import t from 'tap'
import { z } from 'zod'
import { plainText, promptTokens, speak, speakNatively, thoughts } from '../../support/mind.ts'
import { callsTo, chatModels, completionModels, dimensions, embeddingModels, kinds, setStage } from '../../support/stage.ts'
import { answerJson } from '../../support/upstream.ts'
import { isSame, vectorOf } from '../../support/vectors.ts'

const stage = await setStage(t)
const { gateway } = stage
const client = gateway.client()
t.afterEach(() => stage.reset())

const messages = [{ role: 'user' as const, content: 'How warm is it in Lisbon and in Łódź?' }]
const words = plainText.join('')
const seeds = { openai: 1, compatible: 2, ollama: 3 }
const parameters = {
  type: 'object',
  properties: { city: { type: 'string' }, unit: { type: 'string' } },
  required: ['city', 'unit'],
  additionalProperties: false
}
const bothCities = [
  ['weather', { city: 'Lisbon', unit: '°C' }],
  ['weather', { city: 'Łódź', unit: '°C' }]
]
const Weather = z.object({ city: z.string(), celsius: z.number() })

for (const kind of kinds) {
  const model = chatModels[kind]

  t.test(`chat on ${kind}: the stream helper tells every word and the figures`, async t => {
    const pieces: string[] = []
    const stream = client.chat.completions.stream({ model, messages, stream_options: { include_usage: true } })
    stream.on('content.delta', ({ delta }) => pieces.push(delta))
    const final = await stream.finalChatCompletion()
    t.equal(final.choices[0]?.message.content, words)
    t.same(pieces.filter(Boolean), plainText, 'in the pieces it was said')
    t.match(final.usage, { prompt_tokens: promptTokens, completion_tokens: 3, total_tokens: promptTokens + 3 })
  })

  t.test(`chat on ${kind}: two tools at once, streamed, and the loop to its end`, async t => {
    const asked: unknown[] = []
    const runner = client.chat.completions.runTools({
      model,
      stream: true,
      messages,
      tools: [
        {
          type: 'function',
          function: {
            name: 'weather',
            description: 'The weather of a city',
            parameters,
            parse: JSON.parse,
            function: (given: { city: string }) => {
              asked.push(['weather', given])
              return `${given.city} 21`
            }
          }
        }
      ]
    })
    t.equal(await runner.finalContent(), 'The tools said: Lisbon 21 and Łódź 21')
    t.same(asked, bothCities)
    const calls = runner.messages.flatMap(message => ('tool_calls' in message ? (message.tool_calls ?? []) : []))
    t.equal(new Set(calls.map(({ id }) => id)).size, 2, 'each call has an id of its own')
  })

  t.test(`chat on ${kind}: a JSON schema is filled and parsed`, async t => {
    const { choices } = await client.chat.completions.parse({ model, messages, response_format: zodResponseFormat(Weather, 'weather') })
    t.same(choices[0]?.message.parsed, { city: 'Lisbon', celsius: 21 })
  })

  t.test(`responses on ${kind}: text, at once`, async t => {
    const response = await client.responses.create({ model, input: 'Hello', instructions: 'Be brief', store: true })
    t.equal(response.output_text, words)
    t.match(response, { object: 'response', status: 'completed', store: false, error: null, model: /./, background: false })
    t.match(response.id, /^resp_/)
    t.match(response.usage, { input_tokens: promptTokens, output_tokens: 3, total_tokens: promptTokens + 3 })
  })

  t.test(`responses on ${kind}: text, streamed`, async t => {
    const stream = client.responses.stream({ model, input: [{ role: 'user', content: [{ type: 'input_text', text: 'Hello' }] }] })
    const pieces: string[] = []
    const numbers: number[] = []
    for await (const event of stream) {
      numbers.push(event.sequence_number)
      if (event.type === 'response.output_text.delta') pieces.push(event.delta)
    }
    const final = await stream.finalResponse()
    t.equal(final.output_text, words)
    t.same(pieces, plainText)
    t.same(numbers, [...numbers.keys()], 'no number is left out')
    t.match(final.usage, { input_tokens: promptTokens, output_tokens: 3 })
  })

  t.test(`responses on ${kind}: two function calls, their outputs, and the answer`, async t => {
    const tools = [{ type: 'function' as const, name: 'weather', parameters, strict: true }]
    const input: OpenAI.Responses.ResponseInput = [{ role: 'user', content: 'Lisbon?' }]
    const first = await client.responses.stream({ model, input, tools, parallel_tool_calls: true }).finalResponse()
    const calls = first.output.filter(item => item.type === 'function_call')
    t.same(
      calls.map(({ name, arguments: given }) => [name, JSON.parse(given)]),
      bothCities
    )
    t.equal(new Set(calls.map(({ call_id }) => call_id)).size, 2)
    // As the API's own guide does it: everything that came goes back, with the outputs behind.
    input.push(...(first.output as OpenAI.Responses.ResponseInputItem[]))
    for (const { call_id, arguments: given } of calls)
      input.push({ type: 'function_call_output', call_id, output: `${(JSON.parse(given) as { city: string }).city} 21` })
    const second = await client.responses.create({ model, input, tools })
    t.equal(second.output_text, 'The tools said: Lisbon 21 and Łódź 21')
  })

  t.test(`responses on ${kind}: a JSON schema is filled and parsed`, async t => {
    const asked = { model, input: 'Lisbon?', text: { format: zodTextFormat(Weather, 'weather') } }
    t.same((await client.responses.parse(asked)).output_parsed, { city: 'Lisbon', celsius: 21 })
    t.same((await client.responses.stream(asked).finalResponse()).output_parsed, { city: 'Lisbon', celsius: 21 })
  })

  t.test(`embeddings on ${kind}: the client's default encoding gives the vectors to the bit`, async t => {
    const input = ['one', 'zwei', 'три 👋🏽']
    const { data, usage } = await client.embeddings.create({ model: embeddingModels[kind], input })
    t.same(
      data.map(({ index }) => index),
      [0, 1, 2]
    )
    t.ok(data.every(({ embedding }, index) => isSame(embedding, vectorOf(input[index], dimensions, seeds[kind]))))
    t.match(usage, { prompt_tokens: 4, total_tokens: 4 })
  })

  t.test(`completions on ${kind}: one prompt, streamed and not; several prompts, several answers`, async t => {
    const model = completionModels[kind]
    const whole = await client.completions.create({ model, prompt: 'Once', max_tokens: 20 })
    t.match(whole, { object: 'text_completion', choices: [{ text: ' so it goes: Once', index: 0, finish_reason: 'stop' }] })
    let text = ''
    let figures: OpenAI.CompletionUsage | undefined
    const stream = await client.completions.create({ model, prompt: 'Once', stream: true, stream_options: { include_usage: true } })
    for await (const { choices, usage } of stream) {
      text += choices[0]?.text ?? ''
      figures = usage ?? figures
    }
    t.equal(text, ' so it goes: Once')
    t.match(figures, { prompt_tokens: promptTokens, completion_tokens: 3 })
    const many = await client.completions.create({ model, prompt: ['Once', 'Twice'], n: 2 })
    t.same(
      many.choices.map(({ index, text }) => [index, text]),
      [' so it goes: Once', ' so it goes: Once', ' so it goes: Twice', ' so it goes: Twice'].map((text, index) => [index, text])
    )
  })
}

for (const kind of ['compatible', 'ollama'] as const) {
  t.test(`responses on ${kind}: thoughts are an item of their own, before the message`, async t => {
    const asked = { model: chatModels[kind], input: 'Think', reasoning: { effort: 'low' as const } }
    for (const response of [await client.responses.create(asked), await client.responses.stream(asked).finalResponse()]) {
      const [reasoning, message] = response.output
      t.match(reasoning, { type: 'reasoning', content: [{ type: 'reasoning_text', text: thoughts.join('') }] })
      t.match(message, { type: 'message', status: 'completed', role: 'assistant' })
      t.equal(response.output_text, words)
    }
  })
}

t.test('an answer that was cut off is incomplete, and the client is told why', async t => {
  const mind = () => ({ text: ['Hel'], finish: 'length' as const })
  stage.openai.behaviour = speak(mind)
  stage.ollama.behaviour = speakNatively(mind)
  for (const model of [chatModels.openai, chatModels.ollama]) {
    const response = await client.responses.stream({ model, input: 'Hello', max_output_tokens: 16 }).finalResponse()
    t.match(response, { status: 'incomplete', incomplete_details: { reason: 'max_output_tokens' } })
    t.equal(response.output_text, 'Hel')
  }
})

t.test('a tool that must be called is called, or refused where nobody can make it', async t => {
  const tool_choice = { type: 'function' as const, name: 'weather' }
  const tools = [{ type: 'function' as const, name: 'weather', parameters, strict: null }]
  const asked = { input: 'Lisbon?', tools, tool_choice }
  await client.responses.create({ ...asked, model: chatModels.openai })
  t.match(callsTo(stage.openai, '/chat/completions').at(-1)?.body, {
    tool_choice: { type: 'function', function: { name: 'weather' } },
    tools: [{ type: 'function', function: { name: 'weather', parameters } }]
  })
  await t.rejects(client.responses.create({ ...asked, model: chatModels.ollama }), {
    status: 400,
    code: 'unsupported_parameter',
    param: 'tool_choice'
  })
})

t.test('models are listed, and retrieved by names with slashes and colons', async t => {
  const ids: string[] = []
  for await (const { id } of client.models.list()) ids.push(id)
  for (const name of [...Object.values(chatModels), ...Object.values(embeddingModels)]) t.ok(ids.includes(name), name)
  const model = await client.models.retrieve('vendor/name:free')
  t.match(model, { id: 'vendor/name:free', object: 'model', owned_by: 'vllm' })
  t.type(model.created, 'number')
  await t.rejects(client.models.retrieve('vendor/name:fre'), { status: 404, code: 'model_not_found', message: /"vendor\/name:free"/ })
})

t.test('a stream that breaks ends in an exception, never in a clean end', async t => {
  stage.compatible.behaviour = async (call, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write(
      `data: ${JSON.stringify({ id: 'x', object: 'chat.completion.chunk', created: 1, model: call.body.model, choices: [{ index: 0, delta: { role: 'assistant', content: 'Hel' }, finish_reason: null }] })}\n\n`
    )
    await new Promise(resolve => setImmediate(resolve))
    response.destroy()
  }
  const model = chatModels.compatible
  const asked = { model, input: 'Hello' }
  t.ok(
    (await caught(client.chat.completions.stream({ model, messages }).finalChatCompletion())) instanceof OpenAI.APIError,
    'the helper of chat'
  )
  t.ok((await caught(client.responses.stream(asked).finalResponse())) instanceof Error, 'the helper of responses')
  const types: string[] = []
  const plain = async (): Promise<void> => {
    for await (const event of await client.responses.create({ ...asked, stream: true })) types.push(event.type)
  }
  t.ok((await caught(plain())) instanceof OpenAI.APIError, 'plain iteration of responses')
  t.notOk(types.includes('response.completed'))
})

t.test('what goes wrong has the class and the code that the client knows', async t => {
  const model = chatModels.openai
  const stranger = gateway.client({ apiKey: 'sk-llm-nobody-00000000000000000000' })
  const calls: Record<string, (client: OpenAI, model: string) => Promise<unknown>> = {
    chat: (client, model) => client.chat.completions.create({ model, messages }),
    responses: (client, model) => client.responses.create({ model, input: 'Hello' }),
    embeddings: (client, model) => client.embeddings.create({ model, input: 'Hello' }),
    completions: (client, model) => client.completions.create({ model, prompt: 'Hello' })
  }
  const names = { chat: model, responses: model, embeddings: embeddingModels.openai, completions: completionModels.openai }
  for (const [name, call] of Object.entries(calls)) {
    const known = names[name as keyof typeof names]
    const denied = await caught(call(stranger, known))
    t.ok(denied instanceof OpenAI.AuthenticationError, `${name}: 401`)
    t.match(denied, { status: 401, code: 'invalid_api_key' })
    const unknown = await caught(call(client, 'no-such-model'))
    t.ok(unknown instanceof OpenAI.NotFoundError, `${name}: 404`)
    t.match(unknown, { status: 404, code: 'model_not_found', param: 'model', type: 'invalid_request_error' })
    const bad = await caught(call(client, ''))
    t.ok(bad instanceof OpenAI.BadRequestError, `${name}: 400`)
    t.match(bad, { status: 400, param: 'model', requestID: /./ })
    const { key } = (await (
      await gateway.fetch('/v1/keys', { json: { kind: 'source', source: `once-${name}`, limits: { requests_per_minute: 1 } } })
    ).json()) as { key: string }
    const once = gateway.client({ apiKey: key })
    await call(once, known)
    const slowed = await caught(call(once, known))
    t.ok(slowed instanceof OpenAI.RateLimitError, `${name}: 429, not ${slowed}`)
    t.match(slowed, { status: 429, code: 'rate_limit_exceeded', type: 'requests' })
    const wait = slowed instanceof OpenAI.RateLimitError ? Number(slowed.headers.get('retry-after-ms')) : 0
    t.ok(wait > 0 && wait <= 60_000, `${name}: ${wait} ms`)
  }
  stage.compatible.behaviour = answerJson(429, {
    error: { message: 'slow down', type: 'requests', param: null, code: 'rate_limit_exceeded' }
  })
  const slowed = await caught(client.chat.completions.create({ model: chatModels.compatible, messages }))
  t.ok(slowed instanceof OpenAI.RateLimitError, "the upstream's own 429")
})

async function caught(promise: Promise<unknown>): Promise<unknown> {
  try {
    return await promise
  } catch (error) {
    return error
  }
}
