// A look around a tailnet of fake machines, and what it changed: fast though half of them are silent, undisturbed by hostile ones.

import t from 'tap'
import { compare } from '../../planner/discovery/compare.ts'
import { createAddressGuard, defaultRanges } from '../../planner/discovery/guard.ts'
import { type FoundMachine, type LookPorts, look } from '../../planner/discovery/look.ts'
import type { TailnetPeer } from '../../planner/discovery/peers.ts'
import { createProbe, type Probe } from '../../planner/discovery/probe.ts'
import type { TailscaleReading } from '../../planner/discovery/tailscale.ts'
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

const now = (): number => performance.now()
const guard = createAddressGuard(defaultRanges)

function peer(number: number, changes: Partial<TailnetPeer> = {}): TailnetPeer {
  const address = changes.address ?? machineAddress(number)
  return {
    nodeId: `n${number}CNTRL`,
    name: `gpu${number}`,
    dnsName: `gpu${number}.tail0001.ts.net`,
    addresses: [address],
    os: 'linux',
    tags: ['tag:gpu'],
    online: true,
    isSelf: false,
    route: 'direct',
    ...changes,
    address
  }
}

const self = peer(0, {
  nodeId: 'nSelf',
  name: 'Gateway',
  address: '127.0.0.1',
  addresses: ['100.101.1.10'],
  isSelf: true,
  route: null,
  tags: []
})

const reading = (peers: readonly TailnetPeer[], changes: Partial<TailscaleReading> = {}): TailscaleReading => ({
  state: 'running',
  message: 'Tailscale runs.',
  peers,
  userspace: false,
  ...changes
})

/** A probe of nobody, which finds an Ollama at these places. */
function finding(places: readonly string[]): { probe: Probe; asked: string[] } {
  const asked: string[] = []
  return {
    asked,
    probe: async (address, port) => {
      const place = `${address} ${port}`
      asked.push(place)
      return places.includes(place) || places.includes('*')
        ? { kind: 'ollama', url: `http://${address}:${port}`, version: '0.32.7', modelCount: 1, models: ['a'], loaded: [] }
        : { kind: 'nothing', reason: 'refused', detail: 'Nobody.' }
    }
  }
}

const lookWith = (changes: Partial<LookPorts>) =>
  look({ tailscale: reading([]), ports: [11_434], known: [], probe: finding([]).probe, now, ...changes })

t.test('50 machines, half of them silent, take no more than 5 s', { skip: skipWithoutLoopbackNetwork }, async t => {
  const numbers = Array.from({ length: 50 }, (_, index) => index + 1)
  const answering = numbers.filter(number => number % 2 === 0)
  const silent = numbers.filter(number => number % 2 === 1)
  // Of the silent ones most drop packets, some take the question and never answer.
  const mute = silent.filter(number => number % 10 === 1)
  const dropping = silent.filter(number => number % 10 !== 1)
  const machines = await Promise.all(answering.map(number => machine(t, machineAddress(number), ollama([`model-${number}`]))))
  await Promise.all(mute.map(number => tcpMachine(t, machineAddress(number), () => {})))
  await droppingMachines(t, dropping.map(machineAddress))

  const { found, unreachable, tookMs } = await lookWith({
    tailscale: reading(numbers.map(number => peer(number))),
    ports: [machinePort],
    probe: createProbe(guard)
  })
  t.comment(`50 machines, 25 of them silent: ${Math.round(tookMs)} ms`)
  t.same(
    found.filter(one => one.origin === 'tailscale').map(one => one.name),
    answering.map(number => `gpu${number}`)
  )
  t.same(
    unreachable.filter(one => one.reason === 'silent').map(one => one.name),
    silent.map(number => `gpu${number}`)
  )
  for (const { asked } of machines) t.equal(asked.filter(question => question.endsWith('/api/version')).length, 1, 'each is asked once')
  t.ok(tookMs < 5_000, `${tookMs} ms`)
})

