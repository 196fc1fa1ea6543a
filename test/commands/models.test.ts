// llm-mcp models list: what the configuration reaches, asked directly, and said as GET /v1/models says it.

import { createServer } from 'node:net'
import t from 'tap'
import type { ModelObject } from '../../gateway/model-list.ts'
import { createDatabase } from '../support/cluster.ts'
import { newFolder, startGateway } from '../support/gateway.ts'
import { startCompatible, startOllama } from '../support/upstream.ts'
import { until } from '../support/wait.ts'
import { runCommand } from './run.ts'

const ollama = await startOllama(t, { models: ['llama3.2:3b'] })
const rented = await startCompatible(t, { models: [{ id: 'gpt-4o-mini', object: 'model', created: 7, context_window: 128_000 }] })
const config = {
  machines: { rtx: { url: ollama.origin, vram_gb: 24 } },
  providers: { cheap: { base_url: `${rented.origin}/v1`, api_key: 'canary-key-of-cheap' } },
  aliases: { smart: ['llama3.2:3b', 'gpt-4o-mini'] },
  prices: { 'gpt-4o-mini': { input_usd_per_1m: 0.15, output_usd_per_1m: 0.6 } }
}

t.test('the table: own first, with place, context and price', async t => {
  const folder = await newFolder(t)
  const ran = await runCommand(t, { folder, config, args: ['models', 'list'] })
  t.same([ran.code, ran.stderr], [0, 'ollama could not be asked: Ollama (ollama), asked for /api/tags, gave no answer (ECONNREFUSED).\n'])
  t.same(ran.stdout.trimEnd().split('\n'), [
    'model        where       context  price per 1M tokens',
    'llama3.2:3b  rtx         131k     electricity',
    'auto         rtx, cheap  131k     electricity',
    'smart        rtx, cheap  131k     electricity',
    'gpt-4o-mini  cheap       128k     $0.15 in, $0.6 out'
  ])
})

t.test('--json prints what GET /v1/models answers', async t => {
  const folder = await newFolder(t)
  const env = { OLLAMA_HOST: '' }
  const ran = await runCommand(t, { folder, config, env, args: ['models', 'list', '--json'] })
  t.same([ran.code, ran.stderr], [0, ''])
  t.notMatch(ran.stdout, /canary/)
  const database = await createDatabase(t)
  const gateway = await startGateway(t, { databaseUrl: database.url, config, env })
  const list = async (): Promise<ModelObject[]> => ((await (await gateway.fetch('/v1/models')).json()) as { data: ModelObject[] }).data
  await until('the rented model', async () => (await list()).some(({ id }) => id === 'gpt-4o-mini'))
  t.strictSame(JSON.parse(ran.stdout).data, await list())
})

t.test('whoever is silent is named after three seconds, and the others are listed', async t => {
  const silent = createServer(socket => socket.on('error', () => {}))
  await new Promise<void>(resolve => silent.listen(0, '127.0.0.1', resolve))
  t.teardown(() => silent.close())
  const { port } = silent.address() as { port: number }
  const folder = await newFolder(t)
  const providers = { ...config.providers, mute: { base_url: `http://127.0.0.1:${port}/v1`, api_key: 'canary-key-of-mute' } }
  const startedAt = performance.now()
  const ran = await runCommand(t, { folder, config: { ...config, providers }, env: { OLLAMA_HOST: '' }, args: ['models', 'list'] })
  t.ok(performance.now() - startedAt < 8_000)
  t.same([ran.code, ran.stderr], [0, 'mute could not be asked: no answer within 3 s\n'])
  t.match(ran.stdout, /llama3\.2:3b/)
})

t.test('a refused key is said, and never shown', async t => {
  const folder = await newFolder(t)
  const strict = await startCompatible(t)
  strict.server.removeAllListeners('request')
  strict.server.on('request', (request, response) => {
    response.writeHead(401, { 'content-type': 'application/json' })
    response.end(JSON.stringify({ error: { message: `bad key \u001b[31m${request.headers.authorization}` } }))
  })
  const providers = { strict: { base_url: `${strict.origin}/v1`, api_key: 'sk-canary-0123456789' } }
  const ran = await runCommand(t, { folder, config: { providers }, env: { OLLAMA_HOST: '' }, args: ['models', 'list', '--json'] })
  t.match(ran.stderr, /^strict could not be asked: strict answered 401: bad key/)
  t.notMatch(ran.stderr, /canary|\u001b/)
  t.match(JSON.parse(ran.stdout), { object: 'list', data: [{ id: 'auto', targets: [] }] })
})

t.test('with nothing connected there is the demo', async t => {
  const folder = await newFolder(t)
  const { stdout } = await runCommand(t, { folder, env: { OLLAMA_HOST: '' }, args: ['models', 'list'] })
  t.match(stdout, /^echo +echo +free$/m)
})
