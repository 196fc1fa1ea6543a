// POST /v1/responses on the wire: what is refused, what is left out and said so, how a stream ends.

import t from 'tap'
import { plainText, promptTokens, speakNatively } from '../support/mind.ts'
import { callsTo, chatModels, setStage } from '../support/stage.ts'
import { answerJson, chunk } from '../support/upstream.ts'
import { until } from '../support/wait.ts'

const stage = await setStage(t)
const { gateway, database } = stage
t.beforeEach(() => stage.reset())
const words = plainText.join('')
const everywhere = [chatModels.openai, chatModels.ollama]

interface Event {
  readonly type: string
  readonly sequence_number: number
  readonly response?: Record<string, unknown>
  readonly [key: string]: unknown
}

/** The events of an answer; throws where the framing is not OpenAI's. */
function eventsOf(text: string): Event[] {
  return text
    .split('\n\n')
    .filter(block => block !== '' && !block.startsWith(':'))
    .map(block => {
      const [name, data, ...more] = block.split('\n')
      const event = JSON.parse(String(data).slice('data: '.length)) as Event
      if (name !== `event: ${event.type}` || more.length > 0) throw new Error(`no event of OpenAI's: ${block}`)
      return event
    })
}

const tools = [
  { type: 'function', name: 'weather', parameters: { type: 'object', properties: { city: { type: 'string' } } }, strict: false }
]
const ends = ['response.output_text.done', 'response.content_part.done', 'response.output_item.done', 'response.completed']

for (const model of everywhere) {
  for (const path of ['/v1/responses', '/responses']) {
    t.test(`${model} at ${path}: the events of a text, in OpenAI's order`, async t => {
      const answer = await gateway.fetch(path, { json: { model, input: 'Hello', stream: true } })
      t.equal(answer.status, 200)
      t.match(answer.headers.get('content-type'), 'text/event-stream')
      const text = await answer.text()
      t.notOk(text.includes('[DONE]'))
      const events = eventsOf(text)
      t.same(
        events.map(({ type }) => type),
        [
          'response.created',
          'response.in_progress',
          'response.output_item.added',
          'response.content_part.added',
          ...plainText.map(() => 'response.output_text.delta'),
          ...ends
        ]
      )
      t.same(
        events.map(event => event.sequence_number),
        [...events.keys()]
      )
      t.match(events[0]?.response, { status: 'in_progress', output: [], usage: null, completed_at: null })
      const final = events.at(-1)?.response
      t.match(final, {
        id: events[0]?.response?.id,
        status: 'completed',
        usage: { input_tokens: promptTokens, output_tokens: 3 },
        output: [{ type: 'message', status: 'completed', content: [{ type: 'output_text', text: words, annotations: [] }] }],
        x_llm_mcp: { attempts: 1 }
      })
    })
  }

  t.test(`${model}: the events of two calls, one after the other`, async t => {
    const events = eventsOf(await (await gateway.fetch('/v1/responses', { json: { model, input: 'Lisbon?', tools, stream: true } })).text())
    const added = events.filter(({ type }) => type === 'response.output_item.added')
    t.match(
      added.map(({ output_index, item }) => ({ output_index, item })),
      [0, 1].map(output_index => ({ output_index, item: { type: 'function_call', status: 'in_progress', name: 'weather', arguments: '' } }))
    )
    const done = events.filter(({ type }) => type === 'response.function_call_arguments.done')
    t.same(
      done.map(({ output_index, arguments: given }) => [output_index, JSON.parse(String(given))]),
      [
        [0, { city: 'Lisbon', unit: '°C' }],
        [1, { city: 'Łódź', unit: '°C' }]
      ]
    )
    for (const index of [0, 1]) {
      const pieces = events.filter(({ type, output_index }) => type === 'response.function_call_arguments.delta' && output_index === index)
      t.equal(pieces.map(({ delta }) => delta).join(''), done[index]?.arguments)
    }
  })

  t.test(`${model}: a stream's last event and a whole answer are the same object`, async t => {
    const asked = {
      model,
      input: [{ role: 'user', content: 'Hello' }],
      instructions: 'Be brief',
      temperature: 0.5,
      metadata: { a: 'b' },
      tools
    }
    const whole = (await (await gateway.fetch('/v1/responses', { json: asked })).json()) as Record<string, unknown>
    const events = eventsOf(await (await gateway.fetch('/v1/responses', { json: { ...asked, stream: true } })).text())
    const { x_llm_mcp: _, ...streamed } = events.at(-1)?.response ?? {}
    t.same(Object.keys(streamed).sort(), Object.keys(whole).sort())
    for (const name of ['instructions', 'temperature', 'metadata', 'tools', 'store', 'model', 'usage', 'status', 'text', 'tool_choice'])
      t.same(streamed[name], whole[name], name)
    t.match(whole, { instructions: 'Be brief', temperature: 0.5, metadata: { a: 'b' }, tools, store: false })
  })

  t.test(`${model}: a Responses body on /chat/completions is understood, and answered as a chat`, async t => {
    const asked = { model, input: [{ role: 'user', content: [{ type: 'input_text', text: 'Hello' }] }], instructions: 'Be brief' }
    const whole = await gateway.fetch('/v1/chat/completions', { json: asked })
    t.equal(whole.status, 200)
    t.match(await whole.json(), { object: 'chat.completion', choices: [{ message: { role: 'assistant', content: words } }] })
    const streamed = await (await gateway.fetch('/chat/completions', { json: { ...asked, input: 'Hello', stream: true } })).text()
    t.match(streamed, /"object":"chat\.completion\.chunk"/)
    t.match(streamed, /data: \[DONE\]\n\n$/)
    const calls = await gateway.fetch('/v1/chat/completions', { json: { model, input: 'Lisbon?', tools, tool_choice: 'auto' } })
    t.match(await calls.json(), {
      choices: [{ finish_reason: 'tool_calls', message: { tool_calls: [{ function: { name: 'weather' } }, {}] } }]
    })
  })
}

