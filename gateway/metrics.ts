// The numbers of this process, or of all of this machine together, for Prometheus.

import { type Aggregator, AggregatorRegistry, Gauge, type MetricObject, Registry } from 'prom-client'
import type { CallRecord, Outcome } from '../routing/ports.ts'
import { providerOf } from '../routing/targets.ts'
import type { RequestContext } from './context.ts'
import { createJobMetrics, type JobCounts, type JobMetrics } from './metrics/jobs.ts'
import { labelOf, modelRoutes, other, routeLabel, statusLabel } from './metrics/labels.ts'
import { processNumbers } from './metrics/process.ts'
import { counterIn, type Family, histogramIn, type Spread, type Tally } from './metrics/series.ts'

export interface MetricsPorts {
  readonly version: string
  /** Of this process. */
  readonly slots: () => readonly { readonly device: string; readonly max: number; readonly inUse: number }[]
  readonly breakers: () => readonly { readonly target: string; readonly open: boolean }[]
  readonly openStreams: () => number
  /** Over all processes; absent where there is no queue, null while nobody knows. */
  readonly jobs?: () => JobCounts | null
  /** What each other process behind the same port has counted, from their `counted`. Absent = there are none. */
  readonly others?: () => Promise<readonly (readonly unknown[])[]>
}

export type LimitName = 'requests' | 'tokens' | 'concurrency'

export interface Metrics extends JobMetrics {
  /** Of a request that is over, whatever became of it. `route` as it was registered. */
  request(context: RequestContext, line: { readonly route: string; readonly status: number; readonly retryCount: number }): void
  /** A request was refused by a limit of its source. */
  limited(limit: LimitName): void
  began(): void
  ended(): void
  /** All of it, in Prometheus's text form. Rejects when another process does not say what it has counted. */
  text(): Promise<string>
  /** Of this process, for another one's `text`. */
  counted(): Promise<readonly unknown[]>
  readonly contentType: string
}

// Each value of a label is one more series, or eleven where a histogram has it, so every list has an end; what is
// beyond it is counted as "other". Sources, keys and models are never labels.
const slotsName = 'llm_mcp_device_slots'
const providersAtMost = 6
const devicesAtMost = 16
const breakersAtMost = 16

// Seconds. Answers take from a tenth of a second to the minutes of a cold machine; we ourselves add fractions of a millisecond.
const answerBuckets = [0.1, 0.5, 1, 2.5, 5, 15, 60, 300]
const firstTokenBuckets = [0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60]
const overheadBuckets = [0.0002, 0.0005, 0.001, 0.0025, 0.005, 0.025, 0.1, 1]

