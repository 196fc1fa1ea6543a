// Web pages: none may read an answer unless its origin is named, and then every kind of answer.

import { request } from 'node:http'
import t from 'tap'
import { createDatabase } from '../support/cluster.ts'
import { adminKey, type RunningGateway, startGateway } from '../support/gateway.ts'
import { nameOf, pathOf, routeTable } from '../support/routes.ts'
import { answerJson, say, startCompatible } from '../support/upstream.ts'

const page = 'https://app.example'
const otherPage = 'http://localhost:5173'
const stranger = 'https://evil.example'
const database = await createDatabase(t)
const upstream = await startCompatible(t)
upstream.others.set('/audio/speech', (_call, response) => void response.writeHead(200, { 'content-type': 'audio/mpeg' }).end('sound'))
const rented = { OPENAI_API_KEY: 'sk-upstream-openai-000000000000', OPENAI_UPSTREAM_URL: `${upstream.origin}/v1`, LOG_LEVEL: 'fatal' }
const [closed, named, open] = (await Promise.all(
  ['', `${page}, ${otherPage}/`, '*'].map(origins =>
    startGateway(t, { databaseUrl: database.url, env: { ...rented, ...(origins === '' ? {} : { LLM_MCP_CORS_ORIGINS: origins }) } })
  )
)) as [RunningGateway, RunningGateway, RunningGateway]
const routes = await routeTable([page])

interface Answer {
  readonly status: number
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
  readonly text: string
}

interface Sent {
  readonly method?: string
  readonly path?: string
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: unknown
}

/** As a browser sends it: fetch would not let us choose the Origin and the Host. */
function ask(to: RunningGateway, { method = 'GET', path = '/v1/models', headers = {}, body }: Sent): Promise<Answer> {
  const { hostname, port } = new URL(to.url)
  const bytes = body === undefined ? null : JSON.stringify(body)
  const type = bytes === null ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(bytes) }
  return new Promise((resolve, reject) => {
    const sent = request({ hostname, port, method, path, headers: { ...type, ...headers } }, response => {
      let text = ''
      response.setEncoding('utf8').on('data', piece => {
        text += piece
      })
      response.on('end', () => resolve({ status: response.statusCode ?? 0, headers: response.headers, text }))
      response.on('error', reject)
    })
    sent.on('error', reject)
    sent.end(bytes ?? undefined)
  })
}

function preflight(origin: string, method = 'POST', more: Readonly<Record<string, string>> = {}): Sent {
  return {
    method: 'OPTIONS',
    path: '/v1/chat/completions',
    headers: {
      origin,
      'access-control-request-method': method,
      'access-control-request-headers': 'authorization,content-type,x-stainless-os',
      ...more
    }
  }
}

function corsHeaders({ headers }: Answer): string[] {
  return Object.keys(headers).filter(name => name.startsWith('access-control-'))
}

const bearer = { authorization: `Bearer ${adminKey}` }
const chat = { model: 'openai/gpt-4o-mini', messages: [{ role: 'user', content: 'hi' }] }

