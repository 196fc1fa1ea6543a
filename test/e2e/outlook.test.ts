// What those who wait are told: when, by the same figures as their route has, and why, whichever gateway they ask.

import t from 'tap'
import { createDatabase } from '../support/cluster.ts'
import { type RunningGateway, startGateway } from '../support/gateway.ts'
import { startCompatible } from '../support/upstream.ts'
import { until } from '../support/wait.ts'
import { type Json, jobsOf, keyFor, model, startMachine, untilListed } from './queue-support.ts'

const database = await createDatabase(t)
const machine = await startMachine(t)
const cloud = await startCompatible(t, { models: [{ id: 'far', object: 'model', created: 1, owned_by: 'test' }] })
const options = {
  databaseUrl: database.url,
  config: {
    machines: { box: { url: machine.origin, max_concurrency: 1 } },
    providers: { rented: { base_url: `${cloud.origin}/v1`, api_key: 'sk-cloud-00000000000' } },
    prices: { 'rented/far': { input_usd_per_1m: 1, output_usd_per_1m: 1 } }
  }
}
const [one, two] = await Promise.all([startGateway(t, options), startGateway(t, options)])
for (const gateway of [one, two]) for (const name of [model, 'far']) await untilListed(gateway, name)
const jobs = jobsOf(one)
const bodyOf = (content: string, more: Json = {}): Json => ({ model, messages: [{ role: 'user', content }], ...more })

async function routeOf(id: string | null, from: RunningGateway, key: string = from.key): Promise<Json> {
  const response = await from.fetch(`/v1/routes/${id}`, { headers: { authorization: `Bearer ${key}` } })
  return { httpStatus: response.status, ...((await response.json()) as Json) }
}

/** Its comments until there are `count`. */
async function comments(response: Response, count: number): Promise<string[]> {
  let text = ''
  const found = (): string[] => text.match(/^: queued .*$/gm) ?? []
  for await (const piece of response.body ?? []) {
    text += Buffer.from(piece as Uint8Array).toString('utf8')
    if (found().length >= count) break
  }
  return found()
}

async function preview(from = one): Promise<Json> {
  return (await (await from.fetch('/v1/route', { json: bodyOf('a dozen words') })).json()) as Json
}

const etaOf = ({ chosen }: Json): number => Number((chosen as Json).eta_p50_s) * 1_000

/** It is planned anew all the time: what runs may take longer than was thought. */
function isNear(ms: number, expected: readonly number[]): boolean {
  return ms > Math.min(...expected) / 2 && ms < Math.max(...expected) * 2
}

// What answers took here says little of longer ones: by that alone whoever waits would be told some ms.
machine.release()
for (let count = 0; count < 3; count++) await (await one.fetch('/v1/chat/completions', { json: bodyOf('quick') })).text()
machine.hold()

t.test('a stream that waits is told by the same figures as its route, which every gateway knows meanwhile', async t => {
  await until('the machine to be free', () => machine.running.now === 0)
  const first = one.fetch('/v1/chat/completions', { json: bodyOf('first') })
  await until('the machine to be full', () => machine.held.length === 1)
  const waiting = await one.fetch('/v1/chat/completions', { json: bodyOf('second', { stream: true }) })
  const id = waiting.headers.get('x-llm-mcp-route-id')
  const route = await routeOf(id, one)
  t.match(route, { httpStatus: 200, action: 'wait', actual: null })
  const elsewhere = await until('the other gateway to know', async () => {
    const found = await routeOf(id, two)
    return found.httpStatus === 200 ? found : null
  })
  t.match(elsewhere, { id, action: 'wait', actual: null, chosen: route.chosen as Json })
  const [comment = ''] = await comments(waiting, 1)
  const [, position, etaMs] = /^: queued position=(\d+) eta_ms=(\d+)$/.exec(comment) ?? []
  t.equal(position, '1')
  t.ok(isNear(Number(etaMs), [etaOf(route), etaOf(await preview())]), `${comment}, but ${etaOf(route)} by its route`)
  machine.release()
  await (await first).text()
  machine.hold()
})

