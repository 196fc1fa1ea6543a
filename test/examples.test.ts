// The examples, run as their first lines say, against a gateway started with `npm start`, with fakes behind it that look at what arrives.

import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { copyProject } from './support/copy.ts'
import { type Behaviour, completion, nativeLines, say, startCompatible, startOllama, type UpstreamCall, usage } from './support/upstream.ts'
import { until } from './support/wait.ts'

const upstream = await startCompatible(t)
const ollama = await startOllama(t, { models: ['llama3.2:3b'] })
const copy = await copyProject(t)
const gateway = await copy.start({
  env: {
    OLLAMA_HOST: ollama.origin,
    OPENAI_API_KEY: 'sk-upstream-openai-000000000000',
    OPENAI_UPSTREAM_URL: `${upstream.origin}/v1`
  }
})
await until('both lists to be read', async () => {
  const answer = await fetch(`${gateway.url}/v1/models`, { headers: { authorization: `Bearer ${gateway.key}` } })
  const { data } = (await answer.json()) as { data: { id: string }[] }
  return ['gpt-4o-mini', 'llama3.2:3b'].every(id => data.some(model => model.id === id))
})
const targets = ['gpt-4o-mini', 'llama3.2:3b'] as const
type Model = (typeof targets)[number]

/** Runs an example as its own first lines say. */
async function run(name: string, model: string | null, ...args: string[]): Promise<string> {
  const env = {
    OPENAI_BASE_URL: `${gateway.url}/v1`,
    OPENAI_API_KEY: gateway.key as string,
    ...(model === null ? {} : { MODEL: model })
  }
  const { code, stdout, stderr } = await copy.run('npm', ['exec', '--', 'node', `examples/${name}.ts`, ...args], env)
  if (code !== 0) throw new Error(`${name}: ${stdout}${stderr}`)
  return stdout
}

function callsOf(model: Model): UpstreamCall[] {
  const { calls } = model === 'gpt-4o-mini' ? upstream : ollama
  return calls.filter(call => call.method === 'POST' && /chat/.test(call.path))
}

function behave(model: Model, behaviour: Behaviour): void {
  if (model === 'gpt-4o-mini') upstream.behaviour = behaviour
  else ollama.behaviour = behaviour
}

t.test('all of them are tried here', async t => {
  const files = await readdir(join(copy.folder, 'examples'))
  t.same(files.sort(), ['chat.ts', 'json-schema.ts', 'stream.ts', 'tools.ts'])
})

t.test('chat', async t => {
  t.match(
    await run('chat', null),
    /^Hello there\n\nollama · llama3\.2:3b · \S+ · (own_\w+|given_order) · 0\.0000\d+ \$\n$/,
    'auto: a machine of ours'
  )
  t.match(await run('chat', 'gpt-4o-mini', 'Grüße'), /^Hello there\n\nopenai · gpt-4o-mini · - · only_target · 0\.00000255 \$\n$/)
  t.match(callsOf('gpt-4o-mini').at(-1), {
    headers: { authorization: 'Bearer sk-upstream-openai-000000000000' },
    body: { model: 'gpt-4o-mini', messages: [{ role: 'user', content: 'Grüße' }] }
  })
})

for (const model of targets) {
  t.test(`stream with ${model}`, async t => {
    const [words, blank, figures, facts] = (await run('stream', model)).split('\n')
    t.equal(words, 'Hello there')
    t.equal(blank, '')
    t.equal(figures, `${usage.prompt_tokens} tokens in, ${usage.completion_tokens} out`)
    t.match(JSON.parse(facts ?? ''), { model, attempts: 1, cost_usd: Number, reason: String })
    t.match(callsOf(model).at(-1)?.body, { model, stream: true })
  })
}

t.test('tools with gpt-4o-mini: a call, its result, an answer', async t => {
  behave('gpt-4o-mini', (call, response, request) => {
    const messages = call.body.messages as { role: string; tool_call_id?: string; content: string }[]
    const result = messages.find(message => message.role === 'tool')
    if (result !== undefined)
      return say(`It is ${JSON.parse(result.content).celsius} °C (${result.tool_call_id}).`)(call, response, request)
    const message = {
      role: 'assistant',
      content: null,
      tool_calls: [{ id: 'call_1', type: 'function', function: { name: 'get_weather', arguments: '{"city":"Lisbon"}' } }]
    }
    response.writeHead(200, { 'content-type': 'application/json' })
    response.end(JSON.stringify({ ...completion(''), choices: [{ index: 0, message, finish_reason: 'tool_calls' }] }))
  })
  t.equal(await run('tools', 'gpt-4o-mini'), '[get_weather: Lisbon]\nIt is 21 °C (call_1).\n')
  const [first, second] = callsOf('gpt-4o-mini').slice(-2)
  t.match(first?.body, { tools: [{ type: 'function', function: { name: 'get_weather', parameters: { required: ['city'] } } }] })
  t.match(second?.body, { messages: [{ role: 'user' }, { role: 'assistant', tool_calls: [{ id: 'call_1' }] }, { tool_call_id: 'call_1' }] })
})

t.test('tools with llama3.2:3b: the same in its own words', async t => {
  behave('llama3.2:3b', (call, response) => {
    const messages = call.body.messages as { role: string; content: string }[]
    const result = messages.find(message => message.role === 'tool')
    const answer = result === undefined ? '' : `It is ${JSON.parse(result.content).celsius} °C.`
    const [word, done] = nativeLines('llama3.2:3b', answer) as [string, string]
    const line = JSON.parse(word) as { message: object }
    if (result === undefined)
      line.message = { ...line.message, tool_calls: [{ function: { name: 'get_weather', arguments: { city: 'Lisbon' } } }] }
    response.writeHead(200, { 'content-type': 'application/x-ndjson' })
    response.end(`${JSON.stringify(line)}\n${done}`)
  })
  t.equal(await run('tools', 'llama3.2:3b'), '[get_weather: Lisbon]\nIt is 21 °C.\n')
  const [first, second] = callsOf('llama3.2:3b').slice(-2)
  t.match(first?.body, { tools: [{ function: { name: 'get_weather' } }] })
  t.match(second?.body, {
    messages: [
      { role: 'user' },
      { role: 'assistant', tool_calls: [{ function: { name: 'get_weather', arguments: { city: 'Lisbon' } } }] },
      { role: 'tool', content: /"celsius":21/ }
    ]
  })
})

const ada = { name: 'Ada', age: 36, city: 'London' }

t.test('JSON schema with gpt-4o-mini', async t => {
  behave('gpt-4o-mini', say(JSON.stringify(ada)))
  t.match(await run('json-schema', 'gpt-4o-mini'), /name: 'Ada', age: 36, city: 'London'/)
  t.match(callsOf('gpt-4o-mini').at(-1)?.body, {
    response_format: { type: 'json_schema', json_schema: { strict: true, schema: { required: ['name', 'age', 'city'] } } }
  })
})

t.test('JSON schema with llama3.2:3b', async t => {
  behave('llama3.2:3b', (_call, response) => {
    response.writeHead(200, { 'content-type': 'application/x-ndjson' })
    response.end(nativeLines('llama3.2:3b', JSON.stringify(ada)).join(''))
  })
  t.match(await run('json-schema', 'llama3.2:3b'), /name: 'Ada', age: 36, city: 'London'/)
  t.match(callsOf('llama3.2:3b').at(-1)?.body, { format: { type: 'object', required: ['name', 'age', 'city'] } })
})

t.test('the gateway stops as it should after all that', async t => {
  t.equal(await gateway.stop(), 0)
})
