// When the worker looks, what it leaves alone in a look, and when it stops: without a database, and by a clock of the test's.

import { mock } from 'node:test'
import t, { type Test } from 'tap'
import type { Reach } from '../../queue/lanes.ts'
import { createWorker, type WorkerPorts } from '../../queue/worker.ts'
import type { Planned } from '../../routing/brain/plan.ts'
import type { Estimate } from '../../routing/brain/types.ts'
import type { Decision, Rejected } from '../../routing/decide.ts'
import { GatewayError } from '../../routing/errors.ts'
import type { Target } from '../../routing/types.ts'
import type { Candidate } from '../../store/jobs/candidates.ts'
import type { ClaimOutcome } from '../../store/jobs/claim.ts'
import { targetAt } from './core-support.ts'

const box = targetAt('box', 'm', { places: 1 })
const cloud = targetAt('cloud', 'm', { own: false })
const reaching = (devices: readonly string[], unbounded = false): Reach => ({ devices: new Set(devices), unbounded }) as Reach

function job(id: string, more: Partial<Candidate> = {}): Candidate {
  const lane = id.replace(/\d+$/, '')
  return { id, lane, class: 2, attemptNo: 0, createdAt: new Date(), ownerProcess: null, request: { id }, caller: {}, ...more }
}

/** A queue that is `waiting`, in that order; `steps` = what the worker did: looks, and the first job and the target of each claim. */
function house(t: Test, changes: Partial<WorkerPorts> = {}) {
  mock.timers.enable({ apis: ['setTimeout', 'setInterval'] })
  let nowMs = 10_000
  const state = {
    waiting: [] as Candidate[],
    reach: reaching(['box']),
    each: 32,
    steps: [] as string[],
    ranked: new Map<string, readonly Target[]>(),
    refusals: new Map<string, GatewayError>(),
    rejected: new Map<string, readonly Rejected[]>(),
    refused: [] as string[],
    logged: 0,
    /** Before a look goes on, and before a claim is answered. */
    beforeLook: async () => {},
    beforeClaim: async () => {},
    refresh: async () => {},
    claim: ([first]: readonly string[]): Partial<ClaimOutcome> => ({ outcome: 'claimed', job: first as string, attempt: 1, runner: 'me' })
  }

  async function query({ name, values }: { name: string; values: [string[], string | null] }): Promise<{ rows: unknown[] }> {
    const [ids, device] = values
    if (name === 'jobs.claim') {
      state.steps.push(`${ids.join(' ')} at ${device ?? 'a provider'}`)
      await state.beforeClaim()
      const outcome = state.claim(ids)
      if (outcome.outcome === 'claimed') state.waiting = state.waiting.filter(({ id }) => id !== outcome.job)
      return { rows: [outcome] }
    }
    state.waiting = state.waiting.filter(({ id }) => !ids.includes(id))
    return { rows: [] }
  }

  const worker = createWorker({
    pool: { query } as unknown as WorkerPorts['pool'],
    processId: 'me',
    candidates: {
      add: () => {},
      refresh: () => state.refresh(),
      reach: () => state.reach,
      lanes: wanted => (wanted(state.reach, 2) ? ['lane'] : []),
      async heads() {
        state.steps.push('look')
        await state.beforeLook()
        const { waiting } = state
        return {
          each: state.each,
          pages: (async function* () {
            yield waiting
          })()
        }
      },
      served: () => {}
    },
    notices: { claimed: () => {} } as unknown as WorkerPorts['notices'],
    schedule: waiting =>
      waiting.map(({ request }) => {
        const { id } = request as unknown as { id: string }
        const error = state.refusals.get(id)
        if (error !== undefined) return { action: 'refuse', error, rejected: state.rejected.get(id) ?? [] }
        return { action: 'run', ranked: state.ranked.get(id) ?? [box], rejected: [], reason: 'only_target' }
      }),
    planned: () => {},
    arrived: () => {},
    full: () => {},
    reserved: () => {},
    inFlight: () => 0,
    runsAny: () => true,
    concurrency: 1_000,
    running: () => 0,
    run: () => {},
    async refuse(refused) {
      state.refused.push(...refused.map(({ job }) => job.id))
      state.waiting = state.waiting.filter(({ id }) => !state.refused.includes(id))
    },
    mendTickets: async () => {},
    newId: () => 'attempt',
    now: () => nowMs,
    log: () => void state.logged++,
    ...changes
  })
  t.teardown(async () => {
    await worker.stop()
    mock.timers.reset()
  })
  const settle = async (): Promise<void> => {
    for (let turns = 0; turns < 20; turns++) await new Promise(resolve => setImmediate(resolve))
  }
  return {
    state,
    worker,
    settle,
    async pass(ms: number) {
      nowMs += ms
      mock.timers.tick(ms)
      await settle()
    },
    /** What it did since it was asked last, when it is woken. */
    async woken() {
      worker.wake()
      await settle()
      return state.steps.splice(0)
    }
  }
}

