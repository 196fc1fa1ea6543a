// Hands rows to the database, so that one row it refuses cannot hold up all others.

import type { CostRow } from '../store/costs.ts'
import { isDataError } from '../store/pool.ts'

export interface StorePorts {
  readonly insert: (rows: readonly CostRow[]) => Promise<void>
  readonly log: (message: string, error: unknown) => void
}

/**
 * Resolves when every row is stored or was refused for what it is; the refused ones are logged with their figures.
 * Throws when the database is away, full or busy: then nothing is sure, and all of it may be tried again.
 */
export async function storeRows(ports: StorePorts, rows: readonly CostRow[]): Promise<void> {
  try {
    await ports.insert(rows)
  } catch (error) {
    if (!isDataError(error)) throw error
    if (rows.length > 1) {
      for (const row of rows) await storeRows(ports, [row])
      return
    }
    const [row] = rows
    ports.log(`the database refuses the cost of attempt ${row?.attemptId}: ${row?.provider}, ${row?.costNanoUsd} nano-dollars`, error)
  }
}
