// Clients that leave, stop reading, or come by the thousand: the upstream is stopped, and nothing is left behind.

import { connect, type Socket } from 'node:net'
import t from 'tap'
import { createDatabase } from '../support/cluster.ts'
import { adminKey, newFolder, startGateway } from '../support/gateway.ts'
import { heldBy, probeEnv } from '../support/held.ts'
import { type Behaviour, chunk, nativeLines, say, startCompatible, startOllama } from '../support/upstream.ts'
import { until } from '../support/wait.ts'

const database = await createDatabase(t)
const openai = await startCompatible(t)
const ollama = await startOllama(t)
const folder = await newFolder(t)
const gateway = await startGateway(t, {
  databaseUrl: database.url,
  folder,
  config: {
    machines: { box: { url: ollama.origin, max_concurrency: 64 } },
    providers: { openai: { base_url: `${openai.origin}/v1`, api_key: 'sk-openai-0000000000' } }
  },
  env: probeEnv(folder)
})
const { port } = new URL(gateway.url)

/** A stream asked for over a bare socket, so that the test decides when it reads and how it leaves. */
function open(model: string, stream = true): Socket {
  const body = JSON.stringify({ model, stream, messages: [{ role: 'user', content: 'hi' }] })
  const socket = connect(Number(port), '127.0.0.1')
  socket.on('error', () => {})
  socket.write(
    `POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer ${adminKey}\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`
  )
  return socket
}

const nothing: Behaviour = () => {}
const firstToken: Record<string, Behaviour> = {
  openai: (_call, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write(chunk({ role: 'assistant', content: 'x' }))
  },
  ollama: (call, response) => {
    response.writeHead(200, { 'content-type': 'application/x-ndjson' })
    response.write(nativeLines(String(call.body.model), 'x', 'y')[0])
  }
}

for (const [kind, model, fake] of [
  ['openai', 'openai/gpt-4o-mini', openai],
  ['ollama', 'llama3.2:3b', ollama]
] as const) {
  for (const [when, behaviour, stream] of [
    ['before the first token', nothing, true],
    ['in the middle', firstToken[kind] as Behaviour, true],
    ['while waiting for a whole answer', nothing, false]
  ] as const) {
    t.test(`${kind}: a client that leaves ${when} closes the upstream within 100 ms`, async t => {
      fake.behaviour = behaviour
      const times: number[] = []
      for (let round = 0; round < 9; round++) {
        const before = fake.aborted.count
        const socket = open(model, stream)
        await until('the call to run', () => fake.running.now === 1)
        if (behaviour !== nothing) await new Promise(resolve => socket.once('data', resolve))
        const leftAt = performance.now()
        socket.resetAndDestroy()
        await until('the upstream to be closed', () => fake.aborted.count === before + 1)
        times.push(performance.now() - leftAt)
        await until('the call to be over', () => fake.running.now === 0)
      }
      // Machines that run tests are busy; the figure is about the gateway, so the middle one counts.
      const median = times.sort((a, b) => a - b)[4] as number
      t.ok(median < 100, `${Math.round(median)} ms`)
    })
  }
}

t.test('what a client that left had begun is booked, at an estimate', async t => {
  const rows = await until('the rows', async () => {
    const { rows } = await database.pool.query(`select * from llm_costs where outcome = 'aborted'`)
    return rows.length === 54 ? rows : null
  })
  t.ok(rows.every(row => row.estimated === true))
  t.ok(rows.filter(row => row.provider === 'openai').every(row => Number(row.prompt_tokens) > 0 && Number(row.cost_nano_usd) > 0))
})

