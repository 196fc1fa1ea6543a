// The models of rented providers, what they cost since when, and which of them are offered.

import type { ModelListing, TokenPrice } from '../routing/types.ts'
import { inTransaction, type Pool } from './pool.ts'

export interface SyncedModel {
  readonly listing: ModelListing
  readonly score: number | null
  /** Null = it is offered. */
  readonly leftOut: string | null
  /** From the list or from elsewhere; null = unknown. */
  readonly price: TokenPrice | null
}

export interface SyncResult {
  readonly added: readonly string[]
  readonly gone: readonly string[]
  readonly repriced: readonly string[]
}

const saveSql = `
with given as (
  select entry -> 'listing' ->> 'model' as model, entry -> 'listing' as listing, (entry ->> 'score')::double precision as score,
         entry ->> 'leftOut' as left_out, place
    from jsonb_array_elements($2::jsonb) with ordinality as given (entry, place)
), before as (
  select model, gone_at from models where provider = $1
), saved as (
  insert into models (provider, model, listing, score, left_out, place)
  select $1, model, listing, score, left_out, place
    from given
      on conflict (provider, model) do update
     set listing = excluded.listing, score = excluded.score, left_out = excluded.left_out, place = excluded.place,
         seen_at = now(), gone_at = null
), gone as (
  update models
     set gone_at = now()
   where provider = $1
     and gone_at is null
     and model not in (select model from given)
  returning model
)
select array(select model from given where model not in (select model from before where gone_at is null) order by model) as added,
       array(select model from gone order by model) as gone`

// A price is new when it differs from the last one that was written down.
const pricesSql = `
with given as (
  select entry -> 'listing' ->> 'model' as model, nullif(entry -> 'price', 'null') as price
    from jsonb_array_elements($2::jsonb) as entry
), known as (
  select distinct on (model) model, price
    from model_prices
   where provider = $1
   order by model, from_at desc
)
   insert into model_prices (provider, model, price)
   select $1, given.model, given.price
     from given
     left join known using (model)
    where known.model is null or known.price is distinct from given.price
returning model, (select count(*) from known where known.model = model_prices.model) > 0 as is_new_price`

const listedSql = `
insert into model_lists (provider, synced_at, offered) values ($1, now(), $2)
    on conflict (provider) do update set synced_at = now(), offered = excluded.offered`

/** What a provider lists now, all of it. Those that are not among them any more are marked as gone and kept. */
export async function saveSyncedModels(pool: Pool, provider: string, models: readonly SyncedModel[]): Promise<SyncResult> {
  const json = JSON.stringify(models)
  return inTransaction(pool, async tx => {
    const { rows: saved } = await tx.query({ name: 'models.save', text: saveSql, values: [provider, json] })
    const { rows: priced } = await tx.query({ name: 'models.prices', text: pricesSql, values: [provider, json] })
    const offered = models.filter(({ leftOut }) => leftOut === null).length
    await tx.query({ name: 'models.listed', text: listedSql, values: [provider, offered] })
    return {
      added: saved[0].added,
      gone: saved[0].gone,
      repriced: priced.filter(row => row.is_new_price).map(({ model }) => model)
    }
  })
}

/** What a provider offers, in the order of its list; null when it was never asked. */
export async function offeredModels(pool: Pool, provider: string): Promise<ModelListing[] | null> {
  const { rows } = await pool.query({
    name: 'models.offered',
    text: `
select (select true from model_lists where provider = $1) as is_known,
       array(
         select listing
           from models
          where provider = $1
            and gone_at is null
            and left_out is null
          order by place
       ) as listings`,
    values: [provider]
  })
  return rows[0].is_known === true ? rows[0].listings : null
}

/** All that a provider listed when it was asked last, offered or not, in the order of its list. */
export async function listedModels(pool: Pool, provider: string): Promise<ModelListing[]> {
  const { rows } = await pool.query({
    name: 'models.listings',
    text: 'select listing from models where provider = $1 and gone_at is null order by place',
    values: [provider]
  })
  return rows.map(({ listing }) => listing)
}

export interface PriceSince {
  readonly fromAt: Date
  readonly price: TokenPrice | null
}

/** What a model has cost, newest first. */
export async function priceHistory(pool: Pool, provider: string, model: string): Promise<PriceSince[]> {
  const { rows } = await pool.query({
    name: 'models.price_history',
    text: 'select from_at as "fromAt", price from model_prices where provider = $1 and model = $2 order by from_at desc',
    values: [provider, model]
  })
  return rows
}
