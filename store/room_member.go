package store

import (
	"context"
	"database/sql"
	"errors"

	"github.com/jmoiron/sqlx"
)

// AddMember is the Change by which a user becomes a member of a room; one who is stays one. The first one in a room that nobody
// was left in owns it. ErrNoRoom, ErrRoomRights, ErrRoomFull.
type AddMember struct {
	roomChange
	user string
}

// NewAddMember makes the change.
func NewAddMember(by Actor, room, user string) *AddMember {
	return &AddMember{roomChange{by: by, room: room}, user}
}

// Apply implements Change.
func (c *AddMember) Apply(ctx context.Context, tx *sqlx.Tx) ([]Draft, error) {
	if err := c.lock(ctx, tx); err != nil {
		return nil, err
	}
	if err := c.govern(); err != nil {
		return nil, err
	}
	// What was said before is not unread, and the log has told nobody of it.
	done, err := tx.ExecContext(ctx, `insert into sluice.members (org, room, user_id, read, told) values ($1, $2, $3, $4, $4)
		on conflict do nothing`, c.by.Org, c.room, c.user, c.newest)
	if err != nil {
		return nil, err
	}
	if added, err := done.RowsAffected(); err != nil || added == 0 {
		return nil, err
	}
	var count int
	if err := tx.GetContext(ctx, &count, `select count(*) from sluice.members where org = $1 and room = $2`, c.by.Org, c.room); err != nil {
		return nil, err
	}
	if count > RoomMembers {
		return nil, ErrRoomFull
	}
	name, err := nameOf(ctx, tx, c.by.Org, c.user)
	if err != nil {
		return nil, err
	}
	drafts := []Draft{roomEvent(c.by, MemberAdded, roomNews{Room: c.room, Seq: c.newest, User: c.user, Name: name})}
	if count > 1 || c.user == c.owner {
		return drafts, nil
	}
	draft, err := c.update(ctx, tx, c.name, c.user) // nobody was left to own the room
	return append(drafts, draft), err
}

// Placed implements Sequenced.
func (c *AddMember) Placed(ctx context.Context, tx *sqlx.Tx, appended []Appended) error {
	_, err := tx.ExecContext(ctx, `insert into sluice.memberships (org, room, user_id, from_seq, said_from) values ($1, $2, $3, $4, $5)`,
		c.by.Org, c.room, c.user, appended[0].Cursor.Seq, c.newest)
	return err
}

// RemoveMember is the Change by which a user is no member any more; by their own hand it is leaving. A room that loses its
// owner is owned by whoever has been a member longest. ErrNoRoom, ErrRoomRights, ErrNoMember.
type RemoveMember struct {
	roomChange
	user string
}

// NewRemoveMember makes the change.
func NewRemoveMember(by Actor, room, user string) *RemoveMember {
	return &RemoveMember{roomChange{by: by, room: room}, user}
}

// Apply implements Change.
func (c *RemoveMember) Apply(ctx context.Context, tx *sqlx.Tx) ([]Draft, error) {
	err := c.lock(ctx, tx)
	if err == nil && c.made {
		err = isMember(ctx, tx, UserKey{c.by.Org, c.user}, c.room)
	}
	if c.made && errors.Is(err, ErrNoRoom) {
		return nil, nil // the earlier try has removed them
	}
	if err == nil && !(c.member && c.user == c.by.User) {
		err = c.govern()
	}
	var gone int64
	if err == nil {
		gone, err = c.forget(ctx, tx)
	}
	if err == nil && gone == 0 {
		err = ErrNoMember
	}
	if err != nil {
		return nil, err
	}
	c.made = true
	name, err := nameOf(ctx, tx, c.by.Org, c.user)
	if err != nil {
		return nil, err
	}
	drafts := []Draft{roomEvent(c.by, MemberRemoved, roomNews{Room: c.room, Seq: c.newest, User: c.user, Name: name})}
	if c.user != c.owner {
		return drafts, nil
	}
	var heir string
	err = tx.GetContext(ctx, &heir, `select user_id from sluice.members where org = $1 and room = $2 order by since, user_id limit 1`, c.by.Org, c.room)
	if errors.Is(err, sql.ErrNoRows) {
		return drafts, nil // nobody is left; an ADMIN may still add somebody
	}
	if err != nil {
		return nil, err
	}
	draft, err := c.update(ctx, tx, c.name, heir)
	return append(drafts, draft), err
}

// forget ends the membership. A status that is set or forgotten at this moment is not waited for: whoever does it may wait for
// another that this batch has locked.
func (c *RemoveMember) forget(ctx context.Context, tx *sqlx.Tx) (int64, error) {
	done, err := tx.ExecContext(ctx, `with chosen as (
			select room from sluice.statuses where org = $1 and room = $2 and user_id = $3 for update skip locked),
		status as (delete from sluice.statuses s using chosen c where s.org = $1 and s.room = c.room and s.user_id = $3)
		delete from sluice.members where org = $1 and room = $2 and user_id = $3`, c.by.Org, c.room, c.user)
	if err != nil {
		return 0, err
	}
	return done.RowsAffected()
}

// Placed implements Sequenced.
func (c *RemoveMember) Placed(ctx context.Context, tx *sqlx.Tx, appended []Appended) error {
	_, err := tx.ExecContext(ctx, `update sluice.memberships set to_seq = $4, said_to = $5
		where org = $1 and room = $2 and user_id = $3 and to_seq is null`, c.by.Org, c.room, c.user, appended[0].Cursor.Seq, c.newest)
	return err
}
