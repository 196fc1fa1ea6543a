// A request that waits while its client holds the line: what it is stored as, what its client is told, and every way it can end.

import t, { type Test } from 'tap'
import type { JobReplyEnd } from '../../queue/job-reply.ts'
import { createWaiters, type OverflowPorts, type Waiters } from '../../queue/overflow.ts'
import type { JobStatus } from '../../queue/types.ts'
import type { Run } from '../../routing/dispatch.ts'
import { GatewayError } from '../../routing/errors.ts'
import { uuidv7 } from '../../routing/ids.ts'
import type { Reply, RunSummary, WaitingPlace } from '../../routing/ports.ts'
import type { ModelRequest, Patience } from '../../routing/types.ts'
import type { JobRow } from '../../store/jobs/submit.ts'
import { until } from '../support/wait.ts'
import { caller } from './core-support.ts'

const processId = '00000000-0000-7000-8000-000000000001'
const summary: RunSummary = {
  outcome: 'ok',
  error: null,
  target: null,
  attempts: 1,
  rejected: [],
  usage: null,
  nanoUsd: null,
  ttftMs: 5,
  calls: []
}

function requestWith(patience: Patience | null = null, stream = false): ModelRequest {
  return {
    operation: 'chat',
    model: 'm',
    stream,
    localOnly: false,
    prompt: { low: 1, expected: 1 },
    longest: { low: 1, expected: 1 },
    needs: [],
    maxOutputTokens: null,
    choices: 1,
    body: { bytes: Buffer.from('{"secret":1}') },
    input: null,
    ...(patience === null ? {} : { patience })
  } as unknown as ModelRequest
}

interface Client extends Reply {
  readonly told: string[]
  readonly places: WaitingPlace[]
  readonly summaries: RunSummary[]
}

function createClient(): Client {
  const told: string[] = []
  const places: WaitingPlace[] = []
  const summaries: RunSummary[] = []
  return {
    told,
    places,
    summaries,
    waiting: place => void places.push(place),
    start: () => void told.push('start'),
    frames: () => true,
    body: () => void told.push('body'),
    finish: () => void told.push('finish'),
    fail: error => void told.push(`${error.code} ${error.publicCode}`),
    over: given => void summaries.push(given)
  }
}

interface House {
  readonly waiters: Waiters
  readonly stored: JobRow[]
  readonly cancelled: string[]
  readonly outcomes: string[]
  readonly lanes: string[]
  /** What the database says of the job. */
  status: JobStatus | null
  begin(patience?: Patience | null, stream?: boolean): { client: Client; run: Run; id: () => Promise<string> }
}

function open(t: Test, changes: Partial<OverflowPorts> = {}): House {
  const stored: JobRow[] = []
  const cancelled: string[] = []
  const outcomes: string[] = []
  const lanes: string[] = []
  const waiters = createWaiters({
    processId,
    backlog: { admit: (_asking, store) => store() },
    async submit(row) {
      stored.push(row)
      return true
    },
    cancel: async id => void cancelled.push(id),
    look: async ids =>
      new Map(
        house.status === null
          ? []
          : ids.map(id => [id, { status: house.status as JobStatus, outlook: { position: 3, etaMs: { p50: 1_200, p90: 2_400 } } }])
      ),
    usualMs: () => 4_000,
    onStored: lane => void lanes.push(lane),
    onOutcome: outcome => void outcomes.push(outcome),
    newId: () => uuidv7(Date.now()),
    log: (message, error) => t.comment(message, error),
    ...changes
  })
  t.teardown(() => waiters.close())
  const house: House = {
    waiters,
    stored,
    cancelled,
    outcomes,
    lanes,
    status: 'queued',
    begin(patience = null, stream = false) {
      const client = createClient()
      const before = stored.length
      const run = waiters.overflow({ request: requestWith(patience, stream), caller, reply: client })
      return { client, run, id: () => until('it is stored', () => stored[before]?.id) }
    }
  }
  return house
}

/** A run of the dispatch, as the runner of the attempt hands it over. */
function driven(): Run & { readonly cancels: (GatewayError | null)[]; resumed: number } {
  const cancels: (GatewayError | null)[] = []
  const run = {
    cancels,
    resumed: 0,
    resume: () => void run.resumed++,
    cancel: (error: GatewayError | null) => void cancels.push(error)
  }
  return run
}

const endWith = (changes: Partial<JobReplyEnd> = {}): JobReplyEnd => ({
  result: null,
  error: null,
  told: null,
  started: true,
  summary,
  ...changes
})
const finish: Patience = { deadlineMs: null, onDisconnect: 'finish' }

