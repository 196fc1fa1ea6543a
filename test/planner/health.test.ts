// What a process believes of a machine when others say something else, and how it is asked; with real clocks and sockets.

import type { RequestListener } from 'node:http'
import t, { type Test } from 'tap'
import { createOutbound } from '../../outbound/client.ts'
import { askMachine } from '../../planner/health/ask.ts'
import { createTeller } from '../../planner/health/teller.ts'
import { createHealth } from '../../planner/health.ts'
import { compatible, machine, ollama, tcpMachine } from '../support/machines.ts'
import { until } from '../support/wait.ts'

type Answer = 'here' | 'refused' | 'never'

/** One process that watches one machine. `isProber` false: two others ask it. */
function watcher(t: Test, { isProber = true } = {}) {
  const said: string[] = []
  const changes: string[] = []
  const state = { answer: 'here' as Answer, asked: 0 }
  const health = createHealth({
    processId: isProber ? 'me' : 'nobody',
    now: () => performance.now(),
    random: () => 0.5,
    living: async () => [{ id: 'me', host: 'here' }],
    inFlight: () => 1,
    onChange: (_id, change) => changes.push(change),
    tell: (_id, word) => said.push(word),
    log: () => {}
  })
  t.teardown(() => health.close())
  const ask = (signal: AbortSignal): Promise<void> => {
    state.asked++
    if (state.answer === 'here') return Promise.resolve()
    if (state.answer === 'refused') return Promise.reject(Object.assign(new Error('refused'), { code: 'ECONNREFUSED' }))
    return new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason), { once: true }))
  }
  health.watch([{ deviceId: 'box', onlyHost: null, ask }])
  return { health, said, changes, state }
}

t.test('one gateway that cannot reach a machine does not take it from those who can', async t => {
  for (const isProber of [true, false]) {
    const { health, said, changes, state } = watcher(t, { isProber })
    if (isProber) await until('it to be up', () => said.includes('up'))
    said.length = 0
    const { asked } = state
    health.told('box', 'down')
    t.notOk(health.isDown('box'), 'not before it was asked')
    await until('the word to be corrected', () => said.includes('up'))
    t.ok(state.asked > asked)
    t.notOk(health.isDown('box'))
    t.notOk(changes.includes('down'), 'nothing that runs there was cut off')
  }
})

t.test('tokens outrank the word of others, as long as they flow', async t => {
  const { health, changes, state } = watcher(t, { isProber: false })
  state.answer = 'never'
  const tokens = setInterval(() => health.alive('box'), 100)
  t.teardown(() => clearInterval(tokens))
  health.told('box', 'down')
  await until('it to be asked twice', () => state.asked >= 2)
  t.notOk(changes.includes('down'))
  clearInterval(tokens)
  await until('it to be believed', () => health.isDown('box'))
})

t.test('who cannot reach it either believes at once that it is away, and that it is back', async t => {
  const { health, said, changes, state } = watcher(t, { isProber: false })
  state.answer = 'refused'
  health.told('box', 'down')
  await until('it to be believed', () => health.isDown('box'))
  state.answer = 'here'
  health.told('box', 'up')
  t.notOk(health.isDown('box'))
  t.same(changes, ['down', 'up'])
  t.same(said, [], 'and repeats nothing')
})

t.test('who finds it away goes by what it finds, and says it once', async t => {
  for (const isProber of [true, false]) {
    const { health, said, state } = watcher(t, { isProber })
    state.answer = 'refused'
    if (!isProber) health.failed('box')
    await until('it to be down', () => health.isDown('box'))
    const { asked } = state
    for (let times = 0; times < 3; times++) health.told('box', 'up')
    t.ok(health.isDown('box'))
    await until('it to be asked again', () => state.asked > asked)
    t.same(said, ['down'])
    state.answer = 'here'
    await until('it to be up', () => !health.isDown('box'))
    t.same(said, ['down', 'up'])
  }
})

async function asked(t: Test, listener: RequestListener, adapter: 'ollama' | 'openai' = 'ollama') {
  const { address, port } = await machine(t, '127.0.0.1', listener, 0)
  return askAt(t, `http://${address}:${port}${adapter === 'ollama' ? '' : '/v1'}`, adapter)
}

function askAt(t: Test, baseUrl: string, adapter: 'ollama' | 'openai') {
  const outbound = createOutbound()
  t.teardown(() => outbound.close())
  const upstream = { adapter, baseUrl, headers: {}, apiKey: null, timeouts: { connectMs: 1_000 } as never }
  return askMachine(outbound, upstream, AbortSignal.timeout(5_000))
}

t.test('an Ollama answers with its version; whatever else answers there is not it', async t => {
  t.equal(await asked(t, ollama([])), '0.32.7')
  const others: Readonly<Record<string, RequestListener>> = {
    'a web page': (_request, response) => response.writeHead(200, { 'content-type': 'text/html' }).end('<!doctype html>'),
    'another JSON': (_request, response) => response.end('{"hello":1}'),
    null: (_request, response) => response.end('null'),
    'a version that is none': (_request, response) => response.end('{"version":{"major":1}}'),
    'an error': (_request, response) => response.writeHead(404).end('404 page not found'),
    'a version without end': (_request, response) => response.end(`{"version":"1","more":"${'x'.repeat(100_000)}"}`),
    'a server for models of another kind': compatible(['a'])
  }
  for (const [what, listener] of Object.entries(others)) await t.rejects(asked(t, listener), { code: 'ERR_OTHER_SERVER' }, what)
  const ssh = await tcpMachine(t, '127.0.0.1', socket => socket.end('SSH-2.0-OpenSSH_9.6\r\n'), 0)
  await t.rejects(askAt(t, `http://127.0.0.1:${ssh.port}`, 'ollama'), { code: 'ERR_OTHER_SERVER' }, 'no HTTP at all')
})

t.test('another server answers with JSON, whatever its status, and a large list of models is not read to its end', async t => {
  t.equal(await asked(t, compatible(['a']), 'openai'), null)
  t.equal(await asked(t, (_request, response) => response.writeHead(401).end('{"error":"no key"}'), 'openai'), null)
  await t.rejects(
    asked(t, (_request, response) => response.end('<html></html>'), 'openai'),
    { code: 'ERR_OTHER_SERVER' }
  )
  const names = Array.from({ length: 100_000 }, (_, number) => `a-model-with-a-long-name-${number}`)
  t.equal(await asked(t, compatible(names), 'openai'), null)
})

t.test('what was found while the database was away is written when it is back, the last word only', async t => {
  const written: string[] = []
  const logged: string[] = []
  let isAway = true
  let tries = 0
  const teller = createTeller({
    async write(id, { state }) {
      tries++
      if (isAway) throw new Error('no database')
      written.push(`${id} ${state}`)
    },
    log: message => logged.push(message),
    againMs: 5
  })
  t.teardown(() => teller.close())
  teller.tell('box', { state: 'up', note: '' })
  teller.tell('box', { state: 'down', note: '' })
  teller.tell('other', { state: 'up', note: '' })
  await until('a few tries', () => tries > 6)
  t.same(written, [])
  isAway = false
  await until('both to be written', () => written.length === 2)
  t.same(written.toSorted(), ['box down', 'other up'])
  t.equal(logged.length, 1, 'and that is said once')
  teller.tell('box', { state: 'up', note: '' })
  await until('the next to be written', () => written.length === 3)
  t.equal(written[2], 'box up')
})
