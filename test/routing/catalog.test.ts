import t from 'tap'
import { type Alias, type Catalog, type CatalogSource, canonical, createCatalog } from '../../routing/catalog.ts'
import { type PriceBook, unlistedTarget } from '../../routing/targets.ts'
import type { Target, Upstream } from '../../routing/types.ts'
import { fc } from '../support/properties.ts'

const prices: PriceBook = {
  configured: new Map([['openrouter/openai/gpt-4o:nitro', { inputUsdPer1m: 5, outputUsdPer1m: 6 }]]),
  registered: () => null
}

function upstream(id: string, changes: Partial<Upstream> = {}): Upstream {
  return {
    id,
    adapter: 'openai',
    own: false,
    baseUrl: 'http://127.0.0.1:9',
    apiKey: null,
    headers: {},
    device: null,
    timeouts: { connectMs: 1, firstTokenMs: 1, idleMs: 1, totalMs: 1 },
    models: null,
    auto: [],
    streamUsage: true,
    registryId: null,
    ...changes
  }
}

const on = (where: Upstream, model: string, changes: Partial<Target> = {}): Target => ({
  ...unlistedTarget(prices, where, model),
  ...changes
})

const home = upstream('home', { adapter: 'ollama', own: true })
const office = upstream('office', { adapter: 'ollama', own: true })
const vllm = upstream('vllm', { own: true })
const openrouter = upstream('openrouter', { adapter: 'openrouter', auto: ['openrouter/auto', 'openai/gpt-4o'] })
const openai = upstream('openai', { auto: ['gpt-4o-mini', 'gpt-4o'] })
const demo = on(upstream('echo', { adapter: 'echo', own: true }), 'echo')

interface House {
  readonly upstreams?: readonly Upstream[]
  readonly targets?: readonly Target[]
  readonly unlisted?: readonly string[]
  readonly aliases?: Readonly<Record<string, Alias>>
  readonly auto?: readonly string[]
  readonly vectorSpaces?: Readonly<Record<string, string>>
}

function catalogOf({ upstreams = [], targets = [], unlisted = [], aliases = {}, auto = [], vectorSpaces = {} }: House): Catalog {
  const source: CatalogSource = {
    upstreams,
    targets,
    listed: new Set(upstreams.map(({ id }) => id).filter(id => !unlisted.includes(id))),
    aliases: new Map(Object.entries(aliases)),
    auto,
    prices,
    vectorSpaces: new Map(Object.entries(vectorSpaces)),
    demo
  }
  return createCatalog(source)
}

/** The ids a name means, or `? near, near` when it means nothing. */
function meaning(catalog: Catalog, name: string, random = 0): string {
  const resolution = catalog.resolve(name, random)
  if (!resolution.found) return ['?', ...resolution.nearest].join(' ')
  return [...(resolution.ordered ? ['ordered'] : []), ...resolution.targets.map(({ id }) => id)].join(' ')
}

const house: House = {
  upstreams: [home, office, vllm, openrouter],
  targets: [
    on(home, 'llama3.2:3b', { loaded: true }),
    on(home, 'qwen3:latest'),
    on(office, 'llama3.2:3b', { loaded: true }),
    on(office, 'nomic-embed-text:latest', { operations: ['embed'] }),
    on(vllm, 'llama3.2:3b'),
    on(openrouter, 'openai/gpt-4o'),
    on(openrouter, 'meta-llama/llama-3.2-3b-instruct:free'),
    on(openrouter, 'deepseek/deepseek-r1:thinking', { contextTokens: 7 })
  ],
  aliases: {
    fast: { kind: 'ordered', models: ['office/llama3.2:3b', 'qwen3', 'nobody-has-this'] },
    nothing: { kind: 'ordered', models: ['nobody-has-this'] }
  }
}

function targetsOf(catalog: Catalog, name: string): readonly Target[] {
  const resolution = catalog.resolve(name, 0)
  return resolution.found ? resolution.targets : []
}

