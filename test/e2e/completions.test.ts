// Legacy completions, and several choices for one request: by one call where the upstream can, by several where it cannot.

import t from 'tap'
import { createDatabase } from '../support/cluster.ts'
import { startGateway } from '../support/gateway.ts'
import { continueTexts, echo, plainText, promptTokens, speak, speakNatively } from '../support/mind.ts'
import { answerJson, type Behaviour, nativeLines, startCompatible, startOllama } from '../support/upstream.ts'
import { until } from '../support/wait.ts'

const database = await createDatabase(t)
const openai = await startCompatible(t, { models: ['gpt-4o-mini', 'gpt-3.5-turbo-instruct'].map(id => ({ id, created: 1 })) })
const ollama = await startOllama(t, { capabilities: ['completion', 'tools', 'insert'] })
const gateway = await startGateway(t, {
  databaseUrl: database.url,
  config: {
    machines: { box: { url: ollama.origin, max_concurrency: 2, watts: 100 } },
    providers: { openai: { base_url: `${openai.origin}/v1`, api_key: 'sk-openai-0000000000' } }
  }
})
const client = gateway.client()
const messages = [{ role: 'user' as const, content: 'Hello' }]
const words = plainText.join('')
const model = 'llama3.2:3b'

t.beforeEach(async () => {
  openai.behaviour = speak()
  openai.others.set('/completions', continueTexts)
  ollama.behaviour = speakNatively()
  ollama.others.set('/api/generate', speakNatively(echo))
  await placesFree()
  openai.calls.length = 0
  ollama.calls.length = 0
  ollama.running.most = 0
})

/** The first word at once and the others after a while, so that calls overlap. */
const haltingly: Behaviour = (call, response) => {
  const [first, ...others] = nativeLines(String(call.body.model), ...plainText)
  response.writeHead(200, { 'content-type': 'application/x-ndjson' })
  response.write(first)
  const timer = setTimeout(() => response.end(others.join('')), 60)
  response.on('close', () => clearTimeout(timer))
}

/** What was asked before has given its places back. */
async function placesFree(): Promise<void> {
  await until('all places to be free', async () => {
    const { rows } = await database.pool.query('select count(*)::int as taken from device_slots where process_id is not null')
    return rows[0].taken === 0
  })
}

interface Row {
  readonly outcome: string
  readonly cost_nano_usd: string
  readonly prompt_tokens: string
  readonly attempt_id: string
}

function rowsOf(id: string | null, count: number): Promise<Row[]> {
  return until(`${count} rows of one request`, async () => {
    const { rows } = await database.pool.query<Row>('select * from llm_costs where request_id = $1', [id])
    return rows.length === count ? rows : null
  })
}

t.test('n: 3 on a machine with two places: three choices, two at a time, three rows of one request', async t => {
  ollama.behaviour = haltingly
  const { data, response } = await client.chat.completions.create({ model, messages, n: 3 }).withResponse()
  t.same(
    data.choices.map(({ index, message, finish_reason }) => [index, message.content, finish_reason]),
    [0, 1, 2].map(index => [index, words, 'stop'])
  )
  t.match(data.usage, { prompt_tokens: 3 * promptTokens, completion_tokens: 9, total_tokens: 3 * (promptTokens + 3) })
  t.equal(ollama.calls.filter(({ path }) => path === '/api/chat').length, 3)
  t.equal(ollama.running.most, 2)
  const rows = await rowsOf(response.headers.get('x-request-id'), 3)
  t.ok(rows.every(({ outcome }) => outcome === 'ok'))
  const nanoUsd = rows.reduce((sum, row) => sum + Number(row.cost_nano_usd), 0)
  t.equal(Number(response.headers.get('x-llm-mcp-cost-usd')), nanoUsd / 1e9, 'the header tells the cost of all')
})

