// llm-mcp jobs submit: one job, from options and, for all that they cannot say, a file with the payload.

import { readFile } from 'node:fs/promises'
import { text as textOfStream } from 'node:stream/consumers'
import type { JobKind } from '../../../queue/types.ts'
import { withClient } from '../client.ts'
import { printJson } from '../print.ts'
import { readJob } from './job.ts'
import type { JobOptions } from './path.ts'
import { watch } from './watch.ts'

export interface SubmitOptions extends JobOptions {
  readonly kind: JobKind
  readonly model?: string
  readonly prompt?: string
  readonly payload?: string
  readonly priority?: string
  readonly stream?: boolean
  readonly deadline?: string
  readonly maxAttempts?: number
  readonly webhook?: string
  readonly metadata?: readonly string[]
  readonly idempotencyKey?: string
  readonly wait?: boolean
}

/** Prints the id; with `wait` the answer instead, and the exit code is that of `jobs watch`. */
export async function submitCommand(options: SubmitOptions): Promise<void> {
  const body = await bodyOf(options)
  const headers = options.idempotencyKey === undefined ? {} : { 'idempotency-key': options.idempotencyKey }
  if (!/^[\x21-\x7e]{1,255}$/.test(options.idempotencyKey ?? 'x'))
    throw new Error('--idempotency-key must have 1 to 255 visible characters.')
  await withClient(options, async client => {
    const answer = await client.ask({ method: 'POST', path: '/v1/jobs', body, headers })
    const job = readJob(answer.body)
    if (options.wait !== true) {
      if (options.json === true) return printJson(answer.body)
      console.log(job.id)
      if (answer.replayed) console.error('This is the job of an earlier request with the same idempotency key.')
      return
    }
    if (options.json !== true) {
      console.error(job.id)
      return watch({ client, job, onEvent: null })
    }
    await watch({ client, job, onEvent: ({ event, data }) => event === 'result' && printJson(data) })
  })
}

/** The body of POST /v1/jobs. Throws an Error, ready to be shown, when the options do not make one. */
export async function bodyOf(options: SubmitOptions): Promise<Record<string, unknown>> {
  const fields = {
    kind: options.kind,
    model: options.model,
    payload: await payloadOf(options),
    priority: options.priority,
    stream: options.stream,
    max_attempts: options.maxAttempts,
    webhook: options.webhook === undefined ? undefined : { url: options.webhook },
    metadata: options.metadata === undefined ? undefined : Object.fromEntries(options.metadata.map(pairOf)),
    ...deadlineOf(options.deadline)
  }
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined))
}

async function payloadOf({ kind, prompt, payload }: SubmitOptions): Promise<unknown> {
  if (prompt !== undefined && payload !== undefined) throw new Error('--prompt and --payload exclude each other.')
  if (prompt !== undefined) return promptPayload(kind, prompt)
  if (payload === undefined) throw new Error('What is to be asked? Give --prompt, or --payload with a file of JSON.')
  const name = payload === '-' ? 'stdin' : payload
  const text = await (payload === '-' ? textOfStream(process.stdin) : readFile(payload, 'utf8')).catch((error: NodeJS.ErrnoException) => {
    throw new Error(`${name} cannot be read (${error.code === 'ENOENT' ? 'no such file' : error.code}).`)
  })
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value
  } catch {
    throw new Error(`${name} is not JSON.`)
  }
  throw new Error(`${name} must hold a JSON object: the body that the provider would be sent.`)
}

const promptPayloads: Readonly<Record<JobKind, (prompt: string) => object>> = {
  chat: messages,
  'openai.chat': messages,
  'openrouter.chat': messages,
  embed: input => ({ input }),
  'ollama.embed': input => ({ input }),
  'ollama.generate': prompt => ({ prompt }),
  echo: prompt => ({ prompt })
}

function promptPayload(kind: JobKind, prompt: string): object {
  return promptPayloads[kind](prompt)
}

function messages(content: string): object {
  return { messages: [{ role: 'user', content }] }
}

function pairOf(text: string): readonly [string, string] {
  const at = text.indexOf('=')
  if (at < 1) throw new Error(`--metadata must be key=value, got ${JSON.stringify(text)}.`)
  return [text.slice(0, at), text.slice(at + 1)]
}

const unitMs: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }

/** Throws when it is neither a length of time nor a moment; whether that has passed is for the gateway to say. */
function deadlineOf(text: string | undefined): { readonly deadline_ms?: number; readonly deadline_at?: string } {
  if (text === undefined) return {}
  const [, count, unit = ''] = /^(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)$/.exec(text.trim()) ?? []
  if (count !== undefined) return { deadline_ms: Math.round(Number(count) * (unitMs[unit] ?? 1)) }
  if (/^\d{4}-\d{2}-\d{2}T/.test(text) && !Number.isNaN(Date.parse(text))) return { deadline_at: text }
  throw new Error(
    `--deadline must be a time from now such as 30s, 5m or 2h, or a moment such as 2027-01-31T00:00:00Z, got ${JSON.stringify(text)}.`
  )
}
