// Commands what machines have in memory: room before a load, one load at a time on each, loads ahead of requests, and loads that hang.

import { setTimeout as sleep } from 'node:timers/promises'
import type { Brain } from '../routing/brain/brain.ts'
import type { Catalog } from '../routing/catalog.ts'
import type { MachineHealth, MachineMemory, Profiles } from '../routing/ports.ts'
import type { Adapter, Target } from '../routing/types.ts'
import { clearStuck, endLoad, endProcessLoads, loadsOn, setStuck, takeLoad } from '../store/loads.ts'
import type { Pool } from '../store/pool.ts'

export interface MemoryPorts {
  readonly pool: Pool
  readonly processId: string
  readonly adapters: ReadonlyMap<string, Adapter>
  readonly catalog: () => Catalog
  readonly brain: Pick<
    Brain,
    'isLoaded' | 'victims' | 'loading' | 'loaded' | 'unloaded' | 'loadingElsewhere' | 'stuckElsewhere' | 'watch' | 'lost'
  >
  readonly health: Pick<MachineHealth, 'isDown'>
  /** How long a load took is learned. */
  readonly profiles: Pick<Profiles, 'observe'>
  /** What the machine has loaded is another now: it is asked again soon. */
  readonly refresh: (upstreamId: string) => void
  /** A load is over: something may wait for its model, or for the next load. */
  readonly onFree: (deviceId: string) => void
  /** A load does not end: calls that wait for it may go elsewhere. */
  readonly onStuck: (target: Target) => void
  /** Milliseconds of a clock that never jumps. */
  readonly now: () => number
  readonly log: (message: string, error?: unknown) => void
}

export interface CommandedMemory extends MachineMemory {
  /** Watches over loads from now on. */
  start(): void
  /** Takes an idle model out of memory; it is not loaded ahead of a request for a while. False where that cannot be asked for. Throws GatewayError. */
  unload(target: Target, signal: AbortSignal): Promise<boolean>
  /** A machine was away: its memory is not what it was. */
  lost(deviceId: string): void
  /** Gives up loads that nobody asked for, and frees what is held. Never rejects. */
  close(): Promise<void>
}

/** The one load of a machine, as this process has it. */
interface Hold {
  readonly target: Target
  readonly deviceId: string
  /** Attempts that wait for it. */
  readonly attempts: Set<string>
  /** A load without a request. */
  isCommanded: boolean
  readonly aborting: AbortController
  /** There is room, and the load is ours. */
  readonly ready: Promise<boolean>
}

/** How room is made. */
interface Room {
  /** These alone may leave; absent = whatever is idle. */
  readonly among?: readonly string[]
  /** What other gateways have at work there is not known here; `leave`: the machine itself throws out only what is idle. */
  readonly besideOthers: 'leave' | 'give up'
}

// As long as a model that is loaded ahead stays without being used, where the machine has no wish of its own.
const keepAlive = '30m'
const watchEveryMs = 1_000
const waitEveryMs = 250
// A load that failed would fail again with the next request.
const restAfterFailureMs = 60_000
// Whoever had a model taken out wants to see it loaded by a request.
const restAfterUnloadMs = 60_000
const stuckS = 600
// Another gateway's quarantine may be over before its time; then it is asked again.
const askAgainMs = 30_000

