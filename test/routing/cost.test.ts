import t from 'tap'
import { costOf, formatUsd, tokenCost } from '../../routing/cost.ts'
import type { Device, Price, Target, TokenPrice, Usage } from '../../routing/types.ts'
import { fc } from '../support/properties.ts'

const device: Device = { id: 'home', maxConcurrency: 1, watts: 300, vramGb: null, ramGb: null, keepAlive: null, numCtx: null }

function target(price: Price, machine: Device | null = null): Target {
  return {
    id: 'u/m',
    upstream: {
      id: 'u',
      adapter: 'openai',
      own: machine !== null,
      baseUrl: '',
      apiKey: null,
      headers: {},
      device: machine,
      timeouts: { connectMs: 1, firstTokenMs: 1, idleMs: 1, totalMs: 1 },
      models: null,
      auto: [],
      streamUsage: true,
      registryId: null
    },
    model: 'm',
    contextTokens: null,
    maxOutputTokens: null,
    features: null,
    operations: ['chat', 'complete'],
    loaded: true,
    price,
    createdAt: 0
  }
}

const usage = (changes: Partial<Usage> = {}): Usage => ({
  promptTokens: 0,
  completionTokens: 0,
  cachedTokens: 0,
  reasoningTokens: 0,
  providerNanoUsd: null,
  busyMs: null,
  ...changes
})

const price = (changes: Partial<TokenPrice> = {}): TokenPrice => ({ inputUsdPer1m: 0, outputUsdPer1m: 0, ...changes })

t.test('tokens cost their price, in whole nano-dollars', async t => {
  const cases: readonly [name: string, price: TokenPrice, usage: Partial<Usage>, nanoUsd: number][] = [
    ['nothing used', price({ inputUsdPer1m: 3 }), {}, 0],
    ['one token at a dollar a million', price({ inputUsdPer1m: 1 }), { promptTokens: 1 }, 1_000],
    ['output has its own price', price({ inputUsdPer1m: 1, outputUsdPer1m: 4 }), { promptTokens: 10, completionTokens: 3 }, 22_000],
    [
      'a real one: gpt-4o-mini',
      price({ inputUsdPer1m: 0.15, outputUsdPer1m: 0.6 }),
      { promptTokens: 1_234, completionTokens: 567 },
      525_300
    ],
    ['not up for a float’s last bit', price({ inputUsdPer1m: 0.2 }), { promptTokens: 10 }, 2_000],
    ['nor here', price({ inputUsdPer1m: 0.1, outputUsdPer1m: 0.2 }), { promptTokens: 1, completionTokens: 1 }, 300],
    ['up for a part of one', price({ inputUsdPer1m: 0.0001 }), { promptTokens: 1 }, 1],
    ['up, also where it is large', price({ inputUsdPer1m: 0.0001 }), { promptTokens: 1_000_000_001 }, 100_000_001],
    ['reasoning is part of the output', price({ outputUsdPer1m: 1 }), { completionTokens: 5, reasoningTokens: 4 }, 5_000],
    ['cached input at its price', price({ inputUsdPer1m: 2, cachedInputUsdPer1m: 0.5 }), { promptTokens: 10, cachedTokens: 4 }, 14_000],
    ['cached input without one is input', price({ inputUsdPer1m: 2 }), { promptTokens: 10, cachedTokens: 4 }, 20_000],
    ['cached input may be free', price({ inputUsdPer1m: 2, cachedInputUsdPer1m: 0 }), { promptTokens: 10, cachedTokens: 10 }, 0],
    [
      'more cached than prompt is nonsense',
      price({ inputUsdPer1m: 2, cachedInputUsdPer1m: 1 }),
      { promptTokens: 10, cachedTokens: 99 },
      10_000
    ],
    [
      'a senseless price stays a number that can be booked',
      price({ inputUsdPer1m: 1e300 }),
      { promptTokens: 1e9 },
      Number.MAX_SAFE_INTEGER
    ],
    ['each request', price({ requestUsd: 0.005 }), {}, 5_000_000]
  ]
  for (const [name, given, used, nanoUsd] of cases) t.equal(tokenCost(given, usage(used)), nanoUsd, name)
})

t.test('longer prompts have other prices, and the last tier that applies wins', async t => {
  const tiered = price({
    inputUsdPer1m: 1,
    outputUsdPer1m: 10,
    cachedInputUsdPer1m: 0.1,
    tiers: [
      { abovePromptTokens: 100, inputUsdPer1m: 2, cachedInputUsdPer1m: 0.2 },
      { abovePromptTokens: 200, outputUsdPer1m: 30 }
    ]
  })
  t.equal(tokenCost(tiered, usage({ promptTokens: 100, completionTokens: 1 })), 110_000, 'up to the border: not above')
  t.equal(tokenCost(tiered, usage({ promptTokens: 101, completionTokens: 1 })), 212_000, 'the whole prompt at the other price')
  t.equal(tokenCost(tiered, usage({ promptTokens: 201, completionTokens: 1 })), 432_000, 'what a tier does not say stays')
  t.equal(tokenCost(tiered, usage({ promptTokens: 101, cachedTokens: 101 })), 20_200)
})

