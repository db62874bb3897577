-- Publishing from SQL: sluice.publish leaves an event in the outbox, and one instance at a time moves what is committed
-- there into the log (docs/adr/0010-snapshots-of-the-outbox.md).

-- +goose Up

-- What applications have published inside their own transactions. There is no unique index over their ids on purpose: two
-- transactions with one id would wait for each other.
create table sluice.outbox (
    id          bigint  generated always as identity primary key,
    xid         xid8    not null default pg_current_xact_id(), -- of the transaction, never of a savepoint in it
    org         text    not null,
    event_id    text    not null,
    id_given    boolean not null default true,
    service     text    not null,
    type        text    not null,
    property_id text    not null default '',
    entity_type text    not null default '',
    entity_id   text    not null default '',
    user_id     text    not null default '',
    data        jsonb   not null default '{}'
);

create index outbox_xid on sluice.outbox (xid, id);

-- What the log has refused, and why; it holds up nothing that came after it.
create table sluice.parked (
    id          bigint      primary key,
    org         text        not null,
    event_id    text        not null,
    id_given    boolean     not null,
    service     text        not null,
    type        text        not null,
    property_id text        not null,
    entity_type text        not null,
    entity_id   text        not null,
    user_id     text        not null,
    data        jsonb       not null,
    reason      text        not null,
    parked_at   timestamptz not null default now()
);

-- Which run of the server the relay's memory is of. Recovery after a crash empties an unlogged table, and may give the
-- numbers of transactions that were lost to others.
create unlogged table sluice.relay (
    singleton boolean primary key default true check (singleton),
    run       uuid    not null default gen_random_uuid()
);

-- +goose StatementBegin
create function sluice.publish(
    org text, service text, type text, data jsonb default '{}', property_id text default null,
    entity_type text default null, entity_id text default null, user_id text default null, id text default null
) returns text language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    labels  constant text[] := array['org', org, 'property_id', property_id, 'entity_type', entity_type,
        'entity_id', entity_id, 'user_id', user_id];
    printed constant text := data::text;
    wrong   text;
    field   text;
    known   json;
    writer  xid8;
    made    text;
begin
    -- The checks are those of POST /v2/events (handlers/publish.go); a test holds the two doors equal.
    for i in 1 .. cardinality(labels) by 2 loop
        if octet_length(labels[i + 1]) > 128 or labels[i + 1] collate "C" ~ E'[\u0001-\u001f\u007f-\u009f]' then
            field := labels[i];
            wrong := 'at most 128 bytes without control characters are expected';
        end if;
    end loop;
    select one into known from sluice.catalogue c, json_array_elements(c.document -> 'services') one
        where one ->> 'name' = service collate "C";
    if wrong is not null then
        null;
    elsif coalesce(org, '') in ('', '*') then
        field := 'org';
        wrong := 'the org of the event is expected';
    elsif coalesce(service, '') = '' then
        field := 'service';
        wrong := 'the field is required';
    elsif known is null then
        field := 'service';
        wrong := format('"%s" is not in the catalogue', left(service, 128));
    elsif json_array_length(coalesce(known -> 'sources', '[]')) > 0 then
        field := 'service';
        wrong := format('"%s" is derived: publish to one of its sources', service);
    elsif (known ->> 'own')::boolean then
        field := 'service';
        wrong := format('"%s" is the server''s own', service);
    elsif coalesce(type, '') collate "C" !~ '^[a-z][a-z0-9_]{0,63}$' then
        field := 'type';
        wrong := 'a name like ^[a-z][a-z0-9_]{0,63}$ is expected';
    elsif id collate "C" !~ '^[A-Za-z0-9._:-]{1,128}$' then
        field := 'id';
        wrong := '1 to 128 of A-Z a-z 0-9 . _ : - are expected';
    elsif jsonb_typeof(data) not in ('object', 'null') then
        field := 'data';
        wrong := 'an object is expected';
    elsif octet_length(printed) > 65536 then
        field := 'data';
        wrong := 'data is larger than 65536 bytes';
    elsif octet_length(printed) > 1022
            and jsonb_path_exists(data, 'strict $.**{511} ? (@.type() == "object" || @.type() == "array")') then
        field := 'data';
        wrong := 'data is nested deeper than 511';
    end if;
    if wrong is not null then
        raise exception 'sluice.publish: %: %', field, wrong using errcode = 'invalid_parameter_value', column = field;
    end if;
    -- A UUIDv7: the milliseconds before 74 random bits; the version is that of gen_random_uuid, 4, with two bits more.
    made := encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid()) placing substring(
        int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3) from 1), 52, 1), 53, 1), 'hex')::uuid;
    -- The transaction has its number before the row takes its own: who reads the outbox tells by the former what is new.
    writer := pg_current_xact_id();
    insert into sluice.outbox (xid, org, event_id, id_given, service, type, property_id, entity_type, entity_id, user_id, data)
    values (writer, org, coalesce(id, made), id is not null, service, type, coalesce(property_id, ''),
        coalesce(entity_type, ''), coalesce(entity_id, ''), coalesce(user_id, ''), coalesce(nullif(data, 'null'), '{}'))
    returning event_id into id;
    return id;
end
$$;
-- +goose StatementEnd

-- Who may publish is the operator's to say: grant usage on schema sluice, and execute on this function.
revoke all on function sluice.publish from public;

-- +goose Down
drop function sluice.publish;
drop table sluice.relay;
drop table sluice.parked;
drop table sluice.outbox;
