// Which model a body that we do not interpret asks for: read from JSON, or from the field of a form.

import { GatewayError } from '../../routing/errors.ts'
import { readBody } from '../body.ts'
import { wrong } from '../fields.ts'

export interface OpaqueBody {
  /** What goes out: as it came, unless two readers could understand it differently. */
  readonly bytes: Buffer
  /** Null = there is none, or none that every reader would find. */
  readonly model: string | null
  /** Bytes that may be text for the model; 0 for forms, whose files are no text. */
  readonly textBytes: number
  /** The person it is for, if it is JSON and says so. */
  readonly user: unknown
}

const modelLengthAtMost = 256
const jsonForm = /^application\/json *(?:; *charset="?utf-8"? *)?$/i
const formForm = /^multipart\/form-data *; *(?:charset="?[\w-]{1,20}"? *; *)?boundary=(?:"([^"\\]{1,70})"|([!#-'*+\-.0-9A-Z^-~]{1,70})) *$/i

/** Throws GatewayError `invalid_request` for JSON that is none, and for a body that names a model twice. Linear in its size. */
export function readOpaqueBody(contentType: string | undefined, bytes: Buffer): OpaqueBody {
  const type = contentType ?? ''
  if (bytes.length === 0) return { bytes, model: null, textBytes: 0, user: null }
  if (jsonForm.test(type)) {
    const body = readBody(bytes)
    // The facts are of the latin1 view, in which a name beyond ASCII would be another one.
    const given = body.facts.model === undefined ? undefined : body.json().model
    return {
      bytes: body.bytes,
      model: jsonModel(given),
      textBytes: body.bytes.length,
      user: body.facts.user === undefined ? null : body.json().user
    }
  }
  const boundary = formForm.exec(type)
  if (boundary === null) return { bytes, model: null, textBytes: 0, user: null }
  return { bytes, model: formModel(bytes, (boundary[1] ?? boundary[2]) as string), textBytes: 0, user: null }
}

function jsonModel(given: unknown): string | null {
  if (given === undefined || given === null) return null
  if (typeof given !== 'string' || given === '' || given.length > modelLengthAtMost) {
    throw wrong('model', `a name of at most ${modelLengthAtMost} characters`, given)
  }
  return given
}

// Forms of these endpoints have about ten fields and at most sixteen pictures.
const partsAtMost = 1_000
const partHeadBytesAtMost = 8 * 1024
const crlf = '\r\n'

/** The field `model` of a form; null as soon as anything in the form is not plain enough for all readers to agree on. */
function formModel(bytes: Buffer, boundary: string): string | null {
  const delimiter = Buffer.from(`--${boundary}`, 'latin1')
  if (!bytes.subarray(0, delimiter.length).equals(delimiter)) return null
  let at = delimiter.length
  let model: string | null = null
  for (let parts = 0; parts < partsAtMost; parts++) {
    const after = bytes.toString('latin1', at, at + 2)
    if (after === '--') return isBlank(bytes.subarray(at + 2)) ? model : null
    if (after !== crlf) return null
    const head = bytes.subarray(at, at + partHeadBytesAtMost)
    const headEnd = head.indexOf(`${crlf}${crlf}`)
    if (headEnd === -1) return null
    const field = fieldOf(head.toString('latin1', 2, headEnd))
    if (field === null) return null
    const start = at + headEnd + 4
    const next = bytes.indexOf(delimiter, start)
    const end = next - crlf.length
    // A boundary in the middle of a line, or after a bare line feed, is one to some readers only.
    if (next === -1 || end < start || bytes.toString('latin1', end, next) !== crlf) return null
    if (field.name === 'model') {
      if (model !== null) throw new GatewayError('invalid_request', 'The form has two fields "model".', { param: 'model' })
      model = field.isFile ? null : modelIn(bytes.subarray(start, end))
      if (model === null) return null
    }
    at = next + delimiter.length
  }
  return null
}

function isBlank(rest: Buffer): boolean {
  return rest.length === 0 || (rest.length === 2 && rest.toString('latin1') === crlf)
}

function modelIn(value: Buffer): string | null {
  const text = value.toString('latin1')
  return text.length <= modelLengthAtMost && /^[\x21-\x7e]+$/.test(text) ? text : null
}

/** The name in the head of one part. Null when the head holds more than the plain headers of a form. */
function fieldOf(head: string): { readonly name: string; readonly isFile: boolean } | null {
  let found: { name: string; isFile: boolean } | null = null
  for (const line of head.split(crlf)) {
    const colon = line.indexOf(':')
    const name = line.slice(0, Math.max(0, colon)).toLowerCase()
    if (name === 'content-disposition' && found === null) {
      found = dispositionOf(line.slice(colon + 1).trim())
      if (found === null) return null
    } else if (name !== 'content-type' && name !== 'content-length') {
      return null
    }
  }
  return found
}

const parameter = /; *([a-z]+\*?)=(?:"((?:[^"\\]|\\.)*)"|([^\s;"\\,=]+)) */giy

function dispositionOf(value: string): { name: string; isFile: boolean } | null {
  const kind = /^form-data */i.exec(value)
  if (kind === null) return null
  const given = new Map<string, string>()
  parameter.lastIndex = kind[0].length
  while (parameter.lastIndex < value.length) {
    const match = parameter.exec(value)
    if (match === null) return null
    const key = (match[1] as string).toLowerCase()
    if (given.has(key)) return null
    given.set(key, match[2] ?? match[3] ?? '')
  }
  const name = given.get('name')
  if (name === undefined || name.includes('\\') || given.has('name*')) return null
  return { name, isFile: given.has('filename') || given.has('filename*') }
}