t.test('it is stored as an interactive job of this process, without its prompt, and its client is told where it stands', async t => {
  const house = open(t)
  const beganAt = Date.now()
  const { client, id } = house.begin()
  const jobId = await id()
  const [row] = house.stored
  t.match(row, {
    id: jobId,
    class: 1,
    lane: '1/chat/any/m',
    source: 'me',
    ownerProcess: processId,
    outlivesOwner: false,
    payload: null,
    stream: false
  })
  t.notMatch(JSON.stringify(row), /secret/)
  const waitsMs = (row?.deadlineAt ?? 0) - beganAt
  t.ok(waitsMs > 280_000 && waitsMs < 300_000, 'a held answer ends before what lies between gives up')
  await until('its place to be told', () => client.places.length > 0)
  t.match(client.places[0], { jobId, position: 3, etaMs: { p50: 1_200 } })
  t.same(house.lanes, ['1/chat/any/m'])
  t.same(house.outcomes, ['queued'])
  t.equal(house.waiters.held(jobId)?.client, client)
  const stream = house.begin(null, true)
  await stream.id()
  t.ok((house.stored[1]?.deadlineAt ?? 0) - beganAt > 600_000)
})

t.test('its answer is the client’s, and then it is forgotten', async t => {
  const house = open(t)
  const { client, run, id } = house.begin()
  const jobId = await id()
  const held = house.waiters.held(jobId)
  const attempt = driven()
  held?.began(attempt)
  run.resume()
  t.equal(attempt.resumed, 1)
  held?.over(endWith(), false)
  t.equal(client.summaries.length, 1)
  t.same(client.told, [], 'the attempt itself told it all else')
  t.equal(house.waiters.held(jobId), null)
})

t.test('a client that leaves takes its request out of the queue', async t => {
  const house = open(t)
  const { client, run, id } = house.begin()
  const jobId = await id()
  await until('it is known to be stored', () => house.outcomes.includes('queued'))
  run.cancel(null)
  t.same(house.cancelled, [jobId])
  t.match(client.summaries, [{ outcome: 'aborted', attempts: 0 }])
  t.equal(house.waiters.held(jobId)?.isCancelled, true, 'a claim that is on its way finds it so')
  run.cancel(null)
  t.equal(client.summaries.length, 1)
})

t.test('a client that leaves before its request is stored takes it out as soon as it is', async t => {
  const storing = Promise.withResolvers<void>()
  let jobId = ''
  const house = open(t, {
    async submit(row) {
      jobId = row.id
      await storing.promise
      return true
    }
  })
  const { client, run } = house.begin()
  await until('it is on its way', () => jobId !== '')
  run.cancel(null)
  t.same(house.cancelled, [])
  storing.resolve()
  await until('it is taken out', () => house.cancelled.length > 0)
  t.same(house.cancelled, [jobId])
  t.same(house.lanes, [], 'and nobody is sent for it')
  t.equal(client.summaries.length, 1)
})

t.test('a request that cannot be stored is refused, and its reply ends once', async t => {
  const full = new GatewayError('queue_full', 'full', { status: 429 })
  for (const [thrown, code, outcomes] of [
    [full, 'queue_full', ['full']],
    [Object.assign(new Error('no'), { code: 'ECONNREFUSED' }), 'database_unavailable', []],
    [new Error('a fault'), 'internal_error', []]
  ] as const) {
    const house = open(t, { backlog: { admit: () => Promise.reject(thrown) } })
    const { client } = house.begin()
    await until('it is over', () => client.summaries.length > 0)
    t.same(client.told, [`${code} ${code}`])
    t.same(house.outcomes, outcomes)
    t.match(client.summaries, [{ outcome: 'failed', error: { code } }])
    t.same(house.cancelled, [], 'nothing was sent')
  }
  const refusing = Promise.withResolvers<never>()
  const house = open(t, { backlog: { admit: () => refusing.promise } })
  const { client, run } = house.begin()
  run.cancel(null)
  refusing.reject(full)
  await until('it is known', () => house.outcomes.length > 0)
  t.equal(client.summaries.length, 1, 'also when its client has left meanwhile')
  t.same(client.told, [])
})

t.test('what may have been stored although nobody said so is taken out again', async t => {
  const house = open(t, { submit: () => Promise.reject(Object.assign(new Error('Connection terminated'), { code: 'ECONNRESET' })) })
  const { client } = house.begin()
  await until('it is over', () => client.summaries.length > 0)
  await until('it is taken out', () => house.cancelled.length === 1)
})

