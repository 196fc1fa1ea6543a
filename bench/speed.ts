// How much the gateway costs, beside what cannot be cheaper and what others build: `npm run bench`, on Linux. Writes "Speed" of bench/results.md.
//
// One process of clients and the provider on one processor, the target on the other. Targets in turn, in another order each round; a
// processor's time is read from /proc, of all threads, from before the load until shortly after, so that what is done later counts too.
// The lowest of a target's rounds counts for processor time (what disturbs only adds), the median of rounds for latency, which is
// measured on one request at a time, each target in turn.

import { setTimeout as delay } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import type { Clients } from './speed/clients.ts'
import { startClients } from './speed/clients.ts'
import { evidenceOf } from './speed/evidence.ts'
import { cpuNs, isPinned, residentMb } from './speed/processes.ts'
import { chatOf, type Size } from './speed/requests.ts'
import { type Gateway, startGateway, startMock, startNginx, startPortkey, startRelay, type Target } from './speed/targets.ts'
import { publish, type Row } from './support/figures.ts'

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    rounds: { type: 'string' },
    only: { type: 'string', default: '' },
    'no-streams': { type: 'boolean', default: false }
  }
})
const rounds = Number(options.rounds ?? (options.quick ? 2 : 5))
const seconds = options.quick ? 1 : 1.5
const connections = 64
const pairedRounds = options.quick ? 40 : 60
const streaming = options.quick ? { streams: 400, tokens: 100, everyMs: 20 } : { streams: 1_000, tokens: 150, everyMs: 20 }
const sizes: readonly Size[] = ['1 KB', '64 KB']

// Whatever was started is stopped, also when something after it does not start.
const started: { stop(): unknown }[] = []
async function start<Part extends { stop(): unknown } | null>(part: Promise<Part>): Promise<Part> {
  const begun = await part.catch(stopAll)
  if (begun !== null) started.push(begun)
  return begun
}
async function stopAll(error: unknown): Promise<never> {
  for (const part of started.splice(0).reverse()) await part.stop()
  throw error
}

const mock = await start(startMock())
const relay = await start(startRelay('tcp relay', 'tcp-relay.ts', mock.port))
const undici = await start(startRelay('undici relay', 'undici-relay.ts', mock.port))
const proxy = await start(startRelay('@fastify/http-proxy', 'http-proxy.ts', mock.port))
const portkey = await start(startPortkey(mock.port))
const nginx = await start(startNginx(mock.port))
const gateway = await start(startGateway(mock.port))
const clients = await start(startClients())
const targets = [relay, undici, proxy, gateway, portkey, ...(nginx === null ? [] : [nginx])].filter(
  ({ name }) => options.only === '' || options.only.split(',').includes(name)
)

let answered = 0
const voids: string[] = []
/** By what was measured, one figure a round. */
const figures = new Map<string, number[]>()
const note = (name: string, value: number): void => void figures.set(name, [...(figures.get(name) ?? []), value])

try {
  await listed(gateway)
  const idleMb = residentMb(gateway.pids[0] as number)
  const databaseBefore = cpuNs(gateway.databasePids())
  for (const target of targets) await load(clients, target, '1 KB', 2, null)
  for (let round = 1; round <= rounds; round++) {
    process.stderr.write(`round ${round} of ${rounds}\n`)
    const cells = targets.flatMap(target => sizes.map(size => ({ target, size })))
    for (const { target, size } of shuffled(cells)) await load(clients, target, size, seconds, `${target.name}, ${size}`)
    await latencies(clients)
    if (!options['no-streams']) await streams(clients)
  }
  const loadedMb = residentMb(gateway.pids[0] as number)
  const databaseMs = (cpuNs(gateway.databasePids()) - databaseBefore) / 1e6
  const evidence = await evidenceOf(gateway, answered)
  judge({ idleMb, loadedMb, databaseMs, evidence })
} catch (error) {
  await stopAll(error)
}
for (const part of started.reverse()) await part.stop()

/** `name` null: warming up. */
async function load(clients: Clients, target: Target, size: Size, seconds: number, name: string | null): Promise<void> {
  const before = cpuNs(target.pids)
  const { answers, failed, seconds: took } = await clients.closed({ target: chatOf(target, { size }), connections, seconds })
  await delay(250)
  const spent = cpuNs(target.pids) - before
  if (target === gateway) answered += answers
  if (failed > 0) voids.push(`${target.name}: ${failed} answers were none`)
  if (name === null) return
  note(`${name}: us`, spent / answers / 1e3)
  note(`${name}: per second`, answers / took)
}