/** Every kind of answer: ours, one written raw, a stream, passed through, and all sorts of refusals. */
const kinds: Readonly<Record<string, { readonly status: number; readonly sent: Sent }>> = {
  'a list': { status: 200, sent: { headers: bearer } },
  'an answer': { status: 200, sent: { method: 'POST', path: '/v1/chat/completions', headers: bearer, body: chat } },
  'a stream': { status: 200, sent: { method: 'POST', path: '/v1/chat/completions', headers: bearer, body: { ...chat, stream: true } } },
  'a typed stream': {
    status: 200,
    sent: { method: 'POST', path: '/v1/responses', headers: bearer, body: { model: chat.model, input: 'hi', stream: true } }
  },
  'what is passed through': {
    status: 200,
    sent: { method: 'POST', path: '/v1/audio/speech', headers: bearer, body: { model: 'tts-1', input: 'hi' } }
  },
  'its failure': { status: 502, sent: { method: 'POST', path: '/v1/images/generations', headers: bearer, body: { model: 'x' } } },
  'a new key': { status: 201, sent: { method: 'POST', path: '/v1/keys', headers: bearer, body: { source: 'page' } } },
  'no key': { status: 401, sent: {} },
  'no key, of a raw answer': { status: 401, sent: { method: 'POST', path: '/v1/chat/completions', body: chat } },
  'two keys': { status: 400, sent: { headers: { ...bearer, 'x-api-key': 'sk-llm-0123456789' } } },
  'a bad body': { status: 400, sent: { method: 'POST', path: '/v1/chat/completions', headers: bearer, body: { model: 7 } } },
  'an unknown model': {
    status: 404,
    sent: { method: 'POST', path: '/v1/chat/completions', headers: bearer, body: { ...chat, model: 'nope' } }
  },
  'an unknown path': { status: 404, sent: { path: '/v1/nope', headers: bearer } },
  'a wrong method': { status: 405, sent: { path: '/v1/chat/completions', headers: bearer } },
  'a compressed body': {
    status: 415,
    sent: { method: 'POST', path: '/v1/chat/completions', headers: { ...bearer, 'content-encoding': 'gzip' }, body: chat }
  },
  'a form': { status: 415, sent: { method: 'POST', path: '/v1/keys', headers: { ...bearer, 'content-type': 'text/plain' }, body: {} } }
}

t.test('by default no page may read anything, and none is told that it may ask', async t => {
  for (const origin of [page, stranger, 'null']) {
    const asked = await ask(closed, preflight(origin))
    t.ok(asked.status >= 400, `a preflight from ${origin}: ${asked.status}`)
    t.same(corsHeaders(asked), [], `a preflight from ${origin}`)
    for (const [name, { status, sent }] of Object.entries(kinds)) {
      const answer = await ask(closed, { ...sent, headers: { ...sent.headers, origin } })
      t.same({ status: answer.status, cors: corsHeaders(answer) }, { status, cors: [] }, `${name} for ${origin}`)
    }
  }
})

t.test('a named page may ask beforehand, without a key, under whatever name it calls us', async t => {
  for (const origin of [page, otherPage]) {
    for (const host of ['localhost', 'gateway.example', 'gateway.example:8443']) {
      for (const method of ['POST', 'GET', 'DELETE']) {
        const answer = await ask(named, preflight(origin, method, { host }))
        t.equal(answer.status, 204, `${method} from ${origin} under ${host}`)
        t.equal(answer.headers['access-control-allow-origin'], origin)
        t.match(answer.headers['access-control-allow-methods'], method)
        t.equal(answer.headers['access-control-allow-headers'], 'authorization,content-type,x-stainless-os')
        t.match(answer.headers.vary, /\borigin\b/i)
        t.equal(answer.text, '')
      }
    }
  }
  for (const route of routes) {
    const answer = await ask(named, { ...preflight(page), path: pathOf(route) })
    t.ok(answer.status === 204 && answer.headers['access-control-allow-origin'] === page, nameOf(route))
  }
})

t.test('a named page reads every kind of answer, refusals too, and the headers that we make', async t => {
  for (const [name, { status, sent }] of Object.entries(kinds)) {
    const answer = await ask(named, { ...sent, headers: { ...sent.headers, origin: page } })
    t.equal(answer.status, status, name)
    t.equal(answer.headers['access-control-allow-origin'], page, name)
    t.match(answer.headers.vary, /\borigin\b/i, `${name}: no cache may give it to another page`)
    t.equal(answer.headers['access-control-allow-credentials'], undefined, name)
    const exposed = String(answer.headers['access-control-expose-headers']).split(/, */)
    const ours = Object.keys(answer.headers).filter(header =>
      /^(x-(llm-mcp|ratelimit|request-id|should)|openai-processing|retry-after)/.test(header)
    )
    t.ok(ours.includes('x-request-id'), name)
    t.same(
      ours.filter(header => !exposed.includes(header)),
      [],
      `${name}: all of ours can be read`
    )
  }
})

