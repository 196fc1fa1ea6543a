-- Chores: what is done once for all processes, by whichever of them comes first.
-- Up Migration

create table chores (
  name        text primary key check (name <> '' and length(name) <= 64),
  due_at      timestamptz not null default now(),
  -- Whoever is at it. Null = nobody.
  process_id  uuid,
  started_at  timestamptz,
  -- Of the last time that was not broken off.
  finished_at timestamptz,
  succeeded   boolean,
  -- A figure or two of what was done, or why it failed: for people.
  note        text check (length(note) <= 2000)
) with (fillfactor = 50);
