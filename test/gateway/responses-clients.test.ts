// The typed events as real clients read them: the openai SDK and the AI SDK, over a socket.

import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createOpenAI } from '@ai-sdk/openai'
import { generateText, jsonSchema, streamText, tool } from 'ai'
import OpenAI from 'openai'
import { ResponseStream } from 'openai/lib/responses/ResponseStream'
import t, { type Test } from 'tap'
import { createResponsesStream } from '../../gateway/dialects/responses/events.ts'
import { type ResponseOptions, responseObject } from '../../gateway/dialects/responses/object.ts'
import { type ResponsesRequest, readResponsesRequest } from '../../gateway/dialects/responses/request.ts'
import { GatewayError } from '../../routing/errors.ts'
import { fc } from '../support/properties.ts'

type Json = Record<string, unknown>

/** What the model says: chunks for a stream, or a completion; an error ends the stream badly. */
interface Scenario {
  readonly deltas: readonly Json[]
  readonly finish?: string
  readonly error?: GatewayError
}

const usage = { prompt_tokens: 9, completion_tokens: 4, total_tokens: 13 }

const hello: Scenario = { deltas: [{ role: 'assistant', content: '' }, { content: 'Hel' }, { content: 'lo' }] }
const thinking: Scenario = { deltas: [{ reasoning: 'h' }, { reasoning: 'm' }, { content: 'Hello' }] }
const refusing: Scenario = { deltas: [{ refusal: 'No' }, { refusal: '.' }] }
const cutOff: Scenario = { deltas: [{ content: 'Hel' }], finish: 'length' }
const twoCalls: Scenario = {
  deltas: [
    { content: 'Let me see.' },
    { tool_calls: [{ index: 0, id: 'call_a', type: 'function', function: { name: 'weather', arguments: '' } }] },
    { tool_calls: [{ index: 0, function: { arguments: '{"city":' } }] },
    { tool_calls: [{ index: 1, id: 'call_b', type: 'function', function: { name: 'weather', arguments: '{"city"' } }] },
    { tool_calls: [{ index: 0, function: { arguments: '"Lisbon"}' } }] },
    { tool_calls: [{ index: 1, function: { arguments: ':"Porto"}' } }] }
  ],
  finish: 'tool_calls'
}
const broken: Scenario = { deltas: [{ content: 'Hel' }], error: new GatewayError('upstream_broke', 'It broke.') }

function optionsOf(echo: ResponseOptions['echo']): ResponseOptions {
  let ids = 0
  return { id: 'resp_1', createdAt: 5, echo, newId: () => String(++ids), now: () => 7 }
}

function chunksOf({ deltas, finish = 'stop' }: Scenario): Json[] {
  const chunks: Json[] = deltas.map(delta => ({ model: 'm-1', choices: [{ index: 0, delta, finish_reason: null }] }))
  return [...chunks, { choices: [{ index: 0, delta: {}, finish_reason: finish }] }, { choices: [], usage, x_llm_mcp: { provider: 'p' } }]
}

function streamed(scenario: Scenario, echo: ResponseOptions['echo']): Buffer {
  const stream = createResponsesStream(optionsOf(echo))
  const { error } = scenario
  const chunks = error === undefined ? chunksOf(scenario) : chunksOf(scenario).slice(0, scenario.deltas.length)
  return Buffer.concat([
    stream.open(),
    ...chunks.map(chunk => stream.chunk(chunk)),
    error === undefined ? stream.finish() : stream.fail(error)
  ])
}

