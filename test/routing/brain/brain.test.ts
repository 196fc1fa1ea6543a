import t from 'tap'
import type { Chain } from '../../../routing/brain/affinity.ts'
import { createBrain } from '../../../routing/brain/brain.ts'
import { workAtMost } from '../../../routing/brain/plan.ts'
import type { Estimate } from '../../../routing/brain/types.ts'
import { createCatalog } from '../../../routing/catalog.ts'
import { GatewayError } from '../../../routing/errors.ts'
import { uuidv7 } from '../../../routing/ids.ts'
import type { CallRecord } from '../../../routing/ports.ts'
import type { Profile } from '../../../routing/profile.ts'
import type { Device, ModelRequest, Price, Target, Upstream, Usage } from '../../../routing/types.ts'
import { fc } from '../../support/properties.ts'
import { requestFor } from '../dispatch-stage.ts'
import { chanceOf, notFinite } from './stage.ts'

const epochMs = 1_790_000_000_000
const startMs = 1e7

function upstream(id: string, device: Partial<Device> | null): Upstream {
  return {
    id,
    adapter: device === null ? 'openai' : 'ollama',
    own: device !== null,
    baseUrl: '',
    apiKey: null,
    headers: {},
    device:
      device === null
        ? null
        : { id: `${id}-box`, maxConcurrency: 1, watts: 300, vramGb: 24, ramGb: null, keepAlive: null, numCtx: null, ...device },
    timeouts: { connectMs: 1, firstTokenMs: 1, idleMs: 1, totalMs: 1 },
    models: null,
    auto: [],
    streamUsage: true,
    registryId: null
  }
}

/** Models on one upstream; those of a machine take 10 GB each, and are in memory unless `cold` names them. */
function targets(
  of: Upstream,
  models: readonly string[],
  { cold = [], price }: { cold?: readonly string[]; price?: Price } = {}
): Target[] {
  return models.map(model => ({
    id: `${of.id}/${model}`,
    upstream: of,
    model,
    contextTokens: null,
    maxOutputTokens: null,
    features: null,
    operations: ['chat', 'embed'],
    loaded: of.own && !cold.includes(model),
    price:
      price ?? (of.own ? { source: 'electricity', tokens: null } : { source: 'config', tokens: { inputUsdPer1m: 1, outputUsdPer1m: 4 } }),
    createdAt: 0,
    ...(of.own && { memoryGb: 10, paramsB: 8 })
  }))
}

/** 0.01 s a token, half as much for each other; 0.001 s for a prompt's token; 4 s to load. */
const measured: Profile = {
  version: 1,
  answer: { tauS: 0.01, betaS: 0.005, covariance: [0.1, 0, 0.1], farOff: 1 },
  usualTauS: 0.01,
  promptSPerToken: 0.001,
  loadS: 4,
  ttftS: null,
  variation: 0.1,
  samples: { answers: 50, prompts: 50, loads: 3, failures: 0 },
  atMs: epochMs
}

interface World {
  readonly profile?: () => Profile | null
  readonly random?: () => number
}

