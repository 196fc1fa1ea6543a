// A run of discovery, with a real database: what becomes of machines that are found, are gone, turn hostile, and are well again.

import { randomUUID } from 'node:crypto'
import t, { type Test } from 'tap'
import type { TailnetPeer } from '../../planner/discovery/peers.ts'
import type { Probe, ProbedNothing, Reason } from '../../planner/discovery/probe.ts'
import { type DiscoveryPorts, type DiscoveryResult, discover } from '../../planner/discovery/run.ts'
import type { TailscaleReading } from '../../planner/discovery/tailscale.ts'
import { type DeviceRecord, findDevice, lastDiscovery, listDevices, patchDevice, setVersion } from '../../store/fleet.ts'
import type { Pool } from '../../store/pool.ts'
import { createDatabase } from '../support/cluster.ts'

function peer(number: number, changes: Partial<TailnetPeer> = {}): TailnetPeer {
  const address = changes.address ?? `100.101.1.${number}`
  return {
    nodeId: `n${number}CNTRL`,
    name: `gpu${number}`,
    dnsName: `gpu${number}.tail0001.ts.net`,
    addresses: [address],
    os: 'linux',
    tags: [],
    online: true,
    isSelf: false,
    route: 'direct',
    ...changes,
    address
  }
}

const self = peer(99, { nodeId: 'nSelf', name: 'gateway', address: '127.0.0.1', addresses: ['100.101.1.99'], isSelf: true, route: null })

const running = (...peers: readonly TailnetPeer[]): TailscaleReading => ({
  state: 'running',
  message: 'Tailscale runs.',
  peers,
  userspace: false
})
const loggedOut: TailscaleReading = { state: 'logged_out', message: 'Tailscale is logged out.', peers: [], userspace: false }

interface World {
  readonly pool: Pool
  /** By `address port`: Ollama, or why not; whoever is not in it refuses. */
  readonly answers: Map<string, 'ollama' | Reason>
  version: string
  tailscale: TailscaleReading
  run(changes?: Partial<DiscoveryPorts>): Promise<DiscoveryResult>
  device(id: string): Promise<DeviceRecord>
  events(id: string): Promise<readonly (readonly [kind: string, note: string | null])[]>
}

async function world(t: Test): Promise<World> {
  const { pool } = await createDatabase(t)
  const answers = new Map<string, 'ollama' | Reason>()
  const probe: Probe = async (address, port) => {
    const answer = answers.get(`${address} ${port}`) ?? 'refused'
    if (answer !== 'ollama') return { kind: 'nothing', reason: answer, detail: `It is ${answer}.` } satisfies ProbedNothing
    return { kind: 'ollama', url: `http://${address}:${port}`, version: made.version, modelCount: 1, models: ['a'], loaded: [] }
  }
  const made: World = {
    pool,
    answers,
    version: '0.32.7',
    tailscale: running(),
    run: changes =>
      discover(
        {
          pool,
          probe,
          tailscaleBin: null,
          ports: [11_434],
          known: [],
          approve: { tags: [], names: [] },
          host: 'here',
          newId: randomUUID,
          now: () => performance.now(),
          random: () => 0,
          tailscale: async () => made.tailscale,
          ...changes
        },
        new AbortController().signal
      ),
    async device(id) {
      const record = await findDevice(pool, id)
      if (record === null) throw new Error(`there is no ${id}`)
      return record
    },
    async events(id) {
      const { rows } = await pool.query('select kind, note from device_events where device_id = $1 order by id', [id])
      return rows.map(({ kind, note }) => [kind, note] as const)
    }
  }
  return made
}

const first = '100.101.1.1 11434'