t.test('limits and their refusals can be read', async t => {
  const made = await named.fetch('/v1/keys', { json: { source: 'limited', limits: { requests_per_minute: 1, tokens_per_minute: 1_000 } } })
  const { key } = (await made.json()) as { key: string }
  for (const status of [200, 429]) {
    const answer = await ask(named, {
      method: 'POST',
      path: '/v1/chat/completions',
      headers: { authorization: `Bearer ${key}`, origin: page },
      body: { ...chat, stream: true }
    })
    t.equal(answer.status, status)
    t.equal(answer.headers['access-control-allow-origin'], page)
    const exposed = String(answer.headers['access-control-expose-headers'])
    for (const name of [
      'x-ratelimit-limit-requests',
      'x-ratelimit-remaining-tokens',
      ...(status === 429 ? ['retry-after', 'retry-after-ms'] : [])
    ]) {
      t.ok(answer.headers[name], `${status}: ${name}`)
      t.ok(exposed.includes(name), `${status}: ${name} is exposed`)
    }
  }
})

t.test('an upstream says nothing about who may read', async t => {
  const telling = {
    'access-control-allow-origin': stranger,
    'access-control-allow-credentials': 'true',
    'access-control-expose-headers': 'set-cookie'
  }
  upstream.behaviour = answerJson(400, { error: { message: 'no' } }, telling)
  upstream.others.set('/audio/speech', answerJson(200, {}, telling))
  for (const to of [closed, named, open]) {
    for (const name of ['an answer', 'a stream', 'what is passed through']) {
      const { sent } = kinds[name] as { sent: Sent }
      const answer = await ask(to, { ...sent, headers: { ...sent.headers, origin: page } })
      t.not(answer.headers['access-control-allow-origin'], stranger, name)
      t.equal(answer.headers['access-control-allow-credentials'], undefined, name)
      t.notMatch(String(answer.headers['access-control-expose-headers']), /set-cookie/, name)
    }
  }
  upstream.behaviour = say('Hello')
})

t.test('a page that is not named may read nothing, however much its name resembles', async t => {
  const others = [
    stranger,
    'null',
    'http://app.example',
    'https://app.example:8443',
    'https://app.example.evil.example',
    'https://evil-app.example',
    'https://sub.app.example',
    'https://app.example@evil.example',
    'https://app.exampl',
    'http://localhost:5174',
    'http://localhost',
    `${page},${stranger}`,
    ''
  ]
  for (const origin of others) {
    const asked = await ask(named, preflight(origin))
    t.equal(asked.headers['access-control-allow-origin'], undefined, `a preflight from "${origin}"`)
    for (const name of ['a list', 'a stream', 'no key', 'what is passed through', 'an unknown path']) {
      const { sent } = kinds[name] as { sent: Sent }
      const answer = await ask(named, { ...sent, headers: { ...sent.headers, origin } })
      t.equal(answer.headers['access-control-allow-origin'], undefined, `${name} for "${origin}"`)
    }
  }
})

t.test('with * every page may ask, none with cookies', async t => {
  for (const origin of [page, stranger, 'null']) {
    const asked = await ask(open, preflight(origin))
    t.equal(asked.status, 204)
    t.equal(asked.headers['access-control-allow-origin'], '*')
    t.equal(asked.headers['access-control-allow-credentials'], undefined)
    for (const [name, { sent }] of Object.entries(kinds)) {
      const answer = await ask(open, { ...sent, headers: { ...sent.headers, origin } })
      t.equal(answer.headers['access-control-allow-origin'], '*', name)
      t.equal(answer.headers['access-control-allow-credentials'], undefined, name)
    }
  }
})

t.test('a preflight is an answer to a question, and opens nothing', async t => {
  for (const to of [named, open]) {
    for (const headers of [{}, { origin: page }, { 'access-control-request-method': 'POST' }]) {
      for (const path of ['/v1/keys', '/metrics', '/nothing', '/v1/chat/completions']) {
        const { status, text } = await ask(to, { method: 'OPTIONS', path, headers })
        t.ok(status === 204 || status >= 400, `${path}: ${status}`)
        t.notMatch(text, /"object"|llm_mcp_/)
      }
    }
    // Only a preflight is let in under any name: the documentation and /health are not.
    const answer = await ask(to, { path: '/health', headers: { host: 'gateway.example', origin: page } })
    t.equal(answer.status, 403)
  }
})
