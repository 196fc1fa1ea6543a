import t from 'tap'
import type { Planned } from '../../routing/brain/plan.ts'
import type { Estimate } from '../../routing/brain/types.ts'
import { type Decision, type DecisionInput, type DecisionView, decide } from '../../routing/decide.ts'
import type { ProviderPreference } from '../../routing/preference.ts'
import type { Device, Feature, ModelRequest, Target, Upstream } from '../../routing/types.ts'
import { fc } from '../support/properties.ts'
import { requestFor } from './dispatch-stage.ts'

const device: Device = { id: 'home', maxConcurrency: 2, watts: 100, vramGb: 24, ramGb: null, keepAlive: null, numCtx: null }

interface TargetChanges extends Partial<Omit<Target, 'upstream' | 'features'>> {
  readonly upstream?: Partial<Upstream>
  readonly features?: readonly Feature[] | null
}

function target(id: string, { upstream, features, ...changes }: TargetChanges = {}): Target {
  return {
    id,
    model: 'm',
    contextTokens: null,
    maxOutputTokens: null,
    features: features == null ? null : new Set(features),
    operations: ['chat', 'complete'],
    loaded: true,
    price: { source: 'unknown', tokens: null },
    createdAt: 0,
    ...changes,
    upstream: {
      id,
      adapter: 'openai',
      own: true,
      baseUrl: 'http://127.0.0.1:9',
      apiKey: null,
      headers: {},
      device: upstream?.own === false ? null : { ...device, id },
      timeouts: { connectMs: 1, firstTokenMs: 1, idleMs: 1, totalMs: 1 },
      models: null,
      auto: [],
      streamUsage: true,
      registryId: null,
      ...upstream
    }
  }
}

const own = (id: string, changes: TargetChanges = {}) => target(id, changes)
const rented = (id: string, changes: TargetChanges = {}) => target(id, { ...changes, upstream: { own: false, ...changes.upstream } })

function request(changes: Partial<ModelRequest> = {}): ModelRequest {
  return requestFor({ id: 'r', prompt: { low: 100, expected: 300 }, ...changes })
}

/** Everything idle and well, unless said otherwise by target id. */
interface Moment {
  readonly cannot?: Readonly<Record<string, readonly Feature[]>>
  readonly open?: readonly string[]
  readonly denied?: readonly string[]
  readonly missing?: readonly string[]
  readonly down?: readonly string[]
  readonly coolingMs?: Readonly<Record<string, number>>
  readonly inFlight?: Readonly<Record<string, number>>
  readonly averageMs?: Readonly<Record<string, number>>
}

function viewOf(moment: Moment = {}): DecisionView {
  return {
    canCarry: ({ id }, feature) => !(moment.cannot?.[id]?.includes(feature) ?? false),
    isOpen: ({ id }) => moment.open?.includes(id) ?? false,
    isDenied: ({ id }) => moment.denied?.includes(id) ?? false,
    isMissing: ({ id }) => moment.missing?.includes(id) ?? false,
    isDown: ({ id }) => moment.down?.includes(id) ?? false,
    coolingMs: ({ id }) => moment.coolingMs?.[id] ?? 0,
    inFlight: ({ id }) => moment.inFlight?.[id] ?? 0,
    averageMs: ({ id }) => moment.averageMs?.[id] ?? 0
  }
}

const anyone = { source: 's', models: null, providers: null }

interface Case extends Partial<Omit<DecisionInput, 'request' | 'targets'>> {
  readonly request?: Partial<ModelRequest>
  readonly moment?: Moment
}

function decideOn(targets: readonly Target[], { request: asked, moment, ...input }: Case = {}): Decision {
  return decide(
    { request: request(asked), caller: anyone, space: null, targets, ordered: false, localOnly: false, mayQueue: false, ...input },
    viewOf(moment)
  )
}

function rankedIds(decision: Decision): string[] {
  return decision.action === 'run' ? decision.ranked.map(({ id }) => id) : []
}

function refusalOf(decision: Decision) {
  if (decision.action !== 'refuse') throw new Error(`not a refusal but ${decision.action}`)
  return decision.error
}

