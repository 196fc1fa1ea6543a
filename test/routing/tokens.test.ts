import t from 'tap'
import { estimateTokens } from '../../routing/tokens.ts'
import { fc } from '../support/properties.ts'

t.test('a prompt is estimated from its bytes, its messages and its pictures', async t => {
  t.same(estimateTokens({ textBytes: 0, messages: 0, pictures: 0 }), { low: 0, expected: 0 })
  t.same(estimateTokens({ textBytes: 1, messages: 1, pictures: 0 }), { low: 1, expected: 5 })
  t.same(estimateTokens({ textBytes: 1_200, messages: 3, pictures: 0 }), { low: 100, expected: 312 })
  t.same(estimateTokens({ textBytes: 0, messages: 1, pictures: 2 }), { low: 128, expected: 2_404 })
})

t.test('the estimates are whole, ordered, and never fall when something is added', async t => {
  const size = fc.record({ textBytes: fc.nat(40_000_000), messages: fc.nat(10_000), pictures: fc.nat(100) })
  fc.assert(
    fc.property(size, size, (a, b) => {
      const one = estimateTokens(a)
      const both = estimateTokens({
        textBytes: a.textBytes + b.textBytes,
        messages: a.messages + b.messages,
        pictures: a.pictures + b.pictures
      })
      return (
        Number.isInteger(one.low) &&
        Number.isInteger(one.expected) &&
        one.low <= one.expected &&
        one.low <= both.low &&
        one.expected <= both.expected
      )
    })
  )
  t.pass()
})
