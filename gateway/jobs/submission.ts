// The body of POST /v1/jobs, and the header that makes sending it twice safe.

import { hash } from 'node:crypto'
import type { IncomingHttpHeaders } from 'node:http'
import { type JobClass, type JobKind, jobKinds } from '../../queue/types.ts'
import type { Route } from '../../routing/brain/types.ts'
import { GatewayError } from '../../routing/errors.ts'
import { nearest } from '../../routing/nearest.ts'
import { type ReadBody, readBody } from '../body.ts'
import { type Facts, invalid, isGiven, isRecord, missing, optionalBoolean, optionalRecord, wrong } from '../fields.ts'
import { deadlineKindFrom, routeFrom, routes } from '../knobs.ts'
import { kindFacts } from './kinds.ts'
import { timeOf } from './times.ts'

/** What a job says beside its payload. */
export interface Submission {
  readonly kind: JobKind
  readonly class: JobClass
  /** Unchecked; undefined or null = only the payload names one. */
  readonly model: unknown
  /** A JSON object, as it was sent. */
  readonly payload: Buffer
  /** Epoch, ms. */
  readonly deadlineAt: number | null
  /** What it means; null = a header says, or it is soft. */
  readonly deadline: 'soft' | 'hard' | null
  readonly maxCostUsd: number | null
  /** What counts more; null = a header or the payload says. */
  readonly route: Route | null
  readonly maxAttempts: number
  /** Null = the payload says. */
  readonly stream: boolean | null
  readonly webhookUrl: string | null
  readonly metadata: Readonly<Record<string, string>> | null
  /** For whom it is submitted; null = the caller itself. */
  readonly source: string | null
}

const known: readonly string[] = [
  'kind',
  'type',
  'model',
  'payload',
  'priority',
  'deadline_ms',
  'deadline_at',
  'deadline',
  'max_attempts',
  'max_cost_usd',
  'route',
  'stream',
  'webhook',
  'metadata',
  'source'
]
const classByName: Readonly<Record<string, JobClass>> = { urgent: 'urgent', interactive: 'interactive', normal: 'normal', batch: 'batch' }
// From here on, llm-mcp v2's numbers meant somebody who waits.
const interactiveFrom = 10
const attemptsAtMost = 20
const defaultAttempts = 3
const deadlineMsAtMost = 366 * 86_400_000
// Later ones have no form in RFC 3339.
const deadlineAtMost = Date.UTC(9999, 11, 31, 23, 59, 59, 999)
const urlCharactersAtMost = 2_048
// OpenAI's bounds.
const metadataKeysAtMost = 16
const metadataKeyCharactersAtMost = 64
const metadataCharactersAtMost = 512

/** Throws GatewayError `invalid_request` naming the field; also one that is not known: a deadline that is not kept must not look kept. */
export function readSubmission(bytes: Buffer, nowMs: number): Submission {
  const body = readBody(bytes)
  // The rest is small, and read as what it is.
  const given = readBody(body.with({ payload: undefined })).json()
  const unknown = Object.keys(given).find(name => !known.includes(name))
  if (unknown !== undefined) throw unknownField(unknown)
  const kind = readKind(given)
  const { payload } = body.facts
  if (!isGiven(payload)) throw missing('payload', "the request body of the kind's own provider")
  if (!isRecord(payload)) throw wrong('payload', 'an object', payload)
  return {
    kind,
    class: readPriority(given.priority),
    model: given.model,
    payload: bytesOf(body, 'payload'),
    deadlineAt: readDeadline(given, nowMs),
    deadline: readDeadlineKind(given.deadline),
    maxCostUsd: readCost(given.max_cost_usd),
    route: readRoute(given.route),
    maxAttempts: readAttempts(given.max_attempts),
    stream: readStream(given, kind),
    webhookUrl: readWebhook(given),
    metadata: readMetadata(given.metadata),
    source: readSource(given.source)
  }
}

/** The source that a body names, null = none. Throws GatewayError `invalid_request`. */
export function readOwner(bytes: Buffer): string | null {
  return readSource(readBody(bytes).facts.source)
}

/** The `Idempotency-Key` and what it stands for; null where there is none. Throws GatewayError `invalid_request`. */
export function readIdempotency(headers: IncomingHttpHeaders, bytes: Buffer): { readonly key: string; readonly hash: Buffer } | null {
  const key = headers['idempotency-key']
  if (key === undefined) return null
  // Two of them come joined, with a space.
  if (!/^[\x21-\x7e]{1,255}$/.test(String(key))) throw invalid('Idempotency-Key', '1 to 255 visible ASCII characters')
  return { key: String(key), hash: hash('sha256', bytes, 'buffer') }
}

function unknownField(name: string): GatewayError {
  const [near] = nearest(name, known, 1)
  const param = name.slice(0, 60)
  const hint = near === undefined ? `a job has ${known.join(', ')}` : `did you mean "${near}"?`
  return new GatewayError('invalid_request', `Unknown parameter: "${param}"; ${hint}`, { param, publicCode: 'unknown_parameter' })
}

/** One value as it was sent, to the byte. */
function bytesOf(body: ReadBody, name: string): Buffer {
  const others = Object.keys(body.facts).filter(key => key !== name)
  const alone = body.with(Object.fromEntries(others.map(key => [key, undefined])))
  let start = alone.indexOf(':') + 1
  let end = alone.lastIndexOf('}')
  while (isBlank(alone[start])) start++
  while (isBlank(alone[end - 1])) end--
  return alone.subarray(start, end)
}

