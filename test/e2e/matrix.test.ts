// Who may call what: every route of the program x every kind of key x every way to send one, against a golden table.

import { Agent, request } from 'node:http'
import t from 'tap'
import { createDatabase } from '../support/cluster.ts'
import { startGateway } from '../support/gateway.ts'
import { nameOf, pathOf, type Route, routeTable } from '../support/routes.ts'
import { startCompatible } from '../support/upstream.ts'
import { until } from '../support/wait.ts'

const kinds = ['source', 'admin', 'worker', 'metrics'] as const
type Kind = (typeof kinds)[number]

const callers = ['source', 'admin'] as const
const operators = ['metrics', 'admin'] as const

/** Every route there is, and the kinds of key it takes; `none` = it needs no key. A new route needs a line of its own. */
const golden: Readonly<Record<string, readonly Kind[] | 'none'>> = {
  // Only where LLM_MCP_CORS_ORIGINS is set.
  'OPTIONS *': 'none',
  'POST /v1/chat/completions': callers,
  'POST /chat/completions': callers,
  'POST /v1/completions': callers,
  'POST /completions': callers,
  'POST /v1/embeddings': callers,
  'POST /embeddings': callers,
  'POST /v1/responses': callers,
  'POST /responses': callers,
  'GET /v1/models': callers,
  'HEAD /v1/models': callers,
  'GET /v1/models/*': callers,
  'HEAD /v1/models/*': callers,
  'GET /models': callers,
  'HEAD /models': callers,
  'GET /models/*': callers,
  'HEAD /models/*': callers,
  'POST /v1/jobs': callers,
  'GET /v1/jobs': callers,
  'HEAD /v1/jobs': callers,
  'GET /v1/jobs/:id': callers,
  'HEAD /v1/jobs/:id': callers,
  'POST /v1/jobs/:id/cancel': callers,
  'POST /v1/jobs/:id/retry': callers,
  'POST /v1/jobs/:id/webhook': callers,
  'GET /v1/jobs/:id/stream': callers,
  'POST /v1/route': callers,
  'POST /route': callers,
  'GET /v1/routes/:id': callers,
  'HEAD /v1/routes/:id': callers,
  'GET /v1/costs/summary': callers,
  'HEAD /v1/costs/summary': callers,
  'POST /v1/audio': callers,
  'POST /v1/audio/*': callers,
  'POST /audio': callers,
  'POST /audio/*': callers,
  'POST /v1/images': callers,
  'POST /v1/images/*': callers,
  'POST /images': callers,
  'POST /images/*': callers,
  'POST /v1/moderations': callers,
  'POST /v1/moderations/*': callers,
  'POST /moderations': callers,
  'POST /moderations/*': callers,
  'GET /v1/dashboard': ['admin'],
  'HEAD /v1/dashboard': ['admin'],
  'GET /v1/devices': ['admin'],
  'HEAD /v1/devices': ['admin'],
  'GET /v1/devices/:id': ['admin'],
  'HEAD /v1/devices/:id': ['admin'],
  'PATCH /v1/devices/:id': ['admin'],
  'POST /v1/devices/offline': ['admin'],
  'POST /v1/discovery/run': ['admin'],
  'GET /v1/discovery/last': ['admin'],
  'HEAD /v1/discovery/last': ['admin'],
  'POST /v1/benchmarks': ['admin'],
  'POST /v1/benchmarks/run': ['admin'],
  'GET /v1/benchmarks': ['admin'],
  'HEAD /v1/benchmarks': ['admin'],
  'GET /v1/benchmarks/:id': ['admin'],
  'HEAD /v1/benchmarks/:id': ['admin'],
  'POST /v1/benchmarks/:id/cancel': ['admin'],
  'POST /v1/keys': ['admin'],
  'GET /v1/keys': ['admin'],
  'HEAD /v1/keys': ['admin'],
  'DELETE /v1/keys/:id': ['admin'],
  'GET /metrics': operators,
  'HEAD /metrics': operators,
  'GET /health': 'none',
  'HEAD /health': 'none',
  'GET /ready': 'none',
  'HEAD /ready': 'none',
  'GET /docs': 'none',
  'HEAD /docs': 'none',
  'GET /docs/*': 'none',
  'HEAD /docs/*': 'none',
  'GET /openapi.json': 'none',
  'HEAD /openapi.json': 'none'
}

