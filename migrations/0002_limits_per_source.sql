-- Keys carry limits, the models and providers they may use, and a weight; limits are counted over all processes.
-- Up Migration

alter table api_keys
  -- Null = no such limit.
  add column requests_per_minute integer check (requests_per_minute > 0),
  add column tokens_per_minute   bigint check (tokens_per_minute > 0),
  add column concurrent_requests integer check (concurrent_requests > 0),
  -- Names, or patterns with "*"; null = all.
  add column models              text[] check (cardinality(models) between 1 and 200),
  add column providers           text[] check (cardinality(providers) between 1 and 200),
  -- Its share among sources that wait.
  add column weight              double precision not null default 1 check (weight between 0.01 and 100),
  -- True where one key is many people: their names come with each request.
  add column trust_user_header   boolean not null default false,
  add constraint api_keys_rules check (kind = 'source' or (
    requests_per_minute is null and tokens_per_minute is null and concurrent_requests is null
    and models is null and providers is null and weight = 1 and not trust_user_header
  ));

-- The person behind a key that many share; null = the source itself.
alter table llm_costs add column sub_source text;

-- What the processes were given together of a minute's limit. A minute begins with its first request.
create table limit_windows (
  -- A source, or source/person.
  source       text not null,
  metric       text not null check (metric in ('requests', 'tokens')),
  limit_points bigint not null check (limit_points > 0),
  started_at   timestamptz not null,
  granted      bigint not null check (granted between 0 and limit_points),
  -- What the last taker got, so that one statement can count and answer.
  taken        bigint not null,
  primary key (source, metric, limit_points)
) with (fillfactor = 50);

-- Requests that each process may have running for a source. A process that is 3 s silent holds nothing.
create table limit_permits (
  source       text not null,
  limit_points integer not null check (limit_points > 0),
  process_id   uuid not null,
  permits      integer not null check (permits >= 0),
  changed_at   timestamptz not null default now(),
  primary key (source, limit_points, process_id)
) with (fillfactor = 50);

-- Makes the permits of a process `held_permits` plus as many of `wanted` as the limit leaves, and returns how many those are.
-- A function, because the sum must be read by a statement of its own after the lock: one statement would see the time before it.
create function hold_limit_permits(of_source text, of_limit integer, of_process uuid, held_permits integer, wanted integer)
  returns integer
  language plpgsql
as $$
declare
  elsewhere integer;
  got       integer;
begin
  -- 1819109485 = 'llm-': no other use of these locks can meet it.
  perform pg_advisory_xact_lock(1819109485, hashtext(of_limit || ' ' || of_source));
  select coalesce(sum(permits), 0)
    into elsewhere
    from limit_permits
    join processes on processes.id = limit_permits.process_id
   where source = of_source
     and limit_points = of_limit
     and process_id <> of_process
     and seen_at > clock_timestamp() - interval '3 seconds';
  got := greatest(0, least(wanted, of_limit - elsewhere - held_permits));
  insert into limit_permits (source, limit_points, process_id, permits)
  values (of_source, of_limit, of_process, held_permits + got)
      on conflict (source, limit_points, process_id) do update
     set permits = excluded.permits, changed_at = excluded.changed_at;
  return got;
end
$$;