t.test('a name means the targets that serve it', async t => {
  const catalog = catalogOf(house)
  const cases: readonly [name: string, expected: string][] = [
    // plain
    ['llama3.2:3b', 'home/llama3.2:3b office/llama3.2:3b vllm/llama3.2:3b'],
    ['qwen3', 'home/qwen3:latest'],
    ['qwen3:latest', 'home/qwen3:latest'],
    ['llama3.2:3b:latest', 'home/llama3.2:3b office/llama3.2:3b vllm/llama3.2:3b'],
    ['nomic-embed-text', 'office/nomic-embed-text:latest'],
    // bound
    ['office/llama3.2:3b', 'office/llama3.2:3b'],
    ['home/qwen3', 'home/qwen3:latest'],
    ['home/qwen3:latest', 'home/qwen3:latest'],
    ['ollama/llama3.2:3b', 'home/llama3.2:3b office/llama3.2:3b'],
    ['ollama/qwen3:latest', 'home/qwen3:latest'],
    ['openrouter/openai/gpt-4o', 'openrouter/openai/gpt-4o'],
    // a slug of OpenRouter's, while no provider has the vendor's name
    ['openai/gpt-4o', 'openrouter/openai/gpt-4o'],
    ['meta-llama/llama-3.2-3b-instruct:free', 'openrouter/meta-llama/llama-3.2-3b-instruct:free'],
    // aliases
    ['fast', 'ordered office/llama3.2:3b home/qwen3:latest'],
    ['nothing', ''],
    // virtual
    ['local', 'ordered home/llama3.2:3b office/llama3.2:3b home/qwen3:latest vllm/llama3.2:3b'],
    ['cloud', 'ordered openrouter/openai/gpt-4o'],
    // nothing here
    ['llama3.2:1b', '? llama3.2:3b'],
    ['home/gpt-4o', '? openai/gpt-4o'],
    ['home/', '?'],
    ['/llama3.2:3b', '? llama3.2:3b'],
    ['ollama/qqqqqqqqqqqq', '?'],
    ['constructor', '?'],
    ['__proto__', '?'],
    ['', '?']
  ]
  for (const [name, expected] of cases) t.equal(meaning(catalog, name), expected, `"${name}"`)
})

t.test('a provider of the vendor’s name comes before OpenRouter’s slug, and leaves it what it does not have', async t => {
  const upstreams = [openai, openrouter]
  const targets = [
    on(openai, 'gpt-4o'),
    on(openrouter, 'openai/gpt-4o'),
    on(openrouter, 'openai/gpt-5'),
    on(openrouter, 'anthropic/claude-sonnet-4.5')
  ]
  const catalog = catalogOf({ upstreams, targets })
  t.equal(meaning(catalog, 'openai/gpt-4o'), 'openai/gpt-4o')
  t.equal(meaning(catalog, 'openai/gpt-5'), 'openrouter/openai/gpt-5')
  t.equal(meaning(catalog, 'gpt-4o'), 'openai/gpt-4o')
  t.equal(meaning(catalog, 'anthropic/claude-sonnet-4.5'), 'openrouter/anthropic/claude-sonnet-4.5')
  t.equal(meaning(catalogOf({ upstreams, targets, unlisted: ['openai'] }), 'openai/gpt-5'), 'openai/gpt-5', 'unlisted: it shall say itself')
})

t.test('an upstream whose list is unknown takes every name bound to it, and no other', async t => {
  const catalog = catalogOf({ upstreams: [openai, home], targets: [on(home, 'qwen3')], unlisted: ['openai'] })
  t.equal(meaning(catalog, 'openai/o9-preview'), 'openai/o9-preview')
  t.equal(meaning(catalog, 'openai/o9:latest'), 'openai/o9')
  t.equal(meaning(catalog, 'openai/'), '?')
  t.equal(meaning(catalog, 'o9-preview'), '?')
  t.equal(meaning(catalog, 'home/o9-preview'), '?')
  const [target] = targetsOf(catalog, 'openai/o9-preview')
  t.match(target, {
    model: 'o9-preview',
    contextTokens: null,
    features: null,
    operations: ['chat', 'complete'],
    price: { source: 'unknown', tokens: null }
  })
})

