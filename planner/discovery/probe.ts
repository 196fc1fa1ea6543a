// Asks one address and port what it is: Ollama, another server with OpenAI's list of models, or nothing for us.

import { isIPv6 } from 'node:net'
import { createOutbound } from '../../outbound/client.ts'
import { type Answer, ask, ProbeError, type Reason } from './ask.ts'
import { type AddressGuard, canonicalAddress } from './guard.ts'
import { isObject, type Json, listOf, objectOf, parseJson } from './values.ts'

export type { Reason } from './ask.ts'

export interface ProbedServer {
  readonly kind: 'ollama' | 'openai'
  /** The base URL of a machine in the configuration: with `/v1` for `openai`. */
  readonly url: string
  /** Ollama's own; null for others. */
  readonly version: string | null
  /** Different models it computes itself. */
  readonly modelCount: number
  /** Names of the first 500. */
  readonly models: readonly string[]
  /** Of them, those in memory now; empty for `openai`, which does not tell. */
  readonly loaded: readonly string[]
}

export interface ProbedNothing {
  readonly kind: 'nothing'
  readonly reason: Reason
  /** One sentence for people, without anything the machine sent. */
  readonly detail: string
}

/** Rejects only when it is called off, with the reason of the signal. */
export type Probe = (address: string, port: number, signal?: AbortSignal) => Promise<ProbedServer | ProbedNothing>

export interface ProbeLimits {
  readonly connectMs?: number
  /** For all questions together, and the second try. */
  readonly totalMs?: number
}

type Ask = (path: string, maxBytes: number) => Promise<Answer>

const namesAtMost = 500
const kibibyte = 1024
// 1 MiB is some 1,700 models; whoever has more is no machine of a household.
const capBytes = { version: 16 * kibibyte, list: 1024 * kibibyte, loaded: 128 * kibibyte }
// A list of 1,700 models has some 45,000. A byte limit alone would let 1 MiB of "[" become 50 MB of objects.
const elementsAtMost = 100_000

/** Every address goes through the guard right before it is contacted. */
export function createProbe(guard: AddressGuard, { connectMs = 1_000, totalMs = 2_500 }: ProbeLimits = {}): Probe {
  return async function probe(given, port, signal) {
    signal?.throwIfAborted()
    const address = canonicalAddress(given)
    if (address === null || !isPort(port) || !guard.allows(address, port)) {
      return { kind: 'nothing', reason: 'outside', detail: 'It is outside of the ranges that discovery may contact.' }
    }
    const origin = originOf(address, port)
    const until = performance.now() + totalMs
    try {
      return await converse(origin, until, signal).catch(error => {
        // A path through the tailnet may be set up by the very packet that is lost.
        if (error instanceof ProbeError && error.unconnected) return converse(origin, until, signal)
        throw error
      })
    } catch (error) {
      signal?.throwIfAborted()
      if (error instanceof ProbeError) return { kind: 'nothing', reason: error.reason, detail: error.message }
      return { kind: 'nothing', reason: 'not_a_model_server', detail: 'What answers cannot be understood.' }
    }
  }

  /** With connections of its own, which end with it. */
  async function converse(origin: string, until: number, signal: AbortSignal | undefined): Promise<ProbedServer> {
    const outbound = createOutbound()
    try {
      return await identify(origin, (path, maxBytes) => {
        const timeoutMs = Math.max(1, until - performance.now())
        return ask(outbound, { origin, path, maxBytes, connectMs, timeoutMs, ...(signal && { signal }) })
      })
    } finally {
      await outbound.close()
    }
  }
}

/** `http://address:port`, IPv6 in brackets. */
export function originOf(address: string, port: number): string {
  return `http://${isIPv6(address) ? `[${address}]` : address}:${port}`
}

function isPort(port: number): boolean {
  return Number.isInteger(port) && port >= 1 && port <= 65_535
}

async function identify(origin: string, ask: Ask): Promise<ProbedServer> {
  const version = versionOf(await ask('/api/version', capBytes.version))
  if (version === null) return { kind: 'openai', url: `${origin}/v1`, version: null, ...(await compatibleModels(ask)), loaded: [] }
  const [tags, loaded] = await Promise.all([ask('/api/tags', capBytes.list), loadedModels(ask)])
  return { kind: 'ollama', url: origin, version, ...ollamaModels(tags), loaded }
}

