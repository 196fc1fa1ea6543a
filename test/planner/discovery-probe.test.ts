// One machine is asked what it is: real sockets, honest servers, silent ones and hostile ones.

import type { RequestListener } from 'node:http'
import type { Socket } from 'node:net'
import t, { type Test } from 'tap'
import { createAddressGuard, defaultRanges } from '../../planner/discovery/guard.ts'
import { createProbe, type ProbedNothing, type ProbedServer } from '../../planner/discovery/probe.ts'
import {
  compatible,
  droppingMachines,
  machine,
  machineAddress,
  machinePort,
  ollama,
  skipWithoutLoopbackNetwork,
  tcpMachine
} from '../support/machines.ts'
import { until } from '../support/wait.ts'

t.options.skip = skipWithoutLoopbackNetwork

const probe = createProbe(createAddressGuard(defaultRanges))
// For tests where nothing is to be answered.
const hasty = createProbe(createAddressGuard(defaultRanges), { connectMs: 100, totalMs: 300 })

let number = 0
/** Starts it, and asks it. */
async function asked(t: Test, listener: RequestListener): Promise<ProbedServer | ProbedNothing> {
  const { address, port } = await machine(t, machineAddress(++number), listener)
  return probe(address, port)
}

async function askedRaw(t: Test, connected: (socket: Socket) => void): Promise<ProbedServer | ProbedNothing> {
  const { address, port } = await tcpMachine(t, machineAddress(++number), connected)
  return probe(address, port)
}

/** An Ollama of which one answer is another one. */
function but(path: string, behaviour: RequestListener): RequestListener {
  const honest = ollama(['llama3.2:3b'])
  return (request, response) => (request.url === path ? behaviour(request, response) : honest(request, response))
}

const json = (value: unknown): RequestListener => {
  return (_request, response) => response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(value))
}

t.test('an Ollama tells its version, its models and what is loaded', async t => {
  const { address, port, asked, connections } = await machine(t, machineAddress(++number), ollama(['llama3.2:3b', 'qwen3:32b']))
  t.same(await probe(address, port), {
    kind: 'ollama',
    url: `http://${address}:${port}`,
    version: '0.32.7',
    modelCount: 2,
    models: ['llama3.2:3b', 'qwen3:32b'],
    loaded: ['llama3.2:3b']
  })
  t.same(
    asked.toSorted(),
    ['/api/ps', '/api/tags', '/api/version'].map(path => `${address}:${port} ${path}`)
  )
  t.ok(connections() <= 3)
})

t.test('a server with a list like that of OpenAI is found by it', async t => {
  const { address, port } = await machine(t, machineAddress(++number), compatible(['qwen/qwen3-8b', 'text-embedding']))
  t.same(await probe(address, port), {
    kind: 'openai',
    url: `http://${address}:${port}/v1`,
    version: null,
    modelCount: 2,
    models: ['qwen/qwen3-8b', 'text-embedding'],
    loaded: []
  })
})

t.test('LM Studio answers unknown paths with status 200, and others with a page', async t => {
  const list = compatible(['a'])
  for (const other of [
    json({ error: 'Unexpected endpoint or method. (GET /api/version)' }),
    (_request, response) => response.writeHead(200, { 'content-type': 'text/html' }).end('<!doctype html>'.repeat(10_000))
  ] satisfies RequestListener[]) {
    t.match(await asked(t, (request, response) => (request.url === '/v1/models' ? list : other)(request, response)), {
      kind: 'openai',
      modelCount: 1
    })
  }
})

t.test('IPv6 is written in brackets', async t => {
  const { port } = await machine(t, '::1', ollama([]), 0)
  t.match(await probe('0:0:0:0:0:0:0:1', port), { kind: 'ollama', url: `http://[::1]:${port}`, modelCount: 0, models: [] })
})

