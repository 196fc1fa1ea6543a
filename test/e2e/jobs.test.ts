// Jobs as clients meet them: over real processes, sockets and a real database.

import { once } from 'node:events'
import { type Test, t } from 'tap'
import { createDatabase } from '../support/cluster.ts'
import { startGateway } from '../support/gateway.ts'
import { speakNatively } from '../support/mind.ts'
import { answerJson, sayNatively, startCompatible, startOllama } from '../support/upstream.ts'
import { embedNatively } from '../support/vectors.ts'
import { until } from '../support/wait.ts'
import { type JobClient, type Json, jobsOf, keyFor, type Machine, model, startMachine, untilListed } from './queue-support.ts'

t.test('each kind of job is stored, run where it may run, and its result can be fetched', async t => {
  const database = await createDatabase(t)
  const capabilities = (name: string): string[] => (/embed/.test(name) ? ['embedding'] : ['completion'])
  const ollama = await startOllama(t, { models: [model, 'nomic-embed-text'], capabilities })
  ollama.behaviour = speakNatively()
  ollama.others.set(
    '/api/generate',
    speakNatively(({ texts }) => ({ text: texts }))
  )
  ollama.others.set('/api/embed', embedNatively({ dimensions: 4, seed: 1 }))
  const openai = await startCompatible(t)
  const gateway = await startGateway(t, {
    databaseUrl: database.url,
    config: {
      machines: { box: { url: ollama.origin, max_concurrency: 2 } },
      providers: { openai: { base_url: `${openai.origin}/v1`, api_key: 'sk-openai-0000000000' } }
    }
  })
  await untilListed(gateway, 'gpt-4o-mini')
  const jobs = jobsOf(gateway)
  const messages = [{ role: 'user', content: 'hello' }]
  const cases: readonly { readonly body: Json; readonly expected: Json }[] = [
    {
      body: { kind: 'chat', payload: { model, messages } },
      expected: { device: 'box', provider: 'ollama', result: { object: 'chat.completion' } }
    },
    {
      body: { type: 'openai.chat', model: 'gpt-4o-mini', payload: { messages }, stream: true },
      expected: {
        device: null,
        provider: 'openai',
        result: { object: 'chat.completion', choices: [{ message: { content: 'Hello there' } }] }
      }
    },
    {
      body: { kind: 'embed', payload: { model: 'nomic-embed-text', input: ['a', 'b'] } },
      expected: { device: 'box', result: { object: 'list', data: [{ index: 0 }, { index: 1 }] } }
    },
    {
      body: { kind: 'ollama.generate', payload: { model, prompt: 'say it' } },
      expected: { device: 'box', result: { response: /^Hello/, done: true, data: { response: /^Hello/ } } }
    },
    {
      body: { kind: 'ollama.embed', payload: { model: 'nomic-embed-text', prompt: 'a' } },
      expected: { device: 'box', result: { data: {} } }
    },
    { body: { kind: 'echo', payload: { any: ['thing'] } }, expected: { model: null, device: null, result: { any: ['thing'] } } }
  ]
  for (const { body, expected } of cases) {
    const name = String(body.kind ?? body.type)
    const { status, job, headers } = await jobs.submit(body)
    t.equal(status, 202, `${name} ${JSON.stringify(job.error)}`)
    t.equal(headers.get('location'), `/v1/jobs/${job.id}`, name)
    const done = await jobs.until(String(job.id), 'done')
    t.match(done, { object: 'job', kind: name, status: 'done', attempts: 1, error: null, ...expected }, name)
  }
  const chat = await jobs.until(await jobs.chat('again'), 'done')
  t.type(chat.cost_usd, 'number')
})

