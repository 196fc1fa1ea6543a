import t from 'tap'
import { createRentedModel, type RentedEnd, type RentedModel } from '../../../routing/brain/rented.ts'
import { fc } from '../../support/properties.ts'
import { chanceOf, notFinite } from './stage.ts'

const answered: RentedEnd = { ttftS: 2, answerS: 10, promptTokens: 1_000, outputTokens: 500, isFailure: false }

function observe(model: RentedModel, count: number, changes: Partial<RentedEnd> = {}): void {
  for (let nth = 0; nth < count; nth++) model.observe('cloud/m', { ...answered, ...changes })
}

t.test('a target that was never tried is a usual one, and not infinitely fast', async t => {
  const { ttftS, tokenS, failures, samples } = createRentedModel().pace('cloud/m')
  t.ok(ttftS > 0.2 && ttftS < 5, String(ttftS))
  t.ok(tokenS > 1 / 300 && tokenS < 1 / 10, String(tokenS))
  t.ok(failures > 0 && failures < 0.1)
  t.equal(samples, 0)
})

t.test('the first answer says more than what was expected, and later ones are averaged', async t => {
  const model = createRentedModel()
  observe(model, 1)
  const first = model.pace('cloud/m')
  t.ok(Math.abs(first.ttftS - 1.95) < 1e-9, 'without the reading of the prompt')
  t.ok(Math.abs(first.tokenS - 0.02) < 1e-9)
  t.equal(first.samples, 1)
  observe(model, 1, { answerS: 1_000 })
  t.ok(model.pace('cloud/m').tokenS < 0.04, 'one that stalled changes little')
  t.equal(createRentedModel().pace('cloud/m').samples, 0)
  t.same(model.pace('cloud/other').samples, 0, 'each model for itself')
})

t.test('the newest answers count: one that becomes slower is followed within 30', async t => {
  const model = createRentedModel()
  observe(model, 500)
  observe(model, 30, { ttftS: 6.05, answerS: 30 })
  const { ttftS, tokenS } = model.pace('cloud/m')
  t.ok(ttftS > 5 && ttftS <= 6.01, String(ttftS))
  t.ok(tokenS > 0.05 && tokenS <= 0.0601, String(tokenS))
})

t.test('failures are a share of the calls, and say nothing of the speed', async t => {
  const model = createRentedModel()
  observe(model, 50)
  const before = model.pace('cloud/m')
  observe(model, 1, { isFailure: true, ttftS: 60, answerS: 60 })
  const after = model.pace('cloud/m')
  t.ok(after.failures > before.failures)
  t.same({ ...after, failures: 0 }, { ...before, failures: 0 })
  observe(model, 1_000, { isFailure: true })
  t.ok(model.pace('cloud/m').failures > 0.9 && model.pace('cloud/m').failures <= 1)
  observe(model, 1_000)
  t.ok(model.pace('cloud/m').failures < 0.1 && model.pace('cloud/m').failures >= 0)
})

t.test('what was not seen, or cannot be, is not learned', async t => {
  const model = createRentedModel()
  observe(model, 3)
  const { ttftS, tokenS } = model.pace('cloud/m')
  for (const changes of [
    { ttftS: null, answerS: null },
    { ttftS: null, answerS: 0 },
    { ttftS: null, answerS: -1 },
    { ttftS: null, answerS: Number.NaN },
    { ttftS: null, outputTokens: 0 },
    { ttftS: null, answerS: 30, outputTokens: 3 }
  ]) {
    observe(model, 5, changes)
    t.ok(Math.abs(model.pace('cloud/m').tokenS / tokenS - 1) < 1e-9 && Math.abs(model.pace('cloud/m').ttftS / ttftS - 1) < 1e-9)
  }
  observe(model, 1, { ttftS: 0.01, promptTokens: 100_000 })
  t.ok(model.pace('cloud/m').ttftS > 0, 'quicker than any prompt is read')
})

t.test('of an answer that comes in one piece, as much slower as the whole was', async t => {
  const model = createRentedModel()
  observe(model, 1, { ttftS: null, answerS: null, wholeS: 12.05 })
  const first = model.pace('cloud/m')
  t.ok(Math.abs(first.ttftS + 500 * first.tokenS - 12) < 1e-9, 'without the reading of the prompt')
  t.equal(first.samples, 1)
  observe(model, 40, { ttftS: null, answerS: null, wholeS: 24.05 })
  const later = model.pace('cloud/m')
  t.ok(Math.abs(later.ttftS + 500 * later.tokenS - 24) < 1, 'and followed')
  const vectors = createRentedModel()
  observe(vectors, 1, { ttftS: null, answerS: null, wholeS: 3.05, outputTokens: 0 })
  t.ok(Math.abs(vectors.pace('cloud/m').ttftS - 3) < 1e-9)
  t.equal(vectors.pace('cloud/m').tokenS, createRentedModel().pace('cloud/m').tokenS, 'nothing was written')
  for (const wholeS of [0, -1, Number.NaN, Number.POSITIVE_INFINITY]) observe(model, 1, { ttftS: null, answerS: null, wholeS })
  t.equal(notFinite(model.pace('cloud/m')), null)
})

