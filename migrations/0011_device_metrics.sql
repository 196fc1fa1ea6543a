-- What a gateway's own machine has and uses: load, memory and its largest GPU, a row a minute, kept for 7 days.
-- Up Migration

create table device_metrics (
  device_id          text not null references devices (id) on delete cascade,
  at                 timestamptz not null default now(),
  -- Null = not known, or there is none.
  cpu_percent        double precision,
  memory_used_bytes  bigint,
  memory_total_bytes bigint,
  gpu_name           text check (length(gpu_name) <= 200),
  vram_used_bytes    bigint,
  vram_total_bytes   bigint
);
create index device_metrics_device on device_metrics (device_id, at desc);
