// What a machine's answers, silence and tokens say of it, under a virtual clock.

import t from 'tap'
import { marksOf } from '../../planner/health/marks.ts'
import { probersOf } from '../../planner/health/probers.ts'
import { createPulse, type Pulse } from '../../planner/health/pulse.ts'
import { fc } from '../support/properties.ts'

/** Asks as the prober would for `ms`, and returns when the verdict first was `down`, or null. The machine answers after `delayMs(at)`, null = never. */
function live(
  pulse: Pulse,
  fromMs: number,
  ms: number,
  delayMs: (atMs: number) => number | null,
  { tokensEveryMs = 0 } = {}
): number | null {
  const answers: { readonly at: number; readonly question: number }[] = []
  let nextQuestion = fromMs
  for (let now = fromMs; now <= fromMs + ms; now += 10) {
    for (const answer of answers.filter(({ at }) => at === now)) pulse.answered(answer.question, now)
    if (tokensEveryMs > 0 && now % tokensEveryMs === 0) pulse.alive(now)
    if (now >= nextQuestion) {
      const question = pulse.asked(now)
      const delay = delayMs(now)
      if (delay !== null) answers.push({ at: now + delay, question })
      nextQuestion = now + pulse.pauseMs(true, now)
    }
    if (pulse.verdict(now).state === 'down') return now
  }
  return null
}

/** A machine that has been answering in 10 ms for ten seconds. */
function healthy(): Pulse {
  const pulse = createPulse()
  live(pulse, 0, 10_000, () => 10)
  return pulse
}

t.test('a machine that falls silent is down between 3 and 4 s later', async t => {
  for (const after of [0, 100, 250, 490]) {
    const pulse = healthy()
    live(pulse, 10_010, after, () => 10)
    const downAt = live(pulse, 10_020 + after, 10_000, () => null)
    const tookMs = (downAt ?? Number.NaN) - 10_020 - after
    t.ok(tookMs >= 2_900 && tookMs <= 4_000, `${tookMs} ms`)
    t.same(pulse.verdict(30_000), { state: 'down', why: 'silent' })
  }
})

t.test('one that refuses is down at once, and up with its first answer', async t => {
  const pulse = healthy()
  pulse.refused(10_020)
  t.same(pulse.verdict(10_020), { state: 'down', why: 'refused' })
  t.equal(pulse.pauseMs(false, 10_020), 500, 'it is asked often')
  pulse.answered(pulse.asked(10_600), 10_610)
  t.same(pulse.verdict(10_610), { state: 'up', why: null })
})

t.test('one that answers after 2 s, as during a long prompt, is never down', async t => {
  t.equal(
    live(healthy(), 10_010, 60_000, () => 2_000),
    null
  )
  const fresh = createPulse()
  t.equal(
    live(fresh, 0, 60_000, () => 2_000),
    null
  )
})

t.test('tokens outrank questions without an answer', async t => {
  t.equal(
    live(healthy(), 10_010, 60_000, () => null, { tokensEveryMs: 1_000 }),
    null
  )
})

t.test('one lost answer is no reason for anything', async t => {
  const pulse = healthy()
  t.equal(
    live(pulse, 10_010, 20_000, at => (at < 10_100 ? null : 10)),
    null
  )
})

t.test('one that comes and goes has to answer more and more often to be trusted', async t => {
  const pulse = healthy()
  const needed: number[] = []
  let now = 10_010
  for (let round = 0; round < 7; round++) {
    pulse.refused((now += 100))
    let answers = 0
    while (pulse.verdict(now).state === 'down') {
      pulse.answered(pulse.asked(now), (now += 10))
      answers++
    }
    needed.push(answers)
  }
  t.same(needed, [1, 1, 2, 4, 8, 8, 8])
  now += 120_000
  pulse.refused(now)
  pulse.answered(pulse.asked(now), now + 10)
  t.equal(pulse.verdict(now + 10).state, 'up', 'after a quiet minute that is forgotten')
})

t.test('what others found is believed until the machine says otherwise itself', async t => {
  const pulse = healthy()
  pulse.believe('down', 10_020)
  t.equal(pulse.verdict(10_020).state, 'down')
  pulse.believe('up', 10_030)
  t.equal(pulse.verdict(10_030).state, 'up')
})

