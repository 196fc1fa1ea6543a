// Chat chunks as typed events, and whole completions as response objects: shapes, order, and that both agree.

import assert from 'node:assert/strict'
import { createParser } from 'eventsource-parser'
import t from 'tap'
import { createResponsesStream, type ResponsesStream } from '../../gateway/dialects/responses/events.ts'
import { type ResponseOptions, responseObject } from '../../gateway/dialects/responses/object.ts'
import { readResponsesRequest } from '../../gateway/dialects/responses/request.ts'
import { GatewayError } from '../../routing/errors.ts'
import { fc } from '../support/properties.ts'

type Json = Record<string, unknown>
type Event = Json & { type: string; sequence_number: number }

const { echo } = readResponsesRequest({ model: 'm', input: 'hello' })

function options(more: Partial<ResponseOptions> = {}): ResponseOptions {
  let ids = 0
  return { id: 'resp_1', createdAt: 5, echo, newId: () => String(++ids), now: () => 7, ...more }
}

function chunk(delta: unknown, finish_reason: string | null = null, more: Json = {}): Json {
  return {
    id: 'chatcmpl-1',
    object: 'chat.completion.chunk',
    created: 1,
    model: 'm-1',
    choices: [{ index: 0, delta, finish_reason }],
    ...more
  }
}

function toolDelta(index: number, call: Json): Json {
  return { tool_calls: [{ index, ...call }] }
}

const usage = {
  prompt_tokens: 9,
  completion_tokens: 4,
  total_tokens: 13,
  prompt_tokens_details: { cached_tokens: 2 },
  completion_tokens_details: { reasoning_tokens: 1 }
}
const usageChunk = { choices: [], model: 'm-1', usage, x_llm_mcp: { provider: 'p' } }

/** The events of some bytes. Fails on frames that are not named as their type. */
function eventsOf(bytes: Buffer): Event[] {
  const events: Event[] = []
  const parser = createParser({
    onEvent({ event, data }) {
      const parsed = JSON.parse(data) as Event
      if (parsed.type !== event) throw new Error(`${event} holds ${parsed.type}`)
      events.push(parsed)
    },
    onError(error) {
      throw error
    }
  })
  parser.feed(bytes.toString())
  return events
}

function run(chunks: readonly Json[], end: (stream: ResponsesStream) => Buffer = stream => stream.finish()): Event[] {
  const stream = createResponsesStream(options())
  return eventsOf(Buffer.concat([stream.open(), ...chunks.map(piece => stream.chunk(piece)), end(stream)]))
}

function responseOf(events: readonly Event[]): Json {
  return events.at(-1)?.response as Json
}

/** Event types in order; deltas that follow each other once. */
function outline(events: readonly Event[]): string[] {
  return events
    .map(event => event.type.replace(/^response\./, ''))
    .filter((type, index, all) => !type.endsWith('delta') || all[index - 1] !== type)
}

const frame = ['created', 'in_progress']
const textEvents = ['content_part.added', 'output_text.delta', 'output_text.done', 'content_part.done']

