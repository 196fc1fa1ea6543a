// What the descriptions of all endpoints have in common: their form, errors, headers, the key.

import { GatewayError } from '../../routing/errors.ts'
import { wrong } from '../fields.ts'
import { overRequests } from '../limits/refusals.ts'

/** A part of an OpenAPI 3.1 document, or a JSON Schema (2020-12). */
export type Part = Readonly<Record<string, unknown>>

/** An OpenAPI operation object. Described beside the routes and never used to check or to write anything. */
export interface OperationDocs extends Part {
  readonly operationId: string
  readonly tags: readonly [Tag]
  readonly summary: string
  readonly responses: Part
}

export type Tag = 'Models' | 'Jobs' | 'Passed through' | 'Machines' | 'Keys' | 'Costs' | 'Operation'

export function ref(kind: 'schemas' | 'responses' | 'headers' | 'parameters', name: string): Part {
  return { $ref: `#/components/${kind}/${name}` }
}

export function json(schema: Part, example: unknown, description: string): Part {
  return { description, content: { 'application/json': { schema, example } } }
}

export function jsonBody(schema: Part, examples: Readonly<Record<string, unknown>>): Part {
  const named = Object.entries(examples).map(([name, value]) => [name, { value }])
  return { required: true, content: { 'application/json': { schema, examples: Object.fromEntries(named) } } }
}

export const nullable = (type: string, more: Part = {}): Part => ({ type: [type, 'null'], ...more })

/** Callable without a key, but only under names of this gateway. */
export const withoutKey = { security: [] }

const errors = {
  BadRequest: ['The request is wrong; `param` names the field.', wrong('n', 'an integer from 1 to 128', 0)],
  Unauthorized: [
    'No key, or one that is unknown, expired or revoked.',
    new GatewayError('invalid_api_key', 'Incorrect API key provided. It is unknown, expired or revoked.')
  ],
  Forbidden: [
    'The key may not do this, or not with this model.',
    new GatewayError('forbidden', 'This needs a key of kind admin; the one given is of kind source.', {
      publicCode: 'insufficient_permissions'
    })
  ],
  NotFound: ['There is no such thing.', new GatewayError('not_found', 'There is no key with this id.')],
  ModelNotFound: [
    'There is no such model.',
    new GatewayError('model_not_found', 'The model "qwen3:23b" does not exist here. Did you mean "qwen3:32b"?', { param: 'model' })
  ],
  NotFinished: ['The job is not over yet.', new GatewayError('job_not_finished', 'This job is still running; cancel it first.')],
  KeyReused: [
    'The idempotency key belongs to another body.',
    new GatewayError('idempotency_key_reused', 'This Idempotency-Key was used for another body.', { param: 'Idempotency-Key' })
  ],
  TooLarge: ['The body is larger than 32 MiB.', new GatewayError('payload_too_large', 'The request body is larger than 32 MiB.')],
  WrongMediaType: [
    'The body is not JSON, or is compressed.',
    new GatewayError('unsupported_media_type', 'Send JSON, with content-type: application/json.')
  ],
  TooMany: [
    'A limit of the key or of the provider. `retry-after-ms` says when it is worth another try.',
    overRequests('alice', 60, 12_500)
  ],
  BadGateway: [
    'Every target failed. `x-should-retry: false` where another try would be useless or dear.',
    new GatewayError('upstream_unavailable', 'rtx could not be reached or dropped the connection (ECONNREFUSED).')
  ],
  Unavailable: [
    'All places are taken, or the gateway is starting or stopping. `retry-after-ms` says when to come back.',
    new GatewayError('no_capacity', 'Every machine for "qwen3:32b" is busy.', { retryAfterMs: 2_000 })
  ]
} satisfies Record<string, readonly [string, GatewayError]>

const retryNames = ['retry-after', 'retry-after-ms', 'x-should-retry'] as const

function errorResponse([description, error]: readonly [string, GatewayError]): Part {
  const later = error.retryAfterMs === null ? [] : retryNames
  const headers = Object.fromEntries(['x-request-id', ...later].map(name => [name, ref('headers', name)]))
  return { description, headers, content: { 'application/json': { schema: ref('schemas', 'Error'), example: error.body() } } }
}

const common = { 401: 'Unauthorized', 403: 'Forbidden' } as const
const called = {
  400: 'BadRequest',
  404: 'ModelNotFound',
  413: 'TooLarge',
  415: 'WrongMediaType',
  429: 'TooMany',
  502: 'BadGateway',
  503: 'Unavailable'
} as const

function refused(names: Readonly<Record<number, keyof typeof errors>>): Part {
  return Object.fromEntries(Object.entries(names).map(([status, name]) => [status, ref('responses', name)]))
}

/** What an endpoint that calls a model may answer instead. */
export const modelRefusals = refused({ ...common, ...called })

const others = {
  400: 'BadRequest',
  404: 'NotFound',
  409: 'NotFinished',
  413: 'TooLarge',
  415: 'WrongMediaType',
  422: 'KeyReused',
  429: 'TooMany',
  503: 'Unavailable'
} as const

