// What the brain believes of the memory of machines: by their own lists, and by what it saw since; loads, and loads that hang.

import t from 'tap'
import { type Brain, createBrain } from '../../../routing/brain/brain.ts'
import { type Catalog, createCatalog } from '../../../routing/catalog.ts'
import { GatewayError } from '../../../routing/errors.ts'
import type { CallRecord } from '../../../routing/ports.ts'
import type { Device, ModelRequest, Operation, Target, Upstream } from '../../../routing/types.ts'

const device: Device = { id: 'box', maxConcurrency: 2, watts: 100, vramGb: 10, ramGb: null, keepAlive: null, numCtx: null }

function upstream(changes: Partial<Upstream> = {}): Upstream {
  return {
    id: 'box',
    adapter: 'ollama',
    own: true,
    baseUrl: 'http://box',
    apiKey: null,
    headers: {},
    device,
    timeouts: { connectMs: 1, firstTokenMs: 1, idleMs: 1, totalMs: 1 },
    models: null,
    auto: [],
    streamUsage: true,
    registryId: null,
    ...changes
  }
}

function target(model: string, changes: Partial<Target> = {}): Target {
  const of = changes.upstream ?? upstream()
  return {
    id: `${of.id}/${model}`,
    upstream: of,
    model,
    contextTokens: null,
    maxOutputTokens: null,
    features: null,
    operations: ['chat'],
    loaded: false,
    price: { source: 'electricity', tokens: null },
    createdAt: 0,
    memoryGb: 4,
    ...changes
  }
}

function requestFor(operation: Operation = 'chat'): ModelRequest {
  return {
    id: '01890000-0000-7000-8000-000000000000',
    operation,
    body: { bytes: Buffer.alloc(0), json: () => ({}), with: () => Buffer.alloc(0) },
    model: 'm',
    stream: true,
    includeUsage: false,
    streamOptions: null,
    maxOutputTokens: null,
    needs: [],
    choices: 1,
    prompt: { low: 1, expected: 10 },
    longest: { low: 1, expected: 10 },
    input: null,
    embedding: null,
    localOnly: false
  }
}

/** A brain, its clock, and calls that begin and end. */
function house(...targets: readonly Target[]) {
  let nowMs = 1_000_000
  let listed = targets
  const catalogOf = (): Catalog =>
    createCatalog({
      upstreams: [...new Map(listed.map(({ upstream }) => [upstream.id, upstream])).values()],
      targets: listed,
      listed: new Set(listed.map(({ upstream }) => upstream.id)),
      aliases: new Map(),
      auto: [],
      prices: { configured: new Map(), registered: () => null },
      vectorSpaces: new Map(),
      demo: target('demo')
    })
  let catalog = catalogOf()
  const brain: Brain = createBrain({
    catalog: () => catalog,
    profile: () => null,
    usdPerKwh: 0.25,
    random: () => 0,
    now: () => nowMs,
    epoch: () => nowMs
  })
  let calls = 0
  const begin = (of: Target, operation?: Operation): string => {
    const attemptId = `call ${++calls}`
    brain.began({ attemptId, target: of, request: requestFor(operation), caller: { source: 's' } })
    return attemptId
  }
  const end = (attemptId: string, of: Target, error: GatewayError | null = null): void =>
    brain.ended({
      attemptId,
      target: of,
      outcome: error === null ? 'ok' : 'failed',
      error,
      startedAt: 0,
      durationMs: 1,
      ttftMs: 1,
      usage: null,
      settled: { nanoUsd: 0, estimated: false, promptTokens: 1, completionTokens: 1 }
    } satisfies CallRecord)
  return {
    brain,
    begin,
    end,
    now: () => nowMs,
    wait: (seconds: number) => void (nowMs += seconds * 1_000),
    /** The machine lists these as loaded, asked `agoS` before now. */
    list(loaded: readonly string[], agoS = 0) {
      brain.listed('box', nowMs - agoS * 1_000)
      listed = listed.map(each => ({ ...each, loaded: loaded.includes(each.model) }))
      catalog = catalogOf()
      return listed
    }
  }
}

const failed = new GatewayError('upstream_unavailable', 'x')

t.test('an answer is newer than the list that was asked for before it, and older than the one after', async t => {
  const [a, b] = [target('a'), target('b', { loaded: true })]
  const { brain, begin, end, list, wait } = house(a, b)
  t.notOk(brain.isLoaded(a))
  t.ok(brain.isLoaded(b))
  end(begin(a), a)
  t.ok(brain.isLoaded(a))
  wait(10)
  list([], 11)
  t.ok(brain.isLoaded(a), 'the list was on its way')
  const [gone] = list([], 1) as [Target]
  t.notOk(brain.isLoaded(gone), 'somebody else has thrown it out, or its time was over')
  t.ok(brain.isLoaded(target('c', { upstream: upstream({ adapter: 'openai' }) })), 'other servers have what they have')
})

t.test('a model is not loaded while it loads, whatever the list says; the first token says that it is', async t => {
  const a = target('a')
  const { brain, begin, end, list } = house(a)
  const first = begin(a)
  const [listed] = list(['a']) as [Target]
  t.notOk(brain.isLoaded(listed), 'Ollama lists what it is loading')
  const second = begin(listed)
  end(first, a, failed)
  t.notOk(brain.isLoaded(listed), 'another call waits for the same load')
  brain.begun(second)
  t.ok(brain.isLoaded(listed))
  brain.unloaded(listed)
  t.notOk(brain.isLoaded(listed))
})

