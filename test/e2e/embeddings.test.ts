// Embeddings over every adapter: the same to the bit in both encodings, and never mixed with those of another model.

import t from 'tap'
import { createDatabase } from '../support/cluster.ts'
import { newFolder, type RunningGateway, startGateway } from '../support/gateway.ts'
import { answerJson, startCompatible, startOllama } from '../support/upstream.ts'
import { base64Of, embed, embedNatively, floatsOf, isSame, vectorOf } from '../support/vectors.ts'
import { until } from '../support/wait.ts'

const database = await createDatabase(t)
const openai = await startCompatible(t, { models: [{ id: 'text-embedding-3-small', created: 1 }] })
const router = await startCompatible(t, {
  models: [
    {
      id: 'vendor/router-embed',
      created: 1,
      architecture: { input_modalities: ['text'], output_modalities: ['embeddings'] },
      pricing: { prompt: '0.00000002', completion: '0' }
    }
  ]
})
// Two houses of one model, for the ways of a request from one to the other.
const east = await startCompatible(t, { models: ['twin-embed', 'east-embed', 'plain-embed'].map(id => ({ id, created: 1 })) })
const west = await startCompatible(t, { models: ['twin-embed', 'west-embed'].map(id => ({ id, created: 1 })) })
const ollama = await startOllama(t, {
  models: ['nomic-embed-text', 'llama3.2:3b'],
  contextLength: 512,
  capabilities: name => (name === 'nomic-embed-text' ? ['embedding'] : ['completion'])
})
const options = {
  databaseUrl: database.url,
  folder: await newFolder(t),
  config: {
    machines: { box: { url: ollama.origin, max_concurrency: 16 } },
    providers: {
      openai: { base_url: `${openai.origin}/v1`, api_key: 'sk-openai-0000000000' },
      openrouter: { type: 'openrouter', base_url: `${router.origin}/api/v1`, api_key: 'sk-or-00000000000000' },
      east: { base_url: `${east.origin}/v1`, api_key: 'sk-east-000000000000' },
      west: { base_url: `${west.origin}/v1`, api_key: 'sk-west-000000000000' }
    },
    aliases: {
      // Not declared to be one space, and declared to be one.
      strangers: ['nomic-embed-text', 'text-embedding-3-small'],
      relatives: ['east/east-embed', 'west/west-embed']
    },
    vector_spaces: { family: { models: ['east-embed', 'west-embed'], dimensions: 8 }, house: { models: ['east/plain-embed'] } }
  }
}
const first = await startGateway(t, options)
await ready(first)
let gateway = first
const dimensions = 8
t.beforeEach(reset)

function reset(): void {
  for (const [fake, seed] of [
    [openai, 1],
    [router, 2],
    [east, 4],
    [west, 4]
  ] as const)
    fake.others.set('/embeddings', embed({ dimensions, seed }))
  ollama.others.set('/api/embed', embedNatively({ dimensions, seed: 3 }))
}

async function ready(gateway: RunningGateway): Promise<void> {
  await until('every list to be read', async () => {
    const { data } = (await (await gateway.fetch('/v1/models')).json()) as { data: { id: string }[] }
    return ['text-embedding-3-small', 'vendor/router-embed', 'west-embed', 'east-embed', 'nomic-embed-text'].every(name =>
      data.some(({ id }) => id === name)
    )
  })
}

interface Answer {
  readonly status: number
  readonly headers: Headers
  readonly text: string
  readonly data: readonly { readonly index: number; readonly embedding: number[] | string }[]
  readonly error: { readonly code: string; readonly param: string | null; readonly type: string; readonly message: string } | undefined
}

async function ask(json: object): Promise<Answer> {
  const answer = await gateway.fetch('/v1/embeddings', { json })
  const text = await answer.text()
  const body = JSON.parse(text) as Pick<Answer, 'data' | 'error'>
  return { status: answer.status, headers: answer.headers, text, data: body.data, error: body.error }
}

const everywhere = [
  ['openai', 'text-embedding-3-small', 1],
  ['openrouter', 'vendor/router-embed', 2],
  ['ollama', 'nomic-embed-text', 3],
  ['a compatible server', 'east/twin-embed', 4]
] as const
const input = ['one', 'два', '三', '👩‍👩‍👧‍👦']