t.test('jobs of two processes: order, cancelling, trying again, and whose they are', async t => {
  const database = await createDatabase(t)
  const machine = await startMachine(t)
  const options = { databaseUrl: database.url, config: { machines: { box: { url: machine.origin, max_concurrency: 1 } } } }
  const gateways = await Promise.all([startGateway(t, options), startGateway(t, options)])
  const [one, two] = gateways
  const here = jobsOf(one)
  const there = jobsOf(two)

  await t.test('urgent ones come before interactive, normal and batch ones', async t => {
    const first = await here.chat('first')
    await here.until(first, 'running')
    const ids: string[] = []
    for (const priority of ['batch', 'normal', 'interactive', 'urgent']) ids.push(await here.chat(priority, { priority }))
    const waiting = await here.find(ids[1] as string)
    t.match(waiting, { status: 'queued', position: 1, priority: 'normal' })
    const before = machine.said.length
    for (let count = 0; count < 5; count++) await machine.next()
    for (const id of [first, ...ids]) await here.until(id, 'done')
    t.same(machine.said.slice(before), ['urgent', 'interactive', 'normal', 'batch'])
  })

  await t.test('a job that waits is cancelled, and never sent', async t => {
    const first = await here.chat('busy')
    await here.until(first, 'running')
    const id = await here.chat('never sent')
    t.match(await there.post(id, 'cancel'), { status: 200, job: { status: 'cancelled', error: { code: 'job_cancelled' }, attempts: 0 } })
    await machine.next()
    await here.until(first, 'done')
    machine.release()
    await here.until(await here.chat('after'), 'done')
    machine.hold()
    t.notOk(machine.said.includes('never sent'))
    t.match(await here.post(id, 'cancel'), { status: 200, job: { status: 'cancelled' } }, 'once more changes nothing')
    t.match(await here.post(first, 'cancel'), { status: 200, job: { status: 'done' } }, 'what is over stays as it is')
  })

  for (const [name, other] of [
    ['the process that was asked', here],
    ['any process', there]
  ] as const) {
    await t.test(`${name} can cancel a job that runs: the call to the machine is closed within 100 ms, and its place is free`, async t => {
      await cancelOften(t, machine, { here, other })
    })
  }

  await t.test('a job that is over is tried again, with all its tries', async t => {
    const id = await here.chat('again', { max_attempts: 2 })
    t.match(await there.post(id, 'retry'), { status: 409, job: { error: { code: 'job_not_finished' } } })
    await machine.next('one')
    await here.until(id, 'done')
    t.match(await there.post(id, 'retry'), { status: 202, job: { id, status: 'queued', attempts: 0, result: null, finished_at: null } })
    await machine.next('two')
    const done = await here.until(id, 'done')
    t.match(done, { attempts: 1, result: { choices: [{ message: { content: 'two' } }] } })
  })

  await t.test('the same idempotency key 50 times at once, at two gateways, is one job', async t => {
    const body = { kind: 'echo', payload: { n: 1 } }
    const sent = Array.from({ length: 50 }, (_, number) =>
      jobsOf(gateways[number % 2] as typeof one).submit(body, { 'idempotency-key': 'k' })
    )
    const answers = await Promise.all(sent)
    t.same(
      answers.filter(({ status }) => status !== 202 && status !== 200).map(({ status, job }) => ({ status, ...job })),
      [],
      'each is answered with the job'
    )
    t.same([...new Set(answers.map(({ job }) => job.id))].length, 1)
    t.same(answers.filter(({ headers }) => headers.get('idempotent-replayed') === null).length, 1, 'one of them is new')
    const id = String(answers[0]?.job.id)
    await here.until(id, 'done')
    const later = await there.submit(body, { 'idempotency-key': 'k' })
    t.match(later, { status: 200, job: { id, status: 'done' } })
    t.equal(later.headers.get('idempotent-replayed'), 'true')
    const other = await there.submit({ kind: 'echo', payload: { n: 2 } }, { 'idempotency-key': 'k' })
    t.match(other, { status: 422, job: { error: { code: 'idempotency_key_reused' } } })
    const { rows } = await database.pool.query(`select count(*)::integer as count from jobs where idempotency_key = 'k'`)
    t.equal(rows[0].count, 1)
  })

  await t.test('a key sees the jobs of its own source only, an admin key all', async t => {
    const alice = jobsOf(one, await keyFor(one, 'alice'))
    const bob = jobsOf(two, await keyFor(one, 'bob'))
    const { job } = await alice.submit({ kind: 'echo', payload: {} })
    const id = String(job.id)
    await alice.until(id, 'done')
    t.match(await bob.find(id), { httpStatus: 404, error: { code: 'not_found' } })
    t.match(await bob.post(id, 'cancel'), { status: 404 })
    t.match(await bob.post(id, 'retry'), { status: 404 })
    t.match(await there.find(id), { httpStatus: 200, source: 'alice' })
    const theirs = await bob.submit({ kind: 'echo', payload: { of: 'bob' } }, { 'idempotency-key': 'k' })
    t.match(theirs, { status: 202, job: { source: 'bob' } }, 'keys of idempotency are a source’s own')
  })

  await t.test('a job whose turn does not come before its deadline ends', async t => {
    const first = await here.chat('long')
    await here.until(first, 'running')
    const { job } = await here.submit({ kind: 'chat', payload: { model, messages: [{ role: 'user', content: 'late' }] }, deadline_ms: 300 })
    const late = await here.until(String(job.id), 'error')
    t.match(late, { error: { code: 'deadline_exceeded' }, attempts: 0 })
    await machine.next()
    await here.until(first, 'done')
    t.notOk(machine.said.includes('late'))
  })
})