function createWorld(all: readonly Target[], { profile = () => measured, random = () => 0 }: World = {}) {
  let nowMs = startMs
  let calls = 0
  const upstreams = [...new Set(all.map(target => target.upstream))]
  const catalog = createCatalog({
    upstreams,
    targets: all,
    listed: new Set(upstreams.map(({ id }) => id)),
    aliases: new Map(),
    auto: [],
    prices: { configured: new Map(), registered: () => null },
    vectorSpaces: new Map(),
    demo: all[0] as Target
  })
  const epoch = (): number => epochMs + nowMs - startMs
  const newBrain = () => createBrain({ catalog: () => catalog, profile, usdPerKwh: 0.25, random, now: () => nowMs, epoch })
  let brain = newBrain()
  const find = (id: string): Target => all.find(target => target.id === id) as Target

  function request(changes: Partial<ModelRequest> = {}): ModelRequest {
    return requestFor({ id: uuidv7(epoch()), prompt: { low: 900, expected: 1_000 }, longest: { low: 900, expected: 1_000 }, ...changes })
  }

  const planOne = (ids: readonly string[], changes: Partial<ModelRequest> = {}, source = 's') => {
    const [planned] = brain.plan([{ request: request(changes), caller: { source }, targets: ids.map(find) }])
    if (planned === undefined) throw new Error('not planned')
    return planned
  }

  /** What this target would come to; null where it cannot be. */
  const look = (id: string, changes: Partial<ModelRequest> = {}, source = 's'): Estimate | null => planOne([id], changes, source).best

  function begin(id: string, changes: Partial<ModelRequest> = {}, source = 's') {
    const attemptId = `attempt ${++calls}`
    const target = find(id)
    const asked = request(changes)
    const startedAt = nowMs
    brain.began({ attemptId, target, request: asked, caller: { source } })
    const end = (tokens: number | null, more: Partial<CallRecord> = {}): void => {
      const usage: Usage | null =
        tokens === null
          ? null
          : { promptTokens: 1_000, completionTokens: tokens, cachedTokens: 0, reasoningTokens: 0, providerNanoUsd: null, busyMs: null }
      brain.ended({
        attemptId,
        target,
        outcome: 'ok',
        error: null,
        startedAt,
        durationMs: nowMs - startedAt,
        ttftMs: null,
        usage,
        settled: { nanoUsd: 0, estimated: false, promptTokens: 1_000, completionTokens: tokens ?? 0 },
        ...more
      })
    }
    return { attemptId, end, fail: (error: GatewayError) => end(null, { outcome: 'failed', error }) }
  }

  return {
    get brain() {
      return brain
    },
    find,
    request,
    planOne,
    look,
    begin,
    pass: (ms: number) => void (nowMs += ms),
    /** Another process, with what was kept as JSON. */
    restart() {
      const kept = JSON.parse(JSON.stringify(brain.snapshot()))
      brain = newBrain()
      return brain.restore(kept)
    },
    /** So many answers of this length. */
    answer(id: string, count: number, tokens: number, changes: Partial<ModelRequest> = {}, source = 's') {
      for (let nth = 0; nth < count; nth++) begin(id, changes, source).end(tokens)
    }
  }
}

const box = (models: readonly string[] = ['m'], device: Partial<Device> = {}, cold: readonly string[] = []): Target[] =>
  targets(upstream('home', device), models, { cold })
const cloud = targets(upstream('cloud', null), ['m', 'n'])

t.test('a call that runs is waited for, less and less as it goes on, and not at all when it is over', async t => {
  const world = createWorld(box())
  t.equal(world.look('home/m')?.waitS, 0)
  const call = world.begin('home/m')
  const atFirst = world.look('home/m')?.waitS ?? 0
  t.ok(atFirst > 2 && atFirst < 8, String(atFirst))
  t.equal(world.planOne(['home/m']).action, 'wait')
  world.pass(900)
  t.ok((world.look('home/m')?.waitS ?? 9) < atFirst - 0.5, 'its prompt is read')
  world.pass(2_000)
  world.brain.begun(call.attemptId)
  world.brain.streamed(call.attemptId, 180)
  t.ok((world.look('home/m')?.waitS ?? 0) > 0.5, 'it goes on')
  call.end(200)
  t.equal(world.look('home/m')?.waitS, 0)
})

t.test('each place of a machine is for one call, and those beside each other are slower', async t => {
  const world = createWorld(box(['m'], { maxConcurrency: 2 }))
  const alone = world.look('home/m') as Estimate
  const one = world.begin('home/m')
  const beside = world.look('home/m') as Estimate
  t.match(beside, { waitS: 0, concurrency: 2 })
  t.ok(beside.decodeS > alone.decodeS * 1.4)
  world.begin('home/m')
  t.ok((world.look('home/m')?.waitS ?? 0) > 0)
  one.end(10)
  t.equal(world.look('home/m')?.waitS, 0)
})

t.test('calls are never counted below none: whoever ends twice, or was never begun, changes nothing', async t => {
  const world = createWorld([...box(['m'], { maxConcurrency: 2 }), ...cloud])
  const call = world.begin('home/m')
  for (let nth = 0; nth < 5; nth++) call.end(10)
  const [one, two] = [world.begin('home/m'), world.begin('home/m')]
  t.ok((world.look('home/m')?.waitS ?? 0) > 0, 'both places are taken')
  one.end(10)
  one.end(10)
  t.equal(world.look('home/m')?.concurrency, 2, 'the other still runs')
  two.end(10)
  t.equal(world.look('home/m')?.concurrency, 1)
  world.brain.streamed('nobody', 5)
  world.brain.begun('nobody')
  t.equal(world.look('home/m')?.concurrency, 1)
})

t.test('a machine that says it is full is left alone for a moment', async t => {
  const world = createWorld([...box(['m'], { maxConcurrency: 2 }), ...cloud])
  world.brain.full('home-box')
  const full = world.look('home/m')
  t.ok((full?.waitS ?? 0) > 0, 'others use it too')
  t.ok((full?.waitS ?? 99) < 30)
  world.brain.full('unknown-box')
  world.pass(1_000)
  t.equal(world.look('home/m')?.waitS, 0)
  const call = world.begin('home/m')
  world.brain.full('home-box')
  call.end(5)
  t.equal(world.look('home/m')?.waitS, 0, 'one that ends there makes place')
})

