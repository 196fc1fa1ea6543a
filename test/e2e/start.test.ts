// Starting and stopping as an operator does it: `npm start` in a copy of the project, with the embedded PostgreSQL, over TCP.

import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { readFile, stat, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:net'
import { join } from 'node:path'
import OpenAI from 'openai'
import t from 'tap'
import { copyProject, ollamaRuns, ownLines, type Started, within } from '../support/copy.ts'
import { chunk, startCompatible, wholeStream } from '../support/upstream.ts'
import { until } from '../support/wait.ts'

const messages = [{ role: 'user' as const, content: 'Grüße' }]
const oldNode = findOldNode()
const needsOldNode = oldNode === null ? { skip: 'needs a Node older than 22.19 at /usr/bin/node' } : {}
const hasOllama = await ollamaRuns()
const needsRoot = process.getuid?.() === 0 ? {} : { skip: 'needs root' }

function client(gateway: Started, apiKey: string | null): OpenAI {
  return new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: apiKey ?? 'none', maxRetries: 0 })
}

t.test('the first start prints one line with the admin key, the second one without', async t => {
  const copy = await copyProject(t)
  const first = await copy.start()
  t.match(first.key, /^sk-llm-[\w-]{43}$/)
  const key = first.key as string
  t.match(first.ready, { event: 'ready', version: '2026.11.1', base_url: `${first.url}/v1` })
  if (!hasOllama) t.same(first.ready.found, [])
  t.equal(ownLines(first.output()).length, 1, 'not a terminal: one line')
  t.equal(typeof (await copy.databasePid()), 'number')

  const final = await client(first, key).chat.completions.stream({ model: 'echo', messages }).finalChatCompletion()
  t.match(final.choices[0]?.message.content, /You said: Grüße/)
  t.match(final.choices[0]?.message.content, /OLLAMA_HOST.*OPENROUTER_API_KEY.*OPENAI_API_KEY/)
  const note = await readFile(join(copy.folder, '.data/first-run.txt'), 'utf8')
  t.notMatch(note, key)
  t.equal((await stat(join(copy.folder, '.data/first-run.txt'))).mode & 0o777, 0o600)

  t.equal(await first.stop(), 0)
  t.equal(first.output().split(key).length, 2, 'shown once')
  t.equal(await copy.databasePid(), null, 'the last gateway stops the database')

  const second = await copy.start()
  t.equal(second.key, null)
  const again = await client(second, key).chat.completions.create({ model: 'echo', messages })
  t.match(again.choices[0]?.message.content, /Grüße/)
  await t.rejects(client(second, `${key}x`).chat.completions.create({ model: 'echo', messages }), {
    status: 401,
    message: /Incorrect API key/
  })
  t.equal(await second.stop('SIGINT'), 0)
  t.notMatch(second.output(), key)
  t.equal(await copy.databasePid(), null)
})

