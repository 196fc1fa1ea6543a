// Requests that find every machine full: real clients, real processes, and a machine that must never be given more than it may have.

import t from 'tap'
import { createDatabase } from '../support/cluster.ts'
import { startGateway } from '../support/gateway.ts'
import { until } from '../support/wait.ts'
import { type Json, jobsOf, keyFor, model, startMachine, untilListed, warm } from './queue-support.ts'

const database = await createDatabase(t)
const machine = await startMachine(t)
const config = {
  machines: { box: { url: machine.origin, max_concurrency: 4 } },
  queue: { max_waiting: 500, max_waiting_per_source: 300 }
}
const options = { databaseUrl: database.url, config }
const gateways = await Promise.all([
  startGateway(t, options),
  startGateway(t, options),
  startGateway(t, { ...options, env: { LLM_MCP_ROLE: 'worker' } })
])
const [one, two] = gateways
for (const gateway of [one, two]) await untilListed(gateway)
const jobs = jobsOf(one)
const messages = (content: string) => [{ role: 'user' as const, content }]

async function queued(): Promise<number> {
  const { rows } = await database.pool.query(`select count(*)::integer as count from jobs where status = 'queued'`)
  return rows[0].count
}

/** Fills the machine, so that whoever comes next has to wait. */
async function fill(): Promise<void> {
  for (let count = 0; count < 4; count++)
    void one
      .client()
      .chat.completions.create({ model, messages: messages('filler') })
      .catch(() => {})
  await until('the machine to be full', () => machine.held.length === 4)
}

async function empty(): Promise<void> {
  machine.release()
  await until('all to be over', async () => {
    const { rows } = await database.pool.query(`select from jobs where status in ('queued', 'running') limit 1`)
    return machine.running.now === 0 && rows.length === 0
  })
  machine.hold()
}

function raw(
  content: string,
  { headers = {}, signal, ...more }: Json & { headers?: Record<string, string>; signal?: AbortSignal } = {}
): Promise<Response> {
  return one.fetch('/v1/chat/completions', {
    json: { model, messages: messages(content), ...more },
    headers,
    ...(signal === undefined ? {} : { signal })
  })
}

t.test('of fifty times as many as there are places every one is answered, and the machine is never given more than four', async t => {
  const clients = [one.client(), two.client()]
  // Its connection is made now: this process is busy for a while when it has two hundred clients.
  t.equal(await queued(), 0)
  const sent = Array.from({ length: 200 }, async (_, number) => {
    const client = clients[number % 2] as (typeof clients)[0]
    const content = `request ${number}`
    if (number % 4 !== 0) {
      const answer = await client.chat.completions.create({ model, messages: messages(content) })
      return answer.choices[0]?.message.content
    }
    let text = ''
    for await (const chunk of await client.chat.completions.create({ model, messages: messages(content), stream: true }))
      text += chunk.choices[0]?.delta.content ?? ''
    return text
  })
  const settling = Promise.allSettled(sent)
  await until('most of them to wait', async () => (await queued()) > 50, 60_000)
  machine.release()
  const settled = await settling
  t.same(
    settled.flatMap(each => (each.status === 'rejected' ? [String(each.reason)] : [])),
    []
  )
  t.ok(settled.every(each => each.status === 'fulfilled' && each.value === 'Hello'))
  t.equal(machine.said.length, 200, 'each was sent once')
  t.ok(machine.running.most <= 4, `${machine.running.most} at once`)
  await empty()
})

