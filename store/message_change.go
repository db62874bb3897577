package store

import (
	"context"
	"database/sql"
	"errors"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// sendLockSQL is the lock of a room alone; nothing is written to the row.
const sendLockSQL = `select trimmed from sluice.rooms where org = $1 and id = $2 and deleted is null for update`

// sendSQL says something in a room, unless its user is no member or has said it before, and tells all of that in one row. Its
// snapshot is taken under the room's lock, so that the numbers have no gaps. A token without a name leaves the one that is known.
// A client id that somebody takes in another room at this moment is not waited for: that batch may wait for a room of this one.
const sendSQL = `with twin as (
		select room, seq, display_name, text, time, edited, deleted from sluice.messages where org = $1 and user_id = $3 and client_id = $4),
	said as (
		insert into sluice.messages (org, room, seq, user_id, client_id, display_name, text, nth)
		select $1::text, $2::text, greatest($7::bigint, coalesce((
				select l.seq from sluice.messages l where l.org = $1 and l.room = $2 order by l.seq desc limit 1), 0)) + 1,
			$3::text, $4::text, coalesce(nullif($5::text, ''), (select u.display_name from sluice.users u where u.org = $1 and u.id = $3), ''),
			$6::text, coalesce((
				select o.nth from sluice.messages o where o.org = $1 and o.room = $2 and o.user_id = $3 order by o.seq desc limit 1), 0) + 1
		where exists (select from sluice.members m where m.org = $1 and m.room = $2 and m.user_id = $3) and not exists (select from twin)
			and pg_try_advisory_xact_lock(hashtextextended(concat_ws(chr(31), $1::text, $3::text, $4::text), 8))
		returning room, seq, display_name, text, time, edited, deleted)
	select exists (select from sluice.members m where m.org = $1 and m.room = $2 and m.user_id = $3), exists (select from said), a.*
	from (select) one left join (select * from said union all select * from twin) a on true`

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
	var trimmed int64
	err := one(c.store.sendLock.query(ctx, c.store.db, tx, c.by.Org, c.room))(&trimmed)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNoRoom
	}
	if err != nil {
		return nil, err
	}
	var a sendAnswer
	err = one(c.store.send.query(ctx, c.store.db, tx, c.by.Org, c.room, c.by.User, c.clientID, c.by.Name, c.text, trimmed))(
		&a.member, &a.fresh, &a.room, &a.seq, &a.name, &a.text, &a.at, &a.edited, &a.deleted)
	var failure *pq.Error
	switch {
	case errors.As(err, &failure) && failure.Code == "23505":
		return nil, ErrClientID // said in two rooms at once
	case err != nil:
		return nil, err
	}
	return c.take(&a)
}

// messageEvent is the event that tells of a message.
func messageEvent(by Actor, kind, room string, m *Message) Draft {
	return roomEvent(by, kind, roomNews{Room: room, Seq: m.Seq, User: m.User, Name: m.Name, Text: m.Text, ClientID: m.ClientID})
}

// one reads the only row of an answer, or gives sql.ErrNoRows.
func one(rows *sqlx.Rows, err error) func(to ...any) error {
	return func(to ...any) error {
		if err != nil {
			return err
		}
		defer rows.Close()
		if !rows.Next() {
			if err := rows.Err(); err != nil {
				return err
			}
			return sql.ErrNoRows
		}
		if err := rows.Scan(to...); err != nil {
			return err
		}
		return rows.Close()
	}
}

// messageChange is what the changes of a message have in common.
type messageChange struct {
	roomChange
	seq int64

	Message Message // as it is then
}

// find locks the room and reads the message, as far as the user may see it. ErrNoRoom, ErrNoMessage.
func (c *messageChange) find(ctx context.Context, tx *sqlx.Tx) error {
	if err := c.lock(ctx, tx); err != nil {
		return err
	}
	if !c.member {
		return ErrNoRoom
	}
	found, err := readMessages(tx.QueryxContext(ctx, `select `+messageColumns+` from sluice.messages m
		join `+seenSQL+` i on m.seq > i.above and m.seq <= i.upto where m.org = $1 and m.room = $2 and m.seq = $4`, c.by.Org, c.room, c.by.User, c.seq))
	if err == nil && len(found) == 0 {
		err = ErrNoMessage
	}
	if err == nil {
		c.Message = found[0]
	}
	return err
}

// EditMessage is the Change of a message's text by its author. ErrNoRoom, ErrNoMessage, ErrRoomRights.
type EditMessage struct {
	messageChange
	text string
}

// NewEditMessage makes the change.
func NewEditMessage(by Actor, room string, seq int64, text string) *EditMessage {
	return &EditMessage{messageChange{roomChange: roomChange{by: by, room: room}, seq: seq}, text}
}

// Apply implements Change. A text that is so already stays as it is.
func (c *EditMessage) Apply(ctx context.Context, tx *sqlx.Tx) ([]Draft, error) {
	switch err := c.find(ctx, tx); {
	case err != nil:
		return nil, err
	case c.Message.Deleted:
		return nil, ErrNoMessage
	case c.Message.User != c.by.User:
		return nil, ErrRoomRights
	case c.Message.Text == c.text:
		return nil, nil
	}
	c.Message.Text = c.text
	err := tx.QueryRowxContext(ctx, `update sluice.messages set text = $4, edited = clock_timestamp()
		where org = $1 and room = $2 and seq = $3 returning edited`, c.by.Org, c.room, c.seq, c.text).Scan(&c.Message.Edited)
	return []Draft{messageEvent(c.by, "message_updated", c.room, &c.Message)}, err
}

// EraseMessage is the Change that takes a message's text away, by its author, the room's owner, or an ADMIN among its members.
// ErrNoRoom, ErrNoMessage, ErrRoomRights.
type EraseMessage struct{ messageChange }

// NewEraseMessage makes the change.
func NewEraseMessage(by Actor, room string, seq int64) *EraseMessage {
	return &EraseMessage{messageChange{roomChange: roomChange{by: by, room: room}, seq: seq}}
}

// Apply implements Change. What was taken away stays so.
func (c *EraseMessage) Apply(ctx context.Context, tx *sqlx.Tx) ([]Draft, error) {
	if err := c.find(ctx, tx); err != nil {
		return nil, err
	}
	if c.Message.User != c.by.User {
		if err := c.govern(); err != nil {
			return nil, err
		}
	}
	if c.Message.Deleted {
		return nil, nil
	}
	c.Message.Text, c.Message.Deleted = "", true
	_, err := tx.ExecContext(ctx, `update sluice.messages set text = '', deleted = true where org = $1 and room = $2 and seq = $3`,
		c.by.Org, c.room, c.seq)
	return []Draft{messageEvent(c.by, "message_deleted", c.room, &c.Message)}, err
}
