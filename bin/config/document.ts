// A YAML or JSON text checked against a schema, where every complaint knows its line and column.
//
// Import it only when there is a text to read: yaml and typebox/schema take 85 ms (2-core machine, Node 26).

import { Errors } from 'typebox/schema'
import { Settings as TypeBoxSettings } from 'typebox/system'
import { type Document, isAlias, isMap, isPair, isScalar, isSeq, LineCounter, parseDocument, type Scalar, visit } from 'yaml'
import { nearest } from '../../routing/nearest.ts'
import { type Environment, expand, guarded, unguarded } from './expansion.ts'
import { masked, shown } from './problems.ts'

export type Path = readonly (string | number)[]

export interface Source {
  readonly text: string
  /** How messages call it: `llm-mcp.yaml`. */
  readonly label: string
  readonly schema: Schema
  /** For `${NAME}` in texts; null = texts are taken as they are. */
  readonly environment: Environment | null
}

export interface CheckedDocument {
  /** What the schema describes; undefined when the text is something else, and then `problems` says what. */
  readonly value: unknown
  /** The keys of a map in the order of the file (in a JavaScript object, numbers come first). */
  keys(path: Path): string[]
  /** True when `${…}` stands there. */
  isExpanded(path: Path): boolean
  /** What was written there, quoted: nothing from the environment, and no key. */
  shown(path: Path): string
  /** Adds a problem, placed at the value or at its key. */
  complain(path: Path, message: string, at?: 'value' | 'key'): void
  /** Ready to print, in the order of the file. */
  problems(): string[]
}

interface Schema {
  readonly errorMessage?: string
  readonly writeOnly?: boolean
  readonly properties?: Readonly<Record<string, Schema>>
}

/** A configuration uses a few; a bomb needs many. */
const maxAliasCount = 100
/** Enough to print, and a bound for a file that is wrong in every line. */
const maxProblems = 100

