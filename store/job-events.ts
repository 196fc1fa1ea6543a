// What happened to jobs with `stream`: written in batches while they run, with the result when they end, read by whoever follows them.

import type { Pool } from './pool.ts'

/** As it is stored. Written again it stays what it was, as long as `at` is the same. */
export interface EventRow {
  readonly jobId: string
  readonly attempt: number
  /** Of the first of its chunks. */
  readonly seq: number
  readonly kind: 'attempt' | 'chunks' | 'result' | 'end'
  /** How many numbers it takes. */
  readonly count: number
  /** Chunks: one JSON object a line. */
  readonly data: string
  readonly at: Date
}

const insertSql = `
insert into job_events (job_id, attempt, seq, kind, count, data, at)
select job_id, attempt, seq, kind, count, data, at
  from unnest($1::uuid[], $2::integer[], $3::integer[], $4::text[], $5::integer[], $6::text[], $7::timestamptz[])
       as row (job_id, attempt, seq, kind, count, data, at)
    on conflict do nothing`

/** Within the transaction that ends the job. Safe twice with the same rows. */
export async function insertEvents(client: Pick<Pool, 'query'>, rows: readonly EventRow[]): Promise<void> {
  if (rows.length === 0) return
  await client.query({ name: 'job_events.insert', text: insertSql, values: columns(rows) })
}

// The setting holds for this statement's own transaction: begin, set and commit would be three more ways to the server.
const insertSoonSql = `
insert into job_events (job_id, attempt, seq, kind, count, data, at)
select job_id, attempt, seq, kind, count, data, at
  from unnest($1::uuid[], $2::integer[], $3::integer[], $4::text[], $5::integer[], $6::text[], $7::timestamptz[])
       as row (job_id, attempt, seq, kind, count, data, at),
       (select set_config('synchronous_commit', 'off', true)) as setting
    on conflict do nothing`

/**
 * Does not wait for the disk: a server that is killed may forget the rows of its last second. Whoever writes keeps them until they
 * are safe. Not within a transaction of the caller's, which would not wait either. Safe twice with the same rows.
 */
export async function insertEventsSoon(client: Pick<Pool, 'query'>, rows: readonly EventRow[]): Promise<void> {
  if (rows.length === 0) return
  await client.query({ name: 'job_events.insert_soon', text: insertSoonSql, values: columns(rows) })
}

function columns(rows: readonly EventRow[]): unknown[] {
  return [
    rows.map(row => row.jobId),
    rows.map(row => row.attempt),
    rows.map(row => row.seq),
    rows.map(row => row.kind),
    rows.map(row => row.count),
    rows.map(row => row.data),
    rows.map(row => row.at)
  ]
}

/** How far somebody has read. */
export interface EventPlace {
  readonly jobId: string
  readonly attempt: number
  /** The last number he has; -1 = not even the marker. */
  readonly seq: number
  /** A row ends there; otherwise the row is looked for that holds the next number. */
  readonly isRowEnd: boolean
}

// The row before a place that is no row's end comes too: that is how a reader sees that nothing follows its `end`.
const readSql = `
select place.number, event.attempt, event.seq, event.kind, event.count, event.data, event.at
  from unnest($1::uuid[], $2::integer[], $3::integer[], $4::boolean[]) with ordinality
       as place (job_id, attempt, seq, is_row_end, number),
       lateral (
         select attempt, seq, kind, count, data, at,
                sum(octet_length(data)) over (order by seq rows between unbounded preceding and 1 preceding) as before
           from job_events
          where job_id = place.job_id
            and attempt = place.attempt
            and seq >= case when place.is_row_end then place.seq + 1 else coalesce((
                  select max(seq)
                    from job_events
                   where job_id = place.job_id
                     and attempt = place.attempt
                     and seq <= place.seq + 1
                ), 0) end
          order by seq
          limit $6
       ) as event
 where before is null
    or before < $5`

export interface ReadEvents {
  /** In order; of one number `result` and `end` come first. */
  readonly rows: readonly EventRow[]
  /** Nothing follows yet. */
  readonly isAll: boolean
}

const rowsAtMost = 512

/** What lies beyond each place, in the order of the places: about `bytes` of each. */
export async function readEvents(pool: Pick<Pool, 'query'>, places: readonly EventPlace[], bytes: number): Promise<ReadEvents[]> {
  const { rows } = await pool.query({
    name: 'job_events.read',
    text: readSql,
    values: [
      places.map(place => place.jobId),
      places.map(place => place.attempt),
      places.map(place => place.seq),
      places.map(place => place.isRowEnd),
      bytes,
      rowsAtMost
    ]
  })
  const found = places.map((): EventRow[] => [])
  for (const { number, ...row } of rows) {
    const at = Number(number) - 1
    found[at]?.push({ ...row, jobId: places[at]?.jobId })
  }
  return found.map(rows => ({
    rows: rows.sort((one, other) => one.seq - other.seq || rank(one) - rank(other)),
    isAll: rows.length < rowsAtMost && rows.reduce((sum, { data }) => sum + Buffer.byteLength(data), 0) < bytes
  }))
}

/** A chunk with the number of a `result` is from an attempt that was given up and went on writing. */
function rank({ kind }: EventRow): number {
  return kind === 'chunks' ? 1 : 0
}

export interface FollowedState {
  readonly status: 'queued' | 'running' | 'done' | 'error' | 'cancelled'
  readonly attemptNo: number
  readonly processId: string | null
}

const statesSql = `
select id, status, attempt_no, process_id
  from jobs
 where id = any ($1::uuid[])`

/** What those who follow these jobs must know of them; without those that are gone. */
export async function readFollowed(pool: Pick<Pool, 'query'>, ids: readonly string[]): Promise<Map<string, FollowedState>> {
  const { rows } = await pool.query({ name: 'job_events.followed', text: statesSql, values: [ids] })
  return new Map(rows.map(row => [row.id, { status: row.status, attemptNo: row.attempt_no, processId: row.process_id }]))
}
