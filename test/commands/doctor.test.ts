// llm-mcp doctor as an operator runs it: a house that is well, a house where much is wrong, and what it leaves behind.

import { writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { Check } from '../../bin/commands/doctor/check.ts'
import { listKeys } from '../../store/keys.ts'
import type { Pool } from '../../store/pool.ts'
import { createDatabase } from '../support/cluster.ts'
import { newFolder, startGateway } from '../support/gateway.ts'
import { startCompatible, startOllama } from '../support/upstream.ts'
import { until } from '../support/wait.ts'
import { type Ran, type RunOptions, runCommand, startCommand } from './run.ts'

interface Report {
  readonly ok: boolean
  readonly checks: readonly Check[]
}

const names = (report: Report): string[] => report.checks.map(({ name }) => name)
const failed = (report: Report): string[] => report.checks.filter(({ status }) => status === 'fail').map(({ name }) => name)
const find = (report: Report, name: string): Check => report.checks.find(check => check.name === name) as Check

async function doctor(t: Test, options: Omit<RunOptions, 'args'> & { readonly args?: readonly string[] }): Promise<Report & Ran> {
  const ran = await runCommand(t, { ...options, args: ['doctor', '--json', ...(options.args ?? [])] })
  return { ...(JSON.parse(ran.stdout) as Report), ...ran }
}

/** Nothing of the doctor's is left: no living key, no process. */
async function leftBehind(pool: Pool): Promise<{ keys: string[]; processes: number }> {
  const keys = await listKeys(pool, { after: null, limit: 100 })
  const { rows } = await pool.query('select count(*)::integer as count from processes')
  return { keys: keys.filter(key => key.name === 'doctor' && key.revokedAt === null).map(({ id }) => id), processes: rows[0].count }
}

const nothing = { keys: [], processes: 0 }

t.test('a house that is well: every check is ok, and the request went through a gateway started for it', async t => {
  const database = await createDatabase(t)
  const ollama = await startOllama(t)
  const rented = await startCompatible(t)
  const config = {
    machines: { rtx: { url: ollama.origin, vram_gb: 24, watts: 300 } },
    providers: { cheap: { base_url: `${rented.origin}/v1`, api_key: 'canary-key-of-cheap' } }
  }
  // What an operator's shell may hold for other programs.
  const env = {
    DATABASE_URL: database.url,
    OLLAMA_HOST: '',
    PORT: '0',
    OPENAI_ORG_ID: 'org',
    OPENAI_LOG: 'debug',
    OPENAI_BASE_URL: 'http://127.0.0.1:9'
  }
  const report = await doctor(t, { folder: await newFolder(t), config, env })
  t.same([report.code, report.ok, report.stderr], [0, true, ''])
  // An Ollama of this machine's own is looked for too.
  const expected = [
    'node',
    'configuration',
    'port',
    'disk',
    'database',
    'machine rtx',
    'machine ollama',
    'provider cheap',
    'clock',
    'request'
  ]
  t.same(names(report), expected)
  for (const check of report.checks.filter(({ name }) => name !== 'machine ollama')) {
    t.same(Object.keys(check), ['name', 'status', 'detail', 'remedy'])
    t.match(check, { status: 'ok', remedy: null }, check.name)
  }
  t.match(find(report, 'configuration').detail, /llm-mcp\.yaml: machines: 1, providers: 1, aliases: 0$/)
  t.match(find(report, 'database').detail, /PostgreSQL \d+\.\d+, migrations applied: \d+, \d+\.\d ms$/)
  t.match(find(report, 'machine rtx').detail, /: models: 1, \d+ ms$/)
  t.match(find(report, 'clock').detail, /^agrees with the database's and cheap's$/)
  t.match(find(report, 'request').detail, /^llama3\.2:3b on rtx, first token after \d+ ms, cost \$0\.\d+, by a gateway started for this$/)
  t.match(ollama.calls.find(call => call.path === '/api/chat')?.body, { options: { num_predict: 16 } })
  t.same(await leftBehind(database.pool), nothing)
  const { rows } = await database.pool.query('select source, outcome from llm_costs')
  t.same(rows, [{ source: 'doctor', outcome: 'ok' }], 'booked like any other')
})

t.test('a gateway that runs is the one that is asked', async t => {
  const database = await createDatabase(t)
  const ollama = await startOllama(t)
  const config = { machines: { rtx: { url: ollama.origin } } }
  const gateway = await startGateway(t, { databaseUrl: database.url, config, env: { OLLAMA_HOST: '' } })
  const env = { DATABASE_URL: database.url, OLLAMA_HOST: '', PORT: new URL(gateway.url).port }
  const report = await doctor(t, { folder: gateway.folder, env })
  t.same([report.code, report.ok], [0, true])
  t.match(find(report, 'port').detail, /a gateway is running there/)
  t.match(find(report, 'request'), { status: 'ok', detail: /by the running gateway$/ })
  t.same(await leftBehind(database.pool), { keys: [], processes: 1 })

  const other = await createDatabase(t)
  const lost = await doctor(t, { folder: await newFolder(t), config, env: { ...env, DATABASE_URL: other.url } })
  t.same([lost.code, failed(lost)], [1, ['request']])
  t.match(find(lost, 'request'), { detail: /it uses another one$/, remedy: /DATABASE_URL/ })
  t.same(await leftBehind(other.pool), nothing)
})

t.test('a house where much is wrong: each thing is named, with one line of what to do, and no secret', async t => {
  const canaries = ['canary-admin-0123456789abcdef', 'canary-key-of-refused', 'canary-header-value', 'canary-password']
  const [adminKey, apiKey, header, password] = canaries
  const refusing = createServer((request, response) => {
    response.writeHead(401, { 'content-type': 'application/json' })
    response.end(JSON.stringify({ error: { message: `no: ${request.headers.authorization} ${request.headers['x-team']}` } }))
  })
  await new Promise<void>(resolve => refusing.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    refusing.closeAllConnections()
    refusing.close()
  })
  const { port } = refusing.address() as { port: number }
  const folder = await newFolder(t)
  await writeFile(join(folder, 'file'), '')
  const config = {
    machines: {
      down: { url: 'http://127.0.0.1:9' },
      vllm: { url: `http://127.0.0.1:${port}/v1`, type: 'openai', api_key: apiKey, headers: { 'x-team': header } }
    },
    providers: { refused: { base_url: `http://127.0.0.1:${port}/v1`, api_key: apiKey, headers: { 'x-team': header } } }
  }
  const env = {
    OLLAMA_HOST: '',
    PORT: String(port),
    LLM_MCP_ADMIN_KEY: String(adminKey),
    DATABASE_URL: `postgresql://user:${password}@127.0.0.1:9/none`,
    LLM_MCP_DATA_DIR: join(folder, 'file')
  }
  const report = await doctor(t, { folder, config, env })
  t.same([report.code, report.ok], [1, false])
  t.same(failed(report), ['port', 'disk', 'database', 'machine down', 'machine vllm', 'provider refused'])
  t.same(find(report, 'request'), { name: 'request', status: 'skipped', detail: 'needs the database', remedy: null })
  for (const check of report.checks.filter(({ status }) => status === 'fail')) t.match(check.remedy, /^[^\n]{10,}\.$/, check.name)
  t.match(find(report, 'port').remedy, /PORT/)
  t.match(find(report, 'disk').remedy, /LLM_MCP_DATA_DIR/)
  t.match(find(report, 'database'), { detail: /127\.0\.0\.1:9\/none could not be used: .*ECONNREFUSED/, remedy: /DATABASE_URL/ })
  t.match(find(report, 'machine down').remedy, /Start Ollama there/)
  t.match(find(report, 'machine vllm').remedy, /machines\.vllm\.api_key/)
  t.match(find(report, 'provider refused').remedy, /providers\.refused\.api_key/)

  const forPeople = await runCommand(t, { folder, env, args: ['doctor'] })
  t.equal(forPeople.code, 1)
  const lines = forPeople.stdout.trimEnd().split('\n')
  t.equal(lines.filter(line => line.startsWith('✗ ')).length, 6)
  t.equal(lines.filter(line => line.startsWith('  → ')).length, 6)
  t.equal(lines.length, report.checks.length + 6, 'one line each, and one for each remedy')
  for (const canary of canaries) {
    for (const text of [report.stdout, report.stderr, forPeople.stdout, forPeople.stderr]) t.notOk(text.includes(canary), canary)
  }
})

