import t from 'tap'
import { createGuarded } from '../../outbound/guarded.ts'

/** Refused as they stand, before any name is looked up. */
const refusedAtOnce: Readonly<Record<string, readonly string[]>> = {
  'IPv4 loopback, however it is written': [
    'http://127.0.0.1/',
    'http://127.0.0.1:8080/hook',
    'https://127.0.0.1/',
    'http://127.1/',
    'http://127.0.1/',
    'http://127.255.255.254/',
    'http://2130706433/',
    'http://0x7f000001/',
    'http://0x7f.1/',
    'http://0X7F.0x0.0x0.0x1/',
    'http://017700000001/',
    'http://0177.0.0.1/',
    'http://127.0.0.1./',
    'http://127.0.0.1:80/?q=http://example.com/',
    'http://１２７.０.０.１/',
    'http://127。0。0。1/',
    'http://127．0｡0.1/',
    'http://①②⑦.⓪.⓪.①/',
    'http://%31%32%37.0.0.1/',
    'http://127.0.0%2e1/',
    'http:127.0.0.1/',
    'http:/127.0.0.1/',
    'http:////127.0.0.1/',
    'http:\\\\127.0.0.1\\hook',
    ' http://127.0.0.1/ ',
    'ht\ntp://127.0.\t0.1/',
    'HTTP://127.0.0.1/'
  ],
  'loopback by name': [
    'http://localhost/',
    'http://LOCALHOST:3000/',
    'http://localhost./',
    'http://localhost../',
    'http://ｌｏｃａｌｈｏｓｔ/',
    'http://hooks.localhost/',
    'http://hooks.localhost./',
    'https://local%68ost/'
  ],
  'this host and broadcast': [
    'http://0/',
    'http://0.0.0.0/',
    'http://0.1.2.3/',
    'http://255.255.255.255/',
    'http://4294967295/',
    'http://240.0.0.1/'
  ],
  'private networks': [
    'http://10.0.0.1/',
    'http://10.255.255.255/',
    'http://0xa000001/',
    'http://172.16.0.1/',
    'http://172.31.255.255/',
    'http://192.168.0.1/',
    'http://192.168.65535/',
    'http://3232235777/'
  ],
  'shared, link-local and metadata addresses': [
    'http://100.64.0.1/',
    'http://100.100.100.200/latest/meta-data',
    'http://100.127.255.255/',
    'http://169.254.169.254/latest/meta-data',
    'http://2852039166/',
    'http://0xA9.0xFE.0xA9.0xFE/',
    'http://169.254.0.1/',
    'http://192.0.0.192/',
    'http://168.63.129.16/'
  ],
  'documentation, benchmark, relay and multicast addresses': [
    'http://192.0.2.1/',
    'http://198.51.100.1/',
    'http://203.0.113.1/',
    'http://198.18.0.1/',
    'http://198.19.255.255/',
    'http://192.88.99.1/',
    'http://224.0.0.1/',
    'http://239.255.255.250/'
  ],
  'IPv6 that is not global': [
    'http://[::]/',
    'http://[::1]/',
    'http://[0:0:0:0:0:0:0:1]:8080/',
    'http://[0000::0001]/',
    'http://[fc00::1]/',
    'http://[fd00:ec2::254]/',
    'http://[fd7a:115c:a1e0::1]/',
    'http://[FE80::1]/',
    'http://[febf::1]/',
    'http://[fec0::1]/',
    'http://[ff02::1]/',
    'http://[100::1]/',
    'http://[5f00::1]/'
  ],
  'IPv4 inside IPv6': [
    'http://[::127.0.0.1]/',
    'http://[::ffff:127.0.0.1]/',
    'http://[::ffff:7f00:1]/',
    'http://[::FFFF:169.254.169.254]/',
    'http://[::ffff:0:127.0.0.1]/',
    'http://[::ffff:8.8.8.8]/',
    'http://[64:ff9b::127.0.0.1]/',
    'http://[64:ff9b::7f00:1]/',
    'http://[64:ff9b::a9fe:a9fe]/',
    'http://[64:ff9b:1::1]/',
    'http://[2002:7f00:1::]/',
    'http://[2002:a9fe:a9fe::1]/',
    'http://[2001::1]/',
    'http://[2001:0:4136:e378:8000:63bf:80ff:fffe]/',
    'http://[2001:2::1]/',
    'http://[2001:10::1]/',
    'http://[2001:db8::1]/',
    'http://[3fff::1]/'
  ],
  'other schemes': [
    'ftp://example.com/',
    'file:///etc/passwd',
    'file://example.com/etc/passwd',
    'gopher://example.com:6379/_FLUSHALL',
    'data:text/plain,x',
    'javascript:alert(1)',
    'ws://example.com/',
    'unix:/var/run/docker.sock',
    'dict://example.com:11211/',
    'blob:https://example.com/1',
    'jar:http://example.com!/'
  ],
  'a user name or a password': [
    'http://user@example.com/',
    'http://user:secret@example.com/',
    'http://:secret@example.com/',
    'https://example.com@127.0.0.1/',
    'http://127.0.0.1@example.com/',
    'http://example.com%40@127.0.0.1/',
    'http://127.0.0.1\\@example.com/'
  ],
  'what is no URL': [
    '',
    'example.com',
    '//example.com/',
    'http://',
    'http:///',
    'http://./',
    'http://.../',
    'http://256.256.256.256/',
    'http://1.2.3.4.5/',
    'http://[::1/',
    'http://[fe80::1%25eth0]/',
    'http://[::ffff:127.0.0.1.]/',
    'http://exa mple.com/',
    'http://exa<mple.com/',
    'http://example.com:65536/',
    'http://example.com:port/',
    `http://example.com/${'x'.repeat(2_048)}`
  ]
}

