package store

import (
	"context"

	"github.com/jmoiron/sqlx"
)

// messageEvent is the event that tells of a message.
func messageEvent(by Actor, kind, room string, m *Message) Draft {
	return roomEvent(by, kind, roomNews{Room: room, Seq: m.Seq, User: m.User, Name: m.Name, Text: m.Text, ClientID: m.ClientID})
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
	return []Draft{messageEvent(c.by, MessageUpdated, c.room, &c.Message)}, err
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
	return []Draft{messageEvent(c.by, MessageDeleted, c.room, &c.Message)}, err
}
