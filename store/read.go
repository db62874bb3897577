package store

import (
	"context"
	"database/sql/driver"
	"strings"
	"time"

	"github.com/lib/pq"
)

// pageBytes bounds what one page holds in memory: it ends before the event whose data would pass this sum.
const pageBytes = 4 << 20

// pageSQL reads epoch, head, floor and rows in one statement, hence in one snapshot. $3 prunes partitions: what comes
// after a known event is not older than it. The sum over pg_column_size bounds what Postgres sends without unpacking
// anything; data that is kept compressed is larger than that, so Page counts once more.
const pageSQL = `select e.epoch,
	greatest(coalesce(l.trimmed_seq, 0), coalesce((select v.seq from sluice.events v
		where v.org = $1 and v.time >= $3 order by v.seq desc limit 1), 0)) as head,
	coalesce(l.trimmed_seq, 0) as floor,
	p.seq, p.time, p.id, p.service, p.type, p.property_id, p.entity_type, p.entity_id, p.user_id, p.audience, p.data
	from sluice.epoch e left join sluice.logs l on l.org = $1
	left join lateral (
		select *, sum(pg_column_size(data)) over (order by seq) - pg_column_size(data) as before
		from (select * from sluice.events v where v.org = $1 and v.seq > $2 and v.time >= $3
			order by v.seq limit $4) q
	) p on p.before < $5
	order by p.seq`

// Page reads at most limit events of org after the position after, unfiltered, with the head and the floor of the same
// snapshot. since is the time of the event at that position where the caller knows it, else the zero time.
//
// It judges nothing: whether the page continues what the caller has is for the caller to see (Page).
func (s *Store) Page(ctx context.Context, org string, after int64, since time.Time, limit int) (Page, error) {
	if since.IsZero() {
		since = time.Unix(0, 0) // no event is older: its time is the clock's at commit
	}
	rows, err := s.page.query(ctx, s.db, nil, org, after, since, limit, pageBytes)
	if err != nil {
		return Page{}, classify(err)
	}
	defer rows.Close()
	var page Page
	held := 0
	for rows.Next() {
		var (
			seq                                                       *int64
			at                                                        *time.Time
			id, service, kind, property, entityType, entity, by, whom *string
			document                                                  []byte
		)
		err := rows.Scan(&page.Epoch, &page.Head, &page.Floor, &seq, &at, &id, &service, &kind, &property,
			&entityType, &entity, &by, &whom, &document)
		if err != nil {
			return Page{}, classify(err)
		}
		if seq == nil {
			continue // the page is empty: one row with the snapshot alone
		}
		if held += len(document); held > pageBytes && len(page.Events) > 0 {
			break // the first event is always in the page, or nobody would ever get past it
		}
		if last := len(page.Events) - 1; last >= 0 && *seq != page.Events[last].Seq+1 {
			break // somebody has deleted an event: the next page begins with the hole, which everyone is told of
		}
		page.Events = append(page.Events, Event{
			Org: org, Seq: *seq, Time: at.UTC(), ID: *id, Service: *service, Type: *kind, PropertyID: *property,
			EntityType: *entityType, EntityID: *entity, UserID: *by, Audience: *whom, Data: document,
		})
	}
	if err := rows.Err(); err != nil {
		return Page{}, classify(err)
	}
	if page.Epoch == "" {
		return Page{}, ErrUnavailable // the epoch row is gone: another database; its verification is on the way
	}
	s.see(page.Epoch)
	return page, nil
}

// Heads is an answer to the poll: the epoch, and the heads of those asked for that have recent events.
type Heads struct {
	Epoch string
	Of    map[string]int64
}

// sameSQL says whether the server that answers is the one that the epoch e belongs to (identity).
const sameSQL = `(case when pg_is_in_recovery() then '' else left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) end
		= e.timeline and (select system_identifier::text from pg_control_system()) = e.system_id
		and (select oid::text from pg_database where datname = current_database()) = e.database_oid)`

// checked has a statement answer no epoch where the server is another incarnation. Behind a pooler that is seen by nothing
// else: our connection to the pooler stays as it is while the one behind it leads elsewhere.
func checked(text string) string {
	return strings.Replace(text, "e.epoch", "case when "+sameSQL+" then e.epoch else '' end as epoch", 1)
}

// polledSQL looks for heads among the events of the last ten minutes only, which prunes all but one or two partitions.
// Whoever was away for longer has lost its LISTEN connection too, and wakes everything when it is back.
const polledSQL = `select e.epoch, ` + sameSQL + ` as same,
	o.org, h.seq
	from sluice.epoch e left join unnest($1::text[]) o(org) on true
	left join lateral (select v.seq from sluice.events v where v.org = o.org
		and v.time > now() - interval '10 minutes' and v.time < now() + interval '1 day'
		order by v.seq desc limit 1) h on true`

// Heads is the query of once a second that heals lost notifications. It also compares the incarnation, for
// connections behind a pooler may lead elsewhere without being made anew; where it differs the pool is verified.
func (s *Store) Heads(ctx context.Context, orgs []string) (Heads, error) {
	rows, err := s.polled.query(ctx, s.db, nil, pq.Array(orgs))
	if err != nil {
		return Heads{}, classify(err)
	}
	defer rows.Close()
	heads := Heads{Of: make(map[string]int64, len(orgs))}
	same := true
	for rows.Next() {
		var org *string
		var seq *int64
		if err := rows.Scan(&heads.Epoch, &same, &org, &seq); err != nil {
			return Heads{}, classify(err)
		}
		if org != nil && seq != nil {
			heads.Of[*org] = *seq
		}
	}
	if err := rows.Err(); err != nil {
		return Heads{}, classify(err)
	}
	if heads.Epoch == "" || !same {
		rows.Close()
		if err := s.reverify(ctx); err != nil {
			return Heads{}, classify(err)
		}
		return Heads{Epoch: s.Epoch(), Of: map[string]int64{}}, nil
	}
	s.see(heads.Epoch)
	return heads, nil
}

// reverify compares the incarnation on a connection that is already in use.
func (s *Store) reverify(ctx context.Context) error {
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Raw(func(raw any) error { return s.verify(ctx, raw.(driver.Conn)) })
}
