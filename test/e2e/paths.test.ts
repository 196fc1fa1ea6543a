// Targets, hosts and headers that two readers could understand differently, by raw socket on every route: no way around the guard.

import { connect } from 'node:net'
import t, { type Test } from 'tap'
import { createDatabase } from '../support/cluster.ts'
import { adminKey, type RunningGateway, startGateway } from '../support/gateway.ts'
import { nameOf, pathOf, type Route, routeTable } from '../support/routes.ts'
import { startCompatible } from '../support/upstream.ts'
import { until } from '../support/wait.ts'

const database = await createDatabase(t)
const upstream = await startCompatible(t)
const rented = { OPENAI_API_KEY: 'sk-upstream-openai-000000000000', OPENAI_UPSTREAM_URL: `${upstream.origin}/v1`, LOG_LEVEL: 'fatal' }
const gateway = await startGateway(t, { databaseUrl: database.url, env: rented })
const routes = await routeTable([])
const sourceKey = await create('source')
// The key that a request would revoke if it got through.
const victim = await create('source')

async function create(kind: string): Promise<{ id: string; key: string }> {
  return (await (await gateway.fetch('/v1/keys', { json: { kind, source: 'paths' } })).json()) as { id: string; key: string }
}

interface Exchange {
  readonly status: number
  readonly text: string
}

/** What the server says to these bytes until it closes; status 0 = nothing. */
function send(bytes: string, to: RunningGateway = gateway): Promise<Exchange> {
  return new Promise(resolve => {
    let text = ''
    const socket = connect(Number(new URL(to.url).port), '127.0.0.1', () => socket.write(bytes, 'latin1'))
    socket.setTimeout(5_000, () => socket.destroy())
    socket.setEncoding('latin1')
    socket.on('data', chunk => {
      text += chunk
    })
    socket.on('error', () => {})
    socket.on('close', () => resolve({ status: Number(/^HTTP\/1\.1 (\d{3})/.exec(text)?.[1] ?? 0), text }))
  })
}

interface Trick {
  readonly name: string
  readonly method?: string
  readonly target?: string
  readonly version?: string
  /** Null = none. */
  readonly host?: string | null
  /** As they stand between the first line and the body, each with its end of line. */
  readonly headers?: string
}

/** What a good request to the route looks like, but for the trick. */
function bytesOf(route: Route, { method, target, version, host, headers }: Trick, key: string | null): string {
  const body =
    route.method === 'POST'
      ? JSON.stringify({ kind: 'admin', model: 'openai/gpt-4o-mini', messages: [{ role: 'user', content: 'hi' }] })
      : ''
  // What POST /v1/keys would refuse is of no use here.
  const sent = route.url === '/v1/keys' ? (body === '' ? '' : '{"kind":"admin","source":"intruder"}') : body
  return [
    `${method ?? route.method} ${target ?? pathOf(route, victim.id)} HTTP/${version ?? '1.1'}\r\n`,
    host === null ? '' : `Host: ${host ?? 'localhost'}\r\n`,
    sent === '' ? '' : `content-type: application/json\r\ncontent-length: ${sent.length}\r\n`,
    key === null ? '' : `x-api-key: ${key}\r\n`,
    headers ?? '',
    'connection: close\r\n\r\n',
    sent
  ].join('')
}

