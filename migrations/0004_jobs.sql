-- Jobs: what cannot run now, or need not, is kept here and finished; with their attempts, their events, and the order of sources.
-- Up Migration

create table jobs (
  -- UUIDv7; the ticket of pg-boss has the same.
  id              uuid primary key,
  kind            text not null check (kind in ('chat', 'embed', 'openai.chat', 'openrouter.chat', 'ollama.generate', 'ollama.embed', 'echo')),
  -- 0 urgent, 1 interactive, 2 normal, 3 batch, 4 benchmark.
  class           smallint not null check (class between 0 and 4),
  -- Jobs of one lane can run on the same machines: class/operation/model.
  lane            text not null,
  -- Its place in the order: the start tag of start-time fair queueing, in microseconds of a reference machine.
  tag             bigint not null,
  -- What it was charged for when it came, in the same unit, before the weight.
  charge          bigint not null check (charge >= 0),
  weight          double precision not null check (weight between 0.01 and 100),
  model           text,
  source          text not null,
  sub_source      text,
  key_id          uuid,
  status          text not null default 'queued' check (status in ('queued', 'running', 'done', 'error', 'cancelled')),
  -- False = waits for run_at: a retry, or nothing could run it when it was looked at.
  ready           boolean not null default true,
  run_at          timestamptz not null default now(),
  -- The process that holds the client's connection: it alone runs the job. Null = anyone.
  owner_process   uuid,
  -- What becomes of an owned job whose owner is gone.
  outlives_owner  boolean not null default true,
  -- The request without its body (null for `echo`), and whose it is (routing/types.ts).
  request         json,
  caller          json not null,
  -- The bytes to be sent; null where the owner has them in memory only.
  payload         bytea,
  stream          boolean not null default false,
  -- Tries that count.
  attempts        integer not null default 0,
  max_attempts    integer not null check (max_attempts between 1 and 100),
  -- Attempts ended by the end of their process; they do not count as tries, but have a bound of their own.
  lost_attempts   integer not null default 0,
  -- The fence: what is written about an attempt names it, and is refused when it is not the last one.
  attempt_no      integer not null default 0,
  attempt_id      uuid,
  process_id      uuid,
  device_id       text,
  provider        text,
  -- The running attempt costs money: it is given up later than one on a machine of ours.
  paid            boolean not null default false,
  -- The ticket's own count, which fences what is said to pg-boss.
  ticket_retry    integer,
  idempotency_key text check (length(idempotency_key) between 1 and 255),
  request_hash    bytea,
  max_cost_usd    double precision check (max_cost_usd > 0),
  metadata        json,
  webhook_url     text,
  webhook_status  text check (webhook_status in ('waiting', 'delivered', 'failed')),
  webhook_error   text,
  usage           json,
  result          bytea,
  error           json,
  created_at      timestamptz not null default now(),
  deadline_at     timestamptz,
  started_at      timestamptz,
  first_token_at  timestamptz,
  finished_at     timestamptz,
  check ((status in ('done', 'error', 'cancelled')) = (finished_at is not null)),
  check ((status = 'running') = (process_id is not null)),
  check ((idempotency_key is null) = (request_hash is null))
) with (fillfactor = 85);

-- The queue itself: what may run now, in order.
create index jobs_ready on jobs (lane, tag, id) where status = 'queued' and ready;
create index jobs_waiting on jobs (run_at) where status = 'queued' and not ready;
create index jobs_deadline on jobs (deadline_at) where status = 'queued' and deadline_at is not null;
create index jobs_owned on jobs (owner_process) where status = 'queued' and owner_process is not null;
create index jobs_running on jobs (process_id) where status = 'running';
-- How much of a source waits.
create index jobs_backlog on jobs (class, source) where status = 'queued';
create unique index jobs_idempotency on jobs (source, idempotency_key) where idempotency_key is not null;
-- Lists: newest first, and ids are ordered by time.
create index jobs_by_source on jobs (source, id desc);
create index jobs_by_source_status on jobs (source, status, id desc);
create index jobs_by_status on jobs (status, id desc);
create index jobs_by_model on jobs (model, id desc);
create index jobs_by_device on jobs (device_id, id desc) where device_id is not null;
create index jobs_by_kind on jobs (kind, id desc);
create index jobs_finished on jobs (finished_at) where finished_at is not null;

