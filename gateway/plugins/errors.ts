// The only place that makes error bodies. Every answer that is not a success has OpenAI's four keys.

import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { GatewayError, toGatewayError } from '../../routing/errors.ts'
import { bodyBytesAtMost } from '../body.ts'
import { standardHeaders } from '../context.ts'
import { closeUnread, drain, isUnread } from './unread.ts'

export interface ErrorReply {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

/** Status, headers and body for an error, the same for replies of Fastify's and for raw ones. */
export function errorReply(error: GatewayError): ErrorReply {
  const headers: Record<string, string> = { 'content-type': 'application/json; charset=utf-8' }
  if (error.retryAfterMs !== null) {
    headers['retry-after-ms'] = String(Math.ceil(error.retryAfterMs))
    headers['retry-after'] = String(Math.ceil(error.retryAfterMs / 1_000))
  }
  // Where SDKs would decide otherwise by the status alone, and where somebody waited for nothing.
  const retriedByStatus = error.status === 408 || error.status === 409 || error.status === 429 || error.status >= 500
  if (retriedByStatus && !error.shouldRetry) headers['x-should-retry'] = 'false'
  else if (error.shouldRetry && error.saysRetry && error.retryAfterMs !== null) headers['x-should-retry'] = 'true'
  if (error.status === 401) headers['www-authenticate'] = 'Bearer realm="llm-mcp"'
  return { status: error.status, headers, body: JSON.stringify(error.body()) }
}

/** An error in the middle of a stream: one frame, and no clean end after it. */
export function errorFrame(error: GatewayError): Buffer {
  return Buffer.from(`data: ${JSON.stringify(error.body())}\n\n`)
}

/** The answer to bytes that are not even HTTP, written to the bare socket. */
export function rawErrorAnswer(code: string | undefined): string {
  const error =
    code === 'HPE_HEADER_OVERFLOW'
      ? new GatewayError('headers_too_large', 'The request headers are too large.')
      : code === 'ERR_HTTP_REQUEST_TIMEOUT'
        ? new GatewayError('request_timeout', 'The request did not arrive in time.')
        : new GatewayError('invalid_request', 'This is not a valid HTTP/1.1 request.')
  const { status, headers, body } = errorReply(error)
  const lines = Object.entries({ ...headers, 'content-length': String(Buffer.byteLength(body)), connection: 'close' })
  return `HTTP/1.1 ${status} Error\r\n${lines.map(([name, value]) => `${name}: ${value}`).join('\r\n')}\r\n\r\n${body}`
}

export function registerErrors(app: FastifyInstance, log: (message: string, error: unknown) => void): void {
  app.setErrorHandler((thrown: FastifyError | GatewayError, request, reply) => {
    const error = fromFastify(thrown)
    if (error.code === 'internal_error') log('a request failed in a way nobody foresaw', thrown)
    request.context.error = error
    const answer = errorReply(error)
    if (error.code === 'payload_too_large' && request.context.caller !== null) {
      // Closed with its body unread, the client would see a broken pipe instead of the answer.
      reply.removeHeader('connection')
      drain(request.raw)
    } else if (isUnread(request.raw)) {
      closeUnread(request.raw, reply)
    }
    reply
      .code(answer.status)
      .headers({ ...standardHeaders(request.context), ...answer.headers })
      .send(answer.body)
  })
  // Before the body is read, which is for nobody.
  app.addHook('preParsing', (request, reply, _payload, done) => {
    if (request.is404) done(notFound(app, request, reply))
    else done()
  })
  app.setNotFoundHandler((request, reply) => {
    throw notFound(app, request, reply)
  })
}

function notFound(app: FastifyInstance, request: FastifyRequest, reply: FastifyReply): GatewayError {
  const allowed = methodsFor(app, request.url)
  if (allowed.length === 0) return new GatewayError('not_found', `Unknown request URL: ${request.method} ${pathOf(request.url)}.`)
  reply.header('allow', allowed.join(', '))
  return new GatewayError('method_not_allowed', `${pathOf(request.url)} takes ${allowed.join(', ')}, not ${request.method}.`)
}

/** Fastify's own refusals in our words. */
export function fromFastify(thrown: FastifyError | GatewayError): GatewayError {
  if (thrown instanceof GatewayError) return thrown
  switch (thrown.code) {
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return new GatewayError('payload_too_large', `The request body is larger than ${bodyBytesAtMost / 1024 / 1024} MiB.`)
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
      return new GatewayError('unsupported_media_type', 'Send JSON, with content-type: application/json.')
    case 'FST_ERR_CTP_INVALID_CONTENT_LENGTH':
      return new GatewayError('invalid_request', 'The body is not as long as its content-length says.')
    case 'FST_ERR_BAD_URL':
      return new GatewayError('invalid_request', 'The request URL is not valid.')
  }
  if (thrown.statusCode !== undefined && thrown.statusCode >= 400 && thrown.statusCode < 500) {
    return new GatewayError('invalid_request', 'The request is not valid.', { status: thrown.statusCode, cause: thrown })
  }
  return toGatewayError(thrown)
}

const methods = ['GET', 'POST', 'DELETE', 'PATCH'] as const

/** What a path that is known takes. */
function methodsFor(app: FastifyInstance, url: string): string[] {
  const path = pathOf(url)
  return methods.filter(method => {
    for (const route of app.knownRoutes) {
      if (route.method !== method) continue
      if (route.url === path || (route.url.endsWith('/*') && path.startsWith(route.url.slice(0, -1)) && path.length > route.url.length - 1))
        return true
      if (route.url.includes('/:') && new RegExp(`^${route.url.replace(/:[a-z_]+/g, '[^/]+')}$`).test(path)) return true
    }
    return false
  })
}

function pathOf(url: string): string {
  const end = url.indexOf('?')
  return (end === -1 ? url : url.slice(0, end)).slice(0, 200)
}