/** Ways to write a path that a router may read as the route's own, and a guard may not. */
function pathTricks(route: Route): Trick[] {
  const path = pathOf(route, victim.id)
  const last = path.lastIndexOf('/')
  const [before, name] = [path.slice(0, last), path.slice(last + 1)]
  const hex = (character: string): string => `%${character.charCodeAt(0).toString(16)}`
  const targets: Readonly<Record<string, string>> = {
    'as it is': path,
    'a doubled slash before': `/${path}`,
    'doubled slashes within': path.replaceAll('/', '//'),
    'a doubled slash at the end': `${path}//`,
    'a slash at the end': `${path}/`,
    'a dot at the end': `${path}.`,
    'a dot segment at the end': `${path}/.`,
    'a dot segment before': `/.${path}`,
    'out of a keyless route': `/health/..${path}`,
    'out of a keyless route, doubled': `//health/..//${path}`,
    'out of a keyless route, encoded dots': `/health/%2e%2e${path}`,
    'out of a keyless route, encoded dots and slash': `/health/%2e%2e%2f${path.slice(1)}`,
    'out of a keyless route, doubly encoded': `/health/%252e%252e${path}`,
    'out of a keyless route, back slash': `/health/..\\${path.slice(1)}`,
    'out of a keyless route, encoded back slash': `/health/..%5c${path.slice(1)}`,
    'out of a keyless route, ..;/': `/health/..;${path}`,
    'out of the documentation': `/docs/..${path}`,
    'out of the documentation, encoded': `/docs/%2e%2e${path}`,
    'out of the documentation, encoded slash': `/docs/..%2f${path.slice(1)}`,
    'out of a route for sources': `/v1/models/..%2f..${path}`,
    'out of a route for sources, plain': `/v1/models/../..${path}`,
    'into a keyless route': `${path}/../../health`,
    'into a keyless route, encoded': `${path}%2f..%2f..%2fhealth`,
    'a keyless route behind ;': `${path};/health`,
    'encoded slashes': `/${path.slice(1).replaceAll('/', '%2f')}`,
    'encoded back slashes': path.replaceAll('/', '%5c'),
    'back slashes': `/${path.slice(1).replaceAll('/', '\\')}`,
    'an encoded slash before': `/%2f${path.slice(1)}`,
    'an encoded letter': `${before}/${hex(name[0] ?? 'x')}${name.slice(1)}`,
    'a doubly encoded letter': `${before}/%25${hex(name[0] ?? 'x').slice(1)}${name.slice(1)}`,
    'all letters encoded': `/${[...path.slice(1)].map(character => (character === '/' ? '/' : hex(character))).join('')}`,
    'a parameter': `${path};x=1`,
    'a parameter within': `${before};x=1/${name}`,
    'an empty parameter': `${path};`,
    'upper case': path.toUpperCase(),
    'one letter in upper case': `${before}/${(name[0] ?? '').toUpperCase()}${name.slice(1)}`,
    'a NUL at the end': `${path}%00`,
    'a NUL and a keyless route': `${path}%00/health`,
    'a keyless route and a NUL': `/health%00${path}`,
    'a bare NUL': `${path}\0`,
    'an encoded line break': `${path}%0d%0aHost:%20localhost`,
    'an encoded blank at the end': `${path}%20`,
    'an encoded tab at the end': `${path}%09`,
    'a tab within': `${path}\t/health`,
    'a blank within': `${path} /health`,
    'a vertical tab within': `${path}\v`,
    'an overlong slash': path.replace(/\/(?=[^/]*$)/, '%c0%af'),
    'overlong dots': `/health/%c0%ae%c0%ae${path}`,
    'a full-width slash': path.replace(/\/(?=[^/]*$)/, '%ef%bc%8f'),
    'a full-width letter': `${before}/%ef%bd%8d${name.slice(1)}`,
    'bytes that are no UTF-8': `${path}\xff\xfe`,
    'half an escape': `${path}%`,
    'an escape of no digits': `${path}%zz`,
    'a fragment': `${path}#/health`,
    'a fragment before': `/health#${path}`,
    'an encoded fragment': `${path}%23/health`,
    'an encoded question mark': `${path}%3f/health`,
    'a query that names another': `/health?${path}`,
    'a query': `${path}?url=/health&key=${adminKey}&api_key=${adminKey}&__proto__[admin]=1`,
    'two queries': `${path}??x=1?y=2`,
    'the absolute form': `http://localhost${path}`,
    'the absolute form of another host': `http://evil.example${path}`,
    'the absolute form with a user': `http://localhost@evil.example${path}`,
    'the absolute form of another scheme': `file://${path}`,
    'the authority form': 'localhost:4000',
    'no slash before': path.slice(1),
    'a host before': `/localhost${path}`,
    'two slashes and a host': `//localhost${path}`,
    'the asterisk form': '*'
  }
  return Object.entries(targets).map(([name, target]) => ({ name, target }))
}

