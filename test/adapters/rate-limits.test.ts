// What the headers of providers tell of their limits, in the forms that were seen.

import t from 'tap'
import { createAdapter } from '../../adapters/openai.ts'
import { requestLimitOf } from '../../adapters/shared/rate-limits.ts'
import type { RequestLimit } from '../../routing/types.ts'
import { attemptFor, createLine } from './compatible.ts'

const nowMs = 1_790_000_000_000
const named = (limit: string, remaining: string, reset: string): Record<string, string> => ({
  'x-ratelimit-limit-requests': limit,
  'x-ratelimit-remaining-requests': remaining,
  'x-ratelimit-reset-requests': reset
})
const short = (limit: string, remaining: string, reset: string): Record<string, string> => ({
  'x-ratelimit-limit': limit,
  'x-ratelimit-remaining': remaining,
  'x-ratelimit-reset': reset
})

t.test('durations and moments are read, and nonsense is nothing', async t => {
  const cases: readonly [name: string, headers: Record<string, string>, limit: RequestLimit | null][] = [
    ['as recorded from OpenAI', named('5000', '4999', '12ms'), { requests: 5_000, remaining: 4_999, resetS: 0.012 }],
    ['minutes', named('60', '0', '6m0s'), { requests: 60, remaining: 0, resetS: 360 }],
    ['with a fraction', named('14400', '14370', '2m59.56s'), { requests: 14_400, remaining: 14_370, resetS: 179.56 }],
    ['seconds', named('60', '10', '30'), { requests: 60, remaining: 10, resetS: 30 }],
    ['a moment, ms', short('20', '0', String(nowMs + 5_000)), { requests: 20, remaining: 0, resetS: 5, isWindow: true }],
    ['a moment, s', short('20', '3', String(nowMs / 1_000 + 5)), { requests: 20, remaining: 3, resetS: 5, isWindow: true }],
    ['a moment that is over', short('20', '0', String(nowMs - 5_000)), null],
    ['none', {}, null],
    ['only a part', { 'x-ratelimit-limit-requests': '5' }, null],
    ['more left than there are', named('5', '6', '1s'), null],
    ['no number', named('many', '6', '1s'), null],
    ['negative', named('5', '-1', '1s'), null],
    ['zero', named('0', '0', '1s'), null],
    ['no duration', named('5', '1', 'soon'), null],
    ['for ever', named('5', '1', '9999h'), null],
    ['long', named('5', '1', `${'1s'.repeat(100)}`), null]
  ]
  for (const [name, headers, limit] of cases) t.same(requestLimitOf(headers, nowMs), limit, name)
})

t.test('they are told with an answer and with a refusal, before anything else', async t => {
  for (const status of [200, 429]) {
    const line = createLine()
    const told: string[] = []
    const { chat } = createAdapter({ outbound: line.outbound })
    chat(attemptFor({ stream: false }), {
      frames: () => true,
      body: () => void told.push('body'),
      usage: () => void told.push('usage'),
      limits: ({ requests, remaining }) => void told.push(`${remaining} of ${requests}`),
      end: () => void told.push('end')
    })
    line.upstream?.head(status, { 'content-type': 'application/json', ...named('60', '59', '1s') })
    line.upstream?.data(Buffer.from('{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}]}'))
    line.upstream?.end()
    t.equal(told[0], '59 of 60')
    t.equal(told.at(-1), 'end')
  }
})
