// Which job gets which machine: order, machines that are full, jobs that nothing can run, and places that are handed on.

import { randomUUID } from 'node:crypto'
import t, { type Test } from 'tap'
import { createCandidates } from '../../queue/candidates.ts'
import { createWorker, type Worker, type WorkerPorts } from '../../queue/worker.ts'
import { type Planned, workAtMost } from '../../routing/brain/plan.ts'
import type { Decision } from '../../routing/decide.ts'
import { GatewayError } from '../../routing/errors.ts'
import type { ModelRequest, Target } from '../../routing/types.ts'
import { mendTickets } from '../../store/jobs/reconcile.ts'
import { releaseSlot } from '../../store/slots.ts'
import { until } from '../support/wait.ts'
import { addDevice, anotherPool, caller, catalogOf, claim, holders, requestFor, targetAt } from './core-support.ts'
import { createRows } from './rows.ts'

const rows = await createRows(t)
const { pool, boss } = rows
const me = await rows.process()
const other = await rows.process()

let made = 0
/** A machine of its own for each test, and the lanes of its model. */
async function machine(places: number) {
  const id = `box${++made}`
  const model = `model${made}`
  await addDevice(pool, id, places)
  const target = targetAt(id, model, { places })
  return { id, model, target, lane: (jobClass: number) => `${jobClass}/chat/any/${model}` }
}

interface Started {
  readonly worker: Worker
  /** What runs here, in the order it was claimed. */
  readonly ran: { jobId: string; attempt: number; target: Target | null }[]
  readonly claimedFor: string[]
  readonly refused: string[]
  readonly candidates: ReturnType<typeof createCandidates>
}

type Changes = Partial<WorkerPorts> & { readonly plan?: (request: ModelRequest) => Decision }

function start(t: Test, targets: readonly Target[], { plan: given, ...changes }: Changes = {}): Started {
  const catalog = catalogOf(targets)
  const candidates = createCandidates({ pool: changes.pool ?? pool, catalog: () => catalog, now: () => performance.now() })
  const ran: Started['ran'] = []
  const claimedFor: string[] = []
  const refused: string[] = []
  const plan = (request: ModelRequest): Decision => {
    if (given !== undefined) return given(request)
    const ranked = targets.filter(({ model }) => model === request.model)
    return { action: 'run', ranked, rejected: [], reason: 'only_target' }
  }
  const worker = createWorker({
    pool,
    processId: me,
    candidates,
    notices: { claimed: (to: string, id: string) => void claimedFor.push(`${to} ${id}`) } as WorkerPorts['notices'],
    schedule: waiting => waiting.map(({ request }) => plan(request)),
    planned: () => {},
    arrived: () => {},
    full: () => {},
    reserved: () => {},
    inFlight: () => 0,
    runsAny: () => true,
    concurrency: 1_000,
    running: () => ran.length,
    run: claimed => void ran.push(claimed),
    async refuse(list) {
      const ids = list.map(({ job }) => job.id)
      refused.push(...ids)
      await pool.query(`update jobs set status = 'error', finished_at = now() where id = any ($1::uuid[])`, [ids])
    },
    mendTickets: async ids => {
      await mendTickets(pool, boss, ids)
    },
    newId: randomUUID,
    now: () => performance.now(),
    log: message => t.comment(message),
    ...changes
  })
  t.teardown(() => worker.stop())
  return { worker, ran, claimedFor, refused, candidates }
}

/** Chat jobs of a model, with these tags. */
async function jobs(lane: string, model: string, tags: readonly number[], more: object = {}): Promise<string[]> {
  const ids: string[] = []
  for (const tag of tags) ids.push(await rows.job({ lane, class: Number(lane[0]), tag, request: requestFor(model), caller, ...more }))
  return ids
}

async function work({ worker, candidates }: Started): Promise<void> {
  await candidates.refresh()
  worker.wake()
}

t.test('a machine with many places takes the best jobs of all, not a few of each lane', async t => {
  const { model, target, lane } = await machine(8)
  const normal = await jobs(lane(2), model, [1, 2, 3, 4, 5, 6])
  const interactive = await jobs(lane(1), model, [100, 200, 300, 400, 500, 600])
  const started = start(t, [target])
  await work(started)
  await until('eight to run', () => started.ran.length === 8)
  t.same(
    started.ran.map(({ jobId }) => jobId),
    [...interactive, ...normal.slice(0, 2)]
  )
})

