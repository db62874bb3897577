-- Uploads: what is on its way, what has arrived, and what reading it has given (docs/protocol.md, "U").

-- +goose Up

create table sluice.uploads (
    id            text             primary key, -- 128 random bits
    org           text             not null,
    user_id       text             not null,
    property_id   text             not null default '',
    guest_id      text             not null default '',
    filename      text             not null,
    claimed       text             not null default '', -- the media type that the client named
    mime_type     text             not null default '', -- that, or what the bytes are
    document_type text             not null default '',
    metadata      text             not null default '', -- of tus, as it was sent
    kind          text             not null default '', -- partial and final: of tus's concatenation
    parts         text[]           not null default '{}', -- of a final one
    joined_by     text             not null default '', -- the final one that has taken a partial one in
    size          bigint           not null default -1, -- -1: not known yet
    byte_limit    bigint           not null, -- that it may never pass
    held          bigint           not null, -- that count for its user's quota
    position      bigint           not null default 0, -- bytes committed
    digest_state  bytea            not null default '', -- of SHA-256 there; '': at 0
    chunks        bytea            not null default '', -- the newest ones, by which a repetition is known
    declared      bytea, -- SHA-256 that the client named for the whole
    sha256        bytea,
    state         text             not null default 'uploading',
    reason        text             not null default '',
    rate          double precision not null default 0, -- bytes a second
    epoch         bigint           not null default 0, -- counts the writers
    owner         text             not null default '', -- the instance that writes
    lease_until   timestamptz      not null default '-infinity',
    created       timestamptz      not null default now(),
    moved         timestamptz      not null default now(), -- when the newest bytes were committed
    expires       timestamptz      not null -- 'infinity' once ready
);

create index uploads_of_user on sluice.uploads (org, user_id) where held > 0;
create index uploads_expiring on sluice.uploads (expires) where state in ('uploading', 'verifying') or state = 'ready' and kind = 'partial';
create index uploads_by_digest on sluice.uploads (org, sha256) where state = 'ready';
create index uploads_verifying on sluice.uploads (lease_until) where state = 'verifying';
create index uploads_over on sluice.uploads (expires) where state in ('failed', 'expired', 'deleted');

-- Where an upload's bytes lie, end to end (store/blobs). The last one of an upload on its way is open.
create table sluice.upload_segments (
    upload        text    not null references sluice.uploads on delete cascade,
    start         bigint  not null,
    epoch         bigint  not null, -- of its writer
    size          bigint  not null default 0, -- bytes committed
    mark          bytea   not null default '', -- by which the store finds them
    digest_state  bytea   not null default '', -- of the whole, at start
    sealed        boolean not null default false,
    synced        boolean not null default false, -- by the process that wrote it
    primary key (upload, start)
);

-- What is to be read by OCR, and what it has given.
create table sluice.documents (
    upload      text             primary key references sluice.uploads on delete cascade,
    state       text             not null default 'queued', -- running, done, failed
    attempts    integer          not null default 0,
    claim       bigint           not null default 0, -- counts the claims: what an older one brings is refused
    claimed_by  text             not null default '',
    due         timestamptz      not null default now(), -- when it may be claimed (again)
    queued      timestamptz      not null default now(),
    finished    timestamptz,
    content     text             not null default '',
    fields      json             not null default '{}',
    confidence  double precision not null default 0,
    error       text             not null default ''
);

create index documents_due on sluice.documents (due) where state in ('queued', 'running');

-- Keys that all instances share, such as that of links to uploads.
create table sluice.keys (
    name    text        primary key,
    key     bytea       not null,
    created timestamptz not null default now()
);

-- The instances that live, and where they keep bytes: those that do not share it must not serve side by side.
create table sluice.instances (
    id    text        primary key,
    blobs text        not null,
    alive timestamptz not null -- until then
);

-- +goose Down
drop table sluice.instances;
drop table sluice.keys;
drop table sluice.documents;
drop table sluice.upload_segments;
drop table sluice.uploads;
