// Limits per source: over two processes, in the headers of OpenAI, and by person where one key is many people.

import t from 'tap'
import { createDatabase } from '../support/cluster.ts'
import { type RunningGateway, startGateway } from '../support/gateway.ts'
import { answerJson, type Behaviour, completion, startCompatible } from '../support/upstream.ts'
import { until } from '../support/wait.ts'

interface Limits {
  readonly requests_per_minute?: number
  readonly tokens_per_minute?: number
  readonly concurrent_requests?: number
}

// A prompt of 40 bytes and one message is estimated at 14 tokens.
const prompt = 'x'.repeat(40)
const usage = { prompt_tokens: 20, completion_tokens: 10, total_tokens: 30 }
const answered = answerJson(200, completion('ok', { usage }))

const database = await createDatabase(t)
const upstream = await startCompatible(t, {
  models: ['gpt-4o-mini', 'gpt-4o', 'o9'].map(id => ({ id, object: 'model', created: 1, owned_by: 'test' })),
  behaviour: answered
})
const other = await startCompatible(t, { models: [{ id: 'llama-70b' }], behaviour: answered })
const options = {
  databaseUrl: database.url,
  config: {
    providers: {
      openai: { base_url: `${upstream.origin}/v1`, api_key: 'sk-upstream-000000000000000000' },
      other: { base_url: `${other.origin}/v1`, models: ['llama-70b'] }
    },
    aliases: { smart: ['openai/gpt-4o', 'llama-70b'] }
  },
  env: { LOG_LEVEL: 'warn' }
}
const [one, two] = await Promise.all([startGateway(t, options), startGateway(t, options)])
for (const gateway of [one, two]) {
  await until('the list to be read', async () => (await (await gateway.fetch('/v1/models')).text()).includes('gpt-4o-mini'))
}

async function keyFor(source: string, limits: Limits, more: object = {}): Promise<string> {
  const made = await one.fetch('/v1/keys', { json: { kind: 'source', source, limits, ...more } })
  const { key } = (await made.json()) as { key: string }
  if (made.status !== 201) throw new Error(`no key: ${made.status}`)
  return key
}

function ask(gateway: RunningGateway, key: string, { headers = {}, ...body }: Record<string, unknown> = {}): Promise<Response> {
  return gateway.fetch('/v1/chat/completions', {
    headers: { authorization: `Bearer ${key}`, ...(headers as Record<string, string>) },
    json: { model: 'gpt-4o-mini', messages: [{ role: 'user', content: prompt }], ...body }
  })
}

/** Go's durations, as OpenAI's headers have them. */
function milliseconds(duration: string | null): number {
  const units: Record<string, number> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 }
  const parts = [...(duration ?? '').matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h)/g)]
  if (parts.length === 0 || parts.map(([part]) => part).join('') !== duration) throw new Error(`no duration: ${duration}`)
  return parts.reduce((sum, [, number, unit]) => sum + Number(number) * (units[unit as string] as number), 0)
}

t.test('10,000 requests at three times the limit, over two processes: as many as the limit come through', async t => {
  const limit = 3_334
  const key = await keyFor('flood', { requests_per_minute: limit })
  const before = upstream.calls.length
  let sent = 0
  let admitted = 0
  const refused: number[] = []
  const startedAt = performance.now()
  const worker = async (): Promise<void> => {
    while (sent < 10_000) {
      // Two of three go to the first: the processes are not loaded alike.
      const gateway = sent++ % 3 === 0 ? two : one
      const answer = await ask(gateway, key)
      if (answer.status === 200) admitted++
      else refused.push(answer.status)
      await answer.arrayBuffer()
    }
  }
  await Promise.all(Array.from({ length: 48 }, worker))
  t.comment(`${admitted} of ${limit} in ${Math.round(performance.now() - startedAt)} ms`)
  t.ok(admitted <= limit, `${admitted} is not more than ${limit}`)
  t.ok(admitted >= limit * 0.95, `${admitted} is not 5 % under ${limit}`)
  t.ok(refused.every(status => status === 429))
  t.equal(upstream.calls.length - before, admitted, 'a refused call reaches nobody')
})