/** A registry of its own: two gateways in one process do not mix. `request` takes 2 us for a stream with one call (Node 26.10). */
export function createMetrics(ports: MetricsPorts): Metrics {
  const registry = new Registry()
  const { counter, gauge, histogram } = instruments(registry)

  // 1. requests
  const requests = counter('llm_mcp_requests_total', 'Requests that are over, by route and status of the answer.', 'route', 'status')
  const durations = histogram(
    'llm_mcp_request_duration_seconds',
    'From the headers of a request to the end of its answer.',
    answerBuckets,
    'route'
  )
  const overhead = histogram(
    'llm_mcp_overhead_seconds',
    'From the start of the handler to the first call of an upstream.',
    overheadBuckets
  ).labels()
  const fallbacks = counter('llm_mcp_fallbacks_total', 'Calls that failed and were followed by another.').labels()
  const retries = counter('llm_mcp_sdk_retries_total', 'Requests that an SDK sent again (x-stainless-retry-count above 0).').labels()
  const refusals = counter('llm_mcp_limit_refusals_total', 'Requests refused by a limit of their source.', 'limit')

  // 2. calls of upstreams
  const calls = counter('llm_mcp_calls_total', 'Calls of upstreams, by how they ended.', 'provider', 'outcome')
  const callDurations = histogram('llm_mcp_call_duration_seconds', 'From the call of an upstream to its end.', answerBuckets, 'provider')
  const firstTokens = histogram(
    'llm_mcp_time_to_first_token_seconds',
    'From the call of an upstream to its first token; streams only.',
    firstTokenBuckets,
    'provider'
  )
  const tokens = counter(
    'llm_mcp_tokens_total',
    'Tokens as booked; cached ones are among input, reasoning among output.',
    'provider',
    'direction'
  )
  const costs = counter('llm_mcp_cost_usd_total', 'Dollars as booked, electricity of own machines included.', 'provider')
  const unknownCosts = counter('llm_mcp_cost_unknown_total', 'Calls whose price nobody knows: not in llm_mcp_cost_usd_total.', 'provider')

  // 3. jobs
  const jobs = createJobMetrics({ counter, gauge, histogram }, ports.jobs)

  // 4. what is so at this moment
  let inFlight = 0
  gauge('llm_mcp_requests_in_flight', 'Requests being handled.', [], gauge => gauge.set(inFlight))
  gauge('llm_mcp_open_streams', 'Model answers that are not over.', [], gauge => gauge.set(ports.openStreams()))
  gauge(slotsName, 'Places on a machine: all there are, and those this process uses.', ['device', 'state'], gauge => {
    for (const [at, { device, max, inUse }] of ports.slots().entries()) {
      const label = at < devicesAtMost ? labelOf(device) : other
      gauge.inc({ device: label, state: 'max' }, max)
      gauge.inc({ device: label, state: 'used' }, inUse)
    }
  })
  gauge(
    'llm_mcp_breaker_open',
    'Targets whose circuit breaker is open; those with a closed one are not listed.',
    ['target'],
    gauge => {
      const open = ports.breakers().filter(breaker => breaker.open)
      for (const { target } of open.slice(0, breakersAtMost)) gauge.set({ target: labelOf(target) }, 1)
      if (open.length > breakersAtMost) gauge.set({ target: other }, open.length - breakersAtMost)
    },
    'max'
  )
  gauge('llm_mcp_build_info', 'Always 1.', ['version'], gauge => gauge.set({ version: labelOf(ports.version) }, 1), 'max')
  for (const { name, help, read, together } of processNumbers()) gauge(name, help, [], gauge => gauge.set(read()), together)

  // Children are kept: to find them by their labels again would cost more than to count.
  const limitChildren = {
    requests: refusals.labels('requests'),
    tokens: refusals.labels('tokens'),
    concurrency: refusals.labels('concurrency')
  } satisfies Record<LimitName, Tally>
  const statusChildren = new Map<string, Map<string, Tally>>()
  const durationChildren = new Map([...modelRoutes, other].map(route => [route, durations.labels(route)]))
  const providerChildren = new Map<string, ProviderChildren>()

  function makeProvider(provider: string): ProviderChildren {
    return {
      outcomes: {
        ok: calls.labels(provider, 'ok'),
        failed: calls.labels(provider, 'failed'),
        aborted: calls.labels(provider, 'aborted')
      },
      duration: callDurations.labels(provider),
      firstToken: firstTokens.labels(provider),
      input: tokens.labels(provider, 'input'),
      output: tokens.labels(provider, 'output'),
      cached: tokens.labels(provider, 'cached'),
      reasoning: tokens.labels(provider, 'reasoning'),
      cost: costs.labels(provider),
      unknownCost: unknownCosts.labels(provider)
    }
  }

  function countRequest(route: string, status: string): void {
    const statuses = kept(statusChildren, route, () => new Map<string, Tally>())
    kept(statuses, status, () => requests.labels(route, status)).inc()
  }

  function countCall(call: CallRecord, stream: boolean): void {
    const { usage, settled } = call
    const { upstream } = call.target
    // The name that x-llm-mcp-provider has.
    const name = providerOf(upstream)
    const label = providerChildren.has(name) || providerChildren.size < providersAtMost ? name : other
    const provider = kept(providerChildren, label, () => makeProvider(labelOf(label)))
    provider.outcomes[call.outcome].inc()
    provider.duration.observe(seconds(call.durationMs))
    // Nobody saw the first token of an answer that came whole.
    if (stream && call.ttftMs !== null) provider.firstToken.observe(seconds(call.ttftMs))
    provider.input.inc(atLeastZero(settled.promptTokens))
    provider.output.inc(atLeastZero(settled.completionTokens))
    if (usage !== null && usage.cachedTokens > 0) provider.cached.inc(atLeastZero(usage.cachedTokens))
    if (usage !== null && usage.reasoningTokens > 0) provider.reasoning.inc(atLeastZero(usage.reasoningTokens))
    if (settled.nanoUsd === null) provider.unknownCost.inc()
    else provider.cost.inc(atLeastZero(settled.nanoUsd) / 1e9)
  }

  /** Without what is the same for all: whoever adds up has it. */
  async function counted(): Promise<readonly unknown[]> {
    const metrics = await registry.getMetricsAsJSON()
    return metrics.map(metric =>
      metric.name === slotsName ? { ...metric, values: (metric.values ?? []).filter(({ labels }) => labels.state !== 'max') } : metric
    )
  }

  return {
    ...jobs,
    contentType: registry.contentType,
    async text() {
      if (ports.others === undefined) return registry.metrics()
      const others = (await ports.others()) as readonly (readonly MetricObject[])[]
      return AggregatorRegistry.aggregate([await registry.getMetricsAsJSON(), ...others]).metrics()
    },
    counted,
    began() {
      inFlight++
    },
    ended() {
      inFlight--
    },
    limited: limit => limitChildren[limit].inc(),
    request(context, { route, status, retryCount }) {
      const label = routeLabel(route)
      countRequest(label, statusLabel(status))
      const duration = durationChildren.get(label) ?? durationChildren.get(other)
      duration?.observe(seconds(performance.now() - context.startedAt))
      if (retryCount > 0) retries.inc()
      const made = context.summary?.calls ?? []
      if (made[0] !== undefined && context.handledAt !== null) overhead.observe(seconds(made[0].startedAt - context.handledAt))
      for (const [at, call] of made.entries()) {
        if (call.outcome === 'failed' && at < made.length - 1) fallbacks.inc()
        countCall(call, context.stream)
      }
    }
  }
}