const accepted = [
  'https://hooks.example.com/',
  'http://hooks.example.com:8080/a/b?c=d#e',
  'HTTPS://HOOKS.EXAMPLE.COM/',
  'https://hooks.example.com./',
  'https://bücher.example/',
  'https://xn--bcher-kva.example/',
  'https://8.8.8.8/',
  'https://172.15.255.255/',
  'https://172.32.0.1/',
  'https://100.128.0.1/',
  'https://192.167.1.1/',
  'https://223.255.255.255/',
  'https://[2606:4700::1111]/',
  'https://[2001:4860:4860::8888]/',
  // Names that only look like loopback; where they lead is seen when they are called.
  'http://localhost.example.com/',
  'http://127.0.0.1.example.com/',
  'http://notlocalhost/',
  // A backslash ends the host, as in browsers.
  'http://example.com\\@127.0.0.1/'
]

/** Addresses that a name may lead to, and that are not called. */
const refusedWhenLookedUp = [
  '127.0.0.1',
  '0.0.0.0',
  '10.1.2.3',
  '172.20.0.1',
  '192.168.1.1',
  '100.101.102.103',
  '169.254.169.254',
  '168.63.129.16',
  '255.255.255.255',
  '::',
  '::1',
  '0:0:0:0:0:0:0:1',
  '::ffff:127.0.0.1',
  '::ffff:93.184.216.34',
  'fe80::1',
  'fe80::1%eth0',
  '2606:4700::1111%eth0',
  'fd00::1',
  'ff02::1',
  '64:ff9b::7f00:1',
  '2002:7f00:1::',
  '2001:0:7f00:1::',
  // What is no address at all.
  '',
  '0x7f.1',
  '127.1',
  'localhost'
]

const nobody = { allow: [], ownAddresses: () => [] }
const request = { headers: {}, body: '{}', timeoutMs: 2_000 }

t.test('a URL that cannot lead to the public internet is refused at once, in every way to write it', async t => {
  let lookups = 0
  const guarded = createGuarded({
    ...nobody,
    resolve: async () => {
      lookups++
      return ['127.0.0.1']
    }
  })
  const urls = Object.values(refusedAtOnce).flat()
  t.ok(urls.length >= 60, `${urls.length} forms`)
  for (const [kind, forms] of Object.entries(refusedAtOnce)) {
    for (const url of forms) {
      t.throws(() => guarded.check(url), { code: 'invalid_request', status: 400 }, `${kind}: ${url.slice(0, 80)}`)
      await t.rejects(guarded.post(url, request), { code: 'invalid_request' }, `posted, ${kind}: ${url.slice(0, 80)}`)
    }
  }
  t.equal(lookups, 0)
})

