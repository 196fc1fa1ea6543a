// Keys: who may call what, in which header, and how fast a revoked one stops.

import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { createDatabase } from '../support/cluster.ts'
import { adminKey, startGateway } from '../support/gateway.ts'
import { until } from '../support/wait.ts'

const database = await createDatabase(t)
const one = await startGateway(t, { databaseUrl: database.url })
const two = await startGateway(t, { databaseUrl: database.url })

interface Created {
  readonly id: string
  readonly key: string
  readonly kind: string
}

async function create(kind: string, source = 'alice'): Promise<Created> {
  const answer = await one.fetch('/v1/keys', { json: { kind, source, name: 'test' } })
  if (answer.status !== 201) throw new Error(`${answer.status}: ${await answer.text()}`)
  return (await answer.json()) as Created
}

const keys = {
  source: await create('source'),
  worker: await create('worker'),
  metrics: await create('metrics'),
  admin: await create('admin')
}
const chat = { model: 'echo', messages: [{ role: 'user', content: 'hi' }] }

t.test('each route takes the kinds of key it names, and no others', async t => {
  const routes: [string, string, unknown, readonly string[]][] = [
    ['POST', '/v1/chat/completions', chat, ['source', 'admin']],
    ['GET', '/v1/models', undefined, ['source', 'admin']],
    ['GET', '/v1/models/echo', undefined, ['source', 'admin']],
    ['GET', '/v1/costs/summary', undefined, ['source', 'admin']],
    ['GET', '/v1/keys', undefined, ['admin']],
    ['POST', '/v1/keys', { kind: 'source', source: 'bob' }, ['admin']],
    ['DELETE', '/v1/keys/01a1fd37-5d11-7d28-9be4-415923be313e', undefined, ['admin']]
  ]
  for (const [method, path, body, allowed] of routes) {
    for (const { kind, key } of Object.values(keys)) {
      const answer = await one.fetch(path, {
        method,
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        headers: { authorization: `Bearer ${key}`, ...(body === undefined ? {} : { 'content-type': 'application/json' }) }
      })
      await answer.arrayBuffer()
      if (allowed.includes(kind)) t.ok(answer.status < 300 || answer.status === 404, `${method} ${path} with ${kind}: ${answer.status}`)
      else t.equal(answer.status, 403, `${method} ${path} with ${kind}`)
    }
    const without = await fetch(`${one.url}${path}`, { method })
    t.equal(without.status, 401, `${method} ${path} without a key`)
    t.match(await without.json(), { error: { code: 'invalid_api_key', type: 'invalid_request_error', param: null } })
    t.ok(without.headers.get('www-authenticate'))
  }
})

t.test('three headers mean the same; two different keys are a 400', async t => {
  const { key } = keys.source
  const status = async (headers: Record<string, string>): Promise<number> => (await fetch(`${one.url}/v1/models`, { headers })).status
  t.equal(await status({ authorization: `Bearer ${key}` }), 200)
  t.equal(await status({ authorization: `bearer ${key}` }), 200)
  t.equal(await status({ 'x-api-key': key }), 200)
  t.equal(await status({ 'api-key': key }), 200)
  t.equal(await status({ 'api-key': key, authorization: `Bearer ${key}` }), 200)
  t.equal(await status({ 'api-key': key, authorization: `Bearer ${adminKey}` }), 400)
  t.equal(await status({ 'x-api-key': adminKey, 'api-key': key }), 400)
  t.equal(await status({ authorization: `Basic ${key}` }), 401)
  t.equal(await status({ authorization: '' }), 401)
  t.equal((await fetch(`${one.url}/v1/models?key=${key}&api_key=${key}`)).status, 401)
})