t.test('a place that is being asked for is not offered to the next one', async t => {
  const targets = [...box(['m'], { maxConcurrency: 2 }), ...cloud]
  const world = createWorld(targets)
  const home = targets.find(({ id }) => id === 'home/m') as Target
  world.brain.asking(home)
  t.match(world.look('home/m'), { waitS: 0, concurrency: 2 }, 'as if one ran there')
  world.brain.asking(home)
  t.ok((world.look('home/m')?.waitS ?? 0) > 0, 'both are asked for')
  world.brain.asked(home)
  world.brain.asked(home)
  t.match(world.look('home/m'), { waitS: 0, concurrency: 1 })
  world.brain.asked(home)
  t.match(world.look('home/m'), { waitS: 0, concurrency: 1 }, 'never below none')
})

t.test('a cold call loads its model: others wait for that, and it is there then', async t => {
  const world = createWorld(box(['m', 'n'], { maxConcurrency: 4, vramGb: 80 }, ['m', 'n']))
  t.match(world.look('home/m'), { isCold: true, loadS: 4, waitS: 0 })
  t.equal(world.planOne(['home/m']).action, 'load')
  const call = world.begin('home/m')
  t.equal(world.brain.isLoaded(world.find('home/m')), false)
  world.pass(1_000)
  const same = world.look('home/m') as Estimate
  t.ok(!same.isCold && Math.abs(same.waitS - 3) < 0.01, `${same.waitS} s`)
  const other = world.look('home/n') as Estimate
  t.ok(other.isCold && Math.abs(other.waitS - 3) < 0.01, 'one load at a time')
  world.pass(4_000)
  world.brain.begun(call.attemptId)
  t.equal(world.brain.isLoaded(world.find('home/m')), true)
  t.match(world.look('home/m'), { isCold: false, waitS: 0 })
  t.match(world.look('home/n'), { isCold: true, waitS: 0 })
})

t.test('a cold call that fails gives its load up, unless another waits for it', async t => {
  const gone = new GatewayError('upstream_unavailable', 'gone')
  const world = createWorld(box(['m', 'n'], { maxConcurrency: 4, vramGb: 80 }, ['m', 'n']))
  const [one, two] = [world.begin('home/m'), world.begin('home/m')]
  one.fail(gone)
  t.match(world.look('home/m'), { isCold: false }, 'it is being loaded for the other')
  two.fail(gone)
  t.match(world.look('home/m'), { isCold: true, waitS: 0 })
  t.match(world.look('home/n'), { isCold: true, waitS: 0 })
  t.equal(world.brain.isLoaded(world.find('home/m')), false)
})

t.test('a load that does not end stops all loading there for a while, and what is in memory stays in use', async t => {
  const world = createWorld(box(['m', 'n', 'x'], { maxConcurrency: 4, vramGb: 80 }, ['n', 'x']))
  world.begin('home/n')
  world.pass(5_000)
  t.same(world.brain.watch(), [])
  world.pass(60_000)
  t.match(world.brain.watch(), [{ target: { id: 'home/n' }, state: 'stuck' }])
  t.same(world.brain.watch(), [], 'told once')
  for (const id of ['home/n', 'home/x']) t.match(world.planOne([id]), { action: 'refuse', without: [{ why: 'no_load' }] }, id)
  t.equal(world.planOne(['home/m']).action, 'start')
  t.equal(world.brain.victims(world.find('home/x')), null)
  world.pass(700_000)
  t.not(world.planOne(['home/x']).action, 'refuse', 'for a while only')
})

t.test('a load that was given up and ends well after all is believed', async t => {
  const world = createWorld(box(['m', 'n'], { maxConcurrency: 4, vramGb: 80 }, ['n']))
  const call = world.begin('home/n')
  world.pass(60_000)
  t.equal(world.brain.watch().length, 1)
  world.brain.begun(call.attemptId)
  t.match(world.brain.watch(), [{ target: { id: 'home/n' }, state: 'works' }])
  t.match(world.look('home/n'), { isCold: false })
})

