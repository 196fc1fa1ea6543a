-- A machine that was taken out of llm-mcp.yaml is gone from the list of those in use, and a benchmark can be cancelled.
-- Up Migration

-- Machines in its configuration, by id. Null = a version that does not say it.
alter table processes add column machines text[];

alter table benchmarks drop constraint benchmarks_state_check;
alter table benchmarks add constraint benchmarks_state_check check (state in ('queued', 'running', 'done', 'error', 'cancelled'));
alter table benchmarks drop constraint benchmarks_check;
alter table benchmarks add constraint benchmarks_over check ((finished_at is not null) = (state in ('done', 'error', 'cancelled')));
