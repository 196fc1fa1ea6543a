// Lanes: jobs of one lane can run on the same machines. A lane says in its name which those are.

import { createHash } from 'node:crypto'
import { type Catalog, canonical } from '../routing/catalog.ts'
import { providerOf } from '../routing/targets.ts'
import type { Caller, Feature, ModelRequest, Target } from '../routing/types.ts'

const echo = 'echo'

type Facts = Pick<
  ModelRequest,
  'operation' | 'model' | 'localOnly' | 'only' | 'providers' | 'needs' | 'longest' | 'fallbacks' | 'preference' | 'maxUsd'
>

// No name of a model has one.
const between = '\t'

/**
 * The lane of a request; of `echo` when it is null: class/operation/where;what else it takes/model. Names of models come last, because
 * they have slashes of their own.
 */
export function laneOf(jobClass: number, request: Facts | null, caller: Pick<Caller, 'models' | 'providers'>): string {
  if (request === null) return `${jobClass}/${echo}`
  const { operation, localOnly, providers, needs, longest, fallbacks = [] } = request
  const where = localOnly ? 'own' : providers === undefined ? 'any' : providers.join('+')
  const conditions = [where, ...needs.toSorted(), ...sizeOf(longest.low), ...permitOf(caller), ...wishesOf(request)].join(';')
  const models = [...new Set([request.model, ...fallbacks].map(canonical))].join(between)
  return `${jobClass}/${operation}/${conditions}/${request.only ?? models}`
}

// A model is loaded with this context at least (routing/context-size.ts), and with twice that, and so on.
const usualTokens = 8_192

/** What the prompt needs where not every machine has it, to the next power of two. */
function sizeOf(tokens: number): string[] {
  return tokens <= usualTokens ? [] : [`${2 ** Math.ceil(Math.log2(tokens / 1_024))}k`]
}

/** Keys that may not use everything have lanes of their own: what they wait for must not stand before the others. */
function permitOf({ models, providers }: Pick<Caller, 'models' | 'providers'>): string[] {
  if (models === null && providers === null) return []
  return [`key-${digestOf([models, providers])}`]
}

/** The same for those that are choosy about providers, or must not cost much. */
function wishesOf({ preference, maxUsd }: Facts): string[] {
  const choosy = preference === undefined ? [] : [`key-wish-${digestOf(preference.given)}`]
  return maxUsd === undefined ? choosy : [...choosy, 'key-capped']
}

function digestOf(value: unknown): string {
  return createHash('sha256').update(JSON.stringify(value)).digest('base64url').slice(0, 8)
}

/** 0 urgent … 4 benchmark. */
export function classOf(lane: string): number {
  return Number(lane.slice(0, lane.indexOf('/')))
}

/** Where the jobs of a lane may run, as far as the lane can say: a job's own needs narrow it. */
export interface Reach {
  /** Machines of ours, by id. */
  readonly devices: ReadonlySet<string>
  /** Some of it can be rented, or needs no machine at all. */
  readonly unbounded: boolean
}

const nowhere: Reach = { devices: new Set(), unbounded: false }

/** Looks lanes up in the present catalog, each once. */
export function createReach(catalog: () => Catalog): (lane: string) => Reach {
  let of: Catalog | null = null
  let known = new Map<string, Reach>()
  return lane => {
    const now = catalog()
    if (now !== of) {
      of = now
      known = new Map()
    }
    const found = known.get(lane) ?? reachIn(now, lane)
    known.set(lane, found)
    return found
  }
}

function reachIn(catalog: Catalog, lane: string): Reach {
  const [, operation, conditions = '', ...model] = lane.split('/')
  if (operation === echo) return { ...nowhere, unbounded: true }
  const named = model
    .join('/')
    .split(between)
    .map(name => catalog.resolve(name, 0))
    .flatMap(resolution => (resolution.found ? resolution.targets : []))
  const [where = '', ...others] = conditions.split(';')
  const targets = named.filter(
    target =>
      target.operations.some(name => name === operation) && isMeant(target, where) && others.every(condition => meets(target, condition))
  )
  return {
    devices: new Set(targets.flatMap(({ upstream }) => (upstream.device === null ? [] : [upstream.device.id]))),
    unbounded: targets.some(({ upstream }) => upstream.device === null)
  }
}

function isMeant({ upstream }: Target, where: string): boolean {
  if (where === 'any') return true
  return where === 'own' ? upstream.own : where.split('+').includes(providerOf(upstream))
}

/** Also true of what cannot be said here, like what a key may use. */
function meets({ features, contextTokens }: Target, condition: string): boolean {
  const size = /^(\d+)k$/.exec(condition)
  // The smallest that needs this much is half as long.
  if (size !== null) return contextTokens === null || contextTokens > (Number(size[1]) * 1_024) / 2
  return condition.startsWith('key-') || features === null || features.has(condition as Feature)
}