t.test('a stream that waits is told where it stands, long before its answer', async t => {
  await fill()
  const response = await raw('streamed', { stream: true })
  t.equal(response.status, 200)
  t.equal(machine.held.length, 4, 'no place was free yet')
  const jobId = response.headers.get('x-llm-mcp-job-id') ?? ''
  t.match(await jobs.find(jobId), { kind: 'chat', status: 'queued', priority: 'interactive', position: 1 })
  let text = ''
  for await (const piece of response.body ?? []) {
    text += Buffer.from(piece as Uint8Array).toString('utf8')
    if (/^: queued position=\d+ eta_ms=\d+\n\n/.test(text) && machine.held.length > 0) machine.release()
  }
  t.match(text, /^(: [^\n]*\n\n)+data: \{[\s\S]*data: \[DONE\]\n\n$/)
  t.match(text, /^: queued position=1 eta_ms=\d+\n\n/)
  t.match(await jobs.until(jobId, 'done'), { result: null }, 'its tokens never passed through the database')
  await empty()
})

t.test('an answer that is not streamed is held until there is a place', async t => {
  await fill()
  const answering = raw('held')
  await until('it waits', async () => (await queued()) === 1)
  await machine.next()
  await until('its call', () => machine.held.some(({ content }) => content === 'held'))
  machine.answer(machine.held.find(({ content }) => content === 'held') as (typeof machine.held)[0], 'held', ' long')
  const response = await answering
  t.equal(response.status, 200)
  t.match(await response.json(), { object: 'chat.completion', choices: [{ message: { content: 'held long' } }] })
  t.equal(response.headers.get('x-llm-mcp-reason'), 'waited')
  await empty()
})

t.test('a client that leaves frees its place in the queue; one that wants it done all the same gets a result', async t => {
  await fill()
  const before = machine.said.length
  const leaving = new AbortController()
  const staying = new AbortController()
  const left = raw('left', { signal: leaving.signal }).catch(() => null)
  await until('it waits', async () => (await queued()) === 1)
  const kept = raw('kept', { signal: staying.signal, headers: { 'x-llm-mcp-on-disconnect': 'finish' } }).catch(() => null)
  await until('both wait', async () => (await queued()) === 2)
  leaving.abort()
  staying.abort()
  await Promise.all([left, kept])
  await until('one of them to be gone', async () => (await queued()) === 1)
  const { data } = (await (await one.fetch('/v1/jobs?status=queued')).json()) as { data: Json[] }
  const [keptJob] = data
  machine.release()
  const done = await jobs.until(String(keptJob?.id), 'done')
  t.match(done, { result: { choices: [{ message: { content: 'Hello' } }] } })
  t.notOk(machine.said.slice(before).includes('left'))
  await empty()
})

t.test('a request whose deadline passes while it waits is a job that ended for that reason, whoever waited for it', async t => {
  await fill()
  const leaving = new AbortController()
  const deadline = { 'x-llm-mcp-deadline-ms': '1500' }
  const left = raw('left', { signal: leaving.signal, headers: { ...deadline, 'x-llm-mcp-on-disconnect': 'finish' } }).catch(() => null)
  const waited = raw('waited', { headers: deadline })
  await until('both wait', async () => (await queued()) === 2)
  const { data } = (await (await one.fetch('/v1/jobs?status=queued')).json()) as { data: Json[] }
  leaving.abort()
  await left
  t.match(await (await waited).json(), { error: { code: 'deadline_exceeded' } })
  for (const { id } of data) t.match(await jobs.until(String(id), 'error'), { error: { code: 'deadline_exceeded' } })
  await empty()
})

t.test('a request that is cancelled over the jobs API is told so, whether it waits or runs', async t => {
  await fill()
  const answering = raw('waits')
  await until('it waits', async () => (await queued()) === 1)
  const { data } = (await (await one.fetch('/v1/jobs?status=queued')).json()) as { data: Json[] }
  await jobsOf(two).post(String(data[0]?.id), 'cancel')
  t.match(await (await answering).json(), { error: { code: 'job_cancelled' } })
  const second = raw('runs')
  await until('it waits', async () => (await queued()) === 1)
  await machine.next()
  await until('it runs', () => machine.held.some(({ content }) => content === 'runs'))
  const running = (await (await one.fetch('/v1/jobs?status=running')).json()) as { data: Json[] }
  t.equal(running.data.length, 1)
  await jobs.post(String(running.data[0]?.id), 'cancel')
  t.match(await (await second).json(), { error: { code: 'job_cancelled' } })
  await until('the call to be closed', () => !machine.held.some(({ content }) => content === 'runs'))
  await empty()
})

t.test('who prefers to be answered later gets the job at once', async t => {
  await fill()
  const response = await raw('later', { headers: { prefer: 'respond-async' } })
  t.equal(response.status, 202)
  t.equal(response.headers.get('preference-applied'), 'respond-async')
  const job = (await response.json()) as Json
  t.equal(response.headers.get('location'), `/v1/jobs/${job.id}`)
  t.match(job, { object: 'job', status: 'queued', priority: 'interactive', result: null })
  machine.release()
  t.match(await jobs.until(String(job.id), 'done'), { result: { choices: [{ message: { content: 'Hello' } }] } })
  await empty()
})

t.test('when as many wait as may, the next is told to come again, and who is at fault', async t => {
  const few = await startGateway(t, {
    databaseUrl: (await createDatabase(t)).url,
    config: { ...config, queue: { max_waiting: 3, max_waiting_per_source: 2 } }
  })
  await untilListed(few)
  const keys = await Promise.all(['alice', 'bob'].map(source => keyFor(few, source)))
  const ask = (key: string) =>
    few.fetch('/v1/chat/completions', { json: { model, messages: messages('many') }, headers: { authorization: `Bearer ${key}` } })
  const [alice, bob] = keys as [string, string]
  await warm(few, machine)
  const sent: Promise<Response>[] = []
  for (let count = 0; count < 4; count++) sent.push(ask(few.key))
  await until('the machine to be full', () => machine.held.length === 4)
  sent.push(ask(alice), ask(alice))
  const own = await until('two of hers to wait', async () => {
    const { data } = (await (await few.fetch('/v1/jobs?status=queued')).json()) as { data: Json[] }
    return data.length === 2
  }).then(() => ask(alice))
  t.equal(own.status, 429)
  t.match(await own.json(), { error: { code: 'queue_full' } })
  t.ok(Number(own.headers.get('retry-after')) >= 1)
  sent.push(ask(bob))
  await until('his to wait', async () => ((await (await few.fetch('/v1/jobs?status=queued')).json()) as { data: Json[] }).data.length === 3)
  const all = await ask(bob)
  t.equal(all.status, 503)
  t.match(await all.json(), { error: { code: 'queue_full' } })
  t.ok(Number(all.headers.get('retry-after')) >= 1)
  machine.release()
  t.same(
    (await Promise.all(sent)).map(({ status }) => status),
    Array(7).fill(200)
  )
})
