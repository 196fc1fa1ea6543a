// What is in the memory of each machine, as far as a gateway can see: what was loaded, is being loaded, hangs, and what could leave.

import type { Catalog } from '../catalog.ts'
import type { Target } from '../types.ts'
import { knobs } from './estimate.ts'
import type { OwnSite } from './types.ts'
import { residencyS, victimsAmong, type Warmth } from './warmth.ts'

export interface MemoryPorts {
  readonly catalog: () => Catalog
  /** Milliseconds of a clock that never jumps. */
  readonly now: () => number
  readonly warmth: Pick<Warmth, 'value'>
  /** How long a load of it takes, as far as is known. */
  readonly loadS: (target: Target) => number
  /** What runs on a machine. */
  readonly callsOn: (upstreamId: string) => Iterable<MemoryCall>
}

/** A call, for the memory of its machine. */
export interface MemoryCall {
  readonly target: Target
  /** Its model was not in memory when it came. */
  readonly isCold: boolean
  /** The first piece of its answer has come. */
  readonly hasBegun: boolean
}

export interface Memories {
  /** All models of a machine, as the catalog lists them, by name. */
  modelsOf(upstreamId: string): ReadonlyMap<string, Target>
  /** Few of what a machine has. */
  loadedOn(upstreamId: string): readonly Target[]
  isLoaded(target: Target): boolean
  /** Of those that have been there for a while and that nothing runs on: what would leave for so much; null = it would not be enough. */
  settledVictims(upstreamId: string, room: Room): readonly Target[] | null
  /** See `Brain.victims`. */
  victims(target: Target, among?: readonly string[]): readonly Target[] | null
  /** What is being loaded there, and for how long yet. */
  loadingOn(upstreamId: string): OwnSite['loading']
  isStuck(upstreamId: string): boolean
  /** Ends with `loaded`, `unloaded` or `abandoned`. What is being loaded already goes before. */
  begin(load: Loading): void
  loaded(target: Target): void
  unloaded(target: Target): void
  /** A call that loaded its model is over without an answer; others may wait for the same load. */
  abandoned(target: Target): void
  /** By the operator's word it left after its answer. */
  left(target: Target): void
  /** See `Brain`. */
  loadingElsewhere(upstreamId: string, model: string | null): void
  stuckElsewhere(upstreamId: string, ms: number): void
  watch(): readonly LoadNews[]
  listed(upstreamId: string, askedAtMs: number): void
  lost(upstreamId: string): void
}

export interface Room {
  readonly gb: number | null
  readonly memoryGb: number | null
}

/** A load that takes so long that something is wrong, or one of those that ended well after all. */
export interface LoadNews {
  readonly target: Target
  readonly state: 'stuck' | 'works'
}

export interface Loading {
  readonly target: Target
  /** Not by a call. */
  readonly isCommanded: boolean
  /** What is done after it before anything can be seen of its end; null = its end is not seen at all. */
  readonly afterS: number | null
}

const noModels: ReadonlyMap<string, Target> = new Map()
// All of it, but for a rounding.
const wholeMemory = 0.999
// A load that takes much longer than the slowest is stuck, and with it the loading of the whole machine for a while.
const stuckAfter = 3
const slowestLoad = 1.5
// From a cold disk even a small model may take so long that was loaded in a moment before.
const stuckAtLeastS = 10
const quarantineMs = 600_000
// Of what others load on a machine nobody here knows how long it goes on.
const elsewhereS = 5

