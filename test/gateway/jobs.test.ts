import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import t from 'tap'
import type { Rejected } from '../../routing/decide.ts'
import { GatewayError } from '../../routing/errors.ts'
import { uuidv7 } from '../../routing/ids.ts'
import { until } from '../support/wait.ts'
import { adminKey, aliceKey, bobKey, chat, type Json, nowMs, planning, recordOf, serving, sharedKey } from './jobs-support.ts'

const id = '019a2b3c-4d5e-7f60-8a9b-0c1d2e3f4a5b'
const done = { status: 'done', attempts: 1, startedAt: new Date(nowMs), finishedAt: new Date(nowMs + 1_500) } as const

t.test('a job is answered with 202, its address, and itself', async t => {
  const { submit, jobs } = await serving(t)
  const response = await submit({ ...chat, metadata: { folder: 'a/б' }, max_cost_usd: 0.5, max_attempts: 7 })
  t.equal(response.statusCode, 202)
  t.equal(response.headers.get('content-type'), 'application/json; charset=utf-8')
  const shown = response.json()
  t.equal(response.headers.get('location'), `/v1/jobs/${shown.id}`)
  t.equal(response.headers.get('idempotent-replayed'), null)
  t.same(shown, {
    id: shown.id,
    job_id: shown.id,
    object: 'job',
    kind: 'chat',
    model: 'qwen3:32b',
    status: 'queued',
    priority: 'normal',
    source: 'alice',
    position: 3,
    eta_ms: { p50: 1_200, p90: 2_400 },
    attempts: 0,
    max_attempts: 7,
    device: null,
    provider: null,
    created_at: '2026-11-20T09:30:00.000Z',
    started_at: null,
    first_token_at: null,
    finished_at: null,
    deadline_at: null,
    max_cost_usd: 0.5,
    cost_usd: null,
    usage: null,
    error: null,
    metadata: { folder: 'a/б' },
    stream: false,
    webhook: null,
    result: null
  })
  t.match(jobs.submitted, [
    { id: shown.id, request: { id: shown.id }, caller: { source: 'alice', subSource: null }, weight: 2, idempotency: null, echo: null }
  ])
})

t.test('type is kind, and null is nothing', async t => {
  const { submit, jobs } = await serving(t)
  const nothing = { kind: null, priority: null, deadline_at: null, deadline_ms: null, max_cost_usd: null, max_attempts: null }
  const more = { stream: null, webhook: null, metadata: null, source: null }
  t.equal((await submit({ ...chat, ...nothing, ...more, type: 'chat' })).statusCode, 202)
  t.match(jobs.submitted, [{ kind: 'chat', class: 'normal', maxAttempts: 3, deadlineAt: null, webhookUrl: null, metadata: null }])
})

t.test('priorities are names, or the integers of llm-mcp v2', async t => {
  const { submit, jobs } = await serving(t)
  const cases: readonly [priority: unknown, expected: string][] = [
    ['interactive', 'interactive'],
    ['normal', 'normal'],
    ['batch', 'batch'],
    [10, 'interactive'],
    [1_000, 'interactive'],
    [9, 'normal'],
    [0, 'normal'],
    [-1, 'batch']
  ]
  for (const [priority, expected] of cases) {
    const response = await submit({ ...chat, priority })
    t.equal(response.json().priority, expected, String(priority))
    t.equal(jobs.submitted.at(-1)?.class, expected)
  }
})

t.test('a deadline is a time to come, or milliseconds from now', async t => {
  const { submit, jobs } = await serving(t)
  const cases: readonly [body: Json, expected: number][] = [
    [{ deadline_at: '2026-11-20T09:30:00.001Z' }, nowMs + 1],
    [{ deadline_at: '2026-11-20T11:30:05+02:00' }, nowMs + 5_000],
    [{ deadline_at: '2026-11-20t09:30:05.123456789z' }, nowMs + 5_123],
    [{ deadline_at: '2028-02-29T00:00:00-00:00' }, Date.parse('2028-02-29T00:00:00Z')],
    [{ deadline_ms: 1_500 }, nowMs + 1_500],
    [{ deadline_ms: 1 }, nowMs + 1]
  ]
  for (const [body, expected] of cases) {
    t.equal((await submit({ ...chat, ...body })).statusCode, 202, JSON.stringify(body))
    t.equal(jobs.submitted.at(-1)?.deadlineAt, expected, JSON.stringify(body))
  }
})

