// Lanes: jobs of one lane can run on the same machines. A lane says in its name which those are.

import { type Catalog, canonical } from '../routing/catalog.ts'
import { providerOf } from '../routing/targets.ts'
import type { ModelRequest, Target } from '../routing/types.ts'

const echo = 'echo'

/** The lane of a request; of `echo` when it is null. Names of models come last, because they have slashes of their own. */
export function laneOf(
  jobClass: number,
  request: Pick<ModelRequest, 'operation' | 'model' | 'localOnly' | 'only' | 'providers'> | null
): string {
  if (request === null) return `${jobClass}/${echo}`
  const where = request.localOnly ? 'own' : request.providers === undefined ? 'any' : request.providers.join('+')
  return `${jobClass}/${request.operation}/${where}/${request.only ?? canonical(request.model)}`
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
  const [, operation, where, ...model] = lane.split('/')
  if (operation === echo) return { ...nowhere, unbounded: true }
  const resolution = catalog.resolve(model.join('/'), 0)
  if (!resolution.found) return nowhere
  const targets = resolution.targets.filter(target => target.operations.some(name => name === operation) && isMeant(target, where ?? ''))
  return {
    devices: new Set(targets.flatMap(({ upstream }) => (upstream.device === null ? [] : [upstream.device.id]))),
    unbounded: targets.some(({ upstream }) => upstream.device === null)
  }
}

function isMeant({ upstream }: Target, where: string): boolean {
  if (where === 'any') return true
  return where === 'own' ? upstream.own : where.split('+').includes(providerOf(upstream))
}
