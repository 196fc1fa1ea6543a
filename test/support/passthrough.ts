// A server with the passed-through routes alone, real books in memory, and a provider that writes down every byte it gets.

import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { type AddressInfo, connect, type Socket } from 'node:net'
import Fastify from 'fastify'
import type { Test } from 'tap'
import type { RequestContext } from '../../gateway/context.ts'
import { createKeyCache, hashKey } from '../../gateway/keys.ts'
import { registerAuth } from '../../gateway/plugins/auth.ts'
import { registerErrors } from '../../gateway/plugins/errors.ts'
import { registerChecks, registerRequests } from '../../gateway/plugins/requests.ts'
import { type PassthroughPorts, registerPassthrough } from '../../gateway/routes/passthrough.ts'
import type { OpenStream } from '../../gateway/streams.ts'
import { createLedger } from '../../ledger/ledger.ts'
import { createOutbound } from '../../outbound/client.ts'
import { uuidv7 } from '../../routing/ids.ts'
import { unlistedTarget } from '../../routing/targets.ts'
import type { TokenPrice, Upstream } from '../../routing/types.ts'
import type { CostRow } from '../../store/costs.ts'
import { type KeyRules, noRules } from '../../store/keys.ts'
import { until } from './wait.ts'

export const providerKey = 'sk-proj-canary-provider-key-0123456789'
export const providerHeader = 'org-canary-9876543210'
export const sourceKey = 'sk-llm-source-key-0123456789abcdef'

export interface ProviderCall {
  readonly method: string
  readonly path: string
  readonly headers: IncomingMessage['headers']
  readonly rawHeaders: readonly string[]
  readonly body: Buffer
}

export type ProviderBehaviour = (call: ProviderCall, response: ServerResponse) => void

export interface FakeProvider {
  readonly url: string
  readonly calls: ProviderCall[]
  /** Requests that began to arrive, whatever came of them. */
  readonly begun: { count: number }
  /** Answers whose connection was closed before their end. */
  readonly aborted: { count: number }
  readonly sockets: ReadonlySet<Socket>
  behaviour: ProviderBehaviour
}