t.test('events come in the order of OpenAI', async t => {
  const cases: readonly [title: string, chunks: Json[], expected: string[]][] = [
    [
      'text',
      [chunk({ role: 'assistant', content: '' }), chunk({ content: 'Hel' }), chunk({ content: 'lo' }), chunk({}, 'stop'), usageChunk],
      [...frame, 'output_item.added', ...textEvents, 'output_item.done', 'completed']
    ],
    [
      'one call',
      [
        chunk({
          role: 'assistant',
          content: null,
          tool_calls: [{ index: 0, id: 'c1', type: 'function', function: { name: 'f', arguments: '' } }]
        }),
        chunk(toolDelta(0, { function: { arguments: '{"a"' } })),
        chunk(toolDelta(0, { function: { arguments: ':1}' } })),
        chunk({}, 'tool_calls')
      ],
      [...frame, 'output_item.added', 'function_call_arguments.delta', 'function_call_arguments.done', 'output_item.done', 'completed']
    ],
    [
      'thoughts, then text',
      [chunk({ reasoning: 'hm' }), chunk({ reasoning_content: 'm' }), chunk({ content: 'a' }), chunk({}, 'stop')],
      [
        ...frame,
        'output_item.added',
        'content_part.added',
        'reasoning_text.delta',
        'reasoning_text.done',
        'content_part.done',
        'output_item.done',
        'output_item.added',
        ...textEvents,
        'output_item.done',
        'completed'
      ]
    ],
    [
      'a refusal',
      [chunk({ refusal: 'n' }), chunk({ refusal: 'o' }), chunk({}, 'stop')],
      [
        ...frame,
        'output_item.added',
        'content_part.added',
        'refusal.delta',
        'refusal.done',
        'content_part.done',
        'output_item.done',
        'completed'
      ]
    ],
    [
      'nothing at all is an empty message',
      [chunk({}, 'stop')],
      [...frame, 'output_item.added', 'content_part.added', 'output_text.done', 'content_part.done', 'output_item.done', 'completed']
    ],
    [
      'cut off',
      [chunk({ content: 'a' }), chunk({}, 'length')],
      [...frame, 'output_item.added', ...textEvents, 'output_item.done', 'incomplete']
    ]
  ]
  for (const [title, chunks, expected] of cases) t.strictSame(outline(run(chunks)), expected, title)
})

t.test('payloads have the keys that OpenAI sends', async t => {
  // Keys as recorded from api.openai.com; `name` of arguments.done is from its types.
  const place = ['item_id', 'output_index', 'content_index']
  const keys: Readonly<Record<string, readonly string[]>> = {
    'response.created': ['response'],
    'response.in_progress': ['response'],
    'response.output_item.added': ['item', 'output_index'],
    'response.content_part.added': [...place, 'part'],
    'response.output_text.delta': [...place, 'delta', 'logprobs'],
    'response.output_text.done': [...place, 'logprobs', 'text'],
    'response.content_part.done': [...place, 'part'],
    'response.output_item.done': ['item', 'output_index'],
    'response.function_call_arguments.delta': ['delta', 'item_id', 'output_index'],
    'response.function_call_arguments.done': ['arguments', 'item_id', 'name', 'output_index'],
    'response.custom_tool_call_input.delta': ['delta', 'item_id', 'output_index'],
    'response.custom_tool_call_input.done': ['input', 'item_id', 'output_index'],
    'response.refusal.delta': [...place, 'delta'],
    'response.refusal.done': [...place, 'refusal'],
    'response.reasoning_text.delta': [...place, 'delta'],
    'response.reasoning_text.done': [...place, 'text'],
    'response.completed': ['response']
  }
  const itemKeys: Readonly<Record<string, readonly string[]>> = {
    message: ['content', 'id', 'role', 'status', 'type'],
    function_call: ['arguments', 'call_id', 'id', 'name', 'status', 'type'],
    custom_tool_call: ['call_id', 'id', 'input', 'name', 'status', 'type'],
    reasoning: ['content', 'id', 'summary', 'type']
  }
  const partKeys: Readonly<Record<string, readonly string[]>> = {
    output_text: ['annotations', 'logprobs', 'text', 'type'],
    refusal: ['refusal', 'type'],
    reasoning_text: ['text', 'type']
  }
  const events = run([
    chunk({ reasoning: 'hm' }),
    chunk({ content: 'a', refusal: 'b' }),
    chunk(toolDelta(0, { id: 'c1', type: 'function', function: { name: 'f', arguments: '{}' } })),
    chunk(toolDelta(1, { id: 'c2', type: 'custom', custom: { name: 'g', input: 'x' } })),
    chunk({}, 'tool_calls'),
    { choices: [], usage }
  ])
  t.strictSame([...new Set(events.map(({ type }) => type))].sort(), Object.keys(keys).sort())
  for (const event of events) {
    t.strictSame(Object.keys(event).sort(), ['type', 'sequence_number', ...(keys[event.type] ?? [])].sort(), event.type)
    const { item, part } = event as { item?: { type: string }; part?: { type: string } }
    if (item !== undefined) t.strictSame(Object.keys(item).sort(), itemKeys[item.type], item.type)
    if (part !== undefined) t.strictSame(Object.keys(part).sort(), partKeys[part.type], part.type)
  }
  const recorded = (
    'background completed_at created_at error frequency_penalty id incomplete_details instructions max_output_tokens ' +
    'max_tool_calls metadata model object output parallel_tool_calls presence_penalty previous_response_id prompt_cache_key ' +
    'prompt_cache_retention reasoning safety_identifier service_tier status store temperature text tool_choice tools ' +
    'top_logprobs top_p truncation usage user'
  ).split(' ')
  for (const event of [events[0], events[1], events.at(-1)]) t.strictSame(Object.keys(event?.response as Json).sort(), recorded)
  t.strictSame(
    events.map(event => event.sequence_number),
    events.map((_, index) => index)
  )
})

