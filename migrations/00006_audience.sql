-- Events that are for one user alone (docs/architecture.md, "The live end").

-- +goose Up

-- Empty: who may see the event follows from its property. Else the one user who may, beside those who may see everything.
alter table sluice.events add column audience text not null default '';

-- A table that was made for a day and not attached yet is no part of events, and without the column it never could be.
-- +goose StatementBegin
do $$
declare
    one regclass;
begin
    for one in select c.oid from pg_class c
        where c.relnamespace = 'sluice'::regnamespace and c.relkind = 'r' and c.relname ~ '^events_[0-9]{8}$'
            and not exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'audience')
    loop
        execute format('alter table %s add column audience text not null default ''''', one);
    end loop;
end
$$;
-- +goose StatementEnd

-- +goose Down
alter table sluice.events drop column audience;
