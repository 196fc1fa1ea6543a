import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { Errors } from 'typebox/schema'
import type { RequestContext } from '../../gateway/context.ts'
import { readChatRequest } from '../../gateway/dialects/openai-chat.ts'
import { readCompletionRequest } from '../../gateway/dialects/openai-completions.ts'
import { readEmbeddingRequest } from '../../gateway/dialects/openai-embeddings.ts'
import { readResponsesRequest } from '../../gateway/dialects/responses/request.ts'
import { kindFacts } from '../../gateway/jobs/kinds.ts'
import { jobJson } from '../../gateway/jobs/object.ts'
import { readPayload } from '../../gateway/jobs/payload.ts'
import { readSubmission } from '../../gateway/jobs/submission.ts'
import { createKeyCache } from '../../gateway/keys.ts'
import { modelObject } from '../../gateway/model-list.ts'
import { readNewKey } from '../../gateway/new-key.ts'
import { type OpenApiDocument, openApiDocument, type Route, undescribedRoutes } from '../../gateway/openapi/document.ts'
import type { OperationDocs } from '../../gateway/openapi/parts.ts'
import { registerAuth } from '../../gateway/plugins/auth.ts'
import { registerDocs } from '../../gateway/plugins/docs.ts'
import { registerErrors } from '../../gateway/plugins/errors.ts'
import { summaryObject } from '../../gateway/routes/costs.ts'
import { registerHealth } from '../../gateway/routes/health.ts'
import { keyObject } from '../../gateway/routes/keys.ts'
import type { JobRecord } from '../../queue/types.ts'
import { type KeyRecord, noRules } from '../../store/keys.ts'

type Json = Record<string, unknown>

const passthrough = ['audio', 'images', 'moderations']
const modelPaths = ['/chat/completions', '/completions', '/embeddings', '/responses']

/** As the gateway has them. */
const routes: readonly Route[] = [
  ...['/v1', ''].flatMap(prefix => [
    ...modelPaths.map(url => ({ method: 'POST', url: `${prefix}${url}` })),
    ...['/models', '/models/*'].flatMap(url => ['GET', 'HEAD'].map(method => ({ method, url: `${prefix}${url}` }))),
    ...passthrough.flatMap(name => [`/${name}`, `/${name}/*`]).map(url => ({ method: 'POST', url: `${prefix}${url}` }))
  ]),
  ...['/v1/route', '/route'].map(url => ({ method: 'POST', url })),
  { method: 'GET', url: '/v1/routes/:id' },
  { method: 'POST', url: '/v1/jobs' },
  ...['/v1/jobs', '/v1/jobs/:id'].flatMap(url => ['GET', 'HEAD'].map(method => ({ method, url }))),
  ...['cancel', 'retry', 'webhook'].map(name => ({ method: 'POST', url: `/v1/jobs/:id/${name}` })),
  { method: 'GET', url: '/v1/jobs/:id/stream' },
  { method: 'POST', url: '/v1/keys' },
  { method: 'GET', url: '/v1/keys' },
  { method: 'DELETE', url: '/v1/keys/:id' },
  { method: 'GET', url: '/v1/costs/summary' },
  { method: 'GET', url: '/health' },
  { method: 'GET', url: '/ready' },
  { method: 'GET', url: '/metrics' },
  { method: 'GET', url: '/docs' },
  { method: 'GET', url: '/docs/*' },
  { method: 'GET', url: '/openapi.json' },
  { method: 'OPTIONS', url: '*' }
]

const document = openApiDocument({ version: '1.2.3', routes, passthrough })

interface Operation {
  readonly name: string
  readonly path: string
  readonly docs: OperationDocs & Json
}

function operationsOf({ paths }: OpenApiDocument): Operation[] {
  return Object.entries(paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, docs]) => ({ name: `${method.toUpperCase()} ${path}`, path, docs }))
  )
}