t.test('two models of one machine take turns by their tags', async t => {
  const { id, model, target, lane } = await machine(7)
  const second = targetAt(id, `${model}-b`, { places: 7 })
  const light = await jobs(`2/chat/any/${model}-b`, `${model}-b`, [2_500, 9_000])
  const flood = await jobs(lane(2), model, [1_000, 2_000, 3_000, 4_000, 5_000, 6_000, 7_000])
  const started = start(t, [target, second])
  await work(started)
  await until('seven to run', () => started.ran.length === 7)
  t.same(
    started.ran.map(({ jobId }) => jobId),
    [...flood.slice(0, 2), light[0], ...flood.slice(2, 6)]
  )
})

t.test('jobs that nothing can run now make way, and those that never can are told', async t => {
  const { model, target, lane } = await machine(3)
  const ids = await jobs(lane(2), model, [1, 2, 3, 4, 5, 6, 7])
  const started = start(t, [target], {
    plan(request) {
      const tag = (request as unknown as { tag: number }).tag
      if (tag <= 5) return { action: 'refuse', error: new GatewayError('no_capacity', 'rests', { retryAfterMs: 1 }), rejected: [] }
      if (tag === 6) return { action: 'refuse', error: new GatewayError('forbidden', 'no'), rejected: [] }
      return { action: 'run', ranked: [target], rejected: [], reason: 'only_target' }
    }
  })
  await pool.query(`update jobs set request = json_build_object('tag', tag) where id = any ($1::uuid[])`, [ids])
  await work(started)
  await until('the last to run, and the one that never can to be told', () => started.ran.length === 1 && started.refused.length > 0)
  t.equal(started.ran[0]?.jobId, ids[6])
  t.same(started.refused, [ids[5]])
  for (const id of ids.slice(0, 5)) t.match(await rows.read(id), { status: 'queued', ready: false, attempts: 0 })
})

t.test('a model that is gone for a while is waited for; after a day nobody does', async t => {
  const { model, target, lane } = await machine(1)
  const [fresh, old] = await jobs(lane(2), model, [1, 2])
  await pool.query(`update jobs set created_at = now() - interval '25 hours' where id = $1`, [old])
  const started = start(t, [target], {
    plan: () => ({ action: 'refuse', error: new GatewayError('model_not_found', 'gone'), rejected: [] })
  })
  await work(started)
  await until('one to be refused', () => started.refused.length === 1)
  t.same(started.refused, [old])
  await until('the other to be set aside', async () => (await rows.read(fresh as string))['ready'] === false)
})

t.test('when a machine is full its jobs wait, and the next one goes when a place is free', async t => {
  const { id, model, target, lane } = await machine(1)
  const [first, second] = await jobs(lane(2), model, [1, 2])
  const started = start(t, [target])
  await work(started)
  await until('one to run', () => started.ran.length === 1)
  started.worker.wake()
  const [held] = await holders(pool, id)
  t.equal(started.ran[0]?.jobId, first)
  await releaseSlot(pool, id, held?.attempt as string)
  started.worker.forgetFull(id)
  started.worker.wake()
  await until('the other to run', () => started.ran.length === 2)
  t.equal(started.ran[1]?.jobId, second)
})

t.test('a place that is handed on goes to the best job that waits for that machine, and stays where it is when there is none', async t => {
  const { id, model, target, lane } = await machine(1)
  const attemptId = randomUUID()
  const running = await rows.job({ lane: lane(2) })
  await claim(pool, { jobId: running, processId: me, deviceId: id, attemptId })
  const started = start(t, [target])
  t.equal(await started.worker.handOver(id, attemptId), false)
  t.same(await holders(pool, id), [{ process: me, attempt: attemptId }])
  const [late] = await jobs(lane(2), model, [50])
  const [early] = await jobs(lane(2), model, [40])
  const [theirs] = await jobs(lane(1), model, [90], { owner_process: other })
  await started.candidates.refresh()
  t.equal(await started.worker.handOver(id, attemptId), true)
  t.same(started.claimedFor, [`${other} ${theirs}`], 'the process that holds the client is told')
  const [{ process, attempt } = { process: null, attempt: null }] = await holders(pool, id)
  t.equal(process, other)
  t.equal(await started.worker.handOver(id, attemptId), false, 'a place is handed on once')
  t.equal(await started.worker.handOver(id, attempt as string), true)
  t.same(
    started.ran.map(({ jobId }) => jobId),
    [early]
  )
  t.match(await rows.read(late as string), { status: 'queued' })
})

