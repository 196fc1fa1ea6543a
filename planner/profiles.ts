// Learns from every call how fast machines are, in memory, and keeps it with what other processes have learned.

import type { Profiles } from '../routing/ports.ts'
import { type Observation, observe, type Profile, readProfile } from '../routing/profile.ts'
import type { Pool } from '../store/pool.ts'
import { changedProfiles, changeProfile } from '../store/profiles.ts'

export interface ProfileKeeper extends Profiles {
  /** What is seen while a benchmark runs counts when the whole of it is over, by `measured`; of one that is cancelled, nothing does. */
  observe(deviceId: string, model: string, observation: Omit<Observation, 'atMs'>): void
  /** What a benchmark that is over has seen. */
  measured(deviceId: string, model: string, observation: Omit<Observation, 'atMs'>): void
  /** Null when nothing is known of it. */
  of(deviceId: string, model: string): Profile | null
  /** Reads what is known, and keeps it up to date from now on. Never rejects. */
  start(): Promise<void>
  /** Writes down what is new, and reads what others have learned. Never rejects. */
  flush(): Promise<void>
  /** After a last flush. */
  close(): Promise<void>
}

interface Entry {
  readonly deviceId: string
  readonly model: string
  profile: Profile | null
  /** Not written down yet. */
  fresh: Observation[]
}

const flushEveryMs = 5_000
// With the database away for hours, the newest say what is true now.
const freshAtMost = 500
// Its commit may become visible later than one with a younger time.
const overlapMs = 10_000

/**
 * What is written down is what the table says, with our new observations on top: several processes lose nothing of each other. A process
 * that is killed loses those of its last 5 s, and a model that its machine does not list any more loses its profile.
 */
export function createProfiles({
  pool,
  now,
  log
}: {
  readonly pool: Pool
  /** Epoch, ms. */
  readonly now: () => number
  readonly log: (message: string, error: unknown) => void
}): ProfileKeeper {
  const entries = new Map<string, Entry>()
  let readUntil: Date | null = null
  let timer: NodeJS.Timeout | null = null
  let flushing: Promise<void> | null = null
  let closed = false
  let failing = false

  function entryOf(deviceId: string, model: string): Entry {
    const key = JSON.stringify([deviceId, model])
    const known = entries.get(key) ?? { deviceId, model, profile: null, fresh: [] }
    entries.set(key, known)
    return known
  }

  async function write(entry: Entry): Promise<void> {
    const taken = [...entry.fresh]
    const kept = await changeProfile(pool, entry, before => taken.reduce<Profile | null>(observe, readProfile(before)) as Profile)
    // More may have come meanwhile, or so many that the first of them were dropped.
    const written = new Set(taken)
    entry.fresh = entry.fresh.filter(observation => !written.has(observation))
    if (kept !== null) entry.profile = entry.fresh.reduce<Profile | null>(observe, kept)
  }

  async function read(): Promise<void> {
    const since = readUntil === null ? null : new Date(readUntil.getTime() - overlapMs)
    for (const { deviceId, model, profile, profiledAt } of await changedProfiles(pool, since)) {
      const entry = entryOf(deviceId, model)
      entry.profile = entry.fresh.reduce<Profile | null>(observe, readProfile(profile))
      readUntil = profiledAt
    }
  }

  async function flush(): Promise<void> {
    try {
      for (const entry of entries.values()) if (entry.fresh.length > 0) await write(entry)
      await read()
      failing = false
    } catch (error) {
      if (!failing) log('what was learned of machines could not be kept; it is tried again', error)
      failing = true
    }
  }

  function flushOnce(): Promise<void> {
    flushing ??= flush().finally(() => {
      flushing = null
    })
    return flushing
  }

  function learn(deviceId: string, model: string, seen: Omit<Observation, 'atMs'>): void {
    const entry = entryOf(deviceId, model)
    const observation = { ...seen, atMs: now() }
    entry.profile = observe(entry.profile, observation)
    entry.fresh.push(observation)
    if (entry.fresh.length > freshAtMost) entry.fresh = entry.fresh.slice(-freshAtMost / 2)
  }

  return {
    observe(deviceId, model, seen) {
      // That a machine fails is true whatever becomes of the benchmark.
      if (!seen.isBenchmark || seen.isFailure) learn(deviceId, model, seen)
    },
    measured: learn,
    of: (deviceId, model) => entries.get(JSON.stringify([deviceId, model]))?.profile ?? null,
    async start() {
      timer = setInterval(() => void flushOnce(), flushEveryMs)
      timer.unref()
      await flushOnce()
    },
    flush: flushOnce,
    async close() {
      if (closed) return
      closed = true
      if (timer !== null) clearInterval(timer)
      await flushing
      for (const entry of entries.values()) {
        if (entry.fresh.length > 0) await write(entry).catch((error: unknown) => log('what was learned of machines last is lost', error))
      }
    }
  }
}
