// When the queue is called slow: measured against how busy the machine is.

import t from 'tap'
import { type Liveness, slowness } from './liveness.ts'

// As it is, on two cores that do nothing else.
const usual: Liveness = {
  answerP50Ms: 2,
  startP50Ms: 37,
  startP75Ms: 45,
  gapP50Ms: 15,
  gapP90Ms: 36,
  mostAtOnce: 4,
  efficiency: 0.8
}

const cases: readonly (readonly [string, Partial<Liveness>, readonly RegExp[]])[] = [
  ['a fleet that is told of everything is fast enough', {}, []],
  ['on a busy machine it may take longer', { answerP50Ms: 10, startP75Ms: 190, gapP50Ms: 100 }, []],
  ['jobs that wait for a look are slow', { startP75Ms: 263 }, [/^slow: a job on an idle fleet starts after 263 ms/]],
  ['places that wait for a look are slow', { gapP50Ms: 105 }, [/^slow: a freed place is taken after 105 ms/]],
  ['a place that is never taken is slow', { mostAtOnce: 3 }, [/^slow: a burst of 40 jobs ran 3 at once on 4 places/]]
]

for (const [name, change, expected] of cases) {
  t.test(name, async t => {
    const found = slowness({ ...usual, ...change })
    t.equal(found.length, expected.length)
    t.match(found, expected)
  })
}
