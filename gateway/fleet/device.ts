// A machine as it is shown, and what a person may say of it.

import { figuresOf, type Profile } from '../../routing/profile.ts'
import type { DevicePatch, DeviceRecord, DeviceState, StoredLimits } from '../../store/fleet.ts'
import { type Facts, invalid, isRecord, wrong } from '../fields.ts'

const states: readonly DeviceState[] = ['proposed', 'approved', 'blocked']

interface Figure {
  readonly field: keyof StoredLimits
  readonly least?: number
  readonly most: number
  readonly isInteger?: boolean
}

/** By name on the wire; the names are those of the table `device_limits`. */
const figures: Readonly<Record<string, Figure>> = {
  max_concurrency: { field: 'maxConcurrency', most: 64, isInteger: true },
  ram_gb: { field: 'ramGb', most: 1_000_000 },
  vram_gb: { field: 'vramGb', most: 100_000 },
  max_params_b: { field: 'maxParamsB', most: 1_000_000 },
  max_size_gb: { field: 'maxSizeGb', most: 1_000_000 },
  max_context_k: { field: 'maxContextK', least: 1, most: 1_000_000 },
  watts: { field: 'watts', most: 100_000 }
}
const lists: Readonly<Record<string, keyof StoredLimits>> = { allow_models: 'allowModels', deny_models: 'denyModels' }
const patternsAtMost = 200

/** Reads the body of PATCH /v1/devices/{id}: `state`, `limits`. Null as a limit takes it away. Throws GatewayError `invalid_request`. */
export function readDevicePatch(body: Facts): DevicePatch {
  for (const name of Object.keys(body)) {
    if (name !== 'state' && name !== 'limits') throw invalid(name, 'only "state" and "limits" here')
  }
  const { state, limits } = body
  if (state === undefined && limits === undefined) throw invalid('state', 'a state, or limits: there is nothing to change')
  const known = states.find(name => name === state)
  if (state !== undefined && known === undefined) throw invalid('state', `one of ${states.join(', ')}`)
  return { ...(known !== undefined && { state: known }), ...(limits !== undefined && { limits: readLimits(limits) }) }
}

function readLimits(value: unknown): Partial<StoredLimits> {
  if (!isRecord(value)) throw wrong('limits', 'an object', value)
  const limits: Partial<Record<keyof StoredLimits, unknown>> = {}
  for (const [name, given] of Object.entries(value)) {
    const param = `limits.${name}`
    const figure = Object.hasOwn(figures, name) ? figures[name] : undefined
    const list = Object.hasOwn(lists, name) ? lists[name] : undefined
    if (figure !== undefined) limits[figure.field] = given === null ? null : readFigure(param, given, figure)
    else if (list !== undefined) limits[list] = given === null ? null : readPatterns(param, given)
    else throw invalid(param, `one of ${[...Object.keys(figures), ...Object.keys(lists)].join(', ')}`)
  }
  return limits as Partial<StoredLimits>
}

function readFigure(param: string, value: unknown, { isInteger = false, least = isInteger ? 1 : 0, most }: Figure): number {
  const isGood = typeof value === 'number' && value >= least && value <= most && (!isInteger || Number.isInteger(value))
  if (!isGood) throw wrong(param, `${isInteger ? 'an integer' : 'a number'} from ${least} to ${most}, or null`, value)
  return value
}

function readPatterns(param: string, value: unknown): readonly string[] {
  const isGood =
    Array.isArray(value) &&
    value.length <= patternsAtMost &&
    value.every(name => typeof name === 'string' && name.length <= 256 && /^\S+$/.test(name) && !/[\0-\x1f\x7f]/.test(name))
  if (!isGood) throw wrong(param, `a list of up to ${patternsAtMost} model names or patterns, or null`, value)
  return value
}

