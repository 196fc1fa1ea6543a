import t from 'tap'
import { createLengthModel, knownLength, type LengthModel, type Lengths } from '../../../routing/brain/lengths.ts'
import { fc } from '../../support/properties.ts'
import { chanceOf, notFinite } from './stage.ts'

const shares = [0.1, 0.25, 0.5, 0.75, 0.9]

/** Shares that fill 0 to 1 evenly, in no order. */
function* evenly(count: number): Generator<number> {
  for (let nth = 1; nth <= count; nth++) yield (nth * 0.618_033_988_75) % 1
}

function learn(model: LengthModel, answers: Iterable<number>, { source = 's', name = 'm', isCut = false } = {}): LengthModel {
  for (const tokens of answers) model.observe(source, name, { tokens, isCut })
  return model
}

const times = (count: number, tokens: number): number[] => Array<number>(count).fill(tokens)

const figures = (lengths: Lengths): number[] => [
  lengths.mean,
  ...shares.map(share => lengths.quantile(share)),
  lengths.beyond(100),
  lengths.moreAfter(100)
]

t.test('before anything was seen answers are as long as in public traces, for everyone', async t => {
  const model = createLengthModel()
  const lengths = model.of('s', 'm', null)
  t.ok(Math.abs(lengths.quantile(0.5) / 129 - 1) < 0.05, String(lengths.quantile(0.5)))
  t.ok(Math.abs(lengths.quantile(0.9) / 430 - 1) < 0.1, String(lengths.quantile(0.9)))
  t.ok(lengths.mean > 150 && lengths.mean < 270, String(lengths.mean))
  t.same(figures(model.of('other', 'x', null)), figures(lengths))
})

t.test('what is drawn from a distribution is learned: quantiles within 5 %', async t => {
  const drawn: readonly (readonly [string, (share: number) => number])[] = [
    ['log-logistic', share => 300 * (share / (1 - share)) ** 0.45],
    ['even', share => 50 + 1_450 * share],
    ['long', share => 2_000 * (share / (1 - share)) ** 0.3]
  ]
  for (const [name, quantile] of drawn) {
    const lengths = learn(createLengthModel(), [...evenly(2_000)].map(quantile)).of('s', 'm', null)
    for (const share of shares) {
      const off = lengths.quantile(share) / quantile(share) - 1
      t.ok(Math.abs(off) < 0.05, `${name}, ${share}: ${lengths.quantile(share)} for ${quantile(share)}`)
      t.ok(Math.abs(lengths.beyond(quantile(share)) - (1 - share)) < 0.03, `${name}: beyond at ${share}`)
    }
    const mean = [...evenly(2_000)].map(quantile).reduce((sum, tokens) => sum + tokens, 0) / 2_000
    t.ok(Math.abs(lengths.mean / mean - 1) < 0.05, `${name}: mean ${lengths.mean} of ${mean}`)
  }
})

t.test('a source with a model is known best, then the source, then everyone', async t => {
  const model = createLengthModel()
  learn(model, times(300, 2_000), { source: 'writer', name: 'big' })
  learn(model, times(300, 20), { source: 'writer', name: 'small' })
  learn(model, times(300, 400), { source: 'asker', name: 'big' })
  const median = (source: string, name: string): number => model.of(source, name, null).quantile(0.5)
  t.ok(Math.abs(median('writer', 'big') / 2_000 - 1) < 0.2, String(median('writer', 'big')))
  t.ok(Math.abs(median('writer', 'small') / 20 - 1) < 0.2, String(median('writer', 'small')))
  t.ok(Math.abs(median('asker', 'big') / 400 - 1) < 0.2, String(median('asker', 'big')))
  const ofSource = model.of('writer', 'new', null)
  t.ok(ofSource.beyond(1_000) > 0.3 && ofSource.beyond(1_000) < 0.6, 'a new model of a known source is like its others')
  t.ok(ofSource.beyond(100) - ofSource.beyond(1_000) < 0.1, 'and not like those of others')
  const ofAll = model.of('nobody', 'big', null)
  t.ok(ofAll.beyond(100) - ofAll.beyond(1_000) > 0.25, 'a new source is like everyone')
  t.same(figures(model.of('nobody', 'big', null)), figures(model.of('nobody', 'small', null)), 'whatever the model')
})

t.test('one answer says little, a hundred say nearly everything', async t => {
  const model = createLengthModel()
  const before = model.of('s', 'm', null).beyond(1_000)
  learn(model, [3_000])
  const one = model.of('s', 'm', null).beyond(1_000)
  t.ok(one > before && one < 0.4, String(one))
  learn(model, times(100, 3_000))
  t.ok(model.of('s', 'm', null).beyond(1_000) > 0.9)
})

t.test('the newest answers count, not the oldest', async t => {
  const model = learn(createLengthModel(), times(3_000, 50))
  t.ok(model.of('s', 'm', null).quantile(0.9) < 70)
  learn(model, times(600, 1_500))
  t.ok(model.of('s', 'm', null).quantile(0.5) > 1_000, String(model.of('s', 'm', null).quantile(0.5)))
  learn(model, times(3_000, 50))
  t.ok(model.of('s', 'm', null).quantile(0.9) < 70, 'and back')
})

