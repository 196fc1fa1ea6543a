// What the end of a call teaches: whether its target works, rests or is gone, how fast its machine is, how long its vectors are.

import type { CallEnd } from './call.ts'
import { GatewayError } from './errors.ts'
import type { Load } from './load.ts'
import type { Breakers, Dimensions, MachineHealth, Profiles } from './ports.ts'
import type { ModelRequest, Target, VectorSpace } from './types.ts'

export interface LessonPorts {
  readonly breakers: Breakers
  readonly load: Load
  readonly health: MachineHealth
  readonly dimensions: Dimensions
  /** Absent where nothing is learned. */
  readonly profiles?: Profiles
  /** The catalog is wrong about this target. */
  readonly onMissing: (target: Target) => void
}

/** `end`: of a call that this request made. */
export function learnFrom(ports: LessonPorts, request: ModelRequest, end: CallEnd): void {
  mark(ports, end)
  profile(ports, request, end)
}

/** Breakers, rests and marks: what this end says of the target. */
function mark(ports: LessonPorts, { target, error }: CallEnd): void {
  ports.breakers.record(target.id, error)
  if (error === null || error.code === 'client_gone') return
  const { device } = target.upstream
  if (device !== null && error.breaker === 'failure' && error.code !== 'machine_lost') ports.health.failed(device.id)
  if (error.breaker === 'cool_down') ports.load.coolDown(target.id, error.retryAfterMs ?? 1_000)
  if (error.breaker === 'denied') ports.load.deny(target.upstream.id)
  if (error.breaker === 'not_here') {
    ports.load.miss(target.id)
    ports.onMissing(target)
  }
}

/** How fast the machine was, or that it failed; a client that left says nothing of it. */
function profile(ports: LessonPorts, { stream, isBenchmark }: ModelRequest, { target, error, ttftMs, timings }: CallEnd): void {
  const { device } = target.upstream
  const isFailure = error !== null && error.breaker === 'failure'
  if (device === null || (!isFailure && timings === undefined)) return
  ports.profiles?.observe(device.id, target.model, {
    isFailure,
    loadMs: timings?.loadMs ?? null,
    ttftMs: stream ? ttftMs : null,
    prompt: timings?.prompt ?? null,
    answer: timings?.answer ?? null,
    isBenchmark: isBenchmark === true
  })
}

/** Vectors of another length than those of the same space, or than were asked for, are of no use to anyone. */
export function mismatch(
  ports: Pick<LessonPorts, 'dimensions'>,
  { model, embedding }: ModelRequest,
  { space, dimensions }: { readonly space: VectorSpace | null; readonly dimensions: number }
): GatewayError | null | Promise<GatewayError | null> {
  if (space === null || embedding === null) return null
  const { name } = space
  const asked = embedding.dimensions
  if (asked !== null) {
    if (asked === dimensions) return null
    return new GatewayError('dimension_mismatch', `${asked} dimensions were asked for, but "${model}" gave ${dimensions}.`, {
      param: 'dimensions'
    })
  }
  const judge = (expected: number): GatewayError | null =>
    expected === dimensions
      ? null
      : new GatewayError('dimension_mismatch', `Vectors of "${name}" have ${expected} dimensions, but these have ${dimensions}.`, {
          param: 'model'
        })
  const known = ports.dimensions.known(name)
  // The first vectors of a space: another gateway may have had others before.
  return known === null ? ports.dimensions.learn(name, dimensions).then(judge) : judge(known)
}
