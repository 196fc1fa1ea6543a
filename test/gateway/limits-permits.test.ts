// Requests at once: places that are taken, freed, and passed on to other processes.

import t from 'tap'
import type { Limits } from '../../gateway/limits.ts'
import { admitted, atOnce, cluster, countAdmitted, one, pass, refused } from './limits-support.ts'

t.test('a place is free again when its request has settled, once', async t => {
  const { limits, state } = one()
  const running = [await admitted(limits, atOnce(2)), await admitted(limits, atOnce(2))] as const
  await refused(limits, atOnce(2))
  running[0].settle(5)
  running[0].settle(5)
  const before = state.asked
  await admitted(limits, atOnce(2))
  t.equal(state.asked, before, 'the permit was still here')
  await refused(limits, atOnce(2))
})

t.test('a source at its limit of running requests does not ask for each refusal', async t => {
  const { limits, state } = one()
  await admitted(limits, atOnce(1))
  await Promise.all(Array.from({ length: 500 }, () => refused(limits, atOnce(1))))
  t.equal(state.asked, 2)
  await pass(99)
  await refused(limits, atOnce(1))
  t.equal(state.asked, 2)
  await pass(1)
  await refused(limits, atOnce(1))
  t.equal(state.asked, 3)
})

t.test('spare permits are with the others within a second', async t => {
  const state = cluster(2)
  const [one, two] = state.processes as [Limits, Limits]
  const running = await Promise.all([1, 2, 3].map(() => admitted(one, atOnce(3))))
  await refused(two, atOnce(3))
  for (const admission of running.slice(1)) admission.settle(1)
  await refused(two, atOnce(3))
  await pass(1_000)
  t.equal(await countAdmitted(two, atOnce(3), 5), 2)
  t.same(
    [...(state.permits.get('me') ?? [])],
    [
      [0, 1],
      [1, 2]
    ]
  )
})