t.test('a configuration that cannot be read leaves the rest untried', async t => {
  const folder = await newFolder(t)
  const report = await doctor(t, { folder, config: { nonsense: 1 }, env: { PORT: 'x' } })
  t.same([report.code, failed(report)], [1, ['configuration']])
  t.match(find(report, 'configuration'), { detail: 'problems: 2', remedy: /^PORT must be .* \(all of them: llm-mcp config check\)$/ })
  t.same(
    report.checks.slice(2).map(({ status }) => status),
    ['skipped', 'skipped', 'skipped', 'skipped', 'skipped']
  )
})

t.test('an upstream that answers with an error is told in one line, and the exit code says it', async t => {
  const database = await createDatabase(t)
  const ollama = await startOllama(t, {
    behaviour: (_call, response) => {
      response.writeHead(500, { 'content-type': 'application/json' })
      response.end('{"error":"out of memory"}')
    }
  })
  const config = { machines: { rtx: { url: ollama.origin } } }
  const report = await doctor(t, { folder: await newFolder(t), config, env: { DATABASE_URL: database.url, OLLAMA_HOST: '', PORT: '0' } })
  t.same([report.code, failed(report)], [1, ['request']])
  t.match(find(report, 'request'), { detail: /^a gateway started for this answered: .*out of memory/, remedy: /log of the gateway/ })
  t.same(await leftBehind(database.pool), nothing)
})