t.test('the refusal says what is wrong', async t => {
  const guarded = createGuarded(nobody)
  for (const [url, message] of [
    ['no url', /cannot be read/],
    ['ftp://example.com/', /http:\/\/ or https:\/\//],
    ['http://user:canary@example.com/', 'The URL must not carry a user name or a password.'],
    ['http://0x7f.1/', /127\.0\.0\.1 is not part of it/],
    ['http://localhost/', /localhost is not part of it/],
    [`http://example.com/${'x'.repeat(3_000)}`, /longer than 2048/]
  ] as const) {
    t.throws(() => guarded.check(url), { message })
  }
})

t.test('public addresses and names of all kinds are accepted', async t => {
  const guarded = createGuarded(nobody)
  for (const url of accepted) t.doesNotThrow(() => guarded.check(url), url)
})

t.test('a name that leads to an address of ours is not called, and the address is not told', async t => {
  for (const address of refusedWhenLookedUp) {
    // One bad address among good ones is enough.
    for (const addresses of [[address], ['93.184.216.34', address], [address, '93.184.216.34']]) {
      const guarded = createGuarded({ ...nobody, resolve: async () => addresses })
      await t.rejects(
        guarded.post('https://hooks.example.com/secret-path', request),
        {
          code: 'invalid_request',
          message: 'hooks.example.com leads to an address that is not part of the public internet, and the operator has not allowed it.'
        },
        addresses.join()
      )
    }
  }
})

t.test('a public address of this very machine is not called', async t => {
  const guarded = createGuarded({ allow: [], ownAddresses: () => ['93.184.216.34'], resolve: async () => ['93.184.216.34'] })
  t.throws(() => guarded.check('http://93.184.216.34/'), { code: 'invalid_request' })
  await t.rejects(guarded.post('http://hooks.example.com/', request), { code: 'invalid_request' })
})

t.test('the operator opens hosts, ports of hosts, addresses and ranges, and nothing beside them', async t => {
  const guarded = createGuarded({
    ...nobody,
    allow: [
      'Hooks.LAN',
      'localhost:9000',
      '192.168.1.5',
      '192.168.1.6:8080',
      '10.1.0.0/16',
      'fd00::5',
      '[fd00::6]:8080',
      'fd01::/64',
      'bücher.lan:80'
    ]
  })
  for (const url of [
    'http://hooks.lan/',
    'http://hooks.lan.:81/',
    'http://localhost:9000/',
    'http://192.168.1.5/',
    'http://192.168.1.5:1234/',
    'http://0xc0a80105/',
    'http://192.168.1.6:8080/',
    'http://10.1.255.255/',
    'http://[fd00::5]/',
    'http://[fd00:0::6]:8080/',
    'http://[fd01::ffff]/',
    'http://xn--bcher-kva.lan/'
  ]) {
    t.doesNotThrow(() => guarded.check(url), url)
  }
  for (const url of [
    'http://localhost/',
    'http://localhost:9001/',
    'http://192.168.1.6/',
    'http://192.168.1.7:8080/',
    'http://10.2.0.1/',
    'http://[fd00::6]/',
    'http://[fd01:0:0:1::1]/',
    'http://user@hooks.lan/',
    'ftp://hooks.lan/'
  ]) {
    t.throws(() => guarded.check(url), { code: 'invalid_request' }, url)
  }
})

t.test('an opening that cannot be read is an error at the start', async t => {
  for (const entry of [
    '',
    ' ',
    'http://hooks.lan/',
    'hooks.lan:port',
    'hooks.lan:99999',
    '10.0.0.0/33',
    '10.0.0/8',
    'hooks.lan/24',
    'a b',
    'user@host',
    '::1]:80',
    '*'
  ]) {
    t.throws(() => createGuarded({ allow: [entry] }), `"${entry}"`)
  }
})