t.test('a load by command, or by another gateway, is waited for like any', async t => {
  const world = createWorld(box(['m', 'n', 'x'], { vramGb: 80 }, ['n', 'x']))
  const { brain, find } = world
  brain.loading(find('home/n'))
  t.match(world.look('home/n'), { isCold: false, waitS: 4 })
  t.match(world.look('home/x'), { isCold: true, waitS: 4 })
  brain.loaded(find('home/n'))
  t.match(world.look('home/n'), { isCold: false, waitS: 0 })
  brain.unloaded(find('home/n'))
  t.match(world.look('home/n'), { isCold: true })
  brain.loadingElsewhere('home', 'x')
  t.ok((world.look('home/x')?.waitS ?? 0) > 0)
  t.equal(world.look('home/x')?.isCold, false)
  brain.loadingElsewhere('home', null)
  t.match(world.look('home/x'), { isCold: true, waitS: 0 })
  brain.stuckElsewhere('home', 60_000)
  t.equal(world.look('home/x'), null)
  world.pass(61_000)
  t.match(world.look('home/x'), { isCold: true })
})

t.test('what a machine tells later than what was seen counts, and what it told before does not', async t => {
  const world = createWorld(box(['m', 'n'], {}, ['n']))
  const { brain, find } = world
  brain.loaded(find('home/n'))
  brain.listed('home', startMs - 1_000)
  t.equal(brain.isLoaded(find('home/n')), true)
  world.pass(1_000)
  brain.listed('home', startMs + 500)
  t.equal(brain.isLoaded(find('home/n')), false, 'it is not in its list')
  brain.unloaded(find('home/m'))
  t.equal(brain.isLoaded(find('home/m')), false)
  brain.lost('home-box')
  t.equal(brain.isLoaded(find('home/m')), true, 'of a machine that was away only its list is known')
  brain.lost('unknown-box')
})

t.test('to make room those of least worth leave, and never one that runs or was just loaded', async t => {
  const world = createWorld([...box(['m', 'n', 'x'], { vramGb: 24, maxConcurrency: 4 }, ['x']), ...cloud])
  const victims = (): unknown => world.brain.victims(world.find('home/x'))?.map(({ model }) => model) ?? null
  world.brain.arrived(world.planOne(['home/m', 'cloud/m']))
  t.same(victims(), ['n'])
  const call = world.begin('home/n')
  t.same(victims(), ['m'], 'n runs')
  const other = world.begin('home/m')
  t.equal(victims(), null)
  other.end(5)
  call.end(5)
  world.brain.unloaded(world.find('home/n'))
  world.brain.loaded(world.find('home/n'))
  t.same(victims(), ['m'], 'n has just come')
  world.pass(120_000)
  t.same(victims(), ['n'])
  t.same(world.brain.victims(world.find('cloud/m')), [])
})

t.test('a model whose requests all rent is loaded after enough of them', async t => {
  const world = createWorld([...box(['m'], {}, ['m']), ...cloud], { profile: () => ({ ...measured, loadS: 120 }) })
  const ids = ['home/m', 'cloud/m']
  t.equal(world.planOne(ids).best?.option.site.id, 'cloud')
  let requests = 1
  while (requests < 60 && world.brain.arrived(world.planOne(ids)) === null) {
    world.pass(2_000)
    requests++
  }
  t.ok(requests > 1 && requests < 40, `${requests}`)
})

t.test('how long answers get is learned of each source and model', async t => {
  const world = createWorld([...box(['m', 'n'], { vramGb: 80 }), ...cloud])
  const before = world.look('home/m')?.decodeS ?? 0
  world.answer('home/m', 60, 3_000)
  t.ok((world.look('home/m')?.decodeS ?? 0) > before * 8)
  t.ok((world.look('home/m', { maxOutputTokens: 50 })?.decodeS ?? 9) < 1, 'but no longer than the request allows')
  const revision = world.brain.revision()
  world.begin('home/m').end(100)
  t.not(world.brain.revision(), revision)
})

t.test('an answer that was cut, or whose client left, counts as longer; one that nobody counted not at all', async t => {
  const long = (teach: (world: ReturnType<typeof createWorld>) => void, changes: Partial<ModelRequest> = {}): number => {
    const world = createWorld(box())
    for (let nth = 0; nth < 60; nth++) teach(world)
    return world.look('home/m', changes)?.decodeS ?? 0
  }
  const whole = long(world => world.answer('home/m', 1, 300))
  t.ok(long(world => world.answer('home/m', 1, 300, { maxOutputTokens: 300 })) > whole * 1.15, 'cut at its bound')
  t.ok(Math.abs(long(world => world.answer('home/m', 1, 300, { maxOutputTokens: 900 })) / whole - 1) < 1e-9, 'below its bound')
  const left = long(world => {
    const call = world.begin('home/m')
    world.brain.streamed(call.attemptId, 300)
    call.end(null, { outcome: 'aborted' })
  })
  t.ok(left > whole * 1.15, 'its client left')
  const unseen = long(() => {})
  t.equal(
    long(world => world.begin('home/m').end(null)),
    unseen,
    'without usage'
  )
  t.equal(
    long(world => world.begin('home/m').fail(new GatewayError('upstream_unavailable', 'x'))),
    unseen,
    'failed'
  )
  t.equal(
    long(world => world.begin('home/m').end(null, { outcome: 'aborted' })),
    unseen,
    'left before anything came'
  )
})

