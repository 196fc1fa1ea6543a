// POST /v1/completions, the legacy one, as our request: a text is continued. OpenAI's form is ours, so the way back is the identity.

import type { Feature, ModelRequest } from '../../routing/types.ts'
import { readBody } from '../body.ts'
import { type Facts, optionalBoolean, optionalRecord, positiveInteger, wrong } from '../fields.ts'
import { type Knobs, readCopies, readModel } from './model.ts'
import { choiceOf, withModel } from './provider-fields.ts'
import { readTextInput } from './text-input.ts'

// OpenAI's own default; whoever wants more says so.
const defaultTokens = 16
const choicesAtMost = 128

/** Throws GatewayError `invalid_request` naming the field that is wrong. What we do not know travels on untouched. */
export async function readCompletionRequest(bytes: Buffer, knobs: Knobs): Promise<ModelRequest> {
  const body = withModel(readBody(bytes))
  const { facts } = body
  const model = readModel(body)
  const stream = optionalBoolean(facts, 'stream') ?? false
  const streamOptions = optionalRecord(facts, 'stream_options')
  const { input, prompt, longest } = await readTextInput(body.json().prompt, {
    name: 'prompt',
    textsAtMost: choicesAtMost,
    mayBeEmpty: true
  })
  const copies = readCopies(facts)
  if (copies * input.texts.length > choicesAtMost) throw wrong('n', `at most ${choicesAtMost} choices in all`, copies * input.texts.length)
  const maxOutputTokens = positiveInteger(facts, 'max_tokens') ?? defaultTokens
  return {
    id: knobs.requestId,
    operation: 'complete',
    body: body.kept,
    model,
    stream,
    includeUsage: stream && streamOptions?.include_usage === true,
    streamOptions,
    maxOutputTokens,
    needs: needsOf(facts, { copies, prompts: input.texts.length }),
    choices: copies * input.texts.length,
    prompt,
    longest,
    input,
    embedding: null,
    localOnly: knobs.localOnly,
    ...choiceOf(body, knobs)
  }
}

function needsOf(facts: Facts, { copies, prompts }: { copies: number; prompts: number }): Feature[] {
  const needs: Feature[] = []
  if (copies > 1) needs.push('n')
  if (prompts > 1) needs.push('prompts')
  const bestOf = positiveInteger(facts, 'best_of')
  if (bestOf !== null && bestOf < copies) throw wrong('best_of', 'at least n', bestOf)
  if (bestOf !== null && bestOf > 1) needs.push('best_of')
  if (optionalBoolean(facts, 'echo') === true) needs.push('echo_prompt')
  const { logprobs, suffix } = facts
  if (logprobs !== undefined && logprobs !== null) {
    if (typeof logprobs !== 'number' || !Number.isInteger(logprobs) || logprobs < 0)
      throw wrong('logprobs', 'an integer from 0 to 5', logprobs)
    needs.push('logprobs')
  }
  if (suffix !== undefined && suffix !== null) {
    if (typeof suffix !== 'string') throw wrong('suffix', 'a text', suffix)
    if (suffix !== '') needs.push('suffix')
  }
  return needs
}
