// Web pages that may call us: none, unless the operator names their origins.

import cors from '@fastify/cors'
import type { FastifyInstance } from 'fastify'

/** What a page may read of our answers, besides what browsers show anyway. */
const exposed = [
  'idempotent-replayed',
  'location',
  'openai-processing-ms',
  'preference-applied',
  'retry-after',
  'retry-after-ms',
  'x-llm-mcp-cost-usd',
  'x-llm-mcp-device',
  'x-llm-mcp-dropped',
  'x-llm-mcp-eta-ms',
  'x-llm-mcp-job-id',
  'x-llm-mcp-model',
  'x-llm-mcp-provider',
  'x-llm-mcp-reason',
  'x-llm-mcp-route-id',
  'x-ratelimit-limit-requests',
  'x-ratelimit-limit-tokens',
  'x-ratelimit-remaining-requests',
  'x-ratelimit-remaining-tokens',
  'x-ratelimit-reset-requests',
  'x-ratelimit-reset-tokens',
  'x-request-id',
  'x-should-retry',
  'x-upstream-request-id'
]

/**
 * Must stand before authentication: a browser asks without a key first, and wants to read a 401 too. No cookies are ever involved,
 * so an origin that is not named can do nothing that any other program could not do, and a page without a key nothing at all.
 */
export async function registerCors(app: FastifyInstance, origins: readonly string[]): Promise<void> {
  if (origins.length === 0) return
  // The plugin's own route for preflights; it answers them before anybody asks for a key.
  app.addHook('onRoute', route => {
    if (route.method === 'OPTIONS' && route.url === '*') route.config = { ...route.config, requires: 'none' }
  })
  await app.register(cors, {
    origin: origins.includes('*') ? '*' : [...origins],
    methods: ['GET', 'POST', 'DELETE'],
    exposedHeaders: exposed,
    maxAge: 7_200,
    // What is no preflight is not for it to answer.
    strictPreflight: false
  })
}
