-- How long the vectors of each embedding model are: recorded once, so that a machine that gives others is found out.
-- Up Migration

create table vector_spaces (
  -- A model's name, or what the configuration declares to be one space.
  name       text primary key check (name <> '' and length(name) <= 256),
  dimensions integer not null check (dimensions > 0),
  created_at timestamptz not null default now()
);

-- What a model can be asked for has more than one answer now (routing/types.ts, Operation).
update device_models
   set listing = (listing - 'chat')
                 || jsonb_build_object('operations', case when (listing->>'chat')::boolean then '["chat", "complete"]'::jsonb else '["embed"]'::jsonb end)
 where listing ? 'chat';
