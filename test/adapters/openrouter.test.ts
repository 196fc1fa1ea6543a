import t from 'tap'
import { createAdapter } from '../../adapters/openrouter.ts'
import { readChatRequest } from '../../gateway/dialects/openai-chat.ts'
import type { ExchangeObserver, Outbound, OutboundRequest } from '../../outbound/client.ts'
import { tokenCost } from '../../routing/cost.ts'
import type { ModelListing, Target, TokenPrice, Upstream, Usage } from '../../routing/types.ts'

const upstream: Upstream = {
  id: 'openrouter',
  adapter: 'openrouter',
  own: false,
  baseUrl: 'https://openrouter.ai/api/v1',
  apiKey: 'sk-or-k',
  headers: {},
  device: null,
  timeouts: { connectMs: 1, firstTokenMs: 60_000, idleMs: 60_000, totalMs: 60_000 },
  models: null,
  auto: [],
  streamUsage: true,
  registryId: null
}

const list = (...data: unknown[]): Promise<ModelListing[]> => lists({ status: 200, data }, { status: 404, data: [] })

interface ListAnswer {
  readonly status: number
  readonly data: readonly unknown[]
}

/** Both lists: of models, and of embedding models. */
async function lists(models: ListAnswer, embedding: ListAnswer | Error): Promise<ModelListing[]> {
  const outbound: Outbound = {
    send() {
      throw new Error('not here')
    },
    fetchText({ path }) {
      const answer = path === '/api/v1/models' ? models : path === '/api/v1/embeddings/models' ? embedding : new Error(`asked for ${path}`)
      if (answer instanceof Error) return Promise.reject(answer)
      return Promise.resolve({ status: answer.status, headers: {}, text: JSON.stringify({ data: answer.data }) })
    },
    close: () => Promise.resolve()
  }
  return createAdapter({ outbound }).listModels(upstream, new AbortController().signal)
}

/** In the shape of GET /api/v1/models. */
const entry = (changes: object = {}) => ({
  id: 'vendor/model',
  canonical_slug: 'vendor/model-20260101',
  name: 'Vendor: Model',
  created: 1_778_613_011,
  context_length: 1_000_000,
  architecture: { modality: 'text+image->text', input_modalities: ['text', 'image'], output_modalities: ['text'], tokenizer: 'Other' },
  pricing: {
    prompt: '0.000003',
    completion: '0.000015',
    web_search: '0.01',
    input_cache_read: '0.0000003',
    input_cache_write: '0.00000375'
  },
  top_provider: { context_length: 200_000, max_completion_tokens: 64_000, is_moderated: true },
  per_request_limits: null,
  supported_parameters: ['include_reasoning', 'max_tokens', 'reasoning', 'response_format', 'structured_outputs', 'tool_choice', 'tools'],
  ...changes
})

async function one(changes: object = {}): Promise<ModelListing> {
  const [listing] = await list(entry(changes))
  if (listing === undefined) throw new Error('it was not listed')
  return listing
}

t.test('a model is read with its context, its features and its price', async t => {
  t.strictSame(await one(), {
    model: 'vendor/model',
    createdAt: 1_778_613_011,
    maxContextTokens: 200_000,
    maxOutputTokens: 64_000,
    features: ['tools', 'forced_tool_choice', 'json_object', 'json_schema', 'reasoning', 'vision'],
    operations: ['chat', 'complete'],
    loaded: true,
    price: { inputUsdPer1m: 3, outputUsdPer1m: 15, cachedInputUsdPer1m: 0.3 },
    memory: null,
    digest: null
  })
})

t.test('the smaller of two context lengths is the one that is served', async t => {
  t.equal((await one({ context_length: 100, top_provider: { context_length: 200 } })).maxContextTokens, 100)
  t.equal((await one({ context_length: null })).maxContextTokens, 200_000)
  t.equal((await one({ top_provider: null })).maxContextTokens, 1_000_000)
  t.equal((await one({ context_length: 0, top_provider: {} })).maxContextTokens, null)
  t.equal((await one({ top_provider: { max_completion_tokens: null } })).maxOutputTokens, null)
})

