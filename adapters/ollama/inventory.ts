// What a machine has: its models, what they can do, and what of them is in memory now.

import type { Outbound } from '../../outbound/client.ts'
import { withoutSecrets } from '../../outbound/said.ts'
import { GatewayError } from '../../routing/errors.ts'
import type { Feature, ModelBuild, ModelListing, ModelMemory, Operation, Upstream } from '../../routing/types.ts'
import { elementsAtMost, hasTooManyElements } from '../shared/elements.ts'
import { failureOfStatus } from './failures.ts'
import { toOutbound } from './origin.ts'
import { count, isObject, type Json } from './values.ts'

const atOnce = 8
const mostModels = 500
const mostShows = 2000
const answerMs = 5000
// A machine that lists 500 models and then falls silent would cost 63 times 5 s.
const showsMs = 30_000
const kibibyte = 1024
const capBytes = { tags: 4096 * kibibyte, ps: 256 * kibibyte, show: 1024 * kibibyte }

type Ask = (path: string, body: Json | null, maxBytes: number) => Promise<Json>

/** Of an entry of /api/tags, only what is used, checked. */
interface Entry {
  readonly name: string
  readonly digest: string | null
  readonly createdAt: number | null
  readonly bytes: number | null
  readonly families: readonly string[]
  readonly contextTokens: number | null
  readonly build: ModelBuild
}

/** The same of /api/show. */
interface Show {
  readonly capabilities: readonly string[] | null
  readonly families: readonly string[]
  readonly contextTokens: number | null
  readonly kvBytesPerToken: number | null
  readonly isRemote: boolean
}

/** An adapter's `listModels`. What /api/show says is kept by machine and digest, for the 2000 models used last. */
export function createInventory(outbound: Outbound): (upstream: Upstream, signal: AbortSignal) => Promise<ModelListing[]> {
  const shows = new Map<string, Show>()

  return async function listModels(upstream, signal) {
    const ask = createAsk(outbound, upstream, signal)
    const [tags, ps] = await Promise.all([
      ask('/api/tags', null, capBytes.tags),
      // Good to know, but a machine without it still has its models.
      ask('/api/ps', null, capBytes.ps).catch((): Json => ({}))
    ])
    if (tags.models !== null && !Array.isArray(tags.models)) {
      throw new GatewayError('upstream_unavailable', `Ollama (${upstream.id}) answered /api/tags without a list of models.`)
    }
    const entries = entriesOf(tags.models)
    const loaded = new Map(
      objectsOf(ps.models).flatMap(entry => [
        [entry.model, entry],
        [entry.name, entry]
      ])
    )
    const until = performance.now() + showsMs
    const details = await inLanes(entries, entry => showOf(ask, upstream.id, entry, until))
    if (signal.aborted) throw calledOff(upstream, signal)
    return entries.flatMap((entry, index) => {
      const show = details[index] ?? null
      return show?.isRemote === true ? [] : [toListing(entry, show, loaded.get(entry.name) ?? null)]
    })
  }

  /** Null when the machine does not tell: a list does not fail by one model. */
  async function showOf(ask: Ask, upstreamId: string, entry: Entry, until: number): Promise<Show | null> {
    // By machine too, or one that lies about a digest would speak for the others.
    const key = entry.digest === null ? null : `${upstreamId} ${entry.digest}`
    const known = key === null ? undefined : shows.get(key)
    if (key !== null && known !== undefined) {
      shows.delete(key)
      shows.set(key, known)
      return known
    }
    if (performance.now() > until) return null
    const answer = await ask('/api/show', { model: entry.name }, capBytes.show).catch(() => null)
    if (answer === null) return null
    const show = toShow(answer)
    // Without capabilities it is an old version, which may be renewed under the same models.
    if (key !== null && show.capabilities !== null) {
      shows.set(key, show)
      for (const oldest of shows.keys()) {
        if (shows.size <= mostShows) break
        shows.delete(oldest)
      }
    }
    return show
  }
}

