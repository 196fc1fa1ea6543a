// What a request does when those it was sent to have no room after all, or fail, and what is told of that afterwards.

import t from 'tap'
import { type Brain, createBrain } from '../../routing/brain/brain.ts'
import { type Explanation, explain } from '../../routing/brain/explain.ts'
import { createCatalog } from '../../routing/catalog.ts'
import { createDispatch } from '../../routing/dispatch.ts'
import { type ErrorCode, GatewayError } from '../../routing/errors.ts'
import { uuidv7 } from '../../routing/ids.ts'
import { createLoad } from '../../routing/load.ts'
import type { Reply, ReplyFacts, RouteRecord, RouteStart, RunSummary } from '../../routing/ports.ts'
import type { ProviderPreference } from '../../routing/preference.ts'
import type { Claimed, RunPorts } from '../../routing/run-ports.ts'
import type { Adapter, Attempt, AttemptObserver, ModelRequest, Target } from '../../routing/types.ts'
import { caller, requestFor as plainRequest, targetOn } from './dispatch-stage.ts'

/** A machine of one place where no price is given, otherwise a provider. */
function target(id: string, usdPer1m: number | null, model = 'm'): Target {
  const own = usdPer1m === null
  const price: Target['price'] = own
    ? { source: 'electricity', tokens: null }
    : { source: 'config', tokens: { inputUsdPer1m: usdPer1m, outputUsdPer1m: usdPer1m } }
  const { device } = targetOn(id, {}, { own }).upstream
  const upstream = { own, device: device === null ? null : { ...device, maxConcurrency: 1 } }
  return targetOn(id, { id: `${id}/${model}`, model, operations: ['chat'], price }, upstream)
}

const box = target('box', null)
const cheap = target('cheap', 5)
const dear = target('dear', 900)

const requestFor = (more: Partial<ModelRequest> = {}): ModelRequest =>
  plainRequest({ id: uuidv7(Date.now()), stream: false, maxOutputTokens: 500, ...more })

const alone: ProviderPreference = {
  order: [],
  only: [],
  ignore: [],
  allowFallbacks: false,
  maxPrice: {},
  keepsNothing: false,
  requireParameters: false,
  brokered: [],
  hints: [],
  given: {}
}

interface House {
  readonly targets?: readonly Target[]
  readonly aliases?: Readonly<Record<string, readonly string[]>>
  readonly claim?: (deviceId: string) => boolean
  readonly mayWait?: boolean
  readonly ports?: Partial<RunPorts>
}

