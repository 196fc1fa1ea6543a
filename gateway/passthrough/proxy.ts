// The routes of the proxy, and what it asks of us for each request: may it pass, how does it go out, what comes back.

import type { IncomingHttpHeaders } from 'node:http'
import type { FastifyHttpProxyOptions } from '@fastify/http-proxy'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { GatewayError, toGatewayError } from '../../routing/errors.ts'
import { estimateTokens } from '../../routing/tokens.ts'
import type { ModelRequest, Target, Upstream } from '../../routing/types.ts'
import { callerOf } from '../caller.ts'
import { headersSoFar } from '../context.ts'
import { type Call, type CallPorts, startCall } from './call.ts'
import { checkDestination } from './destination.ts'
import { upstreamHeaders } from './headers.ts'
import { readOpaqueBody } from './model.ts'
import { checkMayLeave, checkMayUse, checkUnbounded } from './permission.ts'

export interface ProxyPorts extends CallPorts {
  readonly provider: Upstream
  /** First names after /v1, e.g. `audio`. */
  readonly paths: readonly string[]
  /** Under which the routes stand, e.g. `/v1` and the empty one. */
  readonly prefixes: readonly string[]
  /** The caller's limits; may reject with a GatewayError. `settle`: the tokens used, null when the call failed. */
  readonly admit: (
    request: FastifyRequest,
    facts: { readonly model: string | null; readonly estimatedTokens: number }
  ) => Promise<{ headers(): Record<string, string>; settle(tokens: number | null): void }>
  /** For the books: a target of the provider that no list need name. */
  readonly target: (upstream: Upstream, model: string) => Target
  /** Nothing may leave the house, whoever asks. */
  readonly localOnly: boolean
  readonly newId: () => string
}

export const passthroughConfig = { requires: ['source', 'admin'] as const }

// Pictures in JSON are long and no text; what is longer than this is taken for one.
const textBytesAtMost = 64 * 1024
// The proxy wants a stream to destroy; the pieces of an answer do not pass through it.
const unread = { destroy() {} }

type ProxyHandler = NonNullable<FastifyHttpProxyOptions['handler']>
type HopOptions = Parameters<ProxyHandler>[3]

/** Registers `routes` under every prefix. */
export async function registerProxy(scope: FastifyInstance, ports: ProxyPorts, routes: readonly string[]): Promise<void> {
  const { provider } = ports
  // Loading it takes 50 ms, which a gateway without a provider need not wait for.
  const { default: httpProxy } = await import('@fastify/http-proxy')
  const calls = new Map<string, Call>()
  const options: FastifyHttpProxyOptions = {
    upstream: provider.baseUrl,
    rewritePrefix: new URL(provider.baseUrl).pathname.replace(/\/$/, '') || '/',
    routes: [...routes],
    httpMethods: ['POST'],
    config: passthroughConfig,
    proxyPayloads: false,
    disableRequestLogging: true,
    disableCache: true,
    undici: clientOf(calls),
    handler: (request, reply, destination, given) => forward(request, reply as FastifyReply, destination, given)
  }
  for (const prefix of ports.prefixes) void scope.register(httpProxy, { ...options, prefix })

  async function forward(request: FastifyRequest, reply: FastifyReply, destination: string, given: HopOptions): Promise<FastifyReply> {
    const { context } = request
    context.handledAt = performance.now()
    const segment = checkDestination(destination, { baseUrl: provider.baseUrl, paths: ports.paths, target: request.url })
    checkMayLeave(request, provider, ports.localOnly)
    checkUnbounded(request)
    const contentType = request.headers['content-type']
    const body = readOpaqueBody(contentType, request.body instanceof Buffer ? request.body : Buffer.alloc(0))
    const caller = callerOf(request, () => body.user)
    context.caller = caller
    context.model = body.model ?? segment
    const target = ports.target(provider, context.model)
    checkMayUse(caller, target, body.model)
    const estimatedTokens = textTokens(body.textBytes)
    const admission = await ports.admit(request, { model: body.model, estimatedTokens })
    const attempt = { id: ports.newId(), request: requestForBooks(context.id, context.model, body.bytes), target }
    let call: Call
    try {
      if (reply.raw.destroyed) throw new GatewayError('client_gone', 'The client closed the connection.')
      call = startCall(ports, {
        attempt,
        caller,
        context,
        response: reply.raw,
        earlierHeaders: () => ({ ...headersSoFar(reply), ...admission.headers() }),
        settleLimits(tokens) {
          calls.delete(attempt.id)
          admission.settle(tokens)
        },
        estimatedTokens,
        refuse: error => void reply.send(error)
      })
    } catch (error) {
      admission.settle(null)
      throw error
    }
    calls.set(attempt.id, call)
    const hop: HopOptions = {
      ...given,
      body: body.bytes,
      contentType: contentType ?? 'application/octet-stream',
      rewriteRequestHeaders: () => upstreamHeaders(request.headers, { upstream: provider, caller, attemptId: attempt.id }),
      // The call chooses them; the proxy would copy the rest.
      rewriteHeaders: () => ({}),
      onResponse(_request, _reply, answer) {
        const { statusCode, headers } = answer as unknown as { statusCode: number; headers: IncomingHttpHeaders }
        if (call.accept(statusCode, headers)) reply.hijack()
      },
      onError: (_reply, { error }) => call.fail(toGatewayError(error))
    }
    try {
      reply.from(destination, hop)
    } catch (error) {
      call.fail(toGatewayError(error))
    }
    return reply
  }
}

/** The proxy's own client checks no certificates unless told to, and cannot be called off: ours does the sending. */
function clientOf(calls: ReadonlyMap<string, Call>): NonNullable<FastifyHttpProxyOptions['undici']> {
  const client = {
    request(
      { path, headers, body }: { path: string; headers: Record<string, string | undefined>; body: Buffer },
      callback: (error: Error | null, answer?: object) => void
    ) {
      const call = calls.get(headers['x-client-request-id'] ?? '')
      // It has ended already: its client left.
      if (call === undefined) return
      call.send({ path, headers: withoutUndefined(headers), body }, (statusCode, given) =>
        callback(null, { statusCode, headers: { ...given }, body: unread })
      )
    }
  }
  // Its type is that of another undici than ours; of all that is in there, only `request` is called.
  return client as unknown as NonNullable<FastifyHttpProxyOptions['undici']>
}

/** The proxy takes headers out by setting them to undefined. */
function withoutUndefined(headers: Readonly<Record<string, string | undefined>>): Record<string, string> {
  return Object.fromEntries(Object.entries(headers).filter((entry): entry is [string, string] => entry[1] !== undefined))
}

function textTokens(bytes: number): number {
  return bytes === 0 ? 0 : estimateTokens({ textBytes: Math.min(bytes, textBytesAtMost), messages: 0, pictures: 0 }).expected
}

function requestForBooks(id: string, model: string, bytes: Buffer): ModelRequest {
  const nothing = { low: 0, expected: 0 }
  return {
    id,
    operation: 'chat',
    body: { bytes, json: () => ({}), with: () => bytes },
    model,
    stream: false,
    includeUsage: false,
    streamOptions: null,
    maxOutputTokens: null,
    needs: [],
    choices: 1,
    prompt: nothing,
    longest: nothing,
    input: null,
    embedding: null,
    localOnly: false
  }
}
