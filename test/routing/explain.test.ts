import t from 'tap'
import { knobs } from '../../routing/brain/estimate.ts'
import { type Explained, explain } from '../../routing/brain/explain.ts'
import { knownLength } from '../../routing/brain/lengths.ts'
import type { Planned } from '../../routing/brain/plan.ts'
import type { Estimate, Option, Work } from '../../routing/brain/types.ts'
import { GatewayError } from '../../routing/errors.ts'
import type { ModelRequest, Target } from '../../routing/types.ts'
import { fc } from '../support/properties.ts'

const id = '01a20073-975f-7f92-9d1d-5478ff5ccae8'
const prompt = { low: 10, expected: 300 }
const request = {
  id,
  operation: 'chat',
  model: 'm',
  choices: 1,
  prompt,
  longest: prompt,
  localOnly: false,
  needs: [],
  maxOutputTokens: null,
  body: { bytes: Buffer.from('canary-prompt'), json: () => ({}), with: () => Buffer.alloc(0) }
} as unknown as ModelRequest

function target(name: string, isOwn: boolean): Target {
  const device = isOwn ? { id: name, maxConcurrency: 2 } : null
  return {
    id: `${name}/m`,
    model: 'm',
    upstream: { id: name, adapter: isOwn ? 'ollama' : 'openai', own: isOwn, device }
  } as unknown as Target
}

function option(name: string, isOwn: boolean): Option {
  const own = isOwn ? { slots: 2, busyS: [1], loaded: new Set(['m']) } : null
  return {
    id: `${name}/m`,
    site: { id: name, own },
    model: 'm',
    cachedTokens: 0,
    pace: { kind: isOwn ? 'own' : 'rented', samples: 9 }
  } as unknown as Option
}

function estimate(name: string, isOwn: boolean, changes: Partial<Estimate> = {}): Estimate {
  return {
    option: option(name, isOwn),
    waitS: 0,
    loadS: 0,
    prefillS: 0.2,
    decodeS: 1.8,
    etaS: 2,
    raw: { p50: 1.5, p90: 4 },
    concurrency: 2,
    usd: 0.00005,
    usdP90: 0.0001,
    missShare: 0,
    othersUsd: 0.00001,
    score: 0.0001,
    isCold: false,
    ...changes
  }
}

const work = { id, promptTokens: 300, lengths: knownLength(100), knob: knobs.balanced } as unknown as Work
const planned = (estimates: readonly Estimate[], without: Planned['without'] = []): Planned => ({
  work,
  action: estimates.length === 0 ? 'refuse' : 'start',
  best: estimates[0] ?? null,
  estimates,
  without
})

const home = target('home', true)
const away = target('away', false)
const own = estimate('home', true)
const rented = estimate('away', false, { waitS: 0, etaS: 4.4, decodeS: 4.2, usd: 0.00007, score: 0.0003 })
const ran: Explained = {
  request,
  caller: { source: 'alice' },
  decision: {
    action: 'run',
    ranked: [home, away],
    rejected: [
      { target: 'far/m', reason: 'down' },
      { target: 'rich/m', reason: 'max_cost' }
    ],
    reason: 'cheapest_and_fastest',
    planned: planned(
      [own, rented],
      [{ option: option('rich', false), why: 'max_cost', estimate: estimate('rich', false, { usdP90: 0.2 }) }]
    )
  },
  figures: null,
  etaMs: { p50: 1_900, p90: 4_600 },
  chosen: home,
  decidedUs: 41.3
}
const call = (completionTokens: number, of = home, error: GatewayError | null = null) => ({
  target: of,
  error,
  settled: { completionTokens }
})
const over = (changes: object = {}) => ({
  reason: 'cheapest_and_fastest',
  summary: { outcome: 'ok' as const, error: null, target: home, attempts: 1, nanoUsd: 54_000, ttftMs: 250, calls: [call(80)], ...changes },
  tookMs: 2_375
})

t.test('a decision that was weighed says what each would have come to, and why the others were left out', async t => {
  t.same(explain(ran), {
    object: 'route',
    id,
    at: '2026-11-21T23:31:45.119Z',
    model: 'm',
    source: 'alice',
    action: 'run',
    reason: 'cheapest_and_fastest',
    why: 'In memory on home, 1 of 2 places used; next best away/m is $0.00002 dearer, 2.4 s slower (writes slower).',
    policy: 'balanced',
    knob: { second_usd: 2e-5, miss_usd: 2e-3, max_cost_usd: null, deadline_s: null, deadline: 'soft', local_only: false },
    chosen: {
      target: 'home/m',
      provider: 'ollama',
      model: 'm',
      device: 'home',
      mode: 'start',
      eta_p50_s: 1.9,
      eta_p90_s: 4.6,
      usd: 0.00005,
      p_miss: 0,
      score: 0.0001
    },
    parts: {
      wait_s: 0,
      load_s: 0,
      prefill_s: 0.2,
      decode_s: 1.8,
      concurrency: 2,
      out_tokens_p50: 100,
      out_tokens_mean: 100,
      cached_tokens: 0,
      congestion_usd: 0.00001
    },
    ranked: [{ target: 'away/m', score: 0.0003, eta_s: 4.4, usd: 0.00007, why: '$0.00002 dearer, 2.4 s slower (writes slower)' }],
    more_ranked: 0,
    rejected: [
      { target: 'rich/m', filtered: 'max_cost', eta_s: 2, usd: 0.2 },
      { target: 'far/m', filtered: 'down' }
    ],
    more_rejected: 0,
    error: null,
    confidence: 0.75,
    decided_in_us: 41,
    actual: null
  })
})

