import t from 'tap'
import { outcomeOf } from '../../simulate/outcome.ts'
import { meanRow } from '../../simulate/run.ts'
import type { Course, Fate } from '../../simulate/world.ts'
import { own, rented, request, scenario } from './stage.ts'

const fleet = { ...scenario, nodes: [own, rented] }

/** Arrived at 100, answered by `own` after so many seconds. */
function fate(id: number, seconds: number | null, changes: Partial<Fate> = {}, job: Parameters<typeof request>[2] = {}): Fate {
  return {
    request: request(id, { arrivedS: 100 }, job),
    endedS: seconds === null ? null : 100 + seconds,
    outcome: seconds === null ? 'unfinished' : 'answered',
    node: seconds === null ? null : 'own',
    usd: 0,
    sends: 1,
    eta: null,
    ...changes
  }
}

function row(fates: readonly Fate[], course: Partial<Course> = {}) {
  return outcomeOf(fleet, 'test', { fates, endS: 1100, busyS: new Map(), loads: 0, refusals: 0, hash: '', ...course }).row
}

t.test('the score is dollars, seconds and misses of all requests; unfinished ones count to the end and as missed', async t => {
  // 100 W for half an hour are 0.05 kWh.
  const busyS = new Map([['own', 1800]])
  const { score, ...rest } = row([fate(0, 10, { usd: 0.01 }), fate(1, 30), fate(2, null), fate(3, 5, {}, { prio: 2 })], { busyS })
  t.match(rest, { requests: 4, unfinished: 1, usdCloud: 0.01, usdEnergy: 0.0125, usd: 0.0225 })
  t.ok(Math.abs(score - (0.0225 + 2e-5 * (10 + 30 + 1000 + 5) + 0.002 * 2)) < 1e-12, `${score}`)
})

t.test('mean, p95 and misses are of interactive requests; what was not answered is missed, and in no mean', async t => {
  const twenty = Array.from({ length: 19 }, (_, id) => fate(id, id + 1))
  const found = row([...twenty, fate(19, 40), fate(20, null), fate(21, 500, {}, { prio: 2 })])
  t.match(found, { meanS: (190 + 40) / 20, p95S: 19 })
  t.ok(Math.abs(found.missPct - 200 / 21) < 1e-9)
})

t.test('who left misses nothing, and waited until then', async t => {
  const { score, missPct } = row([fate(0, 50, { outcome: 'left' })])
  t.equal(missPct, 0)
  t.ok(Math.abs(score - 2e-5 * 50) < 1e-12)
})

t.test('shares are of the answers, by node', async t => {
  const fates = [fate(0, 1), fate(1, 1), fate(2, 1), fate(3, 1, { node: 'rented' }), fate(4, null), fate(5, 1, { outcome: 'left' })]
  t.same(row(fates).shares, { own: 75, rented: 25 })
})

t.test('forecasts are held against what it took', async t => {
  const eta = { p50S: 10, p90S: 20 }
  t.match(row([fate(0, 8, { eta }), fate(1, 20, { eta }), fate(2, 40, { eta })]), {
    etaMedianErrorPct: 50,
    etaP90CoveragePct: 200 / 3,
    p90p50Median: 2,
    worstWindowCoveragePct: null
  })
  t.match(row([fate(0, 5)]), { etaMedianErrorPct: null, etaP90CoveragePct: null, p90p50Median: null })
  t.equal(row([fate(0, null, { eta })]).etaP90CoveragePct, 0, 'what was not answered took longer than was said')
  t.equal(row([fate(0, 5, { eta, outcome: 'left' })]).etaP90CoveragePct, null, 'nobody knows what it would have taken')
})

t.test('the worst ten minutes are of those with fifty requests', async t => {
  const eta = { p50S: 10, p90S: 20 }
  const at = (arrivedS: number, seconds: number, count: number): Fate[] =>
    Array.from({ length: count }, (_, id) => ({
      ...fate(id, null, { eta, outcome: 'answered' }),
      request: request(id, { arrivedS }),
      endedS: arrivedS + seconds
    }))
  const fates = [...at(100, 5, 50), ...at(700, 5, 40), ...at(800, 30, 10), ...at(1300, 30, 49)]
  t.equal(row(fates, { endS: 3000 }).worstWindowCoveragePct, 80)
})

t.test('several seeds give their mean and a hash of all', async t => {
  const rows = [row([fate(0, 10)], { hash: 'x' }), row([fate(0, 20), fate(1, 40, { node: 'rented' })], { hash: 'y' })] as const
  const one = meanRow(0, 1, seed => rows[seed as 0 | 1])
  t.same(one, rows[0])
  const both = meanRow(0, 2, seed => rows[seed as 0 | 1])
  t.match(both, { requests: 1.5, meanS: 20, missPct: 25, shares: { own: 75, rented: 25 }, etaP90CoveragePct: null, hash: /^[0-9a-f]{64}$/ })
})