t.test('the last event holds the whole answer', async t => {
  const events = run([
    chunk({ reasoning: 'hm' }),
    chunk({ content: 'a' }),
    chunk({ content: 'b' }),
    chunk({}, 'stop', { service_tier: 'flex' }),
    usageChunk
  ])
  t.match(events[0]?.response, { status: 'in_progress', output: [], usage: null, completed_at: null, model: 'm' })
  t.match(responseOf(events), {
    id: 'resp_1',
    object: 'response',
    created_at: 5,
    completed_at: 7,
    status: 'completed',
    error: null,
    incomplete_details: null,
    model: 'm-1',
    service_tier: 'flex',
    x_llm_mcp: { provider: 'p' }
  })
  t.strictSame(responseOf(events).usage, {
    input_tokens: 9,
    input_tokens_details: { cached_tokens: 2 },
    output_tokens: 4,
    output_tokens_details: { reasoning_tokens: 1 },
    total_tokens: 13
  })
  t.strictSame(responseOf(events).output, [
    { id: 'rs_1', type: 'reasoning', summary: [], content: [{ type: 'reasoning_text', text: 'hm' }] },
    {
      id: 'msg_2',
      type: 'message',
      status: 'completed',
      role: 'assistant',
      content: [{ type: 'output_text', text: 'ab', annotations: [], logprobs: [] }]
    }
  ])
})

t.test('an answer that was cut off says so, and so does its last item', async t => {
  for (const [finish, reason] of [
    ['length', 'max_output_tokens'],
    ['content_filter', 'content_filter']
  ] as const) {
    const response = responseOf(run([chunk({ reasoning: 'hm' }), chunk({ content: 'a' }), chunk({}, finish)]))
    t.match(response, { status: 'incomplete', incomplete_details: { reason }, completed_at: null, error: null })
    t.match((response.output as Json[])[1], { status: 'incomplete' })
  }
})

