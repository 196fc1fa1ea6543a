// GET /docs: the API described for people (Swagger UI) and at /docs/json for programs. Offline; made when first asked for.

import Fastify, { type FastifyError, type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import { GatewayError, toGatewayError } from '../../routing/errors.ts'
import { standardHeaders } from '../context.ts'
import { openApiDocument } from '../openapi/document.ts'
import { errorReply } from './errors.ts'

export interface DocsPorts {
  readonly version: string
  /** First parts of paths after /v1 that are passed through. */
  readonly passthrough: readonly string[]
}

// Only what we serve ourselves. Swagger UI sets styles from its scripts, and its pictures are data: URIs.
const contentSecurityPolicy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self' 'unsafe-inline'",
  "img-src 'self' data:",
  "font-src 'self' data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'"
].join('; ')

const pageHeaders = {
  'content-security-policy': contentSecurityPolicy,
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cache-control': 'no-cache'
}

/**
 * Registers the routes. The pages come from a server of their own inside this one, which has neither our hooks nor a port:
 * what is imported for them costs the start nothing, and the plugins' routes cannot be mistaken for ours.
 */
export function registerDocs(app: FastifyInstance, ports: DocsPorts): void {
  // Whatever is ever described beside a route: it neither checks nor changes what passes through (Fastify's defaults change bodies).
  app.setValidatorCompiler(() => () => true)
  app.setSerializerCompiler(() => data => JSON.stringify(data))

  let pages: Promise<FastifyInstance> | null = null

  async function show(request: FastifyRequest, reply: FastifyReply): Promise<void> {
    // A failed attempt is not kept.
    pages ??= createPages(openApiDocument({ ...ports, routes: app.knownRoutes })).catch((error: unknown) => {
      pages = null
      throw error
    })
    const server = await pages
    const headers = { ...standardHeaders(request.context), ...pageHeaders }
    reply.hijack()
    for (const [name, value] of Object.entries(headers)) {
      // Not for other origins, whatever those may read elsewhere.
      if (!name.startsWith('access-control-')) reply.raw.setHeader(name, value)
    }
    server.routing(request.raw, reply.raw)
  }

  const config = { requires: 'none' as const }
  for (const url of ['/docs', '/docs/*', '/openapi.json']) app.get(url, { config }, show)
  app.addHook('onClose', async () => {
    await (await pages?.catch(() => null))?.close()
  })
}

async function createPages(document: ReturnType<typeof openApiDocument>): Promise<FastifyInstance> {
  const [{ default: swagger }, { default: swaggerUi }] = await Promise.all([import('@fastify/swagger'), import('@fastify/swagger-ui')])
  const pages = Fastify({ logger: false, exposeHeadRoutes: true })
  const refuse = (error: GatewayError, reply: FastifyReply): FastifyReply => {
    const { status, headers, body } = errorReply(error)
    return reply.code(status).headers(headers).send(body)
  }
  const unknown = ({ method, url }: FastifyRequest): GatewayError =>
    new GatewayError('not_found', `Unknown request URL: ${method} ${url.slice(0, 200)}.`)
  pages.setNotFoundHandler((request, reply) => refuse(unknown(request), reply))
  // Below 500: a path that the files' own server does not like.
  pages.setErrorHandler((error: FastifyError, request, reply) =>
    refuse((error.statusCode ?? 500) < 500 ? unknown(request) : toGatewayError(error), reply)
  )
  await pages.register(swagger, { mode: 'static', specification: { document: document as never } })
  await pages.register(swaggerUi, {
    routePrefix: '/docs',
    logo: null as never,
    theme: { title: 'llm-mcp' },
    uiConfig: { deepLinking: true, docExpansion: 'list', persistAuthorization: false, tryItOutEnabled: false }
  })
  pages.get('/openapi.json', () => pages.swagger())
  await pages.ready()
  return pages
}