interface ProviderChildren {
  readonly outcomes: Readonly<Record<Outcome, Tally>>
  readonly duration: Spread
  readonly firstToken: Spread
  readonly input: Tally
  readonly output: Tally
  readonly cached: Tally
  readonly reasoning: Tally
  readonly cost: Tally
  readonly unknownCost: Tally
}

function instruments(registry: Registry) {
  const registers = [registry]
  /** `together`: of several processes. */
  const gauge = (name: string, help: string, labelNames: string[], collect: (gauge: Gauge) => void, together: Aggregator = 'sum'): void => {
    const made: Gauge = new Gauge({
      name,
      help,
      labelNames,
      registers,
      aggregator: together,
      // Asked when it is read, so that nothing has to keep it up to date.
      collect() {
        made.reset()
        collect(made)
      }
    })
  }
  return {
    gauge,
    counter: (name: string, help: string, ...labelNames: string[]): Family<Tally> => counterIn(registry, { name, help, labelNames }),
    histogram: (name: string, help: string, buckets: number[], ...labelNames: string[]): Family<Spread> =>
      histogramIn(registry, { name, help, labelNames }, buckets)
  }
}

function kept<T>(map: Map<string, T>, key: string, make: () => T): T {
  let found = map.get(key)
  if (found === undefined) {
    found = make()
    map.set(key, found)
  }
  return found
}

function seconds(ms: number): number {
  return atLeastZero(ms) / 1_000
}

/** Counters take no other figures, and a wrong one must not fail a request. */
function atLeastZero(value: number): number {
  return value > 0 && Number.isFinite(value) ? value : 0
}
