// A job as the API shows it, read for people: its fields, its answer as text, and times as one says them.

export interface Job {
  readonly id: string
  readonly kind: string
  readonly model: string | null
  readonly status: string
  readonly priority: string | null
  readonly source: string | null
  readonly position: number | null
  readonly etaMs: Eta | null
  readonly attempts: number | null
  readonly maxAttempts: number | null
  readonly device: string | null
  readonly provider: string | null
  readonly createdAt: string | null
  readonly startedAt: string | null
  readonly firstTokenAt: string | null
  readonly finishedAt: string | null
  readonly deadlineAt: string | null
  readonly costUsd: number | null
  readonly promptTokens: number | null
  readonly completionTokens: number | null
  readonly result: unknown
  readonly error: { readonly message: string; readonly code: string | null } | null
  readonly metadata: readonly (readonly [string, string])[]
  readonly webhook: { readonly url: string; readonly status: string; readonly error: string | null } | null
}

export interface Eta {
  readonly p50: number
  readonly p90: number
}

type Fields = Readonly<Record<string, unknown>>

/** Fields that are missing, or not what they should be, are null. */
export function readJob(body: Fields): Job {
  const usage = fieldsOf(body.usage)
  const error = fieldsOf(body.error)
  const webhook = fieldsOf(body.webhook)
  return {
    id: textOf(body.id) ?? '',
    kind: textOf(body.kind) ?? '',
    model: textOf(body.model),
    status: textOf(body.status) ?? '',
    priority: textOf(body.priority),
    source: textOf(body.source),
    position: numberOf(body.position),
    etaMs: readEta(body.eta_ms),
    attempts: numberOf(body.attempts),
    maxAttempts: numberOf(body.max_attempts),
    device: textOf(body.device),
    provider: textOf(body.provider),
    createdAt: textOf(body.created_at),
    startedAt: textOf(body.started_at),
    firstTokenAt: textOf(body.first_token_at),
    finishedAt: textOf(body.finished_at),
    deadlineAt: textOf(body.deadline_at),
    costUsd: numberOf(body.cost_usd),
    promptTokens: numberOf(usage?.prompt_tokens),
    completionTokens: numberOf(usage?.completion_tokens),
    result: body.result ?? null,
    error: error === null ? null : { message: textOf(error.message) ?? '', code: textOf(error.code) },
    metadata: Object.entries(fieldsOf(body.metadata) ?? {}).map(([key, value]) => [key, String(value)] as const),
    webhook:
      webhook === null ? null : { url: textOf(webhook.url) ?? '', status: textOf(webhook.status) ?? '', error: textOf(webhook.error) }
  }
}

export function readEta(value: unknown): Eta | null {
  const fields = fieldsOf(value)
  const p50 = numberOf(fields?.p50)
  const p90 = numberOf(fields?.p90)
  return p50 === null || p90 === null ? null : { p50, p90 }
}

/** What a chunk of a chat adds to the answer; empty when it is about something else. */
export function chunkText(chunk: Fields): string {
  const choice = fieldsOf(listOf(chunk.choices).find(choice => (fieldsOf(choice)?.index ?? 0) === 0))
  return textOf(fieldsOf(choice?.delta)?.content) ?? ''
}

/** The words of the answer; where it has none (vectors, calls of tools, an echo), its JSON. Empty when there is no answer. */
export function answerText({ kind, result }: Pick<Job, 'kind' | 'result'>): string {
  const fields = fieldsOf(result)
  if (fields === null) return result === null ? '' : JSON.stringify(result)
  const words =
    kind === 'echo' ? null : (textOf(fieldsOf(fieldsOf(listOf(fields.choices)[0])?.message)?.content) ?? textOf(fields.response))
  return words === null || words === '' ? JSON.stringify(result) : words
}

export function seconds(ms: number): string {
  if (ms < 59_950) return `${(Math.max(0, ms) / 1_000).toFixed(1)} s`
  const whole = Math.round(ms / 1_000)
  const tail = `${String(Math.floor(whole / 60) % 60).padStart(whole < 3_600 ? 1 : 2, '0')}:${String(whole % 60).padStart(2, '0')}`
  return whole < 3_600 ? `${tail} min` : `${Math.floor(whole / 3_600)}:${tail} h`
}

/** How long ago, in one unit. */
export function age(iso: string | null, nowMs: number): string {
  if (iso === null) return ''
  const passed = Math.max(0, nowMs - Date.parse(iso)) / 1_000
  if (passed < 60) return `${Math.floor(passed)} s`
  if (passed < 3_600) return `${Math.floor(passed / 60)} min`
  if (passed < 48 * 3_600) return `${Math.floor(passed / 3_600)} h`
  return `${Math.floor(passed / 86_400)} d`
}

/** Six digits, and more where they would say $0 for something. */
export function dollars(usd: number): string {
  return usd > 0 && usd < 0.000001 ? `$${usd.toFixed(9)}` : `$${usd.toFixed(6)}`
}

export function fieldsOf(value: unknown): Fields | null {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Fields) : null
}

export function textOf(value: unknown): string | null {
  return typeof value === 'string' ? value : null
}

export function numberOf(value: unknown): number | null {
  return typeof value === 'number' && Number.isFinite(value) ? value : null
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : []
}