t.test('hints that a machine does not know are left out and named; OpenAI gets all of them', async t => {
  const hints = { logit_bias: { 50256: -100 }, user: 'me', metadata: { a: 'b' }, store: true, service_tier: 'auto' }
  const messages = [{ role: 'user', content: 'Hello' }]
  for (const stream of [true, false]) {
    const local = await gateway.fetch('/v1/chat/completions', { json: { model: chatModels.ollama, messages, stream, ...hints } })
    t.same(local.headers.get('x-llm-mcp-dropped')?.split(', ').sort(), Object.keys(hints).sort())
    await local.text()
    const rented = await gateway.fetch('/v1/chat/completions', { json: { model: chatModels.openai, messages, stream, ...hints } })
    t.equal(rented.headers.get('x-llm-mcp-dropped'), null)
    await rented.text()
    t.match(stage.openai.calls.at(-1)?.body, hints)
  }
  // Given and null is not given.
  const empty = await gateway.fetch('/v1/chat/completions', { json: { model: chatModels.ollama, messages, user: null, logit_bias: null } })
  t.equal(empty.headers.get('x-llm-mcp-dropped'), null)
  await empty.text()
  const unthinking = await gateway.fetch('/v1/embeddings', { json: { model: 'nomic-embed-text', input: 'a', user: 'me' } })
  t.equal(unthinking.headers.get('x-llm-mcp-dropped'), 'user')
  await unthinking.text()
})

t.test('hints of the Responses API that a chat has no place for are named', async t => {
  const hints = { truncation: 'auto', max_tool_calls: 3, include: ['reasoning.encrypted_content'] }
  const answer = await gateway.fetch('/v1/responses', { json: { model: chatModels.openai, input: 'Hello', store: true, ...hints } })
  t.equal(answer.status, 200)
  const dropped = answer.headers.get('x-llm-mcp-dropped')?.split(', ') ?? []
  for (const name of Object.keys(hints)) t.ok(dropped.includes(name), name)
  t.match(await answer.json(), { store: false, truncation: 'disabled' })
  const sent = stage.openai.calls.at(-1)?.body ?? {}
  for (const name of [...Object.keys(hints), 'store', 'input']) t.notOk(name in sent, `${name} is not sent on`)
})

