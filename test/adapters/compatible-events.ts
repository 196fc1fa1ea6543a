// What OpenAI and OpenRouter send, event by event, for the tests of compatible servers.

import type { Usage } from '../../routing/types.ts'

const base = {
  id: 'chatcmpl-1',
  object: 'chat.completion.chunk',
  created: 1,
  model: 'gpt-4o-mini-2024-07-18',
  service_tier: 'default',
  system_fingerprint: 'fp_1'
}

/** A chunk of OpenAI's. */
export const chunk = (delta: object, finish: string | null = null, more: object = {}, index = 0) =>
  `data: ${JSON.stringify({ ...base, choices: [{ index, delta, logprobs: null, finish_reason: finish }], ...more })}\n\n`

/** What a provider counted, in its own words. */
export const figures = {
  prompt_tokens: 19,
  completion_tokens: 10,
  total_tokens: 29,
  prompt_tokens_details: { cached_tokens: 4 },
  completion_tokens_details: { reasoning_tokens: 3 }
}

/** OpenAI's event with the figures. */
export const usageChunk = `data: ${JSON.stringify({ ...base, choices: [], usage: figures })}\n\n`

/** The end of a stream. */
export const done = 'data: [DONE]\n\n'

/** The figures in our words. */
export const counted: Usage = {
  promptTokens: 19,
  completionTokens: 10,
  cachedTokens: 4,
  reasoningTokens: 3,
  providerNanoUsd: null,
  busyMs: null
}

/** A chunk that says this. */
export const spoken = (text: string) => chunk({ content: text })

/** The head of every chunk of OpenRouter. */
export const router = { id: 'gen-1', provider: 'Minimax', model: 'minimax/m2', object: 'chat.completion.chunk', created: 1 }

/** A chunk of OpenRouter. */
export const routed = (delta: object, finish: string | null = null, more: object = {}) =>
  `data: ${JSON.stringify({ ...router, choices: [{ index: 0, delta: { role: 'assistant', content: '', ...delta }, finish_reason: finish, native_finish_reason: finish, logprobs: null }], ...more })}\n\n`

/** Its figures, with what it charged. */
export const routerUsage = { ...figures, cost: 0.00001234, is_byok: false, cost_details: { upstream_inference_cost: null } }

/** What it sends while it waits. */
export const processing = ': OPENROUTER PROCESSING\n\n'

/** An answer in one body. */
export const completion = {
  id: 'chatcmpl-1',
  object: 'chat.completion',
  created: 1,
  model: 'm',
  choices: [{ index: 0, message: { role: 'assistant', content: 'Grüße 😀' }, finish_reason: 'stop' }],
  usage: figures
}
