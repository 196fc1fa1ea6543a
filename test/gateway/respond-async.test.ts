// `Prefer: respond-async`: the request becomes a job, and is answered with it.

import { hash } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import t, { type Test } from 'tap'
import type { JobRecord, Jobs, NewJob, Submitted } from '../../queue/types.ts'
import type { Decision } from '../../routing/decide.ts'
import { GatewayError } from '../../routing/errors.ts'
import { ask, chat, facts, type Served, serve } from './waiting-support.ts'

const prefer = { prefer: 'respond-async' }
const outlook = { position: 3, etaMs: { p50: 1_200, p90: 2_400 } }

function recordOf(job: NewJob, changes: Partial<JobRecord> = {}): JobRecord {
  const { id, kind, model, stream, maxAttempts, maxCostUsd, metadata } = job
  return {
    id,
    kind,
    class: job.class,
    model,
    source: job.caller.source,
    subSource: null,
    status: 'queued',
    lane: '',
    tag: '0',
    stream,
    attempts: 0,
    maxAttempts,
    attemptNo: 0,
    processId: null,
    deviceId: null,
    provider: null,
    createdAt: new Date(),
    startedAt: null,
    firstTokenAt: null,
    finishedAt: null,
    deadlineAt: job.deadlineAt === null ? null : new Date(job.deadlineAt),
    maxCostUsd,
    metadata,
    usage: null,
    costNanoUsd: null,
    error: null,
    result: null,
    resultBytes: null,
    webhook: null,
    ...changes
  }
}

interface World extends Served {
  readonly submitted: NewJob[]
}

/** A queue that takes everything, unless `submit` says otherwise. */
async function world(
  t: Test,
  {
    submit = job => ({ job: recordOf(job), outlook, replayed: false }),
    earlier = async () => null,
    decision
  }: { submit?: (job: NewJob) => Submitted; earlier?: Jobs['earlier']; decision?: Decision } = {}
): Promise<World> {
  const submitted: NewJob[] = []
  const jobs = {
    earlier,
    async submit(job: NewJob) {
      submitted.push(job)
      return submit(job)
    }
  } as unknown as Jobs
  return { ...(await serve(t, { jobs, ...(decision === undefined ? {} : { plan: () => decision }) })), submitted }
}

async function answered(
  url: string,
  body: object,
  headers: Record<string, string> = prefer
): Promise<{ response: IncomingMessage; json: Record<string, unknown> }> {
  const asked = ask(url, body, headers)
  const response = await asked.response
  return { response, json: JSON.parse(await asked.whole()) }
}

t.test('a chat request becomes a job of class interactive, and its client has it at once', async t => {
  const { url, submitted, runs, settled } = await world(t)
  const { response, json } = await answered(`${url}/v1/chat/completions`, chat)
  t.equal(response.statusCode, 202)
  const [job] = submitted
  t.match(job, {
    kind: 'chat',
    class: 'interactive',
    model: 'm',
    request: { operation: 'chat', model: 'm', stream: false },
    caller: { source: 'me' },
    weight: 2,
    maxAttempts: 3,
    deadlineAt: null,
    stream: false,
    idempotency: null
  })
  t.equal(job?.request?.body.bytes.toString(), JSON.stringify(chat), 'to the byte')
  t.match(response.headers, {
    location: `/v1/jobs/${job?.id}`,
    'preference-applied': 'respond-async',
    'content-type': 'application/json; charset=utf-8',
    'x-request-id': job?.id,
    'x-ratelimit-limit-requests': '9'
  })
  t.match(json, { id: job?.id, object: 'job', kind: 'chat', status: 'queued', priority: 'interactive', position: 3, result: null })
  t.match(json.eta_ms, { p50: 1_200 })
  t.same([runs.length, settled], [0, [null]])
})

t.test('embeddings become a job too', async t => {
  const { url, submitted } = await world(t)
  const { response, json } = await answered(`${url}/v1/embeddings`, { model: 'm', input: ['a', 'b'] })
  t.equal(response.statusCode, 202)
  t.match(json, { object: 'job', kind: 'embed' })
  t.match(submitted, [{ kind: 'embed', stream: false, request: { operation: 'embed', input: { texts: ['a', 'b'] } } }])
})

