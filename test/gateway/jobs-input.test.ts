// What a job may not be: each refused in OpenAI's form, about the field that is wrong, and nothing is stored.

import t from 'tap'
import { adminKey, chat, type Json, nowMs, serving } from './jobs-support.ts'

const embedding: Json = { kind: 'embed', payload: { model: 'nomic-embed-text', input: 'hi' } }
const generate: Json = { kind: 'ollama.generate', payload: { model: 'qwen3:32b', prompt: 'hi' } }
const withPayload = (job: Json, payload: Json): Json => ({ ...job, payload: { ...(job.payload as Json), ...payload } })
const long = 'x'.repeat(513)

t.test('what is wrong with a job is named, and nothing is stored', async t => {
  const cases: readonly [name: string, body: Json, status: number, code: string, param: string | null][] = [
    ['no kind', { payload: {} }, 400, 'missing_required_parameter', 'kind'],
    ['an unknown kind', { ...chat, kind: 'dance' }, 400, 'invalid_value', 'kind'],
    ['an unknown type', { ...chat, kind: undefined, type: 'dance' }, 400, 'invalid_value', 'type'],
    ['a kind that is a name of objects', { ...chat, kind: 'constructor' }, 400, 'invalid_value', 'kind'],
    ['a kind that is a number', { ...chat, kind: 7 }, 400, 'invalid_value', 'kind'],
    ['kind and type differ', { ...chat, type: 'embed' }, 400, 'invalid_value', 'type'],
    ['no payload', { kind: 'chat', model: 'qwen3:32b' }, 400, 'missing_required_parameter', 'payload'],
    ['a payload that is a text', { ...chat, payload: '{}' }, 400, 'invalid_value', 'payload'],
    ['a payload that is a list', { ...chat, payload: [] }, 400, 'invalid_value', 'payload'],
    ['no model', { ...chat, model: undefined }, 400, 'missing_required_parameter', 'model'],
    ['a model that is no name', { ...chat, model: 7 }, 400, 'invalid_value', 'model'],
    ['an empty model', { ...chat, model: '' }, 400, 'invalid_value', 'model'],
    [
      'a model in the payload that is no name',
      withPayload({ ...chat, model: undefined }, { model: 7 }),
      400,
      'invalid_value',
      'payload.model'
    ],
    ['two models', withPayload(chat, { model: 'gpt-5' }), 400, 'invalid_value', 'model'],
    ['an unknown model', { ...chat, model: 'qwen3:23b' }, 404, 'model_not_found', 'model'],
    [
      'an unknown model in the payload',
      withPayload({ ...chat, model: undefined }, { model: 'x' }),
      404,
      'model_not_found',
      'payload.model'
    ],
    ['a model that the key may not use', { ...chat, model: 'meta/llama' }, 403, 'forbidden', 'model'],
    ['no messages', { ...chat, payload: {} }, 400, 'missing_required_parameter', 'payload.messages'],
    ['a message that is none', { ...chat, payload: { messages: [7] } }, 400, 'invalid_value', 'payload.messages[0]'],
    ['a wish that nothing honours', withPayload(chat, { n: 2 }), 400, 'unsupported_parameter', 'payload.n'],
    [
      'a prompt that fits nowhere',
      { ...chat, payload: { messages: [{ role: 'user', content: 'x'.repeat(2_000_000) }] } },
      400,
      'context_length_exceeded',
      'payload.messages'
    ],
    ['stream is no boolean', { ...chat, stream: 'yes' }, 400, 'invalid_value', 'stream'],
    ['stream of the payload is no boolean', withPayload(chat, { stream: 1 }), 400, 'invalid_value', 'payload.stream'],
    ['vectors as a stream', { ...embedding, stream: true }, 400, 'invalid_value', 'stream'],
    ['vectors of whatever model', withPayload(embedding, { model: 'auto' }), 400, 'invalid_request', 'payload.model'],
    ['vectors of nothing', withPayload(embedding, { input: [] }), 400, 'invalid_value', 'payload.input'],
    ['a chat model for vectors', withPayload(embedding, { model: 'qwen3:32b' }), 400, 'invalid_request', 'payload.model'],
    ['no prompt', withPayload(generate, { prompt: undefined }), 400, 'missing_required_parameter', 'payload.prompt'],
    ['an empty prompt', withPayload(generate, { prompt: '' }), 400, 'invalid_value', 'payload.prompt'],
    [
      'a prompt that fits nowhere, for Ollama',
      withPayload(generate, { prompt: 'x'.repeat(2_000_000) }),
      400,
      'context_length_exceeded',
      'payload.prompt'
    ],
    ['images that are none', withPayload(generate, { images: [7] }), 400, 'invalid_value', 'payload.images[0]'],
    ['a format that is none', withPayload(generate, { format: 'xml' }), 400, 'invalid_value', 'payload.format'],
    ['options that are none', withPayload(generate, { options: [] }), 400, 'invalid_value', 'payload.options'],
    ['a template of its own', withPayload(generate, { template: '{{ .Prompt }}' }), 400, 'unsupported_parameter', 'payload.template'],
    ['raw and system', withPayload(generate, { raw: true, system: 'x' }), 400, 'unsupported_parameter', 'payload.system'],
    ['a model that Ollama does not have', withPayload(generate, { model: 'gpt-5' }), 404, 'model_not_found', 'payload.model'],
    [
      'no text for vectors',
      { kind: 'ollama.embed', payload: { model: 'nomic-embed-text' } },
      400,
      'missing_required_parameter',
      'payload.input'
    ],
    [
      'an empty text for vectors',
      { kind: 'ollama.embed', payload: { model: 'nomic-embed-text', prompt: '' } },
      400,
      'invalid_value',
      'payload.prompt'
    ],
    ['an unknown priority', { ...chat, priority: 'soon' }, 400, 'invalid_value', 'priority'],
    ['a class that is not for clients', { ...chat, priority: 'benchmark' }, 400, 'invalid_value', 'priority'],
    ['a priority that is a name of objects', { ...chat, priority: 'toString' }, 400, 'invalid_value', 'priority'],
    ['half a priority', { ...chat, priority: 0.5 }, 400, 'invalid_value', 'priority'],
    ['urgent, without the right', { ...chat, priority: 'urgent' }, 403, 'forbidden', 'priority'],
    ['two deadlines', { ...chat, deadline_ms: 1, deadline_at: '2027-01-31T00:00:00Z' }, 400, 'invalid_value', 'deadline_ms'],
    ['a deadline that has passed', { ...chat, deadline_at: new Date(nowMs).toISOString() }, 400, 'invalid_value', 'deadline_at'],
    ['a deadline without a zone', { ...chat, deadline_at: '2027-01-31T00:00:00' }, 400, 'invalid_value', 'deadline_at'],
    ['a deadline on no day', { ...chat, deadline_at: '2027-02-30T00:00:00Z' }, 400, 'invalid_value', 'deadline_at'],
    ['a deadline in words', { ...chat, deadline_at: 'tomorrow' }, 400, 'invalid_value', 'deadline_at'],
    ['a deadline as a number', { ...chat, deadline_at: 1_900_000_000 }, 400, 'invalid_value', 'deadline_at'],
    ['no time at all', { ...chat, deadline_ms: 0 }, 400, 'invalid_value', 'deadline_ms'],
    ['time in words', { ...chat, deadline_ms: '5s' }, 400, 'invalid_value', 'deadline_ms'],
    ['more time than there is', { ...chat, deadline_ms: 1e300 }, 400, 'invalid_value', 'deadline_ms'],
    ['no attempts', { ...chat, max_attempts: 0 }, 400, 'invalid_value', 'max_attempts'],
    ['too many attempts', { ...chat, max_attempts: 21 }, 400, 'invalid_value', 'max_attempts'],
    ['no dollars', { ...chat, max_cost_usd: 0 }, 400, 'invalid_value', 'max_cost_usd'],
    ['dollars in words', { ...chat, max_cost_usd: '1' }, 400, 'invalid_value', 'max_cost_usd'],
    ['a webhook that is none', { ...chat, webhook: 'https://x.example' }, 400, 'invalid_value', 'webhook'],
    ['a webhook to nowhere', { ...chat, webhook: {} }, 400, 'missing_required_parameter', 'webhook.url'],
    ['a webhook that is no URL', { ...chat, webhook: { url: 'x' } }, 400, 'invalid_value', 'webhook.url'],
    ['a webhook that may not be called', { ...chat, webhook: { url: 'http://127.0.0.1/' } }, 400, 'invalid_request', 'webhook.url'],
    ['metadata that is a list', { ...chat, metadata: [] }, 400, 'invalid_value', 'metadata'],
    [
      'too much metadata',
      { ...chat, metadata: Object.fromEntries(Array.from({ length: 17 }, (_, at) => [`k${at}`, ''])) },
      400,
      'invalid_value',
      'metadata'
    ],
    ['metadata that is no text', { ...chat, metadata: { a: 1 } }, 400, 'invalid_value', 'metadata.a'],
    ['metadata that is too long', { ...chat, metadata: { a: long } }, 400, 'invalid_value', 'metadata.a'],
    ['metadata under a name that is too long', { ...chat, metadata: { [long]: 'a' } }, 400, 'invalid_value', 'metadata'],
    ['metadata that no database keeps', { ...chat, metadata: { a: 'x\0y' } }, 400, 'invalid_value', 'metadata.a'],
    ['half a character', { ...chat, metadata: { a: '\ud83d' } }, 400, 'invalid_value', 'metadata.a'],
    ['a webhook that no database keeps', { ...chat, webhook: { url: 'https://h.example/\0' } }, 400, 'invalid_value', 'webhook.url'],
    ['half a character of a webhook', { ...chat, webhook: { url: 'https://h.example/\ud83d' } }, 400, 'invalid_value', 'webhook.url'],
    ['a deadline of less than a ms', { ...chat, deadline_ms: 0.5 }, 400, 'invalid_value', 'deadline_ms'],
    ['a deadline of the year 10000', { ...chat, deadline_at: '9999-12-31T23:59:59-01:00' }, 400, 'invalid_value', 'deadline_at'],
    ['a field that is misspelt', { ...chat, deadlin_ms: 5 }, 400, 'unknown_parameter', 'deadlin_ms'],
    ['a field that is not known, of any length', { ...chat, [long]: null }, 400, 'unknown_parameter', long.slice(0, 60)],
    ['another source', { ...chat, source: 'bob' }, 403, 'forbidden', 'source'],
    ['a source that is no name', { ...chat, source: 'a b' }, 400, 'invalid_value', 'source']
  ]
  const { submit, jobs, admitted } = await serving(t)
  for (const [name, body, status, code, param] of cases) {
    const response = await submit(body)
    t.equal(response.statusCode, status, `${name}: ${response.body}`)
    const { error } = response.json() as { error: Json }
    t.same(Object.keys(error), ['message', 'type', 'param', 'code'], name)
    t.match({ code: error.code, param: error.param }, { code, param }, name)
    t.ok(String(error.message).length < 1_000, `${name} is said shortly`)
  }
  t.same(jobs.submitted, [])
  t.same(admitted, [], 'and nothing is taken of the limits')
})

