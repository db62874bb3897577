-- The schema as the migrations leave it, for reading: dumped by "go test ./migrations -update" and held equal to them
-- by that test. Partitions of events and the table of applied migrations are not in it.

create schema sluice;

create table sluice.catalogue (
    singleton boolean default true not null,
    document json not null,
    updated timestamp with time zone default now() not null,
    constraint catalogue_pkey PRIMARY KEY (singleton),
    constraint catalogue_singleton_check CHECK (singleton)
);

create table sluice.epoch (
    singleton boolean default true not null,
    epoch text not null,
    system_id text not null,
    timeline text not null,
    database_oid text not null,
    made_at timestamp with time zone default now() not null,
    constraint epoch_epoch_check CHECK ((epoch ~ '^[0-9a-z]{1,16}$'::text)),
    constraint epoch_pkey PRIMARY KEY (singleton),
    constraint epoch_singleton_check CHECK (singleton)
);

create table sluice.events (
    org text not null,
    seq bigint not null,
    "time" timestamp with time zone not null,
    id text not null,
    service text not null,
    type text not null,
    property_id text default ''::text not null,
    entity_type text default ''::text not null,
    entity_id text default ''::text not null,
    user_id text default ''::text not null,
    data json not null,
    constraint events_pkey PRIMARY KEY (org, seq, "time"),
    constraint events_seq_check CHECK ((seq > 0))
) partition by RANGE ("time");

create table sluice.logs (
    org text not null,
    trimmed_seq bigint default 0 not null,
    last_time timestamp with time zone default '-infinity'::timestamp with time zone not null,
    constraint logs_pkey PRIMARY KEY (org)
);

create table sluice.outbox (
    id bigint generated always as identity not null,
    xid xid8 default pg_current_xact_id() not null,
    org text not null,
    event_id text not null,
    id_given boolean default true not null,
    service text not null,
    type text not null,
    property_id text default ''::text not null,
    entity_type text default ''::text not null,
    entity_id text default ''::text not null,
    user_id text default ''::text not null,
    data jsonb default '{}'::jsonb not null,
    constraint outbox_pkey PRIMARY KEY (id)
);

create table sluice.parked (
    id bigint not null,
    org text not null,
    event_id text not null,
    id_given boolean not null,
    service text not null,
    type text not null,
    property_id text not null,
    entity_type text not null,
    entity_id text not null,
    user_id text not null,
    data jsonb not null,
    reason text not null,
    parked_at timestamp with time zone default now() not null,
    constraint parked_pkey PRIMARY KEY (id)
);

create table sluice.positions (
    org text not null,
    user_id text not null,
    property_id text default ''::text not null,
    epoch text not null,
    seq bigint not null,
    updated timestamp with time zone default now() not null,
    constraint positions_pkey PRIMARY KEY (org, user_id, property_id)
);

create unlogged table sluice.relay (
    singleton boolean default true not null,
    run uuid default gen_random_uuid() not null,
    constraint relay_pkey PRIMARY KEY (singleton),
    constraint relay_singleton_check CHECK (singleton)
);

create table sluice.tickets (
    digest bytea not null,
    caller json not null,
    until timestamp with time zone not null,
    ends timestamp with time zone not null,
    uses bigint default 0 not null,
    spent boolean default false not null,
    constraint tickets_pkey PRIMARY KEY (digest)
);

CREATE INDEX events_org_id ON sluice.events USING btree (org, id);

CREATE INDEX outbox_xid ON sluice.outbox USING btree (xid, id);

CREATE INDEX tickets_until ON sluice.tickets USING btree (until);

CREATE OR REPLACE FUNCTION sluice.await_outbox(moved pg_snapshot, patience interval, pause interval)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
declare
    over constant timestamptz := clock_timestamp() + patience;
begin
    loop
        -- Each statement has a snapshot of its own. What is looked for is what Outbox.Find finds (store/outbox.go).
        perform from sluice.outbox o
            where o.xid >= pg_snapshot_xmax(moved) and o.xid < pg_snapshot_xmax(pg_current_snapshot())
            limit 1;
        if found then
            return true;
        end if;
        perform from pg_snapshot_xip(moved) under(xid)
            join sluice.outbox o on o.xid = under.xid
            where pg_visible_in_snapshot(under.xid, pg_current_snapshot())
            limit 1;
        if found then
            return true;
        end if;
        if clock_timestamp() >= over then
            return false;
        end if;
        perform pg_sleep_for(pause);
    end loop;
end
$function$
;

CREATE OR REPLACE FUNCTION sluice.publish(org text, service text, type text, data jsonb DEFAULT '{}'::jsonb, property_id text DEFAULT NULL::text, entity_type text DEFAULT NULL::text, entity_id text DEFAULT NULL::text, user_id text DEFAULT NULL::text, id text DEFAULT NULL::text)
 RETURNS text
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$
;

revoke all on function sluice.await_outbox(pg_snapshot, interval, interval) from public;

revoke all on function sluice.publish(text, text, text, jsonb, text, text, text, text, text) from public;
