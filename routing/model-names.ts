// Which names on different servers mean one model: joined when that is certain, listed as a guess when it is not.

import { type ModelFacts, type ModelName, parseModelName } from './model-names/parse.ts'

export { type ModelFacts, type ModelName, parseModelName }

export interface NamedModel {
  /** As its server lists it. */
  readonly name: string
  /** The adapter's name: `ollama`, `openrouter`, `openai`, … */
  readonly upstreamKind: string
  readonly facts?: Omit<ModelFacts, 'upstreamKind'> | undefined
}

export interface JoinedMember {
  readonly name: string
  readonly upstreamKind: string
  /** Null when the name could not be read. */
  readonly parsed: ModelName | null
  /** Members of one group may differ in it. Null = not known, which is the rule for rented models. */
  readonly quantization: string | null
}

export interface JoinedModel {
  /** Unique among the groups, and the same for the same names in any order. */
  readonly key: string
  readonly members: readonly JoinedMember[]
  /** In plain words. */
  readonly reason: string
}

export interface ModelGuess {
  readonly names: readonly [string, string]
  /** Why they were not joined, in plain words. */
  readonly reason: string
}

export interface JoinedModels {
  /** Groups of two names or more, in the order of their first members. */
  readonly joined: readonly JoinedModel[]
  readonly guesses: readonly ModelGuess[]
  /** There are more guesses than are listed. */
  readonly moreGuesses: boolean
}

/** As many as somebody may read; nothing is joined by leaving one out. */
const maxGuesses = 1_000
/** Pairs that are looked at: more than real lists have (350 rented models and 100 own ones: under 20,000). */
const maxPairs = 1_000_000

/**
 * The text under which targets are one model: family, version, size and variant. Quantisation is not in it: q4 and q8 of a
 * model are that model, and whoever minds the difference finds it on each member. Null when one of the four is not known,
 * or anything else speaks against joining.
 */
export function joinKeyOf(parsed: ModelName): string | null {
  const { family, version, size, variant, doubts } = parsed
  if (version === null || size === null || variant === null || variant.length === 0 || doubts.length > 0) return null
  return [family, version === '' ? '-' : version, size, ...variant].join(' ')
}

/**
 * Joins names whose family, version, size and variant are all known and equal, whatever their quantisation, and lists as
 * guesses those that look alike and were not joined. Guesses are looked for between kinds of upstream and among Ollama's
 * names; two names in one provider's list are two models, its list says so.
 * 1. `overrides` (name -> canonical name, followed to its end) win: the name is the model that its canonical name is, listed
 *    or not; a name that is mapped to itself is joined with nothing but what is mapped to it.
 * 2. A name that means different models on different servers, or is known on one and not on another, is not joined.
 * 3. Otherwise `joinKeyOf` decides.
 * The groups do not depend on the order of `names`; `x:latest` is `x`, and one name is no group.
 */
export function joinModels(names: readonly NamedModel[], overrides: ReadonlyMap<string, string>): JoinedModels {
  const entries = names.map(entryOf)
  const keys = keysByName(entries)
  const decided = new Map([...overrides].map(([name, canonical]) => [plainOf(name), plainOf(canonical)]))
  const groups = Map.groupBy(entries, entry => identityOf(entry.plain, keys, decided))
  const joined = [...groups].flatMap(([key, members]) => {
    if (members.every(({ plain }) => plain === members[0]?.plain)) return []
    const each = eachOnce(members)
    return [{ key, members: each.map(({ member }) => member), reason: reasonOf(key, each, decided) }]
  })
  return { joined, ...guessesOf(groups, keys, decided) }
}

interface Entry {
  readonly member: JoinedMember
  /** Without `:latest`. */
  readonly plain: string
  readonly key: string | null
}

function entryOf({ name, upstreamKind, facts }: NamedModel): Entry {
  const parsed = parseModelName(name, { ...facts, upstreamKind })
  return {
    member: { name, upstreamKind, parsed, quantization: parsed?.quantization ?? null },
    plain: plainOf(name),
    key: parsed === null ? null : joinKeyOf(parsed)
  }
}

function plainOf(name: string): string {
  return name.endsWith(':latest') ? name.slice(0, -7) : name
}

/** 2. The key of each listed name; null when it has none, or several. */
function keysByName(entries: readonly Entry[]): ReadonlyMap<string, string | null> {
  const keys = new Map<string, string | null>()
  for (const { plain, key } of entries) keys.set(plain, keys.has(plain) && keys.get(plain) !== key ? null : key)
  return keys
}