t.test('what needs things to be kept or run is refused by its name', async t => {
  const calls = callsTo(stage.openai, '/chat/completions').length
  const cases: [object, string | RegExp][] = [
    [{ background: true }, 'background'],
    [{ previous_response_id: 'resp_1' }, 'previous_response_id'],
    [{ conversation: 'conv_1' }, 'conversation'],
    [{ prompt: { id: 'pmpt_1' } }, 'prompt'],
    [{ tools: [{ type: 'web_search' }] }, /^tools\[0\]/],
    [{ tools: [{ type: 'mcp', server_label: 'x' }] }, /^tools\[0\]/],
    [{ input: [{ type: 'item_reference', id: 'msg_1' }] }, /^input\[0\]/]
  ]
  for (const [body, param] of cases) {
    const answer = await gateway.fetch('/v1/responses', { json: { model: chatModels.openai, input: 'Hello', ...body } })
    t.equal(answer.status, 400, JSON.stringify(body))
    t.match(await answer.json(), { error: { type: 'invalid_request_error', code: 'unsupported_parameter', param } })
  }
  for (const body of [{}, { input: 5 }, { input: [] }, { input: 'a', text: { format: { type: 'xml' } } }, { input: 'a', stream: 'yes' }]) {
    const answer = await gateway.fetch('/v1/responses', { json: { model: chatModels.openai, ...body } })
    t.equal(answer.status, 400, JSON.stringify(body))
    t.match(await answer.json(), { error: { type: 'invalid_request_error', param: /^(input|text\.format\.type|stream)$/ } })
  }
  t.equal(callsTo(stage.openai, '/chat/completions').length, calls, 'nothing was asked')
  const kept = await gateway.fetch('/v1/responses/resp_1')
  t.equal(kept.status, 404)
  t.match(await kept.json(), { error: { type: 'invalid_request_error', message: /./ } })
})

t.test('errors name the fields of this API, not those of the chat it becomes', async t => {
  const long = 'x'.repeat(8_192 * 13)
  const cases: [object, RegExp, string][] = [
    [{ input: long }, /^input$/, 'context_length_exceeded'],
    [{ input: 'a', reasoning: { effort: 'unheard-of' } }, /^reasoning(\.effort)?$/, 'invalid_'],
    [{ input: [{ role: 'user', content: [{ type: 'input_image', image_url: 'https://example.org/a.png' }] }] }, /^input/, 'invalid_'],
    [{ input: 'a', tools, tool_choice: 'required' }, /^tool_choice$/, 'unsupported_parameter']
  ]
  for (const [body, param, code] of cases) {
    const answer = await gateway.fetch('/v1/responses', { json: { model: chatModels.ollama, ...body } })
    t.equal(answer.status, 400)
    t.match(await answer.json(), { error: { param, code } })
  }
})

t.test('a failure before the first word has its own status; one after it ends the stream as failed', async t => {
  stage.ollama.behaviour = answerJson(500, { error: 'the runner has stopped' })
  const early = await gateway.fetch('/v1/responses', { json: { model: chatModels.ollama, input: 'Hello', stream: true } })
  t.equal(early.status, 502)
  t.match(await early.json(), { error: { type: 'server_error', code: /^upstream/, param: null } })
  stage.openai.behaviour = (_call, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write(chunk({ role: 'assistant', content: 'Hel' }))
    // What comes in one packet with the first word is still before it.
    setTimeout(() => response.end('data: {"error":{"message":"out of luck","type":"server_error"}}\n\n'), 50)
  }
  const late = await gateway.fetch('/v1/responses', { json: { model: chatModels.openai, input: 'Hello', stream: true } })
  t.equal(late.status, 200)
  const events = eventsOf(await late.text())
  t.match(
    events.find(({ type }) => type === 'response.failed'),
    { response: { status: 'failed', error: { code: 'server_error', message: /out of luck/ } } }
  )
  t.notOk(events.some(({ type }) => type === 'response.completed' || type === 'response.incomplete'))
  t.same(
    events.map(event => event.sequence_number),
    [...events.keys()]
  )
})

t.test('a client that leaves closes the upstream and is booked', async t => {
  const before = stage.ollama.aborted.count
  stage.ollama.behaviour = (call, response) => {
    response.writeHead(200, { 'content-type': 'application/x-ndjson' })
    response.write(`${JSON.stringify({ model: call.body.model, message: { role: 'assistant', content: 'x' }, done: false })}\n`)
  }
  const leaving = new AbortController()
  const asked = { json: { model: chatModels.ollama, input: 'Hello', stream: true }, signal: leaving.signal }
  const answer = await gateway.fetch('/v1/responses', asked)
  await answer.body?.getReader().read()
  leaving.abort()
  await until('the upstream to be closed', () => stage.ollama.aborted.count === before + 1, 500)
  const row = await until('the row', async () => {
    const { rows } = await database.pool.query('select * from llm_costs where request_id = $1', [answer.headers.get('x-request-id')])
    return rows[0]
  })
  t.match(row, { outcome: 'aborted', provider: 'ollama' })
  stage.ollama.behaviour = speakNatively()
})