/** A dispatch with a brain of its own, whose calls end as the test says. */
function house({ targets = [box, cheap, dear], aliases = {}, claim = () => true, mayWait = true, ports = {} }: House = {}) {
  let nowMs = 1_000
  let ids = 0
  const calls: { readonly attempt: Attempt; readonly observer: AttemptObserver }[] = []
  const begun: RouteStart[] = []
  const records: RouteRecord[] = []
  const summaries: RunSummary[] = []
  const errors: GatewayError[] = []
  const facts: ReplyFacts[] = []
  const waiting: { readonly request: ModelRequest; readonly reply: Reply }[] = []
  const arrived: string[] = []
  const catalog = createCatalog({
    upstreams: targets.map(({ upstream }) => upstream),
    targets,
    listed: new Set(targets.map(({ upstream }) => upstream.id)),
    aliases: new Map(Object.entries(aliases).map(([name, models]) => [name, { kind: 'ordered' as const, models }])),
    auto: [],
    prices: { configured: new Map(), registered: () => null },
    vectorSpaces: new Map(),
    demo: target('echo', 0, 'echo')
  })
  const real = createBrain({
    catalog: () => catalog,
    profile: () => null,
    usdPerKwh: 0.25,
    random: () => 0,
    now: () => nowMs,
    epoch: () => Date.now()
  })
  const brain: Brain = {
    ...real,
    arrived(plan) {
      arrived.push(plan.work.id)
      return real.arrived(plan)
    }
  }
  const adapter: Adapter = {
    name: 'fake',
    features: new Set(),
    listModels: async () => [],
    chat(attempt, observer) {
      calls.push({ attempt, observer })
      return { resume() {}, abort() {} }
    }
  }
  const load = createLoad(() => nowMs)
  const dispatch = createDispatch({
    catalog: () => catalog,
    adapters: new Map([['fake', adapter]]),
    breakers: { isOpen: () => false, begin: () => {}, record: () => {} },
    load,
    retries: { count: () => {}, take: () => true },
    slots: { claim: async id => claim(id), release: () => {} },
    health: { isDown: () => false, alive: () => {}, failed: () => {} },
    ledger: { begin: () => {}, settle: () => ({ nanoUsd: 100, estimated: false, promptTokens: 1, completionTokens: 2 }) },
    dimensions: { known: () => null, learn: async (_, length) => length },
    brain,
    routes: { begun: start => void begun.push(start), keep: record => void records.push(record) },
    localOnly: false,
    now: () => nowMs,
    random: () => 0,
    newId: () => `a${++ids}`,
    onMissing: () => {},
    ...(mayWait && {
      overflow({ request, reply }) {
        waiting.push({ request, reply })
        return { resume() {}, cancel() {} }
      }
    }),
    ...ports
  })
  const reply: Reply = {
    start: told => void facts.push(told),
    frames: () => true,
    body: () => {},
    finish: () => {},
    fail: error => void errors.push(error),
    over: summary => void summaries.push(summary)
  }
  const one = (targetId: string) => {
    const found = calls.findLast(({ attempt }) => attempt.target.id === targetId)
    if (found === undefined) throw new Error(`nobody asked ${targetId}`)
    return found.observer
  }
  return {
    dispatch,
    calls,
    summaries,
    errors,
    facts,
    waiting,
    arrived,
    reply,
    asked: () => calls.map(({ attempt }) => attempt.target.id),
    run(more: Partial<ModelRequest> = {}, claimed?: Claimed) {
      const request = requestFor(more)
      dispatch.run(request, caller, reply, claimed)
      return request
    },
    fail(targetId: string, code: ErrorCode = 'upstream_unavailable') {
      one(targetId).end({ ok: false, error: new GatewayError(code, 'x'), sent: true })
    },
    answer(targetId: string) {
      one(targetId).body(Buffer.from('{}'))
      one(targetId).end({ ok: true })
    },
    pass: (ms: number) => void (nowMs += ms),
    /** As it is told to whoever asks about the last one that is not over. */
    running: () => explain(begun.at(-1) as RouteStart),
    /** As it is told to whoever asks about the last one that is over. */
    told(): Explanation {
      const record = records.at(-1) as RouteRecord
      return explain({ ...record, over: record })
    }
  }
}

const turns = async (): Promise<void> => {
  for (let count = 0; count < 8; count++) await Promise.resolve()
}

/** Something runs on the machine, so that it has no place. */
async function fill({ run, calls }: Pick<ReturnType<typeof house>, 'run' | 'calls'>): Promise<void> {
  run({ model: 'box/m', maxOutputTokens: 20 })
  await turns()
  if (calls.length !== 1) throw new Error('it does not run')
}

t.test('when all that could begin have failed, what is only busy is waited for', async t => {
  const world = house()
  await fill(world)
  const { id } = world.run({ route: 'fast' })
  await turns()
  t.same(world.asked().slice(1), ['cheap/m'])
  world.fail('cheap/m')
  await turns()
  world.fail('dear/m', 'upstream_rate_limited')
  await turns()
  t.same(world.errors, [])
  t.match(world.waiting, [{ request: { id, before: { failed: ['cheap/m', 'dear/m'], attempts: 2, nanoUsd: 200 } } }])
  t.equal(world.waiting.length, 1)
  t.match(world.running(), { action: 'wait', reason: 'waits', chosen: { target: 'box/m', mode: 'wait' }, actual: null })

  // Its turn comes.
  const next = house()
  const given: RunSummary[] = []
  next.dispatch.run(
    world.waiting[0]?.request as ModelRequest,
    caller,
    { ...next.reply, over: summary => void given.push(summary) },
    { target: box, attemptId: 'given', hasSlot: true }
  )
  await turns()
  next.answer('box/m')
  await turns()
  t.match(next.facts, [{ target: { id: 'box/m' }, reason: 'waited', nanoUsd: 300 }], 'what was spent before is told')
  world.waiting[0]?.reply.over(given[0] as RunSummary)
  t.match(world.summaries, [{ outcome: 'ok', attempts: 3, nanoUsd: 300, target: { id: 'box/m' } }])
  t.equal(world.summaries[0]?.calls.length, 3)
  t.match(world.told(), {
    reason: 'waited',
    chosen: { target: 'cheap/m' },
    why: / Cheap\/m failed \(upstream_unavailable\), and 1 more; box\/m answered when its turn came\.$/,
    actual: {
      outcome: 'ok',
      target: 'box/m',
      attempts: 3,
      eta_error_pct: null,
      within_p90: null,
      failed: [
        { target: 'cheap/m', error: 'upstream_unavailable' },
        { target: 'dear/m', error: 'rate_limit_exceeded' }
      ]
    }
  })
})

