import t, { type Test } from 'tap'
import { createOwnNode, type SimulatedOwnNode } from '../../simulate/own-node.ts'
import type { HiddenPhysics, OwnNode, Scenario } from '../../simulate/types.ts'
import { own, request, scenario, stage } from './stage.ts'

interface Wish {
  readonly node?: Partial<OwnNode>
  readonly scenario?: Partial<Scenario>
  readonly hidden?: HiddenPhysics
  readonly commandsMemory?: boolean
}

function nodeOn(wish: Wish = {}) {
  const on = stage(wish.hidden)
  const config = { ...own, ...wish.node }
  const node = createOwnNode(config, {
    ...on.ports,
    scenario: { ...scenario, ...wish.scenario },
    commandsMemory: wish.commandsMemory ?? false
  })
  return { ...on, node }
}

type Stage = ReturnType<typeof nodeOn>

/** With model `a` in memory; what is asked of it begins at second 100. */
function warm(wish: Wish = {}): Stage {
  const on = nodeOn(wish)
  on.node.load('a', [])
  on.run(100)
  return on
}

const close = (t: Test, found: number, wanted: number, what: string): unknown =>
  t.ok(Math.abs(found - wanted) < 1e-4, `${what}: ${found}, wanted ${wanted}`)

const sendsAt = (on: Stage, atS: number, ...args: Parameters<typeof request>): void => on.at(atS, () => on.node.send(request(...args)))

t.test('alone, a job takes its prompt and its answer, slowed down by their length', async t => {
  const on = warm()
  sendsAt(on, 100, 0)
  on.run()
  close(t, on.endOf(0), 110.8, '2 s and 8 s x 1.1')
  t.match(on.ends[0]?.finished, { outcome: 'done', sentS: 100, startedS: 100, promptTokens: 2000, outputTokens: 800 })
  close(t, on.ends[0]?.finished.promptS ?? 0, 2, 'prompt')
  close(t, on.ends[0]?.finished.outputS ?? 0, 8.8, 'answer')
  close(t, on.ends[0]?.finished.firstTokenS ?? 0, 102, 'first token')
})

t.test('two at once read at half the speed, and answer at 1 / (1 + s)', async t => {
  const on = warm()
  sendsAt(on, 100, 0)
  sendsAt(on, 100, 1)
  on.run()
  close(t, on.endOf(0), 117.2, '4 s and 8.8 s x 1.5')
  close(t, on.endOf(1), 117.2, 'the other')
  t.same(on.ends[0]?.finished.meanActive, { prompt: 2, output: 2 })
})

t.test('a job that comes later shares the speed only from then on', async t => {
  const on = warm()
  sendsAt(on, 100, 0)
  sendsAt(on, 102, 1)
  on.run()
  // From 102 on: 800 tokens at 100 / 1.65 a second.
  close(t, on.endOf(0), 115.2, 'first')
  // Reads from 102 to 106, answers beside the first until 115.2, then alone.
  close(t, on.endOf(1), 117.86667, 'second')
  close(t, on.ends[1]?.finished.meanActive.output ?? 0, (2 * 9.2 + 2.66667) / 11.86667, 'mean of what ran')
})

t.test('the noise of a job multiplies what it takes', async t => {
  const on = warm()
  sendsAt(on, 100, 0, { noise: 2 })
  on.run()
  close(t, on.endOf(0), 121.6, 'twice')
})

t.test('a drift changes the speed at its moment, and back', async t => {
  const on = warm({ node: { drift: [{ from: 101, to: 103, factor: 0.5 }] } })
  sendsAt(on, 100, 0)
  on.run()
  // 1,000 tokens until 101, the other 1,000 at half the speed until 103.
  close(t, on.endOf(0), 111.8, 'one second later')
})

t.test('a job that begins on an idle node is given nothing of the time before, and only busy time is counted', async t => {
  const on = nodeOn()
  on.node.load('a', [])
  on.run(50)
  const loadS = on.loads[1]?.atS ?? Number.NaN
  sendsAt(on, 100, 0)
  on.run()
  close(t, on.endOf(0), 110.8, 'end')
  close(t, on.node.busyS(), loadS + 10.8, 'busy')
})

t.test('more than the slots wait in the order of arrival', async t => {
  const on = warm({ node: { slots: 1 } })
  for (const id of [0, 1, 2]) sendsAt(on, 100, id)
  on.run(100)
  t.equal(on.node.view.waiting, 2)
  t.equal(on.node.view.active.length, 1)
  on.run()
  close(t, on.endOf(1), 121.6, 'second')
  close(t, on.endOf(2), 132.4, 'third')
  t.match(on.ends[1]?.finished, { sentS: 100 })
  close(t, on.ends[1]?.finished.startedS ?? 0, 110.8, 'began')
})

