// The table of contents of the HTTP server: what is registered, in which order.

import type { Socket } from 'node:net'
import Fastify, { type FastifyInstance, type FastifyReply } from 'fastify'
import type { Catalog } from '../routing/catalog.ts'
import type { Dispatch } from '../routing/dispatch.ts'
import { GatewayError } from '../routing/errors.ts'
import type { RequestContext } from './context.ts'
import type { KeyCache } from './keys.ts'
import { registerAuth } from './plugins/auth.ts'
import { errorReply, fromFastify, rawErrorAnswer, registerErrors } from './plugins/errors.ts'
import { registerRequests } from './plugins/requests.ts'
import { drainingError } from './reply.ts'
import { registerChat } from './routes/chat.ts'
import { type CostsPorts, registerCosts } from './routes/costs.ts'
import { registerHealth } from './routes/health.ts'
import { type KeysPorts, registerKeys } from './routes/keys.ts'
import { registerModels } from './routes/models.ts'
import { createStreams } from './streams.ts'

export interface AppPorts {
  readonly version: string
  readonly dispatch: Dispatch
  readonly catalog: () => Catalog
  readonly keyCache: KeyCache
  readonly keys: KeysPorts
  readonly costs: CostsPorts
  readonly pingDatabase: () => Promise<void>
  readonly auth: boolean
  readonly allowedHosts: readonly string[]
  readonly newId: () => string
  /** One line per request, at its end. */
  readonly logRequest: (
    context: RequestContext,
    request: { readonly method: string; readonly route: string; readonly status: number; readonly retryCount: number }
  ) => void
  readonly logFault: (message: string, error: unknown) => void
}

export interface Gateway {
  readonly app: FastifyInstance
  /** Refuses new requests, lets the open ones finish for `ms`, then ends them with an error frame, and closes. */
  drain(ms: number): Promise<void>
}

const bodyBytesAtMost = 32 * 1024 * 1024

/** The server, not yet listening. Throws when a route does not say which key it needs. */
export async function createGateway(ports: AppPorts): Promise<Gateway> {
  const streams = createStreams()
  let draining = false
  const app = Fastify({
    logger: false,
    bodyLimit: bodyBytesAtMost,
    requestTimeout: 30_000,
    keepAliveTimeout: 72_000,
    forceCloseConnections: 'idle',
    routerOptions: { maxParamLength: 512 },
    http: {
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

  // 1. who asks for what, before a byte of the body is read
  registerRequests(app, ports, () => draining)
  registerErrors(app, ports.logFault)
  registerAuth(app, { keys: ports.keyCache, auth: ports.auth, allowedHosts: ports.allowedHosts })
  // 2. bodies stay bytes: Fastify's own parser would change what passes through
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (_request, body, done) => done(null, body))
  // 3. the routes
  registerChat(app, { dispatch: ports.dispatch, streams })
  registerModels(app, { catalog: ports.catalog })
  registerKeys(app, ports.keys)
  registerCosts(app, ports.costs)
  registerHealth(app, { version: ports.version, isDraining: () => draining, pingDatabase: ports.pingDatabase })
  await app.ready()

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

  return { app, drain }
}
