// POST /v1/embeddings as our request: texts become vectors. OpenAI's form is ours, so the way back is the identity.

import type { ModelRequest } from '../../routing/types.ts'
import { readBody } from '../body.ts'
import { positiveInteger, wrong } from '../fields.ts'
import { type Knobs, readModel } from './model.ts'
import { choiceOf } from './provider-fields.ts'
import { readTextInput } from './text-input.ts'

// OpenAI's own bound on one request.
const textsAtMost = 2_048

/** Throws GatewayError `invalid_request` naming the field that is wrong. What we do not know travels on untouched. */
export async function readEmbeddingRequest(bytes: Buffer, knobs: Knobs): Promise<ModelRequest> {
  const body = readBody(bytes)
  const model = readModel(body)
  const { facts } = body
  const { input, prompt, longest } = await readTextInput(body.json().input, { name: 'input', textsAtMost, mayBeEmpty: false })
  const encoding = facts.encoding_format ?? 'float'
  if (encoding !== 'float' && encoding !== 'base64') throw wrong('encoding_format', '"float" or "base64"', encoding)
  return {
    id: knobs.requestId,
    operation: 'embed',
    body: body.kept,
    model,
    stream: false,
    includeUsage: false,
    streamOptions: null,
    maxOutputTokens: null,
    needs: [],
    choices: 1,
    prompt,
    longest,
    input,
    embedding: { dimensions: positiveInteger(facts, 'dimensions'), encoding },
    localOnly: knobs.localOnly,
    ...choiceOf(body, knobs, { mayFall: false })
  }
}
