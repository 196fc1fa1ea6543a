// What a model's name says of it: family, version, size, variant, quantisation; and what it does not say for certain.

import { isOnto, lineOf, releaseKey, sizeOf, variantOf } from './fill.ts'
import { type Place, placeOf, quantizationsOf } from './place.ts'
import { type Reading, read } from './read.ts'
import { type Family, releases } from './releases.ts'
import { parameterCount } from './words.ts'

/** What is known of a model besides its name; all of it may be missing. */
export interface ModelFacts {
  /** Whose name it is: `ollama`, `openrouter`, or another adapter's name. Absent: as the name looks. */
  readonly upstreamKind?: string | undefined
  /** Ollama's `details.parameter_size`, e.g. `8.0B`. */
  readonly parameterSize?: string | null | undefined
  /** Ollama's `details.quantization_level`, e.g. `Q4_K_M`. */
  readonly quantizationLevel?: string | null | undefined
  /** Ollama's `details.family`, e.g. `qwen3moe`. */
  readonly family?: string | null | undefined
  /** OpenRouter's `hugging_face_id`: the publisher's name of the same model, which says more than the slug. */
  readonly huggingFaceId?: string | null | undefined
}

export interface ModelName {
  /** A family we know (`qwen`, `mistral-small`), or else the first words of the name. */
  readonly family: string
  /** '' = the family's names have none; null = it is not known which. */
  readonly version: string | null
  /** `3b`, `30b-a3b`, `8x7b`, `e4b`; null = not known. */
  readonly size: string | null
  /** All parameters, in billions, as the name rounds them; null = not known. */
  readonly sizeB: number | null
  /** Of a mixture of experts, those that work on one token; null = not known, or not a mixture. */
  readonly activeB: number | null
  /**
   * In order, each once: `instruct`, `base`, `chat`, `thinking`, `coder`, `vision`, dates, `distill`, `on-qwen` (what it was
   * distilled onto), …; `main` is the tuned model of a release whose publisher gives it no word. Null = the name does not
   * say, and no convention is certain.
   */
  readonly variant: readonly string[] | null
  /** Those words of it that make a line of its own (`coder`, `vision`, `mini`), known even when the variant is not. */
  readonly line: readonly string[]
  readonly quantization: string | null
  /** Of OpenRouter: which way to the same model (`free`, `nitro`, `floor`, `exacto`). */
  readonly route: string | null
  /** What was not in the name, and on what ground it was taken to be so. */
  readonly assumed: readonly string[]
  /** Why this name must not be joined with another; empty = nothing speaks against it. */
  readonly doubts: readonly string[]
}

/** How far a server's count of parameters may be from a size: beyond, it is another model, whatever it is called. */
const contradictedBelow = 0.75
const contradictedAbove = 1.55

/**
 * Reads a name as Ollama, OpenRouter or Hugging Face write them; null when there is no name to read. Never throws, and
 * takes time in proportion to the length, whatever the text.
 * Nothing is guessed: what the name does not say is filled in from `facts`, or from what is certain of the release
 * (`llama3.2:3b` in Ollama's library is the instruct model), and told in `assumed`; anything else stays null, or is a doubt.
 */
export function parseModelName(name: string, facts: ModelFacts = {}): ModelName | null {
  const place = placeOf(name, facts.upstreamKind)
  if (place === null) return null
  const reading = read(place)
  const hub = facts.huggingFaceId ? placeOf(facts.huggingFaceId, 'huggingface') : null
  if (hub === null || place.source === 'library' || place.source === 'hub') return complete(reading, place, facts)
  return agreed(reading, place, read(hub), hub, facts)
}

/** A slug and the publisher's own name of the same model: the latter says more, and the former must not say otherwise. */
function agreed(slug: Reading, place: Place, hub: Reading, hubPlace: Place, facts: ModelFacts): ModelName {
  const doubts = [...slug.doubts]
  const publisher = `its Hugging Face name ${facts.huggingFaceId}`
  if (slug.family === null) return complete(slug, place, facts)
  if (hub.family !== slug.family) {
    doubts.push(`${publisher} is of another family`)
    return complete({ ...slug, doubts }, place, facts)
  }
  if (slug.version !== null && slug.version !== hub.version) doubts.push(`${publisher} is not of version ${slug.version}`)
  for (const part of ['total', 'active', 'count'] as const) {
    const said = slug[part]
    if (said !== null && said.text !== hub[part]?.text) doubts.push(`${publisher} does not say ${said.text}`)
  }
  for (const word of slug.words) {
    // Of DeepSeek's models for chat the slug says so, the name does not.
    if (word !== 'chat' && !hub.words.has(word)) doubts.push(`${publisher} does not say "${word}"`)
  }
  // The publisher's files are not what the provider runs: their quantisation says nothing.
  const reading = { ...hub, quantization: slug.quantization, doubts: [...doubts, ...hub.doubts] }
  return complete(reading, { ...hubPlace, route: place.route }, facts)
}

/** Adds to a reading what its release and the server's facts say. */
function complete(reading: Reading, place: Place, facts: ModelFacts): ModelName {
  const { family } = reading
  const assumed: string[] = []
  const doubts = [...reading.doubts]
  const words = new Set(reading.words)
  const counted = parameterCount(facts.parameterSize)
  const architecture = (facts.family ?? '').toLowerCase()

  // `mistral-small:24b` of the library is version 3.
  let version = reading.version
  if (version === null && place.source === 'library' && reading.total !== null) {
    version = family?.libraryVersions?.[reading.total.text] ?? null
    if (version !== null) assumed.push(`${version} is the version of Ollama's ${reading.title} of ${reading.total.text}`)
  }
  if (version === null && family !== null) doubts.push('it does not say its version')

  const release = version === null || family === null ? null : (releases.get(releaseKey(family.family, version, words)) ?? null)
  for (const word of release?.implied ?? []) words.delete(word)

  const size = sizeOf({ reading, release, words, place, counted, assumed, doubts })
  if (counted !== null && size.sizeB !== null && (counted < size.sizeB * contradictedBelow || counted > size.sizeB * contradictedAbove)) {
    doubts.push(`its server counts ${facts.parameterSize} parameters, which is not ${size.text}`)
  }

  const variant = variantOf({ reading, release, words, place, size: size.text, architecture, assumed, doubts })
  contradictArchitecture(family, variant, architecture, doubts)

  return {
    family: reading.title,
    version,
    size: size.text,
    sizeB: size.sizeB ?? counted,
    activeB: size.activeB,
    variant,
    line: lineOf(words),
    quantization: reading.quantization ?? (quantizationsOf((facts.quantizationLevel ?? '').toLowerCase()) || null),
    route: place.route,
    assumed,
    doubts: [...new Set(doubts)]
  }
}

/** The server knows what it loaded: a name that says otherwise was given by somebody to something else. */
function contradictArchitecture(family: Family | null, variant: readonly string[] | null, architecture: string, doubts: string[]): void {
  if (architecture === '' || family === null) return
  const onto = variant?.find(isOnto)?.split('-')[1]
  const expected = onto === undefined ? family.architectures : [onto]
  if (expected.length > 0 && !expected.some(start => architecture.startsWith(start))) {
    doubts.push(`its server says that it is built as ${architecture}`)
  }
}