t.test('keys are made, listed and revoked on the command line, while the gateway runs and while it does not', async t => {
  const copy = await copyProject(t)
  const json = async (...args: string[]) => {
    const { code, stdout, stderr } = await copy.command('keys', ...args, '--json')
    if (code !== 0) throw new Error(`${args}: ${code} ${stdout} ${stderr}`)
    return JSON.parse(stdout)
  }
  const asleep = await json('create', '--source', 'night')
  t.match(asleep, { object: 'key', kind: 'source', source: 'night', key: /^sk-llm-/, revoked_at: null })
  t.equal(await copy.databasePid(), null, 'the command stops the database that it started')

  const gateway = await copy.start()
  t.ok(gateway.key, 'a source key is no admin key')
  const statusOf = async (key: string) => (await fetch(`${gateway.url}/v1/models`, { headers: { 'x-api-key': key } })).status
  t.equal(await statusOf(asleep.key), 200)
  const awake = await json('create', '--source', 'day', '--name', 'for tests', '--kind', 'admin')
  t.match(awake, { kind: 'admin', source: 'day', name: 'for tests' })
  t.equal(await statusOf(awake.key), 200)
  t.equal(typeof (await copy.databasePid()), 'number', 'the command leaves the gateway its database')

  const listed = await json('list')
  t.same(
    listed.data.map((key: { source: string }) => key.source),
    ['day', 'admin', 'night'],
    'newest first'
  )
  t.notMatch(JSON.stringify(listed), awake.key.slice(12))
  t.match(await json('revoke', awake.id), { id: awake.id, revoked_at: /./ })
  const since = performance.now()
  await until('the key to be refused', async () => (await statusOf(awake.key)) === 401)
  t.ok(performance.now() - since < 1_000)
  t.equal(await statusOf(asleep.key), 200)

  const wrong = await copy.command('keys', 'create', '--kind', 'root', '--source', 'x')
  t.equal(wrong.code, 1)
  t.match(wrong.stderr.trim(), /^llm-mcp: [^\n]*"kind"[^\n]*$/, 'one line')
  t.equal(
    (
      await copy.command(
        'keys',
        'revoke',
        awake.id.replace(/.$/, (end: string) => (end === '0' ? '1' : '0'))
      )
    ).code,
    1
  )
  t.equal(await gateway.stop(), 0)

  t.match(await json('revoke', asleep.id), { id: asleep.id })
  t.equal(await copy.databasePid(), null)
})

t.test('SIGTERM lets a running answer finish, refuses new ones, and stops the database', async t => {
  const upstream = await startCompatible(t)
  let release = (): void => {}
  upstream.behaviour = (_call, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    const [head, first, ...rest] = wholeStream('Hel', 'lo')
    response.write(head)
    response.write(first)
    release = () => response.end(rest.join(''))
  }
  const copy = await copyProject(t)
  const gateway = await copy.start({ env: upstreamEnv(upstream.origin) })
  const stream = await client(gateway, gateway.key).chat.completions.create({ model: 'gpt-4o-mini', messages, stream: true })
  const pieces = stream[Symbol.asyncIterator]()
  await pieces.next()
  await pieces.next()

  const ended = gateway.stop()
  const refused = await until('new requests to be refused', async () => {
    const answer = await fetch(`${gateway.url}/v1/models`, { headers: { 'x-api-key': gateway.key as string } })
    const body = await answer.text()
    return answer.status === 503 ? { answer, body } : null
  })
  t.match(JSON.parse(refused.body), { error: { code: 'server_draining', type: 'service_unavailable_error', param: null } })
  t.ok(Number(refused.answer.headers.get('retry-after')) >= 1)
  const ready = await fetch(`${gateway.url}/ready`)
  t.equal(ready.status, 503)
  t.match(await ready.json(), { status: 'not_ready', draining: true, database: 'ok' })
  release()
  let text = ''
  for (let piece = await pieces.next(); piece.done !== true; piece = await pieces.next())
    text += piece.value.choices[0]?.delta.content ?? ''
  t.equal(text, 'lo')
  t.equal(await ended, 0)
  t.equal(await copy.databasePid(), null)
})

t.test('after kill -9 the next start adopts the database and books what was in the air', async t => {
  const upstream = await startCompatible(t)
  upstream.behaviour = (_call, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write(chunk({ role: 'assistant', content: '' }))
    response.write(chunk({ content: 'Hel' }))
  }
  const copy = await copyProject(t)
  const first = await copy.start({ env: upstreamEnv(upstream.origin) })
  const stream = await client(first, first.key).chat.completions.create({ model: 'gpt-4o-mini', messages, stream: true })
  await stream[Symbol.asyncIterator]().next()
  t.not(await first.stop('SIGKILL'), 0)
  const orphan = await copy.databasePid()
  t.equal(typeof orphan, 'number', 'the database outlives it')

  const second = await copy.start({ env: upstreamEnv(upstream.origin) })
  t.equal(await copy.databasePid(), orphan)
  const costs = await fetch(`${second.url}/v1/costs/summary?period=day`, { headers: { authorization: `Bearer ${first.key}` } })
  t.match(await costs.json(), { total_requests: 1, by_provider: [{ provider: 'openai', attempts: 1, estimated_attempts: 1 }] })
  t.equal(await second.stop(), 0)
  t.equal(await copy.databasePid(), null)
})