t.test('what has become free while others failed is tried, and only once', async t => {
  const world = house()
  await fill(world)
  world.run({ route: 'fast' })
  await turns()
  world.fail('cheap/m')
  await turns()
  world.answer('box/m')
  await turns()
  world.fail('dear/m')
  await turns()
  t.same(world.asked(), ['box/m', 'cheap/m', 'dear/m', 'box/m'])
  world.fail('box/m')
  await turns()
  t.same([world.waiting, world.asked().length], [[], 4])
  t.match(world.errors, [{ code: 'upstream_unavailable' }])
})

t.test('nothing is waited for where nothing may, where the failure is the request’s, or beyond a bound', async t => {
  const cannot = house({ mayWait: false })
  await fill(cannot)
  cannot.run({ route: 'fast' })
  await turns()
  cannot.fail('cheap/m')
  cannot.fail('dear/m')
  await turns()
  t.match(cannot.errors, [{ code: 'upstream_unavailable' }])

  const wrong = house()
  await fill(wrong)
  wrong.run({ route: 'fast' })
  await turns()
  wrong.fail('cheap/m', 'upstream_refused')
  await turns()
  t.match([wrong.errors, wrong.waiting], [[{ code: 'upstream_refused' }], []])

  const patience = { deadlineMs: 15_000, onDisconnect: 'cancel' as const }
  for (const isHard of [true, false]) {
    const late = house({ targets: [box, cheap] })
    await fill(late)
    const more = { patience, ...(isHard && { isDeadlineHard: true as const }) }
    const { decision } = late.dispatch.preview(requestFor(more), caller)
    t.equal(
      decision.rejected.some(({ reason }) => reason === 'deadline'),
      isHard
    )
    late.run(more)
    await turns()
    late.fail('cheap/m')
    await turns()
    t.same([late.errors.length, late.waiting.length], isHard ? [1, 0] : [0, 1], `${isHard}`)
  }
})

t.test('a machine that was full at the claim is told to have been full, with what then happened', async t => {
  let isFull = true
  const world = house({ targets: [box, dear], claim: () => !isFull, mayWait: false })
  world.run()
  await turns()
  world.pass(300)
  world.answer('dear/m')
  await turns()
  t.match(world.facts, [{ reason: 'next_best' }])
  const told = world.told()
  t.match(told, {
    reason: 'next_best',
    why: 'Box/m was full by then. Rented from dear.',
    chosen: { target: 'dear/m', eta_p50_s: Number, usd: Number },
    ranked: [],
    rejected: [{ target: 'box/m', filtered: 'full' }],
    actual: { target: 'dear/m', attempts: 1, failed: [] }
  })
  t.equal(told.actual?.eta_error_pct, Math.round((0.3 / Number(told.chosen?.eta_p50_s) - 1) * 100), 'by what was expected of this one')
  isFull = false
  world.run()
  await turns()
  world.answer('box/m')
  await turns()
  t.match(world.told(), { chosen: { target: 'box/m' }, ranked: [{ target: 'dear/m' }], rejected: [], actual: { target: 'box/m' } })
})