t.test('one load at a time, of base and bytes with its noise', async t => {
  const on = nodeOn()
  on.node.send(request(0))
  on.node.send(request(1, {}, { model: 'b' }))
  on.run()
  const seconds = on.loads.find(({ what }) => what === 'end a')?.atS ?? 0
  t.match(
    on.loads.filter(({ what }) => what.startsWith('begin')),
    [
      { what: 'begin a', atS: 0 },
      { what: 'begin b', atS: seconds }
    ]
  )
  t.ok(seconds > 2 * Math.exp(-0.6) && seconds < 2 * Math.exp(0.6), `4 sigma around 2 s: ${seconds}`)
  t.not(seconds, 2)
})

t.test('without a command the idle go by the alphabet, and no more than have to', async t => {
  const on = nodeOn({ node: { vram: 12 }, scenario: { models: { ...scenario.models, d: { gb: 4, ref: { dec: 1, pre: 1 } } } } })
  for (const [id, model] of ['c', 'b', 'a'].entries()) sendsAt(on, 20 * id, id, {}, { model })
  on.run(100)
  t.same([...on.node.view.loaded].sort(), ['a', 'b', 'c'])
  const small = nodeOn({ node: { vram: 8 } })
  for (const [id, model] of ['c', 'b', 'a'].entries()) sendsAt(small, 20 * id, id, {}, { model })
  small.run()
  t.same([...small.node.view.loaded].sort(), ['a', 'c'], 'b went for a, though c was older')
})

t.test('a load waits for a busy victim; what is loaded runs on meanwhile, but no other load begins', async t => {
  const on = warm({ node: { vram: 4 } })
  sendsAt(on, 100, 0)
  sendsAt(on, 101, 1, {}, { model: 'b' })
  sendsAt(on, 102, 2, {}, { model: 'c' })
  sendsAt(on, 103, 3)
  on.run(104)
  t.same(
    on.node.view.active.map(({ job }) => job.id),
    [0, 3]
  )
  t.equal(on.node.view.loading, null)
  on.run()
  const begins = on.loads.filter(({ what }) => what.startsWith('begin'))
  t.same(
    begins.map(({ what }) => what),
    ['begin a', 'begin b', 'begin c']
  )
  close(t, begins[1]?.atS ?? 0, Math.max(on.endOf(0), on.endOf(3)), 'b is loaded when a is idle')
  close(t, begins[2]?.atS ?? 0, on.endOf(1), 'c is loaded when b is idle')
})

t.test('no more models than maxLoaded, however small', async t => {
  const on = nodeOn({ node: { vram: 100, maxLoaded: 2 } })
  for (const [id, model] of ['a', 'b', 'c'].entries()) sendsAt(on, 20 * id, id, {}, { model })
  on.run()
  t.same([...on.node.view.loaded].sort(), ['b', 'c'])
})

t.test('a command to load is refused while one runs, without room, for a busy victim, for what is there, and when down', async t => {
  const on = warm({ node: { vram: 8 }, commandsMemory: true })
  const load = (model: string, evict: string[] = []): boolean => on.node.load(model, evict)
  t.equal(load('a'), false, 'is there')
  t.equal(load('x'), false, 'is not known')
  t.equal(load('b'), true)
  t.equal(load('c', ['a']), false, 'one runs')
  on.run(200)
  t.equal(load('c'), false, 'no room')
  t.same([...on.node.view.loaded].sort(), ['a', 'b'], 'nothing is thrown out for what is refused')
  on.node.send(request(0))
  t.equal(load('c', ['a']), false, 'busy')
  t.equal(load('c', ['b']), true)
  t.same([...on.node.view.loaded], ['a'])
  on.node.setUp(false)
  t.equal(load('a'), false, 'down')
})

t.test('a node whose memory is commanded loads nothing of itself', async t => {
  const on = nodeOn({ commandsMemory: true })
  on.node.send(request(0))
  on.run()
  t.equal(on.loads.length, 0)
  t.equal(on.node.view.waiting, 1)
  on.node.load('a', [])
  on.run()
  t.equal(on.ends[0]?.finished.outcome, 'done')
})

t.test('a node that goes down loses what runs and waits there, ends its load, and comes up with an empty memory', async t => {
  const on = warm({ node: { slots: 1 } })
  sendsAt(on, 100, 0)
  sendsAt(on, 100, 1)
  on.at(101, () => on.node.load('b', []))
  on.at(101.5, () => on.node.setUp(false))
  on.run(150)
  t.same(
    on.ends.map(({ finished, atS }) => [finished.job.id, finished.outcome, atS]),
    [
      [0, 'lost', 101.5],
      [1, 'lost', 101.5]
    ]
  )
  t.match(on.loads.at(-1), { what: 'end b', ok: false, atS: 101.5 })
  t.match(on.node.view, { isUp: false, loading: null, waiting: 0, active: [] })
  sendsAt(on, 160, 2)
  on.run(160)
  t.equal(on.ends.at(-1)?.finished.outcome, 'lost', 'nobody answers')
  on.node.setUp(true)
  t.equal(on.node.view.loaded.size, 0)
  sendsAt(on, 200, 3)
  on.run()
  t.match(on.loads.at(-1), { what: 'end a', ok: true })
  t.equal(on.ends.at(-1)?.finished.outcome, 'done')
})

