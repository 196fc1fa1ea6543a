// Open WebUI's calls, rebuilt as it makes them: one key for the whole house, and its people in headers.

import t from 'tap'
import { plainText, promptTokens } from '../../support/mind.ts'
import { chatModels, dimensions, embeddingModels, setStage } from '../../support/stage.ts'
import { type Behaviour, chunk, type FakeUpstream, nativeLines } from '../../support/upstream.ts'
import { isSame, vectorOf } from '../../support/vectors.ts'
import { until } from '../../support/wait.ts'

const stage = await setStage(t)
const { gateway, database } = stage
t.afterEach(() => stage.reset())

const made = (await (await gateway.fetch('/v1/keys', { json: { kind: 'source', source: 'webui', trust_user_header: true } })).json()) as {
  key: string
}

/** The headers of one of its people (ENABLE_FORWARD_USER_INFO_HEADERS); names are percent-encoded. */
function headersOf(person: string, chat = 'b2f1'): Record<string, string> {
  return {
    accept: '*/*',
    'accept-encoding': 'gzip, deflate, br',
    'user-agent': 'Python/3.11 aiohttp/3.12.15',
    authorization: `Bearer ${made.key}`,
    'content-type': 'application/json',
    'x-openwebui-user-name': encodeURIComponent(`Зоя ${person}`),
    'x-openwebui-user-id': `${person}-0b7e-4f3a`,
    'x-openwebui-user-email': `${person}@example.org`,
    'x-openwebui-user-role': 'user',
    'x-openwebui-chat-id': chat
  }
}

function post(path: string, body: object, person = 'zoya', signal?: AbortSignal): Promise<Response> {
  return fetch(`${gateway.url}${path}`, {
    method: 'POST',
    headers: headersOf(person),
    body: JSON.stringify(body),
    ...(signal === undefined ? {} : { signal })
  })
}

const messages = [
  { role: 'system', content: 'User name: Зоя' },
  { role: 'user', content: 'Hello' }
]

for (const base of ['/v1', '']) {
  t.test(`the list of models at ${base}/models`, async t => {
    const answer = await fetch(`${gateway.url}${base}/models`, { headers: headersOf('zoya') })
    t.equal(answer.status, 200)
    t.match(answer.headers.get('content-type'), /^application\/json/)
    const { data } = (await answer.json()) as { data: { id: string; name?: string; owned_by: string }[] }
    t.ok(data.every(({ id, owned_by }) => typeof id === 'string' && typeof owned_by === 'string'))
    t.ok(data.some(({ id }) => id === chatModels.ollama))
  })

  t.test(`a chat at ${base}/chat/completions: streamed, with its usage`, async t => {
    for (const model of [chatModels.openai, chatModels.compatible, chatModels.ollama]) {
      const answer = await post(`${base}/chat/completions`, {
        stream: true,
        model,
        messages,
        stream_options: { include_usage: true },
        temperature: 0.7
      })
      t.equal(answer.status, 200)
      t.match(answer.headers.get('content-type'), 'text/event-stream')
      t.equal(answer.headers.get('content-encoding'), null, 'it is not compressed, or nothing would be shown until the end')
      // It looks for lines that begin with "data: ", and forwards them.
      const lines = (await answer.text()).split('\n').filter(line => line.startsWith('data: '))
      t.equal(lines.at(-1), 'data: [DONE]')
      const chunks = lines.slice(0, -1).map(line => JSON.parse(line.slice(6)) as ChatChunk)
      t.equal(chunks.map(({ choices }) => choices[0]?.delta.content ?? '').join(''), plainText.join(''))
      t.match(chunks.at(-1)?.usage, { prompt_tokens: promptTokens, completion_tokens: 3 })
    }
  })
}

interface ChatChunk {
  readonly choices: readonly { readonly delta: { readonly content?: string | null } }[]
  readonly usage?: object | null
}

t.test('the stop button: the upstream is closed within 500 ms, and what was begun is booked on the person', async t => {
  const first: [string, FakeUpstream, Behaviour][] = [
    [
      chatModels.openai,
      stage.openai,
      (_call, response) => {
        response.writeHead(200, { 'content-type': 'text/event-stream' })
        response.write(chunk({ role: 'assistant', content: 'x' }))
      }
    ],
    [
      chatModels.ollama,
      stage.ollama,
      (call, response) => {
        response.writeHead(200, { 'content-type': 'application/x-ndjson' })
        response.write(nativeLines(String(call.body.model), 'x', 'y')[0])
      }
    ]
  ]
  for (const [model, fake, behaviour] of first) {
    fake.behaviour = behaviour
    const before = fake.aborted.count
    const stop = new AbortController()
    const answer = await post('/v1/chat/completions', { stream: true, model, messages }, 'stopper', stop.signal)
    const id = answer.headers.get('x-request-id')
    await answer.body?.getReader().read()
    const stoppedAt = performance.now()
    stop.abort()
    await until('the upstream to be closed', () => fake.aborted.count === before + 1)
    const tookMs = performance.now() - stoppedAt
    t.ok(tookMs < 500, `${model}: ${Math.round(tookMs)} ms`)
    const row = await until('the row', async () => {
      const { rows } = await database.pool.query('select * from llm_costs where request_id = $1', [id])
      return rows[0]
    })
    t.match(row, { outcome: 'aborted', estimated: true, source: 'webui', sub_source: 'stopper-0b7e-4f3a' })
  }
})

