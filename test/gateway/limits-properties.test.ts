// Whatever the order and the spread of requests: no minute admits more than its limit, and none much less.

import { mock } from 'node:test'
import t from 'tap'
import type { Admission, Limits } from '../../gateway/limits.ts'
import { GatewayError } from '../../routing/errors.ts'
import { fc } from '../support/properties.ts'
import { atOnce, attempt, cluster, countAdmitted, perMinute, settled, tokensOf } from './limits-support.ts'

const steps = fc.array(
  fc.oneof(
    {
      weight: 12,
      arbitrary: fc.record({ act: fc.constant('admit' as const), process: fc.nat(3), tokens: fc.integer({ min: 0, max: 60 }) })
    },
    {
      weight: 4,
      arbitrary: fc.record({
        act: fc.constant('settle' as const),
        which: fc.nat(),
        used: fc.option(fc.double({ min: 0, max: 1, noNaN: true }))
      })
    },
    { weight: 8, arbitrary: fc.record({ act: fc.constant('answer' as const), which: fc.nat() }) },
    { weight: 2, arbitrary: fc.record({ act: fc.constant('pass' as const), ms: fc.integer({ min: 1, max: 15_000 }) }) }
  ),
  { minLength: 50, maxLength: 250 }
)

t.test('whatever the order of requests, ends and answers, no minute admits more than its limit', async t => {
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom('requests' as const, 'tokens' as const, 'at once' as const),
      fc.record({ count: fc.integer({ min: 1, max: 4 }), limit: fc.integer({ min: 1, max: 400 }), isLate: fc.boolean() }),
      steps,
      async (kind, { count, limit, isLate }, steps) => {
        const state = cluster(count)
        state.isLate = isLate && kind !== 'at once'
        state.isSlow = true
        const key = kind === 'requests' ? perMinute(limit) : kind === 'tokens' ? tokensOf(limit) : atOnce(Math.ceil(limit / 50))
        const window = (): number => state.windows.get(`${kind} ${limit} me`)?.started ?? -1
        /** Per minute of the cluster: requests let in, or tokens of theirs that are used or may be yet. */
        const sums = new Map<number, number>()
        const add = (at: number, points: number): unknown => sums.set(at, (sums.get(at) ?? 0) + points)
        const running: { readonly admission: Admission; readonly at: number; readonly estimate: number }[] = []
        const admit = async (process: number, estimate: number): Promise<void> => {
          const admission = await attempt(state.processes[process % count] as Limits, key, estimate)
          if (admission instanceof GatewayError) return
          add(window(), kind === 'requests' ? 1 : kind === 'tokens' ? estimate : 0)
          running.push({ admission, at: window(), estimate })
        }
        for (const step of steps) {
          if (step.act === 'admit') void admit(step.process, Math.min(step.tokens, limit))
          if (step.act === 'answer') state.answer(step.which)
          if (step.act === 'pass') mock.timers.tick(step.ms)
          const ended = step.act === 'settle' ? running.splice(step.which % Math.max(1, running.length), 1)[0] : undefined
          if (step.act === 'settle' && ended !== undefined) {
            const used = step.used === null ? null : Math.ceil(ended.estimate * step.used)
            ended.admission.settle(used)
            // Of a minute that is over, what was taken stays taken.
            if (kind === 'tokens' && ended.at === window() && Date.now() < ended.at + 60_000) add(ended.at, (used ?? 0) - ended.estimate)
          }
          await settled()
          const most = Math.max(0, ...sums.values())
          if (most > limit) throw new Error(`${most} ${kind} of ${limit}`)
          if (kind === 'at once' && running.length > Math.ceil(limit / 50)) throw new Error(`${running.length} at once`)
        }
      }
    ),
    { numRuns: 100 }
  )
  t.pass()
})

t.test('three times the load fills the limit, however it is spread over the processes', async t => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 20, max: 2_000 }),
      fc.array(fc.nat(9), { minLength: 1, maxLength: 6 }).filter(shares => shares.some(share => share > 0)),
      async (limit, shares) => {
        const state = cluster(shares.length)
        const round = shares.reduce((sum, share) => sum + share, 0)
        let sum = 0
        for (let offered = 0; offered < 3 * limit; offered += round) {
          const counts = await Promise.all(state.processes.map((limits, at) => countAdmitted(limits, perMinute(limit), shares[at] ?? 0)))
          for (const count of counts) sum += count
        }
        if (sum > limit || sum < limit * 0.95) throw new Error(`${sum} of ${limit}`)
      }
    ),
    { numRuns: 50 }
  )
  t.pass()
})
