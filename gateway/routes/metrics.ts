// GET /metrics: for Prometheus, with a key of kind metrics or admin.

import type { FastifyInstance } from 'fastify'
import type { Metrics } from '../metrics.ts'

export function registerMetrics(app: FastifyInstance, { metrics }: { readonly metrics: Pick<Metrics, 'text' | 'contentType'> }): void {
  app.get('/metrics', { config: { requires: ['metrics', 'admin'] } }, async (_request, reply) => {
    reply.header('content-type', metrics.contentType)
    return metrics.text()
  })
}