t.test('the tokens of a stream are kept, with its figures', async t => {
  const { url, submitted } = await world(t)
  await answered(`${url}/v1/chat/completions`, { ...chat, stream: true, stream_options: { include_obfuscation: false } })
  await answered(`${url}/v1/chat/completions`, { ...chat, stream: true, stream_options: { include_usage: true } })
  for (const { stream, request } of submitted) {
    t.equal(stream, true)
    t.match(request, { stream: true, includeUsage: true, streamOptions: { include_usage: true } })
    t.match(request?.body.json(), { stream: true, stream_options: { include_usage: true } })
  }
  t.match(submitted[0]?.request?.body.json(), { stream_options: { include_obfuscation: false } })
})

t.test('a preference is found among others, whatever its case', async t => {
  const { url, submitted, next } = await world(t)
  const asks = [
    'respond-async',
    'Respond-Async',
    'wait=10, respond-async',
    'respond-async;x=1, handling=lenient',
    'a="b,\\"c" , respond-async'
  ]
  for (const value of asks) {
    t.equal((await answered(`${url}/v1/chat/completions`, chat, { prefer: value })).response.statusCode, 202, value)
  }
  t.equal(submitted.length, asks.length)
  const others = [
    '',
    'wait=10',
    'respond-asynchronously',
    'x=respond-async',
    'x="respond-async"',
    'x="a, respond-async, b"',
    'x="respond-async,'
  ]
  for (const value of others) {
    const asked = ask(`${url}/v1/chat/completions`, chat, { prefer: value })
    const run = await next()
    run.reply.start(facts)
    run.reply.body(Buffer.from('{}'))
    run.over()
    const { statusCode, headers } = await asked.response
    t.equal(statusCode, 200, value)
    t.notOk('preference-applied' in headers, value)
  }
  t.equal(submitted.length, asks.length)
})

t.test('a long header of quotes and backslashes is read in no time', async t => {
  const { url } = await world(t)
  const beganAt = performance.now()
  const { response } = await answered(`${url}/v1/chat/completions`, chat, { prefer: `respond-async, x=${'"\\'.repeat(6_000)}` })
  t.equal(response.statusCode, 202)
  t.ok(performance.now() - beganAt < 1_000)
})

t.test('legacy completions and responses are answered as ever', async t => {
  const { url, submitted, next } = await world(t)
  for (const [path, body] of [
    ['/v1/completions', { model: 'm', prompt: 'hi' }],
    ['/v1/responses', { model: 'm', input: 'hi' }]
  ] as const) {
    const asked = ask(`${url}${path}`, body, prefer)
    const run = await next()
    run.reply.start(facts)
    run.reply.body(Buffer.from('{"choices":[{"message":{"role":"assistant","content":"x"},"finish_reason":"stop"}]}'))
    run.over()
    const { statusCode, headers } = await asked.response
    t.equal(statusCode, 200, path)
    t.notOk('preference-applied' in headers, path)
  }
  t.same(submitted, [])
})

t.test('where there is no queue, the preference means nothing', async t => {
  const { url, next } = await serve(t)
  const asked = ask(`${url}/v1/chat/completions`, chat, prefer)
  const run = await next()
  run.reply.start(facts)
  run.reply.body(Buffer.from('{}'))
  run.over()
  t.equal((await asked.response).statusCode, 200)
})

t.test('what no target could ever do is refused now, and what is only busy is not', async t => {
  const refused = (error: GatewayError): Decision => ({ action: 'refuse', error, rejected: [] })
  const never = await world(t, { decision: refused(new GatewayError('unsupported_parameter', 'not n', { param: 'n' })) })
  const { response, json } = await answered(`${never.url}/v1/chat/completions`, { ...chat, n: 3 })
  t.equal(response.statusCode, 400)
  t.match(json, { error: { code: 'unsupported_parameter', param: 'n' } })
  t.same([never.submitted, never.settled], [[], [null]])
  const busy = await world(t, { decision: refused(new GatewayError('no_capacity', 'away')) })
  t.equal((await answered(`${busy.url}/v1/chat/completions`, { ...chat, n: 3 })).response.statusCode, 202)
  t.match(busy.submitted, [{ request: { choices: 3, needs: ['n'] } }], 'one job with all of them')
})

