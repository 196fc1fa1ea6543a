// Vectors of pretended embedding models: different for every text, exact as 32-bit floats, sent in both encodings.

import type { ServerResponse } from 'node:http'
import type { Behaviour } from './upstream.ts'

/** The vector of a text, or of a list of tokens, in a space of `seed`. */
export function vectorOf(input: unknown, dimensions: number, seed = 1): number[] {
  const text = typeof input === 'string' ? input : JSON.stringify(input)
  let state = seed
  for (const letter of text) state = (Math.imul(state, 31) + (letter.codePointAt(0) as number)) | 0
  return Array.from({ length: dimensions }, (_, index) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0
    // The ends of what a 32-bit float can be, among ordinary ones.
    return index === 0 ? -0 : index === 1 ? Math.fround(1.4e-45) : Math.fround(state / 2 ** 31)
  })
}

export function base64Of(vector: readonly number[]): string {
  return Buffer.from(new Float32Array(vector).buffer).toString('base64')
}

export function floatsOf(base64: string): number[] {
  const bytes = Buffer.from(base64, 'base64')
  return Array.from({ length: bytes.length / 4 }, (_, index) => bytes.readFloatLE(index * 4))
}

/** True when both are the same to the bit, also in the sign of a zero. */
export function isSame(one: readonly number[], other: readonly number[]): boolean {
  return one.length === other.length && one.every((value, index) => Object.is(value, other[index]))
}

/** A compatible server's /embeddings, in the encoding that is asked for; `always`: in this one, whatever is asked. */
export function embed({
  dimensions,
  seed = 1,
  always
}: {
  readonly dimensions: number
  readonly seed?: number
  readonly always?: 'float' | 'base64'
}): Behaviour {
  return ({ body }, response) => {
    const inputs = inputsOf(body.input)
    const encoding = always ?? body.encoding_format
    const data = inputs.map((input, index) => {
      const vector = vectorOf(input, Number(body.dimensions ?? dimensions), seed)
      return { object: 'embedding', index, embedding: encoding === 'base64' ? base64Of(vector) : vector }
    })
    // JSON.stringify has no -0.
    const json = JSON.stringify({ object: 'list', data, model: body.model, usage: { prompt_tokens: 4, total_tokens: 4 } })
    send(response, json.replaceAll('"embedding":[0,', '"embedding":[-0.0,'))
  }
}

/** An Ollama's /api/embed. */
export function embedNatively({ dimensions, seed = 1 }: { readonly dimensions: number; readonly seed?: number }): Behaviour {
  return ({ body }, response) => {
    const embeddings = inputsOf(body.input).map(input => vectorOf(input, Number(body.dimensions ?? dimensions), seed))
    const json = JSON.stringify({ model: body.model, embeddings, total_duration: 1.4e7, load_duration: 1e6, prompt_eval_count: 4 })
    send(response, json.replaceAll('[0,', '[-0.0,'))
  }
}

function inputsOf(input: unknown): readonly unknown[] {
  return Array.isArray(input) && typeof input[0] !== 'number' ? input : [input]
}

function send(response: ServerResponse, json: string): void {
  response.writeHead(200, { 'content-type': 'application/json' })
  response.end(json)
}
