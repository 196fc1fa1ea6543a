// POST, GET and DELETE /v1/keys, described.

import { json, jsonBody, nullable, type OperationDocs, ref, refusals } from './parts.ts'

const patterns = (of: string) =>
  nullable('array', {
    description: `${of} it may use, * standing for any characters; null = all.`,
    minItems: 1,
    maxItems: 200,
    items: { type: 'string' }
  })

const limits = nullable('object', {
  description: 'Of the source: all its keys, on all gateways together.',
  additionalProperties: false,
  properties: {
    requests_per_minute: { type: 'integer', minimum: 1 },
    tokens_per_minute: { type: 'integer', minimum: 1 },
    concurrent_requests: { type: 'integer', minimum: 1 }
  }
})

const shared = {
  kind: {
    enum: ['source', 'admin', 'worker', 'metrics'],
    description: '`source` calls models, `admin` may do all, `metrics` reads /metrics.'
  },
  source: {
    type: 'string',
    pattern: '^[\\w.@:+-]{1,128}$',
    description: 'The person or program it is for: costs and limits are kept by source.'
  },
  name: { type: 'string', maxLength: 200 },
  limits,
  models: patterns('Models'),
  providers: patterns('Providers'),
  weight: { type: 'number', minimum: 0.01, maximum: 100, description: 'Its share where sources compete.' },
  trust_user_header: {
    type: 'boolean',
    description:
      'The request says who the person behind the key is (`user`, or X-OpenWebUI-User-Id); limits and costs are then kept by person.'
  },
  expires_at: nullable('string', { format: 'date-time' })
}

export const keysSchemas = {
  NewKey: {
    type: 'object',
    description: 'Other fields are refused. Limits, models, providers, weight and trust_user_header are for keys of kind source.',
    additionalProperties: false,
    required: ['source'],
    properties: shared
  },
  Key: {
    type: 'object',
    required: ['id', 'object', 'kind', 'source', 'name', 'prefix', 'created_at', 'expires_at', 'revoked_at'],
    properties: {
      id: { type: 'string', format: 'uuid' },
      object: { const: 'key' },
      prefix: { type: 'string', description: 'How the key begins; the rest is stored nowhere.' },
      ...shared,
      created_at: { type: 'string', format: 'date-time' },
      revoked_at: nullable('string', { format: 'date-time' })
    }
  }
}

const id = '019a2b3c-4d5e-7f60-8a9b-0c1d2e3f4a5b'
const example = {
  id,
  object: 'key',
  kind: 'source',
  source: 'alice',
  name: 'laptop',
  prefix: 'sk-llm-Zm9v',
  limits: { requests_per_minute: 60, tokens_per_minute: 200_000 },
  models: ['qwen3:*', 'gpt-5-mini'],
  providers: null,
  weight: 1,
  trust_user_header: false,
  created_at: '2026-11-20T09:30:00.000Z',
  expires_at: null,
  revoked_at: null
}

export const createKeyDocs: OperationDocs = {
  operationId: 'createKey',
  tags: ['Keys'],
  summary: 'Make a key',
  description: 'Needs a key of kind admin.',
  requestBody: jsonBody(ref('schemas', 'NewKey'), {
    simple: { source: 'alice', name: 'laptop' },
    limited: {
      source: 'alice',
      limits: { requests_per_minute: 60, tokens_per_minute: 200_000, concurrent_requests: 4 },
      models: ['qwen3:*', 'gpt-5-mini'],
      expires_at: '2999-01-31T00:00:00Z'
    }
  }),
  responses: {
    201: json(
      { allOf: [ref('schemas', 'Key'), { type: 'object', required: ['key'], properties: { key: { type: 'string' } } }] },
      { ...example, key: 'sk-llm-Zm9v...' },
      'The key, which is shown this once.'
    ),
    ...refusals(400, 413, 415)
  }
}

export const listKeysDocs: OperationDocs = {
  operationId: 'listKeys',
  tags: ['Keys'],
  summary: 'Keys, the newest first',
  description: 'Needs a key of kind admin. Revoked ones are listed too.',
  parameters: [
    { name: 'after', in: 'query', description: 'The id of the last key of the page before.', schema: { type: 'string', format: 'uuid' } },
    { name: 'limit', in: 'query', schema: { type: 'integer', minimum: 1, maximum: 100, default: 20 } }
  ],
  responses: {
    200: json(
      {
        type: 'object',
        required: ['object', 'data', 'first_id', 'last_id', 'has_more'],
        properties: {
          object: { const: 'list' },
          data: { type: 'array', items: ref('schemas', 'Key') },
          first_id: nullable('string'),
          last_id: nullable('string'),
          has_more: { type: 'boolean' }
        }
      },
      { object: 'list', data: [example], first_id: id, last_id: id, has_more: false },
      'A page of keys.'
    ),
    ...refusals(400)
  }
}

export const deleteKeyDocs: OperationDocs = {
  operationId: 'deleteKey',
  tags: ['Keys'],
  summary: 'Revoke a key',
  description: 'Needs a key of kind admin. It ends within a second, on all gateways; doing it twice changes nothing.',
  parameters: [{ name: 'id', in: 'path', required: true, schema: { type: 'string', format: 'uuid' } }],
  responses: {
    200: json(
      {
        type: 'object',
        required: ['id', 'object', 'deleted'],
        properties: { id: { type: 'string', format: 'uuid' }, object: { const: 'key' }, deleted: { const: true } }
      },
      { id, object: 'key', deleted: true },
      'It is revoked.'
    ),
    ...refusals(404)
  }
}