t.test('a misspelt field is told the nearest one', async t => {
  const { submit } = await serving(t)
  t.match((await submit({ ...chat, deadlin_ms: 5 })).json(), {
    error: { message: 'Unknown parameter: "deadlin_ms"; did you mean "deadline_ms"?' }
  })
  t.match((await submit({ ...chat, zzzzzz: 5 })).json(), { error: { message: /a job has kind, type, model, payload/ } })
})

t.test('a body that is none is refused before anything is looked at', async t => {
  const deep = (levels: number): string => `{"kind":"echo","payload":${'{"a":'.repeat(levels)}1${'}'.repeat(levels)}}`
  const cases: readonly [name: string, body: string | Buffer, status: number, code: string][] = [
    ['nothing', '', 400, 'invalid_request'],
    ['no JSON', '{"kind":', 400, 'invalid_request'],
    ['a list', '[]', 400, 'invalid_request'],
    ['no UTF-8', Buffer.from([0x7b, 0xff, 0x7d]), 400, 'invalid_request'],
    ['too deep', deep(64), 400, 'invalid_request'],
    ['much too deep', deep(100_000), 400, 'invalid_request'],
    ['a prototype', '{"kind":"echo","payload":{"__proto__":{"a":1}}}', 400, 'invalid_request'],
    ['too many elements', `{"kind":"echo","payload":{"a":[${'1,'.repeat(200_001)}1]}}`, 400, 'invalid_request'],
    ['too large an echo', JSON.stringify({ kind: 'echo', payload: { a: 'x'.repeat(1024 * 1024) } }), 413, 'payload_too_large'],
    ['too large', JSON.stringify({ ...chat, metadata: { a: 'x'.repeat(33 * 1024 * 1024) } }), 413, 'payload_too_large']
  ]
  const { submit, ask, jobs } = await serving(t)
  for (const [name, body, status, code] of cases) {
    const response = await submit(body)
    t.equal(response.statusCode, status, name)
    t.equal((response.json().error as Json).code, code, name)
  }
  const text = await ask('POST', '/v1/jobs', { body: 'kind=chat', headers: { 'content-type': 'application/x-www-form-urlencoded' } })
  t.equal(text.statusCode, 415)
  t.same(jobs.submitted, [])
  t.equal((await submit(deep(63))).statusCode, 202, 'the last depth that is taken')
})

