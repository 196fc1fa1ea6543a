// What is known of a job, as it is stored: the words of its columns, and one job without its request.

export const jobKinds = ['chat', 'embed', 'openai.chat', 'openrouter.chat', 'ollama.generate', 'ollama.embed', 'echo'] as const
export type JobKind = (typeof jobKinds)[number]

export const jobStatuses = ['queued', 'running', 'done', 'error', 'cancelled'] as const
export type JobStatus = (typeof jobStatuses)[number]

/** In the order they are served, best first; the number of a class is its index. */
export const jobClasses = ['urgent', 'interactive', 'normal', 'batch', 'benchmark'] as const
export type JobClass = (typeof jobClasses)[number]

/** As it is stored, without its request. Dates by the database's clock. */
export interface JobRecord {
  readonly id: string
  readonly kind: JobKind
  readonly class: JobClass
  readonly model: string | null
  readonly source: string
  readonly subSource: string | null
  readonly status: JobStatus
  readonly lane: string
  readonly tag: string
  readonly stream: boolean
  /** Tries that count; those that were lost with their process do not. */
  readonly attempts: number
  readonly maxAttempts: number
  /** The number of the running or last attempt; 0 = none yet. */
  readonly attemptNo: number
  readonly processId: string | null
  readonly deviceId: string | null
  readonly provider: string | null
  readonly createdAt: Date
  readonly startedAt: Date | null
  readonly firstTokenAt: Date | null
  readonly finishedAt: Date | null
  readonly deadlineAt: Date | null
  readonly maxCostUsd: number | null
  readonly metadata: Readonly<Record<string, string>> | null
  readonly usage: Readonly<Record<string, unknown>> | null
  /** Of all its calls; null when nothing is booked yet, or a price is unknown. */
  readonly costNanoUsd: number | null
  readonly error: JobError | null
  /**
   * In OpenAI's form (chat completion, text completion, embeddings), or an echo's payload; null in lists, until it is done, and where it
   * is large.
   */
  readonly result: Buffer | null
  /** How long the result is, whether it is here or not; null = there is none. */
  readonly resultBytes: number | null
  readonly webhook: JobWebhook | null
}

export interface JobError {
  readonly message: string
  readonly type: string
  readonly code: string
}

export interface JobWebhook {
  readonly url: string
  readonly status: 'waiting' | 'delivered' | 'failed'
  /** Of the last try. */
  readonly error: string | null
}

export interface JobFilter {
  readonly status: JobStatus | null
  readonly kind: JobKind | null
  readonly model: string | null
  readonly device: string | null
  readonly source: string | null
  /** Epoch, ms. */
  readonly createdAfter: number | null
  readonly createdBefore: number | null
}
