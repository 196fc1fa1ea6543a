// The lengths of vectors as dispatch sees them: declared ones, those in the database, and those learned now.

import type { Dimensions } from '../routing/ports.ts'
import type { Pool } from '../store/pool.ts'
import { knownDimensions, recordDimensions } from '../store/vector-spaces.ts'

/** `declared`: by the configuration; they stand above what was ever seen. */
export async function createDimensions(
  pool: Pool,
  declared: ReadonlyMap<string, number>,
  log: (message: string, error: unknown) => void
): Promise<Dimensions> {
  const known = new Map([...(await knownDimensions(pool)), ...declared])
  return {
    known: space => known.get(space) ?? null,
    async learn(space, dimensions) {
      try {
        const first = await recordDimensions(pool, space, dimensions)
        known.set(space, first)
        return first
      } catch (error) {
        // Learned again with the next vectors; these are taken at their word.
        log('the length of vectors could not be recorded', error)
        return dimensions
      }
    }
  }
}
