// The attempts of one process: begun once, ended as the error table says, stopped without a word, and given back at the end.

import { randomUUID } from 'node:crypto'
import t, { type Test } from 'tap'
import { createJobReply } from '../../queue/job-reply.ts'
import { createRuns, type Held, type RunsPorts } from '../../queue/runs.ts'
import { type ErrorCode, GatewayError } from '../../routing/errors.ts'
import type { Reply, RunSummary } from '../../routing/ports.ts'
import type { Claimed, Run } from '../../routing/run-ports.ts'
import type { ModelRequest } from '../../routing/types.ts'
import { until } from '../support/wait.ts'
import { addDevice, caller, claim, holders, requestFor, targetAt } from './core-support.ts'
import { createRows } from './rows.ts'

const rows = await createRows(t)
const { pool, boss } = rows
const me = await rows.process()
const target = targetAt('box', 'm', { places: 50 })
await addDevice(pool, 'box', 50)

/** A run of the dispatch, driven by hand. */
interface Driven {
  readonly request: ModelRequest
  readonly reply: Reply
  readonly claimed: Claimed | undefined
  cancelled: GatewayError | 'silent' | null
  answer(json?: string): void
  fail(error: GatewayError, started?: boolean): void
}

const summary: RunSummary = {
  outcome: 'ok',
  error: null,
  target,
  attempts: 1,
  rejected: [],
  usage: null,
  nanoUsd: null,
  ttftMs: 5,
  calls: []
}

function start(t: Test, changes: Partial<RunsPorts> = {}) {
  const driven: Driven[] = []
  const finished: string[] = []
  const released: string[] = []
  const over: (string | null)[] = []
  const ready: string[] = []
  const runs = createRuns({
    pool,
    boss,
    notices: { changed: () => {}, ready: (lane: string) => void ready.push(lane) } as unknown as RunsPorts['notices'],
    processId: me,
    unstored: () => [],
    log: (message, error) => t.comment(message, error),
    dispatch: {
      run(request, _caller, reply, claimed): Run {
        const mine: Driven = {
          request,
          reply,
          claimed,
          cancelled: null,
          answer(json = '{"ok":true}') {
            reply.start({ target, reason: 'waited', nanoUsd: null, dropped: [] })
            reply.body(Buffer.from(json))
            reply.finish(null)
            reply.over(summary)
          },
          fail(error, started = false) {
            if (started) reply.start({ target, reason: 'waited', nanoUsd: null, dropped: [] })
            reply.fail(error)
            reply.over({ ...summary, outcome: 'failed', error })
          }
        }
        driven.push(mine)
        return {
          resume: () => {},
          cancel(error) {
            if (mine.cancelled !== null) return
            mine.cancelled = error ?? 'silent'
            if (error !== null) reply.fail(error)
            reply.over({ ...summary, outcome: 'aborted', error: new GatewayError('client_gone', 'gone') })
          }
        }
      }
    },
    targetOn: () => target,
    read: async () => ({ body: {}, input: null }) as unknown as Pick<ModelRequest, 'body' | 'input'>,
    events: { open: () => t.fail('no job here is a stream') as never },
    held: () => null,
    isAway: async () => false,
    onReady: lane => void ready.push(lane),
    release: (deviceId, attemptId) => void released.push(`${deviceId} ${attemptId}`),
    onOver: deviceId => void over.push(deviceId),
    onFinished: (job, status) => void finished.push(`${job.id} ${status}`),
    ...changes
  })
  return { runs, driven, finished, released, over, ready }
}

async function claimed(changes: Record<string, unknown> = {}): Promise<{ id: string; attemptId: string }> {
  const id = await rows.job({ request: requestFor('m'), caller, payload: Buffer.from('{}'), ...changes })
  const attemptId = randomUUID()
  await claim(pool, { jobId: id, processId: me, deviceId: 'box', attemptId })
  return { id, attemptId }
}

const begun = (driven: readonly Driven[], count = 1): Promise<Driven> => until('it runs', () => driven[count - 1])
const ended = (id: string, ...statuses: string[]) =>
  until(`job ${id} to be ${statuses}`, async () => {
    const row = await rows.read(id)
    return statuses.includes(String(row['status'])) ? row : undefined
  })

