// What a pretended model says: the same thoughts, words and tool calls in OpenAI's form and in Ollama's, streamed or not.

import type { ServerResponse } from 'node:http'
import type { Behaviour } from './upstream.ts'

export interface Said {
  readonly reasoning?: readonly string[]
  readonly text?: readonly string[]
  readonly calls?: readonly { readonly name: string; readonly arguments: object }[]
  readonly finish?: 'length' | 'content_filter'
}

/** What a call asks for, read from either form. */
export interface Heard {
  /** The texts of the messages; of a completion, its prompt. */
  readonly texts: readonly string[]
  /** What tools have answered since the user spoke last. */
  readonly results: readonly string[]
  readonly tools: readonly string[]
  readonly wantsJson: boolean
  readonly thinks: boolean
}

export type Mind = (heard: Heard) => Said

export const promptTokens = 9
export const plainText = ['Hello', ' wörld', ' 👋🏽, "ok"\n']
export const thoughts = ['Let me', ' think']

/** A model that asks two tools at once, tells what they answered, fills a schema, and greets otherwise. */
export const weatherman: Mind = heard => {
  const reasoning = heard.thinks ? thoughts : []
  if (heard.results.length > 0) return { reasoning, text: ['The tools said: ', heard.results.join(' and ')] }
  if (heard.tools.length > 0) {
    const name = heard.tools[0] as string
    return {
      reasoning,
      calls: [
        { name, arguments: { city: 'Lisbon', unit: '°C' } },
        { name, arguments: { city: 'Łódź', unit: '°C' } }
      ]
    }
  }
  if (heard.wantsJson) return { reasoning, text: ['{"city":"Lis', 'bon","celsius":', '21}'] }
  return { reasoning, text: plainText }
}

/** Tokens of an answer, as the pretended model counts them. */
export function spokenTokens({ reasoning = [], text = [], calls = [] }: Said): number {
  return reasoning.length + text.length + calls.length
}

/** A compatible server's chat. `thoughtsField`: where it puts them; OpenAI shows none. */
export function speak(mind: Mind = weatherman, thoughtsField: 'reasoning' | 'reasoning_content' | null = null): Behaviour {
  let answers = 0
  return ({ body }, response) => {
    const messages = listOf(body.messages)
    const said = mind({
      texts: messages.map(({ content }) => textOf(content)),
      results: sinceUser(messages).map(({ content }) => textOf(content)),
      tools: listOf(body.tools).map(tool => String((tool.function as { name: string }).name)),
      wantsJson: /^json/.test(String((body.response_format as { type?: string } | undefined)?.type)),
      thinks: typeof body.reasoning_effort === 'string' && thoughtsField !== null
    })
    const usage = usageOf(said)
    const choices = Array.from({ length: Number(body.n ?? 1) }, (_, index) => index)
    const head = { id: `chatcmpl-${++answers}`, created: 1_790_000_000, model: body.model }
    const calls = (said.calls ?? []).map((call, index) => ({
      index,
      id: `call_${answers}_${index}`,
      type: 'function',
      function: { name: call.name, arguments: JSON.stringify(call.arguments) }
    }))
    const finish = said.finish ?? (calls.length > 0 ? 'tool_calls' : 'stop')
    if (body.stream !== true) {
      const message = {
        role: 'assistant',
        content: calls.length > 0 && said.text === undefined ? null : (said.text ?? []).join(''),
        refusal: null,
        ...(thoughtsField !== null && said.reasoning?.length ? { [thoughtsField]: said.reasoning.join('') } : {}),
        ...(calls.length > 0 ? { tool_calls: calls.map(({ index: _, ...call }) => call) } : {})
      }
      return sendJson(response, {
        ...head,
        object: 'chat.completion',
        choices: choices.map(index => ({ index, message, logprobs: null, finish_reason: finish })),
        usage
      })
    }
    response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' })
    const send = (index: number, delta: object, finish: string | null = null): void => {
      const choice = { index, delta, logprobs: null, finish_reason: finish }
      response.write(`data: ${JSON.stringify({ ...head, object: 'chat.completion.chunk', choices: [choice], usage: null })}\n\n`)
    }
    for (const choice of choices) {
      send(choice, { role: 'assistant', content: calls.length > 0 ? null : '', refusal: null })
      for (const piece of said.reasoning ?? []) if (thoughtsField !== null) send(choice, { [thoughtsField]: piece })
      for (const piece of said.text ?? []) send(choice, { content: piece })
      for (const { index, function: called, ...call } of calls) {
        send(choice, { tool_calls: [{ index, ...call, function: { name: called.name, arguments: '' } }] })
        // In pieces of five, so that no argument is whole in one of them.
        for (const piece of called.arguments.match(/.{1,5}/gsu) ?? [])
          send(choice, { tool_calls: [{ index, function: { arguments: piece } }] })
      }
      send(choice, {}, finish)
    }
    if ((body.stream_options as { include_usage?: boolean } | undefined)?.include_usage === true)
      response.write(`data: ${JSON.stringify({ ...head, object: 'chat.completion.chunk', choices: [], usage })}\n\n`)
    response.end('data: [DONE]\n\n')
  }
}

