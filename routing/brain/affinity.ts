// Where the beginning of a prompt was read already: of each machine and model the last chains of messages, by their hashes. Pure.

import { LRUCache } from 'lru-cache'

/** One link for each message, with everything before it: its hash, and how many tokens it is up to there. */
export type Chain = readonly { readonly hash: string; readonly tokens: number }[]

export interface Affinity {
  /** Tokens at the beginning that this target has read lately. */
  cached(targetId: string, chain: Chain, nowS: number): number
  /** It reads this chain now, and keeps it for `forS`; of `kept` chains the oldest is forgotten. */
  read(targetId: string, chain: Chain, keep: { readonly nowS: number; readonly forS: number; readonly chains: number }): void
  /** What it kept is gone: the model was unloaded. */
  forget(targetId: string): void
}

const targetsAtMost = 2_000

export function createAffinity(): Affinity {
  const kept = new LRUCache<string, { readonly hashes: ReadonlySet<string>; readonly untilS: number }[]>({ max: targetsAtMost })
  return {
    cached(targetId, chain, nowS) {
      const chains = kept.get(targetId)
      if (chains === undefined) return 0
      for (let at = chain.length - 1; at >= 0; at--) {
        const { hash, tokens } = chain[at] as Chain[number]
        if (chains.some(({ hashes, untilS }) => untilS > nowS && hashes.has(hash))) return tokens
      }
      return 0
    },
    read(targetId, chain, { nowS, forS, chains: most }) {
      if (chain.length === 0) return
      const hashes = new Set(chain.map(({ hash }) => hash))
      const others = (kept.get(targetId) ?? []).filter(other => other.untilS > nowS && ![...other.hashes].every(hash => hashes.has(hash)))
      kept.set(targetId, [{ hashes, untilS: nowS + forS }, ...others].slice(0, most))
    },
    forget: targetId => void kept.delete(targetId)
  }
}
