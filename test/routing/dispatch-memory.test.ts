// Calls and the memory of machines: room before a call, a load freed with the first token, and what becomes of those whose load hangs.

import t from 'tap'
import { type Brain, createBrain } from '../../routing/brain/brain.ts'
import { type Catalog, createCatalog } from '../../routing/catalog.ts'
import { createDispatch } from '../../routing/dispatch.ts'
import { GatewayError } from '../../routing/errors.ts'
import { createLoad } from '../../routing/load.ts'
import type { Reply, RunSummary } from '../../routing/ports.ts'
import type { RunPorts } from '../../routing/run-ports.ts'
import type { Adapter, Attempt, AttemptObserver, ModelRequest, Target } from '../../routing/types.ts'
import { caller, requestFor, targetOn } from './dispatch-stage.ts'

const target = (id: string, own = true): Target => targetOn(id, { operations: ['chat'], loaded: false }, { own })
const request = requestFor()

function catalogOf(targets: readonly Target[]): Catalog {
  return createCatalog({
    upstreams: targets.map(({ upstream }) => upstream),
    targets,
    listed: new Set(targets.map(({ upstream }) => upstream.id)),
    aliases: new Map(),
    auto: [],
    prices: { configured: new Map(), registered: () => null },
    vectorSpaces: new Map(),
    demo: { ...target('echo', false), id: 'echo/echo', model: 'echo' }
  })
}

/** A dispatch whose machines are prepared as the test says. */
function house(targets: readonly Target[], more: Partial<RunPorts> = {}) {
  const said: string[] = []
  const calls: { readonly attempt: Attempt; readonly observer: AttemptObserver; isOver: boolean }[] = []
  const preparing: PromiseWithResolvers<boolean>[] = []
  const summaries: RunSummary[] = []
  const errors: GatewayError[] = []
  let isReady: 'at once' | 'asked' | 'nothing' = 'asked'
  const adapter: Adapter = {
    name: 'fake',
    features: new Set(),
    listModels: async () => [],
    chat(attempt, observer) {
      const call = { attempt, observer, isOver: false }
      calls.push(call)
      return {
        resume() {},
        abort() {
          if (call.isOver) return
          call.isOver = true
          observer.end({ ok: false, error: new GatewayError('client_gone', 'x'), sent: true })
        }
      }
    }
  }
  const catalog = catalogOf(targets)
  let ids = 0
  const dispatch = createDispatch({
    catalog: () => catalog,
    adapters: new Map([['fake', adapter]]),
    breakers: { isOpen: () => false, begin: () => {}, record: () => {} },
    load: createLoad(() => 0),
    retries: { count: () => {}, take: () => true },
    slots: { claim: async () => true, release: id => void said.push(`release ${id}`) },
    health: { isDown: () => false, alive: () => {}, failed: () => {} },
    ledger: { begin: () => {}, settle: () => ({ nanoUsd: 0, estimated: false, promptTokens: 0, completionTokens: 0 }) },
    dimensions: { known: () => null, learn: async (_, length) => length },
    memory: {
      prepare({ id }, { waitMs }) {
        said.push(`prepare ${id}${waitMs > 0 ? ' with patience' : ''}`)
        if (isReady === 'nothing') return null
        const turn = Promise.withResolvers<boolean>()
        preparing.push(turn)
        if (isReady === 'at once') turn.resolve(true)
        return turn.promise
      },
      settled: ({ id }) => void said.push(`settled ${id}`),
      load: () => {}
    },
    localOnly: false,
    now: () => 0,
    random: () => 0,
    newId: () => `a${++ids}`,
    onMissing: () => {},
    ...more
  })
  const reply: Reply = {
    start: ({ target: { id } }) => void said.push(`start ${id}`),
    frames: () => true,
    body: () => {},
    finish: () => {},
    fail: error => void errors.push(error),
    over: summary => void summaries.push(summary)
  }
  return {
    dispatch,
    said,
    calls,
    preparing,
    summaries,
    errors,
    reply,
    setReady: (value: typeof isReady) => void (isReady = value),
    run: (more: Partial<ModelRequest> = {}) => dispatch.run({ ...request, ...more }, caller, reply)
  }
}

const turns = async (): Promise<void> => {
  for (let turn = 0; turn < 20; turn++) await Promise.resolve()
}
const token = Buffer.from('data: {"choices":[{"delta":{"content":"x"}}]}\n\n')

