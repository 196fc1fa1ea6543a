// Limits of a key as its clients see them: none at all, refusals, headers, and many people behind one key.

import t from 'tap'
import type { KeyLimits } from '../../gateway/limits.ts'
import { admitted, atOnce, none, one, pass, perMinute, refused, settled, tokensOf } from './limits-support.ts'

t.test('a key without limits costs nothing: one answer for all, at once', async t => {
  const { limits, state } = one()
  const admission = limits.admit('me', none, 1e9)
  t.notOk(admission instanceof Promise)
  t.equal(admission, limits.admit('you', none, 5))
  if (!(admission instanceof Promise)) {
    t.same(admission.headers(), {})
    admission.settle(5)
    admission.settle(null)
  }
  t.equal(state.asked, 0)
})

t.test('a refusal says which limit of whom, when it resets, and when to come again', async t => {
  const { limits } = one()
  await admitted(limits, perMinute(1), 1, 'team/alice')
  await pass(500)
  const error = await refused(limits, perMinute(1), 1, 'team/alice')
  t.match(error, { code: 'rate_limit_exceeded', status: 429, type: 'requests', retryAfterMs: 59_500, shouldRetry: true })
  t.match(error.message, 'team/alice')
  t.match(error.message, '1 requests per minute')
  t.match(error.message, '59.5s')
  await admitted(limits, perMinute(1), 1, 'team/bob')

  await admitted(limits, tokensOf(10), 10)
  const tokens = await refused(limits, tokensOf(10), 4)
  t.match(tokens, { code: 'token_limit_exceeded', publicCode: 'rate_limit_exceeded', status: 429, type: 'tokens', shouldRetry: true })
  t.match(tokens.message, '10 tokens per minute')
  t.match(tokens.message, 'estimated at 4')

  await admitted(limits, atOnce(1))
  t.match(await refused(limits, atOnce(1)), {
    code: 'concurrency_limit_exceeded',
    publicCode: 'rate_limit_exceeded',
    type: 'requests',
    retryAfterMs: 1_000,
    shouldRetry: true
  })
  t.ok((await refused(limits, perMinute(1), 1, 'team/alice'.padEnd(5_000, 'x')).catch(() => null)) === null)
  t.ok((await refused(limits, perMinute(1), 1, 'team/alice'.padEnd(5_000, 'x'))).message.length < 400)
})

t.test('a refused request uses nothing of the other limits', async t => {
  const { limits } = one()
  const key: KeyLimits = { requestsPerMinute: 10, tokensPerMinute: 100, concurrentRequests: 1 }
  const first = await admitted(limits, key, 60)
  t.equal((await refused(limits, key, 60)).code, 'token_limit_exceeded')
  t.equal((await refused(limits, key, 40)).code, 'concurrency_limit_exceeded', 'its place is taken')
  await settled()
  t.match(limits.headersOf('me', key), { 'x-ratelimit-remaining-requests': '9', 'x-ratelimit-remaining-tokens': '40' })
  first.settle(60)
  await admitted(limits, key, 40)
})

t.test('headers are there for limits that exist, on admissions and refusals', async t => {
  const { limits } = one()
  const key: KeyLimits = { requestsPerMinute: 2, tokensPerMinute: 1_000, concurrentRequests: 5 }
  t.same(limits.headersOf('me', key), {
    'x-ratelimit-limit-requests': '2',
    'x-ratelimit-remaining-requests': '2',
    'x-ratelimit-reset-requests': '0s',
    'x-ratelimit-limit-tokens': '1000',
    'x-ratelimit-remaining-tokens': '1000',
    'x-ratelimit-reset-tokens': '0s'
  })
  await admitted(limits, key, 300)
  await pass(250)
  const second = await admitted(limits, key, 200)
  const expected = {
    'x-ratelimit-limit-requests': '2',
    'x-ratelimit-remaining-requests': '0',
    'x-ratelimit-reset-requests': '59.75s',
    'x-ratelimit-limit-tokens': '1000',
    'x-ratelimit-remaining-tokens': '500',
    'x-ratelimit-reset-tokens': '59.75s'
  }
  t.same(second.headers(), expected)
  await refused(limits, key, 300)
  await settled()
  t.same(limits.headersOf('me', key), expected)
  t.same(Object.keys((await admitted(limits, perMinute(7))).headers()).length, 3)
  t.same((await admitted(limits, atOnce(7))).headers(), {})
})

t.test('of the people behind a key, the longest unused ones are forgotten', async t => {
  const { limits, state } = one()
  const key: KeyLimits = { requestsPerMinute: 5, tokensPerMinute: 100, concurrentRequests: 2 }
  const remaining = (person: number): string | undefined => limits.headersOf(`team/${person}`, key)['x-ratelimit-remaining-requests']
  for (let person = 0; person < 10_050; person++) (await admitted(limits, key, 1, `team/${person}`)).settle(1)
  t.same([remaining(0), remaining(49), remaining(50), remaining(10_049)], ['5', '5', '4', '4'])
  await pass(1_000)
  t.ok(
    [...state.permits.values()].every(held => held.get(0) === 0),
    'no permit is kept'
  )
  const before = state.asked
  await admitted(limits, key, 1, 'team/0')
  t.equal(state.asked, before + 3, 'looked up anew')
})
