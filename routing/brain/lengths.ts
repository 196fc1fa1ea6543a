// How long answers get: learned for each source and model, from the general to the particular. Pure.

import { LRUCache } from 'lru-cache'

/** A distribution of answer lengths, tokens; never above the request's own bound. */
export interface Lengths {
  readonly mean: number
  quantile(share: number): number
  /** The share of answers longer than `tokens`. */
  beyond(tokens: number): number
  /** How many more come on average after `tokens` have come; at least 1. */
  moreAfter(tokens: number): number
}

export interface LengthModel {
  /** What is expected of the next answer. Cheap: asked for every decision. */
  of(source: string, model: string, maxTokens: number | null): Lengths
  /** `isCut`: it would have gone on (its bound, or a client that left). */
  observe(source: string, model: string, answer: { readonly tokens: number; readonly isCut: boolean }): void
  /** Of the 500 sources, and sources with a model, that were used last. */
  snapshot(): LengthSnapshot
  restore(kept: unknown): void
}

export interface LengthSnapshot {
  readonly version: 1
  readonly all: readonly number[]
  readonly sources: readonly (readonly [string, readonly number[]])[]
  readonly pairs: readonly (readonly [string, readonly number[]])[]
}

const bucketCount = 40
const longest = 65_536
const ratio = longest ** (1 / bucketCount)
const logRatio = Math.log(ratio)
// The general counts as this many observations of the particular.
const generalWeight = 8
// An observation counts half after 346 others.
const decay = 0.998
// However many there were, they count as no more than this together; but for rounding.
const totalAtMost = 1.01 / (1 - decay)
const keptAtMost = 10_000
// Clients can make up names of models.
const modelsAtMost = 1_000
// Of these, the ones used last are worth keeping over a restart.
const storedAtMost = 500

/** Lower edge of each bucket, and the end. */
const edges = Float64Array.from({ length: bucketCount + 1 }, (_, at) => ratio ** at)
// Within a bucket, lengths are even on a logarithmic scale.
const means = Float64Array.from({ length: bucketCount }, (_, at) => (edge(at + 1) - edge(at)) / logRatio)

// Quantiles of answers in public chat traces (Azure LLM inference traces, 2023): what is expected before anything was seen.
const priorQuantiles: readonly (readonly [number, number])[] = [
  [0, 6],
  [0.1, 20],
  [0.3, 60],
  [0.5, 129],
  [0.7, 300],
  [0.9, 430],
  [0.99, 1_000],
  [1, 8_000]
]
const prior = priorShares()

interface Counts {
  readonly shares: Float64Array
  total: number
}

export function createLengthModel(): LengthModel {
  const all = emptyCounts()
  const sources = new LRUCache<string, Counts>({ max: keptAtMost })
  const pairs = new LRUCache<string, Counts>({ max: keptAtMost })
  const known = new LRUCache<string, { readonly version: number; readonly shares: Float64Array }>({ max: keptAtMost })
  let version = 0

  const pairKeys = new LRUCache<string, Map<string, string>>({ max: keptAtMost })

  /** As it is kept; made once. */
  function pairKey(source: string, model: string): string {
    let ofSource = pairKeys.get(source)
    if (ofSource === undefined || ofSource.size > modelsAtMost) pairKeys.set(source, (ofSource = new Map()))
    let key = ofSource.get(model)
    if (key === undefined) ofSource.set(model, (key = JSON.stringify([source, model])))
    return key
  }

  /** Of all answers, bound or not. */
  function sharesOf(source: string, model: string): Float64Array {
    const key = pairKey(source, model)
    const cached = known.get(key)
    if (cached !== undefined && cached.version === version) return cached.shares
    const shares = mixed([all, sources.get(source), pairs.get(key)])
    known.set(key, { version, shares })
    return shares
  }

  function restore(kept: unknown): void {
    const snapshot = kept as LengthSnapshot | null | undefined
    if (snapshot?.version !== 1 || !isCounts(snapshot.all)) return
    fill(all, snapshot.all)
    for (const [name, counts] of stored(snapshot.sources)) sources.set(name, fill(emptyCounts(), counts))
    for (const [name, counts] of stored(snapshot.pairs)) pairs.set(name, fill(emptyCounts(), counts))
    version++
  }

  return {
    of: (source, model, maxTokens) => new LearnedLengths(sharesOf(source, model), maxTokens),
    observe(source, model, { tokens, isCut }) {
      if (!Number.isFinite(tokens) || tokens < 0) return
      const added = isCut ? rest(sharesOf(source, model), tokens) : bucketOf(tokens)
      add(all, added)
      add(entry(sources, source), added)
      add(entry(pairs, pairKey(source, model)), added)
      version++
    },
    snapshot: () => ({
      version: 1,
      all: rounded(all),
      sources: lastUsed(sources),
      pairs: lastUsed(pairs)
    }),
    restore
  }
}

