-- Routes: why requests went where they went, and what came of it, for GET /v1/routes/{id}; at most 100 a second of each process.
-- Up Migration

create table routes (
  -- The request's own; of a job, the job's.
  id     uuid primary key,
  -- Where a request waited, the job it was.
  job_id uuid,
  -- When it was over.
  at     timestamptz not null default now(),
  source text not null,
  model  text not null,
  -- Where it ran; null = nowhere.
  target text,
  -- As it is shown (routing/brain/explain.ts): without prompts, answers and keys.
  record jsonb not null
);
create index routes_at on routes (at);
create index routes_job on routes (job_id) where job_id is not null;
