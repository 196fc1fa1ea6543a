// The main job: an unchanged OpenAI client, answered by OpenAI, OpenRouter and Ollama.

import t from 'tap'
import { createDatabase } from '../support/cluster.ts'
import { startGateway } from '../support/gateway.ts'
import { answerJson, chunk, completion, say, startCompatible, startOllama, usage, wholeStream } from '../support/upstream.ts'
import { until } from '../support/wait.ts'

const database = await createDatabase(t)
const openai = await startCompatible(t)
const openrouter = await startCompatible(t, {
  models: [
    {
      id: 'anthropic/claude-haiku-4.5',
      created: 5,
      context_length: 200_000,
      supported_parameters: ['tools'],
      architecture: { output_modalities: ['text'] },
      pricing: { prompt: '0.000001', completion: '0.000005' }
    }
  ]
})
const ollama = await startOllama(t, { models: ['llama3.2:3b', 'qwen3:8b'] })
const gateway = await startGateway(t, {
  databaseUrl: database.url,
  env: {
    OPENAI_API_KEY: 'sk-upstream-openai-000000000000',
    OPENAI_UPSTREAM_URL: `${openai.origin}/v1`,
    OPENROUTER_API_KEY: 'sk-or-upstream-0000000000000000',
    OPENROUTER_UPSTREAM_URL: `${openrouter.origin}/api/v1`,
    OLLAMA_HOST: ollama.origin
  }
})
const client = gateway.client()
const messages = [{ role: 'user' as const, content: 'Say hello, wörld' }]
await until('every list to be read', async () => {
  const list = (await (await gateway.fetch('/v1/models')).json()) as { data: { id: string }[] }
  return ['gpt-4o-mini', 'anthropic/claude-haiku-4.5', 'qwen3:8b'].every(id => list.data.some(model => model.id === id))
})

for (const model of [
  'openai/gpt-4o-mini',
  'gpt-4o-mini',
  'openrouter/anthropic/claude-haiku-4.5',
  'anthropic/claude-haiku-4.5',
  'llama3.2:3b',
  'ollama/qwen3:8b',
  'local',
  'cloud',
  'auto'
]) {
  t.test(`${model} answers the strictest path of the client, streamed`, async t => {
    const final = await client.chat.completions.stream({ model, messages }).finalChatCompletion()
    t.equal(final.choices[0]?.message.content, 'Hello there')
    t.equal(final.choices[0]?.finish_reason, 'stop')
  })
  t.test(`${model} answers at once, with its figures`, async t => {
    const answer = await client.chat.completions.create({ model, messages }).withResponse()
    t.equal(answer.data.choices[0]?.message.content, 'Hello there')
    t.match(answer.data.usage, usage)
    t.ok(answer.response.headers.get('x-request-id'))
    t.ok(answer.response.headers.get('x-llm-mcp-provider'))
    t.match(answer.response.headers.get('x-llm-mcp-cost-usd'), /^\d+(\.\d+)?$/)
  })
}

t.test('auto prefers a machine of ours', async t => {
  const { response } = await client.chat.completions.create({ model: 'auto', messages }).withResponse()
  t.equal(response.headers.get('x-llm-mcp-provider'), 'ollama')
  t.ok(response.headers.get('x-llm-mcp-device'))
})

t.test('a compatible stream reaches the client byte for byte, but for the usage nobody asked for', async t => {
  const events = [': hello\n\n', ...wholeStream('Grüße', ' 世界', ' "usage":{ ')]
  openai.behaviour = (_call, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    for (const event of events) response.write(event)
    response.end()
  }
  const stream = await gateway.fetch('/v1/chat/completions', {
    json: { model: 'gpt-4o-mini', stream: true, messages, unknown_field: { kept: [1, 2.5] } }
  })
  t.equal(stream.headers.get('content-type'), 'text/event-stream; charset=utf-8')
  t.equal(await stream.text(), events.filter(event => !event.includes('"choices":[]')).join(''))
  const call = openai.calls.at(-1)
  t.match(call?.body, { model: 'gpt-4o-mini', stream_options: { include_usage: true }, unknown_field: { kept: [1, 2.5] } })
  t.match(call?.text, /"kept":\[1,2\.5\]/)
  openai.behaviour = say('Hello', ' there')
})

t.test('a client that asks for usage gets it last, with what it cost', async t => {
  const chunks = []
  for await (const piece of await client.chat.completions.create({
    model: 'gpt-4o-mini',
    messages,
    stream: true,
    stream_options: { include_usage: true }
  }))
    chunks.push(piece)
  const last = chunks.at(-1)
  t.same(last?.choices, [])
  t.match(last?.usage, usage)
  // 9 tokens at 0.15 $ and 2 at 0.60 $ per million.
  t.match((last as unknown as { x_llm_mcp: object }).x_llm_mcp, {
    provider: 'openai',
    model: 'gpt-4o-mini',
    device: null,
    cost_usd: 0.00000255,
    attempts: 1
  })
  t.equal(chunks.filter(piece => piece.usage).length, 1)
})

