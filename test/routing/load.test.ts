import t from 'tap'
import { createLoad } from '../../routing/load.ts'

function loadAt(startMs = 1_000) {
  let nowMs = startMs
  const load = createLoad(() => nowMs)
  return {
    load,
    pass(ms: number) {
      nowMs += ms
    }
  }
}

t.test('calls in flight are counted for each upstream by itself', async t => {
  const { load } = loadAt()
  t.equal(load.inFlight('a'), 0)
  load.begin('a')
  load.begin('a')
  load.begin('b')
  t.same([load.inFlight('a'), load.inFlight('b')], [2, 1])
  load.finish('a', 10)
  t.same([load.inFlight('a'), load.inFlight('b')], [1, 1])
  load.finish('a', 10)
  load.finish('a', 10)
  t.equal(load.inFlight('a'), 0, 'never below none')
})

t.test('the average begins with the first answer and follows the later ones slowly', async t => {
  const { load } = loadAt()
  t.equal(load.averageMs('a'), 0)
  load.finish('a', 1_000)
  t.equal(load.averageMs('a'), 1_000)
  load.finish('a', 2_000)
  t.equal(load.averageMs('a'), 1_200)
  t.equal(load.averageMs('b'), 0)
})

t.test('a rest ends when it was asked to end, and a shorter one does not shorten it', async t => {
  const { load, pass } = loadAt()
  t.equal(load.cooling('a/m'), 0)
  load.coolDown('a/m', 5_000)
  load.coolDown('a/m', 1_000)
  t.equal(load.cooling('a/m'), 5_000)
  t.equal(load.cooling('a/n'), 0, 'another model of the same upstream works on')
  pass(4_999)
  t.equal(load.cooling('a/m'), 1)
  pass(1)
  t.equal(load.cooling('a/m'), 0)
  pass(1e9)
  t.equal(load.cooling('a/m'), 0)
  load.coolDown('a/m', 10)
  t.equal(load.cooling('a/m'), 10)
})

t.test('a refused key is remembered for a minute', async t => {
  const { load, pass } = loadAt()
  load.deny('a')
  t.equal(load.isDenied('a'), true)
  t.equal(load.isDenied('b'), false)
  pass(59_999)
  t.equal(load.isDenied('a'), true)
  pass(1)
  t.equal(load.isDenied('a'), false)
})

t.test('a missing model is remembered for 30 s, or until the list is read again', async t => {
  const { load, pass } = loadAt()
  load.miss('a/m')
  load.miss('ab/m')
  t.equal(load.isMissing('a/m'), true)
  t.equal(load.isMissing('a/n'), false)
  load.forgetMissing('a')
  t.equal(load.isMissing('a/m'), false)
  t.equal(load.isMissing('ab/m'), true, 'an upstream whose name begins alike')
  pass(29_999)
  t.equal(load.isMissing('ab/m'), true)
  pass(1)
  t.equal(load.isMissing('ab/m'), false)
})

t.test('names that clients make up do not fill the memory', async t => {
  const { load } = loadAt()
  const name = (index: number) => `a/${'x'.repeat(200)}${index}`
  for (let index = 0; index < 20_000; index++) {
    load.miss(name(index))
    load.coolDown(name(index), 1e9)
  }
  const kept = Array.from({ length: 20_000 }, (_, index) => index).filter(
    index => load.isMissing(name(index)) || load.cooling(name(index)) > 0
  )
  t.ok(kept.length <= 10_000, `${kept.length} are kept`)
  t.equal(kept.at(-1), 19_999, 'the last ones are')
})

t.test('how many ran at once is an average over time', async t => {
  const { load, pass } = loadAt()
  t.equal(load.averageInFlight('a', 0, 1_000), 0)
  load.begin('a')
  pass(100)
  load.begin('a')
  pass(100)
  load.finish('a', 200)
  pass(200)
  t.equal(load.averageInFlight('a', 1_000, 1_100), 1)
  t.equal(load.averageInFlight('a', 1_100, 1_200), 2)
  t.equal(load.averageInFlight('a', 1_050, 1_150), 1.5)
  t.equal(load.averageInFlight('a', 1_000, 1_400), 1.25)
  t.equal(load.averageInFlight('a', 0, 1_400), 1.25, 'of the time before nothing is known')
  t.equal(load.averageInFlight('a', 1_400, 1_400), 1, 'a moment')
  for (let count = 0; count < 2_000; count++) {
    load.begin('a')
    pass(1)
    load.finish('a', 1)
    pass(1)
  }
  t.equal(load.averageInFlight('a', 5_000, 5_400), 1.5)
  t.ok(Math.abs(load.averageInFlight('a', 1_000, 5_400) - 1.5) < 0.01, 'what is forgotten is left out')
})