for (const [name, model, seed] of everywhere) {
  t.test(`${name}: base64 and numbers are the same vectors, to the bit, in the order of the texts`, async t => {
    const vectors = input.map(text => vectorOf(text, dimensions, seed))
    const servers = name === 'ollama' ? [undefined] : ([undefined, 'float', 'base64'] as const)
    for (const always of servers) {
      for (const fake of [openai, router, east])
        if (always !== undefined) fake.others.set('/embeddings', embed({ dimensions, seed, always }))
      const said = always === undefined ? 'as it is asked' : `always ${always}`
      const plain = await ask({ model, input })
      const float = await ask({ model, input, encoding_format: 'float' })
      const base64 = await ask({ model, input, encoding_format: 'base64' })
      t.same(
        [plain, float, base64].map(({ status }) => status),
        [200, 200, 200]
      )
      t.ok(
        [plain, float].every(({ data }) => data.every(({ embedding }, at) => isSame(embedding as number[], vectors[at] as number[]))),
        `numbers of a server that answers ${said}`
      )
      t.same(
        base64.data.map(({ embedding }) => embedding),
        vectors.map(base64Of),
        `base64 of a server that answers ${said}`
      )
      t.ok(base64.data.every(({ embedding }, at) => isSame(floatsOf(embedding as string), float.data[at]?.embedding as number[])))
    }
  })

  t.test(`${name}: the number of dimensions is the client's choice, and is kept to`, async t => {
    const { data } = await ask({ model, input, dimensions: 4 })
    t.ok(data.every(({ embedding }) => embedding.length === 4))
    reset()
    for (const fake of [openai, router, east]) fake.others.set('/embeddings', obstinate)
    ollama.others.set('/api/embed', answerJson(200, { embeddings: [vectorOf('x', 8, seed)], prompt_eval_count: 1 }))
    const refused = await ask({ model, input: 'x', dimensions: 5 })
    t.equal(refused.status, 502)
    t.match(refused.error, { code: 'dimension_mismatch', param: 'dimensions', message: /5 dimensions .* 8/ })
    t.notOk(refused.text.includes('embedding"'), 'nothing of the vectors is given')
  })
}

const obstinate = answerJson(200, {
  object: 'list',
  data: [{ object: 'embedding', index: 0, embedding: vectorOf('x', 8) }],
  model: 'x',
  usage: { prompt_tokens: 1, total_tokens: 1 }
})

t.test('vectors of another length than before are given to nobody', async t => {
  t.equal((await ask({ model: 'text-embedding-3-small', input })).status, 200)
  openai.others.set('/embeddings', embed({ dimensions: 16 }))
  const refused = await ask({ model: 'text-embedding-3-small', input })
  t.equal(refused.status, 502)
  t.match(refused.error, { code: 'dimension_mismatch', type: 'server_error', message: /8 dimensions, .* 16/ })
  t.notOk(refused.text.includes('embedding"'))
  t.equal(refused.headers.get('x-should-retry'), 'false')
})

t.test('the next target of the same space answers where the first has another length', async t => {
  const before = await ask({ model: 'twin-embed', input })
  t.equal(before.headers.get('x-llm-mcp-provider'), 'east')
  east.others.set('/embeddings', embed({ dimensions: 16, seed: 4 }))
  const answer = await ask({ model: 'twin-embed', input })
  t.equal(answer.status, 200)
  t.equal(answer.headers.get('x-llm-mcp-provider'), 'west')
  t.equal(answer.headers.get('x-llm-mcp-reason'), 'fallback')
  t.same(answer.data, before.data)
})

t.test('a broken answer goes to the next target of the same space, and to no other', async t => {
  for (const wrong of [{ object: 'list', data: [] }, { object: 'list', data: [{ index: 0, embedding: ['a'] }] }, { data: null }]) {
    east.others.set('/embeddings', answerJson(200, wrong))
    const answer = await ask({ model: 'twin-embed', input: 'one' })
    t.equal(answer.status, 200, JSON.stringify(wrong))
    t.equal(answer.headers.get('x-llm-mcp-provider'), 'west')
  }
})

t.test('an alias of strangers is its first model: vectors of the second would be noise', async t => {
  const calls = openai.calls.length
  const answer = await ask({ model: 'strangers', input })
  t.equal(answer.headers.get('x-llm-mcp-model'), 'nomic-embed-text')
  ollama.others.set('/api/embed', answerJson(500, { error: 'out of memory' }))
  t.equal((await ask({ model: 'strangers', input })).status, 502)
  t.equal(openai.calls.length, calls, 'the other model was not asked')
})

t.test('an alias within one declared space may move', async t => {
  t.equal((await ask({ model: 'relatives', input })).headers.get('x-llm-mcp-provider'), 'east')
  east.others.set('/embeddings', answerJson(500, { error: { message: 'down' } }))
  const answer = await ask({ model: 'relatives', input })
  t.equal(answer.status, 200)
  t.equal(answer.headers.get('x-llm-mcp-provider'), 'west')
  t.equal(answer.headers.get('x-llm-mcp-model'), 'west-embed')
  west.others.set('/embeddings', embed({ dimensions: 9 }))
  t.match((await ask({ model: 'relatives', input })).error, { code: 'dimension_mismatch', message: /"family" .*8 .*9/ })
})

