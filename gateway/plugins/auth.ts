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
        request.context.caller = { keyId: null, source: 'local', kind: 'admin' }
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
  const { authorization } = request.headers
  const given = [bearer(authorization), single(request, 'x-api-key'), single(request, 'api-key')].filter(key => key !== null)
  const [first] = given
  if (first === undefined) {
    throw new GatewayError('invalid_api_key', 'No API key was given. Send it as "Authorization: Bearer sk-llm-...".')
  }
  if (given.some(key => key !== first)) throw new GatewayError('invalid_request', 'Two different API keys were given; send one.')
  if (!keyForm.test(first)) throw unknownKey()
  return first
}

function bearer(header: string | undefined): string | null {
  if (header === undefined) return null
  const match = /^bearer +(\S+) *$/i.exec(header)
  if (match === null) throw new GatewayError('invalid_api_key', 'The Authorization header must be "Bearer <key>".')
  return match[1] as string
}

function single(request: FastifyRequest, name: string): string | null {
  const value = request.headers[name]
  return value === undefined ? null : String(value)
}

function admit(request: FastifyRequest, record: KeyRecord | null, requires: readonly KeyKind[]): void {
  if (record === null) throw unknownKey()
  if (!requires.includes(record.kind)) {
    throw new GatewayError('forbidden', `This needs a key of kind ${requires.join(' or ')}; the one given is of kind ${record.kind}.`, {
      publicCode: 'insufficient_permissions'
    })
  }
  request.context.caller = { keyId: record.id, source: record.source, kind: record.kind }
}

function unknownKey(): GatewayError {
  return new GatewayError('invalid_api_key', 'Incorrect API key provided. It is unknown, expired or revoked.')
}