/** Listens until `t` ends. */
export async function startProvider(t: Test, behaviour: ProviderBehaviour = sayOk): Promise<FakeProvider> {
  const sockets = new Set<Socket>()
  const server = createServer((request, response) => {
    provider.begun.count++
    response.on('close', () => {
      if (!response.writableFinished) provider.aborted.count++
    })
    const chunks: Buffer[] = []
    request.on('data', chunk => chunks.push(chunk))
    request.on('end', () => {
      const { method = '', url: path = '', headers, rawHeaders } = request
      const call = { method, path, headers, rawHeaders, body: Buffer.concat(chunks) }
      provider.calls.push(call)
      provider.behaviour(call, response)
    })
  })
  server.on('connection', socket => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.on('close', () => sockets.delete(socket))
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    return new Promise<void>(resolve => server.close(() => resolve()))
  })
  const provider: FakeProvider = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/api/v1`,
    calls: [],
    begun: { count: 0 },
    aborted: { count: 0 },
    sockets,
    behaviour
  }
  return provider
}

export const sayOk: ProviderBehaviour = (_call, response) => {
  response.writeHead(200, { 'content-type': 'application/json' }).end('{"ok":true}')
}

export function json(status: number, body: unknown, headers: Record<string, string> = {}): ProviderBehaviour {
  return (_call, response) => {
    response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body))
  }
}

export interface PassthroughOptions extends Partial<Omit<PassthroughPorts, 'provider'>> {
  readonly provider?: Partial<Upstream> | null
  readonly rules?: Partial<KeyRules>
  /** By model. */
  readonly prices?: Readonly<Record<string, TokenPrice>>
  readonly registered?: Readonly<Record<string, TokenPrice>>
}

export interface PassthroughApp {
  readonly url: string
  readonly port: number
  /** As booked, each attempt once. */
  readonly rows: CostRow[]
  /** Attempts that were written down before their call. */
  readonly intents: CostRow[]
  readonly contexts: RequestContext[]
  readonly statuses: number[]
  readonly admitted: { readonly model: string | null; readonly estimatedTokens: number }[]
  readonly settled: (number | null)[]
  readonly open: ReadonlySet<OpenStream>
  post(path: string, init?: RequestInit): Promise<Response>
  /** The row of the only call there was. */
  row(): Promise<CostRow>
}

/** A gateway of which only the passed-through routes exist; closed when `t` ends. */
export async function startPassthrough(t: Test, options: PassthroughOptions): Promise<PassthroughApp> {
  const { provider: given, rules, prices = {}, registered = {}, ...ports } = options
  const rows: CostRow[] = []
  const intents: CostRow[] = []
  const ledger = createLedger({
    journal: { intent: (row: CostRow) => void intents.push(row), settle() {}, stored() {}, close() {} } as never,
    insert: async batch => void rows.push(...batch),
    usdPerKwh: 0.25,
    now: Date.now,
    log: (message, error) => t.error(error ?? new Error(message))
  })
  const outbound = createOutbound()
  const open = new Set<OpenStream>()
  const contexts: RequestContext[] = []
  const statuses: number[] = []
  const admitted: PassthroughApp['admitted'] = []
  const settled: (number | null)[] = []
  const newId = (): string => uuidv7(Date.now())
  const app = Fastify({ logger: false, bodyLimit: 32 * 1024 * 1024, http: { requireHostHeader: false }, forceCloseConnections: true })
  app.decorate('knownRoutes', [])
  app.addHook('onRoute', route => {
    for (const method of [route.method].flat()) app.knownRoutes.push({ method, url: route.url })
  })
  registerRequests(app, {
    newId,
    logRequest(context, line) {
      contexts.push(context)
      statuses.push(line.status)
    }
  })
  registerChecks(app, () => false)
  registerErrors(app, (_message, error) => t.error(error))
  registerAuth(app, {
    keys: createKeyCache({
      find: async hash =>
        hash.equals(hashKey(sourceKey))
          ? {
              ...noRules,
              ...rules,
              id: '01890000-0000-7000-8000-000000000001',
              kind: 'source',
              source: 'me',
              name: '',
              prefix: 'sk-llm-s',
              createdAt: new Date(),
              expiresAt: null,
              revokedAt: null
            }
          : null,
      isListening: () => true,
      now: () => performance.now()
    }),
    auth: true,
    allowedHosts: [],
    corsOrigins: []
  })
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (_request, body, done) => done(null, body))
  const provider: Upstream | null =
    given === null
      ? null
      : {
          id: 'openai',
          adapter: 'openai',
          own: false,
          baseUrl: 'http://127.0.0.1:9/api/v1',
          apiKey: providerKey,
          headers: { 'OpenAI-Organization': providerHeader },
          device: null,
          timeouts: { connectMs: 2_000, firstTokenMs: 10_000, idleMs: 10_000, totalMs: 60_000 },
          models: null,
          auto: [],
          streamUsage: true,
          registryId: 'openai',
          ...given
        }
  registerPassthrough(app, {
    paths: ['audio', 'images', 'moderations'],
    prefixes: ['/v1', ''],
    admit: async (_request, facts) => {
      admitted.push(facts)
      return { headers: () => ({ 'x-ratelimit-limit-requests': '60' }), settle: tokens => void settled.push(tokens) }
    },
    ledger,
    outbound,
    streams: {
      add: stream => open.add(stream),
      remove: stream => void open.delete(stream),
      size: 0,
      settled: async () => {},
      endAll() {},
      close() {}
    },
    target: (upstream, model) =>
      unlistedTarget(
        { configured: new Map(Object.entries(prices)), registered: (_registry, name) => registered[name] ?? null },
        upstream,
        model
      ),
    localOnly: false,
    newId,
    ...ports,
    provider
  })
  await app.listen({ port: 0, host: '127.0.0.1' })
  t.teardown(async () => {
    await app.close()
    await outbound.close()
    await ledger.close()
  })
  const { port } = app.server.address() as AddressInfo
  const url = `http://127.0.0.1:${port}`
  return {
    url,
    port,
    rows,
    intents,
    contexts,
    statuses,
    admitted,
    settled,
    open,
    post: (path, init = {}) =>
      fetch(`${url}${path}`, { method: 'POST', ...init, headers: { authorization: `Bearer ${sourceKey}`, ...init.headers } }),
    async row() {
      await until('the row of the call', async () => {
        await ledger.flush(1_000)
        return rows.length > 0
      })
      t.equal(rows.length, 1, 'one row')
      t.equal(intents.length, 1, 'one intent')
      return rows[0] as CostRow
    }
  }
}

/** Everything that comes back for these bytes on a connection of their own. */
export function rawExchange(port: number, bytes: Buffer | string): Promise<string> {
  return new Promise(resolve => {
    let text = ''
    const socket = connect(port, '127.0.0.1', () => socket.write(bytes))
    socket.setEncoding('latin1')
    socket.on('data', chunk => {
      text += chunk
    })
    socket.on('error', () => {})
    socket.on('close', () => resolve(text))
  })
}