t.test('a target that cannot take the request is left out, with the reason', async t => {
  const cases: readonly [name: string, targets: readonly Target[], given: Case, reason: string | null][] = [
    ['nothing against it', [own('a')], {}, null],
    ['rented, and the request is local only', [rented('a')], { request: { localOnly: true } }, 'not_local'],
    ['rented, and the house is local only', [rented('a')], { localOnly: true }, 'not_local'],
    ['own, and everything is local only', [own('a')], { localOnly: true, request: { localOnly: true } }, null],
    ['no chat model', [own('a', { operations: ['embed'] })], {}, 'no_chat'],
    ['the adapter cannot', [own('a')], { request: { needs: ['n'] }, moment: { cannot: { a: ['n'] } } }, 'lacks_n'],
    ['the model cannot', [own('a', { features: ['tools'] })], { request: { needs: ['vision'] } }, 'lacks_vision'],
    ['the model can', [own('a', { features: ['vision'] })], { request: { needs: ['vision'] } }, null],
    ['nobody says what the model can', [own('a', { features: null })], { request: { needs: ['vision'] } }, null],
    [
      'the first lacking feature is named',
      [own('a', { features: ['tools'] })],
      { request: { needs: ['tools', 'logprobs', 'n'] } },
      'lacks_logprobs'
    ],
    ['even the low estimate is too long', [own('a', { contextTokens: 99 })], {}, 'context'],
    ['the low estimate just fits', [own('a', { contextTokens: 100 })], {}, null],
    ['only the expected size is too long', [own('a', { contextTokens: 299 })], {}, null],
    ['the context is unknown', [own('a')], { request: { prompt: { low: 1e9, expected: 1e9 } } }, null],
    ['its machine is away', [own('a')], { moment: { down: ['a'] } }, 'down'],
    ['it rests', [own('a')], { moment: { coolingMs: { a: 1 } } }, 'cooling_down'],
    ['all places are taken', [own('a')], { moment: { inFlight: { a: 2 } } }, 'full'],
    ['one place is left', [own('a')], { moment: { inFlight: { a: 1 } } }, null],
    ['rented ones have no places', [rented('a')], { moment: { inFlight: { a: 1_000 } } }, null],
    ['own ones that are no machine neither', [own('a', { upstream: { device: null } })], { moment: { inFlight: { a: 1_000 } } }, null]
  ]
  for (const [name, targets, given, reason] of cases) {
    const decision = decideOn(targets, given)
    t.same(decision.rejected, reason === null ? [] : [{ target: 'a', reason }], name)
    t.equal(decision.action, reason === null ? 'run' : 'refuse', name)
  }
})

t.test('of several reasons the one that lasts longest is told', async t => {
  const spoiled = rented('a', { operations: ['embed'], contextTokens: 1, features: [] })
  const moment = { coolingMs: { a: 5 }, inFlight: { a: 9 } }
  const order: readonly [changes: TargetChanges, localOnly: boolean, reason: string][] = [
    [{}, true, 'not_local'],
    [{}, false, 'no_chat'],
    [{ operations: ['chat', 'complete'] }, false, 'lacks_tools'],
    [{ operations: ['chat', 'complete'], features: null }, false, 'context'],
    [{ operations: ['chat', 'complete'], features: null, contextTokens: null }, false, 'cooling_down']
  ]
  for (const [changes, localOnly, reason] of order) {
    const changed = { ...spoiled, ...changes, features: changes.features === null ? null : spoiled.features } as Target
    t.equal(decideOn([changed], { localOnly, request: { needs: ['tools'] }, moment }).rejected[0]?.reason, reason)
  }
})

t.test('targets are ranked by what matters most', async t => {
  const cold = { loaded: false }
  const cases: readonly [name: string, targets: readonly Target[], given: Case, ranked: readonly string[], reason: string][] = [
    ['one', [own('a')], {}, ['a'], 'only_target'],
    ['one that is left', [own('a'), own('b')], { moment: { coolingMs: { a: 1 } } }, ['b'], 'only_target'],
    ['own before rented', [rented('cloud'), own('home')], {}, ['home', 'cloud'], 'own_loaded'],
    ['a cold own one before rented', [rented('cloud'), own('home', cold)], {}, ['home', 'cloud'], 'own_first'],
    ['loaded before cold', [own('cold', cold), own('warm')], {}, ['warm', 'cold'], 'own_loaded'],
    [
      'loaded before less busy',
      [own('cold', cold), own('warm')],
      { moment: { inFlight: { cold: 0, warm: 1 } } },
      ['warm', 'cold'],
      'own_loaded'
    ],
    ['the less busy of two', [own('a'), own('b')], { moment: { inFlight: { a: 1, b: 0 } } }, ['b', 'a'], 'own_loaded'],
    [
      'how busy a rented one is says nothing',
      [rented('a'), rented('b')],
      { moment: { inFlight: { a: 9 } } },
      ['a', 'b'],
      'configured_order'
    ],
    ['otherwise as configured', [rented('b'), rented('a'), rented('c')], {}, ['b', 'a', 'c'], 'configured_order'],
    [
      'a given order stands above all preferences',
      [rented('cloud'), own('cold', cold), own('warm')],
      { ordered: true },
      ['cloud', 'cold', 'warm'],
      'given_order'
    ],
    [
      'room for the expected prompt comes before own',
      [own('small', { contextTokens: 299 }), rented('large', { contextTokens: 300 })],
      {},
      ['large', 'small'],
      'configured_order'
    ],
    [
      'the answer needs room too',
      [own('small', { contextTokens: 399 }), rented('large', { contextTokens: 400 })],
      { request: { maxOutputTokens: 100 } },
      ['large', 'small'],
      'configured_order'
    ],
    [
      'and before a given order',
      [own('small', { contextTokens: 299 }), rented('large')],
      { ordered: true },
      ['large', 'small'],
      'given_order'
    ],
    [
      'an open breaker ranks behind, also in a given order',
      [own('a'), rented('b')],
      { ordered: true, moment: { open: ['a'] } },
      ['b', 'a'],
      'given_order'
    ],
    [
      'an open breaker ranks behind a small context',
      [own('open', { contextTokens: 1e6 }), own('small', { contextTokens: 299 })],
      { moment: { open: ['open'] } },
      ['small', 'open'],
      'own_loaded'
    ],
    [
      'a refused key and a missing model rank behind an open breaker',
      [own('denied'), own('missing'), own('open')],
      { moment: { denied: ['denied'], missing: ['missing'], open: ['open'] } },
      ['open', 'denied', 'missing'],
      'own_loaded'
    ]
  ]
  for (const [name, targets, given, ranked, reason] of cases) {
    const decision = decideOn(targets, given)
    t.same(rankedIds(decision), ranked, name)
    t.equal(decision.action === 'run' && decision.reason, reason, name)
  }
})

