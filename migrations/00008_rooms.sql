-- Chat: rooms, who is and was in them, what was said, and who is there (docs/protocol.md, "R").

-- +goose Up

create table sluice.rooms (
    org      text        not null,
    id       text        not null, -- given once: a room that was deleted keeps its row
    name     text        not null,
    owner    text        not null,
    creation text        not null, -- of the request that made it, by which its repetition is known
    trimmed  bigint      not null default 0, -- the newest message that retention has taken; the row is locked for each that is
                                             -- said, and not written: the newest of messages tells the number
    created  timestamptz not null default now(),
    deleted  timestamptz,
    emptied  boolean     not null default false, -- deleted, and its messages are gone
    primary key (org, id)
);

create index rooms_deleted on sluice.rooms (deleted) where deleted is not null and not emptied;

-- Who is in a room now, and what they have read of it.
create table sluice.members (
    org     text        not null,
    room    text        not null,
    user_id text        not null,
    since   timestamptz not null default clock_timestamp(),
    read    bigint      not null, -- the newest message that was read; at first the newest there is
    told    bigint      not null, -- up to where the log has said so
    told_at timestamptz not null default '-infinity',
    primary key (org, room, user_id)
);

create index members_of_user on sluice.members (org, user_id, room);
create index members_untold on sluice.members (told_at) where read > told;

-- Intervals of the log in which a user was a member; both ends belong to them. What was said in one is numbered from
-- said_from + 1 to said_to.
create table sluice.memberships (
    org       text   not null,
    room      text   not null,
    user_id   text   not null,
    from_seq  bigint not null,
    to_seq    bigint, -- null: a member now
    said_from bigint not null,
    said_to   bigint,
    primary key (org, room, user_id, from_seq)
);

create index memberships_of_user on sluice.memberships (org, user_id, room);

create table sluice.messages (
    org          text        not null,
    room         text        not null,
    seq          bigint      not null, -- in the room, from 1, without gaps
    user_id      text        not null,
    display_name text        not null, -- as it was then
    text         text        not null, -- '' once deleted
    client_id    text        not null,
    nth          bigint      not null, -- of the user's messages in the room: unread ones are counted by it
    time         timestamptz not null default clock_timestamp(),
    edited       timestamptz,
    deleted      boolean     not null default false,
    primary key (org, room, seq)
);

create unique index messages_by_client on sluice.messages (org, user_id, client_id);
create index messages_of_author on sluice.messages (org, room, user_id, seq);
create index messages_deleted on sluice.messages (org, room, seq) where deleted;
create index messages_by_time on sluice.messages (time);

-- Users by their names, which tokens tell, and when they were last there.
create table sluice.users (
    org          text        not null,
    id           text        not null,
    display_name text        not null default '',
    last_seen    timestamptz,
    primary key (org, id)
);

-- Who is there: what an instance that lives (sluice.instances) carries to a user. Those of one that has died count no more.
create table sluice.presence (
    instance text    not null,
    org      text    not null,
    user_id  text    not null,
    room     text    not null, -- '': all rooms of the user
    streams  integer not null, -- open ones
    polled   boolean not null, -- a moment ago
    primary key (org, user_id, room, instance)
);

create index presence_of_instance on sluice.presence (instance);

-- What a user who is there wants to be shown as in a room; none: online.
create table sluice.statuses (
    org     text not null,
    room    text not null,
    user_id text not null,
    status  text not null, -- online, away, offline
    primary key (org, user_id, room)
);

-- +goose Down
drop table sluice.statuses;
drop table sluice.presence;
drop table sluice.users;
drop table sluice.messages;
drop table sluice.memberships;
drop table sluice.members;
drop table sluice.rooms;
