// POST /v1/responses, described.

import { answerHeaders, jsonBody, knobs, localOnly, modelRefusals, nullable, type OperationDocs, patience, ref } from './parts.ts'

export const responsesSchemas = {
  ResponsesRequest: {
    type: 'object',
    description:
      "As OpenAI's, without what would have to be kept or run here: `background: true`, `previous_response_id`, `conversation`, `prompt` and hosted tools are refused.",
    required: ['model', 'input'],
    properties: {
      model: { type: 'string' },
      input: { description: 'A text, or items: messages, function calls and their outputs.', type: ['string', 'array'] },
      instructions: nullable('string'),
      max_output_tokens: nullable('integer', { minimum: 1 }),
      tools: nullable('array', { description: 'Functions.', items: { type: 'object' } }),
      tool_choice: { type: ['string', 'object', 'null'] },
      parallel_tool_calls: nullable('boolean'),
      text: nullable('object', { description: '`format`: text, json_object or json_schema; `verbosity`.' }),
      reasoning: nullable('object', { properties: { effort: nullable('string') } }),
      temperature: nullable('number', { minimum: 0, maximum: 2 }),
      top_p: nullable('number', { minimum: 0, maximum: 1 }),
      store: nullable('boolean', { description: 'Accepted, and answered as false: nothing is kept.' }),
      stream: nullable('boolean', { description: 'Answer with typed events that have a `sequence_number`.' }),
      metadata: nullable('object'),
      user: nullable('string')
    }
  },
  Response: {
    type: 'object',
    required: ['id', 'object', 'created_at', 'status', 'model', 'output', 'error', 'incomplete_details', 'usage'],
    properties: {
      id: { type: 'string' },
      object: { const: 'response' },
      created_at: { type: 'integer', description: 'Seconds since the epoch.' },
      status: { enum: ['in_progress', 'completed', 'incomplete', 'failed'] },
      model: { type: 'string' },
      output: { type: 'array', description: 'Messages, function calls, reasoning.', items: { type: 'object', required: ['id', 'type'] } },
      error: nullable('object', { properties: { code: { type: 'string' }, message: { type: 'string' } } }),
      incomplete_details: nullable('object', { properties: { reason: { type: 'string' } } }),
      usage: nullable('object', {
        properties: { input_tokens: { type: 'integer' }, output_tokens: { type: 'integer' }, total_tokens: { type: 'integer' } }
      }),
      store: { const: false },
      x_llm_mcp: ref('schemas', 'Facts')
    }
  }
}

export const responsesDocs: OperationDocs = {
  operationId: 'createResponse',
  tags: ['Models'],
  summary: 'Answer items (OpenAI Responses, stateless)',
  parameters: [...knobs, localOnly, ...patience],
  requestBody: jsonBody(ref('schemas', 'ResponsesRequest'), {
    simple: { model: 'auto', input: 'Say hello', store: false },
    tools: {
      model: 'auto',
      input: 'What is the weather in Lisbon?',
      tools: [{ type: 'function', name: 'weather', parameters: { type: 'object', properties: { city: { type: 'string' } } }, strict: null }]
    }
  }),
  responses: {
    200: {
      description:
        'The response; with `stream: true` as events from `response.created` to `response.completed`, `.incomplete` or `.failed`, without `[DONE]`.',
      headers: answerHeaders,
      content: {
        'application/json': {
          schema: ref('schemas', 'Response'),
          example: {
            id: 'resp_019a2b3c4d5e7f60',
            object: 'response',
            created_at: 1_790_000_000,
            status: 'completed',
            model: 'qwen3:32b',
            output: [
              {
                id: 'msg_019a2b3c4d5e7f61',
                type: 'message',
                status: 'completed',
                role: 'assistant',
                content: [{ type: 'output_text', text: 'Hello!', annotations: [], logprobs: [] }]
              }
            ],
            error: null,
            incomplete_details: null,
            store: false,
            usage: { input_tokens: 9, output_tokens: 2, total_tokens: 11 }
          }
        },
        'text/event-stream': {
          schema: { type: 'string' },
          example:
            'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":4,"item_id":"msg_019a2b3c4d5e7f61","output_index":0,"content_index":0,"delta":"Hello!","logprobs":[]}\n\n'
        }
      }
    },
    ...modelRefusals
  }
}
