// Secrets stay ours: a key that an upstream quotes, and an admin key that nobody would have seen.

import { existsSync } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import { createServer as createHttpServer } from 'node:http'
import { createServer } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { behaviours, bodyFor, keys, modelFor, recording, startUpstreams, words } from '../support/canaries.ts'
import { createDatabase, type TestDatabase } from '../support/cluster.ts'
import { newFolder, type RunningGateway, startGateway } from '../support/gateway.ts'
import { pathOf, type Route, routeTable } from '../support/routes.ts'
import { answerJson, type Behaviour, chunk, startCompatible } from '../support/upstream.ts'
import { until } from '../support/wait.ts'

const secret = 'hunter2CanarySecretXYZ'

t.test('a key that the upstream quotes reaches neither the client nor the log', async t => {
  const database = await createDatabase(t)
  const upstream = await startCompatible(t)
  const gateway = await startGateway(t, {
    databaseUrl: database.url,
    config: { providers: { rent: { base_url: `${upstream.origin}/v1`, api_key: secret, models: ['m'] } } }
  })
  const quote = { error: { message: `Incorrect API key provided: ${secret}.` } }
  const midway: Behaviour = (_call, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.end(`${chunk({ content: 'x' })}data: ${JSON.stringify(quote)}\n\n`)
  }
  for (const behaviour of [answerJson(401, quote), answerJson(400, quote), answerJson(500, secret), answerJson(200, quote), midway]) {
    upstream.behaviour = behaviour
    const answer = await gateway.fetch('/v1/chat/completions', {
      json: { model: 'rent/m', stream: behaviour === midway, messages: [{ role: 'user', content: 'hi' }] }
    })
    t.notMatch(await answer.text(), secret)
  }
  t.equal((await gateway.stop()).code, 0)
  t.notMatch(gateway.output(), secret)
})

t.test('a first start that fails makes no admin key, and leaves no database running', async t => {
  const folder = await newFolder(t)
  const taken = createServer()
  await new Promise<void>(resolve => taken.listen(0, '127.0.0.1', resolve))
  const { port } = taken.address() as { port: number }
  const start = { databaseUrl: '', folder, ownKey: true, env: { PORT: String(port) } }
  await t.rejects(startGateway(t, start), /is taken/)
  t.notOk(existsSync(join(folder, '.data', 'postgres', 'postmaster.pid')), 'the database is stopped')
  await new Promise(resolve => taken.close(resolve))
  const gateway = await startGateway(t, start)
  t.match(gateway.ready.admin_key, /^sk-llm-/, 'it is shown by the first start that succeeds')
  t.equal((await gateway.stop()).code, 0)
})

interface Seen {
  readonly what: string
  readonly text: string
}

/** Calls, and keeps all that came back but its status. */
async function call(
  gateway: RunningGateway,
  seen: Seen[],
  { method, path, ...init }: { method: string; path: string } & RequestInit
): Promise<string> {
  const answer = await fetch(`${gateway.url}${path}`, {
    method,
    redirect: 'manual',
    ...init,
    headers: {
      cookie: `session=${keys.cookie}`,
      'proxy-authorization': `Basic ${keys.proxy}`,
      'x-note': words.header,
      'user-agent': words.header,
      ...init.headers
    }
  })
  // A broken answer is one that was seen too, as far as it came.
  let body = ''
  try {
    for await (const piece of answer.body ?? []) body += Buffer.from(piece).toString('utf8')
  } catch {}
  const what = `${method} ${path.split('?')[0]} ${answer.status}`
  seen.push({ what: `${what}, headers`, text: JSON.stringify([...answer.headers]) }, { what, text: body })
  return body
}

/** Every row of every table, as text. */
async function dump({ pool }: TestDatabase): Promise<Seen[]> {
  const { rows: tables } = await pool.query(
    `select format('%I.%I', table_schema, table_name) as name from information_schema.tables
      where table_type = 'BASE TABLE' and table_schema not in ('pg_catalog', 'information_schema')`
  )
  return Promise.all(
    tables.map(async ({ name }) => {
      const { rows } = await pool.query(`select row_to_json(a_row)::text as text from ${name} as a_row`)
      return { what: `table ${name}`, text: rows.map(({ text }) => text).join('\n') }
    })
  )
}

