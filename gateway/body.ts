// A JSON body kept as the client sent it: bounded, checked, and changed only where we must.

import { isUtf8 } from 'node:buffer'
import { GatewayError } from '../routing/errors.ts'
import type { RequestBody } from '../routing/types.ts'

/** Of one request; pictures and sounds come as base64. */
export const bodyBytesAtMost = 32 * 1024 * 1024
// A byte limit is not enough: 21 MB of "{}" block the loop for 2.8 s.
const maxDepth = 64
const maxTokens = 200_000
// Each of its characters may be written as an escape too.
const prototypeKey = /"(?:_|\\u005[fF]){2}(?:p|\\u0070)(?:r|\\u0072)(?:o|\\u006[fF])(?:t|\\u0074)(?:o|\\u006[fF])(?:_|\\u005[fF]){2}"\s*:/

// A search for bytes need not encode them first.
const unicodeEscape = Buffer.from('\\u00')
const prototypeName = Buffer.from('__proto__')

interface Entry {
  readonly key: string
  readonly keyStart: number
  readonly valueStart: number
  readonly valueEnd: number
  /** Of the list of messages: where each of its elements ends. */
  readonly elementEnds: readonly number[] | null
}

interface Scanned {
  readonly entries: readonly Entry[]
  /** A string in it is the name of a prototype, as it stands. */
  readonly namesPrototype: boolean
}

export interface ReadBody extends RequestBody {
  /**
   * Parsed from the latin1 view: right for ASCII, for numbers and for lengths in bytes, three times faster than UTF-8.
   * For decisions only; never send a string of it on.
   */
  readonly facts: Readonly<Record<string, unknown>>
  /** The body without `facts`: what lives as long as its request should not hold twice the prompt. */
  readonly kept: RequestBody
  /** The bytes of `messages`, if there are any, and where in them each message ends. */
  messages(): { readonly bytes: Buffer; readonly ends: readonly number[] } | null
}

/**
 * Reads a JSON object, without the byte order mark it may begin with. Throws GatewayError `invalid_request` for everything
 * that is not one, is deeper than 64 levels, has more than 200,000 elements, is not UTF-8, or tries to set a prototype.
 */
export function readBody(given: Buffer): ReadBody {
  const bytes = withoutMark(given)
  if (!isUtf8(bytes)) throw new GatewayError('invalid_request', 'The request body is not valid UTF-8.')
  const { entries, namesPrototype } = scan(bytes)
  if ((namesPrototype || (bytes.includes(0x5c) && bytes.includes(unicodeEscape))) && prototypeKey.test(bytes.toString('latin1'))) {
    throw new GatewayError('invalid_request', 'The request body has a key "__proto__", which is not allowed.')
  }
  const facts = parse(bytes.toString('latin1'))
  if (isAmbiguous(entries)) {
    // Two keys of one name, or an escaped one: readers differ on what that means, so nobody gets to see it.
    const plain = Buffer.from(JSON.stringify(parse(bytes.toString('utf8'))))
    return bodyOf(plain, scan(plain).entries, parse(plain.toString('latin1')))
  }
  return bodyOf(bytes, entries, facts)
}

/** Some editors and shells put a mark before UTF-8. A reader may ignore it, but nobody may send it on (RFC 8259, 8.1). */
function withoutMark(bytes: Buffer): Buffer {
  return bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? bytes.subarray(3) : bytes
}

function bodyOf(bytes: Buffer, entries: readonly Entry[], facts: Readonly<Record<string, unknown>>): ReadBody {
  let parsed: Record<string, unknown> | null = null
  const kept: RequestBody = {
    bytes,
    json() {
      parsed ??= parse(bytes.toString('utf8'))
      return parsed
    },
    with: changes => splice(bytes, entries, changes)
  }
  return {
    ...kept,
    facts,
    kept,
    messages() {
      const entry = entries.find(({ key }) => key === 'messages')
      if (entry === undefined || entry.elementEnds === null) return null
      const { valueStart, valueEnd, elementEnds } = entry
      return { bytes: bytes.subarray(valueStart, valueEnd), ends: elementEnds.map(end => end - valueStart) }
    }
  }
}