t.test('what servers do oddly is borne', async t => {
  const cases: readonly [title: string, chunks: Json[], items: string[]][] = [
    [
      'chunks without a choice, a delta, a call',
      [
        {},
        { choices: null },
        { choices: ['x'] },
        { choices: [{}] },
        chunk(null),
        chunk({ tool_calls: null }),
        chunk({ content: 'a' }),
        chunk({ tool_calls: ['x'] })
      ],
      ['message a']
    ],
    ['another choice', [{ choices: [{ index: 1, delta: { content: 'b' } }] }, chunk({ content: 'a' })], ['message a']],
    ['thoughts twice', [chunk({ reasoning: 'hm', reasoning_content: 'hm' }), chunk({ content: 'a' })], ['reasoning hm', 'message a']],
    ['content as parts', [chunk({ content: [{ type: 'text', text: 'a' }, { type: 'x' }] })], ['message a']],
    [
      'text and thoughts between interleaved calls',
      [
        chunk({ content: 'a' }),
        chunk(toolDelta(0, { id: 'c1', function: { name: 'f', arguments: '{"a":' } })),
        chunk({ content: 'b' }),
        chunk(toolDelta(1, { id: 'c2', function: { name: 'g', arguments: '{' } })),
        chunk(toolDelta(0, { function: { arguments: '1}' } })),
        chunk({ reasoning: 'hm' }),
        chunk(toolDelta(1, { function: { arguments: '}' } }))
      ],
      ['message a', 'f c1 {"a":1}', 'message b', 'g c2 {}', 'reasoning hm']
    ],
    [
      'calls without an index',
      [
        chunk({ tool_calls: [{ id: 'c1', function: { name: 'f', arguments: '{' } }] }),
        chunk({ tool_calls: [{ function: { arguments: '"a":' } }] }),
        chunk({ tool_calls: [{ id: 'c2', function: { name: 'g', arguments: '[]' } }] }),
        chunk({ tool_calls: [{ id: 'c1', function: { arguments: '1}' } }] })
      ],
      ['f c1 {"a":1}', 'g c2 []']
    ],
    [
      'every call numbered 0',
      [
        chunk(toolDelta(0, { id: 'c1', function: { name: 'f', arguments: '{}' } })),
        chunk(toolDelta(0, { id: 'c2', function: { name: 'f', arguments: '[' } })),
        chunk(toolDelta(0, { function: { arguments: ']' } }))
      ],
      ['f c1 {}', 'f c2 []']
    ],
    [
      'a name that comes late',
      [chunk(toolDelta(0, { id: 'c1', function: { arguments: '{' } })), chunk(toolDelta(0, { function: { name: 'f', arguments: '}' } }))],
      ['f c1 {}']
    ],
    ['a name that never comes', [chunk(toolDelta(0, { id: 'c1', function: { arguments: '{}' } }))], [' c1 {}']],
    ['arguments that are no string', [chunk(toolDelta(0, { id: 'c1', function: { name: 'f', arguments: { a: 1 } } }))], ['f c1 {"a":1}']],
    ['no id', [chunk(toolDelta(0, { function: { name: 'f', arguments: '{}' } }))], ['f call_1 {}']],
    [
      'one id for two calls',
      [0, 1].map(index => chunk(toolDelta(index, { id: 'c', function: { name: 'f', arguments: '{}' } }))),
      ['f c {}', 'f call_2 {}']
    ]
  ]
  for (const [title, chunks, items] of cases) {
    const events = run(chunks)
    t.strictSame((responseOf(events).output as Json[]).map(inShort), items, title)
    t.doesNotThrow(() => assertEveryWordWasStreamed(events), title)
  }
})

t.test('calls of a whole completion are told apart by their place', async t => {
  const call = { type: 'function', function: { name: 'f', arguments: '{}' } }
  const message = { role: 'assistant', content: null, tool_calls: [call, null, call] }
  const { output } = responseObject({ choices: [{ message, finish_reason: 'tool_calls' }] }, options())
  t.strictSame((output as Json[]).map(inShort), ['f call_1 {}', 'f call_3 {}'])
  const twins = { tool_calls: [0, 0].map(index => ({ ...call, id: 'c', index })) }
  const response = responseObject({ choices: [{ message: twins }] }, options())
  t.strictSame((response.output as Json[]).map(inShort), ['f c {}', 'f call_2 {}'])
  t.match(responseObject({}, options()), { status: 'completed', usage: null, model: 'm' }, 'nothing in it')
})

function inShort(item: Json): string {
  const { type, name, call_id, content, arguments: words, input } = item
  if (name !== undefined) return `${name} ${call_id} ${words ?? input}`
  return `${type} ${(content as Json[]).map(part => part.text ?? part.refusal).join('|')}`
}

/** Who reads deltas alone must have all that the items hold at the end. */
function assertEveryWordWasStreamed(events: readonly Event[]): void {
  const streamed = new Map<unknown, string>()
  for (const { type, item_id, delta } of events)
    if (type.endsWith('.delta')) streamed.set(item_id, `${streamed.get(item_id) ?? ''}${delta}`)
  for (const { type, item } of events as (Event & { item?: Json })[]) {
    if (type !== 'response.output_item.done' || item === undefined) continue
    const { arguments: words, input, content } = item
    const parts = (content ?? []) as Json[]
    assert.equal(streamed.get(item.id) ?? '', words ?? input ?? parts.map(part => part.text ?? part.refusal).join(''))
  }
}