t.test('it looks once at a time, and once more when it was woken meanwhile', async t => {
  const { state, worker, settle } = house(t)
  const looking = Promise.withResolvers<void>()
  state.beforeLook = () => looking.promise
  for (let times = 0; times < 3; times++) {
    worker.wake()
    await settle()
  }
  t.same(state.steps, ['look'])
  looking.resolve()
  await settle()
  t.same(state.steps, ['look', 'look'])
})

t.test('a job counts once for what is loaded, and a request that somebody waits for not again', async t => {
  const counted: Decision[] = []
  const { state, woken } = house(t, { arrived: decision => void counted.push(decision) })
  state.waiting = [job('a1'), job('a2', { ownerProcess: 'me' }), job('a3', { ownerProcess: 'other' })]
  state.claim = () => ({ outcome: 'full', job: 'a1' })
  await woken()
  t.equal(counted.length, 1)
  await woken()
  t.equal(counted.length, 1)
})

t.test('a machine that was full is left alone for 200 ms, and looked at again when they are over', async t => {
  const { state, woken, pass, worker } = house(t)
  state.waiting = [job('a1')]
  state.claim = () => ({ outcome: 'full', job: 'a1' })
  t.same(await woken(), ['look', 'a1 at box'])
  t.same(await woken(), [])
  for (let times = 0; times < 2; times++) {
    await pass(200)
    t.same(state.steps.splice(0), [])
    await pass(1)
    t.same(state.steps.splice(0), ['look', 'a1 at box'])
  }
  for (const device of ['box', null]) {
    worker.forgetFull(device)
    t.same(await woken(), ['look', 'a1 at box'], 'unless it is known to have a place')
  }
})

t.test('so many of one lane at a time, then it looks again: others may come before the next', async t => {
  const { state, woken } = house(t)
  state.each = 2
  state.waiting = [job('a1'), job('a2'), job('a3'), job('b1')]
  t.same(await woken(), ['look', 'a1 at box', 'a2 at box', 'look', 'a3 at box', 'b1 at box', 'look'])
})

t.test('when others were quicker it asks for several that could take each other’s place, and looks three times at most', async t => {
  const { state, woken, pass } = house(t)
  state.waiting = [job('a1')]
  state.claim = () => ({ outcome: 'gone' })
  t.same(await woken(), ['look', 'a1 at box', 'look', 'a1 at box', 'look', 'a1 at box'])

  state.waiting = [job('a1'), job('a2'), job('b1'), job('a3'), job('a4')]
  state.ranked.set('a3', [cloud, box])
  state.claim = ids => ({ outcome: 'claimed', job: ids[1] ?? (ids[0] as string), attempt: 1, runner: 'me' })
  t.same(await woken(), ['look', 'a1 a2 a4 at box', 'b1 at box', 'a3 at a provider', 'a4 at box', 'look', 'a1 at box', 'look'])

  await pass(1_001)
  state.steps = []
  state.waiting = [job('a1'), job('a2')]
  t.same(await woken(), ['look', 'a1 at box', 'a2 at box', 'look'], 'for a second')

  let claims = 0
  state.waiting = [job('a1')]
  state.claim = () => {
    if (++claims !== 3) return { outcome: 'gone' }
    state.waiting = [job('a1'), job('a2')]
    return { outcome: 'claimed', job: 'a1', attempt: 1, runner: 'me' }
  }
  const looks = [1, 2, 3].flatMap(() => ['look', 'a1 at box'])
  t.same(await woken(), [...looks, ...looks.map(step => step.replace('a1', 'a2'))], 'whoever gets one begins to count anew')
})

t.test('one that is stopped in the middle of a look goes no further', async t => {
  const { state, worker, settle } = house(t)
  state.waiting = [job('a1'), job('a2')]
  const claiming = Promise.withResolvers<void>()
  state.beforeClaim = () => claiming.promise
  worker.wake()
  await settle()
  const stopping = worker.stop()
  claiming.resolve()
  await stopping
  t.same(state.steps, ['look', 'a1 at box'])
})

t.test('a batch waits for a machine of ours that could do it, others take what comes first', async t => {
  const { state, woken } = house(t)
  const all = [job('a1', { class: 2 }), job('b1', { class: 3 }), job('c1', { class: 4 })]
  state.waiting = all
  for (const { id } of all) state.ranked.set(id, [cloud, box])
  t.same(await woken(), ['look', 'a1 at a provider', 'b1 at box', 'c1 at box', 'look'])
  state.waiting = all
  state.reach = reaching([], true)
  t.same(await woken(), ['look', 'a1 at a provider', 'b1 at a provider', 'c1 at a provider', 'look'], 'where there is one')
})