function docsOf(name: string): OperationDocs & Json {
  const found = operationsOf(document).find(operation => operation.name === name)
  if (found === undefined) throw new Error(`${name} is not there`)
  return found.docs
}

/** What a schema of the document says against a value. */
function faults(schema: unknown, value: unknown): unknown[] {
  const [, errors] = Errors({ ...(schema as Json), components: document.components } as never, value)
  return [...errors]
}

t.test('every route is there once, as its /v1 self, and each is described', async t => {
  const names = operationsOf(document).map(({ name }) => name)
  t.same(
    names.toSorted(),
    [
      ...modelPaths.map(path => `POST /v1${path}`),
      'GET /v1/models',
      'GET /v1/models/{model}',
      ...passthrough.flatMap(name => [`POST /v1/${name}`, `POST /v1/${name}/{rest}`]),
      'POST /v1/route',
      'GET /v1/routes/{id}',
      'POST /v1/jobs',
      'GET /v1/jobs',
      'GET /v1/jobs/{id}',
      ...['cancel', 'retry', 'webhook'].map(name => `POST /v1/jobs/{id}/${name}`),
      'GET /v1/jobs/{id}/stream',
      'POST /v1/keys',
      'GET /v1/keys',
      'DELETE /v1/keys/{id}',
      'GET /v1/costs/summary',
      'GET /health',
      'GET /ready',
      'GET /metrics'
    ].toSorted()
  )
  t.same(undescribedRoutes({ routes, passthrough }), [])
  const more = [...routes, { method: 'GET', url: '/v1/secrets/:id' }]
  t.same(undescribedRoutes({ routes: more, passthrough }), [{ method: 'GET', url: '/v1/secrets/:id' }], 'a new one is seen')
  t.ok(openApiDocument({ version: '1', routes: more, passthrough }).paths['/v1/secrets/{id}'], 'and shown')
  t.equal(undescribedRoutes({ routes, passthrough: [] }).length, 6, 'only what is configured passes through')
})

/** The fields that OpenAPI 3.1 knows of each kind of object. */
const fields = {
  document: ['openapi', 'info', 'servers', 'security', 'tags', 'paths', 'components'],
  operation: ['tags', 'summary', 'description', 'operationId', 'parameters', 'requestBody', 'responses', 'security'],
  parameter: ['name', 'in', 'description', 'required', 'schema', 'example'],
  body: ['description', 'content', 'required'],
  response: ['description', 'headers', 'content'],
  media: ['schema', 'example', 'examples'],
  header: ['description', 'schema']
}
const keywords =
  'type properties required items enum const description default minimum maximum minItems maxItems maxLength pattern format additionalProperties oneOf allOf $ref'
const types = ['object', 'array', 'string', 'number', 'integer', 'boolean', 'null']

