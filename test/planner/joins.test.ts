// One model under several names is one model with several targets, and only where that is certain.

import t from 'tap'
import { createJoins } from '../../planner/joins.ts'
import { createCatalog } from '../../routing/catalog.ts'
import type { ModelBuild, ModelListing, Target, Upstream } from '../../routing/types.ts'
import { targetAt } from '../queue/core-support.ts'

function listing(model: string, build?: Partial<ModelBuild>, changes: Partial<ModelListing> = {}): ModelListing {
  return {
    model,
    createdAt: null,
    maxContextTokens: null,
    maxOutputTokens: null,
    features: null,
    operations: ['chat'],
    loaded: true,
    price: null,
    memory: null,
    digest: null,
    ...(build === undefined ? {} : { build: { family: null, paramsB: null, quantization: null, ...build } }),
    ...changes
  }
}

const home = targetAt('home', 'x').upstream
const cloud: Upstream = { ...targetAt('openrouter', 'x', { own: false }).upstream, adapter: 'openrouter' }

t.test('the same weights at home and in the cloud are one model, under each of its names', async t => {
  const joins = createJoins(new Map())
  const listed = [
    { upstream: home, listings: [listing('llama3.2:3b', { paramsB: 3.2, family: 'llama' }), listing('llama3.2:3b-text-q4_0')] },
    {
      upstream: cloud,
      listings: [
        listing('meta-llama/llama-3.2-3b-instruct'),
        listing('meta-llama/llama-3.2-3b-instruct:free'),
        listing('meta-llama/llama-3.2-1b-instruct')
      ]
    }
  ]
  const { others, told } = joins(listed)
  t.same(
    [...others],
    [
      ['llama3.2:3b', ['meta-llama/llama-3.2-3b-instruct']],
      ['meta-llama/llama-3.2-3b-instruct', ['llama3.2:3b']]
    ]
  )
  t.equal(told.joined.length, 1)
  t.equal(joins(listed).others, others, 'the same lists are read once')
  const targets = listed.flatMap(({ upstream, listings }) =>
    listings.map(({ model }): Target => ({ ...targetAt('home', model), id: `${upstream.id}/${model}`, model, upstream }))
  )
  const catalog = createCatalog({
    upstreams: [home, cloud],
    targets,
    listed: new Set([home.id, cloud.id]),
    aliases: new Map(),
    auto: [],
    prices: { configured: new Map(), registered: () => null },
    vectorSpaces: new Map(),
    sameAs: others,
    demo: targetAt('echo', 'echo')
  })
  const ids = (name: string): readonly string[] => {
    const found = catalog.resolve(name, 0)
    return found.found ? found.targets.map(({ id }) => id) : []
  }
  t.same(ids('llama3.2:3b'), ['home/llama3.2:3b', 'openrouter/meta-llama/llama-3.2-3b-instruct'])
  t.same(ids('meta-llama/llama-3.2-3b-instruct'), ['openrouter/meta-llama/llama-3.2-3b-instruct', 'home/llama3.2:3b'])
  t.same(ids('home/llama3.2:3b'), ['home/llama3.2:3b'], 'a name that is bound to a machine stays there')
  t.same(
    ids('meta-llama/llama-3.2-3b-instruct:free'),
    ['openrouter/meta-llama/llama-3.2-3b-instruct:free'],
    'a free variant is asked for by name'
  )
  t.same(ids('llama3.2:3b-text-q4_0'), ['home/llama3.2:3b-text-q4_0'])
  t.equal(catalog.models.find(({ id }) => id === 'llama3.2:3b')?.targets.length, 2)
})

t.test('the operator’s word is stronger than what the names say', async t => {
  const listed = [
    { upstream: home, listings: [listing('llama3.2:3b', { paramsB: 3.2, family: 'llama' }), listing('mine:8b')] },
    { upstream: cloud, listings: [listing('meta-llama/llama-3.2-3b-instruct'), listing('vendor/mine-8b')] }
  ]
  t.same([...createJoins(new Map([['llama3.2:3b', 'llama3.2:3b']]))(listed).others], [], 'not the same')
  const { others } = createJoins(
    new Map([
      ['mine:8b', 'mine:8b'],
      ['vendor/mine-8b', 'mine:8b']
    ])
  )(listed)
  t.same(others.get('mine:8b'), ['vendor/mine-8b'])
  t.ok(others.has('llama3.2:3b'))
})

t.test('embedding models are joined by nobody but the operator’s vector spaces', async t => {
  const { others } = createJoins(new Map())([
    { upstream: home, listings: [listing('nomic-embed-text:v1.5', {}, { operations: ['embed'] })] },
    { upstream: cloud, listings: [listing('nomic-ai/nomic-embed-text-v1.5', {}, { operations: ['embed'] })] }
  ])
  t.equal(others.size, 0)
})