t.test('an answer that ends at the sixteenth token is an answer', async t => {
  const database = await createDatabase(t)
  const chunk = (more: object) =>
    `data: ${JSON.stringify({ id: 'c', object: 'chat.completion.chunk', created: 1, model: 'm', ...more })}\n\n`
  const rented = await startCompatible(t, {
    behaviour: (_call, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.write(chunk({ choices: [{ index: 0, delta: { role: 'assistant', reasoning: 'Hm' }, finish_reason: null }] }))
      response.write(chunk({ choices: [{ index: 0, delta: {}, finish_reason: 'length' }] }))
      response.end(`${chunk({ choices: [], usage: { prompt_tokens: 9, completion_tokens: 16, total_tokens: 25 } })}data: [DONE]\n\n`)
    }
  })
  const config = { providers: { cheap: { base_url: `${rented.origin}/v1`, api_key: 'canary-key-of-cheap' } } }
  const report = await doctor(t, { folder: await newFolder(t), config, env: { DATABASE_URL: database.url, OLLAMA_HOST: '', PORT: '0' } })
  t.match(find(report, 'request'), { status: 'ok', detail: /^gpt-4o-mini on cheap, first token after \d+ ms, cost unknown/ })
})

t.test('with nothing connected it warns, and --no-request leaves the request out', async t => {
  const database = await createDatabase(t)
  // The address of the machine's own Ollama, where an operator of these tests may have one.
  const env = { DATABASE_URL: database.url, OLLAMA_HOST: '', PORT: '0' }
  const folder = await newFolder(t)
  const report = await doctor(t, { folder, env, args: ['--no-request'] })
  t.same([report.code, report.ok], [0, true])
  t.match(find(report, 'request'), { status: 'skipped', detail: /--no-request/ })
  t.same(await listKeys(database.pool, { after: null, limit: 10 }), [], 'no key was made')
  const machine = find(report, 'machine ollama')
  if (machine.status === 'ok') return
  t.match(machine, { status: 'warn', remedy: /OPENROUTER_API_KEY/ })
  t.match(find(await doctor(t, { folder, env }), 'request'), { status: 'warn', detail: /^only the demo answered/, remedy: /Start Ollama/ })
  t.same(await leftBehind(database.pool), nothing)
})

t.test('a first start after the doctor still shows its admin key', async t => {
  const database = await createDatabase(t)
  const folder = await newFolder(t)
  const report = await doctor(t, { folder, env: { DATABASE_URL: database.url, PORT: '0' } })
  t.match(find(report, 'request').detail, /a gateway started for this/)
  const gateway = await startGateway(t, { databaseUrl: database.url, folder, ownKey: true })
  t.match(gateway.ready.admin_key, /^sk-llm-/)
})

t.test('called off in the middle of the request: the gateway it started is gone, and its key is revoked', async t => {
  const database = await createDatabase(t)
  const ollama = await startOllama(t, { behaviour: () => {} })
  const config = { machines: { rtx: { url: ollama.origin } } }
  const env = { DATABASE_URL: database.url, OLLAMA_HOST: '', PORT: '0' }
  const { child, ended } = await startCommand(t, { folder: await newFolder(t), config, env, args: ['doctor', '--json'] })
  await until('the request to arrive', () => ollama.running.now === 1)
  t.match(await leftBehind(database.pool), { keys: { length: 1 }, processes: 1 })
  child.kill('SIGTERM')
  const { code, stdout } = await ended
  t.equal(code, 1)
  t.match(find(JSON.parse(stdout), 'request'), { status: 'fail', detail: 'called off' })
  t.match((await leftBehind(database.pool)).keys, [])
  await until('the process to be forgotten', async () => (await leftBehind(database.pool)).processes === 0 || ollama.running.now === 0)
})
