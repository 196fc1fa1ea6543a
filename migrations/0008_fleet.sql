-- Machines that were found: proposed, approved or blocked; their limits, how they are, and what happened to them.
-- Up Migration

alter table devices
  add column origin       text not null default 'config' check (origin in ('config', 'ollama_host', 'tailscale', 'neighbour')),
  -- Only approved machines are sent prompts. Configured ones are.
  add column state        text not null default 'approved' check (state in ('proposed', 'approved', 'blocked')),
  -- What stays when its address changes: the node's id in the tailnet and the port, or the URL.
  add column key          text,
  -- The only host from which it can be reached, where its address means something else elsewhere. Null = any.
  add column only_host    text,
  add column os           text,
  add column tags         text[] not null default '{}',
  -- Of its server.
  add column version      text,
  -- What a person should know of it, such as `old_ollama` or `hostile`.
  add column marks        text[] not null default '{}',
  -- How many models it listed when it was last found; those of approved machines are in device_models.
  add column models_found integer,
  add column found_at     timestamptz,
  -- It was not there any more when it was last looked for.
  add column gone_at      timestamptz,
  add column health       text not null default 'unknown' check (health in ('unknown', 'up', 'down')),
  add column health_note  text,
  add column health_at    timestamptz;
create unique index devices_key on devices (key) where key is not null;

-- Set by hand, and stronger than the configuration. Null = not set.
create table device_limits (
  device_id       text primary key references devices (id) on delete cascade,
  ram_gb          double precision check (ram_gb >= 0),
  vram_gb         double precision check (vram_gb >= 0),
  max_params_b    double precision check (max_params_b >= 0),
  max_size_gb     double precision check (max_size_gb >= 0),
  max_context_k   double precision check (max_context_k >= 0),
  max_concurrency integer check (max_concurrency between 1 and 64),
  watts           double precision check (watts >= 0),
  -- Names, or patterns with "*".
  allow_models    text[],
  deny_models     text[],
  changed_at      timestamptz not null default now()
);

create table device_events (
  id        bigint generated always as identity primary key,
  device_id text not null,
  at        timestamptz not null default now(),
  kind      text not null check (kind in ('found', 'gone', 'approved', 'blocked', 'up', 'down', 'marked', 'limits')),
  note      text check (length(note) <= 1000)
);
create index device_events_device on device_events (device_id, id desc);

create table discovery_runs (
  id          uuid primary key,
  started_at  timestamptz not null default now(),
  finished_at timestamptz,
  -- What was found, added, changed, gone; who did not answer; what Tailscale said.
  result      jsonb,
  error       text
);
create index discovery_runs_finished on discovery_runs (finished_at desc) where finished_at is not null;