t.test('a deadline may come as a header, and a hard one from either place', async t => {
  const { submit, jobs } = await serving(t)
  const hard = { 'x-llm-mcp-deadline': 'hard' }
  const ms = { 'x-llm-mcp-deadline-ms': '5000' }
  type Expected = readonly [deadlineAt: number | null, isHard: true | undefined]
  const cases: readonly (readonly [headers: Record<string, string>, body: Json, expected: Expected])[] = [
    [ms, {}, [nowMs + 5_000, undefined]],
    [{ ...ms, ...hard }, {}, [nowMs + 5_000, true]],
    [hard, { deadline_ms: 7_000 }, [nowMs + 7_000, true]],
    [hard, { deadline_at: '2026-11-20T09:30:05Z' }, [nowMs + 5_000, true]],
    [ms, { deadline: 'hard' }, [nowMs + 5_000, true]],
    [{}, { deadline_ms: 7_000, deadline: 'hard' }, [nowMs + 7_000, true]],
    // What stands beside the payload says more than a header.
    [ms, { deadline_ms: 7_000 }, [nowMs + 7_000, undefined]],
    [{ ...ms, ...hard }, { deadline: 'soft' }, [nowMs + 5_000, undefined]],
    [{ 'x-llm-mcp-deadline': 'soft' }, { deadline: 'soft' }, [null, undefined]]
  ]
  for (const [headers, body, expected] of cases) {
    const said = JSON.stringify([headers, body])
    const answer = await submit({ ...chat, ...body }, { headers })
    t.equal(answer.statusCode, 202, said)
    const job = jobs.submitted.at(-1)
    t.same([job?.deadlineAt, job?.request?.isDeadlineHard], expected, said)
    t.equal(answer.json().deadline_at, expected[0] === null ? null : new Date(expected[0]).toISOString(), said)
    t.equal(job?.request?.patience !== undefined, expected[0] !== null, 'whoever plans it knows')
  }
  const stored = jobs.submitted.length
  const faults: readonly (readonly [headers: Record<string, string>, body: Json, param: string])[] = [
    [{ 'x-llm-mcp-deadline-ms': 'abc' }, {}, 'x-llm-mcp-deadline-ms'],
    [{ 'x-llm-mcp-deadline-ms': '0' }, {}, 'x-llm-mcp-deadline-ms'],
    [{ 'x-llm-mcp-deadline-ms': 'abc' }, { deadline_ms: 5_000 }, 'x-llm-mcp-deadline-ms'],
    [{ ...ms, 'x-llm-mcp-deadline': 'firm' }, {}, 'x-llm-mcp-deadline'],
    [hard, {}, 'x-llm-mcp-deadline'],
    [{}, { deadline: 'hard' }, 'deadline'],
    [{}, { deadline_ms: 5_000, deadline: 5_000 }, 'deadline']
  ]
  for (const [headers, body, param] of faults) {
    const answer = await submit({ ...chat, ...body }, { headers })
    t.equal(answer.statusCode, 400, JSON.stringify([headers, body]))
    t.match(answer.json(), { error: { param } })
  }
  t.equal(jobs.submitted.length, stored)
})