t.test('a reader that stops reading stops the upstream; when it reads on, it gets everything', async t => {
  const piece = chunk({ content: 'x'.repeat(64 * 1024) })
  const pieces = 2_400
  let sent = 0
  openai.behaviour = (_call, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    const more = (): void => {
      while (sent < pieces) {
        sent++
        if (!response.write(piece)) return
      }
      response.end(`${chunk({}, {}, 'stop')}data: [DONE]\n\n`)
    }
    response.on('drain', more)
    more()
  }
  const before = await heldBy(gateway)
  const socket = open('openai/gpt-4o-mini')
  await new Promise(resolve => socket.once('data', resolve))
  socket.pause()
  // Kernel buffers take some tens of megabytes; then nothing moves any more.
  let last = -1
  let still = 0
  await until('the upstream to stand still', () => {
    still = sent === last ? still + 1 : 0
    last = sent
    return still > 60
  })
  t.ok(sent < pieces, `${sent} of ${pieces} pieces were taken`)
  const during = await heldBy(gateway)
  t.ok(during.rss - before.rss < 48 * 1024 * 1024, `${Math.round((during.rss - before.rss) / 1e6)} MB more`)
  let bytes = 0
  let tail = ''
  socket.on('data', data => {
    bytes += data.length
    tail = (tail + data.toString('latin1')).slice(-64)
  })
  socket.resume()
  await until('the end', () => tail.includes('[DONE]'), 60_000)
  t.ok(bytes > (pieces - 2) * piece.length)
  socket.destroy()
})

t.test('1,000 streams opened and dropped at random leave nothing behind', async t => {
  const slow: Behaviour = (_call, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    let left = 20
    const timer = setInterval(() => {
      if (left-- > 0) response.write(chunk({ content: 'word ' }))
      else response.end(`${chunk({}, {}, 'stop')}data: [DONE]\n\n`)
    }, 4)
    response.on('close', () => clearInterval(timer))
  }
  const slowNative: Behaviour = (call, response) => {
    response.writeHead(200, { 'content-type': 'application/x-ndjson' })
    const [line, ...rest] = nativeLines(String(call.body.model), 'word ', 'end') as [string, string, string]
    let left = 20
    const timer = setInterval(() => (left-- > 0 ? response.write(line) : response.end(rest.join(''))), 4)
    response.on('close', () => clearInterval(timer))
  }

  async function drop(count: number): Promise<void> {
    let opened = 0
    await Promise.all(
      Array.from({ length: 40 }, async () => {
        while (opened < count) {
          const number = opened++
          const socket = open(number % 2 === 0 ? 'openai/gpt-4o-mini' : 'llama3.2:3b')
          const closed = new Promise(resolve => socket.once('close', resolve))
          socket.on('data', data => {
            if (data.toString('latin1').includes('[DONE]')) socket.destroy()
          })
          setTimeout(() => (number % 3 === 0 ? socket.resetAndDestroy() : socket.destroy()), Math.random() * 120)
          await closed
        }
      })
    )
    await until('every call to be over', () => openai.running.now === 0 && ollama.running.now === 0)
    await until('every slot to be free', async () => {
      const { rows } = await database.pool.query('select count(*)::int as taken from device_slots where attempt_id is not null')
      return rows[0].taken === 0
    })
  }

  openai.behaviour = slow
  ollama.behaviour = slowNative
  await drop(1_000)
  const warm = await heldBy(gateway)
  await drop(1_000)
  // Idle connections to upstreams stay for a while on purpose; everything else must be as before.
  const after = await until(
    'the sockets to be gone',
    async () => {
      const held = await heldBy(gateway)
      return (held.resources.TCPSocketWrap ?? 0) <= (warm.resources.TCPSocketWrap ?? 0) + 5 ? held : null
    },
    60_000
  )
  t.ok((after.resources.Timeout ?? 0) <= (warm.resources.Timeout ?? 0) + 5, JSON.stringify([warm.resources, after.resources]))
  t.ok(after.rss - warm.rss < 30 * 1024 * 1024, `${Math.round((after.rss - warm.rss) / 1e6)} MB more than warm`)
  t.notMatch(gateway.output(), /MaxListenersExceededWarning|unhandled/i)
  openai.behaviour = say('still', ' here')
  t.equal(
    (await gateway.fetch('/v1/chat/completions', { json: { model: 'openai/gpt-4o-mini', messages: [{ role: 'user', content: 'hi' }] } }))
      .status,
    200
  )
  const attempts = [...openai.calls, ...ollama.calls].flatMap(({ headers }) => headers['x-client-request-id'] ?? [])
  await until('a row for each call', async () => {
    const { rows } = await database.pool.query('select attempt_id from llm_costs')
    const booked = new Set(rows.map(row => row.attempt_id))
    return attempts.every(attempt => booked.has(attempt))
  })
})
