package store

import (
	"context"
	"strings"
	"time"

	"github.com/lib/pq"
)

// positionSQL finds the last event that is not younger than a time, by halving what the day of that time holds: time rises
// with the position, so a look at some twenty events of one partition is enough, and no index over times has to be kept
// by every append. The bounds are stable expressions, which prune partitions before anything is read. Each look
// asks for the first event from a position on, in order, which is what keeps the planner to the index over positions.
var positionSQL = strings.NewReplacer(
	":at", "coalesce($2::timestamptz, now() - $3::float8 * interval '1 second')",
	":begin", "date_trunc('day', coalesce($2::timestamptz, now() - $3::float8 * interval '1 second'), 'UTC')",
).Replace(`with recursive search(low, high) as (
		select greatest(f.floor, coalesce((select v.seq from sluice.events v
				where v.org = $1 and v.time < :begin order by v.seq desc limit 1), 0)),
			greatest(f.floor, coalesce((select v.seq from sluice.events v
				where v.org = $1 and v.time < :begin + interval '24 hours' order by v.seq desc limit 1), 0))
			from (select coalesce((select l.trimmed_seq from sluice.logs l where l.org = $1), 0)) f(floor)
		union all
		select case when e.time <= :at then e.seq else s.low end, case when e.time <= :at then s.high else m.mid - 1 end
			from search s cross join lateral (select (s.low + s.high + 1) / 2) m(mid)
			left join lateral (select v.seq, v.time from sluice.events v where v.org = $1 and v.seq >= m.mid
				and v.time >= :begin and v.time < :begin + interval '24 hours' order by v.seq limit 1) e on true
			where s.low < s.high
	)
	select e.epoch, s.low from sluice.epoch e cross join search s where s.low >= s.high`)

// PositionAt is the position of org's last event whose time is at or before at: what follows it is younger. A time before
// the oldest event retained gives the floor, one after the newest gives the head.
func (s *Store) PositionAt(ctx context.Context, org string, at time.Time) (Cursor, error) {
	oldest := time.Unix(0, 0) // no event is older, and Postgres knows no year 0
	if at.Before(oldest) {
		at = oldest
	}
	return s.positionAt(ctx, org, at.Truncate(time.Microsecond), 0)
}

// PositionAgo is PositionAt for a time that lies so far behind the database's clock.
func (s *Store) PositionAgo(ctx context.Context, org string, ago time.Duration) (Cursor, error) {
	return s.positionAt(ctx, org, nil, ago)
}

func (s *Store) positionAt(ctx context.Context, org string, at any, ago time.Duration) (found Cursor, err error) {
	rows, err := s.position.query(ctx, s.db, nil, org, at, ago.Seconds())
	if err != nil {
		return Cursor{}, classify(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(&found.Epoch, &found.Seq); err != nil {
			return Cursor{}, classify(err)
		}
	}
	if err := rows.Err(); err != nil {
		return Cursor{}, classify(err)
	}
	if found.Epoch == "" {
		return Cursor{}, ErrUnavailable // another incarnation, or none: its verification is on the way
	}
	return found, nil
}

// Reader is whom a position is remembered for: a user, and the property that is asked for; none is "".
type Reader struct{ Org, User, Property string }

// Position is how far a reader was served.
type Position struct {
	Reader
	Cursor Cursor
}

// rememberedSQL also says whether a position was not written for a while: retention forgets the old ones, so that one which
// stays where it is has to be written now and then.
const rememberedSQL = `select p.epoch, p.seq, p.updated < now() - interval '10 minutes' from sluice.positions p
	where p.org = $1 and p.user_id = $2 and p.property_id = $3`

// Position is where a reader stands. One that is met for the first time stands at the head from now on: when Position
// returns, that is committed. Stale says that it should be kept soon, even where it is.
func (s *Store) Position(ctx context.Context, reader Reader) (at Cursor, stale bool, err error) {
	at, stale, err = s.rememberedPosition(ctx, reader)
	if err != nil || at.Epoch != "" {
		return at, stale, classify(err)
	}
	if at, err = s.PositionAgo(ctx, reader.Org, 0); err != nil {
		return Cursor{}, false, err
	}
	_, err = s.db.ExecContext(ctx, `insert into sluice.positions (org, user_id, property_id, epoch, seq)
		values ($1, $2, $3, $4, $5) on conflict do nothing`, reader.Org, reader.User, reader.Property, at.Epoch, at.Seq)
	if err != nil {
		return Cursor{}, false, classify(err)
	}
	// Another instance may have been first; its position is the earlier one.
	if at, stale, err = s.rememberedPosition(ctx, reader); err == nil && at.Epoch == "" {
		err = ErrUnavailable // forgotten at once: somebody empties the table
	}
	return at, stale, classify(err)
}

// rememberedPosition is a cursor without an epoch where there is none.
func (s *Store) rememberedPosition(ctx context.Context, reader Reader) (at Cursor, stale bool, err error) {
	rows, err := s.remembered.query(ctx, s.db, nil, reader.Org, reader.User, reader.Property)
	if err != nil {
		return Cursor{}, false, err
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(&at.Epoch, &at.Seq, &stale); err != nil {
			return Cursor{}, false, err
		}
	}
	return at, stale, rows.Err()
}

// keepPositionsSQL locks in one order, so that two instances never wait for each other.
const keepPositionsSQL = `insert into sluice.positions as p (org, user_id, property_id, epoch, seq)
	select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[]) n(org, user_id, property_id, epoch, seq)
	order by n.org, n.user_id, n.property_id
	on conflict (org, user_id, property_id) do update set epoch = excluded.epoch, updated = now(),
		seq = case when p.epoch = excluded.epoch then greatest(p.seq, excluded.seq) else excluded.seq end`

// KeepPositions commits where readers stand: when it returns nil, all of it outlives a crash. Within one epoch a position
// only rises. No reader may be in the list twice.
func (s *Store) KeepPositions(ctx context.Context, list []Position) error {
	var orgs, users, properties, epochs []string
	var seqs []int64
	for _, one := range list {
		orgs, users, properties = append(orgs, one.Org), append(users, one.User), append(properties, one.Property)
		epochs, seqs = append(epochs, one.Cursor.Epoch), append(seqs, one.Cursor.Seq)
	}
	_, err := s.db.ExecContext(ctx, keepPositionsSQL, pq.Array(orgs), pq.Array(users), pq.Array(properties),
		pq.Array(epochs), pq.Array(seqs))
	return classify(err)
}

// ForgetPositions drops those of readers who have not been here for as long as events are kept, and returns how many.
func (s *Store) ForgetPositions(ctx context.Context, retention time.Duration) (forgotten int64, err error) {
	result, err := s.db.ExecContext(ctx, `delete from sluice.positions where updated < now() - $1::float8 * interval '1 second'`,
		(retention + time.Hour).Seconds())
	if err != nil {
		return 0, classify(err)
	}
	return result.RowsAffected()
}
