// The jobs API on a server of its own, with a queue in memory: what it was told, and what it is to say.

import { createHash } from 'node:crypto'
import Fastify from 'fastify'
import type { Test } from 'tap'
import { bodyBytesAtMost } from '../../gateway/body.ts'
import { createKeyCache, hashKey } from '../../gateway/keys.ts'
import type { Limits } from '../../gateway/limits.ts'
import { registerAuth } from '../../gateway/plugins/auth.ts'
import { registerErrors } from '../../gateway/plugins/errors.ts'
import { registerChecks, registerRequests } from '../../gateway/plugins/requests.ts'
import { type OnSubmitted, registerJobs } from '../../gateway/routes/jobs.ts'
import { createStreams, type Streams } from '../../gateway/streams.ts'
import type { EventId, JobRecord, JobScope, Jobs, JobWatch, NewJob } from '../../queue/types.ts'
import { createCatalog } from '../../routing/catalog.ts'
import { createDispatch, type Dispatch } from '../../routing/dispatch.ts'
import { GatewayError } from '../../routing/errors.ts'
import { uuidv7 } from '../../routing/ids.ts'
import { createLoad } from '../../routing/load.ts'
import type { RunPorts } from '../../routing/run-ports.ts'
import type { Feature, Operation, Target, Upstream } from '../../routing/types.ts'
import { type KeyRecord, noRules } from '../../store/keys.ts'

export type Json = Record<string, unknown>

export const nowMs = Date.parse('2026-11-20T09:30:00.000Z')
export const aliceKey = 'sk-llm-alice-0123456789'
export const bobKey = 'sk-llm-bob-0123456789'
export const adminKey = 'sk-llm-admin-0123456789'
export const sharedKey = 'sk-llm-shared-0123456789'

function keyRecord(source: string, changes: Partial<KeyRecord> = {}): KeyRecord {
  return {
    ...noRules,
    id: uuidv7(nowMs),
    kind: 'source',
    source,
    name: '',
    prefix: 'sk-llm-',
    createdAt: new Date(0),
    expiresAt: null,
    revokedAt: null,
    ...changes
  }
}

const records = new Map(
  [
    [aliceKey, keyRecord('alice', { weight: 2, models: ['qwen3:*', 'gpt-5', 'nomic-embed-text'] })],
    [bobKey, keyRecord('bob')],
    [adminKey, keyRecord('admin', { kind: 'admin' })],
    [sharedKey, keyRecord('webui', { trustUserHeader: true })]
  ].map(([key, record]) => [hashKey(key as string).toString('hex'), record as KeyRecord])
)

const device = { id: '', maxConcurrency: 1, watts: 1, vramGb: null, ramGb: null, keepAlive: null, numCtx: null }

function upstreamOf(id: string, adapter: string, own: boolean): Upstream {
  return {
    id,
    adapter,
    own,
    baseUrl: '',
    apiKey: null,
    headers: {},
    device: own ? { ...device, id } : null,
    timeouts: { connectMs: 1, firstTokenMs: 1, idleMs: 1, totalMs: 1 },
    models: null,
    auto: [],
    streamUsage: true,
    registryId: null
  }
}

const upstreams = [
  upstreamOf('ollama', 'ollama', true),
  upstreamOf('rtx', 'ollama', true),
  upstreamOf('studio', 'openai', true),
  upstreamOf('openai', 'openai', false),
  upstreamOf('openrouter', 'openrouter', false)
]

/** `upstream/model` of everything there is. */
const listed: readonly (readonly [upstream: string, model: string, operations?: readonly Operation[]])[] = [
  ['ollama', 'gemma3:4b'],
  ['rtx', 'qwen3:32b'],
  ['rtx', 'nomic-embed-text', ['embed']],
  ['studio', 'qwen3:32b'],
  ['openai', 'gpt-5'],
  ['openrouter', 'openai/gpt-5'],
  ['openrouter', 'meta/llama']
]