async function filesIn(folder: string): Promise<Seen[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  return Promise.all(
    entries
      .filter(entry => entry.isFile())
      .map(async entry => {
        const path = join(entry.parentPath, entry.name)
        return { what: `file ${path.slice(folder.length)}`, text: await readFile(path, 'latin1') }
      })
  )
}

/** Each place that says one of `secrets`, once. */
function leaks(places: readonly Seen[], secrets: Readonly<Record<string, string>>): string[] {
  const found = new Set<string>()
  for (const { what, text } of places) {
    for (const [name, secret] of Object.entries(secrets)) {
      const at = text.indexOf(secret)
      if (at !== -1) found.add(`${name} in ${what}: …${text.slice(Math.max(0, at - 60), at + secret.length).replace(/\s+/g, ' ')}`)
    }
  }
  return [...found].slice(0, 20)
}

t.test('whatever is asked and whatever goes wrong: keys stay with us, and what people say with them', async t => {
  const database = await createDatabase(t)
  const query = `note=${words.query}&key=${keys.unknown}`
  const fakes = await startUpstreams(t, query)
  const collected: Seen[] = []
  const collector = createHttpServer((request, response) => {
    request.setEncoding('latin1').on('data', text => collected.push({ what: 'a trace', text }))
    request.on('end', () => response.writeHead(200, { 'content-type': 'application/json' }).end('{}'))
  })
  await new Promise<void>(resolve => collector.listen(0, '127.0.0.1', resolve))
  t.teardown(() => new Promise(resolve => collector.close(resolve)))
  const gateway = await startGateway(t, {
    databaseUrl: database.url.replace('@localhost', `:${keys.database}@localhost`),
    config: {
      machines: {
        box: {
          url: `${fakes.box.origin}/v1`,
          type: 'openai',
          max_concurrency: 32,
          api_key: keys.machine,
          headers: { 'x-machine-token': keys.machineHeader }
        },
        rtx: {
          url: fakes.rtx.origin,
          max_concurrency: 32,
          headers: { 'x-machine-token': keys.machineHeader, authorization: `Bearer ${keys.machineBearer}` }
        },
        off: { url: 'http://127.0.0.1:9/v1', type: 'openai', models: ['gone'], api_key: keys.machine }
      }
    },
    env: {
      LLM_MCP_ADMIN_KEY: keys.admin,
      OPENAI_API_KEY: keys.openai,
      OPENAI_UPSTREAM_URL: `${fakes.openai.origin}/v1`,
      OPENROUTER_API_KEY: keys.openrouter,
      OPENROUTER_UPSTREAM_URL: `${fakes.openrouter.origin}/v1`,
      OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${(collector.address() as { port: number }).port}`,
      LLM_MCP_CORS_ORIGINS: 'https://app.example',
      LOG_LEVEL: 'trace'
    }
  })
  const seen: Seen[] = []
  const someModel = `openai/${modelFor('success', 'chat')}`
  const made: Record<string, string> = {}
  const routes = await routeTable(['https://app.example'])
  const secrets = (): Record<string, string> => ({ ...keys, ...made })
  // A success that is passed through is the caller's own, whatever it says.
  const isOurs = ({ what }: Seen): boolean => !/ \/(v1\/)?(audio|images|moderations)\b.* 200$/.test(what)
  const bearer = (key: string): Record<string, string> => ({ authorization: `Bearer ${key}` })
  const asJson = { 'content-type': 'application/json' }

  await t.test('all routes with all kinds of keys', async t => {
    // 1. The one answer that may hold a key is the one that makes it.
    for (const name of ['live', 'revoked', 'limited']) {
      const limits = name === 'limited' ? { limits: { requests_per_minute: 1 } } : {}
      const answer = await fetch(`${gateway.url}/v1/keys`, {
        method: 'POST',
        headers: { ...bearer(keys.admin), ...asJson },
        body: JSON.stringify({ kind: 'source', source: name, ...limits })
      })
      const { id, key } = (await answer.json()) as { id: string; key: string }
      made[name] = key
      if (name === 'revoked') await call(gateway, seen, { method: 'DELETE', path: `/v1/keys/${id}`, headers: bearer(keys.admin) })
    }
    t.equal(new Set(Object.values(made)).size, 3)
    // 2. Every route, with every key in every header that may hold one.
    const given = { ...made, admin: keys.admin, unknown: keys.unknown, cookie: keys.cookie, '': '' }
    for (const route of routes) {
      for (const key of Object.values(given)) {
        for (const headers of [
          bearer(key),
          { 'x-api-key': key },
          { authorization: `Basic ${key}` },
          { 'api-key': key, ...bearer(keys.unknown) }
        ]) {
          await call(gateway, seen, { ...requestTo(route, key), headers: { ...headers, ...(route.method === 'POST' ? asJson : {}) } })
        }
      }
    }
    t.ok(seen.length > 500)
  })

  await t.test('all that an upstream can do', async t => {
    const whole = { ...bearer(made.live as string), ...asJson }
    for (const name of Object.keys(behaviours)) {
      const before = seen.length
      const post = (path: string, model: string, stream: boolean): Promise<string> =>
        call(gateway, seen, {
          method: 'POST',
          path: `${path}?${query}`,
          headers: whole,
          body: JSON.stringify({ ...bodyFor(path, model), stream })
        })
      for (const stream of [false, true]) {
        await Promise.all([
          ...['openai/', 'openrouter/vendor/', 'box/', 'rtx/'].flatMap(provider => [
            post('/v1/chat/completions', provider + modelFor(name, 'chat'), stream),
            post('/v1/completions', provider + modelFor(name, 'completions'), stream),
            post('/v1/embeddings', provider + modelFor(name, 'embeddings'), stream),
            post('/v1/responses', provider + modelFor(name, 'responses'), stream)
          ]),
          post('/v1/images/generations', modelFor(name, 'chat'), stream),
          post('/v1/audio/speech', modelFor(name, 'chat'), stream)
        ])
      }
      const form = { headers: bearer(made.live as string), body: recording(modelFor(name, 'chat')) }
      await call(gateway, seen, { method: 'POST', path: '/v1/audio/transcriptions', ...form })
      t.same(leaks(seen.slice(before).filter(isOurs), secrets()), [], name)
    }
    for (const model of ['off/gone', 'nobody/knows', 'auto'])
      await call(gateway, seen, {
        method: 'POST',
        path: '/v1/chat/completions',
        headers: whole,
        body: JSON.stringify(bodyFor('/chat/completions', model))
      })
    for (const fake of Object.values(fakes))
      t.ok(fake.calls.filter(({ method, path }) => method === 'POST' && path !== '/api/show').length > 80)
    // Which were kept from nobody who asked for them.
    t.ok(fakes.openai.calls.some(({ headers }) => headers.authorization === `Bearer ${keys.openai}`))
    t.ok(fakes.box.calls.some(({ headers, text }) => headers['x-machine-token'] === keys.machineHeader && text.includes(words.prompt)))
    t.ok(seen.some(({ text }) => text.includes(words.answer)))
    // What is ours or only between a client and us is nothing to them, nor is one provider's key to another.
    for (const [name, fake] of Object.entries(fakes)) {
      const told = fake.calls.map(({ method, path, headers, text }) => ({
        what: `${method} ${path.split('?')[0]} to ${name}`,
        text: `${JSON.stringify(headers)}${text}`
      }))
      const own = name === 'openai' ? ['openai'] : name === 'openrouter' ? ['openrouter'] : ['machine', 'machineHeader', 'machineBearer']
      const others = Object.fromEntries(Object.entries({ ...secrets(), header: words.header }).filter(([key]) => !own.includes(key)))
      t.same(leaks(told, others), [], `told to ${name}`)
    }
  })

  await t.test('limits, bad bodies, an operator looking on', async () => {
    const limited = { ...bearer(made.limited as string), ...asJson }
    for (const path of ['/v1/chat/completions', '/v1/chat/completions', '/v1/images/generations'])
      await call(gateway, seen, { method: 'POST', path, headers: limited, body: JSON.stringify(bodyFor(path, someModel)) })
    for (const body of [
      `{"model":"${words.prompt}`,
      `"${words.prompt}"`,
      `{"model":7,"messages":"${words.prompt}"}`,
      `{"model":"auto","messages":[{"role":"${words.prompt}","content":{"${words.tool}":1}}]}`,
      `{"__proto__":"${words.prompt}"}`
    ])
      for (const path of ['/v1/chat/completions', '/v1/responses', '/v1/embeddings', '/v1/completions', '/v1/keys'])
        await call(gateway, seen, { method: 'POST', path, headers: { ...bearer(keys.admin), ...asJson }, body })
    for (const path of ['/v1/keys?limit=100', '/metrics', '/v1/costs/summary', '/v1/models', '/ready', '/openapi.json', '/docs'])
      await call(gateway, seen, { method: 'GET', path, headers: bearer(keys.admin) })
  })

  await t.test("keys are in no answer, and people's words in none but those to them", async t => {
    t.same(leaks(seen.filter(isOurs), secrets()), [])
    const isToThem = ({ what }: Seen): boolean =>
      /^POST \/(v1\/)?(chat|completions|embeddings|responses|audio|images|moderations)/.test(what)
    t.same(
      leaks(
        seen.filter(place => !isToThem(place)),
        words
      ),
      []
    )
    const ours = seen.filter(place => isToThem(place) && !/answered|canary_code/.test(place.text) && / 4\d\d$/.test(place.what))
    t.same(leaks(ours, { ...words, answer: keys.database }), [], 'our own errors quote nobody')
    t.ok(ours.length > 100)
  })

  await t.test('keys and words are in no table and no file, whether it runs, stops or is killed', async t => {
    const everything = { ...secrets(), ...words }
    await until('the costs to be stored', async () => (await database.pool.query('select 1 from llm_costs')).rows.length > 100)
    t.same(leaks(await dump(database), everything), [])
    // The configuration is the operator's own.
    const files = async (): Promise<Seen[]> => filesIn(join(gateway.folder, '.data'))
    t.ok((await files()).length > 0, 'there is a journal')
    t.same(leaks(await files(), everything), [])
    for (const fake of Object.values(fakes)) fake.behaviour = () => {}
    const open = call(gateway, [], {
      method: 'POST',
      path: '/v1/chat/completions',
      headers: { ...bearer(made.live as string), ...asJson },
      body: JSON.stringify(bodyFor('/chat/completions', someModel))
    }).catch(() => {})
    await until('the call to arrive', () => fakes.openai.running.now > 0)
    // Two entries each, and some calls beside.
    await until('the log to be written', () => gateway.output().split('"msg":"request"').length > seen.length / 2)
    t.equal((await gateway.stop('SIGKILL')).signal, 'SIGKILL')
    await open
    t.same(leaks(await files(), everything), [], 'a journal that was left open')
    t.same(leaks(await dump(database), everything), [])
  })

  await t.test('keys and words are in nothing that was printed or traced', t => {
    const lines = gateway
      .output()
      .split('\n')
      .map(text => ({ what: 'the log', text }))
    t.ok(lines.length > 500)
    t.same(leaks([...lines, ...collected], secrets()), [])
    t.same(leaks([...lines, ...collected], words), [])
    t.end()
  })

  /** A good request, as far as it can be one. */
  function requestTo(route: Route, key: string): { method: string; path: string; body?: string } {
    const path = `${pathOf(route)}?note=${words.query}&key=${key}&api_key=${key}`
    if (route.method !== 'POST') return { method: route.method, path }
    return {
      method: 'POST',
      path,
      body: route.url === '/v1/keys' ? '{"kind":"nothing"}' : JSON.stringify(bodyFor(pathOf(route), someModel))
    }
  }
})