t.test('a failure that may pass is tried again after a while; one that will not, and the last one, are told', async t => {
  const database = await createDatabase(t)
  const openai = await startCompatible(t)
  const gateway = await startGateway(t, {
    databaseUrl: database.url,
    config: { providers: { openai: { base_url: `${openai.origin}/v1`, api_key: 'sk-openai-0000000000' } } }
  })
  await untilListed(gateway, 'gpt-4o-mini')
  const jobs = jobsOf(gateway)
  const chat = (content: string, more: Json = {}) =>
    jobs.chat(content, { payload: { model: 'gpt-4o-mini', messages: [{ role: 'user', content }] }, ...more })
  const calls = (content: string): number => openai.calls.filter(({ text }) => text.includes(`"${content}"`)).length
  const times = new Map<string, number[]>()
  openai.behaviour = (call, response, request) => {
    const content = (call.body.messages as { content: string }[])[0]?.content ?? ''
    times.set(content, [...(times.get(content) ?? []), performance.now()])
    const number = calls(content)
    if (content === 'refused') return answerJson(400, { error: { message: 'no', code: 'bad' } })(call, response, request)
    if (content === 'always') return answerJson(500, {})(call, response, request)
    if (content === 'limited' && number === 1)
      return answerJson(429, { error: { message: 'slow' } }, { 'retry-after': '3' })(call, response, request)
    if (content === 'once' && number === 1) return answerJson(503, {})(call, response, request)
    const choices = [{ index: 0, message: { role: 'assistant', content: 'yes' }, finish_reason: 'stop' }]
    return answerJson(200, { id: 'c', object: 'chat.completion', created: 1, model: 'gpt-4o-mini', choices })(call, response, request)
  }
  // One after another: what one provoked is not to be felt by the next.
  const refused = await jobs.until(await chat('refused'), 'error')
  t.match(refused, { attempts: 1, error: { code: 'bad' } })
  t.equal(calls('refused'), 1)
  const once = await jobs.until(await chat('once'), 'done')
  t.match(once, { attempts: 2, error: null })
  t.equal(calls('once'), 2)
  const always = await jobs.until(await chat('always', { max_attempts: 2 }), 'error')
  t.match(always, { attempts: 2, max_attempts: 2, error: { code: 'upstream_unavailable' } })
  t.equal(calls('always'), 2)
  const limited = await jobs.until(await chat('limited'), 'done')
  t.match(limited, { attempts: 2 })
  const [first = 0, second = 0] = times.get('limited') ?? []
  t.ok(second - first >= 3_000, `Retry-After was kept: ${Math.round(second - first)} ms`)
  const { rows } = await database.pool.query(`select attempt, outcome from job_attempts where job_id = $1 order by attempt`, [once.id])
  t.same(rows, [
    { attempt: 1, outcome: 'retry' },
    { attempt: 2, outcome: 'done' }
  ])
})

