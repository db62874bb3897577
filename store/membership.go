package store

import (
	"context"

	"github.com/lib/pq"
)

// Membership is an interval of an org's log in which a user was a member of a room. Both ends belong to it.
type Membership struct {
	User, Room       string
	From, To         int64 // positions; To is 0 where the user is a member now
	SaidFrom, SaidTo int64 // the newest messages of the room then; SaidTo is of no use where To is 0
}

// Memberships are all those of some users of an org, in the order of the log. Those that ended before what is retained of it
// tell which messages a user may know.
func (s *Store) Memberships(ctx context.Context, org string, users []string) (list []Membership, err error) {
	// Each user is looked up by the index, whatever the planner believes of tables that were never analysed.
	err = s.db.SelectContext(ctx, &list, `select m.user_id as user, m.room, m.from_seq as from, coalesce(m.to_seq, 0) as to,
			m.said_from as saidfrom, coalesce(m.said_to, 0) as saidto
		from unnest($2::text[]) u (id) cross join lateral (
			select * from sluice.memberships o where o.org = $1 and o.user_id = u.id offset 0) m
		order by m.from_seq`, org, pq.Array(users))
	return list, classify(err)
}
