// What a name leaves out and its release, or its server, says for certain: its size and its variant.

import type { Place } from './place.ts'
import type { Reading } from './read.ts'
import { expertTotals, main, type Release } from './releases.ts'
import { isDate, sizePartOf } from './words.ts'

/** The key of a release. */
export function releaseKey(family: string, version: string, words: ReadonlySet<string>): string {
  return [family, version === '' ? '-' : version, ...lineOf(words)].join(' ')
}

/** Without the kinds that every line has, dates, and what was done to a model afterwards. */
export function lineOf(words: ReadonlySet<string>): readonly string[] {
  return [...words].filter(word => !kinds.has(word) && !isEdition(word) && !notLines.has(word) && !isOnto(word)).sort()
}

const kinds = new Set(['instruct', 'chat', 'base', 'thinking'])
const editions = new Set(['exp', 'preview', 'speciale', 'terminus'])
const notLines = new Set(['distill', 'qat', 'maverick', 'scout'])

export interface Filling {
  readonly reading: Reading
  readonly release: Release | null
  readonly words: Set<string>
  readonly place: Place
  readonly assumed: string[]
  readonly doubts: string[]
}

export interface Size {
  readonly text: string | null
  readonly sizeB: number | null
  readonly activeB: number | null
}

export function sizeOf({ reading, release, words, place, counted, assumed, doubts }: Filling & { readonly counted: number | null }): Size {
  const { total, active, count } = reading
  let text = total === null ? null : total.text
  if (text !== null && count !== null) text = `${count.text}x${text}`
  if (text !== null && active !== null) text = `${text}-${active.text}`
  for (const [word, named] of Object.entries(release?.sizeWords ?? {})) {
    if (!words.delete(word)) continue
    if (text !== null && text !== named) doubts.push(`"${word}" is not ${text}`)
    text ??= named
  }
  if (text === null && release?.onlySize !== undefined && place.source !== 'library' && ![...words].some(word => isOnto(word))) {
    text = release.onlySize
    assumed.push(`${text} is the only size of this release`)
  }
  if (text === null && release !== null && counted !== null) {
    const fitting = release.sizes.filter(size => fits(counted, partsOf(size).sizeB))
    if (fitting.length === 1) {
      text = fitting[0] ?? null
      assumed.push(`${text} is what its server counts`)
    }
  }
  if (text === null) {
    if (reading.family !== null) doubts.push('it does not say its size')
    return { text: null, sizeB: null, activeB: active?.billions ?? null }
  }
  if (release !== null && !release.sizes.includes(text)) {
    const short = text
    const whole = release.sizes.filter(size => size.startsWith(`${short}-a`))
    if (whole.length === 1) text = whole[0] ?? text
    else doubts.push(`${text} is not a size of this release`)
  }
  return { text, ...partsOf(text) }
}

/** The sizes in one of our texts. */
function partsOf(text: string): { readonly sizeB: number | null; readonly activeB: number | null } {
  const experts = expertTotals[text]
  if (experts !== undefined) return { sizeB: experts[0], activeB: experts[1] }
  const [whole = '', of = ''] = text.split('-')
  const part = sizePartOf(whole)
  return { sizeB: part?.kind === 'total' ? part.billions : null, activeB: sizePartOf(of)?.billions ?? null }
}

/** How far a server's count of parameters may be from the size in the name, as a factor (1b is 1.24, 2b is 2.6). */
const countFrom = 0.93
const countTo = 1.33

function fits(counted: number, sizeB: number | null): boolean {
  return sizeB !== null && counted >= sizeB * countFrom && counted <= sizeB * countTo
}

/** The variant with what convention adds to it; null when none is certain. */
export function variantOf(filling: Filling & { readonly size: string | null; readonly architecture: string }): readonly string[] | null {
  const { reading, release, words, assumed, doubts } = filling
  const onto = [...words].some(isOnto)
  if (words.has('distill') && !onto) doubts.push('it does not say what it was distilled onto')
  if (onto || [...words].some(word => kinds.has(word))) return [...words].sort()
  const added = conventionOf(filling)
  if (added === null) {
    if (reading.family !== null) doubts.push('it does not say its variant, and may mean several')
    return null
  }
  if (release !== null) assumed.push(`${added.join(' ')} is what ${placeWords[filling.place.source]} without a variant means`)
  return [...new Set([...words, ...added])].sort()
}

const placeWords = { library: "Ollama's tag", hub: "its publisher's name", published: "its publisher's name", bare: 'its name' }

function conventionOf({
  release,
  words,
  place,
  size,
  architecture
}: Filling & { readonly size: string | null; readonly architecture: string }) {
  if (release === null || place.source === 'bare') return null
  const dated = [...words].filter(isEdition)
  // The other sizes of such a release are something else (distillations) under its name.
  const elsewhere = place.source !== 'library' || dated.length > 0
  if (elsewhere && release.onlySize !== undefined && size !== release.onlySize) return null
  if (dated.some(word => !release.editions?.includes(word))) return null
  // An edition is of the model itself, and says so.
  if (dated.length > 0) return release.hub === main ? main : null
  if (place.source === 'hub') return release.hub
  // Providers leave the word out where publishers do not: only what has no word is certain.
  if (place.source === 'published') return release.hub === main ? main : null
  if (size === null) return release.libraryAt === undefined ? release.library : null
  const byArchitecture = release.libraryByArchitecture?.[size]
  if (byArchitecture !== undefined) return byArchitecture.get(architecture) ?? null
  const here = release.libraryAt?.[size]
  return here === undefined ? release.library : here
}

function isEdition(word: string): boolean {
  return isDate(word) || editions.has(word)
}

export function isOnto(word: string): boolean {
  return word.startsWith('on-')
}