/** Throws GatewayError for anything but a 200 with a JSON object. */
function createAsk(outbound: Outbound, upstream: Upstream, signal: AbortSignal): Ask {
  return async (path, body, maxBytes) => {
    const where = `Ollama (${upstream.id}), asked for ${path},`
    if (signal.aborted) throw calledOff(upstream, signal)
    const request = toOutbound(upstream, path, body)
    const answer = await outbound.fetchText(request, { maxBytes, timeoutMs: answerMs, signal }).catch((cause: unknown) => {
      if (signal.aborted) throw calledOff(upstream, signal)
      throw new GatewayError('upstream_unavailable', `${where} gave no answer (${reasonOf(cause)}).`, { cause })
    })
    if (answer.status !== 200) {
      const failure = failureOfStatus(where, answer.status, answer.headers, withoutSecrets(answer.text, upstream))
      // What is wrong with a list is never the request: a 404 is some other server.
      throw failure.nextTarget && failure.breaker !== 'not_here' ? failure : new GatewayError('upstream_unavailable', failure.message)
    }
    if (hasTooManyElements(answer.text)) {
      throw new GatewayError('upstream_unavailable', `${where} answered with more than ${elementsAtMost} elements.`)
    }
    const parsed = parse(answer.text)
    if (!isObject(parsed)) throw new GatewayError('upstream_unavailable', `${where} answered with what is not a JSON object.`)
    return parsed
  }
}

function entriesOf(models: unknown): readonly Entry[] {
  const entries = new Map<string, Entry>()
  for (const model of objectsOf(models)) {
    if (entries.size >= mostModels) break
    const { name } = model
    // Ollama's names are ASCII; this one will be seen in URLs, headers and logs.
    if (typeof name !== 'string' || !/^[\x21-\x7e]{1,256}$/.test(name) || entries.has(name) || isCloud(name, model)) continue
    const details = isObject(model.details) ? model.details : {}
    entries.set(name, {
      name,
      digest: typeof model.digest === 'string' && /^[\w:.-]{1,128}$/.test(model.digest) ? model.digest : null,
      createdAt: secondsOf(model.modified_at),
      bytes: positive(model.size),
      families: familiesOf(details),
      contextTokens: positive(details.context_length),
      build: buildOf(details)
    })
  }
  return [...entries.values()]
}

/** Stubs of models that ollama.com computes: neither ours nor private. */
function isCloud(name: string, model: Json): boolean {
  return /:(.*-)?cloud$/.test(name) || isRemote(model)
}

function isRemote(model: Json): boolean {
  return [model.remote_model, model.remote_host].some(value => value !== undefined && value !== null && value !== '')
}

function toShow(answer: Json): Show {
  const info = isObject(answer.model_info) ? answer.model_info : {}
  const architecture = info['general.architecture']
  const key = typeof architecture === 'string' ? architecture : ''
  return {
    capabilities: Array.isArray(answer.capabilities)
      ? ['completion', 'embedding', ...featureByCapability.keys()].filter(capability =>
          (answer.capabilities as unknown[]).includes(capability)
        )
      : null,
    families: familiesOf(isObject(answer.details) ? answer.details : {}),
    contextTokens: positive(info[`${key}.context_length`]),
    kvBytesPerToken: kvBytesOf(info, key),
    isRemote: isRemote(answer)
  }
}

/** Ollama says which models make embeddings since it knows capabilities; before, a BERT was one and any other could be asked. */
function operationsOf(capabilities: readonly string[] | null, chat: boolean): Operation[] {
  const generates: Operation[] = chat ? ['chat', 'complete'] : []
  return capabilities === null || capabilities.includes('embedding') ? [...generates, 'embed'] : generates
}

const featureByCapability = new Map<string, Feature>([
  ['insert', 'suffix'],
  ['tools', 'tools'],
  ['vision', 'vision'],
  ['thinking', 'reasoning']
])
// Ollama constrains and scores the output of every model that generates.
const alwaysFeatures: readonly Feature[] = ['json_object', 'json_schema', 'logprobs']

function toListing(entry: Entry, show: Show | null, loaded: Json | null): ModelListing {
  const capabilities = show?.capabilities ?? null
  const families = [...entry.families, ...(show?.families ?? [])]
  const chat = capabilities === null ? !families.some(family => /bert/i.test(family)) : capabilities.includes('completion')
  return {
    model: entry.name,
    createdAt: entry.createdAt,
    maxContextTokens: show?.contextTokens ?? entry.contextTokens,
    maxOutputTokens: null,
    features:
      capabilities === null ? null : chat ? [...alwaysFeatures, ...capabilities.flatMap(name => featureByCapability.get(name) ?? [])] : [],
    operations: operationsOf(capabilities, chat),
    loaded: loaded !== null,
    price: null,
    memory: memoryOf(entry, show, loaded),
    digest: entry.digest,
    build: entry.build
  }
}

