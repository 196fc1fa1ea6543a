// Machines as a person sees them: found, approved, limited, up or down; and the runs that find them.

import { fleetChannel, healthChannel } from './channels.ts'
import type { DeviceMetrics } from './device-metrics.ts'
import { inTransaction, type Pool } from './pool.ts'

export type DeviceState = 'proposed' | 'approved' | 'blocked'
export type Health = 'unknown' | 'up' | 'down'

/** Set by hand. Null = not set. */
export interface StoredLimits {
  readonly ramGb: number | null
  readonly vramGb: number | null
  readonly maxParamsB: number | null
  readonly maxSizeGb: number | null
  readonly maxContextK: number | null
  readonly maxConcurrency: number | null
  readonly watts: number | null
  readonly allowModels: readonly string[] | null
  readonly denyModels: readonly string[] | null
}

export interface DeviceRecord {
  readonly id: string
  readonly url: string
  readonly adapter: string
  readonly origin: 'config' | 'ollama_host' | 'tailscale' | 'neighbour'
  readonly state: DeviceState
  readonly key: string | null
  /** The only host from which it can be reached; null = any. */
  readonly onlyHost: string | null
  readonly os: string | null
  readonly tags: readonly string[]
  readonly version: string | null
  readonly marks: readonly string[]
  readonly maxConcurrency: number
  readonly modelsFound: number | null
  readonly foundAt: Date | null
  readonly goneAt: Date | null
  readonly health: Health
  readonly healthNote: string | null
  readonly healthAt: Date | null
  /** A load of it did not end, and nothing is loaded there for now; null = loading works. */
  readonly stuckModel: string | null
  readonly stuckUntil: Date | null
  readonly createdAt: Date
  readonly seenAt: Date | null
  /** Places that are taken now. */
  readonly taken: number
  readonly models: readonly string[]
  readonly limits: StoredLimits | null
  /** Read last, of a machine that a gateway runs on. `at` in ISO 8601. */
  readonly metrics: (DeviceMetrics & { readonly at: string }) | null
}

const deviceColumns = `
devices.id, url, adapter, origin, state, key, only_host as "onlyHost", os, tags, version, marks, devices.max_concurrency as "maxConcurrency",
models_found as "modelsFound", found_at as "foundAt", gone_at as "goneAt", health, health_note as "healthNote", health_at as "healthAt",
case when stuck_until > now() then stuck_model end as "stuckModel", case when stuck_until > now() then stuck_until end as "stuckUntil",
created_at as "createdAt", seen_at as "seenAt",
(select count(*)::integer from device_slots where device_slots.device_id = devices.id and process_id = any (array(select living_processes(3)))) as taken,
array(select model from device_models where device_models.device_id = devices.id order by model) as models,
(select json_build_object(
          'ramGb', ram_gb, 'vramGb', vram_gb, 'maxParamsB', max_params_b, 'maxSizeGb', max_size_gb, 'maxContextK', max_context_k,
          'maxConcurrency', device_limits.max_concurrency, 'watts', watts, 'allowModels', allow_models, 'denyModels', deny_models)
   from device_limits
  where device_limits.device_id = devices.id) as limits,
(select json_build_object(
          'at', at, 'cpuPercent', cpu_percent, 'memoryUsedBytes', memory_used_bytes, 'memoryTotalBytes', memory_total_bytes,
          'gpuName', gpu_name, 'vramUsedBytes', vram_used_bytes, 'vramTotalBytes', vram_total_bytes)
   from device_metrics
  where device_metrics.device_id = devices.id
  order by at desc
  limit 1) as metrics`

// More machines than anybody has.
const devicesAtMost = 1_000

/** All machines, by id, at most 1,000. */
export async function listDevices(pool: Pool): Promise<DeviceRecord[]> {
  const { rows } = await pool.query({
    name: 'fleet.devices',
    text: `select ${deviceColumns} from devices order by devices.id limit ${devicesAtMost}`
  })
  return rows
}