t.test('of several choices each has its own length', async t => {
  const learned = (changes: Partial<ModelRequest>, tokens: number): number => {
    const world = createWorld(box())
    world.answer('home/m', 60, tokens, changes)
    return world.look('home/m')?.decodeS ?? 0
  }
  t.ok(Math.abs(learned({ choices: 4 }, 400) / learned({}, 100) - 1) < 1e-9)
  t.ok(
    Math.abs(learned({ choices: 4, maxOutputTokens: 300 }, 400) / learned({}, 100) - 1) < 1e-9,
    'all together are over the bound, none is cut'
  )
})

t.test('how fast a provider is is learned from its streams, and its failures count', async t => {
  const world = createWorld(cloud)
  const before = world.look('cloud/m') as Estimate
  for (let nth = 0; nth < 40; nth++) {
    const call = world.begin('cloud/m')
    world.pass(3_000)
    call.end(100, { ttftMs: 1_000, durationMs: 9_000 })
  }
  const after = world.look('cloud/m') as Estimate
  t.ok(after.decodeS > before.decodeS * 2, `${before.decodeS} -> ${after.decodeS}`)
  t.equal(world.look('cloud/n')?.prefillS, before.prefillS, 'another model for itself')
  const failing = createWorld(cloud)
  for (let nth = 0; nth < 60; nth++) failing.begin('cloud/m').fail(new GatewayError('upstream_unavailable', 'x'))
  t.ok((failing.look('cloud/m')?.etaS ?? 0) > before.etaS + 1)
  const left = createWorld(cloud)
  for (let nth = 0; nth < 60; nth++) left.begin('cloud/m').fail(new GatewayError('client_gone', 'x'))
  t.equal(left.look('cloud/m')?.etaS, before.etaS, 'whoever left says nothing')
})

t.test('after a refusal a provider is waited for; two models that are refused have one limit', async t => {
  const tooMany = new GatewayError('upstream_rate_limited', 'x')
  t.equal(tooMany.breaker, 'cool_down')
  const world = createWorld([...cloud, ...targets((cloud[0] as Target).upstream, ['o'])])
  const waitS = (id: string): number | undefined =>
    world.planOne(['cloud/m', 'cloud/n', 'cloud/o']).estimates.find(({ option }) => option.id === id)?.waitS
  world.begin('cloud/m').fail(tooMany)
  t.ok((waitS('cloud/m') ?? 0) > 0)
  t.equal(world.look('cloud/m')?.waitS, 0, 'who has nothing else may try')
  t.equal(waitS('cloud/n'), 0, 'limits are of models')
  world.begin('cloud/n').fail(tooMany)
  t.ok((waitS('cloud/o') ?? 0) > 0, 'or of the provider')
  world.pass(120_000)
  t.equal(waitS('cloud/m'), 0)
})

t.test('what provider headers tell is kept to', async t => {
  const world = createWorld(cloud)
  const call = world.begin('cloud/m')
  world.brain.limits(call.attemptId, { requests: 10, remaining: 0, resetS: 60 })
  t.ok((world.look('cloud/m')?.waitS ?? 0) > 1)
  world.brain.limits('nobody', { requests: 1, remaining: 0, resetS: 1e6 })
  t.ok((world.look('cloud/m')?.waitS ?? 99) < 61)
})

/** Turns of one conversation: each has the ones before it, 300 tokens a message. */
function turnsOf(name: string, turn: number): Chain {
  return Array.from({ length: turn }, (_, at) => ({ hash: `${name} ${at}`, tokens: 300 * (at + 1) }))
}

t.test('a conversation stays on the machine that has read it', async t => {
  const world = createWorld(
    ['one', 'two'].flatMap(id => targets(upstream(id, {}), ['m'])),
    { random: chanceOf(4) }
  )
  const places: string[] = []
  for (let turn = 1; turn <= 20; turn++) {
    const changes = { prefix: turnsOf('talk', turn), prompt: { low: 200 * turn, expected: 300 * turn } }
    const { best } = world.planOne(['one/m', 'two/m'], changes)
    places.push(best?.option.site.id ?? '')
    if (turn > 1) t.equal(best?.option.cachedTokens, 300 * (turn - 1))
    const call = world.begin(best?.option.id as string, changes)
    world.pass(5_000)
    call.end(100)
    world.pass(20_000)
  }
  t.ok(places.filter(place => place === places[0]).length >= 18, places.join())
})