t.test('a variant of a model on OpenRouter is that model under another name, at a price nobody knows', async t => {
  const priced = { price: { source: 'provider' as const, tokens: { inputUsdPer1m: 1, outputUsdPer1m: 2 } }, contextTokens: 128_000 }
  const targets = [on(openrouter, 'openai/gpt-4o', priced), on(openrouter, 'deepseek/r1:thinking', { contextTokens: 7 }), on(vllm, 'qwen3')]
  const catalog = catalogOf({ upstreams: [openrouter, vllm], targets })
  const of = (name: string) => targetsOf(catalog, name)[0]
  for (const variant of ['nitro', 'floor', 'online', 'thinking', 'extended', 'exacto']) {
    for (const name of [`openrouter/openai/gpt-4o:${variant}`, `openai/gpt-4o:${variant}`]) {
      t.match(of(name), { id: `openrouter/openai/gpt-4o:${variant}`, model: `openai/gpt-4o:${variant}`, contextTokens: 128_000 }, name)
    }
  }
  t.same(of('openrouter/openai/gpt-4o:floor')?.price, { source: 'unknown', tokens: null })
  t.equal(of('openrouter/openai/gpt-4o:nitro')?.price.source, 'config', 'unless it is configured by that name')
  t.equal(of('openrouter/deepseek/r1:thinking')?.contextTokens, 7, 'a variant that is listed is its own model')
  const none = ['openrouter/openai/gpt-9:nitro', 'openai/gpt-9:nitro', 'openrouter/openai/gpt-4o:turbo', 'vllm/qwen3:nitro', 'qwen3:nitro']
  for (const name of none) t.equal(catalog.resolve(name, 0).found, false, `${name} is no variant of anything`)
})

t.test('a weighted alias draws one model by weight and keeps the others for failing over', async t => {
  const aliases: Record<string, Alias> = {
    split: {
      kind: 'weighted',
      models: [
        { model: 'home/llama3.2:3b', weight: 1 },
        { model: 'never', weight: 0 },
        { model: 'vllm/llama3.2:3b', weight: 3 }
      ]
    }
  }
  const catalog = catalogOf({ ...house, aliases })
  t.equal(meaning(catalog, 'split', 0), 'ordered home/llama3.2:3b vllm/llama3.2:3b')
  t.equal(meaning(catalog, 'split', 0.2499), 'ordered home/llama3.2:3b vllm/llama3.2:3b')
  t.equal(meaning(catalog, 'split', 0.25), 'ordered vllm/llama3.2:3b home/llama3.2:3b')
  t.equal(meaning(catalog, 'split', 1 - Number.EPSILON / 2), 'ordered vllm/llama3.2:3b home/llama3.2:3b')
})

t.test('the share of each weighted model is its weight', async t => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 0, max: 9 }), { minLength: 1, maxLength: 5 }), weights => {
      const total = weights.reduce((sum, weight) => sum + weight, 0)
      const models = weights.map((weight, index) => ({ model: `m${index}`, weight }))
      const where = upstream('u')
      const catalog = catalogOf({
        upstreams: [where],
        targets: models.map(({ model }) => on(where, model)),
        aliases: { w: { kind: 'weighted', models } }
      })
      const firsts = weights.map(() => 0)
      // In the middle of every unit of weight.
      for (let unit = 0; unit < total; unit++) {
        const ids = meaning(catalog, 'w', (unit + 0.5) / total).split(' ')
        if (ids.length !== 1 + weights.length) throw new Error('each once')
        const first = Number(ids[1]?.slice(3))
        firsts[first] = (firsts[first] ?? 0) + 1
      }
      return total === 0 || firsts.join() === weights.join()
    })
  )
  t.equal(
    meaning(
      catalogOf({
        ...house,
        aliases: {
          none: {
            kind: 'weighted',
            models: [
              { model: 'qwen3', weight: 0 },
              { model: 'llama3.2:3b', weight: 0 }
            ]
          }
        }
      }),
      'none',
      0.9
    ).split(' ')[1],
    'home/qwen3:latest',
    'weights that are all 0 leave the order'
  )
})