t.test('the document is valid OpenAPI 3.1', async t => {
  const only = (kind: keyof typeof fields, value: Json, where: string): void => {
    const unknown = Object.keys(value).filter(key => !fields[kind].includes(key))
    t.same(unknown, [], `${where} is a ${kind}`)
  }
  const target = (where: string, $ref: unknown): Json => {
    const steps = String($ref).split('/')
    t.equal(steps.shift(), '#', where)
    const found = steps.reduce<unknown>((value, step) => (value as Json | undefined)?.[step], document)
    t.ok(found, `${where}: ${$ref} leads somewhere`)
    return found as Json
  }
  const resolved = (where: string, value: Json): Json => (value.$ref === undefined ? value : target(where, value.$ref))
  const schema = (where: string, value: Json): void => {
    t.same(
      Object.keys(value).filter(key => !keywords.split(' ').includes(key)),
      [],
      where
    )
    if (value.$ref !== undefined) target(where, value.$ref)
    for (const type of [value.type ?? 'object'].flat()) t.ok(types.includes(type as string), `${where}: ${type}`)
    for (const name of (value.required ?? []) as string[])
      if (value.properties !== undefined) t.ok(name in (value.properties as Json), `${where} has ${name}`)
    for (const [name, inner] of Object.entries((value.properties ?? {}) as Record<string, Json>)) schema(`${where}.${name}`, inner)
    for (const inner of [value.items, value.oneOf, value.allOf].flat()) if (inner !== undefined) schema(`${where}[]`, inner as Json)
  }
  const media = (where: string, content: Record<string, Json>): void => {
    for (const [type, value] of Object.entries(content)) {
      t.match(type, /^[a-z*]+\/[a-z*.+-]+$/)
      only('media', value, where)
      if (value.schema !== undefined) schema(`${where} ${type}`, value.schema as Json)
    }
  }
  const response = (where: string, given: Json): void => {
    const value = resolved(where, given)
    only('response', value, where)
    t.type(value.description, 'string', where)
    for (const header of Object.values((value.headers ?? {}) as Record<string, Json>)) only('header', resolved(where, header), where)
    media(where, (value.content ?? {}) as Record<string, Json>)
  }

  only('document', document, 'it')
  t.match(document.openapi, /^3\.1\.\d$/)
  t.match(document.info, { title: 'llm-mcp', version: '1.2.3' })
  const components = document.components as Record<string, Record<string, Json>>
  for (const [name, value] of Object.entries(components.schemas ?? {})) schema(name, value)
  for (const [name, value] of Object.entries(components.responses ?? {})) response(name, value)
  const tags = (document.tags as { name: string }[]).map(({ name }) => name)
  const ids = new Set<unknown>()
  for (const { name, path, docs } of operationsOf(document)) {
    only('operation', docs, name)
    t.match(path, /^\/[\w/{}-]*$/)
    t.notOk(ids.has(docs.operationId), `${name} has an id of its own`)
    ids.add(docs.operationId)
    t.ok(
      docs.tags.every(tag => tags.includes(tag)),
      name
    )
    t.ok(docs.summary.length > 4, name)
    const parameters = ((docs.parameters ?? []) as Json[]).map(parameter => resolved(name, parameter))
    for (const parameter of parameters) {
      only('parameter', parameter, name)
      t.ok(['path', 'query', 'header'].includes(parameter.in as string), name)
      schema(name, parameter.schema as Json)
      if (parameter.in === 'path') t.equal(parameter.required, true, name)
    }
    const inPath = parameters.filter(parameter => parameter.in === 'path').map(parameter => parameter.name)
    t.same(
      inPath,
      [...path.matchAll(/\{(\w+)\}/g)].map(match => match[1]),
      `${name} names the parts of its path`
    )
    const body = docs.requestBody as Json | undefined
    t.equal(body !== undefined, name.startsWith('POST'), name)
    if (body !== undefined) {
      only('body', body, name)
      media(name, body.content as Record<string, Json>)
    }
    const responses = Object.entries(docs.responses as Record<string, Json>)
    t.ok(
      responses.some(([status]) => status.startsWith('2')),
      `${name} can succeed`
    )
    for (const [status, value] of responses) {
      t.match(status, /^[2-5]\d\d$/)
      response(`${name} ${status}`, value)
    }
  }
})

t.test('a key is needed where it is needed, and the refusal is described', async t => {
  t.same(document.security, [{ key: [] }])
  t.match(document.components, { securitySchemes: { key: { type: 'http', scheme: 'bearer' } } })
  for (const { name, docs } of operationsOf(document)) {
    const isOpen = name === 'GET /health' || name === 'GET /ready'
    t.same(docs.security, isOpen ? [] : undefined, name)
    t.equal('401' in (docs.responses as Json), !isOpen, name)
  }
})

