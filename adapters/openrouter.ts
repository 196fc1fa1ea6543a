// OpenRouter: a compatible server with its own figures for cost, its own errors, and a public list with prices.

import type { Outbound } from '../outbound/client.ts'
import { toGatewayError } from '../routing/errors.ts'
import type { Adapter, Feature, ModelListing, Operation, TokenPrice, Unread, Upstream } from '../routing/types.ts'
import { compatibleCall } from './shared/compatible.ts'
import { type Dialect, droppedOptions } from './shared/dialect.ts'
import { compatibleEmbed } from './shared/embeddings.ts'
import { isRecord } from './shared/http-errors.ts'
import { fetchModels, isModelName, numberOrNull, withoutDoubles } from './shared/model-list.ts'

// `n` is not among them: OpenRouter drops it in silence.
const features: ReadonlySet<Feature> = new Set<Feature>([
  'audio',
  'file',
  'forced_tool_choice',
  'json_object',
  'json_schema',
  'logprobs',
  'reasoning',
  'tools',
  'vision'
])

// More than any request costs; and from 9 million on, nano-dollars are no whole numbers any more.
const usdAtMost = 1_000_000

// Attribution, shown in OpenRouter's rankings; both names of the title are read.
const attribution = { 'http-referer': 'http://localhost', 'x-title': 'llm-mcp', 'x-openrouter-title': 'llm-mcp' }

export function createAdapter(ports: { readonly outbound: Outbound }): Adapter {
  const dialect: Dialect = {
    outbound: ports.outbound,
    headers: upstream => ({
      ...attribution,
      ...upstream.headers,
      ...(upstream.apiKey === null ? {} : { authorization: `Bearer ${upstream.apiKey}` }),
      'content-type': 'application/json'
    }),
    readsTokens: ({ model }) => model.startsWith('openai/'),
    chargedNanoUsd
  }
  return {
    name: 'openrouter',
    features,
    chat: (attempt, observer) => compatibleCall(dialect, attempt, observer),
    complete: (attempt, observer) => compatibleCall(dialect, attempt, observer),
    embed: (attempt, observer) => compatibleEmbed(dialect, attempt, observer),
    dropped: droppedOptions,
    listModels: (upstream, signal, onUnread = () => {}) => listModels(ports.outbound, upstream, { signal, onUnread })
  }
}

/** `usage.cost` is what was charged in dollars; with a key of one's own, the provider's bill comes on top. */
function chargedNanoUsd(usage: Readonly<Record<string, unknown>>): number | null {
  if (typeof usage.cost !== 'number' || !Number.isFinite(usage.cost) || usage.cost < 0) return null
  const details = isRecord(usage.cost_details) ? usage.cost_details : {}
  const inference = usage.is_byok === true ? (numberOrNull(details.upstream_inference_cost) ?? 0) : 0
  const usd = usage.cost + inference
  return usd > usdAtMost ? null : Math.round(usd * 1e9)
}

/** Embedding models have a list of their own, without which the others are still there. */
async function listModels(
  outbound: Outbound,
  upstream: Upstream,
  ask: { readonly signal: AbortSignal; readonly onUnread: (what: Unread) => void }
): Promise<ModelListing[]> {
  const [models, embedding] = await Promise.all([
    fetchModels(outbound, upstream, ask),
    fetchModels(outbound, upstream, { ...ask, path: '/embeddings/models' }).catch((thrown: unknown) => {
      const { breaker, message } = toGatewayError(thrown)
      // A server that has no such list is no failure.
      const isFailure = breaker !== 'not_here' && breaker !== 'none'
      const reason = isFailure ? `its embedding models could not be read, those known are kept: ${message}` : null
      ask.onUnread({ operation: 'embed', isFailure, reason })
      return []
    })
  ])
  const listings = new Map(withoutDoubles(listingsOf(models, operationsOf)).map(listing => [listing.model, listing]))
  for (const listing of listingsOf(embedding, () => ['embed'])) {
    const known = listings.get(listing.model)
    if (known === undefined) listings.set(listing.model, listing)
    else if (!known.operations.includes('embed')) listings.set(listing.model, { ...known, operations: [...known.operations, 'embed'] })
  }
  return [...listings.values()]
}

function listingsOf(entries: readonly unknown[], operationsOf: (outputs: readonly string[]) => readonly Operation[]): ModelListing[] {
  return entries.flatMap(entry => {
    const id = isRecord(entry) ? entry.id : null
    return isRecord(entry) && isModelName(id) ? [listing(id, entry, operationsOf)] : []
  })
}