t.test('no models at all is an answer, as null too; an old Ollama without /api/ps is one', async t => {
  t.match(await asked(t, but('/api/tags', json({ models: null }))), { kind: 'ollama', modelCount: 0 })
  t.match(
    await asked(
      t,
      but('/api/ps', (_request, response) => response.writeHead(404).end())
    ),
    { kind: 'ollama', modelCount: 1, loaded: [] }
  )
})

t.test('the names are 500 at the most, printable, and not those of models computed elsewhere', async t => {
  const many = Array.from({ length: 1_200 }, (_, index) => `model-${index}`)
  const answer = await asked(t, ollama(many))
  t.match(answer, { kind: 'ollama', modelCount: 1_200 })
  t.equal((answer as ProbedServer).models.length, 500)
  const odd = [
    { name: 'good' },
    { name: 'good' },
    { name: 'a b' },
    { name: 'grün' },
    { name: '\u001b[2J' },
    { name: 'x'.repeat(257) },
    { name: '' },
    { name: 7 },
    {},
    null,
    'text',
    { name: 'gpt-oss:120b-cloud' },
    { name: 'stub', remote_host: 'https://ollama.com' }
  ]
  t.match(await asked(t, but('/api/tags', json({ models: odd }))), { modelCount: 1, models: ['good'] })
})

t.test('nothing outside of the guard is contacted', async t => {
  const { address, port, connections } = await machine(t, machineAddress(++number), ollama([]))
  const narrow = createProbe(createAddressGuard(['100.64.0.0/10', '127.0.0.1/32', `${address}:${port + 1}`]))
  for (const [given, at] of [
    [address, port],
    [`::ffff:${address}`, port],
    ['localhost', port],
    ['', port],
    ['127.0.0.1', 0],
    ['127.0.0.1', 65_536],
    ['127.0.0.1', 1.5],
    ['127.0.0.1', Number.NaN]
  ] as const) {
    t.match(await narrow(given, at), { kind: 'nothing', reason: 'outside' }, `${given} ${at}`)
  }
  t.equal(connections(), 0)
})

t.test('nobody there is refused', async t => {
  t.match(await probe(machineAddress(++number), machinePort), { kind: 'nothing', reason: 'refused' })
})

t.test('a machine that drops connections is asked twice and is silent', async t => {
  const address = machineAddress(++number)
  await droppingMachines(t, [address])
  const began = performance.now()
  t.match(await probe(address, machinePort), { kind: 'nothing', reason: 'silent', detail: /does not take connections/ })
  const ms = performance.now() - began
  t.comment(`silent after ${Math.round(ms)} ms`)
  t.ok(ms >= 1_900, 'two tries of a second')
  t.ok(ms < 4_000)
})

t.test('a machine that takes the question and never answers is silent, and is asked once', async t => {
  for (const answer of ['', 'HTTP/1.1 200 OK\r\n', 'HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{"version":']) {
    const { address, port, connections } = await tcpMachine(t, machineAddress(++number), socket => socket.write(answer))
    t.match(await hasty(address, port), { kind: 'nothing', reason: 'silent' })
    t.equal(connections(), 1)
  }
})

t.test('a machine that closes or resets is silent', async t => {
  t.match(await askedRaw(t, socket => socket.destroy()), { reason: 'silent' })
  t.match(await askedRaw(t, socket => socket.once('data', () => socket.resetAndDestroy())), { reason: 'silent' })
  t.match(
    await asked(
      t,
      but('/api/tags', (_request, response) => {
        response.writeHead(200, { 'content-length': '100' }).write('{"models":', () => response.destroy())
      })
    ),
    { reason: 'silent' }
  )
})

t.test("a 403 without a body is Ollama's check of the Host", async t => {
  t.match(await asked(t, (_request, response) => response.writeHead(403).end()), { reason: 'host_check', detail: /OLLAMA_HOST/ })
  t.match(await asked(t, (_request, response) => response.writeHead(403).end('no')), { reason: 'not_a_model_server' })
})

