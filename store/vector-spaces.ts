// How long the vectors of an embedding model are, as first seen.

import type { Pool } from './pool.ts'

/** All that is known, by the name of the space. */
export async function knownDimensions(pool: Pool): Promise<Map<string, number>> {
  const { rows } = await pool.query({ name: 'vector_spaces.known', text: 'select name, dimensions from vector_spaces' })
  return new Map(rows.map(row => [row.name, row.dimensions]))
}

const recordSql = `
   insert into vector_spaces (name, dimensions)
   values ($1, $2)
       on conflict (name) do update set name = excluded.name
returning dimensions`

/** Records a length if none is known yet; returns the one that holds, which may be another process's. */
export async function recordDimensions(pool: Pool, name: string, dimensions: number): Promise<number> {
  const { rows } = await pool.query({ name: 'vector_spaces.record', text: recordSql, values: [name, dimensions] })
  return rows[0].dimensions
}