t.test('the order behind a name that leaves the choice to us is no given order', async t => {
  for (const [model, reason] of [
    ['auto', 'own_loaded'],
    ['local', 'own_loaded'],
    ['mine', 'given_order']
  ] as const) {
    const decision = decideOn([own('a'), rented('b')], { ordered: true, request: { model } })
    t.equal(decision.action === 'run' && decision.reason, reason, model)
  }
  const cloud = decideOn([rented('a'), rented('b')], { ordered: true, request: { model: 'cloud' } })
  t.equal(cloud.action === 'run' && cloud.reason, 'configured_order')
})

t.test('the last target that could answer is never put out by an open breaker, a refused key or a missing model', async t => {
  t.same(rankedIds(decideOn([own('a')], { moment: { open: ['a'] } })), ['a'])
  t.same(rankedIds(decideOn([rented('a')], { moment: { denied: ['a'] } })), ['a'])
  t.same(rankedIds(decideOn([rented('a')], { moment: { missing: ['a'], open: ['a'], denied: ['a'] } })), ['a'])
})

t.test('a full machine makes a request wait only where it may', async t => {
  const moment = { inFlight: { a: 2, b: 2 } }
  const decision = decideOn([own('a'), own('b'), rented('c')], { mayQueue: true, localOnly: true, moment })
  t.match(decision, { action: 'enqueue', feasible: [{ id: 'a' }, { id: 'b' }] })
  t.equal(decision.action === 'enqueue' && decision.feasible.length, 2)
  t.equal(decideOn([own('a')], { mayQueue: false, moment }).action, 'refuse')
  t.equal(decideOn([own('a'), own('c')], { mayQueue: true, moment }).action, 'run', 'somebody is free')
  t.equal(decideOn([own('a')], { mayQueue: true, moment: { coolingMs: { a: 1 } } }).action, 'refuse', 'a rest is not a queue')
  t.equal(decideOn([own('a', { operations: ['embed'] })], { mayQueue: true, moment }).action, 'refuse', 'waiting would not help')
})

t.test('a refusal says what is wrong, and which field it is', async t => {
  const long = { prompt: { low: 5_000, expected: 9_000 } }
  const cases: readonly [
    name: string,
    targets: readonly Target[],
    given: Case,
    code: string,
    param: string | null,
    shouldRetry: boolean
  ][] = [
    ['nobody there', [], {}, 'no_capacity', null, true],
    ['no chat model', [own('a', { operations: ['embed'] })], {}, 'invalid_request', 'model', false],
    ['only rented ones', [rented('a')], { localOnly: true }, 'no_capacity', null, false],
    ['too long', [own('a', { contextTokens: 4_096 })], { request: long }, 'context_length_exceeded', 'messages', false],
    ['full', [own('a')], { moment: { inFlight: { a: 2 } } }, 'no_capacity', null, true],
    ['resting', [rented('a')], { moment: { coolingMs: { a: 9 } } }, 'no_capacity', null, true],
    [
      'too long for one, the other is full: waiting helps',
      [own('small', { contextTokens: 4_096 }), own('large')],
      { request: long, moment: { inFlight: { large: 2 } } },
      'no_capacity',
      null,
      true
    ],
    [
      'one has no chat, the other is rented',
      [own('a', { operations: ['embed'] }), rented('b')],
      { localOnly: true },
      'no_capacity',
      null,
      false
    ]
  ]
  for (const [name, targets, given, code, param, shouldRetry] of cases) {
    const error = refusalOf(decideOn(targets, given))
    t.match(error, { code, param, shouldRetry }, name)
    t.match(error.message, /"m"/, name)
  }
})

