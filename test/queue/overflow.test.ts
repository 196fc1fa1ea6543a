// A request that waits while its client holds the line: what it is stored as, what its client is told, and every way it can end.

import { mock } from 'node:test'
import t, { type Test } from 'tap'
import type { JobReplyEnd } from '../../queue/job-reply.ts'
import { createWaiters, type OverflowPorts, type Waiters } from '../../queue/overflow.ts'
import type { JobStatus } from '../../queue/types.ts'
import { GatewayError } from '../../routing/errors.ts'
import { uuidv7 } from '../../routing/ids.ts'
import type { Reply, RunSummary, WaitingPlace } from '../../routing/ports.ts'
import type { Run } from '../../routing/run-ports.ts'
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
  /** With which errors. */
  readonly reasons: (string | null)[]
  readonly outcomes: string[]
  readonly lanes: string[]
  /** What the database says of the job. */
  status: JobStatus | null
  begin(patience?: Patience | null, stream?: boolean): { client: Client; run: Run; id: () => Promise<string> }
}

function open(t: Test, changes: Partial<OverflowPorts> = {}): House {
  const stored: JobRow[] = []
  const cancelled: string[] = []
  const reasons: (string | null)[] = []
  const outcomes: string[] = []
  const lanes: string[] = []
  const waiters = createWaiters({
    processId,
    backlog: { admit: (_asking, store) => store() },
    async submit(row) {
      stored.push(row)
      return true
    },
    async cancel(id, error) {
      cancelled.push(id)
      reasons.push(error?.code ?? null)
    },
    look: async ids =>
      new Map(
        house.status === null
          ? []
          : ids.map(id => [id, { status: house.status as JobStatus, outlook: { position: 3, etaMs: { p50: 1_200, p90: 2_400 } } }])
      ),
    expected: () => {},
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
    reasons,
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
/** From here on time passes when the test says so; and everything that happens by itself has happened when it has passed. */
function clockOf(t: Test): (ms: number) => Promise<void> {
  mock.timers.enable({ apis: ['setTimeout', 'setInterval'] })
  t.teardown(() => mock.timers.reset())
  return async ms => {
    mock.timers.tick(ms)
    for (let turns = 0; turns < 5; turns++) await new Promise(resolve => setImmediate(resolve))
  }
}

const call = (nanoUsd: number | null) => ({ target: null, settled: { nanoUsd } }) as unknown as RunSummary['calls'][number]
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
  t.ok(waitsMs >= 290_000 && waitsMs < 300_000, 'a held answer ends before what lies between gives up, here first and then in the database')
  await until('its place to be told', () => client.places.length > 0)
  t.match(client.places[0], { jobId, position: 3, etaMs: { p50: 1_200 } })
  t.same(house.lanes, ['1/chat/any/m'])
  t.same(house.outcomes, ['queued'])
  t.equal(house.waiters.held(jobId)?.client, client)
  const stream = house.begin(null, true)
  await stream.id()
  t.ok((house.stored[1]?.deadlineAt ?? 0) - beganAt > 600_000)
})

t.test('what its client was told to expect is known of the job from the first', async t => {
  const expected: unknown[] = []
  const { waiters, stored } = open(t, { expected: (id, etaMs) => void expected.push([id, etaMs]) })
  const etaMs = { p50: 26_800, p90: 40_000 }
  waiters.overflow({ request: requestWith(), caller, reply: createClient(), etaMs })
  waiters.overflow({ request: requestWith(), caller, reply: createClient() })
  await until('both to be stored', () => stored.length === 2)
  t.same(expected, [
    [stored[0]?.id, etaMs],
    [stored[1]?.id, null]
  ])
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
  t.same([house.cancelled, house.reasons], [[jobId], [null]])
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
  t.same(house.reasons, ['database_unavailable'])
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
  const pass = clockOf(t)
  const house = open(t)
  const { client, id } = house.begin({ deadlineMs: null, onDisconnect: 'cancel' })
  const jobId = await id()
  await pass(279_000)
  t.same(client.told, [])
  await pass(1_000)
  t.match(client.summaries, [{ outcome: 'failed', error: { code: 'no_capacity', retryAfterMs: 4_000 } }])
  t.same([house.cancelled, house.reasons], [[jobId], ['no_capacity']], 'and the job says the same')
  t.match(house.waiters.held(jobId), { isCancelled: true, endedBy: { code: 'no_capacity' } })
  t.same(house.outcomes, ['queued', 'timeout'])
})

t.test('a wait that its own deadline ends is told as that, whoever notices first', async t => {
  const house = open(t)
  const { client, id } = house.begin({ deadlineMs: 60, onDisconnect: 'cancel' })
  const jobId = await id()
  await until('it is over', () => client.summaries.length > 0)
  t.match(client.summaries, [{ outcome: 'failed', error: { code: 'deadline_exceeded', message: /within the 60 ms/ } }])
  t.same([house.cancelled, house.reasons], [[jobId], ['deadline_exceeded']])
  const ended = house.begin({ deadlineMs: 60_000, onDisconnect: 'cancel' })
  await ended.id()
  await until('it waits', () => ended.client.places.length > 0)
  house.status = 'error'
  await until('its client to be told', () => ended.client.told.length > 0)
  t.same(ended.client.told, ['deadline_exceeded deadline_exceeded'], 'also by the clock of the database')
})

t.test('an attempt that failed and is tried again leaves its client waiting, and all its calls are told in the end', async t => {
  const house = open(t)
  const { client, id } = house.begin()
  const jobId = await id()
  const held = house.waiters.held(jobId)
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
  t.same(client.told, ['deadline_exceeded deadline_exceeded'])
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
  t.same([house.cancelled, house.reasons], [[jobId], ['deadline_exceeded']])
  const dated = house.begin({ deadlineMs: 5_000, onDisconnect: 'finish' })
  await dated.id()
  t.ok((house.stored[1]?.deadlineAt ?? 0) > Date.now())
  dated.run.cancel(new GatewayError('server_draining', 'ends'))
  t.same(dated.client.told, ['server_draining server_draining'], 'whoever is still there is told')
})

t.test('one that waits a second time waits for what is left of its time, and its place is told meanwhile', async t => {
  const pass = clockOf(t)
  const house = open(t)
  const { client, id } = house.begin({ deadlineMs: 5_000, onDisconnect: 'cancel' })
  const held = house.waiters.held(await id())
  held?.began(driven())
  await pass(6_000)
  t.same(client.told, [], 'while it runs nothing ends it here')
  const places = client.places.length
  held?.over(endWith({ told: new GatewayError('upstream_unavailable', 'no') }), true)
  await pass(1_000)
  t.equal(client.places.length, places + 1)
  await pass(4_000)
  t.same(client.told, ['deadline_exceeded deadline_exceeded'])
})

t.test('when to come again is between a second and a minute', async t => {
  const pass = clockOf(t)
  for (const [usualMs, retryAfterMs] of [
    [20, 1_000],
    [4_000, 4_000],
    [3_600_000, 60_000]
  ] as const) {
    const house = open(t, { usualMs: () => usualMs })
    const { client, id } = house.begin()
    await id()
    await pass(280_000)
    t.match(client.summaries, [{ error: { retryAfterMs } }])
  }
})

t.test('one that is over is known for 10 s more, in which a claim finds that nobody wants it, and then forgotten', async t => {
  const pass = clockOf(t)
  const house = open(t)
  const { client, run, id } = house.begin()
  const jobId = await id()
  await pass(0)
  run.cancel(null)
  await pass(9_999)
  t.equal(house.waiters.held(jobId)?.isCancelled, true)
  house.waiters.stopped(jobId, null)
  house.waiters.stopped(jobId, new GatewayError('forbidden', 'no'))
  await pass(1)
  t.equal(house.waiters.size, 0)
  await pass(600_000)
  t.same([client.told, client.summaries.length, house.outcomes], [[], 1, ['queued']], 'it ended once')

  const claimed = house.begin()
  const claimedId = await claimed.id()
  const held = house.waiters.held(claimedId)
  await pass(0)
  claimed.run.cancel(null)
  held?.began(driven())
  held?.over(endWith({ told: new GatewayError('client_gone', 'gone') }), true)
  t.equal(house.waiters.held(claimedId), null)
  t.same([claimed.client.told, claimed.client.summaries.length], [[], 1])
})

t.test('requests that are over, or go on without their clients, keep no timers', async t => {
  const timers = (): number => process.getActiveResourcesInfo().filter(name => name === 'Timeout').length
  const house = open(t)
  const before = timers()
  const [left, kept] = [house.begin(), house.begin(finish)]
  await Promise.all([left.id(), kept.id()])
  t.equal(timers(), before + 2)
  left.run.cancel(null)
  kept.run.cancel(null)
  t.equal(timers(), before)
  const [failed, again] = [house.begin(), house.begin()]
  const [failedId, againId] = await Promise.all([failed.id(), again.id()])
  const held = house.waiters.held(againId)
  house.waiters.held(failedId)?.over(endWith(), false)
  held?.over(endWith(), true)
  t.equal(timers(), before + 1, 'attempts that were over before they had begun: one request is done, and one waits again')
  held?.began(driven())
  t.equal(timers(), before)
})

t.test('one whose client has left and wants it done waits as long as it takes, also for a second time', async t => {
  const pass = clockOf(t)
  const house = open(t)
  const { client, run, id } = house.begin(finish)
  const held = house.waiters.held(await id())
  run.cancel(null)
  await pass(3_600_000)
  held?.began(driven())
  held?.over(endWith({ told: new GatewayError('upstream_unavailable', 'no') }), true)
  await pass(3_600_000)
  t.same([house.outcomes, house.cancelled, client.summaries], [['queued'], [], []])
  held?.began(driven())
  held?.over(endWith(), false)
  t.equal(client.summaries.length, 1)
})

t.test('one that runs is called off through its run, which tells how it ended', async t => {
  const house = open(t)
  const { client, run, id } = house.begin()
  const held = house.waiters.held(await id())
  const attempt = driven()
  held?.began(attempt)
  run.cancel(null)
  t.same(attempt.cancels, [null])
  t.equal(held?.isCancelled, true)
  t.same([client.summaries, house.cancelled], [[], []])
  held?.over(endWith({ told: new GatewayError('client_gone', 'gone') }), false)
  t.same(client.told, ['client_gone client_gone'])
  t.equal(client.summaries.length, 1)
})

t.test('those that are not stored yet are not looked for, and those that are claimed are not taken for gone', async t => {
  const pass = clockOf(t)
  const storing = Promise.withResolvers<void>()
  const looking: PromiseWithResolvers<Awaited<ReturnType<OverflowPorts['look']>>>[] = []
  const house = open(t, {
    async submit() {
      await storing.promise
      return true
    },
    look() {
      looking.push(Promise.withResolvers())
      return (looking.at(-1) as (typeof looking)[0]).promise
    },
    newId: () => 'job'
  })
  const { client } = house.begin()
  await pass(2_000)
  t.equal(looking.length, 0)
  storing.resolve()
  await pass(0)
  t.equal(looking.length, 1)
  const attempt = driven()
  house.waiters.held('job')?.began(attempt)
  // It was over before the claim came here.
  looking[0]?.resolve(new Map())
  await pass(0)
  t.same([attempt.cancels, client.told], [[], []])

  const claimed = open(t)
  claimed.status = 'running'
  const waits = claimed.begin()
  await waits.id()
  await pass(3_000)
  t.same([waits.client.told, waits.client.places, waits.client.summaries], [[], [], []])
})

t.test('the cost of several attempts is known only if that of each is; one attempt is told as it was', async t => {
  const house = open(t)
  const summaries = [
    { ...summary, attempts: 4, calls: [call(5)] },
    { ...summary, calls: [call(null)] },
    { ...summary, calls: [call(7)] }
  ] as const
  const attempts = async (given: readonly RunSummary[]): Promise<readonly RunSummary[]> => {
    const { client, id } = house.begin()
    const held = house.waiters.held(await id())
    for (const [index, each] of given.entries()) {
      held?.began(driven())
      held?.over(endWith({ summary: each }), index < given.length - 1)
    }
    return client.summaries
  }
  t.equal((await attempts(summaries.slice(0, 1)))[0], summaries[0])
  t.match(await attempts(summaries), [{ attempts: 3, nanoUsd: null }])
})

t.test('after the end nobody is looked for', async t => {
  const pass = clockOf(t)
  let looks = 0
  const house = open(t, {
    async look() {
      looks++
      throw new Error('away')
    }
  })
  await house.begin().id()
  await pass(1_000)
  const before = looks
  t.ok(before > 0)
  house.waiters.close()
  await pass(5_000)
  t.equal(looks, before)
})