export function createMemories(ports: MemoryPorts): Memories {
  /** By device and model: when it was seen in memory, or thrown out (negative). */
  const seenLoaded = new Map<string, number>()
  /** By upstream: the models of which something was seen. */
  const seenOn = new Map<string, Set<string>>()
  const loads = new Map<string, Loading & { readonly sinceMs: number }>()
  /** By machine: what did not end, where it is known, and until when nothing is loaded there. */
  const stuck = new Map<string, { readonly target: Target | null; readonly untilMs: number }>()
  const elsewhere = new Map<string, string>()
  let news: LoadNews[] = []
  const loadedAt = new Map<string, number>()
  let known: {
    readonly of: Catalog
    readonly byUpstream: ReadonlyMap<string, ReadonlyMap<string, Target>>
    /** What the machines' lists say, or what is always there. */
    readonly loaded: ReadonlyMap<string, readonly string[]>
  } | null = null

  /** All models of a machine, as the catalog lists them, by name. */
  function modelsOf(upstreamId: string): ReadonlyMap<string, Target> {
    const catalog = ports.catalog()
    if (known?.of !== catalog) {
      const byUpstream = new Map<string, Map<string, Target>>()
      const loaded = new Map<string, string[]>()
      for (const target of catalog.source.targets) {
        const { id, adapter } = target.upstream
        byUpstream.set(id, (byUpstream.get(id) ?? new Map<string, Target>()).set(target.model, target))
        if (target.loaded || adapter !== 'ollama') loaded.set(id, [...(loaded.get(id) ?? []), target.model])
      }
      known = { of: catalog, byUpstream, loaded }
    }
    return known.byUpstream.get(upstreamId) ?? noModels
  }

  /** Few of what a machine has: not all its models are looked at. */
  function loadedOn(upstreamId: string): readonly Target[] {
    const models = modelsOf(upstreamId)
    const listed = known?.loaded.get(upstreamId) ?? []
    const there: Target[] = []
    const look = (name: string): void => {
      const target = models.get(name)
      if (target !== undefined && isLoaded(target)) there.push(target)
    }
    for (const name of listed) look(name)
    for (const name of seenOn.get(upstreamId) ?? []) if (!listed.includes(name)) look(name)
    return there
  }

  /** It was seen in memory, or was thrown out. */
  function mark({ id, model, upstream }: Target, isThere: boolean): void {
    seenLoaded.set(id, isThere ? ports.now() : -ports.now())
    seenOn.set(upstream.id, (seenOn.get(upstream.id) ?? new Set()).add(model))
  }

  /** Only Ollama loads and unloads by itself; other servers have what they have. */
  function isLoaded(target: Target): boolean {
    const { upstream, id, model } = target
    if (upstream.adapter !== 'ollama') return true
    // Ollama lists also what it is only loading.
    if (loads.get(upstream.id)?.target.id === id || elsewhere.get(upstream.id) === model) return false
    const hanging = stuck.get(upstream.id)
    if (hanging?.target?.id === id && hanging.untilMs > ports.now()) return false
    const at = seenLoaded.get(id)
    return at === undefined ? target.loaded : at > 0
  }

  /** Of those that may leave and that nothing runs on, the ones of least worth that make room for so much; null = it would not be enough. */
  function victimsOn(upstreamId: string, room: Room & { readonly mayLeave: (target: Target) => boolean }): readonly Target[] | null {
    const { gb, memoryGb, mayLeave } = room
    const there = loadedOn(upstreamId)
    // Without knowledge of its memory the machine sees to it itself.
    if (memoryGb === null || gb === null || there.some(other => other.memoryGb == null)) return []
    const freeGb = memoryGb - there.reduce((sum, other) => sum + (other.memoryGb ?? 0), 0)
    // What is larger than the whole memory has a part of it elsewhere.
    const neededGb = Math.min(gb, memoryGb * wholeMemory)
    if (freeGb >= neededGb) return []
    const busy = new Set([...ports.callsOn(upstreamId)].map(({ target }) => target.model))
    const idle = there.filter(other => !busy.has(other.model) && mayLeave(other))
    const names = victimsAmong(
      idle.map(other => ({
        model: other.model,
        gb: other.memoryGb ?? 0,
        worth: ports.warmth.value(upstreamId, other.model, ports.now() / 1_000)
      })),
      { neededGb, freeGb, places: Number.POSITIVE_INFINITY }
    )
    return names === null ? null : idle.filter(({ model }) => names.includes(model))
  }

  function isSettled({ id }: Target): boolean {
    return ports.now() - (loadedAt.get(id) ?? Number.NEGATIVE_INFINITY) >= residencyS(knobs.cost) * 1_000
  }

  function loadingOn(upstreamId: string): OwnSite['loading'] {
    const load = loads.get(upstreamId)
    const other = elsewhere.get(upstreamId)
    if (load === undefined) return other === undefined ? null : { model: other, leftS: elsewhereS }
    const { target, sinceMs, afterS } = load
    const loadS = ports.loadS(target)
    const ranS = (ports.now() - sinceMs) / 1_000
    const mostS = afterS === null ? slowestLoad * loadS : Math.max(stuckAtLeastS, stuckAfter * slowestLoad * loadS) + afterS
    if (ranS <= mostS) return { model: target.model, leftS: Math.max(0.1, loadS - ranS) }
    loads.delete(upstreamId)
    if (afterS === null) return null
    stuck.set(upstreamId, { target, untilMs: ports.now() + quarantineMs })
    news.push({ target, state: 'stuck' })
    return null
  }

  /** It answered, or its load ended: it is in memory, and the machine can load. */
  function loaded(target: Target): void {
    const { id: upstreamId } = target.upstream
    const isNew = !isLoaded(target)
    if (loads.get(upstreamId)?.target.id === target.id) loads.delete(upstreamId)
    if (stuck.get(upstreamId)?.target?.id === target.id) works(upstreamId)
    if (elsewhere.get(upstreamId) === target.model) elsewhere.delete(upstreamId)
    mark(target, true)
    if (isNew) loadedAt.set(target.id, ports.now())
  }

  function isStuck(upstreamId: string): boolean {
    return (stuck.get(upstreamId)?.untilMs ?? 0) > ports.now()
  }

  function works(upstreamId: string): void {
    const { target } = stuck.get(upstreamId) ?? { target: null }
    stuck.delete(upstreamId)
    if (target !== null) news.push({ target, state: 'works' })
  }

  /** A call that loaded its model is over without an answer; others may wait for the same load. */
  function abandoned(target: Target): void {
    const load = loads.get(target.upstream.id)
    if (load === undefined || load.target.id !== target.id || load.isCommanded) return
    if (!isWaitedFor(target)) loads.delete(target.upstream.id)
  }

  /** By a call that came when it was not in memory. */
  function isWaitedFor({ id, upstream }: Target): boolean {
    return [...ports.callsOn(upstream.id)].some(call => call.target.id === id && call.isCold && !call.hasBegun)
  }

  function victims({ upstream, memoryGb = null }: Target, among?: readonly string[]): readonly Target[] | null {
    const { device } = upstream
    if (device === null) return []
    if (isStuck(upstream.id)) return null
    const room = { gb: memoryGb, memoryGb: device.vramGb ?? device.ramGb }
    const isMeant = ({ model }: Target): boolean => among === undefined || among.includes(model)
    // What has just come leaves only where nothing else would do: a call that has no other place cannot wait a minute for it.
    const settled = victimsOn(upstream.id, { ...room, mayLeave: other => isMeant(other) && isSettled(other) })
    return settled ?? victimsOn(upstream.id, { ...room, mayLeave: isMeant })
  }

  return {
    modelsOf,
    loadedOn,
    isLoaded,
    settledVictims: (upstreamId, room) => victimsOn(upstreamId, { ...room, mayLeave: isSettled }),
    victims,
    loadingOn,
    isStuck,
    begin(load) {
      const { id } = load.target.upstream
      if (load.isCommanded || !loads.has(id)) loads.set(id, { ...load, sinceMs: ports.now() })
    },
    loaded,
    unloaded(target) {
      const { id: upstreamId } = target.upstream
      const load = loads.get(upstreamId)
      if (load?.target.id === target.id) {
        // A command that failed says nothing of the calls that wait for the same: the machine still loads for them.
        if (load.isCommanded && isWaitedFor(target)) loads.set(upstreamId, { ...load, isCommanded: false })
        else loads.delete(upstreamId)
      }
      mark(target, false)
    },
    abandoned,
    left: target => mark(target, false),
    loadingElsewhere(upstreamId, model) {
      if (model === null) elsewhere.delete(upstreamId)
      else elsewhere.set(upstreamId, model)
    },
    stuckElsewhere(upstreamId, ms) {
      if (!stuck.has(upstreamId) || stuck.get(upstreamId)?.target === null)
        stuck.set(upstreamId, { target: null, untilMs: ports.now() + ms })
    },
    watch() {
      for (const upstreamId of [...loads.keys()]) loadingOn(upstreamId)
      for (const [upstreamId, { untilMs }] of stuck) if (untilMs <= ports.now()) stuck.delete(upstreamId)
      const told = news
      news = []
      return told
    },
    listed(upstreamId, askedAtMs) {
      for (const { id } of modelsOf(upstreamId).values()) {
        const at = seenLoaded.get(id)
        if (at !== undefined && Math.abs(at) < askedAtMs) seenLoaded.delete(id)
      }
    },
    lost(upstreamId) {
      loads.delete(upstreamId)
      works(upstreamId)
      elsewhere.delete(upstreamId)
      for (const { id } of modelsOf(upstreamId).values()) seenLoaded.delete(id)
    }
  }
}
