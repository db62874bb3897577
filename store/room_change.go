package store

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// roomNews is the data of a room's event (docs/protocol.md, "Following rooms").
type roomNews struct {
	Room     string  `json:"room"`
	Seq      int64   `json:"seq,omitempty"`
	User     string  `json:"userId"` // whom it concerns
	Name     string  `json:"displayName"`
	Text     string  `json:"text,omitempty"`
	ClientID string  `json:"clientId,omitempty"`
	RoomName *string `json:"name,omitempty"`
	Owner    *string `json:"owner,omitempty"`
}

// roomEvent makes the event that tells of something which a user has done in a room. Nothing needs to know it again: where a
// change is applied once more and finds itself made, the log has its event.
func roomEvent(by Actor, kind string, news roomNews) Draft {
	var data bytes.Buffer
	encoder := json.NewEncoder(&data)
	encoder.SetEscapeHTML(false) // what was said stays as it was sent
	if err := encoder.Encode(news); err != nil {
		panic(err) // texts and numbers
	}
	return Draft{Event: Event{
		Org: by.Org, ID: uuid.Must(uuid.NewV7()).String(), Service: ChatService, Type: kind, EntityType: "room", EntityID: news.Room,
		UserID: by.User, Data: bytes.TrimSuffix(data.Bytes(), []byte("\n")),
	}}
}

// roomChange is what the changes of a room have in common. Its row is locked by each.
type roomChange struct {
	by   Actor
	room string
	made bool // an earlier try has come to its end: what is found now may be its work

	// As lock has found them.
	owner, name     string
	trimmed, newest int64 // messages
	member          bool  // by is one
}

// Key implements Change.
func (c *roomChange) Key() string { return roomKey(c.by.Org, c.room) }

func roomKey(org, room string) string { return "room " + org + " " + room }

// lock locks the room and reads it. ErrNoRoom where there is none, or it was deleted.
func (c *roomChange) lock(ctx context.Context, tx *sqlx.Tx) error {
	err := tx.QueryRowxContext(ctx, `select owner, name, trimmed from sluice.rooms where org = $1 and id = $2 and deleted is null for update`,
		c.by.Org, c.room).Scan(&c.owner, &c.name, &c.trimmed)
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNoRoom
	}
	if err != nil {
		return err
	}
	// The next statement has a snapshot of its own, taken under the lock.
	return tx.QueryRowxContext(ctx, `select
		greatest($4::bigint, coalesce((select seq from sluice.messages where org = $1 and room = $2 order by seq desc limit 1), 0)),
		exists (select from sluice.members where org = $1 and room = $2 and user_id = $3)`,
		c.by.Org, c.room, c.by.User, c.trimmed).Scan(&c.newest, &c.member)
}

// govern is nil for those who may change the room and its membership: the owner, and ADMINs, who need not be members.
func (c *roomChange) govern() error {
	switch {
	case c.by.Admin, c.member && c.owner == c.by.User:
		return nil
	case c.member:
		return ErrRoomRights
	}
	return ErrNoRoom
}

// nameOf is what a user is called.
func nameOf(ctx context.Context, tx *sqlx.Tx, org, user string) (name string, err error) {
	err = tx.GetContext(ctx, &name, `select display_name from sluice.users where org = $1 and id = $2`, org, user)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return name, err
}

// CreateRoom is the Change that makes a room, and its members. ErrRoomTaken.
type CreateRoom struct {
	roomChange
	creation string
	given    NewRoom
	users    []string // its owner first

	Room Room // once it was made
}

// NewCreateRoom makes the change. The room's id is made with it where none is given.
func NewCreateRoom(by Actor, n NewRoom) *CreateRoom {
	if n.ID == "" {
		n.ID = uuid.Must(uuid.NewV7()).String()
	}
	c := &CreateRoom{roomChange: roomChange{by: by, room: n.ID}, creation: uuid.NewString(), given: n, users: []string{by.User}}
	for _, user := range n.Members {
		if user != by.User {
			c.users = append(c.users, user)
		}
	}
	return c
}

// Size implements Sized: its members are told of one by one.
func (c *CreateRoom) Size() int { return len(c.users) }

// Apply implements Change.
func (c *CreateRoom) Apply(ctx context.Context, tx *sqlx.Tx) ([]Draft, error) {
	done, err := tx.ExecContext(ctx, `insert into sluice.rooms (org, id, name, owner, creation) values ($1, $2, $3, $4, $5)
		on conflict do nothing`, c.by.Org, c.room, c.given.Name, c.by.User, c.creation)
	if err != nil {
		return nil, err
	}
	fresh, err := done.RowsAffected()
	if err != nil {
		return nil, err
	}
	if fresh == 0 {
		var creation string
		err := tx.GetContext(ctx, &creation, `select creation from sluice.rooms where org = $1 and id = $2`, c.by.Org, c.room)
		if err == nil && creation != c.creation {
			err = ErrRoomTaken
		}
		if err == nil {
			c.Room, err = oneRoom(ctx, tx, c.by.Org, c.room)
		}
		return nil, err
	}
	_, err = tx.ExecContext(ctx, `insert into sluice.members (org, room, user_id, since, read, told)
		select $1::text, $2::text, u.id, now() + u.place * interval '1 microsecond', 0, 0
		from unnest($3::text[]) with ordinality u (id, place)`, c.by.Org, c.room, pq.Array(c.users))
	if err == nil {
		c.Room, err = oneRoom(ctx, tx, c.by.Org, c.room)
	}
	if err != nil {
		return nil, err
	}
	drafts := make([]Draft, len(c.users))
	for i, one := range c.Room.Members {
		drafts[i] = roomEvent(c.by, MemberAdded, roomNews{Room: c.room, User: one.User, Name: one.Name})
	}
	return drafts, nil
}

