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

CREATE INDEX events_org_id ON sluice.events USING btree (org, id);