t.test('a load that is stuck never ends, takes no power, and only the first after its moment is', async t => {
  const on = nodeOn({ scenario: { stuckLoad: { node: 'own', from: 50 } } })
  on.node.load('a', [])
  on.run(60)
  const busyS = on.node.busyS()
  on.at(60, () => on.node.load('b', []))
  on.at(1000, () => {
    t.match(on.node.view.loading, { model: 'b', sinceS: 60 })
    t.equal(on.node.busyS(), busyS)
    on.node.setUp(false)
    on.node.setUp(true)
    on.node.load('b', [])
  })
  on.run()
  t.ok(on.node.view.loaded.has('b'))
})

t.test('a client that leaves frees the slot; what was streamed until then is told', async t => {
  const on = warm({ node: { slots: 1 } })
  const [first, second] = [request(0), request(1)]
  on.at(100, () => on.node.send(first))
  on.at(100, () => on.node.send(second))
  // 2 s of prompt, then 90.909 tokens a second.
  on.at(104.2, () => on.node.cancel(first))
  on.run()
  t.match(on.ends[0]?.finished, { outcome: 'cancelled', outputTokens: 200 })
  close(t, on.endOf(1), 115, 'the next begins at once')
})

t.test('the view counts the tokens as they come', async t => {
  const on = warm()
  sendsAt(on, 100, 0)
  const streamed = (atS: number): number | undefined => {
    let found: number | undefined
    on.at(atS, () => (found = on.node.view.active[0]?.streamed))
    on.run(atS)
    return found
  }
  t.equal(streamed(101), 0)
  t.equal(streamed(103.1), 100)
  t.equal(streamed(104.2), 200)
})

t.test('hidden: while a prompt is read the answers stand still', async t => {
  const on = warm({ hidden: { prefillHaltsDecode: true } })
  sendsAt(on, 100, 0)
  sendsAt(on, 102, 1)
  on.run()
  // Both answer from 106 on, side by side.
  close(t, on.endOf(0), 119.2, '106 s and 8.8 s x 1.5')
})

t.test('hidden: the context may slow down more, and an answer may stand still', async t => {
  const slower = warm({ hidden: { contextFactor: 5 } })
  sendsAt(slower, 100, 0)
  slower.run()
  close(t, slower.endOf(0), 114, '2 s and 8 s x 1.5')
  const still = warm()
  sendsAt(still, 100, 0, { stall: { share: 0.25, seconds: 10 } })
  still.run(106)
  t.equal(still.node.view.active[0]?.streamed, 200)
  still.run()
  close(t, still.endOf(0), 120.8, '10 s more')
})

t.test('hidden: what was said is not read again where the last turn ran, until its model goes', async t => {
  const turn = (id: number, promptTokens: number, prefix: string[]) => [id, { conversation: 'one' }, { promptTokens, prefix }] as const
  const read = (on: Stage): (number | undefined)[] => on.ends.map(({ finished }) => finished.promptTokens)
  const send = (node: SimulatedOwnNode, args: ReturnType<typeof turn>): void => node.send(request(...args))
  const turns = [turn(0, 1000, ['q1']), turn(1, 2500, ['q1', 'a1', 'q2']), turn(2, 4000, ['q1', 'a1', 'q2', 'a2', 'q3'])] as const
  const on = warm({ hidden: { prefixCache: true } })
  on.at(100, () => send(on.node, turns[0]))
  on.at(200, () => send(on.node, turns[1]))
  on.run()
  t.same(read(on), [1000, 2500 - 1800])
  const elsewhere = warm({ hidden: { prefixCache: true } })
  elsewhere.at(100, () => send(elsewhere.node, turns[0]))
  elsewhere.at(200, () => send(elsewhere.node, turns[2]))
  elsewhere.run()
  t.same(read(elsewhere), [1000, 4000], 'another node answered the turn between')
  const evicted = warm({ hidden: { prefixCache: true }, commandsMemory: true })
  evicted.at(100, () => send(evicted.node, turns[0]))
  evicted.at(200, () => evicted.node.load('b', ['a']))
  evicted.at(300, () => evicted.node.load('a', ['b']))
  evicted.at(400, () => send(evicted.node, turns[1]))
  evicted.run()
  t.same(read(evicted), [1000, 2500])
  const known = warm()
  known.at(100, () => send(known.node, turns[0]))
  known.at(200, () => send(known.node, turns[1]))
  known.run()
  t.same(read(known), [1000, 2500], 'not hidden, not there')
})