create table job_attempts (
  job_id     uuid not null references jobs (id) on delete cascade,
  attempt    integer not null check (attempt >= 1),
  -- Of its first call; the key of that call's cost row.
  attempt_id uuid not null,
  process_id uuid not null,
  device_id  text,
  provider   text,
  started_at timestamptz not null default now(),
  ended_at   timestamptz,
  outcome    text check (outcome in ('done', 'error', 'retry', 'cancelled', 'lost')),
  error      json,
  primary key (job_id, attempt)
);

-- What happened to jobs with `stream`: chunks of answers, numbered within an attempt. By day, so that old days are dropped whole.
create table job_events (
  job_id  uuid not null,
  attempt integer not null,
  -- Of the first of its chunks.
  seq     integer not null,
  kind    text not null check (kind in ('attempt', 'chunks', 'result', 'end')),
  -- How many numbers it takes.
  count   integer not null check (count >= 1),
  -- Chunks: one JSON object a line.
  data    text not null,
  at      timestamptz not null,
  primary key (job_id, attempt, seq, at)
) partition by range (at);
create table job_events_rest partition of job_events default;

-- Where each source stands in the order of each class: the tag its next job gets, unless others are further on.
create table source_vtime (
  source     text not null,
  class      smallint not null,
  vfinish    bigint not null,
  changed_at timestamptz not null default now(),
  primary key (source, class)
) with (fillfactor = 50);

-- How far each class is served: the largest tag that was begun, and when that was.
create table class_vtime (
  class     smallint primary key,
  v         bigint not null default 0,
  served_at timestamptz not null default now()
) with (fillfactor = 50);
insert into class_vtime (class) select generate_series(0, 4);

alter table processes add column role text not null default 'all';

create index llm_costs_job on llm_costs (job_id) where job_id is not null;

-- The sum over all calls of a job in nano-dollars: null when nothing is booked, or when the price of one is unknown.
create function calculate_job_cost(of_job uuid)
  returns bigint
  language sql
  stable
as $$
  select case when count(*) = count(cost_nano_usd) then sum(cost_nano_usd)::bigint end
    from llm_costs
   where job_id = of_job
$$;

-- A process is alive that was seen in the last seconds; right after the server itself came up, all are.
create function process_is_alive(of_process uuid, silent_seconds integer)
  returns boolean
  language sql
  stable
as $$
  select exists (
    select 1
      from processes
     where id = of_process
       and greatest(seen_at, pg_postmaster_start_time()) > clock_timestamp() - make_interval(secs => silent_seconds)
  )
$$;

-- Days of events: makes those of today, tomorrow and the day after, and drops what is older than `keep_days` days.
create function keep_job_event_days(keep_days integer)
  returns void
  language plpgsql
as $$
declare
  of_day date;
  new_table text;
  old_table text;
begin
  -- 1819109485 = 'llm-'; one at a time.
  if not pg_try_advisory_xact_lock(1819109485, 1) then
    return;
  end if;
  for of_day in select generate_series((now() at time zone 'UTC')::date, (now() at time zone 'UTC')::date + 2, interval '1 day')::date loop
    new_table := 'job_events_' || to_char(of_day, 'YYYYMMDD');
    if to_regclass(new_table) is null then
      -- Nobody made this day ahead, when no process ran for days: its first events are in the rest, and a day cannot have two places.
      execute format('create table %I (like job_events including all)', new_table);
      lock table job_events_rest in access exclusive mode;
      execute format('with moved as (delete from job_events_rest where at >= %L and at < %L returning *) insert into %I select * from moved',
                     of_day::text || ' 00:00:00+00', (of_day + 1)::text || ' 00:00:00+00', new_table);
      execute format('alter table job_events attach partition %I for values from (%L) to (%L)',
                     new_table, of_day::text || ' 00:00:00+00', (of_day + 1)::text || ' 00:00:00+00');
    end if;
  end loop;
  for old_table in
    select relname
      from pg_inherits
      join pg_class on pg_class.oid = inhrelid
     where inhparent = 'job_events'::regclass
       and relname ~ '^job_events_[0-9]{8}$'
       and to_date(right(relname, 8), 'YYYYMMDD') < (now() at time zone 'UTC')::date - keep_days
  loop
    execute format('drop table %I', old_table);
  end loop;
  delete from job_events_rest where at < now() - make_interval(days => keep_days + 1);
