// GET /health, /ready and /metrics, described.

import { json, type OperationDocs, refusals, withoutKey } from './parts.ts'

const readySchema = {
  type: 'object',
  required: ['status', 'database', 'draining'],
  properties: { status: { enum: ['ready', 'not_ready'] }, database: { enum: ['ok', 'unavailable'] }, draining: { type: 'boolean' } }
}

export const healthDocs: OperationDocs = {
  operationId: 'health',
  tags: ['Operation'],
  summary: 'Is it alive?',
  ...withoutKey,
  responses: {
    200: json(
      { type: 'object', required: ['status', 'version'], properties: { status: { const: 'ok' }, version: { type: 'string' } } },
      { status: 'ok', version: '2026.11.1' },
      'It is.'
    )
  }
}

export const readyDocs: OperationDocs = {
  operationId: 'ready',
  tags: ['Operation'],
  summary: 'Can it serve?',
  ...withoutKey,
  responses: {
    200: json(readySchema, { status: 'ready', database: 'ok', draining: false }, 'It can.'),
    503: json(
      readySchema,
      { status: 'not_ready', database: 'unavailable', draining: false },
      'It cannot: the database is away, or it is stopping.'
    )
  }
}

export const metricsDocs: OperationDocs = {
  operationId: 'metrics',
  tags: ['Operation'],
  summary: 'Numbers for Prometheus',
  description: 'Needs a key of kind metrics or admin.',
  responses: {
    200: {
      description: 'In the text form of Prometheus.',
      content: {
        'text/plain': {
          schema: { type: 'string' },
          example:
            '# HELP llm_mcp_requests_in_flight Requests being handled.\n# TYPE llm_mcp_requests_in_flight gauge\nllm_mcp_requests_in_flight 1\n'
        }
      }
    },
    ...refusals()
  }
}