function targets(): Target[] {
  return listed.map(([of, model, operations = ['chat', 'complete']]) => ({
    id: `${of}/${model}`,
    upstream: upstreams.find(({ id }) => id === of) as Upstream,
    model,
    contextTokens: 100_000,
    maxOutputTokens: null,
    features: null,
    operations,
    loaded: true,
    price: { source: 'unknown', tokens: null },
    createdAt: 0
  }))
}

/** Plans on the real catalog above. `full`: machines that have no place. */
export function planning(full: readonly string[] = []): Dispatch {
  const prices = { configured: new Map(), registered: () => null }
  const catalog = createCatalog({
    upstreams,
    targets: targets(),
    listed: new Set(upstreams.map(({ id }) => id)),
    aliases: new Map(),
    auto: [],
    prices,
    vectorSpaces: new Map(),
    demo: { ...(targets()[0] as Target), id: 'demo/demo', model: 'demo' }
  })
  const load = createLoad({ now: () => 0 } as never)
  const features: readonly Feature[] = ['json_object', 'json_schema', 'suffix', 'tools', 'vision']
  const adapters = new Map(['ollama', 'openai', 'openrouter'].map(name => [name, { name, features: new Set(features) }]))
  return createDispatch({
    catalog: () => catalog,
    adapters,
    breakers: { isOpen: () => false, begin() {}, record() {} },
    health: { isDown: () => false },
    load: { ...load, inFlight: (id: string) => (full.includes(id) ? 1 : 0) },
    localOnly: false,
    now: () => 0,
    random: () => 0
  } as unknown as RunPorts)
}

export function recordOf(job: Partial<JobRecord> = {}): JobRecord {
  return {
    id: uuidv7(nowMs),
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
    createdAt: new Date(nowMs),
    startedAt: null,
    firstTokenAt: null,
    finishedAt: null,
    deadlineAt: null,
    maxCostUsd: null,
    metadata: null,
    usage: null,
    costNanoUsd: null,
    error: null,
    result: null,
    resultBytes: null,
    webhook: null,
    ...job
  }
}

function recordFor(job: NewJob): JobRecord {
  return recordOf({
    id: job.id,
    kind: job.kind,
    class: job.class,
    model: job.model,
    source: job.caller.source,
    subSource: job.caller.subSource,
    stream: job.stream,
    maxAttempts: job.maxAttempts,
    deadlineAt: job.deadlineAt === null ? null : new Date(job.deadlineAt),
    maxCostUsd: job.maxCostUsd,
    metadata: job.metadata,
    webhook: job.webhookUrl === null ? null : { url: job.webhookUrl, status: 'waiting', error: null }
  })
}

export interface FakeJobs extends Jobs {
  /** Results too large to come along, by the ids of their jobs; and how many of them are held. */
  readonly large: Map<string, Buffer>
  readonly held: () => number

  /** Everything that was submitted, in its order. */
  readonly submitted: NewJob[]
  /** What `list` and `watch` were asked. */
  readonly queries: Parameters<Jobs['list']>[0][]
  readonly watched: { readonly id: string; readonly after: EventId | null }[]
  put(record: JobRecord): JobRecord
  /** What `watch` gives from now on. */
  watchBy(watch: () => JobWatch): void
  failWith(error: GatewayError | null): void
}

const outlook = { position: 3, etaMs: { p50: 1_200, p90: 2_400 } }
const none = { position: null, etaMs: null }