t.test('OpenRouter is told who asks, its comments pass, and its usage comes in OpenAI form', async t => {
  const cost = { ...usage, cost: 0.00006, is_byok: false }
  openrouter.behaviour = (_call, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write(': OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\n')
    response.write(chunk({ role: 'assistant', content: '1' }))
    response.write(chunk({ role: 'assistant', content: '' }, {}, 'stop'))
    response.write(chunk({ role: 'assistant', content: '' }, { usage: cost }, 'stop'))
    response.end('data: [DONE]\n\n')
  }
  const chunks = []
  for await (const piece of await client.chat.completions.create({
    model: 'anthropic/claude-haiku-4.5',
    messages,
    stream: true,
    stream_options: { include_usage: true }
  }))
    chunks.push(piece)
  t.equal(chunks.length, 3)
  t.equal(chunks.filter(piece => piece.choices[0]?.finish_reason === 'stop').length, 1)
  t.match(chunks.at(-1), { choices: [], usage: cost, x_llm_mcp: { provider: 'openrouter', cost_usd: 0.00006 } })
  t.match(openrouter.calls.at(-1)?.headers, {
    'x-title': 'llm-mcp',
    'http-referer': /./,
    authorization: 'Bearer sk-or-upstream-0000000000000000'
  })
  openrouter.behaviour = answerJson(200, { id: 'x', choices: [], error: { code: 429, message: 'slow down' } })
  const refused = await gateway.fetch('/v1/chat/completions', { json: { model: 'anthropic/claude-haiku-4.5', messages } })
  t.equal(refused.status, 429)
  t.match(await refused.json(), { error: { type: 'requests', code: 'rate_limit_exceeded', param: null, message: /slow down/ } })
})

t.test('Ollama is spoken to natively, with a pinned context and nothing cut in silence', async t => {
  await client.chat.completions.create({
    model: 'qwen3:8b',
    messages: [{ role: 'developer', content: 'Be brief' }, ...messages],
    max_completion_tokens: 50,
    temperature: 0.5
  } as never)
  const [first, second] = ollama.calls.filter(call => call.path === '/api/chat').slice(-2)
  t.match(second?.body, {
    model: 'qwen3:8b',
    stream: true,
    truncate: false,
    shift: false,
    keep_alive: '30m',
    options: { num_predict: 50, temperature: 0.5, num_ctx: 8_192 },
    messages: [{ role: 'system', content: 'Be brief' }, { role: 'user' }]
  })
  t.equal((first?.body.options as { num_ctx: number } | undefined)?.num_ctx, 8_192)
})

t.test('models are listed and found by ids with slashes', async t => {
  const ids: string[] = []
  for await (const model of client.models.list()) ids.push(model.id)
  t.same(ids.slice(0, 2), ['llama3.2:3b', 'qwen3:8b'], 'own machines first')
  t.ok(ids.includes('anthropic/claude-haiku-4.5'))
  t.match(await client.models.retrieve('anthropic/claude-haiku-4.5'), {
    id: 'anthropic/claude-haiku-4.5',
    object: 'model',
    owned_by: 'openrouter'
  })
  t.equal((await gateway.fetch('/v1/models/anthropic/claude-haiku-4.5')).status, 200)
  t.equal((await gateway.fetch('/v1/models/openrouter/anthropic/claude-haiku-4.5')).status, 200)
  await t.rejects(client.models.retrieve('llama3.2:3c'), { status: 404, code: 'model_not_found', message: /llama3\.2:3b/ })
  await t.rejects(client.chat.completions.create({ model: 'gpt-4o-minj', messages }), {
    status: 404,
    code: 'model_not_found',
    message: /"gpt-4o-mini"/
  })
})

t.test('every attempt has a cost row, soon after its end', async t => {
  const ask = async (model: string): Promise<string> => {
    const { response } = await client.chat.completions.create({ model, messages }).withResponse()
    return response.headers.get('x-request-id') as string
  }
  const asked = [await ask('gpt-4o-mini'), await ask('llama3.2:3b')]
  openai.behaviour = answerJson(200, completion('no usage', { usage: undefined }))
  asked.push(await ask('gpt-4o-mini'))
  openai.behaviour = say('Hello', ' there')
  const rows = await until('three rows', async () => {
    const { rows } = await database.pool.query(
      `select provider, model, device_id, outcome, cost_nano_usd, price_source, estimated from llm_costs where request_id = any ($1::uuid[]) order by attempt_id`,
      [asked]
    )
    return rows.length === 3 ? rows : null
  })
  t.match(rows[0], { provider: 'openai', outcome: 'ok', cost_nano_usd: '2550', price_source: 'registry', estimated: false })
  // 1.801 s of 150 W at 0.25 $ a kWh.
  t.match(rows[1], {
    provider: 'ollama',
    device_id: /./,
    outcome: 'ok',
    cost_nano_usd: '18761',
    price_source: 'electricity',
    estimated: false
  })
  t.match(rows[2], { provider: 'openai', estimated: true })
  const summary = (await (await gateway.fetch('/v1/costs/summary?period=day')).json()) as {
    total_requests: number
    by_provider: { provider: string }[]
  }
  t.ok(summary.total_requests >= 3)
  t.ok(summary.by_provider.some(row => row.provider === 'ollama'))
})

t.test('one line in the log for each request, with ids and figures, without words', async t => {
  const { response } = await client.chat.completions
    .create({ model: 'gpt-4o-mini', messages: [{ role: 'user', content: 'canary-prompt-7391' }] })
    .withResponse()
  const id = response.headers.get('x-request-id')
  const line = await until('the line', () => gateway.lines().find(entry => entry.requestId === id))
  t.match(line, {
    method: 'POST',
    route: '/v1/chat/completions',
    status: 200,
    model: 'gpt-4o-mini',
    target: 'openai/gpt-4o-mini',
    promptTokens: 9,
    nanoUsd: 2550,
    source: 'admin',
    outcome: 'ok'
  })
  t.notMatch(gateway.output(), /canary-prompt-7391|sk-upstream-openai-0000|sk-llm-test-admin/)
})
