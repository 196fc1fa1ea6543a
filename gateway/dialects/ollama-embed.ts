// The body of Ollama's /api/embed, or of the older /api/embeddings, as our request, and our answer in the form of both.

import type { ModelRequest } from '../../routing/types.ts'
import { isGiven, isRecord } from '../fields.ts'
import type { Knobs } from './model.ts'
import { readEmbeddingRequest } from './openai-embeddings.ts'

type Json = Readonly<Record<string, unknown>>

/** The field that holds the text: `prompt` is the older name. */
export function textField(payload: Json): 'input' | 'prompt' {
  return isGiven(payload.prompt) && !isGiven(payload.input) ? 'prompt' : 'input'
}

/** Throws GatewayError `invalid_request`, with `input` for the text, whatever its name was. */
export function readEmbed(payload: Json, knobs: Knobs): Promise<ModelRequest> {
  const body = {
    model: payload.model,
    input: payload[textField(payload)],
    ...(isGiven(payload.dimensions) ? { dimensions: payload.dimensions } : {})
  }
  return readEmbeddingRequest(Buffer.from(JSON.stringify(body)), knobs)
}

/** Of an answer in OpenAI's form; `embedding` is the first vector, which is all that the older form has. */
export function embeddedObject(answer: Json, totalNs: number | null): Json {
  const data: readonly unknown[] = Array.isArray(answer.data) ? answer.data : []
  const embeddings = data.map(entry => (isRecord(entry) ? entry.embedding : null))
  const usage = isRecord(answer.usage) ? answer.usage : {}
  return {
    model: answer.model,
    embedding: embeddings[0] ?? [],
    embeddings,
    ...(totalNs === null ? {} : { total_duration: totalNs }),
    prompt_eval_count: usage.prompt_tokens ?? 0
  }
}