t.test('a bad body, bad headers and a full queue are refused as ever', async t => {
  const { url, submitted } = await world(t, {
    submit() {
      throw new GatewayError('queue_full', 'Too many wait.', { status: 429, retryAfterMs: 5_000 })
    }
  })
  const path = `${url}/v1/chat/completions`
  for (const [body, headers, param] of [
    [{ model: 'm' }, {}, 'messages'],
    [chat, { 'idempotency-key': 'a b' }, 'Idempotency-Key'],
    [chat, { 'x-llm-mcp-deadline-ms': 'soon' }, 'x-llm-mcp-deadline-ms'],
    [chat, { 'x-llm-mcp-local-only': 'maybe' }, 'x-llm-mcp-local-only']
  ] as const) {
    const { response, json } = await answered(path, body, { ...prefer, ...headers })
    t.equal(response.statusCode, 400, param)
    t.match(json, { error: { param } })
  }
  t.same(submitted, [])
  const { response, json } = await answered(path, chat)
  t.equal(response.statusCode, 429)
  t.match(response.headers, { 'retry-after': '5', 'x-should-retry': 'true' })
  t.match(json, { error: { type: 'requests', code: 'queue_full' } })
})

t.test('an idempotency key goes with the bytes, and an earlier job is told as such', async t => {
  let earlier: Partial<JobRecord> = {}
  const { url, submitted } = await world(t, {
    submit: job => ({ job: recordOf(job, { id: '0192f000-0000-7000-8000-000000000009', ...earlier }), outlook, replayed: true })
  })
  const headers = { ...prefer, 'idempotency-key': 'once' }
  const first = await answered(`${url}/v1/chat/completions`, chat, headers)
  t.same(submitted[0]?.idempotency, { key: 'once', hash: hash('sha256', JSON.stringify(chat), 'buffer') })
  t.equal(first.response.statusCode, 202)
  t.match(first.response.headers, { 'idempotent-replayed': 'true', location: '/v1/jobs/0192f000-0000-7000-8000-000000000009' })
  earlier = { status: 'done', finishedAt: new Date(), result: Buffer.from('{"id":"a"}') }
  const second = await answered(`${url}/v1/chat/completions`, chat, headers)
  t.equal(second.response.statusCode, 200)
  t.match(second.json, { status: 'done', result: { id: 'a' } })
})

t.test('what was taken once is not judged again', async t => {
  const asked: unknown[] = []
  const { url, submitted, settled } = await world(t, {
    decision: { action: 'refuse', error: new GatewayError('model_not_found', 'gone'), rejected: [] },
    async earlier(source, { key }) {
      asked.push([source, key])
      const job = { id: '0192f000-0000-7000-8000-000000000009', kind: 'chat', model: 'm', caller: { source } } as NewJob
      return { job: recordOf(job, { deadlineAt: null }), outlook, replayed: true }
    }
  })
  const { response } = await answered(`${url}/v1/chat/completions`, chat, { ...prefer, 'idempotency-key': 'once' })
  t.equal(response.statusCode, 202)
  t.match(response.headers, { 'idempotent-replayed': 'true', location: '/v1/jobs/0192f000-0000-7000-8000-000000000009' })
  t.same([asked, submitted, settled], [[['me', 'once']], [], [null]])
  t.equal((await answered(`${url}/v1/chat/completions`, chat)).response.statusCode, 404)
})

t.test('a deadline of the request is the job’s', async t => {
  const { url, submitted } = await world(t)
  const beganAt = Date.now()
  await answered(`${url}/v1/chat/completions`, chat, { ...prefer, 'x-llm-mcp-deadline-ms': '60000' })
  const deadlineAt = submitted[0]?.deadlineAt ?? 0
  t.ok(deadlineAt >= beganAt + 59_000 && deadlineAt <= Date.now() + 60_001, String(deadlineAt - beganAt))
})