t.test('a job that somebody only looks at does not lose its turn by that', async t => {
  const { id, model, target, lane } = await machine(1)
  const attemptId = randomUUID()
  await claim(pool, { jobId: await rows.job({ lane: lane(2) }), processId: me, deviceId: id, attemptId })
  const [first, second] = await jobs(lane(2), model, [1, 2])
  const looking = await pool.connect()
  await looking.query('begin')
  await looking.query('select from jobs where id = $1 for update', [first])
  let looks = 0
  const schedule: WorkerPorts['schedule'] = waiting => {
    looks++
    return waiting.map(() => ({ action: 'run', ranked: [target], rejected: [], reason: 'only_target' }))
  }
  // Before the second look the other one has found no place for it.
  const patient = new Proxy(pool, {
    get(of, name) {
      if (name !== 'query') return Reflect.get(of, name, of)
      return async (...asked: [never]) => {
        if (looks === 2) await looking.query('rollback')
        return of.query(...asked)
      }
    }
  })
  const started = start(t, [target], { pool: patient, schedule })
  await started.candidates.refresh()
  t.equal(await started.worker.handOver(id, attemptId), true)
  looking.release()
  t.same(
    started.ran.map(({ jobId }) => jobId),
    [first]
  )
  t.match(await rows.read(second as string), { status: 'queued' })
})

t.test('after the end nothing is claimed, nor handed on', async t => {
  const { id, model, target, lane } = await machine(1)
  const attemptId = randomUUID()
  await claim(pool, { jobId: await rows.job(), processId: me, deviceId: id, attemptId })
  await jobs(lane(2), model, [1])
  const started = start(t, [target])
  await started.candidates.refresh()
  await started.worker.stop()
  started.worker.wake()
  t.equal(await started.worker.handOver(id, attemptId), false)
  t.same(started.ran, [])
})

t.test('a process that runs as much as it may leaves the jobs of nobody, and still sees to requests', async t => {
  const { model, target, lane } = await machine(9)
  const nobodys = await jobs(lane(1), model, [1, 2, 3])
  const [request] = await jobs(lane(1), model, [4], { owner_process: other })
  const started = start(t, [target], { concurrency: 2 })
  await work(started)
  await until('the request to be claimed', () => started.claimedFor.length === 1)
  t.same(started.claimedFor, [`${other} ${request}`])
  t.same(
    started.ran.map(({ jobId }) => jobId),
    nobodys.slice(0, 2)
  )
})

t.test('what is rented for a request is rented by the process that holds its client', async t => {
  const model = `rented${++made}`
  const target = targetAt('cloud', model, { own: false })
  const lane = `1/chat/any/${model}`
  await jobs(lane, model, [1], { owner_process: other })
  const [ours, nobodys] = [(await jobs(lane, model, [2], { owner_process: me }))[0], (await jobs(lane, model, [3]))[0]]
  const started = start(t, [target])
  await work(started)
  await until('two to run', () => started.ran.length === 2)
  t.same(
    started.ran.map(({ jobId }) => jobId),
    [ours, nobodys]
  )
  t.same(started.claimedFor, [])
})

t.test('a job whose ticket is lost gets another, and runs', async t => {
  const { model, target, lane } = await machine(1)
  const id = await rows.job({ lane: lane(2), request: requestFor(model), caller }, 'none')
  const started = start(t, [target])
  await work(started)
  await until('it runs', () => started.ran.length === 1)
  t.match(started.ran, [{ jobId: id, attempt: 1 }])
})

t.test('several workers take every job once, and all that there is', async t => {
  const { id, model, target, lane } = await machine(40)
  const ids = await jobs(
    lane(2),
    model,
    Array.from({ length: 40 }, (_, number) => number)
  )
  // None of them could do it alone.
  const workers = Array.from({ length: 3 }, () => start(t, [target], { concurrency: 14, pool: anotherPool(t, pool) }))
  await Promise.all(workers.map(work))
  await until('all to run', () => workers.reduce((sum, { ran }) => sum + ran.length, 0) === 40)
  const ran = workers.flatMap(({ ran: mine }) => mine.map(({ jobId }) => jobId))
  t.same(ran.toSorted(), ids.toSorted())
  t.equal((await holders(pool, id)).filter(({ attempt }) => attempt !== null).length, 40)
})