async function latencies(clients: Clients): Promise<void> {
  const direct: Target = { ...mock, headers: {} }
  const of = [direct, ...targets]
  for (const size of sizes) {
    await pair(
      clients,
      `added at ${size}`,
      of.map(target => ({ target, request: chatOf(target, { size }) }))
    )
  }
  const stream = { tokens: 3, everyMs: 1 }
  await pair(
    clients,
    'added to the first token',
    of.map(target => ({ target, request: chatOf(target, { size: '1 KB', stream }) })),
    true
  )
  const machine = { size: '1 KB', model: 'llama3.2:1b' } as const
  await pair(clients, 'added by an own machine', [
    { target: direct, request: chatOf(direct, { ...machine, path: '/api/chat' }) },
    { target: gateway, request: chatOf(gateway, machine) }
  ])
}

async function pair(
  clients: Clients,
  name: string,
  of: readonly { readonly target: Target; readonly request: ReturnType<typeof chatOf> }[],
  untilToken = false
): Promise<void> {
  const { times, failed } = await clients.paired({ targets: of.map(({ request }) => request), rounds: pairedRounds, untilToken })
  if (failed > 0) voids.push(`${name}: ${failed} answers were none`)
  const medians = times.map(median)
  for (const [at, { target }] of of.entries()) {
    if (target.name === 'direct') note(`direct ${name}: ms`, medians[at] as number)
    else note(`${target.name}, ${name}: ms`, (medians[at] as number) - (medians[0] as number))
    if (target === gateway) answered += (times[at]?.length ?? 0) + 20
  }
}

async function streams(clients: Clients): Promise<void> {
  const kinds = [
    { name: 'tcp relay', target: relay, model: 'gpt-4o-mini' },
    { name: 'llm-mcp', target: gateway, model: 'gpt-4o-mini' },
    { name: 'llm-mcp (Ollama)', target: gateway, model: 'llama3.2:1b' }
  ]
  const { streams, tokens, everyMs } = streaming
  for (const { name, target, model } of shuffled(kinds)) {
    const before = cpuNs(target.pids)
    const request = chatOf(target, { size: '1 KB', model, stream: { tokens, everyMs } })
    const got = await clients.streamed({ target: request, streams, tokens, everyMs, graceMs: 3_000 })
    await delay(250)
    if (target === gateway) answered += got.ended
    note(`${name}, streams: us per token`, (cpuNs(target.pids) - before) / got.received / 1e3)
    note(`${name}, streams: received %`, (100 * got.received) / got.offered)
    note(`${name}, streams: out of order`, got.reordered)
    note(`${name}, streams: age p50 ms`, got.delays.p50)
    note(`${name}, streams: age p99 ms`, got.delays.p99)
  }
}