export function readDocument({ text, label, schema, environment }: Source): CheckedDocument {
  const lines = new LineCounter()
  const found: { readonly offset: number; readonly name: string; readonly line: string }[] = []
  const expanded = new Set<Scalar>()
  /** Texts as they were written, for messages: what comes from the environment may be a secret. */
  const written = new Map<Scalar, string>()
  let document: Document | null = null

  const value = read()
  return {
    value,
    keys,
    isExpanded,
    shown: path => asWritten(locate(path).value),
    complain,
    problems: () => found.toSorted((a, b) => a.offset - b.offset).map(problem => problem.line)
  }

  function read(): unknown {
    try {
      document = parseDocument(guarded(text), {
        lineCounter: lines,
        // Pretty messages quote lines of the file, keys and all.
        prettyErrors: false,
        resolveKnownTags: false,
        uniqueKeys: (a, b) => keyText(a) === keyText(b)
      })
      if (!isWellFormed(document) || !isPlain(document)) return undefined
      const plain: unknown = document.toJS({ maxAliasCount })
      form(plain)
      return found.length > 0 ? undefined : plain
    } catch (error) {
      if (error instanceof ReferenceError) add(0, [], `too many YAML aliases, at most ${maxAliasCount} are read`)
      else if (error instanceof RangeError) add(0, [], 'nested too deeply')
      else throw error
      return undefined
    }
  }

  function isWellFormed(document: Document): boolean {
    for (const {
      code,
      message,
      pos: [offset]
    } of [...document.errors, ...document.warnings]) {
      if (code === 'DUPLICATE_KEY') add(offset, pathOfKey(document, offset), 'this key stands twice')
      else if (message.startsWith('Maximum call stack')) throw new RangeError(message)
      else if (code === 'MULTIPLE_DOCS') add(offset, [], 'a second YAML document begins, expected one')
      // Behind the colon some messages quote the file.
      else add(offset, [], message.replace(/: (?:"|!|tag:).*$/s, ''))
    }
    return found.length === 0
  }

  /** Fills in variables on the way. False when there is something that JSON does not have. */
  function isPlain(document: Document): boolean {
    let aliases = 0
    let plain = true
    const refuse = (node: unknown, message: string) => {
      plain = false
      add(offsetOf(node), [], message)
    }
    visit(document, {
      Pair(_, pair) {
        if (!isScalar(pair.key)) refuse(pair.key, 'expected a text as the key')
      },
      Alias(_, alias, ancestors) {
        aliases += 1
        if (aliases > maxAliasCount) throw new ReferenceError('aliases')
        const target = alias.resolve(document)
        if (target === undefined) refuse(alias, 'a YAML alias without an anchor before it')
        else if (ancestors.some(ancestor => ancestor === target)) refuse(alias, 'a YAML alias inside of its own anchor')
      },
      Scalar(role, scalar, ancestors) {
        if (typeof scalar.value !== 'string') return
        const text = unguarded(scalar.value)
        scalar.value = text
        written.set(scalar, text)
        if (environment === null || role === 'key' || !text.includes('${')) return
        expanded.add(scalar)
        const result = expand(text, environment)
        if ('fault' in result) add(offsetOf(scalar), pathOf([...ancestors, scalar]), result.fault)
        else scalar.value = result.text
      }
    })
    return plain
  }

  function form(plain: unknown): void {
    for (const error of errorsOf(schema, plain)) {
      const path = error.instancePath
        .split('/')
        .slice(1)
        .map(part => part.replaceAll('~1', '/').replaceAll('~0', '~'))
      const place = schemaAt(schema, error.schemaPath)
      switch (error.keyword) {
        // These only repeat that something inside of them is wrong.
        case 'additionalProperties':
        case 'propertyNames':
          break
        case 'boolean':
          complain(path, unknownKey(path.at(-1) ?? '', schemaAt(schema, error.schemaPath.replace(/\/[^/]*$/, ''))), 'key')
          break
        case 'required':
          for (const name of error.params.requiredProperties) {
            complain(path, `${name} is missing, ${place.properties?.[name]?.errorMessage ?? 'expected a value'}`, 'key')
          }
          break
        case 'uniqueItems':
          for (const index of error.params.duplicateItems) complain([...path, index], 'stands twice')
          break
        default: {
          const ofKey = error.schemaPath.includes('/propertyNames')
          const { key, value } = locate(path)
          const got = place.writeOnly === true ? kindOf(value) : asWritten(ofKey ? key : value)
          complain(path, `${place.errorMessage ?? error.message}, got ${got}`, ofKey ? 'key' : 'value')
        }
      }
    }
  }

  function add(offset: number, path: Path, message: string): void {
    const name = masked(path.join('.'))
    if (found.length >= maxProblems) return
    // One problem a place: a variable that is not set need not also be no URL.
    if (found.some(problem => problem.offset === offset && problem.name === name)) return
    const { line, col } = lines.linePos(offset)
    found.push({ offset, name, line: `${label}:${Math.max(1, line)}:${Math.max(1, col)} ${name === '' ? '' : `${name}: `}${message}` })
  }

  function complain(path: Path, message: string, at: 'value' | 'key' = 'value'): void {
    const { key, value } = locate(path)
    add(offsetOf(at === 'key' ? (key ?? value) : (value ?? key)), path, message)
  }

  function keys(path: Path): string[] {
    const { value } = locate(path)
    return isMap(value) ? value.items.map(pair => keyText(pair.key)) : []
  }

  function isExpanded(path: Path): boolean {
    const { value } = locate(path)
    return isScalar(value) && expanded.has(value)
  }

  /** The node at a path and its key; of a path that leads nowhere, the last node on the way. */
  function locate(path: Path): { readonly key: unknown; readonly value: unknown } {
    let key: unknown
    let value: unknown = document?.contents
    for (const part of path) {
      if (isMap(value)) {
        const pair = value.items.find(pair => keyText(pair.key) === String(part))
        if (pair === undefined) break
        key = pair.key
        value = pair.value
      } else if (isSeq(value)) {
        key = undefined
        value = value.items[Number(part)]
      }
      if (isAlias(value) && document !== null) value = value.resolve(document)
    }
    return { key, value }
  }

  function asWritten(node: unknown): string {
    if (!isScalar(node) || node.value === null) return kindOf(node)
    return typeof node.value === 'string' ? shown(written.get(node) ?? node.value) : (node.source ?? String(node.value))
  }
}

function errorsOf(schema: Schema, plain: unknown): ReturnType<typeof Errors>[1] {
  // TypeBox stops at 8, of which most may repeat each other.
  const { maxErrors } = TypeBoxSettings.Get()
  TypeBoxSettings.Set({ maxErrors: maxProblems })
  try {
    return Errors(schema, plain)[1]
  } finally {
    TypeBoxSettings.Set({ maxErrors })
  }
}

/** `#/properties/machines` and so on, from the root of the schema. */
function schemaAt(schema: Schema, schemaPath: string): Schema {
  let place: unknown = schema
  for (const part of schemaPath.split('/').slice(1)) {
    place = typeof place === 'object' && place !== null ? Reflect.get(place, part) : undefined
  }
  return typeof place === 'object' && place !== null ? place : {}
}

function unknownKey(name: string, place: Schema): string {
  const known = Object.keys(place.properties ?? {})
  const [near] = nearest(name, known, 1)
  return near === undefined ? `unknown key, expected one of ${known.join(', ')}` : `unknown key, did you mean "${near}"?`
}

function kindOf(node: unknown): string {
  if (isMap(node)) return node.items.length === 0 ? 'an empty map' : 'a map'
  if (isSeq(node)) return node.items.length === 0 ? 'an empty list' : 'a list'
  if (!isScalar(node) || node.value === null) return 'nothing'
  if (node.value === '') return 'an empty text'
  return typeof node.value === 'string' ? 'a text' : `a ${typeof node.value}`
}

/** As `toJS` writes keys that are no texts. */
function keyText(key: unknown): string {
  if (!isScalar(key) || key.value === null) return ''
  return unguarded(String(key.value))
}

function offsetOf(node: unknown): number {
  const range: unknown = typeof node === 'object' && node !== null && 'range' in node ? node.range : null
  return Array.isArray(range) && typeof range[0] === 'number' ? range[0] : 0
}

/** The path of the last of these nodes, each of which holds the next. */
function pathOf(nodes: readonly unknown[]): Path {
  return nodes.flatMap((node, index): Path => {
    if (isPair(node)) return [keyText(node.key)]
    return isSeq(node) ? [node.items.indexOf(nodes[index + 1])] : []
  })
}

function pathOfKey(document: Document, offset: number): Path {
  let path: Path = []
  visit(document, {
    Pair(_, pair, ancestors) {
      if (offsetOf(pair.key) !== offset) return undefined
      path = pathOf([...ancestors, pair])
      return visit.BREAK
    }
  })
  return path
}