t.test('SIGTERM for npm itself stops the gateway too', async t => {
  const copy = await copyProject(t)
  const gateway = await copy.start()
  gateway.npm.kill('SIGTERM')
  await within(gateway.ended, 15_000, 'the gateway to end with npm')
  t.equal(await copy.databasePid(), null)
})

t.test('Ctrl-C at a terminal, which several processes pass on, is one wish to stop', async t => {
  const copy = await copyProject(t)
  const gateway = await copy.start()
  // From the terminal, from npm and from an old Node's guard, within a moment.
  process.kill(gateway.pid, 'SIGINT')
  process.kill(gateway.pid, 'SIGINT')
  t.equal(await gateway.stop('SIGINT'), 0)
  t.equal(await copy.databasePid(), null)
})

t.test('it starts in a directory that only root may enter, and its database elsewhere', needsRoot, async t => {
  let place = ''
  await t.test('twice', async t => {
    const copy = await copyProject(t, { closed: true })
    t.equal((await stat(copy.folder)).mode & 0o777, 0o700)
    const first = await copy.start()
    t.match(first.ready.database, /^embedded 18\.\d+ in \/(var\/lib|srv|opt)\/llm-mcp\/[0-9a-f]{16}\/postgres$/)
    place = (await readFile(join(copy.folder, '.data/postgres-location'), 'utf8')).trim()
    t.not((await stat(join(place, 'postgres'))).uid, 0, 'PostgreSQL does not run as root')
    await client(first, first.key).chat.completions.create({ model: 'echo', messages })
    t.equal(await first.stop(), 0)
    t.equal(await copy.databasePid(), null)

    const second = await copy.start()
    t.equal(second.ready.database, first.ready.database)
    t.match((await client(second, first.key).models.list()).data.at(0)?.id, /./)
    t.equal(await second.stop(), 0)
  })
  t.equal(existsSync(place), false, 'the test leaves nothing behind')
})

t.test('what keeps it from starting is one line that says what to do, and exit code 1', async t => {
  const copy = await copyProject(t)

  await t.test('a port that is taken', async t => {
    const { server, port } = await listening()
    t.teardown(() => server.close())
    const { code, lines } = await copy.startInVain({ env: { PORT: String(port) } })
    t.equal(code, 1)
    t.equal(lines.length, 1, lines.join('\n'))
    t.match(lines[0], new RegExp(`\\b${port}\\b.*taken.*PORT`))
    t.equal(await copy.databasePid(), null, 'the database is stopped again')
  })

  await t.test('a database that is not there', async t => {
    const { server, port } = await listening()
    await new Promise(resolve => server.close(resolve))
    const { code, lines } = await copy.startInVain({ env: { DATABASE_URL: `postgres://alice:s3cret-w0rd@127.0.0.1:${port}/gateway` } })
    t.equal(code, 1)
    t.equal(lines.length, 1, lines.join('\n'))
    t.match(lines[0], new RegExp(`127\\.0\\.0\\.1:${port}/gateway.*ECONNREFUSED.*DATABASE_URL`))
    t.notMatch(lines[0], /s3cret|alice/)
  })

  await t.test('a configuration with a mistake', async t => {
    await writeFile(join(copy.folder, 'llm-mcp.yaml'), 'machines:\n  rtx:\n    url: http://127.0.0.1:11434\n    wats: 350\n')
    const { code, lines } = await copy.startInVain()
    await writeFile(join(copy.folder, 'llm-mcp.yaml'), '')
    t.equal(code, 1)
    t.same(lines, ['llm-mcp.yaml:4:5 machines.rtx.wats: unknown key, did you mean "watts"?'])
  })

  await t.test('no keys on an address that others can reach', async t => {
    const { code, lines } = await copy.startInVain({ env: { LLM_MCP_AUTH: 'off', HOST: '0.0.0.0' } })
    t.equal(code, 1)
    t.equal(lines.length, 1, lines.join('\n'))
    t.match(lines[0], /LLM_MCP_AUTH=off.*127\.0\.0\.1.*0\.0\.0\.0/)
  })

  await t.test('a setting that does not exist', async t => {
    const { code, lines } = await copy.startInVain({ env: { LLM_MCP_DATADIR: 'x' } })
    t.equal(code, 1)
    t.same(lines, ['LLM_MCP_DATADIR is not a setting, did you mean LLM_MCP_DATA_DIR?'])
  })
})