/** A queue that keeps its word about scopes, idempotency and what is over. */
export function createFakeJobs(): FakeJobs {
  const stored = new Map<string, JobRecord>()
  const byKey = new Map<string, { readonly id: string; readonly hash: string }>()
  const submitted: NewJob[] = []
  const queries: Parameters<Jobs['list']>[0][] = []
  const watched: { readonly id: string; readonly after: EventId | null }[] = []
  const large = new Map<string, Buffer>()
  let held = 0
  let failure: GatewayError | null = null
  let createWatch: (() => JobWatch) | null = null

  const within = (id: string, scope: JobScope): JobRecord | null => {
    if (failure !== null) throw failure
    const job = stored.get(id) ?? null
    return job !== null && (scope === null || scope.source === job.source) ? job : null
  }
  const isOver = ({ status }: JobRecord): boolean => status !== 'queued' && status !== 'running'
  const put = (record: JobRecord): JobRecord => {
    stored.set(record.id, record)
    return record
  }

  return {
    submitted,
    queries,
    watched,
    large,
    held: () => held,
    put,
    watchBy: watch => (createWatch = watch),
    failWith: error => (failure = error),
    async submit(job) {
      if (failure !== null) throw failure
      if (job.idempotency !== null) {
        const name = `${job.caller.source} ${job.idempotency.key}`
        const hash = job.idempotency.hash.toString('hex')
        const known = byKey.get(name)
        const earlier = known === undefined ? undefined : stored.get(known.id)
        if (known !== undefined && earlier !== undefined) {
          if (known.hash !== hash) throw new GatewayError('idempotency_key_reused', 'This Idempotency-Key was used for another body.')
          return { job: earlier, outlook: isOver(earlier) ? none : outlook, replayed: true }
        }
        byKey.set(name, { id: job.id, hash })
      }
      submitted.push(job)
      return { job: put(recordFor(job)), outlook, replayed: false }
    },
    async earlier(source, { key, hash }) {
      const known = byKey.get(`${source} ${key}`)
      const job = known === undefined ? undefined : stored.get(known.id)
      if (known === undefined || job === undefined) return null
      if (known.hash !== hash.toString('hex'))
        throw new GatewayError('idempotency_key_reused', 'This Idempotency-Key was used for another body.')
      return { job, outlook: isOver(job) ? none : outlook, replayed: true }
    },
    async find(id, scope) {
      const job = within(id, scope)
      return job === null ? null : { job, outlook: job.status === 'queued' ? outlook : none }
    },
    async result({ id }, signal) {
      if (failure !== null) throw failure
      const bytes = large.get(id)
      if (bytes === undefined || signal.aborted) throw new GatewayError('client_gone', 'The client went away.')
      held++
      let isHeld = true
      const release = (): void => {
        if (isHeld) held--
        isHeld = false
      }
      return { bytes, release }
    },
    async list(query) {
      queries.push(query)
      const all = [...stored.values()].filter(({ source }) => query.scope === null || query.scope.source === source)
      return all
        .filter(({ id }) => query.after === null || id < query.after)
        .sort((a, b) => (a.id < b.id ? 1 : -1))
        .slice(0, query.limit)
        .map(job => ({ ...job, result: null }))
    },
    async cancel(id, scope) {
      const job = within(id, scope)
      return job === null || isOver(job) ? job : put({ ...job, status: 'cancelled', finishedAt: new Date(nowMs) })
    },
    async retry(id, scope) {
      const job = within(id, scope)
      if (job === null) return null
      if (!isOver(job)) throw new GatewayError('job_not_finished', 'This job is not over yet.')
      return put({ ...job, status: 'queued', attempts: 0, finishedAt: null, result: null, error: null })
    },
    async redeliver(id, scope) {
      const job = within(id, scope)
      if (job === null) return null
      if (!isOver(job)) throw new GatewayError('job_not_finished', 'This job is not over yet.')
      if (job.webhook === null) throw new GatewayError('not_found', 'This job has no webhook.')
      return put({ ...job, webhook: { ...job.webhook, status: 'waiting' } })
    },
    async watch(id, scope, after) {
      const job = within(id, scope)
      if (job === null) return null
      watched.push({ id, after })
      return createWatch?.() ?? { next: async () => null, close() {} }
    }
  }
}

export interface Answer {
  readonly statusCode: number
  readonly headers: Headers
  readonly body: string
  json(): Json
}

