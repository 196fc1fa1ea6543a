// What processes share: slices handed back when idle, and a share for each while the database is away.

import t from 'tap'
import type { Limits } from '../../gateway/limits.ts'
import { GatewayError } from '../../routing/errors.ts'
import { admitted, atOnce, attempt, cluster, countAdmitted, one, pass, perMinute, refused, tokensOf } from './limits-support.ts'

t.test('slices that lie idle are with the others within a second, and when a process ends', async t => {
  const state = cluster(2)
  const [one, two] = state.processes as [Limits, Limits]
  await admitted(one, perMinute(800))
  t.equal(await countAdmitted(two, perMinute(800), 800), 750)
  const rest = cluster(2)
  const [first, second] = rest.processes as [Limits, Limits]
  await admitted(first, perMinute(800))
  await pass(1_000)
  t.equal(await countAdmitted(second, perMinute(800), 700), 700)
  await second.close()
  t.equal(await countAdmitted(first, perMinute(800), 200), 99)
  const idle = cluster(2)
  const [third, fourth] = idle.processes as [Limits, Limits]
  await admitted(third, perMinute(800))
  await pass(1_000)
  t.equal(await countAdmitted(fourth, perMinute(800), 900), 799)
})

t.test('alone, a process keeps its slices', async t => {
  const { limits, state } = one()
  await admitted(limits, perMinute(800))
  await pass(30_000)
  await admitted(limits, perMinute(800))
  t.equal(state.asked, 1)
})

t.test('with the database away each process goes on with its share, and pays for it afterwards', async t => {
  const state = cluster(2)
  const [limits, other] = state.processes as [Limits, Limits]
  state.isAway = true
  t.equal(await countAdmitted(limits, perMinute(100), 200), 50)
  t.equal(await countAdmitted(limits, tokensOf(1_000), 20, 40), 12)
  t.equal(await countAdmitted(limits, atOnce(4), 20), 2)
  t.equal(await countAdmitted(limits, perMinute(1), 3), 1, 'at least one')
  t.equal((await attempt(limits, tokensOf(900), 800)) instanceof GatewayError, false, 'however large')
  t.equal((await refused(limits, perMinute(100))).code, 'rate_limit_exceeded')
  await pass(1_000)
  t.equal(await countAdmitted(limits, perMinute(100), 200), 0, 'no more than its share, however often it is tried')
  state.isAway = false
  await pass(1_000)
  t.equal(await countAdmitted(limits, perMinute(100), 30), 30)
  t.equal(await countAdmitted(other, perMinute(100), 200), 20)
  t.equal(await countAdmitted(limits, perMinute(100), 200), 0)
  t.equal(await countAdmitted(other, atOnce(4), 20), 2, 'what runs has been said')
})

t.test('an outage in the middle of a minute gives nobody more than its share of it', async t => {
  const state = cluster(2)
  const [limits] = state.processes as [Limits]
  t.equal(await countAdmitted(limits, perMinute(100), 40), 40)
  state.isAway = true
  t.equal(await countAdmitted(limits, perMinute(100), 100), 10)
  const far = cluster(2)
  const [second] = far.processes as [Limits]
  t.equal(await countAdmitted(second, perMinute(100), 80), 80)
  far.isAway = true
  t.equal(await countAdmitted(second, perMinute(100), 100), 0)
  await pass(60_000)
  t.equal(await countAdmitted(second, perMinute(100), 100), 50, 'the next minute')
  far.isAway = false
  await pass(60_000)
  await admitted(second, perMinute(100))
  far.isAway = true
  t.equal(await countAdmitted(second, perMinute(100), 100), 49, 'and the one after')
})

t.test('what was never granted is not given back', async t => {
  const state = cluster(2)
  const [limits] = state.processes as [Limits]
  await countAdmitted(limits, perMinute(100), 40)
  state.isAway = true
  await countAdmitted(limits, perMinute(100), 5)
  state.isAway = false
  await pass(3_000)
  t.equal(state.windows.get('requests 100 me')?.granted, 40)
})
