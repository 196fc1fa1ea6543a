// What is added up here beside prom-client's own counters and histograms: the same text.

import { AggregatorRegistry, Counter, Histogram, type MetricObject, Registry } from 'prom-client'
import t from 'tap'
import { counterIn, histogramIn } from '../../gateway/metrics/series.ts'

const bounds = [0.1, 1, 5]
const seen = [0.05, 0.1, 0.100_1, 0.7, 1, 4, 5, 9, 120]

function both() {
  const ours = new Registry()
  const theirs = new Registry()
  const counter = counterIn(ours, { name: 'calls_total', help: 'Calls.', labelNames: ['provider', 'outcome'] })
  const counted = new Counter({ name: 'calls_total', help: 'Calls.', labelNames: ['provider', 'outcome'], registers: [theirs] })
  const plain = counterIn(ours, { name: 'plain_total', help: 'Plain.', labelNames: [] })
  const plainly = new Counter({ name: 'plain_total', help: 'Plain.', registers: [theirs] })
  const histogram = histogramIn(ours, { name: 'took_seconds', help: 'Took.', labelNames: ['route'] }, bounds)
  const observed = new Histogram({ name: 'took_seconds', help: 'Took.', labelNames: ['route'], buckets: bounds, registers: [theirs] })
  histogramIn(ours, { name: 'whole_seconds', help: 'Whole.', labelNames: [] }, bounds)
  new Histogram({ name: 'whole_seconds', help: 'Whole.', buckets: bounds, registers: [theirs] })
  function act(): void {
    counter.labels('a', 'ok').inc()
    counted.labels('a', 'ok').inc()
    counter.labels('a', 'ok').inc(2.5)
    counted.labels('a', 'ok').inc(2.5)
    counter.labels('b "c"\\', 'failed').inc(0)
    counted.labels('b "c"\\', 'failed').inc(0)
    // Asked for, and never counted.
    counter.labels('c', 'ok')
    counted.labels('c', 'ok')
    plain.labels().inc(3)
    plainly.inc(3)
    histogram.labels('never')
    for (const value of seen) {
      histogram.labels('/x').observe(value)
      observed.labels('/x').observe(value)
    }
  }
  return { ours, theirs, act }
}

t.test('the text is the same, before anything was counted and after, however often it is read', async t => {
  const { ours, theirs, act } = both()
  for (let round = 0; round < 3; round++) {
    t.equal(await ours.metrics(), await theirs.metrics(), `after ${round} rounds`)
    act()
  }
})

t.test('several processes add up to the same', async t => {
  const [one, other] = [both(), both()]
  one.act()
  other.act()
  other.act()
  const together = async (name: 'ours' | 'theirs'): Promise<string> => {
    const counted = await Promise.all([one[name].getMetricsAsJSON(), other[name].getMetricsAsJSON()])
    return AggregatorRegistry.aggregate(counted as unknown as MetricObject[][]).metrics()
  }
  t.equal(await together('ours'), await together('theirs'))
})