const forwarded = (path: string, method: string): string =>
  [
    'X-Forwarded-Host: localhost',
    'X-Forwarded-For: 127.0.0.1',
    'X-Forwarded-Proto: https',
    'X-Forwarded-Prefix: /health',
    'X-Real-IP: 127.0.0.1',
    'Forwarded: for=127.0.0.1;host=localhost',
    'X-Host: localhost',
    'X-HTTP-Host-Override: localhost',
    `X-Original-URL: ${path}`,
    `X-Rewrite-URL: ${path}`,
    `X-Original-URI: ${path}`,
    `X-Forwarded-Uri: ${path}`,
    `X-HTTP-Method-Override: ${method}`,
    `X-HTTP-Method: ${method}`,
    `X-Method-Override: ${method}`,
    'X-User: admin',
    'X-Authenticated-User: admin'
  ]
    .map(line => `${line}\r\n`)
    .join('')

/** Of the first line, the Host and the headers. */
function headerTricks(route: Route): Trick[] {
  const path = pathOf(route, victim.id)
  const hosts = [
    '',
    'a/?x#',
    'localhost/health',
    'localhost, evil.example',
    'user@localhost',
    'user:secret@localhost',
    'localhost:99999999',
    'local host',
    '[::1',
    'localhost#@evil.example',
    '%6cocalhost',
    'localhost\\@evil.example'
  ]
  return [
    ...hosts.map(host => ({ name: `Host "${host}"`, host })),
    { name: 'HTTP/1.0 without a Host', version: '1.0', host: null },
    { name: 'HTTP/1.0 with a Host', version: '1.0' },
    { name: 'HTTP/1.1 without a Host', host: null },
    { name: 'HTTP/2.0', version: '2.0' },
    { name: 'HTTP/1.9', version: '1.9' },
    { name: 'two Hosts', headers: 'Host: evil.example\r\n' },
    { name: 'two equal Hosts', headers: 'host: localhost\r\n' },
    { name: 'a folded header', headers: `x-folded: a\r\n x-api-key: ${adminKey}\r\n` },
    { name: 'a folded Host', host: 'localhost\r\n .evil.example' },
    { name: 'a blank before the colon', headers: `x-api-key : ${adminKey}\r\n` },
    { name: 'a bare line feed', headers: `x-a: b\nx-api-key: ${adminKey}x\r\n` },
    { name: 'a NUL in a header', headers: 'x-a: b\0c\r\n' },
    { name: '__proto__', headers: '__proto__: admin\r\nconstructor: admin\r\n' },
    { name: '101 headers', headers: Array.from({ length: 101 }, (_, index) => `x-${index}: y\r\n`).join('') },
    { name: 'what a proxy would say', headers: forwarded(path, route.method) },
    { name: 'another path by header', target: '/health', headers: forwarded(path, route.method) },
    { name: 'another method by header', method: 'GET', headers: forwarded(path, route.method) },
    { name: 'another method by header, POST', method: 'POST', headers: `content-length: 0\r\n${forwarded(path, route.method)}` },
    { name: 'another path by header, a keyless one', headers: forwarded('/health', 'GET') },
    { name: 'HEAD', method: 'HEAD' },
    { name: 'OPTIONS', method: 'OPTIONS' },
    { name: 'a preflight', method: 'OPTIONS', headers: 'origin: https://a.example\r\naccess-control-request-method: POST\r\n' },
    { name: 'TRACE', method: 'TRACE' },
    { name: 'CONNECT', method: 'CONNECT', target: 'localhost:4000' },
    { name: 'a method in lower case', method: route.method.toLowerCase() },
    { name: 'QUERY', method: 'QUERY' },
    { name: 'an upgrade', headers: 'upgrade: websocket\r\n' },
    { name: 'an upgrade to HTTP/2', headers: 'upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n' },
    { name: 'a key named in Connection', headers: 'connection: x-api-key, authorization\r\n' },
    { name: 'a second request in the body', headers: 'transfer-encoding: identity\r\n' }
  ]
}

function tricksFor(route: Route): Trick[] {
  return [...pathTricks(route), ...headerTricks(route)]
}

// HEAD says no more of it than its length.
const health = await (await fetch(`${gateway.url}/health`)).text()
const healthLength = `content-length: ${health.length}\r\n`

