// OpenAI, and every server that speaks its API: vLLM, llama.cpp, LM Studio, Groq, ...

import type { Outbound } from '../outbound/client.ts'
import { GatewayError } from '../routing/errors.ts'
import type { Adapter, Feature, ModelListing, Operation, Unread, Upstream } from '../routing/types.ts'
import { compatibleCall } from './shared/compatible.ts'
import { type Dialect, droppedOptions } from './shared/dialect.ts'
import { compatibleEmbed } from './shared/embeddings.ts'
import { isRecord } from './shared/http-errors.ts'
import { fetchModels, isModelName, numberOrNull, withoutDoubles } from './shared/model-list.ts'

const features: ReadonlySet<Feature> = new Set<Feature>([
  'audio',
  'best_of',
  'echo_prompt',
  'file',
  'forced_tool_choice',
  'functions',
  'json_object',
  'json_schema',
  'logprobs',
  'n',
  'prompts',
  'reasoning',
  'suffix',
  'tools',
  'vision'
])

// Models of OpenAI's list that have no chat endpoint; the list itself does not say.
const notChat = /embed|whisper|tts|dall-e|moderation|transcribe|gpt-image|realtime|sora|babbage|davinci|rerank|codex-mini|computer-use/i

export function createAdapter(ports: { readonly outbound: Outbound }): Adapter {
  const dialect: Dialect = {
    outbound: ports.outbound,
    headers: upstream => ({
      ...upstream.headers,
      ...(upstream.apiKey === null ? {} : { authorization: `Bearer ${upstream.apiKey}` }),
      'content-type': 'application/json'
    }),
    readsTokens: ({ upstream }) => upstream.registryId === 'openai',
    chargedNanoUsd: () => null
  }
  return {
    name: 'openai',
    features,
    chat: (attempt, observer) => compatibleCall(dialect, attempt, observer),
    complete: (attempt, observer) => compatibleCall(dialect, attempt, observer),
    embed: (attempt, observer) => compatibleEmbed(dialect, attempt, observer),
    dropped: droppedOptions,
    listModels: (upstream, signal, onUnread = () => {}) => listModels(ports.outbound, upstream, { signal, onUnread })
  }
}

// Families of embedding models whose names do not say so.
const knownEmbedders = /(^|[/_-])(bge|e5|gte|gtr|minilm|mpnet|sfr|stella|arctic|jina|nomic)([/_-]|$)/i

/** The list does not say what a model is for; its name does, at least at OpenAI, where no model can do both. */
function operationsOf(id: string, isOpenAi: boolean): Operation[] {
  if (/embed/i.test(id) || (!isOpenAi && knownEmbedders.test(id))) return ['embed']
  if (isOpenAi) return /instruct|babbage|davinci/i.test(id) ? ['complete'] : notChat.test(id) ? [] : ['chat']
  if (/instruct|babbage|davinci/i.test(id)) return notChat.test(id) ? ['complete'] : ['chat', 'complete']
  // Elsewhere a name says little: what it cannot do, the server will say.
  return notChat.test(id) ? [] : ['chat', 'complete', 'embed']
}

async function listModels(
  outbound: Outbound,
  upstream: Upstream,
  ask: { readonly signal: AbortSignal; readonly onUnread: (what: Unread) => void }
): Promise<ModelListing[]> {
  const entries = await fetchModels(outbound, upstream, ask)
  const listed = entries.flatMap(entry => {
    const id = isRecord(entry) ? entry.id : null
    return isRecord(entry) && isModelName(id) ? [listing(id, entry, upstream.registryId === 'openai')] : []
  })
  if (listed.length === 0) throw new GatewayError('upstream_unavailable', `${upstream.id} lists no models.`)
  return withoutDoubles(listed)
}

function listing(id: string, entry: Record<string, unknown>, isOpenAi: boolean): ModelListing {
  const meta = isRecord(entry.meta) ? entry.meta : {}
  return {
    model: id,
    createdAt: numberOrNull(entry.created),
    // vLLM, Groq, Mistral and LM Studio, llama.cpp: each has its own name for it.
    maxContextTokens:
      numberOrNull(entry.max_model_len) ??
      numberOrNull(entry.context_window) ??
      numberOrNull(entry.max_context_length) ??
      numberOrNull(meta.n_ctx) ??
      numberOrNull(meta.n_ctx_train),
    maxOutputTokens: numberOrNull(entry.max_completion_tokens),
    features: null,
    operations: operationsOf(id, isOpenAi),
    loaded: true,
    price: null,
    memory: null,
    digest: null
  }
}
