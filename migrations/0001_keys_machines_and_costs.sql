-- Keys, machines with their slots, running processes, and what every attempt cost.
-- Up Migration

create table sources (
  name       text primary key check (name <> '' and length(name) <= 128),
  created_at timestamptz not null default now()
);

create table api_keys (
  id         uuid primary key,
  kind       text not null check (kind in ('admin', 'source', 'worker', 'metrics')),
  source     text not null references sources (name),
  name       text not null default '',
  -- The first characters, to recognise a key by; the key itself is nowhere.
  prefix     text not null,
  hash       bytea not null unique check (length(hash) = 32),
  created_at timestamptz not null default now(),
  expires_at timestamptz,
  revoked_at timestamptz
);
create index api_keys_created on api_keys (created_at desc, id desc);

create table processes (
  id         uuid primary key,
  host       text not null,
  pid        integer not null,
  version    text not null,
  started_at timestamptz not null default now(),
  -- Renewed every second by a thread of its own; what such a process holds is free when it is 3 s silent.
  seen_at    timestamptz not null default now()
);

create table devices (
  id              text primary key check (id <> '' and length(id) <= 128),
  url             text not null,
  adapter         text not null,
  max_concurrency integer not null check (max_concurrency between 1 and 64),
  created_at      timestamptz not null default now(),
  seen_at         timestamptz
);

-- One row per place on a machine: the exact limit of what it is given at once.
create table device_slots (
  device_id  text not null references devices (id) on delete cascade,
  slot_no    integer not null check (slot_no >= 1),
  process_id uuid,
  attempt_id uuid,
  claimed_at timestamptz,
  primary key (device_id, slot_no),
  check ((process_id is null) = (attempt_id is null))
) with (fillfactor = 50);
create unique index device_slots_attempt on device_slots (attempt_id) where attempt_id is not null;

create table device_models (
  device_id text not null references devices (id) on delete cascade,
  model     text not null,
  -- As the machine described it when it was last seen (routing/types.ts, ModelListing).
  listing   jsonb not null,
  -- The one context size this model is loaded with here, so that no two requests make it reload; null = the server's own.
  num_ctx   integer check (num_ctx > 0),
  seen_at   timestamptz not null default now(),
  primary key (device_id, model)
);

create table llm_costs (
  -- UUIDv7: ordered by the time the attempt began.
  attempt_id        uuid primary key,
  request_id        uuid not null,
  job_id            uuid,
  source            text not null,
  key_id            uuid,
  provider          text not null,
  model             text not null,
  device_id         text,
  outcome           text not null check (outcome in ('ok', 'failed', 'aborted', 'lost')),
  error_code        text,
  prompt_tokens     bigint not null check (prompt_tokens >= 0),
  completion_tokens bigint not null check (completion_tokens >= 0),
  cached_tokens     bigint not null check (cached_tokens >= 0),
  reasoning_tokens  bigint not null check (reasoning_tokens >= 0),
  -- Null = the price is unknown, which is never the same as 0.
  cost_nano_usd     bigint check (cost_nano_usd >= 0),
  price_source      text not null check (price_source in ('provider', 'config', 'registry', 'electricity', 'free', 'unknown')),
  -- True where nobody counted: broken off, aborted or lost attempts are booked at an estimate.
  estimated         boolean not null,
  ttft_ms           integer,
  duration_ms       integer not null,
  started_at        timestamptz not null,
  finished_at       timestamptz not null,
  check ((cost_nano_usd is null) = (price_source = 'unknown'))
);
create index llm_costs_finished on llm_costs (finished_at);
create index llm_costs_source_finished on llm_costs (source, finished_at);
create index llm_costs_request on llm_costs (request_id);
