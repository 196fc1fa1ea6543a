// GET /v1/dashboard, described.

import { json, type OperationDocs, ref } from './parts.ts'

const counts = {
  type: 'object',
  description: 'Counted to 10,000 each; done, error and cancelled of the last 24 hours.',
  properties: Object.fromEntries(['queued', 'running', 'done', 'error', 'cancelled'].map(name => [name, { type: 'integer' }]))
}
const cost = { type: 'object', properties: { cost_usd: { type: 'number' }, unknown_price_attempts: { type: 'integer' } } }

export const dashboardDocs: OperationDocs = {
  operationId: 'dashboard',
  tags: ['Operation'],
  summary: 'Everything at one look',
  description: 'Needs a key of kind admin. Issues are in plain words, the most urgent first.',
  responses: {
    200: json(
      {
        type: 'object',
        required: ['object', 'at', 'issues', 'jobs', 'running', 'devices', 'processes', 'costs'],
        properties: {
          object: { const: 'dashboard' },
          at: { type: 'string', format: 'date-time' },
          issues: {
            type: 'array',
            items: {
              type: 'object',
              properties: { severity: { enum: ['error', 'warning', 'info'] }, subject: { type: 'string' }, text: { type: 'string' } }
            }
          },
          jobs: counts,
          running: { type: 'array', maxItems: 100, items: { type: 'object' } },
          devices: { type: 'array', items: ref('schemas', 'Device') },
          processes: { type: 'array', maxItems: 100, items: { type: 'object' } },
          costs: { type: 'object', properties: { today: cost, week: cost, month: cost } }
        }
      },
      {
        object: 'dashboard',
        at: '2026-11-20T09:30:00.000Z',
        issues: [{ severity: 'error', subject: 'rtx', text: 'The machine rtx is away: it is silent, since 2026-11-20T09:29:00.000Z.' }],
        jobs: { queued: 3, running: 1, done: 120, error: 2, cancelled: 0 },
        running: [],
        devices: [],
        processes: [],
        costs: {
          today: { cost_usd: 0.42, unknown_price_attempts: 0 },
          week: { cost_usd: 1.2, unknown_price_attempts: 0 },
          month: { cost_usd: 5.6, unknown_price_attempts: 0 }
        }
      },
      'The snapshot.'
    )
  }
}
