// The payload of a job as our request: read by the readers of the interactive endpoints, so that what those refuse is refused here.

import { GatewayError } from '../../routing/errors.ts'
import type { ModelRequest } from '../../routing/types.ts'
import { type ReadBody, readBody } from '../body.ts'
import { type Knobs, readModel } from '../dialects/model.ts'
import { readEmbed, textField } from '../dialects/ollama-embed.ts'
import { generateFields, readGenerate } from '../dialects/ollama-generate.ts'
import { readChatRequest } from '../dialects/openai-chat.ts'
import { readEmbeddingRequest } from '../dialects/openai-embeddings.ts'
import { invalid, isGiven, missing, optionalBoolean, optionalRecord, wrong } from '../fields.ts'
import type { KindFacts } from './kinds.ts'

export interface Payload {
  /** Null where no model is asked. */
  readonly request: ModelRequest | null
  readonly echo: Buffer | null
  /** The tokens are to be kept. */
  readonly stream: boolean
  /** What the payload says of the person behind a key. */
  readonly user: unknown
  /** The field of the job that a field of the request comes from. */
  readonly fieldOf: (param: string) => string
}

export interface PayloadAround {
  /** What the job says beside its payload; undefined or null = nothing. */
  readonly model: unknown
  readonly stream: boolean | null
  readonly knobs: Knobs
}

// An echo is kept as its own result.
const echoBytesAtMost = 1024 * 1024

/** Throws GatewayError, about `payload.<field>` where a field of the payload is at fault. */
export async function readPayload(facts: KindFacts, bytes: Buffer, around: PayloadAround): Promise<Payload> {
  if (facts.payload === 'any') return readEcho(bytes)
  const given = readBody(bytes)
  const isOutside = isGiven(around.model)
  const names: Readonly<Record<string, string>> =
    facts.payload === 'ollama.generate' ? generateFields : facts.payload === 'ollama.embed' ? { input: textField(given.facts) } : {}
  const fieldOf = (param: string): string => {
    // `messages[0].content` is about `messages`.
    const [root = ''] = /^[^.[]*/.exec(param) ?? []
    return param === 'model' && isOutside ? param : `payload.${names[root] ?? param}`
  }
  try {
    const body = named(given, around.model)
    const { user } = given.json()
    if (facts.payload === 'chat') return { ...readChat(body, around), echo: null, user, fieldOf }
    const request = await readers[facts.payload](body, around.knobs)
    return { request, echo: null, stream: false, user, fieldOf }
  } catch (thrown) {
    throw thrown instanceof GatewayError && thrown.param !== null ? thrown.about(fieldOf(thrown.param)) : thrown
  }
}

const readers: Readonly<Record<Exclude<KindFacts['payload'], 'any' | 'chat'>, (body: ReadBody, knobs: Knobs) => Promise<ModelRequest>>> = {
  embeddings: (body, knobs) => readEmbeddingRequest(body.bytes, knobs),
  'ollama.generate': (body, knobs) => readGenerate(body.json(), knobs),
  'ollama.embed': (body, knobs) => readEmbed(body.json(), knobs)
}

function readEcho(bytes: Buffer): Payload {
  const { bytes: echo } = readBody(bytes)
  if (echo.length > echoBytesAtMost) {
    throw new GatewayError('payload_too_large', `The payload of an echo has ${echo.length} bytes; at most ${echoBytesAtMost} are kept.`, {
      param: 'payload'
    })
  }
  return { request: null, echo, stream: false, user: null, fieldOf: param => param }
}

/** With the model in it, where it stands outside. */
function named(body: ReadBody, outside: unknown): ReadBody {
  const isInside = isGiven(body.facts.model)
  if (!isGiven(outside)) {
    if (isInside) return body
    throw missing('model', 'the name of a model, in the payload or beside it; GET /v1/models lists them')
  }
  if (typeof outside !== 'string') throw wrong('model', 'a string of 1 to 256 characters', outside)
  if (!isInside) return readBody(body.with({ model: outside }))
  if (readModel(body) !== outside) throw invalid('model', 'the same name as in the payload, or only one of the two')
  return body
}

/** The bytes ask for a stream only where the tokens are to be kept; then the figures come with them. */
function readChat(body: ReadBody, { stream: wish, knobs }: PayloadAround): { readonly request: ModelRequest; readonly stream: boolean } {
  const inside = optionalBoolean(body.facts, 'stream') ?? false
  const stream = wish ?? inside
  const options = optionalRecord(body.facts, 'stream_options')
  const changes = stream
    ? { stream: true, stream_options: { ...options, include_usage: true } }
    : inside
      ? { stream: false, stream_options: undefined }
      : {}
  return { request: readChatRequest(body.with(changes), knobs).request, stream }
}