t.test('the figure is the exact one, rounded up, for every price that a decimal can write', async t => {
  // Up to $400; a float has no thousandths of a nano-dollar far above that.
  const tokens = fc.oneof(fc.nat(1_000), fc.nat(1_000_000))
  // In millionths of a dollar per million tokens: 1e-6 is less than any model costs.
  const micro = fc.oneof(fc.nat(1_000), fc.nat(200_000_000))
  fc.assert(
    fc.property(
      tokens,
      tokens,
      fc.double({ min: 0, max: 1, noNaN: true }),
      micro,
      micro,
      micro,
      (prompt, completion, share, input, output, cached) => {
        const cachedTokens = Math.floor(prompt * share)
        const thousandths =
          BigInt(prompt - cachedTokens) * BigInt(input) + BigInt(cachedTokens) * BigInt(cached) + BigInt(completion) * BigInt(output)
        const exact = (thousandths + 999n) / 1_000n
        const given = price({ inputUsdPer1m: input / 1e6, outputUsdPer1m: output / 1e6, cachedInputUsdPer1m: cached / 1e6 })
        const found = tokenCost(given, usage({ promptTokens: prompt, completionTokens: completion, cachedTokens }))
        return BigInt(found) === exact
      }
    ),
    { numRuns: 20_000 }
  )
  t.pass()
})

t.test('the provider’s figure wins over the price, the price over electricity, and unknown is never 0', async t => {
  const tokens = price({ inputUsdPer1m: 1 })
  const used = { promptTokens: 1_000 }
  const unknown: Price = { source: 'unknown', tokens: null }
  const electricity: Price = { source: 'electricity', tokens: null }
  const cases: readonly [name: string, target: Target, usage: Partial<Usage>, nanoUsd: number | null, source: string][] = [
    ['what the provider says', target({ source: 'config', tokens }), { ...used, providerNanoUsd: 42 }, 42, 'provider'],
    ['a provider that says 0', target({ source: 'config', tokens }), { ...used, providerNanoUsd: 0 }, 0, 'provider'],
    ['a configured price', target({ source: 'config', tokens }), used, 1_000_000, 'config'],
    ['a listed price', target({ source: 'provider', tokens }), used, 1_000_000, 'provider'],
    ['a registered price', target({ source: 'registry', tokens }), used, 1_000_000, 'registry'],
    ['a price set for an own machine', target({ source: 'config', tokens }, device), { ...used, busyMs: 9e9 }, 1_000_000, 'config'],
    ['free', target({ source: 'free', tokens: null }), used, 0, 'free'],
    ['nobody knows', target(unknown), used, null, 'unknown'],
    ['nobody knows, and nothing was used', target(unknown), {}, null, 'unknown'],
    // 300 W for an hour are 0.3 kWh; at 0.25 $ that is 0.075 $.
    ['electricity', target(electricity, device), { ...used, busyMs: 3_600_000 }, 75_000_000, 'electricity'],
    ['electricity for a moment', target(electricity, device), { ...used, busyMs: 1 }, 21, 'electricity'],
    ['no work, no electricity', target(electricity, device), { ...used, busyMs: 0 }, 0, 'electricity'],
    ['electricity for nobody knows how long', target(electricity, device), used, null, 'unknown']
  ]
  for (const [name, given, figures, nanoUsd, source] of cases) {
    t.same(costOf(given, usage(figures), 0.25), { nanoUsd, source }, name)
  }
})

t.test('an amount is written as a plain decimal', async t => {
  const cases: readonly [nanoUsd: number, text: string][] = [
    [0, '0'],
    [1, '0.000000001'],
    [1_234, '0.000001234'],
    [100_000_000, '0.1'],
    [1_000_000_000, '1'],
    [1_000_000_001, '1.000000001'],
    [12_340_000_000, '12.34'],
    [Number.MAX_SAFE_INTEGER, '9007199.254740991']
  ]
  for (const [nanoUsd, text] of cases) t.equal(formatUsd(nanoUsd), text)
})

t.test('a written amount reads back as the same nano-dollars', async t => {
  fc.assert(
    fc.property(fc.oneof(fc.nat(), fc.maxSafeNat()), nanoUsd => {
      const text = formatUsd(nanoUsd)
      const [whole, rest = ''] = text.split('.')
      return /^\d+(\.\d*[1-9])?$/.test(text) && BigInt(`${whole}${rest.padEnd(9, '0')}`) === BigInt(nanoUsd)
    }),
    { numRuns: 10_000 }
  )
  t.pass()
})
