// What recent answers said, by the ids of their items: in memory, bounded, for an hour. It is no store, and says so (`store: false`).

import { LRUCache } from 'lru-cache'
import { isRecord, type Json } from './fields.ts'

/**
 * OpenAI's clients that rely on `store` (the AI SDK by default) send an assistant's text back as a reference to its item.
 * Whoever asks with `store: false` is not remembered, and gets no references from such a client either.
 */
export interface RecentItems {
  /** `owner`: who may refer to them. */
  remember(owner: string, output: readonly Json[]): void
  /** The input with every reference that is still known replaced by its item. Others are left as they are. */
  resolve(owner: string, input: unknown): unknown
}

const rememberMs = 3_600_000
const charactersAtMost = 32 * 1024 * 1024
const itemsAtMost = 20_000

export function createRecentItems(): RecentItems {
  const items = new LRUCache<string, Json>({
    max: itemsAtMost,
    maxSize: charactersAtMost,
    maxEntrySize: charactersAtMost / 8,
    ttl: rememberMs,
    sizeCalculation: item => JSON.stringify(item).length
  })
  // Ids are random; the owner is in the key all the same.
  const keyOf = (owner: string, id: string): string => `${owner} ${id}`

  return {
    remember(owner, output) {
      for (const item of output) {
        // Clients send calls back whole; only what was said or thought is referred to.
        if ((item.type === 'message' || item.type === 'reasoning') && typeof item.id === 'string') items.set(keyOf(owner, item.id), item)
      }
    },
    resolve(owner, input) {
      if (!Array.isArray(input)) return input
      return input.map((item: unknown) => {
        // The type may be left out: an id alone is a reference too.
        const isReference =
          isRecord(item) && typeof item.id === 'string' && (item.type === 'item_reference' || Object.keys(item).length === 1)
        return isReference ? (items.get(keyOf(owner, item.id as string)) ?? item) : item
      })
    }
  }
}
