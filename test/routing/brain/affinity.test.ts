import t from 'tap'
import { type Chain, createAffinity } from '../../../routing/brain/affinity.ts'
import { fc } from '../../support/properties.ts'

/** Messages of 100 tokens each; a link's hash says all that is before it. */
function chainOf(...messages: readonly string[]): Chain {
  return messages.map((_, at) => ({ hash: messages.slice(0, at + 1).join('>'), tokens: 100 * (at + 1) }))
}

const keep = { nowS: 0, forS: 60, chains: 2 }

t.test('the longest common beginning counts, and nothing after it', async t => {
  const affinity = createAffinity()
  affinity.read('box/m', chainOf('system', 'hello', 'answer', 'more'), keep)
  const cached = (...messages: readonly string[]): number => affinity.cached('box/m', chainOf(...messages), 1)
  t.equal(cached('system', 'hello', 'answer', 'more'), 400)
  t.equal(cached('system', 'hello', 'answer', 'more', 'and more'), 400, 'a longer one has that much')
  t.equal(cached('system', 'hello', 'another'), 200)
  t.equal(cached('system'), 100, 'a shorter one has all')
  t.equal(cached('hello', 'answer', 'more'), 0, 'the same words later on are no beginning')
  t.equal(cached(), 0)
  t.equal(affinity.cached('other/m', chainOf('system'), 1), 0, 'another machine or model has nothing')
})

t.test('of several kept ones the one with the longest beginning counts', async t => {
  const affinity = createAffinity()
  affinity.read('box/m', chainOf('system', 'a', 'b', 'c'), keep)
  affinity.read('box/m', chainOf('system', 'x'), keep)
  t.equal(affinity.cached('box/m', chainOf('system', 'a', 'b', 'z'), 1), 300)
  t.equal(affinity.cached('box/m', chainOf('system', 'x', 'b'), 1), 200)
})

t.test('the longer chain of a conversation takes the place of the shorter, and of no other', async t => {
  const affinity = createAffinity()
  affinity.read('box/m', chainOf('other'), keep)
  for (let turn = 1; turn <= 10; turn++) {
    affinity.read('box/m', chainOf(...Array.from({ length: turn }, (_, at) => `turn ${at}`)), keep)
    t.equal(affinity.cached('box/m', chainOf('other'), 1), 100, `after turn ${turn}`)
  }
})

t.test('only so many chains are kept, and the oldest goes first', async t => {
  const affinity = createAffinity()
  for (const name of ['a', 'b', 'c']) affinity.read('box/m', chainOf(name), keep)
  const left = (): string[] => ['a', 'b', 'c'].filter(name => affinity.cached('box/m', chainOf(name), 1) > 0)
  t.same(left(), ['b', 'c'])
  affinity.read('box/m', chainOf('b'), keep)
  affinity.read('box/m', chainOf('a'), keep)
  t.same(left(), ['a', 'b'], 'what is read again is young again')
  affinity.read('box/m', chainOf('d'), { ...keep, chains: 1 })
  t.same(left(), [])
})

t.test('it is forgotten after its time, or when the model is unloaded', async t => {
  const affinity = createAffinity()
  affinity.read('box/m', chainOf('a'), keep)
  affinity.read('box/n', chainOf('a'), keep)
  t.equal(affinity.cached('box/m', chainOf('a'), 59.9), 100)
  t.equal(affinity.cached('box/m', chainOf('a'), 60), 0)
  affinity.forget('box/m')
  t.equal(affinity.cached('box/m', chainOf('a'), 1), 0)
  t.equal(affinity.cached('box/n', chainOf('a'), 1), 100)
  affinity.read('box/n', chainOf('late'), { nowS: 50, forS: 60, chains: 2 })
  affinity.read('box/n', chainOf('later'), { nowS: 70, forS: 60, chains: 2 })
  t.equal(affinity.cached('box/n', chainOf('late'), 71), 100, 'what is over holds no place')
})

t.test('a conversation whose beginning is not known is neither kept nor found', async t => {
  const affinity = createAffinity()
  affinity.read('box/m', chainOf('a'), { ...keep, chains: 1 })
  affinity.read('box/m', [], { ...keep, chains: 1 })
  t.equal(affinity.cached('box/m', chainOf('a'), 1), 100)
})

t.test('never more is cached than the chain has, and never more chains than were allowed', async t => {
  const message = fc.constantFrom('a', 'b', 'c')
  const chain = fc.array(message, { maxLength: 6 })
  fc.assert(
    fc.property(fc.array(chain, { maxLength: 12 }), chain, fc.integer({ min: 1, max: 3 }), (reads, asked, chains) => {
      const affinity = createAffinity()
      for (const read of reads) affinity.read('t', chainOf(...read), { nowS: 0, forS: 9, chains })
      const cached = affinity.cached('t', chainOf(...asked), 1)
      const last = reads.findLast(read => read.length > 0) ?? []
      let common = 0
      while (common < asked.length && common < last.length && asked[common] === last[common]) common++
      const alone = ['a', 'b', 'c'].filter(name => affinity.cached('t', chainOf(name), 1) > 0)
      return cached >= 100 * common && cached <= 100 * asked.length && alone.length <= chains
    }),
    { numRuns: 2_000 }
  )
  t.pass()
})