/** An answer of a length that is known. */
export function knownLength(tokens: number): Lengths {
  return {
    mean: tokens,
    quantile: () => tokens,
    beyond: than => (tokens > than ? 1 : 0),
    moreAfter: streamed => Math.max(1, tokens - streamed)
  }
}

/** Of answers of these shares, none above the bound. */
class LearnedLengths implements Lengths {
  readonly mean: number
  readonly #shares: Float64Array
  readonly #bound: number
  /** The bucket of the bound. */
  readonly #last: number
  /** What the last bucket ends with. */
  readonly #end: number
  #median: number | null = null
  #long: number | null = null

  constructor(shares: Float64Array, maxTokens: number | null) {
    this.#shares = shares
    // A bound beyond all lengths is none: the share of the longest would be taken to go up to it.
    this.#bound = Math.max(1, Math.min(longest, maxTokens ?? longest))
    this.#last = bucketOf(this.#bound)
    // Of the bucket of the bound, the part below it is taken to end at it as well.
    this.#end = maxTokens === null ? (means[this.#last] as number) : this.#bound
    let below = 0
    let mean = 0
    for (let at = 0; at < this.#last; at++) {
      below += share(shares, at)
      mean += share(shares, at) * (means[at] as number)
    }
    this.mean = mean + (1 - below) * this.#end
  }