export async function findDevice(pool: Pick<Pool, 'query'>, id: string): Promise<DeviceRecord | null> {
  const { rows } = await pool.query({
    name: 'fleet.device',
    text: `select ${deviceColumns} from devices where devices.id = $1`,
    values: [id]
  })
  return rows[0] ?? null
}

export interface FoundDevice {
  readonly id: string
  readonly key: string
  readonly url: string
  readonly adapter: string
  readonly origin: 'ollama_host' | 'tailscale' | 'neighbour'
  readonly onlyHost: string | null
  readonly os: string | null
  readonly tags: readonly string[]
  readonly version: string | null
  readonly modelCount: number
  /** What its version says of it. */
  readonly marks: readonly string[]
  /** A rule of the configuration approves it. */
  readonly isApproved: boolean
}

// Tailscale came to know an address: the machine stays, and has another key.
const keysSql = `
update devices
   set key = given.key
  from jsonb_to_recordset($1::jsonb) as given (id text, key text)
 where devices.id = given.id
   and devices.key <> given.key`

const foundSql = `
with given as (
  select *
    from jsonb_to_recordset($1::jsonb)
      as row (id text, key text, url text, adapter text, origin text, "onlyHost" text, os text, tags jsonb, version text, "modelCount" integer,
              marks jsonb, "isApproved" boolean)
), before as (
  select devices.key, devices.state, devices.gone_at, devices.marks from devices join given using (key)
), saved as (
  insert into devices (id, key, url, adapter, origin, only_host, os, tags, version, marks, models_found, max_concurrency, state, found_at)
  select id, key, url, adapter, origin, "onlyHost", os, array(select jsonb_array_elements_text(tags)), version,
         array(select jsonb_array_elements_text(marks)), "modelCount", 1,
         case when "isApproved" then 'approved' else 'proposed' end, now()
    from given
      on conflict (key) where key is not null do update
     set url = excluded.url,
         adapter = excluded.adapter,
         origin = excluded.origin,
         only_host = excluded.only_host,
         os = excluded.os,
         tags = excluded.tags,
         version = excluded.version,
         -- Those that are approved are asked for their version all the while.
         marks = case when devices.state = 'approved' then devices.marks else excluded.marks end,
         models_found = excluded.models_found,
         found_at = now(),
         gone_at = null,
         -- What a person said of it stays said.
         state = case when devices.state = 'proposed' then excluded.state else devices.state end
  returning id, key, state, marks
)
insert into device_events (device_id, kind, note)
select saved.id, event.kind, case when event.kind = 'marked' then array_to_string(saved.marks, ', ') end
  from saved
  left join before using (key)
 cross join lateral (values
         ('found', before.key is null or before.gone_at is not null),
         ('approved', saved.state = 'approved' and coalesce(before.state, '') <> 'approved'),
         ('marked', cardinality(saved.marks) > 0 and saved.marks is distinct from before.marks)
       ) as event (kind, happened)
 where event.happened
returning device_id, kind`

const goneSql = `
with gone as (
  update devices
     set gone_at = now()
   where id = any ($1::text[])
     and gone_at is null
  returning id
)
insert into device_events (device_id, kind)
select id, 'gone' from gone`

/** What a look around found, and what was not there any more. Nothing is deleted: what a person said of a machine stays. */
export async function saveFound(pool: Pool, found: readonly FoundDevice[], goneIds: readonly string[]): Promise<void> {
  await inTransaction(pool, async tx => {
    await tx.query({ name: 'fleet.keys', text: keysSql, values: [JSON.stringify(found)] })
    await tx.query({ name: 'fleet.found', text: foundSql, values: [JSON.stringify(found)] })
    await tx.query({ name: 'fleet.gone', text: goneSql, values: [goneIds] })
    await tx.query({ name: 'fleet.notify', text: 'select pg_notify($1, $2)', values: [fleetChannel, ''] })
  })
}

/** What this process has in its configuration, by id, until it is said anew. Safe twice. */
export async function declareMachines(pool: Pool, processId: string, ids: readonly string[]): Promise<void> {
  await pool.query({ name: 'fleet.declare', text: 'update processes set machines = $2 where id = $1', values: [processId, ids] })
}

