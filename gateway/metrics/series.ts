// Counters and histograms that only add up while requests come, and are put into prom-client's form when somebody reads them: its own look
// their labels up at each count, which for the dozen counts of a request is 1 kB of memory and more time than all of their adding.

import { Counter, type Metric, type MetricObject, type Registry } from 'prom-client'

/** One series of a counter. It is listed from its first count on. */
export class Tally {
  value: number | null = null

  inc(by = 1): void {
    this.value = (this.value ?? 0) + by
  }
}

/** One series of a histogram. */
export class Spread {
  readonly bounds: readonly number[]
  /** By bucket, the one above all bounds last. */
  readonly counts: number[]
  sum = 0

  constructor(bounds: readonly number[]) {
    this.bounds = bounds
    this.counts = new Array<number>(bounds.length + 1).fill(0)
  }

  observe(value: number): void {
    let bucket = 0
    while (bucket < this.bounds.length && value > (this.bounds[bucket] as number)) bucket++
    this.counts[bucket] = (this.counts[bucket] as number) + 1
    this.sum += value
  }

  get count(): number {
    return this.counts.reduce((sum, count) => sum + count, 0)
  }
}

/** Its series by the values of its labels; the same one whenever the same is asked for. */
export interface Family<Series> {
  labels(...values: string[]): Series
}

interface About {
  readonly name: string
  readonly help: string
  readonly labelNames: string[]
}

/** Without labels it is listed with 0 from the beginning. */
export function counterIn(registry: Registry, { name, help, labelNames }: About): Family<Tally> {
  const { labels, all } = familyOf(labelNames, () => new Tally())
  if (labelNames.length === 0) labels().inc(0)
  const made: Counter = new Counter({
    name,
    help,
    labelNames,
    registers: [registry],
    collect() {
      made.reset()
      for (const { series, named } of all()) if (series.value !== null) made.inc(named, series.value)
    }
  })
  return { labels }
}

/** `bounds`: ascending. Without labels it is listed with 0 from the beginning. */
export function histogramIn(registry: Registry, { name, help, labelNames }: About, bounds: readonly number[]): Family<Spread> {
  const { labels, all } = familyOf(labelNames, () => new Spread(bounds))
  if (labelNames.length === 0) labels()

  // A registry asks its metrics for this and nothing else (prom-client 15, lib/registry.js).
  function get(): MetricObject {
    const values = all()
      .filter(({ series }) => labelNames.length === 0 || series.count > 0)
      .flatMap(({ series, named }) => valuesOf(name, series, named))
    return { name, help, type: 'histogram', values, aggregator: 'sum' } as unknown as MetricObject
  }

  registry.registerMetric({ name, get: async () => get() } as unknown as Metric)
  return { labels }
}

/** Cumulative buckets, the sum and the count: Prometheus's text format, "Histograms and summaries". */
function valuesOf(name: string, { bounds, counts, sum }: Spread, labels: Readonly<Record<string, string>>) {
  let below = 0
  const buckets = counts.map((count, at) => {
    below += count
    return { metricName: `${name}_bucket`, labels: { le: bounds[at] ?? '+Inf', ...labels }, value: below }
  })
  return [...buckets, { metricName: `${name}_sum`, labels, value: sum }, { metricName: `${name}_count`, labels, value: below }]
}

interface Named<Series> {
  readonly series: Series
  readonly named: Readonly<Record<string, string>>
}

function familyOf<Series>(labelNames: readonly string[], make: () => Series) {
  const byValues = new Map<string, Named<Series>>()
  return {
    all: (): Named<Series>[] => [...byValues.values()],
    labels(...values: string[]): Series {
      const key = JSON.stringify(values)
      let found = byValues.get(key)
      if (found === undefined) {
        found = { series: make(), named: Object.fromEntries(labelNames.map((name, at) => [name, values[at] ?? ''])) }
        byValues.set(key, found)
      }
      return found.series
    }
  }
}