/** Finds the top-level entries. Right for valid JSON; invalid JSON is left to JSON.parse. */
function scan(bytes: Buffer): Scanned {
  const entries: Entry[] = []
  let depth = 0
  let tokens = 0
  let key: string | null = null
  let keyStart = -1
  let valueStart = -1
  let elementEnds: number[] | null = null
  let namesPrototype = false
  for (let at = 0; at < bytes.length; at++) {
    const code = bytes[at] as number
    if (code <= 0x20) continue
    if (depth === 1 && valueStart === -2 && code !== 0x3a) valueStart = at
    if (code === 0x22) {
      const end = stringEnd(bytes, at + 1)
      if (depth === 1 && key === null) {
        key = bytes.toString('latin1', at + 1, end)
        keyStart = at
      }
      if (end - at === 10 && bytes[at + 1] === 0x5f && prototypeName.compare(bytes, at + 1, end) === 0) namesPrototype = true
      at = end
    } else if (code === 0x7b || code === 0x5b) {
      if (++depth > maxDepth) throw new GatewayError('invalid_request', `The request body is nested deeper than ${maxDepth} levels.`)
      tokens++
    } else if (code === 0x7d || code === 0x5d || code === 0x2c) {
      if (++tokens > maxTokens) throw new GatewayError('invalid_request', `The request body has more than ${maxTokens} elements.`)
      if (depth === 1 && key !== null && valueStart >= 0) {
        entries.push({ key, keyStart, valueStart, valueEnd: trimEnd(bytes, at), elementEnds })
        key = null
        valueStart = -1
        elementEnds = null
      } else if (depth === 2 && code !== 0x7d && key === 'messages') {
        elementEnds ??= []
        elementEnds.push(at)
      }
      if (code !== 0x2c) depth--
    } else if (code === 0x3a && depth === 1 && valueStart === -1) {
      valueStart = -2
    }
  }
  return { entries, namesPrototype }
}

/** The index of the closing quote; native search, so that long strings cost next to nothing. */
function stringEnd(bytes: Buffer, from: number): number {
  let end = from
  for (;;) {
    end = bytes.indexOf(0x22, end)
    if (end === -1) return bytes.length
    let back = end - 1
    while (back >= from && bytes[back] === 0x5c) back--
    if (((end - 1 - back) & 1) === 0) return end
    end++
  }
}

function trimEnd(bytes: Buffer, end: number): number {
  let at = end
  while (at > 0 && (bytes[at - 1] as number) <= 0x20) at--
  return at
}

function isAmbiguous(entries: readonly Entry[]): boolean {
  const seen = new Set<string>()
  for (const { key } of entries) {
    if (seen.has(key) || key.includes('\\')) return true
    seen.add(key)
  }
  return false
}

function parse(text: string): Record<string, unknown> {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    // V8 quotes the text it stumbled over; prompts do not belong into messages, so only the place is kept.
    const place = / in JSON at position (\d+)( \(line \d+ column \d+\))?$/.exec(String(error))?.[1]
    throw new GatewayError('invalid_request', `The request body is not valid JSON${place === undefined ? '' : ` (at byte ${place})`}.`)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new GatewayError('invalid_request', 'The request body must be a JSON object.')
  }
  return value as Record<string, unknown>
}

function splice(bytes: Buffer, entries: readonly Entry[], changes: Readonly<Record<string, unknown>>): Buffer {
  const names = Object.keys(changes)
  if (names.length === 0) return bytes
  if (names.some(name => changes[name] === undefined)) return rebuild(bytes, entries, changes)
  const edits: { start: number; end: number; text: string }[] = []
  let added = ''
  for (const name of names) {
    const entry = entries.find(candidate => candidate.key === name)
    const text = JSON.stringify(changes[name])
    if (entry === undefined) added += `${JSON.stringify(name)}:${text},`
    else edits.push({ start: entry.valueStart, end: entry.valueEnd, text })
  }
  if (added !== '') {
    const start = bytes.indexOf(0x7b) + 1
    edits.push({ start, end: start, text: entries.length === 0 ? added.slice(0, -1) : added })
  }
  edits.sort((a, b) => a.start - b.start)
  const pieces: Buffer[] = []
  let from = 0
  for (const edit of edits) {
    pieces.push(bytes.subarray(from, edit.start), Buffer.from(edit.text))
    from = edit.end
  }
  pieces.push(bytes.subarray(from))
  return Buffer.concat(pieces)
}

/** With a key removed: the entries kept, each as it was, put together again. */
function rebuild(bytes: Buffer, entries: readonly Entry[], changes: Readonly<Record<string, unknown>>): Buffer {
  const pieces: Buffer[] = []
  for (const entry of entries) {
    if (Object.hasOwn(changes, entry.key)) continue
    pieces.push(Buffer.from(pieces.length === 0 ? '{' : ','), bytes.subarray(entry.keyStart, entry.valueEnd))
  }
  for (const [name, value] of Object.entries(changes)) {
    if (value === undefined) continue
    pieces.push(Buffer.from(`${pieces.length === 0 ? '{' : ','}${JSON.stringify(name)}:${JSON.stringify(value)}`))
  }
  pieces.push(Buffer.from(pieces.length === 0 ? '{}' : '}'))
  return Buffer.concat(pieces)
}
