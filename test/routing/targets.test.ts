import t from 'tap'
import { type PriceBook, priceOf, targetOf, unlistedTarget } from '../../routing/targets.ts'
import type { ModelListing, TokenPrice, Upstream } from '../../routing/types.ts'

const price = (usd: number): TokenPrice => ({ inputUsdPer1m: usd, outputUsdPer1m: usd })

const book: PriceBook = {
  configured: new Map([
    ['cloud/a', price(1)],
    ['a', price(2)],
    ['b', price(3)]
  ]),
  registered: (registryId, model) => (registryId === 'openai' && model !== 'x' ? price(4) : null)
}

const upstream = (changes: Partial<Upstream> = {}): Upstream => ({
  id: 'cloud',
  adapter: 'openai',
  own: false,
  baseUrl: '',
  apiKey: null,
  headers: {},
  device: null,
  timeouts: { connectMs: 1, firstTokenMs: 1, idleMs: 1, totalMs: 1 },
  models: null,
  auto: [],
  streamUsage: true,
  registryId: 'openai',
  ...changes
})

const listing = (changes: Partial<ModelListing> = {}): ModelListing => ({
  model: 'm',
  createdAt: null,
  maxContextTokens: null,
  maxOutputTokens: null,
  features: null,
  operations: ['chat', 'complete'],
  loaded: false,
  price: null,
  memory: null,
  digest: null,
  ...changes
})

t.test('a price is the provider’s, then the configured, then for own machines electricity, then the registry’s', async t => {
  t.same(priceOf(book, upstream(), 'a', price(9)), { source: 'provider', tokens: price(9) })
  t.same(priceOf(book, upstream(), 'a', null), { source: 'config', tokens: price(1) }, 'for this upstream')
  t.same(priceOf(book, upstream({ id: 'other' }), 'a', null), { source: 'config', tokens: price(2) }, 'for the model anywhere')
  t.same(priceOf(book, upstream({ own: true }), 'b', null), { source: 'config', tokens: price(3) }, 'an own machine may have one')
  t.same(priceOf(book, upstream({ own: true }), 'c', null), { source: 'electricity', tokens: null })
  t.same(priceOf(book, upstream(), 'c', null), { source: 'registry', tokens: price(4) })
  t.same(priceOf(book, upstream(), 'x', null), { source: 'unknown', tokens: null }, 'the registry does not know it')
  t.same(priceOf(book, upstream({ registryId: null }), 'c', null), { source: 'unknown', tokens: null }, 'nor the provider')
})

t.test('a listing becomes a target with the context that holds there', async t => {
  const full = targetOf(
    book,
    upstream(),
    listing({
      maxContextTokens: 128_000,
      maxOutputTokens: 4_096,
      features: ['tools', 'tools', 'vision'],
      loaded: true,
      createdAt: 5,
      operations: ['embed']
    }),
    null
  )
  t.match(full, {
    id: 'cloud/m',
    model: 'm',
    contextTokens: 128_000,
    maxOutputTokens: 4_096,
    loaded: true,
    operations: ['embed'],
    createdAt: 5
  })
  t.same([...(full.features ?? [])], ['tools', 'vision'])
  t.equal(targetOf(book, upstream(), listing({ maxContextTokens: 128_000 }), 8_192).contextTokens, 8_192, 'the pinned size')
  const bare = targetOf(book, upstream(), listing(), null)
  t.match(bare, { contextTokens: null, features: null, createdAt: 0, price: { source: 'registry' } })
})

t.test('a model nobody listed may do everything and costs what is known by its name', async t => {
  t.match(unlistedTarget(book, upstream(), 'a'), {
    id: 'cloud/a',
    model: 'a',
    contextTokens: null,
    maxOutputTokens: null,
    features: null,
    operations: ['chat', 'complete'],
    loaded: false,
    price: { source: 'config', tokens: price(1) },
    createdAt: 0
  })
})
