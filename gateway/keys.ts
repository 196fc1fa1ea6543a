// API keys: made, hashed, looked up. The cache is keyed by the whole key; a revoked one is refused within a second.

import { hash, randomBytes } from 'node:crypto'
import { LRUCache } from 'lru-cache'
import { GatewayError } from '../routing/errors.ts'
import type { KeyRecord } from '../store/keys.ts'

/** 256 random bits, so a plain hash is enough at rest: there is nothing to guess. */
export function newKey(): string {
  return `sk-llm-${randomBytes(32).toString('base64url')}`
}

export function hashKey(key: string): Buffer {
  return hash('sha256', key, 'buffer')
}

/** Enough to recognise a key by, far too little to use it. */
export function prefixOf(key: string): string {
  return key.slice(0, 11)
}

export interface KeyCachePorts {
  readonly find: (hash: Buffer) => Promise<KeyRecord | null>
  /** True while changes are announced to us; otherwise we look again every second. */
  readonly isListening: () => boolean
  /** Milliseconds of a clock that never jumps. */
  readonly now: () => number
}

export interface KeyCache {
  /** The key's record, null when there is no such living key; a promise when the database must be asked. Throws or rejects with GatewayError. */
  find(key: string): KeyRecord | null | Promise<KeyRecord | null>
  /** Something changed: everything is looked up anew. */
  clear(): void
}

interface Entry {
  readonly record: KeyRecord | null
  readonly checkedAt: number
  /** When it was last sure to hold: looked up, or used while every change would have been announced. */
  goodAt: number
  /** Of all changes to keys: an entry from before the last one must be looked up again. */
  readonly generation: number
}

const keysAtMost = 10_000
const missesAtMost = 1_000
const missMs = 2_000
const freshMs = 1_000
// With the database away, a key that was good keeps working for a minute; an unknown one never does.
const graceMs = 60_000
const lookUpsAtMost = 256

export function createKeyCache(ports: KeyCachePorts): KeyCache {
  const hits = new LRUCache<string, Entry>({ max: keysAtMost })
  const misses = new LRUCache<string, Entry>({ max: missesAtMost })
  const pending = new Map<string, Promise<KeyRecord | null>>()
  let generation = 0

  function find(key: string): KeyRecord | null | Promise<KeyRecord | null> {
    const hit = hits.get(key)
    if (hit !== undefined && isFresh(hit)) {
      if (ports.isListening()) hit.goodAt = ports.now()
      return alive(hit.record)
    }
    const miss = misses.get(key)
    if (miss !== undefined && ports.now() - miss.checkedAt < missMs) return null
    return lookUp(key, hit)
  }

  function isFresh(entry: Entry): boolean {
    return entry.generation === generation && (ports.isListening() || ports.now() - entry.checkedAt < freshMs)
  }

  function lookUp(key: string, known: Entry | undefined): Promise<KeyRecord | null> {
    const running = pending.get(key)
    if (running !== undefined) return running
    if (pending.size >= lookUpsAtMost) {
      return Promise.reject(new GatewayError('no_capacity', 'Too many unknown keys are being looked up.', { retryAfterMs: 1_000 }))
    }
    const began = generation
    const query: Promise<KeyRecord | null> = ports
      .find(hashKey(key))
      .then(
        record => {
          // An answer from before a change must not outlive it.
          const now = ports.now()
          if (began === generation) (record === null ? misses : hits).set(key, { record, checkedAt: now, goodAt: now, generation })
          // Revoked: the grace below is for keys that were good when last heard of.
          if (record === null) hits.delete(key)
          return record
        },
        (error: unknown) => {
          if (known !== undefined && ports.now() - known.goodAt < graceMs) return alive(known.record)
          throw new GatewayError('database_unavailable', 'The database is away, so this key cannot be checked.', {
            cause: error,
            retryAfterMs: 1_000
          })
        }
      )
      .finally(() => {
        if (pending.get(key) === query) pending.delete(key)
      })
    pending.set(key, query)
    return query
  }

  return {
    find,
    clear() {
      // Hits stay for the grace period: not fresh any more, but known to have been good.
      generation++
      misses.clear()
      // Who asks from now on shall not be given an answer from before.
      pending.clear()
    }
  }
}

function alive(record: KeyRecord | null): KeyRecord | null {
  return record?.expiresAt != null && record.expiresAt.getTime() <= Date.now() ? null : record
}
