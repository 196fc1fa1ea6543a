import type { IncomingMessage } from 'node:http'
import t from 'tap'
import { checkKeylessHost, checkTarget } from '../../gateway/plugins/hosts.ts'
import { GatewayError } from '../../routing/errors.ts'

/** As Node would show a request with this target and these raw headers. */
function message(url: string, ...headers: readonly (readonly [name: string, value: string])[]): IncomingMessage {
  const host = headers.find(([name]) => name.toLowerCase() === 'host')?.[1]
  return { url, rawHeaders: headers.flat(), headers: host === undefined ? {} : { host } } as unknown as IncomingMessage
}

function outcome(act: () => void): string {
  try {
    act()
    return 'taken'
  } catch (error) {
    return error instanceof GatewayError ? error.code : String(error)
  }
}

t.test('a request has one well-formed host and a path', async t => {
  const cases: readonly [name: string, request: IncomingMessage, expected: string][] = [
    ['as usual', message('/v1/models', ['Host', 'localhost:4000']), 'taken'],
    ['a query', message('/v1/models?limit=1', ['host', 'localhost']), 'taken'],
    ['no host', message('/'), 'invalid_request'],
    ['two hosts', message('/', ['Host', 'localhost'], ['host', 'localhost']), 'invalid_request'],
    ['an empty host', message('/', ['Host', '']), 'invalid_request'],
    ['an absolute target', message('http://other/v1/models', ['Host', 'localhost']), 'invalid_request'],
    ['a target that is an authority', message('other:443', ['Host', 'localhost']), 'invalid_request'],
    ['the target *', message('*', ['Host', 'localhost']), 'invalid_request'],
    ['no target', { rawHeaders: [], headers: {} } as unknown as IncomingMessage, 'invalid_request']
  ]
  for (const [name, request, expected] of cases)
    t.equal(
      outcome(() => checkTarget(request)),
      expected,
      name
    )
})

t.test('a host is a name or an address, with a port or without', async t => {
  const good = [
    'localhost',
    'LOCALHOST',
    'gateway.home',
    'gateway.home.',
    'my_box-1',
    '127.0.0.1',
    '127.0.0.1:4000',
    '[::1]',
    '[::1]:4000',
    '[fe80::1]',
    'a.b:65535'
  ]
  const bad = [
    'a/b',
    'a?x',
    'a#x',
    'a b',
    'a@b',
    'u:p@a',
    'a:',
    'a:port',
    'a:123456',
    '.a',
    'a..b',
    '::1',
    '[::1',
    '[x]',
    'ä.de',
    'a\u0000',
    'a,b',
    'localhost\n',
    '%6c'
  ]
  for (const host of good)
    t.equal(
      outcome(() => checkTarget(message('/', ['Host', host]))),
      'taken',
      host
    )
  for (const host of bad)
    t.equal(
      outcome(() => checkTarget(message('/', ['Host', host]))),
      'invalid_request',
      JSON.stringify(host)
    )
})

t.test('a hundred headers are enough', async t => {
  const fill = (count: number) => Array.from({ length: count }, (_, index) => [`x-${index}`, ''] as const)
  t.equal(
    outcome(() => checkTarget(message('/', ['Host', 'a'], ...fill(99)))),
    'taken'
  )
  t.equal(
    outcome(() => checkTarget(message('/', ['Host', 'a'], ...fill(100)))),
    'headers_too_large'
  )
})

t.test('what needs no key is answered under our own names and under addresses only', async t => {
  const allowed = ['gateway.home']
  const good = [
    'localhost',
    'localhost:4000',
    'LocalHost.',
    '127.0.0.1',
    '10.0.0.5:4000',
    '[::1]',
    '[::1]:4000',
    'gateway.home',
    'GATEWAY.home:80',
    'gateway.home.'
  ]
  const bad = [
    '',
    'evil.example',
    'localhost.evil.example',
    'gateway.home.evil.example',
    'notlocalhost',
    'sub.gateway.home',
    '127.0.0.1.nip.io',
    '2130706433',
    '0x7f.1'
  ]
  for (const host of good)
    t.equal(
      outcome(() => checkKeylessHost(host, allowed)),
      'taken',
      host
    )
  for (const host of bad)
    t.equal(
      outcome(() => checkKeylessHost(host, allowed)),
      'forbidden',
      host
    )
  t.equal(
    outcome(() => checkKeylessHost('gateway.home', [])),
    'forbidden'
  )
})