t.test('headers are OpenAI’s, and a refusal says what, until when, and costs no tokens', async t => {
  const key = await keyFor('headers', { requests_per_minute: 2, tokens_per_minute: 10_000 })
  const first = await ask(one, key)
  t.equal(first.status, 200)
  t.equal(first.headers.get('x-ratelimit-limit-requests'), '2')
  t.equal(first.headers.get('x-ratelimit-limit-tokens'), '10000')
  t.equal(first.headers.get('x-ratelimit-remaining-requests'), '1')
  t.equal(first.headers.get('x-ratelimit-remaining-tokens'), String(10_000 - 14), 'what is estimated')
  for (const name of ['x-ratelimit-reset-requests', 'x-ratelimit-reset-tokens']) {
    const ms = milliseconds(first.headers.get(name))
    t.ok(ms > 50_000 && ms <= 60_000, `${name} ${ms}`)
  }
  const second = await ask(two, key)
  t.equal(second.status, 200)
  const calls = upstream.calls.length
  for (const gateway of [one, two]) {
    const refused = await ask(gateway, key)
    t.equal(refused.status, 429)
    t.match(await refused.json(), { error: { type: 'requests', code: 'rate_limit_exceeded', param: null, message: /2 requests/ } })
    t.equal(refused.headers.get('x-ratelimit-remaining-requests'), '0')
    const waitMs = Number(refused.headers.get('retry-after-ms'))
    t.ok(waitMs > 0 && waitMs <= 60_000, `retry-after-ms ${waitMs}`)
    t.equal(refused.headers.get('x-should-retry'), null, 'within a minute SDKs wait')
    t.ok(refused.headers.get('x-request-id'))
  }
  t.equal(upstream.calls.length, calls)
})

t.test('tokens: estimated first, then corrected by what was used, given back on failure', async t => {
  const key = await keyFor('tokens', { tokens_per_minute: 100 })
  const remaining = async (): Promise<number> => {
    // A request too large for the whole limit takes nothing, and tells how things are.
    const answer = await ask(one, key, { max_tokens: 1_000 })
    t.equal(answer.status, 429)
    return Number(answer.headers.get('x-ratelimit-remaining-tokens'))
  }
  t.equal((await ask(one, key)).status, 200)
  t.equal(await remaining(), 70, '30 were used, 14 were estimated')
  upstream.behaviour = answerJson(500, { error: { message: 'no' } })
  t.equal((await ask(one, key)).status, 502)
  upstream.behaviour = answered
  t.equal(await remaining(), 70, 'what failed used nothing')
  t.equal((await ask(one, key)).status, 200)
  t.equal((await ask(one, key)).status, 200)
  t.equal(await remaining(), 10)
  const refused = await ask(one, key)
  t.equal(refused.status, 429)
  t.match(await refused.json(), { error: { type: 'tokens', code: 'rate_limit_exceeded' } })
  const tooLarge = await ask(one, key, { max_tokens: 1_000 })
  t.equal(tooLarge.headers.get('x-should-retry'), 'false', 'it can never fit')
  t.equal(tooLarge.headers.get('retry-after-ms'), null)
})

t.test('requests at once: as many as the key may, on both processes together, streams too', async t => {
  const key = await keyFor('parallel', { concurrent_requests: 3 })
  const open: (() => void)[] = []
  const holding: Behaviour = (call, response, request) => {
    open.push(() => void answered(call, response, request))
  }
  upstream.behaviour = holding
  t.teardown(() => {
    upstream.behaviour = answered
  })
  const answers = Array.from({ length: 12 }, (_, index) => ask(index % 2 === 0 ? one : two, key))
  const statuses: number[] = []
  for (const answer of answers) void answer.then(({ status }) => statuses.push(status))
  await until('the others to be refused', () => statuses.length >= 9 && open.length > 0)
  t.ok(open.length <= 3, `${open.length} at once`)
  t.same(new Set(statuses), new Set([429]))
  upstream.behaviour = answered
  for (const answer of open) answer()
  await Promise.all(answers)
  t.ok(statuses.filter(status => status === 200).length >= open.length)
  await until('all three places to be free for the other process', async () => {
    const three = await Promise.all([ask(two, key), ask(two, key), ask(two, key)])
    return three.every(({ status }) => status === 200)
  })
})