end
$$;
select keep_job_event_days(2);

-- Gives one job and one place on a machine to an attempt, or says why not: 'gone' (somebody else has it), 'owner_gone', 'full',
-- 'no_ticket'. `on_device` null = a rented target, which has no places. `from_attempt`: the attempt that holds the place and hands it on.
-- One of the three statements that write to pg-boss's tables (schema version 43); the others are put_back_tickets and hold_tickets.
create function claim_job(
  of_job uuid, on_device text, at_provider text, by_process uuid, as_attempt uuid, from_attempt uuid, is_paid boolean,
  out outcome text, out attempt integer, out runner uuid
)
  language plpgsql
as $$
declare
  job record;
  slot integer;
  ticket integer;
begin
  -- 1. the job, unless somebody is at it
  select jobs.owner_process, jobs.attempt_no
    into job
    from jobs
   where id = of_job
     and status = 'queued'
     and ready
     for update skip locked;
  if not found then
    outcome := 'gone';
    return;
  end if;
  runner := coalesce(job.owner_process, by_process);
  if runner <> by_process and not process_is_alive(runner, 3) then
    outcome := 'owner_gone';
    return;
  end if;
  -- 2. a place
  if on_device is not null then
    if from_attempt is null then
      select device_slots.slot_no
        into slot
        from device_slots
        join devices on devices.id = device_slots.device_id
       where device_slots.device_id = on_device
         and device_slots.slot_no <= devices.max_concurrency
         and (device_slots.process_id is null or not process_is_alive(device_slots.process_id, 3))
       order by device_slots.slot_no
       limit 1
         for update of device_slots skip locked;
    else
      select device_slots.slot_no
        into slot
        from device_slots
        join devices on devices.id = device_slots.device_id
       where device_slots.device_id = on_device
         and device_slots.slot_no <= devices.max_concurrency
         and device_slots.attempt_id = from_attempt
         for update of device_slots;
    end if;
    if not found then
      outcome := 'full';
      return;
    end if;
  end if;
  -- 3. its ticket
  update pgboss.job
     set state = 'active',
         started_on = now(),
         retry_count = case when started_on is null then retry_count else retry_count + 1 end
   where name = 'jobs'
     and id = of_job
     and state < 'active'
  returning retry_count into ticket;
  if not found then
    outcome := 'no_ticket';
    return;
  end if;
  -- 4. all of it
  if on_device is not null then
    update device_slots
       set process_id = runner, attempt_id = as_attempt, claimed_at = now()
     where device_id = on_device
       and slot_no = slot;
  end if;
  attempt := job.attempt_no + 1;
  update jobs
     set status = 'running',
         attempts = attempts + 1,
         attempt_no = attempt_no + 1,
         attempt_id = as_attempt,
         process_id = runner,
         device_id = on_device,
         provider = at_provider,
         paid = is_paid,
         ticket_retry = ticket,
         started_at = now()
   where id = of_job;
  insert into job_attempts (job_id, attempt, attempt_id, process_id, device_id, provider)
  values (of_job, attempt, as_attempt, runner, on_device, at_provider);
  outcome := 'claimed';
end
$$;

-- Makes active tickets claimable again without counting it as a try: their attempts were lost, or the ticket was left behind.
-- `started_on` stays, so that the next claim counts on and the fence holds.
create function put_back_tickets(of_jobs uuid[])
  returns void
  language plpgsql
as $$
begin
  update pgboss.job
     set state = 'retry', retry_limit = retry_limit + 1, start_after = now(), heartbeat_on = null
   where name = 'jobs'
     and id = any (of_jobs)
     and state = 'active';
end
$$;

-- Makes tickets of running jobs active that are not, with the count by which their attempts are fenced.
create function hold_tickets(of_jobs uuid[])
  returns void
  language plpgsql
as $$
begin
  update pgboss.job
     set state = 'active',
         started_on = coalesce(started_on, now()),
         retry_count = coalesce(jobs.ticket_retry, retry_count),
         retry_limit = greatest(retry_limit, coalesce(jobs.ticket_retry, retry_count) + jobs.max_attempts - jobs.attempts)
    from jobs
   where pgboss.job.name = 'jobs'
     and pgboss.job.id = any (of_jobs)
     and pgboss.job.state < 'active'
     and jobs.id = pgboss.job.id
     and jobs.status = 'running';
end
$$;
