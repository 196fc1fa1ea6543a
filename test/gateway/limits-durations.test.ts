// Durations in x-ratelimit-reset-*: OpenAI's form, and read back by whoever reads Go's.

import t from 'tap'
import { formatDuration } from '../../gateway/limits/durations.ts'
import { fc } from '../support/properties.ts'

t.test('a duration is written as OpenAI writes it, rounded up', async t => {
  const cases: readonly [ms: number, text: string][] = [
    [-5, '0s'],
    [0, '0s'],
    [0.2, '1ms'],
    [1, '1ms'],
    [12, '12ms'],
    [999, '999ms'],
    [999.5, '1s'],
    [1_000, '1s'],
    [1_001, '1.001s'],
    [59_500, '59.5s'],
    [59_999.1, '1m0s'],
    [60_000, '1m0s'],
    [61_250, '1m1.25s'],
    [360_000, '6m0s'],
    [3_600_000, '1h0m0s'],
    [90_061_007, '25h1m1.007s']
  ]
  for (const [ms, text] of cases) t.equal(formatDuration(ms), text, `${ms}`)
})

t.test('every duration is read back as what it was, to the millisecond above', async t => {
  fc.assert(
    fc.property(fc.double({ min: 0, max: 200_000_000, noNaN: true }), ms => {
      const text = formatDuration(ms)
      return /^(\d+ms|(\d+h)?(\d+m)?\d+(\.\d{1,3})?s)$/.test(text) && Math.abs(parse(text) - Math.ceil(ms)) < 0.001
    }),
    { numRuns: 2_000 }
  )
  t.pass()
})

/** As Go's time.ParseDuration reads it, in ms. */
function parse(text: string): number {
  const units: Readonly<Record<string, number>> = { h: 3_600_000, m: 60_000, s: 1_000, ms: 1 }
  let sum = 0
  const rest = text.replace(/(\d+(?:\.\d+)?)(ms|h|m|s)/g, (_, number: string, unit: string) => {
    sum += Number(number) * (units[unit] as number)
    return ''
  })
  if (rest !== '') throw new Error(`not a duration: ${text}`)
  return sum
}