t.test('no more than 64 at once are sent to one provider', async t => {
  let inFlight = 64
  const { state, woken } = house(t, { inFlight: () => inFlight })
  state.reach = reaching([], true)
  state.waiting = [job('a1')]
  state.ranked.set('a1', [cloud])
  t.same(await woken(), ['look'])
  inFlight = 63
  t.same(await woken(), ['look', 'a1 at a provider', 'look'])
})

t.test('a queue that cannot be read is told of once, until it could be read again', async t => {
  const { state, pass } = house(t)
  const away = () => Promise.reject(new Error('away'))
  for (const logged of [1, 2]) {
    state.refresh = away
    for (let times = 0; times < 3; times++) await pass(1_000)
    t.equal(state.logged, logged)
    state.refresh = async () => {}
    await pass(1_000)
  }
})

t.test('once a minute jobs that nothing can ever run again are ended, by those who run jobs of nobody', async t => {
  for (const runsAny of [true, false]) {
    const { state, pass } = house(t, { runsAny: () => runsAny })
    state.reach = reaching([])
    state.waiting = [job('a1'), job('b1', { ownerProcess: 'other' }), job('c1'), job('d1', { request: null }), job('e1')]
    for (const id of ['a1', 'b1', 'd1']) state.refusals.set(id, new GatewayError('forbidden', 'no'))
    state.refusals.set('c1', new GatewayError('no_capacity', 'rests', { retryAfterMs: 1 }))
    for (let seconds = 0; seconds < 59; seconds++) await pass(1_000)
    t.same(state.refused, [])
    await pass(1_000)
    t.same(state.refused, runsAny ? ['a1'] : [])
    mock.timers.reset()
  }
})

t.test('what may not leave the house and has no machine there waits for a day, for one that is away as long as it takes', async t => {
  const { state, woken } = house(t)
  const yesterday = new Date(Date.now() - 25 * 3_600_000)
  const refuse = (id: string, rejected: readonly Rejected[], createdAt: Date): Candidate => {
    state.refusals.set(id, new GatewayError('no_capacity', 'not here', { shouldRetry: false }))
    state.rejected.set(id, rejected)
    return job(id, { createdAt })
  }
  const far: Rejected = { target: 'cloud/m', reason: 'not_local' }
  state.waiting = [
    refuse('a1', [far], new Date()),
    refuse('b1', [far], yesterday),
    refuse('c1', [far, { target: 'box/m', reason: 'down' }], yesterday)
  ]
  await woken()
  t.same(state.refused, ['b1'])
})

t.test('of those that wait the first are told about, each with those before it; of a long row once a second', async t => {
  const told: string[][] = []
  const { state, woken, pass } = house(t, {
    planned: (jobs, decisions) => void told.push(jobs.map(({ id }, at) => `${id} ${decisions[at]?.action}`)),
    schedule: waiting => waiting.map(() => ({ action: 'enqueue', feasible: [box], rejected: [] }))
  })
  state.waiting = [job('a1'), job('a2')]
  await woken()
  t.same(told.splice(0), [['a1 enqueue', 'a2 enqueue']])
  state.waiting = Array.from({ length: 40 }, (_, at) => job(`b${at}`))
  await woken()
  await woken()
  t.same(
    told.splice(0).map(names => [names.length, names[0], names.at(-1)]),
    [[32, 'b0 enqueue', 'b31 enqueue']]
  )
  await pass(1_000)
  t.equal(told.length, 1)
})

t.test('a call to a provider counts from its claim on, before its request is read', async t => {
  const told: string[] = []
  const { state, woken } = house(t, {
    reserved: ({ id }, attemptId) => void told.push(`${attemptId} on ${id}`),
    run: ({ jobId }) => void told.push(`${jobId} runs`)
  })
  state.reach = reaching([], true)
  state.waiting = [job('a1')]
  state.ranked.set('a1', [cloud])
  await woken()
  t.same(told, ['attempt on cloud/m', 'a1 runs'])
})

t.test('what waits for a limit of a provider is looked at again as soon as that takes another call', async t => {
  const best = { option: { site: { own: null } }, waitS: 0.3 } as unknown as Estimate
  const planned = { best } as Planned
  const { state, woken, pass } = house(t, {
    schedule: waiting => waiting.map(() => ({ action: 'enqueue', feasible: [cloud], rejected: [], planned }))
  })
  state.reach = reaching([], true)
  state.waiting = [job('a1')]
  t.same(await woken(), ['look'])
  await pass(299)
  t.same(state.steps.splice(0), [])
  await pass(1)
  t.same(state.steps.splice(0), ['look'])
})
