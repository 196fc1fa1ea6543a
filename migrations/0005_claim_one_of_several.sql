-- A claim names several jobs, best first, and gets the first of them that nobody else is at: claims made at once need not all try
-- the same one and come back empty-handed.
-- Up Migration

-- The processes that are alive, as process_is_alive says it of one: asked once for all places of a machine, not for each.
create function living_processes(silent_seconds integer)
  returns setof uuid
  language sql
  stable
as $$
  select id
    from processes
   where greatest(seen_at, pg_postmaster_start_time()) > clock_timestamp() - make_interval(secs => silent_seconds)
$$;

drop function claim_job(uuid, text, text, uuid, uuid, uuid, boolean);

-- Gives one of these jobs and one place on a machine to an attempt, or says why not: 'gone' (somebody else has them), 'owner_gone',
-- 'full', 'no_ticket'; `job` is the one it speaks of. `on_device` null = a rented target, which has no places. `from_attempt`: the
-- attempt that holds the place and hands it on.
-- One of the three statements that write to pg-boss's tables (schema version 43); the others are put_back_tickets and hold_tickets.
create function claim_job(
  of_jobs uuid[], on_device text, at_provider text, by_process uuid, as_attempt uuid, from_attempt uuid, is_paid boolean,
  out outcome text, out job uuid, out attempt integer, out runner uuid
)
  language plpgsql
as $$
declare
  chosen record;
  slot integer;
  ticket integer;
begin
  -- 1. the best of the jobs, but none that somebody is at
  select jobs.id, jobs.owner_process, jobs.attempt_no
    into chosen
    from unnest(of_jobs) with ordinality as given (id, place)
    join jobs on jobs.id = given.id
   where jobs.status = 'queued'
     and jobs.ready
   order by given.place
   limit 1
     for update of jobs skip locked;
  if not found then
    outcome := 'gone';
    return;
  end if;
  job := chosen.id;
  runner := coalesce(chosen.owner_process, by_process);
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
         and (device_slots.process_id is null or device_slots.process_id <> all (array(select living_processes(3))))
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
     and id = chosen.id
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
  attempt := chosen.attempt_no + 1;
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
   where id = chosen.id;
  insert into job_attempts (job_id, attempt, attempt_id, process_id, device_id, provider)
  values (chosen.id, attempt, as_attempt, runner, on_device, at_provider);
  outcome := 'claimed';
end
$$;
