// Where a name comes from (Ollama's library, a publisher on Hugging Face, a provider's list), for that decides what it leaves unsaid.

import { families } from './releases.ts'
import { isPackaging, quantizationOf } from './words.ts'

/** Longer than any server's names; what is longer is not read. */
const maxLength = 300
const sameModelRoutes = new Set(['free', 'nitro', 'floor', 'exacto'])

export interface Place {
  /** `published`: a publisher's name as somebody else lists it. `bare`: no publisher, and not Ollama's library. */
  readonly source: 'library' | 'hub' | 'published' | 'bare'
  readonly publisher: string | null
  readonly title: string
  /** Of Ollama's library only. */
  readonly tag: string
  readonly quantization: string | null
  readonly route: string | null
  readonly thinking: boolean
  readonly doubts: readonly string[]
}

/**
 * Null when it is no name. `kind` is an adapter's name, or `huggingface`; without it, a name with the namespace of a
 * publisher is that publisher's, and any other is Ollama's.
 */
export function placeOf(name: string, kind: string | undefined): Place | null {
  const text = name.trim().toLowerCase()
  if (text.length > maxLength || !/^[\x21-\x7e]+$/.test(text)) return null
  const moving = text.startsWith('~')
  const segments = text.slice(moving ? 1 : 0).split('/')
  const last = segments.pop() ?? ''
  const colon = last.indexOf(':')
  const title = colon < 0 ? last : last.slice(0, colon)
  const tag = colon < 0 ? '' : last.slice(colon + 1)
  if (!/[a-z]/.test(title) || segments.some(segment => segment === '')) return null
  const place = { publisher: segments.at(-1) ?? null, title, tag: '', quantization: null, route: null, thinking: false }
  const doubts = moving ? [`"${name}" names whatever is newest`] : []
  const hosted = segments.length > 1 && (segments[0] ?? '').includes('.')
  const path = hosted ? segments.slice(1) : segments

  if (kind === 'huggingface' || (hosted && isHub(segments[0]))) {
    const quantization = tag === '' || tag === 'latest' ? null : quantizationsOf(tag)
    if (path.length !== 1) doubts.push('its path is not that of a model on Hugging Face')
    else if (tag !== '' && tag !== 'latest' && quantization === null) doubts.push(`the tag "${tag}" is not a quantisation`)
    return { ...place, source: 'hub', quantization, doubts }
  }
  const isOllama = kind === 'ollama' || (kind === undefined && (hosted || path.length === 0 || !isPublisher(path[0])))
  if (isOllama) {
    const own = path.length === 0 || (path.length === 1 && path[0] === 'library' && (!hosted || isLibrary(segments[0])))
    if (!own) doubts.push(`the namespace "${segments.join('/')}" may hold anything`)
    return { ...place, publisher: null, source: 'library', tag: tag === 'latest' ? '' : tag, doubts }
  }
  const route = sameModelRoutes.has(tag) ? tag : null
  if (tag !== '' && route === null && tag !== 'thinking') doubts.push(`":${tag}" is not known to be the same model`)
  if (path.length > 1) doubts.push('its path has more than a publisher and a name')
  return { ...place, source: path.length === 0 ? 'bare' : 'published', route, thinking: tag === 'thinking', doubts }
}

function isLibrary(host: string | undefined): boolean {
  return host === 'registry.ollama.ai' || host === 'ollama.com'
}

function isHub(host: string | undefined): boolean {
  return host === 'hf.co' || host === 'huggingface.co'
}

const publishers: ReadonlySet<string> = new Set(families.flatMap(family => family.publishers))

export function isPublisher(namespace: string | undefined): boolean {
  return namespace !== undefined && publishers.has(namespace)
}

/** Words without those of the quantisation, which are put into `found`. */
export function split(text: string, found: string[]): string[] {
  const words: string[] = []
  for (const piece of text.split('-')) {
    const dot = piece.search(/\.i?q[1-8]/)
    for (const part of dot < 0 ? [piece] : [piece.slice(0, dot), piece.slice(dot + 1)]) {
      const quantization = quantizationOf(part)
      if (quantization === null) words.push(...part.split('_').filter(word => word !== ''))
      else if (!found.includes(quantization)) found.push(quantization)
    }
  }
  return words
}

/** All words of a text are of a quantisation, or null. */
export function quantizationsOf(tag: string): string | null {
  const found: string[] = []
  const others = split(tag, found).filter(word => !isPackaging(word))
  return others.length > 0 || found.length === 0 ? null : found.join('-')
}
