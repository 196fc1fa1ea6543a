import t from 'tap'
import { registeredPrice } from '../../ledger/registry.ts'
import { tokenCost } from '../../routing/cost.ts'
import type { Usage } from '../../routing/types.ts'

const usage = (promptTokens: number, cachedTokens = 0): Usage => ({
  promptTokens,
  completionTokens: 0,
  cachedTokens,
  reasoningTokens: 0,
  providerNanoUsd: null,
  busyMs: null
})

t.test('a model of a known provider has its list price', async t => {
  t.strictSame(registeredPrice('openai', 'gpt-4o-mini'), { inputUsdPer1m: 0.15, outputUsdPer1m: 0.6, cachedInputUsdPer1m: 0.075 })
  t.match(registeredPrice('openai', 'gpt-4o-mini-2024-07-18'), { inputUsdPer1m: 0.15 }, 'under its dated name too')
})

t.test('what the registry does not know has no price', async t => {
  t.equal(registeredPrice('openai', 'no-such-model'), null)
  t.equal(registeredPrice('no-such-provider', 'gpt-4o-mini'), null)
  t.equal(registeredPrice('openai', ''), null)
})

t.test('a provider is never guessed from the model', async t => {
  t.equal(registeredPrice('groq', 'gpt-4o-mini'), null)
})

t.test('the price of a longer prompt is the one of its tier', async t => {
  const price = registeredPrice('google', 'gemini-2.5-pro')
  if (price === null) throw new Error('the registry lost gemini-2.5-pro')
  t.match(price, {
    inputUsdPer1m: 1.25,
    outputUsdPer1m: 10,
    tiers: [{ abovePromptTokens: 200_000, inputUsdPer1m: 2.5, outputUsdPer1m: 15 }]
  })
  t.equal(tokenCost(price, usage(200_000)), 200_000 * 1_250)
  t.equal(tokenCost(price, usage(200_001)), 200_001 * 2_500)
  const starts = (price.tiers ?? []).map(({ abovePromptTokens }) => abovePromptTokens)
  t.same(
    starts,
    starts.toSorted((a, b) => a - b)
  )
})
