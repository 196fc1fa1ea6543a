// GET /health (alive) and GET /ready (can serve): without a key, under our own names only.

import type { FastifyInstance } from 'fastify'

export interface HealthPorts {
  readonly version: string
  readonly isDraining: () => boolean
  /** Resolves when the database answers within its limits. */
  readonly pingDatabase: () => Promise<void>
}

// Asked by every load balancer around: the answer of the last half second is good enough.
const rememberMs = 500

export function registerHealth(app: FastifyInstance, ports: HealthPorts): void {
  const config = { requires: 'none' as const }
  let asked: Promise<boolean> = Promise.resolve(false)
  let askedAt = Number.NEGATIVE_INFINITY

  function databaseAnswers(): Promise<boolean> {
    if (performance.now() - askedAt > rememberMs) {
      askedAt = performance.now()
      asked = ports.pingDatabase().then(
        () => true,
        () => false
      )
    }
    return asked
  }

  app.get('/health', { config }, () => ({ status: 'ok', version: ports.version }))

  app.get('/ready', { config }, async (_request, reply) => {
    const database = await databaseAnswers()
    const draining = ports.isDraining()
    const ready = database && !draining
    reply.code(ready ? 200 : 503)
    return { status: ready ? 'ready' : 'not_ready', database: database ? 'ok' : 'unavailable', draining }
  })
}
