// The one error class, and the table that decides status, next target, breaker and retry in one place.

export type ErrorType =
  | 'authentication_error'
  | 'insufficient_quota'
  | 'invalid_request_error'
  | 'permission_error'
  | 'requests'
  | 'server_error'
  | 'service_unavailable_error'
  | 'tokens'

/** What the breaker of the target makes of it. */
export type BreakerEffect = 'none' | 'failure' | 'cool_down' | 'denied' | 'not_here'

interface ErrorRow {
  readonly status: number
  readonly type: ErrorType
  /** May another target answer instead, as long as no token was sent? */
  readonly nextTarget: boolean
  readonly breaker: BreakerEffect
  /** May a job try again later? */
  readonly jobRetry: boolean
  /** Said to SDKs where their own retry would be useless or dear. */
  readonly shouldRetry: boolean
  /** Said also where it is worth another try: whoever waited here shall not have to guess by the status. */
  readonly saysRetry?: true
  /** OpenAI's name for it, where that is another than ours. */
  readonly publicCode?: string
}

const table = {
  invalid_request: { status: 400, type: 'invalid_request_error', nextTarget: false, breaker: 'none', jobRetry: false, shouldRetry: false },
  context_length_exceeded: {
    status: 400,
    type: 'invalid_request_error',
    nextTarget: false,
    breaker: 'none',
    jobRetry: false,
    shouldRetry: false
  },
  unsupported_parameter: {
    status: 400,
    type: 'invalid_request_error',
    nextTarget: false,
    breaker: 'none',
    jobRetry: false,
    shouldRetry: false
  },
  no_target_within_budget: {
    status: 400,
    type: 'invalid_request_error',
    nextTarget: false,
    breaker: 'none',
    jobRetry: false,
    shouldRetry: false
  },
  model_not_found: { status: 404, type: 'invalid_request_error', nextTarget: false, breaker: 'none', jobRetry: false, shouldRetry: false },
  not_found: { status: 404, type: 'invalid_request_error', nextTarget: false, breaker: 'none', jobRetry: false, shouldRetry: false },
  method_not_allowed: {
    status: 405,
    type: 'invalid_request_error',
    nextTarget: false,
    breaker: 'none',
    jobRetry: false,
    shouldRetry: false
  },
  job_not_finished: { status: 409, type: 'invalid_request_error', nextTarget: false, breaker: 'none', jobRetry: false, shouldRetry: false },
  request_timeout: { status: 408, type: 'invalid_request_error', nextTarget: false, breaker: 'none', jobRetry: false, shouldRetry: true },
  payload_too_large: {
    status: 413,
    type: 'invalid_request_error',
    nextTarget: false,
    breaker: 'none',
    jobRetry: false,
    shouldRetry: false
  },
  unsupported_media_type: {
    status: 415,
    type: 'invalid_request_error',
    nextTarget: false,
    breaker: 'none',
    jobRetry: false,
    shouldRetry: false
  },
  idempotency_key_reused: {
    status: 422,
    type: 'invalid_request_error',
    nextTarget: false,
    breaker: 'none',
    jobRetry: false,
    shouldRetry: false
  },
  headers_too_large: {
    status: 431,
    type: 'invalid_request_error',
    nextTarget: false,
    breaker: 'none',
    jobRetry: false,
    shouldRetry: false
  },
  invalid_api_key: { status: 401, type: 'invalid_request_error', nextTarget: false, breaker: 'none', jobRetry: false, shouldRetry: false },
  forbidden: { status: 403, type: 'permission_error', nextTarget: false, breaker: 'none', jobRetry: false, shouldRetry: false },
  insufficient_quota: { status: 429, type: 'insufficient_quota', nextTarget: false, breaker: 'none', jobRetry: false, shouldRetry: false },
  rate_limit_exceeded: { status: 429, type: 'requests', nextTarget: false, breaker: 'none', jobRetry: true, shouldRetry: true },
  token_limit_exceeded: {
    status: 429,
    type: 'tokens',
    nextTarget: false,
    breaker: 'none',
    jobRetry: true,
    shouldRetry: true,
    publicCode: 'rate_limit_exceeded'
  },
  concurrency_limit_exceeded: {
    status: 429,
    type: 'requests',
    nextTarget: false,
    breaker: 'none',
    jobRetry: true,
    shouldRetry: true,
    publicCode: 'rate_limit_exceeded'
  },
  no_capacity: {
    status: 503,
    type: 'service_unavailable_error',
    nextTarget: false,
    breaker: 'none',
    jobRetry: true,
    shouldRetry: true,
    saysRetry: true
  },
  queue_full: {
    status: 503,
    type: 'service_unavailable_error',
    nextTarget: false,
    breaker: 'none',
    jobRetry: true,
    shouldRetry: true,
    saysRetry: true
  },
  server_draining: {
    status: 503,
    type: 'service_unavailable_error',
    nextTarget: false,
    breaker: 'none',
    jobRetry: true,
    shouldRetry: true
  },
  database_unavailable: {
    status: 503,
    type: 'service_unavailable_error',
    nextTarget: false,
    breaker: 'none',
    jobRetry: true,
    shouldRetry: true
  },
  // The disk of the database is full, which no client's retry empties.
  storage_full: {
    status: 503,
    type: 'service_unavailable_error',
    nextTarget: false,
    breaker: 'none',
    jobRetry: true,
    shouldRetry: false
  },
  upstream_rate_limited: {
    status: 429,
    type: 'requests',
    nextTarget: true,
    breaker: 'cool_down',
    jobRetry: true,
    shouldRetry: true,
    publicCode: 'rate_limit_exceeded'
  },
  upstream_denied: { status: 502, type: 'server_error', nextTarget: true, breaker: 'denied', jobRetry: true, shouldRetry: false },
  upstream_lacks_model: {
    status: 404,
    type: 'invalid_request_error',
    nextTarget: true,
    breaker: 'not_here',
    jobRetry: true,
    shouldRetry: false,
    publicCode: 'model_not_found'
  },
  upstream_unavailable: { status: 502, type: 'server_error', nextTarget: true, breaker: 'failure', jobRetry: true, shouldRetry: false },
  machine_lost: { status: 502, type: 'server_error', nextTarget: true, breaker: 'failure', jobRetry: true, shouldRetry: false },
  upstream_refused: { status: 400, type: 'invalid_request_error', nextTarget: false, breaker: 'none', jobRetry: false, shouldRetry: false },
  upstream_broke: { status: 502, type: 'server_error', nextTarget: false, breaker: 'failure', jobRetry: true, shouldRetry: false },
  dimension_mismatch: { status: 502, type: 'server_error', nextTarget: true, breaker: 'none', jobRetry: false, shouldRetry: false },
  client_gone: { status: 499, type: 'invalid_request_error', nextTarget: false, breaker: 'none', jobRetry: false, shouldRetry: false },
  deadline_exceeded: { status: 504, type: 'server_error', nextTarget: false, breaker: 'none', jobRetry: false, shouldRetry: false },
  process_lost: { status: 500, type: 'server_error', nextTarget: false, breaker: 'none', jobRetry: true, shouldRetry: false },
  internal_error: { status: 500, type: 'server_error', nextTarget: false, breaker: 'none', jobRetry: true, shouldRetry: false }
} as const satisfies Record<string, ErrorRow>