t.test('afterwards it says what came, and how far off the forecast was', async t => {
  t.same(explain({ ...ran, over: over() }).actual, {
    outcome: 'ok',
    target: 'home/m',
    attempts: 1,
    latency_s: 2.375,
    ttft_s: 0.25,
    usd: 0.000054,
    out_tokens: 80,
    eta_error_pct: 25,
    within_p90: true,
    error: null,
    failed: []
  })
  const late = explain({ ...ran, over: { ...over(), tookMs: 4_601 } }).actual
  t.match(late, { within_p90: false, eta_error_pct: 142 })
  const error = new GatewayError('upstream_unavailable', 'home is gone')
  const failed = explain({
    ...ran,
    over: over({ outcome: 'failed', error, target: away, attempts: 2, nanoUsd: null, calls: [call(0, home, error), call(3, away, error)] })
  })
  t.match(failed.actual, {
    outcome: 'failed',
    target: 'away/m',
    attempts: 2,
    usd: null,
    out_tokens: 3,
    eta_error_pct: null,
    within_p90: null,
    error: 'upstream_unavailable',
    failed: [
      { target: 'home/m', error: 'upstream_unavailable' },
      { target: 'away/m', error: 'upstream_unavailable' }
    ]
  })
})

t.test('how far the forecast was off is told only of the target that it was made for', async t => {
  t.match(explain({ ...ran, over: over({ target: away, calls: [call(3, away)] }) }).actual, { eta_error_pct: null, within_p90: null })
  const error = new GatewayError('machine_lost', 'x')
  const again = { attempts: 2, calls: [call(0, home, error), call(80)] }
  t.match(explain({ ...ran, over: over(again) }).actual, { target: 'home/m', eta_error_pct: null, failed: [{ error: 'machine_lost' }] })
  const choices = { attempts: 2, calls: [call(80), call(80)] }
  t.match(explain({ ...ran, over: over(choices) }).actual, { eta_error_pct: 25, failed: [] })
})

t.test('who was left out, and whoever had no room in the end, is not among those that could answer', async t => {
  const decision = ran.decision as Extract<Explained['decision'], { action: 'run' }>
  const rejected = [{ target: 'away/m', reason: 'no_fallback' as const }]
  const alone = explain({ ...ran, decision: { ...decision, ranked: [home], rejected } })
  t.match(alone, { ranked: [], rejected: [{ target: 'away/m', filtered: 'no_fallback' }], why: 'In memory on home, 1 of 2 places used.' })
  const full = [{ target: 'home/m', reason: 'full' as const }]
  const passed = explain({ ...ran, chosen: away, decision: { ...decision, rejected: full } })
  t.match(passed, {
    chosen: { target: 'away/m' },
    ranked: [],
    rejected: [{ target: 'home/m', filtered: 'full' }],
    why: 'Home/m was full by then. Rented from away.'
  })
  const busy = estimate('home', true, { waitS: 3, etaS: 5 })
  const waits = explain({
    ...ran,
    chosen: away,
    decision: { ...decision, ranked: [away], rejected: full, planned: planned([rented, busy]) }
  })
  t.match(waits, { ranked: [{ target: 'home/m', why: /waits for a place/ }], rejected: [] })
})

t.test('the only target is not said to be one beside others', async t => {
  const decision = ran.decision as Extract<Explained['decision'], { action: 'run' }>
  const two = { ...ran, decision: { ...decision, reason: 'only_sound', rejected: [], planned: planned([own]) } }
  t.match(explain(two), {
    why: 'In memory on home, 1 of 2 places used: the only one that works.',
    ranked: [{ target: 'away/m', why: 'tried last: failing lately, or short of room' }]
  })
})

