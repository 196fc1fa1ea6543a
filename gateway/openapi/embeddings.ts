// POST /v1/embeddings, described.

import {
  answerHeaders,
  jsonBody,
  knobs,
  localOnly,
  modelRefusals,
  nullable,
  type OperationDocs,
  patience,
  ref,
  respondAsync
} from './parts.ts'

export const embeddingsSchemas = {
  EmbeddingsRequest: {
    type: 'object',
    required: ['model', 'input'],
    properties: {
      model: { type: 'string', description: 'By its name: vectors of different models cannot be compared, so `auto` is refused.' },
      input: { description: 'A text, up to 2,048 texts, or cl100k_base tokens.', type: ['string', 'array'] },
      dimensions: nullable('integer', { minimum: 1 }),
      encoding_format: nullable('string', { enum: ['float', 'base64', null], default: 'float' }),
      user: nullable('string')
    }
  },
  Embeddings: {
    type: 'object',
    required: ['object', 'data', 'model', 'usage'],
    properties: {
      object: { const: 'list' },
      data: {
        type: 'array',
        items: {
          type: 'object',
          required: ['object', 'index', 'embedding'],
          properties: {
            object: { const: 'embedding' },
            index: { type: 'integer' },
            embedding: { description: 'Numbers, or for base64 their 32 bits each, the lowest byte first.', type: ['array', 'string'] }
          }
        }
      },
      model: { type: 'string' },
      usage: {
        type: 'object',
        required: ['prompt_tokens', 'total_tokens'],
        properties: { prompt_tokens: { type: 'integer' }, total_tokens: { type: 'integer' } }
      }
    }
  }
}

export const embeddingsDocs: OperationDocs = {
  operationId: 'createEmbeddings',
  tags: ['Models'],
  summary: 'Turn texts into vectors',
  parameters: [...knobs, localOnly, ...patience, respondAsync],
  requestBody: jsonBody(ref('schemas', 'EmbeddingsRequest'), {
    simple: { model: 'nomic-embed-text', input: ['first text', 'second text'] }
  }),
  responses: {
    200: {
      description: 'One vector for each text, in their order.',
      headers: answerHeaders,
      content: {
        'application/json': {
          schema: ref('schemas', 'Embeddings'),
          example: {
            object: 'list',
            data: [
              { object: 'embedding', index: 0, embedding: [0.0125, -0.5, 0.25] },
              { object: 'embedding', index: 1, embedding: [0.75, 0.0625, -0.125] }
            ],
            model: 'nomic-embed-text',
            usage: { prompt_tokens: 4, total_tokens: 4 }
          }
        }
      }
    },
    ...modelRefusals
  }
}
