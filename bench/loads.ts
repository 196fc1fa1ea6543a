// Large and odd loads: what they cost in memory, and whether anybody else has to wait for them. `npm run bench:loads`, on Linux. Writes "Large and
// odd loads" of bench/results.md.
//
// Each load on a gateway of its own, as `npm start` starts it, with a provider and sixteen machines. Memory is the gateway's own
// resident memory, the most of it while the load stands, less what it was before. A block is the longest time that the gateway's loop did nothing
// else, as its own metrics tell it. Clients are plain sockets.

import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { residentMb, startPart } from './speed/processes.ts'
import { chatOf } from './speed/requests.ts'
import { type Gateway, machineAddresses, startGateway, startMock } from './speed/targets.ts'
import { publish, type Row, timesOf } from './support/figures.ts'

// Descriptors: two for each stream, and those of everything else.
const descriptors = Number(/Max open files\s+\d+\s+(\d+)/.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1] ?? 0)
const idleStreams = Math.min(10_000, Math.floor((descriptors - 1_000) / 2))
const stalledReaders = 1_000
const places = 16
const rows: Row[] = []

function row(name: string, value: number, bound: number | null, unit: string): void {
  const isMet = bound === null || value <= bound
  rows.push({ name, figure: `${value.toFixed(1)} ${unit}`, bound: bound === null ? null : `≤ ${bound} ${unit}`, isMet })
}

/** The whole request as it goes over the wire. */
function requestOf(gateway: Gateway, body: object, headers: Readonly<Record<string, string>> = {}): Buffer {
  const bytes = Buffer.from(JSON.stringify(body))
  const lines = {
    host: `127.0.0.1:${gateway.port}`,
    ...gateway.headers,
    'content-type': 'application/json',
    'content-length': bytes.length,
    ...headers
  }
  const head = Object.entries(lines).map(([name, value]) => `${name}: ${value}\r\n`)
  return Buffer.concat([Buffer.from(`POST /v1/chat/completions HTTP/1.1\r\n${head.join('')}\r\n`), bytes])
}

const saying = (content: string, more: object = {}): object => ({ model: 'gpt-4o-mini', messages: [{ role: 'user', content }], ...more })

async function connected(gateway: Gateway): Promise<Socket> {
  const socket = connect({ port: gateway.port, host: '127.0.0.1', noDelay: true })
  socket.on('error', () => {})
  await once(socket, 'connect')
  return socket
}

/** Status of one answer, read to its end. */
async function statusOf(gateway: Gateway, bytes: Buffer): Promise<number> {
  const socket = await connected(gateway)
  socket.write(bytes)
  let text = ''
  for await (const part of socket.setEncoding('latin1')) {
    text += part
    const head = text.indexOf('\r\n\r\n')
    const length = Number(/\r\ncontent-length: *(\d+)/i.exec(text.slice(0, head))?.[1] ?? Number.NaN)
    if (head > 0 && text.length >= head + 4 + length) break
  }
  socket.destroy()
  return Number(text.slice(9, 12))
}

/** The longest block since this was asked last, ms. */
async function longestBlockMs({ url, headers }: Gateway): Promise<number> {
  const text = await (await fetch(`${url}/metrics`, { headers })).text()
  return Number(/^nodejs_eventloop_lag_max_seconds (\S+)$/m.exec(text)?.[1]) * 1_000
}

interface Borne<T> {
  readonly result: T
  readonly moreMb: number
  readonly blockMs: number
}

/** What the gateway bears while this is done. */
async function bearing<T>(gateway: Gateway, work: () => Promise<T>): Promise<Borne<T>> {
  const pid = gateway.pids[0] as number
  await delay(1_000)
  await longestBlockMs(gateway)
  const before = residentMb(pid)
  let most = before
  const watch = setInterval(() => {
    most = Math.max(most, residentMb(pid))
  }, 50)
  const result = await work()
  clearInterval(watch)
  return { result, moreMb: Math.max(most, residentMb(pid)) - before, blockMs: await longestBlockMs(gateway) }
}