t.test('an idempotency key is 1 to 255 visible characters', async t => {
  const { submit, jobs } = await serving(t)
  for (const key of ['', 'a b', 'schlüssel', 'x'.repeat(256), 'a\tb']) {
    const response = await submit(chat, { headers: { 'idempotency-key': key } })
    t.equal(response.statusCode, 400, JSON.stringify(key))
    t.match(response.json(), { error: { param: 'Idempotency-Key', code: 'invalid_value' } })
  }
  t.same(jobs.submitted, [])
  for (const key of ['a', 'x'.repeat(255), '"quoted"', '!~']) {
    t.equal((await submit(chat, { headers: { 'idempotency-key': key } })).statusCode, 202, key)
  }
})

t.test('without a secret to sign with, webhooks are refused', async t => {
  const { submit, ask, jobs } = await serving(t, { webhooks: false })
  const refused = await submit({ ...chat, webhook: { url: 'https://x.example/' } })
  t.equal(refused.statusCode, 400)
  t.match(refused.json(), { error: { code: 'unsupported_parameter', param: 'webhook', message: /LLM_MCP_WEBHOOK_SECRET/ } })
  t.same(jobs.submitted, [])
  const again = await ask('POST', '/v1/jobs/019a2b3c-4d5e-7f60-8a9b-0c1d2e3f4a5b/webhook')
  t.match(again.json(), { error: { code: 'unsupported_parameter' } })
})