t.test('hostile machines are marked, and the others are found as ever', { skip: skipWithoutLoopbackNetwork }, async t => {
  const block = Buffer.from(`{"name":"m"},`.repeat(5_000))
  const before = process.memoryUsage.rss()
  let peak = before
  const watch = setInterval(() => {
    peak = Math.max(peak, process.memoryUsage.rss())
  }, 5)
  t.teardown(() => clearInterval(watch))
  const hostile = Array.from({ length: 30 }, (_, index) => 101 + index)
  await Promise.all(
    hostile.map(number =>
      machine(t, machineAddress(number), (request, response) => {
        if (request.url !== '/api/tags') return ollama([])(request, response)
        response.writeHead(200, { 'content-type': 'application/json' })
        const pump = (): void => {
          if (!response.destroyed && response.write(block)) setImmediate(pump)
          else if (!response.destroyed) response.once('drain', pump)
        }
        pump()
      })
    )
  )
  await machine(t, machineAddress(150), ollama(['llama3.2:3b']))
  await machine(t, machineAddress(151), compatible(['qwen3']))
  const { found, unreachable } = await lookWith({
    tailscale: reading([...hostile, 150, 151].map(number => peer(number))),
    ports: [machinePort],
    probe: createProbe(guard)
  })
  const growth = Math.round((peak - before) / 2 ** 20)
  t.comment(`resident memory grew by ${growth} MB while ${hostile.length} machines sent without end`)
  t.ok(growth < 64, `${growth} MB`)
  t.match(
    found.filter(one => one.origin === 'tailscale'),
    [
      { key: `n150CNTRL:${machinePort}`, name: 'gpu150', kind: 'ollama', origin: 'tailscale', nodeId: 'n150CNTRL', tags: ['tag:gpu'] },
      { key: `n151CNTRL:${machinePort}`, name: 'gpu151', kind: 'openai', url: `http://${machineAddress(151)}:${machinePort}/v1` }
    ]
  )
  t.equal(unreachable.filter(one => one.reason === 'hostile').length, hostile.length)
})

t.test('what is outside of the guard is never contacted, and that is said', { skip: skipWithoutLoopbackNetwork }, async t => {
  const outside = await machine(t, machineAddress(160), ollama(['a']))
  const { found, unreachable } = await lookWith({
    tailscale: reading([peer(160), peer(161, { address: '169.254.169.254' }), peer(162, { address: '::ffff:127.0.0.1' })]),
    ports: [machinePort],
    ollamaHost: `http://metadata.internal:${machinePort}`,
    probe: createProbe(createAddressGuard(['127.0.0.1/32', '100.64.0.0/10']))
  })
  t.same(
    found.filter(one => one.origin !== 'neighbour'),
    []
  )
  t.same(
    unreachable.filter(one => one.reason === 'outside').map(one => one.address),
    ['metadata.internal', machineAddress(160), '169.254.169.254', '::ffff:127.0.0.1']
  )
  t.equal(outside.connections(), 0)
})

t.test('this machine is asked at the ports and at the habits of others, and found without Tailscale too', async t => {
  const { probe, asked } = finding(['127.0.0.1 11434', '127.0.0.1 1234'])
  const tailscale = reading([], { state: 'absent', message: 'The tailscale command is not installed, or not on PATH.' })
  const result = await lookWith({ probe, tailscale, ports: [11_434, 11_435] })
  t.same(
    asked,
    [11_434, 11_435, 1234, 8000, 8080].map(port => `127.0.0.1 ${port}`)
  )
  t.match(result.found, [
    { key: 'http://127.0.0.1:11434', name: 'ollama', origin: 'neighbour', nodeId: null, os: null, tags: [], route: null },
    { key: 'http://127.0.0.1:1234', name: 'lm-studio', origin: 'neighbour' }
  ])
  t.match(result.unreachable, [{ address: '127.0.0.1', port: 11_435, name: 'ollama-11435', reason: 'refused', detail: 'Nobody.' }])
  t.equal(result.unreachable.length, 1, 'guesses that fail are not listed')
  t.same(result.tailscale, { state: 'absent', message: tailscale.message })
})

