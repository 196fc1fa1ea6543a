// What is read from the tailscale command: a real program on PATH that prints, fails, hangs or lies.

import { existsSync, readFileSync } from 'node:fs'
import { chmod, mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { peersOf } from '../../planner/discovery/peers.ts'
import { type ReadOptions, readTailscale, type TailscaleReading } from '../../planner/discovery/tailscale.ts'
import { skipWithoutRecordings } from '../support/recordings.ts'

const recordings = fileURLToPath(new URL('../../../shared/data/recordings/', import.meta.url))

/** A folder with a `tailscale` that runs these lines, before the folders of the system. */
async function onPath(t: Test, lines: string, mode = 0o755): Promise<{ env: Record<string, string>; folder: string }> {
  const folder = t.testdir({})
  await writeFile(join(folder, 'tailscale'), `#!/bin/sh\n${lines}\n`)
  await chmod(join(folder, 'tailscale'), mode)
  return { env: { PATH: `${folder}:/usr/bin:/bin` }, folder }
}

async function printing(t: Test, text: string, options: Partial<ReadOptions> = {}): Promise<TailscaleReading> {
  const { env, folder } = await onPath(t, 'cat "$(dirname "$0")/status.json"')
  await writeFile(join(folder, 'status.json'), text)
  return readTailscale({ command: null, env, ...options })
}

const node = (changes: Record<string, unknown> = {}): Record<string, unknown> => ({
  ID: 'nGpu1CNTRL',
  HostName: 'gpu1-host',
  DNSName: 'gpu1.tail0001.ts.net.',
  OS: 'linux',
  TailscaleIPs: ['100.101.1.20', 'fd7a:115c:a1e0::1:20'],
  CurAddr: '',
  Relay: 'fra',
  Online: true,
  ...changes
})

const status = (changes: Record<string, unknown> = {}): Record<string, unknown> => ({
  Version: '1.98.1-t0',
  TUN: true,
  BackendState: 'Running',
  AuthURL: '',
  Self: node({ ID: 'nSelfCNTRL', DNSName: 'gateway.tail0001.ts.net.', TailscaleIPs: ['100.101.1.10'] }),
  CurrentTailnet: { MagicDNSSuffix: 'tail0001.ts.net' },
  Peer: { 'nodekey:22': node() },
  ...changes
})

const peersWith = (...nodes: readonly unknown[]) =>
  peersOf(status({ Peer: Object.fromEntries(nodes.map((one, index) => [`k${index}`, one])) }))

t.test('a running Tailscale gives this machine and the others', async t => {
  const reading = await printing(t, JSON.stringify(status(), null, 2))
  t.equal(reading.state, 'running')
  t.equal(reading.message, 'Tailscale runs: 1 other machine is online.')
  t.equal(reading.userspace, false)
  t.same(reading.peers, [
    {
      nodeId: 'nSelfCNTRL',
      name: 'gateway',
      dnsName: 'gateway.tail0001.ts.net',
      address: '127.0.0.1',
      addresses: ['100.101.1.10'],
      os: 'linux',
      tags: [],
      online: true,
      isSelf: true,
      route: null
    },
    {
      nodeId: 'nGpu1CNTRL',
      name: 'gpu1',
      dnsName: 'gpu1.tail0001.ts.net',
      address: '100.101.1.20',
      addresses: ['100.101.1.20', 'fd7a:115c:a1e0::1:20'],
      os: 'linux',
      tags: [],
      online: true,
      isSelf: false,
      route: 'relay'
    }
  ])
})

t.test('the recorded status files are read', { skip: skipWithoutRecordings }, async t => {
  const file = (name: string): string => {
    const path = `${recordings}tailscale-status-${name}.json`
    t.ok(existsSync(path), path)
    return readFileSync(path, 'utf8')
  }
  const real = await printing(t, file('johejo'))
  t.equal(real.state, 'running')
  // Its author made up the IPv4 address, outside of every tailnet.
  t.match(real.peers, [
    { nodeId: 'testhostname.tailc2865.ts.net', name: 'testhostname', address: 'fd7a:115c:a1e0::ac99:b03d', os: 'macOS', route: 'relay' }
  ])
  t.equal(real.peers.length, 1, 'the phone is left out')

  const made = await printing(t, file('synthetic'))
  t.match(
    made.peers.map(({ nodeId, name, address, tags, route }) => ({ nodeId, name, address, tags, route })),
    [
      { nodeId: 'nSelfAAAA1CNTRL', name: 'gateway', address: '127.0.0.1', tags: [], route: null },
      { nodeId: 'nGpuBBBBB2CNTRL', name: 'gpu1', address: '100.101.1.20', tags: ['tag:gpu'], route: 'direct' }
    ]
  )
  t.equal(made.peers.length, 2, 'the one that is offline and the phone are left out')
})

t.test('what is not running is said by name, without the link to log in', async t => {
  for (const [state, expected, message] of [
    ['NeedsLogin', 'logged_out', /logged out.*tailscale up/],
    ['Stopped', 'stopped', /stopped/],
    ['Starting', 'starting', /starting/],
    ['NoState', 'starting', /starting/],
    ['NeedsMachineAuth', 'needs_approval', /approves/],
    ['InUseOtherUser', 'unreachable', /another user/],
    ['SomethingNew', 'unreadable', /not print a state/],
    [undefined, 'unreadable', /not print a state/],
    [7, 'unreadable', /not print a state/]
  ] as const) {
    const reading = await printing(t, JSON.stringify(status({ BackendState: state, AuthURL: 'https://login.tailscale.com/a/canary' })))
    t.equal(reading.state, expected, String(state))
    t.match(reading.message, message)
    t.notMatch(JSON.stringify(reading), /canary/)
    t.same(reading.peers, [], 'nothing is said about machines')
  }
})

t.test('logged out, everything may be null', async t => {
  const reading = await printing(
    t,
    JSON.stringify({ Version: '1.98', TUN: true, BackendState: 'NeedsLogin', TailscaleIPs: null, Self: { ID: '' }, Peer: null, User: null })
  )
  t.equal(reading.state, 'logged_out')
})

t.test('a null Peer is a tailnet of one', async t => {
  const reading = await printing(t, JSON.stringify(status({ Peer: null })))
  t.equal(reading.state, 'running')
  t.same(
    reading.peers.map(peer => peer.name),
    ['gateway']
  )
})

t.test('userspace networking is seen and said', async t => {
  const reading = await printing(t, JSON.stringify(status({ TUN: false })))
  t.equal(reading.userspace, true)
  t.match(reading.message, /cannot be reached.*userspace/)
})

t.test('what is no status is unreadable', async t => {
  for (const text of ['', 'null', '[]', '7', '"x"', '{', '{"BackendState":', '<html></html>', 'Logged out.\n']) {
    const reading = await printing(t, text)
    t.same([reading.state, reading.peers], ['unreadable', []], JSON.stringify(text))
  }
})

t.test('a command that fails says that nobody answers, and nothing of what it printed', async t => {
  for (const [lines, message] of [
    [`echo "failed to connect to local tailscaled; it doesn't appear to be running (canary)" >&2; exit 1`, /service does not run/],
    ['echo "Access denied: status access denied canary" >&2; exit 1', /does not let the user/],
    ['echo canary >&2; echo canary; exit 3', /exit code 3/],
    ['kill -TERM $$', /SIGTERM/]
  ] as const) {
    const reading = await readTailscale({ command: null, env: (await onPath(t, lines)).env })
    t.equal(reading.state, 'unreachable')
    t.match(reading.message, message)
    t.notMatch(reading.message, /canary/)
  }
})

t.test('a command that hangs is ended', async t => {
  const { env, folder } = await onPath(t, `echo $$ > "$(dirname "$0")/pid"; trap '' TERM; exec sleep 600`)
  const reading = await readTailscale({ command: null, env, timeoutMs: 1_000 })
  t.equal(reading.state, 'slow')
  t.match(reading.message, /within 1 s/)
  const pid = Number(readFileSync(join(folder, 'pid'), 'utf8'))
  t.throws(() => process.kill(pid, 0), { code: 'ESRCH' })
})

t.test('a command without an end is ended at 16 MB', async t => {
  const { env } = await onPath(t, `exec head -c 1000000000 /dev/zero`)
  const reading = await readTailscale({ command: null, env, timeoutMs: 30_000 })
  t.equal(reading.state, 'unreadable')
  t.match(reading.message, /16 MB/)
})

t.test('called off, it ends with the reason', async t => {
  const { env } = await onPath(t, 'exec sleep 600')
  const caller = new AbortController()
  const reading = readTailscale({ command: null, env, signal: caller.signal })
  caller.abort(new Error('enough'))
  await t.rejects(reading, { message: 'enough' })
})

t.test('a missing command is absent, on PATH and where the configuration says', async t => {
  const nowhere = { env: { PATH: t.testdir({}) } }
  const onNoPath = await readTailscale({ command: null, ...nowhere })
  t.same([onNoPath.state, onNoPath.peers], ['absent', []])
  t.match(onNoPath.message, /not on PATH/)
  const named = await readTailscale({ command: '/no/such/tailscale', ...nowhere })
  t.equal(named.state, 'absent')
  t.match(named.message, /TAILSCALE_BIN/)
  for (const command of ['', 'a\0b']) t.equal((await readTailscale({ command, ...nowhere })).state, 'absent', JSON.stringify(command))
})

t.test('a file that is no program is said to be none', async t => {
  const { folder } = await onPath(t, 'exit 0', 0o644)
  const reading = await readTailscale({ command: join(folder, 'tailscale') })
  t.equal(reading.state, 'absent')
  t.match(reading.message, /cannot be run \(EACCES\)/)
})

t.test('the configured command is run as it is, without a shell, with the same two arguments', async t => {
  const folder = join(t.testdir({}), 'a $(touch gone) folder')
  await mkdir(folder)
  const command = join(folder, 'my tailscale')
  await writeFile(command, `#!/bin/sh\nprintf '{"BackendState":"Running","Self":{"ID":"n1","HostName":"%s"}}' "$#-$1-$2"\n`)
  await chmod(command, 0o755)
  const reading = await readTailscale({ command, env: { PATH: '/nowhere' } })
  t.equal(reading.peers[0]?.name, '2-status---json')
})

t.test('machines without models are left out', async t => {
  for (const [why, changes] of [
    ['offline', { Online: false }],
    ['nothing said about being online', { Online: undefined }],
    ['expired', { Expired: true }],
    ['a stub for a share', { ShareeNode: true }],
    ['no address', { TailscaleIPs: null }],
    ['no address that is one', { TailscaleIPs: ['gpu1', 7, null, '::ffff:127.0.0.1', 'fe80::1%eth0'] }],
    ['a phone', { OS: 'iOS' }],
    ['a phone', { OS: 'android' }],
    ['a television', { OS: 'tvOS' }],
    ['an exit of Mullvad', { DNSName: 'se-sto-wg-001.mullvad.ts.net.' }],
    ['an exit of Mullvad', { Location: { Country: 'Sweden' } }]
  ] as const) {
    t.same(
      peersWith(node(changes)).map(peer => peer.name),
      ['gateway'],
      why
    )
  }
  t.equal(peersWith(node({ Expired: false, ShareeNode: false, Location: null })).length, 2)
})

t.test('this machine is there whatever is said about it, and is asked on loopback', async t => {
  const self = { ...node({ ID: 'nSelf', Online: false, TailscaleIPs: null }) }
  t.match(peersOf(status({ Self: self, Peer: null })), [
    { nodeId: 'nSelf', address: '127.0.0.1', isSelf: true, online: false, route: null }
  ])
})

t.test('the address is the first in the tailnet, IPv4 before IPv6', async t => {
  for (const [addresses, expected] of [
    [['fd7a:115c:a1e0::1:20', '100.101.1.20'], '100.101.1.20'],
    [['FD7A:115C:A1E0:0::1:20'], 'fd7a:115c:a1e0::1:20'],
    [['192.168.1.20', '100.101.1.20'], '100.101.1.20'],
    // The guard will refuse it, and that is said.
    [['192.168.1.20'], '192.168.1.20']
  ] as const) {
    t.equal(peersWith(node({ TailscaleIPs: addresses })).at(-1)?.address, expected)
  }
})

t.test('a name is the first label, else the name of the host, else the id; control characters are gone', async t => {
  for (const [changes, expected] of [
    [{}, 'gpu1'],
    [{ DNSName: '' }, 'gpu1-host'],
    [{ DNSName: 7, HostName: '\u0000\u001b[31mred\u202e\u200b\n' }, '[31mred'],
    [{ DNSName: '', HostName: '\u0007\u0008' }, 'nGpu1CNTRL'],
    [{ DNSName: '', HostName: '💻'.repeat(1_000_000) }, '💻'.repeat(63)]
  ] as const) {
    t.equal(peersWith(node(changes)).at(-1)?.name, expected)
  }
})

t.test('a machine without an id goes by its name in DNS, then by its address, never by its key', async t => {
  t.equal(peersWith(node({ ID: undefined, PublicKey: 'nodekey:22' })).at(-1)?.nodeId, 'gpu1.tail0001.ts.net')
  t.equal(peersWith(node({ ID: 'a b', DNSName: '' })).at(-1)?.nodeId, '100.101.1.20')
  t.equal(peersWith(node(), node({ HostName: 'again' })).length, 2, 'one id, one machine')
})

t.test('the route is direct or by relay', async t => {
  for (const [changes, expected] of [
    [{ CurAddr: '192.0.2.1:41641' }, 'direct'],
    [{ CurAddr: '', PeerRelay: '192.0.2.1:1:2', Relay: '' }, 'relay'],
    [{ CurAddr: '', Relay: '' }, null],
    [{ CurAddr: 7, Relay: {}, PeerRelay: null }, null]
  ] as const) {
    t.equal(peersWith(node(changes)).at(-1)?.route, expected)
  }
})

t.test('machines of the own tailnet come before those that are shared with it', async t => {
  const names = peersWith(
    node({ ID: 'n1', DNSName: 'gpu1.evil.ts.net.' }),
    node({ ID: 'n3', DNSName: 'gpu1.tail0001.ts.net.' }),
    node({ ID: 'n2', DNSName: 'gpu2.tail0001.ts.net.' })
  ).map(peer => peer.nodeId)
  t.same(names, ['nSelfCNTRL', 'n2', 'n3', 'n1'])
})

t.test('at most 1,000 machines are read, and whatever the types are, nothing is thrown', async t => {
  const many = Array.from({ length: 20_000 }, (_, index) => node({ ID: `n${index}` }))
  t.equal(peersWith(...many).length, 1_000)
  const values = [null, undefined, true, 7, -1, 'x', '', [], {}, ['x', null, 7, {}], { a: { b: [] } }]
  const fields = [
    'ID',
    'HostName',
    'DNSName',
    'OS',
    'TailscaleIPs',
    'Tags',
    'CurAddr',
    'Relay',
    'PeerRelay',
    'Online',
    'Expired',
    'Location'
  ]
  for (const field of fields) for (const value of values) t.ok(peersWith(node({ [field]: value })).length >= 1, `${field}: ${value}`)
  for (const field of ['Self', 'Peer', 'CurrentTailnet', 'MagicDNSSuffix', 'TUN']) {
    for (const value of values) t.ok(Array.isArray(peersOf(status({ [field]: value }))), `${field}: ${value}`)
  }
  for (const value of values) t.same(peersOf(value), [])
  t.same(
    peersWith(node({ Tags: ['tag:gpu', 7, '', 'a\u0000b', ...Array(100).fill('x')] }))
      .at(-1)
      ?.tags.slice(0, 3),
    ['tag:gpu', 'ab', 'x']
  )
  t.ok((peersWith(node({ Tags: Array(100).fill('x') })).at(-1)?.tags.length ?? 0) <= 32)
})