t.test('a machine that forgets at once has nothing after an answer', async t => {
  for (const keepAlive of [0, '0', '0s', '0m']) {
    const a = target('a', { upstream: upstream({ device: { ...device, keepAlive } }) })
    const { brain, begin, end } = house(a)
    const [one, other] = [begin(a), begin(a)]
    end(one, a)
    t.ok(brain.isLoaded(a), 'the other call has it')
    end(other, a)
    t.notOk(brain.isLoaded(a), String(keepAlive))
  }
})

t.test('a machine that was away is believed only what it lists', async t => {
  const a = target('a')
  const { brain, begin, end } = house(a)
  end(begin(a), a)
  brain.lost('box')
  t.notOk(brain.isLoaded(a))
})

t.test('who leaves: those of least worth, never one that is used; null where there is no room', async t => {
  const targets = [target('new'), target('used', { loaded: true }), target('idle', { loaded: true })] as const
  const { brain, begin } = house(...targets)
  const names = (): readonly string[] | null => brain.victims(targets[0])?.map(({ model }) => model) ?? null
  t.same(names()?.length, 1)
  begin(targets[1])
  t.same(names(), ['idle'])
  t.equal(brain.victims(targets[0], ['used']), null, 'only the others may leave')
  begin(targets[2])
  t.equal(names(), null)
})

t.test('a model that is larger than all memory gets all of it; one that was loaded just now may leave for a call', async t => {
  const [huge, b] = [target('huge', { memoryGb: 12 }), target('b')]
  const { brain, begin, end } = house(huge, b)
  t.same(brain.victims(huge), [])
  end(begin(b), b)
  t.match(brain.victims(huge), [{ model: 'b' }])
  begin(b)
  t.equal(brain.victims(huge), null)
})

t.test('a load that does not end: nothing is loaded there for ten minutes, and what is loaded is used', async t => {
  const [a, b] = [target('a'), target('b', { loaded: true })]
  const { brain, wait } = house(a, b)
  brain.loading(a)
  // 4 GB: 2 s and 4 / 0.7 are expected.
  wait(30)
  t.same(brain.watch(), [])
  wait(10)
  t.match(brain.watch(), [{ target: { id: 'box/a' }, state: 'stuck' }])
  t.same(brain.watch(), [], 'told once')
  t.equal(brain.victims(a), null)
  t.notOk(brain.isLoaded({ ...a, loaded: true }), 'though Ollama lists it')
  t.ok(brain.isLoaded(b))
  wait(599)
  t.equal(brain.victims(a), null)
  wait(2)
  brain.watch()
  t.same(brain.victims(a), [])
})

t.test('it is over when the load ends well after all, or the machine was away', async t => {
  const a = target('a')
  for (const well of [(brain: Brain) => brain.loaded(a), (brain: Brain) => brain.lost('box')]) {
    const { brain, wait } = house(a)
    brain.loading(a)
    wait(100)
    t.equal(brain.watch().length, 1)
    well(brain)
    t.match(brain.watch(), [{ state: 'works' }])
    t.same(brain.victims(a), [])
  }
})

t.test('a long prompt, and texts that are embedded, are no load that hangs', async t => {
  const a = target('a')
  const { brain, begin, wait } = house(a)
  const embedding = begin(a, 'embed')
  wait(3_600)
  t.same(brain.watch(), [])
  t.ok(embedding)
  const slow = house(a)
  slow.brain.began({
    attemptId: 'long',
    target: a,
    request: { ...requestFor(), prompt: { low: 1, expected: 100_000 } },
    caller: { source: 's' }
  })
  slow.wait(60)
  t.same(slow.brain.watch(), [])
})

t.test('what another gateway loads is not loaded yet, and its quarantine holds here', async t => {
  const a = target('a', { loaded: true })
  const { brain, wait } = house(a)
  brain.loadingElsewhere('box', 'a')
  t.notOk(brain.isLoaded(a))
  brain.loadingElsewhere('box', null)
  t.ok(brain.isLoaded(a))
  brain.stuckElsewhere('box', 5_000)
  t.equal(brain.victims(a), null)
  wait(6)
  t.same(brain.victims(a), [])
  t.same(brain.watch(), [], 'that is told by the one who saw it')
})

t.test('a refusal slows the model that was refused; two models at once, their provider', async t => {
  const cloud = upstream({ id: 'cloud', adapter: 'openai', own: false, device: null })
  const models = [0, 1, 2].map(nth => target(`m${nth}`, { upstream: cloud })) as [Target, Target, Target]
  const { brain, begin, end, wait } = house(...models)
  const limited = new GatewayError('upstream_rate_limited', 'x')
  const waits = (): boolean[] =>
    brain
      .plan(models.map(each => ({ request: requestFor(), caller: { source: 's' }, targets: [each] })))
      .map(({ best }) => (best?.waitS ?? 0) > 0)
  for (let call = 0; call < 20; call++) {
    for (const model of models) end(begin(model), model)
    wait(1)
  }
  t.same(brain.plan([{ request: requestFor(), caller: { source: 's' }, targets: models }])[0]?.action, 'start')
  end(begin(models[0]), models[0], limited)
  // Those planned before count as sent.
  t.same(waits()[0], true)
  t.same(waits().slice(1), [false, false])
  wait(2)
  end(begin(models[1]), models[1], limited)
  t.same(waits()[2], true)
})

t.test('what was learned is kept and used; what is of another kind is not', async t => {
  const a = target('a')
  const { brain, begin, end } = house(a)
  const before = brain.revision()
  end(begin(a), a)
  t.not(brain.revision(), before)
  const kept: unknown = JSON.parse(JSON.stringify(brain.snapshot()))
  t.equal(house(a).brain.restore(kept), true)
  for (const nonsense of [null, 3, {}, { version: 2 }, 'x']) t.equal(house(a).brain.restore(nonsense), false)
})