/** What any other endpoint that needs a key may answer instead. */
export function refusals(...more: readonly (keyof typeof others)[]): Part {
  return refused({ ...common, ...Object.fromEntries(more.map(status => [status, others[status]])) })
}

const headerTexts = {
  'x-request-id': 'The id of this request; also in the log, and in `llm_costs`.',
  'x-llm-mcp-provider': 'Who answered.',
  'x-llm-mcp-model': 'The model as the provider calls it.',
  'x-llm-mcp-device': 'The machine that answered, if it is one of yours.',
  'x-llm-mcp-reason': 'Why it was the one; `fallback` when another had failed before.',
  'x-llm-mcp-route-id': 'GET /v1/routes/{id} tells why, and what came of it.',
  'x-llm-mcp-eta-ms': 'How long the whole answer was expected to take, likely.',
  'x-llm-mcp-cost-usd': 'Dollars, electricity included; not known yet when a stream begins.',
  'x-llm-mcp-dropped': 'Fields of the request that the provider does not know, and that were left out.',
  'x-ratelimit-limit-requests':
    'Requests a minute that the source of the key may make. Like the five after it only where there is such a limit.',
  'x-ratelimit-remaining-requests': 'What is left of them.',
  'x-ratelimit-reset-requests': 'When they are all there again, such as `12.5s`.',
  'x-ratelimit-limit-tokens': 'Tokens a minute that the source of the key may use.',
  'x-ratelimit-remaining-tokens': 'What is left of them.',
  'x-ratelimit-reset-tokens': 'When they are all there again.',
  'retry-after': 'Seconds until it is worth another try.',
  'retry-after-ms': 'The same in milliseconds.',
  'x-should-retry': '`false`: SDKs do not try again by themselves. `true`: they may, after `retry-after`.'
}

/** Of an answer of a model. */
export const answerHeaders = Object.fromEntries(
  Object.keys(headerTexts)
    .filter(name => !retryNames.some(retry => retry === name))
    .map(name => [name, ref('headers', name)])
)

export const localOnly = ref('parameters', 'localOnly')
/** What counts more, and what is too dear. */
export const knobs = [ref('parameters', 'route'), ref('parameters', 'maxCostUsd')]
/** How a client waits where every machine is full. */
export const deadlines = [ref('parameters', 'deadlineMs'), ref('parameters', 'deadline')]
export const patience = [...deadlines, ref('parameters', 'onDisconnect')]
export const respondAsync = ref('parameters', 'prefer')

/** `components` of the document, but for the schemas of single endpoints. */
export const components = {
  securitySchemes: {
    key: {
      type: 'http',
      scheme: 'bearer',
      description: 'A key of this gateway (`sk-llm-…`). The headers `x-api-key` and `api-key` are understood too.'
    }
  },
  responses: Object.fromEntries(Object.entries(errors).map(([name, entry]) => [name, errorResponse(entry)])),
  headers: Object.fromEntries(
    Object.entries(headerTexts).map(([name, description]) => [name, { description, schema: { type: 'string' } }])
  ),
  parameters: {
    localOnly: {
      name: 'x-llm-mcp-local-only',
      in: 'header',
      description: '`true`: only machines of yours may see this request, whatever its model.',
      schema: { type: 'string', enum: ['true', 'false'] }
    },
    deadlineMs: {
      name: 'x-llm-mcp-deadline-ms',
      in: 'header',
      description: 'Milliseconds from the arrival of the request to its first token, or to a whole answer; then it is a 504.',
      schema: { type: 'integer', minimum: 1, maximum: 86_400_000 }
    },
    deadline: {
      name: 'x-llm-mcp-deadline',
      in: 'header',
      description: '`hard`: what would probably be late is refused at once. `soft` (if not given): it is tried all the same.',
      schema: { type: 'string', enum: ['soft', 'hard'] }
    },
    route: {
      name: 'x-llm-mcp-route',
      in: 'header',
      description: 'What counts more among the targets that can answer: money, time, or both (`balanced`, if not given).',
      schema: { type: 'string', enum: ['cost', 'balanced', 'fast'] }
    },
    maxCostUsd: {
      name: 'x-llm-mcp-max-cost-usd',
      in: 'header',
      description:
        'Dollars. Who might cost more, with a long answer, is not asked; where nobody is left it is a 400 `no_target_within_budget`.',
      schema: { type: 'number', minimum: 0 }
    },
    onDisconnect: {
      name: 'x-llm-mcp-on-disconnect',
      in: 'header',
      description: 'What becomes of the request when its client goes away: `cancel` (if not given), or `finish`.',
      schema: { type: 'string', enum: ['cancel', 'finish'] }
    },
    prefer: {
      name: 'Prefer',
      in: 'header',
      description: '`respond-async`: the request is stored as a job and answered with 202 and the job, whose result is fetched later.',
      schema: { type: 'string' }
    }
  },
  schemas: {
    Error: {
      type: 'object',
      description: 'All four keys are always there.',
      required: ['error'],
      properties: {
        error: {
          type: 'object',
          required: ['message', 'type', 'param', 'code'],
          properties: { message: { type: 'string' }, type: { type: 'string' }, param: nullable('string'), code: nullable('string') }
        }
      }
    }
  }
} satisfies Part
