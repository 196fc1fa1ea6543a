import t from 'tap'
import { actualCharge, expectedCharge, inOrder, type Waits } from '../../routing/fair.ts'
import { fc } from '../support/properties.ts'

const nowMs = 1_000_000_000
const at = (agoMs: number): Date => new Date(nowMs - agoMs)
const justServed = Array.from({ length: 5 }, () => at(0))

function job(id: string, changes: Partial<Waits> = {}): Waits {
  return { id, class: 2, tag: 0, createdMs: nowMs, ...changes }
}

const order = (waiting: readonly Waits[], servedAt: readonly Date[] = justServed): string[] =>
  inOrder(waiting, servedAt, nowMs).map(({ id }) => id)

t.test('a better class comes first, then the lower tag, then the older job', async t => {
  const waiting = [
    job('d', { class: 3, tag: 1 }),
    job('c', { tag: 9 }),
    job('b', { tag: 9 }),
    job('a', { tag: 10 }),
    job('e', { class: 0, tag: 99 })
  ]
  t.same(order(waiting), ['e', 'b', 'c', 'a', 'd'])
})

t.test('a class that was not served for a minute draws level with the one above it, and comes first then', async t => {
  const normal = (waitedMs: number) => job('normal', { createdMs: nowMs - waitedMs })
  const interactive = job('interactive', { class: 1 })
  const servedAt = (agoMs: number) => justServed.map((date, number) => (number === 2 ? at(agoMs) : date))
  const table = [
    { waitedMs: 59_000, servedMs: 300_000, first: 'interactive' },
    { waitedMs: 60_000, servedMs: 300_000, first: 'normal' },
    { waitedMs: 300_000, servedMs: 59_000, first: 'interactive' },
    { waitedMs: 300_000, servedMs: 60_000, first: 'normal' }
  ]
  for (const { waitedMs, servedMs, first } of table)
    t.equal(order([interactive, normal(waitedMs)], servedAt(servedMs))[0], first, `waited ${waitedMs}, served ${servedMs} ago`)
})

t.test('however long it waits, a class rises by two and no more', async t => {
  const waiting = [job('urgent', { class: 0 }), job('interactive', { class: 1 }), job('batch', { class: 3, createdMs: nowMs - 1e9 })]
  const servedAt = justServed.map((date, number) => (number === 3 ? at(1e9) : date))
  t.same(order(waiting, servedAt), ['urgent', 'batch', 'interactive'])
})

t.test('an old job of a flood does not pass the fresh one of a light source', async t => {
  const waiting = [job('old', { tag: 50, createdMs: nowMs - 600_000 }), job('fresh', { tag: 10 })]
  t.same(order(waiting, [at(1e9), at(1e9), at(1e9), at(1e9), at(1e9)]), ['fresh', 'old'])
})

t.test('the order is the same however the jobs come in, and none is lost', async t => {
  const one = fc.record({
    class: fc.integer({ min: 0, max: 4 }),
    tag: fc.integer({ min: 0, max: 5 }),
    waited: fc.integer({ min: 0, max: 200_000 })
  })
  const jobs = fc
    .array(one, { maxLength: 20 })
    .map(list => list.map((each, number) => job(String(number).padStart(3, '0'), { ...each, createdMs: nowMs - each.waited })))
  const served = fc.array(fc.integer({ min: 0, max: 200_000 }).map(at), { minLength: 5, maxLength: 5 })
  fc.assert(
    fc.property(jobs, served, (waiting, servedAt) => {
      const sorted = order(waiting, servedAt)
      return sorted.length === waiting.length && JSON.stringify(order(waiting.toReversed(), servedAt)) === JSON.stringify(sorted)
    })
  )
  t.pass()
})

t.test('what a job is charged grows with its prompt, and with its answers up to a usual one', async t => {
  const prompt = (expected: number) => ({ low: expected, expected })
  const charge = (expected: number, maxOutputTokens: number | null, choices = 1) =>
    expectedCharge({ operation: 'chat', prompt: prompt(expected), maxOutputTokens, choices } as Parameters<typeof expectedCharge>[0])
  t.equal(charge(4_500, 120), 2_000_000)
  t.equal(charge(0, 100_000), charge(0, null), 'a bound that is too large is no estimate')
  t.equal(charge(0, 120, 3), 3_000_000)
  t.equal(charge(0, 0), 1_000, 'nothing is free')
  const embedding = { operation: 'embed', prompt: prompt(9_000), maxOutputTokens: 500, choices: 1 }
  t.equal(expectedCharge(embedding as Parameters<typeof expectedCharge>[0]), 2_000_000, 'a vector has no tokens')
})

t.test('what it took is counted where it ran: rented work takes nothing of what is shared', async t => {
  const usage = { promptTokens: 4_500, completionTokens: 120 }
  t.equal(actualCharge(usage, true), 2_000_000)
  t.equal(actualCharge(usage, false), 0)
  t.equal(actualCharge(null, true), 1_000)
})
