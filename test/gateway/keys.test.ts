import t from 'tap'
import { createKeyCache, hashKey, type KeyCache, newKey, prefixOf } from '../../gateway/keys.ts'
import { GatewayError } from '../../routing/errors.ts'
import { type KeyRecord, noRules } from '../../store/keys.ts'
import { fc } from '../support/properties.ts'

function record(key: string, changes: Partial<KeyRecord> = {}): KeyRecord {
  return {
    id: `id of ${key}`,
    kind: 'source',
    source: 'me',
    name: '',
    prefix: prefixOf(key),
    createdAt: new Date(0),
    expiresAt: null,
    revokedAt: null,
    ...noRules,
    ...changes
  }
}

/** A database of keys that can be listened to, changed, and away; every question to it is counted. */
function createDatabase(keys: readonly string[] = []) {
  const records = new Map(keys.map(key => [hashKey(key).toString('hex'), record(key)]))
  const state = { nowMs: 1_000, isListening: true, isAway: false, asked: 0 }
  /** While set, answers wait. */
  let gate: Promise<void> | null = null
  const cache: KeyCache = createKeyCache({
    async find(hash) {
      state.asked++
      const found = records.get(hash.toString('hex')) ?? null
      await gate
      if (state.isAway) throw new Error('connection refused')
      return found
    },
    isListening: () => state.isListening,
    now: () => state.nowMs
  })
  return {
    state,
    cache,
    put: (key: string, changes: Partial<KeyRecord> = {}) => records.set(hashKey(key).toString('hex'), record(key, changes)),
    revoke: (key: string) => records.delete(hashKey(key).toString('hex')),
    hold(): () => void {
      const { promise, resolve } = Promise.withResolvers<void>()
      gate = promise
      return () => {
        gate = null
        resolve()
      }
    },
    async id(key: string): Promise<string | null> {
      return (await cache.find(key))?.id ?? null
    },
    async code(key: string): Promise<string> {
      try {
        await cache.find(key)
        return 'none'
      } catch (error) {
        return error instanceof GatewayError ? error.code : String(error)
      }
    }
  }
}

t.test('a key is looked up once and then known', async t => {
  const { cache, state, id } = createDatabase(['k1'])
  t.ok(cache.find('k1') instanceof Promise)
  t.equal(await id('k1'), 'id of k1')
  state.nowMs += 1e9
  t.match(cache.find('k1'), { id: 'id of k1' }, 'at once, while changes are announced')
  t.equal(state.asked, 1)
})

t.test('many requests with one unknown key are one question', async t => {
  const { cache, state, hold } = createDatabase(['k1'])
  const open = hold()
  const all = Array.from({ length: 50 }, () => cache.find('k1'))
  open()
  t.same(new Set((await Promise.all(all)).map(found => found?.id)), new Set(['id of k1']))
  t.equal(state.asked, 1)
})

t.test('while nothing is announced, a key is looked up again each second', async t => {
  const { state, id, revoke } = createDatabase(['k1'])
  await id('k1')
  state.isListening = false
  state.nowMs += 999
  await id('k1')
  t.equal(state.asked, 1)
  revoke('k1')
  state.nowMs += 1
  t.equal(await id('k1'), null)
  t.equal(state.asked, 2)
})

t.test('a key that does not exist is asked for again after two seconds, or after a change', async t => {
  const { cache, state, id, put } = createDatabase()
  t.equal(await id('k1'), null)
  t.equal(cache.find('k1'), null)
  state.nowMs += 1_999
  t.equal(cache.find('k1'), null)
  t.equal(state.asked, 1)
  state.nowMs += 1
  t.equal(await id('k1'), null)
  t.equal(state.asked, 2)
  put('k1')
  cache.clear()
  t.equal(await id('k1'), 'id of k1')
})

t.test('a change makes every key be looked up anew, once', async t => {
  const keys = Array.from({ length: 2_000 }, (_, index) => `k${index}`)
  const { cache, state, id, revoke } = createDatabase(keys)
  await Promise.all(keys.slice(0, 200).map(id))
  for (let from = 200; from < keys.length; from += 200) await Promise.all(keys.slice(from, from + 200).map(id))
  t.equal(state.asked, 2_000)
  for (let index = 0; index < 1_000; index++) cache.clear()
  revoke('k7')
  t.equal(await id('k7'), null)
  t.equal(await id('k8'), 'id of k8')
  t.equal(await id('k8'), 'id of k8')
  t.equal(state.asked, 2_002)
})

t.test('an answer from before a change is not kept', async t => {
  const { cache, state, id, hold, revoke } = createDatabase(['k1'])
  const open = hold()
  const early = cache.find('k1')
  revoke('k1')
  cache.clear()
  open()
  t.match(await early, { id: 'id of k1' }, 'who asked before the change may get it')
  t.equal(await id('k1'), null)
  t.equal(state.asked, 2)
})

