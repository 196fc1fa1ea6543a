// GET /v1/models and GET /v1/models/{model}, described.

import { json, nullable, type OperationDocs, type Part, ref, refusals } from './parts.ts'

const tokens = nullable('integer', { description: 'Null: unknown.' })
const operations = { type: 'array', items: { enum: ['chat', 'complete', 'embed'] } }

export const modelsSchemas = {
  Pricing: {
    type: ['object', 'null'],
    description: 'Dollars per token as decimal strings (`request`: per call). Null: unknown, or priced by electricity.',
    properties: {
      prompt: { type: 'string' },
      completion: { type: 'string' },
      input_cache_read: { type: 'string' },
      request: { type: 'string' }
    }
  },
  Model: {
    type: 'object',
    required: ['id', 'object', 'created', 'owned_by'],
    properties: {
      id: { type: 'string' },
      object: { const: 'model' },
      created: { type: 'integer', description: 'Seconds since the epoch.' },
      owned_by: { type: 'string', description: '`local` for machines of yours.' },
      context_length: tokens,
      architecture: {
        type: 'object',
        properties: {
          modality: nullable('string'),
          input_modalities: { type: 'array', items: { type: 'string' } },
          output_modalities: { type: 'array', items: { type: 'string' } }
        }
      },
      supported_parameters: { type: 'array', items: { type: 'string' } },
      pricing: ref('schemas', 'Pricing'),
      top_provider: { type: 'object', properties: { context_length: tokens, max_completion_tokens: tokens } },
      operations,
      targets: {
        type: 'array',
        description: 'Where it runs, the preferred one first.',
        items: {
          type: 'object',
          properties: {
            provider: { type: 'string' },
            model: { type: 'string' },
            own: { type: 'boolean' },
            context_length: tokens,
            max_completion_tokens: tokens,
            operations,
            loaded: { type: 'boolean' },
            available: { type: 'boolean', description: 'False: it did not answer when it was last asked.' },
            price_source: { enum: ['provider', 'config', 'registry', 'electricity', 'free', 'unknown'] },
            pricing: ref('schemas', 'Pricing')
          }
        }
      }
    }
  }
} satisfies Record<string, Part>

const example = {
  id: 'qwen3:32b',
  object: 'model',
  created: 1_790_000_000,
  owned_by: 'local',
  context_length: 40_960,
  architecture: { modality: 'text->text', input_modalities: ['text'], output_modalities: ['text'] },
  supported_parameters: ['max_tokens', 'temperature', 'tools', 'top_p'],
  pricing: null,
  top_provider: { context_length: 40_960, max_completion_tokens: null },
  operations: ['chat', 'complete'],
  targets: [
    {
      provider: 'rtx',
      model: 'qwen3:32b',
      own: true,
      context_length: 40_960,
      max_completion_tokens: null,
      operations: ['chat', 'complete'],
      loaded: true,
      available: true,
      price_source: 'electricity',
      pricing: null
    }
  ]
}

export const modelsDocs: OperationDocs = {
  operationId: 'listModels',
  tags: ['Models'],
  summary: 'What the key may use, own machines first',
  responses: {
    200: json(
      {
        type: 'object',
        required: ['object', 'data'],
        properties: { object: { const: 'list' }, data: { type: 'array', items: ref('schemas', 'Model') } }
      },
      { object: 'list', data: [example] },
      'Models, aliases and the names that choose by themselves.'
    ),
    ...refusals()
  }
}

export const modelDocs: OperationDocs = {
  operationId: 'retrieveModel',
  tags: ['Models'],
  summary: 'One model',
  parameters: [
    {
      name: 'model',
      in: 'path',
      required: true,
      description: 'Its id. Slashes may stay as they are, or be sent as %2F.',
      schema: { type: 'string' },
      example: 'qwen3:32b'
    }
  ],
  responses: { 200: json(ref('schemas', 'Model'), example, 'The model.'), ...refusals(), 404: ref('responses', 'ModelNotFound') }
}
