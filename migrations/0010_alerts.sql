-- Messages to people: what they were told last about each subject and when, so that nobody is told twice, by whichever process.
-- Up Migration

create table alerts (
  -- Such as `machine:rtx` (planner/alerts.ts).
  subject    text primary key check (subject <> '' and length(subject) <= 1000),
  -- What people were told last: 'bad' or 'good'; of the daily summary, its day. Null = nothing yet.
  told       text,
  -- When that was said, or when somebody began to say something. For 10 minutes from then on nobody sends a message about it.
  said_at    timestamptz,
  -- What is being said, and the attempt at it. Left over where a process died, or where nobody knows whether it arrived.
  telling    text,
  claim      uuid,
  -- Since when it is bad, or was.
  since      timestamptz,
  -- Where the last message can be changed. Null = nowhere.
  channel    text,
  message_id text check (length(message_id) <= 64),
  check ((telling is null) = (claim is null))
) with (fillfactor = 50);
create index alerts_claim on alerts (claim) where claim is not null;

-- The ways to people, and which of them is closed.
create table alert_channels (
  name          text primary key,
  -- Null = it works, as far as anybody knows.
  failing_since timestamptz,
  -- It asked to be left alone until then.
  resumes_at    timestamptz,
  -- What was wrong last: for people, without secrets.
  note          text check (length(note) <= 2000)
);
