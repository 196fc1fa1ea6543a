// Writes jobs: their rows, and the place of their sources in the order.

import type { Client } from '../pool.ts'

export interface JobRow {
  readonly id: string
  readonly kind: string
  readonly class: number
  readonly lane: string
  /** Microseconds of a reference machine. */
  readonly charge: number
  readonly weight: number
  readonly model: string | null
  readonly source: string
  readonly subSource: string | null
  readonly keyId: string | null
  readonly ownerProcess: string | null
  readonly outlivesOwner: boolean
  /** As JSON: the request without its body, and whose it is. */
  readonly request: unknown
  readonly caller: unknown
  readonly payload: Buffer | null
  readonly stream: boolean
  readonly maxAttempts: number
  readonly idempotencyKey: string | null
  readonly requestHash: Buffer | null
  readonly maxCostUsd: number | null
  readonly metadata: unknown
  readonly webhookUrl: string | null
  /** Epoch, ms. */
  readonly deadlineAt: number | null
}

// The start tag of a job is where its source stands, or where its class is served now if that is further on; then the source
// moves on by what the job is charged, divided by its weight. Several jobs of one source follow each other.
const insertSql = `
with given as (
  select *
    from json_to_recordset($1::json) as row (
         id uuid, kind text, class smallint, lane text, charge bigint, weight double precision, model text, source text, "subSource" text,
         "keyId" uuid, "ownerProcess" uuid, "outlivesOwner" boolean, request json, caller json, stream boolean, "maxAttempts" integer,
         "idempotencyKey" text, "requestHash" text, "maxCostUsd" double precision, metadata json, "webhookUrl" text,
         "deadlineAt" double precision, nth bigint)
), steps as (
  select id, source, given.class, v,
         sum(ceil(charge / weight)) over (partition by source, given.class order by nth) - ceil(charge / weight) as before,
         sum(ceil(charge / weight)) over (partition by source, given.class) as total
    from given
    join class_vtime on class_vtime.class = given.class
), moved as (
  insert into source_vtime as known (source, class, vfinish)
  select distinct source, class, v + total::bigint
    from steps
   order by source, class
      on conflict (source, class) do update
     set vfinish = greatest(known.vfinish, (select v from class_vtime where class_vtime.class = known.class))
                   + excluded.vfinish - (select v from class_vtime where class_vtime.class = known.class),
         changed_at = now()
  returning source, class, vfinish
)
insert into jobs (
       id, kind, class, lane, tag, charge, weight, model, source, sub_source, key_id, owner_process, outlives_owner, request, caller, payload,
       stream, max_attempts, idempotency_key, request_hash, max_cost_usd, metadata, webhook_url, webhook_status, deadline_at)
select given.id, kind, given.class, lane, (moved.vfinish - total + before)::bigint, charge, weight, model, given.source, "subSource", "keyId",
       "ownerProcess", "outlivesOwner", request, caller, ($2::bytea[])[nth],
       stream, "maxAttempts", "idempotencyKey", decode("requestHash", 'hex'), "maxCostUsd", metadata, "webhookUrl",
       case when "webhookUrl" is not null then 'waiting' end, to_timestamp("deadlineAt" / 1000.0)
  from given
  join steps on steps.id = given.id
  join moved on moved.source = given.source and moved.class = given.class
 order by nth
    on conflict do nothing
returning id`

/**
 * Stores jobs within the transaction of `client` and returns the ids of those that are new: the others have an id or an
 * idempotency key that is there already.
 */
export async function insertJobs(client: Client, rows: readonly JobRow[]): Promise<string[]> {
  const given = rows.map(({ payload: _payload, requestHash, ...row }, index) => ({
    ...row,
    requestHash: requestHash?.toString('hex') ?? null,
    nth: index + 1
  }))
  const { rows: stored } = await client.query({
    name: 'jobs.insert',
    text: insertSql,
    values: [JSON.stringify(given), rows.map(({ payload }) => payload)]
  })
  return stored.map(({ id }) => id)
}

/** Jobs by their idempotency keys, within their sources; `hash` is of the body they came with. */
export async function findByIdempotencyKeys(
  client: Pick<Client, 'query'>,
  keys: readonly { readonly source: string; readonly key: string }[]
): Promise<{ readonly id: string; readonly source: string; readonly key: string; readonly hash: Buffer }[]> {
  const { rows } = await client.query({
    name: 'jobs.by_idempotency_keys',
    text: `
select id, jobs.source, idempotency_key as key, request_hash as hash
  from unnest($1::text[], $2::text[]) as asked (source, key)
  join jobs on jobs.source = asked.source and jobs.idempotency_key = asked.key`,
    values: [keys.map(({ source }) => source), keys.map(({ key }) => key)]
  })
  return rows
}

/**
 * How many queued jobs there are: of one source or of all (null), interactive ones or the others. Counts to `atMost` and stops,
 * because a queue may be long.
 */
export async function countBacklog(
  pool: Pick<Client, 'query'>,
  { source, interactive, atMost }: { readonly source: string | null; readonly interactive: boolean; readonly atMost: number }
): Promise<number> {
  const classes = interactive ? [0, 1] : [2, 3, 4]
  const { rows } = await pool.query(
    source === null
      ? {
          name: 'jobs.backlog',
          text: `
select count(*) as waiting
  from (select from jobs where class = any ($1::smallint[]) and status = 'queued' limit $2) as queued`,
          values: [classes, atMost]
        }
      : {
          name: 'jobs.backlog_of_source',
          text: `
select count(*) as waiting
  from (select from jobs where class = any ($1::smallint[]) and source = $3 and status = 'queued' limit $2) as queued`,
          values: [classes, atMost, source]
        }
  )
  return Number(rows[0].waiting)
}
