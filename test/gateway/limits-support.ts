// A clock and a cluster of our own for limits per source: many processes, and a database that can be slow, late or away.

import { mock } from 'node:test'
import t from 'tap'
import { type Admission, createLimits, type KeyLimits, type Limits } from '../../gateway/limits.ts'
import { GatewayError } from '../../routing/errors.ts'
import type { Grant } from '../../store/limits.ts'

// Counters expire by the same clock as ours.
mock.timers.enable({ apis: ['setTimeout', 'setInterval', 'Date'] })
export const none: KeyLimits = { requestsPerMinute: null, tokensPerMinute: null, concurrentRequests: null }
export const perMinute = (requestsPerMinute: number): KeyLimits => ({ ...none, requestsPerMinute })
export const tokensOf = (tokensPerMinute: number): KeyLimits => ({ ...none, tokensPerMinute })
export const atOnce = (concurrentRequests: number): KeyLimits => ({ ...none, concurrentRequests })

/** Everything that waits for nothing but us has happened. */
export const settled = (): Promise<void> => new Promise(resolve => setImmediate(resolve))

export async function pass(ms: number): Promise<void> {
  mock.timers.tick(ms)
  await settled()
}

const opened: Cluster[] = []
t.afterEach(async () => {
  await Promise.all(opened.splice(0).map(close))
})

async function close(state: Cluster): Promise<void> {
  state.isSlow = false
  state.isAway = false
  while (state.answer()) await settled()
  await Promise.all(state.processes.map(limits => limits.close()))
}

interface Cluster {
  readonly processes: readonly Limits[]
  /** Questions asked of the database. */
  asked: number
  isAway: boolean
  /** While true, answers wait for `answer`. */
  isSlow: boolean
  /** What waits is the answer, not the question. */
  isLate: boolean
  /** False when none waits. */
  answer(which?: number): boolean
  readonly windows: Map<string, { started: number; granted: number }>
  readonly permits: Map<string, Map<number, number>>
}

/** A database that counts as ours does, and `count` processes. */
export function cluster(count: number): Cluster {
  const waiting: (() => void)[] = []
  const state: Cluster = {
    processes: Array.from({ length: count }, (_, process) =>
      createLimits({
        take: request => reply(() => take(`${request.metric} ${request.limit} ${request.source}`, request)),
        giveBack: request =>
          reply(() => {
            const window = state.windows.get(`${request.metric} ${request.limit} ${request.source}`)
            if (window?.started === request.window) window.granted -= request.points
          }),
        holdPermits: request =>
          reply(() => {
            const held = state.permits.get(request.source) ?? new Map<number, number>()
            state.permits.set(request.source, held.set(process, 0))
            const others = [...held.values()].reduce((sum, permits) => sum + permits, 0)
            const granted = Math.max(0, Math.min(request.want, request.limit - others - request.held))
            held.set(process, request.held + granted)
            return granted
          }),
        now: () => Date.now(),
        processes: () => count
      })
    ),
    asked: 0,
    isAway: false,
    isSlow: false,
    isLate: false,
    answer(which = 0) {
      const [next] = waiting.splice(which % Math.max(1, waiting.length), 1)
      next?.()
      return next !== undefined
    },
    windows: new Map(),
    permits: new Map()
  }

  opened.push(state)

  function take(key: string, { limit, want }: { limit: number; want: number }): Grant {
    const known = state.windows.get(key)
    const window = known !== undefined && Date.now() < known.started + 60_000 ? known : { started: Date.now(), granted: 0 }
    state.windows.set(key, window)
    const granted = Math.min(want, limit - window.granted)
    window.granted += granted
    return { granted, left: limit - window.granted, resetMs: window.started + 60_000 - Date.now(), window: window.started }
  }

  async function reply<T>(act: () => T): Promise<T> {
    state.asked++
    const isAway = state.isAway
    const early = state.isLate && !isAway ? { answer: act() } : null
    if (state.isSlow) await new Promise<void>(resolve => waiting.push(resolve))
    if (isAway) throw new Error('connection refused')
    return early === null ? act() : early.answer
  }

  return state
}

export function one(): { limits: Limits; state: Cluster } {
  const state = cluster(1)
  return { limits: state.processes[0] as Limits, state }
}

export async function attempt(limits: Limits, key: KeyLimits, tokens = 1, source = 'me'): Promise<Admission | GatewayError> {
  try {
    return await limits.admit(source, key, tokens)
  } catch (error) {
    if (error instanceof GatewayError) return error
    throw error
  }
}

export async function admitted(limits: Limits, key: KeyLimits, tokens = 1, source = 'me'): Promise<Admission> {
  const outcome = await attempt(limits, key, tokens, source)
  if (outcome instanceof GatewayError) throw outcome
  return outcome
}

export async function refused(limits: Limits, key: KeyLimits, tokens = 1, source = 'me'): Promise<GatewayError> {
  const outcome = await attempt(limits, key, tokens, source)
  if (outcome instanceof GatewayError) return outcome
  throw new Error('it was admitted')
}

export async function countAdmitted(limits: Limits, key: KeyLimits, offered: number, tokens = 1): Promise<number> {
  const outcomes = await Promise.all(Array.from({ length: offered }, () => attempt(limits, key, tokens)))
  return outcomes.filter(outcome => !(outcome instanceof GatewayError)).length
}