t.test('a feature nobody has is named by the request field it comes from', async t => {
  const parameters: Record<Feature, string> = {
    audio: 'modalities',
    best_of: 'best_of',
    echo_prompt: 'echo',
    file: 'messages',
    forced_tool_choice: 'tool_choice',
    functions: 'functions',
    json_object: 'response_format',
    json_schema: 'response_format',
    logprobs: 'logprobs',
    n: 'n',
    prompts: 'prompt',
    reasoning: 'reasoning_effort',
    suffix: 'suffix',
    tools: 'tools',
    vision: 'messages'
  }
  for (const [feature, param] of Object.entries(parameters)) {
    const error = refusalOf(
      decideOn([own('a', { features: [] }), rented('b', { features: [] })], { request: { needs: [feature as Feature] } })
    )
    t.same([error.code, error.status, error.param], ['unsupported_parameter', 400, param], feature)
    t.match(error.message, param)
  }
})

t.test('the context a refusal names is the largest among those that were asked', async t => {
  const targets = [own('a', { contextTokens: 8_192 }), own('b', { contextTokens: 16_384 }), rented('cloud', { contextTokens: 200_000 })]
  const error = refusalOf(decideOn(targets, { localOnly: true, request: { prompt: { low: 20_000, expected: 60_000 } } }))
  t.equal(error.code, 'context_length_exceeded')
  t.match(error.message, /20000 tokens/)
  t.match(error.message, /at most 16384/)
  t.notMatch(error.message, /200000/, 'a target it may not go to holds nothing for it')
})

t.test('Retry-After is when something may be free, and SDKs are told not to try where that is over a minute', async t => {
  const cases: readonly [name: string, moment: Moment, ms: number][] = [
    ['the rest that ends first', { coolingMs: { a: 9_000.2, b: 5_000.2 } }, 5_001],
    ['not under a second', { coolingMs: { a: 3, b: 3 } }, 1_000],
    ['a long rest as it is', { coolingMs: { a: 3e6, b: 3e6 } }, 3e6],
    ['a usual answer counts for a minute at most', { inFlight: { a: 2, b: 2 }, averageMs: { a: 3e6, b: 3e6 } }, 60_000],
    ['a usual answer, where all places are taken', { inFlight: { a: 2, b: 2 }, averageMs: { a: 30_000, b: 7_000 } }, 7_000],
    ['nothing known: two seconds', { inFlight: { a: 2, b: 2 } }, 2_000],
    ['whichever comes first', { inFlight: { a: 2 }, averageMs: { a: 30_000 }, coolingMs: { b: 4_000 } }, 4_000]
  ]
  for (const [name, moment, ms] of cases) {
    const error = refusalOf(decideOn([own('a'), own('b')], { moment }))
    t.equal(error.retryAfterMs, ms, name)
    t.equal(error.shouldRetry, ms <= 60_000, 'up to a minute SDKs wait')
  }
  const busy = { inFlight: { home: 2 }, averageMs: { home: 30_000, cloud: 1 } }
  const error = refusalOf(decideOn([own('home'), rented('cloud')], { localOnly: true, moment: busy }))
  t.equal(error.retryAfterMs, 30_000, 'a target it may not go to frees nothing')
})

const features: readonly Feature[] = ['tools', 'vision', 'n', 'logprobs']
const fleet = fc.array(
  fc.record({
    own: fc.boolean(),
    device: fc.boolean(),
    chat: fc.boolean(),
    loaded: fc.boolean(),
    contextTokens: fc.constantFrom(null, 50, 100, 300, 1_000),
    features: fc.option(fc.subarray([...features])),
    open: fc.boolean(),
    denied: fc.boolean(),
    missing: fc.boolean(),
    coolingMs: fc.constantFrom(0, 0, 0, 10, 1e6),
    inFlight: fc.nat(3),
    averageMs: fc.nat(100_000)
  }),
  { maxLength: 8 }
)
const situation = fc.record({
  fleet,
  needs: fc.subarray([...features]),
  ordered: fc.boolean(),
  houseLocalOnly: fc.boolean(),
  requestLocalOnly: fc.boolean(),
  mayQueue: fc.boolean(),
  maxOutputTokens: fc.option(fc.nat(1_000))
})

type Situation = typeof situation extends fc.Arbitrary<infer T> ? T : never

function build(given: Situation): { input: DecisionInput; view: DecisionView } {
  const targets = given.fleet.map(({ own, device: isMachine, chat, loaded, contextTokens, features }, index) =>
    target(`t${index}`, {
      operations: chat ? ['chat'] : ['embed'],
      loaded,
      contextTokens,
      features,
      upstream: { own, device: own && isMachine ? { ...device, id: `t${index}` } : null }
    })
  )
  const of = (target: Target) => given.fleet[targets.indexOf(target)] as Situation['fleet'][number]
  return {
    input: {
      caller: anyone,
      space: null,
      request: request({ needs: given.needs, localOnly: given.requestLocalOnly, maxOutputTokens: given.maxOutputTokens }),
      targets,
      ordered: given.ordered,
      localOnly: given.houseLocalOnly,
      mayQueue: given.mayQueue
    },
    view: {
      canCarry: () => true,
      isOpen: target => of(target).open,
      isDenied: target => of(target).denied,
      isMissing: target => of(target).missing,
      isDown: () => false,
      coolingMs: target => of(target).coolingMs,
      inFlight: target => of(target).inFlight,
      averageMs: target => of(target).averageMs
    }
  }
}

