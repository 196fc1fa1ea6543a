-- How fast models are on machines, as it was learned from their answers; and benchmarks, which measure it on purpose.
-- Up Migration

alter table device_models
  -- See routing/profile.ts. Null = nothing is known yet.
  add column profile         jsonb,
  -- Answers that were counted.
  add column profile_samples integer not null default 0,
  add column profiled_at     timestamptz;
create index device_models_profiled on device_models (profiled_at) where profiled_at is not null;

create table benchmarks (
  id           uuid primary key,
  -- Null = a rented model.
  device_id    text,
  provider     text not null,
  -- Of the target: `<upstream>/<model>`.
  target       text not null,
  model        text not null,
  task         text not null check (task in ('chat')),
  state        text not null default 'queued' check (state in ('queued', 'running', 'done', 'error')),
  -- Answers that are measured alone.
  runs         integer not null check (runs between 1 and 20),
  -- Null = one of ours.
  prompt       text,
  -- The source of the key that asked for it.
  requested_by text not null,
  -- Somebody wanted it although its price is above the limit, or unknown.
  pays_anyway  boolean not null default false,
  -- {phase, done, of, measures}: where it is, and what was measured in the phases that are over.
  progress     jsonb not null,
  result       jsonb,
  error        text check (length(error) <= 2000),
  created_at   timestamptz not null default now(),
  started_at   timestamptz,
  finished_at  timestamptz,
  check ((finished_at is not null) = (state in ('done', 'error')))
);
create index benchmarks_open on benchmarks (id) where finished_at is null;
create index benchmarks_device on benchmarks (device_id, id);
