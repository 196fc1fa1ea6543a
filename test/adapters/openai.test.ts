import t from 'tap'
import { createAdapter } from '../../adapters/openai.ts'
import type { Outbound, OutboundRequest, TextAnswer, TextLimits } from '../../outbound/client.ts'
import { GatewayError } from '../../routing/errors.ts'
import type { ModelListing, Upstream } from '../../routing/types.ts'

const upstream: Upstream = {
  id: 'up',
  adapter: 'openai',
  own: false,
  baseUrl: 'http://up.example/v1',
  apiKey: 'k',
  headers: { 'x-extra': 'e' },
  device: null,
  timeouts: { connectMs: 7, firstTokenMs: 1, idleMs: 1, totalMs: 1 },
  models: null,
  auto: [],
  streamUsage: true,
  registryId: null
}

/** Asks for models; `answer` is what the server says. */
async function list(answer: Partial<TextAnswer> | Error, where: Partial<Upstream> = {}) {
  const asked: { request: OutboundRequest; limits: TextLimits }[] = []
  const outbound: Outbound = {
    send() {
      throw new Error('not here')
    },
    fetchText(request, limits) {
      asked.push({ request, limits })
      return answer instanceof Error ? Promise.reject(answer) : Promise.resolve({ status: 200, headers: {}, text: '', ...answer })
    },
    close: () => Promise.resolve()
  }
  const models = await createAdapter({ outbound }).listModels({ ...upstream, ...where }, new AbortController().signal)
  return { models, asked }
}

const listed = (...data: unknown[]) => ({ text: JSON.stringify({ object: 'list', data }) })

async function refusal(asking: Promise<unknown>): Promise<GatewayError> {
  try {
    await asking
  } catch (error) {
    if (error instanceof GatewayError) return error
    throw error
  }
  throw new Error('it was taken')
}

t.test('the list is asked for with our key, and bounded', async t => {
  const { asked } = await list(listed({ id: 'm' }))
  t.match(asked, [
    {
      request: {
        origin: 'http://up.example',
        path: '/v1/models',
        method: 'GET',
        headers: { authorization: 'Bearer k', 'x-extra': 'e' },
        body: null,
        connectMs: 7
      },
      limits: { maxBytes: 8 * 1024 * 1024, timeoutMs: 15_000 }
    }
  ])
  t.ok(asked[0]?.limits.signal, 'it can be called off')
  const keyless = await list(listed({ id: 'm' }), { apiKey: null })
  t.notOk('authorization' in (keyless.asked[0]?.request.headers ?? {}))
})

t.test('a model is what its server says of it, in the words of each', async t => {
  const plain: ModelListing = {
    model: 'm',
    createdAt: null,
    maxContextTokens: null,
    maxOutputTokens: null,
    features: null,
    operations: ['chat', 'complete', 'embed'],
    loaded: true,
    price: null,
    memory: null,
    digest: null
  }
  const cases: readonly [entry: object, changes: Partial<ModelListing>][] = [
    [{ id: 'm' }, {}],
    [{ id: 'm', created: 1_700_000_000 }, { createdAt: 1_700_000_000 }],
    [{ id: 'm', created: -1 }, {}],
    [{ id: 'm', max_model_len: 4_096 }, { maxContextTokens: 4_096 }],
    [
      { id: 'm', context_window: 8_192, max_completion_tokens: 1_000 },
      { maxContextTokens: 8_192, maxOutputTokens: 1_000 }
    ],
    [{ id: 'm', max_context_length: 32_768 }, { maxContextTokens: 32_768 }],
    [{ id: 'm', meta: { n_ctx_train: 131_072 } }, { maxContextTokens: 131_072 }],
    [{ id: 'm', meta: { n_ctx: 16_384, n_ctx_train: 131_072 } }, { maxContextTokens: 16_384 }],
    [{ id: 'm', max_model_len: '4096', context_window: 0, meta: [] }, {}]
  ]
  for (const [entry, changes] of cases) t.strictSame((await list(listed(entry))).models, [{ ...plain, ...changes }], JSON.stringify(entry))
})

