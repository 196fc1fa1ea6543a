// What a decision costs: one request among a hundred machines and five hundred models with its explanation, and a plan for a queue.
// `npm run bench:decide`.

import { createBrain } from '../routing/brain/brain.ts'
import { explain } from '../routing/brain/explain.ts'
import { createCatalog } from '../routing/catalog.ts'
import { type DecisionInput, type DecisionView, decide, decideAll } from '../routing/decide.ts'
import { observe, type Profile } from '../routing/profile.ts'
import type { ModelRequest, Target, Upstream } from '../routing/types.ts'
import { publish, type Row, timesOf } from './support/figures.ts'

const machines = 100
const models = 500
const modelsEach = 20
const rentedProviders = 2
const turns = 20_000
const waiting = 64

const targets = fleet()
const catalog = createCatalog({
  upstreams: [...new Map(targets.map(({ upstream }) => [upstream.id, upstream])).values()],
  targets,
  listed: new Set(targets.map(({ upstream }) => upstream.id)),
  aliases: new Map(),
  auto: [],
  prices: { configured: new Map(), registered: () => null },
  vectorSpaces: new Map(),
  demo: targets[0] as Target
})
const profile = measured()
const brain = createBrain({
  catalog: () => catalog,
  profile: () => profile,
  usdPerKwh: 0.25,
  random: Math.random,
  now: () => performance.now(),
  epoch: Date.now
})
const view: DecisionView = {
  canCarry: () => true,
  isOpen: () => false,
  isDenied: () => false,
  isMissing: () => false,
  isDown: () => false,
  coolingMs: () => 0,
  inFlight: () => 1,
  averageMs: () => 1_000,
  weigh: brain.plan
}
// Something runs everywhere, as it does when it matters.
for (const [at, target] of targets.entries()) {
  if (at % modelsEach === 0) brain.began({ attemptId: `running ${at}`, target, request: requestFor(0), caller: { source: 'others' } })
}

const rows: Row[] = []
const alone: number[] = []
const known: number[] = []
for (let turn = 0; turn < turns; turn++) {
  const request = requestFor(turn)
  const input = inputOf(request)
  const began = performance.now()
  const decision = decide(input, view)
  const decided = performance.now()
  explain({
    request,
    caller: input.caller,
    decision,
    figures: null,
    etaMs: null,
    chosen: decision.action === 'run' ? (decision.ranked[0] ?? null) : null,
    decidedUs: null
  })
  // What comes before is compiled first.
  if (turn < turns / 4) continue
  alone.push((decided - began) * 1_000)
  known.push((performance.now() - began) * 1_000)
}
rows.push(microseconds(`a decision among ${machines} machines and ${models} models`, alone, null))
rows.push(microseconds('the same with its explanation', known, 50))

const queue = Array.from({ length: waiting }, (_, at) => inputOf(requestFor(at)))
const plans: number[] = []
for (let turn = 0; turn < 1_000; turn++) {
  const began = performance.now()
  decideAll(queue, view)
  if (turn >= 250) plans.push(performance.now() - began)
}
const planTimes = timesOf(plans)
rows.push({
  name: `a plan with ${waiting} waiting`,
  figure: `p50 ${planTimes.p50.toFixed(2)} ms, p99 ${planTimes.p99.toFixed(2)} ms (${planTimes.count})`,
  bound: 'p99 ≤ 2 ms',
  isMet: planTimes.p99 <= 2
})

publish(new URL('results.md', import.meta.url), 'Decisions', 'one process', rows)
process.exit(rows.every(({ isMet }) => isMet) ? 0 : 1)

function microseconds(name: string, values: readonly number[], bound: number | null): Row {
  const { p50, p99, count } = timesOf(values)
  return {
    name,
    figure: `p50 ${p50.toFixed(1)} µs, p99 ${p99.toFixed(1)} µs (${count})`,
    bound: bound === null ? null : `p99 ≤ ${bound} µs`,
    isMet: bound === null || p99 <= bound
  }
}

function inputOf(request: ModelRequest): DecisionInput {
  const resolution = catalog.resolve(request.model, 0)
  if (!resolution.found) throw new Error(`${request.model} is not there`)
  const caller = { source: 'bench', models: null, providers: null }
  return { request, caller, targets: resolution.targets, ordered: false, space: null, localOnly: false, mayQueue: true }
}

function requestFor(turn: number): ModelRequest {
  return {
    id: '01900000-0000-7000-8000-000000000000',
    operation: 'chat',
    choices: 1,
    input: null,
    embedding: null,
    body: { bytes: Buffer.alloc(0), json: () => ({}), with: () => Buffer.alloc(0) },
    model: `model${(turn * 7) % models}`,
    stream: true,
    includeUsage: false,
    streamOptions: null,
    maxOutputTokens: null,
    needs: [],
    prompt: { low: 900, expected: 1_000 },
    longest: { low: 900, expected: 1_000 },
    localOnly: false
  }
}

/** Each machine has a part of the models, and two providers have all. */
function fleet(): Target[] {
  const own = Array.from({ length: machines }, (_, machine) =>
    Array.from({ length: modelsEach }, (_, at) =>
      targetOf(upstreamOf(`box${machine}`, true), `model${(machine * 13 + at * 25) % models}`, at < 2)
    )
  )
  const rented = Array.from({ length: rentedProviders }, (_, provider) =>
    Array.from({ length: models }, (_, model) => targetOf(upstreamOf(`cloud${provider}`, false), `model${model}`, true))
  )
  return [...own, ...rented].flat()
}

function upstreamOf(id: string, isOwn: boolean): Upstream {
  return {
    id,
    adapter: isOwn ? 'ollama' : 'openai',
    own: isOwn,
    baseUrl: 'http://127.0.0.1:9',
    apiKey: null,
    headers: {},
    device: isOwn ? { id, maxConcurrency: 4, watts: 300, vramGb: 24, ramGb: null, keepAlive: null, numCtx: null } : null,
    timeouts: { connectMs: 1, firstTokenMs: 1, idleMs: 1, totalMs: 1 },
    models: null,
    auto: [],
    streamUsage: true,
    registryId: null
  }
}

function targetOf(upstream: Upstream, model: string, loaded: boolean): Target {
  return {
    id: `${upstream.id}/${model}`,
    upstream,
    model,
    contextTokens: 8_192,
    maxOutputTokens: null,
    features: null,
    operations: ['chat'],
    loaded,
    price: upstream.own
      ? { source: 'electricity', tokens: null }
      : { source: 'provider', tokens: { inputUsdPer1m: 0.1, outputUsdPer1m: 0.4 } },
    createdAt: 0,
    ...(upstream.own && { memoryGb: 6, paramsB: 8 })
  }
}

function measured(): Profile {
  const stretch = { tokens: 200, ms: 2_000, concurrency: 1 }
  return observe(null, {
    atMs: Date.now(),
    isFailure: false,
    loadMs: 6_000,
    ttftMs: 300,
    prompt: { tokens: 1_000, ms: 300, concurrency: 1 },
    answer: stretch,
    isBenchmark: true
  })
}
