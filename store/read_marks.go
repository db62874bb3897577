package store

import (
	"context"

	"github.com/jmoiron/sqlx"
)

// MarkRead moves a member's read mark up to a message, and never down, nor beyond the newest one. The log does not tell of it
// yet (TellReads). It says whether the mark has moved. ErrNoRoom.
func (s *Store) MarkRead(ctx context.Context, user UserKey, room string, seq int64) (moved bool, err error) {
	done, err := s.db.ExecContext(ctx, `update sluice.members m set read = least($4::bigint, n.seq) from (
			select greatest(r.trimmed, coalesce((
				select l.seq from sluice.messages l where l.org = $1 and l.room = $2 order by l.seq desc limit 1), 0)) as seq
			from sluice.rooms r where r.org = $1 and r.id = $2) n
		where m.org = $1 and m.room = $2 and m.user_id = $3 and m.read < least($4::bigint, n.seq)`, user.Org, room, user.ID, seq)
	if err != nil {
		return false, classify(err)
	}
	rows, err := done.RowsAffected()
	if err != nil || rows > 0 {
		return rows > 0, classify(err)
	}
	return false, s.IsMember(ctx, user, room)
}

const (
	readsAtOnce = 500 // marks that one change tells of
	readEvery   = `interval '1 second'`
)

// TellReads is the Change by which the log tells of read marks that have moved: of each member and room once in a second, and
// of the last one in the end.
type TellReads struct {
	Left bool // there are more, or some that may not be told of yet
}

// Key implements Change. It comes after those of rooms: a batch never waits for a room's lock while it holds these rows, which it
// has not waited for.
func (*TellReads) Key() string { return "told" }

// Apply implements Change.
func (c *TellReads) Apply(ctx context.Context, tx *sqlx.Tx) (drafts []Draft, err error) {
	var marks []struct {
		Org, Room, User, Name string
		Read                  int64
	}
	err = tx.SelectContext(ctx, &marks, `with due as (
			select org, room, user_id from sluice.members where read > told and told_at <= clock_timestamp() - `+readEvery+`
			order by told_at limit $1 for update skip locked),
		told as (
			update sluice.members m set told = m.read, told_at = clock_timestamp() from due d
			where m.org = d.org and m.room = d.room and m.user_id = d.user_id
			returning m.org, m.room, m.user_id, m.read)
		select m.org, m.room, m.user_id as user, `+memberName+` as name, m.read from told m order by m.org, m.room, m.user_id`, readsAtOnce)
	if err != nil {
		return nil, err
	}
	for _, mark := range marks {
		by := Actor{Org: mark.Org, User: mark.User}
		drafts = append(drafts, roomEvent(by, "read", roomNews{Room: mark.Room, Seq: mark.Read, User: mark.User, Name: mark.Name}))
	}
	// In an order that the index of these marks has: Postgres would rather look for any in the table, which has next to none.
	return drafts, tx.GetContext(ctx, &c.Left, `select (select true from sluice.members where read > told order by told_at limit 1) is not null`)
}