function isBlank(byte: number | undefined): boolean {
  return byte !== undefined && byte <= 0x20
}

function readKind(given: Facts): JobKind {
  const { kind, type } = given
  const value = isGiven(kind) ? kind : type
  if (!isGiven(value)) throw missing('kind', `one of ${jobKinds.join(', ')}`)
  if (isGiven(kind) && isGiven(type) && kind !== type) throw invalid('type', 'the same as kind, for which it is another name')
  const known = jobKinds.find(candidate => candidate === value)
  if (known === undefined) throw invalid(isGiven(kind) ? 'kind' : 'type', `one of ${jobKinds.join(', ')}`)
  return known
}

function readPriority(value: unknown): JobClass {
  if (!isGiven(value)) return 'normal'
  if (typeof value === 'number' && Number.isInteger(value)) return value >= interactiveFrom ? 'interactive' : value < 0 ? 'batch' : 'normal'
  const known = typeof value === 'string' && Object.hasOwn(classByName, value) ? classByName[value] : undefined
  if (known === undefined) throw invalid('priority', `one of ${Object.keys(classByName).join(', ')}, or an integer`)
  return known
}

function readDeadline(given: Facts, nowMs: number): number | null {
  const { deadline_at: at, deadline_ms: afterMs } = given
  if (isGiven(at) && isGiven(afterMs)) throw invalid('deadline_ms', 'nothing beside deadline_at')
  if (isGiven(afterMs)) {
    if (typeof afterMs !== 'number' || !(afterMs >= 1) || afterMs > deadlineMsAtMost)
      throw wrong('deadline_ms', `milliseconds from 1 to ${deadlineMsAtMost}`, afterMs)
    return nowMs + Math.ceil(afterMs)
  }
  if (!isGiven(at)) return null
  const deadline = timeOf(at)
  if (deadline === null) throw invalid('deadline_at', 'a time such as 2027-01-31T00:00:00Z')
  if (deadline > deadlineAtMost) throw invalid('deadline_at', 'a time before the year 10000')
  if (deadline <= nowMs) throw invalid('deadline_at', 'a time to come')
  return deadline
}

function readDeadlineKind(value: unknown): 'soft' | 'hard' | null {
  if (!isGiven(value)) return null
  const kind = deadlineKindFrom(value)
  if (kind === null) throw invalid('deadline', '"soft" or "hard"; deadline_ms and deadline_at say when')
  return kind
}

function readCost(value: unknown): number | null {
  if (!isGiven(value)) return null
  if (typeof value !== 'number' || !(value > 0) || !Number.isFinite(value)) throw wrong('max_cost_usd', 'dollars above 0', value)
  return value
}

function readRoute(value: unknown): Route | null {
  if (!isGiven(value)) return null
  const route = routeFrom(value)
  if (route === null) throw invalid('route', `one of ${routes.join(', ')}`)
  return route
}

function readAttempts(value: unknown): number {
  if (!isGiven(value)) return defaultAttempts
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 1 || value > attemptsAtMost)
    throw wrong('max_attempts', `an integer from 1 to ${attemptsAtMost}`, value)
  return value
}

function readStream(given: Facts, kind: JobKind): boolean | null {
  const stream = optionalBoolean(given, 'stream')
  if (stream === true && !kindFacts[kind].canStream) throw invalid('stream', `nothing or false: the answer of ${kind} comes as a whole`)
  return stream
}

function readWebhook(given: Facts): string | null {
  const webhook = optionalRecord(given, 'webhook')
  if (webhook === null) return null
  const { url } = webhook
  if (!isGiven(url)) throw missing('webhook.url', 'where the job is announced when it is over')
  if (typeof url !== 'string' || url === '' || url.length > urlCharactersAtMost || !isStorable(url) || !URL.canParse(url))
    throw invalid('webhook.url', `a URL of at most ${urlCharactersAtMost} characters`)
  return url
}

function readMetadata(value: unknown): Readonly<Record<string, string>> | null {
  if (!isGiven(value)) return null
  if (!isRecord(value)) throw wrong('metadata', 'an object', value)
  const entries = Object.entries(value)
  if (entries.length > metadataKeysAtMost) throw invalid('metadata', `at most ${metadataKeysAtMost} keys`)
  for (const [key, text] of entries) {
    if (key === '' || key.length > metadataKeyCharactersAtMost || !isStorable(key))
      throw invalid('metadata', `keys of 1 to ${metadataKeyCharactersAtMost} characters`)
    if (typeof text !== 'string') throw wrong(`metadata.${key}`, 'a string', text)
    if (text.length > metadataCharactersAtMost || !isStorable(text))
      throw invalid(`metadata.${key}`, `a text of at most ${metadataCharactersAtMost} characters`)
  }
  return value as Readonly<Record<string, string>>
}

/** PostgreSQL keeps neither a NUL nor half a character. */
function isStorable(text: string): boolean {
  return !text.includes('\0') && text.isWellFormed()
}

function readSource(value: unknown): string | null {
  if (!isGiven(value)) return null
  if (typeof value !== 'string' || !/^[\w.@:+-]{1,128}$/.test(value))
    throw invalid('source', 'a name of 1 to 128 letters, digits or . _ - @ : +')
  return value
}