t.test('every example is what its schema says', async t => {
  let seen = 0
  const check = (where: string, content: Record<string, Json>): void => {
    for (const [type, { schema, example, examples }] of Object.entries(content)) {
      const values = [example, ...Object.values((examples ?? {}) as Record<string, Json>).map(({ value }) => value)]
      for (const value of values.filter(value => value !== undefined)) {
        seen++
        t.same(faults(schema, value), [], `${where} ${type}`)
      }
    }
  }
  for (const { name, docs } of operationsOf(document)) {
    const body = docs.requestBody as { content: Record<string, Json> } | undefined
    if (body !== undefined) check(name, body.content)
    for (const [status, value] of Object.entries(docs.responses as Record<string, Json>))
      check(`${name} ${status}`, (value.content ?? {}) as never)
  }
  const { responses } = document.components as { responses: Record<string, { content: Record<string, Json> }> }
  for (const [name, { content }] of Object.entries(responses)) check(name, content)
  t.ok(seen >= 35, `${seen} examples`)
  t.not(faults({ $ref: '#/components/schemas/Error' }, { error: { message: 'x' } }).length, 0, 'a wrong one would be seen')
})

function bodies(name: string): Json[] {
  const { content } = docsOf(name).requestBody as { content: Record<string, { examples: Record<string, { value: Json }> }> }
  return Object.values(content['application/json']?.examples ?? {}).map(({ value }) => value)
}

function answer(name: string, status = 200): Json {
  const { content } = (docsOf(name).responses as Record<number, { content: Record<string, { example: Json }> }>)[status] as never as {
    content: Record<string, { example: Json }>
  }
  return content['application/json']?.example as Json
}

/** Its keys, all the way down. */
function shapeOf(value: unknown): unknown {
  if (Array.isArray(value)) return value.length === 0 || typeof value[0] !== 'object' ? 'list' : [shapeOf(value[0])]
  if (typeof value !== 'object' || value === null) return 'value'
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, shapeOf(inner)]))
}

t.test('every request in the examples is one we take', async t => {
  const knobs = { requestId: 'id', localOnly: false }
  const bytes = (body: Json): Buffer => Buffer.from(JSON.stringify(body))
  for (const body of bodies('POST /v1/chat/completions')) t.doesNotThrow(() => readChatRequest(bytes(body), knobs))
  for (const body of bodies('POST /v1/route')) t.doesNotThrow(() => readChatRequest(bytes(body), knobs))
  for (const body of bodies('POST /v1/completions')) await t.resolves(readCompletionRequest(bytes(body), knobs))
  for (const body of bodies('POST /v1/embeddings')) await t.resolves(readEmbeddingRequest(bytes(body), knobs))
  for (const body of bodies('POST /v1/responses')) t.doesNotThrow(() => readResponsesRequest(body))
  for (const body of bodies('POST /v1/jobs')) {
    const { kind, model, stream, payload } = readSubmission(bytes(body), Date.now())
    await t.resolves(readPayload(kindFacts[kind], payload, { model, stream, knobs }))
  }
  for (const body of bodies('POST /v1/keys')) t.doesNotThrow(() => readNewKey(body))
  t.equal(bodies('POST /v1/keys').length, 2)
})