/** How a key is sent. Only the first four count. */
const forms: readonly {
  readonly name: string
  readonly counts: boolean
  readonly headers: (key: string) => string[]
  readonly query?: true
}[] = [
  { name: 'Authorization: Bearer', counts: true, headers: key => ['Authorization', `Bearer ${key}`] },
  { name: 'authorization: bearer', counts: true, headers: key => ['authorization', `bearer ${key}`] },
  { name: 'x-api-key', counts: true, headers: key => ['x-api-key', key] },
  { name: 'api-key', counts: true, headers: key => ['API-Key', key] },
  { name: '?key=', counts: false, headers: () => [], query: true },
  { name: 'cookie', counts: false, headers: key => ['cookie', `key=${key}; api-key=${key}; authorization=Bearer ${key}`] },
  { name: 'Proxy-Authorization', counts: false, headers: key => ['proxy-authorization', `Bearer ${key}`] },
  { name: 'no Bearer before it', counts: false, headers: key => ['authorization', key] },
  { name: 'Basic', counts: false, headers: key => ['authorization', `Basic ${Buffer.from(`:${key}`).toString('base64')}`] }
]

const database = await createDatabase(t)
const upstream = await startCompatible(t)
const gateway = await startGateway(t, {
  databaseUrl: database.url,
  env: {
    OPENAI_API_KEY: 'sk-upstream-openai-000000000000',
    OPENAI_UPSTREAM_URL: `${upstream.origin}/v1`,
    LLM_MCP_CORS_ORIGINS: 'https://app.example',
    LOG_LEVEL: 'fatal'
  }
})
const agent = new Agent({ keepAlive: true, maxSockets: 8 })
t.teardown(() => agent.destroy())
const routes = await routeTable(['https://app.example'])

interface Answer {
  readonly status: number
  readonly code: string | null
  readonly message: string | null
}

/** One request on a kept connection, its headers exactly as given: names that come twice are sent twice. */
function ask(route: Route, headers: readonly string[], query = ''): Promise<Answer> {
  const { host, port, hostname } = new URL(gateway.url)
  const body = route.method === 'POST' ? ['content-type', 'application/json', 'content-length', '2'] : []
  return new Promise((resolve, reject) => {
    const sent = request(
      { agent, hostname, port, method: route.method, path: `${pathOf(route)}${query}`, headers: ['host', host, ...body, ...headers] },
      response => {
        const chunks: Buffer[] = []
        response.on('data', chunk => chunks.push(chunk))
        response.on('end', () => resolve({ status: response.statusCode ?? 0, ...errorIn(Buffer.concat(chunks).toString('utf8')) }))
        response.on('error', reject)
      }
    )
    sent.on('error', reject)
    sent.end(route.method === 'POST' ? '{}' : undefined)
  })
}

function errorIn(text: string): Pick<Answer, 'code' | 'message'> {
  try {
    const { error } = JSON.parse(text) as { error?: { code: string; message: string } }
    return { code: error?.code ?? null, message: error?.message ?? null }
  } catch {
    return { code: null, message: null }
  }
}

/** What the guard said; all that is not its word came from behind it. */
function verdict({ status }: Answer): string {
  return status === 401 || status === 403 ? String(status) : 'passed'
}

async function create(more: object): Promise<{ id: string; key: string }> {
  const answer = await gateway.fetch('/v1/keys', { json: { source: 'matrix', ...more } })
  if (answer.status !== 201) throw new Error(`${answer.status}: ${await answer.text()}`)
  return (await answer.json()) as { id: string; key: string }
}

const living = Object.fromEntries(await Promise.all(kinds.map(async kind => [kind, (await create({ kind })).key] as const))) as Record<
  Kind,
  string
>

/** Of the kind that may do most, had it lived. */
async function deadKeys(): Promise<Record<string, string>> {
  const expiring = await create({ kind: 'admin', expires_at: new Date(Date.now() + 1_000).toISOString() })
  const revoked = await create({ kind: 'admin' })
  await gateway.fetch(`/v1/keys/${revoked.id}`, { method: 'DELETE' })
  for (const key of [expiring.key, revoked.key]) {
    await until(
      'it to be refused',
      async () => (await gateway.fetch('/v1/keys', { headers: { authorization: `Bearer ${key}` } })).status === 401
    )
  }
  return {
    expired: expiring.key,
    revoked: revoked.key,
    unknown: `sk-llm-${'A'.repeat(43)}`,
    'one letter too many': `${living.admin}x`,
    'one letter too few': living.admin.slice(0, -1),
    malformed: 'x y',
    short: 'sk',
    'not ASCII': `${living.admin}\xe9`,
    empty: ''
  }
}