/** Which of these were answered with a success, other than `/health` answering what it always answers. */
async function successes(route: Route, tricks: readonly Trick[], key: string | null): Promise<string[]> {
  const found: string[] = []
  for (let at = 0; at < tricks.length; at += 16) {
    await Promise.all(
      tricks.slice(at, at + 16).map(async trick => {
        const { status, text } = await send(bytesOf(route, trick, key))
        const isHealth = text.endsWith(`\r\n\r\n${health}`) || (text.startsWith('HTTP/1.1 200') && text.includes(healthLength))
        if (status !== 0 && status < 400 && !isHealth) found.push(`${trick.name}: ${status}`)
      })
    )
  }
  return found
}

const isKeyless = ({ url }: Route): boolean => /^\/(health|ready|docs|docs\/\*|openapi\.json)$/.test(url)
const isForOperators = ({ url }: Route): boolean => url.startsWith('/v1/keys') || url === '/metrics'

/** What a request that got through would leave behind. */
async function traces(): Promise<{ keys: number; revoked: number; costs: number; calls: number }> {
  const { rows } = await database.pool.query(
    `select count(*)::int as keys, count(revoked_at)::int as revoked, (select count(*)::int from llm_costs) as costs from api_keys`
  )
  return { ...rows[0], calls: upstream.calls.filter(({ method }) => method === 'POST').length }
}

t.test('the requests of this file are good ones, when they have the right key and no trick', async t => {
  for (const route of routes) {
    // There is no such key, no such job, machine, route or benchmark; and what measures a model goes on after its answer.
    if (route.method === 'DELETE' || /^.v1.(jobs|devices|routes).:id|^.v1.benchmarks/.test(route.url)) continue
    const { status } = await send(bytesOf(route, { name: 'none' }, adminKey))
    // A passed-through path that the fake provider does not have is a 502; a chat request is no good /completions.
    t.notOk([0, 401, 403, 404, 405].includes(status), `${nameOf(route)}: ${status}`)
  }
  const first = routes.find(({ method, url }) => method === 'POST' && url === '/v1/keys') as Route
  t.equal((await send(bytesOf(first, { name: 'none' }, adminKey))).status, 201)
  await until('all of them to be booked', async () => {
    const { costs, calls } = await traces()
    return costs === calls
  })
})

t.test('without a key no trick gets an answer, but from keyless routes', async t => {
  const before = await traces()
  for (const route of routes) {
    if (!isKeyless(route)) t.same(await successes(route, tricksFor(route), null), [], nameOf(route))
  }
  t.same(await traces(), before, 'nothing was done')
})

t.test('with the key of a source no trick reaches a route for operators', async t => {
  const before = await traces()
  for (const route of routes.filter(isForOperators)) {
    // Written like this they are names of models, or go to the list of them: a source may ask for both.
    const isAboutModels = ({ target = '' }: Trick): boolean => target.startsWith('/v1/models/')
    const tricks = tricksFor(route)
    t.same(
      await successes(
        route,
        tricks.filter(trick => !isAboutModels(trick)),
        sourceKey.key
      ),
      [],
      nameOf(route)
    )
    for (const trick of tricks.filter(isAboutModels)) {
      const { text } = await send(bytesOf(route, trick, sourceKey.key))
      t.notMatch(text, /"object":"key"|llm_mcp_requests_total/, `${nameOf(route)}: ${trick.name}`)
    }
  }
  t.same(await traces(), before, 'nothing was done')
})

t.test('keyless routes answer under our own names only', async t => {
  const foreign = [
    'evil.example',
    'localhost.evil.example',
    'evil.example:80',
    '127.0.0.1.evil.example',
    'evil-localhost',
    '127.1.evil',
    '0x7f000001',
    'localhost.localdomain'
  ]
  for (const route of routes.filter(isKeyless)) {
    const target = { name: '' }
    for (const host of foreign) {
      t.equal((await send(bytesOf(route, { ...target, host }, null))).status, 403, `${nameOf(route)} under ${host}`)
      const claimed = { ...target, host, headers: forwarded('/health', 'GET') }
      t.equal((await send(bytesOf(route, claimed, null))).status, 403, `${nameOf(route)} under ${host}, which a header calls localhost`)
      t.equal((await send(bytesOf(route, { ...target, host }, adminKey))).status, 403, `${nameOf(route)} under ${host}, with a key`)
    }
    for (const host of ['localhost', 'LOCALHOST:4000', '127.0.0.1', '[::1]:80', 'localhost.'])
      t.ok((await send(bytesOf(route, { ...target, host }, null))).status < 400, `${nameOf(route)} under ${host}`)
  }
  t.equal(
    (await send('GET /nothing HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n')).status,
    403,
    'nor is it said what there is not'
  )
})