t.test('local-only never lets a rented target through, whatever the fleet', async t => {
  fc.assert(
    fc.property(situation, given => {
      const { input, view } = build(given)
      const decision = decide({ ...input, localOnly: true }, view)
      const chosen = decision.action === 'run' ? decision.ranked : decision.action === 'enqueue' ? decision.feasible : []
      const byHeader = decide({ ...input, localOnly: false, request: { ...input.request, localOnly: true } }, view)
      const chosenByHeader = byHeader.action === 'run' ? byHeader.ranked : byHeader.action === 'enqueue' ? byHeader.feasible : []
      return [...chosen, ...chosenByHeader].every(target => target.upstream.own)
    }),
    { numRuns: 10_000 }
  )
  t.pass()
})

t.test('every target is either ranked or rejected once, and a run, a queue or a refusal follows from that', async t => {
  fc.assert(
    fc.property(situation, given => {
      const { input, view } = build(given)
      const decision = decide(input, view)
      const seen = [...rankedIds(decision), ...decision.rejected.map(rejected => rejected.target)].sort()
      if (
        seen.join() !==
        input.targets
          .map(({ id }) => id)
          .sort()
          .join()
      )
        throw new Error(`not each once: ${seen.join()}`)
      const full = decision.rejected.filter(({ reason }) => reason === 'full')
      if (decision.action === 'run') return decision.ranked.length > 0
      if (decision.action === 'enqueue') return input.mayQueue && decision.feasible.length === full.length && full.length > 0
      const { retryAfterMs, shouldRetry, code } = decision.error
      if (retryAfterMs !== null && retryAfterMs < 1_000) throw new Error(`Retry-After ${retryAfterMs}`)
      return code === 'no_capacity' ? retryAfterMs !== null || !shouldRetry : !shouldRetry
    }),
    { numRuns: 5_000 }
  )
  t.pass()
})

t.test('the same input gives the same decision, and nothing of it is changed', async t => {
  fc.assert(
    fc.property(situation, given => {
      const { input, view } = build(given)
      const freeze = (value: unknown): unknown => {
        if (typeof value !== 'object' || value === null || Buffer.isBuffer(value) || Object.isFrozen(value)) return value
        Object.freeze(value)
        for (const inner of Object.values(value)) freeze(inner)
        return value
      }
      freeze(input)
      const told = (decision: Decision) =>
        JSON.stringify([decision.action, rankedIds(decision), decision.rejected, decision.action === 'refuse' && decision.error.message])
      const again = build(given)
      const first = told(decide(input, view))
      return first === told(decide(input, view)) && first === told(decide(again.input, again.view))
    }),
    { numRuns: 2_000 }
  )
  t.pass()
})

t.test('a key’s models and providers leave out every other target', async t => {
  const targets = [
    own('home/llama', { model: 'llama3:latest', upstream: { id: 'home', adapter: 'ollama' } }),
    rented('cloud/gpt', { model: 'gpt', upstream: { id: 'cloud' } })
  ]
  const allowed = (models: readonly string[] | null, providers: readonly string[] | null, model = 'm') =>
    rankedIds(decideOn(targets, { caller: { source: 's', models, providers }, request: { model } }))
  t.same(allowed(null, null), ['home/llama', 'cloud/gpt'])
  t.same(allowed(['llama3'], null), ['home/llama'], 'x is x:latest')
  t.same(allowed(['gp*'], null), ['cloud/gpt'])
  t.same(allowed(['cloud/*'], null), ['cloud/gpt'], 'bound names too')
  t.same(allowed(['smart'], null, 'smart'), ['home/llama', 'cloud/gpt'], 'a name that is allowed as such stands for all it means')
  t.same(allowed(null, ['ollama']), ['home/llama'])
  t.same(allowed(null, ['cloud']), ['cloud/gpt'])
  const error = refusalOf(decideOn(targets, { caller: { source: 's', models: ['other'], providers: null } }))
  t.match(error, { code: 'forbidden', status: 403, param: 'model' })
})

t.test('an embedding goes to its own space only, and to what makes embeddings', async t => {
  const space = { name: 's', has: ({ id }: Target) => id !== 'b' }
  const embed = { operation: 'embed' as const }
  const targets = [own('a', { operations: ['embed'] }), own('b', { operations: ['embed'] }), own('c', { operations: ['chat'] })]
  const decision = decideOn(targets, { space, request: embed })
  t.same(rankedIds(decision), ['a'])
  t.same(decision.rejected, [
    { target: 'b', reason: 'other_vector_space' },
    { target: 'c', reason: 'no_embed' }
  ])
  t.match(refusalOf(decideOn([own('c', { operations: ['chat'] })], { space, request: embed })), { code: 'invalid_request', param: 'model' })
})

