package store

import (
	"context"
	"errors"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// SendMessage is the Change by which a user says something in a room: once, however often it is asked for with one client id.
// ErrNoRoom, ErrClientID.
type SendMessage struct {
	store                *Store
	by                   Actor
	room, clientID, text string

	Message Message // what was said, now or the first time
}

// NewSendMessage makes the change.
func (s *Store) NewSendMessage(by Actor, room, clientID, text string) *SendMessage {
	return &SendMessage{store: s, by: by, room: room, clientID: clientID, text: text}
}

// Key implements Change.
func (c *SendMessage) Key() string { return roomKey(c.by.Org, c.room) }

// Apply implements Change.
func (c *SendMessage) Apply(ctx context.Context, tx *sqlx.Tx) ([]Draft, error) {
	made, refused, err := c.ApplyAll(ctx, tx, []Change{c})
	var failure *pq.Error
	if errors.As(err, &failure) && failure.Code == "23505" {
		return nil, ErrClientID // said in another room since this statement began
	}
	if err != nil {
		return nil, err
	}
	return made[0], refused[0]
}

// sendLockSQL locks the rooms of messages, in the order in which they are named. Nothing is written to their rows. Those that
// were deleted are left to TrimMessages, which has an order of its own.
const sendLockSQL = `select from (select * from unnest($1::text[], $2::text[]) with ordinality k (org, id, n) order by n) k
	cross join lateral (select from sluice.rooms r where r.org = k.org and r.id = k.id and r.deleted is null for update) l`

// sendSQL says something in locked rooms, unless a message's user is no member there or has said it before, and tells all of that
// in a row each. Its snapshot is taken under the locks, so that the numbers have no gaps; times rise with them. Of one client id that is used twice the
// first use is the message; one that somebody takes in another room at this moment is not waited for: that batch may wait for a
// room of this one. A token without a name leaves the one that is known.
const sendSQL = `with asked as (
		select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
			with ordinality a (org, room, user_id, client_id, display_name, text, n)),
	judged as (
		select a.*, coalesce((select true from sluice.members m where m.org = a.org and m.room = a.room and m.user_id = a.user_id), false) as member,
			t.room as t_room, t.seq as t_seq, t.display_name as t_name, t.text as t_text, t.time as t_time, t.edited as t_edited, t.deleted as t_deleted
		from asked a left join lateral (select * from sluice.messages o
			where o.org = a.org and o.user_id = a.user_id and o.client_id = a.client_id limit 1) t on true),
	firsts as (
		select distinct on (org, user_id, client_id) * from judged where member and t_room is null
			and pg_try_advisory_xact_lock(hashtextextended(concat_ws(chr(31), org, user_id, client_id), 8))
		order by org, user_id, client_id, n),
	said as (
		insert into sluice.messages (org, room, seq, user_id, client_id, display_name, text, nth)
		select f.org, f.room, greatest(r.trimmed, coalesce(
				(select l.seq from sluice.messages l where l.org = f.org and l.room = f.room order by l.seq desc limit 1), 0))
				+ row_number() over (partition by f.org, f.room order by f.n),
			f.user_id, f.client_id,
			coalesce(nullif(f.display_name, ''), (select u.display_name from sluice.users u where u.org = f.org and u.id = f.user_id), ''), f.text,
			coalesce((select o.nth from sluice.messages o
				where o.org = f.org and o.room = f.room and o.user_id = f.user_id order by o.seq desc limit 1), 0)
				+ row_number() over (partition by f.org, f.room, f.user_id order by f.n)
		from firsts f cross join lateral (select trimmed from sluice.rooms r where r.org = f.org and r.id = f.room limit 1) r
		order by f.n
		returning org, room, seq, user_id, client_id, display_name, text, time, edited, deleted)
	select j.n, j.member, f.n is not null, coalesce(s.room, j.t_room), coalesce(s.seq, j.t_seq), coalesce(s.display_name, j.t_name),
		coalesce(s.text, j.t_text), coalesce(s.time, j.t_time), coalesce(s.edited, j.t_edited), coalesce(s.deleted, j.t_deleted)
	from judged j left join said s on s.org = j.org and s.user_id = j.user_id and s.client_id = j.client_id
	left join firsts f on f.n = j.n order by j.n`

// ApplyAll implements Joined, for the price of one message: 50 of them in a transaction are four round trips instead of two
// hundred.
func (*SendMessage) ApplyAll(ctx context.Context, tx *sqlx.Tx, all []Change) (made [][]Draft, refused []error, err error) {
	sends := make([]*SendMessage, len(all))
	var orgs, rooms, users, ids, names, texts, lockOrgs, lockRooms []string
	for i, one := range all {
		c := one.(*SendMessage)
		if sends[i] = c; i == 0 || c.Key() != sends[i-1].Key() {
			lockOrgs, lockRooms = append(lockOrgs, c.by.Org), append(lockRooms, c.room)
		}
		orgs, rooms, users = append(orgs, c.by.Org), append(rooms, c.room), append(users, c.by.User)
		ids, names, texts = append(ids, c.clientID), append(names, c.by.Name), append(texts, c.text)
	}
	store := sends[0].store
	locked, err := store.sendLock.query(ctx, store.db, tx, pq.Array(lockOrgs), pq.Array(lockRooms))
	if err != nil {
		return nil, nil, err
	}
	if err := locked.Close(); err != nil {
		return nil, nil, err
	}
	rows, err := store.send.query(ctx, store.db, tx, pq.Array(orgs), pq.Array(rooms), pq.Array(users), pq.Array(ids), pq.Array(names), pq.Array(texts))
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	made, refused = make([][]Draft, len(sends)), make([]error, len(sends))
	for rows.Next() {
		var n int
		var a sendAnswer
		if err := rows.Scan(&n, &a.member, &a.fresh, &a.room, &a.seq, &a.name, &a.text, &a.at, &a.edited, &a.deleted); err != nil {
			return nil, nil, err
		}
		made[n-1], refused[n-1] = sends[n-1].take(&a)
	}
	return made, refused, rows.Err()
}

// sendAnswer is what the database says of a message that was sent.
type sendAnswer struct {
	member, fresh    bool
	room, name, text *string // nil, as all below: there is no such message
	seq              *int64
	at, edited       *time.Time
	deleted          *bool
}

// take is what follows from the answer for the change. ErrNoRoom, ErrClientID.
func (c *SendMessage) take(a *sendAnswer) ([]Draft, error) {
	switch {
	case !a.member:
		return nil, ErrNoRoom
	case a.room == nil || *a.room != c.room:
		return nil, ErrClientID
	}
	c.Message = Message{
		Seq: *a.seq, User: c.by.User, Name: *a.name, Text: *a.text, ClientID: c.clientID, Time: *a.at, Deleted: *a.deleted,
	}
	if a.edited != nil {
		c.Message.Edited = *a.edited
	}
	if !a.fresh {
		return nil, nil
	}
	return []Draft{messageEvent(c.by, "message_created", c.room, &c.Message)}, nil
}