t.test('only a hash is at rest, and it is no key', async t => {
  const { key, id } = keys.source
  const dump = await database.pool.query('select row_to_json(api_keys)::text as row from api_keys where id = $1', [id])
  t.notOk(dump.rows[0].row.includes(key.slice(12)))
  const hash = createHash('sha256').update(key).digest('hex')
  t.ok(dump.rows[0].row.includes(hash))
  for (const guess of [hash, `sk-llm-${hash}`, `${key}x`, key.slice(0, -1), `${key.slice(0, -1)}${key.endsWith('A') ? 'B' : 'A'}`]) {
    t.equal((await fetch(`${one.url}/v1/models`, { headers: { 'x-api-key': guess } })).status, 401)
  }
})

t.test('a revoked key is refused by every process within a second', async t => {
  const { id, key } = await create('source')
  const status = async (url: string): Promise<number> => (await fetch(`${url}/v1/models`, { headers: { 'x-api-key': key } })).status
  t.same([await status(one.url), await status(two.url)], [200, 200])
  const revoked = await one.fetch(`/v1/keys/${id}`, { method: 'DELETE' })
  t.match(await revoked.json(), { id, deleted: true })
  const since = performance.now()
  await until('both to refuse it', async () => (await status(one.url)) === 401 && (await status(two.url)) === 401)
  t.ok(performance.now() - since < 1_000, `after ${Math.round(performance.now() - since)} ms`)
  t.equal((await one.fetch(`/v1/keys/${id}`, { method: 'DELETE' })).status, 200, 'twice is once')
})

t.test('a revoked key is refused within a second too where no notification arrives', async t => {
  const { id, key } = await create('source')
  const status = async (): Promise<number> => (await fetch(`${two.url}/v1/models`, { headers: { 'x-api-key': key } })).status
  t.equal(await status(), 200)
  // The LISTEN connections are cut, and the row changed behind everybody's back.
  await database.pool.query(
    `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'llm-mcp listen' and datname = current_database()`
  )
  await database.pool.query('update api_keys set revoked_at = now() where id = $1', [id])
  const since = performance.now()
  await until('it to be refused', async () => (await status()) === 401)
  t.ok(performance.now() - since < 1_000, `after ${Math.round(performance.now() - since)} ms`)
})

t.test('a new key works at once, also where it was unknown before', async t => {
  const { key, id } = await create('source', 'carol')
  t.equal((await fetch(`${two.url}/v1/models`, { headers: { 'x-api-key': key } })).status, 200)
  const listed = (await (await one.fetch('/v1/keys?limit=100')).json()) as { data: { id: string; source: string }[] }
  t.match(
    listed.data.find(entry => entry.id === id),
    { source: 'carol', kind: 'source', revoked_at: null }
  )
  t.notMatch(JSON.stringify(listed), key)
})

t.test('an expired key is refused', async t => {
  const made = await one.fetch('/v1/keys', {
    json: { kind: 'source', source: 'dave', expires_at: new Date(Date.now() + 1_000).toISOString() }
  })
  const { key } = (await made.json()) as Created
  const status = async (): Promise<number> => (await fetch(`${one.url}/v1/models`, { headers: { 'x-api-key': key } })).status
  t.equal(await status(), 200)
  await until('it to expire', async () => (await status()) === 401)
})

t.test('what a key may not be asked is said', async t => {
  const cases: [unknown, string][] = [
    [{ kind: 'root', source: 'x' }, 'kind'],
    [{ kind: 'source' }, 'source'],
    [{ kind: 'source', source: 'a b' }, 'source'],
    [{ kind: 'source', source: 'x', limits: { requests_per_day: 5 } }, 'limits.requests_per_day'],
    [{ kind: 'source', source: 'x', limits: { requests_per_minute: 0 } }, 'limits.requests_per_minute'],
    [{ kind: 'admin', limits: { requests_per_minute: 5 } }, 'limits'],
    [{ kind: 'source', source: 'x', models: [] }, 'models'],
    [{ kind: 'source', source: 'x', weight: 0 }, 'weight'],
    [{ kind: 'source', source: 'x', expires_at: '2001-01-01' }, 'expires_at'],
    [{ kind: 'source', source: 'x', name: 7 }, 'name']
  ]
  for (const [json, param] of cases) {
    const answer = await one.fetch('/v1/keys', { json })
    t.equal(answer.status, 400)
    t.match(await answer.json(), { error: { param } })
  }
  for (const query of ['limit=0', 'limit=101', 'limit=x', 'after=x']) t.equal((await one.fetch(`/v1/keys?${query}`)).status, 400, query)
  t.equal((await one.fetch('/v1/keys/nope', { method: 'DELETE' })).status, 404)
  t.equal((await one.fetch("/v1/keys/' or 1=1 --", { method: 'DELETE' })).status, 404)
})

