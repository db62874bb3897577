package store

import (
	"context"
	"database/sql"
	"slices"

	"github.com/jmoiron/sqlx"
)

const messageColumns = `m.seq, m.user_id, m.display_name, m.text, m.client_id, m.time, m.edited, m.deleted`

// visible is true of the messages m that the user $3 may see: what was said before they first came, and while they were
// members. What was said between a removal and a return is not.
const visible = `(m.seq <= (select min(i.said_from) from sluice.memberships i where i.org = m.org and i.room = m.room and i.user_id = $3)
	or exists (select from sluice.memberships i where i.org = m.org and i.room = m.room and i.user_id = $3
		and i.said_from < m.seq and (i.said_to is null or m.seq <= i.said_to)))`

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
	// One message more than is wanted tells whether there are more.
	text := `select ` + messageColumns + ` from sluice.messages m where m.org = $1 and m.room = $2 and ` + visible + `
		and ($4::bigint is null or m.seq < $4) and ($5::bigint is null or m.seq > $5) order by m.seq`
	if of.After == nil {
		text += ` desc`
	}
	list, err := readMessages(s.db.QueryxContext(ctx, text+` limit $6`, by.Org, room, by.User, of.Before, of.After, of.Limit+1))
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