t.test('the table names every route of the program, and no other', async t => {
  const names = routes.map(nameOf)
  t.same(
    names.filter(name => golden[name] === undefined),
    [],
    'routes without a line in the table'
  )
  t.same(
    Object.keys(golden).filter(name => !names.includes(name)),
    [],
    'lines of the table without a route'
  )
  t.equal(new Set(names).size, names.length, 'each once')
  const plain = (await routeTable([])).map(nameOf)
  t.same(
    names.filter(name => !plain.includes(name)),
    ['OPTIONS *'],
    'what CORS adds'
  )
})

t.test('every route takes the kinds of key the table says, in each header, and no other', async t => {
  const keys: Readonly<Record<string, string>> = { ...living, ...(await deadKeys()) }
  // One assertion for each route: thousands would take longer than the requests.
  for (const route of routes) {
    const requires = golden[nameOf(route)] ?? []
    const wrong: string[] = []
    const expected = (holder: string | null): string => {
      if (requires === 'none') return 'passed'
      const kind = kinds.find(kind => kind === holder)
      return kind === undefined ? '401' : requires.includes(kind) ? 'passed' : '403'
    }
    const check = async (what: string, holder: string | null, headers: readonly string[], query = ''): Promise<void> => {
      const answer = await ask(route, headers, query)
      const code = { 401: 'invalid_api_key', 403: 'insufficient_permissions' }[answer.status]
      if (verdict(answer) !== expected(holder)) wrong.push(`${what}: ${answer.status} ${answer.code}, expected ${expected(holder)}`)
      else if (code !== undefined && route.method !== 'HEAD' && answer.code !== code)
        wrong.push(`${what}: ${answer.code}, expected ${code}`)
    }
    await Promise.all([
      check('no key', null, []),
      ...Object.entries(keys).flatMap(([holder, key]) =>
        forms.map(({ name, counts, headers, query }) =>
          check(
            `${holder} by ${name}`,
            counts ? holder : null,
            headers(key),
            query && `?key=${encodeURIComponent(key)}&api_key=${living.admin}`
          )
        )
      )
    ])
    t.same(wrong, [], nameOf(route))
  }
})

t.test('two different keys are a 400, wherever they stand and whichever is the better one', async t => {
  const { source, admin } = living
  const unknown = `sk-llm-${'B'.repeat(43)}`
  const pairs: readonly (readonly [string, readonly string[]])[] = [
    ['Authorization and x-api-key', ['authorization', `Bearer ${admin}`, 'x-api-key', source]],
    ['x-api-key and Authorization', ['x-api-key', admin, 'authorization', `Bearer ${source}`]],
    ['Authorization and api-key', ['authorization', `bearer ${source}`, 'api-key', admin]],
    ['x-api-key and api-key', ['x-api-key', source, 'api-key', admin]],
    ['a good and an unknown one', ['authorization', `Bearer ${admin}`, 'api-key', unknown]],
    ['an unknown and a good one', ['authorization', `Bearer ${unknown}`, 'x-api-key', admin]],
    ['two Authorization headers', ['authorization', `Bearer ${admin}`, 'Authorization', `Bearer ${source}`]],
    ['two Authorization headers, the other way', ['authorization', `Bearer ${source}`, 'authorization', `Bearer ${admin}`]],
    ['two x-api-key headers', ['x-api-key', admin, 'X-Api-Key', source]],
    ['two api-key headers', ['api-key', source, 'api-key', admin]]
  ]
  for (const route of routes) {
    if (golden[nameOf(route)] === 'none') continue
    const answers = await Promise.all(pairs.map(async ([name, headers]) => ({ name, ...(await ask(route, headers)) })))
    // What stands behind the guard says 400 to an empty object too; HEAD says nothing.
    const isRefused = ({ status, message }: Answer): boolean =>
      status === 400 && (route.method === 'HEAD' || message?.startsWith('Two different API keys') === true)
    t.same(
      answers.filter(answer => !isRefused(answer)).map(({ name, status }) => `${name}: ${status}`),
      [],
      nameOf(route)
    )
  }
})

t.test('the same key in all headers at once is one key', async t => {
  for (const route of routes) {
    const { admin } = living
    const answer = await ask(route, ['authorization', `Bearer ${admin}`, 'x-api-key', admin, 'api-key', admin])
    t.equal(verdict(answer), 'passed', nameOf(route))
  }
})
