import t from 'tap'
import { createRetryBudget } from '../../routing/retries.ts'
import { fc } from '../support/properties.ts'

function budgetAt(startMs = 0) {
  let nowMs = startMs
  const budget = createRetryBudget(() => nowMs)
  return {
    ...budget,
    pass(ms: number) {
      nowMs += ms
    },
    call(times: number) {
      for (let index = 0; index < times; index++) budget.count()
    },
    taken(tries: number): number {
      let taken = 0
      for (let index = 0; index < tries; index++) if (budget.take()) taken++
      return taken
    }
  }
}

t.test('with little traffic three second tries are allowed', async t => {
  t.equal(budgetAt().taken(100), 3, 'before any call')
  const budget = budgetAt()
  budget.call(1)
  t.equal(budget.taken(100), 3)
  budget.call(14)
  t.equal(budget.taken(100), 0, 'a fifth of 15 is 3')
})

t.test('with much traffic a fifth of the calls is', async t => {
  const cases: readonly [calls: number, retries: number][] = [
    [16, 3],
    [19, 3],
    [20, 4],
    [100, 20],
    [1_000, 200]
  ]
  for (const [calls, retries] of cases) {
    const budget = budgetAt()
    budget.call(calls)
    t.equal(budget.taken(10_000), retries, `${calls} calls`)
  }
})

t.test('the window before counts too, and is forgotten after it', async t => {
  const budget = budgetAt(123_456)
  budget.call(100)
  t.equal(budget.taken(100), 20)
  budget.pass(10_000)
  t.equal(budget.taken(100), 0, 'what was taken 10 s ago still counts')
  budget.call(50)
  t.equal(budget.taken(100), 10, 'a fifth of 150 in all')
  budget.pass(10_000)
  t.equal(budget.taken(100), 0, 'a fifth of the last 50')
  budget.pass(20_000)
  t.equal(budget.taken(100), 3, 'after a pause there is the floor')
})

t.test('calls of long ago give no right to retries now', async t => {
  const budget = budgetAt()
  budget.call(1_000)
  budget.pass(20_000)
  t.equal(budget.taken(1_000), 3)
})

t.test('over any run of time, retries stay within a fifth of the calls and three for each window', async t => {
  const step = fc.oneof(fc.constant('call' as const), fc.constant('retry' as const), fc.integer({ min: 1, max: 30_000 }))
  fc.assert(
    fc.property(fc.array(step, { maxLength: 300 }), steps => {
      const budget = budgetAt()
      const calls: number[] = []
      const retries: number[] = []
      let nowMs = 0
      const since = (times: readonly number[], ms: number) => times.filter(at => at > nowMs - ms).length
      for (const step of steps) {
        if (step === 'call') {
          budget.count()
          calls.push(nowMs)
        } else if (step === 'retry') {
          if (!budget.take()) continue
          retries.push(nowMs)
          // No window is longer than the pause that ends it: what counts is at most 40 s old, and what is 10 s old always does.
          if (since(retries, 10_000) > Math.max(3, 0.2 * since(calls, 40_000))) return false
        } else {
          nowMs += step
          budget.pass(step)
        }
      }
      return retries.length <= 0.2 * calls.length + 3 * (1 + nowMs / 10_000)
    }),
    { numRuns: 3_000 }
  )
  t.pass()
})

t.test('a retry is never refused while a fifth is not used up', async t => {
  fc.assert(
    fc.property(fc.nat(500), fc.nat(200), (calls, tries) => {
      const budget = budgetAt()
      budget.call(calls)
      return budget.taken(tries) === Math.min(tries, Math.max(3, Math.floor(calls / 5)))
    })
  )
  t.pass()
})
