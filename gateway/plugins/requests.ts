// The beginning and the end of every request: its context, the rules of its framing, its line in the log.

import type { IncomingHttpHeaders } from 'node:http'
import type { FastifyInstance } from 'fastify'
import { GatewayError } from '../../routing/errors.ts'
import type { AppPorts } from '../app.ts'
import { newContext, standardHeaders } from '../context.ts'
import { drainingError } from '../reply.ts'
import { checkTarget } from './hosts.ts'

// All bodies being held at once; more would be memory, not work.
const heldBodyBytesAtMost = 256 * 1024 * 1024

export function registerRequests(app: FastifyInstance, ports: Pick<AppPorts, 'newId' | 'logRequest'>): void {
  let heldBodyBytes = 0
  app.decorateRequest('context')

  app.addHook('onRequest', (request, reply, done) => {
    const { traceparent } = request.headers
    const context = newContext(ports.newId(), typeof traceparent === 'string' ? traceparent : null)
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
    done()
  })

  // After the key: who has none holds nothing.
  app.addHook('preParsing', (request, _reply, _payload, done) => {
    const length = Number(request.headers['content-length']) || 0
    // It will be refused for its size, which says more.
    if (length > request.routeOptions.bodyLimit) return done()
    if (heldBodyBytes + length > heldBodyBytesAtMost) {
      return done(new GatewayError('no_capacity', 'The gateway holds too many large requests right now.', { retryAfterMs: 1_000 }))
    }
    request.context.bodyBytes = length
    heldBodyBytes += length
    done()
  })

  app.addHook('onSend', (request, reply, _payload, done) => {
    reply.headers(standardHeaders(request.context))
    done()
  })
}

/** What is refused whoever asks. After CORS, so that a page can read why. */
export function registerChecks(app: FastifyInstance, isDraining: () => boolean): void {
  app.addHook('onRequest', (request, reply, done) => {
    try {
      checkTarget(request.raw)
      if (isDraining() && request.routeOptions.config.requires !== 'none') {
        reply.header('connection', 'close')
        throw drainingError()
      }
      checkForm(request.headers)
      done()
    } catch (error) {
      done(error as GatewayError)
    }
  })
}

/** Throws unless the body is plain UTF-8. */
function checkForm(headers: IncomingHttpHeaders): void {
  if (headers['content-encoding'] !== undefined) {
    throw new GatewayError('unsupported_media_type', 'Request bodies must not be compressed.')
  }
  const type = headers['content-type']
  // Nearly all of them; the rest is read with more care.
  if (type === undefined || type === 'application/json') return
  const hasBody = headers['transfer-encoding'] !== undefined || Number(headers['content-length']) > 0
  if (!hasBody) return
  for (const [, charset = ''] of type.matchAll(/;\s*charset\s*=\s*"?([^\s;"]+)/gi)) {
    // US-ASCII is a part of UTF-8. "utf8" is no registered name, and sent all the same.
    if (!/^(utf-?8|us-ascii)$/i.test(charset)) {
      throw new GatewayError('unsupported_media_type', 'Request bodies must be UTF-8, and the content-type says that this one is not.')
    }
  }
}