t.test('with Tailscale this machine goes by its id there', async t => {
  const { found } = await lookWith({ tailscale: reading([self]), probe: finding(['*']).probe })
  t.match(found, [
    { key: 'nSelf:11434', name: 'gateway', url: 'http://127.0.0.1:11434', origin: 'neighbour', nodeId: 'nSelf', os: 'linux' },
    { key: 'nSelf:1234', name: 'lm-studio' },
    { key: 'nSelf:8000', name: 'vllm' },
    { key: 'nSelf:8080', name: 'llama.cpp' }
  ])
})

t.test('each address and port is asked once, and what is configured not at all', async t => {
  const { probe, asked } = finding([])
  await lookWith({
    probe,
    tailscale: reading([
      self,
      peer(1, { address: '100.101.1.1', addresses: ['100.101.1.1', 'fd7a:115c:a1e0::1'] }),
      peer(2, { address: '100.101.1.2' }),
      peer(3, { address: '100.101.1.3' }),
      peer(4, { address: '100.101.1.4' }),
      // They claim what is another's.
      peer(5, { address: '100.101.1.2' }),
      peer(6, { address: '127.0.0.1' }),
      peer(7, { address: '100.101.1.10' })
    ]),
    ports: [11_434, 11_434, 1234],
    known: [
      { url: 'http://[FD7A:115C:A1E0::1]:11434/' },
      { url: 'http://gpu3:11434' },
      { url: 'http://GPU4.tail0001.ts.net.:1234/v1' },
      { url: 'http://localhost:8000/v1' },
      { url: 'http://100.101.1.10:8080' },
      { url: 'https://api.example.com' },
      { url: 'no url' }
    ]
  })
  t.same(asked, [
    '127.0.0.1 11434',
    '127.0.0.1 1234',
    '100.101.1.1 1234',
    '100.101.1.2 11434',
    '100.101.1.2 1234',
    '100.101.1.3 1234',
    '100.101.1.4 11434'
  ])
})

t.test('OLLAMA_HOST speaks for its machine', async t => {
  for (const [ollamaHost, place, key] of [
    ['http://127.0.0.1:11434', '127.0.0.1 11434', 'nSelf:11434'],
    ['http://localhost:11434/', '127.0.0.1 11434', 'nSelf:11434'],
    ['http://[::1]:11434', '::1 11434', 'nSelf:11434'],
    // Bound to its address in the tailnet only.
    ['http://100.101.1.10:11434', '100.101.1.10 11434', 'nSelf:11434'],
    ['http://100.101.1.1:11434', '100.101.1.1 11434', 'n1CNTRL:11434'],
    ['http://gpu1:11434', '100.101.1.1 11434', 'n1CNTRL:11434'],
    ['http://192.168.1.20:11434', '192.168.1.20 11434', 'http://192.168.1.20:11434']
  ] as const) {
    const { probe, asked } = finding([place])
    const peers = [self, peer(1, { address: '100.101.1.1' })]
    const { found } = await lookWith({ probe, tailscale: reading(peers), ollamaHost })
    t.match(found, [{ key, origin: 'ollama_host', url: `http://${place.replace(' ', ':')}` }], ollamaHost)
    t.equal(found.length, 1)
    t.equal(new Set(asked).size, asked.length)
    if (key === 'nSelf:11434') t.equal(asked.filter(place => place.endsWith(' 11434')).length, 2, 'this machine once, and the other')
  }
})

