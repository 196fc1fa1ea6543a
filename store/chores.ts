// What is done once for all processes: when it is due, who is at it, and how it went.

import type { Pool } from './pool.ts'

export interface ChoreRow {
  readonly name: string
  /** Null = when it is called for. */
  readonly dueAt: Date | null
  readonly isRunning: boolean
  /** Of the last time that was not broken off; null = never. */
  readonly finishedAt: Date | null
  readonly succeeded: boolean | null
  readonly note: string | null
}

/**
 * Chores are due now (`atOnce`, unless they were done in the last 10 minutes) or after their interval; a shorter interval than before
 * holds from now on. `everyMs` 0 = only on demand.
 */
export async function knowChores(
  pool: Pool,
  chores: readonly { readonly name: string; readonly everyMs: number; readonly atOnce: boolean }[]
): Promise<void> {
  await pool.query({
    name: 'chores.know',
    text: `
with known as (
  select name, at_once, case when every_ms = 0 then 'infinity' else now() + make_interval(secs => every_ms / 1000) end as next_at
    from unnest($1::text[], $2::double precision[], $3::boolean[]) as given (name, every_ms, at_once)
), changed as (
  update chores
     set due_at = case
           -- Processes that start together do it once.
           when at_once and (finished_at is null or finished_at < now() - interval '10 minutes') then now()
           when next_at = 'infinity' then next_at
           else least(chores.due_at, next_at)
         end
    from known
   where chores.name = known.name
)
insert into chores (name, due_at)
select name, case when at_once then now() else next_at end
  from known
    on conflict do nothing`,
    values: [chores.map(({ name }) => name), chores.map(({ everyMs }) => everyMs), chores.map(({ atOnce }) => atOnce)]
  })
}

/**
 * Of these, those that are due and that nobody alive is at: from now on `processId` is. It is at none of them: one that is
 * written down as its own was taken by a call whose answer was lost.
 */
export async function takeChores(pool: Pool, names: readonly string[], processId: string): Promise<string[]> {
  const { rows } = await pool.query({
    name: 'chores.take',
    text: `
update chores
   set process_id = $2, started_at = now()
 where name in (
   select name
     from chores
    where name = any ($1::text[])
      and case when process_id is null then due_at <= now() else process_id = $2 or not process_is_alive(process_id, 3) end
      for update skip locked
 )
returning name`,
    values: [names, processId]
  })
  return rows.map(({ name }) => name)
}

/** True while the chore is still ours: another process takes it over when ours is silent. */
export async function isChoreOf(pool: Pool, name: string, processId: string): Promise<boolean> {
  const { rows } = await pool.query({
    name: 'chores.is_of',
    text: 'select from chores where name = $1 and process_id = $2',
    values: [name, processId]
  })
  return rows.length === 1
}

/** It is over, and due again in `nextMs` (null = only on demand). False when another process has taken it over meanwhile. */
export async function finishChore(
  pool: Pool,
  chore: {
    readonly name: string
    readonly processId: string
    readonly nextMs: number | null
    readonly succeeded: boolean
    readonly note: string
  }
): Promise<boolean> {
  const { rows } = await pool.query({
    name: 'chores.finish',
    text: `
update chores
   set process_id = null,
       finished_at = now(),
       succeeded = $4,
       note = left($5, 2000),
       due_at = case
         -- It was called for meanwhile (callChoreAgain).
         when due_at = '-infinity' then now()
         when $3::double precision is null then 'infinity'
         else now() + make_interval(secs => $3 / 1000)
       end
 where name = $1
   and process_id = $2
returning name`,
    values: [chore.name, chore.processId, chore.nextMs, chore.succeeded, chore.note]
  })
  return rows.length === 1
}

/** Due at once, unless somebody is at it or it was done in the last `restMs`; whoever looks next does it. */
export async function callChore(pool: Pool, name: string, restMs = 0): Promise<void> {
  await pool.query({
    name: 'chores.call',
    text: `
update chores
   set due_at = now()
 where name = $1
   and process_id is null
   and coalesce(finished_at, '-infinity') <= now() - make_interval(secs => $2 / 1000.0)`,
    values: [name, restMs]
  })
}

/** Due at once, also after whoever is at it: it may have looked before there was this to do. */
export async function callChoreAgain(pool: Pool, name: string): Promise<void> {
  await pool.query({
    name: 'chores.call_again',
    text: `update chores set due_at = case when process_id is null then now() else '-infinity' end where name = $1`,
    values: [name]
  })
}

/** A failure that is written down is over: it was done by hand, or there is nothing to do any more. */
export async function settleChore(pool: Pool, name: string, note: string): Promise<void> {
  await pool.query({
    name: 'chores.settle',
    text: `
update chores
   set finished_at = now(), succeeded = true, note = left($2, 2000)
 where name = $1
   and process_id is null
   and not succeeded`,
    values: [name, note.replaceAll('\0', '')]
  })
}

export async function listChores(pool: Pool): Promise<ChoreRow[]> {
  const { rows } = await pool.query({
    name: 'chores.list',
    text: `
select name, case when due_at = '-infinity' then now() else nullif(due_at, 'infinity') end as "dueAt", process_id is not null as "isRunning", finished_at as "finishedAt", succeeded, note
  from chores
 order by name`
  })
  return rows
}