t.test('behind a call that waits for its model, the rest of that load is waited for as well', async t => {
  const world = createWorld(box(['m', 'n'], {}, ['n']))
  world.begin('home/n')
  const waitS = (): number => world.look('home/m')?.waitS ?? Number.NaN
  const [atOnce] = [waitS()]
  t.ok(atOnce > 4, `${atOnce} s, with the 4 s of the load`)
  world.pass(2_000)
  t.ok(Math.abs(atOnce - waitS() - 2) < 0.5, `${waitS()} s after two`)
})

t.test('what was sent to a target that failed was not read there', async t => {
  const prefix = turnsOf('talk', 3)
  for (const all of [box(), [...cloud]]) {
    const world = createWorld(all)
    const id = all[0]?.id ?? ''
    const cached = (): number => world.look(id, { prefix })?.option.cachedTokens ?? Number.NaN
    world.begin(id, { prefix }).fail(new GatewayError('upstream_unavailable', 'x'))
    t.equal(cached(), 0, id)
    const call = world.begin(id, { prefix })
    t.equal(cached(), 0, 'nor what is only under way')
    world.brain.begun(call.attemptId)
    t.equal(cached(), 900)
  }
})

t.test('a provider that counts nothing as kept is not expected to', async t => {
  const prefix = turnsOf('talk', 3)
  const world = createWorld(cloud)
  world.answer('cloud/m', 12, 100, { prefix })
  t.ok((world.look('cloud/m', { prefix })?.option.cachedTokens ?? 900) < 30)
})

t.test('a provider’s speed is learned from whole answers too', async t => {
  const world = createWorld(cloud)
  for (let nth = 0; nth < 20; nth++) {
    const slow = world.begin('cloud/m', { stream: false })
    world.pass(10_000)
    slow.end(100)
    world.begin('cloud/n', { stream: false }).end(100, { durationMs: 400 })
  }
  t.ok((world.look('cloud/m')?.etaS ?? 0) > 3 * (world.look('cloud/n')?.etaS ?? 99))
})

t.test('a command to load that fails does not end a load that calls wait for', async t => {
  const world = createWorld(box(['m', 'n'], { maxConcurrency: 2 }, ['n']))
  world.brain.loading(world.find('home/n'))
  world.begin('home/n')
  world.brain.unloaded(world.find('home/n'))
  t.ok((world.look('home/n')?.waitS ?? 0) > 0, 'it still loads')
  const other = createWorld(box(['m', 'n'], { maxConcurrency: 2 }, ['n']))
  other.brain.loading(other.find('home/n'))
  other.brain.unloaded(other.find('home/n'))
  t.equal(other.look('home/n')?.waitS, 0, 'nobody waits: it is over')
})

t.test('the price of a machine’s tokens is what is weighed', async t => {
  const priced = targets(upstream('home', {}), ['m'], { price: { source: 'config', tokens: { inputUsdPer1m: 100, outputUsdPer1m: 100 } } })
  t.ok((createWorld(priced).look('home/m')?.usd ?? 0) > 0.1)
  t.equal(createWorld(targets(upstream('home', {}), ['m'], { price: { source: 'free', tokens: null } })).look('home/m')?.usd, 0)
})

t.test('what was read is forgotten with the model, with the machine, and after half an hour', async t => {
  const prefix = turnsOf('talk', 3)
  const cached = (then: (world: ReturnType<typeof createWorld>) => void): number => {
    const world = createWorld(box())
    world.begin('home/m', { prefix }).end(10)
    then(world)
    return world.look('home/m', { prefix })?.option.cachedTokens ?? Number.NaN
  }
  t.equal(
    cached(() => {}),
    900
  )
  t.equal(
    cached(world => world.brain.unloaded(world.find('home/m'))),
    0
  )
  t.equal(
    cached(world => world.brain.lost('home-box')),
    0
  )
  t.equal(
    cached(world => world.pass(1_801_000)),
    0
  )
  t.equal(
    cached(world => world.begin('home/m').fail(new GatewayError('machine_lost', 'x'))),
    0
  )
  t.equal(
    cached(world => world.begin('home/m', { prefix: turnsOf('other', 2) }).end(5)),
    0,
    'one place keeps one conversation'
  )
})