t.test('in userspace networking other machines are not asked, and that is said', async t => {
  const { probe, asked } = finding(['*'])
  const tailscale = reading([self, peer(1, { address: '100.101.1.1' })], { userspace: true })
  const { found, unreachable } = await lookWith({ probe, tailscale })
  t.ok(asked.every(place => place.startsWith('127.0.0.1 ')))
  t.equal(found.length, 4)
  t.match(unreachable, [{ address: '100.101.1.1', name: 'gpu1', reason: 'userspace' }])
})

t.test('names are valid, different from each other, and stay', async t => {
  const odd = [
    'gpu1',
    'GPU1',
    'Größe Büro №1',
    '../../etc/passwd',
    '<script>alert(1)</script>',
    '機械',
    '💻',
    '.hidden',
    '-rf',
    'x'.repeat(63),
    `${'x'.repeat(63)}`,
    'taken',
    'kept'
  ]
  const peers = odd.map((name, index) => peer(index + 1, { name, address: `100.101.1.${index + 1}` }))
  const changes: Partial<LookPorts> = {
    tailscale: reading(peers),
    ports: [11_434, 8000],
    known: [{ url: 'http://192.168.1.5:11434', name: 'taken' }],
    names: new Map([
      ['n13CNTRL:11434', 'of-old'],
      ['n99CNTRL:11434', 'gpu1-8000']
    ]),
    probe: finding(['*']).probe
  }
  const { found } = await lookWith(changes)
  const names = found.map(one => one.name)
  t.equal(new Set(names).size, names.length)
  for (const name of names) t.match(name, /^[a-z0-9][a-z0-9._-]{0,62}$/, name)
  const named = (key: string): string | undefined => found.find(one => one.key === key)?.name
  t.equal(named('n1CNTRL:11434'), 'gpu1')
  t.match(named('n1CNTRL:8000'), /^gpu1-8000-[0-9a-f]{6}$/, 'another had that name before')
  t.match(named('n2CNTRL:11434'), /^gpu1-[0-9a-f]{6}$/)
  t.equal(named('n3CNTRL:11434'), 'gro-e-buro-no1')
  t.match(named('n12CNTRL:11434'), /^taken-[0-9a-f]{6}$/)
  t.equal(named('n13CNTRL:11434'), 'of-old')

  // The one of two that is silent keeps its name from the other.
  const later = await lookWith({ ...changes, probe: finding(['100.101.1.2 11434']).probe })
  t.equal(later.found[0]?.name, named('n2CNTRL:11434'))
})

t.test('no more are asked at once than allowed', async t => {
  let running = 0
  let most = 0
  const gate = Promise.withResolvers<void>()
  const probe: Probe = async () => {
    most = Math.max(most, ++running)
    await gate.promise
    running--
    return { kind: 'nothing', reason: 'silent', detail: '' }
  }
  const peers = Array.from({ length: 20 }, (_, index) => peer(index + 1, { address: `100.101.1.${index + 1}` }))
  const result = lookWith({ tailscale: reading(peers), probe, concurrency: 7 })
  await until('seven to be asked', () => running === 7)
  gate.resolve()
  t.equal((await result).unreachable.length, 21)
  t.equal(most, 7)
})

t.test('when the time is over nobody new is asked, and that is said; who is known was asked before', async t => {
  let clock = 0
  const asked: string[] = []
  const slow: Probe = async address => {
    asked.push(address)
    clock += 1_000
    return { kind: 'nothing', reason: 'silent', detail: 'Nobody.' }
  }
  const peers = Array.from({ length: 40 }, (_, index) => peer(index + 1, { address: `100.101.1.${index + 1}` }))
  const lookAt = (random: number) =>
    lookWith({
      tailscale: reading(peers),
      probe: slow,
      now: () => clock,
      random: () => random,
      concurrency: 1,
      withinMs: 10_000,
      names: new Map([['n40CNTRL:11434', 'gpu40']])
    })
  const { unreachable, unasked } = await lookAt(0)
  t.equal(unreachable.length, 41, 'nobody is forgotten')
  const left = unreachable.filter(({ reason }) => reason === 'not_asked')
  t.match(left[0], { name: String, detail: /no time left/ })
  t.same(
    [...unasked],
    left.map(({ name }) => `n${name.slice(3)}CNTRL:11434`)
  )
  t.ok(asked.includes('100.101.1.40'), 'the one that is known')
  t.ok(asked.includes('100.101.1.1') && !asked.includes('100.101.1.30'))
  asked.length = 0
  clock = 0
  await lookAt(0.7)
  t.ok(asked.includes('100.101.1.40') && asked.includes('100.101.1.30') && !asked.includes('100.101.1.1'), 'another time others come first')
})