t.test('a target that is named twice stands there once, where it was named first', async t => {
  const aliases: Record<string, Alias> = {
    preferred: { kind: 'ordered', models: ['vllm/llama3.2:3b', 'llama3.2:3b'] },
    rented: { kind: 'ordered', models: ['openrouter/openai/gpt-4o:nitro', 'openai/gpt-4o:nitro'] }
  }
  const catalog = catalogOf({ ...house, aliases })
  t.equal(meaning(catalog, 'preferred'), 'ordered vllm/llama3.2:3b home/llama3.2:3b office/llama3.2:3b')
  t.equal(meaning(catalog, 'rented'), 'ordered openrouter/openai/gpt-4o:nitro')
  const unlisted = catalogOf({ upstreams: [openai], unlisted: ['openai'], auto: ['openai/gpt-4o', 'openai/gpt-4o-mini'] })
  t.equal(meaning(unlisted, 'auto'), 'ordered openai/gpt-4o openai/gpt-4o-mini')
  const listedTwice = catalogOf({ upstreams: [openai], targets: [on(openai, 'gpt-4o'), on(openai, 'gpt-4o')] })
  t.equal(meaning(listedTwice, 'gpt-4o'), 'openai/gpt-4o', 'a server that repeats itself')
})

t.test('`auto` is what was wished for, then own machines, loaded ones first, then rented ones by their own wishes', async t => {
  const catalog = catalogOf({ ...house, auto: ['nobody-has-this', 'openai/gpt-4o', 'fast'] })
  t.equal(
    meaning(catalog, 'auto'),
    'ordered openrouter/openai/gpt-4o office/llama3.2:3b home/qwen3:latest home/llama3.2:3b vllm/llama3.2:3b'
  )
  t.equal(
    meaning(
      catalogOf({
        upstreams: [openai, openrouter],
        targets: [on(openai, 'babbage'), on(openai, 'gpt-4o'), on(openrouter, 'openrouter/auto')]
      }),
      'auto'
    ),
    'ordered openai/gpt-4o openrouter/openrouter/auto',
    'wishes that are not listed are passed over'
  )
  const other = upstream('other')
  t.equal(
    meaning(
      catalogOf({ upstreams: [other], targets: [on(other, 'embedder', { operations: ['embed'] }), on(other, 'b'), on(other, 'c')] }),
      'auto'
    ),
    'ordered other/b',
    'without wishes the first model that chats'
  )
  t.equal(meaning(catalogOf({ upstreams: [other] }), 'auto'), '', 'nothing listed is nobody, and not the demo')
})

t.test('`auto` inside of `auto` and of aliases means nothing more, and ends', async t => {
  const aliases: Record<string, Alias> = {
    mine: { kind: 'ordered', models: ['auto', 'qwen3'] },
    weighted: { kind: 'weighted', models: [{ model: 'auto', weight: 1 }] }
  }
  const everything = 'home/llama3.2:3b office/llama3.2:3b home/qwen3:latest vllm/llama3.2:3b openrouter/openai/gpt-4o'
  t.equal(meaning(catalogOf({ ...house, auto: ['auto'] }), 'auto'), `ordered ${everything}`)
  const catalog = catalogOf({ ...house, aliases, auto: ['mine', 'weighted'] })
  t.equal(
    meaning(catalog, 'auto'),
    'ordered home/qwen3:latest home/llama3.2:3b office/llama3.2:3b vllm/llama3.2:3b openrouter/openai/gpt-4o'
  )
  t.equal(meaning(catalog, 'weighted'), meaning(catalog, 'auto'))
  t.equal(meaning(catalogOf({ ...house, aliases }), 'mine'), `ordered ${everything}`)
})

t.test('the demo answers by its name always, and `auto` only while nothing is configured', async t => {
  t.equal(meaning(catalogOf({}), 'auto'), 'ordered echo/echo')
  t.equal(meaning(catalogOf({}), 'echo'), 'echo/echo')
  t.equal(meaning(catalogOf({}), 'local'), '')
  t.equal(meaning(catalogOf({}), 'cloud'), '')
  t.equal(meaning(catalogOf({}), 'gpt-4o'), '?')
  t.equal(meaning(catalogOf(house), 'echo'), 'echo/echo')
  t.notMatch(meaning(catalogOf(house), 'auto'), /echo/)
  t.notMatch(meaning(catalogOf({ upstreams: [home], unlisted: ['home'] }), 'auto'), /echo/, 'a machine that is off is configured too')
})