t.test('features are what the parameters and the kinds of input say', async t => {
  const features = async (changes: object) => (await one(changes)).features
  t.equal(await features({ supported_parameters: [] }), null, 'nothing said is everything tried')
  t.equal(await features({ supported_parameters: 'tools' }), null)
  t.same(await features({ supported_parameters: ['max_tokens'] }), ['vision'])
  const kinds = { input_modalities: ['file', 'audio'], output_modalities: ['text', 'audio'] }
  t.same(await features({ supported_parameters: ['logprobs', 5], architecture: kinds }), ['logprobs', 'file', 'audio'])
  t.same(await features({ supported_parameters: ['x'], architecture: { output_modalities: ['audio'] } }), ['audio'])
})

t.test('a model that puts out no text does not chat', async t => {
  const chat = async (outputs: unknown) => (await one({ architecture: { output_modalities: outputs } })).operations.includes('chat')
  t.equal(await chat(['text']), true)
  t.equal(await chat(['image', 'text']), true)
  t.equal(await chat(['image']), false)
  t.equal(await chat(['embeddings']), false)
  t.equal(await chat([]), true, 'nobody says')
  t.equal(await chat(undefined), true)
})

t.test('a price is what can be counted on, and otherwise unknown', async t => {
  const cases: readonly [pricing: unknown, price: TokenPrice | null][] = [
    [
      { prompt: '0.0000004', completion: '0.0000016' },
      { inputUsdPer1m: 0.4, outputUsdPer1m: 1.6 }
    ],
    [
      { prompt: '0', completion: '0' },
      { inputUsdPer1m: 0, outputUsdPer1m: 0 }
    ],
    [
      { prompt: 0.000001, completion: '1e-6' },
      { inputUsdPer1m: 1, outputUsdPer1m: 1 }
    ],
    [
      { prompt: '0', completion: '0', request: '0.005' },
      { inputUsdPer1m: 0, outputUsdPer1m: 0, requestUsd: 0.005 }
    ],
    [{ prompt: '-1', completion: '-1' }, null],
    [{ prompt: '0.1' }, null],
    [{ prompt: '', completion: '' }, null],
    [{ prompt: 'free', completion: '0' }, null],
    [{ prompt: null, completion: null }, null],
    [null, null],
    [[], null]
  ]
  for (const [pricing, price] of cases) t.strictSame((await one({ pricing })).price, price, JSON.stringify(pricing))
})

t.test('longer prompts have the prices of their tier, in whatever order the tiers are listed', async t => {
  const overrides = [
    { min_prompt_tokens: 500_000, prompt: '0.00001' },
    { min_prompt_tokens: 200_000, prompt: '0.000006', completion: '0.0000225', input_cache_read: '0.0000006' },
    { min_prompt_tokens: null, prompt: '1' },
    'x'
  ]
  const { price } = await one({ pricing: { prompt: '0.000003', completion: '0.000015', overrides } })
  t.strictSame(price, {
    inputUsdPer1m: 3,
    outputUsdPer1m: 15,
    tiers: [
      { abovePromptTokens: 200_000, inputUsdPer1m: 6, outputUsdPer1m: 22.5, cachedInputUsdPer1m: 0.6 },
      { abovePromptTokens: 500_000, inputUsdPer1m: 10 }
    ]
  })
  const usage: Usage = {
    promptTokens: 600_000,
    completionTokens: 0,
    cachedTokens: 0,
    reasoningTokens: 0,
    providerNanoUsd: null,
    busyMs: null
  }
  t.equal(tokenCost(price as TokenPrice, usage), 6_000_000_000)
})

t.test('what is no model is passed over, and an empty list is one', async t => {
  t.same(await list(), [])
  const names = (await list(null, 'x', {}, { id: 5 }, { id: 'a\u0000' }, { id: 'm'.repeat(257) }, { id: 'bare' })).map(({ model }) => model)
  t.same(names, ['bare'])
})