t.test('decisions that nobody weighed are explained too', async t => {
  const { planned: _, ...given } = ran.decision as Extract<Explained['decision'], { action: 'run' }>
  const listed: Explained = { ...ran, decision: { ...given, reason: 'given_order' }, figures: planned([own, rented]) }
  t.match(explain(listed), {
    why: 'First in the given order: in memory on home, 1 of 2 places used; next is away/m.',
    chosen: { target: 'home/m', usd: 0.00005 },
    ranked: [{ target: 'away/m', why: /slower/ }]
  })
  const blind = explain({ ...listed, figures: null, etaMs: null })
  t.match(blind, {
    why: 'Home/m.',
    chosen: { target: 'home/m', eta_p50_s: null, usd: null },
    parts: null,
    confidence: null,
    ranked: [{ target: 'away/m', score: null }]
  })
  const only = explain({ ...ran, decision: { ...given, ranked: [home], reason: 'only_target', planned: planned([own]) } })
  t.match(only, { why: 'In memory on home, 1 of 2 places used: the only target that can answer now.', ranked: [] })

  const error = new GatewayError('no_capacity', 'Nothing is there.', { quote: 'canary-quote' })
  const refused = explain({
    ...ran,
    chosen: null,
    etaMs: null,
    decision: { action: 'refuse', error, rejected: [{ target: 'far/m', reason: 'down' }] }
  })
  t.match(refused, {
    action: 'refuse',
    reason: null,
    why: 'Nothing is there.',
    chosen: null,
    parts: null,
    rejected: [{ target: 'far/m', filtered: 'down' }],
    error: { status: 503, code: 'no_capacity', message: 'Nothing is there.' }
  })
  t.notMatch(JSON.stringify([refused, explain(ran)]), /canary/, 'nothing of the prompt, and nothing that others said')

  const full = estimate('home', true, { waitS: 3, etaS: 5 })
  const waits = explain({
    ...ran,
    chosen: null,
    decision: { action: 'enqueue', feasible: [home], rejected: [{ target: 'home/m', reason: 'full' }], planned: planned([full]) }
  })
  t.match(waits, {
    action: 'wait',
    reason: 'waits',
    chosen: { target: 'home/m', mode: 'wait' },
    parts: { wait_s: 3 },
    why: /Waits 3.0 s for home/
  })
  t.same(waits.rejected, [], 'what it waits for was not left out')
})

t.test('a hundred targets with long names fit into 2 kB, and it says how many more there are', async t => {
  const name = (at: number): string => `${'provider'.repeat(12)}${at}`
  const many = Array.from({ length: 100 }, (_, at) => estimate(name(at), false, { etaS: 2 + at, score: at }))
  const targets = many.map((_, at) => target(name(at), false))
  const rejected = Array.from({ length: 100 }, (_, at) => ({ target: `${name(100 + at)}/m`, reason: 'down' as const }))
  const large: Explained = {
    ...ran,
    request: { ...request, model: 'ü'.repeat(200) },
    chosen: targets[0] as Target,
    decision: { action: 'run', ranked: targets, rejected, reason: 'cheapest', planned: planned(many) },
    over: over({
      attempts: 100,
      calls: targets.map(each => call(0, each, new GatewayError('upstream_unavailable', 'x', { publicCode: 'x'.repeat(80) })))
    })
  }
  const stored = explain(large)
  t.ok(Buffer.byteLength(JSON.stringify(stored)) <= 2_048, `${Buffer.byteLength(JSON.stringify(stored))} bytes`)
  t.equal(stored.ranked.length + stored.more_ranked, 99)
  t.equal(stored.rejected.length + stored.more_rejected, 100)
  const whole = explain({ ...large, listed: { ranked: 1_000, rejected: 1_000 } })
  t.same([whole.ranked.length, whole.rejected.length], [99, 100])
})

const figure = fc.oneof(fc.double(), fc.constantFrom(Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 0, -1))

function everyFigure(value: unknown): number[] {
  if (typeof value === 'number') return [value]
  return typeof value === 'object' && value !== null ? Object.values(value).flatMap(everyFigure) : []
}

t.test('whatever the estimates are, no figure is NaN or endless', async t => {
  const estimates = fc.array(
    fc.record({
      waitS: figure,
      loadS: figure,
      prefillS: figure,
      decodeS: figure,
      etaS: figure,
      usd: fc.option(figure),
      usdP90: fc.option(figure),
      missShare: figure,
      othersUsd: figure,
      score: figure,
      isCold: fc.boolean()
    }),
    { minLength: 1, maxLength: 4 }
  )
  fc.assert(
    fc.property(estimates, figure, figure, figure, (given, took, p50, nanoUsd) => {
      const all = given.map((each, at) => estimate(`t${at}`, at % 2 === 0, each))
      const targets = all.map((_, at) => target(`t${at}`, at % 2 === 0))
      const explanation = explain({
        ...ran,
        etaMs: { p50, p90: p50 },
        decidedUs: took,
        chosen: targets[0] as Target,
        decision: { action: 'run', ranked: targets, rejected: [], reason: 'cheapest', planned: planned(all) },
        over: { ...over({ nanoUsd, ttftMs: took }), tookMs: took }
      })
      const faults = everyFigure(explanation).filter(value => !Number.isFinite(value))
      if (faults.length > 0 || /NaN|Infinity/.test(explanation.why)) throw new Error(JSON.stringify(explanation))
    })
  )
  t.pass()
})