// Placed implements Sequenced.
func (c *CreateRoom) Placed(ctx context.Context, tx *sqlx.Tx, appended []Appended) error {
	seqs := make([]int64, len(appended))
	for i := range appended {
		seqs[i] = appended[i].Cursor.Seq
	}
	_, err := tx.ExecContext(ctx, `insert into sluice.memberships (org, room, user_id, from_seq, said_from)
		select $1::text, $2::text, u.id, u.seq, 0 from unnest($3::text[], $4::bigint[]) u (id, seq)`,
		c.by.Org, c.room, pq.Array(c.users), pq.Array(seqs))
	return err
}

// UpdateRoom is the Change that renames a room, or gives it another owner. ErrNoRoom, ErrRoomRights, and ErrNoMember of the new
// owner.
type UpdateRoom struct {
	roomChange
	given RoomUpdate

	Room Room // as it is then
}

// NewUpdateRoom makes the change.
func NewUpdateRoom(by Actor, room string, u RoomUpdate) *UpdateRoom {
	return &UpdateRoom{roomChange: roomChange{by: by, room: room}, given: u}
}

// Apply implements Change. A room that is so already stays as it is.
func (c *UpdateRoom) Apply(ctx context.Context, tx *sqlx.Tx) (drafts []Draft, err error) {
	if err := c.lock(ctx, tx); err != nil {
		return nil, err
	}
	name, owner := c.name, c.owner
	if c.given.Name != nil {
		name = *c.given.Name
	}
	if c.given.Owner != nil {
		owner = *c.given.Owner
	}
	// Whoever has given the room away by an earlier try is no owner any more, and finds that made.
	if err := c.govern(); err != nil && !(c.made && name == c.name && owner == c.owner) {
		return nil, err
	}
	if c.given.Owner != nil {
		if err := isMember(ctx, tx, UserKey{c.by.Org, owner}, c.room); errors.Is(err, ErrNoRoom) {
			return nil, ErrNoMember
		} else if err != nil {
			return nil, err
		}
	}
	if name != c.name || owner != c.owner {
		draft, err := c.update(ctx, tx, name, owner)
		if err != nil {
			return nil, err
		}
		drafts = append(drafts, draft)
	}
	c.made = true
	c.Room, err = oneRoom(ctx, tx, c.by.Org, c.room)
	return drafts, err
}

// update gives the room a name and an owner.
func (c *roomChange) update(ctx context.Context, tx *sqlx.Tx, name, owner string) (Draft, error) {
	_, err := tx.ExecContext(ctx, `update sluice.rooms set name = $3, owner = $4 where org = $1 and id = $2`, c.by.Org, c.room, name, owner)
	return roomEvent(c.by, "room_updated", roomNews{Room: c.room, User: c.by.User, Name: c.by.Name, RoomName: &name, Owner: &owner}), err
}

// DeleteRoom is the Change that ends a room. Its messages go by and by (TrimMessages), and its id is never given again.
// ErrNoRoom, ErrRoomRights.
type DeleteRoom struct{ roomChange }

// NewDeleteRoom makes the change.
func NewDeleteRoom(by Actor, room string) *DeleteRoom {
	return &DeleteRoom{roomChange{by: by, room: room}}
}

// Apply implements Change.
func (c *DeleteRoom) Apply(ctx context.Context, tx *sqlx.Tx) ([]Draft, error) {
	err := c.lock(ctx, tx)
	if errors.Is(err, ErrNoRoom) && c.made {
		return nil, nil
	}
	if err == nil {
		err = c.govern()
	}
	if err == nil {
		_, err = tx.ExecContext(ctx, `with gone as (delete from sluice.members where org = $1 and room = $2 returning user_id),
			chosen as (select s.user_id from gone g cross join lateral (
				select user_id from sluice.statuses where org = $1 and user_id = g.user_id and room = $2 for update skip locked) s),
			statuses as (delete from sluice.statuses s using chosen c where s.org = $1 and s.user_id = c.user_id and s.room = $2)
			update sluice.rooms set deleted = now() where org = $1 and id = $2`, c.by.Org, c.room)
	}
	if err != nil {
		return nil, err
	}
	c.made = true
	return []Draft{roomEvent(c.by, RoomDeleted, roomNews{Room: c.room, Seq: c.newest, User: c.by.User, Name: c.by.Name})}, nil
}

// Placed implements Sequenced.
func (c *DeleteRoom) Placed(ctx context.Context, tx *sqlx.Tx, appended []Appended) error {
	_, err := tx.ExecContext(ctx, `update sluice.memberships set to_seq = $3, said_to = $4 where org = $1 and room = $2 and to_seq is null`,
		c.by.Org, c.room, appended[0].Cursor.Seq, c.newest)
	return err
}