t.test('what a key may use is shown with it, and the command line makes the same key', async t => {
  const asked = {
    limits: { requests_per_minute: 60, tokens_per_minute: 100_000, concurrent_requests: 4 },
    models: ['echo', 'qwen3:*'],
    providers: ['echo', 'home'],
    weight: 2.5,
    trust_user_header: true
  }
  const made = (await (await one.fetch('/v1/keys', { json: { kind: 'source', source: 'team', ...asked } })).json()) as Created
  t.match(made, asked)
  const { stdout } = await llmMcp([
    ...['keys', 'create', '--json', '--source', 'team', '--requests-per-minute', '60', '--tokens-per-minute', '100000'],
    ...['--concurrent-requests', '4', '--model', 'echo', '--model', 'qwen3:*', '--provider', 'echo', '--provider', 'home'],
    ...['--weight', '2.5', '--trust-user-header']
  ])
  const printed = JSON.parse(stdout) as Created
  const listed = (await (await one.fetch('/v1/keys?limit=2')).json()) as { data: Created[] }
  t.strictSame(
    listed.data.map(({ id }) => id),
    [printed.id, made.id]
  )
  for (const shown of [printed, ...listed.data]) t.match(shown, { kind: 'source', source: 'team', ...asked })
  const plain = (await (await one.fetch('/v1/keys', { json: { kind: 'source', source: 'team', limits: {} } })).json()) as Created
  t.match(plain, { limits: null, models: null, providers: null, weight: 1, trust_user_header: false })
  for (const [option, value] of [
    ['--requests-per-minute', 'many'],
    ['--weight', ''],
    ['--concurrent-requests', '0']
  ] as const) {
    const { code, stderr } = await llmMcp(['keys', 'create', '--source', 'team', option, value])
    t.equal(code, 1, option)
    t.match(stderr, /^llm-mcp: Invalid value for "/)
  }
})

/** Runs the command line on the database of this file. */
async function llmMcp(argv: readonly string[]): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const child = spawn(process.execPath, [fileURLToPath(new URL('../../bin/llm-mcp.js', import.meta.url)), ...argv], {
    cwd: two.folder,
    env: { PATH: process.env.PATH, HOME: two.folder, DATABASE_URL: database.url },
    stdio: ['ignore', 'pipe', 'pipe']
  })
  const [[code], stdout, stderr] = await Promise.all([
    once(child, 'close') as Promise<[number | null]>,
    text(child.stdout),
    text(child.stderr)
  ])
  return { code, stdout, stderr }
}

t.test('lists come in pages', async t => {
  const seen: string[] = []
  let after = ''
  for (;;) {
    const page = (await (await one.fetch(`/v1/keys?limit=3${after}`)).json()) as {
      data: { id: string }[]
      has_more: boolean
      last_id: string
    }
    seen.push(...page.data.map(({ id }) => id))
    if (!page.has_more) break
    after = `&after=${page.last_id}`
  }
  const { rows } = await database.pool.query('select count(*)::int as keys from api_keys')
  t.equal(seen.length, rows[0].keys)
  t.equal(new Set(seen).size, seen.length)
})