t.test('what is found is proposed, and the run is written down', async t => {
  const w = await world(t)
  w.tailscale = running(peer(1), peer(2))
  w.answers.set(first, 'ollama')
  t.match(await w.run(), { found: [{ id: 'gpu1', models: 1 }], added: ['gpu1'], gone: [], unreachable: [{}, { name: 'gpu2' }] })
  t.match(await w.device('gpu1'), { state: 'proposed', key: 'n1CNTRL:11434', origin: 'tailscale', onlyHost: null, marks: [], goneAt: null })
  t.equal((await listDevices(w.pool)).length, 1)
  t.same(await w.events('gpu1'), [['found', null]])
  t.match(await lastDiscovery(w.pool), { error: null, result: { added: ['gpu1'] } })
})

t.test('a known machine that turns hostile is marked and stays what it was; found well again, it loses the mark', async t => {
  const w = await world(t)
  w.tailscale = running(peer(1), peer(2))
  w.answers.set(first, 'ollama').set('100.101.1.2 11434', 'hostile')
  await w.run()
  await patchDevice(w.pool, 'gpu1', { state: 'approved' })
  w.answers.set(first, 'hostile')
  t.match(await w.run(), { found: [], gone: [] })
  t.match(await w.device('gpu1'), { state: 'approved', marks: ['hostile'], goneAt: null })
  await w.run()
  const marked = ['marked', 'hostile: It is hostile.']
  t.same(await w.events('gpu1'), [['found', null], ['approved', null], marked], 'told once')
  t.equal((await listDevices(w.pool)).length, 1, 'one that nobody knows is not taken in')

  await setVersion(w.pool, 'gpu1', '0.17.0', ['old_ollama'])
  t.same((await w.device('gpu1')).marks.toSorted(), ['hostile', 'old_ollama'], 'its version says nothing of that')
  w.answers.set(first, 'ollama')
  await w.run()
  t.match(await w.device('gpu1'), { state: 'approved', marks: ['old_ollama'] })
  w.answers.set(first, 'hostile')
  await w.run()
  t.same((await w.events('gpu1')).slice(-2), [['marked', 'old_ollama'], marked], 'and it is news again')
})

t.test('a machine with a known flaw is marked when it is found, before anybody approves it, until it is found mended', async t => {
  const w = await world(t)
  w.tailscale = running(peer(1))
  w.answers.set(first, 'ollama')
  w.version = '0.17.0'
  await w.run()
  await w.run()
  t.match(await w.device('gpu1'), { state: 'proposed', version: '0.17.0', marks: ['old_ollama'] })
  t.same(await w.events('gpu1'), [
    ['found', null],
    ['marked', 'old_ollama']
  ])
  w.version = '0.17.1'
  await w.run()
  t.same((await w.device('gpu1')).marks, [])
})

t.test('one that was found by its habit on this machine is marked too', async t => {
  const w = await world(t)
  w.answers.set('127.0.0.1 1234', 'ollama')
  const { added } = await w.run()
  w.answers.set('127.0.0.1 1234', 'hostile')
  t.match(await w.run(), { gone: [] })
  t.match(await w.device(String(added[0])), { marks: ['hostile'], goneAt: null })
})

t.test('one that is not there is gone, and not marked; it comes back with what was said of it', async t => {
  const w = await world(t)
  w.tailscale = running(peer(1))
  w.answers.set(first, 'ollama')
  await w.run()
  await patchDevice(w.pool, 'gpu1', { state: 'blocked' })
  w.answers.delete(first)
  t.match(await w.run(), { gone: ['gpu1'] })
  t.match(await w.device('gpu1'), { marks: [], goneAt: Date })
  w.answers.set(first, 'ollama')
  t.match(await w.run(), { added: ['gpu1'] })
  t.match(await w.device('gpu1'), { state: 'blocked', goneAt: null })
})

