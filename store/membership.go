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
	err = s.db.SelectContext(ctx, &list, `select user_id as user, room, from_seq as from, coalesce(to_seq, 0) as to,
			said_from as saidfrom, coalesce(said_to, 0) as saidto
		from sluice.memberships where org = $1 and user_id = any($2) order by from_seq`, org, pq.Array(users))
	return list, classify(err)
}
