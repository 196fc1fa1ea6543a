// The beginning and the end of every request: its context, the rules of its framing, its line in the log.

import type { FastifyInstance } from 'fastify'
import { GatewayError } from '../../routing/errors.ts'
import type { AppPorts } from '../app.ts'
import { type RequestContext, standardHeaders } from '../context.ts'
import { drainingError } from '../reply.ts'
import { checkTarget } from './hosts.ts'

// All bodies being held at once; more would be memory, not work.
const heldBodyBytesAtMost = 256 * 1024 * 1024

export function registerRequests(app: FastifyInstance, ports: Pick<AppPorts, 'newId' | 'logRequest'>, isDraining: () => boolean): void {
  let heldBodyBytes = 0
  app.decorateRequest('context')

  app.addHook('onRequest', (request, reply, done) => {
    const context: RequestContext = {
      id: ports.newId(),
      startedAt: performance.now(),
      caller: null,
      error: null,
      summary: null,
      model: null,
      stream: false,
      bodyBytes: 0
    }
    request.context = context
    // `close` comes once, whether the answer ended or the client left.
    reply.raw.on('close', () => {
      heldBodyBytes -= context.bodyBytes
      // What was running for a client that left is told of by listeners after this one.
      setImmediate(() => {
        ports.logRequest(context, {
          method: request.method,
          route: request.routeOptions.url ?? 'unknown',
          status: reply.raw.writableFinished ? reply.raw.statusCode : 499,
          retryCount: Number(request.headers['x-stainless-retry-count'] ?? 0) || 0
        })
      })
    })
    try {
      checkTarget(request.raw)
      if (isDraining() && request.routeOptions.config.requires !== 'none') {
        reply.header('connection', 'close')
        throw drainingError()
      }
      if (request.headers['content-encoding'] !== undefined) {
        throw new GatewayError('unsupported_media_type', 'Request bodies must not be compressed.')
      }
      const length = Number(request.headers['content-length'] ?? 0) || 0
      if (heldBodyBytes + length > heldBodyBytesAtMost) {
        throw new GatewayError('no_capacity', 'The gateway holds too many large requests right now.', { retryAfterMs: 1_000 })
      }
      context.bodyBytes = length
      heldBodyBytes += length
      done()
    } catch (error) {
      done(error as GatewayError)
    }
  })

  app.addHook('onSend', (request, reply, _payload, done) => {
    reply.headers(standardHeaders(request.context))
    done()
  })
}
