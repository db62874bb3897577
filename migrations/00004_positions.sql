-- How far the guest endpoints of the old API have served a user: its clients send no position (docs/protocol.md, "L").

-- +goose Up

create table sluice.positions (
    org         text        not null,
    user_id     text        not null,
    property_id text        not null default '', -- the one that is asked for; '': none
    epoch       text        not null,
    seq         bigint      not null,
    updated     timestamptz not null default now(),
    primary key (org, user_id, property_id)
);

-- +goose Down
drop table sluice.positions;