/** A server that reads every request with our code and answers with ours. */
async function serve(t: Test, scenario: Scenario): Promise<{ url: string; requests: ResponsesRequest[] }> {
  const requests: ResponsesRequest[] = []
  const server = createServer(async (incoming, outgoing) => {
    const bytes: Buffer[] = []
    for await (const piece of incoming) bytes.push(piece as Buffer)
    const request = readResponsesRequest(JSON.parse(Buffer.concat(bytes).toString()) as Json)
    requests.push(request)
    if (request.chat.stream === true) {
      outgoing.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' })
      outgoing.end(streamed(scenario, request.echo))
    } else {
      outgoing.writeHead(200, { 'content-type': 'application/json' })
      outgoing.end(JSON.stringify(responseObject(completionOf(scenario), optionsOf(request.echo))))
    }
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    return new Promise<void>(resolve => server.close(() => resolve()))
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`, requests }
}

function completionOf({ deltas, finish = 'stop' }: Scenario): Json {
  const text = (name: string): string => deltas.map(delta => (typeof delta[name] === 'string' ? delta[name] : '')).join('')
  const calls = deltas.flatMap(
    delta => (delta.tool_calls ?? []) as { index: number; id?: string; function: { name?: string; arguments: string } }[]
  )
  const tool_calls = calls
    .filter(call => call.id !== undefined)
    .map(({ index, id, function: { name } }) => {
      const words = calls.filter(call => call.index === index).map(call => call.function.arguments)
      return { id, type: 'function', function: { name, arguments: words.join('') } }
    })
  const message = {
    role: 'assistant',
    content: text('content'),
    reasoning: text('reasoning'),
    refusal: text('refusal') || null,
    tool_calls
  }
  return { model: 'm-1', choices: [{ index: 0, message, finish_reason: finish }], usage, x_llm_mcp: { provider: 'p' } }
}

function openai(url: string): OpenAI {
  return new OpenAI({ baseURL: url, apiKey: 'k', maxRetries: 0 })
}

const weather = {
  type: 'function' as const,
  name: 'weather',
  strict: true,
  parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'], additionalProperties: false }
}

t.test('the openai SDK streams an answer and has it whole at the end', async t => {
  const { url, requests } = await serve(t, hello)
  const stream = openai(url).responses.stream({ model: 'm', input: 'Say hello', instructions: 'be brief' })
  const deltas: string[] = []
  stream.on('response.output_text.delta', event => deltas.push(event.delta))
  const response = await stream.finalResponse()
  t.strictSame(deltas, ['Hel', 'lo'])
  t.equal(response.output_text, 'Hello')
  t.match(response, { status: 'completed', model: 'm-1', instructions: 'be brief', x_llm_mcp: { provider: 'p' } })
  t.match(response.usage, { input_tokens: 9, output_tokens: 4, total_tokens: 13 })
  t.match(requests[0]?.chat, { model: 'm', stream: true, messages: [{ role: 'system' }, { role: 'user', content: 'Say hello' }] })
})

t.test('the openai SDK reads every kind of answer, streamed and whole alike', async t => {
  for (const [name, scenario] of Object.entries({ hello, thinking, refusing, cutOff, twoCalls })) {
    const { url } = await serve(t, scenario)
    const whole = await openai(url).responses.create({ model: 'm', input: 'x', tools: [weather] })
    const final = await openai(url)
      .responses.stream({ model: 'm', input: 'x', tools: [weather] })
      .finalResponse()
    t.match(JSON.parse(JSON.stringify(final)), { ...JSON.parse(JSON.stringify(whole)), output: Array, tools: Array }, name)
    t.match(final.output, whole.output, name)
    t.equal(final.status, scenario === cutOff ? 'incomplete' : 'completed')
  }
  const { url } = await serve(t, thinking)
  const { output } = await openai(url).responses.stream({ model: 'm', input: 'x' }).finalResponse()
  t.match(output, [{ type: 'reasoning', content: [{ type: 'reasoning_text', text: 'hm' }] }, { type: 'message' }])
})

t.test('what the openai SDK got as output it can send back as input', async t => {
  const { url, requests } = await serve(t, twoCalls)
  const client = openai(url)
  const first = await client.responses.stream({ model: 'm', input: 'weather?', tools: [weather] }).finalResponse()
  const calls = first.output.filter(item => item.type === 'function_call')
  t.match(calls, [
    { call_id: 'call_a', arguments: '{"city":"Lisbon"}', parsed_arguments: { city: 'Lisbon' } },
    { call_id: 'call_b', arguments: '{"city":"Porto"}' }
  ])
  const answers = calls.map(call => ({ type: 'function_call_output' as const, call_id: call.call_id, output: 'sunny' }))
  const input = [{ role: 'user', content: 'weather?' }, ...first.output, ...answers] as OpenAI.Responses.ResponseInput
  await client.responses.create({ model: 'm', input })
  t.strictSame(requests[1]?.chat.messages, [
    { role: 'user', content: 'weather?' },
    {
      role: 'assistant',
      content: 'Let me see.',
      tool_calls: [
        { id: 'call_a', type: 'function', function: { name: 'weather', arguments: '{"city":"Lisbon"}' } },
        { id: 'call_b', type: 'function', function: { name: 'weather', arguments: '{"city":"Porto"}' } }
      ]
    },
    { role: 'tool', tool_call_id: 'call_a', content: 'sunny' },
    { role: 'tool', tool_call_id: 'call_b', content: 'sunny' }
  ])
})

t.test('a failure in mid-answer is thrown by the openai SDK, however it is read', async t => {
  const { url } = await serve(t, broken)
  const expected = { message: /It broke/, code: 'upstream_broke', type: 'server_error' }
  await t.rejects(openai(url).responses.stream({ model: 'm', input: 'x' }).finalResponse(), expected)
  const seen: string[] = []
  await t.rejects(async () => {
    for await (const event of await openai(url).responses.create({ model: 'm', input: 'x', stream: true })) seen.push(event.type)
  }, expected)
  t.equal(seen.at(-1), 'response.output_text.delta')
})

t.test('the AI SDK reads text, calls, a cut and a failure', async t => {
  const read = async (scenario: Scenario) => {
    const { url } = await serve(t, scenario)
    const errors: unknown[] = []
    const result = streamText({
      model: createOpenAI({ baseURL: url, apiKey: 'k' }).responses('m'),
      prompt: 'x',
      tools: { weather: tool({ inputSchema: jsonSchema<{ city: string }>(weather.parameters) }) },
      maxRetries: 0,
      onError: ({ error }) => {
        errors.push(error)
      }
    })
    let text = ''
    const calls: unknown[] = []
    const finishes: string[] = []
    for await (const part of result.fullStream) {
      if (part.type === 'text-delta') text += part.text
      if (part.type === 'tool-call') calls.push(part.input)
      if (part.type === 'finish') finishes.push(part.finishReason)
    }
    return { text, calls, finishes, errors: errors.length }
  }
  t.strictSame(await read(hello), { text: 'Hello', calls: [], finishes: ['stop'], errors: 0 })
  t.strictSame(await read(thinking), { text: 'Hello', calls: [], finishes: ['stop'], errors: 0 })
  t.strictSame(await read(cutOff), { text: 'Hel', calls: [], finishes: ['length'], errors: 0 })
  t.strictSame(await read(twoCalls), {
    text: 'Let me see.',
    calls: [{ city: 'Lisbon' }, { city: 'Porto' }],
    finishes: ['tool-calls'],
    errors: 0
  })
  const failed = await read(broken)
  t.equal(failed.errors, 1)
  t.not(failed.finishes.at(-1), 'stop')
})

t.test('the AI SDK reads a whole response', async t => {
  const { url } = await serve(t, thinking)
  const result = await generateText({ model: createOpenAI({ baseURL: url, apiKey: 'k' }).responses('m'), prompt: 'x', maxRetries: 0 })
  t.equal(result.text, 'Hello')
  t.match(result.usage, { inputTokens: 9, outputTokens: 4 })
})

t.test('the SDK follows any order of deltas to our last event', async t => {
  const words = fc.string({ maxLength: 4 })
  const callDelta = (index: number) =>
    fc.record({ name: words, arguments: words, id: fc.constantFrom(undefined, 'a', 'b') }).map(({ id, ...body }) => ({
      tool_calls: [{ index, id, function: body }]
    }))
  const delta = fc.oneof(
    words.map(content => ({ content })),
    words.map(reasoning => ({ reasoning })),
    words.map(refusal => ({ refusal })),
    callDelta(0),
    callDelta(1),
    callDelta(2)
  )
  const { echo } = readResponsesRequest({ model: 'm', input: 'x' })
  const property = fc.asyncProperty(fc.array(delta, { maxLength: 12 }), fc.constantFrom('stop', 'length'), async (deltas, finish) => {
    const events = streamed({ deltas, finish }, echo)
      .toString()
      .split('\n')
      .filter(line => line.startsWith('data: '))
      .map(line => line.slice('data: '.length))
    // Without the last event it has nothing but the items' own events to go by.
    const followed = await follow(events.slice(0, -1))
    const last = JSON.parse(events.at(-1) ?? '{}').response as Json
    assert.deepEqual(followed.output, last.output)
    assert.deepEqual((await follow(events)).output, last.output)
  })
  await t.resolves(fc.assert(property, { numRuns: 200 }))
})

async function follow(events: readonly string[]): Promise<Json> {
  const lines = new TextEncoder().encode(events.map(event => `${event}\n`).join(''))
  const readable = new ReadableStream({
    start(controller) {
      controller.enqueue(lines)
      controller.close()
    }
  })
  const response = await ResponseStream.fromReadableStream(readable).finalResponse()
  const bare = JSON.parse(JSON.stringify(response)) as { output: { content?: Json[] }[] }
  // What the SDK's parser adds of its own.
  for (const item of bare.output) {
    delete (item as Json).parsed_arguments
    for (const part of item.content ?? []) delete part.parsed
  }
  return bare as unknown as Json
}