/** Null when it is not Ollama. Other servers answer any path with a page, or an error that has status 200. */
function versionOf(answer: Answer): string | null {
  if (answer.status === 403 && !answer.isPage && answer.bytes.length === 0) {
    throw new ProbeError('host_check', 'It refuses to be asked by this address, as Ollama does without OLLAMA_HOST=0.0.0.0 on its machine.')
  }
  if (answer.status !== 200 || answer.isPage) return null
  const version = objectOf(jsonOf(answer))['version']
  if (version === undefined) return null
  if (typeof version !== 'string' || !/^[\w.+-]{1,64}$/.test(version)) throw new ProbeError('hostile', 'Its version is none.')
  return version
}

function ollamaModels(answer: Answer): Pick<ProbedServer, 'modelCount' | 'models'> {
  if (answer.status !== 200 || answer.isPage) {
    throw new ProbeError('not_a_model_server', `It has a version like Ollama, but no list of models (status ${answer.status}).`)
  }
  const { models } = objectOf(jsonOf(answer))
  if (models !== null && !Array.isArray(models)) throw new ProbeError('not_a_model_server', 'What should be a list of models is none.')
  const entries = listOf(models).filter(isObject)
  for (const { size, details } of entries) {
    const { context_length: context, embedding_length: embedding } = objectOf(details)
    refuseNonsense([size, context, embedding])
  }
  return counted(entries.filter(entry => !isComputedElsewhere(entry)).map(({ name }) => name))
}

/** Good to know, but an old Ollama has its models without it. */
async function loadedModels(ask: Ask): Promise<readonly string[]> {
  const answer = await ask('/api/ps', capBytes.loaded)
  if (answer.status !== 200 || answer.isPage) return []
  const entries = listOf(objectOf(jsonOf(answer))['models']).filter(isObject)
  for (const { size, size_vram: vram, context_length: context } of entries) refuseNonsense([size, vram, context])
  return counted(entries.map(({ name }) => name)).models
}

async function compatibleModels(ask: Ask): Promise<Pick<ProbedServer, 'modelCount' | 'models'>> {
  const answer = await ask('/v1/models', capBytes.list)
  if (answer.status === 401 || answer.status === 403) {
    throw new ProbeError('not_a_model_server', `It shows its models only with a key (status ${answer.status}).`)
  }
  if (answer.status !== 200 || answer.isPage) {
    throw new ProbeError('not_a_model_server', `It has no list of models (status ${answer.status}${answer.isPage ? ', a web page' : ''}).`)
  }
  const { data } = objectOf(jsonOf(answer))
  if (!Array.isArray(data)) throw new ProbeError('not_a_model_server', 'What should be a list of models is none.')
  const entries = data.filter(isObject)
  for (const { created, max_model_len: context } of entries) refuseNonsense([created, context])
  return counted(entries.map(({ id }) => id))
}

/** Names will be seen in URLs, headers and logs: printable ASCII, as the inventory takes them. */
function counted(names: readonly unknown[]): { modelCount: number; models: readonly string[] } {
  const models = new Set(names.filter(name => typeof name === 'string' && /^[\x21-\x7e]{1,256}$/.test(name)) as string[])
  return { modelCount: models.size, models: [...models].slice(0, namesAtMost) }
}

/** Stubs of models that ollama.com computes. */
function isComputedElsewhere({ name, remote_model: model, remote_host: host }: Json): boolean {
  return (typeof name === 'string' && /:(.*-)?cloud$/.test(name)) || [model, host].some(value => typeof value === 'string' && value !== '')
}

function refuseNonsense(counts: readonly unknown[]): void {
  if (counts.some(count => typeof count === 'number' && !(count >= 0 && count <= Number.MAX_SAFE_INTEGER))) {
    throw new ProbeError('hostile', 'Its list of models has numbers that cannot be.')
  }
}

function jsonOf({ bytes }: Answer): unknown {
  if (elementsOf(bytes) > elementsAtMost) throw new ProbeError('hostile', `Its answer has more than ${elementsAtMost} elements.`)
  if (bytes[0] === 0x3c) throw new ProbeError('hostile', 'It sends a web page and does not call it one.')
  return parseJson(bytes.toString('utf8'))
}

/** At least as many as there are: those within strings are counted too. */
function elementsOf(bytes: Buffer): number {
  let elements = 0
  for (const code of bytes) if (code === 0x2c || code === 0x5b || code === 0x7b) elements++
  return elements
}
