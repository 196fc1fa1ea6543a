// The chunks of an attempt in memory: found by their numbers, as long as they are kept.

import t from 'tap'
import { createRing } from '../../queue/events/ring.ts'

t.test('chunks are found by what is before them, about as many characters as asked for', async t => {
  const ring = createRing()
  t.equal(ring.next, 1)
  t.same(ring.after(0, 100), [])
  for (const json of ['aaaa', 'bbbb', 'cccc', 'dddd']) ring.push(json)
  t.equal(ring.next, 5)
  t.same(ring.after(0, 100), ['aaaa', 'bbbb', 'cccc', 'dddd'])
  t.same(ring.after(0, 5), ['aaaa', 'bbbb'])
  t.same(ring.after(2, 4), ['cccc'])
  t.same(ring.after(3, 1), ['dddd'], 'one at least')
  t.same(ring.after(4, 100), [])
  t.same(ring.after(9, 100), [], 'somebody is further than we are')
})

t.test('what is written goes when there is more than enough of it; what is not stays, and numbers stay what they are', async t => {
  const ring = createRing()
  const text = (number: number): string => String(number).padEnd(1_024)
  for (let number = 1; number <= 600; number++) ring.push(text(number))
  const first = (): number => {
    let seq = 0
    while (ring.after(seq, 1) === null) seq++
    return seq + 1
  }
  t.equal(first(), 1)
  ring.written(101)
  t.equal(first(), 101, 'all before it')
  t.equal(ring.after(99, 1), null)
  t.same(ring.after(100, 1), [text(101)])
  ring.written(601)
  t.equal(first(), 101, 'not more than enough: it is read from here')
  for (let number = 601; number <= 1_000; number++) ring.push(text(number))
  t.equal(ring.next, 1_001)
  ring.written(1_001)
  t.equal(first(), 1_000 - 256 + 1, 'the last 256 KiB')
  t.same(ring.after(999, 1), [text(1_000)])
  t.equal(ring.next, 1_001)
})