t.test('logprobs come with their text, and all of them at its end', async t => {
  const one = { token: 'a', bytes: [97], logprob: -0.1, top_logprobs: [{ token: 'a', bytes: [97], logprob: -0.1 }] }
  const two = { ...one, token: 'b' }
  const withLogprobs = (content: string, logprob: Json): Json => ({
    choices: [{ index: 0, delta: { content }, logprobs: { content: [logprob] } }]
  })
  const events = run([
    withLogprobs('a', one),
    withLogprobs('b', two),
    { choices: [{ index: 0, delta: {}, logprobs: null, finish_reason: 'stop' }] }
  ])
  t.strictSame(
    events.filter(event => event.type === 'response.output_text.delta').map(event => event.logprobs),
    [[one], [two]]
  )
  t.strictSame(events.find(event => event.type === 'response.output_text.done')?.logprobs, [one, two])
  t.match(responseOf(events).output, [{ content: [{ text: 'ab', logprobs: [one, two] }] }])
  t.match(responseOf(run([withLogprobs('', one)])).output, [{ content: [{ text: '', logprobs: [one] }] }], 'without a text of their own')
})

t.test('a failure is an error and a failed response with what had been said', async t => {
  const error = new GatewayError('upstream_broke', 'It broke.')
  const events = run([chunk({ content: 'a' }), chunk(toolDelta(0, { id: 'c1', function: { name: 'f', arguments: '{' } }))], stream =>
    stream.fail(error)
  )
  t.match(events.at(-2), {
    type: 'error',
    code: 'upstream_broke',
    message: 'It broke.',
    param: null,
    error: { type: 'server_error', code: 'upstream_broke', message: 'It broke.', param: null }
  })
  t.match(events.at(-1), { type: 'response.failed', response: { status: 'failed', error: { code: 'server_error', message: 'It broke.' } } })
  t.match(responseOf(events).output, [
    { status: 'completed', content: [{ text: 'a' }] },
    { status: 'incomplete', arguments: '{' }
  ])
  t.strictSame(
    events.map(event => event.sequence_number),
    events.map((_, index) => index)
  )
  const codes = [
    ['rate_limit_exceeded', 'rate_limit_exceeded'],
    ['upstream_rate_limited', 'rate_limit_exceeded'],
    ['insufficient_quota', 'insufficient_quota'],
    ['context_length_exceeded', 'context_length_exceeded'],
    ['invalid_request', 'invalid_prompt'],
    ['internal_error', 'server_error']
  ] as const
  for (const [code, expected] of codes)
    t.match(responseOf(run([], stream => stream.fail(new GatewayError(code, 'x')))), { error: { code: expected } }, code)
  t.match(
    responseOf(run([chunk({ content: 'a' }), chunk({}, 'error')])),
    { status: 'failed', error: { code: 'server_error' } },
    'finish_reason error'
  )
})

t.test('it opens once, and ends once', async t => {
  const stream = createResponsesStream(options())
  t.equal(eventsOf(stream.open()).length, 2)
  t.equal(stream.open().length, 0)
  t.not(stream.finish().length, 0)
  const late = [stream.finish(), stream.fail(new GatewayError('internal_error', 'x')), stream.chunk(chunk({ content: 'a' })), stream.open()]
  t.strictSame(
    late.map(bytes => bytes.length),
    [0, 0, 0, 0]
  )
  const unopened = createResponsesStream(options())
  t.strictSame(
    eventsOf(unopened.chunk(chunk({ content: 'a' })))
      .slice(0, 2)
      .map(event => event.type),
    ['response.created', 'response.in_progress']
  )
})