export interface Serving {
  readonly url: string
  readonly jobs: FakeJobs
  readonly streams: Streams
  /** What limits were asked: whose, and which of them counted. */
  readonly admitted: { readonly name: string; readonly limits: unknown; readonly tokens: number; settled: unknown }[]
  /** With alice's key, unless another is given; '' = without one. */
  ask(method: string, url: string, options?: AskOptions): Promise<Answer>
  submit(body: unknown, options?: Omit<AskOptions, 'body'>): Promise<Answer>
}

export interface AskOptions {
  readonly key?: string
  /** Bytes, text, or a value to be written as JSON. */
  readonly body?: unknown
  readonly headers?: Readonly<Record<string, string>>
}

export interface ServingOptions {
  readonly auth?: boolean
  readonly dispatch?: Pick<Dispatch, 'plan'>
  readonly webhooks?: boolean
  readonly refuse?: GatewayError
  readonly onSubmitted?: OnSubmitted
}

/** The server. Webhooks are on unless told otherwise. */
export async function serving(t: Test, options: ServingOptions = {}): Promise<Serving> {
  const { auth = true, dispatch = planning(), webhooks = true, refuse, onSubmitted } = options
  const jobs = createFakeJobs()
  const streams = createStreams()
  const admitted: Serving['admitted'] = []
  const limits: Limits = {
    admit(name, limits, tokens) {
      if (refuse !== undefined) throw refuse
      const entry: Serving['admitted'][number] = { name, limits, tokens, settled: 'not yet' }
      admitted.push(entry)
      return {
        headers: () => ({}),
        settle(tokens) {
          entry.settled = tokens
        }
      }
    },
    headersOf: () => ({ 'x-ratelimit-limit-requests': '60' }),
    close: async () => {}
  }
  const app = Fastify({ bodyLimit: bodyBytesAtMost })
  app.decorate('knownRoutes', [])
  app.addHook('onRoute', route => {
    for (const method of [route.method].flat()) app.knownRoutes.push({ method, url: route.url })
  })
  registerRequests(app, { newId: () => uuidv7(Date.now()), logRequest: () => {} })
  registerErrors(app, (_message, error) => t.error(error))
  registerChecks(app, () => false)
  registerAuth(app, {
    keys: createKeyCache({
      find: async hash => records.get(hash.toString('hex')) ?? null,
      isListening: () => true,
      now: () => performance.now()
    }),
    auth,
    allowedHosts: [],
    corsOrigins: []
  })
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (_request, body, done) => done(null, body))
  registerJobs(app, {
    jobs,
    dispatch,
    limits,
    streams,
    webhooks: webhooks
      ? {
          check(url) {
            if (new URL(url).hostname === '127.0.0.1') throw new GatewayError('invalid_request', 'This address is not called.')
          },
          secretOf: source => `whsec_${createHash('sha256').update(source).digest('base64')}`
        }
      : null,
    weightOf: async source => ([...records.values()].some(record => record.source === source) ? 5 : null),
    ...(onSubmitted === undefined ? {} : { onSubmitted }),
    newId: () => uuidv7(Date.now()),
    now: () => nowMs
  })
  const url = await app.listen({ port: 0, host: '127.0.0.1' })
  t.teardown(async () => {
    streams.close()
    app.server.closeAllConnections()
    await app.close()
  })
  const ask: Serving['ask'] = async (method, path, { key = aliceKey, body, headers } = {}) => {
    const response = await fetch(`${url}${path}`, {
      method,
      headers: {
        ...(key === '' ? {} : { authorization: `Bearer ${key}` }),
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...headers
      },
      ...(body === undefined ? {} : { body: typeof body === 'string' || body instanceof Buffer ? body : JSON.stringify(body) })
    })
    const text = await response.text()
    return { statusCode: response.status, headers: response.headers, body: text, json: () => JSON.parse(text) as Json }
  }
  return { url, jobs, streams, admitted, ask, submit: (body, options) => ask('POST', '/v1/jobs', { ...options, body }) }
}

export const chat: Json = { kind: 'chat', model: 'qwen3:32b', payload: { messages: [{ role: 'user', content: 'hi' }] } }
