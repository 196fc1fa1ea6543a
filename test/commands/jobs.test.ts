// llm-mcp jobs submit, list, show, cancel, retry: what is sent, what is printed, and how each thing that goes wrong is said.

import { writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { readJob } from '../../bin/commands/jobs/job.ts'
import { jobTable } from '../../bin/commands/jobs/list.ts'
import { bodyOf, type SubmitOptions } from '../../bin/commands/jobs/submit.ts'
import { readClientSettings } from '../../bin/config/client.ts'
import { newFolder } from '../support/gateway.ts'
import { doneJob, give, id, jobObject, key, otherId, refuse, startJobsGateway } from './jobs-gateway.ts'
import { runCommand } from './run.ts'

const gateway = await startJobsGateway(t)
const env = { LLM_MCP_URL: gateway.url, LLM_MCP_KEY: key }
const folder = await newFolder(t)
const run = (...args: string[]) => runCommand(t, { folder, env, args: ['jobs', ...args] })

t.test('submit sends what the options say and prints the id', async t => {
  gateway.answers.set('POST /v1/jobs', give(202, jobObject()))
  const ran = await run(
    ...['submit', '--prompt', 'Say hello', '--model', 'llama3.2:3b', '--priority', 'batch', '--stream', '--deadline', '30s'],
    ...[
      '--max-attempts',
      '5',
      '--webhook',
      'https://example.com/hook',
      '--metadata',
      'a=1',
      '--metadata',
      'b=x=y',
      '--idempotency-key',
      'k1'
    ]
  )
  t.same(ran, { code: 0, stdout: `${id}\n`, stderr: '' })
  const call = gateway.calls.at(-1)
  t.match(call, { method: 'POST', path: '/v1/jobs', headers: { 'idempotency-key': 'k1', 'content-type': 'application/json' } })
  t.strictSame(call?.body, {
    kind: 'chat',
    model: 'llama3.2:3b',
    payload: { messages: [{ role: 'user', content: 'Say hello' }] },
    priority: 'batch',
    stream: true,
    max_attempts: 5,
    webhook: { url: 'https://example.com/hook' },
    metadata: { a: '1', b: 'x=y' },
    deadline_ms: 30_000
  })
})

t.test('submit --json prints the job, and a job of an earlier request is told apart', async t => {
  gateway.answers.set('POST /v1/jobs', give(200, doneJob('Hi'), { 'idempotent-replayed': 'true' }))
  const ran = await run('submit', '--prompt', 'Hi', '--json')
  t.same([ran.code, ran.stderr], [0, ''])
  t.strictSame(JSON.parse(ran.stdout), doneJob('Hi'))
  t.match(await run('submit', '--prompt', 'Hi'), { code: 0, stdout: `${id}\n`, stderr: /an earlier request/ })
})

t.test('submit reads a payload from a file, and each kind has its own form of a prompt', async t => {
  const body = async (options: Partial<SubmitOptions>) => bodyOf({ kind: 'chat', ...options })
  const file = join(folder, 'payload.json')
  await writeFile(file, '{"messages":[],"temperature":0}')
  t.strictSame(await body({ payload: file }), { kind: 'chat', payload: { messages: [], temperature: 0 } })
  const payloads = {
    'openai.chat': { messages: [{ role: 'user', content: 'x' }] },
    'openrouter.chat': { messages: [{ role: 'user', content: 'x' }] },
    embed: { input: 'x' },
    'ollama.generate': { prompt: 'x' },
    'ollama.embed': { input: 'x' },
    echo: { prompt: 'x' }
  } as const
  for (const [kind, payload] of Object.entries(payloads)) {
    t.strictSame(await body({ kind: kind as SubmitOptions['kind'], prompt: 'x' }), { kind, payload }, kind)
  }
})

t.test('a deadline is a length of time or a moment', async t => {
  const deadline = async (text: string) => {
    const { deadline_ms, deadline_at } = await bodyOf({ kind: 'chat', prompt: 'x', deadline: text })
    return deadline_ms ?? deadline_at
  }
  t.equal(await deadline('250ms'), 250)
  t.equal(await deadline('1.5m'), 90_000)
  t.equal(await deadline('2h'), 7_200_000)
  t.equal(await deadline('1d'), 86_400_000)
  t.equal(await deadline('2027-01-31T00:00:00Z'), '2027-01-31T00:00:00Z')
  for (const text of ['30', 'soon', '-5s', '2027-13-45T00:00:00Z', '']) await t.rejects(deadline(text), /--deadline must be/, text)
})

t.test('options that make no job are refused in one line, and nothing is sent', async t => {
  const before = gateway.calls.length
  const file = join(folder, 'broken.json')
  await writeFile(file, '{"messages":')
  const cases: [string[], RegExp][] = [
    [['submit'], /Give --prompt, or --payload/],
    [['submit', '--prompt', 'x', '--payload', '-'], /exclude each other/],
    [['submit', '--payload', 'absent.json'], /absent\.json cannot be read \(no such file\)/],
    [['submit', '--payload', file], /broken\.json is not JSON/],
    [['submit', '--prompt', 'x', '--metadata', 'novalue'], /--metadata must be key=value/],
    [['submit', '--prompt', 'x', '--kind', 'chats'], /--kind <kind>.*Allowed choices are chat, embed/],
    [['submit', '--prompt', 'x', '--max-attempts', '0'], /whole number from 1 on/],
    [['submit', '--prompt', 'x', '--idempotency-key', 'a b'], /1 to 255 visible characters/],
    [['show', '../keys'], /is no id of a job/],
    [['list', '--limit', 'x'], /whole number/],
    [['list', '--url', 'ftp://x'], /--url must be an http or https URL/],
    [['list', '--key', 'a b c'], /its value is not shown/]
  ]
  const runs = await Promise.all(cases.map(([args]) => run(...args)))
  for (const [index, { code, stdout, stderr }] of runs.entries()) {
    const [args, expected] = cases[index] as [string[], RegExp]
    t.equal(code, 1, args.join(' '))
    t.equal(stdout, '')
    t.match(stderr, expected)
    t.equal(stderr.trimEnd().split('\n').length, 1)
  }
  t.equal(gateway.calls.length, before)
})

t.test('list asks for what the options say, and prints a table no wider than 100 columns', async t => {
  const long = jobObject({
    id: otherId,
    kind: 'openrouter.chat',
    model: 'a-vendor-with-a-long-name/a-model-with-a-longer-one',
    position: 1000
  })
  gateway.answers.set(
    'GET /v1/jobs',
    give(200, { object: 'list', data: [doneJob('x'), long], first_id: id, last_id: otherId, has_more: true })
  )
  const ran = await run('list', '--status', 'done', '--kind', 'chat', '--model', 'a/b', '--device', 'rtx', '--source', 'me', '--limit', '2')
  t.equal(gateway.calls.at(-1)?.path, '/v1/jobs?status=done&kind=chat&model=a%2Fb&device=rtx&source=me&limit=2')
  t.match(ran, { code: 0, stderr: `There are more: --after ${otherId}\n` })
  const lines = ran.stdout.trimEnd().split('\n')
  t.equal(lines.length, 3)
  for (const line of lines) t.ok(line.length <= 100, line)
  t.match(lines[0], /^id {36}status {7}kind {13}model +where +age$/)
  t.match(lines[1], new RegExp(`^${id} {2}done +chat +llama3\\.2:3b +rtx +\\d+ `))
  t.match(lines[2], /queued 1000 {2}openrouter\.chat {2}a-vendor-.*…/)

  const json = await run('list', '--json', '--after', id)
  t.equal(gateway.calls.at(-1)?.path, `/v1/jobs?after=${id}`)
  t.match(JSON.parse(json.stdout), { object: 'list', data: [{ id }, { id: otherId }], has_more: true })
})

t.test('the table says how old a job is, in one unit, and shows nothing that steers a terminal', async t => {
  const nowMs = Date.parse('2026-11-01T10:00:00Z')
  const ages: [string, string][] = [
    ['2026-11-01T09:59:30Z', '30 s'],
    ['2026-11-01T09:58:30Z', '1 min'],
    ['2026-11-01T07:00:00Z', '3 h'],
    ['2026-10-28T07:00:00Z', '4 d'],
    ['2026-11-01T10:00:05Z', '0 s']
  ]
  for (const [created_at, expected] of ages) {
    const text = jobTable([readJob(jobObject({ created_at, model: 'a\u001b[31mb' }))], nowMs)
    t.ok(text.endsWith(`  ${expected}`), text)
    t.notMatch(text, /\u001b/)
  }
})

t.test('show prints what is known, and the answer last', async t => {
  const job = doneJob('Hello\nthere \u001b[31mred', {
    metadata: { ticket: '7' },
    webhook: { url: 'https://example.com/', status: 'delivered', error: null },
    deadline_at: '2026-11-01T11:00:00.000Z'
  })
  gateway.answers.set(`GET /v1/jobs/${id}`, give(200, job))
  const ran = await run('show', id)
  t.same([ran.code, ran.stderr], [0, ''])
  t.same(ran.stdout.replace(/\(\d+ \w+ ago\)/, '(some time ago)').split('\n'), [
    `job          ${id}`,
    'status       done',
    'kind         chat',
    'model        llama3.2:3b',
    'priority     normal',
    'source       me',
    'attempts     1 of 3',
    'where        rtx (ollama)',
    'created      2026-11-01T10:00:00.000Z  (some time ago)',
    'started      2026-11-01T10:00:01.000Z  (after 1.0 s)',
    'first token  2026-11-01T10:00:02.000Z  (after 2.0 s)',
    'finished     2026-11-01T10:00:04.000Z  (after 4.0 s)',
    'deadline     2026-11-01T11:00:00.000Z',
    'tokens       9 in, 20 out',
    'cost         $0.000012',
    'webhook      delivered  https://example.com/',
    'metadata     ticket=7',
    '',
    'Hello',
    'there  [31mred',
    ''
  ])
  t.strictSame(JSON.parse((await run('show', id, '--json')).stdout), job)
})

t.test('cancel and retry take several jobs; one that cannot be does not keep the others from it', async t => {
  for (const action of ['cancel', 'retry']) {
    const status = action === 'cancel' ? 'cancelled' : 'queued'
    gateway.answers.set(`POST /v1/jobs/${otherId}/${action}`, give(200, jobObject({ id: otherId, status })))
    gateway.answers.set(`POST /v1/jobs/${id}/${action}`, response => refuse(response, 409, 'The job is not over yet.'))
    const ran = await run(action, id, otherId)
    t.same(ran, { code: 1, stdout: `${otherId}  ${status}\n`, stderr: `${id}: The job is not over yet.\n` })
    const json = await run(action, otherId, '--json')
    t.same([json.code, json.stderr], [0, ''])
    t.match(JSON.parse(json.stdout), { object: 'list', data: [{ id: otherId, status }] })
  }
})

t.test('what goes wrong is one line that says what and where, and never holds the key', async t => {
  // A port that was free a moment ago.
  const server = createServer()
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as { port: number }
  await new Promise<void>(resolve => server.close(() => resolve()))
  const away = `http://127.0.0.1:${port}`
  gateway.answers.set(`GET /v1/jobs/${otherId}`, response => refuse(response, 500, `Broken \u001b[31m ${key}`))
  gateway.answers.set('GET /elsewhere/v1/jobs', response => response.end('<html>'))

  const cases: [string[], Record<string, string>, string | RegExp][] = [
    [
      ['list', '--url', away],
      env,
      /^llm-mcp: No gateway answers at http:\/\/127\.0\.0\.1:\d+ \(ECONNREFUSED\)\. Start it with "npm start", or/
    ],
    [
      ['list'],
      { LLM_MCP_KEY: key, PORT: String(port) },
      `llm-mcp: No gateway answers at ${away} (ECONNREFUSED). Start it with "npm start",`
    ],
    [['list'], { LLM_MCP_URL: gateway.url }, `llm-mcp: The gateway at ${gateway.url} wants a key: set LLM_MCP_KEY, or give --key.\n`],
    [['list', '--key', 'sk-wrong-canary'], env, `llm-mcp: The gateway at ${gateway.url} does not accept this key (401).\n`],
    [['show', '019a2b3c-4d5e-7f60-8a1b-2c3d4e5f6079'], env, 'llm-mcp: There is no job with this id.\n'],
    [['watch', '019a2b3c-4d5e-7f60-8a1b-2c3d4e5f6079'], env, 'llm-mcp: There is no job with this id.\n'],
    [['show', otherId], env, 'llm-mcp: Broken  [31m [hidden]\n'],
    [['list', '--url', `${gateway.url}/elsewhere`], env, 'is no gateway of llm-mcp.\n'],
    [['list', '--url', 'http://me:canary@x'], env, '--url must be a URL without user name and password\n']
  ]
  const runs = await Promise.all(cases.map(([args, env]) => runCommand(t, { folder, env, args: ['jobs', ...args] })))
  for (const [index, { code, stdout, stderr }] of runs.entries()) {
    const [args, , expected] = cases[index] as (typeof cases)[number]
    t.same([code, stdout], [1, ''], args.join(' '))
    t.match(stderr, expected)
    t.equal(stderr.trimEnd().split('\n').length, 1)
    t.notMatch(stderr, /canary/)
  }
})

t.test('options win over LLM_MCP_URL and LLM_MCP_KEY, these over the settings of the gateway, and .env is read', async t => {
  const cwd = await newFolder(t)
  const adminKey = 'sk-llm-admin-0123456789abcdef'
  const settings = (options: object, env: Record<string, string>) => readClientSettings(options, { env, cwd })
  t.same(await settings({}, {}), { url: 'http://127.0.0.1:4000', key: null })
  t.same(await settings({}, { HOST: '::', PORT: '5', LLM_MCP_ADMIN_KEY: adminKey }), { url: 'http://[::1]:5', key: adminKey })
  t.same(await settings({}, { HOST: '0.0.0.0', LLM_MCP_KEY: 'k', LLM_MCP_ADMIN_KEY: adminKey }), { url: 'http://127.0.0.1:4000', key: 'k' })
  t.same(await settings({ url: 'https://b/x/v1/', key: 'o' }, { LLM_MCP_URL: 'http://a', LLM_MCP_KEY: 'k' }), {
    url: 'https://b/x',
    key: 'o'
  })
  await writeFile(join(cwd, '.env'), `LLM_MCP_URL=http://c:1/v1\nLLM_MCP_ADMIN_KEY=${adminKey}\n`)
  t.same(await settings({}, {}), { url: 'http://c:1', key: adminKey })
  t.same(await settings({}, { LLM_MCP_URL: 'http://d' }), { url: 'http://d', key: adminKey })
  await t.rejects(settings({ url: 'http://d' }, { LLM_MCP_ADMIN_KEY: 'short' }), /at least 24 characters/)
  const empty = await newFolder(t)
  await t.rejects(readClientSettings({}, { env: { PORT: '0' }, cwd: empty }), /--url or LLM_MCP_URL/)
  await t.rejects(readClientSettings({}, { env: { PORT: 'x' }, cwd: empty }), /PORT must be an integer/)
})