t.test('one in whose place something else answers is down: at once when it was never itself, else with the second answer', async t => {
  const fresh = createPulse()
  fresh.wrong(10)
  t.same(fresh.verdict(10), { state: 'down', why: 'other' })
  const pulse = healthy()
  pulse.wrong(10_020)
  t.equal(pulse.verdict(10_020).state, 'up')
  t.equal(pulse.pauseMs(false, 10_020), 500, 'it is asked again soon')
  pulse.alive(10_030)
  pulse.wrong(10_520)
  t.equal(pulse.verdict(10_520).state, 'up', 'it sent a token in between')
  pulse.wrong(11_020)
  t.same(pulse.verdict(11_020), { state: 'down', why: 'other' })
  pulse.answered(pulse.asked(11_500), 11_510)
  t.same(pulse.verdict(11_510), { state: 'up', why: null })
})

t.test('an idle machine is asked every 5 s, a busy one and one in doubt every half second', async t => {
  const pulse = healthy()
  pulse.alive(10_015)
  t.equal(pulse.pauseMs(false, 10_020), 5_000)
  t.equal(pulse.pauseMs(true, 10_020), 500)
  pulse.asked(11_000)
  t.equal(pulse.pauseMs(false, 11_100), 5_000)
  t.equal(pulse.pauseMs(false, 11_500), 500)
})

t.test('whatever happens, a machine that answers is up, and memory does not grow', async () => {
  const event = fc.constantFrom('ask', 'refuse', 'alive', 'late')
  fc.assert(
    fc.property(fc.array(event, { maxLength: 300 }), events => {
      const pulse = createPulse()
      let now = 0
      const open: number[] = []
      for (const name of events) {
        now += 137
        if (name === 'ask') open.push(pulse.asked(now))
        if (name === 'refuse') pulse.refused(now)
        if (name === 'alive') pulse.alive(now)
        if (name === 'late') pulse.answered(open.shift() ?? 0, now)
        pulse.verdict(now)
      }
      for (let answers = 0; answers < 8; answers++) pulse.answered(pulse.asked(now), (now += 5))
      return pulse.verdict(now).state === 'up'
    })
  )
})

t.test('two processes ask a machine, the same two for everybody, and few machines change hands when one dies', async t => {
  const living = Array.from({ length: 8 }, (_, number) => ({ id: `process-${number}`, host: number < 4 ? 'a' : 'b' }))
  const devices = Array.from({ length: 200 }, (_, number) => `box-${number}`)
  const counts = new Map<string, number>()
  let moved = 0
  for (const device of devices) {
    const probers = probersOf(device, null, living)
    t.equal(probers.length, 2)
    t.same(probers, probersOf(device, null, living.toReversed()))
    for (const id of probers) counts.set(id, (counts.get(id) ?? 0) + 1)
    const left = probersOf(device, null, living.slice(1))
    moved += probers.filter(id => !left.includes(id)).length
    t.ok(probers.includes('process-0') || left.every(id => probers.includes(id)), 'a death elsewhere changes nothing')
  }
  t.equal(moved, counts.get('process-0'))
  for (const count of counts.values()) t.ok(count > 20 && count < 90, `${count} of 200`)
  t.same(
    probersOf('local', 'b', living).map(id => Number(id.at(-1)) >= 4),
    [true, true],
    'only those that can reach it'
  )
  t.same(probersOf('local', 'c', living), [])
})

t.test('an Ollama before 0.17.1 is marked', async t => {
  for (const version of ['0.17.0', '0.9.99', '0.0.1', 'v0.16.3-rc1', '0.17.1-rc0', 'v0.17.1-rc2-3-g1a2b3c'])
    t.same(marksOf('ollama', version), ['old_ollama'], version)
  for (const version of [
    '0.17.1',
    'v0.17.1',
    '0.17.1-5-g1a2b3c',
    '0.17.1+cuda',
    '0.17.2-rc0',
    '0.18.0',
    '1.0.0',
    '0.100.0',
    'nightly',
    '',
    '0.17'
  ])
    t.same(marksOf('ollama', version), [], version)
  t.same(marksOf('openai', '0.1.0'), [])
})
