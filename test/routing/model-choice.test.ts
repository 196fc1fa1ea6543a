// Which of many rented models are offered, with the traps that real lists have.

import t from 'tap'
import { chooseModels, scoreOf } from '../../routing/model-choice.ts'
import type { ModelListing, TokenPrice } from '../../routing/types.ts'
import { fc } from '../support/properties.ts'

function listing(model: string, changes: Partial<ModelListing> = {}): ModelListing {
  return {
    model,
    createdAt: null,
    maxContextTokens: 100_000,
    maxOutputTokens: null,
    features: null,
    operations: ['chat', 'complete'],
    loaded: true,
    price: price(1, 1),
    memory: null,
    digest: null,
    ...changes
  }
}

function price(inputUsdPer1m: number, outputUsdPer1m: number): TokenPrice {
  return { inputUsdPer1m, outputUsdPer1m }
}

const rules = { top: 2, maxUsdPer1m: 10, wished: new Set<string>() }
const outcome = (listings: readonly ModelListing[], changes: Partial<typeof rules> = {}) =>
  Object.fromEntries(chooseModels(listings, { ...rules, ...changes }).map(({ listing: { model }, leftOut }) => [model, leftOut]))

t.test('the score is context in thousands for the mean price, bounded on both sides', async t => {
  const table: readonly (readonly [number | null, TokenPrice | null, number | null])[] = [
    [128_000, price(0.5, 1.5), 128],
    [1_048_576, price(1, 1), 1_048.576],
    [10_000_000, price(1, 1), 1_048.576],
    [128_000, price(0, 0), 12_800],
    [128_000, price(0.001, 0.001), 12_800],
    [null, price(1, 1), 0],
    [128_000, null, null]
  ]
  for (const [maxContextTokens, of, score] of table) t.equal(scoreOf({ maxContextTokens, price: of }), score)
})

t.test('the best for the money are offered, and why others are not is said', async t => {
  t.same(
    outcome([
      listing('second', { price: price(2, 2) }),
      listing('best'),
      listing('third', { price: price(3, 3) }),
      listing('dear', { price: price(5, 15.1) }),
      listing('just', { price: price(5, 15), maxContextTokens: 1 }),
      listing('router', { price: null }),
      listing('music', { operations: [], price: price(0, 0) })
    ]),
    {
      second: null,
      best: null,
      third: 'below_the_top',
      dear: 'too_expensive',
      just: 'below_the_top',
      router: 'price_unknown',
      music: 'no_text'
    }
  )
})

t.test('free models take no place of those that cost, and embedding models none at all', async t => {
  t.same(
    outcome([
      listing('free-small', { price: price(0, 0), maxContextTokens: 8_000 }),
      listing('free-large', { price: price(0, 0), maxContextTokens: 256_000 }),
      listing('a'),
      listing('b'),
      listing('vectors', { operations: ['embed'], price: price(0.02, 0), maxContextTokens: 8_000 })
    ]),
    { 'free-small': 'below_the_top', 'free-large': null, a: null, b: null, vectors: null }
  )
})

t.test('a list without any price that can be read lifts no limit', async t => {
  t.same(outcome([listing('a', { price: null }), listing('openrouter/auto', { price: null })]), {
    a: 'price_unknown',
    'openrouter/auto': 'price_unknown'
  })
})

t.test('a price per request counts as that of 2,000 tokens more, and is not free', async t => {
  const perRequest = (requestUsd: number) => ({ price: { ...price(0, 0), requestUsd } })
  t.same(
    outcome([
      listing('dear', perRequest(5)),
      listing('just-dear', perRequest(0.0201)),
      listing('fair', perRequest(0.02)),
      listing('a'),
      listing('b'),
      listing('free', { price: price(0, 0) }),
      listing('free-too', { ...perRequest(0), maxContextTokens: 1 })
    ]),
    {
      dear: 'too_expensive',
      'just-dear': 'too_expensive',
      fair: 'below_the_top',
      a: null,
      b: null,
      free: null,
      'free-too': 'below_the_top'
    }
  )
})

t.test('what the operator has named is offered at any price', async t => {
  const all = [listing('a'), listing('b'), listing('c', { price: price(90, 90) }), listing('openrouter/auto', { price: null })]
  t.same(outcome(all, { wished: new Set(['c', 'openrouter/auto']) }), { a: null, b: null, c: null, 'openrouter/auto': null })
})

t.test('whatever the list: no more than the top, all that were given, in their order, and the same each time', async () => {
  const figure = fc.oneof(fc.constant(0), fc.double({ min: 1e-6, max: 100, noNaN: true }))
  const listings = fc.uniqueArray(
    fc.record({
      model: fc.string({ minLength: 1, maxLength: 8 }),
      context: fc.option(fc.nat(20_000_000)),
      price: fc.option(fc.tuple(figure, figure)),
      createdAt: fc.option(fc.nat(1_000))
    }),
    { selector: ({ model }) => model, maxLength: 40 }
  )
  fc.assert(
    fc.property(listings, fc.integer({ min: 1, max: 10 }), (given, top) => {
      const list = given.map(({ model, context, price: of, createdAt }) =>
        listing(model, { maxContextTokens: context, createdAt, price: of === null ? null : price(...of) })
      )
      const choices = chooseModels(list, { ...rules, top })
      const offered = choices.filter(({ leftOut }) => leftOut === null)
      const free = offered.filter(({ listing: { price: of } }) => of !== null && of.inputUsdPer1m + of.outputUsdPer1m === 0)
      const shuffled = chooseModels(list.toReversed(), { ...rules, top }).toReversed()
      return (
        choices.every(
          ({ listing: { model }, score }, index) => model === list[index]?.model && (score === null || Number.isFinite(score))
        ) &&
        offered.length - free.length <= top &&
        free.length <= Math.ceil(top / 5) &&
        JSON.stringify(choices) === JSON.stringify(shuffled)
      )
    })
  )
})
