// Machines of ours and the models on them, as last seen.

import type { ModelListing } from '../routing/types.ts'
import type { Pool } from './pool.ts'

const upsertSql = `
with device as (
  insert into devices (id, url, adapter, max_concurrency)
  values ($1, $2, $3, $4)
      on conflict (id) do update set url = $2, adapter = $3, max_concurrency = $4
  returning id
)
insert into device_slots (device_id, slot_no)
select device.id, slot_no
  from device, generate_series(1, $4) as slot_no
    on conflict do nothing`

/** The machine with as many places as it may have. A lower limit than before holds for the next claim. */
export async function upsertDevice(
  pool: Pool,
  device: { readonly id: string; readonly url: string; readonly adapter: string; readonly maxConcurrency: number }
): Promise<void> {
  await pool.query({ name: 'devices.upsert', text: upsertSql, values: [device.id, device.url, device.adapter, device.maxConcurrency] })
}

export interface StoredModel {
  readonly listing: ModelListing
  readonly numCtx: number | null
}

const recordSql = `
with seen as (
  update devices set seen_at = now() where id = $1
), gone as (
  delete from device_models
   where device_id = $1
     and model <> all (select entry -> 'listing' ->> 'model' from jsonb_array_elements($2::jsonb) as entry)
)
   insert into device_models (device_id, model, listing, num_ctx)
   select $1, entry -> 'listing' ->> 'model', entry -> 'listing', (entry ->> 'numCtx')::integer
     from jsonb_array_elements($2::jsonb) as entry
       on conflict (device_id, model) do update
      set listing = excluded.listing,
          seen_at = now(),
          num_ctx = case
            -- Pinned: another size would reload the model. A new digest is another model; a size set by hand ($3) wins.
            when $3 or device_models.num_ctx is null or device_models.listing ->> 'digest' is distinct from excluded.listing ->> 'digest'
            then excluded.num_ctx
            else device_models.num_ctx
          end
returning model, listing, num_ctx`

/**
 * Records what a machine offers now, and returns it with the context sizes that are pinned:
 * the first process to see a model decides, every other follows. `force`: the sizes given replace the pinned ones.
 */
export async function recordModels(pool: Pool, deviceId: string, models: readonly StoredModel[], force: boolean): Promise<StoredModel[]> {
  const { rows } = await pool.query({ name: 'devices.record_models', text: recordSql, values: [deviceId, JSON.stringify(models), force] })
  return rows.map(row => ({ listing: row.listing, numCtx: row.num_ctx }))
}

/** What a machine offered when it was last seen. */
export async function knownModels(pool: Pool, deviceId: string): Promise<StoredModel[]> {
  const { rows } = await pool.query({
    name: 'devices.known_models',
    text: 'select listing, num_ctx from device_models where device_id = $1 order by model',
    values: [deviceId]
  })
  return rows.map(row => ({ listing: row.listing, numCtx: row.num_ctx }))
}
