// What is to be said of one job that waits, once it was decided about: where it would run, whether it is too late, whether there is hope.

import type { Decision } from '../routing/decide.ts'
import { GatewayError } from '../routing/errors.ts'
import type { ModelRequest, Target } from '../routing/types.ts'
import type { Candidate } from '../store/jobs/candidates.ts'
import { isConfined } from './lasting.ts'
import { jobClasses } from './types.ts'

// A model that was there when the job came may be back; after a day nobody believes in it.
const missingForMs = 86_400_000
// As with a deadline that is hard.
const lateShare = 0.5
// What comes between the model's own time and the client's clock.
const lateMargin = 1.05
const batch = jobClasses.indexOf('batch')

/** Where it would run on this machine: first of all, where that was weighed. */
export function targetOn(decision: Decision, deviceId: string): Target | null {
  const targets = decision.action === 'run' ? decision.ranked : decision.action === 'enqueue' ? decision.feasible : []
  const wanted = decision.planned === undefined ? targets : targets.slice(0, 1)
  return wanted.find(({ upstream }) => upstream.device?.id === deviceId) ?? null
}

/** Somebody holds the line for it, and would not hear the answer any more, wherever it began now. */
export function isTooLate({ ownerProcess }: Candidate, { planned }: Decision): boolean {
  if (ownerProcess === null || planned === undefined || planned.estimates.length === 0) return false
  const { leftS, isStream } = planned.work
  if (leftS === null) return false
  // Whoever is served last before that is always at the edge: half a chance each would be half of all places for nothing.
  return planned.estimates.every(({ missShare, raw }) => missShare > lateShare || (isStream !== true && raw.p90 * lateMargin > leftS))
}

/** A model that is nowhere, or nowhere where the request may go, may be back; not for ever. */
export function mayComeBack({ createdAt }: Candidate, decision: Decision & { readonly action: 'refuse' }): boolean {
  const { error } = decision
  const isGone = error.code === 'model_not_found' || isConfined(decision)
  return isGone ? Date.now() - createdAt.getTime() < missingForMs : error.jobRetry
}

/** Unless it says what time is worth. */
export function isRentFree(jobClass: number, { route }: Pick<ModelRequest, 'route'>): boolean {
  return jobClass >= batch && route === undefined
}

/** For an error that has to say that nothing is there. */
export function noMachine(model: string): GatewayError {
  return new GatewayError('no_capacity', `No machine for "${model}" is here any more.`, { retryAfterMs: 5_000 })
}
