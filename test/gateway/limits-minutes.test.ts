// Requests and tokens per minute: when the minute begins and ends, slices of it, estimates and their correction.

import t from 'tap'
import type { Admission, Limits } from '../../gateway/limits.ts'
import { GatewayError } from '../../routing/errors.ts'
import { admitted, attempt, cluster, countAdmitted, one, pass, perMinute, refused, settled, tokensOf } from './limits-support.ts'

t.test('the minute begins with the first request, and ends for all at once', async t => {
  const { limits } = one()
  await pass(12_345)
  for (let request = 0; request < 5; request++) await admitted(limits, perMinute(5))
  await pass(59_999)
  t.match(await refused(limits, perMinute(5)), { retryAfterMs: 1 })
  await pass(1)
  t.equal(await countAdmitted(limits, perMinute(5), 20), 5)
})

t.test('an estimate that is larger than the limit is refused at once and not to be tried again', async t => {
  const { limits, state } = one()
  const error = await refused(limits, { ...tokensOf(100), requestsPerMinute: 1 }, 101)
  t.match(error, { code: 'token_limit_exceeded', shouldRetry: false, retryAfterMs: null })
  t.match(error.message, 'never fit')
  t.equal(state.asked, 0)
  await admitted(limits, { ...tokensOf(100), requestsPerMinute: 1 }, 100)
})

t.test('once nothing is left, refusals come from memory', async t => {
  const { limits, state } = one()
  t.equal(await countAdmitted(limits, perMinute(100), 300), 100)
  const before = state.asked
  t.equal(await countAdmitted(limits, perMinute(100), 1_000), 0)
  t.equal(state.asked, before)
})

t.test('a slice serves many requests, waiting ones share one question, and the next slice comes ahead', async t => {
  const state = cluster(2)
  const [limits] = state.processes as [Limits]
  await Promise.all(Array.from({ length: 30 }, () => admitted(limits, perMinute(1_600))))
  t.equal(state.asked, 1, 'slices are of 100')
  state.isSlow = true
  for (let request = 0; request < 70; request++) await admitted(limits, perMinute(1_600))
  t.equal(state.asked, 2, 'asked for when half is used, without waiting')
  state.isSlow = false
  state.answer()
  await settled()
  for (let request = 0; request < 40; request++) await admitted(limits, perMinute(1_600))
  t.equal(state.asked, 2)
})

t.test('tokens: the estimate is taken, then corrected, or given back', async t => {
  const { limits } = one()
  const key = tokensOf(1_000)
  const left = (admission: Admission): string | undefined => admission.headers()['x-ratelimit-remaining-tokens']
  const first = await admitted(limits, key, 400)
  t.equal(left(first), '600')
  first.settle(100)
  await settled()
  t.equal(left(first), '900', 'fewer')
  first.settle(1_000)
  await settled()
  t.equal(left(first), '900', 'twice is once')
  const second = await admitted(limits, key, 100)
  second.settle(300)
  await settled()
  t.equal(left(second), '600', 'more')
  const third = await admitted(limits, key, 600)
  t.equal(left(third), '0')
  third.settle(null)
  await settled()
  t.equal(left(third), '600', 'failed')
  await admitted(limits, key, 600)
  await refused(limits, key, 1)
})

t.test('tokens used beyond what was left are a debt to the next slice', async t => {
  const { limits } = one()
  const key = tokensOf(1_000)
  const first = await admitted(limits, key, 10)
  first.settle(500)
  await settled()
  t.equal(first.headers()['x-ratelimit-remaining-tokens'], '500')
  t.equal(await countAdmitted(limits, key, 100, 10), 50)
  const last = await refused(limits, key, 1)
  t.equal(last.code, 'token_limit_exceeded')
})

t.test('what is settled after its minute changes nothing in the next', async t => {
  const { limits } = one()
  const key = tokensOf(1_000)
  const late = await admitted(limits, key, 1_000)
  const more = await admitted(limits, tokensOf(500), 1)
  await pass(60_000)
  const next = await admitted(limits, key, 1_000)
  await admitted(limits, tokensOf(500), 1)
  late.settle(null)
  more.settle(10_000)
  await settled()
  t.equal(next.headers()['x-ratelimit-remaining-tokens'], '0')
  t.equal(more.headers()['x-ratelimit-remaining-tokens'], '499')
})

t.test('an answer that was long on its way does not make the minute longer', async t => {
  const { limits, state } = one()
  state.isSlow = state.isLate = true
  const first = admitted(limits, perMinute(100))
  await settled()
  await pass(5_000)
  state.answer()
  t.equal((await first).headers()['x-ratelimit-reset-requests'], '55s')
  state.isSlow = false
  await pass(54_999)
  await admitted(limits, perMinute(100))
  t.equal(state.asked, 1)
  await pass(1)
  await admitted(limits, perMinute(100))
  t.equal(state.asked, 2)
})

t.test('a request that is too large for what is left does not hold up a small one', async t => {
  const { limits } = one()
  await admitted(limits, tokensOf(100), 95)
  const outcomes = await Promise.all([10, 3, 3, 2].map(tokens => attempt(limits, tokensOf(100), tokens)))
  t.same(
    outcomes.map(outcome => outcome instanceof GatewayError),
    [true, false, true, false]
  )
})
