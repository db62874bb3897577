package store

import (
	"context"

	"github.com/lib/pq"
)

// Membership is an interval of an org's log in which a user was a member of a room. Both ends belong to it.
type Membership struct {
	User, Room string
	From, To   int64 // positions; To is 0 where the user is a member now
}

// Memberships are those of some users of an org that are of use to whoever reads its log: those that go on, and those that
// end in the part of the log that is retained; of each user in the order of the log.
func (s *Store) Memberships(ctx context.Context, org string, users []string) (list []Membership, err error) {
	err = s.db.SelectContext(ctx, &list, `select m.user_id as user, m.room, m.from_seq as from, coalesce(m.to_seq, 0) as to
		from sluice.memberships m where m.org = $1 and m.user_id = any($2)
			and (m.to_seq is null or m.to_seq > (select l.trimmed_seq from sluice.logs l where l.org = m.org))
		order by m.from_seq`, org, pq.Array(users))
	return list, classify(err)
}