t.test('the title of a chat: not streamed, with a bound', async t => {
  for (const bound of [{ max_tokens: 1_000 }, { max_completion_tokens: 1_000 }]) {
    const prompt = '### Task:\nGenerate a concise, 3-5 word title with an emoji summarizing the chat history.\n### Output:\nJSON format'
    const asked = { model: chatModels.ollama, messages: [{ role: 'user', content: prompt }], stream: false, ...bound }
    const answer = await post('/v1/chat/completions', asked)
    t.equal(answer.status, 200)
    t.match(await answer.json(), { object: 'chat.completion', choices: [{ message: { role: 'assistant', content: plainText.join('') } }] })
  }
})

t.test('texts of a document are embedded in a batch, as numbers', async t => {
  const input = Array.from({ length: 32 }, (_, index) => `Abschnitt ${index}: größer, 世界`)
  for (const [seed, model] of [
    [1, embeddingModels.openai],
    [2, embeddingModels.compatible],
    [3, embeddingModels.ollama]
  ] as const) {
    const answer = await post('/v1/embeddings', { input, model })
    t.equal(answer.status, 200)
    const { data } = (await answer.json()) as { data: { embedding: number[] }[] }
    t.ok(data.every(({ embedding }, index) => isSame(embedding, vectorOf(input[index], dimensions, seed))))
  }
})

t.test('costs are kept by person, where the key says that its users are to be believed', async t => {
  for (const [person, count] of [
    ['anna', 2],
    ['boris', 1]
  ] as const) {
    for (let round = 0; round < count; round++) {
      const answer = await post('/v1/chat/completions', { model: chatModels.openai, messages }, person)
      await answer.json()
      t.equal(answer.status, 200)
    }
  }
  const rows = await until('both in the summary', async () => {
    const summary = (await (await gateway.fetch('/v1/costs/summary?period=day')).json()) as {
      by_source: { source: string; sub_source: string | null; requests: number; cost_usd: number }[]
    }
    const of = (person: string) => summary.by_source.find(row => row.source === 'webui' && row.sub_source === `${person}-0b7e-4f3a`)
    const [anna, boris] = [of('anna'), of('boris')]
    return anna?.requests === 2 && boris?.requests === 1 ? { anna, boris } : null
  })
  t.ok(rows.anna.cost_usd > 0)
  t.ok(Math.abs(rows.anna.cost_usd - 2 * rows.boris.cost_usd) < 1e-9)
  // Without the right, nobody is told apart: anybody could charge anybody.
  const { key } = (await (await gateway.fetch('/v1/keys', { json: { kind: 'source', source: 'plain' } })).json()) as { key: string }
  const answer = await fetch(`${gateway.url}/v1/chat/completions`, {
    method: 'POST',
    headers: { ...headersOf('anna'), authorization: `Bearer ${key}` },
    body: JSON.stringify({ model: chatModels.openai, messages, user: 'anna' })
  })
  await answer.json()
  const row = await until('the row', async () => {
    const { rows } = await database.pool.query('select * from llm_costs where request_id = $1', [answer.headers.get('x-request-id')])
    return rows[0]
  })
  t.match(row, { source: 'plain', sub_source: null })
  t.notMatch(gateway.output(), /example\.org/, 'addresses of people are in no log')
})

t.test('the body’s `user` names the person where no header does', async t => {
  const { 'x-openwebui-user-id': _, ...headers } = headersOf('nobody')
  const body = JSON.stringify({ model: chatModels.openai, messages, user: 'carla' })
  const answer = await fetch(`${gateway.url}/v1/chat/completions`, { method: 'POST', headers, body })
  await answer.json()
  const row = await until('the row', async () => {
    const { rows } = await database.pool.query('select * from llm_costs where request_id = $1', [answer.headers.get('x-request-id')])
    return rows[0]
  })
  t.match(row, { source: 'webui', sub_source: 'carla' })
})
