// What machines have in memory is commanded: room first, one load at a time for all gateways, and no call stops for want of a database.

import { randomUUID } from 'node:crypto'
import t, { type Test } from 'tap'
import { createMachineMemory } from '../../planner/memory.ts'
import type { LoadNews } from '../../routing/brain/memories.ts'
import type { Catalog } from '../../routing/catalog.ts'
import type { Adapter, Device, Target } from '../../routing/types.ts'
import { upsertDevice } from '../../store/devices.ts'
import { listDevices } from '../../store/fleet.ts'
import { createPool, type Pool } from '../../store/pool.ts'
import { seenProcess } from '../../store/processes.ts'
import { claimSlot } from '../../store/slots.ts'
import { createDatabase } from '../support/cluster.ts'
import { until } from '../support/wait.ts'

const device: Device = { id: 'box', maxConcurrency: 2, watts: 100, vramGb: 10, ramGb: null, keepAlive: null, numCtx: null }

function target(model: string, changes: Partial<Device> = {}): Target {
  return {
    id: `box/${model}`,
    upstream: {
      id: 'box',
      adapter: 'ollama',
      own: true,
      baseUrl: '',
      apiKey: null,
      headers: {},
      device: { ...device, ...changes },
      timeouts: { connectMs: 1, firstTokenMs: 1, idleMs: 1, totalMs: 1 },
      models: null,
      auto: [],
      streamUsage: true,
      registryId: null
    },
    model,
    contextTokens: null,
    maxOutputTokens: null,
    features: null,
    operations: ['chat'],
    loaded: false,
    price: { source: 'electricity', tokens: null },
    createdAt: 0
  }
}

async function databaseOf(t: Test): Promise<Pool> {
  const { pool } = await createDatabase(t)
  await upsertDevice(pool, { id: 'box', url: 'http://box', adapter: 'ollama', maxConcurrency: 4 })
  return pool
}

/** A gateway with a machine that does as it is told. */
async function gateway(t: Test, pool: Pool, { targets = [target('a'), target('b'), target('c')], isSeen = true } = {}) {
  const processId = randomUUID()
  if (isSeen) await seenProcess(pool, { id: processId, host: 'h', pid: 1, version: '1' })
  const loaded = new Set<string>()
  const said: string[] = []
  const logged: string[] = []
  const learned: (number | null)[] = []
  let victims: readonly Target[] | null = []
  let news: LoadNews[] = []
  let down = false
  let nowMs = 0
  const holding: PromiseWithResolvers<void>[] = []
  let isSlow = false
  const adapter = {
    hold(of: Target, keepAlive: string | number, signal: AbortSignal) {
      said.push(keepAlive === 0 ? `unload ${of.model}` : `load ${of.model} for ${keepAlive}`)
      if (!isSlow || keepAlive === 0) return Promise.resolve()
      const turn = Promise.withResolvers<void>()
      signal.addEventListener('abort', () => turn.reject(signal.reason))
      holding.push(turn)
      return turn.promise
    }
  } as Partial<Adapter> as Adapter
  const memory = createMachineMemory({
    pool,
    processId,
    adapters: new Map([['ollama', adapter]]),
    catalog: () => ({ source: { targets } }) as unknown as Catalog,
    brain: {
      isLoaded: ({ model }) => loaded.has(model),
      victims: (_, among) => (victims?.every(({ model }) => among?.includes(model) ?? true) ? victims : null),
      loading: ({ model }) => void said.push(`loading ${model}`),
      loaded({ model }) {
        said.push(`loaded ${model}`)
        loaded.add(model)
      },
      unloaded({ model }) {
        said.push(`unloaded ${model}`)
        loaded.delete(model)
      },
      loadingElsewhere: (_, model) => void said.push(`elsewhere ${model}`),
      stuckElsewhere: () => void said.push('stuck elsewhere'),
      watch() {
        const told = news
        news = []
        return told
      },
      lost: id => void said.push(`lost ${id}`)
    },
    health: { isDown: () => down },
    profiles: { observe: (_, __, { loadMs }) => void learned.push(loadMs) },
    refresh: id => void said.push(`refresh ${id}`),
    onFree: () => {},
    onStuck: ({ model }) => void said.push(`leave ${model}`),
    now: () => nowMs,
    log: message => void logged.push(message)
  })
  t.teardown(() => memory.close())
  return {
    memory,
    processId,
    loaded,
    said,
    logged,
    learned,
    holding,
    slow: () => void (isSlow = true),
    setVictims: (given: readonly Target[] | null) => void (victims = given),
    setDown: (given: boolean) => void (down = given),
    tell: (given: LoadNews) => void news.push(given),
    wait: (ms: number) => void (nowMs += ms)
  }
}