t.test('an answer that was cut counts as longer than it was', async t => {
  const whole = learn(createLengthModel(), times(200, 300)).of('s', 'm', null)
  const cut = learn(createLengthModel(), times(200, 300), { isCut: true }).of('s', 'm', null)
  t.ok(whole.beyond(400) < 0.1, String(whole.beyond(400)))
  t.ok(cut.beyond(400) > 0.3, String(cut.beyond(400)))
  t.ok(cut.mean > whole.mean * 1.2)
  const unseen = createLengthModel().of('s', 'm', null)
  for (const tokens of [1, 50, 129, 300, 1_000, 70_000]) {
    const lengths = learn(createLengthModel(), times(50, tokens), { isCut: true }).of('s', 'm', null)
    for (const beyond of [10, 100, 1_000])
      t.ok(lengths.beyond(beyond) >= unseen.beyond(beyond) - 1e-9, `cut at ${tokens}, beyond ${beyond}`)
  }
})

t.test('nothing is longer than the bound of its request', async t => {
  const model = learn(createLengthModel(), times(50, 5_000))
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 100_000 }),
      fc.double({ min: 0, max: 1, noNaN: true }),
      fc.nat(100_000),
      (most, share, tokens) => {
        const lengths = model.of('s', 'm', most)
        const bound = Math.max(1, most)
        const isWithin = lengths.quantile(share) <= bound && lengths.mean <= bound * 1.000_001
        const ends = lengths.beyond(bound) === 0 && lengths.moreAfter(bound) === 1
        return isWithin && ends && lengths.moreAfter(tokens) <= Math.max(1, bound - tokens) * 1.000_001
      }
    )
  )
  t.equal(model.of('s', 'm', 300).quantile(0.9), 300, 'those that would be longer end there')
  t.ok(Math.abs(model.of('s', 'm', 300).mean / 300 - 1) < 0.05)
})

t.test('a bound that no answer comes near changes nothing', async t => {
  for (const model of [createLengthModel(), learn(createLengthModel(), times(50, 200))]) {
    const free = figures(model.of('s', 'm', null))
    for (const most of [65_536, 200_000, 2 ** 31 - 1, 1e15]) {
      for (const [at, figure] of figures(model.of('s', 'm', most)).entries()) {
        t.ok(Math.abs(figure / (free[at] as number) - 1) < 0.01, `${most}: ${figure} for ${free[at]}`)
      }
    }
  }
})

const answers = fc.array(
  fc.record({
    source: fc.constantFrom('a', 'b'),
    model: fc.constantFrom('x', 'y'),
    tokens: fc.oneof(fc.nat(3_000), fc.constantFrom(0, 1, 65_535, 65_536, 1e6, 1e15)),
    isCut: fc.boolean()
  }),
  { maxLength: 40 }
)
const bound = fc.oneof(fc.constant(null), fc.integer({ min: 0, max: 5_000 }), fc.constantFrom(65_536, 1e6))
const share = fc.double({ min: 0, max: 1, noNaN: true })
const tokens = fc.oneof(fc.double({ min: 0, max: 3_000, noNaN: true }), fc.constantFrom(0, 1, 65_536, 1e9))

function learned(given: typeof answers extends fc.Arbitrary<infer T> ? T : never): LengthModel {
  const model = createLengthModel()
  for (const { source, model: name, tokens, isCut } of given) model.observe(source, name, { tokens, isCut })
  return model
}

t.test('whatever was learned, every figure is a number, and longer is never more likely', async t => {
  fc.assert(
    fc.property(answers, bound, share, share, tokens, tokens, (given, most, oneShare, otherShare, one, other) => {
      const lengths = learned(given).of('a', 'x', most)
      const [low, high] = [Math.min(one, other), Math.max(one, other)]
      const [less, more] = [Math.min(oneShare, otherShare), Math.max(oneShare, otherShare)]
      const told = [lengths.mean, lengths.quantile(less), lengths.quantile(more), lengths.beyond(low), lengths.beyond(high)]
      const wrong = notFinite([...told, lengths.moreAfter(low), lengths.moreAfter(high)])
      if (wrong !== null) throw new Error(wrong)
      return (
        lengths.mean >= 1 - 1e-9 &&
        lengths.quantile(less) >= 1 &&
        lengths.quantile(more) >= lengths.quantile(less) &&
        lengths.beyond(high) <= lengths.beyond(low) + 1e-12 &&
        lengths.beyond(high) >= 0 &&
        lengths.beyond(low) <= 1 &&
        lengths.moreAfter(low) >= 1
      )
    }),
    { numRuns: 1_000 }
  )
  t.pass()
})

t.test('the share beyond a quantile is the rest', async t => {
  const lengths = learn(
    createLengthModel(),
    [...evenly(1_000)].map(part => 20 * 100 ** part)
  ).of('s', 'm', null)
  for (let percent = 2; percent < 100; percent += 2) {
    t.ok(Math.abs(lengths.beyond(lengths.quantile(percent / 100)) - (1 - percent / 100)) < 1e-6, String(percent))
  }
})

