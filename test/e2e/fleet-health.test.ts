// Who looks after a machine when there are many gateways, and what a machine may do for long without being given up.

import { createServer, type RequestListener, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { createDatabase } from '../support/cluster.ts'
import { type RunningGateway, startGateway } from '../support/gateway.ts'
import { machine as listening, ollama } from '../support/machines.ts'
import { nativeLines } from '../support/upstream.ts'
import { until } from '../support/wait.ts'

const model = 'llama3.2:3b'
type Json = Record<string, unknown>

interface Watched {
  readonly url: string
  /** Who asked for the version, in the order of the questions: each gateway says its name in a header. */
  readonly askers: string[]
  /** Questions for the version that were answered. */
  answered(): number
  /** Every answer to that question takes so long. */
  slowDown(versionMs: number): void
  /** Prompts that came. */
  prompts(): number
  /** Prompts that wait for their first token. */
  reading(): number
  /** All of them, and those that come, are answered. */
  write(): void
}

/** A machine that reads its prompts, without a token, until the test lets it write. */
async function startReader(t: Test): Promise<Watched> {
  const honest = ollama([model])
  const askers: string[] = []
  const reading = new Set<ServerResponse>()
  let answered = 0
  let prompts = 0
  let versionMs = 0
  let mayWrite = false
  const write = (response: ServerResponse): void => {
    response.writeHead(200, { 'content-type': 'application/x-ndjson' }).end(nativeLines(model, 'at ', 'last').join(''))
  }
  const { port } = await listening(
    t,
    '127.0.0.1',
    (request, response) => {
      if (request.url === '/api/version') {
        askers.push(String(request.headers['x-gateway']))
        setTimeout(() => {
          answered++
          honest(request, response)
        }, versionMs)
      } else if (request.url === '/api/chat') {
        prompts++
        if (mayWrite) return write(response)
        reading.add(response)
        response.on('close', () => reading.delete(response))
      } else honest(request, response)
    },
    0
  )
  return {
    url: `http://127.0.0.1:${port}`,
    askers,
    answered: () => answered,
    slowDown(ms) {
      versionMs = ms
    },
    prompts: () => prompts,
    reading: () => reading.size,
    write() {
      mayWrite = true
      for (const response of reading) write(response)
    }
  }
}

interface Named {
  readonly name: string
  readonly gateway: RunningGateway
}

/** Gateways on one database, each of which tells the machines its name. */
async function startGateways(t: Test, count: number, machines: Readonly<Record<string, Watched>>) {
  const { url: databaseUrl, pool } = await createDatabase(t)
  const start = async (number: number): Promise<Named> => {
    const name = `gateway-${number}`
    const entries = Object.entries(machines).map(([id, { url }]) => [id, { url, max_concurrency: 16, headers: { 'x-gateway': name } }])
    return { name, gateway: await startGateway(t, { databaseUrl, config: { machines: Object.fromEntries(entries) } }) }
  }
  // The first two ask about everything, until others come.
  const numbers = Array.from({ length: count }, (_, number) => number)
  const gateways = [...(await Promise.all(numbers.slice(0, 2).map(start))), ...(await Promise.all(numbers.slice(2).map(start)))]
  for (const { gateway } of gateways) {
    for (const id of Object.keys(machines)) {
      await until(`${id} to be up and listed`, async () => {
        const { health, models } = (await (await gateway.fetch(`/v1/devices/${id}`)).json()) as { health: string; models: Json[] }
        return health === 'up' && models.length === 1
      })
    }
  }
  return { gateways, pool }
}

/** The whole text of a stream from this machine; null when its gateway died. */
async function streamOn(gateway: RunningGateway, id: string): Promise<string | null> {
  const json = { model: `${id}/${model}`, stream: true, messages: [{ role: 'user', content: 'a long prompt' }] }
  return gateway
    .fetch('/v1/chat/completions', { json })
    .then(response => response.text())
    .catch(() => null)
}

function isWhole(text: string | null): boolean {
  return /"at ".*"last".*data: \[DONE\]\n\n$/s.test(text ?? '') && !/error/.test(text ?? '')
}

/** Everybody who asks a machine while the two who ask most put four questions each. */
async function probersOf({ askers }: Watched): Promise<string[]> {
  // With work there each prober asks twice a second, and each process looks once a second who lives: when somebody has asked
  // four times, everybody has looked.
  const from = askers.length
  await until('everybody to have looked around', () => (countsOf(askers.slice(from))[0] ?? 0) >= 4)
  const since = askers.length
  await until('two of them to have asked four times', () => (countsOf(askers.slice(since))[1] ?? 0) >= 4)
  return [...new Set(askers.slice(since))].toSorted()
}

/** How often each one asked, the most first. */
function countsOf(askers: readonly string[]): number[] {
  const counts = new Map<string, number>()
  for (const name of askers) counts.set(name, (counts.get(name) ?? 0) + 1)
  return [...counts.values()].toSorted((a, b) => b - a)
}

t.test('of eight gateways, all with work on each machine, two ask how it is; when one of them dies, one other takes its place', async t => {
  const machines = { one: await startReader(t), two: await startReader(t), three: await startReader(t) }
  const all = Object.values(machines)
  const { gateways } = await startGateways(t, 8, machines)
  // Whoever has work on a machine would have a reason to ask.
  const streams = gateways.flatMap(({ name, gateway }) => Object.keys(machines).map(id => ({ name, text: streamOn(gateway, id) })))
  await until('all to be at work', () => all.every(machine => machine.reading() === 8))

  const pairs = await Promise.all(all.map(probersOf))
  t.same(
    pairs.map(pair => pair.length),
    [2, 2, 2],
    JSON.stringify(pairs)
  )

  const [dead, widow] = pairs[0] as [string, string]
  const before = all.map(({ askers }) => askers.length)
  await gateways.find(({ name }) => name === dead)?.gateway.stop('SIGKILL')
  const isNew = (asker: string): boolean => asker !== dead && asker !== widow
  const heir = await until('another to ask', () => machines.one.askers.slice(before[0]).find(isNew))
  const after = await Promise.all(all.map(probersOf))
  t.same(after[0], [widow, heir].toSorted(), 'who asked before goes on asking')
  for (const [index, pair] of pairs.entries()) {
    if (!pair.includes(dead)) t.same(after[index], pair, 'a machine that it did not ask keeps its two')
    else t.equal(after[index]?.length, 2)
  }

  for (const machine of all) machine.write()
  for (const { name, text } of streams) if (name !== dead) t.ok(isWhole(await text), `a stream of ${name} came to its end`)
})

t.test('while a machine reads a long prompt and answers /api/version after 2 s, nobody declares it down and no stream is cut', async t => {
  const machines = { busy: await startReader(t), idle: await startReader(t) }
  const { busy, idle } = machines
  const { gateways, pool } = await startGateways(t, 2, machines)
  busy.slowDown(2_000)
  const streams = gateways.flatMap(({ gateway }) => [streamOn(gateway, 'busy'), streamOn(gateway, 'busy')])
  await until('all to be read', () => busy.reading() === 4)
  const since = { asked: busy.askers.length, answered: busy.answered() }
  // Twice a second from each of the two, so for more than 6 s; 3 s of silence are enough to be given up. The last few are on their way.
  await until('14 late answers for each of the two', () => (countsOf(busy.askers.slice(since.asked, -8))[1] ?? 0) >= 14, 30_000)
  t.ok(busy.answered() - since.answered >= 20, `${busy.answered() - since.answered} late answers`)
  t.equal(busy.reading(), 4, 'no stream was cut')
  for (const { gateway } of gateways) {
    for (const id of Object.keys(machines)) t.match(await (await gateway.fetch(`/v1/devices/${id}`)).json(), { health: 'up' })
  }
  busy.write()
  for (const text of streams) t.ok(isWhole(await text), 'the stream came to its end')
  t.same([busy.prompts(), idle.prompts()], [4, 0], 'nothing was tried again, or elsewhere')
  const { rows } = await pool.query(`select device_id, note from device_events where kind = 'down' and device_id in ('busy', 'idle')`)
  t.same(rows, [], 'and nobody ever declared it down')
  for (const { gateway } of gateways) {
    t.notOk(gateway.lines().some(({ msg, device }) => msg === 'a machine is away' && (device === 'busy' || device === 'idle')))
  }
})

t.test('a gateway that loses its way to a machine takes it from nobody else', async t => {
  const { url: databaseUrl, pool } = await createDatabase(t)
  const honest = ollama([model])
  const open = new Set<ServerResponse>()
  const listener: RequestListener = (request, response) => {
    if (request.url !== '/api/chat') return honest(request, response)
    response.writeHead(200, { 'content-type': 'application/x-ndjson' }).write(nativeLines(model, 'at ', 'last')[0])
    open.add(response)
    response.on('close', () => open.delete(response))
  }
  const direct = await listening(t, '127.0.0.1', listener, 0)
  // The same machine as the other gateway reaches it, by a way that will be closed.
  const way = createServer(listener)
  await new Promise<void>(resolve => way.listen(0, '127.0.0.1', resolve))
  const close = (): void => {
    way.close()
    way.closeAllConnections()
  }
  t.teardown(close)
  const on = (port: number) => startGateway(t, { databaseUrl, config: { machines: { box: { url: `http://127.0.0.1:${port}` } } } })
  const [cut, other] = await Promise.all([on((way.address() as AddressInfo).port), on(direct.port)])
  const boxOf = async (gateway: RunningGateway) => (await (await gateway.fetch('/v1/devices/box')).json()) as Json
  for (const gateway of [cut, other]) {
    await until('it to be up and listed', async () => {
      const { health, models } = await boxOf(gateway)
      return health === 'up' && (models as Json[]).length === 1
    })
  }
  const stream = streamOn(other, 'box')
  await until('a stream to run', () => open.size === 1)

  close()
  const said = (gateway: RunningGateway): boolean =>
    gateway.lines().some(({ msg, device }) => msg === 'a machine is away' && device === 'box')
  await until('it to be away for the one that is cut off', () => said(cut))
  // What it found is told to all, and contradicted.
  const kinds = async () =>
    (await pool.query(`select kind from device_events where device_id = 'box' order by id`)).rows.map(({ kind }) => kind)
  await until('both to be written down', async () => (await kinds()).slice(-2).join() === 'down,up')
  t.notOk(said(other), 'the other one never gave it up')
  t.match(await boxOf(other), { health: 'up' })
  t.equal(open.size, 1, 'its stream runs')
  for (const response of open) response.end(nativeLines(model, 'at ', 'last').slice(1).join(''))
  t.ok(isWhole(await stream), 'and comes to its end')
  const refused = await cut.fetch('/v1/chat/completions', { json: { model, messages: [{ role: 'user', content: 'hi' }] } })
  t.equal(refused.status, 503, 'the one that is cut off sends nothing there')
  t.equal((await boxOf(cut)).health, 'up', 'and does not take it from the others by saying it again')
})
