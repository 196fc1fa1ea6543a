import { spawn } from 'node:child_process'
import { createHmac } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { createGuarded } from '../../outbound/guarded.ts'
import { type Boss, startBoss, webhookQueue } from '../../queue/boss.ts'
import type { JobRecord, JobWebhook } from '../../queue/types.ts'
import { createWebhooks, type Webhooks, type WebhooksPorts } from '../../queue/webhooks.ts'
import { createDatabase } from '../support/cluster.ts'
import { until } from '../support/wait.ts'

const master = Buffer.from('a master secret of more than 24 bytes')
const database = await createDatabase(t)
const boss = await startBoss({ connection: database.connection, supervise: false, log: () => {} })
t.teardown(() => boss.stop({ graceful: false }))

interface Delivery {
  readonly url: string
  readonly headers: IncomingHttpHeaders
  readonly body: string
}

/** A receiver on 127.0.0.1 that answers its n-th request as `answer` says, and keeps what it got. */
async function receiver(t: Test, answer: (response: ServerResponse, count: number, delivery: Delivery) => void) {
  const deliveries: Delivery[] = []
  const server = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', chunk => chunks.push(chunk))
    request.on('end', () => {
      const delivery = { url: request.url ?? '', headers: request.headers, body: Buffer.concat(chunks).toString('utf8') }
      deliveries.push(delivery)
      answer(response, deliveries.length, delivery)
    })
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    return new Promise(resolve => server.close(resolve))
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook`, deliveries }
}

const answering = (status: number) => (response: ServerResponse) => response.writeHead(status).end('canary-of-the-answer')

let jobs = 0

/** A job that is done, as it is stored. */
function jobOf(url: string, changes: Partial<JobRecord> = {}): JobRecord {
  const at = new Date('2026-11-21T12:00:00.123Z')
  return {
    id: `01938c00-0000-7000-8000-${String(++jobs).padStart(12, '0')}`,
    kind: 'echo',
    class: 'normal',
    model: null,
    source: 'house',
    subSource: null,
    status: 'done',
    lane: '2/echo',
    tag: '0',
    stream: false,
    attempts: 1,
    maxAttempts: 3,
    attemptNo: 2,
    processId: null,
    deviceId: null,
    provider: null,
    createdAt: at,
    startedAt: at,
    firstTokenAt: null,
    finishedAt: at,
    deadlineAt: null,
    maxCostUsd: null,
    metadata: null,
    usage: null,
    costNanoUsd: null,
    error: null,
    result: Buffer.from('{"said":"ü"}'),
    resultBytes: 13,
    webhook: { url, status: 'waiting', error: null },
    ...changes
  }
}

const describe = (job: JobRecord) =>
  Buffer.from(`{"id":"${job.id}","status":"${job.status}","result":${job.result === null ? 'null' : job.result.toString('utf8')}}`)

interface House {
  readonly webhooks: Webhooks
  readonly stored: Map<string, JobRecord>
  readonly outcomes: [string, JobWebhook['status'], string | null][]
  readonly logged: string[]
  /** Stores the job, and its ticket as it is written with its end. */
  add(job: JobRecord): Promise<JobRecord>
}

/** A process that delivers, until `t` ends. */
function house(t: Test, changes: Partial<WebhooksPorts> = {}): House {
  const stored = new Map<string, JobRecord>()
  const outcomes: House['outcomes'] = []
  const logged: string[] = []
  const webhooks = createWebhooks({
    boss,
    guarded: createGuarded({ allow: ['127.0.0.1'], ownAddresses: () => [] }),
    secret: master,
    find: async id => stored.get(id) ?? null,
    describe,
    record: async (id, { status, error }) => {
      outcomes.push([id, status, error])
    },
    async again({ id, source }) {
      outcomes.push([id, 'waiting', null])
      await boss.insert(webhookQueue, [{ data: { jobId: id }, group: { id: source } }])
      return true
    },
    now: Date.now,
    log: message => logged.push(message),
    pollMs: 50,
    ...changes
  })
  webhooks.work()
  t.teardown(() => webhooks.close())
  return {
    webhooks,
    stored,
    outcomes,
    logged,
    async add(job) {
      stored.set(job.id, job)
      await boss.insert(webhookQueue, [{ data: { jobId: job.id }, group: { id: job.source } }])
      return job
    }
  }
}

async function ticketOf(jobId: string): Promise<{ state: string; retry_count: number; delay: number } | undefined> {
  const { rows } = await database.pool.query(
    `select state, retry_count, extract(epoch from start_after - now())::float as delay
       from pgboss.job where name = $1 and data->>'jobId' = $2 order by created_on desc limit 1`,
    [webhookQueue, jobId]
  )
  return rows[0]
}

const inState = (jobId: string, state: string) => until(`the ticket is ${state}`, async () => (await ticketOf(jobId))?.state === state)

/** The wait before the next try is over. */
async function hurry(jobId: string): Promise<void> {
  await inState(jobId, 'retry')
  await database.pool.query(`update pgboss.job set start_after = now() where name = $1 and data->>'jobId' = $2`, [webhookQueue, jobId])
}

/** By the text of the standard, and not by our code. */
function isSigned({ headers, body }: Delivery, secret: string): boolean {
  const key = Buffer.from(secret.replace(/^whsec_/, ''), 'base64')
  const signature = createHmac('sha256', key).update(`${headers['webhook-id']}.${headers['webhook-timestamp']}.${body}`).digest('base64')
  return headers['webhook-signature'] === `v1,${signature}`
}

t.test('the end of a job is told to its receiver, signed with the secret of its source', async t => {
  const { url, deliveries } = await receiver(t, answering(204))
  const { add, outcomes, webhooks } = house(t)
  const job = await add(jobOf(`${url}?a=b`))
  await until('it is recorded', () => outcomes.length === 1)
  t.same(outcomes, [[job.id, 'delivered', null]])
  const [delivery] = deliveries as [Delivery]
  t.match(delivery, {
    url: '/hook?a=b',
    headers: { 'content-type': 'application/json', 'webhook-id': `${job.id}.2`, 'webhook-timestamp': /^\d{10}$/ }
  })
  t.same(JSON.parse(delivery.body), {
    type: 'job.done',
    timestamp: '2026-11-21T12:00:00.123Z',
    data: { id: job.id, status: 'done', result: { said: 'ü' } }
  })
  t.ok(Math.abs(Number(delivery.headers['webhook-timestamp']) - Date.now() / 1_000) < 60)
  const secret = webhooks.secretOf('house')
  t.match(secret, /^whsec_[A-Za-z0-9+/]{43}=$/)
  t.ok(isSigned(delivery, secret))
  t.notOk(isSigned({ ...delivery, body: `${delivery.body} ` }, secret))
  t.notOk(isSigned(delivery, webhooks.secretOf('other')))
  await inState(job.id, 'completed')
})

t.test('each source has a secret of its own, the same in every process with the same master', async t => {
  const one = house(t).webhooks
  const two = house(t).webhooks
  const other = house(t, { secret: Buffer.from('another master secret of enough bytes') }).webhooks
  t.equal(one.secretOf('house'), two.secretOf('house'))
  t.not(one.secretOf('house'), one.secretOf('house '))
  t.not(one.secretOf('house'), other.secretOf('house'))
})

t.test('a master secret that is empty or short is refused', async t => {
  for (const secret of ['', 'x'.repeat(23)]) t.throws(() => house(t, { secret: Buffer.from(secret) }), /at least 24 bytes/)
})

t.test('errors and cancelled jobs are told by their own types', async t => {
  const { url, deliveries } = await receiver(t, answering(200))
  const { add } = house(t)
  for (const status of ['error', 'cancelled'] as const) await add(jobOf(url, { status, result: null }))
  await until('both are there', () => deliveries.length === 2)
  t.same(deliveries.map(({ body }) => JSON.parse(body).type).sort(), ['job.cancelled', 'job.error'])
})

t.test('a result that is too large stays away', async t => {
  const { url, deliveries } = await receiver(t, answering(200))
  const { add } = house(t)
  const largest = jobOf(url, { result: Buffer.from(`"${'x'.repeat(60_000)}"`) })
  const tooLarge = jobOf(url, { result: Buffer.from(`"${'x'.repeat(70_000)}"`) })
  // Small as it is stored, and too large as it is shown.
  const swollen = jobOf(url, { result: Buffer.from(`"${'x'.repeat(65_500)}"`) })
  for (const job of [largest, tooLarge, swollen]) await add(job)
  await until('all are there', () => deliveries.length === 3)
  const results = new Map(deliveries.map(({ body }) => [JSON.parse(body).data.id, JSON.parse(body).data.result]))
  t.equal(results.get(largest.id)?.length, 60_000)
  t.equal(results.get(tooLarge.id), null)
  t.equal(results.get(swollen.id), null)
})

t.test('after a 500 it is tried again, later, under the same id and with a new time', async t => {
  let clock = 1_800_000_000_000
  const { url, deliveries } = await receiver(t, (response, count) => answering(count === 1 ? 500 : 200)(response))
  const { add, outcomes, webhooks } = house(t, { now: () => clock })
  const job = await add(jobOf(url))
  await inState(job.id, 'retry')
  t.same(outcomes, [[job.id, 'waiting', 'status 500']])
  const { delay } = (await ticketOf(job.id)) ?? { delay: 0 }
  t.ok(delay > 3 && delay <= 10, `${delay} s`)
  clock += 7_000
  await hurry(job.id)
  await until('it is recorded', () => outcomes.length === 2)
  t.same(outcomes[1], [job.id, 'delivered', null])
  const [first, second] = deliveries as [Delivery, Delivery]
  t.equal(first.headers['webhook-id'], second.headers['webhook-id'])
  t.equal(first.body, second.body)
  t.same(
    [first, second].map(({ headers }) => headers['webhook-timestamp']),
    ['1800000000', '1800000007']
  )
  for (const delivery of deliveries) t.ok(isSigned(delivery, webhooks.secretOf('house')))
})

t.test('redirects and other answers are no success, and nothing of their text is kept', async t => {
  const { add, outcomes } = house(t)
  const inside = await receiver(t, answering(200))
  for (const status of [302, 307, 404, 503]) {
    const { url } = await receiver(t, response => response.writeHead(status, { location: inside.url }).end('canary-of-the-answer'))
    const job = await add(jobOf(url))
    await until('it is recorded', () => outcomes.find(([id]) => id === job.id))
    t.same(
      outcomes.filter(([id]) => id === job.id),
      [[job.id, 'waiting', `status ${status}`]]
    )
  }
  t.equal(inside.deliveries.length, 0)
  t.notMatch(JSON.stringify(outcomes), /canary/)
  const { rows } = await database.pool.query(`select count(*)::int as count from pgboss.job where job::text like '%canary%'`)
  t.equal(rows[0].count, 0)
})

t.test('a receiver that says 410 is not asked again', async t => {
  const { url, deliveries } = await receiver(t, answering(410))
  const { add, outcomes } = house(t)
  const job = await add(jobOf(url))
  await inState(job.id, 'completed')
  t.same(outcomes, [[job.id, 'failed', 'status 410']])
  t.equal(deliveries.length, 1)
})

t.test('when all tries are used up, it has failed', async t => {
  const { url, deliveries } = await receiver(t, answering(500))
  const { add, outcomes } = house(t)
  const job = await add(jobOf(url))
  for (let tries = 1; tries <= 8; tries++) {
    await until(`try ${tries}`, () => outcomes.length === tries)
    await hurry(job.id)
  }
  await inState(job.id, 'failed')
  t.equal(deliveries.length, 9)
  t.same(new Set(outcomes.slice(0, 8).map(([, status]) => status)), new Set(['waiting']))
  // What stays if the process dies in the last try, and what came of it.
  t.same(outcomes.slice(8), [
    [job.id, 'failed', 'the last try was cut off'],
    [job.id, 'failed', 'status 500']
  ])
})

t.test('a receiver that hangs is left, and tried again', async t => {
  const { url } = await receiver(t, (response, count) => {
    if (count > 1) answering(200)(response)
  })
  const { add, outcomes } = house(t, { timeoutMs: 2_000 })
  const job = await add(jobOf(url))
  await hurry(job.id)
  await until('it is delivered', () => outcomes.length === 2)
  t.same(outcomes, [
    [job.id, 'waiting', '127.0.0.1 could not be asked: no answer within 2000 ms.'],
    [job.id, 'delivered', null]
  ])
})

t.test('receivers that hang hold up their own source only', async t => {
  const hanging: ServerResponse[] = []
  const dead = await receiver(t, response => hanging.push(response))
  const alive = await receiver(t, answering(200))
  const { add, outcomes } = house(t)
  for (let count = 0; count < 40; count++) await add(jobOf(dead.url, { source: 'noisy' }))
  await until('the noisy source has all it may have', () => hanging.length >= 8)
  const job = await add(jobOf(alive.url))
  await until('the other one is delivered', () => outcomes.find(([id]) => id === job.id))
  t.ok(hanging.length <= 16, `${hanging.length} at once`)
  t.same(outcomes, [[job.id, 'delivered', null]])
  await database.pool.query(`delete from pgboss.job where name = $1 and state < 'active'`, [webhookQueue])
  for (const response of hanging) response.end()
})

t.test('many webhooks are delivered at a stretch', async t => {
  const { url, deliveries } = await receiver(t, answering(200))
  const list = Array.from({ length: 100 }, (_, index) => jobOf(url, { source: `source ${index % 20}` }))
  const stored = new Map(list.map(job => [job.id, job]))
  await boss.insert(
    webhookQueue,
    list.map(job => ({ data: { jobId: job.id }, group: { id: job.source } }))
  )
  // A try that is given up on a busy machine would be tried again: this is about one try each.
  const { outcomes } = house(t, { pollMs: 1_000, timeoutMs: 50_000, find: async id => stored.get(id) ?? null })
  // Fetched one by one, with a pause after each, they would take 100 s.
  await until('all are recorded', () => outcomes.length === 100, 50_000)
  t.same(
    outcomes.filter(([, status]) => status !== 'delivered'),
    []
  )
  const ids = deliveries.map(({ headers }) => headers['webhook-id'])
  t.same(
    ids.filter((id, index) => ids.indexOf(id) !== index),
    [],
    'none came twice'
  )
  t.equal(ids.length, 100)
})

t.test('a webhook is sent again when that is asked for, under the same id', async t => {
  const { url, deliveries } = await receiver(t, answering(200))
  const { webhooks, outcomes, stored } = house(t)
  const job = jobOf(url)
  stored.set(job.id, job)
  for (const count of [1, 2]) {
    await webhooks.redeliver(job)
    await until('it is recorded', () => outcomes.length === 2 * count)
  }
  t.equal(deliveries.length, 2)
  t.same(
    outcomes.map(([, status]) => status),
    ['waiting', 'delivered', 'waiting', 'delivered']
  )
  t.same(new Set(deliveries.map(({ headers }) => headers['webhook-id'])), new Set([`${job.id}.2`]))
})

t.test('a job that is gone, runs again or has no webhook is passed over', async t => {
  const { url, deliveries } = await receiver(t, answering(200))
  const { add, stored, outcomes } = house(t)
  const gone = jobOf(url)
  await boss.send(webhookQueue, { jobId: gone.id })
  const again = await add(jobOf(url, { status: 'queued', finishedAt: null }))
  const silent = await add(jobOf(url, { webhook: null }))
  for (const { id } of [gone, again, silent]) await inState(id, 'completed')
  t.same({ deliveries, outcomes }, { deliveries: [], outcomes: [] })
  t.ok(stored.size === 2)
})

t.test('an address that may not be called is refused, recorded, and not tried again', async t => {
  const { url, deliveries } = await receiver(t, answering(200))
  const strict = createGuarded({ allow: [], ownAddresses: () => [], resolve: async () => ['127.0.0.1'] })
  const { add, outcomes, webhooks } = house(t, { guarded: strict })
  t.throws(() => webhooks.check(url), { code: 'invalid_request' })
  t.doesNotThrow(() => webhooks.check('https://hooks.example.com/'))
  const literal = await add(jobOf(url))
  const named = await add(jobOf(url.replace('127.0.0.1', 'hooks.example.com')))
  for (const { id } of [literal, named]) await inState(id, 'completed')
  t.same(
    new Map(outcomes.map(([id, status, error]) => [id, `${status}: ${error}`])),
    new Map([
      [literal.id, 'failed: The URL must lead to the public internet; 127.0.0.1 is not part of it, and the operator has not allowed it.'],
      [
        named.id,
        'failed: hooks.example.com leads to an address that is not part of the public internet, and the operator has not allowed it.'
      ]
    ])
  )
  t.equal(deliveries.length, 0)
})

t.test('what fails on our side is logged once, and tried again', async t => {
  const { url, deliveries } = await receiver(t, answering(200))
  let failures = 0
  const { add, outcomes, stored, logged } = house(t, {
    find: async id => {
      if (failures++ === 0) throw new Error('the database is away')
      return stored.get(id) ?? null
    }
  })
  const job = await add(jobOf(url))
  await until('it is logged', () => logged.length > 0)
  t.same(logged, ['a webhook could not be handled; it is tried again'])
  await expire(boss, job.id)
  await hurry(job.id)
  await until('it is recorded', () => outcomes.length > 0)
  t.same({ outcomes, deliveries: deliveries.length }, { outcomes: [[job.id, 'delivered', null]], deliveries: 1 })
})

t.test('closing waits for what is under way', async t => {
  let answer = (): void => {}
  const { url, deliveries } = await receiver(t, response => {
    answer = () => response.end()
  })
  const { webhooks, add, outcomes } = house(t)
  const job = await add(jobOf(url))
  await until('it is under way', () => deliveries.length === 1)
  const closed = webhooks.close()
  t.same(outcomes, [])
  answer()
  await closed
  t.same(outcomes, [[job.id, 'delivered', null]])
  t.equal((await ticketOf(job.id))?.state, 'completed')
})

t.test('when a process dies while it delivers, another one does it', async t => {
  const { url, deliveries } = await receiver(t, (response, count) => {
    if (count > 1) answering(200)(response)
  })
  const job = jobOf(url)
  const script = `
    import { createGuarded } from '${new URL('../../outbound/guarded.ts', import.meta.url)}'
    import { startBoss } from '${new URL('../../queue/boss.ts', import.meta.url)}'
    import { createWebhooks } from '${new URL('../../queue/webhooks.ts', import.meta.url)}'
    const { connection, job, secret } = JSON.parse(process.argv[1])
    createWebhooks({
      boss: await startBoss({ connection, supervise: false, log: console.error }),
      guarded: createGuarded({ allow: ['127.0.0.1'] }),
      secret: Buffer.from(secret),
      find: async () => ({ ...job, finishedAt: new Date(job.finishedAt), result: null }),
      describe: () => Buffer.from('{}'),
      record: async () => {},
      now: Date.now,
      log: console.error
    }).work()`
  const argument = JSON.stringify({ connection: database.connection, job, secret: master.toString() })
  const child = spawn(process.execPath, ['--input-type=module', '-e', script, argument], { stdio: ['ignore', 'ignore', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  await boss.insert(webhookQueue, [{ data: { jobId: job.id } }])
  await until('it is under way', () => deliveries.length === 1, 60_000)
  child.kill('SIGKILL')
  await once(child, 'exit')
  t.equal((await ticketOf(job.id))?.state, 'active')
  const { outcomes, stored } = house(t)
  stored.set(job.id, job)
  await expire(boss, job.id)
  await hurry(job.id)
  await until('it is recorded', () => outcomes.length === 1)
  t.same(outcomes, [[job.id, 'delivered', null]])
  t.equal(deliveries[0]?.headers['webhook-id'], deliveries[1]?.headers['webhook-id'])
})

/** As if the time that a ticket may be held were over. */
async function expire(boss: Boss, jobId: string): Promise<void> {
  await database.pool.query(`update pgboss.job set started_on = now() - interval '61 s' where name = $1 and data->>'jobId' = $2`, [
    webhookQueue,
    jobId
  ])
  await until('its expiry is seen', async () => {
    await boss.supervise(webhookQueue)
    // pg-boss looks after a queue once a minute at most.
    await database.pool.query('update pgboss.queue set monitor_on = null, monitor_claim_on = null where name = $1', [webhookQueue])
    return (await ticketOf(jobId))?.state !== 'active'
  })
}