export interface DeviceView {
  /** As this gateway uses it; null when it does not. */
  readonly used: {
    readonly watts: number
    readonly vramGb: number | null
    readonly ramGb: number | null
    readonly models: readonly {
      readonly id: string
      readonly loaded: boolean
      readonly contextTokens: number | null
      readonly profile: Profile | null
    }[]
    readonly error: string | null
  } | null
}

/** As GET /v1/devices shows it. */
export function deviceObject(record: DeviceRecord, { used }: DeviceView): Readonly<Record<string, unknown>> {
  return {
    id: record.id,
    object: 'device',
    url: record.url,
    type: record.adapter,
    origin: record.origin,
    state: record.state,
    // Of one that is in no configuration any more, nobody knows it.
    health: isUnconfigured(record) ? 'unknown' : record.health,
    health_note: isUnconfigured(record) ? null : record.healthNote,
    health_at: record.healthAt?.toISOString() ?? null,
    only_from: record.onlyHost,
    os: record.os,
    tags: record.tags,
    version: record.version,
    marks: record.marks,
    max_concurrency: record.maxConcurrency,
    in_use: record.taken,
    watts: used?.watts ?? null,
    vram_gb: used?.vramGb ?? null,
    ram_gb: used?.ramGb ?? null,
    error: used?.error ?? null,
    models:
      used === null
        ? record.models.map(id => ({ id, loaded: null, context_length: null, profile: null }))
        : used.models.map(({ id, loaded, contextTokens, profile }) => ({
            id,
            loaded,
            context_length: contextTokens,
            profile: profile === null ? null : profileObject(profile)
          })),
    models_found: record.modelsFound,
    limits: record.limits === null ? null : limitsObject(record.limits),
    metrics: record.metrics === null ? null : metricsObject(record.metrics),
    created_at: record.createdAt.toISOString(),
    found_at: record.foundAt?.toISOString() ?? null,
    gone_at: record.goneAt?.toISOString() ?? null,
    seen_at: record.seenAt?.toISOString() ?? null
  }
}

/** It came from a configuration, and no gateway has it there now: it is sent nothing, and its row is kept for what refers to it. */
export function isUnconfigured({ origin, goneAt }: Pick<DeviceRecord, 'origin' | 'goneAt'>): boolean {
  return origin === 'config' && goneAt !== null
}

function metricsObject(metrics: NonNullable<DeviceRecord['metrics']>): Record<string, unknown> {
  return {
    at: new Date(metrics.at).toISOString(),
    cpu_percent: metrics.cpuPercent,
    memory_used_bytes: metrics.memoryUsedBytes,
    memory_total_bytes: metrics.memoryTotalBytes,
    gpu_name: metrics.gpuName,
    vram_used_bytes: metrics.vramUsedBytes,
    vram_total_bytes: metrics.vramTotalBytes
  }
}

/** In figures for people, to three digits. */
function profileObject(profile: Profile): Record<string, unknown> {
  const figures = figuresOf(profile)
  return {
    tokens_per_s: rounded(figures.tokensPerSecond),
    tokens_per_s_at_two: rounded(figures.tokensPerSecondAtTwo),
    tokens_per_s_at_four: rounded(figures.tokensPerSecondAtFour),
    prompt_tokens_per_s: rounded(figures.promptTokensPerSecond),
    load_ms: rounded(figures.loadMs),
    ttft_ms: rounded(figures.ttftMs),
    variation: rounded(figures.variation),
    samples: figures.samples,
    learned_at: new Date(profile.atMs).toISOString()
  }
}

function rounded(figure: number | null): number | null {
  return figure === null ? null : Number(figure.toPrecision(3))
}

/** Only those that are set. */
function limitsObject(limits: StoredLimits): Record<string, unknown> {
  const named: [string, keyof StoredLimits][] = [
    ...Object.entries(figures).map(([name, { field }]): [string, keyof StoredLimits] => [name, field]),
    ...Object.entries(lists)
  ]
  return Object.fromEntries(named.flatMap(([name, field]) => (limits[field] === null ? [] : [[name, limits[field]]])))
}