t.test('whether a provider counts as kept what it was sent before is learned', async t => {
  const model = createRentedModel()
  t.equal(model.pace('cloud/m').cached, 1, 'its price for that says so')
  observe(model, 10, { cachedShare: 0 })
  t.ok(model.pace('cloud/m').cached < 0.05)
  observe(model, 1)
  t.ok(model.pace('cloud/m').cached < 0.05, 'where nothing was to be kept, nothing is learned')
  observe(model, 10, { cachedShare: 1 })
  t.ok(model.pace('cloud/m').cached > 0.95)
  const again = createRentedModel()
  again.restore(JSON.parse(JSON.stringify(model.snapshot())))
  t.same(again.pace('cloud/m'), model.pace('cloud/m'))
})

t.test('a provider without a known limit takes every call', async t => {
  const model = createRentedModel()
  for (let nth = 0; nth < 1_000; nth++) model.sent('cloud', 5)
  t.equal(model.waitS('cloud', 50, 5), 0)
  t.equal(model.waitS('other', 1e6, 5), 0)
})

t.test('a limit that is known is never broken, and used to the full', async t => {
  const model = createRentedModel()
  model.limit('cloud', { perS: 1, burst: 10 })
  t.equal(model.waitS('cloud', 0, 0), 0)
  t.equal(model.waitS('cloud', 9, 0), 0, 'ten at once')
  t.ok(Math.abs(model.waitS('cloud', 12, 0) - 3) < 1e-6, 'three more, one each second')
  let sent = 0
  for (let nowS = 0; nowS < 600; nowS += 0.1) {
    while (model.waitS('cloud', 0, nowS) <= 0) {
      model.sent('cloud', nowS)
      sent++
    }
    if (sent > 10 + nowS + 1e-6) return t.fail(`${sent} calls after ${nowS} s`)
  }
  t.ok(sent > 600, String(sent))
  t.equal(model.waitS('other', 0, 0), 0, 'another provider has its own')
})

t.test('calls beyond a limit are no debt: what is left of it is never below nothing', async t => {
  const model = createRentedModel()
  model.limit('cloud', { perS: 1, burst: 10 })
  for (let nth = 0; nth < 100; nth++) model.sent('cloud', 0)
  t.ok(Math.abs(model.waitS('cloud', 0, 0) - 1) < 1e-6, String(model.waitS('cloud', 0, 0)))
  model.waitS('cloud', 0, 1e6)
  t.equal(model.waitS('cloud', 9, 1e6), 0)
  t.ok(model.waitS('cloud', 10, 1e6) > 0, 'nor does it save up more than it takes at once')
})

/** A provider that takes `perS` calls a second and `burst` at once, and refuses what is beyond; asked as often as the model allows. */
function serve(
  model: RentedModel,
  { perS, burst, fromS, toS, demandPerS }: Record<'perS' | 'burst' | 'fromS' | 'toS' | 'demandPerS', number>
) {
  let tokens = burst
  let atS = fromS
  let waiting = 0
  let taken = 0
  let refused = 0
  for (let nowS = fromS; nowS < toS; nowS += 0.05) {
    tokens = Math.min(burst, tokens + (nowS - atS) * perS)
    atS = nowS
    waiting = Math.min(200, waiting + 0.05 * demandPerS)
    while (waiting >= 1 && model.waitS('cloud', 0, nowS) <= 0) {
      waiting--
      model.sent('cloud', nowS)
      if (tokens >= 1) {
        tokens--
        taken++
        model.taken('cloud')
      } else {
        refused++
        model.refused('cloud', nowS)
      }
    }
  }
  return { taken, refused }
}

t.test('a limit that nobody tells is learned: after a while nothing is refused, and most of it is used', async t => {
  for (const [perS, burst] of [
    [1, 10],
    [5, 50],
    [0.5, 1]
  ] as const) {
    const model = createRentedModel()
    const provider = { perS, burst, demandPerS: 4 * perS }
    const first = serve(model, { ...provider, fromS: 1_000, toS: 1_600 })
    t.ok(first.refused > 0 && first.refused < 40, `${perS}/s: ${first.refused} refused at first`)
    const later = serve(model, { ...provider, fromS: 1_600, toS: 4_000 })
    t.ok(later.refused <= 3, `${perS}/s: ${later.refused} refused later`)
    t.ok(later.taken > 0.5 * perS * 2_400, `${perS}/s: ${later.taken} taken of ${perS * 2_400}`)
  }
})

t.test('after a refusal nothing is sent at once, and something is soon', async t => {
  const model = createRentedModel()
  model.sent('cloud', 100)
  model.refused('cloud', 100)
  const waitS = model.waitS('cloud', 0, 100)
  t.ok(waitS > 0 && waitS <= 60, String(waitS))
  t.equal(model.waitS('cloud', 0, 100 + waitS + 1e-3), 0)
  t.equal(model.waitS('other', 0, 100), 0)
})

