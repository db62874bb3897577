-- Tickets: what opens a stream where headers cannot be sent (docs/adr/0011-tickets.md).

-- +goose Up

create table sluice.tickets (
    digest bytea       primary key,           -- SHA-256 of the ticket, which is kept nowhere
    caller json        not null,              -- whom it stands for
    until  timestamptz not null,              -- its first use; from then on: ends
    ends   timestamptz not null,              -- the token that asked for it
    uses   bigint      not null default 0,
    spent  boolean     not null default false -- on a WebSocket
);

create index tickets_until on sluice.tickets (until);

-- +goose Down
drop table sluice.tickets;
