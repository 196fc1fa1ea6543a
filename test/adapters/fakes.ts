// How each provider answers, for the conformance suite: an entry in `fakes` for every file in adapters/.

import { completion, nativeLines, usage, wholeStream } from '../support/upstream.ts'

/** How a provider answers, in its own words. */
export interface Fake {
  /** Behind the origin. */
  readonly basePath: string
  readonly streamType: string
  /** An answer of these words, in the pieces it is sent in; the first piece that holds a word is `firstWord`. */
  readonly pieces: (words: readonly string[]) => readonly string[]
  readonly firstWord: number
  /** The same in one body; null for a provider that is always streamed from. */
  readonly whole: ((words: readonly string[]) => string) | null
  /** Its error body. */
  readonly refusal: string
}

const ollama = {
  basePath: '',
  streamType: 'application/x-ndjson',
  firstWord: 0,
  whole: null,
  refusal: '{"error":"it does not go"}'
}
const openai = {
  basePath: '/v1',
  streamType: 'text/event-stream; charset=utf-8',
  refusal: '{"error":{"message":"it does not go","type":"server_error","param":null,"code":null}}'
}
const openrouter = {
  basePath: '/api/v1',
  streamType: 'text/event-stream',
  refusal: '{"error":{"message":"it does not go","code":500,"metadata":{"provider_name":"x"}}}'
}

/** OpenAI's text chunks; the finish comes with a piece of its own. */
function textStream(words: readonly string[]): string[] {
  const base = { id: 'cmpl-up', object: 'text_completion', created: 1, model: 'm' }
  const event = (more: object) => `data: ${JSON.stringify({ ...base, ...more })}\n\n`
  const piece = (text: string, finish: string | null) => event({ choices: [{ text, index: 0, logprobs: null, finish_reason: finish }] })
  return [...words.map(word => piece(word, null)), piece('', 'stop'), event({ choices: [], usage }), 'data: [DONE]\n\n']
}

function textCompletion(words: readonly string[]): string {
  const choice = { text: words.join(''), index: 0, logprobs: null, finish_reason: 'stop' }
  return JSON.stringify({ id: 'cmpl-up', object: 'text_completion', created: 1, model: 'm', choices: [choice], usage })
}

/** Ollama's chat lines as those of /api/generate. */
function generatedLines(words: readonly string[]): string[] {
  return nativeLines('m', ...words).map(line => {
    const { message, ...rest } = JSON.parse(line) as { message: { content: string } }
    return `${JSON.stringify({ ...rest, response: message.content })}\n`
  })
}

/** What can be streamed. */
export type Streamed = 'chat' | 'complete'

/** `null`: it speaks to nobody, so nobody can fail it. */
export const fakes: Readonly<Record<string, Readonly<Record<Streamed, Fake>> | null>> = {
  echo: null,
  ollama: {
    chat: { ...ollama, pieces: words => nativeLines('m', ...words) },
    complete: { ...ollama, pieces: generatedLines }
  },
  openai: {
    chat: { ...openai, pieces: words => wholeStream(...words), firstWord: 1, whole: words => JSON.stringify(completion(words.join(''))) },
    complete: { ...openai, pieces: textStream, firstWord: 0, whole: textCompletion }
  },
  openrouter: {
    chat: {
      ...openrouter,
      pieces: words => [': OPENROUTER PROCESSING\n\n', ...wholeStream(...words)],
      firstWord: 2,
      whole: words => `\n\n${JSON.stringify(completion(words.join('')))}`
    },
    complete: {
      ...openrouter,
      pieces: words => [': OPENROUTER PROCESSING\n\n', ...textStream(words)],
      firstWord: 1,
      whole: words => `\n\n${textCompletion(words)}`
    }
  }
}

/** How a provider gives vectors. */
export interface VectorFake {
  readonly basePath: string
  readonly refusal: string
  readonly answer: (vectors: readonly (readonly number[])[]) => object
}

/** `null`: it has none to give. */
export const vectorFakes: Readonly<Record<string, VectorFake | null>> = {
  echo: null,
  ollama: {
    basePath: '',
    refusal: ollama.refusal,
    answer: embeddings => ({ model: 'm', embeddings, total_duration: 5e6, load_duration: 1e6, prompt_eval_count: 4 })
  },
  openai: { basePath: '/v1', refusal: openai.refusal, answer: embeddingList },
  openrouter: { basePath: '/api/v1', refusal: openrouter.refusal, answer: embeddingList }
}

function embeddingList(vectors: readonly (readonly number[])[]): object {
  const data = vectors.map((embedding, index) => ({ object: 'embedding', index, embedding }))
  return { object: 'list', data, model: 'm', usage: { prompt_tokens: 4, total_tokens: 4 } }
}