t.test('a machine whose places nobody can count is told so', async t => {
  const claim = () => Promise.reject(new GatewayError('database_unavailable', 'x'))
  const world = house({ targets: [box, dear], ports: { slots: { claim, release: () => {} } } })
  world.run()
  await turns()
  world.answer('dear/m')
  await turns()
  t.match(world.told(), {
    why: /^Whether box\/m had a place could not be found out\. /,
    rejected: [{ target: 'box/m', filtered: 'no_place' }]
  })
})

t.test('a model that had no room at the moment is told so', async t => {
  const world = house({
    targets: [box, dear],
    mayWait: false,
    ports: { memory: { prepare: async () => false, settled: () => {}, load: () => {} } }
  })
  world.run()
  await turns()
  world.answer('dear/m')
  await turns()
  t.match(world.told(), { why: /^Box\/m could not load the model then\. /, rejected: [{ target: 'box/m', filtered: 'no_load' }] })
})

t.test('after a failure it is told who failed and why, and nothing is held against the one who then answered', async t => {
  const world = house({ targets: [cheap, dear] })
  world.run()
  await turns()
  world.fail('cheap/m')
  await turns()
  world.answer('dear/m')
  await turns()
  t.match(world.told(), {
    reason: 'fallback',
    chosen: { target: 'cheap/m', eta_p50_s: Number },
    why: / Cheap\/m failed \(upstream_unavailable\); dear\/m answered\.$/,
    actual: {
      outcome: 'ok',
      target: 'dear/m',
      attempts: 2,
      error: null,
      eta_error_pct: null,
      within_p90: null,
      failed: [{ target: 'cheap/m', error: 'upstream_unavailable' }]
    }
  })
})

t.test('those that may not answer because there are to be no fallbacks are told to be left out', async t => {
  const world = house({ targets: [cheap, dear] })
  world.run({ preference: alone })
  await turns()
  world.answer('cheap/m')
  await turns()
  t.match(world.told(), {
    chosen: { target: 'cheap/m' },
    ranked: [],
    why: 'Rented from cheap.',
    rejected: [{ target: 'dear/m', filtered: 'no_fallback' }]
  })
})

t.test('without fallbacks nobody else of that model answers: not in an alias, not after waiting', async t => {
  const listed = house({ aliases: { listed: ['cheap/m', 'dear/m'] } })
  listed.run({ model: 'listed', preference: alone })
  await turns()
  listed.fail('cheap/m')
  await turns()
  t.same(listed.asked(), ['cheap/m'])
  t.match(listed.errors, [{ code: 'upstream_unavailable' }])

  const waited = house()
  waited.run({ preference: alone }, { target: box, attemptId: 'given', hasSlot: true })
  await turns()
  waited.fail('box/m')
  await turns()
  t.same(waited.asked(), ['box/m'])

  const busy = house()
  await fill(busy)
  busy.run({ route: 'fast', preference: alone })
  await turns()
  busy.fail('cheap/m')
  await turns()
  t.same([busy.asked().slice(1), busy.waiting], [['cheap/m'], []], 'nor is another one waited for')
})

t.test('one that may cost no rent is not rented where its machine fails', async t => {
  const second = target('second', null)
  const world = house({ targets: [box, cheap, second] })
  world.run({}, { target: box, attemptId: 'given', hasSlot: true, ownOnly: true })
  await turns()
  world.fail('box/m')
  await turns()
  t.same(world.asked(), ['box/m', 'second/m'], 'another machine may answer')
  world.fail('second/m')
  await turns()
  t.same(world.asked(), ['box/m', 'second/m'])
  t.match(world.told(), { rejected: [{ target: 'cheap/m', filtered: 'no_rent' }] })
})

t.test('what is refused does not count for what is loaded', async t => {
  const world = house({ targets: [box, dear], mayWait: false })
  await fill(world)
  t.equal(world.arrived.length, 1)
  world.run({ model: 'box/m' })
  await turns()
  t.match(world.errors, [{ code: 'no_capacity' }])
  t.equal(world.arrived.length, 1)
  const { decision } = world.dispatch.preview(requestFor({ model: 'box/m' }), caller)
  t.equal(decision.action, 'refuse')
  world.dispatch.arrived(decision)
  t.equal(world.arrived.length, 1)
})