t.test('what may not leave the house and has no machine there is refused, and nothing is stored', async t => {
  const stay = { 'x-llm-mcp-local-only': 'true' }
  const { submit, jobs } = await serving(t, { dispatch: planning(['rtx', 'studio']) })
  for (const job of [
    { ...chat, model: 'meta/llama' },
    { ...chat, kind: 'openai.chat', model: 'gpt-5' }
  ]) {
    t.equal((await submit(job, { key: bobKey })).statusCode, 202)
    const refused = await submit(job, { key: bobKey, headers: stay })
    t.equal(refused.statusCode, 503)
    t.match(refused.json(), { error: { code: 'no_capacity', message: /may not leave it/ } })
    t.equal(refused.headers.get('x-should-retry'), 'false')
  }
  t.equal((await submit(chat, { headers: stay })).statusCode, 202, 'machines that are full are waited for')
  t.equal(jobs.submitted.length, 3)
})

t.test('a hard deadline that nobody would meet is told at once; one that a machine might is waited for', async t => {
  const error = new GatewayError('no_capacity', 'too late', { retryAfterMs: 9_000 })
  const late = { target: 'rtx/m', reason: 'deadline' } as const
  const cases: readonly (readonly [rejected: readonly Rejected[], status: number])[] = [
    [[late], 503],
    [[late, { target: 'rtx/m', reason: 'full' }, { target: 'ollama/m', reason: 'not_allowed' }], 503],
    [[late, { target: 'studio/m', reason: 'down' }], 202],
    [[{ target: 'rtx/m', reason: 'full' }], 202]
  ]
  for (const [rejected, status] of cases) {
    const { submit } = await serving(t, { dispatch: { plan: () => ({ action: 'refuse', error, rejected }) } })
    t.equal((await submit({ ...chat, deadline_ms: 1, deadline: 'hard' })).statusCode, status, JSON.stringify(rejected))
  }
})

t.test('what asks no model has no route', async t => {
  const { submit } = await serving(t)
  t.equal((await submit({ kind: 'echo', payload: {} })).headers.get('x-llm-mcp-route-id'), null)
  const job = await submit(chat)
  t.equal(job.headers.get('x-llm-mcp-route-id'), job.json().id)
})

t.test('whoever keeps routes is told of each job that was stored, once', async t => {
  const told: string[] = []
  const { submit } = await serving(t, { onSubmitted: ({ id, model }, { source }) => void told.push(`${id} ${model} ${source}`) })
  const headers = { 'idempotency-key': 'once' }
  const { id } = (await submit(chat, { headers })).json()
  await submit(chat, { headers })
  await submit({ ...chat, model: 'nobody' })
  await submit({ kind: 'echo', payload: {} })
  t.same(told, [`${id} qwen3:32b alice`])
})

t.test('the same body under the same idempotency key is the same job', async t => {
  const { submit, jobs } = await serving(t)
  const headers = { 'idempotency-key': 'order-7' }
  const text = JSON.stringify(chat)
  const first = (await submit(text, { headers })).json()
  t.match(jobs.submitted[0]?.idempotency, { key: 'order-7', hash: createHash('sha256').update(text).digest() })
  const again = await submit(text, { headers })
  t.equal(again.statusCode, 202)
  t.equal(again.headers.get('idempotent-replayed'), 'true')
  t.equal(again.headers.get('location'), `/v1/jobs/${first.id}`)
  t.equal(again.json().id, first.id)
  const other = await submit(`${text} `, { headers })
  t.equal(other.statusCode, 422)
  t.match(other.json(), { error: { code: 'idempotency_key_reused', type: 'invalid_request_error' } })
  t.equal((await submit(`${text} `, { headers, key: bobKey })).statusCode, 202, 'of another source it is another key')
  jobs.put(recordOf({ ...done, id: first.id as string, result: Buffer.from('{"a":1}') }))
  const over = await submit(text, { headers })
  t.equal(over.statusCode, 200)
  t.match(over.json(), { id: first.id, status: 'done', result: { a: 1 } })
  t.equal(jobs.submitted.length, 2)
})

