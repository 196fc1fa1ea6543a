// The words of a name, sorted by what they are; nothing is added to them here.

import { isPublisher, type Place, split } from './place.ts'
import { type Family, families, repackers } from './releases.ts'
import { isDate, isPackaging, type SizePart, sizePartOf, variantOf, versionOf } from './words.ts'

export interface Reading {
  /** Null = none that is known. */
  readonly family: Family | null
  /** The family's name, or the words that stand in its place. */
  readonly title: string
  readonly version: string | null
  readonly total: SizePart | null
  readonly active: SizePart | null
  readonly count: SizePart | null
  readonly words: ReadonlySet<string>
  readonly quantization: string | null
  readonly doubts: readonly string[]
}

export function read(place: Place): Reading {
  const { title, publisher } = unpacked(place)
  const doubts = [...place.doubts]
  const quantizations: string[] = place.quantization === null ? [] : [place.quantization]
  const titleWords = split(title, quantizations)
  const start = familyOf(titleWords)
  const family = start?.family ?? null
  if (family === null) doubts.push('its family is not known here, nor what its names leave unsaid')
  else if (publisher !== null && !family.publishers.includes(publisher)) {
    doubts.push(`"${publisher}" is not the publisher of ${family.family}`)
  }

  const rest = start?.rest ?? titleWords
  const all = [...rest, ...split(place.tag, quantizations)]
  const words = new Set<string>(place.thinking ? ['thinking'] : [])
  const versions = new Set<string>()
  const sizes: SizePart[] = []
  for (let index = 0; index < all.length; index++) {
    const word = all[index] ?? ''
    const size = sizePartOf(word)
    // A bare number is a version only right after the family; with a v it is one anywhere.
    const mayBeVersion = (index === 0 && rest.length > 0) || /^v\d/.test(word)
    const version = (mayBeVersion ? versionOf(word, family?.letter) : null) ?? editionOf(family, word)
    const onto = ontoOf(word, all[index + 1])
    if (size !== null) sizes.push(size)
    else if (version !== null) versions.add(version)
    else if (onto !== null) {
      words.add(onto.word)
      index += onto.further
    } else if (word === 'cloud') doubts.push("it runs in Ollama's cloud, not on the machine")
    else {
      const known = isDate(word) ? word : (baseOf(word, index >= rest.length, family) ?? variantOf(word))
      if (known !== null) words.add(known)
      else if (!isPackaging(word) && family !== null) doubts.push(`"${word}" is not understood`)
    }
  }
  if (versions.size > 1) doubts.push(`it says several versions: ${[...versions].join(', ')}`)
  if (words.has('embed')) doubts.push('its vectors are compared only where the configuration says so')
  if (words.has('base') && ['instruct', 'chat', 'thinking'].some(word => words.has(word))) {
    doubts.push('it says that it is base, and is not')
  }
  const [version = family?.onlyVersion ?? null] = versions
  return {
    family,
    title: family?.family ?? unknownFamily(titleWords),
    version,
    total: only(sizes, ['total', 'effective', 'experts'], doubts),
    active: only(sizes, ['active'], doubts),
    count: only(sizes, ['count'], doubts),
    words,
    quantization: quantizations.length === 0 ? null : quantizations.join('-'),
    doubts
  }
}

/** `google_gemma-3-27b-it-GGUF` of somebody who only packs is `gemma-3-27b-it` of google. */
function unpacked({ source, title, publisher }: Place): { readonly title: string; readonly publisher: string | null } {
  const bare = title.endsWith('.gguf') ? title.slice(0, -5) : title
  if (source === 'library' || publisher === null || !repackers.has(publisher)) return { title: bare, publisher }
  const underscore = bare.indexOf('_')
  const first = bare.slice(0, Math.max(0, underscore))
  return isPublisher(first) ? { title: bare.slice(underscore + 1), publisher: first } : { title: bare, publisher: null }
}

/** The version that a date stands for, in this family. */
function editionOf(family: Family | null, word: string): string | null {
  const dates = family?.dates ?? {}
  return Object.hasOwn(dates, word) ? (dates[word] ?? null) : null
}

/** `distill-qwen`, `0528-qwen3`, `hermes-3-llama-3.1`: another family inside a name is what the model was made of. */
function ontoOf(word: string, next: string | undefined): { readonly word: string; readonly further: number } | null {
  const [, family, hanging = ''] = /^(qwen|llama|mistral|gemma)(.*)$/.exec(word) ?? []
  if (family === undefined) return null
  const version = versionOf(hanging === '' ? (next ?? '') : hanging)
  if (version === null) return hanging === '' ? { word: `on-${family}`, further: 0 } : null
  return { word: `on-${family}-${version}`, further: hanging === '' ? 1 : 0 }
}

/** Ollama's tags say `text` for base, Google says `pt` (pre-trained; Baidu means the opposite by it). */
function baseOf(word: string, inTag: boolean, family: Family | null): 'base' | null {
  return (word === 'text' && inTag) || (word === 'pt' && family?.family === 'gemma') ? 'base' : null
}

function only(sizes: readonly SizePart[], kinds: readonly SizePart['kind'][], doubts: string[]): SizePart | null {
  const these = sizes.filter(({ kind }) => kinds.includes(kind))
  const other = these.find(({ text }) => text !== these[0]?.text)
  if (other !== undefined) doubts.push(`it says two sizes, ${these[0]?.text} and ${other.text}`)
  return these[0] ?? null
}

/** By first word, the longest spelling first. */
const spellings: ReadonlyMap<string, readonly { readonly words: readonly string[]; readonly family: Family }[]> = spellingsByFirstWord()

function spellingsByFirstWord() {
  const all = families.flatMap(family => family.spellings.map(words => ({ words, family }))).sort((a, b) => b.words.length - a.words.length)
  return Map.groupBy(all, ({ words }) => words[0] ?? '')
}

/** The family a name begins with, and the words after it; its version may hang on the last word (`llama3.2`, `qwen2.5vl`). */
function familyOf(words: readonly string[]): { readonly family: Family; readonly rest: readonly string[] } | null {
  const word = words[0] ?? ''
  const letters = /^[a-z]+/.exec(word)?.[0] ?? ''
  for (const { words: spelling, family } of spellings.get(word) ?? spellings.get(letters) ?? []) {
    if (spelling.slice(0, -1).some((part, index) => words[index] !== part)) continue
    const last = spelling.at(-1) ?? ''
    const end = words[spelling.length - 1] ?? ''
    if (!end.startsWith(last)) continue
    const hanging = end.slice(last.length)
    const after = words.slice(spelling.length)
    if (hanging === '') return { family, rest: after }
    const vision = hanging.length > 2 && hanging.endsWith('vl')
    const version = vision ? hanging.slice(0, -2) : hanging
    if (/^\d/.test(version) && versionOf(version) !== null) return { family, rest: [version, ...(vision ? ['vl'] : []), ...after] }
  }
  return null
}

function unknownFamily(words: readonly string[]): string {
  const end = words.findIndex(word => /^v?\d/.test(word))
  const own = end < 0 ? words : words.slice(0, Math.max(1, end))
  return own.join('-')
}