t.test('further calls for one answer stay on their target', async t => {
  t.same(rankedIds(decideOn([own('a'), own('b')], { request: { only: 'b' } })), ['b'])
})

t.test('a request for certain providers goes to no other, and says so where they do not have the model', async t => {
  const ollama = own('rtx', { upstream: { adapter: 'ollama' } })
  const targets = [own('studio'), ollama, rented('openai')]
  const given = (providers: readonly string[], on = targets): Decision => decideOn(on, { request: { providers } })
  t.same(rankedIds(given(['openai'])), ['openai'])
  t.same(rankedIds(given(['ollama'])), ['rtx'], 'whatever the machine is called')
  t.same(given(['ollama']).rejected, [
    { target: 'studio', reason: 'not_chosen' },
    { target: 'openai', reason: 'not_chosen' }
  ])
  t.match(refusalOf(given(['openrouter'])), {
    code: 'model_not_found',
    jobRetry: false,
    message: 'The model "m" is not offered by openrouter here.'
  })
  const full = decideOn(targets, { request: { providers: ['ollama'] }, moment: { inFlight: { rtx: 2 } } })
  t.match(refusalOf(full), { code: 'no_capacity' }, 'what is wrong with the others does not matter')
})

t.test('a machine that is away is no reason to wait, but its neighbour that is full is', async t => {
  const error = refusalOf(decideOn([own('a')], { moment: { down: ['a'] }, mayQueue: true }))
  t.match(error, { code: 'no_capacity', retryAfterMs: 2_000, message: /do not answer now/ })
  t.match(decideOn([own('a'), own('b')], { moment: { down: ['a'], inFlight: { b: 2 } }, mayQueue: true }), {
    action: 'enqueue',
    feasible: [{ id: 'b' }]
  })
  t.same(rankedIds(decideOn([own('a'), rented('b')], { moment: { down: ['a'] } })), ['b'])
})

/** Each target comes to these dollars with a long answer, and takes so many seconds. */
function weighing(figures: Readonly<Record<string, readonly [usd: number | null, etaS: number]>>): NonNullable<DecisionView['weigh']> {
  return asked =>
    asked.map(({ request, targets }) => {
      const maxUsd = request.maxUsd ?? null
      const estimates = targets.map(target => {
        const [usd, etaS] = figures[target.id] ?? [0, 1]
        const own = target.upstream.own ? { slots: 2, busyS: [], loaded: new Set(['m']) } : null
        const option = { id: target.id, model: target.model, site: { id: target.upstream.id, own } }
        return {
          option,
          usd,
          usdP90: usd,
          etaS,
          waitS: 0,
          missShare: 0,
          isCold: false,
          score: (usd ?? 1) + etaS * 1e-6
        } as unknown as Estimate
      })
      const isOut = ({ usdP90 }: Estimate): boolean => maxUsd !== null && (usdP90 === null || usdP90 > maxUsd)
      const inside = estimates.filter(estimate => !isOut(estimate)).sort((one, other) => one.score - other.score)
      const without = estimates.filter(isOut).map(estimate => ({
        option: estimate.option,
        why: estimate.usdP90 === null ? ('price_unknown' as const) : ('max_cost' as const),
        estimate
      }))
      const best = inside[0] ?? null
      return { work: {}, action: best === null ? 'refuse' : 'start', best, estimates: inside, without } as unknown as Planned
    })
}

function decideWeighed(
  targets: readonly Target[],
  figures: Parameters<typeof weighing>[0],
  { request: asked, moment, ...input }: Case = {}
): Decision {
  const whole = {
    request: request(asked),
    caller: anyone,
    space: null,
    targets,
    ordered: false,
    localOnly: false,
    mayQueue: false,
    ...input
  }
  return decide(whole, { ...viewOf(moment), weigh: weighing(figures) })
}

t.test('a bound of the costs holds for whatever is tried, in whatever order it was given', async t => {
  const targets = [rented('dear'), rented('cheap'), rented('odd')]
  const figures = { dear: [0.5, 1], cheap: [0.01, 9], odd: [null, 1] } as const
  const bounded = { request: { maxUsd: 0.1 } }
  for (const ordered of [false, true]) {
    const decision = decideWeighed(targets, figures, { ...bounded, ordered })
    t.same(rankedIds(decision), ['cheap'], `ordered: ${ordered}`)
    t.same(decision.rejected, [
      { target: 'dear', reason: 'max_cost' },
      { target: 'odd', reason: 'price_unknown' }
    ])
    const broken = decideWeighed(targets, figures, { ...bounded, ordered, moment: { open: ['dear', 'cheap'] } })
    t.same(rankedIds(broken), ['cheap'], 'the last resort keeps it, too')
    const none = refusalOf(decideWeighed(targets, figures, { request: { maxUsd: 0.001 }, ordered, moment: { open: ['dear'] } }))
    t.match(none, { code: 'no_target_within_budget', status: 400, message: /\$0\.010/ })
    const all = refusalOf(
      decideWeighed(targets, figures, { request: { maxUsd: 0.001 }, ordered, moment: { open: ['dear', 'cheap', 'odd'] } })
    )
    t.match(all, { code: 'no_target_within_budget' })
  }
  t.same(rankedIds(decideWeighed(targets, figures, { ordered: true })), ['dear', 'cheap', 'odd'], 'without one nobody looks')
})

