// Who is calling. Every route declares the kinds of key it takes, or the server does not start.

import type { FastifyInstance, FastifyRequest } from 'fastify'
import { GatewayError } from '../../routing/errors.ts'
import type { KeyKind } from '../../routing/types.ts'
import type { KeyRecord } from '../../store/keys.ts'
import type { KeyCache } from '../keys.ts'
import { checkKeylessHost } from './hosts.ts'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** The kinds of key that may call this route; `none` = anyone, under a name of ours. */
    requires?: readonly KeyKind[] | 'none'
  }
}

export interface AuthPorts {
  readonly keys: KeyCache
  readonly auth: boolean
  readonly allowedHosts: readonly string[]
  /** Web pages that may call. */
  readonly corsOrigins: readonly string[]
}

const keyForm = /^[\x21-\x7e]{8,256}$/

/** Registers the hook. Routes registered after it without `config.requires` make the registration throw. */
export function registerAuth(app: FastifyInstance, ports: AuthPorts): void {
  app.addHook('onRoute', route => {
    if (route.config?.requires === undefined)
      throw new Error(`The route ${String(route.method)} ${route.url} does not declare the key it needs.`)
  })
  app.addHook('onRequest', (request, _reply, done) => {
    const requires = request.routeOptions.config.requires ?? 'none'
    try {
      if (requires === 'none' || !ports.auth) checkKeylessHost(request.headers.host ?? '', ports.allowedHosts)
      if (requires === 'none') return done()
      if (!ports.auth) {
        checkOrigin(request, ports.corsOrigins)
        request.context.caller = { keyId: null, source: 'local', subSource: null, kind: 'admin', models: null, providers: null }
        return done()
      }
      const found = ports.keys.find(credentialOf(request))
      if (!(found instanceof Promise)) {
        admit(request, found, requires)
        return done()
      }
      found
        .then(record => {
          admit(request, record, requires)
          done()
        })
        .catch(done)
    } catch (error) {
      done(error as GatewayError)
    }
  })
}

/** The one credential of a request, from whichever header. Throws when there is none, or two that differ. */
function credentialOf(request: FastifyRequest): string {
  const given = credentialsIn(request.raw.rawHeaders)
  const [first] = given
  if (first === undefined) {
    throw new GatewayError('invalid_api_key', 'No API key was given. Send it as "Authorization: Bearer sk-llm-...".')
  }
  if (given.some(key => key !== first)) throw new GatewayError('invalid_request', 'Two different API keys were given; send one.')
  if (!keyForm.test(first)) throw unknownKey()
  return first
}

/** Of all lines that hold one: of two that are alike Node's own view keeps the first and forgets the other. */
function credentialsIn(rawHeaders: readonly string[]): string[] {
  const given: string[] = []
  for (let at = 0; at < rawHeaders.length; at += 2) {
    const name = rawHeaders[at] as string
    // Looked at by its length first: a request has many headers, and this runs for each.
    if (name.length !== 13 && name.length !== 9 && name.length !== 7) continue
    const value = rawHeaders[at + 1] as string
    const kind = name.toLowerCase()
    if (kind === 'authorization') given.push(bearer(value))
    else if (kind === 'x-api-key' || kind === 'api-key') given.push(value)
  }
  return given
}

function bearer(header: string): string {
  const match = /^bearer +(\S+) *$/i.exec(header)
  if (match === null) throw new GatewayError('invalid_api_key', 'The Authorization header must be "Bearer <key>".')
  return match[1] as string
}

/** With keys off, nothing else keeps a web page from using what this machine may use. Throws GatewayError `forbidden`. */
function checkOrigin({ headers }: FastifyRequest, allowed: readonly string[]): void {
  const { origin } = headers
  if (origin === undefined || allowed.includes('*') || allowed.includes(origin.toLowerCase())) return
  if (URL.parse(origin)?.host === headers.host?.toLowerCase()) return
  throw new GatewayError(
    'forbidden',
    `Without keys, web pages of ${origin.slice(0, 100)} may not call. LLM_MCP_CORS_ORIGINS can allow them.`
  )
}

function admit(request: FastifyRequest, record: KeyRecord | null, requires: readonly KeyKind[]): void {
  if (record === null) throw unknownKey()
  if (!requires.includes(record.kind)) {
    throw new GatewayError('forbidden', `This needs a key of kind ${requires.join(' or ')}; the one given is of kind ${record.kind}.`, {
      publicCode: 'insufficient_permissions'
    })
  }
  const { id, source, kind, models, providers, weight } = record
  request.context.key = record
  request.context.caller = { keyId: id, source, subSource: null, kind, models, providers, weight }
}

function unknownKey(): GatewayError {
  return new GatewayError('invalid_api_key', 'Incorrect API key provided. It is unknown, expired or revoked.')
}