t.test('an answer beyond all bounds is an error that can still be told', async t => {
  const stream = createResponsesStream(options())
  const mebibyte = 'a'.repeat(1024 * 1024)
  let bytes = stream.open().length
  const thrown = await new Promise<unknown>(resolve => {
    try {
      for (let index = 0; index < 17; index++) bytes += stream.chunk(chunk({ content: mebibyte })).length
      resolve(null)
    } catch (error) {
      resolve(error)
    }
  })
  t.ok(bytes > 15 * 1024 * 1024)
  t.match(thrown, { code: 'upstream_broke' })
  t.equal(eventsOf(stream.fail(thrown as GatewayError)).at(-1)?.type, 'response.failed')
})

t.test('a whole completion is the same response, however it was split', async t => {
  const text = fc.string({ unit: 'grapheme', maxLength: 20 })
  const call = fc.record({ name: fc.string({ minLength: 1, maxLength: 5 }), words: text, custom: fc.boolean() })
  const answers = fc.record({
    reasoning: text,
    content: text,
    refusal: text,
    calls: fc.array(call, { maxLength: 3 }),
    finish: fc.constantFrom('stop', 'length', 'content_filter', 'tool_calls', 'error'),
    /** Lengths of pieces, and which call goes on: used round and round. */
    sizes: fc.array(fc.integer({ min: 1, max: 6 }), { minLength: 1, maxLength: 8 }),
    turns: fc.array(fc.nat({ max: 2 }), { minLength: 1, maxLength: 8 })
  })
  const property = fc.property(answers, ({ reasoning, content, refusal, calls, finish, sizes, turns }) => {
    const chatCalls = calls.map(({ name, words, custom }, index) =>
      custom
        ? { id: `c${index}`, type: 'custom', custom: { name, input: words } }
        : { id: `c${index}`, type: 'function', function: { name, arguments: words } }
    )
    const message = { role: 'assistant', content, refusal, reasoning, ...(calls.length > 0 ? { tool_calls: chatCalls } : {}) }
    const completion = { model: 'm-1', choices: [{ index: 0, message, finish_reason: finish }], usage, x_llm_mcp: { provider: 'p' } }
    const whole = JSON.parse(JSON.stringify(responseObject(completion, options()))) as Json

    const pieces = (name: string, value: string): Json[] => split(value, sizes).map(piece => chunk({ [name]: piece }))
    const starts = calls.map(({ name, custom }, index) =>
      chunk(toolDelta(index, { id: `c${index}`, [custom ? 'custom' : 'function']: { name, [custom ? 'input' : 'arguments']: '' } }))
    )
    const queues = calls.map(({ words, custom }, index) =>
      split(words, sizes).map(piece => chunk(toolDelta(index, custom ? { custom: { input: piece } } : { function: { arguments: piece } })))
    )
    const events = run([
      ...pieces('reasoning', reasoning),
      ...pieces('content', content),
      ...pieces('refusal', refusal),
      ...starts,
      ...interleave(queues, turns),
      chunk({}, finish),
      usageChunk
    ])
    const numbers = events.map(event => event.sequence_number)
    assert.deepEqual(numbers, [...numbers.keys()])
    assert.deepEqual(responseOf(events), whole)
  })
  t.doesNotThrow(() => fc.assert(property, { numRuns: 300 }))
})

function split(text: string, sizes: readonly number[]): string[] {
  const pieces: string[] = []
  let from = 0
  for (let index = 0; from < text.length; index++) {
    const size = sizes[index % sizes.length] ?? 1
    pieces.push(text.slice(from, from + size))
    from += size
  }
  return pieces
}

function interleave(queues: readonly Json[][], turns: readonly number[]): Json[] {
  const waiting = queues.map(queue => [...queue])
  const mixed: Json[] = []
  for (let index = 0; waiting.some(queue => queue.length > 0); index++) {
    const filled = waiting.filter(queue => queue.length > 0)
    const next = filled[(turns[index % turns.length] ?? 0) % filled.length]?.shift()
    if (next !== undefined) mixed.push(next)
  }
  return mixed
}