t.test('what is away and would be cheap enough may be back: that is no final no', async t => {
  const targets = [own('home'), rented('dear')]
  const figures = { home: [0.001, 1], dear: [0.5, 1] } as const
  const bounded = { request: { maxUsd: 0.1 } }
  t.match(refusalOf(decideWeighed(targets, figures, { ...bounded, moment: { down: ['home'] } })), { code: 'no_capacity', status: 503 })
  const both = decideWeighed(targets, { ...figures, home: [0.3, 1] }, { ...bounded, moment: { down: ['home'] } })
  t.match(refusalOf(both), { code: 'no_target_within_budget', message: /\$0\.30/ }, 'but if it is too dear, it is')
})

t.test('a list that is weighed keeps its order, and equal ones are weighed against each other', async t => {
  const targets = ['a', 'b', 'c'].map(id => rented(id))
  const figures = { a: [0.9, 1], b: [0.5, 1], c: [0.1, 1] } as const
  const tiers = new Map([
    ['a', 0],
    ['b', 0],
    ['c', 1]
  ])
  const decision = decideWeighed(targets, figures, { ordered: true, tiers })
  t.same(rankedIds(decision), ['b', 'a', 'c'])
  t.match(decision, { reason: 'given_order', planned: { best: { option: { id: 'b' } } } })
  t.same(rankedIds(decideWeighed(targets, figures, { ordered: true, tiers, moment: { coolingMs: { b: 5 } } })), ['a', 'c'])
})

const wish: ProviderPreference = {
  order: [],
  only: [],
  ignore: [],
  allowFallbacks: true,
  maxPrice: {},
  keepsNothing: false,
  requireParameters: false,
  brokered: [],
  hints: [],
  given: {}
}

t.test('wishes about providers leave targets out, each with its reason; names of nobody here are for OpenRouter', async t => {
  const broker = rented('router', { upstream: { adapter: 'openrouter' } })
  const priced = (id: string, usd: number) =>
    rented(id, { price: { source: 'config', tokens: { inputUsdPer1m: usd, outputUsdPer1m: usd * 2, requestUsd: usd } } })
  const targets = [own('home'), priced('low', 1), priced('high', 10), rented('dark'), broker]
  const house = new Set(['home', 'low', 'high', 'dark', 'router'])
  const table: readonly (readonly [Partial<ProviderPreference>, readonly string[], string | null])[] = [
    [{}, ['home', 'low', 'high', 'dark', 'router'], null],
    [{ only: ['low', 'home'] }, ['home', 'low'], 'not_in_only'],
    [{ only: ['azure'] }, ['router'], 'not_in_only'],
    [{ only: ['azure', 'low'] }, ['low', 'router'], 'not_in_only'],
    [{ ignore: ['low', 'router'] }, ['home', 'high', 'dark'], 'ignored'],
    [{ ignore: ['azure'] }, ['home', 'low', 'high', 'dark', 'router'], null],
    [{ order: ['high', 'azure'], allowFallbacks: false }, ['high', 'router'], 'not_in_order'],
    [{ maxPrice: { prompt: 5 } }, ['home', 'low'], 'above_max_price'],
    [{ maxPrice: { completion: 1.5 } }, ['home'], 'above_max_price'],
    [{ maxPrice: { request: 1 } }, ['home', 'low'], 'above_max_price'],
    [{ keepsNothing: true }, ['home', 'router'], 'keeps_data'],
    [{ brokered: ['provider.quantizations'] }, ['router'], 'cannot_assure'],
    [{ requireParameters: true }, ['home', 'high', 'dark', 'router'], 'drops_parameters']
  ]
  for (const [changes, left, reason] of table) {
    const input = {
      request: request({ preference: { ...wish, ...changes } }),
      caller: anyone,
      space: null,
      targets,
      ordered: true,
      localOnly: false
    }
    const decision = decide({ ...input, mayQueue: false, house }, { ...viewOf(), drops: ({ id }) => id === 'low' || id === 'router' })
    t.same(rankedIds(decision), left, JSON.stringify(changes))
    if (reason !== null) t.ok(decision.rejected.some(each => each.reason === reason))
  }
  const refusals: readonly (readonly [Partial<ProviderPreference>, object])[] = [
    [{ only: ['azure'] }, { code: 'invalid_request', status: 400, param: 'provider.only' }],
    [{ ignore: ['home'] }, { code: 'invalid_request', param: 'provider.ignore' }],
    [{ brokered: ['provider.quantizations'] }, { code: 'unsupported_parameter', param: 'provider' }]
  ]
  for (const [changes, error] of refusals)
    t.match(refusalOf(decideOn([own('home')], { request: { preference: { ...wish, ...changes } }, house })), error)
  const dear = decideOn([priced('high', 10)], { request: { preference: { ...wish, maxPrice: { prompt: 1 } } }, house })
  t.match(refusalOf(dear), { code: 'no_target_within_budget', param: 'provider.max_price' })
  // A price that is another one for long prompts.
  const tokens = { inputUsdPer1m: 1, outputUsdPer1m: 1, tiers: [{ abovePromptTokens: 1_000, inputUsdPer1m: 50 }] }
  const tiered = rented('tiered', { price: { source: 'config', tokens } })
  const preference = { ...wish, maxPrice: { prompt: 2 } }
  const ofLength = (expected: number) => decideOn([tiered], { request: { preference, prompt: { low: expected, expected } }, house })
  t.same(rankedIds(ofLength(900)), ['tiered'])
  t.match(refusalOf(ofLength(5_000)), { code: 'no_target_within_budget' })
})

