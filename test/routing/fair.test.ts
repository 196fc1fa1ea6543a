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

interface Source {
  readonly name: string
  readonly weight: number
  /** Of its jobs, in their order. */
  readonly charges: readonly number[]
  /** It comes when so much was served. */
  readonly fromServed: number
}

/**
 * One machine that serves one job after the other, with start tags as the database gives them (store/jobs/submit.ts): a job's tag is where
 * its class stands or where its source's last job ends, whichever is later; the class stands where the last one was begun.
 */
function serve(sources: readonly Source[], served: (name: string, charge: number, waiting: ReadonlySet<string>) => void): void {
  const finish = new Map<string, number>()
  const waiting: (Waits & { readonly source: Source; readonly charge: number })[] = []
  let classTag = 0
  let begun = 0
  let ids = 0
  const come = new Set<Source>()
  for (;;) {
    for (const source of sources) {
      if (come.has(source) || source.fromServed > begun) continue
      come.add(source)
      for (const charge of source.charges) {
        const tag = Math.max(classTag, finish.get(source.name) ?? 0)
        finish.set(source.name, tag + Math.ceil(charge / source.weight))
        waiting.push({ ...job(String(ids++).padStart(6, '0'), { tag }), source, charge })
      }
    }
    const [next] = inOrder(waiting, justServed, nowMs)
    if (next === undefined) return
    classTag = Math.max(classTag, next.tag)
    begun++
    served(next.source.name, next.charge, new Set(waiting.map(({ source }) => source.name)))
    waiting.splice(waiting.indexOf(next), 1)
  }
}

const source = fc.record({
  weight: fc.constantFrom(0.01, 0.5, 1, 2, 4, 100),
  charges: fc.array(fc.integer({ min: 1_000, max: 10_000_000 }), { minLength: 1, maxLength: 25 }),
  fromServed: fc.constantFrom(0, 0, 0, 3, 10, 30)
})

t.test('as long as two sources both wait, what they get by their weights differs by no more than a job of each', async t => {
  fc.assert(
    fc.property(fc.array(source, { minLength: 2, maxLength: 4 }), given => {
      const sources = given.map((each, at) => ({ ...each, name: `s${at}` }))
      for (const [at, one] of sources.entries()) {
        for (const other of sources.slice(at + 1)) {
          // A unit more for each job: tags are whole.
          const most = [one, other].reduce((sum, { charges, weight }) => sum + Math.max(...charges) / weight + charges.length, 0)
          let least: number | null = null
          let largest = 0
          let ahead = 0
          serve(sources, (name, charge, waiting) => {
            if (!waiting.has(one.name) || !waiting.has(other.name)) return
            least ??= ahead
            if (name === one.name) ahead += charge / one.weight
            if (name === other.name) ahead -= charge / other.weight
            least = Math.min(least, ahead)
            largest = Math.max(largest, ahead)
          })
          if (largest - (least ?? 0) > most + 1) throw new Error(`${largest - (least ?? 0)} apart, at most ${most}`)
        }
      }
      return true
    }),
    { numRuns: 500 }
  )
  t.pass()
})

t.test('by weights of 1, 2 and 4 the work is shared 1 : 2 : 4, within 5 %', async t => {
  const shares = new Map<string, number>()
  const charges = Array.from({ length: 700 }, (_, nth) => 500_000 + ((nth * 7_919) % 1_000_000))
  const sources = [1, 2, 4].map(weight => ({ name: `x${weight}`, weight, charges, fromServed: 0 }))
  serve(sources, (name, charge, waiting) => {
    if (waiting.size === 3) shares.set(name, (shares.get(name) ?? 0) + charge)
  })
  const unit = shares.get('x1') ?? 0
  for (const weight of [2, 4]) {
    const share = (shares.get(`x${weight}`) ?? 0) / unit
    t.ok(Math.abs(share / weight - 1) < 0.05, `${weight}: ${share}`)
  }
})

t.test('a source that comes after hours neither catches up nor waits for what the others had', async t => {
  const order: string[] = []
  const many = { name: 'flood', weight: 1, charges: Array<number>(60).fill(1_000_000), fromServed: 0 }
  const late = { name: 'late', weight: 1, charges: Array<number>(10).fill(1_000_000), fromServed: 40 }
  serve([many, late], name => void order.push(name))
  const after = order.slice(40, 60)
  t.equal(after.indexOf('late') <= 1, true, 'its first comes next')
  t.equal(after.filter(name => name === 'late').length, 10)
  t.ok(after.slice(0, 10).filter(name => name === 'late').length <= 6, 'in turns with the flood, not all at once')
})