t.test('keyless routes refuse what two readers could take for another host or another path', async t => {
  const refused =
    /^(Host "|two |HTTP\/1\.[01] without a Host|a folded|a blank before|a NUL|101 headers|the absolute form|the authority form|the asterisk|no slash)/
  for (const route of routes.filter(isKeyless)) {
    const tricks = tricksFor(route).filter(({ name }) => refused.test(name) && name !== 'two queries')
    t.ok(tricks.length > 25)
    for (const trick of tricks) {
      const { status } = await send(bytesOf(route, trick, null))
      t.ok(status >= 400 && status < 500, `${nameOf(route)}, ${trick.name}: ${status}`)
    }
  }
})

t.test('an answer says nothing of a Host or a path in its headers', async t => {
  for (const route of routes) {
    const { text } = await send(
      bytesOf(route, { name: '', host: 'canary.example', target: `${pathOf(route)}?canary%0d%0aset-cookie:x=1` }, null)
    )
    t.notMatch(text.split('\r\n\r\n', 1)[0] ?? '', /canary|set-cookie|^location/im, nameOf(route))
  }
})

/** What a web page may send anywhere without asking first. */
const simple: readonly (readonly [name: string, headers: string, body: string])[] = [
  ['a form', 'content-type: application/x-www-form-urlencoded\r\n', 'kind=admin&source=intruder&model=m&input=hi'],
  [
    'a form with files',
    'content-type: multipart/form-data; boundary=b\r\n',
    '--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nm\r\n--b--\r\n'
  ],
  [
    'JSON as text',
    'content-type: text/plain\r\n',
    '{"kind":"admin","source":"intruder","model":"openai/gpt-4o-mini","input":"hi","prompt":"hi","messages":[{"role":"user","content":"hi"}]}'
  ],
  [
    'JSON as text, hinting at JSON',
    'content-type: text/plain;application/json\r\n',
    '{"kind":"admin","source":"intruder","model":"openai/gpt-4o-mini","input":"hi","messages":[{"role":"user","content":"hi"}]}'
  ],
  [
    'JSON without a type',
    '',
    '{"kind":"admin","source":"intruder","model":"openai/gpt-4o-mini","input":"hi","messages":[{"role":"user","content":"hi"}]}'
  ],
  ['nothing', '', '']
]

t.test('what a web page may send without asking changes nothing, even where no key is needed', async t => {
  const open = await startGateway(t, { databaseUrl: database.url, env: { ...rented, LLM_MCP_AUTH: 'off' } })
  const before = await traces()
  for (const route of routes.filter(({ method }) => method === 'POST')) {
    const page = 'origin: https://evil.example\r\nsec-fetch-site: cross-site\r\nsec-fetch-mode: no-cors\r\n'
    for (const [name, type, body] of simple) {
      const head = `POST ${pathOf(route)} HTTP/1.1\r\nhost: ${new URL(open.url).host}\r\n${page}${type}content-length: ${Buffer.byteLength(body)}\r\n`
      const { status } = await send(`${head}connection: close\r\n\r\n${body}`, open)
      t.ok(status >= 400, `${nameOf(route)}, ${name}: ${status}`)
    }
  }
  t.same(await traces(), before, 'no key, no call, no cost')
  await foreignNames(t, open)
})

/** A name of a page's own, pointed at this machine. */
async function foreignNames(t: Test, open: RunningGateway): Promise<void> {
  for (const route of routes) {
    const { status } = await send(bytesOf(route, { name: '', host: 'rebound.example' }, null), open)
    t.equal(status, 403, `${nameOf(route)} under a foreign name`)
  }
}