t.test('one shared key is many people: each has the limit, and costs are kept apart', async t => {
  const key = await keyFor('webui', { requests_per_minute: 2 }, { trust_user_header: true })
  const by = (name: string): Promise<Response> => ask(one, key, { headers: { 'x-openwebui-user-id': name } })
  for (const name of ['ann', 'ann', 'ben', 'ben']) t.equal((await by(name)).status, 200, name)
  t.equal((await by('ann')).status, 429)
  t.equal((await ask(one, key, { user: 'cleo' })).status, 200, 'by the body too')
  t.equal((await ask(one, key, { user: 'ben', headers: { 'x-openwebui-user-id': 'dora' } })).status, 200, 'the header counts more')
  t.equal((await by(`${'long'.repeat(100)}\u00e9`)).status, 200)
  const costs = await until('the books to be written', async () => {
    const answer = await one.fetch('/v1/costs/summary')
    const { by_source } = (await answer.json()) as { by_source: { source: string; sub_source: string | null; requests: number }[] }
    const rows = by_source.filter(({ source }) => source === 'webui')
    return rows.length === 5 ? rows : null
  })
  const requests = Object.fromEntries(costs.map(({ sub_source, requests }) => [sub_source, requests]))
  t.match(requests, { ann: 2, ben: 2, cleo: 1, dora: 1 })
  t.match(
    Object.keys(requests).find(name => name.startsWith('sha256:')),
    /^sha256:[0-9a-f]{32}$/
  )

  const distrusted = await keyFor('plain', { requests_per_minute: 1 })
  t.equal((await ask(one, distrusted, { headers: { 'x-openwebui-user-id': 'a' } })).status, 200)
  t.equal((await ask(one, distrusted, { headers: { 'x-openwebui-user-id': 'b' } })).status, 429, 'only a key that says so is many people')
})

t.test('a key reaches the models and providers it was made for, and sees no others', async t => {
  const key = await keyFor('narrow', {}, { models: ['gpt-4o*', 'smart'], providers: ['openai'] })
  t.equal((await ask(one, key)).status, 200)
  t.equal((await ask(one, key, { model: 'openai/gpt-4o' })).status, 200)
  for (const model of ['o9', 'llama-70b', 'other/llama-70b']) {
    const answer = await ask(one, key, { model })
    t.equal(answer.status, 403, model)
    t.match(await answer.json(), { error: { code: 'forbidden', type: 'permission_error', param: 'model' } })
  }
  const smart = await ask(one, key, { model: 'smart' })
  t.equal(smart.headers.get('x-llm-mcp-provider'), 'openai')
  const listed = (await (await one.fetch('/v1/models', { headers: { authorization: `Bearer ${key}` } })).json()) as {
    data: { id: string }[]
  }
  const ids = listed.data.map(({ id }) => id)
  t.ok(ids.includes('gpt-4o-mini') && ids.includes('smart'), ids.join())
  t.notOk(ids.includes('o9') || ids.includes('llama-70b'), ids.join())
})

t.test('a key without limits has no such headers, and an embedding counts like a chat', async t => {
  const free = await keyFor('free', {})
  const answer = await ask(one, free)
  t.same(
    [...answer.headers.keys()].filter(name => name.startsWith('x-ratelimit')),
    []
  )
  const key = await keyFor('embedder', { requests_per_minute: 1 })
  const embed = (): Promise<Response> =>
    one.fetch('/v1/embeddings', { headers: { authorization: `Bearer ${key}` }, json: { model: 'no-such-model', input: 'x' } })
  t.equal((await embed()).headers.get('x-ratelimit-limit-requests'), '1')
  t.equal((await embed()).status, 429)
})
