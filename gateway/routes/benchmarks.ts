// /v1/benchmarks: measuring models on purpose, for admins.

import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { GatewayError } from '../../routing/errors.ts'
import type { Caller } from '../../routing/types.ts'
import type { BenchmarkRecord, Measure } from '../../store/benchmarks.ts'
import { bodyOf } from '../answer.ts'
import { readBody } from '../body.ts'
import { type Facts, invalid, missing, optionalBoolean, wrong } from '../fields.ts'
import { pageOf, uuidOf } from '../query.ts'

export interface BenchmarksPorts {
  /** Resolves when it is written down, or with the one that asks for the same and is not over. Throws GatewayError where there is no such model, or where it is too dear. */
  readonly submit: (asked: {
    readonly deviceId: string | null
    readonly provider: string | null
    readonly model: string
    readonly runs: number
    readonly prompt: string | null
    readonly pay: boolean
    readonly requestedBy: string
  }) => Promise<BenchmarkRecord>
  readonly find: (id: string) => Promise<BenchmarkRecord | null>
  /** Ends it where it is; one that is over stays as it is. Null when there is none. */
  readonly cancel: (id: string) => Promise<BenchmarkRecord | null>
  readonly list: (query: {
    readonly device: string | null
    readonly model: string | null
    readonly after: string | null
    readonly limit: number
  }) => Promise<BenchmarkRecord[]>
}

const usualRuns = 3
const runsAtMost = 20
const textAtMost = 256
const promptAtMost = 20_000
// As llm-mcp v2 called it.
const tasks = ['chat', 'generate', 'ollama.generate']

export function registerBenchmarks(app: FastifyInstance, ports: BenchmarksPorts): void {
  const config = { requires: ['admin'] as const }

  async function submit(request: FastifyRequest, reply: FastifyReply): Promise<unknown> {
    const { source } = request.context.caller as Caller
    const body = readBody(bodyOf(request, '"model"')).json()
    const record = await ports.submit({ ...readAsked(body), requestedBy: source })
    reply.code(202).header('location', `/v1/benchmarks/${record.id}`)
    return benchmarkObject(record)
  }

  app.post('/v1/benchmarks', { config }, submit)
  app.post('/v1/benchmarks/run', { config }, submit)

  app.get('/v1/benchmarks', { config }, async request => {
    const { after, limit } = pageOf(request.query)
    const query = request.query as Facts
    const records = await ports.list({ device: filter(query, 'device'), model: filter(query, 'model'), after, limit: limit + 1 })
    const data = records.slice(0, limit).map(benchmarkObject)
    return { object: 'list', data, first_id: data[0]?.id ?? null, last_id: data.at(-1)?.id ?? null, has_more: records.length > limit }
  })

  app.get<{ Params: { id: string } }>('/v1/benchmarks/:id', { config }, async request => {
    return benchmarkObject(existing(await ports.find(uuidOf(request.params.id, 'benchmark'))))
  })

  app.post<{ Params: { id: string } }>('/v1/benchmarks/:id/cancel', { config }, async request => {
    return benchmarkObject(existing(await ports.cancel(uuidOf(request.params.id, 'benchmark'))))
  })
}

function existing(record: BenchmarkRecord | null): BenchmarkRecord {
  if (record === null) throw new GatewayError('not_found', 'There is no benchmark with this id.')
  return record
}

/** Throws GatewayError `invalid_request`. */
export function readAsked(body: Facts): Omit<Parameters<BenchmarksPorts['submit']>[0], 'requestedBy'> {
  const model = text(body, 'model', textAtMost)
  if (model === null) throw missing('model', 'the name of a model; GET /v1/devices lists those of machines')
  const task = text(body, 'task_type', textAtMost)
  if (task !== null && !tasks.includes(task)) throw invalid('task_type', `one of ${tasks.join(', ')}: other tasks cannot be measured`)
  const { runs = null } = body
  if (runs !== null && !(typeof runs === 'number' && Number.isInteger(runs) && runs >= 1 && runs <= runsAtMost)) {
    throw wrong('runs', `an integer from 1 to ${runsAtMost}`, runs)
  }
  return {
    deviceId: text(body, 'device_id', textAtMost),
    provider: text(body, 'provider', textAtMost),
    model,
    runs: runs ?? usualRuns,
    prompt: text(body, 'prompt', promptAtMost),
    pay: optionalBoolean(body, 'pay') ?? false
  }
}

/** Null when it is absent, null or empty: v2's clients send empty fields. */
function text(body: Facts, name: string, atMost: number): string | null {
  const value = body[name]
  if (value === undefined || value === null || value === '') return null
  const isGood = typeof value === 'string' && value.length <= atMost && !value.includes('\0') && value.isWellFormed()
  if (!isGood) throw wrong(name, `a string of at most ${atMost} characters`, typeof value === 'string' ? 0 : value)
  return value
}

function filter(query: Facts, name: string): string | null {
  const value = query[name]
  if (value === undefined || value === '') return null
  if (typeof value !== 'string' || value.length > textAtMost || value.includes('\0')) throw invalid(name, 'a name, once')
  return value
}

function benchmarkObject(record: BenchmarkRecord) {
  const { phase, done, of, measures } = record.progress
  return {
    id: record.id,
    object: 'benchmark',
    state: record.state,
    device_id: record.deviceId,
    provider: record.provider,
    model: record.model,
    task: record.task,
    runs: record.runs,
    requested_by: record.requestedBy,
    pays_anyway: record.paysAnyway,
    progress: { phase, done, of },
    phases: Object.fromEntries(Object.entries(measures).map(([name, measure]) => [name, measureObject(measure)])),
    result: record.result,
    error: record.error,
    created_at: record.createdAt.toISOString(),
    started_at: record.startedAt?.toISOString() ?? null,
    finished_at: record.finishedAt?.toISOString() ?? null
  }
}

function measureObject(measure: Measure): Readonly<Record<string, unknown>> {
  return {
    skipped: measure.skipped,
    requests: measure.requests,
    failures: measure.failures,
    load_ms: measure.loadMs,
    prompt_tokens_per_s: measure.promptTokensPerSecond,
    tokens_per_s: measure.tokensPerSecond,
    variation: measure.variation,
    ttft_ms: measure.ttftMs,
    concurrency: measure.concurrency,
    error: measure.error
  }
}
