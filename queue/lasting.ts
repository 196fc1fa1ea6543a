// Whether what speaks against a request now may pass by itself: then it may wait as a job.

import type { Decision, Rejection } from '../routing/decide.ts'

// A place gets free, a rest ends, a machine comes back.
const passing: readonly Rejection[] = ['cooling_down', 'down', 'full', 'no_load']

/**
 * It may not leave our machines, and none of those that are known has what it asks for: nothing is waited for. Not so where its
 * error is lasting by itself (`jobRetry`).
 */
export function isConfined(decision: Decision): boolean {
  return lasts(decision, 'not_local')
}

/** Whatever could answer it would probably do so after its deadline, which is a hard one. */
export function isTooLate(decision: Decision): boolean {
  return lasts(decision, 'deadline')
}

function lasts({ action, rejected }: Decision, because: Rejection): boolean {
  if (action !== 'refuse') return false
  const lasting = new Set(rejected.filter(({ reason }) => reason === because).map(({ target }) => target))
  // One that is full, too, would be too late all the same.
  return lasting.size > 0 && !rejected.some(({ target, reason }) => !lasting.has(target) && passing.includes(reason))
}