function bear(name: string, { moreMb, blockMs }: Borne<unknown>): void {
  row(`${name}: memory over what it was`, moreMb, 150, 'MB')
  row(`${name}: longest block`, blockMs, 10, 'ms')
}

async function listed({ url, headers }: Gateway, ...models: readonly string[]): Promise<void> {
  for (let waits = 0; waits < 200; waits++) {
    const text = await (await fetch(`${url}/v1/models`, { headers })).text()
    if (models.every(model => text.includes(model))) return
    await delay(100)
  }
  throw new Error('The gateway does not know the models of the provider.')
}

/** Before anything is measured: code that has run for the first time is compiled. */
async function warm(gateway: Gateway): Promise<void> {
  const { request } = chatOf(gateway, { size: '1 KB' })
  for (let round = 0; round < 40; round++)
    await Promise.all(Array.from({ length: 25 }, () => statusOf(gateway, Buffer.from(request, 'latin1'))))
}

async function large(gateway: Gateway): Promise<void> {
  const text = 'What a long prompt says, again and again. '
  const bodies = [
    saying(text.repeat(25_000)),
    {
      model: 'gpt-4o-mini',
      messages: Array.from({ length: 9_000 }, (_, at) => ({ role: at % 2 === 0 ? 'user' : 'assistant', content: text.repeat(2) }))
    },
    saying('x', {
      tools: Array.from({ length: 2_000 }, (_, at) => ({ type: 'function', function: { name: `f${at}`, description: text.repeat(10) } }))
    })
  ].map(body => requestOf(gateway, body))
  const one = async (bytes: Buffer): Promise<void> => {
    const status = await statusOf(gateway, bytes)
    if (status !== 200) throw new Error(`a body of 1 MB was answered ${status}`)
  }
  // Twenty of each, one after another, and four at a time.
  const alone = await bearing(gateway, async () => {
    for (let count = 0; count < 20; count++) for (const bytes of bodies) await one(bytes)
  })
  bear('60 bodies of 1 MB, one after another', alone)
  const together = await bearing(gateway, async () => {
    for (let count = 0; count < 5; count++) for (const bytes of bodies) await Promise.all([one(bytes), one(bytes), one(bytes), one(bytes)])
  })
  bear('60 bodies of 1 MB, four at a time', together)
}

async function stalled(gateway: Gateway): Promise<void> {
  const bytes = requestOf(gateway, saying('[[flood 16]]', { stream: true }))
  const sockets: Socket[] = []
  const borne = await bearing(gateway, async () => {
    for (let count = 0; count < stalledReaders; count++) {
      const socket = await connected(gateway)
      sockets.push(socket)
      socket.write(bytes)
      await once(socket, 'readable')
    }
    await delay(5_000)
  })
  bear(`${stalledReaders} readers of 16 MB that stand still`, borne)
  for (const socket of sockets) socket.destroy()
  await delay(2_000)
}

async function left(gateway: Gateway, bill: () => Promise<{ readonly begun: number; readonly finished: number }>): Promise<void> {
  const before = await bill()
  const bytes = requestOf(gateway, saying('[[after 1500]]'))
  await Promise.all(
    Array.from({ length: 200 }, async () => {
      const socket = await connected(gateway)
      socket.write(bytes)
      await delay(300)
      socket.destroy()
    })
  )
  await delay(3_000)
  const after = await bill()
  row(
    `200 clients that left: paid answers finished for them (${after.begun - before.begun} begun)`,
    after.finished - before.finished,
    0,
    ''
  )
}