/** Names with the same identity are one model. `=name` is that name and nothing else. */
function identityOf(name: string, keys: ReadonlyMap<string, string | null>, overrides: ReadonlyMap<string, string>): string {
  const end = endOf(name, overrides)
  if (overrides.has(end)) return `=${end}`
  const listed = keys.get(end)
  if (listed !== undefined) return listed ?? `=${end}`
  const parsed = parseModelName(end)
  return (parsed === null ? null : joinKeyOf(parsed)) ?? `=${end}`
}

/** 1. Where the overrides lead: a name without one, one that is mapped to itself, or the first by alphabet of a circle. */
function endOf(name: string, overrides: ReadonlyMap<string, string>): string {
  const seen = new Set<string>()
  let at = name
  for (let next = overrides.get(at); next !== undefined && next !== at; next = overrides.get(at)) {
    if (seen.has(at)) return circleOf(at, overrides)
    seen.add(at)
    at = next
  }
  return at
}

function circleOf(start: string, overrides: ReadonlyMap<string, string>): string {
  let least = start
  for (let at = overrides.get(start); at !== undefined && at !== start; at = overrides.get(at)) if (at < least) least = at
  return least
}

/** Several machines list the same name; it is told once, for each quantisation. */
function eachOnce(entries: readonly Entry[]): readonly Entry[] {
  const seen = new Set<string>()
  return entries.filter(({ member: { name, upstreamKind, quantization } }) => {
    const id = JSON.stringify([name, upstreamKind, quantization])
    return !seen.has(id) && seen.add(id)
  })
}

function reasonOf(key: string, entries: readonly Entry[], overrides: ReadonlyMap<string, string>): string {
  const configured = [...new Set(entries.map(({ plain }) => plain))].filter(name => overrides.has(name))
  const parts = key.startsWith('=') ? [] : [`the same family, version, size and variant: ${key}`]
  if (configured.length > 0) parts.push(`the configuration says so of ${configured.map(name => `"${name}"`).join(', ')}`)
  if (parts.length === 0) parts.push('the same name')
  const assumed = new Set(
    entries.flatMap(({ plain, member }) =>
      overrides.has(plain) ? [] : (member.parsed?.assumed ?? []).map(what => `of "${member.name}", ${what}`)
    )
  )
  return [...parts, ...assumed].join('; ')
}

/** Pairs of groups (or single names) that may be one model; of each group one name is told. */
function guessesOf(
  groups: ReadonlyMap<string, readonly Entry[]>,
  keys: ReadonlyMap<string, string | null>,
  overrides: ReadonlyMap<string, string>
): Pick<JoinedModels, 'guesses' | 'moreGuesses'> {
  const open = [...groups.values()].map(entries => entries.filter(({ plain, member }) => member.parsed !== null && !overrides.has(plain)))
  const families = Map.groupBy(
    open.filter(entries => entries.length > 0),
    entries => entries[0]?.member.parsed?.family
  )
  const guesses: ModelGuess[] = []
  let pairs = 0
  for (const family of families.values()) {
    for (const [index, some] of family.entries()) {
      for (const others of family.slice(index + 1)) {
        pairs += 1
        if (pairs > maxPairs || guesses.length >= maxGuesses) return { guesses, moreGuesses: true }
        const pair = nearPair(some, others)
        if (pair === null) continue
        const [one, other] = pair
        guesses.push({ names: [one.member.name, other.member.name], reason: differenceOf(one, other, keys) })
      }
    }
  }
  return { guesses, moreGuesses: false }
}

/** One line, and versions and sizes that are the same as far as they are known, in lists that do not tell them apart themselves. */
function nearPair(some: readonly Entry[], others: readonly Entry[]): readonly [Entry, Entry] | null {
  const [one, other] = [some[0]?.member.parsed, others[0]?.member.parsed]
  if (one === undefined || one === null || other === undefined || other === null) return null
  if (one.line.join(' ') !== other.line.join(' ')) return null
  if (one.version !== null && other.version !== null && one.version !== other.version) return null
  if (one.size !== null && other.size !== null && one.size !== other.size && one.sizeB !== other.sizeB) return null
  for (const from of some) {
    const to = others.find(({ member }) => member.upstreamKind !== from.member.upstreamKind || member.upstreamKind === 'ollama')
    if (to !== undefined) return [from, to]
  }
  return null
}

function differenceOf(one: Entry, other: Entry, keys: ReadonlyMap<string, string | null>): string {
  const doubts = [one, other].flatMap(({ plain, member: { name, parsed }, key }) => {
    if (parsed !== null && parsed.doubts.length > 0) return [`"${name}": ${parsed.doubts.join(', ')}`]
    return key !== null && keys.get(plain) === null ? [`"${name}" is not the same model on every server`] : []
  })
  return doubts.length > 0 ? doubts.join('; ') : `"${one.member.name}" is ${one.key}, "${other.member.name}" is ${other.key}`
}
