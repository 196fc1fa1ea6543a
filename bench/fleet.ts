// How soon the work of a machine that goes away runs elsewhere, and what it costs to look for machines and after them.
// `npm run bench:fleet [-- --quick]`.

import { createServer, type Server } from 'node:http'
import { createServer as createTcpServer } from 'node:net'
import { createAdapter } from '../adapters/openrouter.ts'
import { createOutbound } from '../outbound/client.ts'
import { createAddressGuard, defaultRanges } from '../planner/discovery/guard.ts'
import { look } from '../planner/discovery/look.ts'
import { createProbe } from '../planner/discovery/probe.ts'
import { syncModels } from '../planner/model-sync.ts'
import { type Machine, startMachine } from '../test/fleet/fleet.ts'
import { openBenchDatabase } from './support/database.ts'
import { publish, type Row, timesOf, timesRow } from './support/figures.ts'
import { type BenchGateway, startBenchGateway } from './support/gateway.ts'

const isQuick = process.argv.includes('--quick')
const rows: Row[] = []
const add = (row: Row): void => {
  rows.push(row)
  process.stderr.write(`${row.name}: ${row.figure}\n`)
}
const endings: (() => unknown)[] = []
const t = { teardown: (end: () => unknown) => void endings.push(end) }
const model = 'llama3.2:3b'

// 1. machines that go away
const killed = await goings(isQuick ? 6 : 60, { go: machine => machine.kill(), back: machine => machine.restart() })
add({ ...timesRow('a machine is killed (SIGKILL): its job runs elsewhere', timesOf(killed), { p99: 2_000 }) })
const frozen = await goings(isQuick ? 3 : 40, {
  go: async machine => machine.freeze(),
  async back(machine) {
    machine.thaw()
    return machine
  }
})
add({ ...timesRow('a machine is frozen (SIGSTOP): its job runs elsewhere', timesOf(frozen), { p99: 5_000 }) })

// 2. what watching them costs
const idle = await cpuWith(0)
const watching = await cpuWith(100)
add({
  name: '100 idle machines: the gateway, above what it takes without any',
  figure: `${(watching - idle).toFixed(1)} % of a core (${watching.toFixed(1)} with, ${idle.toFixed(1)} without)`,
  bound: '≤ 2 %',
  isMet: watching - idle <= 2
})

// 3. looking for them
const discovered = await discovery()
add({
  name: 'discovery of 50 machines, half of them silent',
  figure: `${(discovered / 1_000).toFixed(2)} s`,
  bound: '≤ 5 s',
  isMet: discovered <= 5_000
})

// 4. rented models
const synced = await sync()
add({ name: 'a sync of 356 rented models', figure: `${synced.toFixed(0)} ms`, bound: '≤ 1 s', isMet: synced <= 1_000 })

for (const end of endings) await end()
publish(new URL('results-fleet.md', import.meta.url), `Fleet${isQuick ? ' (quick)' : ''}`, 'PostgreSQL embedded', rows)
process.exit(rows.every(({ isMet }) => isMet) ? 0 : 1)

/** From the moment a machine goes to the moment that another hears of the job that ran there, ms. */
async function goings(
  count: number,
  { go, back }: { readonly go: (machine: Machine) => Promise<void>; readonly back: (machine: Machine) => Promise<Machine> }
): Promise<number[]> {
  const spec = {
    models: [{ name: model, loadMs: 0, promptTokensPerS: 1e6, tokensPerS: 20, slowdown: 0 }],
    slots: 4,
    answerTokens: 2_000,
    isWarm: true
  }
  const machines = { first: await startMachine(t, spec), second: await startMachine(t, spec) }
  const gateway = await startBenchGateway({
    machines: Object.fromEntries(Object.entries(machines).map(([id, { url }]) => [id, { url, max_concurrency: 2 }]))
  })
  const times: number[] = []
  for (let turn = 0; turn < count; turn++) {
    await until(async () => {
      const { data } = (await (await gateway.fetch('/v1/devices')).json()) as { data: { id: string; health: string }[] }
      return Object.keys(machines).every(id => data.find(device => device.id === id)?.health === 'up')
    })
    const id = await submit(gateway, `turn ${turn}`)
    const where = (await until(async () => {
      const job = (await (await gateway.fetch(`/v1/jobs/${id}`)).json()) as { status: string; device: keyof typeof machines }
      return job.status === 'running' ? job.device : null
    })) as keyof typeof machines
    const other = where === 'first' ? machines.second : machines.first
    await until(async () => prompts(await machines[where].bill()) > 0)
    const before = prompts(await other.bill())
    const began = performance.now()
    await go(machines[where])
    await until(async () => prompts(await other.bill()) > before)
    times.push(performance.now() - began)
    await gateway.fetch(`/v1/jobs/${id}/cancel`, { method: 'POST' })
    machines[where] = await back(machines[where])
  }
  await gateway.stop()
  for (const machine of Object.values(machines)) await machine.kill()
  return times
}

function prompts(bill: { readonly prompts: Readonly<Record<string, number>> }): number {
  return bill.prompts[model] ?? 0
}

async function submit(gateway: BenchGateway, content: string): Promise<string> {
  const payload = { model, messages: [{ role: 'user', content }] }
  const answer = await gateway.fetch('/v1/jobs', { json: { kind: 'chat', payload } })
  return ((await answer.json()) as { id: string }).id
}