/** Nothing here stops a call for want of a database: without it, each process keeps to one load at a time by itself. */
export function createMachineMemory(ports: MemoryPorts): CommandedMemory {
  const { pool, processId, brain, log } = ports
  const holds = new Map<string, Hold>()
  // By machine: the end of our last load there, on its way to the database.
  const ending = new Map<string, Promise<void>>()
  const restUntil = new Map<string, number>()
  const outUntil = new Map<string, number>()
  /** Machines where another process loads something: upstream by device. */
  const elsewhere = new Map<string, string>()
  const running = new Set<Promise<void>>()
  const closing = new AbortController()
  let timer: NodeJS.Timeout | null = null
  let isAsking = false
  let isFailing = false

  function prepare(target: Target, { id, waitMs }: { readonly id: string; readonly waitMs: number }): Promise<boolean> | null {
    const ready = enter(target, id)
    return ready === null || waitMs === 0 ? ready : wait(target, id, { ready, untilMs: ports.now() + waitMs })
  }

  async function wait(
    target: Target,
    attemptId: string,
    { ready, untilMs }: { readonly ready: Promise<boolean>; readonly untilMs: number }
  ): Promise<boolean> {
    for (let isReady = ready; ; ) {
      if (await isReady) return true
      if (ports.now() >= untilMs || closing.signal.aborted) return false
      await sleep(waitEveryMs)
      const again = enter(target, attemptId)
      if (again === null) return true
      isReady = again
    }
  }

  function enter(target: Target, attemptId: string): Promise<boolean> | null {
    const deviceId = target.upstream.device?.id
    if (deviceId === undefined || holder(target) === undefined || brain.isLoaded(target)) return null
    const hold = holds.get(deviceId) ?? begin(target, deviceId, { besideOthers: 'leave' })
    if (hold.target.id !== target.id) return Promise.resolve(false)
    hold.attempts.add(attemptId)
    return hold.ready
  }

  /** The machine's load is ours in this process from now on, and everywhere when it is `ready`. */
  function begin(target: Target, deviceId: string, room: Room): Hold {
    const hold: Hold = {
      target,
      deviceId,
      attempts: new Set(),
      isCommanded: false,
      aborting: new AbortController(),
      ready: Promise.resolve().then(() => makeRoom(hold, room))
    }
    holds.set(deviceId, hold)
    return hold
  }

  async function makeRoom(hold: Hold, room: Room): Promise<boolean> {
    const { target } = hold
    if (brain.victims(target, room.among) === null) return giveUp(hold)
    const othersAtWork = await taken(hold)
    if (othersAtWork === null) return giveUp(hold)
    // What runs there may be something else by now.
    const victims = brain.victims(target, room.among)
    if (victims === null) return giveUp(hold)
    if (victims.length === 0) return true
    if (!othersAtWork) await evict(victims)
    else if (room.besideOthers === 'give up') return giveUp(hold)
    return true
  }

  function giveUp(hold: Hold): false {
    free(hold)
    return false
  }

  /** Whether others have calls on that machine; null = the load is another's. */
  async function taken({ target, deviceId }: Hold): Promise<boolean | null> {
    await ending.get(deviceId)
    try {
      const { isTaken, othersAtWork, otherModel, stuckMs } = await takeLoad(pool, { deviceId, model: target.model, processId })
      isFailing = false
      // The same model is loaded once, whoever asks for it.
      if (isTaken || otherModel === target.model) return othersAtWork > 0
      const { id: upstreamId } = target.upstream
      if (stuckMs > 0) brain.stuckElsewhere(upstreamId, Math.min(stuckMs, askAgainMs))
      else if (otherModel !== null) {
        elsewhere.set(deviceId, upstreamId)
        brain.loadingElsewhere(upstreamId, otherModel)
      }
      return null
    } catch (error) {
      failed(error)
      return false
    }
  }

  async function evict(victims: readonly Target[]): Promise<void> {
    // First, so that no call begins there that counts on it.
    for (const victim of victims) brain.unloaded(victim)
    for (const victim of victims) {
      await holder(victim)?.(victim, 0, closing.signal).catch((error: unknown) =>
        log(`${victim.id} could not be taken out of memory`, error)
      )
    }
    for (const { upstream } of victims.slice(0, 1)) ports.refresh(upstream.id)
  }

  async function unload(target: Target, signal: AbortSignal): Promise<boolean> {
    const hold = holder(target)
    if (hold === undefined) return false
    outUntil.set(target.id, ports.now() + restAfterUnloadMs)
    brain.unloaded(target)
    try {
      await hold(target, 0, AbortSignal.any([closing.signal, signal]))
      return true
    } finally {
      ports.refresh(target.upstream.id)
    }
  }

  function settled({ upstream }: Target, attemptId: string): void {
    const hold = holds.get(upstream.device?.id ?? '')
    if (hold === undefined || !hold.attempts.delete(attemptId)) return
    if (hold.attempts.size === 0 && !hold.isCommanded) free(hold)
  }

  /** Unless it was given up before, and the machine is at another load by now. */
  function free(hold: Hold): void {
    const { deviceId } = hold
    if (holds.get(deviceId) !== hold) return
    holds.delete(deviceId)
    const end = endLoad(pool, deviceId, processId)
      .catch(failed)
      .finally(() => {
        if (ending.get(deviceId) === end) ending.delete(deviceId)
        if (!closing.signal.aborted) ports.onFree(deviceId)
      })
    ending.set(deviceId, end)
  }

  function load(targetId: string, victims: readonly string[]): void {
    const target = ports.catalog().source.targets.find(({ id }) => id === targetId)
    const device = target?.upstream.device ?? null
    if (target === undefined || device === null || closing.signal.aborted || !isWorthIt(target, device.id)) return
    // It was weighed against these models, in a machine that nobody else uses.
    const hold = begin(target, device.id, { among: victims, besideOthers: 'give up' })
    hold.isCommanded = true
    const done = hold.ready
      .then(isReady => (isReady ? carryOut(hold, device.keepAlive ?? keepAlive) : undefined))
      .catch((error: unknown) => log(`${targetId} could not be loaded`, error))
      .finally(() => running.delete(done))
    running.add(done)
  }

  function isWorthIt(target: Target, deviceId: string): boolean {
    if (holder(target) === undefined || brain.isLoaded(target) || holds.has(deviceId) || ports.health.isDown(deviceId)) return false
    // A machine that forgets at once has nothing of it.
    if (/^0+(ms|s|m|h)?$/.test(String(target.upstream.device?.keepAlive ?? ''))) return false
    return Math.max(restUntil.get(target.id) ?? 0, outUntil.get(target.id) ?? 0) <= ports.now()
  }

  async function carryOut(hold: Hold, forLong: string | number): Promise<void> {
    const { target, deviceId } = hold
    const beganAt = ports.now()
    brain.loading(target)
    try {
      await holder(target)?.(target, forLong, AbortSignal.any([closing.signal, hold.aborting.signal]))
      brain.loaded(target)
      restUntil.delete(target.id)
      const timings = { loadMs: ports.now() - beganAt, ttftMs: null, prompt: null, answer: null }
      ports.profiles.observe(deviceId, target.model, { isFailure: false, isBenchmark: false, ...timings })
    } catch (error) {
      brain.unloaded(target)
      if (!closing.signal.aborted && !restUntil.has(target.id)) log(`${target.id} could not be loaded ahead of its requests`, error)
      restUntil.set(target.id, ports.now() + restAfterFailureMs)
    } finally {
      hold.isCommanded = false
      if (hold.attempts.size === 0) free(hold)
      ports.refresh(target.upstream.id)
    }
  }

  function holder({ upstream }: Target): Adapter['hold'] {
    return ports.adapters.get(upstream.adapter)?.hold
  }

  function watch(): void {
    for (const { target, state } of brain.watch()) {
      const deviceId = target.upstream.device?.id
      if (deviceId === undefined) continue
      if (state === 'works') {
        log(`${target.upstream.id} loads models again`)
        clearStuck(pool, deviceId).catch(failed)
        continue
      }
      log(
        `${target.upstream.id} does not finish loading "${target.model}": nothing is loaded there for 10 minutes, what it has loaded is used`
      )
      setStuck(pool, deviceId, target.model, stuckS).catch(failed)
      const hold = holds.get(deviceId)
      if (hold !== undefined) free(hold)
      ports.onStuck(target)
    }
    if (elsewhere.size > 0 && !isAsking) void lookElsewhere()
  }

  /** What others have loaded is seen by asking the machine. */
  async function lookElsewhere(): Promise<void> {
    isAsking = true
    const asked = [...elsewhere]
    try {
      const loads = await loadsOn(pool, [...elsewhere.keys()])
      for (const [deviceId, upstreamId] of asked) {
        const other = loads.find(load => load.deviceId === deviceId && load.processId !== processId)
        brain.loadingElsewhere(upstreamId, other?.model ?? null)
        if (other !== undefined) continue
        elsewhere.delete(deviceId)
        ports.refresh(upstreamId)
        if (!closing.signal.aborted) ports.onFree(deviceId)
      }
    } catch (error) {
      failed(error)
    }
    isAsking = false
  }

  function failed(error: unknown): void {
    if (!isFailing) log('loads cannot be told to other gateways; each goes on by itself', error)
    isFailing = true
  }

  return {
    prepare,
    settled,
    load,
    unload,
    start() {
      timer ??= setInterval(watch, watchEveryMs)
      timer.unref()
    },
    lost(deviceId) {
      holds.get(deviceId)?.aborting.abort(new Error('the machine was away'))
      brain.lost(deviceId)
      watch()
    },
    async close() {
      if (timer !== null) clearInterval(timer)
      closing.abort(new Error('the gateway stops'))
      await Promise.allSettled([...running, ...ending.values()])
      await endProcessLoads(pool, processId).catch(() => {})
    }
  }
}
