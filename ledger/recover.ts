// Books what processes that died had in their journals. Run at start, and now and then.

import type { CostRow } from '../store/costs.ts'
import { findJournals, readRows, removeJournals } from './journal.ts'
import { stateOf } from './owner.ts'
import { storeRows } from './store-rows.ts'

export interface RecoverPorts {
  readonly folder: string
  readonly ownProcessId: string
  readonly insert: (rows: readonly CostRow[]) => Promise<void>
  readonly log: (message: string, error: unknown) => void
  /** Of these process ids, the ones silent for so many seconds, by the database. */
  readonly silent: (ids: readonly string[], seconds: number) => Promise<readonly string[]>
}

// A process of another machine that shares the folder: the limit for attempts that cost money.
const silentSeconds = 10
const batchRows = 500

/** Returns how many rows were handed to the database. Safe from several processes at once: every row has one key. */
export async function recoverJournals(ports: RecoverPorts): Promise<number> {
  const journals = (await findJournals(ports.folder)).filter(({ owner }) => owner !== null && owner.processId !== ports.ownProcessId)
  const dead = new Set<string>()
  const doubtful: string[] = []
  for (const { owner } of journals) {
    if (owner === null || dead.has(owner.processId)) continue
    const state = stateOf(owner)
    if (state === 'dead') dead.add(owner.processId)
    if (state === 'unknown') doubtful.push(owner.processId)
  }
  if (doubtful.length > 0) {
    for (const id of await ports.silent([...new Set(doubtful)], silentSeconds)) dead.add(id)
  }
  let booked = 0
  for (const processId of dead) {
    const paths = journals
      .filter(({ owner }) => owner?.processId === processId)
      .map(({ path }) => path)
      .sort()
    const rows = await readRows(paths)
    for (let from = 0; from < rows.length; from += batchRows) await storeRows(ports, rows.slice(from, from + batchRows))
    await removeJournals(paths)
    booked += rows.length
  }
  return booked
}
