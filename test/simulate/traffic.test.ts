import t from 'tap'
import { createStream } from '../../simulate/random.ts'
import { arrivals, drawTraffic, type Request } from '../../simulate/traffic.ts'
import type { Scenario, ScenarioSource } from '../../simulate/types.ts'
import { own, scenario } from './stage.ts'

const poisson: ScenarioSource = { id: 'p', kind: 'poisson', len: 'conv', rate: 0.5, model: 'a', deadline: 20, prio: 1 }
const burst: ScenarioSource = { id: 'b', kind: 'burst', len: 'code', every: 60, size: 16, inRate: 1.5, model: 'b', deadline: 10, prio: 1 }
const dump: ScenarioSource = { id: 'd', kind: 'dump', len: 'conv', at: [600, 900], size: 3, mix: { a: 3, b: 1 }, deadline: 1800, prio: 2 }

const traffic = (sources: readonly ScenarioSource[], seed = 1, changes: Partial<Scenario> = {}): Request[] =>
  drawTraffic({ ...scenario, nodes: [own], sources, ...changes }, seed, atS => atS)

t.test('the same seed draws the same requests, another seed others', async t => {
  t.same(traffic([poisson, burst, dump]), traffic([poisson, burst, dump]))
  t.not(traffic([poisson])[0]?.arrivedS, traffic([poisson], 2)[0]?.arrivedS)
})

t.test('what a source sends does not depend on the others', async t => {
  const ofPoisson = (requests: Request[]) =>
    requests.filter(({ job }) => job.source === 'p').map(({ job: { id, ...job }, ...rest }) => ({ ...rest, job }))
  t.same(ofPoisson(traffic([poisson])), ofPoisson(traffic([dump, burst, poisson])))
})

t.test('a cancelFraction or a hidden stall changes neither arrivals nor lengths', async t => {
  const plain = traffic([poisson])
  const troubled = traffic([poisson], 1, { cancelFraction: 0.2, hidden: { stalls: 0.3 } })
  t.same(
    troubled.map(({ leavesS, stall, ...rest }) => rest),
    plain.map(({ leavesS, stall, ...rest }) => rest)
  )
  const share = (of: (request: Request) => boolean): number => troubled.filter(of).length / troubled.length
  t.ok(Math.abs(share(({ leavesS }) => leavesS !== null) - 0.2) < 0.04)
  t.ok(Math.abs(share(({ stall }) => stall !== null) - 0.3) < 0.04)
  t.ok(troubled.every(({ leavesS, arrivedS }) => leavesS === null || leavesS >= arrivedS))
})

t.test('jobs are numbered in the order of arrival', async t => {
  const requests = traffic([burst, poisson, dump])
  t.same(
    requests.map(({ job }) => job.id),
    requests.map((_, id) => id)
  )
  t.ok(requests.every(({ arrivedS }, index) => arrivedS >= (requests[index - 1]?.arrivedS ?? 0)))
})

t.test('poisson arrivals have their rate and stay between from and to', async t => {
  const times = arrivals({ ...poisson, rate: 5, from: 100, to: 1100 }, 3_600, createStream('p'))
  t.ok(Math.abs(times.length - 5_000) < 300, `${times.length}`)
  t.ok(times.every(atS => atS >= 100 && atS < 1100))
})

t.test('bursts come every so often, with their size and the rate inside', async t => {
  const times = arrivals(burst, 400_000, createStream('b')).sort((a, b) => a - b)
  // 16 exp(0.5 z) has the mean 18.1.
  t.ok(Math.abs(times.length / (400_000 / 60) / 18.13 - 1) < 0.05, `${times.length}`)
  const rare = arrivals({ ...burst, every: 10_000 }, 4_000_000, createStream('b'))
  const gaps = rare
    .slice(1)
    .map((atS, index) => atS - (rare[index] ?? 0))
    .filter(gap => gap < 30)
  t.ok(Math.abs(gaps.reduce((sum, gap) => sum + gap, 0) / gaps.length - 1 / 1.5) < 0.05)
})

t.test('a dump sends 20 ms apart at each of its moments', async t => {
  t.same(
    traffic([dump]).map(({ arrivedS }) => arrivedS.toFixed(2)),
    ['600.00', '600.02', '600.04', '900.00', '900.02', '900.04']
  )
})

t.test('models are asked for by their share of the mix', async t => {
  const requests = traffic([{ ...dump, size: 4_000 }])
  const share = requests.filter(({ job }) => job.model === 'a').length / requests.length
  t.ok(Math.abs(share - 0.75) < 0.03, `${share}`)
})

t.test('the noise of the jobs is exp(0.12 z)', async t => {
  const logs = traffic([{ ...dump, size: 4_000 }]).map(({ noise }) => Math.log(noise))
  const sigma = Math.sqrt(logs.reduce((sum, each) => sum + each * each, 0) / logs.length)
  t.ok(Math.abs(sigma - 0.12) < 0.006, `${sigma}`)
})

t.test('each turn of a conversation holds all before it', async t => {
  const requests = traffic([{ ...dump, at: [10], size: 1, turns: 3 }])
  t.equal(requests.length, 3)
  const [first, second, third] = requests as [Request, Request, Request]
  t.same(first.job.prefix, second.job.prefix.slice(0, 1))
  t.same(second.job.prefix, third.job.prefix.slice(0, 3))
  t.equal(third.job.prefix.length, 5)
  t.equal(new Set(third.job.prefix).size, 5)
  t.ok(second.job.promptTokens > first.job.promptTokens + first.outputTokens)
  t.ok(second.arrivedS > first.arrivedS && third.arrivedS > second.arrivedS)
  t.same(new Set(requests.map(({ job }) => job.model)).size, 1)
  t.same(traffic([dump])[0]?.job.prefix, [], 'who has no turns has none')
})

t.test('a policy is told the arrival on the clock that it is shown', async t => {
  const [first] = drawTraffic({ ...scenario, nodes: [own], sources: [dump] }, 1, atS => atS + 5)
  t.match(first, { arrivedS: 600, job: { arrivedS: 605 } })
})