t.test('without keys it serves this machine alone', async t => {
  const copy = await copyProject(t)
  const gateway = await copy.start({ env: { LLM_MCP_AUTH: 'off' } })
  t.equal(gateway.key, null)
  t.match((await client(gateway, null).chat.completions.create({ model: 'echo', messages })).choices[0]?.message.content, /Grüße/)
  t.equal(await gateway.stop(), 0)
})

t.test('a shell with the exports for clients is no shell with a key of OpenAI', async t => {
  const copy = await copyProject(t)
  const first = await copy.start()
  const exports = { OPENAI_BASE_URL: `${first.url}/v1`, OPENAI_API_KEY: first.key as string }
  t.equal(await first.stop(), 0)
  const second = await copy.start({ env: exports })
  t.notMatch(JSON.stringify(second.ready.found), 'openai')
  t.match((await client(second, first.key).chat.completions.create({ model: 'echo', messages })).choices[0]?.message.content, /Grüße/)
  t.equal(await second.stop(), 0)
})

t.test('a Node that is too old, and none packaged: one clear line', needsOldNode, async t => {
  const copy = await copyProject(t, { installed: false })
  const { code, stdout, stderr } = await copy.run(oldNode as string, ['bin/llm-mcp.js', 'serve'])
  t.equal(code, 1)
  t.equal(stdout, '')
  t.match(stderr.trim(), /^llm-mcp needs Node 22\.19 or newer, and this is [\d.]+\. "npm ci"[^\n]*$/)
})

t.test('an old Node hands over to the packaged one', needsOldNode, async t => {
  const copy = await copyProject(t)
  t.match(await copy.run(oldNode as string, ['bin/llm-mcp.js', '--version']), { code: 0, stdout: '2026.11.1\n', stderr: '' })
  const refused = await copy.run(oldNode as string, ['bin/llm-mcp.js', 'config', 'check'], { PORT: 'x' })
  t.match(refused, { code: 1, stderr: /^PORT must be an integer[^\n]*\n$/ }, 'the exit code and the one line come through')
})

t.test('before npm ci it says so', async t => {
  const copy = await copyProject(t, { installed: false })
  const { code, stderr } = await copy.run(process.execPath, ['bin/llm-mcp.js', 'serve'])
  t.equal(code, 1)
  t.match(stderr.trim(), /^[^\n]*npm ci[^\n]*$/, 'one line')
})

function upstreamEnv(origin: string): Record<string, string> {
  return { OPENAI_API_KEY: 'sk-upstream-openai-000000000000', OPENAI_UPSTREAM_URL: `${origin}/v1` }
}

/** The machine's own Node, when it cannot run this. */
function findOldNode(): string | null {
  const path = '/usr/bin/node'
  if (!existsSync(path)) return null
  const [major = 0, minor = 0] = execFileSync(path, ['-p', 'process.versions.node'], { encoding: 'utf8' }).split('.').map(Number)
  return major < 22 || (major === 22 && minor < 19) ? path : null
}

async function listening(): Promise<{ server: Server; port: number }> {
  const server = createServer()
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  return { server, port: (server.address() as { port: number }).port }
}