t.test('the answers in the examples have the fields that ours have', async t => {
  const record: KeyRecord = {
    ...noRules,
    id: '019a2b3c-4d5e-7f60-8a9b-0c1d2e3f4a5b',
    kind: 'source',
    source: 'alice',
    name: '',
    prefix: 'sk-llm-Zm9v',
    createdAt: new Date(),
    expiresAt: null,
    revokedAt: null,
    limits: { requestsPerMinute: 60, tokensPerMinute: 200_000, concurrentRequests: null },
    models: ['qwen3:*']
  }
  const key = keyObject(record)
  t.same(shapeOf((answer('GET /v1/keys').data as Json[])[0]), shapeOf(key))
  t.same(shapeOf(answer('POST /v1/keys', 201)), shapeOf({ ...key, key: 'sk-llm-...' }))
  t.same(faults({ $ref: '#/components/schemas/Key' }, JSON.parse(JSON.stringify(key))), [])

  const job: JobRecord = {
    id: record.id,
    kind: 'chat',
    class: 'normal',
    model: 'qwen3:32b',
    source: 'alice',
    subSource: null,
    status: 'queued',
    lane: '2/chat/qwen3:32b',
    tag: '0',
    stream: false,
    attempts: 0,
    maxAttempts: 3,
    attemptNo: 0,
    processId: null,
    deviceId: null,
    provider: null,
    createdAt: new Date(),
    startedAt: null,
    firstTokenAt: null,
    finishedAt: null,
    deadlineAt: null,
    maxCostUsd: null,
    metadata: { folder: 'reports' },
    usage: null,
    costNanoUsd: null,
    error: null,
    result: null,
    resultBytes: null,
    webhook: null
  }
  const queued = JSON.parse(jobJson(job, { position: 3, etaMs: { p50: 1, p90: 2 } }).toString())
  t.same(shapeOf(answer('POST /v1/jobs', 202)), shapeOf(queued))
  t.same(faults({ $ref: '#/components/schemas/Job' }, queued), [])

  const target = {
    id: 'rtx/qwen3:32b',
    upstream: { id: 'rtx', own: true },
    model: 'qwen3:32b',
    contextTokens: 40_960,
    maxOutputTokens: null,
    features: null,
    operations: ['chat', 'complete'],
    loaded: true,
    price: { source: 'electricity', tokens: null },
    createdAt: 1_790_000_000
  }
  const model = modelObject(
    { id: 'qwen3:32b', targets: [target as never] },
    { canCarry: () => true, isAvailable: () => true, spaceOf: () => null }
  )
  t.same(shapeOf(answer('GET /v1/models/{model}')), shapeOf(model))
  t.same(faults({ $ref: '#/components/schemas/Model' }, JSON.parse(JSON.stringify(model))), [])

  const figures = { costNanoUsd: 1, unknown: 0, promptTokens: 1, completionTokens: 1, requests: 1, estimated: 0, attempts: 1 }
  const summary = summaryObject('day', null, {
    requests: 1,
    providers: [{ ...figures, provider: 'openai' }],
    sources: [{ ...figures, source: 'alice', subSource: null }]
  } as never)
  t.same(shapeOf(answer('GET /v1/costs/summary')), shapeOf(summary))
})

/** A server with the documentation, auth on, and its health. */
async function serving(t: Test): Promise<FastifyInstance> {
  const app = Fastify()
  app.decorate('knownRoutes', [])
  app.addHook('onRoute', route => {
    for (const method of [route.method].flat()) app.knownRoutes.push({ method, url: route.url })
  })
  app.decorateRequest('context')
  app.addHook('onRequest', (request, _reply, done) => {
    request.context = {
      id: 'the-id',
      startedAt: performance.now(),
      headers: { 'access-control-allow-origin': '*' }
    } as unknown as RequestContext
    done()
  })
  registerErrors(app, (_message, error) => t.error(error))
  registerAuth(app, {
    keys: createKeyCache({ find: async () => null, isListening: () => true, now: () => performance.now() }),
    auth: true,
    allowedHosts: ['gateway.example'],
    corsOrigins: []
  })
  registerDocs(app, { version: '1.2.3', passthrough })
  registerHealth(app, { version: '1.2.3', isDraining: () => false, pingDatabase: async () => {} })
  app.post('/v1/echo', { config: { requires: 'none' } }, async request => ({ got: request.body, extra: 'kept' }))
  t.teardown(() => app.close())
  await app.ready()
  return app
}