// Whoever says nothing of its machines may have any of them: then none is gone.
const declaredSql = `
with living as materialized (
  select machines from processes where seen_at > now() - interval '10 seconds'
), declared as materialized (
  select unnest(machines) as id from living
), back as (
  update devices
     set gone_at = null
   where gone_at is not null
     and id in (select id from declared)
  returning id
), gone as (
  update devices
     set gone_at = now()
   where gone_at is null
     and origin = 'config'
     and id not in (select id from declared)
     and not exists (select from living where machines is null)
     and coalesce(seen_at, '-infinity') <= now() - make_interval(secs => $1)
  returning id
)
insert into device_events (device_id, kind)
select id, 'found' from back
 union all
select id, 'gone' from gone`

/**
 * A machine that came from a configuration is gone when no living process has it there any more and it was not in use for so long, and
 * back when one has it again. Its row stays, with all that refers to it.
 */
export async function settleDeclared(pool: Pool, unusedS: number): Promise<void> {
  await pool.query({ name: 'fleet.declared', text: declaredSql, values: [unusedS] })
}

const hostileSql = `
with given as (
  select *
    from jsonb_to_recordset($1::jsonb)
      as row (id text, reason text)
), marked as (
  update devices
     set marks = array_append(marks, 'hostile')
    from given
   where devices.id = given.id
     and not 'hostile' = any (marks)
  returning devices.id, given.reason
)
insert into device_events (device_id, kind, note)
select id, 'marked', left('hostile: ' || reason, 1000)
  from marked`

/** Marks machines that answered as no honest server does, which is an event with the reason, and takes the mark from those that are well. */
export async function markHostile(
  pool: Pool,
  hostile: readonly { readonly id: string; readonly reason: string }[],
  wellIds: readonly string[]
): Promise<void> {
  await pool.query({ name: 'fleet.hostile', text: hostileSql, values: [JSON.stringify(hostile)] })
  await pool.query({
    name: 'fleet.well',
    text: `
update devices
   set marks = array_remove(marks, 'hostile')
 where id = any ($1::text[])
   and 'hostile' = any (marks)`,
    values: [wellIds]
  })
}

export interface DevicePatch {
  readonly state?: DeviceState
  /** Those that are not named stay. */
  readonly limits?: Partial<StoredLimits>
}

const limitColumns: Readonly<Record<keyof StoredLimits, string>> = {
  ramGb: 'ram_gb',
  vramGb: 'vram_gb',
  maxParamsB: 'max_params_b',
  maxSizeGb: 'max_size_gb',
  maxContextK: 'max_context_k',
  maxConcurrency: 'max_concurrency',
  watts: 'watts',
  allowModels: 'allow_models',
  denyModels: 'deny_models'
}

/** Changes what a person may say of a machine, and tells all processes. Null when there is none with this id. */
export async function patchDevice(pool: Pool, id: string, { state, limits = {} }: DevicePatch): Promise<DeviceRecord | null> {
  return inTransaction(pool, async tx => {
    const { rows } = await tx.query({
      name: 'fleet.lock',
      text: 'select state from devices where id = $1 for update',
      values: [id]
    })
    if (rows.length === 0) return null
    if (state !== undefined && state !== rows[0].state) {
      await tx.query({ name: 'fleet.state', text: 'update devices set state = $2 where id = $1', values: [id, state] })
      if (state !== 'proposed')
        await tx.query({ name: 'fleet.event', text: 'insert into device_events (device_id, kind) values ($1, $2)', values: [id, state] })
    }
    const names = (Object.keys(limits) as (keyof StoredLimits)[]).filter(name => limits[name] !== undefined)
    if (names.length > 0) {
      const columns = names.map(name => limitColumns[name])
      await tx.query({
        text: `
insert into device_limits (device_id, ${columns.join(', ')})
values ($1, ${columns.map((_, index) => `$${index + 2}`).join(', ')})
    on conflict (device_id) do update
   set ${columns.map(column => `${column} = excluded.${column}`).join(', ')}, changed_at = now()`,
        values: [id, ...names.map(name => limits[name])]
      })
      await tx.query({ name: 'fleet.event', text: 'insert into device_events (device_id, kind) values ($1, $2)', values: [id, 'limits'] })
    }
    await tx.query({ name: 'fleet.notify', text: 'select pg_notify($1, $2)', values: [fleetChannel, ''] })
    return findDevice(tx, id)
  })
}