t.test('a try is not counted when the machine went away under it, and is when the machine is there', async t => {
  const asked: string[] = []
  let isAway = true
  const { runs, driven, finished, ready } = start(t, {
    isAway: async id => {
      asked.push(id)
      return isAway
    }
  })
  const codes = ['machine_lost', 'upstream_unavailable', 'upstream_broke'] as const
  for (const code of codes) {
    const { id } = await claimed()
    runs.begin({ jobId: id, target })
    ;(await begun(driven, codes.indexOf(code) + 1)).fail(new GatewayError(code, 'gone'))
    const row = await ended(id, 'queued')
    t.match(row, { attempts: 0, lost_attempts: 1, ready: true }, code)
    t.ok(finished.includes(`${id} retry`))
  }
  t.same(asked, ['box', 'box', 'box'])
  t.equal(ready.length, 3)
  isAway = false
  const { id } = await claimed()
  runs.begin({ jobId: id, target })
  ;(await begun(driven, 4)).fail(new GatewayError('upstream_broke', 'a crash'))
  t.match(await ended(id, 'queued'), { attempts: 1, lost_attempts: 0, ready: false })
  const other = await claimed()
  runs.begin({ jobId: other.id, target })
  ;(await begun(driven, 5)).fail(new GatewayError('upstream_rate_limited', 'slowly'))
  t.match(await ended(other.id, 'queued'), { attempts: 1 })
  t.equal(asked.length, 4, 'only what a machine that is gone leaves behind is a reason to ask')
})

t.test('a batch that was given a machine costs no rent there, unless it says what time is worth', async t => {
  const { runs, driven } = start(t)
  const rented = targetAt('cloud', 'm', { own: false })
  const cases = [
    [{ class: 3 }, target, true],
    [{ class: 3, request: requestFor('m', { route: 'fast' }) }, target, false],
    [{ class: 3 }, rented, false],
    [{ class: 2 }, target, false]
  ] as const
  for (const [at, [changes, given, ownOnly]] of cases.entries()) {
    const { id } = await claimed(changes)
    runs.begin({ jobId: id, target: given })
    const run = await begun(driven, at + 1)
    t.equal(run.claimed?.ownOnly, ownOnly, JSON.stringify(changes))
    run.answer()
    await ended(id, 'done')
  }
})

t.test('a claim is begun once, however often it is told of, and its answer becomes the result', async t => {
  const { runs, driven, finished, over } = start(t)
  const { id, attemptId } = await claimed()
  runs.begin({ jobId: id, target })
  runs.begin({ jobId: id })
  const run = await begun(driven)
  runs.begin({ jobId: id })
  t.match(run.claimed, { attemptId, hasSlot: true, target: { id: 'box/m' } })
  t.equal(run.request.jobId, id)
  t.same([...runs.all()], [[id, 1]])
  t.equal(runs.count, 1)
  run.answer()
  t.equal(runs.count, 0, 'another may begin while this one is stored')
  t.same(over, ['box'])
  const row = await ended(id, 'done')
  t.equal(String(row['result']), '{"ok":true}')
  await until('it is forgotten', () => runs.all().size === 0)
  t.same(finished, [`${id} done`])
  t.equal(driven.length, 1)
})

t.test('what was claimed by somebody else is not ours to begin', async t => {
  const { runs, driven } = start(t)
  const id = await rows.job({ request: requestFor('m'), caller, payload: Buffer.from('{}') })
  await claim(pool, { jobId: id, processId: await rows.process() })
  runs.begin({ jobId: id })
  await until('it is looked up', () => runs.all().size === 0)
  t.same(driven, [])
  t.match(await rows.read(id), { status: 'running' })
})

const table: readonly (readonly [ErrorCode, 'error' | 'queued' | 'cancelled'])[] = [
  ['invalid_request', 'error'],
  ['context_length_exceeded', 'error'],
  ['model_not_found', 'error'],
  ['forbidden', 'error'],
  ['upstream_refused', 'error'],
  ['dimension_mismatch', 'error'],
  ['upstream_rate_limited', 'queued'],
  ['upstream_unavailable', 'queued'],
  ['upstream_lacks_model', 'queued'],
  ['upstream_broke', 'queued'],
  ['no_capacity', 'queued'],
  ['database_unavailable', 'queued'],
  ['client_gone', 'cancelled']
]