t.test('n: 3 on a machine with two places, streamed', async t => {
  ollama.behaviour = haltingly
  const { data, response } = await client.chat.completions
    .create({ model, messages, n: 3, stream: true, stream_options: { include_usage: true } })
    .withResponse()
  const said = ['', '', '']
  const finishes: number[] = []
  const ids = new Set<string>()
  let last: { choices: unknown[]; usage?: unknown; x_llm_mcp?: { cost_usd: number; attempts: number } } | undefined
  let usages = 0
  for await (const chunk of data) {
    ids.add(chunk.id)
    last = chunk
    if (chunk.usage) usages++
    for (const { index, delta, finish_reason } of chunk.choices) {
      said[index] += delta.content ?? ''
      if (finish_reason !== null) finishes.push(index)
    }
  }
  t.same(said, [words, words, words])
  t.same(finishes.sort(), [0, 1, 2], 'each ends once')
  t.equal(ids.size, 1, 'one answer has one id')
  t.equal(usages, 1)
  t.match(last, { choices: [], usage: { prompt_tokens: 3 * promptTokens, completion_tokens: 9 }, x_llm_mcp: { attempts: 3 } })
  t.equal(ollama.running.most, 2)
  const rows = await rowsOf(response.headers.get('x-request-id'), 3)
  t.equal(last?.x_llm_mcp?.cost_usd, rows.reduce((sum, row) => sum + Number(row.cost_nano_usd), 0) / 1e9)
  const final = await client.chat.completions.stream({ model, messages, n: 3 }).finalChatCompletion()
  t.equal(final.choices.length, 3, 'the strictest path of the client')
})

t.test('n with tools: every choice has calls of its own', async t => {
  const tools = [{ type: 'function' as const, function: { name: 'weather', parameters: { type: 'object' } } }]
  const final = await client.chat.completions.stream({ model, messages, tools, n: 2 }).finalChatCompletion()
  const ids = final.choices.flatMap(({ message }) => (message.tool_calls ?? []).map(({ id }) => id))
  t.equal(ids.length, 4)
  t.equal(new Set(ids).size, 4)
})

t.test('a client that leaves closes all calls of its request', async t => {
  for (const stream of [true, false]) {
    const before = ollama.aborted.count
    let asked = 0
    // The first call of a whole answer must end before the others begin.
    ollama.behaviour = (call, response, request) => {
      if (++asked === 1) {
        if (!stream) return speakNatively()(call, response, request)
        response.writeHead(200, { 'content-type': 'application/x-ndjson' })
        response.write(`${JSON.stringify({ model, message: { role: 'assistant', content: 'x' }, done: false })}\n`)
      }
    }
    const leaving = new AbortController()
    const answer = gateway.fetch('/v1/chat/completions', { json: { model, messages, n: 3, stream }, signal: leaving.signal })
    const gone = answer.then(response => response.text()).catch(error => error)
    await until('two calls to run', () => ollama.running.now === 2)
    leaving.abort()
    await until('both to be closed', () => ollama.aborted.count === before + 2 && ollama.running.now === 0)
    t.match(await gone, { name: 'AbortError' })
    const chats = () => ollama.calls.filter(({ path }) => path === '/api/chat').length
    const calls = chats()
    await placesFree()
    t.equal(chats(), calls, 'the third was never asked for')
  }
})

t.test('when one of the calls fails, the others are closed and the client hears of it', async t => {
  for (const stream of [true, false]) {
    let turns = 0
    ollama.behaviour = (call, response, request) => {
      const turn = ++turns
      if (turn === 1) return speakNatively()(call, response, request)
      if (turn === 2) return answerJson(500, { error: 'the runner has stopped' })(call, response, request)
    }
    const asked = { model, messages, n: 3 }
    const failing: Promise<unknown> = stream
      ? client.chat.completions.stream(asked).finalChatCompletion()
      : client.chat.completions.create(asked)
    await t.rejects(failing, { code: /upstream/ }, `stream: ${stream}`)
    await until('nothing to run any more', () => ollama.running.now === 0)
    await placesFree()
  }
})

t.test('a machine that others use too is never given more than its places', async t => {
  ollama.behaviour = haltingly
  const other = client.chat.completions.create({ model, messages })
  await until('the other to run', () => ollama.running.now === 1)
  const many = client.chat.completions.create({ model, messages, n: 4 })
  t.equal((await many).choices.length, 4)
  await other
  t.equal(ollama.running.most, 2)
})