t.test('whose a job is', async t => {
  const { submit, jobs } = await serving(t)
  await submit({ ...chat, source: 'alice' })
  t.match(jobs.submitted.at(-1), { caller: { source: 'alice' }, weight: 2 }, 'its own name is no other')
  await submit({ ...chat, source: 'bob' }, { key: adminKey })
  t.match(jobs.submitted.at(-1), { caller: { source: 'bob', subSource: null, kind: 'admin' }, weight: 5 }, 'admins act for others')
  const unknown = await submit({ ...chat, source: 'carol' }, { key: adminKey })
  t.equal(unknown.statusCode, 400)
  t.match(unknown.json(), { error: { param: 'source' } })
  await submit({ ...chat, payload: { ...(chat.payload as Json), user: 'dora' } }, { key: sharedKey })
  t.match(jobs.submitted.at(-1), { caller: { source: 'webui', subSource: 'dora' } }, 'the person behind a shared key')
  await submit(chat, { key: sharedKey, headers: { 'x-openwebui-user-id': 'emil' } })
  t.match(jobs.submitted.at(-1), { caller: { source: 'webui', subSource: 'emil' } })
  t.equal(jobs.submitted.length, 4)
})

t.test('what an admin submits for a source twice is found where it was stored', async t => {
  const { submit, jobs } = await serving(t)
  const options = { key: adminKey, headers: { 'idempotency-key': 'twice' } }
  await submit({ ...chat, metadata: { for: 'admin' } }, options)
  const first = await submit({ ...chat, source: 'bob' }, options)
  t.equal(first.statusCode, 202)
  const again = await submit({ ...chat, source: 'bob' }, options)
  t.equal(again.headers.get('idempotent-replayed'), 'true')
  t.equal(again.json().id, first.json().id)
  t.equal((await submit({ ...chat, source: 'bob', stream: true }, options)).statusCode, 422)
  t.equal((await submit({ ...chat, source: 'bob' }, { ...options, key: aliceKey })).statusCode, 403, 'others name nobody')
  t.equal(jobs.submitted.length, 2)
})

t.test('with authentication off any source may be named', async t => {
  const { submit, jobs } = await serving(t, { auth: false })
  t.equal((await submit({ ...chat, source: 'telegram' }, { key: '' })).statusCode, 202)
  t.match(jobs.submitted, [{ caller: { source: 'telegram', keyId: null }, weight: 1 }])
})

t.test('a key is needed', async t => {
  const { submit, ask } = await serving(t)
  t.equal((await submit(chat, { key: '' })).statusCode, 401)
  t.equal((await ask('GET', `/v1/jobs/${id}`, { key: 'sk-llm-nobody-0123456789' })).statusCode, 401)
})

t.test('a submission is one request of its key’s minute, and nothing else of it', async t => {
  const { submit, ask, jobs, admitted } = await serving(t)
  const { id } = (await submit(chat)).json()
  t.match(admitted, [{ name: 'alice', tokens: 0, limits: { tokensPerMinute: null, concurrentRequests: null }, settled: null }])
  await submit({ ...chat, payload: { ...(chat.payload as Json), user: 'dora' } }, { key: sharedKey })
  t.match(admitted[1], { name: 'webui/dora' })
  jobs.put(recordOf({ ...done, id: id as string }))
  await ask('POST', `/v1/jobs/${id}/retry`)
  t.equal(admitted.length, 3, 'doing it again is another')
  jobs.put(recordOf({ ...done, id: id as string, webhook: { url: 'https://x.example', status: 'failed', error: null } }))
  await ask('POST', `/v1/jobs/${id}/webhook`)
  t.equal(admitted.length, 4, 'and telling it again')
  for (const [method, path] of [
    ['GET', ''],
    ['GET', `/${id}`],
    ['POST', `/${id}/cancel`]
  ] as const)
    await ask(method, `/v1/jobs${path}`)
  t.equal(admitted.length, 4, 'looking is none')
})

t.test('over its limit a submission is refused, and told how the limit stands', async t => {
  const refuse = new GatewayError('rate_limit_exceeded', 'Too many.', { retryAfterMs: 1_500 })
  const { submit, jobs } = await serving(t, { refuse })
  const response = await submit(chat)
  t.equal(response.statusCode, 429)
  t.equal(response.headers.get('retry-after'), '2')
  t.equal(response.headers.get('x-ratelimit-limit-requests'), '60')
  t.same(jobs.submitted, [])
})