async function idle(gateway: Gateway): Promise<void> {
  const { request } = chatOf(gateway, { size: '1 KB', stream: { tokens: 2, everyMs: 3_600_000 } })
  const bytes = Buffer.from(request, 'latin1')
  const sockets: Socket[] = []
  const borne = await bearing(gateway, async () => {
    while (sockets.length < idleStreams) {
      await Promise.all(
        Array.from({ length: Math.min(50, idleStreams - sockets.length) }, async () => {
          const socket = await connected(gateway)
          sockets.push(socket)
          socket.write(bytes)
          await once(socket, 'data')
        })
      )
    }
    await delay(3_000)
  })
  bear(`${idleStreams} idle streams`, borne)
  row(`${idleStreams} idle streams: each`, (borne.moreMb * 1_024) / idleStreams, null, 'KB')
  const times: number[] = []
  for (let count = 0; count < 100; count++) {
    const beganAt = performance.now()
    await statusOf(gateway, Buffer.from(chatOf(gateway, { size: '1 KB' }).request, 'latin1'))
    times.push(performance.now() - beganAt)
  }
  row('a request beside them, on a connection of its own: p50', timesOf(times).p50, null, 'ms')
  for (const socket of sockets) socket.destroy()
  await delay(3_000)
}

async function overload(gateway: Gateway): Promise<void> {
  // Answers of four seconds (loads/provider.ts).
  const answerS = 4
  const capacity = (machineAddresses.length * places) / answerS
  const seconds = 24
  const deadlineMs = 8_000
  const bytes = requestOf(
    gateway,
    { model: 'llama3.2:1b', messages: [{ role: 'user', content: 'hi' }] },
    { 'x-llm-mcp-deadline-ms': String(deadlineMs) }
  )
  const good: number[] = []
  const statuses = new Map<number, number>()
  const borne = await bearing(gateway, async () => {
    const beganAt = performance.now()
    const asked: Promise<void>[] = []
    for (let sent = 0; sent < 2 * capacity * seconds; ) {
      const owed = Math.floor(((performance.now() - beganAt) / 1_000) * 2 * capacity) - sent
      for (let count = 0; count < owed; count++, sent++) {
        const askedAt = performance.now()
        asked.push(
          statusOf(gateway, bytes)
            .catch(() => 0)
            .then(status => {
              statuses.set(status, (statuses.get(status) ?? 0) + 1)
              if (status === 200 && performance.now() - askedAt <= deadlineMs) good.push((performance.now() - beganAt) / 1_000)
            })
        )
      }
      await delay(10)
    }
    await Promise.all(asked)
  })
  // Once the places are all taken, until no more come.
  const fromS = 2 * answerS
  const share = good.filter(at => at >= fromS && at < seconds).length / (capacity * (seconds - fromS))
  const told = [...statuses].map(([status, count]) => `${count} x ${status}`).join(', ')
  rows.push({
    name: `twice what sixteen machines can do, deadline ${deadlineMs / 1_000} s: answered in time, of what they can do (${told})`,
    figure: `${(share * 100).toFixed(1)} %`,
    bound: '≥ 95 %',
    isMet: share >= 0.95
  })
  bear('the same', borne)
}

/** Each on a gateway of its own: what one has made of the heap would be the next one's gain. */
async function alone(upstream: number, measure: (gateway: Gateway) => Promise<void>): Promise<void> {
  const gateway = await startGateway(upstream, {}, places)
  try {
    await listed(gateway, 'gpt-4o-mini', 'llama3.2:1b')
    await warm(gateway)
    await measure(gateway)
  } finally {
    await gateway.stop()
  }
}

const child = startPart(new URL('loads/provider.ts', import.meta.url).pathname, machineAddresses, 'load')
const [{ port }] = (await once(child, 'message')) as [{ port: number }]
const mock = await startMock()
try {
  await alone(port, overload)
  await alone(port, large)
  await alone(port, gateway =>
    left(gateway, async () => {
      child.send('bill')
      const [{ bill }] = (await once(child, 'message')) as [{ bill: { begun: number; finished: number } }]
      return bill
    })
  )
  await alone(port, stalled)
  await alone(mock.port, idle)
} finally {
  await mock.stop()
  child.disconnect()
}
publish(new URL('results.md', import.meta.url), 'Large and odd loads', 'one run', rows)
if (rows.some(({ isMet }) => !isMet)) process.exitCode = 1