t.test('where the upstream knows n, it is one call', async t => {
  const { choices } = await client.chat.completions.create({ model: 'gpt-4o-mini', messages, n: 3 })
  t.same(
    choices.map(({ index }) => index),
    [0, 1, 2]
  )
  t.equal(openai.calls.filter(({ path }) => path.endsWith('/chat/completions')).length, 1)
  t.equal(openai.calls.at(-1)?.body.n, 3)
})

t.test('several prompts: one call where the upstream takes a list, one for each where it does not', async t => {
  const asked = { prompt: ['A', 'Б'], n: 2, max_tokens: 20 }
  const expected = ['A', 'A', 'Б', 'Б'].map((prompt, index) => [index, ` so it goes: ${prompt}`])
  for (const [name, calls, fake] of [
    ['gpt-3.5-turbo-instruct', 1, openai],
    [model, 4, ollama]
  ] as const) {
    fake.calls.length = 0
    const whole = await client.completions.create({ ...asked, model: name })
    t.same(
      whole.choices.map(({ index, text }) => [index, text]),
      expected
    )
    t.equal(fake.calls.filter(({ path }) => /completions$|generate$/.test(path)).length, calls)
    const pieces: Record<number, string> = {}
    let usage: unknown
    const stream = await client.completions.create({ ...asked, model: name, stream: true, stream_options: { include_usage: true } })
    for await (const chunk of stream) {
      for (const { index, text } of chunk.choices) pieces[index] = (pieces[index] ?? '') + text
      usage = chunk.usage ?? usage
    }
    t.same(
      Object.values(pieces),
      expected.map(([, text]) => text),
      `${name}, streamed`
    )
    t.match(usage, { completion_tokens: 12 })
  }
})

t.test('a prompt of tokens is the text they stand for', async t => {
  // "Hello, world" and "Привет" in cl100k_base.
  const prompt = [
    [9906, 11, 1917],
    [54745, 28089, 8341]
  ]
  const { choices } = await client.completions.create({ model, prompt })
  t.same(
    choices.map(({ text }) => text),
    [' so it goes: Hello, world', ' so it goes: Привет']
  )
  await client.completions.create({ model: 'gpt-3.5-turbo-instruct', prompt })
  t.same(openai.calls.at(-1)?.body.prompt, prompt, 'OpenAI reads them itself')
})

t.test('what Ollama is asked for, and what it cannot be asked for', async t => {
  await client.completions.create({ model, prompt: 'def f(', suffix: 'return x', stop: ['\n\n'], temperature: 0 })
  t.match(ollama.calls.findLast(({ body }) => body.prompt !== undefined)?.body, {
    prompt: 'def f(',
    suffix: 'return x',
    truncate: false,
    options: { num_predict: 16, stop: ['\n\n'], temperature: 0 }
  })
  for (const [param, value] of [
    ['echo', true],
    ['best_of', 2]
  ] as const) {
    await t.rejects(client.completions.create({ model, prompt: 'x', [param]: value }), {
      status: 400,
      code: 'unsupported_parameter',
      param
    })
  }
})

t.test('what is no prompt is refused by its place', async t => {
  const cases: [object, RegExp][] = [
    [{}, /^prompt$/],
    [{ prompt: [] }, /^prompt$/],
    [{ prompt: ['a', 1] }, /^prompt\[1\]$/],
    [{ prompt: [['a']] }, /^prompt/],
    [{ prompt: ['a', 'b'], n: 65 }, /^n$/],
    [{ prompt: 'a', n: 129 }, /^n$/],
    [{ prompt: 'a', n: 0 }, /^n$/],
    [{ prompt: 'a', best_of: 1, n: 2 }, /^best_of$/],
    [{ prompt: 'a', suffix: 1 }, /^suffix$/]
  ]
  for (const [body, param] of cases) {
    const answer = await gateway.fetch('/v1/completions', { json: { model, ...body } })
    t.equal(answer.status, 400, JSON.stringify(body))
    t.match(await answer.json(), { error: { type: 'invalid_request_error', param } })
  }
  t.equal(ollama.calls.length, 0)
})