t.test('a call waits until there is room, and its first token frees the load, also of one that is not streamed', async t => {
  for (const stream of [true, false]) {
    const { said, calls, preparing, run } = house([target('box')])
    run({ stream })
    await turns()
    t.same(said, ['prepare box/m'])
    t.equal(calls.length, 0)
    preparing[0]?.resolve(true)
    await turns()
    t.equal(calls.length, 1)
    if (stream) calls[0]?.observer.frames(token, 1)
    else calls[0]?.observer.begun?.()
    t.equal(said[1], 'settled box/m')
    if (stream) calls[0]?.observer.frames(token, 1)
    t.equal(said.filter(each => each === 'settled box/m').length, 1, 'once')
  }
})

t.test('where there is no room the next target is asked, and the place is given back', async t => {
  const { said, calls, preparing, run } = house([target('box'), target('cloud', false)])
  run()
  await turns()
  preparing[0]?.resolve(false)
  await turns()
  t.equal(calls[0]?.attempt.target.id, 'cloud/m')
  t.ok(said.includes('release box-box'))
})

t.test('who cannot make room lets the machine do it, and nothing to prepare is no wait', async t => {
  const broken = house([target('box')])
  broken.run()
  await turns()
  broken.preparing[0]?.reject(new Error('x'))
  await turns()
  t.equal(broken.calls.length, 1)
  const loaded = house([target('box')])
  loaded.setReady('nothing')
  loaded.run()
  await turns()
  t.equal(loaded.calls.length, 1)
})

t.test('a call that is not made after all settles its load', async t => {
  const { said, calls, preparing, run, summaries } = house([target('box')])
  const running = run()
  await turns()
  running.cancel(null)
  preparing[0]?.resolve(true)
  await turns()
  t.equal(calls.length, 0)
  t.ok(said.includes('settled box/m'))
  t.match(summaries, [{ outcome: 'aborted' }])
})

t.test('whoever was given the place is prepared for, too, with patience where there is nothing else', async t => {
  const box = target('box')
  const { dispatch, said, calls, reply, setReady } = house([box])
  setReady('at once')
  dispatch.run(request, caller, reply, { target: box, attemptId: 'given', hasSlot: true })
  await turns()
  t.equal(said[0], 'prepare box/m with patience')
  t.equal(calls[0]?.attempt.id, 'given')
})

t.test('when a load hangs, calls without a token go elsewhere if they can', async t => {
  const [box, cloud] = [target('box'), target('cloud', false)]
  const { dispatch, calls, run, setReady, errors } = house([box, cloud])
  setReady('at once')
  run()
  run()
  await turns()
  calls[1]?.observer.frames(token, 1)
  dispatch.leave(box)
  await turns()
  t.same(
    calls.map(({ attempt, isOver }) => [attempt.target.id, isOver]),
    [
      ['box/m', true],
      ['box/m', false],
      ['cloud/m', false]
    ],
    'the one with a token stays'
  )
  const alone = house([box])
  alone.setReady('at once')
  alone.run()
  await turns()
  alone.dispatch.leave(box)
  t.equal(alone.calls[0]?.isOver, false, 'and the one that has nowhere to go')
  t.same(errors, [])
})

t.test('what a provider tells of its limit is learned with the call it answers', async t => {
  const told: string[] = []
  const brain = {
    arrived: () => null,
    began: () => {},
    begun: () => {},
    streamed: () => {},
    ended: () => {},
    eta: () => null,
    plan: () => [],
    limits: (id, { remaining }) => void told.push(`${id} ${remaining}`)
  } as Partial<Brain> as Brain
  const { calls, run } = house([target('cloud', false)], { brain })
  run()
  await turns()
  calls[0]?.observer.limits?.({ requests: 60, remaining: 7, resetS: 53 })
  t.same(told, ['a1 7'])
})

t.test('a client that leaves while a place is asked for is not queued', async t => {
  const box = target('box')
  for (const leaves of [true, false]) {
    const brain = createBrain({
      catalog: () => catalogOf([box]),
      profile: () => null,
      usdPerKwh: 0.25,
      random: () => 0,
      now: () => 0,
      epoch: () => 0
    })
    const waiting: string[] = []
    const asked = Promise.withResolvers<boolean>()
    const { run, summaries } = house([box], {
      brain,
      slots: { claim: () => asked.promise, release: () => {} },
      overflow({ request: { id } }) {
        waiting.push(id)
        return { resume() {}, cancel() {} }
      }
    })
    const running = run({ id: '01890000-0000-7000-8000-000000000000' })
    t.same(waiting, [])
    if (leaves) running.cancel(null)
    asked.resolve(false)
    await turns()
    t.equal(waiting.length, leaves ? 0 : 1)
    if (leaves) t.match(summaries, [{ outcome: 'aborted', error: { code: 'client_gone' } }])
  }
})