t.test('other servers are no model servers', async t => {
  for (const [what, listener] of [
    ['a page', (_request, response) => response.writeHead(200, { 'content-type': 'text/html; charset=utf-8' }).end('<html></html>')],
    ['404', (_request, response) => response.writeHead(404).end('nothing')],
    ['a key is asked for', (_request, response) => response.writeHead(401).end('{}')],
    ['text', (_request, response) => response.end('Hello')],
    ['another JSON', json({ data: 'none' })],
    ['a list', json([])],
    [
      'a version and a page',
      but('/api/tags', (_request, response) => response.writeHead(200, { 'content-type': 'text/html' }).end('<html>'))
    ],
    ['a version and no list', but('/api/tags', json({ models: 'none' }))],
    ['a version and an error', but('/api/tags', (_request, response) => response.writeHead(500).end('{}'))]
  ] as const satisfies readonly (readonly [string, RequestListener])[]) {
    t.match(await asked(t, listener), { kind: 'nothing', reason: 'not_a_model_server' }, what)
  }
  for (const send of [
    (socket: Socket) => socket.write('SSH-2.0-OpenSSH_9.9\r\n'),
    (socket: Socket) => socket.once('data', () => socket.end('-ERR unknown command\r\n'))
  ]) {
    t.match(await askedRaw(t, send), { reason: 'not_a_model_server', detail: /does not speak HTTP/ })
  }
})

t.test('redirects are hostile and not followed, wherever they lead', async t => {
  const other = await machine(t, machineAddress(++number), ollama(['stolen']))
  const location = `http://${other.address}:${other.port}/api/tags`
  for (const status of [301, 302, 303, 307, 308]) {
    const redirect: RequestListener = (_request, response) => response.writeHead(status, { location }).end()
    t.match(await asked(t, redirect), { kind: 'nothing', reason: 'hostile', detail: /redirects/ })
    t.match(await asked(t, but('/api/tags', redirect)), { kind: 'nothing', reason: 'hostile', detail: /redirects/ })
  }
  t.equal(other.connections(), 0)
})

t.test('a page that is called a list is hostile', async t => {
  const page: RequestListener = (_request, response) =>
    response.writeHead(200, { 'content-type': 'application/json' }).end('<!doctype html><title>models</title>')
  t.match(await asked(t, but('/api/tags', page)), { reason: 'hostile', detail: /web page/ })
  t.match(await asked(t, page), { reason: 'hostile' })
})

t.test('numbers that cannot be are hostile', async t => {
  const tags = (entry: Record<string, unknown>) => but('/api/tags', json({ models: [{ name: 'a', ...entry }] }))
  const ps = (entry: Record<string, unknown>) => but('/api/ps', json({ models: [{ name: 'a', ...entry }] }))
  for (const listener of [
    tags({ size: -1 }),
    tags({ size: 2 ** 60 }),
    tags({ details: { context_length: -8192 } }),
    tags({ details: { embedding_length: -1 } }),
    ps({ size_vram: -4_000_000_000 }),
    ps({ size: -1 }),
    ps({ context_length: -1 }),
    but('/api/tags', (_request, response) => response.end('{"models":[{"name":"a","size":1e999}]}')),
    but('/api/version', json({ version: -1 })),
    but('/api/version', json({ version: '<script>' })),
    but('/api/version', json({ version: 'x'.repeat(1_000) }))
  ]) {
    t.match(await asked(t, listener), { kind: 'nothing', reason: 'hostile' })
  }
  const list = (entry: Record<string, unknown>): RequestListener => {
    return (request, response) =>
      request.url === '/v1/models' ? json({ data: [{ id: 'a', ...entry }] })(request, response) : response.writeHead(404).end()
  }
  t.match(await asked(t, list({ max_model_len: -1 })), { reason: 'hostile' })
  t.match(await asked(t, list({ created: 1_700_000_000.5, max_model_len: 8192 })), { kind: 'openai' })
})

t.test('what a hostile machine sends is in no message', async t => {
  const canary: RequestListener = (_request, response) => response.writeHead(404, 'canary', { 'x-canary': 'canary' }).end('canary')
  t.notMatch(JSON.stringify(await asked(t, canary)), /canary/)
})