const now = { waitMs: 0 }
const rowsOf = async (pool: Pool): Promise<{ model: string }[]> => (await pool.query('select model from device_loads')).rows
const commands = (said: readonly string[]): string[] => said.filter(each => /^(un)?load /.test(each))

t.test('a model that is loaded, a machine that is no Ollama and a rented one need nothing', async t => {
  const pool = await databaseOf(t)
  const { memory, loaded } = await gateway(t, pool)
  loaded.add('a')
  t.equal(memory.prepare(target('a'), { id: '1', ...now }), null)
  const other = target('b')
  t.equal(memory.prepare({ ...other, upstream: { ...other.upstream, adapter: 'openai' } }, { id: '1', ...now }), null)
  t.equal(memory.prepare({ ...other, upstream: { ...other.upstream, device: null } }, { id: '1', ...now }), null)
})

t.test('what must leave leaves first, and no call counts on it from then on', async t => {
  const pool = await databaseOf(t)
  const { memory, said, setVictims } = await gateway(t, pool)
  setVictims([target('b'), target('c')])
  t.equal(await memory.prepare(target('a'), { id: '1', ...now }), true)
  t.same(said, ['unloaded b', 'unloaded c', 'unload b', 'unload c', 'refresh box'])
  setVictims(null)
  t.equal(await memory.prepare(target('a'), { id: '2', ...now }), true, 'the load is ours already')
  memory.settled(target('a'), '1')
  memory.settled(target('a'), '2')
  t.equal(await memory.prepare(target('a'), { id: '3', ...now }), false, 'there is no room')
  await until('the load to be free', async () => (await rowsOf(pool)).length === 0)
})

t.test('one load at a time: calls for the same model share it, and the last of them frees it', async t => {
  const pool = await databaseOf(t)
  const { memory } = await gateway(t, pool)
  const prepare = (model: string, id: string) => memory.prepare(target(model), { id, ...now })
  t.same(await Promise.all([prepare('a', '1'), prepare('a', '2'), prepare('b', '3')]), [true, true, false])
  t.same(await rowsOf(pool), [{ model: 'a' }])
  memory.settled(target('b'), '3')
  memory.settled(target('a'), '1')
  memory.settled(target('a'), '1')
  memory.settled(target('a'), 'somebody else')
  t.equal(await prepare('b', '4'), false)
  memory.settled(target('a'), '2')
  t.equal(await prepare('b', '5'), true)
  t.same(await rowsOf(pool), [{ model: 'b' }])
})

t.test('whoever was given the place waits for the load a while', async t => {
  const pool = await databaseOf(t)
  const { memory, wait } = await gateway(t, pool)
  t.equal(await memory.prepare(target('a'), { id: '1', ...now }), true)
  const patient = memory.prepare(target('b'), { id: '2', waitMs: 30_000 })
  const gone = memory.prepare(target('c'), { id: '3', waitMs: -1 })
  t.equal(await gone, false)
  memory.settled(target('a'), '1')
  t.equal(await patient, true)
  wait(1)
})

