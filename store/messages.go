package store

import (
	"context"
	"database/sql"
	"slices"

	"github.com/jmoiron/sqlx"
)

const messageColumns = `m.seq, m.user_id, m.display_name, m.text, m.client_id, m.time, m.edited, m.deleted`

// seenSQL are the ranges of messages that the user $3 may see in the room: what was said before they first came, and while they
// were members. What was said between a removal and a return is in none of them, and nothing is in two.
const seenSQL = `(select 0 as above, min(said_from) as upto from sluice.memberships where org = $1 and room = $2 and user_id = $3
	union all select said_from, coalesce(said_to, 9223372036854775807) from sluice.memberships
		where org = $1 and room = $2 and user_id = $3)`

func readMessages(rows *sqlx.Rows, err error) (list []Message, _ error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var m Message
		var edited sql.NullTime
		if err := rows.Scan(&m.Seq, &m.User, &m.Name, &m.Text, &m.ClientID, &m.Time, &edited, &m.Deleted); err != nil {
			return nil, err
		}
		m.Edited = edited.Time
		list = append(list, m)
	}
	return list, rows.Err()
}

// History reads a part of a room's messages, as far as the user may see them. ErrNoRoom.
func (s *Store) History(ctx context.Context, by Actor, room string, of HistoryRange) (History, error) {
	if err := s.IsMember(ctx, UserKey{by.Org, by.User}, room); err != nil {
		return History{}, err
	}
	direction := ``
	if of.After == nil {
		direction = ` desc`
	}
	// Of each range as many are read as are wanted, so that nobody reads through what was said while they were away. One message
	// more than is wanted tells whether there are more.
	list, err := readMessages(s.db.QueryxContext(ctx, `select `+messageColumns+` from `+seenSQL+` i cross join lateral (
			select * from sluice.messages w where w.org = $1 and w.room = $2 and w.seq > i.above and w.seq <= i.upto
				and w.seq < coalesce($4::bigint, 9223372036854775807) and w.seq > coalesce($5::bigint, 0) order by w.seq`+direction+` limit $6) m
		order by m.seq`+direction+` limit $6`, by.Org, room, by.User, of.Before, of.After, of.Limit+1))
	if err != nil {
		return History{}, classify(err)
	}
	history := History{Messages: list, More: len(list) > of.Limit}
	if history.More {
		history.Messages = list[:of.Limit]
	}
	if of.After == nil {
		slices.Reverse(history.Messages)
	}
	return history, nil
}