t.test('whatever happens in whatever order, no wait is below nothing or without an end', async t => {
  const step = fc.record({
    what: fc.constantFrom('sent', 'sent', 'sent', 'refused', 'taken', 'limit', 'told', 'observe'),
    afterS: fc.oneof(fc.constantFrom(0, 0, 1e5), fc.double({ min: 0, max: 100, noNaN: true })),
    figure: fc.double({ min: 0, max: 1_000, noNaN: true }),
    other: fc.double({ min: 0, max: 1_000, noNaN: true })
  })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), fc.nat(100), (steps, ahead) => {
      const model = createRentedModel()
      let nowS = 0
      for (const { what, afterS, figure, other } of steps) {
        nowS += afterS
        if (what === 'sent') model.sent('cloud', nowS)
        if (what === 'refused') model.refused('cloud', nowS, Math.max(0, nowS - figure))
        if (what === 'taken') model.taken('cloud')
        if (what === 'limit') model.limit('cloud', { perS: figure / 60, burst: other })
        if (what === 'told')
          model.told('cloud', { requests: Math.ceil(figure), remaining: Math.floor(other), resetS: other }, { nowS, sentS: nowS })
        if (what === 'observe') model.observe('cloud', { ...answered, ttftS: figure, answerS: other, isFailure: figure > 900 })
        const waits = [model.waitS('cloud', 0, nowS), model.waitS('cloud', ahead, nowS), model.waitS('cloud', ahead + 1, nowS)] as const
        const wrong = notFinite([...waits, model.pace('cloud'), model.snapshot()])
        if (wrong !== null) throw new Error(`${wrong} after ${what}`)
        if (waits[0] < 0 || waits[1] < waits[0] || waits[2] < waits[1]) throw new Error(`waits ${waits.join()} after ${what}`)
        const { ttftS, tokenS, failures } = model.pace('cloud')
        if (!(ttftS > 0 && tokenS > 0 && failures >= 0 && failures <= 1)) return false
      }
      return true
    }),
    { numRuns: 500 }
  )
  t.pass()
})

t.test('what is kept as JSON and read again says the same', async t => {
  const model = createRentedModel()
  const chance = chanceOf(3)
  for (let nth = 0; nth < 100; nth++) {
    model.observe(`cloud/${nth % 5}`, { ...answered, ttftS: 1 + chance(), answerS: 5 + 10 * chance(), isFailure: chance() < 0.1 })
  }
  serve(model, { perS: 1, burst: 10, fromS: 0, toS: 600, demandPerS: 5 })
  const again = createRentedModel()
  again.restore(JSON.parse(JSON.stringify(model.snapshot())))
  for (let nth = 0; nth < 5; nth++) t.same(again.pace(`cloud/${nth}`), model.pace(`cloud/${nth}`))
  // Minutes after: its limit is still known.
  let atOnce = 0
  while (again.waitS('cloud', 0, 900) <= 0 && atOnce < 1_000) {
    again.sent('cloud', 900)
    atOnce++
  }
  t.ok(atOnce <= 15, `${atOnce} at once`)
})

t.test('nonsense is not restored, and what is good beside it is', async t => {
  const good = { ttftS: 3, tokenS: 0.1, failures: 0.02, samples: 9 }
  const kept = (...paces: readonly unknown[]): unknown => ({ version: 1, paces, limits: [] })
  const usual = createRentedModel().pace('cloud/m')
  const nonsense: readonly unknown[] = [
    null,
    undefined,
    4,
    'x',
    {},
    { version: 2, paces: [['cloud/m', good]] },
    { version: 1 },
    { version: 1, paces: { 'cloud/m': good }, limits: 'no' },
    kept(null, 5, [], ['cloud/m'], ['cloud/m', null], [7, good]),
    kept(['cloud/m', { ...good, ttftS: 0 }]),
    kept(['cloud/m', { ...good, tokenS: -1 }]),
    kept(['cloud/m', { ...good, tokenS: '0.1' }]),
    kept(['cloud/m', { ...good, tokenS: null }]),
    kept(['cloud/m', { ...good, failures: -1 }]),
    kept(['cloud/m', { ...good, samples: null }]),
    {
      version: 1,
      paces: [],
      limits: [null, ['cloud'], ['cloud', null], ['cloud', { perS: 0, burst: 1 }], ['cloud', { perS: -1, burst: 9 }]]
    },
    {
      version: 1,
      paces: [],
      limits: [
        ['cloud', { perS: 1e-3, burst: 0 }],
        ['cloud', { perS: '1', burst: 9 }],
        [5, { perS: 1, burst: 1 }]
      ]
    }
  ]
  for (const [at, each] of nonsense.entries()) {
    const model = createRentedModel()
    model.restore(each)
    t.same(model.pace('cloud/m'), usual, `nonsense ${at}`)
    t.equal(model.waitS('cloud', 100, 1), 0, `nonsense ${at}: no limit`)
  }
  const model = createRentedModel()
  model.restore(kept(null, ['cloud/m', good]))
  t.match(model.pace('cloud/m'), good)
})
