// A copy of the project to run, as it is or with one guard taken out: what finds nothing wrong with the latter is no test.

import { cp, mkdir, readFile, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

export interface Replacement {
  readonly file: string
  /** Stands there exactly once. */
  readonly find: string
  readonly replace: string
}

export interface Mutant {
  /** What the project without this guard is found out by; anything else that is wrong says nothing about the guard. */
  readonly shows: RegExp
  readonly replacements: readonly Replacement[]
}

export const mutants: ReadonlyMap<string, Mutant> = new Map([
  // Whoever was frozen may still end a job that others have taken over.
  [
    'no_fence',
    {
      shows: /^late writer: /,
      replacements: [
        { file: 'store/jobs/end.ts', find: '\n             and ends.attempt_no = jobs.attempt_no', replace: '' },
        {
          file: 'store/jobs/end.ts',
          find: "\n   where jobs.status in ('queued', 'running')\n     and (ends.runner is null or jobs.process_id = ends.runner)",
          replace: ''
        }
      ]
    }
  ],
  // Two claims at once see the same free place.
  [
    'no_skip_locked',
    {
      shows: /^concurrency: /,
      replacements: [
        { file: 'migrations/0005_claim_one_of_several.sql', find: '\n         for update of device_slots skip locked;', replace: ';' },
        { file: 'store/slots.ts', find: '\n         for update of slot skip locked', replace: '' }
      ]
    }
  ],
  // A place is only given back: it waits for somebody to look. (Without the one half, the other wakes the next job as fast.)
  [
    'no_hand_over',
    {
      shows: /^slow: a freed place /,
      replacements: [
        { file: 'bin/slots.ts', find: '    if (!closed && (await queue().handOver(deviceId, attemptId))) return\n', replace: '' },
        { file: 'bin/slots.ts', find: '\n    queue().freed(deviceId)', replace: '' }
      ]
    }
  ],
  // The jobs of the dead stay with the dead.
  [
    'no_sweeper',
    {
      shows: /^stuck: /,
      replacements: [{ file: 'queue/sweeper.ts', find: "act(['lost', 'ownerless'], work, isSteady)", replace: 'act([], work, isSteady)' }]
    }
  ],
  // Every submit is a new job.
  [
    'no_idempotency',
    {
      shows: /^doubled: /,
      replacements: [
        {
          file: 'queue/submit.ts',
          find: 'idempotencyKey: job.idempotency?.key ?? null,\n    requestHash: job.idempotency?.hash ?? null',
          replace: 'idempotencyKey: null,\n    requestHash: null'
        }
      ]
    }
  ],
  // Everybody looks for himself, once a second.
  [
    'no_notify',
    {
      shows: /^slow: a job on an idle fleet /,
      replacements: [{ file: 'queue/notices.ts', find: '      await send(notices)', replace: '' }]
    }
  ]
])

const rooms = ['adapters', 'bin', 'gateway', 'ledger', 'migrations', 'outbound', 'planner', 'queue', 'routing', 'store', 'package.json']

/** So that an edit in the middle of a run changes nothing. Throws when the mutant is unknown, or its text is not there exactly once. */
export async function copyTo(root: string, folder: string, mutant: string | null): Promise<void> {
  await mkdir(folder)
  for (const room of rooms) await cp(join(root, room), join(folder, room), { recursive: true })
  await symlink(join(root, 'node_modules'), join(folder, 'node_modules'))
  if (mutant === null) return
  const known = mutants.get(mutant)
  if (known === undefined) throw new Error(`there is no mutant ${mutant}; there are ${[...mutants.keys()].join(', ')}`)
  for (const replacement of known.replacements) {
    const path = join(folder, replacement.file)
    await writeFile(path, changed(await readFile(path, 'utf8'), replacement))
  }
}

/** Throws when what is to be replaced is not there exactly once: then the guard has moved, and the mutant would change nothing. */
export function changed(text: string, { file, find, replace }: Replacement): string {
  const times = text.split(find).length - 1
  if (times !== 1) throw new Error(`${file} holds ${JSON.stringify(find)} ${times} times`)
  return text.replace(find, () => replace)
}
