// WORKERS=2: two gateways behind one port, whose limits hold for both together; one that dies is replaced, and all end together.

import { once } from 'node:events'
import { request as httpRequest } from 'node:http'
import t from 'tap'
import { createDatabase } from '../support/cluster.ts'
import { type RunningGateway, startGateway } from '../support/gateway.ts'
import { until } from '../support/wait.ts'
import { jobsOf, keyFor, model, startMachine, untilListed } from './queue-support.ts'

const slots = 8
const database = await createDatabase(t)
const machine = await startMachine(t)
const gateway = await startGateway(t, {
  databaseUrl: database.url,
  config: { machines: { box: { url: machine.origin, max_concurrency: slots } }, queue: { max_waiting: 100, max_waiting_per_source: 100 } },
  env: { WORKERS: '2' }
})
await untilListed(gateway)

/** Over a connection of its own: whoever keeps one stays with one process. */
async function ask(path: string, { key = gateway.key, json }: { key?: string; json?: unknown } = {}, from: RunningGateway = gateway) {
  const body = json === undefined ? undefined : JSON.stringify(json)
  const headers = { authorization: `Bearer ${key}`, ...(body !== undefined && { 'content-type': 'application/json' }) }
  const request = httpRequest(`${from.url}${path}`, { agent: false, method: body === undefined ? 'GET' : 'POST', headers }).end(body)
  const [response] = await once(request, 'response')
  let text = ''
  for await (const piece of response.setEncoding('utf8')) text += piece
  return { status: response.statusCode as number, text }
}

const chat = { model, messages: [{ role: 'user', content: 'hi' }] }

async function processes(): Promise<{ id: string; pid: number }[]> {
  const { rows } = await database.pool.query<{ id: string; pid: number }>('select id, pid from processes order by started_at')
  return rows
}

/** As often as another worker than the first has said so. */
async function untilServing(others: number): Promise<void> {
  await until(`${others} more to serve`, () => gateway.output().split('another worker is ready').length > others, 30_000)
}

function sumOf(text: string, series: string): number {
  const lines = text.split('\n').filter(line => line.startsWith(series))
  return lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0)
}

t.test('both serve, on one port, and a machine is never given more than it may have', async t => {
  await untilServing(1)
  // Each of them has seen the model loaded: connections are given out in turn.
  machine.release()
  for (let count = 0; count < 4; count++) t.equal((await ask('/v1/chat/completions', { json: chat })).status, 200)
  machine.hold()
  const answers = Array.from({ length: 3 * slots }, () => ask('/v1/chat/completions', { json: chat }))
  const taken = await until('all places to be taken, by both', async () => {
    const { rows } = await database.pool.query(
      'select count(*)::int as used, count(distinct process_id)::int as processes from device_slots where attempt_id is not null'
    )
    return rows[0].used === slots && rows[0].processes === 2 ? rows[0] : null
  })
  t.same(taken, { used: slots, processes: 2 })
  await until('the others to wait', async () => {
    const { rows } = await database.pool.query(`select count(*)::int as count from jobs where status = 'queued'`)
    return rows[0].count === 2 * slots
  })
  machine.release()
  t.same([...new Set((await Promise.all(answers)).map(({ status }) => status))], [200])
  t.ok(machine.running.most <= slots, `${machine.running.most} at once`)
})

t.test('a limit of a source is one for both', async t => {
  const key = await keyFor(gateway, 'alice', { limits: { requests_per_minute: 6 } })
  const statuses: number[] = []
  for (let count = 0; count < 20; count++) statuses.push((await ask('/v1/chat/completions', { key, json: chat })).status)
  const served = statuses.filter(status => status === 200).length
  t.ok(served >= 1 && served <= 6, `${served} of 20 were served`)
  t.same([...new Set(statuses)].sort(), [200, 429])
})

t.test('whoever is asked for metrics tells those of both, each once', async t => {
  const series = 'llm_mcp_requests_total{route="/v1/models"'
  const before = await until('all to be counted', async () => {
    const [one, other] = [(await ask('/metrics')).text, (await ask('/metrics')).text].map(text => sumOf(text, series))
    return one === other ? one : null
  })
  for (let count = 0; count < 10; count++) await ask('/v1/models')
  await until('ten more', async () => sumOf((await ask('/metrics')).text, series) === before + 10)
  for (let count = 0; count < 4; count++) {
    const { text } = await ask('/metrics')
    t.equal(sumOf(text, series), before + 10)
    t.equal(sumOf(text, 'llm_mcp_device_slots{device="box",state="max"'), slots, 'what is the same for both is not added up')
    t.equal(sumOf(text, 'llm_mcp_build_info'), 1)
  }
})

let killed = ''

t.test('one that dies is replaced, and its answers and costs are not lost', async t => {
  machine.hold()
  const id = await jobsOf(gateway).chat('survives')
  await until('it to run', () => machine.held.length === 1)
  const running = await database.pool.query<{ process_id: string }>('select process_id from device_slots where attempt_id is not null')
  const dead = (await processes()).find(({ id: process }) => process === running.rows[0]?.process_id) as { id: string; pid: number }
  killed = dead.id
  process.kill(dead.pid, 'SIGKILL')
  await untilServing(2)
  machine.release()
  t.match(await jobsOf(gateway).until(id, 'done'), { result: { choices: [{ message: { content: 'Hello' } }] } })
  for (let count = 0; count < 8; count++) t.equal((await ask('/health')).status, 200)
  t.match(gateway.output(), /a worker has died, another takes its place/)
})

t.test('one signal ends all of them', async t => {
  const pids = (await processes()).map(({ pid }) => pid)
  t.match(await gateway.stop(), { code: 0 })
  for (const pid of pids) t.throws(() => process.kill(pid, 0), { code: 'ESRCH' })
  t.same(
    (await processes()).filter(({ id }) => id !== killed),
    [],
    'each has said goodbye, but for the one that could not'
  )
  t.equal(gateway.lines().filter(({ event }) => event === 'ready').length, 1, 'one banner')
})

t.test('when the first cannot start, there is one line, and nothing is left', async t => {
  const port = Number(new URL((await startGateway(t, { databaseUrl: database.url })).url).port)
  await t.rejects(
    startGateway(t, { databaseUrl: database.url, env: { WORKERS: '3', PORT: String(port) } }),
    /Port \d+ on 127\.0\.0\.1 is taken/
  )
})
