-- The models of rented providers, as they were last listed, and what they cost since when.
-- Up Migration

create table models (
  -- The name of the provider in the configuration.
  provider   text not null,
  model      text not null,
  -- As the provider described it when it was last seen (routing/types.ts, ModelListing).
  listing    jsonb not null,
  -- Thousands of tokens of context for a dollar per million tokens (routing/model-choice.ts); null where there is no price.
  score      double precision,
  -- Where it stood on the list.
  place      integer not null,
  -- Why it is not offered; null = it is.
  left_out   text,
  created_at timestamptz not null default now(),
  seen_at    timestamptz not null default now(),
  -- When it was no longer on the list: kept, because costs refer to it.
  gone_at    timestamptz,
  primary key (provider, model)
);

-- When each provider was asked last, and with what result.
create table model_lists (
  provider  text primary key,
  synced_at timestamptz not null,
  offered   integer not null
);

create table model_prices (
  provider   text not null,
  model      text not null,
  from_at    timestamptz not null default now(),
  -- routing/types.ts, TokenPrice; null = unknown from then on.
  price      jsonb,
  primary key (provider, model, from_at)
);
