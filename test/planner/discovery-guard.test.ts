// What discovery may contact: the configured ranges, and never what lies outside of them or looks like it.

import t from 'tap'
import { canonicalAddress, createAddressGuard, defaultRanges } from '../../planner/discovery/guard.ts'

t.test('by default this machine and the tailnet are allowed', async t => {
  const guard = createAddressGuard(defaultRanges)
  for (const address of [
    '127.0.0.1',
    '127.255.255.255',
    '::1',
    '0:0:0:0:0:0:0:1',
    '100.64.0.1',
    '100.101.1.20',
    '100.127.255.254',
    'fd7a:115c:a1e0::1',
    'FD7A:115C:A1E0:0:0:0:1:20'
  ]) {
    t.equal(guard.allows(address), true, address)
    t.equal(guard.allows(address, 11_434), true, address)
  }
})

t.test('everything else is outside, in every way to write it', async t => {
  const guard = createAddressGuard(defaultRanges)
  for (const address of [
    '8.8.8.8',
    '10.0.0.1',
    '192.168.1.20',
    '172.16.0.1',
    '100.63.255.255',
    '100.128.0.1',
    '169.254.169.254',
    '0.0.0.0',
    '255.255.255.255',
    '::',
    'fe80::1',
    'fd7a:115c:a1e1::1',
    'fd00::1',
    '2606:4700::1111',
    // Metadata and services within the tailnet's ranges.
    '100.100.100.100',
    '100.100.100.200',
    '100.115.92.1',
    'fd7a:115c:a1e0::53',
    // IPv4 within IPv6, which a BlockList reads as IPv4.
    '::ffff:127.0.0.1',
    '::FFFF:7f00:1',
    '::ffff:100.101.1.20',
    '0:0:0:0:0:ffff:7f00:0001',
    '::ffff:169.254.169.254',
    '::127.0.0.1',
    '64:ff9b::7f00:1',
    '2002:7f00:1::',
    // An interface, names, and what is no address.
    '::1%lo',
    'fd7a:115c:a1e0::1%tailscale0',
    'localhost',
    'gpu1',
    '127.1',
    '0x7f.0.0.1',
    '0177.0.0.1',
    '2130706433',
    '127.0.0.1:80',
    '[::1]',
    ' 127.0.0.1',
    '127.0.0.1\n',
    ''
  ]) {
    t.equal(guard.allows(address), false, JSON.stringify(address))
    t.equal(guard.allows(address, 11_434), false, JSON.stringify(address))
  }
})

t.test('the configuration opens ranges, addresses and ports, but never metadata and IPv4 in disguise', async t => {
  const guard = createAddressGuard(['192.168.1.0/24', '10.0.0.5', '10.0.0.6:11434', '[fd00::6]:8000', 'fd01::7'])
  t.equal(guard.allows('192.168.1.77'), true)
  t.equal(guard.allows('192.168.2.77'), false)
  t.equal(guard.allows('127.0.0.1'), false, 'what is not named is closed')
  t.equal(guard.allows('10.0.0.5', 1234), true)
  t.same([guard.allows('10.0.0.6', 11_434), guard.allows('10.0.0.6', 22), guard.allows('10.0.0.6')], [true, false, false])
  t.same([guard.allows('fd00::6', 8000), guard.allows('fd00::6', 8001)], [true, false])
  t.equal(guard.allows('fd01:0::7', 1), true)

  const all = createAddressGuard(['0.0.0.0/0', '::/0'])
  t.equal(all.allows('8.8.8.8'), true)
  for (const address of ['169.254.169.254', '100.100.100.200', '::ffff:8.8.8.8', 'fe80::1', 'ff02::1', '224.0.0.1', '0.0.0.0', '::']) {
    t.equal(all.allows(address), false, address)
  }
  t.equal(createAddressGuard([]).allows('127.0.0.1'), false)
})

t.test('what is no range is an error at the start, and a name is none', async t => {
  for (const entry of [
    '',
    'gpu1',
    'localhost',
    'gpu1:11434',
    '10.0.0.0/33',
    '10.0.0/8',
    '0x7f.1',
    '*',
    'http://10.0.0.1/',
    '10.0.0.1:99999999'
  ]) {
    t.throws(() => createAddressGuard([entry]), `"${entry}"`)
  }
})

t.test('an address has one spelling', async t => {
  t.equal(canonicalAddress('FD7A:115C:A1E0:0000::0001'), 'fd7a:115c:a1e0::1')
  t.equal(canonicalAddress('100.64.0.1'), '100.64.0.1')
  for (const text of ['::ffff:1.2.3.4', 'fe80::1%eth0', 'gpu1', '']) t.equal(canonicalAddress(text), null, text)
})
