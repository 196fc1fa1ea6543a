// Which listed names mean one model, found out anew only when the lists change: reading some hundred names takes tens of milliseconds.

import { canonical } from '../routing/catalog.ts'
import { type JoinedModels, joinModels, type NamedModel, parseModelName } from '../routing/model-names.ts'
import type { ModelListing, Upstream } from '../routing/types.ts'

export interface Listed {
  readonly upstream: Upstream
  readonly listings: readonly ModelListing[]
}

export interface Joins {
  /** The other names of a model, by each of its names. */
  readonly others: ReadonlyMap<string, readonly string[]>
  /** For people: what was joined, and what was not though it looks alike. */
  readonly told: JoinedModels
}

/** `overrides`: name -> canonical name, as the configuration has it. */
export function createJoins(overrides: ReadonlyMap<string, string>): (listed: readonly Listed[]) => Joins {
  // Every machine's list comes anew now and then, and those of all others are the same as before.
  const read = new WeakMap<ModelListing, { readonly adapter: string; readonly named: NamedModel[] }>()
  let of = ''
  let joins: Joins = { others: new Map(), told: { joined: [], guesses: [], moreGuesses: false } }

  function known(upstream: Upstream, listing: ModelListing): NamedModel[] {
    const before = read.get(listing)
    if (before?.adapter === upstream.adapter) return before.named
    const named = namedOf(upstream, listing)
    read.set(listing, { adapter: upstream.adapter, named })
    return named
  }

  return listed => {
    const names = listed.flatMap(({ upstream, listings }) => listings.flatMap(listing => known(upstream, listing)))
    const now = JSON.stringify(names)
    if (now !== of) {
      of = now
      joins = joinsOf(joinModels(names, overrides))
    }
    return joins
  }
}

function joinsOf(told: JoinedModels): Joins {
  const others = new Map<string, readonly string[]>()
  for (const { members } of told.joined) {
    const names = [...new Set(members.map(({ name }) => canonical(name)))]
    for (const name of names) {
      others.set(
        name,
        names.filter(other => other !== name)
      )
    }
  }
  return { others, told }
}

/** Nothing for what only answers chat requests by another way: a free variant has limits and rules of its own, and vectors have spaces. */
function namedOf({ adapter }: Upstream, { model, operations, build }: ModelListing): NamedModel[] {
  if (!operations.includes('chat') || (parseModelName(model, { upstreamKind: adapter })?.route ?? null) !== null) return []
  return [
    {
      name: model,
      upstreamKind: adapter,
      facts: {
        parameterSize: build?.paramsB == null ? null : `${build.paramsB}B`,
        quantizationLevel: build?.quantization ?? null,
        family: build?.family ?? null,
        huggingFaceId: build?.huggingFaceId ?? null
      }
    }
  ]
}