function judge({
  idleMb,
  loadedMb,
  databaseMs,
  evidence
}: {
  readonly idleMb: number
  readonly loadedMb: number
  readonly databaseMs: number
  readonly evidence: Awaited<ReturnType<typeof evidenceOf>>
}): void {
  const rows: Row[] = []
  const row = (name: string, figure: string, bound: string | null, isMet = true): void => void rows.push({ name, figure, bound, isMet })
  const best = (name: string): number => Math.min(...(figures.get(name) ?? [Number.NaN]))
  const middle = (name: string): number => median(figures.get(name) ?? [])
  const atMost = (name: string, value: number, limit: number, how = ''): void =>
    row(name, `${value.toFixed(2)}${how}`, `≤ ${limit}`, value <= limit)
  const atLeast = (name: string, value: number, limit: number, how = ''): void =>
    row(name, `${value.toFixed(2)}${how}`, `≥ ${limit}`, value >= limit)

  const us = (target: string, size: Size): number => best(`${target}, ${size}: us`)
  for (const [size, floor, peer] of [
    ['1 KB', 3, 9],
    ['64 KB', 4.5, 10]
  ] as const) {
    atMost(`processor time a request of ${size}, of the TCP relay's`, us('llm-mcp', size) / us('tcp relay', size), floor, ' x')
    atLeast(`Portkey's at ${size}, of ours`, us('portkey', size) / us('llm-mcp', size), peer, ' x')
  }
  atMost('duties over a bare undici relay, 1 KB', us('llm-mcp', '1 KB') - us('undici relay', '1 KB'), 15, ' us')
  atMost('@fastify/http-proxy without duties, 1 KB: ours of its', us('llm-mcp', '1 KB') / us('@fastify/http-proxy', '1 KB'), 1, ' x')
  const added = (target: string, what: string): number => middle(`${target}, ${what}: ms`)
  atMost('added p50 at 1 KB, of the relay’s', added('llm-mcp', 'added at 1 KB') / added('tcp relay', 'added at 1 KB'), 3.5, ' x')
  atMost('the same, of Portkey’s', added('llm-mcp', 'added at 1 KB') / added('portkey', 'added at 1 KB'), 1 / 3, ' x')
  atMost(
    'added to the first token, p50, of the relay’s',
    added('llm-mcp', 'added to the first token') / added('tcp relay', 'added to the first token'),
    4,
    ' x'
  )
  atMost(
    'the same, of Portkey’s',
    added('llm-mcp', 'added to the first token') / added('portkey', 'added to the first token'),
    1 / 40,
    ' x'
  )
  atMost('own machine, its place claimed: added p50', added('llm-mcp', 'added by an own machine'), 2, ' ms')
  if (!options['no-streams']) {
    const token = (target: string): number => best(`${target}, streams: us per token`)
    atMost('processor time a token, compatible stream, of the relay’s', token('llm-mcp') / token('tcp relay'), 1.3, ' x')
    atMost('processor time a token, Ollama’s lines, of the relay’s', token('llm-mcp (Ollama)') / token('tcp relay'), 1.6, ' x')
    for (const kind of ['llm-mcp', 'llm-mcp (Ollama)']) {
      atLeast(`${kind}: tokens received`, middle(`${kind}, streams: received %`), 99, ' %')
      atMost(`${kind}: tokens out of order`, Math.max(...(figures.get(`${kind}, streams: out of order`) ?? [0])), 0)
    }
  }
  atMost('memory, idle', idleMb, 150, ' MB')
  atMost('memory, after all of this', loadedMb, 250, ' MB')

  for (const { name } of targets) {
    for (const size of sizes) {
      const key = `${name}, ${size}`
      row(
        key,
        `${best(`${key}: us`).toFixed(1)} us (median ${middle(`${key}: us`).toFixed(1)}), ${Math.round(Math.max(...(figures.get(`${key}: per second`) ?? [0])))}/s; added p50 ${added(name, `added at ${size}`).toFixed(3)} ms`,
        null
      )
    }
    row(`${name}, first token`, `added p50 ${added(name, 'added to the first token').toFixed(3)} ms`, null)
  }
  for (const kind of options['no-streams'] ? [] : ['tcp relay', 'llm-mcp', 'llm-mcp (Ollama)']) {
    const of = (what: string): string => middle(`${kind}, streams: ${what}`).toFixed(2)
    row(
      `${kind}, ${streaming.streams} streams of ${1_000 / streaming.everyMs} tokens/s`,
      `${best(`${kind}, streams: us per token`).toFixed(2)} us a token (median ${of('us per token')}), age p50 ${of('age p50 ms')} ms, p99 ${of('age p99 ms')} ms`,
      null
    )
  }
  row('direct, p50', `${middle('direct added at 1 KB: ms').toFixed(3)} ms`, null)
  row('the embedded database, a request', `${((databaseMs * 1e3) / answered).toFixed(1)} us`, null)
  const { rows: costRows, lines, counted, refused } = evidence
  const isWhole = costRows >= answered && lines >= answered && counted >= answered
  row(
    'requests answered; rows of cost, lines of the log, counted by metrics',
    `${answered}; ${costRows}, ${lines}, ${counted}`,
    'all of them',
    isWhole
  )
  row('refused of a key that has five a minute, asked eight times', `${refused}`, '= 3', refused === 3)
  for (const text of new Set(voids)) row('void', text, 'nothing fails', false)
  const label = `${rounds} rounds${isPinned ? ', pinned' : ', not pinned'}`
  if (options.quick || options.only !== '')
    process.stdout.write(
      `${rows.map(({ name, figure, bound, isMet }) => `${isMet ? ' ' : '!'} ${name}: ${figure}${bound === null ? '' : ` (${bound})`}`).join('\n')}\n`
    )
  else publish(new URL('results.md', import.meta.url), 'Speed', label, rows)
  if (rows.some(({ isMet }) => !isMet)) process.exitCode = 1
}

/** Until it knows the models of both. */
async function listed({ url, adminKey }: Gateway): Promise<void> {
  for (let waits = 0; waits < 100; waits++) {
    const response = await fetch(`${url}/v1/models`, { headers: { authorization: `Bearer ${adminKey}` } })
    const text = await response.text()
    if (text.includes('gpt-4o-mini') && text.includes('llama3.2:1b')) return
    await delay(200)
  }
  throw new Error('The gateway does not know the models of the provider and the machine.')
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN
}

function shuffled<Item>(items: readonly Item[]): Item[] {
  return items
    .map(item => ({ item, at: Math.random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ item }) => item)
}