t.test('the pages are served here, from here only, and to nobody else’s pages', async t => {
  const app = await serving(t)
  const page = await app.inject({ url: '/docs' })
  t.equal(page.statusCode, 200)
  t.match(page.headers['content-type'], /^text\/html/)
  t.match(page.body, /<div id="swagger-ui">/)
  const linked = [...page.body.matchAll(/(?:src|href)="([^"]+)"/g)].map(match => match[1] as string)
  t.ok(linked.length >= 5)
  for (const url of linked) {
    t.match(url, /^\/docs\/static\//, 'nothing from elsewhere')
    const file = await app.inject({ url })
    t.equal(file.statusCode, 200, url)
    t.ok(file.rawPayload.length > 100, url)
  }
  t.notMatch(page.body, /<script(?! src)|<style| style=|onload=/, 'nothing inline')
  for (const url of ['/docs', '/docs/', '/docs/json', '/docs/static/swagger-ui.css', '/docs/nothing', '/openapi.json']) {
    const { headers } = await app.inject({ url, headers: { origin: 'https://evil.example' } })
    const policy = String(headers['content-security-policy'])
    t.match(policy, /^default-src 'none'; script-src 'self';/, url)
    t.notMatch(policy, /https?:|\*|unsafe-eval/, url)
    t.same(
      Object.keys(headers).filter(name => name.startsWith('access-control-')),
      [],
      url
    )
    t.equal(headers['x-request-id'], 'the-id', url)
    t.equal(headers['x-content-type-options'], 'nosniff', url)
  }
})

t.test('the document is that of the routes there are', async t => {
  const app = await serving(t)
  for (const url of ['/docs/json', '/openapi.json']) {
    const response = await app.inject({ url })
    t.equal(response.statusCode, 200)
    const shown = response.json() as OpenApiDocument
    t.same(Object.keys(shown.paths).sort(), ['/health', '/ready', '/v1/echo'])
    t.same(shown, JSON.parse(JSON.stringify(openApiDocument({ version: '1.2.3', routes: app.knownRoutes, passthrough }))))
  }
  const health = await app.inject({ url: '/health' })
  t.same(shapeOf(health.json()), shapeOf(answer('GET /health')))
  t.same(shapeOf((await app.inject({ url: '/ready' })).json()), shapeOf(answer('GET /ready')))
})

t.test('without a key, but only under our own names; what is not there is a 404 in our form', async t => {
  const app = await serving(t)
  const status = async (url: string, host: string): Promise<number> => (await app.inject({ url, headers: { host } })).statusCode
  for (const url of ['/docs', '/docs/json', '/docs/static/swagger-ui.css', '/openapi.json']) {
    t.equal(await status(url, '127.0.0.1:4000'), 200, url)
    t.equal(await status(url, 'gateway.example'), 200, url)
    t.equal(await status(url, 'evil.example'), 403, url)
  }
  for (const url of [
    '/docs/nothing',
    '/docs/static/nothing.js',
    '/docs/static/%2e%2e/package.json',
    '/docs/static/..%2findex.js',
    '/docs/static/%5c..%5cindex.js'
  ]) {
    const response = await app.inject({ url })
    t.equal(response.statusCode, 404, url)
    t.match(response.json(), { error: { code: 'not_found', message: String, type: String, param: null } }, url)
  }
  const posted = await app.inject({ url: '/docs', method: 'POST' })
  t.match([posted.statusCode, posted.headers.allow], [405, 'GET'])
})

t.test('no schema of a route checks or changes what passes through', async t => {
  const app = Fastify()
  app.decorate('knownRoutes', [])
  registerDocs(app, { version: '1', passthrough })
  const schema = {
    body: { type: 'object', required: ['missing'], properties: { n: { type: 'integer', default: 1 } } },
    response: { 200: { type: 'object', properties: { known: { type: 'string' } } } }
  }
  app.post('/strict', { schema }, request => ({ unknown: request.body }))
  t.teardown(() => app.close())
  const response = await app.inject({ url: '/strict', method: 'POST', payload: { temperature: '0.5' } })
  t.same([response.statusCode, response.json()], [200, { unknown: { temperature: '0.5' } }])
})
