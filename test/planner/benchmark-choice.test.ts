// What a benchmark is about, and what it may cost.

import t from 'tap'
import { type Asked, chooseBenchmark } from '../../planner/benchmark-choice.ts'
import type { GatewayError } from '../../routing/errors.ts'
import type { Price, Target } from '../../routing/types.ts'

const unknown: Price = { source: 'unknown', tokens: null }
const price = (inputUsdPer1m: number, outputUsdPer1m: number): Price => ({
  source: 'config',
  tokens: { inputUsdPer1m, outputUsdPer1m }
})

function target(upstreamId: string, model: string, price: Price, more: Partial<Target> = {}): Target {
  const own = upstreamId.startsWith('box')
  const device = own ? { id: upstreamId, maxConcurrency: 2, watts: 1, vramGb: null, ramGb: null, keepAlive: null, numCtx: null } : null
  const upstream = { id: upstreamId, adapter: own ? 'ollama' : 'openai', own, device } as Target['upstream']
  return { id: `${upstreamId}/${model}`, upstream, model, operations: ['chat'], price, ...more } as Target
}

const own: Price = { source: 'electricity', tokens: null }
const targets = [
  target('box1', 'small:latest', own),
  target('box1', 'embed', own, { operations: ['embed'] }),
  target('box2', 'small:latest', own),
  target('box2', 'big:70b', own),
  target('cloud', 'gold', price(10, 10.02)),
  target('cloud', 'edge', price(5, 15)),
  target('cloud', 'toll', { source: 'provider', tokens: { inputUsdPer1m: 0, outputUsdPer1m: 0, requestUsd: 5 } }),
  target('cloud', 'fog', unknown),
  target('cloud', 'gift', { source: 'free', tokens: null })
]

const choose = (asked: Partial<Asked> & { model: string }): string | GatewayError => {
  try {
    return chooseBenchmark(targets, { deviceId: null, provider: null, pay: false, ...asked }, 10).id
  } catch (error) {
    return error as GatewayError
  }
}

t.test('what is meant is found by machine, provider, or a whole name', async t => {
  const table: readonly (readonly [Partial<Asked> & { model: string }, string])[] = [
    [{ deviceId: 'box1', model: 'small' }, 'box1/small:latest'],
    [{ deviceId: 'box2', model: 'small:latest' }, 'box2/small:latest'],
    [{ model: 'box2/small:latest' }, 'box2/small:latest'],
    [{ model: 'big:70b' }, 'box2/big:70b'],
    [{ provider: 'ollama', deviceId: 'box1', model: 'small' }, 'box1/small:latest'],
    [{ provider: 'cloud', model: 'edge' }, 'cloud/edge'],
    [{ model: 'gift' }, 'cloud/gift'],
    [{ model: 'gold', pay: true }, 'cloud/gold'],
    [{ model: 'fog', pay: true }, 'cloud/fog']
  ]
  for (const [asked, id] of table) t.equal(choose(asked), id, JSON.stringify(asked))
})

t.test('what is not clear, not there, not a chat model or too dear is refused', async t => {
  const table: readonly (readonly [Partial<Asked> & { model: string }, RegExp])[] = [
    [{ model: 'small' }, /several places: name one of "box1\/small:latest", "box2\/small:latest"/],
    [{ model: 'none' }, /no model "none" here/],
    [{ deviceId: 'box1', model: 'big:70b' }, /no model "big:70b" on "box1" here/],
    [{ deviceId: 'box1', provider: 'cloud', model: 'gold' }, /"box1 and cloud"/],
    [{ deviceId: 'box1', model: 'embed' }, /does not answer chat/],
    [{ model: 'gold' }, /"cloud\/gold" costs \$10\.01 per million tokens, the mean of prompt \(\$10\) and answer \(\$10\.02\).*\$10 /],
    [{ model: 'toll' }, /"cloud\/toll" costs \$2500 per million tokens.*, with \$5 a request;.*\$10 /],
    [{ model: 'fog' }, /price of "cloud\/fog" is unknown.*\$10 .*"pay": true/]
  ]
  for (const [asked, message] of table) t.match(choose(asked), { message }, JSON.stringify(asked))
})