/** Percent of a core that a gateway takes which has nothing to do but to look after so many machines. */
async function cpuWith(count: number): Promise<number> {
  const servers = Array.from({ length: count }, answering)
  // As Ollama, which closes no connection by itself.
  for (const server of servers) server.keepAliveTimeout = 0
  await Promise.all(servers.map((server, number) => listening(server, `127.0.2.${number + 1}`, 21_500)))
  const machines = Object.fromEntries(
    Array.from({ length: count }, (_, number) => [`box${number}`, { url: `http://127.0.2.${number + 1}:21500` }])
  )
  const gateway = await startBenchGateway({ machines })
  await new Promise(resolve => setTimeout(resolve, 5_000))
  const before = gateway.cpuMs()
  const seconds = isQuick ? 10 : 30
  await new Promise(resolve => setTimeout(resolve, seconds * 1_000))
  const percent = (gateway.cpuMs() - before) / (seconds * 10)
  await gateway.stop()
  for (const server of servers) server.close()
  return percent
}

/** Milliseconds for a look at 50 machines of which 25 accept a connection and say nothing. */
async function discovery(): Promise<number> {
  const port = 21_501
  const servers = Array.from({ length: 25 }, answering)
  await Promise.all(servers.map((server, number) => listening(server, `127.0.3.${number + 1}`, port)))
  const mute = Array.from({ length: 25 }, () => createTcpServer(() => {}))
  await Promise.all(mute.map((server, number) => new Promise<void>(resolve => server.listen(port, `127.0.4.${number + 1}`, resolve))))
  const peers = [...servers.map((_, number) => `127.0.3.${number + 1}`), ...mute.map((_, number) => `127.0.4.${number + 1}`)]
  const result = await look({
    tailscale: {
      state: 'running',
      message: '',
      userspace: false,
      peers: peers.map((address, number) => ({
        nodeId: `n${number}`,
        name: `box${number}`,
        dnsName: '',
        address,
        addresses: [address],
        os: 'linux',
        tags: [],
        online: true,
        isSelf: false,
        route: 'direct' as const
      }))
    },
    ports: [port],
    known: [],
    probe: createProbe(createAddressGuard(defaultRanges)),
    now: () => performance.now()
  })
  if (result.found.length !== 25) throw new Error(`${result.found.length} machines were found`)
  for (const server of [...servers, ...mute]) server.close()
  return result.tookMs
}

/** Milliseconds for reading, choosing and writing down a list. */
async function sync(): Promise<number> {
  const data = Array.from({ length: 356 }, (_, number) => ({
    id: `vendor${number % 40}/model-${number}`,
    created: 1_700_000_000 + number,
    description: 'x'.repeat(400),
    context_length: 8_192 * (1 + (number % 16)),
    architecture: { input_modalities: ['text'], output_modalities: ['text'] },
    pricing: { prompt: String((1 + number) * 1e-8), completion: String((1 + number) * 3e-8) },
    top_provider: { context_length: 8_192 * (1 + (number % 16)), max_completion_tokens: 4_096 },
    supported_parameters: ['tools', 'tool_choice', 'response_format']
  }))
  const server = createServer((request, response) => {
    if (request.url?.includes('embeddings')) return void response.writeHead(404).end('{}')
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ data }))
  })
  await listening(server, '127.0.0.1', 21_502)
  const database = await openBenchDatabase(undefined)
  const outbound = createOutbound()
  const upstream = {
    id: 'openrouter',
    adapter: 'openrouter',
    own: false,
    baseUrl: 'http://127.0.0.1:21502/api/v1',
    apiKey: 'k',
    headers: {},
    device: null,
    timeouts: { connectMs: 1_000, firstTokenMs: 1_000, idleMs: 1_000, totalMs: 1_000 },
    models: null,
    auto: [],
    streamUsage: true,
    registryId: null
  }
  const began = performance.now()
  const [result] = await syncModels(
    {
      pool: database.pool,
      upstreams: [upstream],
      adapters: new Map([['openrouter', createAdapter({ outbound })]]),
      aliases: new Map(),
      prices: { configured: new Map(), registered: () => null },
      policy: { top: 100, maxUsdPer1m: 10 },
      onSynced: async () => {}
    },
    new AbortController().signal
  )
  const took = performance.now() - began
  if (result?.listed !== 356) throw new Error(JSON.stringify(result))
  await outbound.close()
  server.close()
  await database.close()
  return took
}

/** An Ollama with one model, as far as looking after it goes. */
function answering(): Server {
  return createServer((request, response) => {
    response.setHeader('content-type', 'application/json')
    if (request.url === '/api/version') return void response.end('{"version":"0.32.7"}')
    if (request.url === '/api/ps') return void response.end('{"models":[]}')
    if (request.url === '/api/show') return void response.end(JSON.stringify({ capabilities: ['completion'], model_info: {}, details: {} }))
    response.end(JSON.stringify({ models: [{ name: 'm:latest', model: 'm:latest', size: 1e9, digest: 'd', details: {} }] }))
  })
}

function listening(server: Server, host: string, port: number): Promise<void> {
  return new Promise(resolve => server.listen(port, host, resolve))
}

async function until<T>(probe: () => Promise<T>): Promise<NonNullable<T>> {
  for (const end = performance.now() + 30_000; performance.now() < end; ) {
    const value = await probe()
    if (value) return value as NonNullable<T>
    await new Promise(resolve => setTimeout(resolve, 5))
  }
  throw new Error('waited 30 s in vain')
}
