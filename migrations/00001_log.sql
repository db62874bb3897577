-- The log: one gapless sequence of events per org (docs/architecture.md, "The log").

-- +goose Up

-- The log's incarnation, and where it was made. Another cluster, timeline or database is another incarnation.
create table sluice.epoch (
    singleton    boolean     primary key default true check (singleton),
    epoch        text        not null check (epoch ~ '^[0-9a-z]{1,16}$'),
    system_id    text        not null,
    timeline     text        not null,
    database_oid text        not null,
    made_at      timestamptz not null default now()
);

-- One row per org. Appending locks it and leaves it as it is; only trimming writes it, and nothing deletes it.
create table sluice.logs (
    org         text        primary key,
    trimmed_seq bigint      not null default 0,
    last_time   timestamptz not null default '-infinity'
);

-- Partitioned by UTC day, so that retention drops whole partitions. There is no default partition on purpose: it
-- would have to be scanned at every ATTACH.
create table sluice.events (
    org         text        not null,
    seq         bigint      not null check (seq > 0),
    time        timestamptz not null,
    id          text        not null,
    service     text        not null,
    type        text        not null,
    property_id text        not null default '',
    entity_type text        not null default '',
    entity_id   text        not null default '',
    user_id     text        not null default '',
    data        json        not null,
    primary key (org, seq, time)
) partition by range (time);

create index events_org_id on sluice.events (org, id);

-- The catalogue of services in force: the one of the instance that started last.
create table sluice.catalogue (
    singleton boolean     primary key default true check (singleton),
    document  json        not null,
    updated   timestamptz not null default now()
);

-- +goose Down
drop table sluice.catalogue;
drop table sluice.events;
drop table sluice.logs;
drop table sluice.epoch;