t.test('claims that are made at once get different jobs, the best first', async t => {
  const { id, model, target, lane } = await machine(8)
  const ids = await jobs(lane(2), model, [1, 2, 3, 4, 5, 6, 7, 8, 9])
  // Somebody else is at the first two, for as long as it takes.
  const elsewhere = await anotherPool(t, pool).connect()
  await elsewhere.query('begin')
  await elsewhere.query('select from jobs where id = any ($1::uuid[]) for update', [ids.slice(0, 2)])
  const asked: string[] = []
  const counting = anotherPool(t, pool)
  const query = counting.query.bind(counting) as (...given: unknown[]) => unknown
  Object.assign(counting, {
    query(...given: [{ readonly name?: string; readonly values?: readonly unknown[] }]) {
      if (given[0].name === 'jobs.claim') asked.push(((given[0].values ?? [])[0] as string[]).map(job => ids.indexOf(job)).join(' '))
      return query(...given)
    }
  })
  const started = start(t, [target], { pool: counting, concurrency: 3 })
  await work(started)
  await until('three to run', () => started.ran.length === 3)
  await elsewhere.query('rollback')
  elsewhere.release()
  t.same(
    started.ran.map(({ jobId }) => jobId),
    ids.slice(2, 5)
  )
  t.equal(asked[0], '0', 'at first one is asked for')
  t.equal(asked[1], '1 2 3 4 5 6 7', 'then those behind it as well')
  t.equal((await holders(pool, id)).filter(({ attempt }) => attempt !== null).length, 3)
})

t.test('the end of a request that nobody holds any more is not waited for by those behind it', async t => {
  const { model, target, lane } = await machine(8)
  const [gone] = await jobs(lane(1), model, [1], { owner_process: me })
  const started = start(t, [target])
  await work(started)
  await until('it begins, and so ends', () => started.ran.length === 1)
  t.equal(started.ran[0]?.jobId, gone)
})

t.test('a long row of jobs that wait keeps none behind it from a machine that is free', async t => {
  const busy = await machine(1)
  const free = await machine(1)
  // One lane: what follows in it is seen only after those before it.
  await jobs(
    busy.lane(2),
    busy.model,
    Array.from({ length: 31 }, (_, at) => at + 1)
  )
  const waiting = await jobs(busy.lane(1), busy.model, [1, 2, 3, 4])
  const [last] = await jobs(free.lane(2), free.model, [1_000])
  const asked: number[] = []
  const started = start(t, [busy.target, free.target], {
    schedule(all) {
      asked.push(all.length)
      return all.map(({ request }, at) =>
        at < workAtMost && request.model === free.model
          ? { action: 'run', ranked: [free.target], rejected: [], reason: 'only_target' }
          : { action: 'enqueue', feasible: [busy.target], rejected: [] }
      )
    }
  })
  await work(started)
  await until('the last to run', () => started.ran.length === 1)
  t.equal(started.ran[0]?.jobId, last)
  t.equal(waiting.length, 4)
  t.ok(Math.max(...asked) <= workAtMost, 'as many as are planned together')
})

t.test('whoever would hear its answer too late makes way for the next, and is told so at once', async t => {
  const { model, target, lane } = await machine(2)
  const estimate = (missShare: number, p90: number) => ({ missShare, raw: { p50: p90, p90 } })
  const planned = (request: ModelRequest) => {
    const isLate = request.id === 'late'
    return {
      work: { leftS: 4, isStream: false },
      estimates: [isLate ? estimate(0, 3.9) : estimate(0, 2)],
      best: null
    } as unknown as Planned
  }
  const started = start(t, [target], {
    plan: request => ({ action: 'run', ranked: [target], rejected: [], reason: 'only_target', planned: planned(request) })
  })
  const named = (id: string) => ({ request: { ...requestFor(model), id }, owner_process: me })
  const [first] = await jobs(lane(1), model, [1], named('late'))
  const [second] = await jobs(lane(1), model, [2], named('in time'))
  // Nobody holds the line for it, so nobody is late.
  const [third] = await jobs(lane(1), model, [3], { ...named('late'), owner_process: null })
  await work(started)
  await until('two to run', () => started.ran.length === 2)
  t.same(
    started.ran.map(({ jobId }) => jobId),
    [second, third]
  )
  t.same(started.refused, [first])
})

t.test('one that is late and alone is tried all the same', async t => {
  const { model, target, lane } = await machine(1)
  const planned = {
    work: { leftS: 4, isStream: false },
    estimates: [{ missShare: 0.9, raw: { p50: 9, p90: 9 } }],
    best: null
  } as unknown as Planned
  const started = start(t, [target], {
    plan: () => ({ action: 'run', ranked: [target], rejected: [], reason: 'only_target', planned })
  })
  const [only] = await jobs(lane(1), model, [1], { owner_process: me })
  await work(started)
  await until('it to run', () => started.ran.length === 1)
  t.same(
    started.ran.map(({ jobId }) => jobId),
    [only]
  )
})