t.test('called off, a look ends with the reason, and nobody else is asked', async t => {
  const caller = new AbortController()
  let asked = 0
  const probe: Probe = (_address, _port, signal) => {
    asked++
    return new Promise((_resolve, reject) => signal?.addEventListener('abort', () => reject(signal.reason), { once: true }))
  }
  const result = lookWith({ probe, signal: caller.signal, concurrency: 2 })
  caller.abort(new Error('enough'))
  await t.rejects(result, { message: 'enough' })
  t.equal(asked, 2)
})

const found = (key: string, changes: Partial<FoundMachine> = {}): FoundMachine => ({
  key,
  name: 'gpu1',
  url: 'http://100.101.1.1:11434',
  kind: 'ollama',
  origin: 'tailscale',
  nodeId: key.startsWith('http') ? null : (key.split(':')[0] ?? null),
  os: 'linux',
  tags: [],
  route: 'direct',
  version: '0.32.7',
  modelCount: 2,
  models: ['a', 'b'],
  loaded: [],
  ...changes
})

t.test('a comparison says what is new, different, gone and as it was', async t => {
  const before = [
    { key: 'n1:11434', url: 'http://100.101.1.1:11434', models: ['b', 'a'], version: '0.32.7', id: 1 },
    { key: 'n2:11434', url: 'http://100.101.1.2:11434', models: ['a'], id: 2 },
    { key: 'n3:11434', url: 'http://100.101.1.3:11434', id: 3 }
  ]
  const same = found('n1:11434')
  const moved = found('n2:11434', { url: 'http://100.101.1.22:11434' })
  const fresh = found('n4:11434', { url: 'http://100.101.1.4:11434' })
  t.same(compare(before, [same, moved, fresh], true), {
    added: [fresh],
    changed: [{ before: before[1], machine: moved, fields: ['url', 'models'] }],
    gone: [before[2]],
    kept: [{ before: before[0], machine: same }]
  })
  const blind = compare(before, [moved, fresh], false)
  t.same(blind.gone, [], 'nothing is gone when Tailscale could not be read')
  t.same(blind.kept, [
    { before: before[0], machine: null },
    { before: before[2], machine: null }
  ])
  t.same([blind.added, blind.changed.length], [[fresh], 1])
  t.same(compare([], [], true), { added: [], changed: [], gone: [], kept: [] })
})

t.test('a machine that was known by its address is the same one when Tailscale learns of it, and when it forgets it', async t => {
  const url = 'http://127.0.0.1:11434'
  const byAddress = { key: url, url }
  const byId = { key: 'nSelf:11434', url }
  t.match(compare([byAddress], [found('nSelf:11434', { url })], true), {
    added: [],
    changed: [{ before: byAddress, machine: { key: 'nSelf:11434' }, fields: ['key'] }],
    gone: []
  })
  t.match(compare([byId], [found(url, { url })], false), { added: [], changed: [], kept: [{ before: byId, machine: { key: url } }] })
})

t.test('an address that was given to another node is another machine', async t => {
  const before = [{ key: 'n1:11434', url: 'http://100.101.1.1:11434' }]
  const other = found('n2:11434')
  t.same(compare(before, [other], true), { added: [other], changed: [], gone: before, kept: [] })
})