t.test('without fallbacks of each model only the first is asked', async t => {
  const targets = ['a', 'b', 'c'].map(id => rented(id))
  const alone = { request: { preference: { ...wish, allowFallbacks: false } } }
  const decision = decideOn(targets, alone)
  t.same(
    [rankedIds(decision), decision.rejected],
    [
      ['a'],
      [
        { target: 'b', reason: 'no_fallback' },
        { target: 'c', reason: 'no_fallback' }
      ]
    ]
  )
  const tiers = new Map([
    ['a', 0],
    ['b', 0],
    ['c', 1]
  ])
  const two = [rented('a'), rented('b'), rented('c', { model: 'n' })]
  t.same(rankedIds(decideOn(two, { ...alone, ordered: true, tiers })), ['a', 'c'])
  t.same(rankedIds(decideOn(targets, { ...alone, ordered: true })), ['a'], 'also in a list of several providers’ same model')
  t.same(rankedIds(decideOn(two, { ...alone, ordered: true })), ['a', 'c'])
  t.same(rankedIds(decideOn(two, { ...alone, modelOf: () => 'one and the same' })), ['a'], 'also by another name')
  const order = { preference: { ...wish, allowFallbacks: false, order: ['b', 'a'] } }
  t.same(rankedIds(decideOn(targets, { request: order, ordered: true })), ['a', 'b'], 'with an order those that are in it')
})

t.test('what had its try without fallbacks is no reason to ask, or to wait for, another one of that model', async t => {
  const targets = [rented('a'), own('b'), own('c', { model: 'n' })]
  const before = { failed: ['a'], attempts: 1, nanoUsd: 0 }
  const moment = { inFlight: { b: 2, c: 2 } }
  const after = (preference: ProviderPreference, among = targets) =>
    decideOn(among, { request: { preference, before }, moment, mayQueue: true })
  t.match(after(wish), { action: 'enqueue', feasible: [{ id: 'b' }, { id: 'c' }] })
  t.match(after({ ...wish, allowFallbacks: false }), {
    action: 'enqueue',
    feasible: [{ id: 'c' }],
    rejected: [
      { target: 'a', reason: 'no_fallback' },
      { target: 'b', reason: 'no_fallback' },
      { target: 'c', reason: 'full' }
    ]
  })
  t.match(after({ ...wish, allowFallbacks: false }, targets.slice(0, 2)), { action: 'refuse' })
})

t.test('who has failed a request that waits is only asked when nobody else is left', async t => {
  const before = { failed: ['a'], attempts: 1, nanoUsd: 0 }
  const given = (moment: Moment) => ({ request: { before }, mayQueue: true, moment })
  t.same(rankedIds(decideOn([rented('a'), own('b')], given({}))), ['b', 'a'])
  t.same(rankedIds(decideOn([rented('a'), own('b')], { ...given({}), ordered: true })), ['b', 'a'])
  t.match(decideOn([rented('a'), own('b')], given({ inFlight: { b: 2 } })), { action: 'enqueue', feasible: [{ id: 'b' }] })
  t.same(rankedIds(decideOn([rented('a'), own('b')], given({ down: ['b'] }))), ['a'])
})

t.test('a key’s rights are held against the name that a target was found under', async t => {
  const targets = [rented('a', { model: 'one' }), rented('b', { model: 'two' })]
  const caller = { source: 's', models: ['m'], providers: null }
  const names = new Map([['b', 'other']])
  const decision = decideOn(targets, { caller, names, ordered: true })
  t.same([rankedIds(decision), decision.rejected], [['a'], [{ target: 'b', reason: 'not_allowed' }]])
})