t.test('who comes after a change does not get an answer from before it', async t => {
  const { cache, hold, revoke } = createDatabase(['k1'])
  const open = hold()
  const early = cache.find('k1')
  revoke('k1')
  cache.clear()
  const late = cache.find('k1')
  const together = cache.find('k1')
  open()
  await early
  t.equal(await late, null)
  t.equal(await together, null)
})

t.test('with the database away, a key that was good works for a minute', async t => {
  const { cache, state, id, code } = createDatabase(['k1'])
  await id('k1')
  state.isListening = false
  state.isAway = true
  state.nowMs += 59_999
  t.equal(await id('k1'), 'id of k1')
  t.equal(await code('other'), 'database_unavailable', 'an unknown one never does')
  state.nowMs += 1
  t.equal(await code('k1'), 'database_unavailable')
  state.isAway = false
  t.equal(await id('k1'), 'id of k1')
  t.equal(cache.find('k1') instanceof Promise, false)
})

t.test('the minute begins when the database goes away, however long ago the key was looked up', async t => {
  const { state, id, code } = createDatabase(['k1'])
  await id('k1')
  state.nowMs += 3_600_000
  await id('k1')
  t.equal(state.asked, 1, 'in use all the time, and nothing was announced')
  state.nowMs += 10
  state.isListening = false
  state.isAway = true
  state.nowMs += 50_000
  t.equal(await id('k1'), 'id of k1')
  state.nowMs += 9_990
  t.equal(await code('k1'), 'database_unavailable')
})

t.test('a key that was found to be revoked does not come back when the database goes away', async t => {
  for (const isListening of [true, false]) {
    const { cache, state, id, code, revoke } = createDatabase(['k1'])
    state.isListening = isListening
    await id('k1')
    revoke('k1')
    cache.clear()
    state.nowMs += 1_000
    t.equal(await id('k1'), null)
    state.isListening = false
    state.isAway = true
    state.nowMs += 3_000
    t.equal(await code('k1'), 'database_unavailable')
  }
})

t.test('a key that expires is refused from then on, known or not', async t => {
  const { cache, state, id, put } = createDatabase()
  put('soon', { expiresAt: new Date(Date.now() + 3_600_000) })
  put('past', { expiresAt: new Date(Date.now() - 1) })
  t.equal(await id('soon'), 'id of soon')
  await id('past')
  t.equal(cache.find('past'), null, 'whatever the clock of the database said')
  t.match(cache.find('soon'), { id: 'id of soon' })
  state.isAway = true
  state.isListening = false
  state.nowMs += 2_000
  t.equal(await id('past'), null, 'nor does the grace help it')
})

t.test('unknown keys cannot flood the database or the memory', async t => {
  const { cache, state, hold } = createDatabase(['good'])
  await cache.find('good')
  const open = hold()
  const made = Array.from({ length: 300 }, (_, index) => Promise.resolve(cache.find(`guess-${index}`)).catch((error: unknown) => error))
  t.equal(state.asked, 1 + 256)
  open()
  const codes = (await Promise.all(made)).map(answer => (answer instanceof GatewayError ? answer.code : answer))
  t.same(codes.filter(code => code === 'no_capacity').length, 44)
  t.match(cache.find('good'), { id: 'id of good' }, 'known ones are not held up')

  for (let index = 0; index < 3_000; index++) await cache.find(`wrong-${index}`)
  const before = state.asked
  for (let index = 0; index < 3_000; index++) await cache.find(`wrong-${index}`)
  t.equal(state.asked, before + 3_000, 'no more than 1,000 are remembered')
  t.equal(cache.find('wrong-2999'), null)
})

t.test('two keys that differ in one character never share an answer', async t => {
  const character = fc.integer({ min: 0x21, max: 0x7e }).map(code => String.fromCharCode(code))
  const key = fc.array(character, { minLength: 8, maxLength: 60 }).map(characters => characters.join(''))
  await fc.assert(
    fc.asyncProperty(key, fc.nat(), character, async (good, where, other) => {
      const at = where % good.length
      const bad = good.slice(0, at) + other + good.slice(at + 1)
      fc.pre(bad !== good)
      const { id } = createDatabase([good])
      const [first, second, third] = [await id(good), await id(bad), await id(good)]
      return first !== null && first === third && second === null
    }),
    { numRuns: 1_000 }
  )
  t.pass()
})

t.test('a key is 256 random bits, and its prefix is little of it', async t => {
  const keys = Array.from({ length: 100 }, newKey)
  t.equal(new Set(keys).size, 100)
  for (const key of keys) {
    t.match(key, /^sk-llm-[\w-]{43}$/)
    t.equal(prefixOf(key), key.slice(0, 11))
  }
  t.equal(hashKey('abc').toString('hex'), 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad')
})
