// Who is served how much, when more is asked for than there is: by weights, whichever way it comes, and never by who came first.

import t from 'tap'
import { createDatabase } from '../support/cluster.ts'
import { type RunningGateway, startGateway } from '../support/gateway.ts'
import { until } from '../support/wait.ts'
import { jobsOf, keyFor, model, startMachine, untilListed, warm } from './queue-support.ts'

const database = await createDatabase(t)
const machine = await startMachine(t)
const options = { databaseUrl: database.url, config: { machines: { box: { url: machine.origin, max_concurrency: 2 } } } }
const gateways = await Promise.all([startGateway(t, options), startGateway(t, options)])
for (const gateway of gateways) await untilListed(gateway)
const [one] = gateways
await warm(one, machine)

async function queued(): Promise<number> {
  const { rows } = await database.pool.query(`select count(*)::integer as count from jobs where status = 'queued'`)
  return rows[0].count
}

/** A request whose client holds the line. */
function hold(gateway: RunningGateway, key: string, content: string): Promise<number> {
  const json = { model, messages: [{ role: 'user', content }] }
  return gateway.fetch('/v1/chat/completions', { json, headers: { authorization: `Bearer ${key}` } }).then(async response => {
    await response.arrayBuffer()
    return response.status
  })
}

async function fill(): Promise<Promise<number>[]> {
  const filling = [hold(one, one.key, 'filler'), hold(one, one.key, 'filler')]
  await until('the machine to be full', () => machine.held.length === 2)
  return filling
}

t.test('with weights 1, 2 and 4, requests and jobs together are served 1 : 2 : 4, as long as all have something waiting', async t => {
  const sources = [
    { name: 'light', weight: 1, count: 8 },
    { name: 'middle', weight: 2, count: 16 },
    { name: 'heavy', weight: 4, count: 32 }
  ]
  const filling = await fill()
  const before = machine.said.length
  const holding: Promise<number>[] = []
  for (const { name, weight, count } of sources) {
    const key = await keyFor(one, name, { weight })
    for (let number = 0; number < count; number++) {
      const gateway = gateways[number % 2] as RunningGateway
      if (number % 4 < 2) holding.push(hold(gateway, key, name))
      else await jobsOf(gateway, key).chat(name, { priority: 'interactive' })
    }
  }
  await until('all to wait', async () => (await queued()) === 56)
  for (let served = 0; served < 58; served++) await machine.next()
  t.same([...new Set(await Promise.all([...filling, ...holding]))], [200])
  const order = machine.said.slice(before)
  t.equal(order.length, 56)
  // The last round is left out: whoever has nothing waiting any more gives way.
  for (const count of [28, 42, 49]) {
    for (const { name, weight } of sources) {
      const share = order.slice(0, count).filter(said => said === name).length / count
      t.ok(Math.abs(share - weight / 7) <= 0.05, `${name} has ${Math.round(share * 100)} % of the first ${count}`)
    }
  }
})

t.test('whoever asks for little is not kept waiting by a flood', async t => {
  const filling = await fill()
  const flood = await keyFor(one, 'flood')
  const quiet = await keyFor(one, 'quiet')
  for (let number = 0; number < 40; number++) await jobsOf(gateways[number % 2] as RunningGateway, flood).chat('flood')
  for (let served = 0; served < 8; served++) await machine.next()
  for (const gateway of gateways) {
    const before = machine.said.length
    await jobsOf(gateway, quiet).chat('quiet')
    await until('it is served', async () => {
      if (machine.said.slice(before).includes('quiet')) return true
      await machine.next()
      return false
    })
    const others = machine.said.slice(before).indexOf('quiet')
    t.ok(others <= 3, `${others} of the flood began before it`)
  }
  machine.release()
  t.same(await Promise.all(filling), [200, 200])
  await until('the flood to be over', async () => (await queued()) === 0)
})
