// What gateways have learned of answers, times and providers: a row for each process.

import type { Pool } from './pool.ts'

/** `state` in JSON. */
export async function saveBrainState(pool: Pool, processId: string, state: string): Promise<void> {
  await pool.query({
    name: 'brain_state.save',
    text: `
insert into brain_state (process_id, state)
values ($1, $2)
    on conflict (process_id) do update set state = excluded.state, saved_at = now()`,
    values: [processId, state]
  })
}

/** Whoever's is the newest; null when there is none. */
export async function newestBrainState(pool: Pool): Promise<unknown> {
  const { rows } = await pool.query({
    name: 'brain_state.newest',
    text: 'select state from brain_state order by saved_at desc limit 1'
  })
  return rows[0]?.state ?? null
}

/** Forgets those of processes that are gone and wrote nothing for a day; the newest of all stays. */
export async function forgetBrainStates(pool: Pool): Promise<void> {
  await pool.query({
    name: 'brain_state.forget',
    text: `
delete from brain_state
 where saved_at < now() - interval '1 day'
   and process_id not in (select living_processes(3))
   and process_id <> (select process_id from brain_state order by saved_at desc limit 1)`
  })
}