t.test('the table of errors decides whether a job is tried again or over', async t => {
  const { runs, driven } = start(t)
  const all: Awaited<ReturnType<typeof claimed>>[] = []
  for (const _ of table) all.push(await claimed())
  for (const [number, [code]] of table.entries()) {
    runs.begin({ jobId: all[number]?.id as string, target })
    const run = await begun(driven, number + 1)
    run.fail(new GatewayError(code, 'what was attempted'))
  }
  for (const [number, [code, status]] of table.entries()) {
    const row = await ended(all[number]?.id as string, 'error', 'queued', 'cancelled')
    t.match(row, { status, error: { code: new GatewayError(code, '').publicCode } }, code)
  }
})

t.test('no further try is made without one left, or when it would come too late', async t => {
  const { runs, driven } = start(t)
  const hourMs = 3_600_000
  const away = (retryAfterMs: number) => new GatewayError('upstream_rate_limited', 'rests', { retryAfterMs })
  const last = await claimed({ max_attempts: 1 })
  const late = await claimed({ deadline_at: new Date(Date.now() + hourMs) })
  const inTime = await claimed({ deadline_at: new Date(Date.now() + 3 * hourMs) })
  for (const [number, { id }] of [last, late, inTime].entries()) {
    runs.begin({ jobId: id, target })
    ;(await begun(driven, number + 1)).fail(away(2 * hourMs))
  }
  t.match(await ended(last.id, 'error', 'queued'), { status: 'error' })
  t.match(await ended(late.id, 'error', 'queued'), { status: 'error' })
  const row = await ended(inTime.id, 'error', 'queued')
  t.match(row, { status: 'queued', ready: false })
  t.ok((row['run_at'] as Date).getTime() > Date.now() + hourMs, 'not before the upstream has rested')
})

t.test('what its client has seen a part of is not begun again; what only a stream keeps is', async t => {
  const client = { start() {}, frames: () => true, body() {}, finish() {}, fail() {}, over() {} } as Reply
  const told: boolean[] = []
  const held: Held = {
    request: requestFor('m') as ModelRequest,
    caller,
    client,
    keep: false,
    isCancelled: false,
    began() {},
    over: (_end, willRetry) => void told.push(willRetry)
  }
  const seen = await claimed()
  const unseen = await claimed()
  const nobodys = await claimed()
  const { runs, driven } = start(t, { held: id => (id === nobodys.id ? null : held) })
  const broke = new GatewayError('upstream_broke', 'It broke off')
  for (const [number, { id }] of [seen, unseen, nobodys].entries()) {
    runs.begin({ jobId: id, target })
    ;(await begun(driven, number + 1)).fail(broke, number !== 1)
  }
  t.match(await ended(seen.id, 'error', 'queued'), { status: 'error' })
  t.match(await ended(unseen.id, 'error', 'queued'), { status: 'queued' })
  t.match(await ended(nobodys.id, 'error', 'queued'), { status: 'queued' })
  t.same(told, [false, true])
})

t.test('a request that was given up before its claim came, or while it ran, ends for the reason its client was told', async t => {
  const tooLate = new GatewayError('deadline_exceeded', 'too late')
  const busy = new GatewayError('no_capacity', 'busy for too long')
  const called: Held = {
    request: requestFor('m') as ModelRequest,
    caller,
    client: null,
    keep: true,
    isCancelled: true,
    began() {},
    over() {}
  }
  const [late, full, left, running] = [await claimed(), await claimed(), await claimed(), await claimed()]
  const held = new Map<string, Held>([
    [late.id, { ...called, endedBy: tooLate }],
    [full.id, { ...called, endedBy: busy }],
    [left.id, { ...called, endedBy: null }],
    [running.id, { ...called, isCancelled: false }]
  ])
  const { runs, driven } = start(t, { held: id => held.get(id) ?? null })
  for (const { id } of [late, full, left, running]) runs.begin({ jobId: id, target })
  const run = await begun(driven, 1)
  held.set(running.id, called)
  run.fail(busy)
  for (const [{ id }, status, code] of [
    [late, 'error', 'deadline_exceeded'],
    [full, 'error', 'no_capacity'],
    [left, 'cancelled', 'client_gone'],
    [running, 'error', 'no_capacity']
  ] as const)
    t.match(await ended(id, 'error', 'queued', 'cancelled'), { status, error: { code } }, code)
})

t.test('an attempt that is stopped is closed, and nothing is written about it', async t => {
  const { runs, driven, finished } = start(t)
  const { id } = await claimed()
  runs.begin({ jobId: id, target })
  const run = await begun(driven)
  runs.stop(id, 2)
  t.equal(run.cancelled, null, 'another attempt is meant')
  runs.stop(id, 1)
  t.equal(run.cancelled, 'silent')
  t.equal(runs.all().size, 0)
  t.match(await rows.read(id), { status: 'running', attempt_no: 1 })
  t.same(finished, [])
})