t.test('also across gateways: one that dies frees it, and so does a quarter of an hour', async t => {
  const pool = await databaseOf(t)
  const [one, other] = [await gateway(t, pool), await gateway(t, pool)]
  t.equal(await one.memory.prepare(target('a'), { id: '1', ...now }), true)
  t.equal(await other.memory.prepare(target('b'), { id: '2', ...now }), false)
  t.same(other.said, ['elsewhere a'], 'and is told to the brain')
  t.equal(await other.memory.prepare(target('a'), { id: '0', ...now }), true, 'the same model is loaded once')
  other.memory.settled(target('a'), '0')
  t.same(await rowsOf(pool), [{ model: 'a' }])
  await pool.query(`update device_loads set since = now() - interval '16 minutes'`)
  t.equal(await other.memory.prepare(target('b'), { id: '3', ...now }), true)
  await pool.query('delete from processes where id = $1', [other.processId])
  t.equal(await one.memory.prepare(target('c'), { id: '4', ...now }), false, 'it thinks that it still has its own')
  one.memory.settled(target('a'), '1')
  t.equal(await one.memory.prepare(target('c'), { id: '5', ...now }), true)
  t.same(await rowsOf(pool), [{ model: 'c' }])
  other.memory.start()
  await one.memory.close()
  t.same(await rowsOf(pool), [])
})

t.test('when the other gateway is done, it is seen', async t => {
  const pool = await databaseOf(t)
  const [one, other] = [await gateway(t, pool), await gateway(t, pool)]
  await one.memory.prepare(target('a'), { id: '1', ...now })
  await other.memory.prepare(target('b'), { id: '2', ...now })
  other.memory.start()
  one.memory.settled(target('a'), '1')
  await until('it is seen', () => other.said.includes('elsewhere null'))
  t.ok(other.said.includes('refresh box'))
})

t.test('with another gateway at work there nothing is thrown out by us', async t => {
  const pool = await databaseOf(t)
  const [one, other] = [await gateway(t, pool), await gateway(t, pool)]
  await claimSlot(pool, { deviceId: 'box', processId: other.processId, attemptId: randomUUID(), lanesAhead: [] })
  one.setVictims([target('b')])
  t.equal(await one.memory.prepare(target('a'), { id: '1', ...now }), true, 'the machine makes room itself, of what is idle')
  one.memory.settled(target('a'), '1')
  one.memory.load('box/a', ['b'])
  await until('it is given up', async () => (await rowsOf(pool)).length === 0)
  t.same(commands(one.said), [])
})

t.test('a load without a request: room, load, and its time is learned', async t => {
  const pool = await databaseOf(t)
  const { memory, said, learned, setVictims, slow, holding, wait } = await gateway(t, pool)
  setVictims([target('b')])
  slow()
  memory.load('box/a', ['b'])
  memory.load('box/a', ['b'])
  memory.load('box/c', [])
  await until('the load', () => holding.length > 0)
  t.same(said, ['unloaded b', 'unload b', 'refresh box', 'loading a', 'load a for 30m'])
  t.equal(await memory.prepare(target('a'), { id: '1', ...now }), true, 'a call for it goes along')
  t.equal(await memory.prepare(target('c'), { id: '2', ...now }), false)
  wait(1_234)
  holding[0]?.resolve()
  await until('it is loaded', () => said.includes('loaded a'))
  t.same(learned, [1_234])
  t.same(await rowsOf(pool), [{ model: 'a' }], 'the call has it still')
  memory.settled(target('a'), '1')
  await until('it is free', async () => (await rowsOf(pool)).length === 0)
})

t.test('a model that is taken out by command is not counted on, and not loaded ahead for a minute', async t => {
  const pool = await databaseOf(t)
  const { memory, loaded, said, wait } = await gateway(t, pool)
  loaded.add('a')
  t.equal(await memory.unload(target('a'), new AbortController().signal), true)
  t.same(said, ['unloaded a', 'unload a', 'refresh box'])
  const other = target('b')
  t.equal(await memory.unload({ ...other, upstream: { ...other.upstream, adapter: 'openai' } }, new AbortController().signal), false)
  memory.load('box/a', [])
  t.equal(await memory.prepare(target('a'), { id: '1', ...now }), true, 'a request loads it')
  memory.settled(target('a'), '1')
  t.same(commands(said), ['unload a'])
  wait(60_000)
  memory.load('box/a', [])
  await until('it to be loaded', () => said.includes('loaded a'))
})