function memoryOf(entry: Entry, show: Show | null, loaded: Json | null): ModelMemory | null {
  if (entry.bytes === null) return null
  return {
    weightBytes: entry.bytes,
    kvBytesPerToken: show?.kvBytesPerToken ?? null,
    loadedContextTokens: positive(loaded?.context_length),
    loadedBytes: count(loaded?.size),
    loadedVramBytes: count(loaded?.size_vram)
  }
}

/** Keys and values, two bytes each, for every layer's heads: 2 * layers * heads * head size * 2. GGUF names. */
function kvBytesOf(info: Json, architecture: string): number | null {
  const of = (name: string): unknown => info[`${architecture}.${name}`]
  const layers = positive(of('block_count'))
  const heads = positive(of('attention.head_count'))
  const width = positive(of('embedding_length'))
  const headSize = positive(of('attention.key_length')) ?? (width === null || heads === null ? null : width / heads)
  const cached = cachedHeads(of('attention.head_count_kv'), layers, heads)
  if (headSize === null || cached === null) return null
  return positive(Math.ceil(2 * cached * headSize * 2))
}

/** Over all layers. GGUF: without a count of its own a model caches all heads; a list has one count per layer. */
function cachedHeads(heads: unknown, layers: number | null, allHeads: number | null): number | null {
  if (Array.isArray(heads))
    return heads.reduce<number | null>((sum, one) => (sum === null || count(one) === null ? null : sum + Number(one)), 0)
  // A long list is sent as null, which says nothing.
  const perLayer = heads === undefined ? allHeads : positive(heads)
  return perLayer === null || layers === null ? null : perLayer * layers
}

function buildOf(details: Json): ModelBuild {
  const { family, parameter_size: size, quantization_level: quantization } = details
  const [, figure, unit] = typeof size === 'string' ? (/^(\d{1,6}(?:\.\d{1,3})?)([KMBT])$/.exec(size) ?? []) : []
  const scale: Readonly<Record<string, number>> = { K: 1e-6, M: 1e-3, B: 1, T: 1e3 }
  return {
    family: typeof family === 'string' && /^[\w.-]{1,64}$/.test(family) ? family : null,
    paramsB: figure === undefined || unit === undefined ? null : Number((Number(figure) * (scale[unit] as number)).toPrecision(6)),
    quantization: typeof quantization === 'string' && /^\w{1,32}$/.test(quantization) ? quantization : null
  }
}

function familiesOf(details: Json): readonly string[] {
  const families: unknown[] = Array.isArray(details.families) ? details.families.slice(0, 8) : []
  return [details.family, ...families].filter(family => typeof family === 'string' && family.length <= 64) as string[]
}

function objectsOf(values: unknown): readonly Json[] {
  return Array.isArray(values) ? values.filter(isObject) : []
}

function positive(value: unknown): number | null {
  const counted = count(value)
  return counted === 0 ? null : counted
}

function secondsOf(time: unknown): number | null {
  if (typeof time !== 'string' || time.length > 64) return null
  return positive(Math.floor(Date.parse(time) / 1000))
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

function reasonOf(cause: unknown): string {
  if (!(cause instanceof Error)) return 'unknown'
  return 'code' in cause && typeof cause.code === 'string' ? cause.code : cause.message
}

function calledOff(upstream: Upstream, signal: AbortSignal): GatewayError {
  return new GatewayError('upstream_unavailable', `Listing the models of Ollama (${upstream.id}) was called off.`, { cause: signal.reason })
}

/** The results of `visit` in the order of the items, a few at a time. */
async function inLanes<Item, Result>(items: readonly Item[], visit: (item: Item) => Promise<Result>): Promise<Result[]> {
  const results: Result[] = []
  let next = 0
  async function lane(): Promise<void> {
    while (next < items.length) {
      const index = next++
      results[index] = await visit(items[index] as Item)
    }
  }
  await Promise.all(Array.from({ length: Math.min(atOnce, items.length) }, lane))
  return results
}