t.test('the more has come, the longer the whole will be, and the less is left of answers that are all alike', async t => {
  const chance = chanceOf(5)
  const wide = learn(
    createLengthModel(),
    [...evenly(1_500)].map(part => 10 * 500 ** part)
  ).of('s', 'm', null)
  const alike = learn(
    createLengthModel(),
    Array.from({ length: 1_500 }, () => 900 + 200 * chance())
  ).of('s', 'm', null)
  for (const lengths of [wide, alike]) {
    let before = lengths.mean
    for (let come = 2; come < 4_000; come *= 1.1) {
      const whole = come + lengths.moreAfter(come)
      t.ok(whole >= before * 0.98, `${come}: ${whole} after ${before}`)
      before = whole
    }
  }
  t.ok(wide.moreAfter(400) > wide.moreAfter(20), 'one that went on for long goes on for longer')
  t.ok(alike.moreAfter(800) < alike.moreAfter(100) / 2, `${alike.moreAfter(800)} after ${alike.moreAfter(100)}`)
})

t.test('what is kept as JSON and read again says the same', async t => {
  const model = createLengthModel()
  const chance = chanceOf(9)
  for (let nth = 0; nth < 500; nth++)
    model.observe(`source ${nth % 7}`, `model ${nth % 3}`, { tokens: Math.floor(1 + 2_000 * chance() ** 2), isCut: nth % 11 === 0 })
  const again = createLengthModel()
  again.restore(JSON.parse(JSON.stringify(model.snapshot())))
  for (const [source, name] of [
    ['source 1', 'model 1'],
    ['source 2', 'new'],
    ['new', 'new']
  ] as const) {
    const told = figures(again.of(source, name, 1_000))
    for (const [at, figure] of figures(model.of(source, name, 1_000)).entries()) {
      t.ok(Math.abs((told[at] as number) / figure - 1) < 0.01, `${source}, ${name}: ${told[at]} for ${figure}`)
    }
  }
  t.same(
    again
      .snapshot()
      .pairs.map(([name]) => name)
      .sort(),
    model
      .snapshot()
      .pairs.map(([name]) => name)
      .sort()
  )
})

t.test('of many sources those used last are kept, and stay in that order', async t => {
  const model = createLengthModel()
  for (let nth = 0; nth < 700; nth++) model.observe(`s${nth}`, 'm', { tokens: 5, isCut: false })
  const { sources, pairs } = model.snapshot()
  t.same([sources.length, pairs.length], [500, 500])
  t.equal(sources[0]?.[0], 's699')
  t.equal(sources.at(-1)?.[0], 's200')
  const again = createLengthModel()
  again.restore(model.snapshot())
  again.observe('s200', 'm', { tokens: 5, isCut: false })
  t.equal(again.snapshot().sources[0]?.[0], 's200')
  t.equal(again.snapshot().sources[1]?.[0], 's699')
})

t.test('nonsense is not restored, and what is good beside it is', async t => {
  const untouched = figures(createLengthModel().of('s', 'm', null))
  const good = learn(createLengthModel(), times(100, 3_000)).snapshot()
  const counts = good.all
  const nonsense: readonly unknown[] = [
    null,
    undefined,
    1,
    'lengths',
    [],
    {},
    { ...good, version: 2 },
    { version: 1 },
    { ...good, all: counts.slice(1) },
    { ...good, all: counts.map(() => -1) },
    { ...good, all: counts.map(() => Number.NaN) },
    { ...good, all: counts.map(() => '1') },
    { ...good, all: null },
    { ...good, all: times(40, 1e308) }
  ]
  for (const [at, kept] of nonsense.entries()) {
    const model = createLengthModel()
    model.restore(kept)
    t.same(figures(model.of('s', 'm', null)), untouched, `nonsense ${at}`)
  }
  const mixed = createLengthModel()
  mixed.restore({ ...good, sources: [null, 3, ['s'], [4, counts], ['s', counts.slice(2)], ['other', counts]], pairs: { a: 1 } })
  t.same(
    mixed.snapshot().sources.map(([name]) => name),
    ['other']
  )
  t.ok(mixed.of('other', 'm', null).beyond(1_000) > 0.9)
})

t.test('an answer of no length that can be is not counted', async t => {
  const model = learn(createLengthModel(), [100])
  const before = JSON.stringify(model.snapshot())
  learn(model, [Number.NaN, -1, Number.POSITIVE_INFINITY])
  learn(model, [Number.NaN, -1], { isCut: true })
  t.equal(JSON.stringify(model.snapshot()), before)
})

t.test('a length that is known is known', async t => {
  const lengths = knownLength(50)
  t.same([lengths.mean, lengths.quantile(0.1), lengths.quantile(0.9)], [50, 50, 50])
  t.same([lengths.beyond(49), lengths.beyond(50)], [1, 0])
  t.same([lengths.moreAfter(0), lengths.moreAfter(20), lengths.moreAfter(50), lengths.moreAfter(80)], [50, 30, 1, 1])
})