t.test('a job that is ended elsewhere ends its request', async t => {
  const house = open(t)
  const { client, id } = house.begin()
  const jobId = await id()
  house.waiters.stopped(jobId, null)
  t.same(client.told, ['client_gone job_cancelled'])
  t.same(house.cancelled, [], 'it is over already')
  const refused = house.begin()
  house.waiters.stopped(await refused.id(), new GatewayError('forbidden', 'no'))
  t.same(refused.client.told, ['forbidden forbidden'])
  const running = house.begin()
  const runningId = await running.id()
  const attempt = driven()
  house.waiters.held(runningId)?.began(attempt)
  house.waiters.stopped(runningId, null)
  t.match(attempt.cancels, [{ code: 'client_gone', publicCode: 'job_cancelled' }], 'one that runs is told through its run')
  house.waiters.stopped(uuidv7(Date.now()), null)
})

t.test('what the database says of those that wait is looked at again and again', async t => {
  const house = open(t)
  const cases = [
    ['cancelled', 'client_gone job_cancelled'],
    [null, 'client_gone job_cancelled'],
    ['error', 'no_capacity no_capacity']
  ] as const
  for (const [status, told] of cases) {
    house.status = 'queued'
    const { client, id } = house.begin()
    await id()
    await until('it waits', () => client.places.length > 0)
    house.status = status
    await until('its client to be told', () => client.told.length > 0)
    t.same(client.told, [told], String(status))
  }
})

t.test('while the database is away nobody is taken for gone', async t => {
  let isAway = true
  const looks = { count: 0 }
  const house = open(t, {
    async look(ids) {
      looks.count++
      if (isAway) throw new Error('away')
      return new Map(ids.map(id => [id, { status: 'queued', outlook: { position: 1, etaMs: null } }]))
    }
  })
  const { client } = house.begin()
  await until('two looks', () => looks.count >= 2)
  t.same(client.told, [])
  isAway = false
  await until('its place', () => client.places.length > 0)
})

t.test('whoever has waited as long as it may is told when to come again', async t => {
  const house = open(t)
  const { client, id } = house.begin({ deadlineMs: 60, onDisconnect: 'cancel' })
  const jobId = await id()
  await until('it is over', () => client.summaries.length > 0)
  t.match(client.summaries, [{ outcome: 'failed', error: { code: 'no_capacity', retryAfterMs: 4_000 } }])
  t.same(house.cancelled, [jobId])
  t.same(house.outcomes, ['queued', 'timeout'])
})

t.test('an attempt that failed and is tried again leaves its client waiting, and all its calls are told in the end', async t => {
  const house = open(t)
  const { client, id } = house.begin()
  const jobId = await id()
  const held = house.waiters.held(jobId)
  const call = (nanoUsd: number | null) => ({ target: null, settled: { nanoUsd } }) as unknown as RunSummary['calls'][number]
  held?.began(driven())
  held?.over(endWith({ told: new GatewayError('upstream_unavailable', 'no'), summary: { ...summary, calls: [call(5)] } }), true)
  t.same(client.told, [])
  t.equal(client.summaries.length, 0)
  held?.began(driven())
  held?.over(endWith({ summary: { ...summary, calls: [call(7)] } }), false)
  t.match(client.summaries, [{ attempts: 2, nanoUsd: 12 }])
})

t.test('a second wait ends as the first would have', async t => {
  const house = open(t)
  const { client, id } = house.begin({ deadlineMs: 80, onDisconnect: 'cancel' })
  const held = house.waiters.held(await id())
  held?.began(driven())
  held?.over(endWith({ told: new GatewayError('upstream_unavailable', 'no') }), true)
  await until('it is over', () => client.summaries.length > 0)
  t.same(client.told, ['no_capacity no_capacity'])
})

t.test('who wants it done without him: it keeps its prompt, outlives its process, and has no end but its deadline', async t => {
  const house = open(t)
  const { client, run, id } = house.begin(finish)
  const jobId = await id()
  t.match(house.stored[0], { outlivesOwner: true, deadlineAt: null })
  t.equal(String(house.stored[0]?.payload), '{"secret":1}')
  run.cancel(null)
  t.equal(house.waiters.held(jobId)?.client, null)
  t.equal(house.waiters.held(jobId)?.isCancelled, false)
  t.same(client.summaries, [], 'its line in the log is written when it is done')
  run.cancel(new GatewayError('server_draining', 'ends'))
  t.same(house.cancelled, [], 'when this process ends, another one does it')
  run.cancel(new GatewayError('deadline_exceeded', 'too late'))
  t.same(house.cancelled, [jobId])
  const dated = house.begin({ deadlineMs: 5_000, onDisconnect: 'finish' })
  await dated.id()
  t.ok((house.stored[1]?.deadlineAt ?? 0) > Date.now())
  dated.run.cancel(new GatewayError('server_draining', 'ends'))
  t.same(dated.client.told, ['server_draining server_draining'], 'whoever is still there is told')
})
