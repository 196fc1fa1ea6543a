-- One load at a time on each machine, whichever gateway asks for it; loads that do not end are told; what gateways learn is kept.
-- Up Migration

-- Who loads what where, now. Free when its process is silent, or after 15 minutes.
create table device_loads (
  device_id  text primary key references devices (id) on delete cascade,
  model      text not null,
  process_id uuid not null,
  since      timestamptz not null default now()
);

alter table devices
  -- A load that did not end: until then nothing is loaded there. What is in its memory is used.
  add column stuck_model text,
  add column stuck_until timestamptz;

alter table device_events drop constraint device_events_kind_check;
alter table device_events add constraint device_events_kind_check
  check (kind in ('found', 'gone', 'approved', 'blocked', 'up', 'down', 'marked', 'limits', 'load_stuck', 'load_works'));

-- What each gateway has learned of answers, times and providers. A gateway that starts begins with the newest.
create table brain_state (
  process_id uuid primary key,
  state      jsonb not null,
  saved_at   timestamptz not null default now()
);
create index brain_state_saved on brain_state (saved_at desc);