/** One call, up to its head. */
function call() {
  let request: OutboundRequest | null = null
  let server: ExchangeObserver | null = null
  const outbound: Outbound = {
    send(sent, observer) {
      request = sent
      server = observer
      return { sent: true, resume() {}, abort() {} }
    },
    fetchText: () => Promise.reject(new Error('not here')),
    close: () => Promise.resolve()
  }
  const target: Target = {
    id: 'openrouter/vendor/model',
    upstream: { ...upstream, headers: { 'x-title': 'mine' } },
    model: 'vendor/model',
    contextTokens: null,
    maxOutputTokens: null,
    features: null,
    operations: ['chat', 'complete'],
    loaded: true,
    price: { source: 'unknown', tokens: null },
    createdAt: 0
  }
  const body = Buffer.from('{"model":"auto","messages":[{"role":"user","content":"x"}],"provider":{"order":["a"]}}')
  const heard: { usage: Usage | null; body: string } = { usage: null, body: '' }
  createAdapter({ outbound }).chat(
    { id: 'attempt-1', request: readChatRequest(body, { requestId: 'r', localOnly: false }).request, target },
    {
      frames: () => true,
      body(json) {
        heard.body = json.toString()
      },
      usage(usage) {
        heard.usage = usage
      },
      end() {}
    }
  )
  return {
    heard,
    request: () => request as OutboundRequest | null,
    answer(usage: object) {
      const to = server as ExchangeObserver | null
      to?.head(200, { 'content-type': 'application/json' })
      to?.data(Buffer.from(JSON.stringify({ choices: [{ message: { content: 'x' } }], usage })))
      to?.end()
    }
  }
}

t.test('a call says who we are, unless the configuration says otherwise, and keeps OpenRouter’s own fields', async t => {
  const { request, answer } = call()
  t.match(request(), {
    origin: 'https://openrouter.ai',
    path: '/api/v1/chat/completions',
    headers: { authorization: 'Bearer sk-or-k', 'http-referer': 'http://localhost', 'x-title': 'mine', 'x-openrouter-title': 'llm-mcp' }
  })
  t.same(JSON.parse(String(request()?.body)), {
    model: 'vendor/model',
    messages: [{ role: 'user', content: 'x' }],
    provider: { order: ['a'] }
  })
  answer({})
})

t.test('what OpenRouter says it charged is what was charged', async t => {
  const cases: readonly [usage: object, nanoUsd: number | null][] = [
    [{ cost: 0.00001234 }, 12_340],
    [{ cost: 0 }, 0],
    [{ cost: 0.0000000004 }, 0],
    [{ cost: 0.001, is_byok: false, cost_details: { upstream_inference_cost: 0.5 } }, 1_000_000],
    [{ cost: 0.001, is_byok: true, cost_details: { upstream_inference_cost: 0.5 } }, 501_000_000],
    [{ cost: 0.001, is_byok: true, cost_details: null }, 1_000_000],
    [{ cost: '0.001' }, null],
    [{ cost: -1 }, null],
    [{ cost: null }, null],
    [{}, null],
    // No column holds it, and one such row would hold up all others.
    [{ cost: 1e300 }, null],
    [{ cost: 1, is_byok: true, cost_details: { upstream_inference_cost: 1e300 } }, null]
  ]
  for (const [usage, nanoUsd] of cases) {
    const { heard, answer } = call()
    answer({ prompt_tokens: 1, ...usage })
    t.equal(heard.usage?.providerNanoUsd, nanoUsd, JSON.stringify(usage))
  }
})

t.test('embedding models have a list of their own, without which the others are still there', async t => {
  const models = { status: 200, data: [entry(), entry({ id: 'vendor/both' })] }
  // As OpenRouter documents it.
  const small = {
    id: 'openai/text-embedding-3-small',
    architecture: { input_modalities: ['text'], output_modalities: ['embeddings'] },
    context_length: 8192,
    pricing: { prompt: '0.00000002', completion: '0', image: '0', request: '0' },
    supported_parameters: [],
    top_provider: { context_length: 8192, max_completion_tokens: null }
  }
  const both = entry({ id: 'vendor/both' })
  t.match(await lists(models, { status: 200, data: [small, both, null, { id: 5 }] }), [
    { model: 'vendor/model', operations: ['chat', 'complete'] },
    { model: 'vendor/both', operations: ['chat', 'complete', 'embed'] },
    { model: small.id, operations: ['embed'], maxContextTokens: 8192, features: null, price: { inputUsdPer1m: 0.02, outputUsdPer1m: 0 } }
  ])
  for (const failure of [{ status: 404, data: [] }, { status: 500, data: [] }, new Error('reset')]) {
    t.same(
      (await lists(models, failure)).map(({ model }) => model),
      ['vendor/model', 'vendor/both']
    )
  }
  await t.rejects(lists({ status: 500, data: [] }, { status: 200, data: [small] }), { code: 'upstream_unavailable' })
})