/** The same of an Ollama's /api/chat, and of its /api/generate, which answers with the prompt's own words. */
export function speakNatively(mind: Mind = weatherman): Behaviour {
  return ({ body, path }, response) => {
    const messages = listOf(body.messages)
    const isChat = path.endsWith('/api/chat')
    const said = mind({
      texts: isChat ? messages.map(({ content }) => textOf(content)) : [String(body.prompt)],
      results: sinceUser(messages).map(({ content }) => textOf(content)),
      tools: listOf(body.tools).map(tool => String((tool.function as { name: string }).name)),
      wantsJson: body.format !== undefined,
      thinks: body.think !== undefined && body.think !== false
    })
    response.writeHead(200, { 'content-type': 'application/x-ndjson' })
    const send = (message: object, more: object = { done: false }): void => {
      const content = isChat ? { message: { role: 'assistant', content: '', ...message } } : { response: '', ...native(message) }
      response.write(`${JSON.stringify({ model: body.model, created_at: '2026-09-01T10:00:00.1Z', ...content, ...more })}\n`)
    }
    for (const thinking of said.reasoning ?? []) send({ thinking })
    for (const content of said.text ?? []) send({ content })
    for (const { name, arguments: given } of said.calls ?? []) send({ tool_calls: [{ function: { index: 0, name, arguments: given } }] })
    send(
      {},
      {
        done: true,
        done_reason: said.finish === undefined ? 'stop' : 'length',
        total_duration: 2e9,
        load_duration: 1e6,
        prompt_eval_count: promptTokens,
        prompt_eval_duration: 3e8,
        eval_count: spokenTokens(said),
        eval_duration: 1.5e9
      }
    )
    response.end()
  }
}

/** A compatible server's legacy completions: one call for all prompts and copies, each answered with its own prompt. */
export const continueTexts: Behaviour = ({ body }, response) => {
  const prompts = Array.isArray(body.prompt) && typeof body.prompt[0] !== 'number' ? body.prompt : [body.prompt]
  const copies = Number(body.n ?? 1)
  const head = { id: 'cmpl-1', object: 'text_completion', created: 1_790_000_000, model: body.model }
  const usage = { prompt_tokens: promptTokens, completion_tokens: 3 * prompts.length * copies, total_tokens: 0 }
  usage.total_tokens = usage.prompt_tokens + usage.completion_tokens
  const choices = prompts.flatMap((prompt, position) =>
    Array.from({ length: copies }, (_, copy) => ({ index: position * copies + copy, pieces: echoOf(String(prompt)) }))
  )
  if (body.stream !== true) {
    return sendJson(response, {
      ...head,
      choices: choices.map(({ index, pieces }) => ({ text: pieces.join(''), index, logprobs: null, finish_reason: 'stop' })),
      usage
    })
  }
  response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' })
  const send = (choice: object[], more: object = {}): unknown =>
    response.write(`data: ${JSON.stringify({ ...head, choices: choice, ...more })}\n\n`)
  for (const { index, pieces } of choices) {
    for (const text of pieces) send([{ text, index, logprobs: null, finish_reason: null }])
    send([{ text: '', index, logprobs: null, finish_reason: 'stop' }])
  }
  if ((body.stream_options as { include_usage?: boolean } | undefined)?.include_usage === true) send([], { usage })
  response.end('data: [DONE]\n\n')
}

/** For `speakNatively` behind /api/generate: the same continuation. */
export const echo: Mind = ({ texts }) => ({ text: echoOf(texts.at(-1) ?? '') })

export function echoOf(prompt: string): string[] {
  return [' so', ' it goes: ', prompt]
}

export function usageOf(said: Said): { prompt_tokens: number; completion_tokens: number; total_tokens: number } {
  const spoken = spokenTokens(said)
  return { prompt_tokens: promptTokens, completion_tokens: spoken, total_tokens: promptTokens + spoken }
}

function native(message: { content?: string; thinking?: string }): object {
  return {
    ...(message.content === undefined ? {} : { response: message.content }),
    ...(message.thinking === undefined ? {} : { thinking: message.thinking })
  }
}

function sendJson(response: ServerResponse, value: unknown): void {
  response.writeHead(200, { 'content-type': 'application/json' })
  response.end(JSON.stringify(value))
}

function listOf(value: unknown): Record<string, unknown>[] {
  return Array.isArray(value) ? (value as Record<string, unknown>[]) : []
}

function sinceUser(messages: readonly Record<string, unknown>[]): readonly Record<string, unknown>[] {
  const last = messages.findLastIndex(({ role }) => role === 'user')
  return messages.slice(last + 1).filter(({ role }) => role === 'tool')
}

function textOf(content: unknown): string {
  if (typeof content === 'string') return content
  return listOf(content)
    .map(({ text }) => String(text ?? ''))
    .join('')
}
