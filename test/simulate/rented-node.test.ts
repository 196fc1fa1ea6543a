import t, { type Test } from 'tap'
import { createRentedNode } from '../../simulate/rented-node.ts'
import type { RentedNode, Scenario } from '../../simulate/types.ts'
import { rented, request, scenario, stage } from './stage.ts'

function nodeOn(node: Partial<RentedNode> = {}, changes: Partial<Scenario> = {}) {
  const on = stage()
  return { ...on, node: createRentedNode({ ...rented, ...node }, { ...on.ports, scenario: { ...scenario, ...changes } }) }
}

const close = (t: Test, found: number, wanted: number, what: string): unknown =>
  t.ok(Math.abs(found - wanted) < 1e-9, `${what}: ${found}, wanted ${wanted}`)

t.test('a bucket of a sixth of the limit is full at first, refills all the time, and refuses when it is empty', async t => {
  const on = nodeOn()
  // 60 a minute: 10 at once, then one a second; of five half-seconds two find one.
  for (let id = 0; id < 12; id++) on.at(0, () => on.node.send(request(id)))
  for (let id = 12; id < 17; id++) on.at((id - 11) / 2, () => on.node.send(request(id)))
  on.run()
  const refused = on.ends.filter(({ finished }) => finished.outcome === 'refused')
  t.same(
    refused.map(({ request, atS }) => [request.job.id, atS]),
    [
      [10, 0],
      [11, 0],
      [12, 0.5],
      [14, 1.5],
      [16, 2.5]
    ]
  )
  t.ok(refused.every(({ usd }) => usd === 0))
})

t.test('the bucket holds no more, however long nobody came', async t => {
  const on = nodeOn()
  for (let id = 0; id < 12; id++) on.at(3_000, () => on.node.send(request(id)))
  on.run()
  t.equal(on.ends.filter(({ finished }) => finished.outcome === 'refused').length, 2)
})

t.test('an answer takes its first token, its prompt and its tokens, as drawn for this request, and costs its tokens', async t => {
  const on = nodeOn()
  const one = request(0)
  const draw = on.node.draw(one, 0)
  on.node.send(one)
  on.run()
  const [end] = on.ends
  close(t, end?.atS ?? 0, draw.ttftS + 800 / draw.tokensPerSecond, 'end')
  t.ok(draw.ttftS > 0.1, 'the prompt alone takes 2,000 / 20,000 s')
  close(t, end?.usd ?? 0, (2000 * 1 + 800 * 2) / 1e6, 'dollars')
  t.match(end?.finished, { outcome: 'done', outputTokens: 800, promptTokens: 2000 })
})

t.test('first token and speed scatter as the scenarios say', async t => {
  const { node } = nodeOn()
  const draws = Array.from({ length: 4_000 }, (_, id) => node.draw(request(id, {}, { promptTokens: 0 }), 0))
  const logs = (values: number[]) => {
    const all = values.map(Math.log)
    const mean = all.reduce((sum, each) => sum + each, 0) / all.length
    return { mean, sigma: Math.sqrt(all.reduce((sum, each) => sum + (each - mean) ** 2, 0) / all.length) }
  }
  const ttft = logs(draws.map(({ ttftS }) => ttftS))
  const speed = logs(draws.map(({ tokensPerSecond }) => tokensPerSecond))
  const near = (found: number, wanted: number): boolean => Math.abs(found - wanted) < 0.03
  t.ok(near(ttft.mean, Math.log(0.5)) && near(ttft.sigma, 0.4), JSON.stringify(ttft))
  t.ok(near(speed.mean, Math.log(100)) && near(speed.sigma, 0.2), JSON.stringify(speed))
})

t.test('some fail after their first token should have come, for nothing, and may succeed when they are sent again', async t => {
  const on = nodeOn({ fail: 0.3, rpm: 60_000 })
  const all = Array.from({ length: 1_000 }, (_, id) => request(id))
  for (const each of all) on.node.send(each)
  on.run()
  const failed = on.ends.filter(({ finished }) => finished.outcome === 'failed')
  t.ok(Math.abs(failed.length - 300) < 60, `${failed.length} of 1,000`)
  t.ok(failed.every(({ usd, atS }) => usd === 0 && atS < 5))
  const again = failed.map(({ request }) => on.node.draw(request, 0).fails).filter(fails => fails)
  t.ok(again.length > 0 && again.length < failed.length / 2, `${again.length} of ${failed.length} again`)
})

t.test('in an outage everything fails after five seconds', async t => {
  const on = nodeOn({ outages: [{ from: 10, to: 20 }] })
  for (const [id, atS] of [9.9, 10, 19.9, 20].entries()) on.at(atS, () => on.node.send(request(id)))
  on.run()
  const outcomes = Object.fromEntries(on.ends.map(({ request, finished }) => [request.job.id, finished.outcome]))
  t.same(outcomes, { 0: 'done', 1: 'failed', 2: 'failed', 3: 'done' })
  t.equal(on.endOf(1), 15)
  t.equal(on.endOf(2), 24.9)
})

t.test('a drift multiplies all times', async t => {
  const plain = nodeOn().node.draw(request(0), 50)
  const slow = nodeOn({ drift: [{ from: 10, factor: 3 }] }).node.draw(request(0), 50)
  close(t, slow.ttftS, 3 * plain.ttftS, 'first token')
  close(t, slow.tokensPerSecond, plain.tokensPerSecond / 3, 'speed')
})

t.test('a new price is paid from its moment on, and known from the next minute on', async t => {
  const on = nodeOn({}, { priceChange: [{ t: 70, node: 'rented', factor: 3 }] })
  const known: number[] = []
  for (const atS of [69, 71, 119, 121]) on.at(atS, () => known.push(on.node.knownPrice('a').in))
  on.at(60, () => on.node.send(request(0)))
  on.at(75, () => on.node.send(request(1)))
  on.run()
  t.same(known, [1, 1, 1, 3])
  close(t, on.ends[1]?.usd ?? 0, 3 * (on.ends[0]?.usd ?? 0), 'paid')
})

t.test('who leaves pays for what was streamed until then', async t => {
  const on = nodeOn()
  const one = request(0)
  const { ttftS, tokensPerSecond } = on.node.draw(one, 0)
  on.node.send(one)
  on.at(ttftS + 100.5 / tokensPerSecond, () => on.node.cancel(one))
  on.run()
  t.match(on.ends, [{ finished: { outcome: 'cancelled', outputTokens: 100 } }])
  close(t, on.ends[0]?.usd ?? 0, (2000 + 100 * 2) / 1e6, 'dollars')
})

t.test('one that goes down loses what runs there and answers nobody', async t => {
  const on = nodeOn()
  on.node.send(request(0))
  on.at(0.05, () => on.node.setUp(false))
  on.at(1, () => on.node.send(request(1)))
  on.run()
  t.same(
    on.ends.map(({ finished, atS }) => [finished.outcome, atS]),
    [
      ['lost', 0.05],
      ['lost', 1]
    ]
  )
})