t.test('it is not begun where it cannot be worth it', async t => {
  const pool = await databaseOf(t)
  const targets = [target('a'), target('b', { keepAlive: '0s' })]
  const { memory, said, setDown, loaded, setVictims } = await gateway(t, pool, { targets })
  memory.load('box/nobody', [])
  memory.load('box/b', [])
  setDown(true)
  memory.load('box/a', [])
  setDown(false)
  loaded.add('a')
  memory.load('box/a', [])
  loaded.clear()
  setVictims([target('b')])
  memory.load('box/a', ['c'])
  await until('it is given up', async () => (await rowsOf(pool)).length === 0)
  t.same(commands(said), [], 'somebody else would have to leave than was thought')
})

t.test('a load that fails is logged once and rests a minute', async t => {
  const pool = await databaseOf(t)
  const { memory, said, logged, slow, holding, wait } = await gateway(t, pool)
  slow()
  for (const count of [1, 2]) {
    memory.load('box/a', [])
    await until('the load', () => holding.length === count)
    holding[count - 1]?.reject(new Error('no memory'))
    await until('it is free', async () => (await rowsOf(pool)).length === 0)
    memory.load('box/a', [])
    wait(60_001)
  }
  t.equal(commands(said).length, 2)
  t.equal(logged.length, 1)
  t.notOk(said.includes('loaded a'))
})

t.test('a load that hangs is told, its calls may leave, and loading is over there for all gateways for ten minutes', async t => {
  const pool = await databaseOf(t)
  const [one, other] = [await gateway(t, pool), await gateway(t, pool)]
  one.slow()
  one.memory.load('box/a', [])
  await until('the load', () => one.holding.length > 0)
  one.tell({ target: target('a'), state: 'stuck' })
  one.memory.start()
  await until('it is told', async () => (await listDevices(pool))[0]?.stuckModel === 'a')
  t.ok(one.said.includes('leave a'))
  t.match(one.logged, [/does not finish loading "a"/])
  t.equal(await other.memory.prepare(target('b'), { id: '1', ...now }), false)
  t.ok(other.said.includes('stuck elsewhere'))
  one.holding[0]?.resolve()
  await until('it ends well after all', () => one.said.includes('loaded a'))
  one.tell({ target: target('a'), state: 'works' })
  await until('that is told, too', async () => (await listDevices(pool))[0]?.stuckModel === null)
  t.equal(await other.memory.prepare(target('b'), { id: '2', ...now }), true)
  const { rows } = await pool.query('select kind, note from device_events order by id')
  t.same(rows, [
    { kind: 'load_stuck', note: 'a' },
    { kind: 'load_works', note: null }
  ])
})

t.test('a machine that was away: its load is called off', async t => {
  const pool = await databaseOf(t)
  const { memory, said, slow, holding } = await gateway(t, pool)
  slow()
  memory.load('box/a', [])
  await until('the load', () => holding.length > 0)
  memory.lost('box')
  await until('it is free', async () => (await rowsOf(pool)).length === 0)
  t.ok(said.includes('lost box'))
  t.ok(said.includes('unloaded a'))
})

t.test('without a database each gateway keeps to one load at a time by itself, and says so once', async t => {
  const pool = createPool({ host: '127.0.0.1', port: 9, user: 'x', database: 'x' }, { max: 1, name: 'test', onError: () => {} })
  t.teardown(() => pool.end())
  const { memory, logged, setVictims, said } = await gateway(t, pool, { isSeen: false })
  setVictims([target('b')])
  t.equal(await memory.prepare(target('a'), { id: '1', ...now }), true)
  t.same(commands(said), ['unload b'])
  t.equal(await memory.prepare(target('b'), { id: '2', ...now }), false)
  memory.settled(target('a'), '1')
  t.equal(await memory.prepare(target('b'), { id: '3', ...now }), true)
  t.equal(logged.length, 1)
})