t.test('prices are dollars a token: 0 is a price, free is 0, and unknown is none', async t => {
  const priced = (price: Price, changes: Partial<ModelRequest> = {}): Estimate | null =>
    createWorld(targets(upstream('cloud', null), ['m'], { price })).look('cloud/m', changes)
  const tokens = { inputUsdPer1m: 2, outputUsdPer1m: 0 }
  t.equal(priced({ source: 'config', tokens })?.usd, 0.002)
  t.equal(priced({ source: 'config', tokens: { inputUsdPer1m: 0, outputUsdPer1m: 0 } })?.usd, 0)
  t.equal(priced({ source: 'free', tokens: null })?.usd, 0)
  t.equal(priced({ source: 'unknown', tokens: null })?.usd, null)
  t.equal(priced({ source: 'config', tokens: { ...tokens, requestUsd: 0.01 } })?.usd, 0.012)
  const tiers = [
    { abovePromptTokens: 500, inputUsdPer1m: 4 },
    { abovePromptTokens: 5_000, inputUsdPer1m: 9 }
  ]
  t.equal(priced({ source: 'config', tokens: { ...tokens, tiers } })?.usd, 0.004)
  const own = createWorld(box()).look('home/m') as Estimate
  t.ok(Math.abs((own.usd ?? 0) / (((300 * 0.25) / 3.6e6) * (1 + own.decodeS)) - 1) < 0.1, 'own ones cost their electricity')
})

t.test('bounds of a request reach the plan', async t => {
  const world = createWorld(cloud)
  const without = (changes: Partial<ModelRequest>): unknown => world.planOne(['cloud/m'], changes).without[0]?.why
  t.equal(without({ maxUsd: 0.001 }), 'max_cost')
  t.equal(without({ maxUsd: 1 }), undefined)
  const { usdP90 } = world.look('cloud/m') as Estimate
  t.equal(without({ maxUsd: (usdP90 as number) * 1.5, choices: 2 }), 'max_cost', 'two calls, of which each has its half')
  t.equal(without({ maxUsd: (usdP90 as number) * 1.9, choices: 2, needs: ['n'] }), undefined, 'one call, which reads its prompt once')
  const patience = { deadlineMs: 10_000, onDisconnect: 'cancel' as const }
  const id = uuidv7(epochMs)
  t.equal(without({ id, patience, isDeadlineHard: true }), undefined)
  world.pass(9_500)
  t.equal(without({ id, patience, isDeadlineHard: true }), 'deadline', 'it counts from the arrival')
  t.ok((world.look('cloud/m', { id, patience })?.missShare ?? 0) > 0.5)
  t.equal(world.look('cloud/m')?.missShare, 0)
  t.equal(world.planOne(['cloud/m'], { route: 'fast' }).work.knob.route, 'fast')
})

t.test('vectors take as long as their texts', async t => {
  const world = createWorld(box())
  world.answer('home/m', 20, 5_000)
  const embedding = world.look('home/m', { operation: 'embed' })
  t.match(embedding, { decodeS: 0 })
  t.ok(Math.abs((embedding?.etaS ?? 0) - 1) < 0.05)
  world.answer('home/m', 60, 0, { operation: 'embed' })
  t.ok((world.look('home/m')?.decodeS ?? 0) > 20, 'and say nothing of how long answers are')
})

t.test('what is promised is corrected by what it came to', async t => {
  const world = createWorld(box())
  const planned = world.planOne(['home/m'])
  const before = world.brain.eta(planned)
  t.ok(before !== null && before.p90 >= before.p50)
  for (let nth = 0; nth < 100; nth++) world.brain.answered(planned, (planned.best?.etaS ?? 0) * 3)
  const after = world.brain.eta(planned)
  t.ok((after?.p50 ?? 0) > (before?.p50 ?? 9) * 2)
  t.equal(world.brain.eta(world.planOne([])), null)
  world.brain.answered(world.planOne([]), 5)
})

t.test('a restart keeps what was learned, and no call that ran before', async t => {
  const world = createWorld([...box(), ...cloud])
  world.answer('home/m', 60, 2_000)
  for (let nth = 0; nth < 20; nth++) world.begin('cloud/m').end(100, { ttftMs: 2_000, durationMs: 12_000 })
  const planned = world.planOne(['home/m'])
  for (let nth = 0; nth < 50; nth++) world.brain.answered(planned, 60)
  const figures = () =>
    [world.look('home/m')?.decodeS, world.look('cloud/m')?.etaS, world.brain.eta(world.planOne(['home/m']))?.p90] as number[]
  const before = figures()
  world.begin('home/m')
  t.equal(world.restart(), true)
  for (const [at, figure] of figures().entries()) t.ok(Math.abs(figure / (before[at] as number) - 1) < 0.02, `${figure} for ${before[at]}`)
  t.equal(world.look('home/m')?.waitS, 0)
})