export interface DiscoveryRun {
  readonly id: string
  readonly startedAt: Date
  readonly finishedAt: Date | null
  readonly result: unknown
  readonly error: string | null
}

export async function beginDiscovery(pool: Pool, id: string): Promise<void> {
  await pool.query({ name: 'fleet.begin_discovery', text: 'insert into discovery_runs (id) values ($1)', values: [id] })
}

export async function finishDiscovery(pool: Pool, id: string, result: unknown, error: string | null): Promise<void> {
  await pool.query({
    name: 'fleet.finish_discovery',
    text: 'update discovery_runs set finished_at = now(), result = $2, error = left($3, 2000) where id = $1',
    values: [id, JSON.stringify(result), error]
  })
}

const runColumns = 'id, started_at as "startedAt", finished_at as "finishedAt", result, error'

/** The last one that came to its end; null when there was none. */
export async function lastDiscovery(pool: Pool): Promise<DiscoveryRun | null> {
  const { rows } = await pool.query({
    name: 'fleet.last_discovery',
    text: `select ${runColumns} from discovery_runs where finished_at is not null order by finished_at desc limit 1`
  })
  return rows[0] ?? null
}

/** Forgets runs and events that are older than `days` days, but never the last run. */
export async function forgetDiscoveries(pool: Pool, days: number): Promise<number> {
  const { rowCount } = await pool.query({
    name: 'fleet.forget_discoveries',
    text: `
delete from discovery_runs
 where started_at < now() - make_interval(days => $1)
   and id <> all (select id from discovery_runs where finished_at is not null order by finished_at desc limit 1)`,
    values: [days]
  })
  await pool.query({
    name: 'fleet.forget_events',
    text: 'delete from device_events where at < now() - make_interval(days => $1)',
    values: [days]
  })
  return rowCount ?? 0
}

/** What was found out of a machine. True when that is new: then it is an event, and all processes are told. */
export async function setHealth(pool: Pool, id: string, health: 'up' | 'down', note: string): Promise<boolean> {
  const { rows } = await pool.query({
    name: 'fleet.health',
    text: `
with changed as (
  update devices
     set health = $2, health_note = $3, health_at = now()
   where id = $1
     and health <> $2
  returning id
), told as (
  select pg_notify($4, $2 || ' ' || id) from changed
)
insert into device_events (device_id, kind, note)
select id, $2, $3
  from changed
 where (select count(*) from told) > 0
returning device_id`,
    values: [id, health, note, healthChannel]
  })
  return rows.length > 0
}

/** Processes that were seen in the last 3 s. */
export async function livingProcesses(pool: Pool): Promise<{ readonly id: string; readonly host: string }[]> {
  const { rows } = await pool.query({
    name: 'fleet.living',
    text: `select id, host from processes where seen_at > now() - interval '3 seconds'`
  })
  return rows
}

/** The version of its server, and what that says of it. A new mark is an event; that of `markHostile` stays. */
export async function setVersion(pool: Pool, id: string, version: string, marks: readonly string[]): Promise<void> {
  await pool.query({
    name: 'fleet.version',
    text: `
with before as (
  select array_remove(marks, 'hostile') as marks from devices where id = $1
), changed as (
  update devices
     set version = $2, marks = $3::text[] || case when 'hostile' = any (marks) then array['hostile'] else '{}' end
   where id = $1
     and (version is distinct from $2 or array_remove(marks, 'hostile') <> $3)
  returning id
)
insert into device_events (device_id, kind, note)
select changed.id, 'marked', array_to_string($3, ', ')
  from changed, before
 where cardinality($3::text[]) > 0
   and before.marks <> $3`,
    values: [id, version, marks]
  })
}
