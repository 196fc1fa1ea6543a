// POST /v1/audio/*, /v1/images/*, /v1/moderations and what else is configured: handed to one provider, not interpreted.

import type { FastifyInstance } from 'fastify'
import { GatewayError } from '../../routing/errors.ts'
import { bodyBytesAtMost } from '../body.ts'
import { checkSegments } from '../passthrough/destination.ts'
import { type ProxyPorts, passthroughConfig, registerProxy } from '../passthrough/proxy.ts'

export interface PassthroughPorts extends Omit<ProxyPorts, 'provider'> {
  /** Null = none is configured. */
  readonly provider: ProxyPorts['provider'] | null
}

/** Throws Error for a path that is no plain name; the start fails for one that is a route already. */
export function registerPassthrough(app: FastifyInstance, ports: PassthroughPorts): void {
  checkSegments(ports.paths)
  const routes = ports.paths.flatMap(path => [`/${path}`, `/${path}/*`])
  if (routes.length === 0) return
  void app.register(async scope => {
    // Whatever the body is, it is held as it came: nothing goes out before it is known what it asks for, and by whom.
    scope.removeAllContentTypeParsers()
    scope.addContentTypeParser('*', { parseAs: 'buffer', bodyLimit: bodyBytesAtMost }, (_request, body, done) => done(null, body))
    if (ports.provider === null) registerMissing(scope, ports.prefixes, routes)
    else await registerProxy(scope, { ...ports, provider: ports.provider }, routes)
  })
}

/** Known routes without a provider say what to set, before a byte of the body is read. */
function registerMissing(scope: FastifyInstance, prefixes: readonly string[], routes: readonly string[]): void {
  scope.addHook('onRequest', (request, _reply, done) => {
    const path = request.url.slice(0, 100).split('?', 1)[0]
    const setting = 'set "passthrough.provider" in llm-mcp.yaml, or OPENAI_API_KEY'
    done(new GatewayError('not_found', `${path} needs a provider, and none is configured: ${setting}.`))
  })
  for (const prefix of prefixes) {
    // The hook has answered before it.
    for (const url of routes) {
      scope.route({ method: 'POST', url: `${prefix}${url}`, config: passthroughConfig, handler: (_request, reply) => reply })
    }
  }
}