t.test('an alias comes before a model of its name, and inside of it the name is the model', async t => {
  const aliases: Record<string, Alias> = {
    qwen3: { kind: 'ordered', models: ['llama3.2:3b', 'qwen3', 'other'] },
    other: { kind: 'ordered', models: ['qwen3'] }
  }
  t.equal(
    meaning(catalogOf({ ...house, aliases }), 'qwen3'),
    'ordered home/llama3.2:3b office/llama3.2:3b vllm/llama3.2:3b home/qwen3:latest'
  )
})

t.test('the list has each model once: own ones, `auto`, aliases, rented ones', async t => {
  const { models } = catalogOf({ ...house, targets: [on(openrouter, 'first'), ...(house.targets ?? []), on(openrouter, 'llama3.2:3b')] })
  t.same(
    models.map(({ id, targets }) => [id, targets.length]),
    [
      ['llama3.2:3b', 4],
      ['qwen3', 1],
      ['nomic-embed-text', 1],
      ['auto', 0],
      ['fast', 0],
      ['nothing', 0],
      ['first', 1],
      ['openai/gpt-4o', 1],
      ['meta-llama/llama-3.2-3b-instruct:free', 1],
      ['deepseek/deepseek-r1:thinking', 1]
    ]
  )
  t.same(
    catalogOf({}).models.map(({ id }) => id),
    ['echo', 'auto']
  )
  t.same(
    catalogOf({ upstreams: [home], unlisted: ['home'] }).models.map(({ id }) => id),
    ['auto']
  )
})

t.test('every name in the list can be asked for', async t => {
  const catalog = catalogOf(house)
  for (const { id } of catalog.models) t.equal(catalog.resolve(id, 0).found, true, id)
})

t.test('`x` and `x:latest` are one', async t => {
  t.same(['x', 'x:latest', 'x:latest:latest', 'latest', 'x:Latest', ':latest'].map(canonical), [
    'x',
    'x',
    'x:latest',
    'latest',
    'x:Latest',
    ''
  ])
})

t.test('a vector space is a model, wherever it runs, or what is declared to be one', async t => {
  const home = upstream('home', { adapter: 'ollama', own: true })
  const cloud = upstream('cloud')
  const nomic = on(home, 'nomic-embed-text:latest', { operations: ['embed'] })
  const rentedNomic = on(cloud, 'nomic-ai/nomic-v1.5', { operations: ['embed'] })
  const bge = on(home, 'bge-m3', { operations: ['embed'] })
  const catalog = catalogOf({
    upstreams: [home, cloud],
    targets: [nomic, rentedNomic, bge],
    aliases: {
      embedder: { kind: 'ordered', models: ['nomic-embed-text', 'cloud/nomic-ai/nomic-v1.5', 'bge-m3'] },
      mixed: {
        kind: 'weighted',
        models: [
          { model: 'bge-m3', weight: 1 },
          { model: 'nomic-embed-text', weight: 99 }
        ]
      }
    },
    vectorSpaces: { 'nomic-embed-text': 'nomic', 'cloud/nomic-ai/nomic-v1.5': 'nomic' }
  })
  const members = (name: string): readonly [string | undefined, readonly string[]] => {
    const space = catalog.spaceOf(name)
    return [space?.name, [nomic, rentedNomic, bge].filter(target => space?.has(target)).map(({ model }) => model)]
  }
  const both = ['nomic-embed-text:latest', 'nomic-ai/nomic-v1.5']
  for (const name of [
    'nomic-embed-text',
    'nomic-embed-text:latest',
    'home/nomic-embed-text',
    'ollama/nomic-embed-text',
    'cloud/nomic-ai/nomic-v1.5',
    'embedder'
  ])
    t.same(members(name), ['nomic', both], name)
  t.same(members('nomic-ai/nomic-v1.5'), ['nomic', both], 'declared with its provider, asked for without')
  t.same(members('bge-m3'), ['bge-m3', ['bge-m3']])
  t.same(members('mixed'), ['bge-m3', ['bge-m3']], 'the first that is named, never by chance')
  for (const name of ['auto', 'local', 'cloud']) t.equal(catalog.spaceOf(name), null, name)
})