t.test('nonsense is not restored, and does no harm', async t => {
  const world = createWorld([...box(), ...cloud])
  const before = [world.look('home/m')?.score, world.look('cloud/m')?.score]
  for (const kept of [
    null,
    undefined,
    7,
    'brain',
    [],
    {},
    { version: 2 },
    { version: 1 },
    { version: 1, lengths: 5, calibration: {}, rented: {} }
  ])
    t.equal(world.brain.restore(kept), false, JSON.stringify(kept))
  for (const part of [{}, [], { version: 1, all: 5, corrections: [null, 4], paces: [null], limits: 'x', sources: 9 }])
    world.brain.restore({ version: 1, lengths: part, calibration: part, rented: part })
  t.same([world.look('home/m')?.score, world.look('cloud/m')?.score], before)
})

t.test('at most 32 are planned together, and each knows of all that wait', async t => {
  const world = createWorld([...box(), ...cloud])
  const asked = (count: number) =>
    world.brain.plan(
      Array.from({ length: count }, () => ({ request: world.request(), caller: { source: 's' }, targets: [world.find('home/m')] }))
    )
  t.equal(asked(100).length, workAtMost)
  t.ok((asked(100)[31]?.best?.othersUsd ?? 0) > 0)
  t.equal(asked(32)[31]?.best?.othersUsd, 0)
  t.same(asked(0), [])
})

t.test('whatever happens, in whatever order, every figure is a number', async t => {
  const fleet = [
    ...box(['m', 'n'], { maxConcurrency: 2 }, ['n']),
    ...targets(upstream('weak', { watts: 0, vramGb: null }), ['m']).map(target => ({ ...target, memoryGb: 0, paramsB: null })),
    ...targets(upstream('unknown', null), ['m'], { price: { source: 'unknown', tokens: null } }),
    ...cloud
  ]
  const ids = fleet.map(({ id }) => id)
  fc.assert(
    fc.property(fc.integer(), seed => {
      const chance = chanceOf(seed)
      const one = <T>(...values: readonly T[]): T => values[Math.floor(chance() * values.length)] as T
      const profile = chance() < 0.5 ? null : measured
      const world = createWorld(fleet, { profile: () => profile, random: chance })
      const open: ReturnType<typeof world.begin>[] = []
      for (let step = 0; step < 40; step++) {
        world.pass(one(0, 1, 500, 20_000, 1e7) * chance())
        const id = one(...ids)
        const target = world.find(id)
        const changes: Partial<ModelRequest> = {
          stream: chance() < 0.7,
          operation: one('chat', 'chat', 'embed'),
          choices: one(1, 1, 3),
          maxOutputTokens: one(null, 0, 1, 500, 2 ** 31),
          prompt: { low: 0, expected: one(0, 1, 1_000, 1e6) },
          ...(chance() < 0.3 && { prefix: turnsOf(one('a', 'b'), 1 + Math.floor(chance() * 4)) }),
          ...(chance() < 0.3 && { patience: { deadlineMs: one(0, 1, 1e4), onDisconnect: 'cancel' as const } }),
          ...(chance() < 0.2 && { maxUsd: one(0, 1e-3, 1) })
        }
        const act = Math.floor(chance() * 12)
        const last = open.at(-1)
        if (act < 4) open.push(world.begin(id, changes))
        else if (act === 4 && last !== undefined) world.brain.begun(last.attemptId)
        else if (act === 5 && last !== undefined) world.brain.streamed(last.attemptId, one(0, 1, 1_000))
        else if (act === 6) open.pop()?.end(one(null, 0, 1, 5_000), { ttftMs: one(null, 0, 900), durationMs: one(0, 1, 1e5) })
        else if (act === 7)
          open.shift()?.fail(new GatewayError(one('upstream_unavailable', 'upstream_rate_limited', 'client_gone', 'machine_lost'), 'x'))
        else if (act === 8) one(world.brain.loading, world.brain.loaded, world.brain.unloaded)(target)
        else if (act === 9) world.brain.full(target.upstream.device?.id ?? '')
        else if (act === 10) world.brain.watch()
        else world.restart()
        const planned = world.planOne(ids, changes)
        world.brain.arrived(planned)
        if (chance() < 0.5) world.brain.answered(planned, one(0, 0.1, 1e5))
        const told = [planned.estimates, planned.without.map(({ estimate }) => estimate)].flat()
        const figures = told.map(estimate => ({ ...estimate, option: null }))
        const wrong = notFinite([figures, world.brain.eta(planned), world.brain.snapshot()])
        if (wrong !== null) throw new Error(wrong)
      }
      return true
    }),
    { numRuns: 60 }
  )
  t.pass()
})