t.test('one that is stopped before it has begun gives its place back', async t => {
  const reading = Promise.withResolvers<void>()
  const { runs, driven, released } = start(t, {
    async read() {
      await reading.promise
      return { body: {}, input: null } as unknown as Pick<ModelRequest, 'body' | 'input'>
    }
  })
  const { id, attemptId } = await claimed()
  runs.begin({ jobId: id, target })
  await until('it is known', () => runs.all().get(id) === 1)
  runs.stop(id)
  reading.resolve()
  await until('the place to be given back', () => released.length === 1)
  t.same(released, [`box ${attemptId}`])
  t.same(driven, [])
})

t.test('an attempt that is found again without its place is not begun: it may be somebody else’s by now', async t => {
  const { runs, driven } = start(t)
  const { id } = await claimed()
  await pool.query(`update device_slots set process_id = null, attempt_id = null where device_id = 'box'`)
  runs.begin({ jobId: id })
  t.match(await ended(id, 'queued', 'error'), { status: 'queued', error: { code: 'process_lost' } })
  t.same(driven, [])
})

t.test('a request that only its client had ends with its client', async t => {
  const { runs, driven } = start(t)
  const { id } = await claimed({ payload: null, owner_process: me })
  runs.begin({ jobId: id, target })
  t.match(await ended(id, 'cancelled', 'error', 'queued'), { status: 'cancelled', error: { code: 'client_gone' } })
  t.same(driven, [])
})

t.test('an echo is its own result, and needs no machine', async t => {
  const { runs, over } = start(t)
  const id = await rows.job({ kind: 'echo', request: null, caller, payload: Buffer.from('{"a":1}') })
  await claim(pool, { jobId: id, processId: me })
  runs.begin({ jobId: id, target: null })
  t.equal(String((await ended(id, 'done'))['result']), '{"a":1}')
  t.same(over, [null])
})

t.test('a result that the database refuses ends the job all the same', async t => {
  const { runs, driven } = start(t)
  const { id } = await claimed()
  await pool.query(`alter table jobs add constraint small check (result is null or length(result) < 20)`)
  t.teardown(() => pool.query('alter table jobs drop constraint small'))
  runs.begin({ jobId: id, target })
  ;(await begun(driven)).answer(`{"long":"${'x'.repeat(50)}"}`)
  t.match(await ended(id, 'error', 'done'), { status: 'error', error: { code: 'internal_error' } })
})

t.test('at the end what runs may finish, and the rest goes back into the queue without losing a try', async t => {
  const { runs, driven, ready } = start(t)
  const [first, second] = [await claimed(), await claimed({ lane: '2/chat/any/rest' })]
  for (const { id } of [first, second]) runs.begin({ jobId: id, target })
  await begun(driven, 2)
  const inTime = driven.find(({ request }) => request.jobId === first.id) as Driven
  const closing: Promise<void> = runs.close(1_000)
  inTime.answer()
  await closing
  t.match(await rows.read(first.id), { status: 'done' })
  t.match(await rows.read(second.id), { status: 'queued', ready: true, attempts: 0, attempt_no: 1, process_id: null })
  t.match(await rows.attempt(second.id, 1), { outcome: 'lost' })
  t.equal(await rows.ticketState(second.id), 'retry')
  t.same(ready, ['2/chat/any/rest'])
  t.ok(driven.every(({ request, cancelled }) => (cancelled === 'silent') === (request.jobId === second.id)))
  t.ok((await holders(pool, 'box')).length > 0)
})

t.test('an answer that cannot be put together again is a failure of the attempt', async t => {
  const stale: GatewayError[] = []
  let end: { result: Buffer | null; error: GatewayError | null } | null = null
  const reply = createJobReply({
    stream: true,
    keep: true,
    events: null,
    client: null,
    onStale: error => void stale.push(error),
    onEnd: given => (end = given)
  })
  reply.start({ target, reason: 'waited', nanoUsd: null, dropped: [] })
  reply.frames(Buffer.from('data: [1]\n\n'))
  reply.frames(Buffer.from('data: {"choices":[]}\n\n'))
  reply.finish(null)
  reply.over(summary)
  t.match(stale, [{ code: 'upstream_broke' }])
  t.match(end, { result: null, error: { code: 'upstream_broke' } })
})