t.test('a gateway, a worker and a planner are processes of their own, and each may be restarted', async t => {
  const database = await createDatabase(t)
  const machine = await startMachine(t)
  const config = { machines: { box: { url: machine.origin, max_concurrency: 2 } } }
  const start = (role: string) => startGateway(t, { databaseUrl: database.url, config, env: { LLM_MCP_ROLE: role } })
  const [gateway, worker] = await Promise.all([start('gateway'), start('worker'), start('planner')])
  const jobs = jobsOf(gateway)
  t.equal(worker.ready.url, undefined)

  await t.test('the worker runs what the gateway stores', async t => {
    const id = await jobs.chat('over there', { stream: true })
    await jobs.until(id, 'running')
    const { rows } = await database.pool.query('select role from processes join jobs on process_id = processes.id where jobs.id = $1', [id])
    t.same(rows, [{ role: 'worker' }])
    await machine.next('from', ' afar')
    t.match(await jobs.until(id, 'done'), { result: { choices: [{ message: { content: 'from afar' } }] } })
  })

  await t.test('what the worker runs is cancelled at the gateway: its call is closed within 100 ms', async t => {
    await cancelOften(t, machine, { here: jobs, other: jobs })
  })

  await t.test('nobody else runs it while there is no worker, and the next one does', async t => {
    const running = await jobs.chat('interrupted')
    await jobs.until(running, 'running')
    await until('the call', () => machine.held.length === 1)
    t.equal((await worker.stop('SIGKILL')).signal, 'SIGKILL')
    const waiting = await jobs.chat('waiting')
    const requeued = await jobs.until(running, 'queued')
    t.match(requeued, { attempts: 0, device: null })
    t.match(await jobs.find(waiting), { status: 'queued' })
    machine.release()
    await start('worker')
    t.match(await jobs.until(running, 'done'), { attempts: 1 })
    await jobs.until(waiting, 'done')
    t.ok(machine.running.most <= 2)
  })
})

t.test('a gateway that ends in order gives its jobs back, and they lose no try', async t => {
  const database = await createDatabase(t)
  const machine = await startMachine(t)
  const options = { databaseUrl: database.url, config: { machines: { box: { url: machine.origin, max_concurrency: 4 } } } }
  const gateway = await startGateway(t, options)
  const id = await jobsOf(gateway).chat('kept')
  await jobsOf(gateway).until(id, 'running')
  // Claimed is not called: there may be room to make first.
  await until('the call', () => machine.held.length > 0)
  machine.behaviour = sayNatively('at once')
  const stopping = gateway.stop()
  // It lets a running answer finish; this one does.
  await machine.next('in', ' time')
  t.match(await stopping, { code: 0 })
  const other = await startGateway(t, options)
  t.match(await jobsOf(other).find(id), { status: 'done', attempts: 1, result: { choices: [{ message: { content: 'in time' } }] } })
})

/** Cancels jobs that run over `other`, and says how long it took from the question until the machine saw its call closed. */
async function cancelOften(
  t: Test,
  machine: Machine,
  { here, other }: { readonly here: JobClient; readonly other: JobClient }
): Promise<void> {
  const times: number[] = []
  for (let round = 0; round < 15; round++) {
    const content = `to be cancelled ${round}`
    const id = await here.chat(content)
    await here.until(id, 'running')
    const { response } = await until('the call', () => machine.held.find(call => call.content === content))
    const closed = once(response, 'close')
    const askedAt = performance.now()
    const cancelling = other.post(id, 'cancel')
    await closed
    times.push(performance.now() - askedAt)
    t.match(await cancelling, { status: 200, job: { status: 'cancelled', error: { code: 'job_cancelled' } } })
    t.notOk(response.writableEnded, 'it was not answered')
    t.match(await here.find(id), { status: 'cancelled', attempts: 1, result: null })
    const next = await here.chat('the next')
    await here.until(next, 'running')
    await machine.next()
    await here.until(next, 'done')
  }
  // Machines that run tests are busy; the figure is about the queue, so the middle one counts. It is 7 to 21 ms on two cores, busy ones included.
  const median = times.sort((a, b) => a - b)[7] as number
  t.comment(`${times.map(Math.round).join(' ')} ms`)
  t.ok(median < 100, `${Math.round(median)} ms`)
}
