// How much of everything: the short form of `npm test`, and the long one.

import type { RunOptions } from './run.ts'

type Form = Omit<RunOptions, 'seed' | 'mutant' | 'hunted' | 'say'>

/** Some 35 s. */
export const shortForm: Form = {
  plan: { cycles: 8, stops: 3, postgresKills: 1, pauseMs: [400, 900] },
  submitters: 14,
  callers: 3,
  sceneMs: 60_000,
  // A rented call of a process that died is taken up again after 10 s of its silence; a slow machine needs several times that.
  drainMs: 90_000,
  // How fast things go on a machine that runs other tests as well says nothing.
  judgesSpeed: false
}

export function longForm(cycles: number): Form {
  return {
    plan: { cycles, stops: Math.ceil(cycles / 4), postgresKills: Math.ceil(cycles / 20), pauseMs: [500, 1_500] },
    submitters: 14,
    callers: 3,
    sceneMs: 30_000,
    drainMs: 60_000,
    judgesSpeed: true
  }
}