t.test('why a job waits can be asked from the first, everywhere, and after it was cancelled', async t => {
  await until('the machine to be free', () => machine.running.now === 0)
  const first = one.fetch('/v1/chat/completions', { json: bodyOf('first') })
  await until('the machine to be full', () => machine.held.length === 1)
  const source = 's'.repeat(128)
  const key = await keyFor(one, source)
  const { headers, job } = await jobsOf(one, key).submit({ kind: 'chat', payload: bodyOf('a job') })
  const id = headers.get('x-llm-mcp-route-id')
  t.equal(id, job.id)
  t.match(await routeOf(id, one, key), { httpStatus: 200, id, action: 'wait', chosen: { device: 'box' }, actual: null })
  await until('the other gateway to know', async () => (await routeOf(id, two, key)).httpStatus === 200)
  t.equal((await routeOf(id, two, await keyFor(one, 'bob'))).httpStatus, 404)
  const route = await routeOf(id, one)
  const etaMs = await until('its turn to be planned', async () => (await jobs.find(String(id))).eta_ms as Json | null)
  t.ok(isNear(Number(etaMs.p50), [etaOf(route), etaOf(await preview())]), `${etaMs.p50}, but ${etaOf(route)} by its route`)
  t.equal((await jobs.post(String(id), 'cancel')).status, 200)
  const later = await one.fetch('/v1/chat/completions', { json: bodyOf('later'), headers: { prefer: 'respond-async' } })
  const laterId = later.headers.get('x-llm-mcp-route-id')
  for (const gateway of [one, two]) {
    t.match(await routeOf(id, gateway), { httpStatus: 200, actual: null })
    await until('the one that came by preference', async () => (await routeOf(laterId, gateway)).httpStatus === 200)
  }
  machine.release()
  await (await first).text()
  await jobs.until(String(laterId), 'done')
  await until('its end', async () => (await routeOf(laterId, two)).actual)
  machine.hold()
})

t.test('a job that may not leave the house and has no machine there is refused, as any request is', async t => {
  const headers = { 'x-llm-mcp-local-only': 'true' }
  const before = cloud.calls.length
  const refused = await jobs.submit({ kind: 'chat', payload: bodyOf('far', { model: 'far' }) }, headers)
  t.match([refused.status, refused.job], [503, { error: { code: 'no_capacity', message: /may not leave it/ } }])
  const preferred = await one.fetch('/v1/chat/completions', {
    json: bodyOf('far', { model: 'far' }),
    headers: { ...headers, prefer: 'respond-async' }
  })
  t.equal(preferred.status, 503)
  t.equal(cloud.calls.slice(before).filter(({ path }) => path.endsWith('/chat/completions')).length, 0)
})

t.test('a hard deadline that no machine would meet is told at once, to jobs as well', async t => {
  const job = { kind: 'chat', payload: bodyOf('late', { max_tokens: 5_000 }), deadline_ms: 1, deadline: 'hard' }
  t.match(await jobs.submit(job), { status: 503, job: { error: { message: /after its deadline/ } } })
})

t.test('nobody is told a time while the only machine is away', async t => {
  machine.server.closeAllConnections()
  await new Promise(resolve => machine.server.close(resolve))
  for (const gateway of [one, two]) {
    await until('every gateway to know', async () => {
      const { rejected } = (await preview(gateway)) as { rejected: Json[] }
      return rejected.some(({ filtered }) => filtered === 'down')
    })
  }
  // Whether they are looked at or set aside already when they are told.
  const submitted = await Promise.all(Array.from({ length: 20 }, () => jobs.submit({ kind: 'chat', payload: bodyOf('away') })))
  for (const { status, job } of submitted) t.match([status, job], [202, { status: 'queued', eta_ms: null }])
  const { job } = submitted[0] as (typeof submitted)[0]
  await until('it to be set aside', async () => {
    const { rows } = await database.pool.query('select ready from jobs where id = $1', [job.id])
    return rows[0].ready === false
  })
  for (const gateway of [one, two]) t.match(await jobsOf(gateway).find(String(job.id)), { status: 'queued', eta_ms: null })
  for (const { job } of submitted) await jobs.post(String(job.id), 'cancel')
})
