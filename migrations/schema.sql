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

create table sluice.documents (
    upload text not null,
    state text default 'queued'::text not null,
    attempts integer default 0 not null,
    claim bigint default 0 not null,
    claimed_by text default ''::text not null,
    due timestamp with time zone default now() not null,
    queued timestamp with time zone default now() not null,
    finished timestamp with time zone,
    content text default ''::text not null,
    fields json default '{}'::json not null,
    confidence double precision default 0 not null,
    error text default ''::text not null,
    constraint documents_pkey PRIMARY KEY (upload)
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
    audience text default ''::text not null,
    constraint events_pkey PRIMARY KEY (org, seq, "time"),
    constraint events_seq_check CHECK ((seq > 0))
) partition by RANGE ("time");

create table sluice.instances (
    id text not null,
    blobs text not null,
    alive timestamp with time zone not null,
    constraint instances_pkey PRIMARY KEY (id)
);

create table sluice.keys (
    name text not null,
    key bytea not null,
    created timestamp with time zone default now() not null,
    constraint keys_pkey PRIMARY KEY (name)
);

create table sluice.logs (
    org text not null,
    trimmed_seq bigint default 0 not null,
    last_time timestamp with time zone default '-infinity'::timestamp with time zone not null,
    constraint logs_pkey PRIMARY KEY (org)
);

create table sluice.members (
    org text not null,
    room text not null,
    user_id text not null,
    since timestamp with time zone default clock_timestamp() not null,
    read bigint not null,
    told bigint not null,
    told_at timestamp with time zone default '-infinity'::timestamp with time zone not null,
    constraint members_pkey PRIMARY KEY (org, room, user_id)
);

create table sluice.memberships (
    org text not null,
    room text not null,
    user_id text not null,
    from_seq bigint not null,
    to_seq bigint,
    said_from bigint not null,
    said_to bigint,
    constraint memberships_pkey PRIMARY KEY (org, room, user_id, from_seq)
);

create table sluice.messages (
    org text not null,
    room text not null,
    seq bigint not null,
    user_id text not null,
    display_name text not null,
    text text not null,
    client_id text not null,
    nth bigint not null,
    "time" timestamp with time zone default clock_timestamp() not null,
    edited timestamp with time zone,
    deleted boolean default false not null,
    constraint messages_pkey PRIMARY KEY (org, room, seq)
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

create table sluice.presence (
    instance text not null,
    org text not null,
    user_id text not null,
    room text not null,
    streams integer not null,
    polled boolean not null,
    constraint presence_pkey PRIMARY KEY (org, user_id, room, instance)
);

create unlogged table sluice.relay (
    singleton boolean default true not null,
    run uuid default gen_random_uuid() not null,
    constraint relay_pkey PRIMARY KEY (singleton),
    constraint relay_singleton_check CHECK (singleton)
);

create table sluice.rooms (
    org text not null,
    id text not null,
    name text not null,
    owner text not null,
    creation text not null,
    trimmed bigint default 0 not null,
    created timestamp with time zone default now() not null,
    deleted timestamp with time zone,
    emptied boolean default false not null,
    constraint rooms_pkey PRIMARY KEY (org, id)
);

create table sluice.statuses (
    org text not null,
    room text not null,
    user_id text not null,
    status text not null,
    constraint statuses_pkey PRIMARY KEY (org, user_id, room)
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

create table sluice.upload_segments (
    upload text not null,
    start bigint not null,
    epoch bigint not null,
    size bigint default 0 not null,
    mark bytea default '\x'::bytea not null,
    digest_state bytea default '\x'::bytea not null,
    sealed boolean default false not null,
    synced boolean default false not null,
    constraint upload_segments_pkey PRIMARY KEY (upload, start)
);

create table sluice.uploads (
    id text not null,
    org text not null,
    user_id text not null,
    property_id text default ''::text not null,
    guest_id text default ''::text not null,
    filename text not null,
    claimed text default ''::text not null,
    mime_type text default ''::text not null,
    document_type text default ''::text not null,
    metadata text default ''::text not null,
    kind text default ''::text not null,
    parts text[] default '{}'::text[] not null,
    joined_by text default ''::text not null,
    size bigint default '-1'::integer not null,
    byte_limit bigint not null,
    held bigint not null,
    "position" bigint default 0 not null,
    digest_state bytea default '\x'::bytea not null,
    chunks bytea default '\x'::bytea not null,
    declared bytea,
    sha256 bytea,
    state text default 'uploading'::text not null,
    reason text default ''::text not null,
    rate double precision default 0 not null,
    epoch bigint default 0 not null,
    owner text default ''::text not null,
    lease_until timestamp with time zone default '-infinity'::timestamp with time zone not null,
    created timestamp with time zone default now() not null,
    moved timestamp with time zone default now() not null,
    expires timestamp with time zone not null,
    constraint uploads_pkey PRIMARY KEY (id)
);

create table sluice.users (
    org text not null,
    id text not null,
    display_name text default ''::text not null,
    last_seen timestamp with time zone,
    constraint users_pkey PRIMARY KEY (org, id)
);

CREATE INDEX documents_due ON sluice.documents USING btree (due) WHERE (state = ANY (ARRAY['queued'::text, 'running'::text]));

CREATE INDEX events_org_id ON sluice.events USING btree (org, id);

CREATE INDEX members_of_user ON sluice.members USING btree (org, user_id, room);

CREATE INDEX members_untold ON sluice.members USING btree (told_at) WHERE (read > told);

CREATE INDEX memberships_of_user ON sluice.memberships USING btree (org, user_id, room);

CREATE UNIQUE INDEX messages_by_client ON sluice.messages USING btree (org, user_id, client_id);

CREATE INDEX messages_by_time ON sluice.messages USING btree ("time");

CREATE INDEX messages_deleted ON sluice.messages USING btree (org, room, seq) WHERE deleted;

CREATE INDEX messages_of_author ON sluice.messages USING btree (org, room, user_id, seq);

CREATE INDEX outbox_xid ON sluice.outbox USING btree (xid, id);

CREATE INDEX presence_of_instance ON sluice.presence USING btree (instance);

CREATE INDEX rooms_deleted ON sluice.rooms USING btree (deleted) WHERE ((deleted IS NOT NULL) AND (NOT emptied));

CREATE INDEX tickets_until ON sluice.tickets USING btree (until);

CREATE INDEX uploads_by_digest ON sluice.uploads USING btree (org, sha256) WHERE (state = 'ready'::text);

CREATE INDEX uploads_expiring ON sluice.uploads USING btree (expires) WHERE ((state = ANY (ARRAY['uploading'::text, 'verifying'::text])) OR ((state = 'ready'::text) AND (kind = 'partial'::text)));

CREATE INDEX uploads_of_user ON sluice.uploads USING btree (org, user_id) WHERE (held > 0);

CREATE INDEX uploads_over ON sluice.uploads USING btree (expires) WHERE (state = ANY (ARRAY['failed'::text, 'expired'::text, 'deleted'::text]));

CREATE INDEX uploads_verifying ON sluice.uploads USING btree (lease_until) WHERE (state = 'verifying'::text);

alter table documents add constraint documents_upload_fkey FOREIGN KEY (upload) REFERENCES uploads(id) ON DELETE CASCADE;

alter table upload_segments add constraint upload_segments_upload_fkey FOREIGN KEY (upload) REFERENCES uploads(id) ON DELETE CASCADE;

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
