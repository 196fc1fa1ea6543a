// What may run next: the heads of lanes, and where the classes stand.

import type { Pool } from '../pool.ts'

/** One that waits, as far as a decision needs it. */
export interface Candidate {
  readonly id: string
  readonly lane: string
  readonly class: number
  readonly attemptNo: number
  readonly createdAt: Date
  readonly ownerProcess: string | null
  /** As they were stored (store/jobs/submit.ts). */
  readonly request: unknown
  readonly caller: unknown
}

// A loose index scan: from each lane on to the next one that has something ready.
const lanesSql = `
with recursive lane (name) as (
  (select lane from jobs where status = 'queued' and ready order by lane limit 1)
  union all
  select (select jobs.lane from jobs where status = 'queued' and ready and jobs.lane > lane.name order by jobs.lane limit 1)
    from lane
   where lane.name is not null
)
select name from lane where name is not null limit $1`

/** The lanes in which something is ready, at most `atMost`. About 8 microseconds a lane. */
export async function readyLanes(pool: Pool, atMost: number): Promise<string[]> {
  const { rows } = await pool.query({ name: 'jobs.lanes', text: lanesSql, values: [atMost] })
  return rows.map(({ name }) => name)
}

/** One that waits, as far as the order needs it: read from the index alone. */
export interface Head {
  readonly id: string
  readonly lane: string
  readonly tag: number
}

const headOf = (columns: string): string => `
select place, head.*
  from unnest($1::text[]) with ordinality as asked (lane, place)
 cross join lateral (
       select ${columns}
         from jobs
        where jobs.lane = asked.lane
          and status = 'queued'
          and ready
        order by tag, id
        limit $2
       ) as head`

const wholeColumns = `id, class, attempt_no as "attemptNo", created_at as "createdAt", owner_process as "ownerProcess", request, caller`
const headsSql = headOf('id, tag')
const wholeHeadsSql = headOf(`tag, ${wholeColumns}`)

/** Up to `each` heads of every one of these lanes. About 2 microseconds each. */
export async function headsOf(pool: Pool, lanes: readonly string[], each: number): Promise<Head[]> {
  const { rows } = await pool.query({ name: 'jobs.heads', text: headsSql, values: [lanes, each] })
  return rows.map(({ place, id, tag }) => ({ id, tag: Number(tag), lane: lanes[Number(place) - 1] as string }))
}

/** The same, each with all that a decision needs: for few of them a way there and back is dearer than some 2 kB more. */
export async function wholeHeadsOf(pool: Pool, lanes: readonly string[], each: number): Promise<(Head & Candidate)[]> {
  const { rows } = await pool.query({ name: 'jobs.whole_heads', text: wholeHeadsSql, values: [lanes, each] })
  return rows.map(({ place, tag, ...row }) => ({ ...row, tag: Number(tag), lane: lanes[Number(place) - 1] as string }))
}

/** These jobs with all that a decision needs, in the order of `ids`; those that wait no more are left out. */
export async function candidatesOf(pool: Pool, ids: readonly string[]): Promise<Candidate[]> {
  const { rows } = await pool.query({
    name: 'jobs.candidates',
    text: `select lane, ${wholeColumns} from jobs where id = any ($1::uuid[]) and status = 'queued' and ready`,
    values: [ids]
  })
  const found = new Map<string, Candidate>(rows.map(row => [row.id, row]))
  return ids.flatMap(id => found.get(id) ?? [])
}

/** When each class was served last, by the database's clock; the index is the class. */
export async function classesServedAt(pool: Pool): Promise<Date[]> {
  const { rows } = await pool.query({ name: 'jobs.classes', text: 'select class, served_at from class_vtime order by class' })
  return rows.map(row => row.served_at)
}

/** Sets jobs aside that nothing can run now, so that they do not stand in the way of others. They are looked at again after `ms`. */
export async function setAside(pool: Pool, ids: readonly string[], ms: number): Promise<void> {
  await pool.query({
    name: 'jobs.set_aside',
    text: `
update jobs
   set ready = false, run_at = now() + make_interval(secs => $2 / 1000.0)
 where id = any ($1::uuid[])
   and status = 'queued'
   and ready`,
    values: [ids, ms]
  })
}

/** How many wait, by class, each counted to `atMost`; and how many run. For people: nothing is decided by it. */
export async function countJobs(pool: Pool, atMost: number): Promise<{ readonly waiting: readonly number[]; readonly running: number }> {
  const { rows } = await pool.query({
    name: 'jobs.count',
    text: `
select array(
         select (select count(*) from (select from jobs where jobs.class = known.class and status = 'queued' limit $1) as queued)
           from class_vtime as known
          order by known.class
       )::integer[] as waiting,
       (select count(*)::integer from (select from jobs where status = 'running' limit $1) as running) as running`,
    values: [atMost]
  })
  return rows[0]
}
