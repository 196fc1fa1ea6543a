import t from 'tap'
import { classOf, createReach, laneOf } from '../../queue/lanes.ts'
import type { Target } from '../../routing/types.ts'
import { catalogOf, targetAt } from './core-support.ts'

function target(upstream: string, model: string, changes: Partial<Target> = {}): Target {
  return { ...targetAt(`${upstream}-box`, model), ...changes }
}

const tokens = (low: number) => ({ low, expected: low })
const anything = { models: null, providers: null }

type Asked = Parameters<typeof laneOf>[1]
const asked = (changes: Partial<NonNullable<Asked>> = {}): Asked =>
  ({ operation: 'chat', model: 'm', localOnly: false, needs: [], longest: tokens(10), ...changes }) as Asked

t.test('a lane says its class, and what can run it', async t => {
  const table: readonly (readonly [number, Asked, string])[] = [
    [2, null, '2/echo'],
    [0, asked(), '0/chat/any/m'],
    [1, asked({ operation: 'embed' }), '1/embed/any/m'],
    [3, asked({ localOnly: true }), '3/chat/own/m'],
    [2, asked({ providers: ['openai'] }), '2/chat/openai/m'],
    [2, asked({ only: 'home/m' }), '2/chat/any/home/m'],
    [2, asked({ needs: ['vision', 'tools'] }), '2/chat/any;tools;vision/m'],
    [2, asked({ longest: tokens(8_192) }), '2/chat/any/m'],
    [2, asked({ longest: tokens(8_193) }), '2/chat/any;16k/m'],
    [2, asked({ longest: tokens(100_000), localOnly: true }), '2/chat/own;128k/m'],
    [2, asked({ fallbacks: ['b', 'm:latest', 'a/b'] }), '2/chat/any/m\tb\ta/b'],
    [2, asked({ maxUsd: 0.5 }), '2/chat/any;key-capped/m']
  ]
  for (const [jobClass, request, lane] of table) {
    t.equal(laneOf(jobClass, request, anything), lane)
    t.equal(classOf(lane), jobClass, lane)
  }
  t.equal(laneOf(2, asked({ model: 'm:latest' }), anything), laneOf(2, asked(), anything))
  const narrow = laneOf(2, asked(), { models: ['m'], providers: null })
  t.match(narrow, /^2\/chat\/any;key-[\w-]{8}\/m$/, 'a key that may not use everything waits apart')
  t.equal(narrow, laneOf(2, asked(), { models: ['m'], providers: null }))
  t.not(narrow, laneOf(2, asked(), { models: null, providers: ['m'] }))
})

t.test('the machines of a lane are those that have its model, and can do what it asks', async t => {
  const catalog = catalogOf([
    target('home', 'm', { operations: ['chat', 'complete'] }),
    target('attic', 'm', { operations: ['embed'] }),
    targetAt('cloud', 'm', { own: false }),
    target('home', 'vendor/deep:free')
  ])
  const reach = createReach(() => catalog)
  const devices = (lane: string): string[] => [...reach(lane).devices].toSorted()
  t.same(devices('2/chat/any/m'), ['home-box'])
  t.equal(reach('2/chat/any/m').unbounded, true)
  t.same(devices('2/embed/any/m'), ['attic-box'])
  t.equal(reach('2/chat/own/m').unbounded, false, 'what stays in the house cannot be rented')
  t.same(devices('2/chat/any/vendor/deep:free'), ['home-box'], 'a model’s own slashes belong to its name')
  t.same(reach('2/echo'), { devices: new Set(), unbounded: true })
  t.same(reach('2/chat/any/unknown'), { devices: new Set(), unbounded: false })
})

t.test('a lane that takes more than every machine has reaches those that have it', async t => {
  const catalog = catalogOf([
    target('small', 'm', { contextTokens: 8_192, features: new Set(['tools']) }),
    target('large', 'm', { contextTokens: 32_768, features: new Set(['tools']) }),
    target('seeing', 'm', { contextTokens: 8_192, features: new Set(['vision']) }),
    target('unknown', 'm', { contextTokens: null, features: null })
  ])
  const reach = createReach(() => catalog)
  const devices = (lane: string): string[] => [...reach(lane).devices].toSorted()
  t.same(devices('2/chat/any/m'), ['large-box', 'seeing-box', 'small-box', 'unknown-box'])
  t.same(devices('2/chat/any;16k/m'), ['large-box', 'unknown-box'])
  t.same(devices('2/chat/any;32k/m'), ['large-box', 'unknown-box'], 'up to 32,768')
  t.same(devices('2/chat/any;64k/m'), ['unknown-box'])
  t.same(devices('2/chat/any;vision/m'), ['seeing-box', 'unknown-box'])
  t.same(devices('2/chat/any;tools;16k;key-abcdefgh/m'), ['large-box', 'unknown-box'])
})

t.test('a new catalog is seen at once', async t => {
  let catalog = catalogOf([target('home', 'm')])
  const reach = createReach(() => catalog)
  t.same([...reach('2/chat/any/m').devices], ['home-box'])
  t.equal(reach('2/chat/any/m'), reach('2/chat/any/m'), 'and an old one is asked once')
  catalog = catalogOf([target('attic', 'm')])
  t.same([...reach('2/chat/any/m').devices], ['attic-box'])
})

t.test('who is choosy about providers waits apart, and a list reaches the machines of all its models', async t => {
  const preference = { given: { only: ['a'] } } as never
  const choosy = laneOf(2, asked({ preference }), anything)
  t.match(choosy, /^2\/chat\/any;key-wish-[\w-]{8}\/m$/)
  const reach = createReach(() => catalogOf([target('a', 'm'), target('b', 'other'), target('c', 'third')]))
  t.same([...reach(choosy).devices], ['a-box'])
  t.same([...reach(laneOf(2, asked({ fallbacks: ['other', 'nobody'] }), anything)).devices], ['a-box', 'b-box'])
})