t.test('filters that are unknown or wrong are refused', async t => {
  const cases: readonly [query: string, param: string][] = [
    ['state=done', 'state'],
    ['__proto__=x', '__proto__'],
    ['status=finished', 'status'],
    ['status=', 'status'],
    ['status=done&status=error', 'status'],
    ['kind=dance', 'kind'],
    ['model=', 'model'],
    ['model=a%00b', 'model'],
    [`model=${'x'.repeat(257)}`, 'model'],
    ['device=', 'device'],
    ['source=', 'source'],
    ['created_after=yesterday', 'created_after'],
    ['created_before=2026-13-01T00:00:00Z', 'created_before'],
    ['after=7', 'after'],
    ["after=' or 1=1", 'after'],
    ['limit=0', 'limit'],
    ['limit=101', 'limit'],
    ['limit=ten', 'limit'],
    ['limit=1e2', 'limit'],
    ['limit=%205', 'limit'],
    ['limit=0x10', 'limit'],
    ['limit=5&limit=5', 'limit']
  ]
  const { ask, jobs } = await serving(t)
  for (const [query, param] of cases) {
    const response = await ask('GET', `/v1/jobs?${query.replaceAll(' ', '%20')}`)
    t.equal(response.statusCode, 400, query)
    t.match(response.json(), { error: { param, code: 'invalid_value' } }, query)
  }
  t.same(jobs.queries, [])
})

t.test('urgent needs the right, and admins have it', async t => {
  const { submit, jobs } = await serving(t)
  t.equal((await submit({ ...chat, priority: 'urgent' }, { key: adminKey })).statusCode, 202)
  t.match(jobs.submitted, [{ class: 'urgent' }])
})