const block = Buffer.alloc(64 * 1024, 0x78)
/** Writes it again and again for as long as somebody reads. */
function flood(socket: NodeJS.WritableStream, bytes = block): void {
  const pump = (): void => {
    if ((socket as Socket).destroyed) return
    if (socket.write(bytes)) setImmediate(pump)
    else socket.once('drain', pump)
  }
  pump()
}

const entry = `{"name":"m","model":"m","size":1},`
const floods: Readonly<Record<string, RequestListener>> = {
  'an endless body': but('/api/tags', (_request, response) => flood(response.writeHead(200))),
  'a line of 1 GB': but('/api/tags', (_request, response) => {
    response.writeHead(200, { 'content-type': 'application/json', 'content-length': `${2 ** 30}` })
    flood(response)
  }),
  'an endless version': but('/api/version', (_request, response) => flood(response.writeHead(200))),
  'an endless /api/ps': but('/api/ps', (_request, response) => flood(response.writeHead(200))),
  '10^6 models': but('/api/tags', (_request, response) => {
    response.writeHead(200)
    response.write('{"models":[')
    flood(response, Buffer.from(entry.repeat(2_000)))
  }),
  'as many brackets as bytes': but('/api/tags', (_request, response) => response.end('['.repeat(1_000_000))),
  'as many objects as bytes': but('/api/tags', (_request, response) => response.end(`{"models":[${'{},'.repeat(300_000)}{}]}`))
}

t.test('too much of anything is hostile, is cut off, and does not stay in memory', async t => {
  const rss = (): number => process.memoryUsage.rss()
  // What the first exchange of a process costs is not the machine's doing.
  await asked(t, ollama(['a']))
  const before = rss()
  let peak = before
  const watch = setInterval(() => {
    peak = Math.max(peak, rss())
  }, 5)
  t.teardown(() => clearInterval(watch))

  for (const [what, listener] of Object.entries(floods)) {
    let open = 0
    const { address, port } = await machine(t, machineAddress(++number), (request, response) => {
      open++
      response.on('close', () => open--)
      listener(request, response)
    })
    const began = performance.now()
    t.match(await probe(address, port), { kind: 'nothing', reason: 'hostile' }, what)
    t.ok(performance.now() - began < 5_000, what)
    await until(`${what} to be cut off`, () => open === 0)
  }
  const headers: readonly (readonly [string, (socket: Socket) => void])[] = [
    ['endless headers', socket => flood(socket, Buffer.from(`x-a: ${'y'.repeat(1_000)}\r\n`))],
    ['one endless header', socket => flood(socket)]
  ]
  for (const [what, send] of headers) {
    const answer = await askedRaw(t, socket => {
      socket.write('HTTP/1.1 200 OK\r\nx-first: ')
      send(socket)
    })
    t.match(answer, { kind: 'nothing', reason: 'hostile', detail: /headers/ }, what)
  }
  peak = Math.max(peak, rss())
  const growth = Math.round((peak - before) / 2 ** 20)
  t.comment(`resident memory grew by ${growth} MB at its peak, over ${Object.keys(floods).length + headers.length} hostile machines`)
  t.ok(growth < 64, `${growth} MB`)
})

t.test('answers that come before the answer have an end too', async t => {
  const { address, port } = await tcpMachine(t, machineAddress(++number), socket =>
    flood(socket, Buffer.from('HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n'.repeat(100)))
  )
  t.match(await hasty(address, port), { kind: 'nothing' })
})

t.test('called off, it ends with the reason and its connection is closed', async t => {
  const { address, port, asked } = await machine(t, machineAddress(++number), () => {})
  const caller = new AbortController()
  const answer = probe(address, port, caller.signal)
  await until('the question', () => asked.length === 1)
  caller.abort(new Error('enough'))
  await t.rejects(answer, { message: 'enough' })
  await t.rejects(probe(address, port, caller.signal), { message: 'enough' })
  t.equal(asked.length, 1)
})