  /** The two that every estimate asks for are found once. */
  quantile(wanted: number): number {
    if (wanted === 0.5) return (this.#median ??= this.#quantile(0.5))
    return wanted === 0.9 ? (this.#long ??= this.#quantile(0.9)) : this.#quantile(wanted)
  }

  #quantile(wanted: number): number {
    let sum = 0
    for (let at = 0; at < this.#last; at++) {
      const here = share(this.#shares, at)
      if (sum + here >= wanted && here > 0) return Math.min(this.#bound, edge(at) * ratio ** ((wanted - sum) / here))
      sum += here
    }
    return this.#end
  }

  beyond(tokens: number): number {
    if (tokens < 1) return 1
    if (tokens >= this.#bound) return 0
    const bucket = bucketOf(tokens)
    let sum = 0
    for (let at = 0; at < bucket; at++) sum += share(this.#shares, at)
    const within = Math.log(tokens / edge(bucket)) / logRatio
    return Math.max(0, 1 - sum - share(this.#shares, bucket) * Math.min(1, within))
  }

  moreAfter(tokens: number): number {
    const bound = this.#bound
    if (tokens <= 1) return Math.max(1, this.mean - tokens)
    if (tokens >= bound) return 1
    const bucket = bucketOf(tokens)
    const above = Math.log(edge(bucket + 1) / tokens) / logRatio
    let left = share(this.#shares, bucket) * above
    let sum = left * ((tokens + Math.min(bound, edge(bucket + 1))) / 2)
    for (let at = bucket + 1; at < bucketCount; at++) {
      left += share(this.#shares, at)
      sum += share(this.#shares, at) * Math.min(bound, means[at] as number)
    }
    // Nobody ever went so far: as much again as half of what came.
    return left < 1e-6 ? Math.max(1, Math.min(bound - tokens, tokens / 2)) : Math.max(1, sum / left - tokens)
  }
}

/** What is generally expected, corrected by each of these in turn: the particular last. */
function mixed(particulars: readonly (Counts | undefined)[]): Float64Array {
  const shares = new Float64Array(prior)
  for (const particular of particulars) {
    if (particular === undefined || particular.total === 0) continue
    const whole = particular.total + generalWeight
    for (let at = 0; at < bucketCount; at++) shares[at] = (share(particular.shares, at) + generalWeight * share(shares, at)) / whole
  }
  return shares
}

/** One answer, in one bucket or as shares of several. */
function add(counts: Counts, added: number | Float64Array): void {
  const { shares } = counts
  for (let at = 0; at < bucketCount; at++) shares[at] = share(shares, at) * decay
  if (typeof added === 'number') shares[added] = share(shares, added) + 1
  else for (let at = 0; at < bucketCount; at++) shares[at] = share(shares, at) + share(added, at)
  counts.total = counts.total * decay + 1
}

/** An answer that was cut says only that it is longer: it counts as all those that are. */
function rest(shares: Float64Array, tokens: number): number | Float64Array {
  const first = bucketOf(tokens)
  let left = 0
  for (let at = first; at < bucketCount; at++) left += share(shares, at)
  if (left <= 0) return first
  return shares.map((value, at) => (at < first ? 0 : value / left))
}

function bucketOf(tokens: number): number {
  return Math.max(0, Math.min(bucketCount - 1, Math.floor(Math.log(Math.max(1, tokens)) / logRatio)))
}

function edge(at: number): number {
  return edges[at] as number
}

function share(shares: Float64Array, at: number): number {
  return shares[at] as number
}

function emptyCounts(): Counts {
  return { shares: new Float64Array(bucketCount), total: 0 }
}

function entry(of: LRUCache<string, Counts>, key: string): Counts {
  const counts = of.get(key) ?? emptyCounts()
  of.set(key, counts)
  return counts
}

function fill(counts: Counts, values: readonly number[]): Counts {
  counts.shares.set(values)
  counts.total = values.reduce((sum, value) => sum + value, 0)
  return counts
}

/** The one used last first, as the cache tells them. */
function lastUsed(of: LRUCache<string, Counts>): LengthSnapshot['pairs'] {
  return [...of.entries()].slice(0, storedAtMost).map(([name, counts]) => [name, rounded(counts)] as const)
}

/** Four digits say all there is to say, and take a third of the room. */
function rounded({ shares }: Counts): number[] {
  return Array.from(shares, value => Number(value.toPrecision(4)))
}

/** Entries that can be used, the one used last last. */
function stored(entries: unknown): readonly (readonly [string, readonly number[]])[] {
  if (!Array.isArray(entries)) return []
  return entries
    .slice(0, storedAtMost)
    .filter(entry => Array.isArray(entry) && typeof entry[0] === 'string' && isCounts(entry[1]))
    .toReversed()
}

function isCounts(values: unknown): values is readonly number[] {
  return (
    Array.isArray(values) &&
    values.length === bucketCount &&
    values.every(value => Number.isFinite(value) && value >= 0 && value <= totalAtMost)
  )
}

function priorShares(): Float64Array {
  const shares = new Float64Array(bucketCount)
  const upTo = (tokens: number): number => {
    for (const [at, [after, to]] of priorQuantiles.entries()) {
      if (tokens > to) continue
      const [before, from] = priorQuantiles[at - 1] ?? [0, to]
      return from === to ? before : before + ((after - before) * Math.log(tokens / from)) / Math.log(to / from)
    }
    return 1
  }
  for (let at = 0; at < bucketCount; at++) shares[at] = Math.max(1e-6, upTo(edge(at + 1)) - Math.max(0, upTo(edge(at))))
  const total = shares.reduce((sum, value) => sum + value, 0)
  return shares.map(value => value / total)
}
