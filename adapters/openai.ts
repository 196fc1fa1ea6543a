// OpenAI, and every server that speaks its chat API: vLLM, llama.cpp, LM Studio, Groq, ...

import type { Outbound } from '../outbound/client.ts'
import { GatewayError } from '../routing/errors.ts'
import type { Adapter, Feature, ModelListing, Upstream } from '../routing/types.ts'
import { compatibleBody, compatibleChat, type Dialect } from './shared/compatible.ts'
import { isRecord } from './shared/http-errors.ts'
import { fetchModels, isModelName, numberOrNull } from './shared/model-list.ts'

const features: ReadonlySet<Feature> = new Set<Feature>([
  'audio',
  'file',
  'forced_tool_choice',
  'json_object',
  'json_schema',
  'logprobs',
  'n',
  'reasoning',
  'tools',
  'vision'
])

// Models of OpenAI's list that have no chat endpoint; the list itself does not say.
const notChat = /embed|whisper|tts|dall-e|moderation|transcribe|gpt-image|realtime|sora|babbage|davinci|rerank|codex-mini|computer-use/i

export function createAdapter(ports: { readonly outbound: Outbound }): Adapter {
  const dialect: Dialect = {
    outbound: ports.outbound,
    headers: (upstream, attempt) => ({
      ...upstream.headers,
      ...(upstream.apiKey === null ? {} : { authorization: `Bearer ${upstream.apiKey}` }),
      'content-type': 'application/json',
      'x-client-request-id': attempt.id
    }),
    body: compatibleBody,
    chargedNanoUsd: () => null
  }
  return {
    name: 'openai',
    features,
    chat: (attempt, observer) => compatibleChat(dialect, attempt, observer),
    listModels: (upstream, signal) => listModels(ports.outbound, upstream, signal)
  }
}

async function listModels(outbound: Outbound, upstream: Upstream, signal: AbortSignal): Promise<ModelListing[]> {
  const entries = await fetchModels(outbound, upstream, signal)
  const listed = entries.flatMap(entry => {
    const id = isRecord(entry) ? entry.id : null
    return isRecord(entry) && isModelName(id) ? [listing(id, entry)] : []
  })
  if (listed.length === 0) throw new GatewayError('upstream_unavailable', `${upstream.id} lists no models.`)
  return listed
}

function listing(id: string, entry: Record<string, unknown>): ModelListing {
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
    chat: !notChat.test(id),
    loaded: true,
    price: null,
    memory: null,
    digest: null
  }
}