t.test('a full queue is told as the queue says it', async t => {
  const { submit, jobs } = await serving(t)
  for (const status of [429, 503]) {
    jobs.failWith(new GatewayError('queue_full', 'Too many wait.', { retryAfterMs: 5_000, status }))
    const response = await submit(chat)
    t.equal(response.statusCode, status)
    t.equal(response.headers.get('retry-after'), '5')
    t.match(response.json(), { error: { code: 'queue_full' } })
  }
})

t.test('busy machines are no reason to refuse a job', async t => {
  const { submit, jobs } = await serving(t, { dispatch: planning(['rtx', 'studio', 'ollama']) })
  t.equal((await submit(chat)).statusCode, 202)
  t.equal((await submit({ ...chat, kind: 'ollama.generate', payload: { prompt: 'hi' } })).statusCode, 202)
  t.equal(jobs.submitted.length, 2)
})

t.test('privacy goes along', async t => {
  const { submit, jobs } = await serving(t)
  t.equal((await submit(chat, { headers: { 'x-llm-mcp-local-only': 'true' } })).statusCode, 202)
  t.match(jobs.submitted, [{ request: { localOnly: true } }])
  t.equal((await submit(chat, { headers: { 'x-llm-mcp-local-only': 'perhaps' } })).statusCode, 400)
})

t.test('a webhook is shown with the secret it is signed with, once', async t => {
  const { submit, ask, jobs } = await serving(t)
  const response = await submit({ ...chat, webhook: { url: 'https://hooks.example/a?b=c' } })
  t.match(jobs.submitted, [{ webhookUrl: 'https://hooks.example/a?b=c' }])
  const { webhook, id } = response.json() as { webhook: Json; id: string }
  t.match(webhook, { url: 'https://hooks.example/a?b=c', status: 'waiting', error: null, secret: /^whsec_/ })
  t.same((await ask('GET', `/v1/jobs/${id}`)).json().webhook, { url: 'https://hooks.example/a?b=c', status: 'waiting', error: null })
  t.same(((await submit(chat)).json() as Json).webhook, null)
})

t.test('a job of another source is not there, whatever is asked of it', async t => {
  const { ask, jobs } = await serving(t)
  const job = jobs.put(recordOf({ ...done, source: 'alice', webhook: { url: 'https://x.example', status: 'failed', error: '500' } }))
  const paths = [
    ['GET', ''],
    ['POST', '/cancel'],
    ['POST', '/retry'],
    ['POST', '/webhook'],
    ['GET', '/stream']
  ] as const
  for (const [method, path] of paths) {
    for (const url of [`/v1/jobs/${job.id}${path}`, `/v1/jobs/${uuidv7(nowMs)}${path}`, `/v1/jobs/seven${path}`]) {
      const response = await ask(method, url, { key: bobKey })
      t.equal(response.statusCode, 404, `${method} ${url}`)
      t.same(response.json(), {
        error: { message: 'There is no job with this id.', type: 'invalid_request_error', param: null, code: 'not_found' }
      })
    }
  }
  t.equal((await ask('GET', `/v1/jobs/${job.id}`, { key: adminKey })).statusCode, 200, 'admins see it')
  t.match(((await ask('GET', '/v1/jobs', { key: bobKey })).json() as Json).data, [])
  await ask('GET', '/v1/jobs?source=alice', { key: bobKey })
  t.match(jobs.queries.at(-1), { scope: { source: 'bob' }, filter: { source: 'alice' } })
  await ask('GET', '/v1/jobs', { key: adminKey })
  t.equal(jobs.queries.at(-1)?.scope, null)
})

