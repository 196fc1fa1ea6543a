// Vectors as anybody may send them: checked, put in order, and written in the encoding that was asked for. Pure.

import type { Embedding } from '../../routing/types.ts'
import { isRecord } from './http-errors.ts'

/** As it came: numbers, or base64 of little-endian 32-bit floats. */
export type Vector = readonly number[] | string

export interface Vectors {
  /** In the order of the texts. */
  readonly list: readonly Vector[]
  /** Of each of them. */
  readonly dimensions: number
}

/** Whole vectors, one for each of `count` texts, all of one length; otherwise what is wrong with them, in a few words. */
export function readVectors(vectors: readonly unknown[], count: number): Vectors | { readonly wrong: string } {
  if (vectors.length !== count) return { wrong: `gave ${vectors.length} vectors for ${count} texts` }
  let dimensions = 0
  for (const [index, vector] of vectors.entries()) {
    const length = lengthOf(vector)
    if (length === null) return { wrong: `gave a vector (${index}) that is not a list of numbers` }
    if (length === 0) return { wrong: `gave an empty vector (${index})` }
    if (index > 0 && length !== dimensions) return { wrong: `gave vectors of different lengths (${dimensions} and ${length})` }
    dimensions = length
  }
  return { list: vectors as readonly Vector[], dimensions }
}

/** The `embedding` of each entry of OpenAI's `data` in the order of their `index`; an entry without one stands where it stands. */
export function inOrder(data: unknown, count: number): readonly unknown[] | { readonly wrong: string } {
  if (!Array.isArray(data)) return { wrong: 'answered with JSON that has no list of embeddings' }
  if (data.length !== count) return { wrong: `gave ${data.length} vectors for ${count} texts` }
  const ordered = new Map<number, unknown>()
  for (const [position, entry] of data.entries()) {
    if (!isRecord(entry)) return { wrong: `gave an entry (${position}) that is no embedding` }
    const index = entry.index ?? position
    if (typeof index !== 'number' || !Number.isInteger(index) || index < 0 || index >= count || ordered.has(index)) {
      return { wrong: 'numbered its vectors wrongly' }
    }
    ordered.set(index, entry.embedding)
  }
  return Array.from({ length: count }, (_, index) => ordered.get(index))
}

/** OpenAI's answer. `rest`: its other top-level fields. */
export function embeddingsJson(
  { list }: Vectors,
  encoding: Embedding['encoding'],
  rest: Readonly<Record<string, unknown>> & { readonly model: string; readonly usage: unknown }
): Buffer {
  const data = list.map((vector, index) => `{"object":"embedding","index":${index},"embedding":${vectorJson(vector, encoding)}}`)
  return Buffer.from(`{"object":"list","data":[${data.join(',')}],${JSON.stringify(rest).slice(1)}`)
}

/** Nothing is rounded that need not be: what is in the right encoding stays as it is. */
export function vectorJson(vector: Vector, encoding: Embedding['encoding']): string {
  if (encoding === 'base64') return `"${typeof vector === 'string' ? vector : encoded(vector)}"`
  return `[${(typeof vector === 'string' ? decoded(vector) : vector).map(numberJson).join(',')}]`
}

/** Little-endian on every machine. */
function encoded(vector: readonly number[]): string {
  const bytes = Buffer.allocUnsafe(vector.length * 4)
  for (const [index, value] of vector.entries()) bytes.writeFloatLE(value, index * 4)
  return bytes.toString('base64')
}

function decoded(base64: string): number[] {
  const bytes = Buffer.from(base64, 'base64')
  return Array.from({ length: bytes.length / 4 }, (_, index) => bytes.readFloatLE(index * 4))
}

/** With the sign of a zero, which JSON.stringify would drop. */
function numberJson(value: number): string {
  return Object.is(value, -0) ? '-0' : String(value)
}

/** Null when it holds anything but numbers that a 32-bit float can hold. */
function lengthOf(vector: unknown): number | null {
  if (typeof vector === 'string') return base64Length(vector)
  if (!Array.isArray(vector)) return null
  for (const value of vector as unknown[]) {
    if (typeof value !== 'number' || !Number.isFinite(Math.fround(value))) return null
  }
  return vector.length
}

function base64Length(text: string): number | null {
  const bytes = Buffer.from(text, 'base64')
  // Node reads over what is not base64; written again, only the real thing is the same.
  if (bytes.length % 4 !== 0 || bytes.toString('base64') !== text) return null
  for (let at = 0; at < bytes.length; at += 4) {
    if (!Number.isFinite(bytes.readFloatLE(at))) return null
  }
  return bytes.length / 4
}