export type ErrorCode = keyof typeof table

export interface ErrorOptions {
  readonly cause?: unknown
  /** Instead of the table's: an upstream's own 4xx (upstream_refused), 502/503/504 (upstream_unavailable). */
  readonly status?: number
  /** What somebody else said about it: told to the client, never logged, for it may repeat the prompt. */
  readonly quote?: string
  /** The request field at fault. */
  readonly param?: string
  /** The code of the body, where the upstream's own says more than ours. */
  readonly publicCode?: string
  readonly retryAfterMs?: number
  /** Overrules the table, e.g. false where our own fallbacks are exhausted. */
  readonly shouldRetry?: boolean
}

/**
 * The only error that is thrown or passed on purpose. Everything that follows from its code stands in the table above:
 * ask `error.nextTarget`, never compare codes or texts.
 */
export class GatewayError extends Error {
  readonly code: ErrorCode
  readonly status: number
  readonly type: ErrorType
  readonly param: string | null
  readonly publicCode: string
  readonly nextTarget: boolean
  readonly breaker: BreakerEffect
  readonly jobRetry: boolean
  readonly shouldRetry: boolean
  readonly saysRetry: boolean
  readonly retryAfterMs: number | null
  /** The message without what others said. */
  readonly logMessage: string
  readonly #quote: string | undefined

  constructor(code: ErrorCode, message: string, options: ErrorOptions = {}) {
    super(
      options.quote === undefined || options.quote === '' ? message : `${message}: ${options.quote}`,
      options.cause === undefined ? undefined : { cause: options.cause }
    )
    const row: ErrorRow = table[code]
    this.logMessage = message
    this.#quote = options.quote
    this.name = 'GatewayError'
    this.code = code
    this.status = options.status ?? row.status
    // With this status, what is told is that there are too many.
    this.type = this.status === 429 && row.status !== 429 ? 'requests' : row.type
    this.param = options.param ?? null
    this.publicCode = options.publicCode ?? row.publicCode ?? code
    this.nextTarget = row.nextTarget
    this.breaker = row.breaker
    this.jobRetry = row.jobRetry
    this.retryAfterMs = options.retryAfterMs ?? null
    this.saysRetry = row.saysRetry ?? false
    // Above 60 s the SDKs ignore Retry-After and try again at once (measured with openai 7.55).
    this.shouldRetry = options.shouldRetry ?? (row.shouldRetry && (this.retryAfterMs === null || this.retryAfterMs <= 60_000))
  }

  /** The same error, for a client that shall not try again by itself. */
  final(): GatewayError {
    return this.shouldRetry ? this.#with({ shouldRetry: false }) : this
  }

  /** The same error about another field, for a client that speaks another dialect. */
  about(param: string): GatewayError {
    return this.param === param ? this : this.#with({ param })
  }

  #with(changes: ErrorOptions): GatewayError {
    return new GatewayError(this.code, this.logMessage, {
      cause: this.cause,
      status: this.status,
      publicCode: this.publicCode,
      shouldRetry: this.shouldRetry,
      ...(this.#quote === undefined ? {} : { quote: this.#quote }),
      ...(this.param === null ? {} : { param: this.param }),
      ...(this.retryAfterMs === null ? {} : { retryAfterMs: this.retryAfterMs }),
      ...changes
    })
  }

  /** OpenAI's error body: all four keys, always. */
  body(): { error: { message: string; type: string; param: string | null; code: string } } {
    return { error: { message: this.message, type: this.type, param: this.param, code: this.publicCode } }
  }
}

/** Any thrown thing as a GatewayError; what we did not foresee becomes `internal_error` without its text. */
export function toGatewayError(thrown: unknown): GatewayError {
  if (thrown instanceof GatewayError) return thrown
  return new GatewayError('internal_error', 'The gateway failed to handle this request.', { cause: thrown })
}