t.test('a job that is over shows its result as it was stored, and what it cost', async t => {
  const { ask, jobs } = await serving(t)
  const result = Buffer.from('{ "seed": 12345678901234567890,\n "text": "б\\n" }')
  const job = jobs.put(recordOf({ ...done, result, costNanoUsd: 17_000, deviceId: 'rtx', provider: 'ollama', usage: { total_tokens: 3 } }))
  const response = await ask('GET', `/v1/jobs/${job.id}`)
  t.match(response.body, '"result":{ "seed": 12345678901234567890,  "text": "б\\n" }}', 'no number is rounded')
  t.match(response.json(), {
    position: null,
    eta_ms: null,
    cost_usd: 0.000017,
    device: 'rtx',
    provider: 'ollama',
    usage: { total_tokens: 3 },
    started_at: '2026-11-20T09:30:00.000Z',
    finished_at: '2026-11-20T09:30:01.500Z'
  })
  const failed = jobs.put(
    recordOf({ ...done, status: 'error', error: { message: 'm', type: 'server_error', code: 'upstream_broke' }, costNanoUsd: 0 })
  )
  t.match((await ask('GET', `/v1/jobs/${failed.id}`)).json(), {
    status: 'error',
    error: { message: 'm', type: 'server_error', code: 'upstream_broke' },
    result: null,
    cost_usd: 0
  })
})

t.test('a large result is read by itself, arrives as a whole, and is let go of', async t => {
  const { ask, submit, jobs } = await serving(t)
  const text = 'x'.repeat(3 * 1024 * 1024)
  const job = jobs.put(recordOf({ status: 'done', finishedAt: new Date(nowMs), resultBytes: text.length + 12 }))
  jobs.large.set(job.id, Buffer.from(`{"choices":\n"${text}"}`))
  const small = jobs.put(recordOf({ status: 'done', finishedAt: new Date(nowMs), result: Buffer.from('{}'), resultBytes: 2 }))
  for (const [method, path] of [
    ['GET', `/v1/jobs/${job.id}`],
    ['POST', `/v1/jobs/${job.id}/cancel`]
  ] as const) {
    const response = await ask(method, path, { headers: { origin: 'http://page' } })
    t.equal(response.statusCode, 200)
    t.match(response.headers.get('content-type'), 'application/json; charset=utf-8')
    t.match(response.headers.get('x-request-id'), /^[0-9a-f-]{36}$/)
    t.match(response.json(), { id: job.id, status: 'done', result: { choices: text } })
    t.equal(jobs.held(), 0)
  }
  const head = await ask('HEAD', `/v1/jobs/${job.id}`)
  t.equal(head.statusCode, 200)
  t.equal(head.body, '')
  const { body } = await ask('GET', `/v1/jobs/${job.id}/stream`)
  t.equal(body, '', 'whoever follows it is told by the queue')

  const first = (await submit(chat, { headers: { 'idempotency-key': 'once' } })).json().id as string
  jobs.large.set(first, Buffer.from('{"id":"a"}'))
  jobs.put(recordOf({ id: first, status: 'done', finishedAt: new Date(nowMs), resultBytes: 10 }))
  const again = await submit(chat, { headers: { 'idempotency-key': 'once' } })
  t.equal(again.statusCode, 200)
  t.equal(again.headers.get('location'), `/v1/jobs/${first}`)
  t.equal(again.headers.get('idempotent-replayed'), 'true')
  t.match(again.json(), { result: { id: 'a' } })
  jobs.large.clear()
  t.match((await ask('GET', `/v1/jobs/${small.id}`)).json(), { result: {} })
})

t.test('a reader of a large result that leaves lets go of it', async t => {
  const { url, jobs } = await serving(t)
  const job = jobs.put(recordOf({ status: 'done', finishedAt: new Date(nowMs), resultBytes: 1 }))
  jobs.large.set(job.id, Buffer.alloc(64 * 1024 * 1024, 'x'))
  const request = httpRequest(`${url}/v1/jobs/${job.id}`, { headers: { authorization: `Bearer ${aliceKey}` } }).end()
  request.on('error', () => {})
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  response.on('error', () => {})
  t.equal(jobs.held(), 1)
  request.destroy()
  await until('it to be let go of', () => jobs.held() === 0)
})