t.test('a model that is declared with its provider is found by its plain name too', async t => {
  t.equal((await ask({ model: 'east/plain-embed', input })).status, 200)
  t.equal((await ask({ model: 'plain-embed', input })).status, 200)
})

t.test('names that stand for our choice are refused, and so are models that do something else', async t => {
  for (const model of ['auto', 'local', 'cloud', 'llama3.2:3b']) {
    const { status, error } = await ask({ model, input })
    t.equal(status, 400, model)
    t.match(error, { type: 'invalid_request_error', param: 'model' })
  }
  const chat = await gateway.fetch('/v1/chat/completions', {
    json: { model: 'nomic-embed-text', messages: [{ role: 'user', content: 'hi' }] }
  })
  t.equal(chat.status, 400)
  t.match(await chat.json(), { error: { param: 'model' } })
})

t.test('a text that is too long is the fault of the input', async t => {
  const calls = ollama.calls.length
  const sure = await ask({ model: 'nomic-embed-text', input: ['short', 'x'.repeat(512 * 12 + 1)] })
  t.equal(sure.status, 400)
  t.match(sure.error, { code: 'context_length_exceeded', param: 'input', type: 'invalid_request_error' })
  t.equal(ollama.calls.length, calls, 'known without asking')
  // As Ollama says it with truncate: false.
  ollama.others.set('/api/embed', answerJson(400, { error: 'the input length exceeds the context length' }))
  t.match((await ask({ model: 'nomic-embed-text', input: 'x'.repeat(4_000) })).error, { code: 'context_length_exceeded', param: 'input' })
  t.match(ollama.calls.findLast(({ path }) => path === '/api/embed')?.body, { truncate: false })
  const said = "This model's maximum context length is 8192 tokens, however you requested 8193 tokens."
  openai.others.set('/embeddings', answerJson(400, { error: { message: said, type: 'invalid_request_error', param: null, code: null } }))
  t.match((await ask({ model: 'text-embedding-3-small', input })).error, { code: 'context_length_exceeded', param: 'input' })
  // Many short texts are not one long one.
  reset()
  t.equal((await ask({ model: 'nomic-embed-text', input: Array.from({ length: 100 }, () => 'x'.repeat(100)) })).status, 200)
})

t.test('what is no list of texts is refused by its place', async t => {
  const cases: [unknown, RegExp][] = [
    [undefined, /^input$/],
    [[], /^input$/],
    ['', /^input$/],
    [['a', ''], /^input\[1\]$/],
    [Array.from({ length: 2_049 }, () => 'a'), /^input$/],
    [[[]], /^input/],
    [{ text: 'a' }, /^input$/],
    [['a', 1], /^input\[1\]$/]
  ]
  for (const [input, param] of cases) {
    const { status, error } = await ask({ model: 'text-embedding-3-small', input })
    t.equal(status, 400, JSON.stringify(input)?.slice(0, 60))
    t.match(error, { type: 'invalid_request_error', param })
  }
  t.equal((await ask({ model: 'text-embedding-3-small', input: Array.from({ length: 2_048 }, () => 'a') })).data.length, 2_048)
  t.match((await ask({ model: 'text-embedding-3-small', input, encoding_format: 'int8' })).error, { param: 'encoding_format' })
  for (const dimensions of [0, -1, 1.5, '8'])
    t.match((await ask({ model: 'text-embedding-3-small', input, dimensions })).error, { param: 'dimensions' })
})

t.test('vectors cost what they cost: prompt tokens, once for each attempt', async t => {
  const answer = await ask({ model: 'openai/text-embedding-3-small', input })
  const row = await until('the row', async () => {
    const { rows } = await database.pool.query('select * from llm_costs where request_id = $1', [answer.headers.get('x-request-id')])
    return rows[0]
  })
  // 4 tokens at 0.02 $ per million.
  t.match(row, { provider: 'openai', outcome: 'ok', prompt_tokens: '4', completion_tokens: '0', cost_nano_usd: '80', estimated: false })
  t.equal(Number(answer.headers.get('x-llm-mcp-cost-usd')), 0.00000008)
})

t.test('the length of vectors is remembered by the next process', async t => {
  t.equal((await ask({ model: 'nomic-embed-text', input })).status, 200)
  await until('the length to be recorded', async () => {
    const { rows } = await database.pool.query(`select dimensions from vector_spaces where name = 'nomic-embed-text'`)
    return rows[0]?.dimensions === dimensions
  })
  await first.stop()
  gateway = await startGateway(t, options)
  await ready(gateway)
  ollama.others.set('/api/embed', embedNatively({ dimensions: 16, seed: 3 }))
  t.match((await ask({ model: 'nomic-embed-text', input })).error, { code: 'dimension_mismatch' })
  reset()
  t.equal((await ask({ model: 'nomic-embed-text', input })).status, 200)
})
