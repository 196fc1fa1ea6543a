// Which gateway processes live. Liveness belongs to processes: a slot is held by one, and free when it goes silent.

import type { Pool } from './pool.ts'

export interface ProcessIdentity {
  readonly id: string
  readonly host: string
  readonly pid: number
  readonly version: string
  /** What it does: `all` (if not given), `gateway`, `worker`, `planner`. */
  readonly role?: string
}

const registerSql = `
insert into processes (id, host, pid, version, role)
values ($1, $2, $3, $4, $5)
    on conflict (id) do update set seen_at = now()`

/** Also the heartbeat: a process that was swept away while it was cut off comes back by it. */
export async function seenProcess(pool: Pick<Pool, 'query'>, process: ProcessIdentity): Promise<void> {
  const { id, host, pid, version, role = 'all' } = process
  await pool.query({ name: 'processes.seen', text: registerSql, values: [id, host, pid, version, role] })
}

export async function removeProcess(pool: Pool, id: string): Promise<void> {
  await pool.query({ name: 'processes.remove', text: 'delete from processes where id = $1', values: [id] })
}

/** Of these process ids, the ones that have not been seen for `silentSeconds`, or never were. By the database's clock. */
export async function silentProcesses(pool: Pool, ids: readonly string[], silentSeconds: number): Promise<string[]> {
  const { rows } = await pool.query({
    name: 'processes.silent',
    text: `
select id
  from unnest($1::uuid[]) as asked (id)
 where not exists (
   select 1
     from processes
    where processes.id = asked.id
      and seen_at > now() - make_interval(secs => $2)
 )`,
    values: [ids, silentSeconds]
  })
  return rows.map(row => row.id)
}

/** Forgets processes silent for a day. */
export async function sweepProcesses(pool: Pool): Promise<void> {
  await pool.query({ name: 'processes.sweep', text: `delete from processes where seen_at < now() - interval '1 day'` })
}