function listing(
  id: string,
  entry: Record<string, unknown>,
  operationsOf: (outputs: readonly string[]) => readonly Operation[]
): ModelListing {
  const provider = isRecord(entry.top_provider) ? entry.top_provider : {}
  const architecture = isRecord(entry.architecture) ? entry.architecture : {}
  const inputs = strings(architecture.input_modalities)
  const outputs = strings(architecture.output_modalities)
  // Two context lengths: the smaller one is what is really served.
  const contexts = [numberOrNull(entry.context_length), numberOrNull(provider.context_length)].filter(length => length !== null)
  return {
    model: id,
    createdAt: numberOrNull(entry.created),
    maxContextTokens: contexts.length === 0 ? null : Math.min(...contexts),
    maxOutputTokens: numberOrNull(provider.max_completion_tokens),
    features: featuresOf(strings(entry.supported_parameters), inputs, outputs),
    operations: operationsOf(outputs),
    loaded: true,
    price: priceOf(entry.pricing),
    memory: null,
    digest: null,
    ...buildOf(entry.hugging_face_id)
  }
}

function buildOf(huggingFaceId: unknown): Pick<ModelListing, 'build'> {
  if (typeof huggingFaceId !== 'string' || !/^[\w.-]{1,96}\/[\w.-]{1,128}$/.test(huggingFaceId)) return {}
  return { build: { family: null, paramsB: null, quantization: null, huggingFaceId } }
}

/** An embedding model says so; of everything else, what gives text is asked for text. */
function operationsOf(outputs: readonly string[]): Operation[] {
  if (outputs.includes('embeddings')) return ['embed']
  return outputs.length === 0 || outputs.includes('text') ? ['chat', 'complete'] : []
}

function featuresOf(parameters: readonly string[], inputs: readonly string[], outputs: readonly string[]): Feature[] | null {
  if (parameters.length === 0) return null
  const found: Feature[] = []
  const has = (name: string, feature: Feature): void => {
    if (parameters.includes(name)) found.push(feature)
  }
  has('tools', 'tools')
  has('tool_choice', 'forced_tool_choice')
  has('response_format', 'json_object')
  has('structured_outputs', 'json_schema')
  has('logprobs', 'logprobs')
  has('reasoning', 'reasoning')
  if (inputs.includes('image')) found.push('vision')
  if (inputs.includes('file')) found.push('file')
  if (inputs.includes('audio') || outputs.includes('audio')) found.push('audio')
  return found
}

/** Decimal strings, dollars per token; `-1` means that it depends, which is unknown. */
function priceOf(pricing: unknown): TokenPrice | null {
  if (!isRecord(pricing)) return null
  const input = dollars(pricing.prompt)
  const output = dollars(pricing.completion)
  if (input === null || output === null) return null
  const cached = dollars(pricing.input_cache_read)
  const request = dollars(pricing.request)
  const overrides = Array.isArray(pricing.overrides) ? pricing.overrides : []
  // The last that applies wins, so they go from short prompts to long ones.
  const tiers = overrides.flatMap(tierOf).sort((a, b) => a.abovePromptTokens - b.abovePromptTokens)
  return {
    inputUsdPer1m: perMillion(input),
    outputUsdPer1m: perMillion(output),
    ...(cached === null ? {} : { cachedInputUsdPer1m: perMillion(cached) }),
    ...(request === null ? {} : { requestUsd: request }),
    ...(tiers.length === 0 ? {} : { tiers })
  }
}

function tierOf(override: unknown): NonNullable<TokenPrice['tiers']>[number][] {
  if (!isRecord(override)) return []
  const above = numberOrNull(override.min_prompt_tokens)
  if (above === null) return []
  const input = dollars(override.prompt)
  const output = dollars(override.completion)
  const cached = dollars(override.input_cache_read)
  return [
    {
      abovePromptTokens: above,
      ...(input === null ? {} : { inputUsdPer1m: perMillion(input) }),
      ...(output === null ? {} : { outputUsdPer1m: perMillion(output) }),
      ...(cached === null ? {} : { cachedInputUsdPer1m: perMillion(cached) })
    }
  ]
}

function dollars(value: unknown): number | null {
  const number = typeof value === 'string' && value.trim() !== '' ? Number(value) : typeof value === 'number' ? value : Number.NaN
  return Number.isFinite(number) && number >= 0 ? number : null
}

/** Rounded to what a decimal string can mean: 0.0000004 x 1e6 is 0.4, not 0.39999999999999997. */
function perMillion(usdPerToken: number): number {
  return Number((usdPerToken * 1e6).toPrecision(12))
}

function strings(value: unknown): string[] {
  return Array.isArray(value) ? value.filter(item => typeof item === 'string').slice(0, 100) : []
}