t.test('a list has pages, and no results', async t => {
  const { ask, jobs } = await serving(t)
  const all = Array.from({ length: 5 }, (_, at) => jobs.put(recordOf({ id: uuidv7(nowMs + at), result: Buffer.from('{}') })))
  const [oldest, second, third, fourth, newest] = all.map(({ id }) => id)
  const page = async (query: string): Promise<Json> => (await ask('GET', `/v1/jobs?${query}`)).json()
  const first = await page('limit=2')
  t.match(first, { object: 'list', first_id: newest, last_id: fourth, has_more: true })
  t.match(first.data, [
    { id: newest, object: 'job', result: null, position: null },
    { id: fourth, result: null }
  ])
  t.match(await page(`limit=2&after=${fourth}`), { first_id: third, last_id: second, has_more: true })
  t.match(await page(`limit=2&after=${second}`), { first_id: oldest, last_id: oldest, has_more: false })
  t.same(await page(`after=${oldest}`), { object: 'list', data: [], first_id: null, last_id: null, has_more: false })
})

t.test('a list is filtered by what is asked', async t => {
  const { ask, jobs } = await serving(t)
  const query = 'status=done&kind=ollama.embed&model=nomic-embed-text&device=rtx&source=bob'
  const times = 'created_after=2026-11-20T09:30:00Z&created_before=2026-11-20T11:30:00%2B02:00'
  t.equal((await ask('GET', `/v1/jobs?${query}&${times}&limit=100`)).statusCode, 200)
  t.same(jobs.queries.at(-1), {
    filter: {
      status: 'done',
      kind: 'ollama.embed',
      model: 'nomic-embed-text',
      device: 'rtx',
      source: 'bob',
      createdAfter: nowMs,
      createdBefore: nowMs
    },
    scope: { source: 'alice' },
    after: null,
    limit: 101
  })
  await ask('GET', '/v1/jobs')
  const none = { status: null, kind: null, model: null, device: null, source: null, createdAfter: null, createdBefore: null }
  t.same(jobs.queries.at(-1), { filter: none, scope: { source: 'alice' }, after: null, limit: 21 })
})

t.test('a job is cancelled where it is, and one that is over stays as it is', async t => {
  const { ask, jobs } = await serving(t)
  const waiting = jobs.put(recordOf())
  const over = jobs.put(recordOf({ ...done, result: Buffer.from('{}') }))
  const cancelled = await ask('POST', `/v1/jobs/${waiting.id}/cancel`, { body: {} })
  t.equal(cancelled.statusCode, 200)
  t.match(cancelled.json(), { status: 'cancelled', position: null })
  const same = await ask('POST', `/v1/jobs/${over.id}/cancel`)
  t.equal(same.statusCode, 200)
  t.match(same.json(), { status: 'done', result: {} })
})

t.test('a job that is over is done again, and its webhook is called again', async t => {
  const { ask, jobs } = await serving(t)
  const waiting = jobs.put(recordOf())
  for (const path of ['retry', 'webhook']) {
    const refused = await ask('POST', `/v1/jobs/${waiting.id}/${path}`)
    t.equal(refused.statusCode, 409)
    t.match(refused.json(), { error: { code: 'job_not_finished' } })
    t.equal(refused.headers.get('x-should-retry'), 'false')
  }
  const over = jobs.put(recordOf(done))
  const plain = await ask('POST', `/v1/jobs/${over.id}/webhook`)
  t.equal(plain.statusCode, 404)
  t.match(plain.json(), { error: { code: 'not_found', message: 'This job has no webhook.' } })
  const again = await ask('POST', `/v1/jobs/${over.id}/retry`)
  t.equal(again.statusCode, 202)
  t.match(again.json(), { status: 'queued', attempts: 0 })
  const told = jobs.put(recordOf({ ...done, webhook: { url: 'https://x.example', status: 'failed', error: '500' } }))
  const redelivered = await ask('POST', `/v1/jobs/${told.id}/webhook`)
  t.equal(redelivered.statusCode, 202)
  t.match(redelivered.json(), { webhook: { status: 'waiting' } })
})
