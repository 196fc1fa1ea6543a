// Who loads what on which machine, and loads that did not end.

import type { Pool } from './pool.ts'

export interface LoadClaim {
  readonly deviceId: string
  readonly model: string
  readonly processId: string
}

export interface LoadTaken {
  readonly isTaken: boolean
  /** Places there that other processes hold: what they run is not known here. */
  readonly othersAtWork: number
  /** Loaded there by another process, when that is why; null = it is not. */
  readonly otherModel: string | null
  /** Nothing is loaded there for so long: a load did not end. 0 = that is not why. */
  readonly stuckMs: number
}

// The one with the row may go on for as long as it lives, but not for ever.
const takeSql = `
with living as materialized (
  select living_processes(3) as id
), stuck as (
  select greatest(0, extract(epoch from stuck_until - now()) * 1000)::double precision as ms
    from devices
   where id = $1
     and stuck_until > now()
), taken as (
  insert into device_loads (device_id, model, process_id)
  select $1, $2, $3
   where not exists (select from stuck)
      on conflict (device_id) do update
     set model = excluded.model,
         process_id = excluded.process_id,
         since = now()
   where device_loads.process_id = excluded.process_id
      or device_loads.process_id <> all (select id from living)
      or device_loads.since < now() - interval '15 minutes'
  returning device_id
)
select exists (select from taken) as "isTaken",
       (select count(*)::integer
          from device_slots
         where device_id = $1
           and process_id <> $3
           and process_id in (select id from living)) as "othersAtWork",
       (select model from device_loads where device_id = $1 and process_id <> $3) as "otherModel",
       coalesce((select ms from stuck), 0) as "stuckMs"`

/** Takes the machine's one load. One statement, safe from any number of processes; safe twice. */
export async function takeLoad(pool: Pool, { deviceId, model, processId }: LoadClaim): Promise<LoadTaken> {
  const { rows } = await pool.query({ name: 'loads.take', text: takeSql, values: [deviceId, model, processId] })
  return rows[0]
}

/** It is over. Nobody else's is freed. Safe twice. */
export async function endLoad(pool: Pool, deviceId: string, processId: string): Promise<void> {
  await pool.query({
    name: 'loads.end',
    text: 'delete from device_loads where device_id = $1 and process_id = $2',
    values: [deviceId, processId]
  })
}

/** What processes that live load on these machines. */
export async function loadsOn(
  pool: Pool,
  deviceIds: readonly string[]
): Promise<{ readonly deviceId: string; readonly model: string; readonly processId: string }[]> {
  const { rows } = await pool.query({
    name: 'loads.on',
    text: `
select device_id as "deviceId", model, process_id as "processId"
  from device_loads
 where device_id = any ($1::text[])
   and since > now() - interval '15 minutes'
   and process_id in (select living_processes(3))`,
    values: [deviceIds]
  })
  return rows
}

/** The last act of a process. */
export async function endProcessLoads(pool: Pool, processId: string): Promise<void> {
  await pool.query({ name: 'loads.end_process', text: 'delete from device_loads where process_id = $1', values: [processId] })
}

/** A load there did not end: nothing is loaded there for so long, by anybody. It is an event. */
export async function setStuck(pool: Pool, deviceId: string, model: string, seconds: number): Promise<void> {
  await pool.query({
    name: 'loads.stuck',
    text: `
with changed as (
  update devices
     set stuck_model = $2, stuck_until = now() + make_interval(secs => $3)
   where id = $1
  returning id
)
insert into device_events (device_id, kind, note)
select id, 'load_stuck', left($2, 1000)
  from changed`,
    values: [deviceId, model, seconds]
  })
}

/** Loading works there again. An event, if it did not before. */
export async function clearStuck(pool: Pool, deviceId: string): Promise<void> {
  await pool.query({
    name: 'loads.works',
    text: `
with changed as (
  update devices
     set stuck_model = null, stuck_until = null
   where id = $1
     and stuck_until is not null
  returning id
)
insert into device_events (device_id, kind)
select id, 'load_works'
  from changed`,
    values: [deviceId]
  })
}