t.test('models without a chat are known by their names', async t => {
  const chat = ['gpt-4o-mini', 'gpt-5', 'o4-mini', 'llama-3.3-70b-versatile', 'qwen2.5-coder', 'deepseek-chat', 'mistral-large-latest']
  const other = [
    'text-embedding-3-small',
    'whisper-1',
    'tts-1-hd',
    'gpt-4o-mini-tts',
    'dall-e-3',
    'omni-moderation-latest',
    'gpt-4o-transcribe',
    'gpt-image-1',
    'gpt-4o-realtime-preview',
    'sora-2',
    'babbage-002',
    'davinci-002',
    'Nomic-Embed-Text',
    'bge-reranker'
  ]
  const { models } = await list(listed(...[...chat, ...other].map(id => ({ id }))))
  t.same(
    models.filter(model => model.operations.includes('chat')).map(({ model }) => model),
    chat
  )
})

t.test('what is no model is passed over', async t => {
  const spoiled = [null, 5, 'm', [], {}, { id: 5 }, { id: '' }, { id: 'm'.repeat(257) }, { id: 'm\u0000' }, { id: 'm\n' }, { id: '\ud800' }]
  const { models } = await list(listed(...spoiled, { id: 'größe' }, { id: 'm'.repeat(256) }))
  t.same(
    models.map(({ model }) => model),
    ['größe', 'm'.repeat(256)]
  )
  const many = await list(listed(...Array.from({ length: 6_000 }, (_, index) => ({ id: `m${index}` }))))
  t.equal(many.models.length, 5_000)
})

t.test('a list that is none is a failure of the upstream', async t => {
  const cases: readonly [answer: Partial<TextAnswer> | Error, code: string][] = [
    [listed(), 'upstream_unavailable'],
    [listed({}), 'upstream_unavailable'],
    [{ text: '<html>' }, 'upstream_unavailable'],
    [{ text: '[]' }, 'upstream_unavailable'],
    [{ text: '{"data":{}}' }, 'upstream_unavailable'],
    [{ text: '' }, 'upstream_unavailable'],
    [{ text: `{"data":[${'{},'.repeat(250_000)}{}]}` }, 'upstream_unavailable'],
    [{ status: 401, text: '{"error":{"message":"sk-abcdefghijk is bad"}}' }, 'upstream_denied'],
    [{ status: 503 }, 'upstream_unavailable'],
    [{ status: 302, headers: { location: 'http://elsewhere' } }, 'upstream_unavailable'],
    [Object.assign(new Error('connect'), { code: 'ECONNREFUSED' }), 'upstream_unavailable'],
    [new Error('no whole answer within 15000 ms'), 'upstream_unavailable']
  ]
  for (const [answer, code] of cases) {
    const error = await refusal(list(answer))
    t.equal(error.code, code)
    t.match(error.message, /^up /)
    t.notMatch(error.message, /abcdef/)
  }
})

t.test('a server that quotes the key it refuses tells nobody', async t => {
  const apiKey = 'TOKENabcdef0123456789'
  const quoting = {
    status: 401,
    text: JSON.stringify({ error: { message: `Incorrect API key provided: ${apiKey}, x-extra secret-of-header` } })
  }
  const error = await refusal(list(quoting, { apiKey, headers: { 'x-extra': 'secret-of-header' } }))
  t.match(error.message, /Incorrect API key provided: \[hidden\]/)
  t.notMatch(error.message, /TOKEN|secret-of/)
})

t.test('a model that is listed twice is one, the first', async t => {
  const { models } = await list(listed({ id: 'm', max_model_len: 1 }, { id: 'n' }, { id: 'm', max_model_len: 2 }))
  t.match(models, [{ model: 'm', maxContextTokens: 1 }, { model: 'n' }])
  t.equal(models.length, 2)
})

t.test('at OpenAI itself no model both chats and continues texts; other servers are tried', async t => {
  const ids = ['gpt-4o-mini', 'gpt-3.5-turbo-instruct', 'davinci-002', 'text-embedding-3-small', 'whisper-1'].map(id => ({ id }))
  const operations = async (registryId: string | null) => (await list(listed(...ids), { registryId })).models.map(model => model.operations)
  t.same(await operations('openai'), [['chat'], ['complete'], ['complete'], ['embed'], []])
  t.same(await operations(null), [['chat', 'complete', 'embed'], ['chat', 'complete'], ['complete'], ['embed'], []])
  const embedders = ['BAAI/bge-m3', 'all-MiniLM-L6-v2', 'intfloat/e5-large', 'gte-qwen2', 'nomic-ai/nomic-v1.5'].map(id => ({ id }))
  const known = (await list(listed(...embedders), { registryId: null })).models.map(model => model.operations)
  t.same(
    known,
    embedders.map(() => ['embed']),
    'families that chat with nobody'
  )
})
