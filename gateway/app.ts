// The table of contents of the HTTP server: what is registered, in which order.

import type { Socket } from 'node:net'
import Fastify, { type FastifyInstance, type FastifyReply } from 'fastify'
import type { Catalog } from '../routing/catalog.ts'
import type { Dispatch } from '../routing/dispatch.ts'
import { GatewayError } from '../routing/errors.ts'
import type { RouteStart } from '../routing/ports.ts'
import type { Caller } from '../routing/types.ts'
import { admit } from './answer.ts'
import { bodyBytesAtMost } from './body.ts'
import type { RequestContext } from './context.ts'
import type { KeyCache } from './keys.ts'
import type { Limits } from './limits.ts'
import type { JobMetrics } from './metrics/jobs.ts'
import { createMetrics, type LimitName, type MetricsPorts } from './metrics.ts'
import { registerAuth } from './plugins/auth.ts'
import { registerCors } from './plugins/cors.ts'
import { registerDocs } from './plugins/docs.ts'
import { errorReply, fromFastify, rawErrorAnswer, registerErrors } from './plugins/errors.ts'
import { registerChecks, registerRequests } from './plugins/requests.ts'
import { drainingError } from './reply.ts'
import { type BenchmarksPorts, registerBenchmarks } from './routes/benchmarks.ts'
import { registerChat } from './routes/chat.ts'
import { registerCompletions } from './routes/completions.ts'
import { type CostsPorts, registerCosts } from './routes/costs.ts'
import { type DashboardPorts, registerDashboard } from './routes/dashboard.ts'
import { registerEmbeddings } from './routes/embeddings.ts'
import { type FleetPorts, registerFleet } from './routes/fleet.ts'
import { registerHealth } from './routes/health.ts'
import { type JobsPorts, type OnSubmitted, registerJobs } from './routes/jobs.ts'
import { type KeysPorts, registerKeys } from './routes/keys.ts'
import { registerMetrics } from './routes/metrics.ts'
import { registerModels } from './routes/models.ts'
import { type PassthroughPorts, registerPassthrough } from './routes/passthrough.ts'
import { registerResponses } from './routes/responses.ts'
import { type RoutesPorts, registerRoutes } from './routes/routes.ts'
import { cutStalled } from './stalled.ts'
import { createStreams } from './streams.ts'

export interface AppPorts {
  readonly version: string
  readonly dispatch: Dispatch
  readonly routes: Pick<RoutesPorts, 'preview' | 'find'> & {
    /** Keeps why a job waits. `start` is called at once, or not at all. */
    readonly submitted: (id: string, start: () => RouteStart) => void
  }
  readonly limits: Limits
  readonly catalog: () => Catalog
  /** Upstreams that did not answer when they were last asked, by id. */
  readonly unavailable: () => ReadonlySet<string>
  readonly keyCache: KeyCache
  readonly keys: KeysPorts
  readonly jobs: Pick<JobsPorts, 'jobs' | 'webhooks' | 'weightOf'>
  readonly costs: CostsPorts
  readonly fleet: FleetPorts
  readonly benchmarks: BenchmarksPorts
  readonly snapshot: DashboardPorts['snapshot']
  /** What is not interpreted: where it goes, and how it is booked. */
  readonly passthrough: Pick<PassthroughPorts, 'provider' | 'paths' | 'localOnly' | 'ledger' | 'outbound' | 'target'>
  /** Of machines and breakers; the rest of the metrics is counted here. */
  readonly state: Pick<MetricsPorts, 'slots' | 'breakers' | 'jobs' | 'others'>
  readonly pingDatabase: () => Promise<void>
  readonly auth: boolean
  readonly allowedHosts: readonly string[]
  /** Origins of web pages that may call us; `*` = any. */
  readonly corsOrigins: readonly string[]
  readonly newId: () => string
  /** One line per request, at its end. */
  readonly logRequest: (context: RequestContext, line: RequestLine) => void
  readonly logFault: (message: string, error: unknown) => void
}

export interface RequestLine {
  readonly method: string
  /** As it was registered. */
  readonly route: string
  readonly status: number
  /** The client's own count of its tries, 0 at the first. */
  readonly retryCount: number
}

export interface Gateway {
  readonly app: FastifyInstance
  /** What happened to jobs is counted here, wherever it happened in this process. */
  readonly jobMetrics: JobMetrics
  /** What this process has counted, for others of its kind. */
  counted(): Promise<readonly unknown[]>
  /** Refuses new requests, lets the open ones finish for `ms`, then ends them with an error frame, and closes. */
  drain(ms: number): Promise<void>
}

/** Clients whose base URL lacks the /v1 find the same there. */
const prefixes = ['/v1', '']
const limitNames: Readonly<Record<string, LimitName>> = {
  rate_limit_exceeded: 'requests',
  token_limit_exceeded: 'tokens',
  concurrency_limit_exceeded: 'concurrency'
}