t.test('a rule approves by tag and by name, and does not overrule a person', async t => {
  const w = await world(t)
  w.tailscale = running(peer(1, { tags: ['tag:gpu'] }), peer(2, { tags: ['tag:office'] }), peer(3))
  for (const number of [1, 2, 3]) w.answers.set(`100.101.1.${number} 11434`, 'ollama')
  const approve = { tags: ['tag:gpu'], names: ['*3'] }
  await w.run({ approve })
  const states = async () => (await listDevices(w.pool)).map(({ id, state }) => `${id} ${state}`)
  t.same(await states(), ['gpu1 approved', 'gpu2 proposed', 'gpu3 approved'])
  t.same(await w.events('gpu1'), [
    ['found', null],
    ['approved', null]
  ])
  await patchDevice(w.pool, 'gpu1', { state: 'blocked' })
  await w.run({ approve })
  t.same(await states(), ['gpu1 blocked', 'gpu2 proposed', 'gpu3 approved'])
})

t.test('nothing of the tailnet is gone while Tailscale cannot be read', async t => {
  const w = await world(t)
  w.tailscale = running(peer(1))
  w.answers.set(first, 'ollama').set('127.0.0.1 11434', 'ollama')
  await w.run()
  w.answers.clear()
  w.tailscale = loggedOut
  await w.run()
  t.equal((await w.device('gpu1')).goneAt, null)
})

t.test('machines at loopback addresses are kept for each host', async t => {
  const w = await world(t)
  w.answers.set('127.0.0.1 11434', 'ollama')
  t.match(await w.run(), { added: ['ollama'] })
  t.match(await w.device('ollama'), { onlyHost: 'here', key: 'here http://127.0.0.1:11434', origin: 'neighbour' })
  const { added } = await w.run({ host: 'there' })
  t.match(added, [/^ollama-/], 'the other host has its own, under another name')
  t.match(await w.device(String(added[0])), { onlyHost: 'there', key: 'there http://127.0.0.1:11434' })
  t.match(await w.run(), { added: [], gone: [], changed: [] })

  w.answers.clear()
  t.match(await w.run({ host: 'there' }), { gone: added })
  t.equal((await w.device('ollama')).goneAt, null, 'that of another host is not judged')
})

t.test('a machine stays one when Tailscale comes to know its address, and when it forgets it', async t => {
  const w = await world(t)
  w.answers.set('127.0.0.1 11434', 'ollama')
  w.tailscale = loggedOut
  await w.run()
  await patchDevice(w.pool, 'ollama', { state: 'approved' })
  w.tailscale = running(self)
  await w.run()
  t.match(await w.device('ollama'), { key: 'here nSelf:11434', state: 'approved' })
  w.tailscale = loggedOut
  await w.run()
  t.match(await w.device('ollama'), { key: 'here nSelf:11434', state: 'approved', goneAt: null })
  t.equal((await listDevices(w.pool)).length, 1)
})

t.test('nothing is said of machines for which there was no time, nor of those that the configuration has by now', async t => {
  const w = await world(t)
  const numbers = Array.from({ length: 40 }, (_, index) => index + 1)
  w.tailscale = running(...numbers.map(number => peer(number)))
  for (const number of numbers) w.answers.set(`100.101.1.${number} 11434`, 'ollama')
  t.match(await w.run(), { unreachable_count: 1, not_asked: 0 })
  w.answers.clear()
  // Each question takes a second.
  let clock = 0
  const silent: Probe = async () => {
    clock += 1_000
    return { kind: 'nothing', reason: 'silent', detail: 'It is silent.' }
  }
  const result = await w.run({ probe: silent, now: () => clock, known: [{ url: 'http://100.101.1.1:11434', name: 'gpu1' }] })
  t.ok(result.not_asked > 10 && result.not_asked < 30, `${result.not_asked} not asked`)
  t.equal(result.gone.length + result.not_asked, 39, 'those that were asked are gone')
  t.equal(result.unreachable_count, 40, 'with this machine’s own port')
  t.notOk(result.gone.includes('gpu1'), 'a machine of the configuration is asked elsewhere')
  t.equal((await w.device('gpu1')).goneAt, null)
})