/** The server, not yet listening. Throws when a route does not say which key it needs. */
export async function createGateway(ports: AppPorts): Promise<Gateway> {
  const streams = createStreams()
  let draining = false
  const metrics = createMetrics({ ...ports.state, version: ports.version, openStreams: () => streams.size })
  const app = Fastify({
    logger: false,
    bodyLimit: bodyBytesAtMost,
    requestTimeout: 30_000,
    keepAliveTimeout: 72_000,
    forceCloseConnections: 'idle',
    routerOptions: { maxParamLength: 512 },
    http: {
      // What waits for a reader that stands still: node's own 64 kB, for each of a thousand, would be its memory twice.
      highWaterMark: 16 * 1024,
      headersTimeout: 10_000,
      connectionsCheckingInterval: 2_000,
      requireHostHeader: false,
      maxHeaderSize: 16 * 1024,
      keepAlive: true
    },
    // What the router refuses before any hook of ours runs, such as a path that cannot be decoded.
    frameworkErrors(error, _request, reply) {
      const { status, headers, body } = errorReply(fromFastify(error))
      void (reply as FastifyReply)
        .code(status)
        .headers({ ...headers, 'x-request-id': ports.newId() })
        .send(body)
    },
    clientErrorHandler(error: NodeJS.ErrnoException, socket: Socket) {
      if (error.code === 'ECONNRESET' || !socket.writable) return void socket.destroy()
      socket.end(rawErrorAnswer(error.code))
    }
  })
  cutStalled(app.server)
  // Node would answer with an empty 417.
  app.server.on('checkExpectation', (_request, response) => {
    const { status, headers, body } = errorReply(
      new GatewayError('invalid_request', 'Of Expect headers only "100-continue" is understood.', { status: 417 })
    )
    response.writeHead(status, { ...headers, 'x-request-id': ports.newId(), connection: 'close' }).end(body)
  })
  app.decorate('knownRoutes', [])
  app.addHook('onRoute', route => {
    for (const method of [route.method].flat()) app.knownRoutes.push({ method, url: route.url })
  })

  // 1. who asks for what, before a byte of the body is read; whatever becomes of it, it ends with its line in the log
  app.addHook('onRequest', (_request, _reply, done) => {
    metrics.began()
    done()
  })
  registerRequests(app, { newId: ports.newId, logRequest })
  registerErrors(app, ports.logFault)
  await registerCors(app, ports.corsOrigins)
  registerChecks(app, () => draining)
  registerAuth(app, { keys: ports.keyCache, auth: ports.auth, allowedHosts: ports.allowedHosts, corsOrigins: ports.corsOrigins })
  // 2. bodies stay bytes: Fastify's own parser would change what passes through
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (_request, body, done) => done(null, body))
  // 3. the routes
  const onSubmitted: OnSubmitted = (request, caller) => ports.routes.submitted(request.id, () => ports.routes.preview(request, caller))
  const calls = { dispatch: ports.dispatch, limits: ports.limits, jobs: ports.jobs.jobs, onSubmitted, streams, prefixes }
  registerChat(app, calls)
  registerCompletions(app, calls)
  registerEmbeddings(app, calls)
  registerResponses(app, { ...calls, newId: ports.newId })
  registerRoutes(app, { ...ports.routes, dispatch: ports.dispatch, limits: ports.limits, prefixes })
  registerModels(app, { catalog: ports.catalog, prefixes, canCarry: ports.dispatch.canCarry, unavailable: ports.unavailable })
  registerJobs(app, {
    ...ports.jobs,
    dispatch: ports.dispatch,
    limits: ports.limits,
    onSubmitted,
    streams,
    newId: ports.newId,
    now: Date.now
  })
  registerKeys(app, ports.keys)
  registerCosts(app, ports.costs)
  registerFleet(app, ports.fleet)
  registerBenchmarks(app, ports.benchmarks)
  registerDashboard(app, { snapshot: ports.snapshot, devices: ports.fleet.list, view: ports.fleet.view, now: Date.now })
  registerPassthrough(app, {
    ...ports.passthrough,
    prefixes,
    streams,
    newId: ports.newId,
    admit: async (request, { estimatedTokens }) => admit(ports.limits, request, request.context.caller as Caller, estimatedTokens)
  })
  registerMetrics(app, { metrics })
  registerDocs(app, { version: ports.version, passthrough: [...ports.passthrough.paths] })
  registerHealth(app, { version: ports.version, isDraining: () => draining, pingDatabase: ports.pingDatabase })
  await app.ready()

  function logRequest(context: RequestContext, line: RequestLine): void {
    metrics.ended()
    metrics.request(context, line)
    const limit = limitNames[context.error?.code ?? '']
    if (limit !== undefined) metrics.limited(limit)
    ports.logRequest(context, line)
  }

  async function drain(ms: number): Promise<void> {
    draining = true
    await streams.settled(ms)
    streams.endAll(drainingError())
    await streams.settled(1_000)
    streams.close()
    const closing = app.close()
    app.server.closeIdleConnections()
    const late = setTimeout(() => app.server.closeAllConnections(), 500)
    await closing
    clearTimeout(late)
  }

  return { app, jobMetrics: metrics, counted: metrics.counted, drain }
}
